"""Where the segments of the accepted map outputs lie, in about 24 bytes a segment, and in less where most are empty."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from mrfast.errors import CorruptSegment
from mrfast.index import SegmentIndex, read_index
from mrfast.model import MapReport, Segment
from mrfast.storage.base import Store

INDEX_TAIL_BYTES = 1 << 20
DENSE_SHARE = 0.7  # of the partitions that have records: from here on the whole index is the smaller form


class _Sparse:
    """An index of which only the segments with records are kept."""

    __slots__ = ("_columns", "_partitions", "key_kind")

    def __init__(self, index: SegmentIndex) -> None:
        held = [partition for partition in range(index.partitions) if index.records[partition]]
        rows = [index.segment(partition) for partition in held]
        self.key_kind = index.key_kind
        self._partitions = array("H", held)
        self._columns = tuple(array("Q", column) for column in zip(*rows, strict=True))

    def segment(self, partition: int) -> tuple[int, int, int, int]:
        at = bisect_left(self._partitions, partition)
        if at == len(self._partitions) or self._partitions[at] != partition:
            return 0, 0, 0, 0
        offset, length, records, xxh3 = (column[at] for column in self._columns)
        return offset, length, records, xxh3


class _Output:
    __slots__ = ("attempt", "digest", "index", "report")

    def __init__(self, report: MapReport, index: SegmentIndex, digest: str) -> None:
        dense = sum(map(bool, index.records)) >= DENSE_SHARE * index.partitions
        self.attempt = report.attempt
        self.digest = digest
        self.index: SegmentIndex | _Sparse = index if dense else _Sparse(index)
        self.report = (report.records_in, report.records_out, report.bytes_in, report.counters or None)


class Outputs:
    """The accepted map outputs by map index, and their totals."""

    def __init__(self) -> None:
        self._outputs: dict[int, _Output] = {}
        self.records_in = self.records_out = self.bytes_in = 0
        self.counters: dict[str, int] = {}

    def add(self, map_index: int, report: MapReport, index: SegmentIndex, digest: str) -> None:
        """Take an accepted output in, in the place of an earlier one."""
        self.remove(map_index)
        self._outputs[map_index] = output = _Output(report, index, digest)
        self._count(output, 1)

    def remove(self, map_index: int) -> None:
        """Forget an output that was lost."""
        output = self._outputs.pop(map_index, None)
        if output is not None:
            self._count(output, -1)

    def segment(self, map_index: int, partition: int) -> Segment | None:
        """One partition's segment of one map output; None while the map is not accepted."""
        output = self._outputs.get(map_index)
        if output is None:
            return None
        place = output.index.segment(partition)
        return Segment(map_index, output.attempt, *place, output.index.key_kind or "", output.digest)

    def _count(self, output: _Output, sign: int) -> None:
        records_in, records_out, bytes_in, counters = output.report
        self.records_in += sign * records_in
        self.records_out += sign * records_out
        self.bytes_in += sign * bytes_in
        for name, count in (counters or {}).items():
            self.counters[name] = self.counters.get(name, 0) + sign * count


def index_at_end(store: Store, key: str, size: int) -> SegmentIndex:
    """The index that stands at the end of a map object of `size` bytes; CorruptSegment if it does not."""
    need = min(size, INDEX_TAIL_BYTES)
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
