"""A Scheduler that follows the journal of another knows what that one knew."""

from __future__ import annotations

from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast.control.scheduler import Scheduler
from mrfast.model import Failure, Progress

WHAT = ("assign", "done", "done", "odd", "fail", "uncounted", "lose", "release", "renew", "feed", "tick", "restart")
ATTEMPTS_MAX = 50  # the end of a job ends its journal too


class Job:
    """A job that is run by chance, and its journal; restarts make it the next epoch's."""

    def __init__(self, maps: int, reduces: int) -> None:
        self.maps, self.reduces = maps, reduces
        self.now, self.epoch = 0.0, 1
        self.s = self.fresh()
        self.journal: list[tuple[str, ...]] = []
        self.issued: dict[str, str] = {}  # attempt -> worker
        self.tables: dict[str, str] = {}

    def fresh(self) -> Scheduler:
        return Scheduler(self.maps, self.reduces, attempts_max=ATTEMPTS_MAX, epoch=self.epoch)

    def step(self, what: str, choice: int) -> None:
        if what == "assign":
            worker = f"w{choice % 3}"
            attempt = self.s.assign(worker, self.now)
            if attempt is not None:
                self.issued[attempt.name] = worker
        elif what == "tick":
            self.now += choice % 12
            self.s.tick(self.now)
        elif what == "restart":
            self.restart()
        elif what == "lose":
            self.lose(choice)
        elif self.issued:
            names = list(self.issued)
            name = names[-1 - choice % len(names)]
            self.tell(what, name, self.issued[name])

    def tell(self, what: str, name: str, worker: str) -> None:
        if what == "renew":
            self.s.renew(name, worker, Progress(), self.now)
        elif what == "release":
            self.s.released(name, self.now, worker)
        elif what in ("fail", "uncounted"):
            failure = Failure(name, "app", "boom", counted=what == "fail")
            if self.s.failed(name, failure, self.now, worker) == "accepted" and failure.counted:
                self.journal.append(("failed", name, worker))
        elif name[0] == "r" and (what == "feed" or name not in self.tables):
            if self.s.maps_done == self.s.maps and self.s.fed(name, True, self.now, worker):
                self.tables[name] = self.s.table_digest()
        elif what != "feed":
            self.done(name, worker, "same" if what == "done" else f"odd {name}")

    def done(self, name: str, worker: str, digest: str) -> None:
        kind = "map" if name[0] == "m" else "reduce"
        index = self.s.names.index(name)
        known = {n: d for _, n, d in (*self.s.accepted_maps(), *self.s.accepted_reduces())}
        digest, table = known.get(name, digest), self.tables.get(name, "")
        if kind == "map":
            word = self.s.map_done(name, digest, self.now, worker)
        else:
            word = self.s.reduce_done(name, digest, table, self.now, worker)
        if word == "accepted":
            self.journal.append((kind, name, digest, table, str(self.s.issued(kind, index)), str(self.epoch)))

    def lose(self, choice: int) -> None:
        accepted = list(self.s.accepted_maps())
        if accepted:
            index, name, _ = accepted[choice % len(accepted)]
            if self.s.output_lost(index, name, self.now) == "accepted":
                self.journal.append(("lost", name, str(index)))

    def restart(self) -> None:
        """Another coordinator reads the journal: it knows what this one did, and adopts what still runs."""
        self.epoch += 1
        live, self.s = self.s, self.fresh()
        for kind, name, *rest in self.journal:
            if kind == "lost":
                self.s.restore_loss(name)
            elif kind == "failed":
                self.s.restore_failure(name, rest[0], Failure(name, "app", "boom"))
            else:
                self.s.restore(kind, name, rest[0], rest[1], int(rest[2]), int(rest[3]))
        self.s.restored()
        self.s.validate()
        assert facts(self.s) == facts(live)
        over = {name for kind, name, *_ in self.journal if kind == "failed"}
        for name in self.issued:
            assert not live.is_open(name) or self.s.is_open(name), f"{name} may still come"
            assert name not in over or not self.s.is_open(name), f"{name} has failed"
            assert self.s.is_open(name) <= (live.accepted_map(self.s.names.index(name)) is None or name[0] == "r")


def facts(s: Scheduler) -> object:
    """All that a journal is to keep."""
    tasks = {}
    for task, record in s._tasks.items():
        kept = (record.accepted, record.digest, record.table, record.counted, record.losses)
        if kept != (0, "", "", 0, 0):
            tasks[task] = kept
    counts = (s.maps_done, s.reduces_done, s._maps_known)
    return tasks, counts, list(s.accepted_maps()), list(s.accepted_reduces()), s.table_digest(), s.state


@given(
    st.integers(0, 3),
    st.integers(1, 2),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 1 << 16)), max_size=60),
)
@examples(300)
def test_a_restored_job_is_the_job_that_was(maps: int, reduces: int, ahead: int, steps: list[tuple[str, int]]):
    job = Job(maps, reduces)
    for n in range(ahead):
        job.step("assign" if n % 2 == 0 else "done", 0)
    for what, choice in steps:
        job.step(what, choice)
        job.s.validate()
    job.restart()
    for _ in range(6 * (maps + reduces)):  # and it can be ended
        job.now += 20.0
        job.s.tick(job.now)
        for what in ("assign", "feed", "done"):
            job.step(what, 0)
    assert job.s.phase == "commit"
