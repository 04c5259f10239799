"""LineWriter: the lines of the native way are those of the formatters, which take what it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core
from mrfast.errors import BadRecord
from mrfast.tasks.writer import formatter


class Text(str):
    __slots__ = ()


class Int(int):
    pass


WORDS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\ \n\tж"), max_size=40)
KEYS = WORDS | WORDS.map(str.encode) | WORDS.map(Text)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-5, 5), st.integers().map(Int), st.floats(), KEYS,
    st.lists(st.integers(0, 5), max_size=3),
)  # fmt: skip
FORMATS = st.sampled_from(["text", "tsv", "raw", "jsonl"])


def writer(output: str, **options: Any) -> core.LineWriter:
    line = formatter(output)
    return core.LineWriter(output, lambda pair: line(pair[0], pair[1]), **options)


def full(lines: core.LineWriter) -> list[bytes]:
    """The full buffers that are to be taken now."""
    return list(map(bytes, iter(lines.take, None)))


def written(lines: core.LineWriter, results: Iterable[tuple[Any, Any]]) -> bytes:
    """What the writer makes of (key, result), each buffer taken when it is full."""
    out = []
    for key, result in results:
        if lines.add(key, result):
            out += full(lines)
        assert lines.take() is None
    return b"".join(out) + bytes(lines.rest())


@examples(300)
@given(FORMATS, st.lists(st.tuples(KEYS, VALUES), max_size=40), st.sampled_from([1, 7, 64, 1 << 20]))
def test_lines_are_those_of_the_formatter(output: str, pairs: list[tuple[Any, Any]], buffer_bytes: int) -> None:
    if output == "jsonl":
        pairs = [(key, value) for key, value in pairs if type(value) is not Int]
    line = formatter(output)
    one_by_one, together = (writer(output, buffer_bytes=buffer_bytes) for _ in range(2))
    kept = [pair for pair in pairs if pair[1] is not None]
    assert written(one_by_one, pairs) == b"".join(line(*pair) for pair in kept)
    assert written(together, [("of no use", iter(pairs))]) == b"".join(line(*pair) for pair in pairs)
    assert (one_by_one.lines, together.lines) == (len(kept), len(pairs))
    assert not one_by_one.rest()


def test_buffers_are_cut_behind_a_line() -> None:
    lines = writer("text", buffer_bytes=20)
    taken = 0

    def pairs() -> Iterator[tuple[str, int]]:
        nonlocal taken
        for taken in range(100):
            yield f"key-{taken}", taken

    assert lines.add(None, pairs())
    assert taken < 3  # the rest waits until the buffer is taken
    assert {buffer.count(b"\n") for buffer in full(lines)} <= {1, 2, 3}
    assert taken == 99


def test_fixed_records_have_no_terminator() -> None:
    lines = writer("raw", terminator=b"")
    lines.add("key", b"abc")
    lines.add("key", "def")
    assert bytes(lines.rest()) == b"abcdef"


@pytest.mark.parametrize("bad", [(7, 1), ("\ud800", 1), ("key", "\ud800"), ("key", {1})], ids=repr)
def test_what_has_no_line_is_refused_and_the_rest_stays(bad: Any) -> None:
    lines = writer("text")

    def pairs() -> Iterator[Any]:
        yield "a", 1
        yield bad

    with pytest.raises(BadRecord):
        lines.add(None, pairs())
    with pytest.raises(BadRecord):
        lines.add(*bad)
    assert bytes(lines.rest()) == b"a 1\n"


def test_an_exception_of_a_reduce_comes_through() -> None:
    def pairs() -> Iterator[Any]:
        yield "a", 0.5
        raise ZeroDivisionError

    lines = writer("tsv")
    with pytest.raises(ZeroDivisionError):
        lines.add("a", pairs())
    assert bytes(lines.rest()) == b"a\t0.5\n"
