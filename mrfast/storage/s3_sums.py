"""Sums of bodies as S3 writes them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from mrfast.core import crc32c
from mrfast.storage.s3_http import Reply


def checksum(body: Sequence[memoryview]) -> str:
    """The CRC-32C of the body as S3 writes it."""
    crc = 0
    for piece in body:
        crc = crc32c(piece, crc)
    return b64encode(crc.to_bytes(4, "big")).decode()


def whole_sum(first: Reply, size: int) -> str:
    """The CRC-32C of an object of this size, if the answer gives it, and says that it is not one of parts' sums."""
    said = first.headers
    total = said.get("content-range", "").rpartition("/")[2] or said.get("content-length")
    whole = total == str(size) and said.get("x-amz-checksum-type") == "FULL_OBJECT"
    return said.get("x-amz-checksum-crc32c", "") if whole else ""
