"""Whole jobs by `mrfast run` against the ten-line multiprocessing program: the same bytes first, then both times."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RIVAL = Path(__file__).with_name("rival_multiprocessing.py")
MRFAST = Path(sysconfig.get_path("scripts")) / "mrfast"
PROCESSES = 2
ROUNDS = 3


def seconds(command: list[str], where: Path) -> float:
    """Wall time of one run, which has to succeed."""
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return time.perf_counter() - start


def part_lines(folder: Path) -> list[bytes]:
    """The lines of all parts, sorted by key: what one sorted file holds."""
    lines = [line for part in folder.glob("mr-out-*") for line in part.read_bytes().splitlines(keepends=True)]
    return sorted(lines, key=lambda line: line.partition(b" ")[0])


@pytest.mark.parametrize("name", ["english", "distinct"])
def test_word_count(benchmark: Any, corpus: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path, output, expected = str(corpus(name)), tmp_path / "out", tmp_path / "rival.txt"
    app = str(ROOT / "apps/wc.py")
    ours = [
        str(MRFAST),
        "run",
        app,
        path,
        "-q",
        "--overwrite",
        "-w",
        str(PROCESSES),
        "--store",
        str(tmp_path / "store"),
    ]
    ours += ["-o", str(output), "--split-bytes", "8MiB"]
    rivals = [sys.executable, str(RIVAL), str(expected), str(PROCESSES), path]
    rival = seconds(rivals, tmp_path)
    seconds(ours, tmp_path)
    assert part_lines(output) == expected.read_bytes().splitlines(keepends=True)
    rival = min([rival, *(seconds(rivals, tmp_path) for _ in range(ROUNDS - 1))])
    benchmark.pedantic(lambda: seconds(ours, tmp_path), rounds=ROUNDS)
    if benchmark.stats is not None:
        best = benchmark.stats.stats.min
        benchmark.extra_info.update({"rival_s": round(rival, 3), "times_faster": round(rival / best, 1)})
        print(f"\n{name}: mrfast {best:.3f} s, multiprocessing {rival:.3f} s: {rival / best:.1f} times faster")
