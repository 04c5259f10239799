"""Native operations for an application's `map` and `reduce`: named here, run by the core without Python per record.

Each function returns a frozen description (`kind` and its parameters); nothing runs at the time of the call.
A wrong parameter raises AppError at once, when the application file loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from mrfast.errors import AppError

LETTERS = ("unicode", "ascii", "space")
COLUMNS_MAX = 65_535
RECORD_BYTES_MAX = 1 << 30
TOP_MAX = 1_000_000

Column = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Words:
    """(word, 1) or (word, filename) for every word."""

    kind: ClassVar[str] = "words"
    letters: str
    value: int | str
    distinct: bool
    lower: bool


@dataclass(frozen=True, slots=True)
class Fields:
    """(column, 1) or (column, number) for every delimited line."""

    kind: ClassVar[str] = "fields"
    sep: bytes
    key: Column
    value: Column | None
    bad: str


@dataclass(frozen=True, slots=True)
class Grep:
    """(filename, line) or (filename, count) for the lines that a bytes regex matches."""

    kind: ClassVar[str] = "grep"
    pattern: bytes
    by: str


@dataclass(frozen=True, slots=True)
class Lines:
    """(line, line) for every line, without its line end."""

    kind: ClassVar[str] = "lines"


@dataclass(frozen=True, slots=True)
class Records:
    """(record[start:stop], record) for every record of `size` bytes."""

    kind: ClassVar[str] = "records"
    size: int
    key: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sum:
    """The exact sum; with a float among the values, rounded once."""

    kind: ClassVar[str] = "sum"


@dataclass(frozen=True, slots=True)
class Count:
    """How many values there are."""

    kind: ClassVar[str] = "count"


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest value."""

    kind: ClassVar[str] = "min"


@dataclass(frozen=True, slots=True)
class Max:
    """The largest value."""

    kind: ClassVar[str] = "max"


@dataclass(frozen=True, slots=True)
class Mean:
    """The exact sum, rounded once, divided by the count."""

    kind: ClassVar[str] = "mean"


@dataclass(frozen=True, slots=True)
class First:
    """The first value, by map index and then by emission."""

    kind: ClassVar[str] = "first"


@dataclass(frozen=True, slots=True)
class Index:
    """How many distinct values there are, and which: `2 a.txt,b.txt`."""

    kind: ClassVar[str] = "index"


@dataclass(frozen=True, slots=True)
class Concat:
    """The str values, in order, with `sep` between them."""

    kind: ClassVar[str] = "concat"
    sep: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Every value, a line each."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True, slots=True)
class Top:
    """The `n` largest values, descending, a line each."""

    kind: ClassVar[str] = "top"
    n: int


MapOp = Words | Fields | Grep | Lines | Records
ReduceOp = Sum | Count | Min | Max | Mean | First | Index | Concat | Identity | Top

_MAP_OPS = (Words, Fields, Grep, Lines, Records)
_REDUCE_OPS = (Sum, Count, Min, Max, Mean, First, Index, Concat, Identity, Top)


def is_map_op(x: object) -> bool:
    """True if `x` is what one of the map functions of this module returned."""
    return isinstance(x, _MAP_OPS)


def is_reduce_op(x: object) -> bool:
    """True if `x` is what one of the reduce functions of this module returned."""
    return isinstance(x, _REDUCE_OPS)


# -- map side ---------------------------------------------------------------------------------------------------------


def words(*, letters: str, value: int | str = 1, distinct: bool = False, lower: bool = False) -> Words:
    """(word, 1) for every maximal run of letters; with value="filename", (word, filename).

    `letters` is always spelt out: "unicode" (general category L of UTF-8 text), "ascii" (A-Z and a-z) or "space"
    (whatever whitespace separates; the keys are then bytes). `distinct` gives each word once per file, which keeps
    files whole; `lower` maps each code point by its own str.lower().
    """
    if letters not in LETTERS:
        raise AppError(f"ops.words: letters={letters!r} is none of {_either(LETTERS)}")
    if value != "filename" and not (type(value) is int and value == 1):
        raise AppError(f'ops.words: value={value!r} is neither 1 nor "filename"')
    if lower and letters == "space":
        raise AppError('ops.words: lower=True needs letters="unicode" or "ascii": "space" words are any bytes')
    return Words(letters, value, _flag("words", "distinct", distinct), _flag("words", "lower", lower))


def fields(*, sep: bytes | str, key: Column, value: Column | None = None, bad: str = "error") -> Fields:
    r"""(column, 1) for every line, or (column, number) with `value`: the column that holds the number.

    A column is a 0-based index; `(column, word)` picks a whitespace-separated word inside it: the URL of a common-log
    request is (4, 1) with sep=" ". A field that begins with `"` runs to its closing `"`, with backslash escapes; with
    sep=" " one that begins with `[` runs to `]`. A number `-` is 0; an integer over 64 bits may have 4,300 digits. A
    line without the column or the number fails the job with its offset; bad="skip" counts it instead.
    """
    raw = _encode("fields", "sep", sep)
    if len(raw) != 1 or raw in b'\n\r"\\':
        raise AppError(f"ops.fields: sep={sep!r} is not one byte other than LF, CR, a quote or a backslash")
    if bad not in ("error", "skip"):
        raise AppError(f'ops.fields: bad={bad!r} is neither "error" nor "skip"')
    return Fields(raw, _column("key", key), None if value is None else _column("value", value), bad)


def grep(pattern: bytes | str, *, by: str = "line") -> Grep:
    """(filename, line) for every line that the bytes regex matches; with by="count", (filename, number of them).

    A line matches when `re.search(pattern, line)` does, the line without its line end. Counts come once per split, so
    reduce them with ops.sum().
    """
    raw = _encode("grep", "pattern", pattern)
    try:
        re.compile(raw)
    except (re.error, OverflowError, RecursionError) as error:
        raise AppError(f"ops.grep: pattern {raw!r} is not a regular expression: {error}") from None
    if by not in ("line", "count"):
        raise AppError(f'ops.grep: by={by!r} is neither "line" nor "count"')
    return Grep(raw, by)


def lines() -> Lines:
    """(line, line) for every line, as bytes without the line end: with ops.identity(), a sort."""
    return Lines()


def records(*, size: int, key: slice | tuple[int, int] | None = None) -> Records:
    """(record[start:stop], record) for every record of `size` bytes; without `key`, the whole record is the key."""
    if type(size) is not int or not 1 <= size <= RECORD_BYTES_MAX:
        raise AppError(f"ops.records: size={size!r} is not an int from 1 to {RECORD_BYTES_MAX:,}")
    if key is None:
        return Records(size, (0, size))
    if isinstance(key, slice):
        start, stop, step = key.indices(size)
        bounds: Any = (start, stop) if step == 1 else None
    else:
        bounds = key
    if not _is_int_pair(bounds) or not 0 <= bounds[0] < bounds[1] <= size:
        raise AppError(f"ops.records: key={key!r} is not a (start, stop) with 0 <= start < stop <= {size}")
    return Records(size, (bounds[0], bounds[1]))


# -- reduce side ------------------------------------------------------------------------------------------------------


def sum() -> Sum:
    """The sum of a key's numbers: exact for ints of any size; with floats, rounded once (math.fsum)."""
    return Sum()


def count() -> Count:
    """How many values a key has."""
    return Count()


def min() -> Min:
    """A key's smallest value: all numbers, all str or all bytes; NaN if one of them is NaN."""
    return Min()


def max() -> Max:
    """A key's largest value: all numbers, all str or all bytes; NaN if one of them is NaN."""
    return Max()


def mean() -> Mean:
    """The mean of a key's numbers, from an exact sum."""
    return Mean()


def first() -> First:
    """A key's first value, by map index and then in the order of emission."""
    return First()


def index() -> Index:
    """`N a,b,c`: how many distinct str values a key has, and which, sorted."""
    return Index()


def concat(sep: str) -> Concat:
    """A key's str values in order, with `sep` between them."""
    if not isinstance(sep, str):
        raise AppError(f"ops.concat: sep={sep!r} is not a str")
    return Concat(sep)


def identity() -> Identity:
    """Every value of a key, a line each, in order."""
    return Identity()


def top(n: int) -> Top:
    """The `n` largest values of a key, descending, a line each."""
    if type(n) is not int or not 1 <= n <= TOP_MAX:
        raise AppError(f"ops.top: n={n!r} is not an int from 1 to {TOP_MAX:,}")
    return Top(n)


# -- checks -----------------------------------------------------------------------------------------------------------


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _flag(op: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise AppError(f"ops.{op}: {name}={value!r} is neither True nor False")
    return value


def _encode(op: str, name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.isascii():
        return value.encode()
    raise AppError(f"ops.{op}: {name}={value!r} is neither bytes nor ASCII text: write it as bytes, b'...'")


def _column(name: str, value: object) -> Column:
    """`value`, if it is a column or a (column, word)."""
    if type(value) is int and 0 <= value < COLUMNS_MAX:
        return value
    if isinstance(value, tuple) and _is_int_pair(value) and 0 <= value[0] < COLUMNS_MAX and 0 <= value[1] < COLUMNS_MAX:
        return (value[0], value[1])
    raise AppError(f"ops.fields: {name}={value!r} is neither a column (0 is the first) nor a (column, word) pair")


def _is_int_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)
