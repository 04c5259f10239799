"""Sorted runs on the local disk: where a task puts what is over its memory, and how it is merged again.

A run's file has no name: it is gone with the process, however that ends. It is read through a mapping whose pages are
given back as the merge goes on. Spills go to TMPDIR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mrfast import core
from mrfast.errors import StoreError

# A run costs a mapping and a window of its pages: more of them are first merged into one.
RUNS_MAX = 64
RELEASE_BYTES_MIN = 64 << 10
RELEASE_BYTES_MAX = 1 << 20


def release_bytes(memory_bytes: int) -> int:
    """How many pages of a run may be in memory, so that all runs together stay in an eighth of it."""
    return min(max(memory_bytes // 8 // RUNS_MAX, RELEASE_BYTES_MIN), RELEASE_BYTES_MAX)


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


class SpilledRecords:
    """Records of one partition that came in any order, as runs; `groups()` is a Grouper over all of them."""

    def __init__(self, key_kind: str, reduce: Any, memory_bytes: int) -> None:
        self._key_kind = key_kind
        self._reduce = reduce
        self._release = release_bytes(memory_bytes)
        self._runs: list[tuple[Any, int, int | None]] = []  # (bytes, records, order)

    def add(self, group: core.Grouper) -> None:
        """Spills all records of a Grouper."""
        self._add(write_run(group.merged(ordered=True)), group.records_in, None)

    def add_segment(self, chunks: Iterable[Any], records: int, order: int) -> None:
        """Spills a sorted segment, whose bytes the caller checks as they pass."""
        self._add(write_run(chunks), records, order)

    def groups(self) -> core.Grouper:
        """A Grouper over everything that was spilled."""
        group = core.Grouper(key_kind=self._key_kind, reduce=self._reduce)
        for data, records, order in self._runs:
            group.add_run(data, records=records, order=order, release_bytes=self._release)
        return group

    def _add(self, data: Any, records: int, order: int | None) -> None:
        self._runs.append((data, records, order))
        if len(self._runs) >= RUNS_MAX:
            group = self.groups()
            self._runs = [(write_run(group.merged(ordered=True)), group.records_in, None)]


class SpilledSegments:
    """What a map task's sink drained before its end, a run of R segments each time; merged, R segments again."""

    def __init__(self, partitions: int, combine: Any, memory_bytes: int) -> None:
        self.lengths: list[int] = []
        self.counts: list[int] = []
        self.checksums: list[int] = []
        self.key_kind: str | None = None
        self._partitions = partitions
        self._combine = combine
        self._release = release_bytes(memory_bytes)
        self._runs: list[tuple[Any, list[int], list[int]]] = []  # (bytes, lengths, counts)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, drained: core.Drained) -> None:
        """Spills what a sink held."""
        data = write_run(drained.chunks())
        self.key_kind = drained.key_kind
        self._runs.append((data, drained.lengths, drained.counts))
        if len(self._runs) >= RUNS_MAX:
            data = write_run(self.chunks())
            self._runs = [(data, self.lengths, self.counts)]

    def chunks(self) -> Iterator[Any]:
        """The R segments back to back; with the last one, `lengths`, `counts` and `checksums` are complete."""
        import xxhash

        self.lengths, self.counts, self.checksums = [], [], []
        offsets = [0] * len(self._runs)
        for partition in range(self._partitions):
            group = core.Grouper(key_kind=self.key_kind, reduce=self._combine)
            for order, (data, lengths, counts) in enumerate(self._runs):
                begin, length = offsets[order], lengths[partition]
                offsets[order] += length
                if length:
                    segment = memoryview(data)[begin : begin + length]
                    group.add_run(segment, records=counts[partition], order=order, release_bytes=self._release)
            digest, length = xxhash.xxh3_64(), 0
            folds = self._combine is not None and self._combine.kind in core.FOLDING
            for chunk in group.chunks("records") if folds else group.merged(ordered=False):
                digest.update(chunk)
                length += len(chunk)
                yield chunk
            self.lengths.append(length)
            self.counts.append(group.records_out if folds else group.records_in)
            self.checksums.append(digest.intdigest() if length else 0)

    @property
    def records(self) -> int:
        """The records of all segments."""
        return sum(self.counts)
