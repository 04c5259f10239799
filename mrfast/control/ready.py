"""The tasks of one kind that wait for a worker: tried ones first, then fresh ones, each in index order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

LOOK_MAX = 16  # tried tasks looked at for one that did not just fail on the asking worker


class Ready:
    """Idle tasks of the range [first, end); a fresh task takes no memory until it is handed out."""

    __slots__ = ("_end", "_fresh", "_held", "_tried")

    def __init__(self, first: int, end: int) -> None:
        self._fresh = first
        self._end = end
        self._tried: list[int] = []
        self._held: set[int] = set()

    def __contains__(self, task: int) -> bool:
        return task in self._held or self._fresh <= task < self._end

    def tried(self) -> list[int]:
        """The queued tasks that were handed out before, in index order; some may not be idle any more."""
        return sorted(self._held)

    def put(self, task: int) -> None:
        """Queue a task that was handed out before."""
        if task not in self._held:
            self._held.add(task)
            heappush(self._tried, task)

    def take(self, idle: Callable[[int], bool], shunned: Callable[[int], int]) -> int | None:
        """The next task that is idle; one that is shunned (1) only if there is no other, one that is barred (2) never.

        Entries of tasks that stopped being idle meanwhile (a late result, a worker that came back) are dropped here.
        """
        passed: list[int] = []
        second: int | None = None
        found = None
        while self._tried and len(passed) < LOOK_MAX:
            task = heappop(self._tried)
            if not idle(task):
                self._held.discard(task)
            elif (degree := shunned(task)) > 0:
                passed.append(task)
                second = task if second is None and degree == 1 else second
            else:
                found = task
                break
        if found is None:
            found = self._take_fresh(idle)
        if found is None and second is not None:
            passed.remove(second)
            found = second
        for task in passed:
            heappush(self._tried, task)
        if found is not None:
            self._held.discard(found)
        return found

    def _take_fresh(self, idle: Callable[[int], bool]) -> int | None:
        while self._fresh < self._end:
            task = self._fresh
            self._fresh += 1
            if idle(task):
                return task
        return None
