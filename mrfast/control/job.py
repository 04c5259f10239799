"""A job's life as synchronous steps over a Scheduler: what workers ask and say, and the store work that follows.

The driver does no I/O. What the store must do comes out of `effects()`; the caller runs each effect wherever it likes
(inline, or in a thread pool) and gives its result or error back to `effect_done()`. The TCP coordinator and the local
engine are shells around it.

    WAITING --first hello--> PLANNING --splits--> RUNNING --every part accepted--> COMMITTING --published--> COMMITTED
    any of them but COMMITTED --a task, the store, the input--> FAILED
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrfast.control import commit, splits
from mrfast.control.explain import difference, failed, unpublished
from mrfast.control.outputs import Outputs, index_at_end
from mrfast.control.scheduler import IllegalEvent, Scheduler
from mrfast.control.schema import encode
from mrfast.errors import AppRefused, MrfastError
from mrfast.index import SegmentIndex
from mrfast.model import (
    AppInfo,
    Failure,
    InputObject,
    JobSpec,
    MapReport,
    MapTask,
    Part,
    Piece,
    Progress,
    ReduceReport,
    ReduceTask,
    Segment,
    inter_key,
)
from mrfast.storage import open_store
from mrfast.storage.base import Store

RENEW_S = 2.0
LEASE_S = 10.0
RUNNING_SHOWN = 64

QuotedNewlines = Callable[[InputObject], bool]


@dataclass(frozen=True, slots=True)
class Effect:
    """Store work: `run()` once, anywhere; its result or its MrfastError goes to `effect_done`."""

    name: str
    run: Callable[[], Any]
    subject: Any = None


class JobDriver:
    """One job from its spec to its end; see the module's docstring. Not thread-safe: one thread steps it."""

    def __init__(
        self, spec: JobSpec, *, store: Store, epoch: int = 1, quoted_newlines: QuotedNewlines | None = None
    ) -> None:
        self.spec = spec
        self.state = "WAITING"
        self.error: MrfastError | None = None
        self.result: dict[str, Any] | None = None
        self.scheduler: Scheduler | None = None
        self.app: AppInfo | None = None
        self._store = store
        self._epoch = epoch
        self._quoted_newlines = quoted_newlines
        self._splits: list[tuple[Piece, ...]] = []
        self._effects: deque[Effect] = deque([Effect("begin", self._begin)])
        self._begun = False
        self._outputs = Outputs()
        self._parts: dict[int, tuple[Part, ReduceReport]] = {}
        self._workers: dict[str, dict[str, Any]] = {}
        self._attempts = {"started": 0, "failed": 0}
        self._start: float | None = None
        self._now = 0.0

    # What workers ask and say

    def hello(self, worker: str, slots: int, app: AppInfo, now: float) -> dict[str, Any]:
        """The job as a worker must know it; AppRefused unless its app is the one that the first worker brought."""
        self._now = now
        if self.app is None:
            self.app = app
            self._start = now
            self._plan()
        elif app != self.app:
            raise AppRefused(difference(self.app, app))
        self._workers[worker] = {"slots": slots, "since": now}
        spec = self.spec
        return {
            "job": spec.job,
            "name": spec.name,
            "store_url": spec.store_url,
            "output_url": spec.output_url,
            "reduces": spec.reduces,
            "lease_s": LEASE_S,
            "renew_s": RENEW_S,
        }

    def poll(self, worker: str, free: int, now: float) -> list[MapTask | ReduceTask]:
        """Up to `free` tasks for this worker; none when there is nothing to do at this moment."""
        tasks: list[MapTask | ReduceTask] = []
        if self.state != "RUNNING" or self.scheduler is None:
            return tasks
        while len(tasks) < free and (attempt := self.scheduler.assign(worker, now)) is not None:
            self._attempts["started"] += 1
            spec = self.spec
            if attempt.kind == "map":
                pieces = self._splits[attempt.index]
                tasks.append(
                    MapTask(
                        spec.job, attempt.name, attempt.index, pieces, spec.store_url, spec.reduces, spec.memory_bytes
                    )
                )
            else:
                tasks.append(
                    ReduceTask(
                        spec.job, attempt.name, attempt.index, len(self._splits), spec.store_url, spec.memory_bytes
                    )
                )
        return tasks

    def renew(self, worker: str, attempts: dict[str, Progress], now: float) -> dict[str, str]:
        """ "ok" or "cancel" for each running attempt."""
        if self.scheduler is None or self.state in ("COMMITTED", "FAILED"):
            return dict.fromkeys(attempts, "cancel")
        return {name: self.scheduler.renew(name, worker, done, now) for name, done in attempts.items()}

    def report(self, worker: str, report: MapReport | ReduceReport | Failure, now: float) -> str:
        """What became of an attempt: accepted, already, superseded, stale or job_done. Repeating it is harmless."""
        self._now = now
        if self.scheduler is None:
            return "stale"
        if self.state != "RUNNING":
            return "job_done"
        try:
            if isinstance(report, Failure):
                word = self._failed(worker, report, now)
            elif isinstance(report, MapReport):
                word = self._map_done(report, now)
            else:
                word = self._reduce_done(report, now)
        except IllegalEvent as error:
            raise MrfastError(f"the report of {report.attempt} cannot be right: {error}") from None
        self._follow(now)
        return word

    def outputs(self, attempt: str, since: int, limit: int) -> tuple[list[Segment], int | None]:
        """The segments of this reduce's partition from map `since` on, at most `limit`, and where the next page begins.

        None: that was all. An empty page: the next map is not accepted now; ask again.
        """
        partition = self._partition(attempt)
        if partition is None:
            return [], since
        page: list[Segment] = []
        for index in range(since, min(len(self._splits), since + limit)):
            segment = self._outputs.segment(index, partition)
            if segment is None:
                break
            page.append(segment)
        end = since + len(page)
        return page, None if end >= len(self._splits) else end

    def pieces(self, attempt: str, since: int, limit: int) -> tuple[list[Piece], int | None]:
        """The pieces of a map attempt's task from `since` on, and where the next page begins; None: that was all."""
        index = self._map_index(attempt)
        if index is None:
            raise MrfastError(f"{attempt} is no attempt of a map of this job")
        pieces = self._splits[index]
        end = min(len(pieces), since + limit)
        return list(pieces[since:end]), None if end == len(pieces) else end

    def bad_input(self, worker: str, attempt: str, map_index: int, map_attempt: str, why: str, now: float) -> str:
        """A map's accepted output is missing or corrupt: that map runs again."""
        if self.scheduler is None or self.state != "RUNNING":
            return "job_done"
        if not 0 <= map_index < len(self._splits):
            return "stale"
        word = self.scheduler.output_lost(map_index, map_attempt, now)
        if word == "accepted":
            self._outputs.remove(map_index)
        self._follow(now)
        return word

    def release(self, worker: str, attempt: str, now: float) -> str:
        """A worker that drains gives a task back; not counted."""
        return "job_done" if self.scheduler is None else self.scheduler.released(attempt, now)

    def gone(self, worker: str, now: float) -> None:
        """A worker's connection closed: its leases end soon, unless it is back before."""
        self._workers.pop(worker, None)
        if self.scheduler is not None and self.state == "RUNNING":
            self.scheduler.worker_lost(worker, now)

    def tick(self, now: float) -> bool:
        """Ends the leases that have run out; whether there were any, whose tasks can be handed out again."""
        self._now = now
        return self.scheduler is not None and self.state == "RUNNING" and self.scheduler.tick(now) > 0

    def next_deadline(self) -> float | None:
        """When tick() next has something to do."""
        return None if self.scheduler is None or self.state != "RUNNING" else self.scheduler.next_deadline()

    def fail(self, error: MrfastError) -> None:
        """The job is FAILED with this error, unless it has ended already or is being committed."""
        if self.state in ("COMMITTING", "COMMITTED", "FAILED"):
            return
        if self.scheduler is not None and self.scheduler.state == "RUNNING":
            self.scheduler.fail(str(error), self._now)
        self._end_failed(error)

    def status(self, now: float) -> dict[str, Any]:
        """What people want to see of the job at this moment."""
        scheduler = self.scheduler
        running = [] if scheduler is None else list(scheduler.running())
        return {
            "job": self.spec.job,
            "name": self.spec.name,
            "state": self.state,
            "phase": "" if scheduler is None else scheduler.phase,
            "maps": len(self._splits),
            "maps_done": 0 if scheduler is None else scheduler.maps_done,
            "reduces": self.spec.reduces,
            "reduces_done": 0 if scheduler is None else scheduler.reduces_done,
            "workers": len(self._workers),
            "attempts": dict(self._attempts),
            "running": [
                {"attempt": each.name, "worker": each.worker, "seconds": round(now - each.since, 3)}
                for each in running[:RUNNING_SHOWN]
            ],
            "seconds": 0.0 if self._start is None else round(now - self._start, 3),
        }

    # Store work

    def effects(self) -> list[Effect]:
        """The store work to be done now; each is given out once."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def effect_done(self, effect: Effect, result: Any, now: float) -> None:
        """Goes on with what an effect gave, or with the MrfastError that it raised."""
        self._now = now
        if isinstance(result, MrfastError):
            self._effect_failed(effect, result, now)
        elif effect.name == "begin":
            self._begun = True
            self._plan()
        elif effect.name == "plan":
            self._planned(result)
        elif effect.name == "index":
            self._index_read(effect.subject, result, now)
        elif effect.name == "commit":
            self._effects.append(Effect("publish", lambda: self._publish(result)))
        elif effect.name == "publish":
            self._published(result, now)
        if self.state == "RUNNING":
            self._follow(now)

    def _begin(self) -> None:
        commit.begin(self.spec, self._store, open_store(self.spec.output_url))

    def _plan(self) -> None:
        """Cuts the input as soon as the output is ours and the app has said how."""
        if self.state == "WAITING" and self._begun and self.app is not None:
            self.state = "PLANNING"
            self._effects.append(Effect("plan", self._make_splits))

    def _make_splits(self) -> list[tuple[Piece, ...]]:
        spec, app = self.spec, self.app
        assert app is not None
        if app.cut.kind != "csv" or not app.cut.splittable:
            return splits.plan(spec.inputs, app.cut, spec.split_bytes)
        whole = {item.url for item in spec.inputs if item.size > spec.split_bytes and self._is_quoted(item)}
        return list(splits.unsplit(splits.plan(spec.inputs, app.cut, spec.split_bytes), whole))

    def _is_quoted(self, item: InputObject) -> bool:
        return self._quoted_newlines is None or self._quoted_newlines(item)

    def _planned(self, planned: list[tuple[Piece, ...]]) -> None:
        if self.state != "PLANNING":  # given up meanwhile
            return
        self._splits = planned
        self.scheduler = Scheduler(
            len(planned),
            self.spec.reduces,
            attempts_max=self.spec.attempts_max,
            epoch=self._epoch,
            lease_s=LEASE_S,
        )
        self.state = "RUNNING"

    def _effect_failed(self, effect: Effect, error: MrfastError, now: float) -> None:
        if effect.name == "index":
            self._unreadable(effect.subject, error, now)
        elif effect.name == "begin":  # the output is another's, or the store is not there: nothing of ours to clean up
            self.state, self.error = "FAILED", error
        elif effect.name in ("commit", "publish"):
            # The manifest is there, or may be: what it names stays, and no failed.json contradicts it.
            self.state, self.error = "FAILED", unpublished(self.spec.job, effect.name, error)
        elif effect.name == "plan":
            self.fail(error)

    # Reports

    def _map_done(self, report: MapReport, now: float) -> str:
        if not report.index:  # too long for a report: it stands at the end of the object
            if self._map_index(report.attempt) is None:
                return "stale"
            key = inter_key(self.spec.job, report.attempt)
            self._effects.append(Effect("index", lambda: index_at_end(self._store, key, report.size), report))
            return "accepted"
        try:
            index = SegmentIndex.unpack(report.index)
        except ValueError as error:
            raise MrfastError(f"the report of {report.attempt} holds no index: {error}") from None
        return self._accept_map(report, index, now)

    def _accept_map(self, report: MapReport, index: SegmentIndex, now: float) -> str:
        assert self.scheduler is not None
        if index.partitions != self.spec.reduces:
            raise MrfastError(f"the report of {report.attempt} has {index.partitions} partitions")
        digest = index.digest()
        word = self.scheduler.map_done(report.attempt, digest, now)
        if word == "accepted":
            map_index = self._map_index(report.attempt)
            assert map_index is not None
            self._outputs.add(map_index, report, index, digest)
        return word

    def _index_read(self, report: MapReport, index: SegmentIndex, now: float) -> None:
        try:
            self._accept_map(report, index, now)
        except (MrfastError, IllegalEvent) as error:
            self._unreadable(report, error, now)

    def _unreadable(self, report: MapReport, error: Exception, now: float) -> None:
        if self.scheduler is not None and self.state == "RUNNING":
            self.scheduler.failed(report.attempt, Failure(report.attempt, "store", str(error)), now)

    def _reduce_done(self, report: ReduceReport, now: float) -> str:
        assert self.scheduler is not None
        partition = self._partition(report.attempt)
        word = self.scheduler.reduce_done(report.attempt, report.xxh3, report.table, now)
        if word == "accepted" and partition is not None:
            part = Part(partition, report.attempt, report.size, report.xxh3, report.records_out)
            self._parts[partition] = part, report
        return word

    def _failed(self, worker: str, failure: Failure, now: float) -> str:
        assert self.scheduler is not None
        word = self.scheduler.failed(failure.attempt, failure, now)
        self._attempts["failed"] += word == "accepted"
        if failure.kind == "corrupt" and failure.map_index is not None and word == "accepted":
            self.bad_input(worker, failure.attempt, failure.map_index, failure.input, failure.message, now)
        return word

    def _task(self, attempt: str) -> tuple[str, int] | None:
        """("map", index) or ("reduce", partition) of an attempt's name; None if it is none of this job and epoch."""
        found = None if self.scheduler is None else self.scheduler.names.parse(attempt)
        return None if found is None or self.scheduler is None else self.scheduler.names.kind_index(found[0])

    def _map_index(self, attempt: str) -> int | None:
        task = self._task(attempt)
        return task[1] if task is not None and task[0] == "map" else None

    def _partition(self, attempt: str) -> int | None:
        task = self._task(attempt)
        return task[1] if task is not None and task[0] == "reduce" else None

    # The end

    def _follow(self, now: float) -> None:
        """What the last event led to: a failed job, or one whose every part is there."""
        scheduler = self.scheduler
        if scheduler is None or self.state != "RUNNING":
            return
        if scheduler.state == "FAILED":
            assert scheduler.failure is not None
            self._end_failed(failed(self.spec.job, scheduler.failure))
        elif scheduler.phase == "commit":
            self.state = "COMMITTING"
            document = self._document(now)
            self._effects.append(Effect("commit", lambda: self._commit(document)))

    def _commit(self, document: dict[str, Any]) -> dict[str, Any]:
        return commit.write_manifest(self.spec.job, document, self._store)

    def _publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        commit.publish(self.spec, manifest, self._store, open_store(self.spec.output_url))
        return manifest

    def _published(self, manifest: dict[str, Any], now: float) -> None:
        assert self.scheduler is not None
        self.scheduler.committed(now)
        self.result = manifest
        self.state = "COMMITTED"
        self._effects.append(Effect("clean", lambda: commit.clean(self.spec.job, manifest, self._store)))

    def _end_failed(self, error: MrfastError) -> None:
        self.state = "FAILED"
        self.error = error
        document = {"job": self.spec.job, "name": self.spec.name, "error": str(error), "attempts": self._attempts}
        self._effects.append(Effect("fail", lambda: self._write_failure(document)))

    def _write_failure(self, document: dict[str, Any]) -> None:
        if commit.write_failure(self.spec, document, self._store, open_store(self.spec.output_url)):
            commit.clean(self.spec.job, {"parts": []}, self._store)

    def _document(self, now: float) -> dict[str, Any]:
        """The manifest, which `_SUCCESS` repeats: what the job was made of, what it gave."""
        spec, app = self.spec, self.app
        assert app is not None
        parts = [self._parts[partition] for partition in sorted(self._parts)]
        counters = dict(self._outputs.counters)
        for _, report in parts:
            for name, count in report.counters.items():
                counters[name] = counters.get(name, 0) + count
        return {
            "job": spec.job,
            "name": spec.name,
            "output_url": spec.output_url,
            "app": encode(app),
            "epoch": self._epoch,
            "parts": [encode(part) for part, _ in parts],
            "inputs": [encode(item) for item in spec.inputs],
            "totals": {
                "maps": len(self._splits),
                "reduces": spec.reduces,
                "bytes_in": self._outputs.bytes_in,
                "records_emitted": self._outputs.records_in,
                "records_shuffled": self._outputs.records_out,
                "records_out": sum(part.records for part, _ in parts),
                "bytes_out": sum(part.size for part, _ in parts),
            },
            "counters": counters,
            "attempts": dict(self._attempts),
            "seconds": round(now - (now if self._start is None else self._start), 3),
        }
