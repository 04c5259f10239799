"""The bytes between coordinator and workers: JSON-RPC 2.0, a document a line, with bounds checked before parsing.

A document is at most 1 MiB and nested at most 32 deep, names no key twice, and is read by a strict schema. Whatever
arrives, the only exception that reading raises is BadFrame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from mrfast import errors
from mrfast.control.schema import BadFrame, decode, encode
from mrfast.errors import BoundPassed, CorruptSegment, MrfastError
from mrfast.model import FRAME_BYTES_MAX

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "NESTING_MAX",
    "PARSE_ERROR",
    "BadFrame",
    "ErrorReply",
    "Reply",
    "Request",
    "decode",
    "dumps",
    "encode",
    "error",
    "error_from_wire",
    "error_to_wire",
    "loads",
    "parse",
    "parse_document",
    "request",
    "response",
]

NESTING_MAX = 32
PLAIN_BYTES_MAX = 1 << 14
ID_CHARS_MAX = 64
METHOD = re.compile(r"[a-z_]{1,40}", re.ASCII)
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
APPLICATION_ERROR = -32000

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_BRACKET = bytes.maketrans(b"{}", b"[]")

T = TypeVar("T")
Id = int | str


@dataclass(frozen=True, slots=True)
class Request:
    """A call: `params` are by name and not yet checked."""

    id: Id
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A call's result, not yet checked."""

    id: Id
    result: Any


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A call's error, as the exception to raise; `id` is None where the call could not be read."""

    id: Id | None
    error: MrfastError
    code: int


@dataclass(frozen=True, slots=True)
class _Corrupt:
    object: str
    partition: int
    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class _Error:
    type: str
    message: str
    exit_code: int
    corrupt: _Corrupt | None = None


# Documents


def dumps(value: Any) -> bytes:
    """A dataclass, or a JSON value with dataclasses in it, as JSON text of any size (a file of the store)."""
    return orjson.dumps(encode(value))


def loads(cls: type[T], data: bytes) -> T:
    """The `cls` in a JSON text of any size; BadFrame if it is not exactly one."""
    return decode(cls, parse_document(data, bytes_max=None))


def parse_document(data: bytes, bytes_max: int | None = FRAME_BYTES_MAX) -> Any:
    """The value of one JSON document; size, nesting and keys named twice are BadFrame, as is any other fault."""
    if bytes_max is not None and len(data) > bytes_max:
        raise BadFrame(f"a document of {len(data):,} bytes; at most {bytes_max:,} are allowed")
    # What our own side writes is known by writing it again, in a third of the time of looking for what must not be.
    if len(data) <= PLAIN_BYTES_MAX and data.count(b"{") + data.count(b"[") <= NESTING_MAX:
        try:
            value = orjson.loads(data)
            if orjson.dumps(value) == data.removesuffix(b"\n"):
                return value
        except (TypeError, ValueError):
            pass  # what is wrong with it is said below
    bare = _STRING.sub(b"", data)
    if _deeper_than(bare, NESTING_MAX):
        raise BadFrame(f"a document that is nested over {NESTING_MAX} deep, or not closed")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadFrame(f"not JSON: {error}") from None
    if bare.count(b":") != _keys(value):
        raise BadFrame("an object names a key twice")
    return value


def _deeper_than(bare: bytes, depth_max: int) -> bool:
    """Whether brackets remain when the innermost pairs were taken away `depth_max` times."""
    brackets = bare.translate(_ONE_BRACKET, _NOT_BRACKETS)
    for _ in range(depth_max):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _keys(value: Any) -> int:
    if type(value) is dict:
        return len(value) + sum(_keys(item) for item in value.values() if type(item) in (dict, list))
    if type(value) is list:
        return sum(_keys(item) for item in value if type(item) in (dict, list))
    return 0


# Calls


def request(id: Id, method: str, params: dict[str, Any]) -> bytes:
    """The line of a call; BoundPassed if it is too long to send."""
    return _line({"jsonrpc": "2.0", "id": id, "method": method, "params": encode(params)})


def response(id: Id, result: Any) -> bytes:
    """The line of a call's result."""
    return _line({"jsonrpc": "2.0", "id": id, "result": encode(result)})


def error(id: Id | None, raised: BaseException, code: int = APPLICATION_ERROR) -> bytes:
    """The line of a call's error; a long message is cut."""
    data = error_to_wire(raised)
    return _line({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": data["type"], "data": data}})


def _line(document: dict[str, Any]) -> bytes:
    line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    if len(line) > FRAME_BYTES_MAX:
        raise BoundPassed(
            f"a message of {len(line):,} bytes; at most {FRAME_BYTES_MAX:,} can be sent: send it in pages"
        )
    return line


def parse(line: bytes) -> Request | Reply | ErrorReply:
    """What one line says."""
    document = parse_document(line)
    if type(document) is not dict or document.pop("jsonrpc", None) != "2.0":
        raise BadFrame("not a JSON-RPC 2.0 document")
    fields = document.keys()
    if fields == {"id", "method", "params"}:
        method, params = document["method"], document["params"]
        if type(method) is not str or not METHOD.fullmatch(method) or type(params) is not dict:
            raise BadFrame("a call without a proper method or without params by name")
        return Request(_id(document["id"]), method, params)
    if fields == {"id", "result"}:
        return Reply(_id(document["id"]), document["result"])
    if fields == {"id", "error"}:
        return _error_reply(document["id"], document["error"])
    raise BadFrame(f"a document with the fields {ascii(sorted(fields))[:200]}")


def _id(value: Any) -> Id:
    if (type(value) is int and 0 <= value <= 1 << 53) or (type(value) is str and len(value) <= ID_CHARS_MAX):
        return value
    raise BadFrame("a call without a proper id")


def _error_reply(id: Any, value: Any) -> ErrorReply:
    if type(value) is not dict or value.keys() != {"code", "message", "data"}:
        raise BadFrame("an error without code, message and data")
    code = decode(int, value["code"])
    decode(str, value["message"])
    return ErrorReply(None if id is None else _id(id), error_from_wire(value["data"]), code)


# Errors

_MESSAGE_CHARS_MAX = 100_000
_EXIT_CODES = range(1, 256)
_CLASSES: dict[str, type[MrfastError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, MrfastError) and found.__module__ == errors.__name__
}


def error_to_wire(raised: BaseException) -> dict[str, Any]:
    """{type, message, exit_code} of an exception; one that is not of mrfast keeps its name in the message."""
    if isinstance(raised, CorruptSegment):
        where = _Corrupt(raised.object, raised.partition, raised.offset, raised.why)
        return _encode_error(_Error("CorruptSegment", _cut(str(raised)), raised.exit_code, where))
    if isinstance(raised, MrfastError):
        name = next(cls.__name__ for cls in type(raised).__mro__ if _CLASSES.get(cls.__name__) is cls)
        return _encode_error(_Error(name, _cut(str(raised)), raised.exit_code))
    return _encode_error(_Error("MrfastError", _cut(f"{type(raised).__name__}: {raised}"), MrfastError.exit_code))


def error_from_wire(value: Any) -> MrfastError:
    """The exception that was sent, of its own class; MrfastError if this side does not know that class."""
    sent = decode(_Error, value)
    if sent.corrupt is not None and sent.type == "CorruptSegment":
        where = sent.corrupt
        return CorruptSegment(where.object, where.partition, where.offset, where.why)
    cls = _CLASSES.get(sent.type, MrfastError)
    made = MrfastError(sent.message) if cls is CorruptSegment else cls(sent.message)
    if made.exit_code != sent.exit_code and sent.exit_code in _EXIT_CODES:
        made.exit_code = sent.exit_code
    return made


def _encode_error(sent: _Error) -> dict[str, Any]:
    encoded: dict[str, Any] = encode(sent)
    return encoded


def _cut(message: str) -> str:
    if len(message) <= _MESSAGE_CHARS_MAX:
        return message
    half = _MESSAGE_CHARS_MAX // 2
    return f"{message[:half]} ... {message[-half:]}"
