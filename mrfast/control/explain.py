"""Why a worker was refused, why a job failed: for the person who must mend it."""

from __future__ import annotations

from dataclasses import replace

from mrfast.control.records import JobFailure
from mrfast.errors import JobFailed, MrfastError, StoreError, UserError
from mrfast.model import AppInfo, JobSpec

NO_ZSTD = 'zstd is not here, and the job compresses by it: pip install "mrfast[zstd]"'


def fits(first: AppInfo, other: AppInfo, *, compress: bool) -> bool:
    """Whether a worker with the other app can join, or resume, the job that the first app began."""
    return replace(other, zstd=first.zstd) == first and (other.zstd or not (compress and first.zstd))


def difference(first: AppInfo, other: AppInfo) -> str:
    """Why a later worker, or who resumes the job, is refused, and what to do about it."""
    if other.mrfast_version != first.mrfast_version:
        what = f"mrfast {other.mrfast_version} is here, and the job runs {first.mrfast_version}: install that version"
    elif other.python_version != first.python_version:
        what = f"Python {other.python_version} is here, and the job runs {first.python_version}: use that version"
    elif replace(other, zstd=first.zstd) == first:
        what = NO_ZSTD
    else:
        what = (
            f"the application here is {other.name} ({other.fingerprint[:8]}), and the job's is {first.name} "
            f"({first.fingerprint[:8]}): use the same file, unchanged, and the same --param"
        )
    return f"refused, so that all of a job is made by one program: {what}"


def explain(job: str, failure: JobFailure) -> str:
    """Why the job failed, for the person who must mend it: what, where, the traceback, the task's story."""
    cause = failure.failure
    lines = [f"job {job} failed: {failure.reason}"]
    if cause is not None and cause.input:
        lines.append(f"  input: {cause.input}" + ("" if cause.offset is None else f", at byte {cause.offset:,}"))
    if cause is not None and cause.traceback:
        lines.append(cause.traceback.rstrip())
    if failure.story:
        lines.append("  what happened to the task:")
        lines += [f"    {line}" for line in failure.story]
    return "\n".join(lines)


def failed(job: str, failure: JobFailure) -> JobFailed:
    """The error of a job whose task has failed; with the store's exit code, where the store was why."""
    error = JobFailed(explain(job, failure))
    if failure.failure is not None and failure.failure.traceback:
        error.__cause__ = UserError(failure.failure.traceback)
    if failure.failure is not None and failure.failure.kind == "store":
        error.exit_code = StoreError.exit_code
    return error


def unpublished(spec: JobSpec, step: str, error: MrfastError) -> MrfastError:
    """The error with what it means for the job, of its own class and exit code."""
    state = "is committed, but its output is not published" if step == "publish" else "may be committed or not"
    job, command = spec.job, "mrfast run" if spec.app_path else "mrfast-coordinator"
    told = MrfastError(
        f"job {job} {state}: {error}\n  its parts are kept; to publish them: "
        f"{command} --resume {job} --store {spec.store_url}"
    )
    told.exit_code = error.exit_code
    return told
