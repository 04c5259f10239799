"""One piece of an input object, as the app wants it: bytes, whole lines, lines, JSON values, CSV rows, or the whole.

The split rule: a record belongs to the piece in which it starts. A piece therefore begins after the first line end
at or after `offset - 1`, and its last record runs past `offset + length`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mrfast.control import ranges
from mrfast.errors import BadInput, BoundPassed, NotFound, PreconditionFailed
from mrfast.model import VALUE_BYTES_MAX, InputCut, Piece
from mrfast.tasks.inflate import Inflater, compression, in_place, on_a_thread
from mrfast.tasks.laps import WAIT, Laps
from mrfast.tasks.prefetch import Prefetcher

if TYPE_CHECKING:
    from mrfast.storage.base import Store

T = TypeVar("T")

BLOCK_BYTES = 1 << 20
# Looking for a line end: most are near, a long line should not take many reads.
SCAN_BYTES = 16 << 10

BOM = b"\xef\xbb\xbf"


def read_piece(store: Store, key: str, piece: Piece, cut: InputCut) -> Iterator[memoryview]:
    """The record-aligned bytes of a piece, in blocks; each block is valid until the next one is asked for."""
    return PieceReader(store, key, piece, cut).blocks()


class PieceReader:
    """Reads one piece; `offset` is where in the (decompressed) object the record that was given last starts."""

    inflates_ahead = True  # `on_read` is then called in another thread

    def __init__(
        self,
        store: Store,
        key: str,
        piece: Piece,
        cut: InputCut,
        *,
        memory_bytes: int = VALUE_BYTES_MAX,
        on_read: Callable[[int], None] | None = None,
        prefetcher: Prefetcher | None = None,
        laps: Laps | None = None,
    ):
        self.piece = piece
        self.offset: int = 0
        self._store = store
        self._key = key
        self._cut = cut
        self._memory_bytes = memory_bytes
        self._on_read = on_read
        self._prefetcher = prefetcher
        self._laps = laps or Laps()
        self._compression = compression(piece.path)
        self._inflating: Generator[memoryview, None, None] | None = None
        self._bounds: tuple[int, int] | None = None

    def close(self) -> None:
        """Ends the thread that inflates, if there is one; to be done before the prefetcher is closed."""
        if self._inflating is not None:
            self._inflating.close()

    @property
    def is_compressed(self) -> bool:
        """Whether `offset` counts the bytes of the object when it is decompressed."""
        return self._compression is not None

    def bounds(self) -> tuple[int, int]:
        """Where the piece's first record starts and its last one ends; for a compressed object, in its stored bytes."""
        if self._bounds is None:
            begin, end = self.piece.offset, self.piece.offset + self.piece.length
            if self._compression or self._cut.kind == "file":
                self._bounds = (begin, end)
            elif self._cut.kind == "records":
                self._bounds = (self._record_start(begin), self._record_start(end))
            else:
                start = self._line_start(begin)
                self._bounds = (start, start if start >= end else self._line_start(end))
            self.offset = self._bounds[0]
        return self._bounds

    def blocks(self) -> Iterator[memoryview]:
        """The piece's bytes, cut anywhere; each block is valid until the next one is asked for."""
        if self._compression:
            blocks = self._inflated(self._compression)
        else:
            blocks = self._stored() if self._prefetcher is None else self._prefetched()
        return self._laps.each(WAIT, blocks)

    def whole(self) -> bytes:
        """All of the piece's bytes at once; BoundPassed if they are more than `memory_bytes`."""
        if self._compression is None:
            start, stop = self.bounds()
            self._check_size(stop - start)
            buffer = io.BytesIO(bytes(stop - start))
            with buffer.getbuffer() as view, self._laps.within(WAIT):
                if self._prefetcher is None:
                    self._fill(start, view)
                else:
                    for at, part in self._taken():
                        view[at - start : at - start + len(part)] = part
                        self._count(len(part))
            return buffer.getvalue()  # not a copy: nothing else refers to the buffer
        out = io.BytesIO()
        for block in self.blocks():
            self._check_size(out.tell() + len(block))
            out.write(block)
        return out.getvalue()

    def line_blocks(self) -> Iterator[bytes]:
        """The piece as runs of whole lines of about a block, or one line where it is longer."""
        held = b""  # given once it is known whether more follows: an object without a final LF is still one block
        carry: list[bytes] = []
        carried, position = 0, -1
        for view in self.blocks():
            if position < 0:
                position = self.offset
            block = bytes(view)
            cut = block.rfind(b"\n") + 1
            if cut:
                if held:
                    self.offset = position
                    yield held
                    position += len(held)
                held = b"".join((*carry, block[:cut])) if carry else block[:cut]
                carry, carried = [], 0
                block = block[cut:]
            if block:
                carry.append(block)
                carried += len(block)
                self._check_line(position + len(held), carried)
        last = b"".join((held, *carry))
        if last:
            self.offset = position
            yield last

    def lines(self) -> Iterator[bytes]:
        """The piece's lines, without their line ends (LF)."""
        for block in self.line_blocks():
            lines = block.split(b"\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                yield line
                self.offset += len(line) + 1

    def jsonl(self) -> Iterator[Any]:
        """The decoded value of each line that is not blank."""
        import orjson

        for line in self.lines():
            if self.offset == 0:
                line = line.removeprefix(BOM)
            if not line or line.isspace():
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                self._malformed(f"malformed JSON: {error.msg}")
                continue
            yield value

    def csv(self) -> Iterator[dict[str, str]]:
        """A dict by the object's header for each row that is not blank."""
        import csv

        csv.field_size_limit(VALUE_BYTES_MAX)  # the module's own limit is 128 KiB, for the whole process
        header = None
        first = 0
        if self.piece.offset:
            with self._laps.within(WAIT):
                header, first = self._csv_header()
        rows = self._csv_rows(first)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise self._bad(f"malformed CSV: {error}") from None
            if row is None:
                return
            if header is None:
                header = self._check_header(row) if row else None
            elif row:
                if len(row) != len(header):
                    self._malformed(f"malformed CSV: {len(row)} fields in a row, {len(header)} in the header")
                    continue
                yield dict(zip(header, row, strict=True))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _stored(self) -> Iterator[memoryview]:
        start, stop = self.bounds()
        buffer = memoryview(bytearray(min(BLOCK_BYTES, max(stop - start, 1))))
        for position in range(start, stop, len(buffer)):
            view = buffer[: min(len(buffer), stop - position)]
            self._fill(position, view)
            yield view

    def _inflated(self, name: str) -> Iterator[memoryview]:
        position, size = 0, self.piece.size

        def forward(view: memoryview) -> int:
            nonlocal position
            view = view[: size - position]
            self._fill(position, view)
            position += len(view)
            return len(view)

        read = forward if self._prefetcher is None else self._prefetched_into()
        inflater = Inflater(name, self.piece.path, read)
        total = 0
        self.offset = 0
        self._inflating = (on_a_thread if self.inflates_ahead else in_place)(inflater.read_into, BLOCK_BYTES)
        for block in self._inflating:
            total += len(block)
            yield block
        if self._cut.kind == "records" and total % self._cut.record_bytes:
            raise self._torn(total)

    def _prefetched(self) -> Iterator[memoryview]:
        """As `_stored`, from parts that were asked for before; all of them are taken, so their number is known."""
        begin, end, size = self.piece.offset, self.piece.offset + self.piece.length, self.piece.size
        in_lines = self._cut.kind not in ("records", "file")
        start: int | None = None if in_lines and begin else begin
        stop: int | None = None if in_lines and end < size else end
        if self._cut.kind == "records":
            start, stop = self._record_start(begin), self._record_start(end)
        self.offset = end if start is None else start
        behind = begin
        for at, part in self._taken():
            behind = at + len(part)
            low, high = 0, len(part)
            if start is None:
                low = _behind_lf(part, 0)
                if not low:
                    continue
                self.offset = start = at + low
                if start >= end:
                    stop = start
            if stop is None and behind >= end:
                found = _behind_lf(part, max(low, end - 1 - at))
                if found:
                    stop = at + found
            if stop is not None:
                high = min(high, stop - at)
            for block_at in range(low, high, BLOCK_BYTES):
                block = part[block_at : min(block_at + BLOCK_BYTES, high)]
                self._count(len(block))
                yield block
        if start is not None and stop is None:
            yield from self._rest_of_line(behind)

    def _rest_of_line(self, position: int) -> Iterator[memoryview]:
        """What a record has behind the overlap: the one case in which a piece costs more reads than were planned."""
        stop = self._line_start(position + 1)  # the first line end at or behind `position`
        buffer = memoryview(bytearray(min(BLOCK_BYTES, max(stop - position, 1))))
        for at in range(position, stop, len(buffer)):
            view = buffer[: min(len(buffer), stop - at)]
            self._fill(at, view)
            yield view

    def _prefetched_into(self) -> Callable[[memoryview], int]:
        """What reads the object forward into buffers of any size."""
        parts = self._taken()
        rest = memoryview(b"")

        def read(view: memoryview) -> int:
            nonlocal rest
            if not rest:
                _, rest = next(parts, (0, rest))
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            rest = rest[count:]
            self._count(count)
            return count

        return read

    def _taken(self) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of each part of the piece, valid until the next."""
        assert self._prefetcher is not None
        for start, stop in ranges.parts(*ranges.span(self.piece, self._cut)):
            view = self._told(self._prefetcher.take)
            if len(view) < stop - start:
                raise self._ended(start + len(view))
            yield start, view

    def _count(self, count: int) -> None:
        if self._on_read and count:
            self._on_read(count)

    def _fill(self, position: int, view: memoryview) -> None:
        """Fills `view` from `position` on, all of it."""
        filled = 0
        while filled < len(view):
            count = self._read(position + filled, view[filled:])
            if not count:
                raise self._ended(position + filled)
            filled += count
        self._count(filled)

    def _ended(self, at: int) -> BadInput:
        return BadInput(f"{self.piece.path}: ends at byte {at:,}, and had {self.piece.size:,}")

    def _read(self, position: int, view: memoryview) -> int:
        return self._told(lambda: self._store.read_into(self._key, position, view, self.piece.etag or None))

    def _told(self, read: Callable[[], T]) -> T:
        """What `read` gives; an object that is another one by now is an error of the input."""
        try:
            return read()
        except PreconditionFailed:
            raise BadInput(f"{self.piece.path}: the input has changed since the job was planned") from None
        except NotFound:
            raise BadInput(f"{self.piece.path}: the input has gone since the job was planned") from None

    def _line_start(self, position: int) -> int:
        """Where the first line starts that starts at or after `position`."""
        size = self.piece.size
        if position <= 0 or position >= size:
            return min(max(position, 0), size)
        position -= 1
        scan = SCAN_BYTES
        while position < size:
            buffer = bytearray(min(scan, size - position))
            with memoryview(buffer) as view:
                count = self._read(position, view)
            if not count:
                break
            found = buffer.find(b"\n", 0, count)
            if found >= 0:
                return position + found + 1
            position += count
            scan = min(scan * 4, BLOCK_BYTES)
        return size

    def _record_start(self, position: int) -> int:
        size, record = self.piece.size, self._cut.record_bytes
        if size % record:
            raise self._torn(size)
        return min(-(-position // record) * record, size)

    # -- CSV ----------------------------------------------------------------------------------------------------------

    def _csv_lines(self, first: int) -> Iterator[str]:
        """The piece's lines from offset `first` on, decoded, with their line ends."""
        for line in self.lines():
            if self.offset < first:
                continue
            if self.offset == 0:
                line = line.removeprefix(BOM)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise self._bad(f"malformed UTF-8: {error.reason}") from None
            yield text + "\n"

    def _csv_rows(self, first: int) -> Iterator[list[str]]:
        import csv

        return csv.reader(self._csv_lines(first), strict=True)

    def _csv_header(self) -> tuple[list[str] | None, int]:
        """The header of the object and where the line after it starts; an object is only split if that is one line."""
        piece = Piece(self.piece.path, self.piece.url, self.piece.size, self.piece.etag, 0, self.piece.size)
        if self._prefetcher is not None:
            head = bytes(self._told(self._prefetcher.take))
            lines = head if len(head) == piece.size else head[: head.rfind(b"\n") + 1]
            header, first = self._first_row(_Head(lines, self._store, self._key, piece, self._cut))
            if header is not None:
                return header, first
        # Where the header is further on than can be known before, that costs reads of its own.
        start = PieceReader(self._store, self._key, piece, self._cut, memory_bytes=self._memory_bytes)
        return self._first_row(start)

    def _first_row(self, start: PieceReader) -> tuple[list[str] | None, int]:
        import csv

        for text in start._csv_lines(0):
            row = next(csv.reader([text], strict=True), None)
            if row:
                return self._check_header(row), start.offset + 1
        return None, self.piece.size

    def _check_header(self, row: list[str]) -> list[str]:
        if len(set(row)) < len(row):
            name = next(name for name in row if row.count(name) > 1)
            raise self._bad(
                f'malformed CSV: two columns are called {name!r}; input = "lines" leaves the lines as they are'
            )
        return row

    # -- errors -------------------------------------------------------------------------------------------------------

    def _malformed(self, why: str) -> None:
        """A record is not what the app's `input` says; the next one may be."""
        raise self._bad(why) from None

    def _bad(self, why: str) -> BadInput:
        return BadInput(f"{self.piece.path}: offset {self.offset:,}: {why}")

    def _torn(self, size: int) -> BadInput:
        record = self._cut.record_bytes
        return BadInput(f"{self.piece.path}: {size:,} bytes are not a whole number of {record:,}-byte records")

    def _check_line(self, offset: int, size: int) -> None:
        if size > self._memory_bytes:
            path, bound = self.piece.path, self._memory_bytes
            raise BoundPassed(f"{path}: the line at offset {offset:,} is over --memory {bound:,} bytes")

    def _check_size(self, size: int) -> None:
        if size > self._memory_bytes:
            raise BoundPassed(
                f"{self.piece.path}: {size:,} bytes or more are over --memory {self._memory_bytes:,}: set input = "
                '"blocks" in the application, or raise --memory'
            )


class _Head(PieceReader):
    """Reads what is known of an object already."""

    def __init__(self, data: bytes, *args: Any):
        super().__init__(*args)
        self._data = data

    def blocks(self) -> Iterator[memoryview]:
        """What is known."""
        yield memoryview(self._data)


def _behind_lf(view: memoryview, at: int) -> int:
    """The offset behind the first line feed at or after `at`; 0 if there is none."""
    while at < len(view):
        found = bytes(view[at : at + SCAN_BYTES]).find(b"\n")
        if found >= 0:
            return at + found + 1
        at += SCAN_BYTES
    return 0
