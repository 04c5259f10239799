"""Native ops are plain descriptions; a wrong parameter is refused when the application loads."""

from __future__ import annotations

from typing import Any

import pytest

from mrfast import ops
from mrfast.errors import AppError


def test_ops_say_what_they_are() -> None:
    assert ops.words(letters="ascii") == ops.Words("ascii", 1, False, False)
    assert ops.fields(sep=" ", key=(4, 1), value=6) == ops.Fields(b" ", (4, 1), 6, "error")
    assert ops.grep("a+") == ops.Grep(b"a+", "line")
    assert ops.records(size=100) == ops.Records(100, (0, 100))
    assert ops.records(size=100, key=slice(10)) == ops.records(size=100, key=(0, 10))
    assert ops.top(3).n == 3
    assert ops.concat(", ").sep == ", "
    assert ops.sum().kind == "sum"


def test_map_and_reduce_ops_are_told_apart() -> None:
    maps = [ops.words(letters="space"), ops.fields(sep=",", key=0), ops.grep(b"x"), ops.lines(), ops.records(size=4)]
    reduces = [ops.sum(), ops.count(), ops.min(), ops.max(), ops.mean(), ops.first(), ops.index(), ops.identity()]
    reduces += [ops.concat(""), ops.top(1)]
    assert all(ops.is_map_op(op) and not ops.is_reduce_op(op) for op in maps)
    assert all(ops.is_reduce_op(op) and not ops.is_map_op(op) for op in reduces)
    assert not ops.is_map_op(ops.words)
    assert not ops.is_reduce_op(None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ops.words(letters="latin"), "letters='latin' is none of"),
        (lambda: ops.words(letters="ascii", value=True), 'neither 1 nor "filename"'),
        (lambda: ops.words(letters="ascii", distinct=1), "neither True nor False"),  # type: ignore[arg-type]
        (lambda: ops.words(letters="space", lower=True), "lower=True needs"),
        (lambda: ops.fields(sep="", key=0), "not one byte"),
        (lambda: ops.fields(sep="ab", key=0), "not one byte"),
        (lambda: ops.fields(sep="\n", key=0), "not one byte"),
        (lambda: ops.fields(sep="·", key=0), "neither bytes nor ASCII"),
        (lambda: ops.fields(sep=",", key=-1), "neither a column"),
        (lambda: ops.fields(sep=",", key=(1, "a")), "neither a column"),  # type: ignore[arg-type]
        (lambda: ops.fields(sep=",", key=0, value=True), "neither a column"),
        (lambda: ops.fields(sep=",", key=0, bad="ignore"), 'neither "error" nor "skip"'),
        (lambda: ops.grep(b"("), "not a regular expression"),
        (lambda: ops.grep("ä"), "neither bytes nor ASCII"),
        (lambda: ops.grep(b"a", by="word"), 'neither "line" nor "count"'),
        (lambda: ops.records(size=0), "not an int from 1"),
        (lambda: ops.records(size=10, key=(5, 5)), "0 <= start < stop <= 10"),
        (lambda: ops.records(size=10, key=(0, 11)), "0 <= start < stop <= 10"),
        (lambda: ops.records(size=10, key=slice(0, 10, 2)), "0 <= start < stop <= 10"),
        (lambda: ops.concat(b","), "not a str"),  # type: ignore[arg-type]
        (lambda: ops.top(0), "not an int from 1"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(AppError, match=r"ops[.]") as caught:
        make()
    assert message in str(caught.value)
