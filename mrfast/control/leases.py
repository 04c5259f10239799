"""The running attempts and when their leases end: a heap with lazy deletion, so that renewing costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from mrfast.model import Progress

NO_PROGRESS = Progress()
STALE_ENTRIES_MAX = 64  # ended leases may keep this many heap entries before the heap is rebuilt


class Lease:
    """One attempt that may still be accepted; `live` while its lease runs."""

    __slots__ = (
        "backup", "deadline", "entry", "fed", "live", "moved", "n", "progress", "since", "task", "worker"
    )  # fmt: skip

    def __init__(self, task: int, n: int, worker: str, now: float) -> None:
        self.task = task
        self.n = n  # its serial
        self.worker = worker
        self.since = now
        self.moved = now  # when its progress last changed
        self.backup = False
        self.fed = False  # a reduce that has been told of every map output
        self.deadline = 0.0
        self.entry = 0  # number of this lease's one valid heap entry
        self.live = False
        self.progress = NO_PROGRESS


class Leases:
    """All live leases, by worker and by deadline."""

    __slots__ = ("_entries", "_heap", "_live", "_stall_at", "_workers", "changes")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lease]] = []
        self._workers: dict[str, dict[Lease, None]] = {}  # dicts as ordered sets: decisions stay deterministic
        self._entries = 0
        self._live = 0
        self._stall_at = 0.0  # no lease has stalled before
        self.changes = 0  # grows whenever an attempt comes, goes or moves on

    def __len__(self) -> int:
        return self._live

    def __iter__(self) -> Iterator[Lease]:
        for held in self._workers.values():
            yield from held

    def of(self, worker: str) -> tuple[Lease, ...]:
        """The live leases of one worker."""
        return tuple(self._workers.get(worker, ()))

    def start(self, lease: Lease, deadline: float) -> None:
        """Make a lease live until `deadline`."""
        lease.live = True
        self._live += 1
        self.changes += 1
        self._workers.setdefault(lease.worker, {})[lease] = None
        self._push(lease, deadline)

    def move(self, lease: Lease, deadline: float) -> None:
        """Move the end of a live lease; only an earlier one touches the heap at once."""
        if deadline < lease.deadline:
            self._push(lease, deadline)
        else:
            lease.deadline = deadline

    def end(self, lease: Lease) -> None:
        """Make a live lease end now."""
        lease.live = False
        self._live -= 1
        self.changes += 1
        held = self._workers[lease.worker]
        del held[lease]
        if not held:
            del self._workers[lease.worker]
        if len(self._heap) > 2 * self._live + STALE_ENTRIES_MAX:
            self._heap = [entry for entry in self._heap if self._valid(entry)]
            heapify(self._heap)

    def expired(self, now: float) -> Lease | None:
        """A live lease whose deadline has passed, earliest first, still to be ended; or None."""
        first = self.next_deadline()
        return self._heap[0][2] if first is not None and first <= now else None

    def next_deadline(self) -> float | None:
        """When the first live lease ends, or None."""
        while self._heap:
            entry = self._heap[0]
            lease = entry[2]
            if self._valid(entry) and entry[0] == lease.deadline:
                return lease.deadline
            heappop(self._heap)
            if self._valid(entry):  # renewed since its entry was made
                self._push(lease, lease.deadline)
        return None

    def stalled(self, waits: Callable[[Lease], bool], stall_s: float, now: float) -> list[Lease]:
        """The live leases without progress for so long; the time of one that `waits` has not begun.

        They are walked when one can have stalled, and not at each call: 4,000 of them take a millisecond.
        """
        if now < self._stall_at:
            return []
        for lease in self:
            if waits(lease):
                lease.moved = now
        self._stall_at = min((lease.moved for lease in self), default=now) + stall_s
        return [lease for lease in self if now - lease.moved >= stall_s]

    def clear(self) -> None:
        """End every lease."""
        for lease in list(self):
            lease.live = False
        self._heap.clear()
        self._workers.clear()
        self._live = 0
        self.changes += 1

    def _push(self, lease: Lease, deadline: float) -> None:
        self._entries += 1
        lease.entry, lease.deadline = self._entries, deadline
        heappush(self._heap, (deadline, self._entries, lease))

    @staticmethod
    def _valid(entry: tuple[float, int, Lease]) -> bool:
        return entry[2].live and entry[2].entry == entry[1]
