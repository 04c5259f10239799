"""Python's zstd module (3.14 has one), or the package that brings it to older ones."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any


def zstd() -> Any:
    """The module; ImportError."""
    try:
        from compression import zstd as found  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd as found  # type: ignore[no-redef,unused-ignore]
    return found


@cache
def is_available() -> bool:
    """Whether it is there; it is not loaded for that."""
    try:
        return find_spec("_zstd") is not None or find_spec("backports.zstd") is not None
    except ModuleNotFoundError:  # not even `backports`
        return False
