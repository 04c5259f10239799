"""What has happened in a job, in words, for the terminal of the person who runs it: bounded, however much happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .progress import counted, size_text

FAILURES_SHOWN = 10  # of each kind of news; the others are counted at the end
WORKERS_SHOWN = 50
PRINTED_BYTES_MAX = 1 << 20  # of what the application prints
MESSAGE_CHARS_MAX = 300
# Each kind of news: what is only counted when there is too much of it, and how that is told at the end.
COUNTED = {
    "failed": ("attempts that fail", "failed attempts"),
    "expired": ("attempts that are lost", "lost attempts"),
    "lost": ("tasks that run again", "times a task ran again"),
    "worker": ("workers that come", ""),
    "gone": ("workers that go", ""),
}
LOCAL = "local"  # the one worker of a job on this machine: it goes without saying


def prefixed(task: str, worker: str, text: str) -> str:
    """Lines that an application printed, each behind its task and worker."""
    who = (task or "app") + _on(worker)
    return "".join(f"{who} | {line}\n" for line in text.split("\n")[: -1 if text.endswith("\n") else None])


class Words:
    """Hears the events of one job; gives news to `say`, a line each, and what the application printed to `printed`."""

    def __init__(self, say: Callable[[str], None], printed: Callable[[str], None], attempts_max: int) -> None:
        self._say = say
        self._printed = printed
        self._attempts_max = attempts_max
        self._failures: Counter[str] = Counter()  # that count, of each task
        self._workers: set[str] = set()
        self._said: Counter[str] = Counter()  # of each kind
        self._shown = self._hidden = 0  # bytes that were printed

    def heard(self, kind: str, event: Mapping[str, Any]) -> None:
        """Takes in an event, as the log of the job has it."""
        tell = getattr(self, f"_on_{kind}", None)
        if tell is not None:
            tell(event)

    def _on_printed(self, event: Mapping[str, Any]) -> None:
        text = prefixed(event["task"], event["worker"], event["text"])
        size = len(text.encode())
        if self._hidden or self._shown + size > PRINTED_BYTES_MAX:
            if not self._hidden:
                most = size_text(PRINTED_BYTES_MAX)
                self._say(
                    f"the application has printed {most}: what comes now is in the event log only, beside the output"
                )
            self._hidden += len(event["text"].encode())
            return
        self._shown += size
        self._printed(text)

    def _on_ended(self, event: Mapping[str, Any]) -> None:
        if event["word"] == "failed":
            self._on_failure(event)
        elif event["word"] == "expired":
            self._news("expired", f"{event['task']}{_on(event['worker'])} is not heard of any more; it runs again")

    def _on_failure(self, event: Mapping[str, Any]) -> None:
        task = event["task"]
        self._failures[task] += event["counted"]
        number = self._failures[task]
        if event["fatal"] or number >= self._attempts_max:
            return  # the job fails with it: its error says so
        times = f"({number} of {self._attempts_max})" if event["counted"] else "(this does not count)"
        lines = event["message"].splitlines() or [event["kind"]]
        message = lines[0] if len(lines[0]) <= MESSAGE_CHARS_MAX else lines[0][:MESSAGE_CHARS_MAX] + " ..."
        where = f", in {event['input']}" if event["input"] else ""
        self._news("failed", f"{task}{_on(event['worker'])} failed {times}: {message}{where}; it is tried again")

    def _on_lost(self, event: Mapping[str, Any]) -> None:
        _, _, place_and_why = event["why"].partition(", offset ")  # of a CorruptSegment
        why = place_and_why.partition(": ")[2] or event["why"] or "it is missing"
        self._news("lost", f"{event['task']} runs again: its output is lost: {why}")

    def _on_rolled_back(self, event: Mapping[str, Any]) -> None:
        self._news("lost", f"{event['task']} runs again: a map that ran again has given something else")

    def _on_worker(self, event: Mapping[str, Any]) -> None:
        if event["worker"] != LOCAL:
            again = " again" * (event["worker"] in self._workers)
            self._workers.add(event["worker"])
            slots = counted(event["slots"], "slot")
            self._news("worker", f"worker {_short(event['worker'])} is here{again}, with {slots}", WORKERS_SHOWN)

    def _on_gone(self, event: Mapping[str, Any]) -> None:
        if event["worker"] != LOCAL:
            self._news("gone", f"worker {_short(event['worker'])} is gone", WORKERS_SHOWN)

    def _on_restored(self, event: Mapping[str, Any]) -> None:
        done = {noun: sum(end - first for first, end in event[f"{noun}s"]) for noun in ("map", "reduce")}
        told = " and ".join(counted(number, noun) for noun, number in done.items() if number)
        self._say(f"{told} {'is' if sum(done.values()) == 1 else 'are'} done already")

    def _on_end(self, event: Mapping[str, Any]) -> None:
        for kind, (_, ended) in COUNTED.items():
            if ended and (more := self._said[kind] - FAILURES_SHOWN) > 0:
                self._say(f"{more:,} more {ended}")
        if self._hidden:
            self._say(f"the application printed {size_text(self._hidden)} more")

    def _news(self, kind: str, text: str, most: int = FAILURES_SHOWN) -> None:
        self._said[kind] += 1
        if self._said[kind] <= most:
            self._say(text)
        elif self._said[kind] == most + 1:
            self._say(f"more {COUNTED[kind][0]} are only counted from here on")


def _short(worker: str) -> str:
    """A worker's name as people read it: an id of a mrfast-worker needs no more."""
    return worker[:8] if len(worker) == 32 else worker


def _on(worker: str) -> str:
    return f" on {_short(worker)}" if worker and worker != LOCAL else ""
