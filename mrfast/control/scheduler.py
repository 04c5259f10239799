"""Which task runs where: the whole life of a job as a value, without a clock, a socket, a thread or chance.

Events come in as method calls with the time as `now`; what they may do to a task or to the job stands in TRANSITIONS,
and an event that is not there raises IllegalEvent and changes nothing. A task is IDLE, LEASED (some attempt's lease
runs) or ACCEPTED. Leases serve liveness only: an attempt whose lease ran out may still deliver while its task is open.
"""

from __future__ import annotations

from collections.abc import Iterator

from mrfast.control import invariants, story
from mrfast.control.leases import Lease, Leases
from mrfast.control.names import Names
from mrfast.control.ready import Ready
from mrfast.control.records import Attempt, JobFailure, Running, TaskRecord
from mrfast.control.transitions import ACCEPTED, IDLE, LEASED, RUNNING, TRANSITIONS, IllegalEvent, after
from mrfast.index import TableDigest
from mrfast.model import MAPS_MAX, REDUCES_MAX, Failure, Progress

__all__ = ["TRANSITIONS", "Attempt", "IllegalEvent", "JobFailure", "Running", "Scheduler"]

LOST_LEASE_S = 3.0  # what is left of the leases of a worker whose connection closed
STORY_CHARS_MAX = 100  # of a message in a story: the whole of it stands above the story

_STATES = (IDLE, LEASED, ACCEPTED)
_CODES = {state: code for code, state in enumerate(_STATES)}
_IDLE, _LEASED, _ACCEPTED = range(3)


class Scheduler:
    """A job's tasks, leases and results; every method costs O(log n) in the running tasks, or less."""

    def __init__(
        self, maps: int, reduces: int, *, attempts_max: int = 4, epoch: int = 1, lease_s: float = 10.0
    ) -> None:
        if not 0 <= maps <= MAPS_MAX or not 1 <= reduces <= REDUCES_MAX or attempts_max < 1 or epoch < 0:
            raise ValueError(
                f"maps={maps}, reduces={reduces}, attempts_max={attempts_max} or epoch={epoch}: no such job"
            )
        self.maps, self.reduces = maps, reduces
        self.attempts_max, self.lease_s = attempts_max, lease_s
        self.names = Names(maps, reduces, epoch)
        self.state = RUNNING
        self.failure: JobFailure | None = None
        self.maps_done = self.reduces_done = 0
        self.version = 0  # of the table map -> accepted output: grows when an output is lost
        self._start: float | None = None
        self._states = bytearray(maps + reduces)  # maps first, then reduces
        self._tasks: dict[int, TaskRecord] = {}
        self._ready_maps = Ready(0, maps)
        self._ready_reduces = Ready(maps, maps + reduces)
        self._leases = Leases()
        self._lost: set[str] = set()
        self._workers: dict[str, int] = {}
        self._table = TableDigest()

    # What workers ask and say

    def assign(self, worker: str, now: float) -> Attempt | None:
        """The next task for this worker: maps first, requeued before fresh; reduces once every map is accepted."""
        self._seen(worker, now)
        if self.state != RUNNING:
            return None
        ready = self._ready_maps if self.maps_done < self.maps else self._ready_reduces
        tasks = self._tasks
        task = ready.take(
            lambda t: self._states[t] == _IDLE,
            lambda t: t in tasks and tasks[t].shun == worker,
        )
        if task is None:
            return None
        record = self._tasks.get(task)
        if record is None:
            record = self._tasks[task] = TaskRecord()
        self._step(task, "leased")
        record.issued += 1
        lease = Lease(task, record.issued, worker, now, self.version)
        if record.open is None:
            record.open = {}
        record.open[lease.n] = lease
        self._leases.start(lease, now + self.lease_s)
        self._tell(record, "leased", lease, now)
        kind, index = self.names.kind_index(task)
        return Attempt(self.names.attempt(task, lease.n), kind, index)

    def renew(self, attempt: str, worker: str, progress: Progress, now: float) -> str:
        """ "ok" and a fresh lease, or "cancel": this attempt can no longer be accepted. Revives an expired one."""
        self._seen(worker, now)
        found = self._find(attempt)
        if found is not None and self._tasks[found[0]].accepted == found[1]:
            return "ok"  # its worker has not heard yet; told to cancel, it would remove the accepted object
        lease = None if found is None else self._open(*found)
        if self.state != RUNNING or lease is None or lease.worker != worker:
            return "cancel"
        if lease.task >= self.maps and lease.version != self.version:  # expired, and its segments are gone
            self._close(lease, "cancelled", now)
            return "cancel"
        lease.progress = progress
        if lease.live:
            self._leases.move(lease, now + self.lease_s)
        else:
            self._step(lease.task, "leased")
            self._leases.start(lease, now + self.lease_s)
            self._tell(self._tasks[lease.task], "back", lease, now)
        return "ok"

    def map_done(self, attempt: str, digest: str, now: float) -> str:
        """Accept a map output if its task is open; other bytes than before roll back the reduces that used those."""
        lease, word = self._settle(attempt, "map", digest)
        if lease is None:
            return word
        record = self._tasks[lease.task]
        before = record.digest
        self._accept(lease, digest, now)
        self.maps_done += 1
        self._table.add(lease.task, digest)
        if before and before != digest and self.reduces_done:
            self._roll_back(now)
        return "accepted"

    def reduce_done(self, attempt: str, digest: str, table: str, now: float) -> str:
        """Accept a part if its task is open and it was made from exactly the accepted map outputs."""
        lease, word = self._settle(attempt, "reduce", digest)
        if lease is None:
            return word
        if self.maps_done < self.maps or table != self.table_digest():
            self._close(lease, "superseded", now)
            return "superseded"
        self._accept(lease, digest, now)
        self._tasks[lease.task].table = table
        self.reduces_done += 1
        return "accepted"

    def failed(self, attempt: str, failure: Failure, now: float) -> str:
        """Take note of a failed attempt; a fatal one, or one counted one too many, fails the job."""
        found = self._find(attempt)
        if self.state != RUNNING:
            return "job_done"
        if found is None:
            return "stale"
        lease = self._open(*found)
        record = self._tasks[found[0]]
        if lease is None:
            return "already" if record.accepted == found[1] or record.has_failed(found[1]) else "superseded"
        self._close(lease, "failed", now)
        record.add_failure(lease.n, lease.worker, failure)
        if failure.fatal:
            self._fail_task(lease.task, "failed for good", failure, lease.worker)
        elif record.counted >= self.attempts_max:
            worker, first = record.first_counted()
            often = "once" if record.counted == 1 else f"{record.counted} times"
            self._fail_task(lease.task, f"failed {often}", first, worker)
        return "accepted"

    def released(self, attempt: str, now: float) -> str:
        """Take back an attempt that its worker gives up without fault (a drain); not counted."""
        found = self._find(attempt)
        if self.state != RUNNING:
            return "job_done"
        if found is None:
            return "stale"
        lease = self._open(*found)
        if lease is None:
            return "already" if self._tasks[found[0]].accepted == found[1] else "superseded"
        self._close(lease, "released", now)
        return "accepted"

    def output_lost(self, map_index: int, attempt: str, now: float) -> str:
        """Run a map again whose accepted output is missing or corrupt; running reduces are told to cancel.

        A report about an attempt that is not the accepted one, or after the last reduce was accepted, changes nothing.
        """
        if not 0 <= map_index < self.maps:
            raise IllegalEvent(f"output_lost: no map {map_index} in a job of {self.maps}")
        if self.state != RUNNING:
            return "job_done"
        record = self._tasks.get(map_index)
        if record is None or not record.accepted or self.names.attempt(map_index, record.accepted) != attempt:
            return "superseded"
        if self.reduces_done == self.reduces:
            return "superseded"
        self._step(map_index, "output_lost")
        self._note(record, "output_lost", record.accepted, "", now)
        record.accepted = 0
        record.losses += 1
        self.maps_done -= 1
        self.version += 1
        self._table.remove(map_index, record.digest)
        self._ready_maps.put(map_index)
        for lease in [lease for lease in self._leases if lease.task >= self.maps]:
            self._close(lease, "cancelled", now)
        if record.losses >= self.attempts_max:
            self._fail_task(map_index, f"lost its accepted output {record.losses} times (missing or corrupt)")
        return "accepted"

    def worker_lost(self, worker: str, now: float) -> None:
        """Shorten the leases of a worker whose connection closed; a poll or renewal of it restores them."""
        for lease in self._leases.of(worker):
            self._lost.add(worker)
            self._leases.move(lease, min(lease.deadline, now + LOST_LEASE_S))

    # What time and the coordinator do

    def tick(self, now: float) -> int:
        """End the leases that have run out and queue their tasks again, uncounted; returns how many."""
        expired = 0
        while (lease := self._leases.expired(now)) is not None:
            self._end(lease, "expired", now)
            expired += 1
        return expired

    def next_deadline(self) -> float | None:
        """When `tick` next has something to do, or None."""
        return self._leases.next_deadline()

    def committed(self, now: float) -> None:
        """The manifest is written: the job is COMMITTED, for ever."""
        if self.reduces_done < self.reduces:
            raise IllegalEvent(f"committed with {self.reduces_done} of {self.reduces} reduces accepted")
        self._finish("committed")

    def fail(self, reason: str | JobFailure, now: float) -> None:
        """The job is FAILED, for ever."""
        failure = reason if isinstance(reason, JobFailure) else JobFailure(reason)
        self._finish("failed")
        self.failure = failure

    # What can be read

    @property
    def phase(self) -> str:
        """map, reduce, or commit (all parts accepted)."""
        if self.maps_done < self.maps:
            return "map"
        return "reduce" if self.reduces_done < self.reduces else "commit"

    def table_digest(self) -> str:
        """The digest of the table map -> accepted output, as a reduce must report it."""
        return self._table.hex()

    def accepted_maps(self) -> Iterator[tuple[int, str, str]]:
        """(index, attempt, digest) of the accepted maps, in index order."""
        return self._accepted(0, self.maps)

    def accepted_reduces(self) -> Iterator[tuple[int, str, str]]:
        """(partition, attempt, digest) of the accepted reduces, in partition order."""
        return self._accepted(self.maps, self.maps + self.reduces)

    def accepted_map(self, index: int) -> str | None:
        """The attempt whose output of this map is accepted, or None."""
        record = self._tasks.get(index)
        return self.names.attempt(index, record.accepted) if record is not None and record.accepted else None

    def running(self) -> Iterator[Running]:
        """The attempts whose leases run."""
        for lease in self._leases:
            kind, index = self.names.kind_index(lease.task)
            yield Running(
                self.names.attempt(lease.task, lease.n), kind, index, lease.worker, lease.since, lease.progress
            )

    def task_state(self, kind: str, index: int) -> str:
        """IDLE, LEASED or ACCEPTED."""
        return _STATES[self._states[self._number(kind, index)]]

    def story(self, kind: str, index: int) -> list[str]:
        """What happened to a task, a line an event, oldest first."""
        return self._story(self._number(kind, index))

    # Inside

    def _seen(self, worker: str, now: float) -> None:
        if self._start is None:
            self._start = now
        if worker in self._lost:
            self._lost.discard(worker)
            for lease in self._leases.of(worker):
                self._leases.move(lease, now + self.lease_s)

    def _number(self, kind: str, index: int) -> int:
        task = self.names.number(kind, index)
        if task is None:
            raise IndexError(f"no {kind} {index} in a job of {self.maps} maps and {self.reduces} reduces")
        return task

    def _step(self, task: int, event: str) -> None:
        kind = "map" if task < self.maps else "reduce"
        state = _STATES[self._states[task]]
        self._states[task] = _CODES[after(kind, state, event, self.names.task(task))]

    def _finish(self, event: str) -> None:
        self.state = after("job", self.state, event, "the job")
        self._leases.clear()

    def _settle(self, attempt: str, kind: str, digest: str) -> tuple[Lease | None, str]:
        """The open attempt that a report of success is about; or None and the answer."""
        found = self._find(attempt)
        if found is not None and self.names.kind_index(found[0])[0] != kind:
            raise IllegalEvent(f"{attempt} is no {kind}")
        if not digest:
            raise IllegalEvent(f"{attempt} reports no digest")
        if self.state != RUNNING:
            return None, "job_done"
        if found is None:
            return None, "stale"
        task, n = found
        record = self._tasks[task]
        if record.accepted == n:
            if record.digest != digest:
                raise IllegalEvent(f"{attempt} was accepted with digest {record.digest} and now reports {digest}")
            return None, "already"
        lease = self._open(task, n)
        return lease, "accepted" if lease is not None else "superseded"

    def _accept(self, lease: Lease, digest: str, now: float) -> None:
        record = self._tasks[lease.task]
        self._step(lease.task, "accepted")
        for other in (
            record.open or {}
        ).values():  # none of them can be accepted any more, not even if this one is lost
            if other.live:
                self._leases.end(other)
            if other is not lease:
                self._tell(record, "superseded", other, now)
        record.open = None
        record.accepted, record.digest, record.shun = lease.n, digest, ""
        self._tell(record, "accepted", lease, now)

    def _roll_back(self, now: float) -> None:
        for task in range(self.maps, self.maps + self.reduces):
            if self._states[task] == _ACCEPTED:
                record = self._tasks[task]
                self._step(task, "rolled_back")
                self._note(record, "rolled_back", record.accepted, "", now)
                record.accepted, record.table = 0, ""
                self._ready_reduces.put(task)
        self.reduces_done = 0

    def _close(self, lease: Lease, event: str, now: float) -> None:
        """An attempt that can no longer be accepted; its task is queued again if it was the last one running."""
        record = self._tasks[lease.task]
        if record.open is not None:
            del record.open[lease.n]
        if lease.live:
            self._end(lease, event, now)
        else:
            self._tell(record, event, lease, now)

    def _end(self, lease: Lease, event: str, now: float) -> None:
        """The lease ends; the attempt stays acceptable unless its caller closed it."""
        record = self._tasks[lease.task]
        self._leases.end(lease)
        self._tell(record, event, lease, now)
        if any(other.live for other in (record.open or {}).values()):
            self._step(lease.task, "ended")
        else:
            self._step(lease.task, "requeued")
            (self._ready_maps if lease.task < self.maps else self._ready_reduces).put(lease.task)

    def _fail_task(self, task: int, what: str, failure: Failure | None = None, worker: str = "") -> None:
        name = self.names.task(task)
        reason = f"{name} {what}" + (f": {failure.message}" if failure is not None else "")
        self._finish("failed")
        self.failure = JobFailure(reason, name, failure, worker, tuple(self._story(task)))

    def _find(self, attempt: str) -> tuple[int, int] | None:
        """(task, n) of an attempt that this scheduler handed out, else None."""
        found = self.names.parse(attempt)
        if found is None:
            return None
        record = self._tasks.get(found[0])
        return found if record is not None and 1 <= found[1] <= record.issued else None

    def _open(self, task: int, n: int) -> Lease | None:
        attempts = self._tasks[task].open
        return None if attempts is None else attempts.get(n)

    def _accepted(self, first: int, end: int) -> Iterator[tuple[int, str, str]]:
        for task in range(first, end):
            if self._states[task] == _ACCEPTED:
                record = self._tasks[task]
                yield task - first, self.names.attempt(task, record.accepted), record.digest

    # Stories

    def _tell(self, record: TaskRecord, word: str, lease: Lease, now: float) -> None:
        self._note(record, word, lease.n, lease.worker, now)

    def _note(self, record: TaskRecord, word: str, n: int, worker: str, now: float) -> None:
        if self._start is None:
            self._start = now
        story.tell(record.story, now - self._start, word, n, self._workers.setdefault(worker, len(self._workers)))

    def _story(self, task: int) -> list[str]:
        record = self._tasks.get(task)
        if record is None:
            return []
        workers = list(self._workers)
        told = list(story.lines(record.story, lambda n: self.names.attempt(task, n), workers.__getitem__))
        for n, worker, failure in record.failures or ():
            what = (failure.message.splitlines() or [""])[0]
            what = what if len(what) <= STORY_CHARS_MAX else what[: STORY_CHARS_MAX - 3] + "..."
            where = "" if not failure.input else f", {failure.input}"
            where += "" if failure.offset is None else f" at offset {failure.offset}"
            told.append(f"{self.names.attempt(task, n)} on {worker}: {failure.kind}: {what}{where}")
        return told

    def validate(self) -> None:
        """Assert every invariant; costs a walk over all tasks, for tests."""
        invariants.check(self)
