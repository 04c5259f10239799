"""Whether a CSV object may be split: not if a quoted field holds a line end, as nobody finds a row from its middle."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from mrfast.control import ranges
from mrfast.tasks.prefetch import Prefetcher, object_parts
from mrfast.tasks.reader import BLOCK_BYTES, BOM

if TYPE_CHECKING:
    from mrfast.storage.base import Store


def csv_has_quoted_newlines(store: Store, key: str, size: int, etag: str | None = None) -> bool:
    """True if a quoted field of the CSV object holds a line end, so that it cannot be split at line ends."""
    quoted = False
    previous = b"\n"  # the byte before: a quote opens a field only at its start
    with closing(_object_blocks(store, key, size, etag)) as blocks:
        for place, view in enumerate(blocks):
            block = bytes(view).removeprefix(BOM) if place == 0 else bytes(view)
            parts = block.split(b'"')
            for number, part in enumerate(parts):
                if number:
                    # After the quote that closes, one more at once is an escaped quote: the field goes on.
                    quoted = not quoted and previous in (b",", b"\n", b"\r", b"closed")
                    previous = b"quote" if quoted else b"closed"
                if part:
                    if quoted and b"\n" in part:
                        return True
                    previous = part[-1:]
    return False


def _object_blocks(store: Store, key: str, size: int, etag: str | None) -> Generator[memoryview, None, None]:
    """The object's bytes, a block at a time, up to where it ends."""
    if not store.remote:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        position = 0
        while position < size and (count := store.read_into(key, position, buffer, etag)):
            yield buffer[:count]
            position += count
        return
    with Prefetcher(object_parts(store, key, size, etag)) as prefetcher:
        for _ in ranges.parts(0, size):
            part = prefetcher.take()
            for at in range(0, len(part), BLOCK_BYTES):
                yield part[at : at + BLOCK_BYTES]
