"""The segments of one reduce: fetched as their maps are accepted, and again when a map had to run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from mrfast import core
from mrfast.errors import BadRecord, CorruptSegment, NotFound
from mrfast.index import TableDigest
from mrfast.model import ReduceTask, Segment, inter_key
from mrfast.tasks.mapper import CORE_MEMORY_BYTES_MIN

if TYPE_CHECKING:
    from mrfast.storage.base import Store
    from mrfast.tasks.spill import SpilledRecords

CHUNK_BYTES = 1 << 20
# Times that one map attempt's output is announced, and cannot be read, before the fault is sought here.
ROUNDS_MAX = 3


class Source(Protocol):
    """Where a reduce hears of its segments."""

    def pages(self) -> Iterator[tuple[list[Segment], bool]]:
        """(segments, whether every map is listed now), a page after the other; a later segment of a map replaces."""

    def bad(self, segment: Segment, why: str) -> None:
        """Says that a segment cannot be read; another one for its map is to come in a page."""


class Fetched:
    """One segment of each map, once `follow` has returned; checked, and in memory or on the local disk."""

    def __init__(self, task: ReduceTask, store: Store, native_reduce: Any, report: Callable[[], None]):
        self.key_kind = ""
        self.unreadable: Segment | None = None  # the one that made `follow` give up
        self.bytes_known = self.bytes_held = self.records = 0
        self._task = task
        self._store = store
        self._reduce = native_reduce
        self._report = report
        self._bound = max(task.memory_bytes, CORE_MEMORY_BYTES_MIN)
        self._known: dict[int, int] = {}  # map -> length of its newest segment
        self._held: dict[int, Segment] = {}
        self._in_memory: dict[int, core.Buffer] = {}
        self._memory_bytes = 0
        self._on_disk: set[int] = set()
        self._spilled: SpilledRecords | None = None
        self._rounds: Counter[tuple[int, str]] = Counter()

    def follow(self, source: Source) -> None:
        """Fetches what the pages name, until every map's segment is held and no other one is known."""
        for page, complete in source.pages():
            if self.hear(page, complete, source):
                return

    def hear(self, page: list[Segment], complete: bool, source: Source) -> bool:
        """Takes one page in; whether that was all."""
        newest = {segment.map_index: segment for segment in page}
        for segment in newest.values():
            self.bytes_known += segment.length - self._known.get(segment.map_index, 0)
            self._known[segment.map_index] = segment.length
        for segment in newest.values():
            self._take(segment, source)
        return complete and len(self._held) == self._task.maps

    def table(self) -> str:
        """The digest of the table of map outputs that are held."""
        table = TableDigest()
        for segment in self._held.values():
            table.add(segment.map_index, segment.digest)
        return table.hex()

    def groups(self) -> core.Grouper:
        """A Grouper over every segment; the segments are its own from now on."""
        if self._spilled is None:
            return self._memory_groups()
        if self._in_memory:
            self._spill_memory()
        return self._spilled.groups()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, segment: Segment, source: Source) -> None:
        """Holds the segment instead of what is held of its map, unless that is of the same output."""
        held = self._held.get(segment.map_index)
        if held is not None:
            if held.digest == segment.digest:
                return
            self._drop(held, source)
        if segment.records:
            self._check_keys(segment)
            try:
                self._fetch(segment)
            except CorruptSegment:  # once more: the store may be right
                try:
                    self._fetch(segment)
                except CorruptSegment as error:
                    self._give_up(segment, error, source)
                    return
        self._held[segment.map_index] = segment
        self.bytes_held += segment.length
        self.records += segment.records
        self._report()

    def _give_up(self, segment: Segment, error: CorruptSegment, source: Source) -> None:
        round_of = segment.map_index, segment.attempt
        self._rounds[round_of] += 1
        if self._rounds[round_of] == ROUNDS_MAX:
            self.unreadable = segment
            raise error
        source.bad(segment, str(error))

    def _drop(self, segment: Segment, source: Source) -> None:
        index = segment.map_index
        self._forget(index)
        data = self._in_memory.pop(index, None)
        if data is not None:
            self._memory_bytes -= segment.length
        elif index in self._on_disk:  # merged with others: those must come again
            again = [self._forget(other) for other in sorted(self._on_disk - {index})]
            self._spilled = None
            self._on_disk.clear()
            for other in again:
                self._take(other, source)

    def _forget(self, index: int) -> Segment:
        segment = self._held.pop(index)
        self.bytes_held -= segment.length
        self.records -= segment.records
        return segment

    def _check_keys(self, segment: Segment) -> None:
        if segment.key_kind not in ("str", "bytes"):
            raise ValueError(f"map {segment.map_index} has records, and keys of no kind: {segment.key_kind!r}")
        if not self.records:
            self.key_kind = segment.key_kind
        elif segment.key_kind != self.key_kind:
            raise BadRecord(
                f"map {segment.map_index} emitted {segment.key_kind} keys, and an earlier one {self.key_kind} keys: "
                "keys are str, or all of them bytes"
            )

    def _fetch(self, segment: Segment) -> None:
        """Brings the segment into memory, or onto the disk if it is large; much in memory goes there, too."""
        index = segment.map_index
        if segment.length > self._bound // 4:
            self._spill().add_segment(self._checked_blocks(segment), segment.records, index)
            self._on_disk.add(index)
            return
        if self._memory_bytes + segment.length > self._bound // 4 * 3:
            self._spill_memory()
        data = core.Buffer(segment.length)
        with memoryview(data) as view:
            self._read(segment, 0, view)
        core.check_segment(
            data,
            records=segment.records,
            xxh3=segment.xxh3,
            object=self._object(segment),
            partition=self._task.partition,
        )
        self._in_memory[index] = data
        self._memory_bytes += segment.length

    def _checked_blocks(self, segment: Segment) -> Iterator[memoryview]:
        """The segment's bytes in blocks, each valid until the next; raises CorruptSegment behind the last one."""
        digest = xxhash.xxh3_64()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for position in range(0, segment.length, CHUNK_BYTES):
            view = buffer[: segment.length - position]
            self._read(segment, position, view)
            digest.update(view)
            yield view
        if digest.intdigest() != segment.xxh3:
            raise CorruptSegment(self._object(segment), self._task.partition, segment.offset, "checksum mismatch")

    def _read(self, segment: Segment, position: int, view: memoryview) -> None:
        key, filled = self._object(segment), 0
        while filled < len(view):
            try:
                count = self._store.read_into(key, segment.offset + position + filled, view[filled:])
            except NotFound as error:
                raise CorruptSegment(key, self._task.partition, segment.offset, "the object is missing") from error
            if not count:
                why = f"the object ends after {position + filled:,} of {segment.length:,} bytes"
                raise CorruptSegment(key, self._task.partition, segment.offset, why)
            filled += count

    def _object(self, segment: Segment) -> str:
        return segment.object or inter_key(self._task.job, segment.attempt)

    def _memory_groups(self) -> core.Grouper:
        groups = core.Grouper(key_kind=self.key_kind or None, reduce=self._reduce)
        for index, data in self._in_memory.items():
            groups.add_run(data, records=self._held[index].records, order=index)
        self._in_memory.clear()
        self._memory_bytes = 0
        return groups

    def _spill_memory(self) -> None:
        indices = list(self._in_memory)
        if indices:
            self._spill().add(self._memory_groups())
            self._on_disk.update(indices)

    def _spill(self) -> SpilledRecords:
        from mrfast.tasks.spill import SpilledRecords

        if self._spilled is None:
            self._spilled = SpilledRecords(self.key_kind, self._reduce, self._bound)
        return self._spilled
