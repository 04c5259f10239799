"""Whole jobs over a stand-in S3 with latency and a cap, with segments compressed and not: wall time and CPU.

    python benches/far_shuffle.py [rounds] [MB/s of a connection ...]

Rounds are interleaved; what is printed are medians, and compressed over plain.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import corpora
from slow_s3 import SlowS3

import mrfast
from mrfast import ops
from mrfast.app import App

LATENCY_S = 0.03
JOBS: dict[str, tuple[str, Any]] = {
    "sort lines": ("access", App.from_functions(map=ops.lines(), reduce=ops.identity())),
    "words, many distinct": ("zipf", App.from_functions(map=ops.words(letters="unicode"), reduce=ops.sum())),
}


def run(app: App, path: Path, compress: bool) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, bytes up) of a job."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = mrfast.run(
        app, path, store="s3://bench/jobs", workers=1, reduces=8, split_bytes=4 << 20, compress_segments=compress
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, result.requests["bytes_up"]


def main() -> None:
    """Prints a line a job and speed."""
    rounds, *caps = (int(word) for word in [*sys.argv[1:], "5", "10", "30", "90"][: max(4, len(sys.argv) - 1)])
    with SlowS3() as s3:
        os.environ.update(s3.environ)
        s3.make("bench")
        for name, (corpus, app) in JOBS.items():
            for cap in caps:
                s3.shape(LATENCY_S, cap * 1e6)
                run(app, corpora.path(corpus), False)
                found: dict[bool, list[tuple[float, float, int]]] = {False: [], True: []}
                for _ in range(rounds):
                    for compress, runs in found.items():
                        runs.append(run(app, corpora.path(corpus), compress))
                plain, small = (
                    [statistics.median(column) for column in zip(*runs, strict=True)] for runs in found.values()
                )
                print(
                    f"{name:20} {cap:3} MB/s: plain {plain[0]:.2f} s, CPU {plain[1]:.2f} s, {plain[2] / 1e6:.1f} MB up"
                    f"; compressed {small[0] / plain[0]:.2f} of the time, {small[1] / plain[1]:.2f} of the CPU, "
                    f"{small[2] / plain[2]:.2f} of the bytes up"
                )


if __name__ == "__main__":
    main()
