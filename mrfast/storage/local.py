"""A folder as a store: each key is a file, and every write is a temp file that gets its name when it is whole.

Atomicity comes from the file system: rename(2) for `put`, link(2) for `put_if_absent`, rename(2) under a lock file for
`replace`. Temp and lock files have a prefix of their own, which no key may use and no listing shows.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mrfast.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError
from mrfast.storage.base import Buffers, ObjectInfo, Store, check_key, copy_through, iter_chunks, shown

OWN_PREFIX = ".mrfast-"
_TEMP_PREFIX = OWN_PREFIX + "tmp-"
_LOCK_NAME = OWN_PREFIX + "lock"
_WRITE_BUFFER_BYTES = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


def file_etag(info: os.stat_result) -> str:
    """The etag of a file: a rewrite changes its time or size, a replacement its inode."""
    return f"{info.st_mtime_ns:x}-{info.st_size:x}-{info.st_ino:x}"


def is_loop(entry: os.DirEntry[str], folders: Iterable[str]) -> bool:
    """True for a link to one of the folders, through which one came to it: following it would never end."""
    with suppress(FileNotFoundError):
        return entry.is_symlink() and any(os.path.samefile(entry.path, folder or ".") for folder in folders)
    return False


def walk(
    top: str,
    failed: Callable[[OSError], None],
    skip: Callable[[str], bool],
    *,
    first: str = "",
    above: tuple[str, ...] = (),
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files under `top` as (relative path, entry), in byte order; `first` filters the topmost names only.

    Links are followed, except back to a folder on the way (`above`: the way to `top`). Errors go to `failed`.
    """
    pending: list[tuple[str, str, tuple[str, ...], Iterator[os.DirEntry[str]]]] = []

    def enter(path: str, relative: str, way: tuple[str, ...], start: str) -> None:
        try:
            with os.scandir(path) as entries:
                found = [entry for entry in entries if entry.name.startswith(start) and not skip(entry.name)]
        except OSError as error:
            failed(error)
            return
        # A folder sorts with the '/' that follows its name in the keys below it.
        found.sort(key=lambda entry: os.fsencode(entry.name) + (b"/" if entry.is_dir() else b""))
        pending.append((path, relative, way, iter(found)))

    enter(top, "", above, first)
    while pending:
        path, relative, way, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
        elif not entry.is_dir():
            yield relative + entry.name, entry
        elif not is_loop(entry, (*way, path)):
            enter(entry.path, f"{relative}{entry.name}/", (*way, path), "")


class LocalStore:
    """Objects as files under one folder, which is made by the first write."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or "/"
        self._base = root.rstrip("/") + "/"

    @property
    def url(self) -> str:
        """The folder's absolute path."""
        return self.root

    @property
    def remote(self) -> bool:
        """False: reads do not begin with waiting."""
        return False

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All files whose path under the folder begins with `prefix`, in byte order; temp files are not shown."""
        folder, slash, first = prefix.rpartition("/")
        if folder:
            check_key(folder)
        top = self._base + folder

        def failed(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise StoreError(f"cannot list {shown(error.filename)}: {error.strerror}") from error

        for relative, entry in walk(top, failed, lambda name: name.startswith(OWN_PREFIX), first=first):
            # A file may be deleted while its folder is being listed: it is then simply not there.
            with suppress(FileNotFoundError):
                info = entry.stat()
                yield ObjectInfo(folder + slash + relative, info.st_size, file_etag(info))

    def stat(self, key: str) -> ObjectInfo:
        """The file's size and etag."""
        path = self._path(key)
        with _as_store_error("read", path):
            info = os.stat(path)
        if _is_folder(info):
            raise NotFound(f"{shown(path)} is a folder, not an object")
        return ObjectInfo(key, info.st_size, file_etag(info))

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes read from the file straight into the buffer."""
        path = self._path(key)
        view = memoryview(buffer).cast("B")
        filled = 0
        with _as_store_error("read", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while filled < len(view) and (got := os.preadv(fd, [view[filled:]], offset + filled)):
                    filled += got
                # After the read, so that a write during it is noticed too.
                found = file_etag(os.fstat(fd)) if etag is not None else None
            finally:
                os.close(fd)
        if found != etag:
            raise PreconditionFailed(
                f"{shown(path)} has changed since the job began (etag {found}, was {etag}); start it again"
            )
        return filled

    def put(self, key: str, chunks: Buffers, *, durable: bool = False) -> ObjectInfo:
        """The file written under a temp name and renamed; `durable` also fsyncs it and its folder."""
        path = self._path(key)
        with _as_store_error("write", path), self._temp_file(path, chunks, durable) as (temp, info):
            os.replace(temp, path)
            if durable:
                _fsync_folder(os.path.dirname(path))
        return ObjectInfo(key, info.st_size, file_etag(info))

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        """The file linked to its name once it is whole and on disk, if the name was free."""
        path = self._path(key)
        with _as_store_error("write", path), self._temp_file(path, data, True) as (temp, info):
            try:
                os.link(temp, path)
            except FileExistsError as error:
                raise AlreadyExists(f"{shown(path)} exists already") from error
            _fsync_folder(os.path.dirname(path))
        return ObjectInfo(key, info.st_size, file_etag(info))

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        """The file renamed over the one with this etag, under a lock that all replacers of the folder take."""
        path = self._path(key)
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise NotFound(f"{shown(path)} does not exist")
        with _as_store_error("write", path), _locked(folder), self._temp_file(path, data, True) as (temp, info):
            there = os.stat(path)
            if file_etag(there) != etag:
                raise PreconditionFailed(f"{shown(path)} has changed: its etag is {file_etag(there)}, not {etag}")
            if info.st_mtime_ns <= there.st_mtime_ns:
                # Two replaces within one tick of the file system's clock could otherwise end at the first etag again
                # (same size, the inode used anew), and a third writer would not notice them.
                os.utime(temp, ns=(info.st_atime_ns, there.st_mtime_ns + 1))
                info = os.stat(temp)
            os.replace(temp, path)
            _fsync_folder(folder)
        return ObjectInfo(key, info.st_size, file_etag(info))

    def copy_to(self, key: str, other: Store, other_key: str) -> None:
        """A hard link where both are folders of one file system (objects never change in place), else a copy.

        The link itself is durable with the next durable write into the same folder.
        """
        if isinstance(other, LocalStore) and self._link_to(self._path(key), other._path(other_key)):
            return
        copy_through(self, key, other, other_key)

    def delete(self, key: str) -> None:
        """Removes the file; a missing one is fine, its folder stays."""
        path = self._path(key)
        with suppress(NotFound), _as_store_error("delete", path):
            os.unlink(path)

    def sweep(self, prefix: str) -> None:
        """Removes the temp files in the folder, and the folder itself if it is empty then and nobody stands in it."""
        folder = self._base + check_key(prefix.rstrip("/")) if prefix else self.url
        with suppress(NotFound), _as_store_error("list", folder):
            for name in os.listdir(folder):
                if name.startswith(_TEMP_PREFIX):
                    os.unlink(f"{folder}/{name}")
        with suppress(OSError):  # something is in it, or it is not there
            if not os.path.samefile(folder, "."):
                os.rmdir(folder)

    def _path(self, key: str) -> str:
        check_key(key)
        if key.rpartition("/")[2].startswith(OWN_PREFIX):
            raise StoreError(f"the key {key!r} is reserved: names that begin with {OWN_PREFIX} are mrfast's temp files")
        return self._base + key

    def _link_to(self, path: str, target: str) -> bool:
        with _as_store_error("copy", path):
            os.stat(path)
        with _as_store_error("write", target):
            folder = os.path.dirname(target)
            _make_folder(folder, False)
            temp = _temp_name(folder)
            try:
                os.link(path, temp)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return False
                raise
            try:
                os.replace(temp, target)
            finally:
                # rename(2) does nothing, and says success, if both names are links to one file already.
                with suppress(FileNotFoundError):
                    os.unlink(temp)
        return True

    @contextmanager
    def _temp_file(self, path: str, chunks: Buffers, durable: bool) -> Iterator[tuple[str, os.stat_result]]:
        """A whole temp file beside `path`; gone afterwards unless it was renamed."""
        folder = os.path.dirname(path)
        _make_folder(folder, durable)
        temp = _temp_name(folder)
        try:
            with open(temp, "xb", buffering=_WRITE_BUFFER_BYTES) as file:
                file.writelines(iter_chunks(chunks))
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                info = os.fstat(file.fileno())
            yield temp, info
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temp)


def _temp_name(folder: str) -> str:
    # Not derived from the key: a key's name may already be as long as the file system allows.
    return f"{folder}/{_TEMP_PREFIX}{os.urandom(8).hex()}"


def _is_folder(info: os.stat_result) -> bool:
    return (info.st_mode & 0o170000) == 0o040000


def _make_folder(folder: str, durable: bool) -> None:
    missing = folder
    while missing and not os.path.isdir(missing):
        missing = os.path.dirname(missing)
    if missing == folder:
        return
    os.makedirs(folder, exist_ok=True)
    while durable and folder != missing:
        folder = os.path.dirname(folder)
        _fsync_folder(folder)


def _fsync_folder(folder: str) -> None:
    fd = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Holds the folder's lock file, which is removed again; a holder's death frees it."""
    path = f"{folder}/{_LOCK_NAME}"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # The holder before us has removed the file by now: a lock on a file without a name locks nobody out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    try:
                        yield
                    finally:
                        os.unlink(path)
                    return
        finally:
            os.close(fd)


@contextmanager
def _as_store_error(verb: str, path: str) -> Iterator[None]:
    """Turns an OSError into the store's errors, with the path and the cure."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{shown(path)} does not exist") from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        if verb != "write":
            raise NotFound(f"{shown(path)} does not exist as a file") from error
        raise StoreError(f"cannot write {shown(path)}: a file is in the way of a folder, or the reverse") from error
    except OSError as error:
        raise StoreError(f"cannot {verb} {shown(path)}: {error.strerror}{_cure(error.errno, verb)}") from error


def _cure(code: int | None, verb: str) -> str:
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"; check that this user may {verb} there, and that its file system knows hard links"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "; free some space, or choose another --store"
    return ""
