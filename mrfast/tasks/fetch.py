"""The segments of one reduce: fetched as their maps are accepted, and again when a map had to run again.

Those of neighbouring partitions are one run of a map object, fetched, replaced and let go of as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from mrfast import core
from mrfast.control.groups import singles
from mrfast.errors import BadRecord, CorruptSegment, NotFound
from mrfast.index import TableDigest
from mrfast.model import ReduceTask, Segment, inter_key
from mrfast.storage.abreast import Abreast
from mrfast.tasks.laps import MAPS, SPILL, Laps
from mrfast.tasks.mapper import CORE_MEMORY_BYTES_MIN

if TYPE_CHECKING:
    from mrfast.storage.base import Store
    from mrfast.tasks.spill import SpilledRecords

CHUNK_BYTES = 1 << 20
# A segment that goes to disk is read from a remote store in ranges of so many bytes, or of so much of the memory.
RANGE_BYTES_MAX = 8 << 20
RANGES_PER_MEMORY = 32
PIECE_BYTES = 128 << 10  # of a frame at a time: a decompressor holds what it has not passed on yet
# Times that one map attempt's output is announced, and cannot be read, before the fault is sought here.
ROUNDS_MAX = 3


class Source(Protocol):
    """Where a reduce hears of its segments."""

    def pages(self) -> Iterator[tuple[list[Segment], bool]]:
        """(segments, whether every map is listed now), a page after the other; a later segment of a map replaces."""

    def bad(self, segment: Segment, why: str) -> None:
        """Says that a segment cannot be read; another one for its map is to come in a page."""


class Fetched:
    """The segments of each map, once `follow` has returned; checked, and in memory or on the local disk."""

    def __init__(
        self, task: ReduceTask, store: Store, native_reduce: Any, report: Callable[[], None], laps: Laps | None = None
    ):
        self.key_kind = ""
        self.unreadable: Segment | None = None  # the one that made `follow` give up
        self.bytes_known = self.bytes_held = self.records = 0
        self._task = task
        self._store = store
        self._reduce = native_reduce
        self._report = report
        self._laps = laps or Laps()
        self._bound = max(task.memory_bytes, CORE_MEMORY_BYTES_MIN)
        self._known: dict[int, int] = {}  # map -> length of its newest segment
        self._held: dict[int, Segment] = {}
        self._in_memory: dict[int, core.Buffer] = {}
        self._memory_bytes = 0
        self._on_disk: set[int] = set()
        self._spilled: SpilledRecords | None = None
        self._groups: Iterator[core.Grouper] | None = None
        self._rounds: Counter[tuple[int, str]] = Counter()
        # What is on its way and what is held are within the bound together.
        self._reads = Abreast(self._bound // 4, remote=store.remote)
        self._range_bytes = CHUNK_BYTES
        if self._reads.many:
            self._range_bytes = max(1, min(RANGE_BYTES_MAX, self._bound // RANGES_PER_MEMORY))

    def follow(self, source: Source) -> None:
        """Fetches what the pages name, until every map's segment is held and no other one is known."""
        with self._reads:
            for page, complete in self._laps.each(MAPS, source.pages()):
                if self.hear(page, complete, source):
                    return

    def hear(self, page: list[Segment], complete: bool, source: Source) -> bool:
        """Takes one page in; whether that was all."""
        newest = {segment.map_index: segment for segment in page}
        for segment in newest.values():
            self.bytes_known += segment.length - self._known.get(segment.map_index, 0)
            self._known[segment.map_index] = segment.length
        self._take_all(newest.values(), source)
        return complete and len(self._held) == self._task.maps

    def table(self) -> str:
        """The digest of the table of map outputs that are held."""
        table = TableDigest()
        for segment in self._held.values():
            table.add(segment.map_index, segment.digest)
        return table.hex()

    def groups(self) -> core.Grouper:
        """A Grouper over every segment of the task's next partition; what the last one needs is its own then."""
        if self._groups is None:
            if self._spilled is not None:
                self._spill_memory()
                self._groups = map(self._spilled.groups, range(self._task.partitions))
            else:
                self._groups = self._memory_groups()
        return next(self._groups)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take_all(self, segments: Iterable[Segment], source: Source) -> None:
        """Holds each segment instead of what is held of its map, unless that is of the same output."""
        wanted: dict[int, Segment] = {}
        for segment in segments:
            held = self._held.get(segment.map_index)
            if held is not None and held.digest == segment.digest:
                continue
            for other in () if held is None else self._drop(held):
                wanted.setdefault(other.map_index, other)
            wanted[segment.map_index] = segment
        small, large = [], []
        for segment in wanted.values():
            if not segment.records:
                self._hold(segment)
            elif _size_on_its_way(segment) > self._bound // 4:
                large.append(segment)
            else:
                small.append(segment)
        for segment, data in self._reads.each(small, self._load, _size_on_its_way):
            if isinstance(data, CorruptSegment):
                self._give_up(segment, data, source)
            else:
                self._keep(segment, data)
        for segment in large:
            try:
                self._to_disk(segment)
            except CorruptSegment as error:
                self._give_up(segment, error, source)

    def _hold(self, segment: Segment) -> None:
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

    def _drop(self, segment: Segment) -> list[Segment]:
        """Lets go of a segment; those that were merged with it on disk must come again."""
        index = segment.map_index
        self._forget(index)
        if self._in_memory.pop(index, None) is not None:
            self._memory_bytes -= _size(segment)
        elif index in self._on_disk:
            again = [self._forget(other) for other in sorted(self._on_disk - {index})]
            self._spilled = None
            self._on_disk.clear()
            return again
        return []

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

    def _load(self, segment: Segment) -> core.Buffer | CorruptSegment:
        """The segment's bytes, checked; or what is wrong with them twice. Called in several threads."""
        try:
            return self._load_once(segment)
        except CorruptSegment:  # once more: the store may be right
            try:
                return self._load_once(segment)
            except CorruptSegment as error:
                return error

    def _load_once(self, segment: Segment) -> core.Buffer:
        data = core.Buffer(segment.length)
        with memoryview(data) as view:
            self._read(segment, 0, view)
            if _size(segment) != segment.length:
                return self._unpacked(segment, view)
            for place, single in enumerate(singles(segment)):
                begin = single.offset - segment.offset
                self._check(single, place, view[begin : begin + single.length], single.xxh3)
        return data

    def _unpacked(self, segment: Segment, stored: memoryview) -> core.Buffer:
        """The bytes of segments of which some are compressed: each is decompressed once its checksum is right."""
        from mrfast.tasks.packed import FrameError, unpacked

        data, end = core.Buffer(_size(segment)), 0
        with memoryview(data) as view:
            for place, single in enumerate(singles(segment)):
                begin = single.offset - segment.offset
                its = stored[begin : begin + single.length]
                begin, end = end, end + _size(single)
                xxh3 = single.xxh3
                if not single.raw:
                    view[begin:end] = its
                elif xxhash.xxh3_64_intdigest(its) != xxh3:
                    raise self._corrupt(single, place, "checksum mismatch")
                else:
                    try:
                        at = begin
                        pieces = (its[i : i + PIECE_BYTES] for i in range(0, len(its), PIECE_BYTES))
                        for piece in unpacked(pieces, single.raw, PIECE_BYTES):
                            view[at : at + len(piece)] = piece
                            at += len(piece)
                    except FrameError as error:
                        raise self._corrupt(single, place, str(error)) from None
                    xxh3 = xxhash.xxh3_64_intdigest(view[begin:end])
                self._check(single, place, view[begin:end], xxh3)
        return data

    def _check(self, single: Segment, place: int, data: memoryview, xxh3: int) -> None:
        core.check_segment(
            data,
            records=single.records,
            xxh3=xxh3,
            object=self._object(single),
            partition=self._task.partition + place,
        )

    def _corrupt(self, single: Segment, place: int, why: str) -> CorruptSegment:
        return CorruptSegment(self._object(single), self._task.partition + place, single.offset, why)

    def _keep(self, segment: Segment, data: core.Buffer) -> None:
        """Holds the segment in memory; when there is much, all that is there goes to the disk before."""
        self._check_keys(segment)
        if self._memory_bytes + _size(segment) > self._bound // 4 * 3:
            self._spill_memory()
        self._in_memory[segment.map_index] = data
        self._memory_bytes += _size(segment)
        self._hold(segment)

    def _to_disk(self, segment: Segment) -> None:
        """Holds a large segment on the disk, as a run of its own."""
        from mrfast.tasks.spill import write_run

        self._check_keys(segment)
        its = list(enumerate(singles(segment)))

        def write() -> Any:
            return write_run(block for place, single in its for block in self._checked_blocks(single, place))

        try:
            run = write()
        except CorruptSegment:  # once more: the store may be right
            run = write()
        sizes = [(_size(single), single.records) for _, single in its]
        self._spill().add_segments(run, sizes, segment.map_index)
        self._on_disk.add(segment.map_index)
        self._hold(segment)

    def _checked_blocks(self, segment: Segment, place: int) -> Iterator[Any]:
        """The segment's bytes in blocks, each valid until the next; raises CorruptSegment behind the last one."""
        if not segment.length:
            return
        if not segment.raw:
            yield from self._stored_blocks(segment, place)
            return
        from mrfast.tasks.packed import FrameError, unpacked

        try:
            yield from unpacked(self._stored_blocks(segment, place), segment.raw)
        except FrameError as error:
            raise self._corrupt(segment, place, str(error)) from None

    def _stored_blocks(self, segment: Segment, place: int) -> Iterator[memoryview]:
        digest = xxhash.xxh3_64()
        for _, block in self._blocks(segment):
            digest.update(block)
            yield block
        if digest.intdigest() != segment.xxh3:
            raise self._corrupt(segment, place, "checksum mismatch")

    def _blocks(self, segment: Segment) -> Iterator[tuple[int, memoryview]]:
        """(position, bytes) of each block of the segment; one buffer is enough where they come one by one."""
        step = self._range_bytes
        buffer = memoryview(bytearray(0 if self._reads.many else step))

        def block(position: int) -> memoryview:
            size = min(step, segment.length - position)
            view = buffer[:size] if buffer else memoryview(bytearray(size))
            self._read(segment, position, view)
            return view

        return self._reads.each(range(0, segment.length, step), block, lambda position: step)

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

    def _memory_groups(self) -> Iterator[core.Grouper]:
        """A Grouper for each partition over what is in memory, of which nothing is held here behind the last one."""
        begins = dict.fromkeys(self._in_memory, 0)
        for place in range(self._task.partitions):
            groups = core.Grouper(key_kind=self.key_kind or None, reduce=self._reduce)
            for index, data in self._in_memory.items():
                segment = self._held[index]
                length, records, raw = segment.length, segment.records, segment.raw
                if segment.parts:
                    length, records, _, raw = segment.parts[place]
                begin = begins[index]
                begins[index] = end = begin + (raw or length)
                if records:
                    groups.add_run(memoryview(data)[begin:end], records=records, order=index)
            if place == self._task.partitions - 1:
                self._in_memory.clear()
                self._memory_bytes = 0
            yield groups

    def _spill_memory(self) -> None:
        if self._in_memory:
            with self._laps.within(SPILL):
                self._on_disk.update(self._in_memory)
                self._spill().add(self._memory_groups())

    def _spill(self) -> SpilledRecords:
        from mrfast.tasks.spill import SpilledRecords

        if self._spilled is None:
            self._spilled = SpilledRecords(self.key_kind, self._reduce, self._bound, self._task.partitions)
        return self._spilled


def _size(segment: Segment) -> int:
    """What a segment takes in memory."""
    if segment.parts:
        return sum(raw or length for length, _, _, raw in segment.parts)
    return segment.raw or segment.length


def _size_on_its_way(segment: Segment) -> int:
    """What fetching it takes: a compressed one is there twice."""
    size = _size(segment)
    return size if size == segment.length else size + segment.length
