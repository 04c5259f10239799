"""Which slow attempt gets a second one near the end of its phase: the rule of LATE (Zaharia et al., OSDI 2008).

The task whose estimated time left is longest, from the progress that it shows; never one that was slow only because it
is short of time, and never many: a backup is a whole task's work, thrown away if the first attempt wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import median

from mrfast.control.leases import Lease

DONE_SHARE = 0.75  # of a phase: so three tasks at least are done
ELAPSED_S_MIN = 10.0
BACKUPS_SHARE = 0.1
SAMPLES_MAX = 1000


class Durations:
    """How long the accepted attempts of one kind took, the newest of them."""

    def __init__(self) -> None:
        self._newest: list[float] = []
        self._at = 0
        self._median: float | None = None

    def add(self, seconds: float) -> None:
        """One more."""
        if len(self._newest) < SAMPLES_MAX:
            self._newest.append(seconds)
        else:
            self._newest[self._at] = seconds
            self._at = (self._at + 1) % SAMPLES_MAX
        self._median = None

    def median(self) -> float:
        """The one in the middle; 0 before the first."""
        if self._median is None:
            self._median = median(self._newest) if self._newest else 0.0
        return self._median


def is_due(done: int, tasks: int) -> bool:
    """Whether a phase is near enough to its end."""
    return done < tasks and done >= DONE_SHARE * tasks


def left_s(lease: Lease, now: float) -> float:
    """The time that an attempt still needs at the rate of its progress so far."""
    done, total = lease.progress.bytes_done, lease.progress.bytes_total
    if not done or not total:
        return float("inf")
    return (now - lease.since) * max(0, total - done) / done


def slow(running: Iterable[Lease], slots: int, median_s: float, now: float) -> list[Lease]:
    """The attempts whose task should run a second time, first the one with most time left; `running` are of one kind.

    O(running): thousands may run when a phase of a large job nears its end.
    """
    running = list(running)
    if sum(lease.backup for lease in running) >= max(1, int(BACKUPS_SHARE * slots)):
        return []
    elapsed_s = max(ELAPSED_S_MIN, 2 * median_s)
    found = [lease for lease in running if now - lease.since >= elapsed_s and left_s(lease, now) >= median_s]
    if found:
        attempts = Counter(lease.task for lease in running)
        found = [lease for lease in found if attempts[lease.task] == 1]
    return sorted(found, key=lambda lease: (-left_s(lease, now), lease.task))
