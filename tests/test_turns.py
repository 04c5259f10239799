"""A slot's other processes: they read ahead, and compute only when they have the turn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_pool import Bench

from mrfast.model import WAITING
from mrfast.tasks.pool import Finished, Ready, SlotPool, Turn

GATED = """
def map(filename, contents):
    open({gate!r}).close()  # a pipe: until the test opens its other end
    yield 'a', 1
def reduce(key, values):
    return sum(values)
"""
FIRST, SECOND = "m-000000.e1.1", "m-000001.e1.1"


class Gated(Bench):
    """Tasks that compute until `open_gate`; on one slot, with a process ahead."""

    def begin(self) -> SlotPool:
        self.gate = str(self.folder / "gate")
        os.mkfifo(self.gate)
        pool = self.start(GATED.format(gate=self.gate))
        pool.ahead = True
        task = self.map_task(attempt=FIRST)
        pool.send(task)
        self.next(Ready)
        assert self.next(Turn).attempt == FIRST
        assert (pool.free, pool.free_ahead) == (0, 1)
        pool.send(replace(task, attempt=SECOND))
        self.next(Ready)
        assert self.next(Turn).attempt == SECOND
        assert (pool.free, pool.free_ahead) == (0, 0)  # one a slot
        return pool

    def open_gate(self) -> None:
        """Lets the task that computes now go on."""
        with open(self.gate, "w"):
            pass


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Gated]:
    made = Gated(tmp_path)
    yield made
    made.close()


def phases(pool: SlotPool) -> dict[str, str]:
    return {attempt: done.phase for attempt, done in pool.running().items()}


def test_one_computes_and_the_other_one_waits_for_its_turn(bench: Gated) -> None:
    pool = bench.begin()
    assert phases(pool)[SECOND] == WAITING != phases(pool)[FIRST]
    bench.open_gate()
    assert bench.next(Turn).attempt == FIRST  # its turn is over before its object is written
    assert pool.free_ahead == 1, "one writes, one computes: a third may read"
    assert bench.next(Finished).report.attempt == FIRST
    assert phases(pool)[SECOND] != WAITING
    bench.open_gate()
    assert bench.next(Turn).attempt == SECOND
    assert bench.next(Finished).report.attempt == SECOND
    assert pool.free == 1


def test_the_turn_of_one_that_died_is_the_next_ones(bench: Gated) -> None:
    pool = bench.begin()
    os.kill(next(slot.pid for slot in pool.slots if slot.has_turn), 9)
    died = bench.next(Finished).report
    assert (died.attempt, died.kind) == (FIRST, "died")
    bench.open_gate()
    assert bench.next(Turn).attempt == SECOND
    assert bench.next(Finished).report.attempt == SECOND


@pytest.mark.parametrize("cancelled", [FIRST, SECOND])
def test_a_cancelled_one_leaves_its_turn_to_the_other(bench: Gated, cancelled: str) -> None:
    pool = bench.begin()
    pool.cancel(cancelled)
    (other,) = pool.running()
    assert phases(pool)[other] != WAITING
    bench.open_gate()
    assert bench.next(Turn).attempt == other
    assert bench.next(Finished).report.attempt == other


def test_without_a_second_process_nobody_asks_for_a_turn(bench: Gated) -> None:
    bench.start(GATED.format(gate=os.devnull)).send(bench.map_task(attempt=FIRST))
    bench.next(Ready)
    assert bench.next(Finished).report.attempt == FIRST
    assert bench.pool.free_ahead == 0
