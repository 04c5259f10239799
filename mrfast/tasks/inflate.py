"""Streaming decompression of `.gz`, `.bz2` and `.zst` objects: many members or frames, bounded memory, clear errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial
from queue import SimpleQueue
from typing import Any

from mrfast.errors import BadInput
from mrfast.storage import ledger
from mrfast.zstd import zstd

CHUNK_BYTES = 256 << 10
BUFFERS = 4  # one that is filled, one that is used, and two between them

_NAMES = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}


def compression(path: str) -> str | None:
    """The name of the compression that the object's name announces ("gzip", "bzip2", "zstd"), or None."""
    dot = path.rfind(".")
    return _NAMES.get(path[dot:].lower()) if dot >= 0 else None


class Inflater:
    """The decompressed bytes of an object, read forward: `read_into(buffer)` fills as much as there is."""

    def __init__(self, name: str, path: str, read: Callable[[memoryview], int]):
        self._name = name
        self._path = path
        self._read = read
        self._make, self._errors = _decompressor(name, path)
        self._member: Any = None
        self._input = memoryview(bytearray(CHUNK_BYTES))
        self._pending: bytes = b""
        self._consumed = 0
        self._ended = False

    def read_into(self, buffer: memoryview) -> int:
        """The number of bytes put into `buffer`; fewer than its length only at the end, 0 past it."""
        filled = 0
        while filled < len(buffer):
            chunk = self._next(len(buffer) - filled)
            if chunk is None:
                break
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return filled

    def _next(self, room: int) -> bytes | None:
        """Up to `room` bytes, perhaps none yet; None at the end of the last member."""
        if self._member is None and not self._begin_member():
            return None
        if not self._pending and self._member.needs_input:
            self._fill()
            if self._ended:
                where = f"after {self._consumed:,} bytes, inside a {self._name} stream"
                raise BadInput(f"{self._path}: truncated: the object ends {where}")
        try:
            chunk: bytes = self._member.decompress(self._pending, room)
        except self._errors as error:
            raise BadInput(f"{self._path}: damaged {self._name} data before byte {self._consumed:,}: {error}") from None
        self._pending = b""
        if self._member.eof:
            self._pending = self._member.unused_data
            self._member = None
        return chunk

    def _begin_member(self) -> bool:
        """True with a fresh decompressor if there are more bytes; zeros after a gzip member are padding."""
        while True:
            if self._name == "gzip" and self._consumed > len(self._pending):
                self._pending = self._pending.lstrip(b"\0")
            if self._pending:
                self._member = self._make()
                return True
            if self._ended:
                return False
            self._fill()

    def _fill(self) -> None:
        count = self._read(self._input)
        self._ended = count == 0
        self._consumed += count
        self._pending = bytes(self._input[:count])


def on_a_thread(read_into: Callable[[memoryview], int], block_bytes: int) -> Generator[memoryview, None, None]:
    """What `read_into` gives, block after block, made on a thread of its own while the caller computes.

    A block is valid until the next; what `read_into` raises is raised here in its place.
    """
    free: SimpleQueue[memoryview | None] = SimpleQueue()
    full: SimpleQueue[tuple[memoryview, int] | BaseException] = SimpleQueue()
    for _ in range(BUFFERS):
        free.put(memoryview(bytearray(block_bytes)))
    phase = ledger.phase()

    def produce() -> None:
        try:
            with ledger.working(phase):
                while (buffer := free.get()) is not None:
                    count = read_into(buffer)
                    full.put((buffer, count))
                    if not count:
                        return
        except BaseException as error:  # noqa: BLE001 (raised in the caller's thread)
            full.put(error)

    thread = threading.Thread(target=produce, name="mrfast-inflate", daemon=True)
    thread.start()
    try:
        while True:
            made = full.get()
            if isinstance(made, BaseException):
                raise made
            buffer, count = made
            if not count:
                return
            yield buffer[:count]
            free.put(buffer)
    finally:
        free.put(None)
        thread.join()


def in_place(read_into: Callable[[memoryview], int], block_bytes: int) -> Generator[memoryview, None, None]:
    """As `on_a_thread`, in this one."""
    buffer = memoryview(bytearray(block_bytes))
    while count := read_into(buffer):
        yield buffer[:count]


class _Gunzip:
    """zlib's decompressor, or the quicker one of ISA-L, with the attributes that bz2's and zstd's have."""

    def __init__(self, zlib: Any) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        chunk: bytes = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # Full output may mean that zlib holds more of it, even when it has taken all of its input.
        self.needs_input = not self._stream.unconsumed_tail and len(chunk) < max_length
        return chunk

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)


def _decompressor(name: str, path: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor of one member, and what it raises on damaged data."""
    if name == "gzip":
        zlib: Any = gzip_module()
        return partial(_Gunzip, zlib), (zlib.error,)
    if name == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    try:
        module = zstd()
    except ImportError:
        raise BadInput(f'{path}: reading zstd needs a package: pip install "mrfast[zstd]"') from None
    return module.ZstdDecompressor, (module.ZstdError,)


def gzip_module() -> Any:
    """ISA-L's zlib, if the package `isal` is there: 2.5 times as fast; else the standard library's."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib
