"""`scripts/sim`: many seeds, one seed with its story, or the seeds that notice each removed safeguard."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from .job import SimJob
from .mutants import MUTANTS, SEEDS_MAX


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description="Simulate whole jobs with faults.")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many seeds")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--seed", type=int, metavar="SEED", help="this one only, and its story")
    parser.add_argument("--mutants", action="store_true", help="the first seed that notices each removed safeguard")
    asked = parser.parse_args()
    if asked.mutants:
        return find_seeds()
    if asked.seed is not None:
        return one(asked.seed, story=True)
    began, found, events = time.monotonic(), 0, 0
    for seed in range(asked.first, asked.first + asked.seeds):
        job = SimJob(seed)
        try:
            events += job.run().world.events
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            found += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{asked.seeds} seeds, {events:,} events, {found} findings, {asked.seeds / minutes:,.0f} seeds a minute")
    if found:
        print("replay one with: scripts/sim --seed SEED")
    return 1 if found else 0


def one(seed: int, *, story: bool) -> int:
    """Runs one seed."""
    job = SimJob(seed)
    try:
        job.run()
    except Exception:  # noqa: BLE001
        traceback.print_exc(limit=-8)
        code = 1
    else:
        code = 0
    if story:
        print("\n".join(job.full_story()))
    return code


def find_seeds() -> int:
    """Prints a line for each safeguard."""
    code = 0
    for mutant in MUTANTS:
        if mutant.seed is None:
            continue
        with mutant.removed():
            seed = mutant.first_seed()
        code |= seed is None
        print(f"{'SURVIVES' if seed is None else seed:>8}  {mutant.name}", flush=True)
    print(f"of the first {SEEDS_MAX} seeds each")
    return code


if __name__ == "__main__":
    sys.exit(main())
