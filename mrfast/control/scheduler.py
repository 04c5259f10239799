"""Which task runs where: the whole life of a job as a value, without a clock, a socket, a thread or chance.

Events come in as method calls with the time as `now`; what they may do to a task or to the job stands in TRANSITIONS,
and an event that is not there raises IllegalEvent and changes nothing. A task is IDLE, LEASED (some attempt's lease
runs) or ACCEPTED. Leases serve liveness only: an attempt whose lease ran out may still deliver while its task is open,
and so may one that an earlier epoch of the coordinator handed out.
"""

from __future__ import annotations

from typing import Any

from mrfast.control import backup, invariants, preempt
from mrfast.control.crew import Crew
from mrfast.control.leases import Lease
from mrfast.control.names import Names
from mrfast.control.ready import Ready
from mrfast.control.records import STORE_FAILURES_MAX, Attempt, JobFailure, Running
from mrfast.control.table import TaskTable
from mrfast.control.transitions import RUNNING, TRANSITIONS, IllegalEvent
from mrfast.index import TableDigest
from mrfast.model import MAPS_MAX, REDUCES_MAX, WAITING, Failure, Progress

__all__ = ["TRANSITIONS", "Attempt", "IllegalEvent", "JobFailure", "Running", "Scheduler"]

LOST_LEASE_S = 3.0  # what is left of the leases of a worker whose connection closed
EARLY_SHARE = 0.5  # of the maps that are accepted before the first reduce starts
STARVED_S = 1.0  # so long a map waits for a slot before a waiting reduce gives its own up, ...
STARVED_AGAIN_S = 2.0  # ... and so long before the next one does
BARRED_S = 30.0  # so long a task is kept from the worker that it failed on, if there are others


class Scheduler(TaskTable):
    """A job's tasks, leases and results; a method costs O(running attempts + workers) at most."""

    def __init__(
        self,
        maps: int,
        reduces: int,
        *,
        attempts_max: int = 4,
        epoch: int = 1,
        lease_s: float = 10.0,
        stall_s: float = 600.0,
    ) -> None:
        if not 0 <= maps <= MAPS_MAX or not 1 <= reduces <= REDUCES_MAX or attempts_max < 1 or epoch < 0:
            raise ValueError(
                f"maps={maps}, reduces={reduces}, attempts_max={attempts_max} or epoch={epoch}: no such job"
            )
        super().__init__(maps, reduces, epoch, lease_s, attempts_max)
        self.stall_s = stall_s
        self.early_share = EARLY_SHARE  # over 1: no reduce starts before the last map is accepted
        self.backups = 0
        self.stalled: list[tuple[Failure, str]] = []  # failures that `tick` has found, for the caller to take
        self.crew = Crew()
        self._lost: set[str] = set()
        self._table = TableDigest()  # of the last accepted output of each map, lost ones included
        self._maps_known = 0  # that have been accepted at least once
        self._slow_asked: tuple[Any, ...] = ()
        self._slow_found: list[Lease] = []
        self._durations = {"map": backup.Durations(), "reduce": backup.Durations()}
        self._starved_at: float | None = None  # since when maps wait and reduces that wait hold slots

    # What workers ask and say

    def joined(self, worker: str, slots: int, running: tuple[str, ...], now: float) -> None:
        """A worker said hello, and which attempts it has: others that it was given have never reached it."""
        self.crew.joined(worker, slots, now)
        self._seen(worker, now)
        if self.state == RUNNING:
            held = {self._find(attempt) for attempt in running}
            for lease in self._leases.of(worker):
                if (lease.task, lease.n) not in held:
                    self._close(lease, "released", now)

    def assign(self, worker: str, now: float, ahead: bool = False) -> Attempt | None:
        """The next task for this worker: maps, requeued before fresh; then reduces; then a backup of a slow one.

        While maps run, a backup of one comes before a reduce that could only wait for it. `ahead`: its slots are busy.
        It then has a task only where there is plenty: the last ones are for idle slots.
        """
        self._seen(worker, now)
        if self.state != RUNNING or self._nothing_is_there(now) or self.crew.rests(worker, now):
            return None
        if ahead and self._waiting() < self.crew.slots(now):
            return None
        task = self._take(self._ready_maps, worker, now)
        if task is not None:
            self._starved_at = None
        elif self.maps_done == self.maps:
            task = self._take(self._ready_reduces, worker, now)
        word = "leased"
        if task is None and (slow := self._slow_elsewhere(worker, now)) is not None:
            task, word = slow.task, "backup"
            self.backups += 1
            self._starved_at = None
        elif task is None and self._reduce_may_start_early(now):
            task = self._take(self._ready_reduces, worker, now)
        if task is None:
            return None
        record = self._record(task)
        record.issued += 1
        lease = Lease(task, self.names.serial(record.issued), worker, now)
        lease.backup = word == "backup"
        self._lease(record, lease, word, now)
        kind, index = self.names.kind_index(task)
        return Attempt(self.names.attempt(task, lease.n), kind, index)

    def renew(self, attempt: str, worker: str, progress: Progress, now: float) -> str:
        """ "ok" and a fresh lease, or "cancel": this attempt can no longer be accepted. Revives an expired one."""
        self._seen(worker, now)
        found = self._find(attempt)
        if found is not None and self._record(found[0]).accepted == found[1]:
            return "ok"  # its worker has not heard yet; told to cancel, it would remove the accepted object
        if self.state != RUNNING or found is None:
            return "cancel"
        lease = self._open(*found) or self._adopt(*found, worker, now)
        if lease is None or lease.worker != worker:
            return "cancel"
        if progress != lease.progress or progress.phase == WAITING:
            lease.progress, lease.moved = progress, now
            self._leases.changes += 1
        if lease.live:
            self._leases.move(lease, now + self.lease_s)
        else:
            self._lease(self._tasks[lease.task], lease, "back", now)
        return "ok"

    def fed(self, attempt: str, complete: bool, now: float, worker: str = "") -> bool:
        """A reduce asked for map outputs, and has now been told of all (`complete`); False: it must give up."""
        found = self._find(attempt)
        if found is None or self.state != RUNNING:
            return False
        lease = self._open(*found) or self._adopt(*found, worker, now)
        if lease is None:
            return False
        if lease.fed != complete:
            lease.fed, lease.moved = complete, now
        return True

    def map_done(self, attempt: str, digest: str, now: float, worker: str = "") -> str:
        """Accept a map output if its task is open; other bytes than before roll back the reduces that used those."""
        lease, word = self._settle(attempt, "map", digest, worker, now)
        if lease is None:
            return word
        before = self._tasks[lease.task].digest
        self._accept(lease, digest, now)
        self._tabulate(lease.task, before, now)
        return "accepted"

    def reduce_done(self, attempt: str, digest: str, table: str, now: float, worker: str = "") -> str:
        """Accept a part if its task is open and it was made from exactly the last accepted output of each map.

        Of a map that was lost since, that is the lost one; should its next output differ, the part is rolled back.
        """
        lease, word = self._settle(attempt, "reduce", digest, worker, now)
        if lease is None:
            return word
        if self._maps_known < self.maps or table != self.table_digest():
            self._close(lease, "superseded", now)
            return "superseded"
        self._accept(lease, digest, now)
        self._tasks[lease.task].table = table
        self.reduces_done += 1
        return "accepted"

    def failed(self, attempt: str, failure: Failure, now: float, worker: str = "") -> str:
        """Take note of a failed attempt; a fatal one, or one counted one too many, fails the job."""
        found = self._find(attempt)
        if self.state != RUNNING:
            return "job_done"
        if found is None:
            return "stale"
        lease = self._open(*found) or self._adopt(*found, worker, now)
        record = self._record(found[0])
        if lease is None:
            return "already" if record.accepted == found[1] or record.has_failed(found[1]) else "superseded"
        record.add_failure(lease.n, lease.worker, failure, now)
        self._close(lease, "failed", now)
        if failure.fatal:
            self._fail_task(lease.task, "failed for good", failure, lease.worker)
        elif record.store_failures >= STORE_FAILURES_MAX:
            often = f"met errors of the store {record.store_failures} times"
            self._fail_task(lease.task, often, failure, lease.worker)
        elif record.counted >= self.attempts_max:
            self._failed_often(lease.task)
        return "accepted"

    def released(self, attempt: str, now: float, worker: str = "") -> str:
        """Take back an attempt that its worker gives up without fault (a drain); not counted."""
        found = self._find(attempt)
        if self.state != RUNNING:
            return "job_done"
        if found is None:
            return "stale"
        lease = self._open(*found) or self._adopt(*found, worker, now)
        if lease is None:
            return "already" if self._tasks[found[0]].accepted == found[1] else "superseded"
        self._close(lease, "released", now)
        return "accepted"

    def output_lost(self, map_index: int, attempt: str, now: float) -> str:
        """Run a map again whose accepted output is missing or corrupt.

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
        self._lose(map_index, now)
        self._check_losses(map_index)
        return "accepted"

    def worker_lost(self, worker: str, now: float) -> None:
        """Shorten the leases of a worker whose connection closed; a poll or renewal of it restores them."""
        self.crew.left(worker)
        for lease in self._leases.of(worker):
            self._lost.add(worker)
            self._leases.move(lease, min(lease.deadline, now + LOST_LEASE_S))

    # What time does

    def tick(self, now: float) -> int:
        """End leases that have run out, attempts that stall, and reduces that wait where maps must run; how many."""
        ended = 0
        while (lease := self._leases.expired(now)) is not None:
            self._end(lease, "expired", now)
            ended += 1
        for lease in self._leases.stalled(self._waits, self.stall_s, now):
            if self.state == RUNNING:
                attempt = self.names.attempt(lease.task, lease.n)
                failure = Failure(attempt, "stalled", f"no progress for {self.stall_s:g} s (--stall-s)")
                self.failed(attempt, failure, now)
                self.stalled.append((failure, lease.worker))
                ended += 1
        return ended + self._preempt(now)

    def next_deadline(self) -> float | None:
        """When `tick` next has something to do but to look for stalls, or None."""
        lease = self._leases.next_deadline()
        starved = None if self._starved_at is None else self._starved_at + STARVED_S
        return min((at for at in (lease, starved) if at is not None), default=None)

    # What an earlier epoch left, in the order of its journal

    def restore(self, kind: str, attempt: str, digest: str, table: str, issued: int, epoch: int) -> None:
        """Accept what that epoch accepted when it had handed out `issued` attempts of the task."""
        task, serial = self._named(kind, attempt)
        record = self._record(task)
        self._step(task, "accepted")
        before = record.digest
        record.accepted, record.digest = serial, digest
        record.floor = max(serial, Names(0, 0, epoch).serial(issued))
        self._note(task, "accepted", serial, "", 0.0)
        if kind == "map":
            self.maps_done += 1
            self._tabulate(task, before, 0.0)
        else:
            record.table = table
            self.reduces_done += 1

    def restore_loss(self, attempt: str) -> None:
        """An accepted map output of an earlier epoch was lost."""
        task, serial = self._named("map", attempt)
        if self._record(task).accepted != serial:
            raise IllegalEvent(f"{attempt} was lost, and is not accepted")
        self._lose(task, 0.0)

    def restore_failure(self, attempt: str, worker: str, failure: Failure) -> None:
        """Remember a failure that counts of an earlier epoch."""
        found = self.names.parse(attempt)
        if found is None:
            raise IllegalEvent(f"{attempt} is no attempt of this job")
        record = self._record(found[0])
        self._shut(record, found[1])
        record.add_failure(found[1], worker, failure, 0.0)
        record.shun = ""

    # What can be read

    @property
    def phase(self) -> str:
        """map, reduce, or commit (all parts accepted)."""
        if self.reduces_done == self.reduces:
            return "commit"
        return "map" if self.maps_done < self.maps else "reduce"

    def table_digest(self) -> str:
        """The digest of the table map -> last accepted output, as a reduce must report it."""
        return self._table.hex()

    # Inside

    def _seen(self, worker: str, now: float) -> None:
        if self._start is None:
            self._start = now
        self.crew.seen(worker, now)
        if worker in self._lost:
            self._lost.discard(worker)
            for lease in self._leases.of(worker):
                self._leases.move(lease, now + self.lease_s)

    def _take(self, ready: Ready, worker: str, now: float) -> int | None:
        """The next ready task for this worker; one that failed here last is for others, while there are any."""
        return ready.take(self._is_idle, lambda task: self._shunned(task, worker, now))

    def _shunned(self, task: int, worker: str, now: float) -> int:
        """2: this worker must not have this task now; 1: only if there is no other; 0: it may."""
        record = self._tasks.get(task)
        if record is not None and now < record.rest_until:
            return 2
        if record is None or record.shun != worker:
            return 0
        return 2 if now - record.shun_at < BARRED_S and self.crew.others(worker, now) else 1

    def _reduce_may_start_early(self, now: float) -> bool:
        """Whether no map waits, and a slot stays for one that must run again."""
        if self.maps_done == self.maps or self.maps_done < self.early_share * self.maps or self._maps_waiting():
            return False
        if not self._reduces_wait():
            return False
        return sum(lease.task >= self.maps for lease in self._leases) < self.crew.slots(now) - 1

    def _nothing_is_there(self, now: float) -> bool:
        """Whether no worker could get a task at this moment: hundreds may ask at once when something has changed."""
        if self._maps_waiting() or (self._reduces_wait() and self.maps_done >= min(1.0, self.early_share) * self.maps):
            return False
        return not self._slow(now)

    def _slow(self, now: float) -> list[Lease]:
        """The attempts that should get a backup, first the one that needs it most."""
        kind = "map" if self.maps_done < self.maps else "reduce"
        done, tasks = (self.maps_done, self.maps) if kind == "map" else (self.reduces_done, self.reduces)
        if not backup.is_due(done, tasks) or (kind == "map" and self._maps_waiting()):
            return []
        slots, median_s = self.crew.slots(now), self._durations[kind].median()
        asked = (kind, slots, median_s, now, self._leases.changes)
        if asked != self._slow_asked:
            running = [lease for lease in self._leases if (lease.task < self.maps) == (kind == "map")]
            self._slow_asked, self._slow_found = asked, backup.slow(running, slots, median_s, now)
        return self._slow_found

    def _slow_elsewhere(self, worker: str, now: float) -> Lease | None:
        return next((lease for lease in self._slow(now) if lease.worker != worker), None)

    def _waits(self, lease: Lease) -> bool:
        """Whether this attempt is a reduce that waits for maps."""
        return lease.task >= self.maps and not lease.fed and self.maps_done < self.maps

    def _preempt(self, now: float) -> int:
        """Take slots back from reduces that wait, those that have fetched least, for maps that found none in time."""
        if not (ended := self._preemptible(now)):
            self._starved_at = None
            return 0
        if self._starved_at is None:
            self._starved_at = now
        if now < self._starved_at + STARVED_S:
            return 0
        self._starved_at = now + STARVED_AGAIN_S - STARVED_S
        for lease in ended:
            self._close(lease, "preempted", now)
        return len(ended)

    def _preemptible(self, now: float) -> list[Lease]:
        if self.maps_done == self.maps or not self._reduces_run():
            return []
        waiting = [lease for lease in self._leases if self._waits(lease) and not self.crew.rests(lease.worker, now)]
        if not waiting:
            return []
        if not self._maps_waiting():  # one makes room for a backup of a map that holds all of them up
            least = sorted(waiting, key=preempt.fetched)
            return [lease for lease in least if self._slow_elsewhere(lease.worker, now) is not None][:1]
        tried = [task for task in self._ready_maps.tried() if self._is_idle(task)]
        fresh = self._maps_waiting() - len(tried)
        return preempt.choose(waiting, tried, fresh, lambda task, worker: self._shunned(task, worker, now) < 2)

    def _settle(self, attempt: str, kind: str, digest: str, worker: str, now: float) -> tuple[Lease | None, str]:
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
        record = self._record(task)
        if record.accepted == n:
            if record.digest != digest:
                raise IllegalEvent(f"{attempt} was accepted with digest {record.digest} and now reports {digest}")
            return None, "already"
        lease = self._open(task, n) or self._adopt(task, n, worker, now)
        return lease, "accepted" if lease is not None else "superseded"

    def _accept(self, lease: Lease, digest: str, now: float) -> None:
        record = self._tasks[lease.task]
        self._step(lease.task, "accepted")
        for other in (record.open or {}).values():  # none can be accepted any more, not even if this one is lost
            if other.live:
                self._leases.end(other)
            if other is not lease:
                self._tell("superseded", other, now)
        record.open = None
        # earlier failures have struck when the task was accepted before
        failed_on = {who for n, who, failure in record.failures or () if failure.counted and n > record.floor}
        self.crew.passed(lease.task, failed_on - {lease.worker}, now)
        record.accepted, record.digest, record.shun = lease.n, digest, ""
        record.floor = max(lease.n, self.names.serial(record.issued))
        self._tell("accepted", lease, now)
        kind, _ = self.names.kind_index(lease.task)
        if lease.n > self.names.serial(0):  # when one of an earlier epoch began is not known
            self._durations[kind].add(now - lease.since)
        if kind == "map":
            self.maps_done += 1
            if self.maps_done == self.maps:  # reduces that waited for this had no progress to show until now
                for other in self._open_reduces():
                    other.moved = other.moved if other.fed else now

    def _tabulate(self, task: int, before: str, now: float) -> None:
        """Put an accepted map output in the table; reduces that used another one in its place do not count."""
        digest = self._tasks[task].digest
        if before:
            self._table.remove(task, before)
        else:
            self._maps_known += 1
        self._table.add(task, digest)
        if not before or before == digest:
            return
        self._roll_back(now)
        for lease in [lease for lease in self._leases if lease.task >= self.maps and lease.fed]:
            self._close(lease, "cancelled", now)

    def validate(self) -> None:
        """Assert every invariant; costs a walk over all tasks, for tests."""
        invariants.check(self)
