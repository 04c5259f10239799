"""A cluster of one's own on EC2: `mrfast cluster up`, `status`, `run`, `logs` and `down`.

On this side: names and plan (pure), aws (calls and what their errors mean), network, identity, machines (find, else
create), up, down, status, logs, run. On the instances: boot.sh (the user data), host (what runs between jobs), spot.
Between the two lies the bucket: board.
"""
