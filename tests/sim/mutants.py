"""Safeguards, each removed from the real code in turn: a simulation that does not notice proves nothing.

`seed` is the first one that notices. Where other safeguards cover for the one that is gone, or the fault cannot be seen
from outside, `directed` names the test that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import xxhash

from mrfast import core
from mrfast.control import effects, job, job_end, job_work, recovery, table
from mrfast.control.desk import Desk
from mrfast.control.leases import Leases
from mrfast.control.scheduler import Scheduler
from mrfast.model import Failure
from mrfast.tasks import fetch, mapper
from mrfast.tasks.agent import Agent
from mrfast.tasks.fetch import Fetched

from . import hosts
from .job import SimFile, SimJob

Patch = Callable[[ExitStack], None]

SEEDS_MAX = 2000


@dataclass(frozen=True)
class Mutant:
    """One safeguard, what takes it away, and what notices."""

    name: str
    remove: Patch
    seed: int | None = None
    directed: str = ""
    arguments: Callable[[], tuple[Any, ...]] = tuple

    @contextmanager
    def removed(self) -> Iterator[None]:
        """The code without the safeguard."""
        with ExitStack() as stack:
            self.remove(stack)
            yield

    def first_seed(self) -> int | None:
        """The first seed that notices, of those that are tried; the safeguard must be removed."""
        return next((seed for seed in range(SEEDS_MAX) if not holds(seed)), None)


def holds(seed: int) -> bool:
    """Whether nothing is found in this seed's job."""
    try:
        SimJob(seed).run()
    except Exception:  # noqa: BLE001 (whatever it is, it is a finding)
        return False
    return True


def replace(target: Any, name: str, new: Any) -> Patch:
    return lambda stack: stack.enter_context(patch.object(target, name, new))


def both(*patches: Patch) -> Patch:
    def remove(stack: ExitStack) -> None:
        for each in patches:
            each(stack)

    return remove


def unchecked(data: Any, *, records: int, xxh3: int, object: str = "", partition: int = 0) -> None:
    """The form is checked, or the merge would read anywhere; the content is not."""
    core.check_segment(data, records=records, xxh3=xxhash.xxh3_64_intdigest(bytes(data)), object=object)


class _Core:
    """The core, with one function in the place of another."""

    def __init__(self, **others: Any) -> None:
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(core, name)


def same_name(job: str, attempt: str) -> str:
    return f"jobs/{job}/inter/{attempt.split('.')[0]}"


def any_jobs(job: str, attempt: str) -> str:
    return f"jobs/inter/{attempt}"


def one_after_the_other(wait: Any) -> Any:
    """A call waits for those that came before it, whoever sent them."""

    def waiting(self: Any, line: object, until: float, reply: Any, answer: Any, now: float) -> None:
        def in_turn(now: float, late: bool) -> Any:
            return None if self._waiting else answer(now, late)

        wait(self, line, until, reply, in_turn, now)

    return waiting


def first_epoch(init: Any) -> Any:
    def make(self: Any, *args: Any, epoch: int = 1, **options: Any) -> None:
        init(self, *args, epoch=1, **options)

    return make


def settle_again(settle: Any) -> Any:
    """A repeated report is taken for that of a loser."""

    def settled(self: Any, *args: Any) -> Any:
        lease, word = settle(self, *args)
        return lease, "superseded" if word == "already" else word

    return settled


def same_log(outputs: Any) -> Any:
    """A place in the log of an earlier epoch is taken for one in this epoch's."""

    def asked(self: Any, attempt: str, since: int, *args: Any) -> Any:
        return outputs(self, attempt, self.epoch * job.CURSORS + since % job.CURSORS, *args)

    return asked


def any_table(reduce_done: Any) -> Any:
    def done(self: Any, attempt: str, digest: str, table: str, now: float, worker: str = "") -> str:
        return str(reduce_done(self, attempt, digest, self.table_digest(), now, worker))

    return done


def not_extended(renew: Any) -> Any:
    """Ten seconds from the start, whatever is renewed; and what comes late is refused."""

    def renewed(self: Any, attempt: str, worker: str, progress: Any, now: float) -> str:
        with patch.object(Leases, "move", lambda self, lease, deadline: None):
            return str(renew(self, attempt, worker, progress, now))

    return renewed


def closing_end(end: Any) -> Any:
    def ended(self: Any, lease: Any, event: str, now: float) -> None:
        if event == "expired":
            self._shut(self._tasks[lease.task], lease.n)
        end(self, lease, event, now)

    return ended


def impatient(ask: Any) -> Any:
    """A reduce that has waited for ten seconds ends its process."""

    def asked(self: Any) -> None:
        waited = self.__dict__.setdefault("waits_since", self.worker.world.now)
        if self.worker.world.now - waited > 10:
            self.report(Failure(self.task.attempt, "died", "waited too long"))
        else:
            ask(self)

    return asked


def counting(take: Any) -> Any:
    """A map that ran again is one more output, not the same one."""

    def taken(self: Any, segments: Any, source: Any) -> None:
        for segment in segments:
            held = self._held.get(segment.map_index)
            if held is not None and held.attempt != segment.attempt:
                self._held[10_000 + segment.map_index] = self._held.pop(segment.map_index)
                if segment.map_index in self._in_memory:
                    self._in_memory[10_000 + segment.map_index] = self._in_memory.pop(segment.map_index)
        take(self, segments, source)

    return taken


def hearing_by_count(hear: Any) -> Any:
    """As many outputs as there are maps are all of them."""

    def heard(self: Any, page: Any, complete: bool, source: Any) -> bool:
        hear(self, page, complete, source)
        return len(self._held) >= self._task.maps

    return heard


def silent(self: Any, segment: Any, error: Any, source: Any) -> None:
    """What cannot be read counts as the end of the data."""
    self._hold(segment)


def lost_is_done(self: Agent) -> None:
    """A line that was lost and made again: the job must be over."""
    if self._job is not None:
        self._stop()
    else:
        HELLO(self)


HELLO = Agent.hello

MUTANTS = [
    Mutant("checksum on fetch", replace(fetch, "core", _Core(check_segment=unchecked)), 9),
    Mutant("journal replay", replace(recovery, "replay", lambda records, scheduler: recovery.Restored()), 3),
    Mutant("epoch in attempt names", replace(Scheduler, "__init__", first_epoch(Scheduler.__init__)), 5),
    Mutant("lease expiry", replace(Leases, "expired", lambda self, now: None), 0),
    Mutant("un-completing a bad map", replace(Scheduler, "output_lost", lambda self, *args: "superseded"), 14),
    Mutant("preemption of waiting reduces", replace(Scheduler, "_preempt", lambda self, now: 0), 74),
    Mutant("roll-back on a differing re-run", replace(Scheduler, "_roll_back", lambda self, now: None), 377),
    Mutant("identity of map outputs", replace(Scheduler, "reduce_done", any_table(Scheduler.reduce_done)), 840),
    Mutant(
        "attempt-unique names",
        both(*(replace(module, "inter_key", same_name) for module in (hosts, fetch, effects, job_work))),
        0,
    ),
    Mutant("idempotent reports", replace(Scheduler, "_settle", settle_again(Scheduler._settle)), 54),
    Mutant("fsync before reply", replace(Desk, "_when_durable", lambda self, reply: reply), 11),
    Mutant(
        "fence against a replaced coordinator",
        both(*(replace(module, "is_superseded", lambda *args: False) for module in (job, job_end, job_work))),
        880,
    ),
    Mutant(
        "Go: a task of over ten seconds is queued again for ever",
        both(
            replace(Scheduler, "renew", not_extended(Scheduler.renew)),
            replace(table.TaskTable, "_end", closing_end(table.TaskTable._end)),
        ),
        4,
    ),
    Mutant(
        "Go: a reducer kills its process when maps are slow", replace(hosts.Slot, "ask", impatient(hosts.Slot.ask)), 6
    ),
    Mutant(
        "Go: a re-run map is counted twice",
        both(
            replace(Fetched, "_take_all", counting(Fetched._take_all)),
            replace(Fetched, "hear", hearing_by_count(Fetched.hear)),
            replace(Scheduler, "reduce_done", any_table(Scheduler.reduce_done)),  # which covers for it
        ),
        112,
    ),
    Mutant("Go: a decode error drops the rest of a partition", replace(Fetched, "_give_up", silent), 17),
    Mutant(
        "places in the log belong to an epoch", replace(job.JobDriver, "outputs", same_log(job.JobDriver.outputs)), 454
    ),
    Mutant("a waiting reduce does not stall", replace(Scheduler, "_waits", lambda self, lease: False), 95),
    Mutant("what a new epoch builds on is durable", replace(SimFile, "sync_if_read", lambda self: None), 223),
    Mutant("Go: a lost coordinator is taken for success", replace(Agent, "hello", lost_is_done), 5),
    Mutant(
        "DONE is terminal",
        replace(Scheduler, "_finish", lambda self, event: None),
        directed="test_scheduler.py::test_the_end_is_final",
        arguments=lambda: ("COMMITTED",),
    ),
    Mutant(
        "Go: a late result is thrown away",
        replace(table.TaskTable, "_end", closing_end(table.TaskTable._end)),
        directed="test_scheduler.py::test_an_expired_attempt_may_run_beside_its_successor_until_one_is_accepted",
    ),
    Mutant(
        "Go: a lock is held while reducers are called",
        replace(Desk, "_wait", one_after_the_other(Desk._wait)),
        directed="test_desk.py::test_one_that_never_takes_its_answers_holds_up_nobody",
    ),
    Mutant(
        "Go: objects of an earlier job are read by the next",
        both(*(replace(module, "inter_key", any_jobs) for module in (mapper, fetch))),
        directed="test_fetch.py::test_objects_of_an_earlier_job_are_never_read",
    ),
]
