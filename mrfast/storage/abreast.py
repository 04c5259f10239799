"""Many reads at once where a store is far away, their results in order; one after the other where it is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mrfast.storage import ledger

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from mrfast.storage.base import Store

READS_MAX = 32  # at once
CALLS_MAX = 32  # of any kind
WAITING_MAX = 4 * READS_MAX  # a slow read must not stop those behind it

T = TypeVar("T")
R = TypeVar("R")


def each_of(store: Store, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `work` gives for each: side by side in a store where each call begins with waiting."""
    with Abreast(CALLS_MAX, remote=store.remote) as calls:
        return [made for _, made in calls.each(items, work, lambda item: 1)]


class Abreast:
    """Threads for the reads of one task, from the first `each` to the end of the `with`."""

    def __init__(self, bytes_max: int, *, remote: bool) -> None:
        self.many = remote
        self._bytes_max = bytes_max
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Abreast:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def each(self, items: Iterable[T], work: Callable[[T], R], size: Callable[[T], int]) -> Iterator[tuple[T, R]]:
        """(item, what work gave for it), in order; what works at once and what waits is `bytes_max` bytes at most.

        One item is worked on even if it is larger. What `work` raises is raised in its place.
        """
        if not self.many:
            for item in items:
                yield item, work(item)
            return
        phase = ledger.phase()

        def in_phase(item: T) -> R:
            with ledger.working(phase):
                return work(item)

        waiting: deque[tuple[T, Future[R]]] = deque()
        flying_bytes = 0
        try:
            for item in items:
                while waiting and (len(waiting) >= WAITING_MAX or flying_bytes + size(item) > self._bytes_max):
                    flying_bytes -= size(waiting[0][0])
                    first, future = waiting.popleft()
                    yield first, future.result()
                flying_bytes += size(item)
                waiting.append((item, self._pool().submit(in_phase, item)))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
            for _, future in waiting:
                if not future.cancelled():
                    future.exception()

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from mrfast.storage.threads import Threads  # late: a task in a folder needs none

            self._threads = Threads(READS_MAX, "mrfast-read")
        return self._threads
