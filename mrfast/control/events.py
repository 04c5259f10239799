"""The event log of a job: what happened, one JSON object a line, for those who watch it and those who ask afterwards.

The live page, `/metrics`, `mrfast report` and `mrfast explain` all fold the same lines. `e` is an event's kind, `t` the
seconds since the job's first event, to three decimals; who reads ignores kinds and fields that it does not know.

    job          format, job, name, mrfast, began (UNIX time or null), store_url, output_url, reduces, resumed, app,
                 params, slots; always the first
    planned      app, maps, reduces (partitions), reduce_tasks, partitions_per_reduce, bytes_in,
                 largest_split_bytes; python: which of map, combine and reduce are Python, each with an op or ""
    worker       worker, slots: it said hello             gone         worker: its connection closed
    started      task (m-000012, r-00003), attempt, worker, backup; a map's first: input (its first), bytes, pieces
    ended        task, attempt, worker, word: accepted, failed, expired, released, preempted, cancelled or superseded.
                 One that expired may come back or be accepted yet, or end a second time, for good
      accepted   records_in, records_out, size (of what it wrote), of a map bytes_in; seconds, if known: of wait (for
                 the store), compute and write, and where there were any of turn, maps (waited for) and spill
      failed     kind, message, traceback, input, offset, counted, fatal
    back         task, attempt, worker: a lease that had run out is renewed
    adopted      task, attempt, worker: one that an earlier epoch of the coordinator handed out shows up
    restored     maps, reduces: ranges [[first, end], ...] of tasks that need not run: an earlier epoch or job did
    lost         task, attempt, why: an accepted map output is gone, and the map runs again
    rolled_back  task, attempt: an accepted reduce runs again, since a map's second output differs from its first
    sample       status, as `JobDriver.status` gives it
    shuffle      bytes: of the accepted map outputs by partition, or by bucket of neighbouring ones; partitions
    hot          keys, error_bytes, shuffle_bytes, combined (whether a combiner was at work), advice
    printed      task, attempt, worker, text
    left_out     events: so many were not kept, since the log was full
    end          state (COMMITTED, FAILED, STOPPED), error, task, attempt, totals, counters, requests, cost_usd,
                 seconds; always the last

Of `shuffle` and `hot` the last one counts. A finished job's log is `_events.jsonl.gz` beside `_SUCCESS`, that of one
that failed or was stopped `jobs/<id>/events.jsonl.gz` in its store: the lines, in one gzip member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

FORMAT = 1
LINES_MAX = 500_000
BYTES_MAX = 128 << 20
# Beyond either there is room for so many more events that are no routine: failures, losses, samples.
SPARE_LINES = 10_000
ROUTINE = frozenset({"started", "ended", "back", "adopted", "worker", "gone", "printed"})
LAST_COUNTS = frozenset({"shuffle", "hot"})
TEXT_MAX = {"message": 2_000, "traceback": 20_000, "error": 20_000}
# What stands in the place of a line that a later one has made void: places in `lines` stay what they are.
VOID = b'{"e":"","t":0}\n'


class EventLog:
    """The events of one job so far, encoded; lines are only appended, and one that counts no more becomes VOID.

    Times are any clock's seconds; they are counted from the first event's on.
    """

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        self.lines: list[bytes] = []
        self.hear: Callable[[str, Mapping[str, Any]], None] = lambda kind, fields: None  # is told each event at once
        self.ended = False
        self._lines_max = lines_max
        self._began: float | None = None
        self._last: dict[str, int] = {}  # places of the lines of which the last counts
        self._left_out = 0
        self._spare = SPARE_LINES
        self._bytes = 0

    def tell(self, kind: str, at_s: float, /, **fields: Any) -> None:
        """Append one event; nothing follows `end`."""
        self.add(kind, at_s, fields)

    def add(self, kind: str, at_s: float, fields: Mapping[str, Any]) -> None:
        """The same, its fields as a mapping."""
        if self.ended:
            return
        self.hear(kind, fields)
        if self._began is None:
            self._began = at_s
        if kind != "end" and (len(self.lines) >= self._lines_max or self._bytes >= BYTES_MAX):
            if not self._spare or (kind in ROUTINE and fields.get("word") != "failed"):
                self._left_out += 1
                return
            self._spare -= 1
        if kind in LAST_COUNTS:
            if kind in self._last:
                self.lines[self._last[kind]] = VOID
            self._last[kind] = len(self.lines)
        if kind == "end":
            self.ended = True
            self.lines += self._closing(self.line(kind, at_s, fields), at_s)
        else:
            line = self.line(kind, at_s, fields)
            self.lines.append(line)
            self._bytes += len(line)

    def line(self, kind: str, at_s: float, fields: Mapping[str, Any]) -> bytes:
        """An event as a line, which is not appended."""
        event = {"e": kind, "t": round(at_s - (at_s if self._began is None else self._began), 3), **fields}
        try:
            data = orjson.dumps(event)
        except TypeError:  # a name that is no UTF-8, or a sum beyond 64 bits
            data = orjson.dumps(_plain(event))
        return data + b"\n"  # a copy: what orjson gives keeps 4 KiB, and is 20 times as slow to keep

    def document(self, end: Mapping[str, Any] | None = None, at_s: float = 0.0) -> bytes:
        """The lines that count. `end`: those of a job that is about to end so, which `lines` does not say yet."""
        lines = [line for line in self.lines if line is not VOID]
        if end is not None and not self.ended:
            lines += self._closing(self.line("end", at_s, end), at_s)
        return b"".join(lines)

    def _closing(self, end: bytes, at_s: float) -> list[bytes]:
        if not self._left_out:
            return [end]
        return [self.line("left_out", at_s, {"events": self._left_out}), end]


def cut(name: str, text: str) -> str:
    """A text of an event, within its bound; of a traceback the end says most."""
    most = TEXT_MAX[name]
    if len(text) <= most:
        return text
    return "... " + text[4 - most :] if name == "traceback" else text[: most - 4] + " ..."


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value)
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)
