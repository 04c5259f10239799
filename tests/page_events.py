"""Event logs of jobs that never ran, for the tests of the page: seeded, and with everything that can go wrong."""

from __future__ import annotations

import random
from typing import Any

import orjson

HOSTILE = "</script><img src=x onerror=alert(1)>"
TRACEBACK = f"""Traceback (most recent call last):
  File "apps/sizes.py", line 12, in map
    yield host, int(size)
                ^^^^^^^^^
ValueError: invalid literal for int() with base 10: '{HOSTILE}'
"""


class Synthetic:
    """`lines` of a job of so many tasks; `end` is COMMITTED, FAILED, or "" for one that still runs at `until_s`."""

    def __init__(
        self,
        maps: int = 240,
        reduces: int = 12,
        *,
        workers: int = 6,
        slots: int = 4,
        end: str = "COMMITTED",
        seed: int = 7,
        until_s: float = 1e9,
        failing: float = 0.012,
    ) -> None:
        self.random = random.Random(seed)
        self.events: list[dict[str, Any]] = []
        self.maps, self.reduces, self.end = maps, reduces, end
        self.failing = failing
        self.done = {"m": 0, "r": 0}
        self.bytes = self.records = self.failed = self.started = 0
        self.tell(
            "job",
            0,
            format=1,
            job="5e3f0c52a91b4d6f8b7a1d2c3e4f5061",
            name="access-log",
            mrfast="0.9.0",
            began=1_795_000_000,
            store_url="s3://bucket/mrfast",
            output_url=f"s3://bucket/out/{HOSTILE}",
            reduces=reduces,
            resumed=False,
            app=None,
            params={"pattern": HOSTILE},
            slots=slots,
        )
        self.bytes_in = maps * 8_400_000
        self.tell(
            "planned",
            0.4,
            app="sizes",
            maps=maps,
            reduces=reduces,
            reduce_tasks=reduces,
            partitions_per_reduce=1,
            bytes_in=self.bytes_in,
            largest_split_bytes=16_000_000,
        )
        crew = [(f"worker-{n}", slot) for n in range(workers) for slot in range(slots)]
        for n in range(workers):
            self.tell("worker", 0.5 + n / 50, worker=f"worker-{n}", slots=slots)
        at = self._phase("m", maps, crew, 0.7)
        self._story_of_one(at)
        if maps:
            self._shuffle(at)
        at = self._phase("r", reduces, crew, at + 0.1)
        self._end(at + 0.3)
        self.events = [event for event in sorted(self.events, key=lambda event: event["t"]) if event["t"] <= until_s]
        if until_s < 1e9:
            self.events = [event for event in self.events if event["e"] != "end"]

    @property
    def lines(self) -> list[bytes]:
        """As an EventLog has them."""
        return [orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in self.events]

    def tell(self, kind: str, t: float, /, **fields: Any) -> None:
        """Append an event; they are sorted by time at the end."""
        self.events.append({"e": kind, "t": round(t, 3), **fields})

    def _phase(self, kind: str, tasks: int, crew: list[tuple[str, int]], at: float) -> float:
        free = [at + self.random.random() * 0.1 for _ in crew]
        last, next_sample = at, at + 1
        for task in range(tasks):
            for attempt in range(1, 4):
                lane = min(range(len(crew)), key=free.__getitem__)
                took = self.random.lognormvariate(0.1, 0.25) * (1 if kind == "m" else 2.2)
                slow = attempt == 1 and self.random.random() < 0.01
                failed = not slow and attempt < 3 and kind == "m" and self.random.random() < self.failing
                start = free[lane]
                end = start + took * (5 if slow else 0.4 if failed else 1)
                self._attempt(
                    kind, task, attempt, crew[lane][0], start, end, "failed" if failed else "accepted", slow, crew
                )
                free[lane], last = end, max(last, end)
                if start > next_sample:
                    next_sample = start + 1
                    self.tell("sample", start, status=self._status(kind, start))
                if not failed:
                    break
        return last

    def _attempt(
        self,
        kind: str,
        task: int,
        n: int,
        worker: str,
        start: float,
        end: float,
        word: str,
        slow: bool,
        crew: list[tuple[str, int]],
    ) -> None:
        name = f"m-{task:06}" if kind == "m" else f"r-{task:05}"
        attempt = {"task": name, "attempt": f"{name}.e1.{n}", "worker": worker}
        size = self.random.randrange(4_000_000, 12_800_000)
        first = {"input": f"s3://logs/2026/11/access-{task:05}.log.gz", "bytes": size, "pieces": 1}
        self.tell("started", start, **attempt, backup=False, **(first if kind == "m" and n == 1 else {}))
        self.started += 1
        report = {
            "records_in": size // 95,
            "records_out": size // 400,
            "size": size // 30,
            "seconds": {"wait": (end - start) * 0.2, "compute": (end - start) * 0.7, "write": (end - start) * 0.1},
        }
        if kind == "m":
            report["bytes_in"] = size
        if slow and self.random.random() < 0.7:  # a backup is faster
            backup = attempt | {"attempt": f"{name}.e1.{n + 1}", "worker": crew[-1 - task % 3][0]}
            self.tell("started", start + (end - start) * 0.6, **backup, backup=True)
            end_backup = start + (end - start) * 0.85
            self.tell("ended", end_backup, **backup, word="accepted", **report)
            self.tell("ended", end_backup + 0.05, **attempt, word="superseded")
            self.started += 1
        elif word == "failed":
            self.failed += 1
            self.tell(
                "ended",
                end,
                **attempt,
                word="failed",
                kind="application",
                message=f"ValueError: {HOSTILE}",
                traceback=TRACEBACK,
                input=first["input"],
                offset=4711,
                counted=True,
                fatal=False,
            )
        else:
            self.tell("ended", end, **attempt, word="accepted", **report)
        if word == "accepted":
            self.done[kind] += 1
            if kind == "m":
                self.bytes += size
                self.records += size // 95
            if task % 37 == 5:
                self.tell("printed", end - 0.01, **attempt, text=f"a line that has no size: {HOSTILE}\nand one more")

    def _status(self, kind: str, t: float) -> dict[str, Any]:
        gets = self.started * 3
        return {
            "state": "RUNNING",
            "phase": "map" if kind == "m" else "reduce",
            "maps": self.maps,
            "maps_done": self.done["m"],
            "reduces": self.reduces,
            "reduces_done": self.done["r"],
            "workers": 6,
            "bytes_done": self.bytes,
            "records_done": self.records,
            "seconds": t,
            "running": [],
            "cost_usd": gets * 0.0000004 + 0.0012,
            "attempts": {"started": self.started, "failed": self.failed, "running": 24},
            "counters": {"bad lines": self.done["m"] * 3, HOSTILE: 1},
            "requests": {
                "by_verb": {"GET": gets, "PUT": self.started, "LIST": 2},
                "by_phase": {"plan": {"LIST": 2}, "map": {"GET": gets, "PUT": self.started}},
                "by_outcome": {"ok": gets + self.started, "throttled": 3},
                "bytes_up": 10**8,
                "bytes_down": self.bytes,
            },
        }

    def _story_of_one(self, at: float) -> None:
        """A worker goes, and an output goes with it."""
        if self.maps < 20:
            return
        self.tell("gone", at * 0.6, worker="worker-4")
        done = next(event for event in self.events if event.get("word") == "accepted" and event["t"] > at * 0.3)
        self.tell("lost", at * 0.6 + 0.2, task=done["task"], attempt=done["attempt"], why="NoSuchKey: 404")
        name = f"{done['task']}.e1.9"
        self.tell("started", at * 0.6 + 0.3, task=done["task"], attempt=name, worker="worker-1", backup=False)
        self.tell("ended", at * 0.6 + 1.4, **(done | {"attempt": name, "worker": "worker-1"}))
        self.events[-1].update(e="ended", t=at * 0.6 + 1.4)

    def _shuffle(self, at: float) -> None:
        sizes = [self.random.randrange(4_000_000, 6_000_000) for _ in range(self.reduces)]
        sizes[self.reduces // 3] *= 4
        self.tell("shuffle", at, bytes=sizes, partitions=self.reduces)
        keys = [
            {"key": key, "bytes": size, "records": size // 30, "share": size / sum(sizes), "partition": 4}
            for key, size in (("/index.html", 14_000_000), (HOSTILE, 2_100_000), ("\u202egpj.exe", 900_000))
        ]
        self.tell(
            "hot",
            at,
            keys=keys,
            error_bytes=120_000,
            shuffle_bytes=sum(sizes),
            advice="Key '/index.html' is 21 % of the shuffle; a combine() would shrink it: sums can be added early.",
        )

    def _end(self, at: float) -> None:
        status = self._status("r", at)
        fields = {
            "totals": {"records_out": 812_345},
            "counters": status["counters"],
            "requests": status["requests"],
            "cost_usd": status["cost_usd"],
            "seconds": at,
        }
        if self.end == "FAILED":
            name = f"m-{self.maps - 1:06}"
            attempt = {"task": name, "attempt": f"{name}.e1.4", "worker": "worker-2"}
            cut = at * 0.45
            self.events = [event for event in self.events if event["t"] < cut]
            self.tell("started", cut - 0.5, **attempt, backup=False, input="s3://logs/bad.log", bytes=1, pieces=1)
            self.tell(
                "ended",
                cut - 0.01,
                **attempt,
                word="failed",
                kind="application",
                message=f"ValueError: {HOSTILE}",
                traceback=TRACEBACK,
                input="s3://logs/bad.log",
                offset=0,
                counted=True,
                fatal=True,
            )
            error = f"map task {name} failed 4 times: ValueError: {HOSTILE}"
            self.tell(
                "end",
                cut,
                state="FAILED",
                error=error,
                task=name,
                attempt=attempt["attempt"],
                **(fields | {"seconds": cut}),
            )
        elif self.end:
            self.tell("end", at, state=self.end, error="", task="", attempt="", **fields)
