"""What the scheduler hands out, tells and remembers of its tasks."""

from __future__ import annotations

from dataclasses import dataclass

from mrfast.control.leases import Lease
from mrfast.model import Failure, Progress

STORE_FAILURES_MAX = 8  # of one task: they do not count as its own
STORE_REST_S, STORE_REST_S_MAX = 0.25, 15.0  # before it is tried again
FAILURES_KEPT = 8  # per task; the count goes on


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a task, as it is handed out."""

    name: str
    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Running:
    """One attempt whose lease runs, for those who watch."""

    name: str
    kind: str
    index: int
    worker: str
    since: float
    progress: Progress


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why the job failed: the task and its story, and the failure that counts most (the first, or the fatal one)."""

    reason: str
    task: str = ""
    failure: Failure | None = None
    worker: str = ""
    story: tuple[str, ...] = ()


class TaskRecord:
    """What is known of a task that was handed out at least once; `open` holds the attempts that may be accepted.

    Attempts are serials. One of an earlier epoch that is not in `open` may still come (its worker outlived the
    coordinator that issued it), unless it is in `closed` or not above `floor`.
    """

    __slots__ = (
        "accepted",
        "closed",
        "counted",
        "digest",
        "failures",
        "floor",
        "issued",
        "losses",
        "open",
        "rest_until",
        "shun",
        "shun_at",
        "store_failures",
        "story",
        "table",
    )

    def __init__(self) -> None:
        self.issued = 0  # in this epoch
        self.accepted = 0
        self.floor = 0
        self.closed: set[int] | None = None
        self.digest = ""  # of the last accepted output, kept when that is lost
        self.table = ""  # that the accepted part of a reduce was made from
        self.counted = 0
        self.losses = 0
        self.shun = ""  # the worker that failed it last
        self.shun_at = 0.0
        self.store_failures = 0
        self.rest_until = 0.0  # after a failure of the store
        self.open: dict[int, Lease] | None = None
        self.failures: list[tuple[int, str, Failure]] | None = None
        self.story = bytearray()

    def close(self, n: int, *, remember: bool) -> None:
        """An attempt can never be accepted any more."""
        if self.open is not None:
            self.open.pop(n, None)
        if remember:
            self.closed = self.closed or set()
            self.closed.add(n)

    def add_failure(self, n: int, worker: str, failure: Failure, now: float) -> None:
        """Keep a failure, and count it if it counts; of many, those in the middle go."""
        if failure.kind == "store":
            self.rest_until = now + min(STORE_REST_S_MAX, STORE_REST_S * 2**self.store_failures)
            self.store_failures += 1
        self.shun, self.shun_at = worker, now
        self.counted += failure.counted or failure.fatal
        self.failures = self.failures or []
        self.failures.append((n, worker, failure))
        if len(self.failures) > FAILURES_KEPT:
            del self.failures[FAILURES_KEPT // 2]

    def has_failed(self, n: int) -> bool:
        """Whether this attempt is among the kept failures."""
        return any(kept == n for kept, _, _ in self.failures or ())

    def first_counted(self) -> tuple[str, Failure]:
        """(worker, failure) of the first kept failure that counted."""
        return next((worker, failure) for _, worker, failure in self.failures or () if failure.counted)
