"""One object written to a store while it is being made, with its size and digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from mrfast.storage.base import Store


class _MakerFailed(BaseException):
    """What makes the bytes has failed; the store is not to take that for an error of its own."""


def upload(store: Store, key: str, chunks: Iterable[Any], *, durable: bool = False) -> tuple[int, str]:
    """(size, xxh3_64 as 16 hexadecimal digits) of the object that the chunks made, whole or not at all.

    A chunk is written before the next is asked for. What `chunks` raises is raised here, and no object is left.
    """
    digest = xxhash.xxh3_64()
    size = 0
    failed: BaseException | None = None

    def counted() -> Iterator[Any]:
        nonlocal size, failed
        try:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            failed = error
            raise _MakerFailed from error

    try:
        store.put(key, counted(), durable=durable)
    except BaseException:
        if failed is None:
            raise
    if failed is not None:
        raise failed
    return size, digest.hexdigest()
