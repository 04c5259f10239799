"""Sorted runs on the local disk: where a task puts what is over its memory, and how it is merged again.

A run's file has no name: it is gone with the process, however that ends. It is read through a mapping whose pages are
given back as the merge goes on. Spills go to TMPDIR.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mrfast import core
from mrfast.errors import StoreError

# A run costs a mapping and a window of its pages: so many of one size are merged into one of the next.
RUNS_MAX = 64
RUNS_MIN = 8
MEMORY_PER_RUN_BYTES = 512 << 10
RELEASE_BYTES_MIN = 64 << 10
RELEASE_BYTES_MAX = 1 << 20


class Bound:
    """What `--memory` means for runs: how many there may be, and how many pages of each may be in memory."""

    def __init__(self, memory_bytes: int) -> None:
        self.runs_max = min(RUNS_MAX, max(RUNS_MIN, memory_bytes // MEMORY_PER_RUN_BYTES))
        self.release_bytes = min(max(memory_bytes // 8 // RUNS_MAX, RELEASE_BYTES_MIN), RELEASE_BYTES_MAX)


class _Levels(list[tuple[Any, int]]):
    """(run, level) in order: when the last few are of one level, they become one run of the next."""

    def __init__(self, runs_max: int, merge: Callable[[list[Any]], Any]) -> None:
        super().__init__()
        self._runs_max = runs_max
        self._merge = merge

    def add(self, run: Any) -> None:
        """Appends a run; every record is written anew once a level."""
        self.append((run, 0))
        while True:
            last = self[-self._runs_max :]
            level = last[-1][1]
            if len(last) < self._runs_max or any(other != level for _, other in last):
                return
            merged = self._merge([run for run, _ in last])
            self[-self._runs_max :] = [(merged, level + 1)]

    def runs(self) -> list[Any]:
        """All runs, in the order in which they came."""
        return [run for run, _ in self]


def write_run(chunks: Iterable[Any]) -> Any:
    """The chunks as one mapped file; empty bytes when there are none."""
    import mmap  # late: most tasks never spill, and a start-up waits 7 ms for these
    import tempfile

    try:
        with tempfile.TemporaryFile(prefix="mrfast-", buffering=0) as file:
            size = 0
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    written = file.write(view)
                    size += written
                    view = view[written:]
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise StoreError(
            f"cannot spill to the local disk ({tempfile.gettempdir()}): {error.strerror or error}; set TMPDIR to a "
            "folder with room, or raise --memory"
        ) from error


def _give_back(data: Any, begin: int, end: int) -> int:
    """Lets the pages of a run from `begin` to `end` go; gives where the next ones begin."""
    import mmap

    end -= end % mmap.PAGESIZE
    if end > begin and isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED, begin, end - begin)
    return end


class SpilledRecords:
    """Records of neighbouring partitions that came in any order, as runs; `groups` is a Grouper over all of one's.

    A run holds all partitions, one behind the other: a file for each would be more than a process may have open.
    """

    def __init__(self, key_kind: str, reduce: Any, memory_bytes: int, partitions: int = 1) -> None:
        self._key_kind = key_kind
        self._reduce = reduce
        self._partitions = partitions
        self._bound = Bound(memory_bytes)
        self._runs = _Levels(self._bound.runs_max, self._merged)  # of (bytes, [(length, records)], order)

    def add(self, groups: Iterable[core.Grouper]) -> None:
        """Spills all records of a Grouper for each partition."""
        self._runs.add(self._written(groups))

    def add_segments(self, run: Any, sizes: list[tuple[int, int]], order: int) -> None:
        """Takes sorted segments that `write_run` has spilled, (length, records) each, their bytes checked before."""
        self._runs.add((run, sizes, order))

    def groups(self, place: int = 0) -> core.Grouper:
        """A Grouper over everything that was spilled of a partition; those before it are not needed any more."""
        return self._group(self._runs.runs(), place)

    def _group(self, runs: list[Any], place: int) -> core.Grouper:
        group = core.Grouper(key_kind=self._key_kind, reduce=self._reduce)
        for data, sizes, order in runs:
            begin = sum(length for length, _ in sizes[:place])
            _give_back(data, 0, begin)  # what was too short for the merge to give its pages back
            length, records = sizes[place]
            if records:
                segment, release_bytes = memoryview(data)[begin : begin + length], self._bound.release_bytes
                group.add_run(segment, records=records, order=order, release_bytes=release_bytes)
        return group

    def _written(self, groups: Iterable[core.Grouper]) -> Any:
        sizes: list[tuple[int, int]] = []

        def chunks() -> Iterator[Any]:
            for group in groups:
                length = 0
                for chunk in group.merged(ordered=True):
                    length += len(chunk)
                    yield chunk
                sizes.append((length, group.records_in))

        return write_run(chunks()), sizes, None

    def _merged(self, runs: list[Any]) -> Any:
        return self._written(self._group(runs, place) for place in range(self._partitions))


class SpilledSegments:
    """What a map task's sink drained before its end, a run of R segments each time; merged, R segments again."""

    def __init__(self, partitions: int, combine: Any, memory_bytes: int) -> None:
        self.lengths: list[int] = []
        self.counts: list[int] = []
        self.checksums: list[int] = []
        self.key_kind: str | None = None
        self.hot: list[Any] = []  # what each drain says of its heaviest keys
        self._partitions = partitions
        self._combine = combine
        self.folds = combine is not None and combine.kind in core.FOLDING
        self._bound = Bound(memory_bytes)
        self._runs = _Levels(self._bound.runs_max, self._merged)  # of (bytes, lengths, counts)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, drained: core.Drained) -> None:
        """Spills what a sink held."""
        data = write_run(drained.chunks())
        self.key_kind = drained.key_kind
        self.hot.append(drained.hot)
        self._runs.add((data, array("Q", drained.lengths), array("Q", drained.counts)))

    def chunks(self) -> Iterator[Any]:
        """The R segments back to back; with the last one, `lengths`, `counts` and `checksums` are complete."""
        return self._merge(self._runs.runs())

    def _merged(self, runs: list[Any]) -> Any:
        return write_run(self._merge(runs)), array("Q", self.lengths), array("Q", self.counts)

    def _merge(self, runs: list[Any]) -> Iterator[Any]:
        import xxhash

        self.lengths, self.counts, self.checksums = [], [], []
        offsets, given_back = [0] * len(runs), [0] * len(runs)
        for partition in range(self._partitions):
            group = core.Grouper(key_kind=self.key_kind, reduce=self._combine)
            for order, (data, lengths, counts) in enumerate(runs):
                begin, length = offsets[order], lengths[partition]
                offsets[order] += length
                if length:
                    segment, release_bytes = memoryview(data)[begin : begin + length], self._bound.release_bytes
                    group.add_run(segment, records=counts[partition], order=order, release_bytes=release_bytes)
            digest, length = xxhash.xxh3_64(), 0
            for chunk in group.chunks("records") if self.folds else group.merged(ordered=False):
                digest.update(chunk)
                length += len(chunk)
                yield chunk
            self.lengths.append(length)
            self.counts.append(group.records_out if self.folds else group.records_in)
            self.checksums.append(digest.intdigest() if length else 0)
            for order, (data, *_) in enumerate(runs):  # segments too small for the merge to give their pages back
                if offsets[order] - given_back[order] >= self._bound.release_bytes:
                    given_back[order] = _give_back(data, given_back[order], offsets[order])

    def ended(self, first: int) -> list[int]:
        """The bytes of the segments from `first` on that chunks() has given out whole so far."""
        return self.lengths[first:]

    @property
    def records(self) -> int:
        """The records of all segments."""
        return sum(self.counts)
