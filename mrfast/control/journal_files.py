"""Where a job's journal is kept: a file, and for a store that is no folder also objects, which any machine can read.

folder store   <store>/jobs/<id>/journal/<epoch>.log
other stores   $MRFAST_STATE_DIR/<id>/<epoch>.log here, and jobs/<id>/journal/<epoch>-<first record> in the store,
               each holding whole lines: closed by count and at the end of a phase, never by time
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from mrfast.control.journal import Records, encode_line, read_lines
from mrfast.errors import AlreadyExists, DamagedJournal, JobTaken, NotFound, StoreError
from mrfast.model import job_key
from mrfast.storage import scheme_of
from mrfast.storage.base import Store, object_url, read

BATCH_RECORDS = 64
_LOG = re.compile(r"([0-9]{1,9})\.log", re.ASCII)
_BATCH = re.compile(r"([0-9]{1,9})-([0-9]{1,9})", re.ASCII)
_EPOCH = re.compile(r"[0-9]{1,9}", re.ASCII)


class File(Protocol):
    """What a journal is written to."""

    def write(self, data: bytes) -> None:
        """Writes all, or raises and writes the rest at the next call."""

    def sync(self) -> None: ...
    def close(self) -> None: ...


class LogFile:
    """A new file that is only ever appended to; StoreError names it when it cannot be written."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = False  # whether its folders are durable
        self._unwritten = b""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, data: bytes) -> None:
        """Survives the end of this process, but not that of the machine; what found no room is written first next time.

        So the file is never more than cut off: a line that was left out would damage it for all that follows.
        """
        self._unwritten += data
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """What was written survives a power cut too."""
        try:
            os.fdatasync(self._descriptor)
            if not self._known:
                folder = os.path.dirname(self._path)
                for above in (folder, os.path.dirname(folder)):
                    descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
                    os.fsync(descriptor)
                    os.close(descriptor)
                self._known = True
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write the job's journal {self._path}: {error.strerror}; make room or mend it, and resume the job"
        )


class Journal:
    """The journal of one epoch. `append` and `write` are for one thread; `sync` may run in another one meanwhile."""

    def __init__(self, file: File, prefix: str = "") -> None:
        self.records = 0  # appended so far
        self.synced = 0  # of them are durable
        self._file = file
        self._prefix = prefix  # of the keys of its objects; empty where the file is in the store itself
        self._written = 0
        self._unwritten: list[bytes] = []
        self._open: list[bytes] = []  # lines of the batch that is not closed yet
        self._batches: list[tuple[str, bytes]] = []

    @property
    def is_mirrored(self) -> bool:
        """Whether its batches go into the store as objects."""
        return bool(self._prefix)

    def append(self, record: dict[str, Any]) -> int:
        """How many records there are with this one; it is not yet written."""
        line = encode_line(self.records, record)
        self.records += 1
        self._unwritten.append(line)
        if self._prefix:
            self._open.append(line)
            if len(self._open) == BATCH_RECORDS:
                self.close_batch()
        return self.records

    def write(self) -> None:
        """Hands what was appended to the operating system: it survives this process."""
        if self._written < self.records:
            lines, self._unwritten = self._unwritten, []
            self._file.write(b"".join(lines))
            self._written = self.records

    def sync(self) -> None:
        """What was written before this call is durable after it."""
        written = self._written
        if written > self.synced:
            self._file.sync()
            self.synced = written

    def close_batch(self) -> None:
        """Ends the batch that is being filled, at the end of a phase or of the job."""
        if self._open:
            key = f"{self._prefix}-{self.records - len(self._open):09d}"
            self._batches.append((key, b"".join(self._open)))
            self._open = []

    def batches(self) -> list[tuple[str, bytes]]:
        """The (key, data) of the batches that were closed since the last time, for the caller to put into the store."""
        batches, self._batches = self._batches, []
        return batches

    def close(self) -> None:
        """Writes what was appended, and lets the file go."""
        try:
            self.write()
        finally:
            self._file.close()


def state_folder(environ: Mapping[str, str]) -> str:
    """Where journals of jobs in object stores are kept on this machine."""
    home = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return environ.get("MRFAST_STATE_DIR") or os.path.join(home, "mrfast")


class JournalFiles:
    """The journals of all epochs of one job; `folder` is where this machine keeps those of jobs in object stores."""

    def __init__(self, store: Store, job: str, folder: str) -> None:
        self._store = store
        self._job = job
        self._folder = folder

    def open(self, epoch: int) -> Journal:
        """A new journal for this epoch."""
        name = f"{epoch}.log"
        if scheme_of(self._store.url) == "file":
            return Journal(LogFile(os.path.join(self._store.url, job_key(self._job, "journal", name))))
        file = LogFile(os.path.join(self._folder, self._job, name))
        return Journal(file, job_key(self._job, "journal", str(epoch)))

    def read(self) -> dict[int, Records]:
        """The records of each epoch, from the store and from this machine."""
        return read_journals(self._store, self._job, self._folder)

    def forget(self) -> None:
        """Removes the job's journals from this machine; those in the store stay."""
        shutil.rmtree(os.path.join(self._folder, self._job), ignore_errors=True)


def read_journals(store: Store, job: str, folder: str) -> dict[int, Records]:
    """The records of each epoch of the job, the longer ones of those in the store and those on this machine.

    They are durable then, whatever became of the machine that wrote them: a new epoch counts on them.
    """
    journals: dict[int, Records] = {}
    batches: dict[int, dict[int, str]] = {}
    for info in store.list(job_key(job, "journal", "")):
        name = info.key.rpartition("/")[2]
        if found := _LOG.fullmatch(name):
            if scheme_of(store.url) == "file":
                path = os.path.join(store.url, info.key)
                journals[int(found[1])] = read_lines(_durable(path), path)
        elif found := _BATCH.fullmatch(name):
            batches.setdefault(int(found[1]), {})[int(found[2])] = info.key
    for epoch, keys in batches.items():
        journals[epoch] = _joined(store, keys)
    for epoch, records in _local(os.path.join(folder, job)).items():
        mirrored = journals.get(epoch, [])
        common = min(len(records), len(mirrored))
        if records[:common] != mirrored[:common]:
            raise DamagedJournal(
                f"the journal in {os.path.join(folder, job)} and that in {store.url} differ in epoch {epoch}, so what "
                "the job had done is not known; start the job again"
            )
        journals[epoch] = max(records, mirrored, key=len)
    for epoch, keys in batches.items():
        if (known := len(journals[epoch])) <= (last := max(keys)):  # they were put one after the other
            raise DamagedJournal(
                f"{object_url(store, keys[last])} is there, and what the journal says from record {known} on is not, "
                "so what the job had done is not known; start the job again"
            )
    return journals


def _durable(path: str) -> bytes:
    """What is in the file, for good."""
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            return file.read()
    except OSError as error:
        raise StoreError(
            f"cannot read the job's journal {path}: {error.strerror}; mend that, and resume the job"
        ) from error


def _joined(store: Store, keys: dict[int, str]) -> Records:
    records: Records = []
    for first, key in sorted(keys.items()):
        if first != len(records):
            break
        records += read_lines(read(store, key), object_url(store, key), first, whole=True)
    return records


def _local(folder: str) -> dict[int, Records]:
    found: dict[int, Records] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            if epoch := _LOG.fullmatch(name):
                path = os.path.join(folder, name)
                found[int(epoch[1])] = read_lines(_durable(path), path)
    return found


def claim_epoch(store: Store, job: str, at_least: int = 1) -> int:
    """The epoch that is this coordinator's alone; JobTaken if another one takes it at the same moment."""
    taken = [int(name) for name in _epochs(store, job)]
    epoch = max([at_least - 1, *taken]) + 1
    try:
        store.put_if_absent(job_key(job, "epoch", str(epoch)), b"")
    except AlreadyExists:
        raise JobTaken(
            f"another coordinator has just taken job {job} over; resume it again only if that one ends before the job"
        ) from None
    return epoch


def _epochs(store: Store, job: str) -> list[str]:
    names = (info.key.rpartition("/")[2] for info in store.list(job_key(job, "epoch", "")))
    return [name for name in names if _EPOCH.fullmatch(name)]


def is_superseded(store: Store, job: str, epoch: int) -> bool:
    """Whether a later coordinator has taken the job over."""
    try:  # not `stat`: in S3 a HEAD of what is not there says too little, and costs two requests
        store.read_into(job_key(job, "epoch", str(epoch + 1)), 0, bytearray(1))
    except NotFound:
        return False
    return True
