"""The names of a job's tasks and attempts: `m-000012`, `r-00003`, and `<task>.e<epoch>.<n>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrfast.model import map_name, reduce_name

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

    def attempt(self, task: int, n: int) -> str:
        """The name of a task's n-th attempt in this epoch; no other attempt ever has it."""
        return f"{self.task(task)}.e{self.epoch}.{n}"

    def parse(self, attempt: str) -> tuple[int, int] | None:
        """(task, n) of an attempt of this job and epoch, else None."""
        parsed = _ATTEMPT.fullmatch(attempt)
        if parsed is None:
            return None
        task = self.number("map" if parsed[1] == "m" else "reduce", int(parsed[2]))
        if task is None or self.attempt(task, int(parsed[4])) != attempt:
            return None
        return task, int(parsed[4])
