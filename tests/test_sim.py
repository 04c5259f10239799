"""Simulated jobs: fresh seeds each time, a seed twice, and one that notices for each safeguard that is removed."""

from __future__ import annotations

import importlib
import os

import pytest
from sim.job import SimJob
from sim.mutants import MUTANTS, SEEDS_MAX, Mutant, holds

FRESH = 300
BLOCK = 100


def run(seed: int) -> SimJob:
    job = SimJob(seed)
    try:
        return job.run()
    except Exception as error:
        raise AssertionError(f"scripts/sim --seed {seed} shows its story: {error}") from error


@pytest.mark.parametrize("block", range(FRESH // BLOCK))
def test_fresh_seeds_find_nothing(block: int) -> None:
    first = int.from_bytes(os.urandom(5)) * BLOCK
    for seed in range(first, first + BLOCK):
        run(seed)


@pytest.mark.depth
@pytest.mark.parametrize("block", range(10))
def test_ten_thousand_seeds_find_nothing(block: int) -> None:
    for seed in range(block * 1000, (block + 1) * 1000):
        run(seed)


def test_a_seed_says_everything() -> None:
    for seed in range(20):
        first, second = run(seed), run(seed)
        assert first.full_story() == second.full_story()
        assert (first.world.events, first.bucket.objects) == (second.world.events, second.bucket.objects)


@pytest.mark.parametrize("mutant", [each for each in MUTANTS if not each.directed], ids=lambda each: each.name)
def test_every_removed_safeguard_is_noticed(mutant: Mutant) -> None:
    assert mutant.seed is not None
    assert holds(mutant.seed), "this seed finds something with the safeguard, too"
    with mutant.removed():
        # The recorded seed; where the code has changed since, another one: scripts/sim --mutants prints them.
        assert not holds(mutant.seed) or mutant.first_seed() is not None, f"{SEEDS_MAX} seeds notice nothing"


@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.directed], ids=lambda each: each.name)
def test_the_others_have_a_test_of_their_own(mutant: Mutant) -> None:
    name, _, test = mutant.directed.partition(".py::")
    check = getattr(importlib.import_module(name), test)
    check(*mutant.arguments())
    with mutant.removed(), pytest.raises(Exception):  # noqa: B017 (an assertion, or what the code runs into)
        check(*mutant.arguments())
