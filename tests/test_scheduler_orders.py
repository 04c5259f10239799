"""All orders of events of a tiny job, breadth first: two workers of one slot each, and few faults."""

from __future__ import annotations

import pickle
from collections import defaultdict, deque
from collections.abc import Iterator

import pytest

from mrfast.control.scheduler import Scheduler
from mrfast.model import Failure, Progress

WORKERS = ("w1", "w2")
SHORT_S, LONG_S = 2.0, 40.0  # enough for a map to take back a slot; enough for all that ends by itself


class World:
    """The scheduler with its journal, its workers and what they hold, and how many faults may still come."""

    def __init__(self, maps: int, reduces: int, faults: int, attempts_max: int) -> None:
        self.maps, self.reduces, self.faults, self.attempts_max = maps, reduces, faults, attempts_max
        self.epoch, self.now, self.beat = 1, 0.0, 0
        self.journal: list[tuple[str, ...]] = []
        self.s = Scheduler(maps, reduces, attempts_max=attempts_max)
        self.held: dict[str, str] = dict.fromkeys(WORKERS, "")  # of those who live
        self.tables: dict[str, str] = {}  # reduce -> the table that it has read
        self.late: dict[str, str] = {}  # attempt -> its worker, which has yet to tell that it is done
        self.said: set[tuple[str, str, str]] = set()  # attempts of which there can be no news, and what was said last
        self.refused: set[str] = set()
        self.odd = False  # the next output of map 0 differs
        self.digests: dict[str, str] = {}
        for worker in WORKERS:
            self.s.joined(worker, 1, (), self.now)

    def moves(self) -> Iterator[tuple[str, str]]:
        """(what happens, to whom); faults say so."""
        if self.s.state != "RUNNING":
            return
        for worker, name in self.held.items():
            if not name:
                yield "assign", worker
            elif name[0] == "m" or name in self.tables:
                yield "done", worker
            elif self.s.maps_done == self.s.maps:
                yield "feed", worker
        for name in self.late:
            yield "deliver", name
        yield "wait", "short"
        yield "wait", "long"
        if self.s.phase == "commit":
            yield "commit", ""
        if self.faults:
            yield from self.mishaps()

    def mishaps(self) -> Iterator[tuple[str, str]]:
        yield "fault:restart", ""
        yield "fault:freeze", ""
        for worker, name in self.held.items():
            if len(self.held) > 1:
                yield "fault:die", worker
            if name:
                yield "fault:fail", worker
                yield "fault:storeless", worker
                yield "fault:release", worker
                yield "fault:mute", worker
            else:
                yield "fault:unheard", worker
        for index in range(self.s.maps):
            if self.s.accepted_map(index):
                yield "fault:lose", str(index)
                yield "fault:unfeed", str(index)
        if self.s.accepted_map(0):
            yield "fault:lose_odd", "0"

    def make(self, move: tuple[str, str]) -> None:
        what, whom = move
        self.faults -= what.startswith("fault")
        getattr(self, what.removeprefix("fault:"))(whom)

    def assign(self, worker: str) -> None:
        attempt = self.s.assign(worker, self.now)
        self.held[worker] = "" if attempt is None else attempt.name

    def feed(self, worker: str) -> None:
        name = self.held[worker]
        if self.s.fed(name, True, self.now, worker):
            self.tables[name] = self.s.table_digest()
        else:
            self.held[worker] = ""

    def done(self, worker: str) -> None:
        name, self.held[worker] = self.held[worker], ""
        self.report(name, worker)

    def deliver(self, name: str) -> None:
        self.report(name, self.late.pop(name))

    def report(self, name: str, worker: str) -> None:
        task, _, _ = name.partition(".")
        index = int(task[2:])
        issued = str(self.s.issued("map" if name[0] == "m" else "reduce", index))
        if name[0] == "m":
            if name not in self.digests:
                self.digests[name] = "odd" if self.odd and index == 0 else "same"
                self.odd = self.odd and index != 0
            word = self.s.map_done(name, self.digests[name], self.now, worker)
            entry = ("map", name, self.digests[name], "", issued, str(self.epoch))
        else:
            word = self.s.reduce_done(name, "part", self.tables[name], self.now, worker)
            entry = ("reduce", name, "part", self.tables[name], issued, str(self.epoch))
        assert word in ("accepted", "already", "superseded", "job_done"), word
        assert word != "accepted" or name not in self.refused, f"{name} was refused before"
        if word == "accepted":
            self.journal.append(entry)
        if word == "superseded":
            self.refused.add(name)
        self.said.add((name, worker, "done"))

    def wait(self, how: str) -> None:
        """Time passes, and who lives renews."""
        for _ in range(int(SHORT_S if how == "short" else LONG_S)):
            self.now += 1.0
            self.beat += 1
            for worker, name in self.held.items():
                self.s.crew.seen(worker, self.now)
                if name and self.s.renew(name, worker, Progress(records=self.beat), self.now) == "cancel":
                    self.held[worker] = ""
                    self.refused.add(name)
            self.s.tick(self.now)

    def commit(self, _: str) -> None:
        self.s.committed(self.now)

    # Faults

    def die(self, worker: str) -> None:
        del self.held[worker]
        self.late = {name: its for name, its in self.late.items() if its != worker}
        self.s.worker_lost(worker, self.now)

    def mute(self, worker: str) -> None:
        """The task is done, but the report of it gets lost; it is repeated at some time."""
        name, self.held[worker] = self.held[worker], ""
        if name[0] == "m" or name in self.tables:
            self.late[name] = worker

    def unheard(self, worker: str) -> None:
        """An assignment that gets lost with its connection."""
        self.s.assign(worker, self.now)
        self.s.worker_lost(worker, self.now)
        self.s.joined(worker, 1, (), self.now)

    def fail(self, worker: str) -> None:
        name, self.held[worker] = self.held[worker], ""
        failure = Failure(name, "app", "boom")
        if self.s.failed(name, failure, self.now, worker) == "accepted":
            self.refused.add(name)
            self.journal.append(("failed", name, worker))
        self.said.add((name, worker, "failed"))

    def storeless(self, worker: str) -> None:
        """An error of the store: the task rests, and it does not count."""
        name, self.held[worker] = self.held[worker], ""
        if self.s.failed(name, Failure(name, "store", "boom", counted=False), self.now, worker) == "accepted":
            self.refused.add(name)
        self.said.add((name, worker, "failed"))

    def release(self, worker: str) -> None:
        name, self.held[worker] = self.held[worker], ""
        self.s.released(name, self.now, worker)
        self.refused.add(name)
        self.said.add((name, worker, "released"))

    def lose(self, index: str) -> None:
        name = self.s.accepted_map(int(index)) or ""
        if self.s.output_lost(int(index), name, self.now) == "accepted":
            self.refused.add(name)
            self.journal.append(("lost", name, index))

    def lose_odd(self, index: str) -> None:
        self.lose(index)
        self.odd = True

    def unfeed(self, index: str) -> None:
        """The reduces had not fetched this output."""
        self.lose(index)
        for worker, name in self.held.items():
            if self.tables.pop(name, None) and not self.s.fed(name, False, self.now, worker):
                self.held[worker] = ""

    def freeze(self, _: str) -> None:
        """Nobody is heard of until all leases have run out."""
        self.now += 10.0
        self.s.tick(self.now)

    def restart(self, _: str) -> None:
        """The coordinator dies, and a new one reads its journal."""
        self.epoch += 1
        noted = {name for _, name, *_ in self.journal}
        self.said = {each for each in self.said if each[0] in noted}  # nobody repeats what was refused
        self.s = Scheduler(self.maps, self.reduces, attempts_max=self.attempts_max, epoch=self.epoch)
        for kind, name, *rest in self.journal:
            if kind == "lost":
                self.s.restore_loss(name)
            elif kind == "failed":
                self.s.restore_failure(name, rest[0], Failure(name, "app", "boom"))
            else:
                self.s.restore(kind, name, rest[0], rest[1], int(rest[2]), int(rest[3]))
        self.s.restored()
        for worker, name in self.held.items():
            self.s.joined(worker, 1, (name,) if name else (), self.now)

    # What is checked

    def repeat(self) -> None:
        """What is said twice changes nothing."""
        key = self.key()
        for name, worker, what in sorted(self.said):
            if what == "done":
                self.report(name, worker)
            elif what == "failed":
                self.s.failed(name, Failure(name, "app", "boom"), self.now, worker)
            else:
                self.s.released(name, self.now, worker)
        assert self.key() == key, "a report that came twice made a difference"

    def check(self, before: World) -> None:
        self.s.validate()
        assert before.s.state in ("RUNNING", self.s.state), "the end was not final"
        if self.s.state == "FAILED":
            assert self.s.failure is not None and self.s.failure.reason
            assert max(max(record.counted, record.losses) for record in self.s._tasks.values()) >= self.attempts_max
        if self.s.state == "COMMITTED":
            assert len(list(self.s.accepted_reduces())) == self.reduces

    def key(self) -> object:
        """All that decides what can still happen."""
        s, now = self.s, self.now
        tasks = []
        for task, record in sorted(s._tasks.items()):
            attempts = [
                (n, each.live, each.worker, each.fed, each.live and max(0.0, each.deadline - now))
                for n, each in sorted((record.open or {}).items())
            ]
            facts = (record.issued, record.accepted, record.digest, record.table, record.counted, record.losses)
            shun = record.shun and (record.shun, min(30.0, now - record.shun_at))
            rest = record.store_failures, max(0.0, record.rest_until - now)
            tasks.append((task, facts, record.floor, shun, rest, tuple(attempts), tuple(sorted(record.closed or ()))))
        starved = None if s._starved_at is None else now - s._starved_at
        mine = (tuple(self.held.items()), tuple(sorted(self.late.items())), self.odd, self.faults, self.epoch)
        known = (tuple(sorted(self.tables.items())), tuple(self.journal))
        return s.state, tuple(tasks), starved, s.crew.slots(now), mine, known


def explore(first: World) -> tuple[int, set[str]]:
    """Every state that can be reached: (how many, the ends); each one validated, each one with a way to an end."""
    seen = {first.key(): 0}
    ends: dict[int, str] = {}
    sources: dict[int, set[int]] = defaultdict(set)  # by moves that are not faults
    queue = deque([pickle.dumps(first)])
    while queue:
        image = queue.popleft()
        world: World = pickle.loads(image)
        here = seen[world.key()]
        if world.s.state != "RUNNING":
            ends[here] = world.s.state
        for move in world.moves():
            after: World = pickle.loads(image)
            after.make(move)
            key = after.key()
            if key not in seen:
                after.check(world)
                seen[key] = len(seen)
                queue.append(pickle.dumps(after))
                after.repeat()
            if not move[0].startswith("fault"):
                sources[seen[key]].add(here)
    reached, todo = set(ends), list(ends)
    while todo:
        for source in sources[todo.pop()] - reached:
            reached.add(source)
            todo.append(source)
    assert len(reached) == len(seen), "some state has no way to an end"
    return len(seen), set(ends.values())


@pytest.mark.parametrize(
    ("maps", "reduces", "faults", "attempts_max", "least_states", "ends"),
    [
        (2, 1, 0, 2, 20, {"COMMITTED"}),
        (2, 1, 1, 2, 1000, {"COMMITTED"}),
        (2, 1, 1, 1, 1000, {"COMMITTED", "FAILED"}),
        (1, 2, 1, 2, 1000, {"COMMITTED"}),
        pytest.param(1, 1, 2, 2, 10_000, {"COMMITTED", "FAILED"}, marks=pytest.mark.depth),
        pytest.param(2, 1, 2, 2, 100_000, {"COMMITTED", "FAILED"}, marks=pytest.mark.depth),
    ],
)
@pytest.mark.timeout(3600)
def test_every_order_ends_well(
    maps: int, reduces: int, faults: int, attempts_max: int, least_states: int, ends: set[str]
):
    states, found = explore(World(maps, reduces, faults, attempts_max))
    assert found == ends
    assert states >= least_states
