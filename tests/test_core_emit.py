"""Pairs from Python: the quick way in and the thorough one give the same, on both sides of every batch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core, ops
from mrfast.errors import BadRecord, BoundPassed

COUNTS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 200]
KEYS = st.one_of(
    st.text(st.sampled_from("abcdefgh"), max_size=34),  # around 8 and 16 bytes
    st.text(st.sampled_from("aéжあ😀"), max_size=18),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([s * (1 << b) + d for b in (15, 30, 60, 62, 63, 64) for s in (-1, 1) for d in (-1, 0, 1)]),
    st.booleans(),
    st.integers(),
)


class Text(str):
    """No plain str: the thorough way takes it."""

    __slots__ = ()


class Bytes(bytes):
    __slots__ = ()


class Int(int):
    pass


def records(sink: core.MapSink) -> list[tuple[Any, Any]]:
    """The records of a sink of one partition."""
    drained = sink.drain()
    return list(core.read_segment(drained.body, drained.key_kind or "str"))


def result(op: Any, sink: core.MapSink) -> bytes:
    """What a reduce by the op writes of the sink's records."""
    drained = sink.drain()
    groups = core.Grouper(key_kind=drained.key_kind, reduce=op)
    groups.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
    return bytes(groups.write("text"))


def slow(key: Any, value: Any) -> tuple[Any, Any]:
    """The same pair in types that only the thorough way takes."""
    key = Text(key) if isinstance(key, str) else Bytes(key)
    return key, Int(value) if type(value) is int else value


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("combine", [None, ops.sum(), ops.count(), ops.mean(), ops.max(), ops.first()], ids=str)
def test_counts_around_a_batch(count: int, combine: Any) -> None:
    pairs = [(f"key-{i % 50}{'x' * (i % 23)}", i % 7) for i in range(count)]
    quick, thorough, single = (core.MapSink(1, combine=combine) for _ in range(3))
    assert quick.emit_all(iter(pairs)) == count == quick.records_in
    assert thorough.emit_all([slow(*pair) for pair in pairs]) == count == thorough.records_in
    for pair in pairs:
        single.emit(*pair)
    assert single.records_in == count
    assert records(quick) == records(thorough) == records(single)


@examples(200)
@given(st.lists(st.tuples(KEYS, NUMBERS), max_size=200))
def test_sums_are_those_of_python(pairs: list[tuple[str, int]]) -> None:
    sink = core.MapSink(1, combine=ops.sum())
    sink.emit_all(pairs)
    expected: Counter[str] = Counter()
    for key, value in pairs:
        expected[key] += value
    lines = [core.escape_key(key) + b" %d\n" % expected[key] for key in sorted(expected, key=reference.key_bytes)]
    assert result(ops.sum(), sink) == b"".join(lines)


@examples(200)
@given(
    st.sampled_from([ops.sum(), ops.count(), ops.mean()]),
    st.lists(st.tuples(KEYS, NUMBERS | st.floats(width=16)), max_size=150),
    st.booleans(),
)
def test_the_quick_and_the_thorough_way_agree(op: Any, pairs: list[tuple[str, Any]], as_bytes: bool) -> None:
    quick, thorough = core.MapSink(1, combine=op), core.MapSink(1, combine=op)
    encoded: list[tuple[Any, Any]] = [(key.encode() if as_bytes else key, value) for key, value in pairs]
    quick.emit_all(encoded)
    thorough.emit_all(slow(key, value) for key, value in encoded)
    assert result(op, quick) == result(op, thorough)


@examples(200)
@given(st.lists(st.tuples(KEYS, KEYS), max_size=80))
def test_text_is_logged_as_its_utf8(pairs: list[tuple[str, str]]) -> None:
    sink = core.MapSink(1)
    sink.emit_all(pairs)
    assert records(sink) == sorted(pairs, key=lambda pair: reference.key_bytes(pair[0]))


BAD: list[tuple[Any, type[Exception], str]] = [
    (("\ud800", 1), BadRecord, "surrogate"),
    (("key-1", "\ud800"), BadRecord, "surrogate"),
    ((b"key-1", 1), BadRecord, "all of them bytes"),
    ((7, 1), BadRecord, "of type int"),
    (("key-1", {1}), BadRecord, "of type set"),
    (("key-1",), BadRecord, "no \\(key, value\\) pair"),
    ("ab", BadRecord, "no \\(key, value\\) pair"),
    (("k" * ((16 << 20) + 1), 1), BoundPassed, "16 MiB"),
    (("key-1", "text"), BadRecord, "ops.sum takes numbers; key 'key-1' has a value of type str"),
    (("key-1", None), BadRecord, "ops.sum takes numbers"),
]


@pytest.mark.parametrize("at", [0, 1, 62, 63, 64, 65, 128])
@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=range(len(BAD)))
def test_an_error_leaves_what_came_before(at: int, bad: Any, error: type[Exception], message: str) -> None:
    asked = 0

    def pairs() -> Iterator[Any]:
        nonlocal asked
        for asked in range(200):
            yield bad if asked == at else (f"key-{asked % 40}-{'x' * (asked % 20)}", 1)

    sink = core.MapSink(1, combine=ops.sum())
    sink.emit("key-0-", 1)
    with pytest.raises(error, match=message):
        sink.emit_all(pairs())
    assert asked == at  # nothing was taken past it
    assert sum(value for _, value in records(sink)) == at + 1
    assert sink.emit_all([("after", 1)]) == 1
    assert records(sink) == [("after", 1)]


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65])
def test_a_generator_that_raises_leaves_what_it_yielded(at: int) -> None:
    def pairs() -> Iterator[tuple[str, int]]:
        for i in range(at):
            yield f"a key of over sixteen bytes: {i}", 1
        raise ZeroDivisionError

    sink = core.MapSink(1, combine=ops.sum())
    with pytest.raises(ZeroDivisionError):
        sink.emit_all(pairs())
    assert sink.records_in == len(records(sink)) == at


def test_a_generator_may_use_the_sink_it_feeds() -> None:
    sink = core.MapSink(1, combine=ops.sum())
    drained: list[tuple[str, int]] = []
    inside: list[int] = []

    def pairs() -> Iterator[tuple[str, int]]:
        for i in range(300):
            yield f"key {i % 10} {'long' * (i % 7)}", 1
            if i % 70 == 5:
                sink.emit("inner", 1)
                sink.emit_all([("inner", 1), ("inner", Int(1))])
                inside.append(sink.records_in)
                assert sink.memory_bytes
            if i == 150:
                drained.extend(records(sink))

    assert sink.emit_all(pairs()) == 300
    assert inside == [i + 1 + 3 * (n + 1) for n, i in enumerate(range(5, 300, 70))]
    rest = records(sink)
    assert sum(value for _, value in drained) == 151 + 3 * 3
    assert sum(value for _, value in drained + rest) == 300 + 3 * 5


@pytest.mark.parametrize("combine", [None, ops.sum(), ops.first()], ids=str)
def test_no_reference_is_kept_or_lost(combine: Any) -> None:
    keys: list[Any] = ["short key", "a key of more than sixteen bytes", "ключ", "ключ длиннее шестнадцати байтов"]
    values: list[Any] = [100_000, 0.5]
    sinks = [core.MapSink(1, combine=combine) for _ in range(3)]
    before = [sys.getrefcount(each) for each in keys + values]
    sinks[0].emit_all((key, value) for value in values for key in keys for _ in range(40))
    sinks[1].emit_all([(key, value) for value in values for key in keys for _ in range(40)])
    for sink in sinks:
        sink.emit_all([(key, 1) for key in keys])
        records(sink)
    sinks[0].emit_all((key, 1) for key in keys)  # and a sink that is left as it is
    del sinks, sink
    assert [sys.getrefcount(each) for each in keys + values] == before


def pairs_of_zip(count: int) -> Any:
    return zip([f"key-{i}" for i in range(count)], range(count), strict=True)  # a tuple that zip uses again


def pairs_of_iterator(count: int) -> Any:
    class Pairs:
        def __init__(self) -> None:
            self.at = -1

        def __iter__(self) -> Pairs:
            return self

        def __next__(self) -> list[Any]:
            self.at += 1
            if self.at == count:
                raise StopIteration
            return [f"key-{self.at}", self.at]

    return Pairs()


SHAPES: list[Callable[[int], Any]] = [
    lambda count: [(f"key-{i}", i) for i in range(count)],
    lambda count: tuple((f"key-{i}", i) for i in range(count)),
    lambda count: {f"key-{i}": i for i in range(count)}.items(),
    lambda count: ([f"key-{i}", i] for i in range(count)),
    pairs_of_zip,
    pairs_of_iterator,
]


@pytest.mark.parametrize("count", [0, 1, 64, 65])
@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_any_iterable_of_pairs(shape: Callable[[int], Any], count: int) -> None:
    for combine in (None, ops.sum()):
        sink = core.MapSink(1, combine=combine)
        assert sink.emit_all(shape(count)) == count
        assert sorted(records(sink), key=lambda pair: pair[1]) == [(f"key-{i}", i) for i in range(count)]
