"""The slow twins: what mrfast's fast paths must give, in the plainest Python. Shares no code with mrfast.

Operations are recognised by the attributes that mrfast.ops gives them (`kind` and parameters), nothing is imported.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import groupby
from typing import Any

import orjson
import xxhash

Pair = tuple[Any, Any]
Input = tuple[str, bytes]
DECIMAL_DIGITS = 4300
DIGITS_AT_ONCE = 4000


class RefusedError(Exception):
    """The values or the input are none that the operation can take: mrfast raises BadRecord or BadInput."""


# -- hashes, tokens ---------------------------------------------------------------------------------------------------


def key_bytes(key: str | bytes) -> bytes:
    """The bytes that a key is hashed, sorted and written by; undecodable bytes of a file name as they were."""
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key


def xxh3_64(data: str | bytes) -> int:
    """What the published XXH3-64 gives, by PyPI's xxhash."""
    return int(xxhash.xxh3_64_intdigest(key_bytes(data)))


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def partition(key: str | bytes, partitions: int) -> int:
    """The hash contract."""
    return xxh3_64(key) % partitions


def tokens(data: bytes, *, letters: str) -> list[Any]:
    """Maximal runs of letters (str.isalpha, or A-Z and a-z) as str, or what bytes.split() gives."""
    if letters == "space":
        return data.split()
    if letters == "ascii":
        return [run.decode() for run in re.findall(rb"[A-Za-z]+", data)]
    text = data.decode("utf-8", "surrogateescape")  # malformed bytes become surrogates, which are no letters
    return ["".join(run) for is_letter, run in groupby(text, str.isalpha) if is_letter]


def lower(text: str) -> str:
    """Each code point's own lower case."""
    return "".join(character.lower() for character in text)


# -- map side ---------------------------------------------------------------------------------------------------------


def map_pairs(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    """What a native map op emits for one whole file; RefusedError for a line or a record that is malformed."""
    pairs: dict[str, Callable[[Any, str, bytes], Iterator[Pair]]] = {
        "words": _words,
        "fields": _fields,
        "grep": _grep,
        "lines": _lines,
        "records": _records,
    }
    return pairs[op.kind](op, filename, contents)


def lines_of(contents: bytes) -> list[bytes]:
    """The lines without their LF; the last one may lack it."""
    lines = contents.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _words(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    seen = set()
    for word in tokens(contents, letters=op.letters):
        key = lower(word) if op.lower else word
        if op.distinct:
            if key in seen:
                continue
            seen.add(key)
        yield key, filename if op.value == "filename" else 1


def _grep(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    matching = [line for line in lines_of(contents) if re.search(op.pattern, line)]
    if op.by == "line":
        yield from ((filename, line) for line in matching)
    elif matching:
        yield filename, len(matching)


def _lines(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    return ((line, line) for line in lines_of(contents))


def _records(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    start, stop = op.key
    for at in range(0, len(contents), op.size):
        record = contents[at : at + op.size]
        if len(record) < op.size:
            raise RefusedError("torn record")
        yield record[start:stop], record


def _fields(op: Any, filename: str, contents: bytes) -> Iterator[Pair]:
    for line in lines_of(contents):
        columns = split_fields(line.removesuffix(b"\r"), op.sep)
        try:
            key = _column(columns, op.key)
            value = 1 if op.value is None else number(_column(columns, op.value))
        except RefusedError:
            if op.bad == "error":
                raise
            continue
        yield key, value


def split_fields(line: bytes, sep: bytes) -> list[bytes]:
    """bytes.split(sep), but a field in quotes (with sep=" ", in brackets too) runs to the mark that closes it."""
    fields = []
    at = 0
    while True:
        field, at = _field_at(line, at, sep)
        fields.append(field)
        if at < 0:
            return fields


def _field_at(line: bytes, at: int, sep: bytes) -> tuple[bytes, int]:
    """The field that starts at `at`, and where the next one starts (-1: there is none)."""
    first = line[at : at + 1]
    closing = {b'"': b'"', b"[": b"]" if sep == b" " else b""}.get(first, b"")
    if closing and first != sep:
        i = at + 1
        while i < len(line):
            here, after = line[i : i + 1], line[i + 1 : i + 2]
            if here == b"\\" and closing == b'"':
                i += 2
                continue
            if here == closing and after in (b"", sep):
                return line[at + 1 : i], i + 2 if after else -1
            i += 1
    stop = line.find(sep, at)
    return (line[at:], -1) if stop < 0 else (line[at:stop], stop + 1)


def _column(columns: list[bytes], which: int | tuple[int, int]) -> bytes:
    column, word = which if isinstance(which, tuple) else (which, None)
    if column >= len(columns):
        raise RefusedError("no such column")
    if word is None:
        return columns[column]
    words = columns[column].split()
    if word >= len(words):
        raise RefusedError("no such word")
    return words[word]


def number(text: bytes) -> int | float:
    """The number of a column: an int, a float if it has a point or an exponent; `-` is 0."""
    text = text.strip(b" \t\n\v\f\r")
    if text == b"-":
        return 0
    if re.fullmatch(rb"[+-]?[0-9]+", text):
        value = 0
        digits = text.lstrip(b"+-")
        for at in range(0, len(digits), DIGITS_AT_ONCE):
            piece = digits[at : at + DIGITS_AT_ONCE]
            value = value * 10 ** len(piece) + int(piece)
        value = -value if text.startswith(b"-") else value
        if len(digits) > DECIMAL_DIGITS and not -(2**63) <= value < 2**63:
            raise RefusedError("an integer too long")
        return value
    if re.fullmatch(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return float(text)
    raise RefusedError("not a number")


# -- reduce side ------------------------------------------------------------------------------------------------------


def reduce_values(op: Any, values: Iterable[Any]) -> list[Any]:
    """What a native reduce op makes of a key's values: a list, a line for each of its items."""
    values = list(values)
    reduce: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
        "sum": lambda op, values: [exact_sum(values)],
        "count": lambda op, values: [len(values)],
        "min": lambda op, values: [_extreme(values, min)],
        "max": lambda op, values: [_extreme(values, max)],
        "mean": lambda op, values: [_mean(values)],
        "first": lambda op, values: values[:1],
        "index": _index,
        "concat": lambda op, values: [op.sep.join(_only(values, str))],
        "identity": lambda op, values: values,
        "top": lambda op, values: _descending(values)[: op.n],
    }
    return reduce[op.kind](op, values)


def _only(values: list[Any], *kinds: type) -> list[Any]:
    if not all(isinstance(value, kinds) for value in values):
        raise RefusedError(f"not all of {kinds}")
    return values


def exact_sum(values: list[Any]) -> int | float:
    """The sum of numbers: an int, or with a float among them the exact sum rounded once."""
    _only(values, int, float)
    if not any(isinstance(value, float) for value in values):
        return int(sum(values))
    special = [value for value in values if isinstance(value, float) and not math.isfinite(value)]
    return sum(special) if special else rounded(sum((Fraction(value) for value in values), Fraction()))


def rounded(exact: Fraction) -> float:
    """The nearest float; an infinity if it is too large."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _mean(values: list[Any]) -> float:
    total = exact_sum(values)
    return total / len(values) if isinstance(total, float) else rounded(Fraction(total, len(values)))


def _comparable(values: list[Any]) -> list[Any]:
    kinds: list[tuple[type, ...]] = [(int, float), (str,), (bytes,)]
    if not any(all(isinstance(value, kind) for value in values) for kind in kinds):
        raise RefusedError("mixed kinds")
    return [int(value) if isinstance(value, bool) else value for value in values]


def _extreme(values: list[Any], pick: Callable[[list[Any]], Any]) -> Any:
    """min or max of one kind of value; a NaN if there is one; of equal ones (1 and 1.0) the first."""
    values = _comparable(values)
    nans = [value for value in values if value != value]
    return nans[0] if nans else pick(values)


def _descending(values: list[Any]) -> list[Any]:
    """Largest first, equal ones in their order; NaN counts as the largest."""
    values = _comparable(values)
    nans = [value for value in values if value != value]
    return nans + sorted((value for value in values if value == value), reverse=True)


def _index(op: Any, values: list[Any]) -> list[Any]:
    names = sorted(set(_only(values, str)), key=key_bytes)
    return [f"{len(names)} {','.join(names)}"]


# -- parts ------------------------------------------------------------------------------------------------------------


def decimal(value: int) -> str:
    """str(value) for an int of any length."""
    if value < 0:
        return "-" + decimal(-value)
    high, low = divmod(value, 10**DIGITS_AT_ONCE)
    return decimal(high) + str(low).zfill(DIGITS_AT_ONCE) if high else str(low)


def value_bytes(value: Any) -> bytes:
    """A value's text: as it is, in decimal, by repr, or as JSON."""
    if isinstance(value, (str, bytes)):
        return key_bytes(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return decimal(int(value)).encode()
    return repr(float(value)).encode() if isinstance(value, float) else orjson.dumps(value)


def escape(data: bytes, special: dict[str, str]) -> bytes:
    """Each byte of `special`, and each backslash, as a backslash and a letter."""
    table = {ord("\\"): "\\\\", **{ord(c): "\\" + letter for c, letter in special.items()}}
    return data.decode("latin-1").translate(table).encode("latin-1")


def escape_key(data: bytes) -> bytes:
    """A key of output "text"."""
    return escape(data, {" ": "s", "\n": "n"})


def escape_value(data: bytes) -> bytes:
    """A value of output "text"."""
    return escape(data, {"\n": "n"})


def escape_tsv(data: bytes) -> bytes:
    """A key or value of output "tsv"."""
    return escape(data, {"\t": "t", "\n": "n"})


def _jsonable(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def line(key: str | bytes, value: Any, output: str, *, record_bytes: int = 0) -> bytes:
    """One pair as a part of this `output` holds it."""
    if output == "text":
        return escape_key(key_bytes(key)) + b" " + escape_value(value_bytes(value)) + b"\n"
    if output == "tsv":
        return escape_tsv(key_bytes(key)) + b"\t" + escape_tsv(value_bytes(value)) + b"\n"
    if output == "raw":
        return value_bytes(value) + (b"" if record_bytes else b"\n")
    if isinstance(value, int) and not isinstance(value, bool):
        return b'{"key":' + orjson.dumps(_jsonable(key)) + b',"value":' + decimal(value).encode() + b"}\n"
    return orjson.dumps({"key": _jsonable(key), "value": _jsonable(value)}) + b"\n"


# -- whole jobs -------------------------------------------------------------------------------------------------------


def _contents(data: bytes, kind: str) -> Iterator[Any]:
    """What an application with `input = kind` is called with: the whole object, or each of its records."""
    if kind in ("file", "blocks"):
        if data or kind == "file":
            yield data
    elif kind == "lines":
        yield from lines_of(data)
    elif kind == "jsonl":
        yield from (orjson.loads(text) for text in lines_of(data) if text.strip())
    elif kind == "csv":
        yield from csv.DictReader(io.StringIO(data.decode(), newline=""))


def emitted(map: Any, inputs: Iterable[Input], kind: str = "file") -> Iterator[Pair]:
    """Every pair that a map, native or a function, emits over all inputs, in (map index, emit order)."""
    for name, data in inputs:
        if hasattr(map, "kind"):
            yield from map_pairs(map, name, data)
        else:
            for contents in _contents(data, kind):
                yield from map(name, contents) or ()


def reduced(reduce: Any, key: Any, values: list[Any]) -> Iterator[Pair]:
    """The pairs that a reduce, native or a function, gives for a group."""
    if hasattr(reduce, "kind"):
        yield from ((key, value) for value in reduce_values(reduce, values))
        return
    result = reduce(key, iter(values))
    if hasattr(type(result), "__next__"):
        yield from result
    elif result is not None:
        yield key, result


def grouped(pairs: Iterable[Pair]) -> list[tuple[Any, list[Any]]]:
    """(key, its values in order), by the keys' bytes."""
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return sorted(groups.items(), key=lambda group: key_bytes(group[0]))


def run_reference(
    map: Any,
    reduce: Any,
    inputs: Iterable[Input],
    reduces: int,
    *,
    input: str = "file",
    output: str = "text",
    record_bytes: int = 0,
) -> list[bytes]:
    """The exact bytes of every part of a job."""
    parts = [bytearray() for _ in range(reduces)]
    for key, values in grouped(emitted(map, inputs, input)):
        part = parts[partition(key, reduces)]
        for pair in reduced(reduce, key, values):
            part += line(*pair, output, record_bytes=record_bytes)
    return [bytes(part) for part in parts]


# -- hot keys ---------------------------------------------------------------------------------------------------------


def key_weights(pairs: Iterable[tuple[bytes, int]]) -> dict[bytes, tuple[int, int]]:
    """(bytes, records) of each key, of (key, bytes of the record)."""
    weights: dict[bytes, tuple[int, int]] = {}
    for key, size in pairs:
        size_before, records = weights.get(key, (0, 0))
        weights[key] = (size_before + size, records + 1)
    return weights
