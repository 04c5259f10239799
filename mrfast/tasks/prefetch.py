"""Reading ahead in a store that is far away: ranged reads side by side, into buffers used again, their bytes in order.

A read of B bytes over a connection of C bytes a second, after L seconds to the first one, takes L + B / C. To feed R
bytes a second takes R * (L / B + 1 / C) reads at once: at 30 ms, 90 MB/s and 500 MB/s, 8 of 8 MiB, and one buffer more
for who computes. Which reads are made is known before the first one, and how many are under way depends only on how far
the consumer has come: never on time.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrfast.control import ranges
from mrfast.storage import ledger

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from mrfast.model import InputCut, Piece
    from mrfast.storage.base import Store

RING_BUFFERS = 9
READS_MAX = 32  # at once, of parts so small that RING_BUFFERS of them would not fill the line


@dataclass(frozen=True, slots=True)
class Part:
    """One ranged read."""

    store: Store
    key: str
    etag: str | None
    start: int
    stop: int


def object_parts(store: Store, key: str, size: int, etag: str | None) -> Iterator[Part]:
    """The reads of a whole object, in their order."""
    for start, stop in ranges.parts(0, size):
        yield Part(store, key, etag, start, stop)


def parts_of(store: Store, key: str, piece: Piece, how: InputCut) -> Iterator[Part]:
    """The reads of a piece, in their order."""
    for start, stop in ranges.reads(piece, how):
        yield Part(store, key, piece.etag or None, start, stop)


class Prefetcher:
    """Reads parts ahead of who takes them; at most RING_BUFFERS of PART_BYTES and the overlap are held at a time."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = iter(parts)
        self._next: Part | None = None
        self._phase = ledger.phase()
        self._flying: deque[tuple[_Place, Future[int]]] = deque()
        self._taken: _Place | None = None
        self._bytes = 0
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start(self) -> None:
        """Begins as many reads as there is room for; the first `take` would."""
        while not self._closed:
            if self._next is None:
                self._next = next(self._parts, None)
            part = self._next
            if part is None:
                return
            room = _charge(part)
            if self._flying and (len(self._flying) >= READS_MAX or self._bytes + room > ring_bytes()):
                return
            self._next = None
            self._bytes += room
            place = _Place(part)
            self._flying.append((place, self._pool().submit(self._read, part, place.view)))

    def take(self) -> memoryview:
        """The bytes of the next part, fewer only at the object's end; valid until the next one is asked for.

        What its read raised is raised here.
        """
        self._leave()
        self.start()
        place, done = self._flying.popleft()
        self._taken = place
        return place.view[: done.result()]

    def close(self) -> None:
        """Ends the threads, with the reads that are under way: none is taken back, whatever the moment."""
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        self._leave()
        while self._flying:
            self._taken = self._flying.popleft()[0]
            self._leave()

    def _leave(self) -> None:
        if self._taken is not None:
            self._bytes -= _charge(self._taken.part)
            self._taken.leave()
            self._taken = None

    def _read(self, part: Part, view: memoryview) -> int:
        with ledger.working(self._phase):
            return part.store.read_into(part.key, part.start, view, part.etag)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from mrfast.storage.threads import Threads  # late: a task in a folder needs none

            # As many threads as there can be reads: none waits for another one.
            self._threads = Threads(READS_MAX, "mrfast-read")
        return self._threads


def ring_bytes() -> int:
    """What a Prefetcher holds at most."""
    return RING_BUFFERS * _buffer_bytes()


def _buffer_bytes() -> int:
    return ranges.PART_BYTES + ranges.OVERLAP_BYTES + 1


def _from_ring(part: Part) -> bool:
    return part.stop - part.start > ranges.BLOCK_BYTES + ranges.OVERLAP_BYTES + 1


def _charge(part: Part) -> int:
    return _buffer_bytes() if _from_ring(part) else part.stop - part.start


# The buffers of a process outlive its tasks. Filling them takes 0.13 s of CPU a GiB; fresh ones 0.19 in huge pages, and
# 0.74 in plain ones.
_spare: list[mmap.mmap] = []


class _Place:
    """Where the bytes of a part go."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._buffer: mmap.mmap | None = None
        size = part.stop - part.start
        if _from_ring(part):
            self._buffer = _spare.pop() if _spare else _mapped(_buffer_bytes())
            self.view = memoryview(self._buffer)[:size]
        else:
            self.view = memoryview(bytearray(size))

    def leave(self) -> None:
        """Gives the buffer back."""
        if self._buffer is not None and len(_spare) < RING_BUFFERS and len(self._buffer) == _buffer_bytes():
            _spare.append(self._buffer)
        self._buffer = None


def _mapped(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # not shared with children
    with suppress(AttributeError, OSError):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
