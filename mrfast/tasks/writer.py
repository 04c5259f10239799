r"""The lines of a part, and reading them back.

text    key SP value LF; in keys `\`, space and LF are written `\\`, `\s` and `\n`, in values `\` and LF
tsv     key TAB value LF; in both `\`, TAB and LF are written `\\`, `\t` and `\n`
raw     value LF; records of a fixed size back to back
jsonl   {"key":...,"value":...} LF; bytes that are not UTF-8 are {"base64":"..."}

A value is written as it is if str or bytes, in decimal if int, by repr() if float, as JSON if anything else.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from mrfast.errors import BadInput, BadRecord

Key = str | bytes
Formatter = Callable[[Any, Any], bytes]

_ESCAPED = re.compile(rb"\\(.?)", re.DOTALL)
_MEANS = {b"\\": b"\\", b"s": b" ", b"n": b"\n", b"t": b"\t"}
# orjson reads longer integers as floats.
_LONG_NUMBER = re.compile(rb"\d{19}")


def formatter(output: str, record_bytes: int = 0) -> Formatter:
    """The function that gives a pair's bytes in a part; `record_bytes` is that of the app's InputCut."""
    if output == "raw":
        return _record if record_bytes else _raw_line
    return {"text": _text_line, "tsv": _tsv_line, "jsonl": _json_line}[output]


def parse(
    blocks: Iterable[Any], output: str, *, record_bytes: int = 0, name: str = "part"
) -> Iterator[tuple[Key | None, Any]]:
    """The (key, value) pairs of a part from its bytes, in blocks cut anywhere.

    Keys and values are str (bytes where they are not UTF-8); a jsonl value is what JSON says; a raw part has no keys.
    """
    if output == "raw" and record_bytes:
        for record in _fixed(blocks, record_bytes, name):
            yield None, record
        return
    read = {"text": _parse_text, "tsv": _parse_tsv, "raw": _parse_raw, "jsonl": _parse_json}[output]
    for number, line in enumerate(_lines(blocks), 1):
        try:
            pair = read(line)
        except ValueError as error:
            raise BadInput(f'{name}: line {number:,} is not a line of output = "{output}": {error}') from None
        yield pair


# -- writing ----------------------------------------------------------------------------------------------------------


def key_bytes(key: Any) -> bytes:
    """A key's own bytes; BadRecord if it is neither str nor bytes."""
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return _utf8(key, "key")
    raise BadRecord(f"a key is {key!r:.200}, of type {type(key).__name__}: keys are str or bytes; write str(key)")


def value_bytes(value: Any) -> bytes:
    """A value's text as bytes; BadRecord if it has none."""
    if isinstance(value, str):
        return _utf8(value, "value")
    if isinstance(value, bytes):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return decimal(int(value))
    if isinstance(value, float):
        return repr(float(value)).encode()
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise _unwritable(value, error) from None


def decimal(number: int) -> bytes:
    """The int in decimal, however long it is."""
    try:
        return b"%d" % number
    except ValueError:  # over the interpreter's limit, which guards against hostile input, not against sums
        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            return b"%d" % number
        finally:
            sys.set_int_max_str_digits(limit)


def escape_key(key: bytes) -> bytes:
    """The key's bytes as `text` writes them."""
    return _escape_lf(key).replace(b" ", b"\\s")


def escape_value(value: bytes) -> bytes:
    """The value's bytes as `text` writes them."""
    return _escape_lf(value)


def _escape_lf(data: bytes) -> bytes:
    return data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def _escape_tsv(data: bytes) -> bytes:
    return _escape_lf(data).replace(b"\t", b"\\t")


def _text_line(key: Any, value: Any) -> bytes:
    return b"%b %b\n" % (escape_key(key_bytes(key)), escape_value(value_bytes(value)))


def _tsv_line(key: Any, value: Any) -> bytes:
    return b"%b\t%b\n" % (_escape_tsv(key_bytes(key)), _escape_tsv(value_bytes(value)))


def _raw_line(key: Any, value: Any) -> bytes:
    return value_bytes(value) + b"\n"


def _record(key: Any, value: Any) -> bytes:
    return value_bytes(value)


def _json_line(key: Any, value: Any) -> bytes:
    if not isinstance(key, (str, bytes)):
        key_bytes(key)
    pair = {"key": key, "value": value}
    try:
        return orjson.dumps(pair, default=_json_bytes, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        if not isinstance(value, int):
            raise _unwritable(value, error) from None
        return orjson.dumps({"key": key, "value": orjson.Fragment(decimal(value))}, default=_json_bytes) + b"\n"


def _json_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _utf8(text: str, role: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRecord(f"a {role} is {text!r:.200}, which UTF-8 cannot write (a lone surrogate): emit bytes") from None


def _unwritable(value: Any, error: TypeError) -> BadRecord:
    return BadRecord(
        f"a value is of type {type(value).__name__}, which a part cannot hold ({error}): "
        "use str, bytes, int, float, bool, None, or lists and dicts of them"
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def _lines(blocks: Iterable[Any]) -> Iterator[bytes]:
    carry: list[bytes] = []
    for block in blocks:
        lines = bytes(block).split(b"\n")
        if len(lines) == 1:
            carry.append(lines[0])
            continue
        lines[0] = b"".join((*carry, lines[0]))
        carry = [lines.pop()]
        yield from lines
    last = b"".join(carry)
    if last:
        yield last


def _fixed(blocks: Iterable[Any], size: int, name: str) -> Iterator[bytes]:
    carry = b""
    for block in blocks:
        data = carry + bytes(block)
        whole = len(data) - len(data) % size
        for at in range(0, whole, size):
            yield data[at : at + size]
        carry = data[whole:]
    if carry:
        raise BadInput(f"{name}: ends inside a record: {len(carry)} of {size} bytes")


def _parse_text(line: bytes) -> tuple[Key, Key]:
    key, space, value = line.partition(b" ")
    if not space:
        raise ValueError("no space between key and value")
    return _readable(_unescape(key)), _readable(_unescape(value))


def _parse_tsv(line: bytes) -> tuple[Key, Key]:
    key, tab, value = line.partition(b"\t")
    if not tab:
        raise ValueError("no tab between key and value")
    return _readable(_unescape(key)), _readable(_unescape(value))


def _parse_raw(line: bytes) -> tuple[None, Key]:
    return None, _readable(line)


def _parse_json(line: bytes) -> tuple[Key, Any]:
    if _LONG_NUMBER.search(line):
        import json

        pair = json.loads(line, parse_int=_long_int)
    else:
        pair = orjson.loads(line)
    if not isinstance(pair, dict) or pair.keys() != {"key", "value"}:
        raise ValueError('not an object of "key" and "value"')
    return _from_base64(pair["key"]), _from_base64(pair["value"])


def _long_int(digits: str) -> int:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return int(digits)
    finally:
        sys.set_int_max_str_digits(limit)


def _from_base64(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("base64"), str):
            try:
                return base64.b64decode(value["base64"], validate=True)
            except binascii.Error:
                return value
        return {name: _from_base64(inner) for name, inner in value.items()}
    return [_from_base64(inner) for inner in value] if isinstance(value, list) else value


def _unescape(data: bytes) -> bytes:
    return _ESCAPED.sub(_meaning, data) if b"\\" in data else data


def _meaning(match: re.Match[bytes]) -> bytes:
    meaning = _MEANS.get(match[1])
    if meaning is None:
        raise ValueError(f"{match[0]!r} is not an escape")
    return meaning


def _readable(data: bytes) -> Key:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
