"""Map outputs that later jobs may use: found by what made them, checked, and adopted as if just reported.

    reuse/<digest of app, R and pieces>    names a map object that stays where its job wrote it, and what it holds

A name is put after its map was accepted, and removes nothing: one whose object is gone, or is another one, is no more
than a map that has to run. What an app reads besides its input and its file is not in the digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson
import xxhash

from mrfast.control.outputs import index_at_end
from mrfast.control.schema import decode, encode
from mrfast.errors import MrfastError, NotFound
from mrfast.index import SegmentIndex
from mrfast.model import AppInfo, MapReport, Piece
from mrfast.storage.abreast import each_of
from mrfast.storage.base import Store, dump_json

PREFIX = "reuse/"
FORMAT = 2  # of map objects and of these names
BATCH = 64
NAME_BYTES_MAX = 64 << 10
# An index has up to 18 bytes a partition where no segment is over 256 MiB, and little around them.
TAIL_BYTES_PER_PARTITION, TAIL_BYTES = 18, 256


@dataclass(frozen=True, slots=True)
class Kept:
    """A map output of an earlier job: its object's key, its report, the digest of its segments, and its index."""

    object: str
    report: MapReport
    digest: str
    index: SegmentIndex


def name_of(app: AppInfo, reduces: int, pieces: tuple[Piece, ...]) -> str:
    """The key under which the output of this map is found; empty if an input has no ETag to tell it by."""
    if not all(piece.etag for piece in pieces):
        return ""
    made_of = [FORMAT, encode(app), reduces, [encode(piece) for piece in pieces]]
    return PREFIX + xxhash.xxh3_128_hexdigest(orjson.dumps(made_of, option=orjson.OPT_SORT_KEYS))


def entry(object: str, report: MapReport, digest: str) -> bytes:
    """What stands at a name."""
    return dump_json({"object": object, "report": encode(replace(report, index=b"")), "digest": digest})


def look(store: Store, app: AppInfo, reduces: int, tasks: Iterable[tuple[Piece, ...]]) -> dict[int, Kept]:
    """Those of the maps' outputs that are there and whole, by map index."""
    names = {index: name for index, pieces in enumerate(tasks) if (name := name_of(app, reduces, pieces))}

    def one(item: tuple[int, str]) -> tuple[int, Kept | None]:
        index, name = item
        return index, _kept(store, name, reduces)

    return {index: kept for index, kept in each_of(store, one, names.items()) if kept is not None}


def put(store: Store, entries: Iterable[tuple[str, bytes]]) -> None:
    """Writes the names; what finds no place there is only not used again."""

    def one(item: tuple[str, bytes]) -> None:
        with suppress(MrfastError):
            store.put(*item)

    each_of(store, one, entries)


def forget(store: Store) -> int:
    """How many objects were removed: all names, and the map objects that they name."""
    names = [info.key for info in store.list(PREFIX)]

    def one(name: str) -> int:
        found = _read(store, name)
        for key in ([found["object"]] if found is not None else []) + [name]:
            store.delete(key)
        return 1 + (found is not None)

    return sum(each_of(store, one, names))


def _read(store: Store, name: str) -> dict[str, Any] | None:
    buffer = bytearray(NAME_BYTES_MAX)
    try:
        found = orjson.loads(memoryview(buffer)[: store.read_into(name, 0, buffer)])
    except (NotFound, orjson.JSONDecodeError):
        return None
    right = isinstance(found, dict) and isinstance(found.get("object"), str) and found["object"].startswith("jobs/")
    return found if right else None


def _kept(store: Store, name: str, reduces: int) -> Kept | None:
    found = _read(store, name)
    if found is None:
        return None
    try:
        report = decode(MapReport, found["report"])
        tail = TAIL_BYTES_PER_PARTITION * reduces + TAIL_BYTES
        index = index_at_end(store, found["object"], report.size, tail)
    except (MrfastError, KeyError):  # the map runs, and says what is wrong with the store
        return None
    if index.digest() != found.get("digest") or index.partitions != reduces:
        return None
    return Kept(found["object"], report, index.digest(), index)
