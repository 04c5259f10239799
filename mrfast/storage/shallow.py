"""One level of a store, as one folder of a file system: to look at jobs, and not at their thousand objects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrfast.errors import StoreError
from mrfast.storage import scheme_of
from mrfast.storage.base import Store, object_url, shown
from mrfast.storage.local import OWN_PREFIX

if TYPE_CHECKING:
    from mrfast.storage.s3 import S3Store


@dataclass(frozen=True, slots=True)
class Entry:
    """An object or a folder; `modified` is the UNIX time of an object's last write, 0 where the store does not say."""

    name: str
    size: int = 0
    modified: float = 0.0
    is_folder: bool = False


def entries(store: Store, prefix: str = "") -> dict[str, Entry]:
    """What is right under `prefix`, which is empty or ends with a slash, by name; nothing where there is none.

    In S3 that is one LIST for each 1,000 of them, however much there is below.
    """
    scheme = scheme_of(store.url)
    if scheme == "file":
        found = _of_folder(f"{store.url.rstrip('/')}/{prefix}")
    elif scheme == "s3":
        found = _of_bucket(store, prefix)  # type: ignore[arg-type]
    else:
        found = []
        for info in store.list(prefix):
            name, slash, _ = info.key[len(prefix) :].partition("/")
            found.append(Entry(name, 0 if slash else info.size, is_folder=bool(slash)))
    return {entry.name: entry for entry in found}


def read_entry(store: Store, prefix: str, entry: Entry) -> bytes:
    """The whole object, by one GET; StoreError if it has been written anew since it was listed, and is shorter."""
    buffer = bytearray(entry.size)
    got = store.read_into(prefix + entry.name, 0, buffer) if entry.size else 0
    if got != entry.size:
        raise StoreError(f"{shown(object_url(store, prefix + entry.name))}: {got} of {entry.size} bytes could be read")
    return bytes(buffer)


def _of_folder(path: str) -> list[Entry]:
    found = []
    try:
        with os.scandir(path) as entries:
            for each in entries:
                if each.name.startswith(OWN_PREFIX):
                    continue
                try:
                    info, is_folder = each.stat(), each.is_dir()
                except FileNotFoundError:
                    continue
                found.append(Entry(each.name, info.st_size, info.st_mtime, is_folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot list {shown(path)}: {error.strerror}") from error
    return found


def _of_bucket(store: S3Store, prefix: str) -> list[Entry]:
    found = []
    for page in store.pages(prefix, Delimiter="/"):
        for each in page.get("Contents", ()):
            name = each["Key"].rpartition("/")[2]
            if name:  # a console's folder is an object whose name ends with a slash
                found.append(
                    Entry(name, each["Size"], each["LastModified"].timestamp() if "LastModified" in each else 0.0)
                )
        for each in page.get("CommonPrefixes", ()):
            found.append(Entry(each["Prefix"].rstrip("/").rpartition("/")[2], is_folder=True))
    return found
