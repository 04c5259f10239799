"""Whole jobs by `mrfast run`, each beside its rivals in the same run: equal results first, then medians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import pytest

ROUNDS = 3


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", jobs.JOBS)
def test_job(benchmark: Any, tmp_path: Path, name: str) -> None:
    job = jobs.JOBS[name]
    measured = not benchmark.disabled
    times = jobs.measure(job, tmp_path, rounds=ROUNDS if measured else 1)
    if not measured:
        benchmark(lambda: None)
        return
    benchmark.pedantic(lambda: jobs.seconds("mrfast", job, tmp_path), rounds=1)
    ours = times["mrfast"]
    assert ours
    for who, taken in times.items():
        if taken:
            benchmark.extra_info[f"{who} s"] = round(taken, 3)
            benchmark.extra_info[f"times {who}"] = round(taken / ours, 2)
    print(f"\n{name}: " + ", ".join(f"{who} {taken:.2f} s" for who, taken in times.items() if taken))
