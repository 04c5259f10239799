"""Prints the README's table: how many times faster mrfast is than each rival, medians of one run, in Markdown.

python benches/table.py [--mib 256] [--rounds 3] [JOB...]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

RIVALS = ("polars", "duckdb", "multiprocessing", "coreutils", "limit")
TITLES = ("job", "mrfast", "Polars", "DuckDB", "`multiprocessing`", "GNU `grep`, `sort`", "limit.cpp")


def machine() -> str:
    """Cores, processor and system, in a line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}, {platform.system()}, Python {platform.python_version()}"


def ratio(rival: float | None, ours: float) -> str:
    """`12`, `3.4`, `0.56`; a dash for a rival that did not run."""
    if rival is None:
        return "–"
    times = rival / ours
    return f"{times:.0f}" if times >= 9.95 else f"{times:.1f}" if times >= 0.995 else f"{times:.2f}"


def main() -> None:
    """Runs the jobs; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("names", nargs="*", metavar="JOB")
    options = parser.parse_args()
    os.environ["MRFAST_BENCH_MIB"] = str(options.mib)  # before corpora is imported
    import jobs

    if unknown := set(options.names) - set(jobs.JOBS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(jobs.JOBS)}")
    load = f"load {os.getloadavg()[0]:.1f} before"
    print(f"{options.mib} MiB, {options.rounds} rounds, {jobs.PROCESSES} processes; {machine()}; {load}\n")
    print("| " + " | ".join(TITLES) + " |\n" + "|---" * len(TITLES) + "|", flush=True)
    for name in options.names or jobs.JOBS:
        job = jobs.JOBS[name]
        with tempfile.TemporaryDirectory(prefix="mrfast-bench-") as where:
            times = jobs.measure(job, Path(where), options.rounds, say=lambda line: print(line, file=sys.stderr))
        ours = times["mrfast"]
        assert ours is not None
        cells = [job.title, f"{ours:.2f} s", *(ratio(times.get(rival), ours) for rival in RIVALS)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
