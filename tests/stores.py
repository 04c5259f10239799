"""Helpers of the store tests."""

from __future__ import annotations

from mrfast.storage import Store

SEAWEEDFS = "s3://seaweedfs/"  # what the URLs of stores in SeaweedFS begin with


def filled(store: Store, key: str, size: int, offset: int = 0, etag: str | None = None) -> bytes:
    """What a read of up to `size` bytes puts into a buffer; the rest of it must stay untouched."""
    buffer = bytearray(b"\xff" * size)
    got = store.read_into(key, offset, buffer, etag)
    assert bytes(buffer[got:]) == b"\xff" * (size - got)
    return bytes(buffer[:got])
