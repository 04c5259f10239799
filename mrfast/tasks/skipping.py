"""Passing over the records that the application's map cannot take: all of such a record, and nothing of the others.

A record's pairs are collected and tried on a sink of their own before they count. Where that cannot be (the pairs of a
large object may be more than fits in memory; a value may not go with one that is there), the attempt begins anew
without the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from mrfast import core
from mrfast.control.schema import encode
from mrfast.counting import Counters
from mrfast.errors import BadInput, BadRecord, BoundPassed
from mrfast.model import BAD_RECORD_BYTES_MAX, FRAME_BYTES_MAX, Failure, MapTask, Piece, SkippedRecord
from mrfast.tasks.failure import failure, what_went_wrong
from mrfast.tasks.reader import PieceReader

KILLED = "killed the process twice"

# A report crosses the network in one frame. It keeps every address, and the bytes of so many records.
RECORDS_WITH_DATA_MAX = 100
DATA_BYTES_MAX = 256 << 10
ADDRESS_BYTES_MAX = 384 << 10
WHY_CHARS_MAX = 500
REST_OF_REPORT_BYTES = 64 << 10

# Of a larger record, such as a whole object, the pairs are not held in memory.
COLLECTED_BYTES_MAX = 2 << 20
# A trial sink is thrown away before it is slow to search, and rarely enough that making one costs nothing.
TRIAL_PAIRS = 1 << 14
TRIAL_MEMORY_BYTES = 4 << 20

# (number of the piece, offset) of the record that the application is given; (-1, 0) for none.
At = Callable[[int, int], None]


class Again(Exception):  # noqa: N818 - no error: what was emitted cannot be taken back
    """The attempt is to begin anew; the record is known now."""


class TooMany(Exception):  # noqa: N818 - carries what is reported
    """More bad records than there may be."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


class RecordReader(PieceReader):
    """A PieceReader that gives each record with its offset and its bytes, and says which ones are malformed."""

    inflates_ahead = False  # what is read is no record's fault: that is to be said between two records

    def __init__(self, *args: Any, on_malformed: Callable[[int, bytes, str], None], **options: Any):
        super().__init__(*args, **options)
        self._on_malformed = on_malformed
        self._line = b""
        self._row: list[str] = []  # the lines of a CSV row
        self._row_offset = 0

    def located(self) -> Iterator[tuple[int, bytes, Any]]:
        """(offset, bytes, what map is given) of each record."""
        kind = self._cut.kind
        if kind == "file":
            whole = self.whole()
            yield self.piece.offset, whole, whole
        elif kind == "jsonl":
            for value in self.jsonl():
                yield self.offset, self._line, value
        elif kind == "csv":
            for value in self.csv():
                yield self._row_offset, self._row_bytes(), value
        else:
            for data in self.line_blocks() if kind == "blocks" else self.lines():
                yield self.offset, data, data

    def lines(self) -> Iterator[bytes]:
        """As PieceReader."""
        for self._line in super().lines():
            yield self._line

    def _csv_lines(self, first: int) -> Iterator[str]:
        for text in super()._csv_lines(first):
            if not self._row:
                self._row_offset = self.offset
            self._row.append(text)
            yield text

    def _csv_rows(self, first: int) -> Iterator[list[str]]:
        rows = super()._csv_rows(first)
        while (row := next(rows, None)) is not None:
            yield row
            self._row.clear()

    def _row_bytes(self) -> bytes:
        return "".join(self._row).encode()[:-1]  # the last line's end is no part of a record

    def _malformed(self, why: str) -> None:
        if self._cut.kind == "csv":
            self._on_malformed(self._row_offset, self._row_bytes(), why)
        else:
            self._on_malformed(self.offset, self._line, why)


class Skipping:
    """The bad records of one map attempt; `at` hears which record the application is given, should it die of it."""

    def __init__(self, task: MapTask, at: At, combine: Any):
        self.found: list[SkippedRecord] = []
        self.runs = 0
        self._task = task
        self._at = at
        self._combine = combine
        killed = Failure(task.attempt, "app", KILLED)
        self._known: dict[tuple[str, int], Failure] = dict.fromkeys(task.skip, killed)
        self._given: tuple[int, int] | None = None
        self._collecting: Sequence[Any] = ()
        self._address_bytes = 0
        self._trial: core.MapSink | None = None
        self._first: tuple[Any, Any] | None = None  # a good pair: what later keys must go with

    def begin(self) -> None:
        """The attempt begins, or begins anew."""
        self.found.clear()
        self.runs += 1
        self._address_bytes = 0
        self._trial = self._first = None
        self.leave()

    def reader(self, *args: Any, **options: Any) -> RecordReader:
        """A reader of a piece whose malformed records count as bad ones."""

        def malformed(offset: int, data: bytes, why: str) -> None:
            piece = reader.piece
            error = BadInput(f"{piece.path}: offset {offset:,}: {why}")
            self._add(piece, offset, data, error)

        reader = RecordReader(*args, on_malformed=malformed, **options)
        return reader

    def call(self, function: Any, reader: RecordReader, number: int, sink: core.MapSink, counters: Counters) -> None:
        """Emits the pairs that `function` gives for the records of the task's piece `number`, but those of bad ones.

        What a bad one has counted is dropped, too.
        """
        piece = reader.piece
        for offset, data, contents in reader.located():
            known = self._known.get((piece.url, offset)) if self._known else None
            if known is not None:
                self._add(piece, offset, data, known)
                continue
            self._enter(number, offset)
            pairs: Any = None
            large = len(data) > COLLECTED_BYTES_MAX
            try:
                result = function(piece.path, contents)
                if large:
                    sink.emit_all(result)
                else:
                    pairs = self._collected(result)
                    self._try(pairs)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever map raises is the record's fault)
                if large:
                    self._begin_anew(piece, offset, error)
                self._trial = None
                counters.drop()
                self.leave()
                self._add(piece, offset, data, error)
            else:
                if pairs:
                    self._emit(sink, pairs, piece, offset)
                counters.settle()
        self.leave()

    @property
    def collected(self) -> int:
        """How many pairs of one record are collected; grows while map yields them."""
        return len(self._collecting)

    def leave(self) -> None:
        """Takes the blame from the record that was given last; for what comes between two."""
        if self._given is not None:
            self._given = None
            self._at(-1, 0)

    def apart(self, work: Callable[[], object]) -> None:
        """Does work that no record is to blame for, though it comes while the pairs of one are emitted."""
        given = self._given
        if given is None:
            work()
            return
        self.leave()
        work()
        self._enter(*given)  # not if it failed: then nobody is to blame

    def report(self, index: bytes, counters: Mapping[str, int]) -> tuple[SkippedRecord, ...]:
        """The bad records, their bytes cut so that they, the packed `index` and the counters fit into a report."""
        room = FRAME_BYTES_MAX - REST_OF_REPORT_BYTES - self._address_bytes - len(index) * 4 // 3
        room -= len(orjson.dumps(counters))
        data_bytes = max(0, min(DATA_BYTES_MAX, room * 3 // 4))  # base64
        share = data_bytes // max(1, min(len(self.found), RECORDS_WITH_DATA_MAX))
        return tuple(replace(record, data=record.data[:share]) for record in self.found)

    # -- one record ----------------------------------------------------------------------------------------------------

    def _enter(self, number: int, offset: int) -> None:
        self._given = (number, offset)
        self._at(number, offset)

    def _collected(self, result: Any) -> Any:
        """What map returned, run to its end; what is no collection of pairs is left for the sink to refuse."""
        if result is None or isinstance(result, (list, tuple, dict)) or not hasattr(type(result), "__iter__"):
            return result
        pairs: list[Any] = []
        self._collecting = pairs
        pairs.extend(result)
        return pairs

    def _try(self, pairs: Any) -> None:
        """Raises what the sink would raise for the pairs."""
        trial = self._trial
        if trial is None or trial.records_in > TRIAL_PAIRS:
            trial = self._trial = core.MapSink(
                1, combine=self._combine, memory_bytes=TRIAL_MEMORY_BYTES, spill=self._empty_trial
            )
            if self._first is not None:
                trial.emit(*self._first)
        trial.emit_all(pairs)
        if self._first is None and pairs:
            key, value = pairs[0]
            self._first = key, value

    def _empty_trial(self) -> None:
        if self._trial is not None:
            self._trial.drain()

    def _emit(self, sink: core.MapSink, pairs: Any, piece: Piece, offset: int) -> None:
        self._collecting = ()  # from here on the sink counts them
        try:
            sink.emit_all(pairs)
        except (BadRecord, BoundPassed) as error:  # it does not go with what was emitted before
            self._begin_anew(piece, offset, error)

    def _begin_anew(self, piece: Piece, offset: int, error: BaseException) -> None:
        if self._given is None:  # it came from work that is apart
            raise error
        self._known[piece.url, offset] = self._failure(piece, offset, error)
        raise Again from None

    def _failure(self, piece: Piece, offset: int, error: BaseException) -> Failure:
        return failure(self._task.attempt, error, input=piece.path, offset=offset)

    def _add(self, piece: Piece, offset: int, data: bytes, fault: BaseException | Failure) -> None:
        why = (fault.message if isinstance(fault, Failure) else what_went_wrong(fault))[:WHY_CHARS_MAX]
        kept = data[:BAD_RECORD_BYTES_MAX] if len(self.found) < RECORDS_WITH_DATA_MAX else b""
        record = SkippedRecord(piece.path, piece.url, offset, len(data), kept, why)
        self.found.append(record)
        self._address_bytes += len(orjson.dumps(encode(replace(record, data=b""))))
        most = self._task.bad_records_max
        if len(self.found) > most:
            said = f"{len(self.found):,} bad records, and --max-bad-records allows {most:,}; the last one: "
        elif self._address_bytes > ADDRESS_BYTES_MAX:
            said = f"the addresses of {len(self.found):,} bad records in one task are more than a report can hold: "
        else:
            return
        last = fault if isinstance(fault, Failure) else self._failure(piece, offset, fault)
        last = replace(last, message=said + last.message, input=piece.path, offset=offset, fatal=True)
        raise TooMany(last) from None
