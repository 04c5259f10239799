"""One attempt of a reduce task: its segments of all map outputs in, one part out.

A part is sorted by key bytes because its groups are; a reduce that yields other keys than its own puts them where its
own key is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from mrfast.app import App
from mrfast.errors import BadRecord, CorruptSegment, NotFound
from mrfast.index import TableDigest
from mrfast.model import Failure, Progress, ReduceReport, ReduceTask, Segment, inter_key, out_key
from mrfast.tasks.failure import failure, shown
from mrfast.tasks.mapper import CORE_MEMORY_BYTES_MIN, Report, Stores
from mrfast.tasks.upload import upload
from mrfast.tasks.writer import formatter

if TYPE_CHECKING:
    from mrfast import core
    from mrfast.tasks.spill import SpilledRecords

CHUNK_BYTES = 1 << 20
PROGRESS_GROUPS = 4096
NATIVE_FORMATS = ("text", "tsv", "raw")


class Source(Protocol):
    """Where a reduce hears of its segments."""

    def pages(self) -> Iterator[tuple[list[Segment], bool]]: ...
    def bad(self, segment: Segment, why: str) -> None: ...


def _until_complete(source: Source) -> Iterator[list[Segment]]:
    for page, complete in source.pages():
        yield page
        if complete:
            return


def run_reduce(app: App, task: ReduceTask, source: Source, progress: Report, stores: Stores) -> ReduceReport | Failure:
    """The report of the finished attempt, or what went wrong; `source` gives the segments of its partition."""
    attempt = _ReduceAttempt(app, task, progress, stores)
    try:
        return attempt.run(segment for page in _until_complete(source) for segment in page)
    except CorruptSegment as error:
        segment = attempt.segment
        if segment is None:
            return failure(task.attempt, error)
        return Failure(
            task.attempt, "corrupt", str(error), input=segment.attempt, counted=False, map_index=segment.map_index
        )
    except BaseException as error:  # noqa: BLE001 (whatever the application raises, sys.exit() included, is reported)
        return failure(task.attempt, error, note=attempt.note)


class _ReduceAttempt:
    def __init__(self, app: App, task: ReduceTask, progress: Report, stores: Stores):
        self.segment: Segment | None = None
        self.note = ""
        self._app = app
        self._task = task
        self._progress = progress
        self._store = stores(task.store_url)
        self._table = TableDigest()
        self._groups: core.Grouper | None = None
        self._spilled: SpilledRecords | None = None
        self._memory_bytes = max(task.memory_bytes, CORE_MEMORY_BYTES_MIN)
        self._key_kind = ""
        self._bytes_done = 0
        self._records = 0
        self._lines = 0

    def run(self, segments: Iterable[Segment]) -> ReduceReport:
        """Fetches every segment, reduces every group, and writes the part."""
        for segment in segments:
            self._table.add(segment.map_index, segment.digest)
            if segment.records:
                self._add(segment)
        task = self._task
        chunks = self._reduce() if self._key_kind else iter(())
        # Durable before a manifest can name it.
        size, xxh3 = upload(self._store, out_key(task.job, task.attempt), chunks, durable=True)
        return ReduceReport(
            attempt=task.attempt,
            size=size,
            xxh3=xxh3,
            records_in=self._records,
            records_out=self._lines,
            table=self._table.hex(),
        )

    # -- segments ------------------------------------------------------------------------------------------------------

    def _add(self, segment: Segment) -> None:
        """Fetches one segment and adds it; what does not match is fetched once more: the store may be right."""
        self._check_keys(segment)
        self.segment = segment
        try:
            self._fetch(segment)
        except CorruptSegment:
            self._fetch(segment)
        self.segment = None
        self._bytes_done += segment.length
        self._records += segment.records
        self._report("fetch")

    def _check_keys(self, segment: Segment) -> None:
        if segment.key_kind not in ("str", "bytes"):
            raise ValueError(f"map {segment.map_index} has records, and keys of no kind: {segment.key_kind!r}")
        if not self._key_kind:
            self._key_kind = segment.key_kind
        elif segment.key_kind != self._key_kind:
            raise BadRecord(
                f"map {segment.map_index} emitted {segment.key_kind} keys, and an earlier one {self._key_kind} keys: "
                "keys are str, or all of them bytes"
            )

    def _fetch(self, segment: Segment) -> None:
        """Holds the segment in memory, or on disk if it is large; what is held goes to disk when it is too much."""
        if segment.length > self._memory_bytes // 4:
            self._spill().add_segment(self._checked_blocks(segment), segment.records, segment.map_index)
            return
        if self._groups is not None and self._groups.held_bytes + segment.length > self._memory_bytes // 4 * 3:
            self._spill().add(self._groups)
            self._groups = None
        if self._groups is None:
            self._groups = self._new_groups()
        from mrfast import core

        data = core.Buffer(segment.length)
        with memoryview(data) as view:
            self._read(segment, 0, view)
        self._groups.add(
            data,
            order=segment.map_index,
            records=segment.records,
            xxh3=segment.xxh3,
            object=self._object(segment),
            partition=self._task.partition,
        )

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
        return inter_key(self._task.job, segment.attempt)

    def _new_groups(self) -> core.Grouper:
        from mrfast import core

        return core.Grouper(key_kind=self._key_kind, reduce=self._app.native_reduce)

    def _spill(self) -> SpilledRecords:
        from mrfast.tasks.spill import SpilledRecords

        if self._spilled is None:
            self._spilled = SpilledRecords(self._key_kind, self._app.native_reduce, self._memory_bytes)
        return self._spilled

    def _all_groups(self) -> core.Grouper:
        """A Grouper over every segment."""
        if self._spilled is None:
            return self._groups or self._new_groups()
        if self._groups is not None:
            self._spilled.add(self._groups)
            self._groups = None
        return self._spilled.groups()

    # -- groups --------------------------------------------------------------------------------------------------------

    def _reduce(self) -> Iterator[Any]:
        """The part's buffers, each valid until the next."""
        app = self._app
        groups = self._all_groups()
        self._report("reduce")
        if app.native_reduce is None:
            return self._each_group(groups, app.reduce)
        if app.output in NATIVE_FORMATS:
            return self._native(groups)
        return self._lines_of([(None, groups.reduced())])

    def _native(self, groups: core.Grouper) -> Iterator[Any]:
        terminator = b"" if self._app.cut.record_bytes else b"\n"
        for chunk in groups.chunks(self._app.output, terminator=terminator, chunk_bytes=CHUNK_BYTES):
            yield chunk
            self._report("reduce")
        self._lines = groups.records_out

    def _each_group(self, groups: core.Grouper, function: Any) -> Iterator[Any]:
        """The part's buffers, from the application's reduce."""
        key: Any = None

        def results() -> Iterator[tuple[Any, Any]]:
            nonlocal key
            for number, (key, values) in enumerate(groups, 1):
                yield key, function(key, values)
                if number % PROGRESS_GROUPS == 0:
                    self._report("reduce")

        try:
            yield from self._lines_of(results())
        except BaseException:
            self.note = "" if key is None else f" (in reduce, key {shown(key)})"
            raise

    def _lines_of(self, results: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
        """The lines of (key, what reduce returned) as buffers, each valid until the next."""
        from mrfast import core

        app = self._app
        line = formatter(app.output, app.cut.record_bytes)
        terminator = b"" if app.cut.record_bytes else b"\n"
        writer = core.LineWriter(app.output, lambda pair: line(*_checked(pair)), terminator=terminator)
        add = writer.add
        for key, result in results:
            if add(key, result):
                while (full := writer.take()) is not None:
                    yield full
        yield writer.rest()
        self._lines = writer.lines

    def _report(self, phase: str) -> None:
        self._progress(Progress(phase, self._bytes_done, self._bytes_done, self._records))


def _checked(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise BadRecord(
            f"reduce yielded {pair!r:.60}, which is no (key, value) pair: yield key, value, or return a value"
        )
    return pair[0], pair[1]
