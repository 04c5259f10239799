"""What the events of a job add up to at this moment, for /api/status and /metrics."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

KINDS = ("map", "reduce")
STATES = ("STARTING", "WAITING", "PLANNING", "RUNNING", "COMMITTING", "COMMITTED", "FAILED", "STOPPED")


class Tally:
    """Folds event lines one by one; kinds and fields that it does not know are passed over."""

    def __init__(self) -> None:
        self.events = 0
        self.job: dict[str, Any] = {}
        self.planned: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.end: dict[str, Any] = {}
        self.at_s = 0.0
        self.started: Counter[tuple[str, str]] = Counter()  # (kind, "true" for a backup)
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (kind, word)
        self.read: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self._running: dict[str, str] = {}  # attempt: task
        self._done: set[str] = set()
        self._restored: Counter[str] = Counter()

    def add(self, line: bytes) -> str:
        """The kind of the event, counted; "" of what is none."""
        self.events += 1
        try:
            event = orjson.loads(line)
            kind = event["e"]
            self.at_s = max(self.at_s, float(event["t"]))  # a line that was made void says 0
            fold = getattr(self, f"_on_{kind}", None)
            if fold is not None:
                fold(event)
            return str(kind)
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""

    @property
    def state(self) -> str:
        """The job's state, one of STATES."""
        if self.end:
            return str(self.end.get("state", "STOPPED"))
        if self.planned:  # the last sample may be older than the plan
            return "COMMITTING" if self.status.get("state") == "COMMITTING" else "RUNNING"
        return str(self.status.get("state") or ("WAITING" if self.job else "STARTING"))

    def tasks(self) -> dict[str, dict[str, int]]:
        """The tasks by kind and state: done, running, waiting."""
        running = {task for task in self._running.values() if task not in self._done}
        found = {}
        for kind, name in (("map", "maps"), ("reduce", "reduce_tasks")):
            done = self._restored[kind] + sum(1 for task in self._done if kind_of(task) == kind)
            busy = sum(1 for task in running if kind_of(task) == kind)
            waiting = max(0, int(self.planned.get(name, 0)) - done - busy)
            found[kind] = {"done": done, "running": busy, "waiting": waiting}
        return found

    def running(self) -> Counter[str]:
        """The attempts that run, by kind."""
        return Counter(kind_of(task) for task in self._running.values())

    def document(self) -> dict[str, Any]:
        """What /api/status says of the job; README.md lists the fields."""
        return {
            "format": 1,
            "state": self.state,
            "seconds": self.at_s,
            "events": self.events,
            "job": self.job or None,
            "planned": self.planned or None,
            "tasks": self.tasks(),
            "attempts": {
                "started": sum(self.started.values()),
                "running": len(self._running),
                **{word: sum(n for (_, each), n in self.outcomes.items() if each == word) for _, word in self.outcomes},
            },
            "status": self.status or None,
            "end": self.end or None,
        }

    def _on_job(self, event: dict[str, Any]) -> None:
        self.job = _fields(event)

    def _on_planned(self, event: dict[str, Any]) -> None:
        self.planned = _fields(event)

    def _on_restored(self, event: dict[str, Any]) -> None:
        for kind, name in (("map", "maps"), ("reduce", "reduces")):
            self._restored[kind] = sum(end - first for first, end in event.get(name, ()))

    def _on_started(self, event: dict[str, Any]) -> None:
        self._running[event["attempt"]] = event["task"]
        self.started[kind_of(event["task"]), str(bool(event.get("backup"))).lower()] += 1

    def _on_back(self, event: dict[str, Any]) -> None:
        self._running[event["attempt"]] = event["task"]

    _on_adopted = _on_back

    def _on_ended(self, event: dict[str, Any]) -> None:
        task, word, kind = event["task"], event["word"], kind_of(event["task"])
        self._running.pop(event["attempt"], None)
        self.outcomes[kind, word] += 1
        if word == "accepted":
            self._done.add(task)
            self.written[kind] += event.get("size", 0)
            if kind == "map":
                self.read["bytes"] += event.get("bytes_in", 0)
                self.read["records"] += event.get("records_in", 0)

    def _on_lost(self, event: dict[str, Any]) -> None:
        if event["task"] in self._done:
            self._done.discard(event["task"])
        elif self._restored[kind := kind_of(event["task"])]:
            self._restored[kind] -= 1

    _on_rolled_back = _on_lost

    def _on_sample(self, event: dict[str, Any]) -> None:
        self.status = dict(event["status"])

    def _on_end(self, event: dict[str, Any]) -> None:
        self._running.clear()
        self.end = _fields(event)


def kind_of(task: str) -> str:
    """ "map" or "reduce", by the task's name."""
    return "map" if task.startswith("m") else "reduce"


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("e", "t")}
