"""A part's lines are exact, parse back exactly, and are the same bytes from Python and from the core."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core, ops
from mrfast.errors import BadInput, BadRecord
from mrfast.tasks import writer
from mrfast.tasks.writer import formatter, parse

HUGE = 10**5000
texts = st.text(st.characters(codec="utf-8"))


def lines(output: str, pairs: list[tuple[Any, Any]]) -> bytes:
    line = formatter(output)
    return b"".join(line(key, value) for key, value in pairs)


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(
    ("output", "key", "value", "line"),
    [
        ("text", "key", "value", b"key value\n"),
        ("text", "a b\\c\nd", "a b\\c\nd", b"a\\sb\\\\c\\nd a b\\\\c\\nd\n"),
        ("text", b"\xff", b"\xfe", b"\xff \xfe\n"),
        ("text", "n", 10**20, b"n 100000000000000000000\n"),
        ("text", "n", -0.1, b"n -0.1\n"),
        ("text", "n", 1e300, b"n 1e+300\n"),
        ("text", "n", True, b"n true\n"),
        ("text", "n", None, b"n null\n"),
        ("text", "n", {"a": [1, "ü"]}, 'n {"a":[1,"ü"]}\n'.encode()),
        ("text", "", "", b" \n"),
        ("tsv", "a\tb c", "d\te\\\n", b"a\\tb c\td\\te\\\\\\n\n"),
        ("raw", "key", b"a b\\", b"a b\\\n"),
        ("jsonl", "k", 1, b'{"key":"k","value":1}\n'),
        ("jsonl", b"k", b"v", b'{"key":"k","value":"v"}\n'),
        ("jsonl", b"\xff", [b"\xfe", 2], b'{"key":{"base64":"/w=="},"value":[{"base64":"/g=="},2]}\n'),
        ("jsonl", "k", 10**30, b'{"key":"k","value":1000000000000000000000000000000}\n'),
    ],
)
def test_lines(output: str, key: Any, value: Any, line: bytes) -> None:
    assert formatter(output)(key, value) == line


def test_fixed_records_have_nothing_in_between() -> None:
    assert formatter("raw", 3)("k", b"abc") == b"abc"
    assert list(parse([b"ab", b"cde", b"f"], "raw", record_bytes=3)) == [(None, b"abc"), (None, b"def")]
    with pytest.raises(BadInput, match="1 of 3 bytes"):
        list(parse([b"abcd"], "raw", record_bytes=3))


def test_a_sum_has_any_number_of_digits() -> None:
    for output in ("text", "tsv", "jsonl"):
        line = formatter(output)("k", -HUGE)
        assert line.count(b"0") == 5000
    assert list(parse([line], "jsonl")) == [("k", -HUGE)]


@pytest.mark.parametrize("output", ["text", "tsv"])
@given(pairs=st.lists(st.tuples(texts, texts)), size=st.integers(1, 20))
def test_text_parses_back(output: str, pairs: list[tuple[str, str]], size: int) -> None:
    assert list(parse(blocks(lines(output, pairs), size), output)) == pairs


@pytest.mark.parametrize("output", ["text", "tsv"])
@given(key=st.binary(), value=st.binary())
def test_bytes_parse_back(output: str, key: bytes, value: bytes) -> None:
    [(got_key, got_value)] = parse([formatter(output)(key, value)], output)
    assert (as_bytes(got_key), as_bytes(got_value)) == (key, value)


def as_bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(key=texts, value=json_values, size=st.integers(1, 20))
def test_jsonl_parses_back(key: str, value: Any, size: int) -> None:
    try:
        line = formatter("jsonl")(key, value)
    except BadRecord as error:
        assert "64-bit" in str(error)  # noqa: PT017 (an int inside a list or dict is bounded, as in orjson)
        return
    assert list(parse(blocks(line, size), "jsonl")) == [(key, value)]
    assert json.loads(line) == {"key": key, "value": value}


def test_base64_parses_back() -> None:
    line = formatter("jsonl")(b"\xff", {"a": b"\xfe"})
    assert base64.b64encode(b"\xff") in line
    assert list(parse([line], "jsonl")) == [(b"\xff", {"a": b"\xfe"})]


def test_raw_parses_to_values() -> None:
    assert list(parse([b"a\n\xff", b"\nb"], "raw")) == [(None, "a"), (None, b"\xff"), (None, "b")]


@pytest.mark.parametrize(
    ("output", "data", "message"),
    [
        ("text", b"a 1\nb\n", 'part: line 2 is not a line of output = "text": no space'),
        ("text", b"a\\q 1\n", "is not an escape"),
        ("text", b"a 1\\\n", "is not an escape"),
        ("tsv", b"a 1\n", "no tab"),
        ("jsonl", b"[]\n", "not an object"),
        ("jsonl", b"{\n", "line 1 is not"),
    ],
)
def test_what_is_no_part_is_refused(output: str, data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        list(parse([data], output))
    assert message in str(caught.value)


@pytest.mark.parametrize("output", ["text", "tsv", "jsonl"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (1, 1, "of type int: keys are str or bytes"),
        ("k", {1, 2}, "of type set"),
        ("k", "\ud800", "surrogate"),
        ("k", object(), "of type object"),
    ],
)
def test_what_cannot_be_written_is_refused(output: str, key: Any, value: Any, message: str) -> None:
    with pytest.raises(BadRecord) as caught:
        formatter(output)(key, value)
    assert message in str(caught.value)


@given(st.binary())
def test_escapes_are_those_of_the_core(data: bytes) -> None:
    assert writer.escape_key(data) == core.escape_key(data)
    assert writer.escape_value(data) == core.escape_value(data)


numbers = st.integers() | st.floats(allow_nan=False)


@pytest.mark.parametrize("output", ["text", "tsv", "raw"])
@given(pairs=st.lists(st.tuples(texts, texts | numbers | st.booleans() | st.none() | st.binary()), max_size=8))
def test_lines_are_those_of_the_core(output: str, pairs: list[tuple[str, Any]]) -> None:
    sink = core.MapSink(1)
    sink.emit_all(pairs)
    drained = sink.drain()

    def group(reduce: Any) -> core.Grouper:
        grouper = core.Grouper(key_kind="str", reduce=reduce)
        grouper.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
        return grouper

    native = bytes(group(ops.identity()).write(output))
    assert native == lines(output, [(key, value) for key, values in group(None) for value in values])
