"""One attempt of a map task: pieces of input in, one object of sorted segments out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mrfast import ops, storage
from mrfast.app import App
from mrfast.counting import Counters, counting
from mrfast.model import Failure, MapReport, MapTask, Piece, Progress, inter_key
from mrfast.tasks.failure import failure, shown
from mrfast.tasks.laps import SPILL, TURN, WRITE, Laps
from mrfast.tasks.prefetch import Part, Prefetcher, parts_of
from mrfast.tasks.pulse import Pulse
from mrfast.tasks.reader import PieceReader
from mrfast.tasks.turns import ALWAYS, Turns
from mrfast.tasks.upload import upload

if TYPE_CHECKING:
    from mrfast.core import Segments
    from mrfast.storage.base import Store
    from mrfast.tasks.skipping import At, Skipping

# The part of --memory that pairs waiting for a Python combine may take before it runs.
COMBINE_MEMORY_SHARE = 4
# A core that spilled more often than this would make more files than progress.
CORE_MEMORY_BYTES_MIN = 4 << 20

Stores = Callable[[str], "Store"]
Report = Callable[[Progress], None]


def nowhere(piece: int, offset: int) -> None:
    """Does not care which record the application is given."""


def run_map(
    app: App, task: MapTask, progress: Report, stores: Stores, at: At = nowhere, turns: Turns = ALWAYS
) -> MapReport | Failure:
    """The report of the finished attempt, or what went wrong; `stores` gives the store at a root URL.

    `at` hears which record the application is given, if records may be skipped.
    """
    if not task.bad_records_max or app.native_map is not None:
        return _run(_MapAttempt(app, task, progress, stores, turns))
    from mrfast.tasks.skipping import Again, Skipping, TooMany

    skipping = Skipping(task, at, app.native_combine if app.python_combine is None else None)
    while True:
        skipping.begin()
        try:
            return _run(_MapAttempt(app, task, progress, stores, turns, skipping), Again, TooMany)
        except Again:
            continue
        except TooMany as error:
            return error.failure


def _run(attempt: _MapAttempt, *let_through: type[Exception]) -> MapReport | Failure:
    try:
        with counting(attempt.counters):
            return attempt.run()
    except let_through:
        raise
    except BaseException as error:  # noqa: BLE001 (whatever the application raises, sys.exit() included, is reported)
        return failure(attempt.name, error, input=attempt.path, offset=attempt.offset(), note=attempt.note)


def native_source(op: Any) -> Any:
    """What feeds the core for this map: a native op itself, grep's automaton, or None."""
    if isinstance(op, ops.Grep):
        from mrfast.tasks.automaton import automaton

        return automaton(op.pattern, op.by)
    return op


def pairs_of(key: Any, result: Any) -> Iterable[tuple[Any, Any]]:
    """The pairs that a reduce or combine gave for `key`: one value, an iterator of pairs, or None for nothing."""
    if result is None:
        return ()
    return result if hasattr(type(result), "__next__") else ((key, result),)


class _MapAttempt:
    def __init__(
        self,
        app: App,
        task: MapTask,
        progress: Report,
        stores: Stores,
        turns: Turns,
        skipping: Skipping | None = None,
    ):
        from mrfast import core
        from mrfast.tasks.spill import SpilledSegments

        self.name = task.attempt
        self.path = ""
        self.note = ""
        self.counters = Counters()
        self._laps = Laps()
        self._app = app
        self._task = task
        self._progress = progress
        self._stores = stores
        self._turns = turns
        self._skipping = skipping
        self._phase = "map" if skipping is None or skipping.runs == 1 else f"map {skipping.runs}"
        self._progress_lock = threading.Lock()
        self._reader: PieceReader | None = None
        self._located = False
        self._bytes_done = 0
        self._bytes_before = 0  # of the pieces before the one that is read
        self._most_records = 0
        self._bytes_total = sum(piece.length for piece in task.pieces)
        op = app.native_map
        self._source = native_source(op)
        memory_bytes = max(task.memory_bytes, CORE_MEMORY_BYTES_MIN)
        combine = app.native_combine if app.python_combine is None else None
        self._combine_name = combine.kind if combine is not None and combine.kind in core.COMBINING else None
        self._spilled = SpilledSegments(task.reduces, combine, memory_bytes)

        def spill() -> None:
            with self._laps.within(SPILL):
                self._apart(lambda: self._spilled.add(self._final.drain()))

        bound: dict[str, Any] = {"memory_bytes": memory_bytes, "spill": spill}
        if app.python_combine is None:
            self._final = self._sink = core.MapSink(task.reduces, source=self._source, combine=combine, **bound)
        else:
            # One partition is enough for what waits for the combine: its own pairs are partitioned when they come.
            bound["memory_bytes"] = memory_bytes - memory_bytes // COMBINE_MEMORY_SHARE
            self._final = core.MapSink(task.reduces, **bound)
            waiting_bytes = memory_bytes // COMBINE_MEMORY_SHARE
            self._sink = core.MapSink(
                1, source=self._source, memory_bytes=waiting_bytes, spill=lambda: self._apart(self._combine)
            )

    def offset(self) -> int | None:
        """Where the record that the application was working on starts, if one record was all that it had."""
        return self._reader.offset if self._reader is not None and self._located else None

    def run(self) -> MapReport:
        """Maps every piece and writes the object."""
        with Prefetcher(self._parts()) as prefetcher:
            prefetcher.start()
            with self._laps.within(TURN):
                self._turns.take()
            # A native source says enough by itself: it reads on at once.
            with Pulse(self._beat) if self._source is None else nullcontext():
                try:
                    for number, piece in enumerate(self._task.pieces):
                        self._map_piece(number, piece, prefetcher)
                finally:
                    if self._reader is not None:
                        self._reader.close()
        self.path, self._reader = "", None
        self._combine()
        self._laps.enter(WRITE)
        return self._write()

    def _parts(self) -> Iterator[Part]:
        """The reads of all pieces that are in remote stores."""
        for piece in self._task.pieces:
            root, key = storage.split_url(piece.url)
            if (store := self._stores(root)).remote:
                yield from parts_of(store, key, piece, self._app.cut)

    def _map_piece(self, number: int, piece: Piece, prefetcher: Prefetcher) -> None:
        task, app = self._task, self._app
        root, key = storage.split_url(piece.url)
        store = self._stores(root)
        self.path = piece.path
        options: dict[str, Any] = {"memory_bytes": task.memory_bytes, "on_read": self._read, "laps": self._laps}
        options["prefetcher"] = prefetcher if store.remote else None
        if self._skipping is not None:
            self._reader = records = self._skipping.reader(store, key, piece, app.cut, **options)
            self._skipping.call(app.map, records, number, self._sink, self.counters)
            self._bytes_before += piece.length
            return
        self._reader = reader = PieceReader(store, key, piece, app.cut, **options)
        if self._source is not None:
            self._feed(reader)
        elif isinstance(app.map, ops.Grep):
            self._grep(reader, app.map)
        else:
            self._call(reader)
        self._located = False
        self._bytes_before += piece.length

    def _feed(self, reader: PieceReader) -> None:
        blocks = reader.blocks()
        first = next(blocks, None)  # only then it is known where the first record starts
        self._sink.begin(self.path, reader.offset)
        while first is not None:
            self._sink.feed(first)
            first = next(blocks, None)
        self._sink.end()

    def _grep(self, reader: PieceReader, op: ops.Grep) -> None:
        from mrfast.tasks.grep import grep_pairs

        for pairs in grep_pairs(op, self.path, reader.line_blocks()):
            self._sink.emit_all(pairs)

    def _call(self, reader: PieceReader) -> None:
        """The application's map, once for the object, or for each block, line or record."""
        function: Any = self._app.map
        emit_all = self._sink.emit_all
        if self._app.cut.kind == "file":
            emit_all(function(self.path, reader.whole()))
            return
        self._located = True
        for contents in self._contents(reader):
            emit_all(function(self.path, contents))

    def _contents(self, reader: PieceReader) -> Iterator[Any]:
        kind = self._app.cut.kind
        if kind == "blocks":
            return reader.line_blocks()
        if kind == "lines":
            return reader.lines()
        return reader.jsonl() if kind == "jsonl" else reader.csv()

    def _read(self, count: int) -> None:
        self._bytes_done += count
        if self._skipping is not None:
            self._skipping.leave()
        self._beat()

    def _beat(self) -> None:
        with self._progress_lock:  # the pulse must not take back what came a moment later
            collected = 0 if self._skipping is None else self._skipping.collected
            self._most_records = max(self._most_records, self._sink.records_in + collected)
            self._progress(Progress(self._phase, self._bytes_mapped(), self._bytes_total, self._most_records))

    def _bytes_mapped(self) -> int:
        """How far the application is: a block that is read is not yet mapped, which in Python takes its time."""
        reader = self._reader
        if self._source is not None or reader is None or reader.is_compressed:
            return self._bytes_done
        within = max(0, min(reader.offset - reader.piece.offset, reader.piece.length))
        return min(self._bytes_done, self._bytes_before + within)

    def _apart(self, work: Callable[[], object]) -> None:
        """Does work that comes while pairs are emitted, and that no record is to blame for."""
        if self._skipping is None:
            work()
        else:
            self._skipping.apart(work)

    # -- a combine in Python -------------------------------------------------------------------------------------------

    def _combine(self) -> None:
        """Passes what has been emitted since the last time through the application's combine."""
        from mrfast import core

        if self._sink is self._final:
            return

        drained = self._sink.drain()
        if not drained.records:
            return
        function: Any = self._app.python_combine
        groups = core.Grouper(key_kind=drained.key_kind)
        groups.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0], object="combine")
        for key, values in groups:
            self.note = f" (in combine, key {shown(key)})"
            self._final.emit_all(pairs_of(key, function(key, values)))
        self.note = ""

    # -- the object ----------------------------------------------------------------------------------------------------

    def _write(self) -> MapReport:
        from mrfast.control.hot_keys import of_map
        from mrfast.core import object_header, object_tail

        task = self._task
        self._progress(Progress("write", self._bytes_done, self._bytes_total, self._sink.records_in))
        drained = self._final.drain()
        segments: Segments = drained
        if self._spilled:
            self._spilled.add(drained)
            segments = self._spilled
        else:
            self._turns.give()  # the rest is the store's work
        packed = None
        if task.compress:
            from mrfast.tasks.packed import Packed

            segments = packed = Packed(segments)
        index = b""

        def chunks() -> Iterator[Any]:
            nonlocal index
            header = object_header(task.job, task.attempt)
            yield header
            yield from segments.chunks()
            index, trailer = object_tail(
                segments, len(header), self._combine_name, packed.raws if packed is not None else ()
            )
            yield index
            yield trailer

        size, xxh3 = upload(self._stores(task.store_url), inter_key(task.job, task.attempt), chunks())
        if skipped := self._sink.skipped:
            self.counters.add("skipped", skipped)
        counters = self.counters.total()
        return MapReport(
            attempt=task.attempt,
            size=size,
            xxh3=xxh3,
            index=index,
            records_in=self._sink.records_in,
            records_out=segments.records,
            bytes_in=self._bytes_done,
            counters=counters,
            bad=() if self._skipping is None else self._skipping.report(index, counters),
            seconds=self._laps.seconds(),
            hot=of_map(
                self._spilled.hot or (drained.hot,),
                sum((self._spilled if self._spilled else drained).lengths),
                segments.records,
                combined=self._app.combine is not None or self._app.native_reduce is not None,
                folded=self._spilled.folds,
            ),
        )
