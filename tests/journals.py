"""Journals in memory: what a process wrote, and how much of it would survive a power cut."""

from __future__ import annotations

from mrfast.control.journal import Records, read_lines
from mrfast.control.journal_files import Journal


class MemoryFile:
    """One epoch's file."""

    def __init__(self) -> None:
        self.data = b""
        self.synced = 0
        self.syncs = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def sync(self) -> None:
        self.synced = len(self.data)
        self.syncs += 1

    def close(self) -> None:
        pass


class MemoryJournals:
    """The files of one job on one machine, by epoch."""

    def __init__(self) -> None:
        self.files: dict[int, MemoryFile] = {}

    def open(self, epoch: int) -> Journal:
        assert epoch not in self.files, f"epoch {epoch} has a journal already"
        self.files[epoch] = MemoryFile()
        return Journal(self.files[epoch])

    def read(self) -> dict[int, Records]:
        return {epoch: read_lines(file.data, f"epoch {epoch}") for epoch, file in self.files.items()}

    def forget(self) -> None:
        self.files.clear()
