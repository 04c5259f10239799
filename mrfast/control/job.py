"""A job's life as synchronous steps over a Scheduler: what workers ask and say. Its store work is JobWork's.

The driver does no I/O but its journal's. The TCP coordinator and the local engine are shells around it: they run its
effects, and promise nothing to a worker before the journal is synced.

    WAITING --first hello--> PLANNING --splits--> RUNNING --every part accepted--> COMMITTING --published--> COMMITTED
    any of them but COMMITTED --a task, the store, the input--> FAILED
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Any

from mrfast.control import recovery
from mrfast.control.effects import Effect
from mrfast.control.explain import NO_ZSTD, difference, fits
from mrfast.control.job_work import LEASE_S, JobWork
from mrfast.control.journal_files import is_superseded
from mrfast.control.outputs import index_at_end, is_intact
from mrfast.control.printed import Printed
from mrfast.control.scheduler import IllegalEvent
from mrfast.errors import AppRefused, MrfastError, NotFound, StoreError
from mrfast.index import SegmentIndex
from mrfast.model import (
    AppInfo,
    Failure,
    MapReport,
    MapTask,
    Piece,
    Progress,
    ReduceReport,
    ReduceTask,
    Segment,
    inter_key,
)
from mrfast.storage import ledger

RENEW_S = 2.0
FENCE_S = 5.0  # between two looks whether another coordinator has taken the job over, where requests cost nothing
RUNNING_SHOWN = 64
CURSORS = 1 << 32  # places in the log of one epoch


class JobDriver(JobWork):
    """One job from its spec to its end; see the module's docstring. Not thread-safe: one thread steps it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._printed = Printed()

    # What workers ask and say

    def hello(self, worker: str, slots: int, app: AppInfo, now: float, running: tuple[str, ...] = ()) -> dict[str, Any]:
        """The job as a worker must know it; AppRefused unless its app is the one that the first worker brought."""
        self._now = now
        if self.spec.compress == "zst" and not app.zstd:
            raise AppRefused(NO_ZSTD)
        if self.app is None:
            self.app = app
            self._plan()
        elif not fits(self.app, app, compress=self.spec.reads_compressed):
            raise AppRefused(difference(self.app, app))
        self._start = now if self._start is None else self._start
        self._workers[worker] = {"slots": slots, "since": now}
        self._chronicle.tell("worker", now, worker=worker, slots=slots)
        if self.scheduler is not None:
            self.scheduler.joined(worker, slots, running, now)
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

    def poll(self, worker: str, free: int, now: float, ahead: bool = False) -> list[MapTask | ReduceTask]:
        """Up to `free` tasks for this worker; none when there is nothing to do at this moment.

        `ahead`: its slots are busy, and it would read the tasks' input meanwhile.
        """
        self._now = now
        tasks: list[MapTask | ReduceTask] = []
        if self.state != "RUNNING" or self.scheduler is None:
            return tasks
        while len(tasks) < free and (attempt := self.scheduler.assign(worker, now, ahead)) is not None:
            self._attempts["started"] += 1
            spec, name, index = self.spec, attempt.name, attempt.index
            if attempt.kind == "map":
                pieces, bad_max, skip = self._splits[index], spec.bad_records_max, self._bad.skip(index)
                compress = spec.compress_segments and self.app is not None and self.app.zstd
                tasks.append(
                    MapTask(
                        spec.job,
                        name,
                        index,
                        pieces,
                        spec.store_url,
                        spec.reduces,
                        spec.memory_bytes,
                        bad_max,
                        skip,
                        compress,
                    )
                )
            else:
                maps = len(self._splits)
                its = self._groups.partitions(index)
                tasks.append(
                    ReduceTask(
                        spec.job, name, its.start, maps, spec.store_url, spec.memory_bytes, len(its), spec.compress
                    )
                )
        return tasks

    def renew(self, worker: str, attempts: dict[str, Progress], now: float) -> dict[str, str]:
        """ "ok" or "cancel" for each running attempt."""
        self._now = now
        if self.state in ("COMMITTED", "FAILED"):
            return dict.fromkeys(attempts, "cancel")
        if self.scheduler is None:  # a resumed job that is still being read: what runs may be of use
            return dict.fromkeys(attempts, "ok")
        self.scheduler.crew.seen(worker, now)
        return {name: self.scheduler.renew(name, worker, done, now) for name, done in attempts.items()}

    def report(self, worker: str, report: MapReport | ReduceReport | Failure, now: float) -> str | None:
        """What became of an attempt: accepted, already, superseded, stale or job_done. Repeating it is harmless.

        None while that cannot be said: the job is still being read, or the index of a map output is.
        """
        self._now = now
        if self.state in ("COMMITTED", "COMMITTING", "FAILED"):
            return "job_done"
        if self.scheduler is None:
            return None
        try:
            if isinstance(report, Failure):
                word: str | None = self._failed(worker, report, now)
            elif isinstance(report, MapReport):
                word = self._map_done(worker, report, now)
            else:
                word = self._reduce_done(worker, report, now)
        except IllegalEvent as error:
            raise MrfastError(f"the report of {report.attempt} cannot be right: {error}") from None
        if word == "superseded" and not isinstance(report, Failure):
            self._discard(report)
        self._follow(now)
        return word

    def outputs(
        self, attempt: str, since: int, limit: int, now: float, worker: str = ""
    ) -> tuple[list[Segment], int, bool] | None:
        """A reduce's segments, at most `limit`, from `since` on, where to go on, and whether that was every map's.

        `since` is 0 at first. A place in the log of another epoch says nothing here: then it is told everything again.
        None: the reduce must give up.
        """
        reduce = self._reduce_index(attempt)
        if self.scheduler is None:
            return [], since, False
        if reduce is None or since < 0:
            return None
        epoch, at = divmod(since, CURSORS)
        its = self._groups.partitions(reduce)
        segments, end = self._outputs.page(its, at if epoch == self.epoch else 0, max(1, limit // len(its)))
        complete = self._outputs.is_all(end, len(self._splits))
        end += self.epoch * CURSORS
        return (segments, end, complete) if self.scheduler.fed(attempt, complete, now, worker) else None

    def pieces(self, attempt: str, since: int, limit: int) -> tuple[list[Piece], int | None]:
        """The pieces of a map attempt's task from `since` on, and where the next page begins; None: that was all."""
        index = self._map_index(attempt)
        if index is None:
            raise MrfastError(f"{attempt} is no attempt of a map of this job")
        pieces = self._splits[index]
        end = min(len(pieces), since + limit)
        return list(pieces[since:end]), None if end == len(pieces) else end

    def bad_input(self, worker: str, attempt: str, map_index: int, map_attempt: str, why: str, now: float) -> str:
        """A reduce cannot read a map's accepted output: the coordinator looks for itself before it believes it."""
        self._now = now
        if self.scheduler is None or self.state != "RUNNING":
            return "job_done"
        reduce = self._reduce_index(attempt)
        if reduce is None:
            return "stale"
        if self._outputs.attempt(map_index) != map_attempt or map_attempt in self._checking:
            return "superseded"
        segment = self._outputs.segment(map_index, self._groups.partitions(reduce))
        key = segment.object or inter_key(self.spec.job, map_attempt)
        self._checking[map_attempt] = why
        self._effects.append(Effect("check", lambda: is_intact(self._store, key, segment), (map_index, map_attempt)))
        return "accepted"

    def printed(self, worker: str, printed: dict[str, str], now: float) -> None:
        """What attempts have printed, whole lines; "" stands for the load of the application. It is told in bounds."""
        known = {name: text for name, text in printed.items() if not name or self._task(name) is not None}
        for attempt, text in self._printed.take(known):
            task = attempt.partition(".")[0]
            self._chronicle.tell("printed", now, task=task, attempt=attempt, worker=worker, text=text)

    def release(self, worker: str, attempt: str, now: float) -> str:
        """A worker that drains gives a task back; not counted."""
        return "job_done" if self.scheduler is None else self.scheduler.released(attempt, now, worker)

    def gone(self, worker: str, now: float) -> None:
        """A worker's connection closed: its leases end soon, unless it is back before."""
        self._workers.pop(worker, None)
        self._chronicle.tell("gone", now, worker=worker)
        if self.scheduler is not None and self.state == "RUNNING":
            self.scheduler.worker_lost(worker, now)

    def tick(self, now: float) -> bool:
        """Does what time brings about; whether tasks can be handed out again."""
        self._now = now
        self._chronicle.sample(now, self.status, self._outputs)
        mirrored = self.journal is not None and self.journal.is_mirrored  # then a look goes with each object of it
        if self.state == "RUNNING" and now >= self._fence_at and not mirrored:
            self._fence_at = now + FENCE_S
            self._effects.append(Effect("fence", lambda: is_superseded(self._store, self.spec.job, self.epoch)))
        if now >= self._reread_at:
            self._reread_at = float("inf")
            self._read_indexes()
        if self.scheduler is None or self.state != "RUNNING":
            return False
        ended = self.scheduler.tick(now) > 0
        while self.scheduler.stalled:
            self._count_failure(*self.scheduler.stalled.pop(0))
        self._follow(now)
        return ended

    def next_deadline(self) -> float | None:
        """When tick() next has something to do."""
        return None if self.scheduler is None or self.state != "RUNNING" else self.scheduler.next_deadline()

    def next_sample(self) -> float | None:
        """When tick() next tells how the job stands; it is late where it is not called."""
        return None if self.scheduler is None or self.state != "RUNNING" else self._chronicle.sample_at

    def status(self, now: float) -> dict[str, Any]:
        """What people want to see of the job at this moment."""
        scheduler = self.scheduler
        shown = [] if scheduler is None else list(islice(scheduler.running(), RUNNING_SHOWN))
        return {
            "job": self.spec.job,
            "name": self.spec.name,
            "state": self.state,
            "phase": "" if scheduler is None else scheduler.phase,
            "maps": len(self._splits),
            "maps_done": 0 if scheduler is None else scheduler.maps_done,
            "reduces": self.spec.reduces,
            # In parts, of which the last task may make fewer: all of them only when all are there.
            "reduces_done": 0
            if scheduler is None
            else min(scheduler.reduces_done * self._groups.size, self.spec.reduces),
            "workers": len(self._workers) if scheduler is None else scheduler.crew.present(now),
            "attempts": self._attempts | {"running": 0 if scheduler is None else scheduler.attempts_running},
            # Of accepted maps.
            "bytes_done": self._outputs.bytes_in,
            "records_done": self._outputs.records_in,
            "running": [
                {
                    "attempt": each.name,
                    "worker": each.worker,
                    "seconds": round(now - each.since, 3),
                    **asdict(each.progress),
                }
                for each in shown
            ],
            "counters": self._counters(),
            "seconds": 0.0 if self._start is None else round(now - self._start, 3),
            **ledger.document(self.requests()),
        }

    # Reports

    def _map_done(self, worker: str, report: MapReport, now: float) -> str | None:
        if not report.index:  # too long for a report: it stands at the end of the object
            assert self.scheduler is not None
            if self._map_index(report.attempt) is None:
                return "stale"
            if report.attempt in self._reading:
                return None
            if not self.scheduler.is_open(report.attempt):
                return self.scheduler.settled(report.attempt)
            self._reading.add(report.attempt)
            key = inter_key(self.spec.job, report.attempt)
            read = Effect("index", lambda: index_at_end(self._store, key, report.size), (worker, report))
            self._effects.append(read)
            return None
        try:
            index = SegmentIndex.unpack(report.index)
        except ValueError as error:
            raise MrfastError(f"the report of {report.attempt} holds no index: {error}") from None
        return self._accept_map(worker, report, index, now)

    def _accept_map(self, worker: str, report: MapReport, index: SegmentIndex, now: float) -> str:
        assert self.scheduler is not None
        if index.partitions != self.spec.reduces:
            raise MrfastError(f"the report of {report.attempt} has {index.partitions} partitions")
        digest = index.digest()
        self._chronicle.report = report
        word = self.scheduler.map_done(report.attempt, digest, now, worker)
        if word == "accepted":
            map_index = self._map_index(report.attempt)
            assert map_index is not None
            self._outputs.add(map_index, report, index, digest)
            for reduce in [made for made in self._reports if self.scheduler.task_state("reduce", made) != "ACCEPTED"]:
                del self._reports[reduce]  # rolled back
            self._note(recovery.map_record(report, digest, self.scheduler.issued("map", map_index)))
            self._bad.accept(map_index, report)
            self._keep(map_index, report, digest)
            self._close_maps()
        return word

    def _index_read(self, worker: str, report: MapReport, index: SegmentIndex, now: float) -> None:
        self._reading.discard(report.attempt)
        if self.scheduler is None or self.state != "RUNNING":
            return
        try:
            if self._accept_map(worker, report, index, now) == "superseded":
                self._discard(report)
        except (MrfastError, IllegalEvent) as error:
            self._unreadable(worker, report, error, now)

    def _unreadable(self, worker: str, report: MapReport, error: Exception, now: float) -> None:
        self._reading.discard(report.attempt)
        if self.scheduler is None or self.state != "RUNNING":
            return
        down = isinstance(error, StoreError) and not isinstance(error, NotFound)
        failure = Failure(report.attempt, "store" if down else "corrupt", str(error), counted=not down)
        if self.scheduler.failed(report.attempt, failure, now, worker) == "accepted":
            self._count_failure(failure, worker)

    def _reduce_done(self, worker: str, report: ReduceReport, now: float) -> str:
        assert self.scheduler is not None
        reduce = self._reduce_index(report.attempt)
        if reduce is not None:
            try:
                self._groups.check(reduce, report)
            except ValueError as error:
                raise MrfastError(f"the report of {report.attempt} cannot be right: {error}") from None
        self._chronicle.report = report
        word = self.scheduler.reduce_done(report.attempt, report.xxh3, report.table, now, worker)
        if word == "accepted" and reduce is not None:
            self._reports[reduce] = report
            self._note(recovery.reduce_record(report, self.scheduler.issued("reduce", reduce)))
        return word

    def _failed(self, worker: str, failure: Failure, now: float) -> str:
        assert self.scheduler is not None
        map_index = self._map_index(failure.attempt)
        if map_index is not None and self.scheduler.is_open(failure.attempt):
            failure, skipped = self._bad.died(map_index, failure)
            if skipped is not None:
                self._note(recovery.skip_record(map_index, *skipped))
        word = self.scheduler.failed(failure.attempt, failure, now, worker)
        if word == "accepted":
            self._count_failure(failure, worker)
        return word

    def _count_failure(self, failure: Failure, worker: str) -> None:
        self._attempts["failed"] += 1
        if failure.counted:
            self._note(recovery.failed_record(failure, worker))
