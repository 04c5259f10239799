"""One attempt of a reduce task: its segments of all map outputs in, one part out.

A part is sorted by key bytes because its groups are; a reduce that yields other keys than its own puts them where its
own key is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mrfast.app import App
from mrfast.errors import BadRecord, CorruptSegment, NotFound
from mrfast.index import TableDigest
from mrfast.model import Failure, Progress, ReduceReport, ReduceTask, Segment, inter_key, out_key
from mrfast.tasks.failure import failure, shown
from mrfast.tasks.mapper import Report, Stores, digest_of, pairs_of
from mrfast.tasks.writer import formatter

CHUNK_BYTES = 1 << 20
PROGRESS_GROUPS = 4096
NATIVE_FORMATS = ("text", "tsv", "raw")


def run_reduce(
    app: App, task: ReduceTask, segments: Callable[[], Iterable[Segment]], progress: Report, stores: Stores
) -> ReduceReport | Failure:
    """The report of the finished attempt, or what went wrong; `segments` gives this partition's, of every map."""
    attempt = _ReduceAttempt(app, task, progress, stores)
    try:
        return attempt.run(segments())
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
        self._groups: Any = None
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
        buffers = [] if self._groups is None else self._reduce()
        task = self._task
        self._report("write")
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        self._store.put(out_key(task.job, task.attempt), buffers, durable=True)  # before a manifest can name it
        return ReduceReport(
            attempt=task.attempt,
            size=size,
            xxh3=digest_of(buffers),
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
        from mrfast import core

        if segment.key_kind not in ("str", "bytes"):
            raise ValueError(f"map {segment.map_index} has records, and keys of no kind: {segment.key_kind!r}")
        if self._groups is None:
            self._key_kind = segment.key_kind
            self._groups = core.Grouper(key_kind=segment.key_kind, reduce=self._app.native_reduce)
        elif segment.key_kind != self._key_kind:
            raise BadRecord(
                f"map {segment.map_index} emitted {segment.key_kind} keys, and an earlier one {self._key_kind} keys: "
                "keys are str, or all of them bytes"
            )

    def _fetch(self, segment: Segment) -> None:
        key, partition = inter_key(self._task.job, segment.attempt), self._task.partition
        data = bytearray(segment.length)
        filled = 0
        with memoryview(data) as view:
            while filled < len(data):
                try:
                    count = self._store.read_into(key, segment.offset + filled, view[filled:])
                except NotFound as error:
                    raise CorruptSegment(key, partition, segment.offset, "the object is missing") from error
                if not count:
                    why = f"the object ends after {filled:,} of {len(data):,} bytes"
                    raise CorruptSegment(key, partition, segment.offset, why)
                filled += count
        self._groups.add(
            data,
            order=segment.map_index,
            records=segment.records,
            xxh3=segment.xxh3,
            object=key,
            partition=partition,
        )

    # -- groups --------------------------------------------------------------------------------------------------------

    def _reduce(self) -> list[Any]:
        app = self._app
        self._report("reduce")
        if app.native_reduce is None:
            return self._each_group(app.reduce)
        if app.output in NATIVE_FORMATS:
            terminator = b"" if app.cut.record_bytes else b"\n"
            buffer = self._groups.write(app.output, terminator=terminator)
            self._lines = self._groups.records_out
            return [buffer]
        return self._write(self._groups.reduced())

    def _each_group(self, function: Any) -> list[bytes]:
        """The part's buffers, from the application's reduce."""
        key: Any = None

        def pairs() -> Iterator[Any]:
            nonlocal key
            for number, (key, values) in enumerate(self._groups, 1):
                yield from pairs_of(key, function(key, values))
                if number % PROGRESS_GROUPS == 0:
                    self._report("reduce")

        try:
            return self._write(pairs())
        except BaseException:
            self.note = "" if key is None else f" (in reduce, key {shown(key)})"
            raise

    def _write(self, pairs: Iterable[Any]) -> list[bytes]:
        line = formatter(self._app.output, self._app.cut.record_bytes)
        buffers: list[bytes] = []
        chunk = bytearray()
        for pair in pairs:
            chunk += line(*_checked(pair))
            self._lines += 1
            if len(chunk) >= CHUNK_BYTES:
                buffers.append(bytes(chunk))
                chunk.clear()
        if chunk:
            buffers.append(bytes(chunk))
        return buffers

    def _report(self, phase: str) -> None:
        self._progress(Progress(phase, self._bytes_done, self._bytes_done, self._records))


def _checked(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise BadRecord(
            f"reduce yielded {pair!r:.60}, which is no (key, value) pair: yield key, value, or return a value"
        )
    return pair[0], pair[1]
