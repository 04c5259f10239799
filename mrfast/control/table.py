"""The tasks of a job: their states, their attempts and leases, and the story of each. What may follow what is here;
which task runs where and when is the scheduler's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mrfast.control import story
from mrfast.control.leases import Lease, Leases
from mrfast.control.names import Names
from mrfast.control.ready import Ready
from mrfast.control.records import JobFailure, Running, TaskRecord
from mrfast.control.transitions import ACCEPTED, IDLE, LEASED, RUNNING, IllegalEvent, after
from mrfast.model import Failure

STORY_CHARS_MAX = 100  # of a message in a story: the whole of it stands above the story

STATES = (IDLE, LEASED, ACCEPTED)
# (task, word, serial, worker, now)
Observer = Callable[[int, str, int, str, float], None]

_CODES = {state: code for code, state in enumerate(STATES)}
IDLE_CODE, _LEASED_CODE, ACCEPTED_CODE = range(3)


class TaskTable:
    """Every task of one job, and the job's own state; maps are the tasks 0 .. maps-1, reduces come behind them."""

    def __init__(self, maps: int, reduces: int, epoch: int, lease_s: float, attempts_max: int) -> None:
        self.maps, self.reduces = maps, reduces
        self.lease_s, self.attempts_max = lease_s, attempts_max
        self.maps_done = self.reduces_done = 0
        self.names = Names(maps, reduces, epoch)
        self.state = RUNNING
        self.failure: JobFailure | None = None
        self._start: float | None = None
        self._states = bytearray(maps + reduces)
        self._idle = {"map": maps, "reduce": reduces}  # how many tasks are
        self._tasks: dict[int, TaskRecord] = {}
        self._ready_maps = Ready(0, maps)
        self._ready_reduces = Ready(maps, maps + reduces)
        self._leases = Leases()
        self._workers: dict[str, int] = {}
        self.observer: Observer | None = None  # hears every word of every attempt's story as it is written

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

    @property
    def attempts_running(self) -> int:
        """How many attempts have a lease that runs."""
        return len(self._leases)

    def running(self) -> Iterator[Running]:
        """The attempts whose leases run."""
        for lease in self._leases:
            kind, index = self.names.kind_index(lease.task)
            yield Running(
                self.names.attempt(lease.task, lease.n), kind, index, lease.worker, lease.since, lease.progress
            )

    def task_state(self, kind: str, index: int) -> str:
        """IDLE, LEASED or ACCEPTED."""
        return STATES[self._states[self._number(kind, index)]]

    def story(self, kind: str, index: int) -> list[str]:
        """What happened to a task, a line an event, oldest first."""
        return self._story(self._number(kind, index))

    def issued(self, kind: str, index: int) -> int:
        """How many attempts of a task this epoch has handed out."""
        record = self._tasks.get(self._number(kind, index))
        return 0 if record is None else record.issued

    def last_failure(self, task: int) -> Failure | None:
        """The failure of a task's that came last, of all that this epoch knows."""
        record = self._tasks.get(task)
        return record.failures[-1][2] if record is not None and record.failures else None

    def is_open(self, attempt: str) -> bool:
        """Whether this attempt may still be accepted."""
        found = self._find(attempt)
        return found is not None and (self._open(*found) is not None or self._is_adoptable(*found))

    def settled(self, attempt: str) -> str:
        """What became of an attempt that is not open: already (accepted), superseded or stale."""
        found = self._find(attempt)
        if found is None:
            return "stale"
        return "already" if self._record(found[0]).accepted == found[1] else "superseded"

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

    def forgive(self) -> None:
        """The job had failed and was resumed on purpose: its tasks have all their attempts again."""
        for record in self._tasks.values():
            record.counted = record.losses = record.store_failures = 0
            record.rest_until = 0.0
            record.failures = None

    def restored(self) -> None:
        """All of the journal was read: the job has failed if the last that it says has failed it."""
        for task, record in self._tasks.items():
            if self.state == RUNNING:
                self._check_losses(task)
            if self.state == RUNNING and record.counted >= self.attempts_max:
                self._failed_often(task)

    def _number(self, kind: str, index: int) -> int:
        task = self.names.number(kind, index)
        if task is None:
            raise IndexError(f"no {kind} {index} in a job of {self.maps} maps and {self.reduces} reduces")
        return task

    def _step(self, task: int, event: str) -> None:
        kind = "map" if task < self.maps else "reduce"
        before = self._states[task]
        now = _CODES[after(kind, STATES[before], event, self.names.task(task))]
        self._states[task] = now
        self._idle[kind] += (now == IDLE_CODE) - (before == IDLE_CODE)

    def _finish(self, event: str) -> None:
        self.state = after("job", self.state, event, "the job")
        self._leases.clear()

    def _lease(self, record: TaskRecord, lease: Lease, word: str, now: float) -> None:
        """The attempt runs from now on, for the first time or again."""
        self._step(lease.task, "leased")
        record.open = record.open or {}
        record.open[lease.n] = lease
        self._leases.start(lease, now + self.lease_s)
        lease.moved = now  # one that comes back has not had the time in between
        self._tell(word, lease, now)

    def _adopt(self, task: int, n: int, worker: str, now: float) -> Lease | None:
        """An attempt of an earlier epoch that is still of use, as one whose lease has run out; or None."""
        if not self._is_adoptable(task, n):
            return None
        record = self._record(task)
        lease = Lease(task, n, worker, now)
        record.open = record.open or {}
        record.open[n] = lease
        self._tell("adopted", lease, now)
        return lease

    def _is_adoptable(self, task: int, n: int) -> bool:
        record = self._record(task)
        return record.floor < n < self.names.serial(0) and not record.accepted and n not in (record.closed or ())

    def _close(self, lease: Lease, event: str, now: float) -> None:
        """An attempt that can no longer be accepted; its task is queued again if it was the last one running."""
        record = self._tasks[lease.task]
        self._shut(record, lease.n)
        if lease.live:
            self._end(lease, event, now)
        else:
            self._tell(event, lease, now)

    def _end(self, lease: Lease, event: str, now: float) -> None:
        """The lease ends; the attempt stays acceptable unless its caller closed it."""
        record = self._tasks[lease.task]
        self._leases.end(lease)
        self._tell(event, lease, now)
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

    def _failed_often(self, task: int) -> None:
        counted = self._tasks[task].counted
        worker, first = self._tasks[task].first_counted()
        self._fail_task(task, "failed once" if counted == 1 else f"failed {counted} times", first, worker)

    def _lose(self, task: int, now: float) -> None:
        record = self._tasks[task]
        self._step(task, "output_lost")
        self._note(task, "output_lost", record.accepted, "", now)
        record.accepted = 0
        record.losses += 1
        self.maps_done -= 1
        self._ready_maps.put(task)

    def _check_losses(self, task: int) -> None:
        losses = self._tasks[task].losses
        if losses >= self.attempts_max:
            self._fail_task(task, f"lost its accepted output {losses} times (missing or corrupt)")

    def _find(self, attempt: str) -> tuple[int, int] | None:
        """(task, serial) of an attempt that this epoch handed out, or an earlier one may have; else None."""
        found = self.names.parse(attempt)
        if found is None or found[1] < self.names.serial(0):
            return found
        record = self._tasks.get(found[0])
        return found if record is not None and found[1] <= self.names.serial(record.issued) else None

    def _open_reduces(self) -> Iterator[Lease]:
        for task in range(self.maps, self.maps + self.reduces):
            record = self._tasks.get(task)
            yield from () if record is None or record.open is None else record.open.values()

    def _is_idle(self, task: int) -> bool:
        return self._states[task] == IDLE_CODE

    def _maps_waiting(self) -> int:
        return self._idle["map"]

    def _waiting(self) -> int:
        """The tasks of the phase that nobody has: maps, and reduces once every map is accepted."""
        return self._idle["map" if self.maps_done < self.maps else "reduce"]

    def _reduces_wait(self) -> bool:
        return self._idle["reduce"] > 0

    def _reduces_run(self) -> bool:
        return _LEASED_CODE in self._states[self.maps :]

    def _roll_back(self, now: float) -> None:
        for task in range(self.maps, self.maps + self.reduces):
            if self._states[task] == ACCEPTED_CODE:
                record = self._tasks[task]
                self._step(task, "rolled_back")
                self._note(task, "rolled_back", record.accepted, "", now)
                record.accepted, record.table = 0, ""
                self._ready_reduces.put(task)
        self.reduces_done = 0

    def _named(self, kind: str, attempt: str) -> tuple[int, int]:
        found = self.names.parse(attempt)
        if found is None or self.names.kind_index(found[0])[0] != kind:
            raise IllegalEvent(f"{attempt} is no attempt of a {kind} of this job")
        return found

    def _record(self, task: int) -> TaskRecord:
        record = self._tasks.get(task)
        if record is None:
            record = self._tasks[task] = TaskRecord()
        return record

    def _open(self, task: int, n: int) -> Lease | None:
        record = self._tasks.get(task)
        return None if record is None or record.open is None else record.open.get(n)

    def _accepted(self, first: int, end: int) -> Iterator[tuple[int, str, str]]:
        for task in range(first, end):
            if self._states[task] == ACCEPTED_CODE:
                record = self._tasks[task]
                yield task - first, self.names.attempt(task, record.accepted), record.digest

    def _tell(self, word: str, lease: Lease, now: float) -> None:
        self._note(lease.task, word, lease.n, lease.worker, now)

    def _note(self, task: int, word: str, n: int, worker: str, now: float) -> None:
        if self._start is None:
            self._start = now
        number = self._workers.setdefault(worker, len(self._workers))
        story.tell(self._tasks[task].story, now - self._start, word, n, number)
        if self.observer is not None:
            self.observer(task, word, n, worker, now)

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

    def _shut(self, record: TaskRecord, n: int) -> None:
        """An attempt that can never be accepted any more; one of this epoch is known by not being open."""
        record.close(n, remember=n <= self.names.serial(0))
