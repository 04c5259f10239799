"""Where the segments of the accepted map outputs lie, in about 24 bytes a segment, and in less where most are empty."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from operator import add, sub

import xxhash

from mrfast.control.groups import run_of, singles
from mrfast.control.hot_keys import HotTable
from mrfast.errors import CorruptSegment, NotFound
from mrfast.index import SegmentIndex, read_index
from mrfast.model import MapReport, Segment
from mrfast.storage.base import Store

INDEX_TAIL_BYTES = 1 << 20
CHECK_BLOCK_BYTES = 1 << 20
DENSE_SHARE = 0.7  # of the partitions that have records: from here on the whole index is the smaller form


class _Sparse:
    """An index of which only the segments with records are kept."""

    __slots__ = ("_columns", "_partitions", "key_kind")

    def __init__(self, index: SegmentIndex) -> None:
        held = [partition for partition in range(index.partitions) if index.records[partition]]
        rows = [(*index.segment(partition), index.raw(partition)) for partition in held]
        self.key_kind = index.key_kind
        self._partitions = array("H", held)
        columns = list(zip(*rows, strict=True))
        self._columns = tuple(array("Q", column) for column in (columns if index.raws else columns[:4]))

    def segment(self, partition: int) -> tuple[int, int, int, int]:
        at = bisect_left(self._partitions, partition)
        if at == len(self._partitions) or self._partitions[at] != partition:
            return 0, 0, 0, 0
        offset, length, records, xxh3 = (column[at] for column in self._columns[:4])
        return offset, length, records, xxh3

    def lengths(self) -> Iterable[tuple[int, int]]:
        """(partition, bytes) of those that are there."""
        return zip(self._partitions, self._columns[1], strict=True) if self._columns else ()

    def raw(self, partition: int) -> int:
        at = bisect_left(self._partitions, partition)
        packed = len(self._columns) > 4 and at < len(self._partitions) and self._partitions[at] == partition
        return self._columns[4][at] if packed else 0


class _Output:
    __slots__ = ("at", "attempt", "digest", "index", "object", "report")

    def __init__(self, report: MapReport, index: SegmentIndex, digest: str, object: str) -> None:
        dense = sum(map(bool, index.records)) >= DENSE_SHARE * index.partitions
        self.at = 0  # of its entry in the log
        self.attempt = report.attempt
        self.digest = digest
        self.object = object  # an earlier job's, or empty
        self.index: SegmentIndex | _Sparse = index if dense else _Sparse(index)
        self.report = (report.records_in, report.records_out, report.bytes_in, report.counters or None)


class Outputs:
    """The accepted map outputs by map index, the log of how they came, and their totals.

    The log only grows, so a place in it says what a reduce has heard. An entry counts while it is its map's newest one.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, _Output] = {}
        self._log = array("I")  # of map indices
        self.records_in = self.records_out = self.bytes_in = 0
        self.counters: dict[str, int] = {}
        self.shuffled: list[int] = []  # bytes by partition
        self.hot = HotTable()

    def __len__(self) -> int:
        return len(self._outputs)

    @property
    def reused(self) -> int:
        """How many of them were made by earlier jobs."""
        return sum(output.object != "" for output in self._outputs.values())

    def add(self, map_index: int, report: MapReport, index: SegmentIndex, digest: str, object: str = "") -> None:
        """Take an accepted output in, in the place of an earlier one."""
        self.remove(map_index)
        self.shuffled = self.shuffled or [0] * index.partitions
        self._outputs[map_index] = output = _Output(report, index, digest, object)
        self._count(output, 1)
        self.hot.add(map_index, report.hot)
        self.announce(map_index)

    def announce(self, map_index: int) -> None:
        """List an output again: who could not read it tries once more."""
        if map_index in self._outputs:
            self._outputs[map_index].at = len(self._log)
            self._log.append(map_index)

    def remove(self, map_index: int) -> None:
        """Forget an output that was lost."""
        output = self._outputs.pop(map_index, None)
        if output is not None:
            self._count(output, -1)
            self.hot.remove(map_index)

    def attempt(self, map_index: int) -> str | None:
        """The attempt whose output this is; None while the map is not accepted, or its index not read yet."""
        output = self._outputs.get(map_index)
        return None if output is None else output.attempt

    def page(self, partitions: range, since: int, limit: int) -> tuple[list[Segment], int]:
        """At most `limit` segments of neighbouring partitions from entry `since` of the log on, and where to go on."""
        segments: list[Segment] = []
        at = since
        while at < len(self._log) and len(segments) < limit:
            output = self._outputs.get(self._log[at])
            if output is not None and output.at == at:
                segments.append(self.segment(self._log[at], partitions))
            at += 1
        return segments, at

    def is_all(self, since: int, maps: int) -> bool:
        """Whether who has read up to `since` knows an output of each of `maps` maps."""
        return since == len(self._log) and len(self._outputs) == maps

    def segment(self, map_index: int, partitions: range) -> Segment:
        """The segments of neighbouring partitions in a map output, as one."""
        output = self._outputs[map_index]
        which, kind = (map_index, output.attempt), output.index.key_kind or ""
        index, rest = output.index, (kind, output.digest, output.object)
        return run_of([Segment(*which, *index.segment(number), *rest, raw=index.raw(number)) for number in partitions])

    def _count(self, output: _Output, sign: int) -> None:
        records_in, records_out, bytes_in, counters = output.report
        self.records_in += sign * records_in
        self.records_out += sign * records_out
        self.bytes_in += sign * bytes_in
        index = output.index
        if isinstance(index, SegmentIndex):
            self.shuffled = list(map(add if sign > 0 else sub, self.shuffled, index.lengths()))
        else:
            for partition, length in index.lengths():
                self.shuffled[partition] += sign * length
        for name, count in (counters or {}).items():
            self.counters[name] = self.counters.get(name, 0) + sign * count


def index_at_end(store: Store, key: str, size: int, tail_bytes: int = INDEX_TAIL_BYTES) -> SegmentIndex:
    """The index that stands at the end of a map object of `size` bytes; CorruptSegment if it does not."""
    need = min(size, tail_bytes)
    while True:
        tail = bytearray(need)
        filled = 0
        with memoryview(tail) as view:
            while filled < need:
                count = store.read_into(key, size - need + filled, view[filled:])
                if not count:
                    raise CorruptSegment(key, 0, size, "the object is shorter than its report says")
                filled += count
        try:
            return read_index(bytes(tail), size, key)
        except ValueError as error:
            need = int(error.args[0])


def is_intact(store: Store, key: str, segment: Segment) -> bool:
    """Whether the segment can be read as it was accepted: for a reduce that says it cannot."""
    its = [single for single in singles(segment) if single.length]
    return bool(its) and all(_is_intact(store, key, single) for single in its)


def _is_intact(store: Store, key: str, segment: Segment) -> bool:
    digest, done = xxhash.xxh3_64(), 0
    block = memoryview(bytearray(min(CHECK_BLOCK_BYTES, segment.length)))
    try:
        while done < segment.length:
            count = store.read_into(key, segment.offset + done, block[: segment.length - done])
            if not count:
                return False
            digest.update(block[:count])
            done += count
    except NotFound:
        return False
    return digest.intdigest() == segment.xxh3
