"""Pieces that are read ahead from a remote store are those that are read block by block, in a known number of reads."""

from __future__ import annotations

import bz2
import gzip
import itertools
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrfast.control import ranges
from mrfast.errors import BadInput, StoreError
from mrfast.model import InputCut, Piece
from mrfast.storage import ledger
from mrfast.storage.memory import MemoryStore
from mrfast.tasks import inflate, prefetch, quotes, reader
from mrfast.tasks.prefetch import Part, Prefetcher, parts_of
from mrfast.tasks.quotes import csv_has_quoted_newlines
from mrfast.tasks.reader import PieceReader

LINES, FILE = InputCut("lines", True), InputCut("file", False)
_numbers = itertools.count()


class Far(MemoryStore):
    """A store that counts its reads, and by which phase."""

    remote = True  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(f"memory://far-{next(_numbers)}")
        self.reads: list[tuple[int, int]] = []
        self.phases: set[str] = set()
        self.threads: set[int] = set()
        self.broken_at: int | None = None

    def rests(self) -> bool:
        """Whether no thread of ours is left."""
        return not [thread for thread in threading.enumerate() if thread.name.startswith(("mrfast-read", "mrfast-inf"))]

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        self.reads.append((offset, len(buffer)))
        self.phases.add(ledger.phase())
        self.threads.add(threading.get_ident())
        if self.broken_at is not None and offset >= self.broken_at:
            raise StoreError(f"broken at {offset}")
        return super().read_into(key, offset, buffer, etag)


def pieces(store: Far, data: bytes, split_bytes: int, name: str = "a") -> list[Piece]:
    info = store.put(name, data)
    ends = range(0, max(len(data), 1), split_bytes)
    return [Piece(name, name, len(data), info.etag, at, min(split_bytes, len(data) - at)) for at in ends]


def blocks(store: Far, piece: Piece, how: InputCut, ahead: bool) -> tuple[bytes, int]:
    """(the bytes of a piece, where they start)."""
    with Prefetcher(parts_of(store, "a", piece, how)) as prefetcher:
        made = PieceReader(store, "a", piece, how, prefetcher=prefetcher if ahead else None)
        given = b"".join(bytes(block) for block in made.blocks())
        return given, made.offset


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Sizes at which a few bytes are many parts."""
    with (
        patch.object(ranges, "BLOCK_BYTES", 4),
        patch.object(ranges, "PART_BYTES", 12),
        patch.object(ranges, "PARTS", 3),
        patch.object(ranges, "OVERLAP_BYTES", 6),
        patch.object(ranges, "HEADER_BYTES", 9),
        patch.object(prefetch, "RING_BUFFERS", 3),
        patch.object(reader, "SCAN_BYTES", 2),
        patch.object(reader, "BLOCK_BYTES", 5),
        patch.object(quotes, "BLOCK_BYTES", 5),
    ):
        yield


@settings(deadline=None, max_examples=400)
@given(
    data=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"defghijkl"]), max_size=40).map(b"".join),
    split_bytes=st.integers(1, 60),
    kind=st.sampled_from(["lines", "blocks", "jsonl"]),
)
def test_what_is_read_ahead_is_what_is_read_in_place(data: bytes, split_bytes: int, kind: str) -> None:
    store, how = Far(), InputCut(kind, True)
    for piece in pieces(store, data, split_bytes):
        plain = blocks(store, piece, how, False)
        store.reads.clear()
        ahead = blocks(store, piece, how, True)
        assert ahead[0] == plain[0]
        if plain[0]:
            assert ahead[1] == plain[1]
        planned = ranges.parts(*ranges.span(piece, how))
        extra = store.reads[len(planned) :]
        assert sorted(store.reads[: len(planned)]) == [(start, stop - start) for start, stop in planned] or extra
        longest = max(map(len, data.split(b"\n"))) + 1
        assert not extra or longest > ranges.OVERLAP_BYTES, "only a record longer than the overlap costs more"


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=90), split_records=st.integers(1, 9), record_bytes=st.integers(1, 7))
def test_records_of_a_fixed_size(data: bytes, split_records: int, record_bytes: int) -> None:
    data = data[: len(data) // record_bytes * record_bytes]
    store, how = Far(), InputCut("records", True, record_bytes)
    made = [blocks(store, piece, how, True) for piece in pieces(store, data, split_records * 5)]
    assert b"".join(given for given, _ in made) == data


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=200))
def test_a_whole_file(data: bytes) -> None:
    store = Far()
    (piece,) = pieces(store, data, 1000)
    with Prefetcher(parts_of(store, "a", piece, FILE)) as prefetcher:
        assert PieceReader(store, "a", piece, FILE, prefetcher=prefetcher).whole() == data


@settings(deadline=None, max_examples=300)
@given(
    names=st.lists(st.sampled_from(["a", "bc", "defghijk"]), min_size=1, max_size=3, unique=True),
    blank=st.sampled_from([b"", b"\n", b"\xef\xbb\xbf", b"\r\n\n\n\n\n\n\n\n\n"]),
    rows=st.integers(0, 9),
    ends=st.booleans(),
    split_bytes=st.integers(1, 40),
)
def test_csv_rows_and_their_header(names: list[str], blank: bytes, rows: int, ends: bool, split_bytes: int) -> None:
    lines = [",".join(names), *(",".join(f"{row}{name[0]}" for name in names) for row in range(rows))]
    data = blank + "\n".join(lines).encode() + b"\n" * ends
    want = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    store, how, given = Far(), InputCut("csv", True), []
    for piece in pieces(store, data, split_bytes):
        store.reads.clear()
        with Prefetcher(parts_of(store, "a", piece, how)) as prefetcher:
            given += PieceReader(store, "a", piece, how, prefetcher=prefetcher).csv()
        planned = ranges.reads(piece, how)
        known = len(blank) + len(lines[0]) < ranges.HEADER_BYTES or not piece.offset
        longest = max(len(blank) + len(lines[0]), *map(len, lines))  # what is before the header is of its record
        if known and longest < ranges.OVERLAP_BYTES:
            assert sorted(store.reads) == sorted((start, stop - start) for start, stop in planned)
    assert given == want


@settings(deadline=None, max_examples=300)
@given(data=st.lists(st.sampled_from([b'"', b",", b"\n", b"ab", b"\xef\xbb\xbf"]), max_size=60).map(b"".join))
def test_quotes_are_looked_through_ahead_as_in_place(data: bytes) -> None:
    store = Far()
    info = store.put("a", data)
    found = [csv_has_quoted_newlines(store, "a", info.size, info.etag) for _ in range(2)]
    some = len(store.reads) // 2
    assert sorted(store.reads[:some]) == sorted(store.reads[some:]), "how many reads it takes is no matter of time"
    store.remote = False
    assert found == [csv_has_quoted_newlines(store, "a", info.size, info.etag)] * 2
    assert store.rests()


@settings(deadline=None)
@given(start=st.integers(0, 500), length=st.integers(0, 300))
def test_parts_cover_their_range_in_order(start: int, length: int) -> None:
    parts = ranges.parts(start, start + length)
    assert [at for at, _ in parts[1:]] == [behind for _, behind in parts[:-1]]
    assert (parts[0][0], parts[-1][1]) == (start, start + length) if length else not parts
    assert all(stop - at <= ranges.PART_BYTES + ranges.OVERLAP_BYTES + 1 for at, stop in parts)


def part(store: Far, start: int, stop: int) -> Part:
    return Part(store, "a", None, start, stop)


def test_what_is_held_is_bounded_and_reads_are_of_the_phase_that_began_them() -> None:
    store = Far()
    store.put("a", bytes(range(200)))
    with ledger.working("map"), Prefetcher(part(store, at, at + 12) for at in range(0, 192, 12)) as prefetcher:
        prefetcher.start()
        taken = bytes(prefetcher.take())
        before = len(store.reads)
        for _ in range(15):
            taken += prefetcher.take()
    assert taken == bytes(range(192))
    assert before <= prefetch.RING_BUFFERS + 1
    assert store.phases == {"map"}
    assert threading.get_ident() not in store.threads


def test_an_error_is_raised_in_its_turn_and_the_threads_end() -> None:
    store = Far()
    store.put("a", bytes(60))
    store.broken_at = 24
    with Prefetcher(part(store, at, at + 12) for at in range(0, 60, 12)) as prefetcher:
        assert len(prefetcher.take()) == len(prefetcher.take()) == 12
        with pytest.raises(StoreError, match="broken at 24"):
            prefetcher.take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mrfast-read")]


def test_an_input_that_has_changed_or_is_shorter_is_said() -> None:
    store = Far()
    (piece,) = pieces(store, b"one\ntwo\n" * 5, 1000)
    store.put("a", b"another")
    with pytest.raises(BadInput, match="has changed since"):
        blocks(store, piece, LINES, True)
    short = Piece("a", "a", piece.size, "", 0, piece.length)
    with pytest.raises(BadInput, match="ends at byte 7, and had 40"):
        blocks(store, short, LINES, True)


def test_blocks_made_on_a_thread_are_those_made_in_place() -> None:
    def source() -> Any:
        rest = iter([b"abc", b"de", b"f"])

        def read(view: memoryview) -> int:
            data = next(rest, b"")
            view[: len(data)] = data
            return len(data)

        return read

    assert [bytes(block) for block in inflate.on_a_thread(source(), 4)] == [
        bytes(block) for block in inflate.in_place(source(), 4)
    ]


def test_an_error_on_the_thread_is_raised_behind_what_came_before() -> None:
    given = iter([3, 2])

    def read(view: memoryview) -> int:
        count = next(given, None)
        if count is None:
            raise BadInput("damaged")
        return count

    blocks = inflate.on_a_thread(read, 4)
    assert [len(next(blocks)), len(next(blocks))] == [3, 2]
    with pytest.raises(BadInput, match="damaged"):
        next(blocks)
    assert not [thread for thread in threading.enumerate() if thread.name == "mrfast-inflate"]


def test_who_stops_half_way_leaves_no_thread() -> None:
    blocks = inflate.on_a_thread(len, 4)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "mrfast-inflate"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_compressed_inputs_are_read_ahead_too(suffix: str) -> None:
    data = b"".join(b"line %d\n" % n for n in range(300))
    store, name = Far(), f"a{suffix}"
    packed = gzip.compress(data) if suffix == ".gz" else bz2.compress(data)
    (piece,) = pieces(store, packed, 10_000, name)
    with Prefetcher(parts_of(store, name, piece, LINES)) as prefetcher:
        made = PieceReader(store, name, piece, LINES, prefetcher=prefetcher)
        assert b"".join(bytes(block) for block in made.blocks()) == data
    assert sorted(store.reads) == [(at, stop - at) for at, stop in ranges.parts(0, len(packed))]


def test_a_map_that_fails_leaves_no_thread_of_its_reader() -> None:
    store = Far()
    data = gzip.compress(b"".join(b"line %d\n" % n for n in range(5000)))
    (piece,) = pieces(store, data, 1 << 20, "a.gz")
    with Prefetcher(parts_of(store, "a.gz", piece, LINES)) as prefetcher:
        made = PieceReader(store, "a.gz", piece, LINES, prefetcher=prefetcher)
        blocks = made.blocks()
        next(blocks)
        made.close()
        with pytest.raises(StopIteration):
            next(blocks)
    assert store.rests()
