"""One bucket for everybody, and each host's line to it: errors before and after the effect, flipped and cut reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mrfast.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError
from mrfast.storage.base import Buffers, ObjectInfo, join

from .world import World


class Killed(BaseException):
    """The host dies in the middle of what it is doing."""


class Bucket:
    """The objects of both stores, the job's and the output's."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.on_change: Callable[[str, bytes | None], None] = lambda key, data: None
        self._etags = 0

    def write(self, key: str, data: bytes) -> str:
        self.on_change(key, data)
        self._etags += 1
        etag = f"e{self._etags}"
        self.objects[key] = data, etag
        return etag

    def remove(self, key: str) -> None:
        if key in self.objects:
            self.on_change(key, None)
            del self.objects[key]


@dataclass
class StoreFaults:
    """How often, of all calls."""

    before: float = 0.0  # an error, and nothing has happened
    after: float = 0.0  # an error, though it has happened
    flip: float = 0.0  # a read with one bit wrong
    cut: float = 0.0  # a read that ends early
    full: float = 0.0  # a write that finds no room


class SimStore:
    """A host's view of the bucket under a prefix; `mrfast.storage.base.Store`."""

    def __init__(self, world: World, bucket: Bucket, prefix: str, faults: StoreFaults) -> None:
        self.url, self.remote = f"sim://{prefix}", False
        self.faults = faults
        self.die_at = -1  # the call that kills its host
        self._world = world
        self._bucket = bucket
        self._prefix = prefix + "/"
        self._watched = False

    @contextmanager
    def without_faults(self) -> Iterator[None]:
        """Within it nothing happens to a call, and no chance is drawn for it: for those who look on."""
        before, self._watched = self._watched, True
        try:
            yield
        finally:
            self._watched = before

    def _before(self, *, write: bool = False) -> None:
        if self._watched:
            return
        if self.die_at >= 0:
            self.die_at -= 1
            if self.die_at < 0:
                raise Killed
        if self._world.chance(self.faults.before):
            raise StoreError("503 SlowDown")
        if write and self._world.chance(self.faults.full):
            raise StoreError("no space left on device")

    def _after(self) -> None:
        if self._watched:
            return
        if self._world.chance(self.faults.after):
            raise StoreError("connection reset by peer")

    def _get(self, key: str) -> tuple[bytes, str]:
        found = self._bucket.objects.get(self._prefix + key)
        if found is None:
            raise NotFound(key)
        return found

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._before()
        whole = self._prefix + prefix
        keys = sorted(key for key in self._bucket.objects if key.startswith(whole))
        for key in keys:
            data, etag = self._bucket.objects[key]
            yield ObjectInfo(key[len(self._prefix) :], len(data), etag)

    def stat(self, key: str) -> ObjectInfo:
        self._before()
        data, etag = self._get(key)
        return ObjectInfo(key, len(data), etag)

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        self._before()
        data, its = self._get(key)
        if etag is not None and etag != its:
            raise PreconditionFailed(key)
        piece = bytearray(data[offset : offset + len(buffer)])
        if piece and "/inter/" in key:
            if self._world.chance(self.faults.flip):
                piece[self._world.random.randrange(len(piece))] ^= 1 << self._world.random.randrange(8)
            if self._world.chance(self.faults.cut):
                del piece[self._world.random.randrange(len(piece)) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def put(self, key: str, chunks: Buffers, *, durable: bool = False) -> ObjectInfo:
        self._before(write=True)
        data = join(chunks)
        etag = self._bucket.write(self._prefix + key, data)
        self._after()
        return ObjectInfo(key, len(data), etag)

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        self._before(write=True)
        if self._prefix + key in self._bucket.objects:
            raise AlreadyExists(key)
        etag = self._bucket.write(self._prefix + key, join(data))
        self._after()
        return ObjectInfo(key, 0, etag)

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        self._before(write=True)
        if self._get(key)[1] != etag:
            raise PreconditionFailed(key)
        etag = self._bucket.write(self._prefix + key, join(data))
        self._after()
        return ObjectInfo(key, 0, etag)

    def copy_to(self, key: str, other: SimStore, other_key: str) -> None:
        self._before()
        other.put(other_key, self._get(key)[0])

    def delete(self, key: str) -> None:
        self._before()
        self._bucket.remove(self._prefix + key)
        self._after()

    def sweep(self, prefix: str) -> None:
        self._before()
