"""Reading an output again, to see whether it is still what its job wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xxhash

from .cat import finished_output
from .errors import InputMissing, MrfastError, NotFound
from .model import part_name
from .storage import open_store
from .storage.abreast import Abreast
from .storage.base import Store, object_url, stream

PARTS_AT_ONCE = 8  # each with a block of its own


@dataclass(frozen=True)
class Fault:
    """A part that is not as `_SUCCESS` says: which one, in which range of its bytes, and why."""

    url: str
    start: int
    stop: int
    why: str

    def __str__(self) -> str:
        return f"{self.url}: bytes {self.start:,} to {self.stop:,}: {self.why}"


@dataclass(frozen=True)
class Verified:
    """What was read again, and what was wrong with it: nothing, it is to be hoped."""

    parts: int
    bytes: int
    faults: tuple[Fault, ...]


def verify(url: str) -> Verified:
    """Whether every part of the finished output has the size and the xxh3 that its `_SUCCESS` says."""
    document = finished_output(url)
    if document is None:
        raise InputMissing(f"{url}: no output of a finished job")
    store, parts = open_store(url), document["parts"]
    with Abreast(PARTS_AT_ONCE, remote=store.remote) as reads:
        compress = document.get("compress", "")

        def check(part: dict[str, Any]) -> Fault | None:
            return _fault(store, part, part_name(part["partition"], compress))

        found = [fault for _, fault in reads.each(parts, check, lambda part: 1)]
    return Verified(len(parts), sum(part["size"] for part in parts), tuple(fault for fault in found if fault))


def _fault(store: Store, part: dict[str, Any], name: str) -> Fault | None:
    size = int(part["size"])
    where, done, digest = object_url(store, name), 0, xxhash.xxh3_64()
    try:
        info = store.stat(name)
        if info.size != size:
            first, last = sorted((info.size, size))
            return Fault(where, first, last, f"it has {info.size:,} bytes, and had {size:,}")
        for block in stream(store, info):
            digest.update(block)
            done += len(block)
    except NotFound:
        return Fault(where, 0, size, "it is not there")
    except MrfastError as error:
        return Fault(where, done, size, f"it cannot be read: {error}")
    if digest.hexdigest() != part["xxh3"]:
        return Fault(where, 0, size, f"its xxh3 is {digest.hexdigest()}, and was {part['xxh3']}")
    return None
