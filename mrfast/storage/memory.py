"""A store in this process's memory, for tests; stores of one name share their objects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from mrfast.errors import AlreadyExists, NotFound, PreconditionFailed
from mrfast.storage.base import Buffers, ObjectInfo, Store, check_key, copy_through, join, shown


class _Bucket:
    """The objects of one name, and the lock that makes every call on them atomic."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.versions = 0

    def write(self, key: str, data: bytes) -> str:
        self.versions += 1
        etag = f"v{self.versions}"
        self.objects[key] = (data, etag)
        return etag


_BUCKETS: dict[str, _Bucket] = {}


class MemoryStore:
    """Objects in a dict; forked processes each have their own from the fork on."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._url = f"memory://{name}/{self._prefix}".rstrip("/")
        self._bucket = _BUCKETS.setdefault(name, _Bucket())

    @property
    def url(self) -> str:
        """`memory://name`, with the prefix if there is one."""
        return self._url

    @property
    def remote(self) -> bool:
        """False: reads do not begin with waiting."""
        return False

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects under the prefix, as they are now, in byte order."""
        full = self._prefix + prefix
        with self._bucket.lock:
            found = [
                (key, len(data), etag) for key, (data, etag) in self._bucket.objects.items() if key.startswith(full)
            ]
        found.sort(key=lambda item: item[0].encode("utf-8", "surrogateescape"))
        for key, size, etag in found:
            yield ObjectInfo(key[len(self._prefix) :], size, etag)

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and etag."""
        data, etag = self._get(key)
        return ObjectInfo(key, len(data), etag)

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes copied into the buffer."""
        data, found = self._get(key)
        if etag is not None and etag != found:
            raise PreconditionFailed(f"{self._shown(key)} has changed: its etag is {found}, not {etag}")
        view = memoryview(buffer).cast("B")
        piece = data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def put(self, key: str, chunks: Buffers, *, durable: bool = False) -> ObjectInfo:
        """The object written; nothing here is durable."""
        check_key(key)
        data = join(chunks)
        with self._bucket.lock:
            return ObjectInfo(key, len(data), self._bucket.write(self._prefix + key, data))

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        """The object written, if there was none."""
        check_key(key)
        body = join(data)
        with self._bucket.lock:
            if self._prefix + key in self._bucket.objects:
                raise AlreadyExists(f"{self._shown(key)} exists already")
            return ObjectInfo(key, len(body), self._bucket.write(self._prefix + key, body))

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        """The object written over the one with this etag."""
        check_key(key)
        body = join(data)
        with self._bucket.lock:
            there = self._bucket.objects.get(self._prefix + key)
            if there is None:
                raise NotFound(f"{self._shown(key)} does not exist")
            if there[1] != etag:
                raise PreconditionFailed(f"{self._shown(key)} has changed: its etag is {there[1]}, not {etag}")
            return ObjectInfo(key, len(body), self._bucket.write(self._prefix + key, body))

    def copy_to(self, key: str, other: Store, other_key: str) -> None:
        """Copies the object into any store."""
        copy_through(self, key, other, other_key)

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""
        check_key(key)
        with self._bucket.lock:
            self._bucket.objects.pop(self._prefix + key, None)

    def sweep(self, prefix: str) -> None:
        """Nothing: an object is here whole or not at all."""

    def _shown(self, key: str) -> str:
        return shown(f"{self.url}/{key}")

    def _get(self, key: str) -> tuple[bytes, str]:
        check_key(key)
        there = self._bucket.objects.get(self._prefix + key)
        if there is None:
            raise NotFound(f"{self._shown(key)} does not exist")
        return there
