"""Every record of an object is in exactly one piece, whatever the split size; compressed objects are streams."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrfast.errors import BadInput, BoundPassed
from mrfast.model import InputCut, Piece
from mrfast.storage.memory import MemoryStore
from mrfast.tasks import inflate, quotes, reader
from mrfast.tasks.quotes import csv_has_quoted_newlines
from mrfast.tasks.reader import PieceReader, read_piece

STORE = MemoryStore("reader")
BLOCKS = InputCut("blocks", True)
WHOLE = InputCut("file", False)
names = itertools.count()


def pieces(data: bytes, split_bytes: int, name: str = "object") -> list[Piece]:
    key = f"{next(names)}-{name}"
    info = STORE.put(key, data)
    starts = range(0, len(data), split_bytes) if data else [0]
    return [
        Piece(key, f"memory://reader/{key}", len(data), info.etag, at, min(split_bytes, len(data) - at))
        for at in starts
    ]


def open_piece(piece: Piece, cut: InputCut, **options: Any) -> PieceReader:
    return PieceReader(STORE, piece.path, piece, cut, **options)


def whole(data: bytes, cut: InputCut = BLOCKS, name: str = "object", **options: Any) -> PieceReader:
    return open_piece(pieces(data, max(len(data), 1), name)[0], cut, **options)


@pytest.fixture(params=[1 << 20, 7])
def _small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(reader, "SCAN_BYTES", request.param)
    monkeypatch.setattr(quotes, "BLOCK_BYTES", request.param)


def texts() -> Iterator[bytes]:
    yield b""
    yield b"\n"
    yield b"\n\n\nabc"
    yield b"one\ntwo\n\nthree"
    yield b"no line end at all"
    draw = random.Random(4)
    for _ in range(5):
        yield bytes(draw.choices(b"ab\n", k=60))


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("data", list(texts()))
def test_pieces_of_any_size_join_to_the_whole(data: bytes) -> None:
    for split_bytes in range(1, len(data) + 2):
        cut = [b"".join(map(bytes, read_piece(STORE, p.path, p, BLOCKS))) for p in pieces(data, split_bytes)]
        assert b"".join(cut) == data
        assert all(part.endswith(b"\n") for part in [part for part in cut if part][:-1])
        lines = [list(open_piece(p, BLOCKS).lines()) for p in pieces(data, split_bytes)]
        assert list(itertools.chain(*lines)) == data.split(b"\n")[: -1 if data.endswith(b"\n") or not data else None]


@given(data=st.binary(max_size=80).map(lambda b: b.replace(b"\x01", b"\n")), split_bytes=st.integers(1, 90))
def test_any_bytes_join_to_the_whole(data: bytes, split_bytes: int) -> None:
    cut = [b"".join(open_piece(p, BLOCKS).line_blocks()) for p in pieces(data, split_bytes)]
    assert b"".join(cut) == data


def test_a_record_belongs_to_the_piece_in_which_it_starts() -> None:
    first, second, third = pieces(b"aaaa\nbb\ncc\n", 5)
    assert list(open_piece(first, BLOCKS).lines()) == [b"aaaa"]
    assert list(open_piece(second, BLOCKS).lines()) == [b"bb", b"cc"]
    assert list(open_piece(third, BLOCKS).lines()) == []
    assert open_piece(second, BLOCKS).bounds() == (5, 11)


@pytest.mark.usefixtures("_small_blocks")
def test_line_blocks_are_whole_lines_at_their_offsets() -> None:
    data = b"a\nbb\n" * 10 + b"c" * 50 + b"\nend"
    got = whole(data)
    seen = b""
    for block in got.line_blocks():
        assert got.offset == len(seen)
        seen += block
        assert block.endswith(b"\n") or seen == data
    assert seen == data


def test_a_line_over_the_memory_is_refused() -> None:
    with pytest.raises(BoundPassed, match="line at offset 2 is over --memory 100"):
        list(whole(b"a\n" + b"x" * 200, memory_bytes=100).line_blocks())


def test_lines_say_where_they_are() -> None:
    got = whole(b"a\n\nbbb\r\nc")
    assert [(got.offset, line) for line in got.lines()] == [(0, b"a"), (2, b""), (3, b"bbb\r"), (8, b"c")]


def test_whole_objects_and_their_bound() -> None:
    read: list[int] = []
    assert whole(b"abc" * 1000, WHOLE, on_read=read.append).whole() == b"abc" * 1000
    assert sum(read) == 3000
    assert whole(b"", WHOLE).whole() == b""
    with pytest.raises(BoundPassed, match='set input = "blocks"'):
        whole(b"x" * 101, WHOLE, memory_bytes=100).whole()
    with pytest.raises(BoundPassed, match='set input = "blocks"'):
        whole(gzip.compress(b"x" * 101), WHOLE, "a.gz", memory_bytes=100).whole()


def test_fixed_records_are_cut_at_their_size() -> None:
    data = bytes(range(60))
    cut = InputCut("records", True, 10)
    for split_bytes in range(1, 61):
        got = [b"".join(map(bytes, open_piece(p, cut).blocks())) for p in pieces(data, split_bytes)]
        assert b"".join(got) == data
        assert all(len(part) % 10 == 0 for part in got)
    with pytest.raises(BadInput, match="61 bytes are not a whole number of 10-byte records"):
        whole(data + b"!", cut).bounds()
    with pytest.raises(BadInput, match="not a whole number"):
        list(whole(gzip.compress(data + b"!"), cut, "a.gz").blocks())


def test_an_input_that_changed_or_went_is_an_error() -> None:
    piece = pieces(b"abc\n", 9)[0]
    STORE.put(piece.path, b"abd\n")
    with pytest.raises(BadInput, match="has changed"):
        list(open_piece(piece, BLOCKS).lines())
    STORE.delete(piece.path)
    with pytest.raises(BadInput, match="has gone"):
        list(open_piece(piece, BLOCKS).lines())
    short = pieces(b"abc", 9)[0]
    longer = Piece(short.path, short.url, 9, short.etag, 0, 9)
    with pytest.raises(BadInput, match="ends at byte 3, and had 9"):
        open_piece(longer, WHOLE).whole()


# -- JSON lines and CSV -----------------------------------------------------------------------------------------------


def test_jsonl_values_and_their_errors() -> None:
    got = whole(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n[2]\r\nnull')
    assert list(got.jsonl()) == [{"a": 1}, [2], None]
    with pytest.raises(BadInput, match="offset 3: malformed JSON"):
        list(whole(b"[]\n{broken\n").jsonl())


def test_jsonl_is_split_anywhere() -> None:
    values = [{"n": n, "text": "ü" * (n % 7)} for n in range(30)]
    data = "".join(json.dumps(value) + "\n" for value in values).encode()
    for split_bytes in (1, 2, 3, 10, 97, len(data)):
        got = [value for p in pieces(data, split_bytes) for value in open_piece(p, BLOCKS).jsonl()]
        assert got == values


CSV = InputCut("csv", True)


def test_csv_is_split_anywhere_and_every_piece_sees_the_header() -> None:
    data = b'\xef\xbb\xbf\nname,size\r\nann,1\r\n\r\n"b,""b""",2\r\n\xc3\xbc,3'
    want = [{"name": "ann", "size": "1"}, {"name": 'b,"b"', "size": "2"}, {"name": "ü", "size": "3"}]
    for split_bytes in range(1, len(data) + 1):
        got = [row for p in pieces(data, split_bytes) for row in open_piece(p, CSV).csv()]
        assert got == want, split_bytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2,3\n", "offset 4: malformed CSV: 3 fields in a row, 2 in the header"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b'a,b\n"x"y,2\n', "offset 4: malformed CSV"),
        (b'a,b\n1,"2\n', "malformed CSV: unexpected end of data"),
        (b"a,b\n1,\xff\n", "offset 4: malformed UTF-8"),
    ],
)
def test_malformed_csv(data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        list(whole(data, CSV).csv())
    assert message in str(caught.value)


def test_a_csv_field_may_be_long_and_hold_line_ends() -> None:
    data = b'a,b\n1,"' + b"x\n" * 200_000 + b'"\n'
    assert list(whole(data, CSV).csv()) == [{"a": "1", "b": "x\n" * 200_000}]


def has_quoted_newlines(data: bytes) -> bool:
    info = STORE.put(f"{next(names)}.csv", data)
    return csv_has_quoted_newlines(STORE, info.key, info.size, info.etag)


@given(st.lists(st.lists(st.text('ab",\n ', max_size=4), min_size=1, max_size=3), max_size=5))
def test_quoted_line_ends_are_found(rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    assert has_quoted_newlines(text.getvalue().encode()) == any("\n" in field for row in rows for field in row)


@pytest.mark.usefixtures("_small_blocks")
def test_quotes_inside_plain_fields_do_not_confuse() -> None:
    assert has_quoted_newlines(b'a"b,"x\ny",c"d\n')
    assert not has_quoted_newlines(b'5" nail,6"\n7" nail,8\n')
    assert not has_quoted_newlines(b'\xef\xbb\xbf"a","b""c"\n"","d"\n')
    assert has_quoted_newlines(b'\xef\xbb\xbf"a\n"')


# -- compression ------------------------------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    return bytes(inflate.zstd().compress(data))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"a.gz": gzip.compress, "a.bz2": bz2.compress, "a.ZST": zstd}
TEXT = b"".join(b"line %d of many\n" % n for n in range(50_000))


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_objects_are_read_transparently(name: str) -> None:
    compress = COMPRESS[name]
    half = len(TEXT) // 2
    for stored in (compress(TEXT), compress(TEXT[:half]) + compress(b"") + compress(TEXT[half:])):
        assert b"".join(whole(stored, BLOCKS, name).line_blocks()) == TEXT
        assert whole(stored, WHOLE, name).whole() == TEXT
    assert whole(b"", WHOLE, name).whole() == b""
    assert whole(compress(b""), WHOLE, name).whole() == b""


@pytest.fixture(params=[256 << 10, 1000])
def _small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "CHUNK_BYTES", request.param)
    monkeypatch.setattr(reader, "BLOCK_BYTES", request.param)


@pytest.mark.parametrize("name", COMPRESS)
def test_a_truncated_or_damaged_object_is_an_error(name: str) -> None:
    stored = COMPRESS[name](TEXT[:5000])
    for keep in (1, 5, len(stored) // 2, len(stored) - 1):
        with pytest.raises(BadInput, match="truncated"):
            whole(stored[:keep], WHOLE, name).whole()
    with pytest.raises(BadInput, match=r"damaged (gzip|bzip2|zstd) data"):
        whole(b"this is plain text, not compressed", WHOLE, name).whole()
    with pytest.raises(BadInput, match="damaged"):
        whole(stored + b"garbage after the end", WHOLE, name).whole()


def test_gzip_padding_is_ignored_and_checksums_are_not() -> None:
    stored = gzip.compress(b"abc")
    assert whole(stored + bytes(1000), WHOLE, "a.gz").whole() == b"abc"
    assert whole(stored + bytes(3) + stored, WHOLE, "a.gz").whole() == b"abcabc"
    flipped = stored[:-8] + bytes([stored[-8] ^ 1]) + stored[-7:]
    with pytest.raises(BadInput, match="damaged"):
        whole(flipped, WHOLE, "a.gz").whole()


def test_a_bomb_is_stopped_while_it_is_decompressed() -> None:
    with pytest.raises(BoundPassed, match="over --memory"):
        whole(gzip.compress(bytes(50 << 20)), WHOLE, "a.gz", memory_bytes=1 << 20).whole()


def test_without_a_zstd_module_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(inflate, "zstd", missing)
    with pytest.raises(BadInput, match=r'pip install "mrfast\[zstd\]"'):
        whole(b"x", WHOLE, "a.zst").whole()
