"""A job as its event log tells it: tasks, attempts, workers, failures and the end, folded from the lines.

`control/events.py` says what the lines are. What is not known here is passed over, so that a log of a later version can
be read; what a full log has left out is simply not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import orjson

OPEN = ""  # the word of an attempt that runs
ACCEPTED, FAILED, EXPIRED = "accepted", "failed", "expired"
LOST = ("lost", "rolled_back")  # it was accepted, and had to be made again
KINDS = {"m": "map", "r": "reduce"}  # of tasks, by the first letter of their names
NOT_WORK = ("turn", "maps")  # of an attempt's seconds: nothing was done for it, and its slot was another one's


@dataclass(slots=True)
class Failed:
    """Why an attempt failed."""

    kind: str = ""
    message: str = ""
    traceback: str = ""
    input: str = ""
    offset: int | None = None
    counted: bool = True
    fatal: bool = False


@dataclass(slots=True)
class Attempt:
    """One try of a task; times are seconds since the job's start."""

    name: str
    task: str
    worker: str = ""
    backup: bool = False
    began: float = 0.0
    ended: float | None = None
    word: str = OPEN
    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    size: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    failed: Failed | None = None

    @property
    def lasted(self) -> float:
        """From when it was handed out to its end."""
        return max(0.0, (self.began if self.ended is None else self.ended) - self.began)

    @property
    def worked(self) -> float:
        """The seconds in which it did something or waited for the store; all of them, where nothing else is known."""
        if not self.seconds:
            return self.lasted
        return sum(seconds for part, seconds in self.seconds.items() if part not in NOT_WORK)


@dataclass(slots=True)
class Task:
    """A map (m-000012) or a reduce (r-00003), and its attempts in the order in which they began."""

    name: str
    input: str = ""
    bytes: int = 0
    pieces: int = 0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def accepted(self) -> Attempt | None:
        """The attempt whose output counts, or the last that did."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.word == ACCEPTED), None)


@dataclass(slots=True)
class Worker:
    """A worker and when it was there; `gone` is None while it is."""

    name: str
    slots: int
    came: float
    gone: float | None = None


@dataclass(slots=True)
class JobModel:
    """One job, from its first event to the last that is there."""

    facts: dict[str, Any] = field(default_factory=dict)  # the events `job` and `planned`
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    failures: list[Attempt] = field(default_factory=list)  # in the order in which they failed
    losses: list[tuple[float, str, str]] = field(default_factory=list)  # (t, attempt, why) of accepted outputs
    samples: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    shuffle: list[int] = field(default_factory=list)  # bytes by partition, or by bucket of neighbouring ones
    partitions: int = 0
    hot: dict[str, Any] = field(default_factory=dict)
    restored: int = 0  # tasks that an earlier epoch or job had done
    end: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # when the last event was

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> JobModel:
        """The job that these lines tell of."""
        model = cls()
        for line in lines:
            event = orjson.loads(line)
            if isinstance(event, dict):
                model.tell(event)
        return model

    def tell(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        kind, at = event.get("e"), float(event.get("t", 0.0))
        self.seconds = max(self.seconds, at)
        if kind in ("job", "planned"):
            self.facts |= {name: value for name, value in event.items() if value is not None}
        elif kind == "worker":
            self.workers[event["worker"]] = Worker(event["worker"], int(event.get("slots") or 0), at)
        elif kind == "gone":
            if event["worker"] in self.workers:
                self.workers[event["worker"]].gone = at
        elif kind in ("started", "adopted", "ended", "back", *LOST):
            self._attempt(str(kind), at, event)
        elif kind == "restored":
            self.restored = sum(end - first for name in ("maps", "reduces") for first, end in event.get(name, ()))
        elif kind == "sample":
            self.samples.append((at, event["status"]))
        elif kind == "shuffle":
            self.shuffle, self.partitions = event["bytes"], event.get("partitions", len(event["bytes"]))
        elif kind == "hot":
            self.hot = event
        elif kind == "end":
            self.end = event

    @property
    def job(self) -> str:
        """The job's id."""
        return str(self.facts.get("job", ""))

    @property
    def state(self) -> str:
        """COMMITTED, FAILED, STOPPED, or RUNNING where the log does not end."""
        return str(self.end.get("state", "RUNNING"))

    @property
    def slots(self) -> int:
        """How many attempts could be computed at once, at best: 1 where that is not known."""
        moments = [(worker.came, worker.slots) for worker in self.workers.values()]
        moments += [(worker.gone, -worker.slots) for worker in self.workers.values() if worker.gone is not None]
        most = now = 0
        for _, change in sorted(moments):
            now += change
            most = max(most, now)
        return max(1, most)

    def capacity(self, begin: float, end: float) -> float:
        """The slot seconds that there were in this time, of the workers that were there."""
        there = [
            (max(begin, worker.came), end if worker.gone is None else min(end, worker.gone), worker.slots)
            for worker in self.workers.values()
        ]
        return sum((last - first) * slots for first, last, slots in there if last > first) or max(0.0, end - begin)

    def of_kind(self, kind: str) -> list[Attempt]:
        """The attempts whose outputs count, of the maps ("m") or of the reduces ("r")."""
        done = (task.accepted for task in self.tasks.values() if task.name.startswith(kind))
        return [attempt for attempt in done if attempt is not None]

    def span(self, kind: str) -> tuple[float, float]:
        """When the first attempt of a kind began, and the last one whose output counts ended."""
        began = [attempt.began for attempt in self.attempts.values() if attempt.task.startswith(kind)]
        ended = [attempt.ended for attempt in self.of_kind(kind) if attempt.ended is not None]
        return (min(began), max(ended)) if began and ended else (0.0, 0.0)

    def phase(self, kind: str) -> tuple[float, float]:
        """The same, of the reduces from where the maps were done: those that began earlier waited for them."""
        begin, end = self.span(kind)
        return (min(max(begin, self.span("m")[1]), end), end) if kind == "r" else (begin, end)

    def spent(self, kind: str = "") -> dict[str, float]:
        """The slot seconds by part (wait, compute, write, ...) of the attempts that count."""
        total: dict[str, float] = {}
        for attempt in self.of_kind(kind):
            for part, seconds in attempt.seconds.items():
                total[part] = total.get(part, 0.0) + seconds
        return total

    def busy(self, kind: str) -> float:
        """The slot seconds that went to tasks of a kind, with those that nobody used."""
        wasted = sum(attempt.lasted for attempt in self.thrown_away() if attempt.task.startswith(kind))
        return wasted + sum(attempt.worked for attempt in self.of_kind(kind))

    def thrown_away(self) -> Iterator[Attempt]:
        """The attempts that have ended, and whose work nobody used."""
        for task in self.tasks.values():
            kept = task.accepted
            for attempt in task.attempts:
                if attempt is not kept and attempt.ended is not None:
                    yield attempt

    def _attempt(self, kind: str, at: float, event: dict[str, Any]) -> None:
        name, task_name = event["attempt"], event["task"]
        task = self.tasks.setdefault(task_name, Task(task_name))
        attempt = self.attempts.get(name)
        if attempt is None:
            attempt = self.attempts[name] = Attempt(name, task_name, began=at)
            task.attempts.append(attempt)
        attempt.worker = event.get("worker") or attempt.worker
        if kind == "started":
            attempt.backup = bool(event.get("backup"))
            if "bytes" in event:
                task.input, task.bytes, task.pieces = event.get("input", ""), event["bytes"], event.get("pieces", 1)
        elif kind == "back":
            attempt.ended, attempt.word = None, OPEN
        elif kind == "ended" and attempt.word == EXPIRED and event["word"] not in (ACCEPTED, FAILED):
            pass  # it is still the lease that ran out: another attempt has done the task since
        elif kind == "ended":
            attempt.ended, attempt.word = at, str(event["word"])
            for figure in ("records_in", "records_out", "bytes_in", "size", "seconds"):
                if figure in event:
                    setattr(attempt, figure, event[figure])
            if attempt.word == FAILED:
                told = {name: event[name] for name in Failed.__dataclass_fields__ if name in event}
                attempt.failed = Failed(**told)
                self.failures.append(attempt)
        elif kind in LOST:
            attempt.word = kind
            self.losses.append((at, name, str(event.get("why", ""))))


def middle(values: Iterable[float]) -> float:
    """The median; 0 of nothing."""
    found = list(values)
    return float(median(found)) if found else 0.0
