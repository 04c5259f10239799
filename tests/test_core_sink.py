"""MapSink: what goes in comes out, partitioned, sorted and checksummed; what cannot be a record is refused."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core, ops
from mrfast.errors import BadInput, BadRecord, BoundPassed

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=40), JSON, st.integers(-5, 5)
)
# Lengths around the borders of the table's inline keys and of the sort's prefix.
KEY_LENGTHS = [*range(41), 62, 63, 64, 65, 66, 127, 128, 129, 16_383, 16_384, 16_385]


def segments(drained: core.Drained) -> list[list[tuple[Any, Any]]]:
    """The pairs of each segment; every claim that `drained` makes of them is checked."""
    view, at, out = memoryview(drained.body), 0, []
    for length, count, checksum in zip(drained.lengths, drained.counts, drained.checksums, strict=True):
        segment = view[at : at + length]
        at += length
        assert checksum == (reference.xxh3_64(bytes(segment)) if length else 0)
        out.append(list(core.read_segment(segment, drained.key_kind or "str")))
        assert len(out[-1]) == count
    assert at == len(view)
    assert drained.records == sum(drained.counts)
    return out


def expected_segments(pairs: list[tuple[Any, Any]], partitions: int) -> list[list[tuple[Any, Any]]]:
    """Pairs by partition, by key bytes, equal keys in emit order."""
    out: list[list[tuple[Any, Any]]] = [[] for _ in range(partitions)]
    for key, value in sorted(pairs, key=lambda pair: reference.key_bytes(pair[0])):
        out[reference.partition(key, partitions)].append((key, value))
    return out


def same(left: Any, right: Any) -> bool:
    """Equal in type too, and NaN equal to NaN."""
    return repr(left) == repr(right)


@examples(300)
@given(st.lists(st.tuples(TEXT, VALUES), max_size=60), st.integers(1, 20))
def test_every_pair_comes_out_as_it_was_emitted(pairs: list[tuple[Any, Any]], partitions: int) -> None:
    sink = core.MapSink(partitions)
    assert sink.emit_all(iter(pairs)) == len(pairs) == sink.records_in
    assert same(segments(sink.drain()), expected_segments(pairs, partitions))


@examples(100)
@given(st.lists(st.tuples(st.binary(max_size=40), VALUES), max_size=60))
def test_bytes_keys_one_by_one(pairs: list[tuple[Any, Any]]) -> None:
    sink = core.MapSink(7)
    for key, value in pairs:
        sink.emit(key, value)
    assert sink.key_kind == ("bytes" if pairs else None)
    assert same(segments(sink.drain()), expected_segments(pairs, 7))


@pytest.mark.parametrize("combine", [None, ops.sum()], ids=["log", "table"])
def test_key_lengths_and_growth(combine: Any) -> None:
    rng = random.Random(5)
    keys = [rng.randbytes(n) for n in KEY_LENGTHS for _ in range(3)] + [bytes(n) for n in KEY_LENGTHS]
    keys += [b"same-prefix-" + i.to_bytes(3) + b"x" * (i % 40) for i in range(70_000)]
    pairs = [(key, 1) for key in dict.fromkeys(keys)]
    rng.shuffle(pairs)
    sink = core.MapSink(3, combine=combine)
    sink.emit_all(pairs)
    if combine is not None:
        sink.emit_all(pairs)
    found = segments(sink.drain())
    assert found == [[(key, 2 if combine else 1) for key, _ in part] for part in expected_segments(pairs, 3)]


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 639, 640, 641, 1023, 1024, 1025, 5000])
def test_counts_around_the_sort_and_table_thresholds(count: int) -> None:
    rng = random.Random(count)
    pairs = [(f"{rng.randrange(count * 2)}-{'k' * rng.randrange(20)}", i) for i in range(count)]
    plain = core.MapSink(1)
    plain.emit_all(pairs)
    assert segments(plain.drain()) == expected_segments(pairs, 1)
    summing = core.MapSink(1, combine=ops.sum())
    summing.emit_all(pairs)
    totals = [(key, sum(values)) for key, values in reference.grouped(pairs)]
    assert segments(summing.drain()) == [totals]


@pytest.mark.parametrize("partitions", [1, 2, 3, 10, 255, 256, 999, 1000, 65_535])
def test_partitions(partitions: int) -> None:
    pairs = [(f"key-{i}", i) for i in range(300)]
    sink = core.MapSink(partitions)
    sink.emit_all(pairs)
    assert segments(sink.drain()) == expected_segments(pairs, partitions)


def test_a_drained_sink_is_empty_and_works_again() -> None:
    sink = core.MapSink(2, combine=ops.sum())
    for expected in ([("a", 3)], [("a", 5)]):
        sink.emit("a", 1)
        sink.emit("a", expected[0][1] - 1)
        assert [pair for part in segments(sink.drain()) for pair in part] == expected
    assert sink.drain().records == 0
    assert sink.records_in == 4
    assert sink.records_out == 2


@pytest.mark.parametrize("first", ["text", b"bytes"])
def test_a_mix_of_keys_is_refused(first: Any) -> None:
    other = b"bytes" if isinstance(first, str) else "text"
    sink = core.MapSink(2)
    sink.emit(first, 1)
    with pytest.raises(BadRecord, match=r"decode\(\) or key.encode\(\)"):
        sink.emit(other, 1)
    with pytest.raises(BadRecord, match="all of them bytes"):
        sink.emit_all([(other, 1)])


@pytest.mark.parametrize("key", [1, None, 1.5, ("a",), ["a"], True, bytearray(b"a"), object()])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(BadRecord, match=type(key).__name__):
        core.MapSink(1).emit(key, 1)


@pytest.mark.parametrize("value", [{1, 2}, object(), 1j, {"a": {1}}, {("a",): 1}, b"".join])
def test_what_is_no_value(value: Any) -> None:
    with pytest.raises(BadRecord, match=type(value).__name__):
        core.MapSink(1).emit("key", value)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", 1, 2), None, 7, {"a": 1}])
def test_what_is_no_pair(pair: Any) -> None:
    with pytest.raises(BadRecord, match="pair"):
        core.MapSink(1).emit_all([pair])


@pytest.mark.parametrize("pairs", [{"a": 1}, 7, 1.5])
def test_what_map_cannot_return(pairs: Any) -> None:
    with pytest.raises(BadRecord, match="map returned"):
        core.MapSink(1).emit_all(pairs)


def test_none_is_no_pairs() -> None:
    assert core.MapSink(1).emit_all(None) == 0


def test_an_exception_of_the_generator_comes_through() -> None:
    def pairs() -> Iterator[tuple[str, int]]:
        yield "a", 1
        raise ZeroDivisionError

    sink = core.MapSink(1)
    with pytest.raises(ZeroDivisionError):
        sink.emit_all(pairs())
    assert segments(sink.drain()) == [[("a", 1)]]


class Colour(enum.IntEnum):
    RED = 3


class Name(str):
    __slots__ = ()


class Ratio(float):
    __slots__ = ()


def test_subclasses_count_as_what_they_are() -> None:
    sink = core.MapSink(1)
    sink.emit_all([(Name("a"), Colour.RED), (Name("a"), Name("ä")), (Name("a"), Ratio(0.5))])
    assert same(segments(sink.drain()), [[("a", 3), ("a", "ä"), ("a", 0.5)]])


def test_lone_surrogates_are_refused_and_file_names_kept() -> None:
    sink = core.MapSink(1)
    with pytest.raises(BadRecord, match="surrogate"):
        sink.emit("\ud800", 1)
    with pytest.raises(BadRecord, match="surrogate"):
        sink.emit("key", "\ud800")
    odd = b"odd-\xff.txt".decode("utf-8", "surrogateescape")
    sink.emit(odd, odd)
    assert segments(sink.drain()) == [[(odd, odd)]]


def test_bounds() -> None:
    sink = core.MapSink(1)
    longest = b"k" * (16 << 20)
    sink.emit(longest, None)
    with pytest.raises(BoundPassed, match="16 MiB"):
        sink.emit(longest + b"k", None)
    assert segments(sink.drain()) == [[(longest, None)]]
    for partitions in (0, -1, 65_536):
        with pytest.raises(ValueError, match="1 to 65535"):
            core.MapSink(partitions)


@pytest.mark.parametrize(
    "number", [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**40, -(10**40), 10**5000], ids=int.bit_length
)
def test_integers_of_any_size(number: int) -> None:
    sink = core.MapSink(1)
    sink.emit_all([("k", number), ("k", -number)])
    assert segments(sink.drain()) == [[("k", number), ("k", -number)]]


@examples(150)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(allow_nan=False, allow_infinity=False)), max_size=50))
def test_float_sums_round_once(pairs: list[tuple[str, float]]) -> None:
    sink = core.MapSink(1, combine=ops.sum())
    sink.emit_all(pairs)
    expected = [(key, reference.exact_sum(values)) for key, values in reference.grouped(pairs)]
    assert segments(sink.drain()) == [expected]
    for key, values in reference.grouped(pairs):
        if math.fsum(abs(value) / 2**60 for value in values) < 2**900:
            assert dict(expected)[key] == math.fsum(values)


def test_memory_grows_with_what_is_held() -> None:
    sink = core.MapSink(1)
    empty = sink.memory_bytes
    sink.emit_all((f"key-{i}", "x" * 100) for i in range(10_000))
    assert sink.memory_bytes > empty + 1_000_000
    sink.drain()
    assert sink.memory_bytes < 100_000


def test_a_value_that_grows_takes_no_quadratic_memory() -> None:
    sink = core.MapSink(1, combine=ops.max())
    sink.emit_all(("key", b"x" * length) for length in range(10_000))
    assert sink.memory_bytes < 1_000_000
    assert segments(sink.drain()) == [[("key", b"x" * 9_999)]]


def test_distinct_words_count_as_memory() -> None:
    sink = core.MapSink(1, source=ops.words(letters="ascii", distinct=True), combine=ops.count())
    sink.begin("f")
    sink.feed(b" ".join(b"word" + bytes(97 + i // 26**k % 26 for k in range(4)) for i in range(50_000)))
    sink.end()
    sink.drain()
    assert sink.memory_bytes > 500_000


def test_a_sink_belongs_to_one_thread_at_a_time() -> None:
    sink = core.MapSink(1, source=ops.words(letters="ascii", value="filename"), combine=ops.index())
    sink.begin("first")
    with ThreadPoolExecutor(1) as pool:
        fed = pool.submit(sink.feed, b"word " * (8 << 20))
        refused = 0
        while not fed.done():
            try:
                sink.begin("first")
            except RuntimeError:
                refused += 1
        fed.result()
    assert refused
    sink.end()
    assert segments(sink.drain()) == [[("word", "first")]]


def test_feed_needs_a_native_source() -> None:
    with pytest.raises(ValueError, match="native source"):
        core.MapSink(1).feed(b"a")
    with pytest.raises(ValueError, match="emit its pairs"):
        core.MapSink(1, source=ops.grep(b"a"))


def test_nothing_of_a_piece_that_failed_reaches_the_next_one() -> None:
    words = core.MapSink(1, source=ops.words(letters="ascii", distinct=True), combine=ops.sum())
    words.begin("a")
    words.feed(b"tail word ")
    with pytest.raises(BoundPassed):
        words.feed(b"x" * ((16 << 20) + 100))
    words.begin("b")
    words.feed(b"word more")
    words.end()
    assert list(core.read_segment(words.drain().body, "str")) == [("more", 1), ("tail", 1), ("word", 2)]

    fields = core.MapSink(1, source=ops.fields(sep=" ", key=0, value=1), combine=ops.sum())
    for name in ("a", "b"):
        fields.begin(name)
        with pytest.raises(BadInput, match=f"{name}: line at byte 4:"):
            fields.feed(b"k 1\nbad\nleft 5")
    records = core.MapSink(1, source=ops.records(size=4, key=(0, 2)))
    for name, data, at in (("a", b"abcdefghij", 8), ("b", b"abc", 0)):
        records.begin(name)
        records.feed(data)
        with pytest.raises(BadInput, match=f"{name}: the last record, at byte {at},"):
            records.end()


@examples(60)
@given(st.lists(st.tuples(TEXT, VALUES), max_size=40), st.integers(1, 4), st.integers(1, 300))
def test_segments_in_pieces(pairs: list[tuple[Any, Any]], partitions: int, chunk_bytes: int) -> None:
    whole, pieces = core.MapSink(partitions), core.MapSink(partitions)
    for sink in (whole, pieces):
        sink.emit_all(pairs)
    at_once, drained = whole.drain(), pieces.drain()
    chunks = [bytes(chunk) for chunk in drained.chunks(chunk_bytes)]
    assert b"".join(chunks) == bytes(at_once.body)
    assert all(len(chunk) >= chunk_bytes for chunk in chunks[:-1])
    assert (drained.lengths, drained.counts) == (at_once.lengths, at_once.counts)
    assert drained.checksums == at_once.checksums
    with pytest.raises(RuntimeError, match="given out"):
        drained.body  # noqa: B018
    with pytest.raises(RuntimeError, match="made already"):
        next(at_once.chunks())
