"""One attempt of a reduce task: its segments of all map outputs in, a part for each of its partitions out.

A part is sorted by key bytes because its groups are; a reduce that yields other keys than its own puts them where its
own key is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import xxhash

from mrfast.app import App
from mrfast.counting import Counters, counting
from mrfast.errors import BadRecord, CorruptSegment
from mrfast.model import Failure, PartReport, Progress, ReduceReport, ReduceTask, out_key, part_object
from mrfast.storage.abreast import Abreast
from mrfast.tasks.failure import failure, shown
from mrfast.tasks.fetch import CHUNK_BYTES, Fetched, Source
from mrfast.tasks.laps import COMPUTE, TURN, WAIT, WRITE, Laps
from mrfast.tasks.mapper import Report, Stores
from mrfast.tasks.turns import ALWAYS, Turns
from mrfast.tasks.upload import upload
from mrfast.tasks.writer import formatter

if TYPE_CHECKING:
    from mrfast import core
    from mrfast.storage.base import Store

REPORT_S = 1.0
# Parts of one task that are held while they go up: each at most so large, or so much of the memory.
PART_HELD_BYTES_MAX = 8 << 20
PARTS_MEMORY_SHARE = 64
PARTS_HELD = 8
NATIVE_FORMATS = ("text", "tsv", "raw")


def run_reduce(
    app: App, task: ReduceTask, source: Source, progress: Report, stores: Stores, turns: Turns = ALWAYS
) -> ReduceReport | Failure:
    """The report of the finished attempt, or what went wrong; `source` gives the segments of its partitions."""
    attempt = _ReduceAttempt(app, task, progress, stores, turns)
    try:
        with counting(attempt.counters):
            return attempt.run(source)
    except CorruptSegment as error:
        segment = attempt.fetched.unreadable
        if segment is None:
            return failure(task.attempt, error)
        return Failure(task.attempt, "corrupt", str(error), input=segment.attempt, map_index=segment.map_index)
    except BaseException as error:  # noqa: BLE001 (whatever the application raises, sys.exit() included, is reported)
        return failure(task.attempt, error, note=attempt.note)


class _ReduceAttempt:
    def __init__(self, app: App, task: ReduceTask, progress: Report, stores: Stores, turns: Turns):
        self.note = ""
        self.counters = Counters()
        self._laps = Laps()
        self._app = app
        self._task = task
        self._progress = progress
        self._turns = turns
        self._store = stores(task.store_url)
        self.fetched = Fetched(task, self._store, app.native_reduce, self._report_fetch, self._laps)
        self._lines = self._records_reduced = 0

    def run(self, source: Source) -> ReduceReport:
        """Fetches every segment, reduces every group, and writes the parts."""
        with self._laps.within(WAIT):
            self.fetched.follow(source)
        with self._laps.within(WRITE):
            parts = self._parts()
        only, *others = parts
        return ReduceReport(
            attempt=self._task.attempt,
            size=sum(part.size for part in parts),
            xxh3=xxhash.xxh3_64_hexdigest("".join(part.xxh3 for part in parts).encode()) if others else only.xxh3,
            records_in=self.fetched.records,
            records_out=sum(part.records for part in parts),
            table=self.fetched.table(),
            parts=tuple(parts) if others else (),
            counters=self.counters.total(),
            seconds=self._laps.seconds(),
        )

    def _parts(self) -> list[PartReport]:
        """One after the other is reduced; where each upload begins with waiting, small ones go up meanwhile."""
        task = self._task
        held_max = task.memory_bytes // PARTS_MEMORY_SHARE
        held_max = min(PART_HELD_BYTES_MAX, held_max) if self._store.remote and task.partitions > 1 else -1
        with Abreast(PARTS_HELD * held_max, remote=held_max >= 0) as uploads:
            made = self._laps.each(COMPUTE, (self._part(place, held_max) for place in range(task.partitions)))
            return [report for _, report in uploads.each(made, lambda part: part.finish(), lambda part: part.held)]

    def _part(self, place: int, held_max: int) -> _Part:
        task = self._task
        with self._laps.within(TURN):
            self._turns.take()
        groups = self.fetched.groups()
        self._lines = 0
        chunks = self._reduce(groups) if groups.records_in else iter(())
        if task.compress:
            from mrfast.tasks.packed import compressed

            chunks = compressed(chunks, task.compress)
        chunks = self._laps.each(COMPUTE, self._computed(chunks))
        name = part_object(task.attempt, task.partition + place, task.partitions)
        part = _Part(self._store, out_key(task.job, name))
        with self._laps.within(WRITE):
            part.take(chunks, held_max)
        part.lines = self._lines
        self._records_reduced += groups.records_in
        return part

    def _computed(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """The chunks; behind the last one, the rest is the store's work."""
        yield from chunks
        self._turns.give()

    # -- groups --------------------------------------------------------------------------------------------------------

    def _reduce(self, groups: core.Grouper) -> Iterator[Any]:
        """The part's buffers, each valid until the next."""
        app = self._app
        self._report_reduce(groups)
        if app.native_reduce is None:
            return self._each_group(groups, app.reduce)
        if app.output in NATIVE_FORMATS:
            return self._native(groups)
        return self._lines_of([(None, self._ticking(groups, groups.reduced()))])

    def _native(self, groups: core.Grouper) -> Iterator[Any]:
        terminator = b"" if self._app.cut.record_bytes else b"\n"
        for chunk in groups.chunks(self._app.output, terminator=terminator, chunk_bytes=CHUNK_BYTES):
            yield chunk
            self._report_reduce(groups)
        self._lines = groups.records_out

    def _each_group(self, groups: core.Grouper, function: Any) -> Iterator[Any]:
        """The part's buffers, from the application's reduce."""
        key: Any = None

        def results() -> Iterator[tuple[Any, Any]]:
            nonlocal key
            for key, values in self._ticking(groups, groups):
                yield key, function(key, values)

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

    def _ticking(self, groups: core.Grouper, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The items, with a report a second."""
        clock = time.monotonic
        due = clock() + REPORT_S
        for item in items:
            yield item
            if clock() >= due:
                self._report_reduce(groups)
                due = clock() + REPORT_S

    def _report_fetch(self) -> None:
        fetched = self.fetched
        self._progress(Progress("fetch", fetched.bytes_held, 2 * fetched.bytes_known, fetched.records))

    def _report_reduce(self, groups: core.Grouper) -> None:
        size, records = self.fetched.bytes_held, self.fetched.records
        done = size + size * (self._records_reduced + groups.records_read) // records
        self._progress(Progress("reduce", done, 2 * size, records))


class _Part:
    """A part on its way: a small one is held, to be uploaded in another thread; any other is there already."""

    def __init__(self, store: Store, key: str):
        self.lines = self.held = 0
        self._store = store
        self._key = key
        self._data = bytearray()
        self._uploaded: tuple[int, str] | None = None

    def take(self, chunks: Iterator[Any], held_max: int) -> None:
        """All of its bytes."""
        if held_max >= 0:
            held = bytearray()
            for chunk in chunks:
                held += chunk
                if len(held) > held_max:
                    break
            else:
                self._data, self.held = held, len(held)
                return
            chunks = chain((held,), chunks)
        self._uploaded = self._upload(chunks)

    def finish(self) -> PartReport:
        """The report of the part, once it is there."""
        size, xxh3 = self._uploaded or self._upload((self._data,))
        self._data = bytearray()
        return PartReport(size, xxh3, self.lines)

    def _upload(self, chunks: Iterable[Any]) -> tuple[int, str]:
        return upload(self._store, self._key, chunks, durable=True)  # before a manifest can name it


def _checked(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise BadRecord(
            f"reduce yielded {pair!r:.60}, which is no (key, value) pair: yield key, value, or return a value"
        )
    return pair[0], pair[1]
