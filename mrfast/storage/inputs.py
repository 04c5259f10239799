"""Which objects the INPUTs of a job are: files, folders, globs, keys, prefixes, in the order that they were given."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache

from mrfast.errors import InputMissing, NotFound
from mrfast.model import InputObject
from mrfast.storage import absolute_path, open_store, scheme_of, split_url
from mrfast.storage.base import ObjectInfo, Store, object_url, shown
from mrfast.storage.local import file_etag, is_loop, walk

UPLOAD_THREADS = 16
UPLOADS_BIG_MAX = 4
BIG_BYTES = 8 << 20
UPLOAD_BLOCK_BYTES = 4 << 20
_MAGIC = re.compile(r"[*?[]")


def resolve(inputs: Sequence[str], store: Store, missing: list[InputObject] | None = None) -> list[InputObject]:
    """The objects that the inputs name, in argument order, an expansion in byte order; InputMissing.

    What is named twice comes twice. With an S3 store local files are uploaded below `input/`, and read there; if a list
    is given, those that are not there yet are only added to it.
    """
    found: list[InputObject] = []
    for given in inputs:
        if scheme_of(given) == "file":
            found.extend(_local(given))
        else:
            found.extend(_remote(given))
    if scheme_of(store.url) == "s3":
        return _upload_local(found, store, missing)
    return found


def _hidden(name: str, pattern: str = "") -> bool:
    """True for `_SUCCESS`, `.git` and the like, unless the pattern itself begins with that letter."""
    return name[:1] in ("_", ".") and pattern[:1] != name[:1]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _matches(name: str, pattern: str) -> bool:
    return not _hidden(name, pattern) and _compiled(pattern).match(name) is not None


# Local files.


def _local(given: str) -> list[InputObject]:
    path = absolute_path(given) if given.startswith("file://") else given
    absolute_path(path)
    if os.path.isdir(path):
        files = list(_folder(path))
        if not files:
            raise InputMissing(
                f"{shown(given)}: no input files in this folder (names with _ or . in front are not read)"
            )
    elif os.path.lexists(path) or not _MAGIC.search(path):
        files = [(path, _stat(path))]
    else:
        # Sorted as a whole: the folders and files that a pattern matches interleave in byte order.
        files = sorted(dict(_glob(path)).items(), key=lambda file: os.fsencode(file[0]))
        if not files:
            raise InputMissing(f"{shown(given)}: no file matches")
    return list(_pinned(files))


def _pinned(files: Iterable[tuple[str, os.stat_result]]) -> Iterator[InputObject]:
    folder_given, folder = None, ""
    for path, info in files:
        if not stat.S_ISREG(info.st_mode):
            raise InputMissing(f"{shown(path)}: is not a regular file; a job reads its input more than once")
        if not os.access(path, os.R_OK, effective_ids=True):
            raise InputMissing(f"{shown(path)}: permission denied; make it readable for this user")
        above, _, name = path.rpartition("/")
        if above != folder_given:
            folder_given, folder = above, absolute_path(path[: -len(name)] or ".").rstrip("/") + "/"
        yield InputObject(path, folder + name, info.st_size, file_etag(info))


def _failed(error: OSError) -> None:
    why = "no such file or folder" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
    if isinstance(error, FileNotFoundError) and os.path.islink(error.filename):
        why = f"a symbolic link to {os.readlink(error.filename)}, which does not exist"
    raise InputMissing(f"{shown(error.filename)}: {why}") from error


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        _failed(error)
        raise


def _folder(path: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """All files of the folder and the folders in it, in byte order; each path begins as the user wrote it."""
    base = path.rstrip("/") + "/" if path else ""
    for relative, entry in walk(path or ".", _failed, _hidden, above=above):
        try:
            info = entry.stat()
        except OSError as error:
            _failed(error)
            raise
        yield base + relative, info


def _glob(pattern: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files that the pattern matches, and those in the folders that it matches; unordered, some more than once."""
    parts = pattern.rstrip("/").split("/")
    start = 0
    while not _MAGIC.search(parts[start]):
        start += 1
    base = "/".join(parts[:start]) + "/" if start else ""
    yield from _glob_below(base, parts[start:], ())


def _glob_below(base: str, parts: Sequence[str], above: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    if not parts or list(parts) == ["**"]:
        yield from _folder(base, above)
        return
    part, rest = parts[0], parts[1:]
    if not _MAGIC.search(part):
        path = base + part
        if os.path.isdir(path):
            yield from _glob_below(path + "/", rest, above)
        elif not rest and os.path.lexists(path):
            yield path, _stat(path)
        return
    try:
        with os.scandir(base or ".") as entries:
            names = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        _failed(error)
        raise
    if part == "**":
        yield from _glob_below(base, rest, above)
    within = (*above, base)
    for entry in names:
        if entry.is_dir():
            if is_loop(entry, within):
                continue
            if part == "**" and not _hidden(entry.name):
                yield from _glob_below(f"{base}{entry.name}/", parts, within)
            elif _matches(entry.name, part):
                yield from _glob_below(f"{base}{entry.name}/", rest, within)
        elif not rest and _matches(entry.name, part):
            yield base + entry.name, _stat(base + entry.name)


# Objects of a store.


def _remote(given: str) -> list[InputObject]:
    root, key = split_url(given)
    store = open_store(root)
    if key and not key.endswith("/"):
        try:
            info = store.stat(key)
        except NotFound as error:
            if not _MAGIC.search(key):
                return _prefix(store, key + "/", f"{shown(given)}: no such object, and none below it", error)
        else:
            return [_object(store, info)]
    if _MAGIC.search(key):
        pattern = key.rstrip("/").split("/")
        start = key[: _MAGIC.search(key).start()]  # type: ignore[union-attr]
        found = [_object(store, info) for info in store.list(start) if _key_matches(info.key.split("/"), pattern)]
        if not found:
            raise InputMissing(f"{shown(given)}: no object matches")
        return found
    return _prefix(store, key, f"{shown(given)}: no objects there (names with _ or . in front are not read)", None)


def _prefix(store: Store, prefix: str, missing: str, cause: NotFound | None) -> list[InputObject]:
    found = [
        _object(store, info)
        for info in store.list(prefix)
        if not info.key.endswith("/") and not any(map(_hidden, info.key[len(prefix) :].split("/")))
    ]
    if not found:
        raise InputMissing(missing) from cause
    return found


def _object(store: Store, info: ObjectInfo) -> InputObject:
    url = object_url(store, info.key)
    return InputObject(url, url, info.size, info.etag)


def _key_matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """True if the pattern matches the key, or a folder that it is in; a key that ends with `/` is no object."""
    if not parts[-1]:
        return False
    if not pattern:
        return not any(map(_hidden, parts))
    if pattern[0] == "**":
        return _key_matches(parts, pattern[1:] or ["*"]) or (
            len(parts) > 1 and not _hidden(parts[0]) and _key_matches(parts[1:], pattern)
        )
    literal = not _MAGIC.search(pattern[0])
    if not (parts[0] == pattern[0] if literal else _matches(parts[0], pattern[0])):
        return False
    return len(pattern) == 1 if len(parts) == 1 else _key_matches(parts[1:], pattern[1:])


# Local files for an S3 store.


def _upload_local(found: Sequence[InputObject], store: Store, missing: list[InputObject] | None) -> list[InputObject]:
    local = sorted({item.url: item for item in found if scheme_of(item.url) == "file"}.items())
    if not local:
        return list(found)
    from threading import BoundedSemaphore

    from mrfast.storage.threads import Threads

    # Many small files need many requests in flight; each big one needs memory for its parts.
    big = BoundedSemaphore(UPLOADS_BIG_MAX)

    def upload(item: InputObject) -> ObjectInfo:
        if item.size < BIG_BYTES:
            return _upload(item, store, missing)
        with big:
            return _upload(item, store, missing)

    pool = Threads(UPLOAD_THREADS, "mrfast-upload")
    try:
        infos = list(pool.map(upload, [item for _, item in local]))
    finally:
        # After an error the uploads that have not begun must not begin.
        pool.shutdown(cancel_futures=True)
    there = {url: info for (url, _), info in zip(local, infos, strict=True)}
    return [
        InputObject(item.path, object_url(store, info.key), info.size, info.etag)
        if (info := there.get(item.url))
        else item
        for item in found
    ]


def _upload(item: InputObject, store: Store, missing: list[InputObject] | None) -> ObjectInfo:
    """The object with the file's content: one that is there already, or a new one."""
    from urllib.parse import quote

    import xxhash

    digest = xxhash.xxh3_128()
    for block in _blocks(item):
        digest.update(block)
    # The name stays in the key: for people, and because `.gz` and the like say how an object is read.
    name = quote(os.fsencode(item.url.rpartition("/")[2]), safe=" !'()+,;=@[]{}~")
    key = f"input/{digest.hexdigest()}/{name}"
    try:
        info = store.stat(key)
        if info.size == item.size:
            return info
    except NotFound:
        pass
    if missing is not None:
        missing.append(item)
        return ObjectInfo(key, item.size, "")
    return store.put(key, _checked_blocks(item, digest.hexdigest()), durable=True)


def _blocks(item: InputObject) -> Iterator[memoryview]:
    view = memoryview(bytearray(min(UPLOAD_BLOCK_BYTES, max(1, item.size))))
    try:
        with open(item.url, "rb", buffering=0) as file:
            while got := file.readinto(view):
                yield view[:got]
    except OSError as error:
        _failed(error)


def _checked_blocks(item: InputObject, expected: str) -> Iterator[memoryview]:
    """The file's blocks; raises before the upload is complete if they are not those that the key was made from."""
    import xxhash

    digest = xxhash.xxh3_128()
    for block in _blocks(item):
        digest.update(block)
        yield block
    if digest.hexdigest() != expected:
        raise InputMissing(f"{shown(item.path)}: was changed while it was being uploaded; start the job again")
