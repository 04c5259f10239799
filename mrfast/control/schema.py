"""Frozen dataclasses to JSON values and back, by their type hints: nothing is guessed, nothing is let through.

str      a string; one with lone surrogates (an undecodable file name) is {"b64": base64 of it, surrogatepass}
int      a number within +-2^53, else a string of decimal digits
float    a number; NaN and the infinities are refused
bytes    base64
tuple    an array; dataclass: an object with exactly the known fields (those with a default may be missing)
dict     (str keys) an object; an array of [key, value] pairs if a key has lone surrogates
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from mrfast.errors import MrfastError

EXACT_INT_MAX = 1 << 53
INT_DIGITS_MAX = 100
_DIGITS = re.compile(rf"-?[1-9][0-9]{{0,{INT_DIGITS_MAX - 1}}}", re.ASCII)

T = TypeVar("T")


class BadFrame(MrfastError):  # noqa: N818 - named like its siblings in errors
    """Bytes from the wire are not a document of the expected form; nothing of it was used."""


class Codec(NamedTuple):
    """How one type is written and read; `write` raises TypeError or ValueError, `read` raises BadFrame."""

    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]


def encode(value: Any) -> Any:
    """A JSON value for a dataclass, by its schema; for anything else the same for all dataclasses inside it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return codec_of(type(value)).write(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only str keys can cross the wire")
        return _write_items({key: encode(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if value is None:
        return None
    return codec_of(type(value)).write(value)


def decode(cls: type[T], value: Any) -> T:
    """The `cls` that was encoded as this JSON value; BadFrame if it is not exactly one."""
    decoded: T = codec_of(cls).read(value, getattr(cls, "__name__", str(cls)))
    return decoded


def codec_of(hint: Any) -> Codec:
    """The codec of a type hint; TypeError for a type that cannot cross the wire."""
    codec = _CODECS.get(hint)
    if codec is None:
        codec = _CODECS[hint] = _make_codec(hint)
    return codec


def _make_codec(hint: Any) -> Codec:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_codec(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _many_codec(codec_of(args[0]))
    if origin is tuple:
        return _tuple_codec([codec_of(arg) for arg in args])
    if origin is dict and args[0] is str:
        return _dict_codec(codec_of(args[1]))
    if origin in (typing.Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return _optional_codec(codec_of(args[0]))
    raise TypeError(f"{hint} cannot cross the wire")


def _refuse(at: str, wanted: str, value: Any) -> BadFrame:
    shown = ascii(value) if isinstance(value, (int, float, bool, type(None))) else type(value).__name__
    return BadFrame(f"{at}: {wanted} expected, got {shown[:100]}")


def _exactly(kind: type, value: Any) -> None:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, got {type(value).__name__}")


def is_clean(text: str) -> bool:
    """Whether a string is valid Unicode: without lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_str(value: str) -> Any:
    _exactly(str, value)
    return value if is_clean(value) else {"b64": b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _read_str(value: Any, at: str) -> str:
    if type(value) is str:
        return value
    if type(value) is not dict or list(value) != ["b64"]:
        raise _refuse(at, "a string", value)
    try:
        text = _read_bytes(value["b64"], at).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise BadFrame(f"{at}: {error}") from None
    if is_clean(text):
        raise BadFrame(f"{at}: a plain string in its escaped form")
    return text


def _write_int(value: int) -> Any:
    _exactly(int, value)
    if -EXACT_INT_MAX <= value <= EXACT_INT_MAX:
        return value
    if value.bit_length() > 3 * INT_DIGITS_MAX:
        raise ValueError(f"an integer of {value.bit_length()} bits cannot cross the wire")
    return str(value)


def _read_int(value: Any, at: str) -> int:
    if type(value) is int and -EXACT_INT_MAX <= value <= EXACT_INT_MAX:
        return value
    if type(value) is str and _DIGITS.fullmatch(value):
        number = int(value)
        if abs(number) > EXACT_INT_MAX:
            return number
    raise _refuse(at, "an integer", value)


def _write_float(value: float) -> float:
    _exactly(float, value)
    if not isfinite(value):
        raise ValueError(f"{value} cannot cross the wire")
    return value


def _read_float(value: Any, at: str) -> float:
    if type(value) is float and isfinite(value):
        return value
    if type(value) is int and -EXACT_INT_MAX <= value <= EXACT_INT_MAX:
        return float(value)
    raise _refuse(at, "a number", value)


def _write_bool(value: bool) -> bool:
    _exactly(bool, value)
    return value


def _read_bool(value: Any, at: str) -> bool:
    if type(value) is not bool:
        raise _refuse(at, "true or false", value)
    return value


def _write_bytes(value: bytes) -> str:
    _exactly(bytes, value)
    return b64encode(value).decode()


def _read_bytes(value: Any, at: str) -> bytes:
    if type(value) is not str:
        raise _refuse(at, "base64", value)
    try:
        data = a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise BadFrame(f"{at}: not base64: {error}") from None
    if b64encode(data).decode() != value:
        raise BadFrame(f"{at}: not the usual base64 form")
    return data


_CODECS: dict[Any, Codec] = {  # grows as types are met; their number is that of the program's dataclasses
    str: Codec(_write_str, _read_str),
    int: Codec(_write_int, _read_int),
    float: Codec(_write_float, _read_float),
    bool: Codec(_write_bool, _read_bool),
    bytes: Codec(_write_bytes, _read_bytes),
}


def _many_codec(item: Codec) -> Codec:
    def write(value: tuple[Any, ...]) -> list[Any]:
        _exactly(tuple, value)
        return [item.write(element) for element in value]

    def read(value: Any, at: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _refuse(at, "an array", value)
        inside = at + "[]"
        return tuple([item.read(element, inside) for element in value])

    return Codec(write, read)


def _tuple_codec(items: list[Codec]) -> Codec:
    def write(value: tuple[Any, ...]) -> list[Any]:
        _exactly(tuple, value)
        return [item.write(element) for item, element in zip(items, value, strict=True)]

    def read(value: Any, at: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(items):
            raise _refuse(at, f"an array of {len(items)}", value)
        return tuple(
            item.read(element, f"{at}[{i}]") for i, (item, element) in enumerate(zip(items, value, strict=True))
        )

    return Codec(write, read)


def _write_items(value: dict[str, Any]) -> Any:
    if all(map(is_clean, value)):
        return value
    return [[_write_str(key), item] for key, item in value.items()]


def _dict_codec(item: Codec) -> Codec:
    def write(value: dict[str, Any]) -> Any:
        _exactly(dict, value)
        for key in value:
            _exactly(str, key)
        return _write_items({key: item.write(element) for key, element in value.items()})

    def read(value: Any, at: str) -> dict[str, Any]:
        if type(value) is dict:
            return {key: item.read(element, f"{at}[{key[:40]!r}]") for key, element in value.items()}
        if type(value) is not list or not all(type(pair) is list and len(pair) == 2 for pair in value):
            raise _refuse(at, "an object", value)
        pairs = [(_read_str(key, at), item.read(element, at)) for key, element in value]
        read_back = dict(pairs)
        if len(read_back) != len(pairs) or all(map(is_clean, read_back)):
            raise BadFrame(f"{at}: pairs with a key twice, or that could be an object")
        return read_back

    return Codec(write, read)


def _optional_codec(item: Codec) -> Codec:
    def write(value: Any) -> Any:
        return None if value is None else item.write(value)

    def read(value: Any, at: str) -> Any:
        return None if value is None else item.read(value, at)

    return Codec(write, read)


def _dataclass_codec(cls: type) -> Codec:
    hints = typing.get_type_hints(cls)
    codecs = {field.name: codec_of(hints[field.name]) for field in dataclasses.fields(cls)}
    writes = [(name, codec.write) for name, codec in codecs.items()]
    reads = {name: (codec.read, f"{cls.__name__}.{name}") for name, codec in codecs.items()}
    required = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def write(value: Any) -> dict[str, Any]:
        _exactly(cls, value)
        return {name: write_field(getattr(value, name)) for name, write_field in writes}

    def read(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise _refuse(at, f"an object ({cls.__name__})", value)
        fields = {}
        for name, item in value.items():
            if name not in reads:
                raise BadFrame(f"{at}: unknown field {ascii(name)[:60]} of {cls.__name__}")
            read_field, inside = reads[name]
            fields[name] = read_field(item, inside)
        if not required <= fields.keys():
            raise BadFrame(f"{at}: {cls.__name__} without {', '.join(sorted(required - fields.keys()))}")
        try:
            return cls(**fields)
        except ValueError as error:  # the class's own check
            raise BadFrame(f"{at}: {error}") from None

    return Codec(write, read)
