"""What every store can do, and the helpers that work on any of them.

A store maps keys (relative paths with `/`) to immutable objects. It never shows a half-written object: an object is
there whole, or not at all. Two calls are conditional, and races are decided by them alone: `put_if_absent` (one writer
wins) and `replace` (only over the object that the caller has seen).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import orjson

from mrfast.errors import StoreError

BytesLike: TypeAlias = bytes | bytearray | memoryview
Buffers: TypeAlias = BytesLike | Iterable[BytesLike]

COPY_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store knows it: another `etag` means other content."""

    key: str
    size: int
    etag: str


class Store(Protocol):
    """The calls that memory, a folder and S3 all answer, with the same results and the same errors."""

    @property
    def url(self) -> str:
        """Where the store is; `open_store(store.url)` opens it again, in any process that can reach it."""

    @property
    def remote(self) -> bool:
        """Whether reads begin with waiting, and are worth doing many at a time."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in the byte order of their keys."""

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and etag; NotFound."""

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes read: the buffer's length, less at the object's end, 0 past it.

        NotFound; PreconditionFailed if `etag` is given and the object has another one.
        """

    def put(self, key: str, chunks: Buffers, *, durable: bool = False) -> ObjectInfo:
        """The object written, whole or not at all, over whatever was there; `durable` survives a power cut."""

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        """The object written, durably, if there was none; AlreadyExists otherwise."""

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        """The object written, durably, over the one with this etag; PreconditionFailed (another is there), NotFound."""

    def copy_to(self, key: str, other: Store, other_key: str) -> None:
        """Copies the object, over whatever is at `other_key`; its bytes do not pass here where stores can do that."""

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""

    def sweep(self, prefix: str) -> None:
        """Removes what writers that were killed left unfinished right under `prefix`: "" or what ends with a slash.

        In a store of folders this one goes, too, if it is empty; of its parents none.
        """


def check_key(key: str) -> str:
    """The key itself, if no store could take it for something outside of itself; StoreError otherwise."""
    why = ""
    if not key:
        why = "is empty"
    elif "\0" in key:
        why = "has a NUL byte"
    elif key.startswith("/"):
        why = "begins with '/': keys are relative to their store"
    elif any(part in ("", ".", "..") for part in key.split("/")):
        why = "has an empty, '.' or '..' part: a key must not lead out of its store"
    elif not key.isascii() and not _is_encodable(key):
        why = "has half of a surrogate pair in it, which no store can write"
    if why:
        raise StoreError(f"the key {key[:200]!r} {why}")
    return key


def _is_encodable(key: str) -> bool:
    try:
        key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def iter_chunks(data: Buffers) -> Iterator[memoryview]:
    """The bytes of `data`, one buffer or many, as flat memoryviews that copy nothing."""
    try:
        views: Iterable[Any] = (memoryview(data),)  # type: ignore[arg-type]
    except TypeError:
        views = map(memoryview, data)  # type: ignore[arg-type]
    for view in views:
        yield view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def join(data: Buffers) -> bytes:
    """All of `data` as one bytes object; bytes are returned as they are."""
    if isinstance(data, bytes):
        return data
    # Piece by piece: an iterator may fill one buffer again and again.
    whole = bytearray()
    for piece in iter_chunks(data):
        whole += piece
    return bytes(whole)


def shown(name: str) -> str:
    """The name as an error message can hold it: in one line, and printable on any terminal."""
    return name if name.isprintable() else repr(name)


def object_url(store: Store, key: str) -> str:
    """The URL of one object of the store; `split_url` takes it apart again."""
    return f"{store.url.rstrip('/')}/{key}"


def read(store: Store, key: str) -> bytes:
    """The whole object, all of it from one version; for documents and other small objects."""
    info = store.stat(key)
    buffer = bytearray(info.size)
    got = store.read_into(key, 0, buffer, info.etag) if info.size else 0
    if got != info.size:
        raise StoreError(f"{shown(object_url(store, key))}: {got} of {info.size} bytes could be read; try again")
    return bytes(buffer)


def stream(store: Store, info: ObjectInfo, block_bytes: int = COPY_BLOCK_BYTES) -> Iterator[memoryview]:
    """The object's bytes, block after block, in one buffer that is used again: a block is valid until the next."""
    view = memoryview(bytearray(min(block_bytes, info.size)))
    offset = 0
    while offset < info.size:
        got = store.read_into(info.key, offset, view, info.etag)
        if not got:
            raise StoreError(f"{shown(object_url(store, info.key))}: the object ends at {offset} of {info.size} bytes")
        yield view[:got]
        offset += got


def copy_through(store: Store, key: str, other: Store, other_key: str) -> None:
    """Copies an object by reading and writing it, when the stores have no shorter way."""
    other.put(other_key, stream(store, store.stat(key)), durable=True)


def dump_json(document: Any) -> bytes:
    """The document as JSON bytes, the same for equal documents (sorted keys, one line, a line feed)."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def read_json(store: Store, key: str) -> Any:
    """The document that the object holds; StoreError if it is not JSON."""
    data = read(store, key)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"{shown(object_url(store, key))} is not the JSON document it should be: {error}") from error


def put_json(store: Store, key: str, document: Any) -> ObjectInfo:
    """The object with the document in it, written durably over whatever was there."""
    return store.put(key, dump_json(document), durable=True)
