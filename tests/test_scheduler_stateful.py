"""The scheduler under every order of events: a random machine of some size, and all orders of a tiny job."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict, deque
from collections.abc import Iterator

import pytest
from depth import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mrfast.control.scheduler import IllegalEvent, Scheduler
from mrfast.model import Failure, Progress

WORKERS = ("w1", "w2", "w3")
REFUSALS = ("superseded", "cancel")
numbers = st.integers(0, 1 << 20)


def kind_of(name: str) -> str:
    return "map" if name[0] == "m" else "reduce"


def index_of(name: str) -> int:
    return int(name[2 : name.index(".")])


def finish(s: Scheduler, now: float, digest_of: dict[str, str]) -> int:
    """Run the job to its end with one healthy worker; the number of attempts that took."""
    steps = 0
    while s.state == "RUNNING" and s.phase != "commit":
        attempt = s.assign("healthy", now)
        if attempt is None:
            deadline = s.next_deadline()
            assert deadline is not None, "nothing to hand out and nothing to wait for"
            now = max(now, deadline)
            s.tick(now)
            continue
        steps += 1
        assert steps <= s.maps + s.reduces, "a job without faults runs tasks twice"
        if attempt.kind == "map":
            assert s.map_done(attempt.name, digest_of.get(attempt.name, "same"), now) == "accepted"
        else:
            assert s.reduce_done(attempt.name, "part", s.table_digest(), now) == "accepted"
        s.validate()
    if s.state == "RUNNING":
        s.committed(now)
    s.validate()
    return steps


class Machine(RuleBasedStateMachine):
    """Events in any order and at any time, against a few facts that are kept beside the scheduler."""

    @initialize(maps=st.integers(0, 4), reduces=st.integers(1, 3), attempts_max=st.integers(1, 4))
    def start(self, maps: int, reduces: int, attempts_max: int) -> None:
        self.s = Scheduler(maps, reduces, attempts_max=attempts_max)
        self.now = 0.0
        self.issued: dict[str, str] = {}  # attempt -> worker
        self.tables: dict[str, str] = {}  # reduce attempt -> the table it reads
        self.digests: dict[str, str] = {}
        self.refused: set[str] = set()
        self.renewed: dict[str, float] = {}
        self.counted: dict[str, int] = defaultdict(int)
        self.losses: dict[int, int] = defaultdict(int)
        self.failed_now = False
        self.end: str | None = None

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
        idle = [
            (kind, i)
            for kind, count in (("map", self.s.maps), ("reduce", self.s.reduces))
            for i in range(count)
            if self.s.task_state(kind, i) == "IDLE" and (kind == "map" or self.s.phase == "reduce")
        ]
        attempt = self.s.assign(worker, self.now)
        if self.s.state != "RUNNING":
            assert attempt is None
            return
        assert (attempt is not None) == bool(idle), "a task is kept from an idle worker, or made up"
        if attempt is not None:
            assert (attempt.kind, attempt.index) in idle
            assert attempt.name not in self.issued, "a name is used twice"
            self.issued[attempt.name] = worker
            self.renewed[attempt.name] = self.now
            if attempt.kind == "reduce":
                self.tables[attempt.name] = self.s.table_digest()

    @precondition(lambda self: self.issued)
    @rule(choice=numbers)
    def renew(self, choice: int) -> None:
        name = self.pick(choice)
        word = self.s.renew(name, self.issued[name], Progress(records=choice), self.now)
        self.heard(name, word)
        if word == "ok" and self.s.state == "RUNNING":
            self.renewed[name] = self.now

    @precondition(lambda self: self.issued)
    @rule(choice=numbers, odd=st.booleans())
    def done(self, choice: int, odd: bool) -> None:
        """A result: in time, late, repeated, of a map that is not deterministic, of a table that is no more."""
        name = self.pick(choice)
        if kind_of(name) == "map":
            digest = self.digests.setdefault(name, f"odd {name}" if odd else "same")
            word = self.s.map_done(name, digest, self.now)
        else:
            table = self.tables[name]
            before = self.s.table_digest() if self.s.phase == "reduce" else None
            word = self.s.reduce_done(name, self.digests.setdefault(name, "part"), table, self.now)
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
    @rule(choice=numbers, counted=st.booleans(), fatal=st.integers(0, 9))
    def fail(self, choice: int, counted: bool, fatal: int) -> None:
        name = self.pick(choice)
        failure = Failure(name, "app", "boom", counted=counted, fatal=fatal == 0)
        word = self.s.failed(name, failure, self.now)
        self.heard(name, word)
        if word == "accepted":
            self.refused.add(name)
            self.counted[name.partition(".")[0]] += failure.counted or failure.fatal
            self.failed_now |= failure.fatal

    @precondition(lambda self: self.issued)
    @rule(choice=numbers)
    def release(self, choice: int) -> None:
        name = self.pick(choice)
        word = self.s.released(name, self.now)
        self.heard(name, word)
        if word == "accepted":
            self.refused.add(name)

    @precondition(lambda self: any(name[0] == "m" for name in self.issued))
    @rule(choice=numbers)
    def output_lost(self, choice: int) -> None:
        maps = [name for name in self.issued if name[0] == "m"]
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
        for name, holder in self.issued.items():
            if holder == worker:
                self.renewed[name] -= 10.0  # no promise any more

    @rule(by=st.floats(0, 12))
    def tick(self, by: float) -> None:
        self.now += by
        before = {running.name for running in self.s.running()}
        self.s.tick(self.now)
        gone = before - {running.name for running in self.s.running()}
        assert not [name for name in gone if self.now < self.renewed[name] + 10.0], "a lease ended too early"
        deadline = self.s.next_deadline()
        assert deadline is None or deadline > self.now
        assert deadline is None or deadline <= self.now + 10.0, "a lease without a renewal lasts too long"

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


# All orders of a tiny job: few maps (the first gives other bytes in every attempt), reduces and faults, and two workers

ATTEMPTS_MAX = 2


class World:
    """The scheduler, what its attempts know, and how many faults may still come."""

    def __init__(self, maps: int, reduces: int, faults: int) -> None:
        self.s = Scheduler(maps, reduces, attempts_max=ATTEMPTS_MAX)
        self.now = 0.0
        self.faults = faults
        self.issued: dict[str, tuple[str, str]] = {}  # attempt -> (worker, table)
        self.refused: frozenset[str] = frozenset()

    def moves(self) -> Iterator[tuple[str, ...]]:
        """(what happens, to whom); those that are faults say so."""
        live = {running.name for running in self.s.running()}
        for worker in WORKERS[: 2 if self.issued else 1]:  # the workers are alike: the first to ask is w1
            yield "assign", worker
        for name in self.issued.keys() - self.over():
            yield "done", name
            if name not in live:  # else it only moves the deadline
                yield "renew", name
            if self.faults:
                yield "fault:fail", name
        for index in range(self.s.maps):
            if self.faults and self.s.accepted_map(index):
                yield "fault:lose", str(index)
        if self.faults and len(list(self.s.running())):
            yield ("fault:expire",)
        if self.s.phase == "commit" and self.s.state == "RUNNING":
            yield ("commit",)

    def over(self) -> set[str]:
        """The attempts about which nothing can be news any more."""
        if self.s.state != "RUNNING":
            return set(self.issued)
        return self.refused | {name for _, name, _ in (*self.s.accepted_maps(), *self.s.accepted_reduces())}

    def repeat(self) -> None:
        """Whatever is said of those changes nothing."""
        key = self.key()
        for name in self.over():
            for what in ("done", "renew", "fault:fail"):
                self.report(what, name)
        assert self.key() == key, "an attempt that was over made a difference"

    def make(self, move: tuple[str, ...]) -> None:
        what, *about = move
        self.faults -= what.startswith("fault")
        if what == "assign":
            attempt = self.s.assign(about[0], self.now)
            if attempt is not None:
                assert attempt.name not in self.issued
                self.issued[attempt.name] = about[0], self.s.table_digest()
        elif what == "commit":
            self.s.committed(self.now)
        elif what == "fault:lose":
            name = self.s.accepted_map(int(about[0])) or ""
            if self.s.output_lost(int(about[0]), name, self.now) == "accepted":
                self.refused |= {name}
        elif what == "fault:expire":
            self.now += 10.0
            self.s.tick(self.now)
        else:
            self.report(what, about[0])

    def report(self, what: str, name: str) -> None:
        worker, table = self.issued[name]
        if what == "renew":
            word = self.s.renew(name, worker, Progress(), self.now)
        elif what == "fault:fail":
            word = self.s.failed(name, Failure(name, "app", "boom"), self.now)
        elif name[0] == "m":
            word = self.s.map_done(name, name if index_of(name) == 0 else "same", self.now)
        else:
            word = self.s.reduce_done(name, "part", table, self.now)
        assert word not in ("accepted", "ok") or name not in self.refused, f"{name} was refused before"
        if self.s.state == "RUNNING" and (word in REFUSALS or (what == "fault:fail" and word == "accepted")):
            self.refused |= {name}

    def key(self) -> object:
        """All that decides what can still happen; not the time and not the stories."""
        tasks = []
        for task, record in sorted(self.s._tasks.items()):
            attempts = [(n, lease.live, lease.version) for n, lease in (record.open or {}).items()]
            failures = [n for n, _, _ in record.failures or ()]
            facts = (record.issued, record.accepted, record.digest, record.table, record.counted, record.losses)
            tasks.append((task, facts, record.shun, tuple(attempts), tuple(failures)))
        return self.s.state, self.s.version, tuple(tasks), frozenset(self.issued.items()), self.refused, self.faults


def explore(maps: int, reduces: int, faults: int) -> tuple[int, set[str]]:
    """Every state that can be reached: (how many, the ends); each one validated, each one with a way to an end."""
    first = World(maps, reduces, faults)
    seen = {first.key(): 0}
    ends: dict[int, str] = {}
    sources: dict[int, set[int]] = defaultdict(set)  # by moves that are not faults
    queue = deque([pickle.dumps(first)])
    while queue:
        image = queue.popleft()
        world = pickle.loads(image)
        here = seen[world.key()]
        if world.s.state != "RUNNING":
            ends[here] = world.s.state
        for move in world.moves():
            after = pickle.loads(image)
            after.make(move)
            key = after.key()
            if key not in seen:
                after.s.validate()
                check_end(world, after)
                seen[key] = len(seen)
                queue.append(pickle.dumps(after))
                after.repeat()
            if not move[0].startswith("fault"):
                sources[seen[key]].add(here)
    reached = set(ends)
    todo = list(ends)
    while todo:
        for source in sources[todo.pop()] - reached:
            reached.add(source)
            todo.append(source)
    assert len(reached) == len(seen), "some state has no way to an end"
    return len(seen), set(ends.values())


def check_end(before: World, after: World) -> None:
    assert before.s.state in ("RUNNING", after.s.state), "the end was not final"
    if after.s.phase == "commit":
        for _, name, _ in after.s.accepted_reduces():
            assert after.issued[name][1] == after.s.table_digest(), "a part was made from other bytes"
    if after.s.state == "FAILED":
        assert max(max(record.counted, record.losses) for record in after.s._tasks.values()) >= ATTEMPTS_MAX


@pytest.mark.parametrize(
    ("maps", "reduces", "faults", "least_states", "ends"),
    [
        (2, 1, 0, 30, {"COMMITTED"}),
        (2, 1, 1, 4000, {"COMMITTED"}),
        (1, 2, 1, 1000, {"COMMITTED"}),
        (1, 1, 2, 4000, {"COMMITTED", "FAILED"}),
        pytest.param(1, 2, 2, 50_000, {"COMMITTED", "FAILED"}, marks=pytest.mark.depth),
        pytest.param(2, 1, 2, 250_000, {"COMMITTED", "FAILED"}, marks=pytest.mark.depth),
    ],
)
@pytest.mark.timeout(1200)
def test_every_order_ends_well(maps: int, reduces: int, faults: int, least_states: int, ends: set[str]):
    states, found = explore(maps, reduces, faults)
    assert found == ends
    assert states >= least_states
