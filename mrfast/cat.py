"""Reading back what a job wrote: a whole output, one part, or a map object, as pairs or as text."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain
from typing import Any

import orjson

from .errors import CorruptSegment, InputMissing, MrfastError, NotFound
from .model import part_name
from .storage import open_store, scheme_of, split_url
from .storage.base import Store, object_url, read_json, stream
from .tasks.inflate import Inflater, compression
from .tasks.writer import formatter, key_bytes, parse

SUCCESS_KEY = "_SUCCESS"
MAP_OBJECT_BEGINS = b"MRFASTMAP1 "
INDEX_BYTES_GUESS = 64 << 10
WRITE_BYTES = 1 << 18

Pair = tuple[Any, Any]


def cat(url: str, *, jsonl: bool = False) -> Iterator[bytes]:
    """The bytes to print for a URL or path: a whole output, a part or a map object; InputMissing if it is none."""
    document = finished_output(url)
    if document is not None:
        if jsonl:
            yield from _json_lines(read_output(url, document))
            return
        for name in _names(document):
            yield from part_blocks(f"{url.rstrip('/')}/{name}")
        return
    root, key = split_url(url)
    store = open_store(root)
    try:
        info = store.stat(key)
    except NotFound:
        raise InputMissing(f"{url}: no such part or map object, and no output of a finished job") from None
    head = bytearray(min(len(MAP_OBJECT_BEGINS), info.size))
    store.read_into(key, 0, head)
    if head == MAP_OBJECT_BEGINS:
        pairs = _map_object(store, key, info.size)
        yield from _json_lines(pairs) if jsonl else _text_lines(pairs)
    elif jsonl:
        output, record_bytes = _format_of(url)
        yield from _json_lines(parse(part_blocks(url), output, record_bytes=record_bytes, name=url))
    else:
        yield from part_blocks(url)


def read_output(url: str, document: dict[str, Any]) -> Iterator[Pair]:
    """The (key, value) pairs of all parts of a finished output, in order of partition and key."""
    for pairs in _read_parts(url, document):
        yield from pairs


def read_merged(url: str, document: dict[str, Any]) -> Iterator[Pair]:
    """The same in order of their keys' bytes, as each part is; those of a raw output, which has none, as above."""
    parts = _read_parts(url, document)
    if document["app"]["output"] == "raw":
        yield from chain.from_iterable(parts)
    else:
        yield from merge(*parts, key=lambda pair: key_bytes(pair[0]))


def _read_parts(url: str, document: dict[str, Any]) -> Iterator[Iterator[Pair]]:
    """The pairs of each part; a part is opened when its first one is asked for."""
    output, record_bytes = _format(document)
    for name in _names(document):
        part = f"{url.rstrip('/')}/{name}"
        yield parse(part_blocks(part), output, record_bytes=record_bytes, name=part)


def part_blocks(url: str) -> Iterator[bytes]:
    """The bytes of one object, a block after the other; decompressed, if its name says that it is compressed."""
    root, key = split_url(url)
    store = open_store(root)
    info = store.stat(key)
    packed = compression(key)
    if packed is None:
        for block in stream(store, info):
            yield bytes(block)
        return
    at = 0

    def read(buffer: memoryview) -> int:
        nonlocal at
        count = store.read_into(key, at, buffer, info.etag)
        at += count
        return count

    inflater, view = Inflater(packed, url, read), memoryview(bytearray(WRITE_BYTES))
    while count := inflater.read_into(view):
        yield bytes(view[:count])


def finished_output(url: str) -> dict[str, Any] | None:
    """The `_SUCCESS` document of the output at the URL; None if it is not a folder or prefix of that kind."""
    local = scheme_of(url) == "file"
    if local and not os.path.isdir(url.removeprefix("file://")):
        return None
    try:
        document = read_json(open_store(url), SUCCESS_KEY)
    except NotFound:
        if local:
            raise InputMissing(f"{url}: a folder without {SUCCESS_KEY}: no output of a finished job") from None
        return None
    if not isinstance(document, dict) or "parts" not in document:
        raise MrfastError(f"{url}/{SUCCESS_KEY} was not written by mrfast")
    return document


def _names(document: dict[str, Any]) -> list[str]:
    return [part_name(part["partition"], document.get("compress", "")) for part in document["parts"]]


def _format(document: dict[str, Any]) -> tuple[str, int]:
    """How the parts are written: the name of the format, and the length of fixed-size records or 0."""
    app = document["app"]
    return app["output"], app["cut"]["record_bytes"]


def _format_of(url: str) -> tuple[str, int]:
    """The same for one part, from the `_SUCCESS` beside it; without one it is taken for text."""
    folder = url.rpartition("/")[0] or "."
    try:
        document = finished_output(folder)
    except InputMissing:
        document = None
    return ("text", 0) if document is None else _format(document)


def _map_object(store: Store, key: str, size: int) -> Iterator[Pair]:
    """The pairs of a map object, partition after partition."""
    from . import core

    need = min(size, INDEX_BYTES_GUESS)
    try:
        index = core.read_index(_range(store, key, size - need, need), size, key)
    except ValueError as error:
        need = int(error.args[0])
        index = core.read_index(_range(store, key, size - need, need), size, key)
    for partition in range(index.partitions):
        offset, length, records, xxh3 = index.segment(partition)
        if not records:
            continue
        data = _range(store, key, offset, length)
        if core.xxh3_64(data) != xxh3:
            raise CorruptSegment(object_url(store, key), partition, offset, "its checksum does not match")
        if raw := index.raw(partition):
            from .tasks.packed import FrameError, unpacked

            try:
                data = b"".join(unpacked([data], raw))
            except FrameError as error:
                raise CorruptSegment(object_url(store, key), partition, offset, str(error)) from None
        yield from core.read_segment(data, index.key_kind)


def _range(store: Store, key: str, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    got = 0
    with memoryview(buffer) as view:
        while got < length and (count := store.read_into(key, offset + got, view[got:])):
            got += count
    return bytes(buffer[:got])


def _text_lines(pairs: Iterable[Pair]) -> Iterator[bytes]:
    line = formatter("text")
    return _chunks(line(key, value) for key, value in pairs)


def _json_lines(pairs: Iterable[Pair]) -> Iterator[bytes]:
    return _chunks(_json_line(key, value) for key, value in pairs)


def _json_line(key: Any, value: Any) -> bytes:
    pair = {"value": value} if key is None else {"key": key, "value": value}  # a raw part has no keys
    try:
        return orjson.dumps(pair, default=_json_bytes, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # an integer of over 64 bits
        return formatter("jsonl")(key, value)


def _json_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        raise TypeError(type(value).__name__)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    chunk = bytearray()
    for line in lines:
        chunk += line
        if len(chunk) >= WRITE_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
