"""Where objects live: one protocol, and a folder, S3 and memory behind it; only an `s3://` URL loads boto3."""

from __future__ import annotations

import os

from mrfast.errors import UsageError
from mrfast.storage.base import ObjectInfo, Store

__all__ = ["ObjectInfo", "Store", "absolute_path", "is_near", "is_remote", "open_store", "scheme_of", "split_url"]

SCHEMES = ("file", "memory", "s3")


def is_remote(url: str) -> bool:
    """Whether reading there begins with waiting."""
    return url.startswith("s3://")


def is_near(url: str) -> bool:
    """Whether bytes cost no more than a copy there: everywhere but in S3 beyond this machine."""
    if not is_remote(url):
        return True
    from urllib.parse import urlsplit

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    host = urlsplit(endpoint).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def scheme_of(url: str) -> str:
    """`s3`, `memory`, or `file` for any path; UsageError for a scheme that no store has."""
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme.isalnum():
        return "file"
    if scheme not in SCHEMES:
        raise UsageError(f"{url}: no store for {scheme}://; use a folder's path, s3://bucket/prefix or file:///path")
    return scheme


def absolute_path(url: str) -> str:
    """The absolute path that a path or a file:// URL names."""
    path = url
    if url.startswith("file://"):
        from urllib.parse import unquote

        path = unquote(url[len("file://") :], errors="surrogateescape")
        if not path.startswith("/"):
            raise UsageError(f"{url}: a file URL has three slashes and an absolute path, as in file:///data/books")
    if not path or "\0" in path:
        raise UsageError(f"{url!r} is not the path of a file or folder")
    # `..` behind a symlink leads out of the symlink's target: only the file system knows where.
    if ".." in path.split("/"):
        path = os.path.realpath(path)
    return "/" + os.path.abspath(path).lstrip("/")


def open_store(url: str) -> Store:
    """The store at a folder's path, `file:///path`, `s3://bucket/prefix` or `memory://name`; no contact yet."""
    scheme = scheme_of(url)
    if scheme == "file":
        from mrfast.storage.local import LocalStore

        path = absolute_path(url)
        if os.path.isfile(path):
            raise UsageError(f"{url} is a file; a store is a folder or s3://bucket/prefix")
        return LocalStore(path)
    name, prefix = _split_authority(url)
    if scheme == "memory":
        from mrfast.storage.memory import MemoryStore

        return MemoryStore(name, prefix)
    from mrfast.storage.s3 import S3Store

    return S3Store(name, prefix)


def split_url(url: str) -> tuple[str, str]:
    """An object's URL or path as (root URL, key): `open_store(root)` then reads the key.

    All local files share the root `/`, all objects of a bucket `s3://bucket`: stores can be kept by their root.
    """
    scheme = scheme_of(url)
    if scheme == "file":
        return "/", absolute_path(url)[1:]
    name, key = _split_authority(url)
    return f"{scheme}://{name}", key


def _split_authority(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    name, _, key = rest.partition("/")
    if not name:
        raise UsageError(f"{url}: the {'bucket' if scheme == 's3' else 'name'} is missing; write {scheme}://NAME/key")
    return name, key
