"""Who supplies the processes that run a job's tasks."""
