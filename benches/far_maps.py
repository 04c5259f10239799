"""The map phase against a store with 30 ms to the first byte and 90 MB/s a connection, over its I/O and compute alone.

    python benches/far_maps.py [rounds] [splits] [MiB of each]

One worker. I/O alone is a job whose map looks at nothing; compute alone the same job over a folder in the page cache.
What is printed are differences between a job of all splits and one of a quarter of them, so that what a job costs once
is not counted: medians of interleaved rounds, and the whole over the longer of the two. The stand-in for the store
takes its share of the cores: on two of them, a second worker measures the stand-in.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slow_s3 import SlowS3

import mrfast
from mrfast import ops
from mrfast.app import App
from mrfast.storage import open_store
from mrfast.storage.base import read

LATENCY_S, CAP_BYTES_S = 0.03, 90e6


def nothing(filename: str, contents: bytes) -> list[tuple[str, int]]:
    """Looks at nothing."""
    return []


def lines(filename: str, contents: bytes) -> list[tuple[str, int]]:
    """Some Python for each line."""
    return [("longest", max(map(len, contents.splitlines()), default=0))]


def slow(filename: str, contents: bytes) -> list[tuple[str, int]]:
    """More of it."""
    return [("words", sum(len(line.split()) for line in contents.splitlines()))]


APPS: dict[str, Any] = {
    "I/O alone": App.from_functions(map=nothing, reduce=ops.sum(), input="blocks"),
    "native words": App.from_functions(map=ops.words(letters="unicode"), reduce=ops.sum()),
    "lines in Python": App.from_functions(map=lines, reduce=ops.max(), input="blocks"),
    "words in Python": App.from_functions(map=slow, reduce=ops.sum(), input="blocks"),
}


def main() -> None:
    """Prints a line an application."""
    rounds, splits, mib = (int(word) for word in [*sys.argv[1:], "3", "16", "64"][: max(3, len(sys.argv) - 1)])
    with SlowS3() as s3, tempfile.TemporaryDirectory() as folder:
        os.environ.update(s3.environ)
        s3.make("bench", "in/", splits, mib << 20)
        far = [f"s3://bench/{info.key}" for info in open_store("s3://bench").list("in/")]
        first = Path(folder, "0.txt")
        first.write_bytes(read(open_store("s3://bench"), far[0].removeprefix("s3://bench/")))
        near = [str(first)]
        for number in range(1, splits):
            os.link(first, path := Path(folder, f"{number}.txt"))
            near.append(str(path))

        def took(app: App, inputs: list[str], store: str) -> float:
            begin = time.perf_counter()
            mrfast.run(app, inputs, store=store, workers=1, reduces=1, split_bytes=mib << 20)
            return time.perf_counter() - begin

        def phase(app: App, inputs: list[str], store: str) -> float:
            return took(app, inputs, store) - took(app, inputs[: splits // 4], store)

        s3.shape(LATENCY_S, CAP_BYTES_S)
        kinds: dict[str, Callable[[], float]] = {}
        for name, app in APPS.items():
            kinds[name] = lambda app=app: phase(app, far, "s3://bench/jobs")  # type: ignore[misc]
            if name != "I/O alone":
                kinds[f"{name} alone"] = lambda app=app: phase(app, near, f"{folder}/jobs")  # type: ignore[misc]
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, measure in kinds.items():
                times[kind].append(measure())
        median = {kind: statistics.median(found) for kind, found in times.items()}
        for name in list(APPS)[1:]:
            io, alone, whole = median["I/O alone"], median[f"{name} alone"], median[name]
            print(
                f"{name:16} I/O alone {io:.2f} s, compute alone {alone:.2f} s, together {whole:.2f} s: "
                f"{whole / max(io, alone):.2f}"
            )


if __name__ == "__main__":
    main()
