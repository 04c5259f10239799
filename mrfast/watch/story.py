"""What failed first in a job and what came of it, and where its time went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mrfast.watch.model import KINDS, Attempt, JobModel
from mrfast.watch.progress import counted


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """The first failure that counted, or the first at all, and what came of it."""

    t: float
    task: str
    attempt: str
    worker: str
    kind: str
    message: str
    traceback: str
    input: str
    offset: int | None
    then: tuple[str, ...]


def first_failure(model: JobModel) -> FirstFailure | None:
    """What failed first; None if nothing did."""
    counted_ones = [each for each in model.failures if each.failed and (each.failed.counted or each.failed.fatal)]
    first = next(iter(counted_ones or model.failures), None)
    if first is None or first.failed is None:
        return None
    why = asdict(first.failed)
    told = {name: why[name] for name in ("kind", "message", "traceback", "input", "offset")}
    return FirstFailure(
        first.ended or 0.0, first.task, first.name, first.worker, then=tuple(_aftermath(model, first)), **told
    )


def time_spent(model: JobModel) -> list[dict[str, Any]]:
    """Where the time went: a row for each phase with its tasks, its seconds, and the slot seconds of each part."""
    rows = []
    for kind, name in KINDS.items():
        begin, end = model.phase(kind)
        tasks = model.of_kind(kind)
        if tasks:
            spent = {part: round(seconds, 3) for part, seconds in model.spent(kind).items()}
            idle = max(0.0, model.capacity(begin, end) - model.busy(kind))
            rows.append(
                {"phase": name, "tasks": len(tasks), "began": begin, "seconds": round(end - begin, 3)}
                | {"slot_seconds": spent | {"idle": round(idle, 3)}}
            )
    return rows


def _aftermath(model: JobModel, first: Attempt) -> Iterator[str]:
    task = model.tasks[first.task]
    for attempt in task.attempts[task.attempts.index(first) + 1 :]:
        at, what = attempt.ended, attempt.word or ("was under way at the end" if model.end else "is under way")
        if attempt.failed is not None:
            same = attempt.failed.message == (first.failed.message if first.failed else "")
            what = "failed the same way" if same else f"failed: {attempt.failed.message.splitlines()[0][:200]}"
        yield f"{attempt.began if at is None else at:.3f} s: {attempt.name} on {attempt.worker} {what}"
    others = [each for each in model.failures if each.task != first.task]
    if others:
        tasks = {each.task for each in others}
        yield f"{counted(len(others), 'other attempt')} failed, of {counted(len(tasks), 'task')}"
    if model.state == "COMMITTED":
        yield f"{model.seconds:.3f} s: the job was committed nevertheless"
    elif model.end:
        yield f"{model.seconds:.3f} s: the job {'failed' if model.state == 'FAILED' else 'was stopped'}"
