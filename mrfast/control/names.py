"""The names of a job's tasks and attempts: `m-000012`, `r-00003`, and `<task>.e<epoch>.<count>`.

Inside, an attempt is its task's number and a serial: the epoch and the count in one int, growing with both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrfast.model import map_name, reduce_name

COUNT_BITS = 32
_ATTEMPT = re.compile(r"([mr])-([0-9]{5,7})\.e([0-9]{1,9})\.([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Names:
    """Numbers and names of one job: its maps are the tasks 0 .. maps-1, its reduces come behind them."""

    maps: int
    reduces: int
    epoch: int

    def kind_index(self, task: int) -> tuple[str, int]:
        """("map", index) or ("reduce", partition)."""
        return ("map", task) if task < self.maps else ("reduce", task - self.maps)

    def number(self, kind: str, index: int) -> int | None:
        """The task's number, or None if the job has no such task."""
        if kind == "map":
            return index if 0 <= index < self.maps else None
        return self.maps + index if kind == "reduce" and 0 <= index < self.reduces else None

    def task(self, task: int) -> str:
        """A task's name."""
        return map_name(task) if task < self.maps else reduce_name(task - self.maps)

    def serial(self, count: int) -> int:
        """The serial of a task's `count`-th attempt in this epoch; no attempt of an earlier epoch has a higher one."""
        return self.epoch << COUNT_BITS | count

    def attempt(self, task: int, serial: int) -> str:
        """The name of one attempt; no other attempt of the job ever has it, whatever is restarted."""
        return f"{self.task(task)}.e{serial >> COUNT_BITS}.{serial & ((1 << COUNT_BITS) - 1)}"

    def parse(self, attempt: str) -> tuple[int, int] | None:
        """(task, serial) of an attempt of this job, from this epoch or an earlier one; else None."""
        parsed = _ATTEMPT.fullmatch(attempt)
        if parsed is None:
            return None
        task = self.number("map" if parsed[1] == "m" else "reduce", int(parsed[2]))
        serial = int(parsed[3]) << COUNT_BITS | int(parsed[4])
        if task is None or int(parsed[3]) > self.epoch or self.attempt(task, serial) != attempt:
            return None
        return task, serial

    def index(self, attempt: str) -> int:
        """The map index or partition of an attempt of this job; ValueError for another name."""
        found = self.parse(attempt)
        if found is None:
            raise ValueError(f"{attempt!r} is no attempt of this job")
        return self.kind_index(found[0])[1]
