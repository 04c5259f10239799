"""The scheduler under random events in any order; all orders of a tiny job are in test_scheduler_orders."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
from depth import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mrfast.control.scheduler import IllegalEvent, Running, Scheduler
from mrfast.model import Failure, Progress

WORKERS = ("w1", "w2", "w3")
REFUSALS = ("superseded", "cancel")
numbers = st.integers(0, 1 << 20)


def kind_of(name: str) -> str:
    return "map" if name[0] == "m" else "reduce"


def index_of(name: str) -> int:
    return int(name[2 : name.index(".")])


def finish(s: Scheduler, now: float, digest_of: dict[str, str]) -> None:
    """Run the job to its end with one healthy worker, in as many attempts as there are tasks."""
    steps = 0
    early: list[str] = []
    while s.state == "RUNNING" and s.phase != "commit":
        if early and s.maps_done == s.maps:
            name = early.pop()
            assert s.fed(name, True, now)
            assert s.reduce_done(name, "part", s.table_digest(), now) == "accepted"
            continue
        attempt = s.assign("healthy", now)
        if attempt is None:
            deadline = s.next_deadline()
            assert deadline is not None, "nothing to hand out and nothing to wait for"
            now = max(now, deadline)
            kept = [name for name in early if s.renew(name, "healthy", Progress(), now) == "ok"]
            steps -= len(early) - len(kept)
            early = kept
            s.tick(now)
            continue
        steps += 1
        assert steps <= s.maps + s.reduces, "a job without faults runs tasks twice"
        if attempt.kind == "map":
            assert s.map_done(attempt.name, digest_of.get(attempt.name, "same"), now) == "accepted"
        else:
            early.append(attempt.name)
        s.validate()
    if s.state == "RUNNING":
        s.committed(now)
    s.validate()


class Machine(RuleBasedStateMachine):
    """Events in any order and at any time, against a few facts that are kept beside the scheduler."""

    @initialize(
        maps=st.integers(0, 5), reduces=st.integers(1, 3), attempts_max=st.integers(1, 6), work=st.integers(0, 9)
    )
    def start(self, maps: int, reduces: int, attempts_max: int, work: int) -> None:
        self.s = Scheduler(maps, reduces, attempts_max=attempts_max, epoch=2)
        self.now = 0.0
        self.issued: dict[str, str] = {}  # attempt -> worker
        self.tables: dict[str, str] = {}  # reduce attempt -> the table that it has read
        self.digests: dict[str, str] = {}
        self.refused: set[str] = set()
        self.renewed: dict[str, float] = {}
        self.moved: dict[str, tuple[Progress, float]] = {}  # what an attempt told last, and when that was news
        self.full: set[str] = set()  # reduces that were told of every map when they asked last
        self.slots: dict[str, int] = {}
        self.heard_of: dict[str, float] = {}  # workers that are connected -> when they last said something
        self.counted: dict[str, int] = defaultdict(int)
        self.losses: dict[int, int] = defaultdict(int)
        self.failed_now = False
        self.end: str | None = None
        for step in range(work):  # so that all phases are looked at equally often
            self.join(WORKERS[step % 3], 2, -1)
            self.assign(WORKERS[step % 3])
            self.work(0)

    def live_slots(self) -> dict[str, int]:
        return {worker: self.slots.get(worker, 1) for worker, at in self.heard_of.items() if self.now - at <= 10.0}

    def idle(self, kind: str) -> set[tuple[str, int]]:
        count = self.s.maps if kind == "map" else self.s.reduces
        return {(kind, index) for index in range(count) if self.s.task_state(kind, index) == "IDLE"}

    def is_kept_from(self, worker: str, index: int) -> bool:
        """Whether a map failed on this worker a moment ago, and others are there to take it."""
        record = self.s._tasks.get(index)
        shunned = record is not None and record.shun == worker and self.now - record.shun_at < 30.0
        return shunned and len(self.live_slots().keys() | {worker}) > 1

    def pick(self, choice: int) -> str:
        names = list(self.issued)
        return names[-1 - choice % len(names)]

    def is_accepted(self, name: str) -> bool:
        return any(name == accepted for _, accepted, _ in (*self.s.accepted_maps(), *self.s.accepted_reduces()))

    def heard(self, name: str, word: str) -> None:
        assert word not in ("accepted", "ok") or name not in self.refused, f"{name} was refused before"
        assert word not in REFUSALS or not self.is_accepted(name), f"{name} would remove the accepted object"
        assert (word == "job_done") <= (self.s.state != "RUNNING")
        if word in REFUSALS:
            self.refused.add(name)

    @rule(worker=st.sampled_from(WORKERS))
    def assign(self, worker: str) -> None:
        maps, reduces = self.idle("map"), self.idle("reduce")
        before = {running.name: running for running in self.s.running()}
        self.heard_of[worker] = self.now
        attempt = self.s.assign(worker, self.now)
        if self.s.state != "RUNNING":
            assert attempt is None
            return
        if attempt is None:
            kept = self.s.crew.rests(worker, self.now)
            assert kept or all(self.is_kept_from(worker, index) for _, index in maps), "a map is kept from a worker"
            late = self.s.maps_done == self.s.maps and reduces
            others = len(self.live_slots()) > 1
            assert kept or not late or others, "a reduce is kept from the only worker"
            return
        assert attempt.name not in self.issued, "a name is used twice"
        task = attempt.kind, attempt.index
        if task not in maps | reduces:
            self.check_backup(worker, [each for each in before.values() if (each.kind, each.index) == task])
        elif attempt.kind == "reduce" and self.s.maps_done < self.s.maps:
            held = sum(each.kind == "reduce" for each in before.values())
            assert not maps and 2 * self.s.maps_done >= self.s.maps, "a reduce started too early"
            assert held < sum(self.live_slots().values()) - 1, "no slot is left for a map"
        self.issued[attempt.name] = worker
        self.renewed[attempt.name] = self.now
        self.moved[attempt.name] = Progress(), self.now

    def check_backup(self, worker: str, first: list[Running]) -> None:
        done, tasks = self.s.reduces_done, self.s.reduces
        if self.s.maps_done < self.s.maps:
            done, tasks = self.s.maps_done, self.s.maps
        assert done >= 3 and done >= 0.75 * tasks, "a backup before the end of its phase"
        assert [each.worker != worker and self.now - each.since >= 10.0 for each in first] == [True]

    @precondition(lambda self: self.issued)
    @rule(choice=numbers)
    def renew(self, choice: int) -> None:
        name = self.pick(choice)
        progress = Progress(records=choice)
        self.heard_of[self.issued[name]] = self.now
        word = self.s.renew(name, self.issued[name], progress, self.now)
        self.heard(name, word)
        if word == "ok" and self.s.state == "RUNNING":
            self.renewed[name] = self.now
            if self.moved[name][0] != progress:
                self.moved[name] = progress, self.now

    @precondition(lambda self: any(name[0] == "r" for name in self.issued))
    @rule(choice=numbers)
    def feed(self, choice: int) -> None:
        """A reduce asks for map outputs; it is told of all when there are all."""
        reduces = [name for name in self.issued if name[0] == "r"]
        self.ask(reduces[-1 - choice % len(reduces)])

    def ask(self, name: str) -> None:
        complete = self.s.maps_done == self.s.maps
        goes_on = self.s.fed(name, complete, self.now, self.issued[name])
        assert goes_on <= (name not in self.refused and self.s.state == "RUNNING")
        if goes_on:
            if complete != (name in self.full):
                self.moved[name] = self.moved[name][0], self.now
            self.full.discard(name)
            if complete:
                self.full.add(name)
                self.tables[name] = self.s.table_digest()
        elif self.s.state == "RUNNING" and not self.is_accepted(name):
            self.refused.add(name)

    @rule(kind=st.sampled_from(["map", "reduce"]), task=numbers, n=st.integers(1, 3), worker=st.sampled_from(WORKERS))
    def outlive(self, kind: str, task: int, n: int, worker: str) -> None:
        """An attempt of the epoch before turns up, or of one to come."""
        count = self.s.maps if kind == "map" else self.s.reduces
        if count:
            number = self.s.names.number(kind, task % count)
            assert number is not None
            name = self.s.names.attempt(number, (1 << 32) + n)
            if name not in self.issued:
                self.issued[name], self.renewed[name] = worker, self.now - 10.0
                self.moved[name] = Progress(), self.now
            future = name.replace(".e1.", ".e3.")
            assert self.s.renew(future, worker, Progress(), self.now) == "cancel"
            self.heard_of[worker] = self.now

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(1, 4), choice=numbers)
    def join(self, worker: str, slots: int, choice: int) -> None:
        """A worker is back, and some of what it was given never reached it."""
        mine = [running.name for running in self.s.running() if running.worker == worker]
        kept = tuple(name for bit, name in enumerate(mine) if choice >> bit & 1)
        self.s.joined(worker, slots, kept, self.now)
        self.slots[worker], self.heard_of[worker] = slots, self.now
        assert {each.name for each in self.s.running() if each.worker == worker} == set(kept)
        self.refused |= set(mine) - set(kept)

    @precondition(lambda self: self.issued)
    @rule(choice=numbers, odd=st.booleans())
    def done(self, choice: int, odd: bool) -> None:
        """A result: in time, late, repeated, of a map that is not deterministic, of a table that is no more."""
        self.tell_done(self.pick(choice), odd)

    @precondition(lambda self: any(True for _ in self.s.running()))
    @rule(choice=numbers)
    def work(self, choice: int) -> None:
        """One of those that run does what it should."""
        running = [each.name for each in self.s.running()]
        if running:
            name = running[choice % len(running)]
            if kind_of(name) == "reduce" and name not in self.tables:
                self.ask(name)
            else:
                self.tell_done(name, odd=False)

    def tell_done(self, name: str, odd: bool) -> None:
        if kind_of(name) == "map":
            digest = self.digests.setdefault(name, f"odd {name}" if odd else "same")
            word = self.s.map_done(name, digest, self.now, self.issued[name])
            if word == "accepted" and self.s.maps_done == self.s.maps:
                for each in self.issued.keys() - self.full:  # those that waited have nothing to wait for from now on
                    if kind_of(each) == "reduce":
                        self.moved[each] = self.moved[each][0], self.now
        else:
            table, before = self.tables.get(name, "none"), self.s.table_digest()
            digest = self.digests.setdefault(name, "part")
            word = self.s.reduce_done(name, digest, table, self.now, self.issued[name])
            assert word != "accepted" or table == before
        self.heard(name, word)

    @precondition(lambda self: self.issued)
    @rule(choice=numbers)
    def done_with_wrong_digest(self, choice: int) -> None:
        name = self.pick(choice)
        accepted = {attempt for _, attempt, _ in (*self.s.accepted_maps(), *self.s.accepted_reduces())}
        if name not in accepted or self.s.state != "RUNNING":
            return
        with pytest.raises(IllegalEvent):
            if kind_of(name) == "map":
                self.s.map_done(name, "wrong", self.now)
            else:
                self.s.reduce_done(name, "wrong", self.tables[name], self.now)

    @precondition(lambda self: self.issued)
    @rule(choice=numbers, counted=st.booleans(), fatal=st.integers(0, 99))
    def fail(self, choice: int, counted: bool, fatal: int) -> None:
        name = self.pick(choice)
        failure = Failure(name, "app", "boom", counted=counted, fatal=fatal == 57)
        word = self.s.failed(name, failure, self.now, self.issued[name])
        self.heard(name, word)
        if word == "accepted":
            self.refused.add(name)
            self.counted[name.partition(".")[0]] += failure.counted or failure.fatal
            self.failed_now |= failure.fatal

    @precondition(lambda self: self.issued)
    @rule(choice=numbers)
    def release(self, choice: int) -> None:
        name = self.pick(choice)
        word = self.s.released(name, self.now, self.issued[name])
        self.heard(name, word)
        if word == "accepted":
            self.refused.add(name)

    @precondition(lambda self: any(name[0] == "m" for name in self.issued))
    @rule(choice=numbers, real=st.booleans())
    def output_lost(self, choice: int, real: bool) -> None:
        maps = [name for name in self.issued if name[0] == "m"]
        if real:
            maps = [name for _, name, _ in self.s.accepted_maps()] or maps
        name = maps[-1 - choice % len(maps)]
        current = self.s.accepted_map(index_of(name)) == name
        word = self.s.output_lost(index_of(name), name, self.now)
        assert current or word != "accepted"
        if word == "accepted":
            self.refused.add(name)
            self.losses[index_of(name)] += 1

    @rule(worker=st.sampled_from(WORKERS))
    def worker_lost(self, worker: str) -> None:
        self.s.worker_lost(worker, self.now)
        self.heard_of.pop(worker, None)
        for name, holder in self.issued.items():
            if holder == worker:
                self.renewed[name] -= 10.0  # no promise any more

    @rule(by=st.floats(0, 12) | st.sampled_from([30.0, 600.0, 1000.0]), all_renew=st.booleans())
    def tick(self, by: float, all_renew: bool) -> None:
        self.now += by
        if all_renew:  # they live, and have nothing new to tell
            for each in list(self.s.running()):
                self.heard_of[each.worker] = self.now
                self.heard(each.name, self.s.renew(each.name, each.worker, self.moved[each.name][0], self.now))
                self.renewed[each.name] = self.now
        before = {running.name for running in self.s.running()}
        maps = self.idle("map")
        self.s.tick(self.now)
        for name in before - {running.name for running in self.s.running()}:
            last = next(line for line in reversed(self.s.story(kind_of(name), index_of(name))) if name in line)
            self.check_ended(name, last, bool(maps))
        deadline = self.s.next_deadline()
        assert deadline is None or deadline > self.now
        assert deadline is None or deadline <= self.now + 10.0, "a lease without a renewal lasts too long"

    def check_ended(self, name: str, last: str, maps_wait: bool) -> None:
        """Of an attempt that was ended by time."""
        if "preempted" in last:
            assert kind_of(name) == "reduce", "a map was preempted"
            assert maps_wait or self.idle("map"), "no map waited"
            self.refused.add(name)
        elif "stalled" in last:
            assert self.now - self.moved[name][1] >= 600.0, "what moves does not stall"
            assert kind_of(name) == "map" or name in self.tables or self.s.maps_done == self.s.maps, "it waited"
            self.refused.add(name)
            self.counted[name.partition(".")[0]] += 1
        elif self.s.state == "RUNNING":
            assert self.now >= self.renewed[name] + 10.0, "a lease ended too early"

    @precondition(lambda self: self.s.phase == "commit" and self.s.state == "RUNNING")
    @rule()
    def commit(self) -> None:
        self.s.committed(self.now)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "s"):
            return
        self.s.validate()
        failing = (
            self.failed_now
            or max(self.counted.values(), default=0) >= self.s.attempts_max
            or max(self.losses.values(), default=0) >= self.s.attempts_max
        )
        assert (self.s.state == "FAILED") == failing
        if self.end is not None:
            assert self.s.state == self.end, "the end was not final"
        elif self.s.state != "RUNNING":
            self.end = self.s.state
        if self.s.phase == "commit":
            assert {self.tables[name] for _, name, _ in self.s.accepted_reduces()} == {self.s.table_digest()}

    def teardown(self) -> None:
        if hasattr(self, "s"):
            finish(copy.deepcopy(self.s), self.now, self.digests)


class TestScheduler(Machine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(examples(300), stateful_step_count=40)
