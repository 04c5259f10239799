"""mrfast-coordinator, ended without a word right after its journal's k-th write: `kill_at_write.py K ARGUMENT...`.

A write that had nothing to write does not count. K = 0 kills nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from mrfast import cli
from mrfast.control import journal_files

KILLED = 9


def die_after(kth: int) -> None:
    """Ends this process as soon as a journal has been written to for the k-th time."""
    seen = writes = 0

    def counted(method: Callable[[journal_files.Journal], Any]) -> Callable[[journal_files.Journal], Any]:
        def wrapped(journal: journal_files.Journal) -> Any:
            nonlocal seen, writes
            result = method(journal)
            if journal.records > seen:  # `sync` writes too; whichever of the two is the outer one finds nothing new
                seen = journal.records
                writes += 1
                if writes == kth:
                    os._exit(KILLED)
            return result

        return wrapped

    patched: Any = journal_files.Journal
    patched.write, patched.sync = counted(journal_files.Journal.write), counted(journal_files.Journal.sync)


if __name__ == "__main__":
    die_after(int(sys.argv.pop(1)))
    cli.coordinator_main()
