"""Whole jobs, by mrfast and by its rivals: how each is run, that the results are equal, and how long each takes.

Every program is a process of its own, start-up included, and reads its input from the page cache.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import corpora
import limit

HERE = Path(__file__).parent
ROOT = HERE.parent
PROCESSES = 2
PATTERN = "POST .* 5[0-9][0-9]"
MODULES = ("polars", "duckdb", "multiprocessing")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "PATTERN": PATTERN,
    "POLARS_MAX_THREADS": str(PROCESSES),
    "LC_ALL": "C",
    "PYTHONUTF8": "1",
}


@dataclass(frozen=True)
class Job:
    """One line of the table."""

    title: str
    kind: str  # what the rivals call it
    app: str
    corpus: str
    folder: bool = False  # the corpus as 32 files
    reduces: int = PROCESSES
    rivals: tuple[str, ...] = MODULES


JOBS = {
    "words-english": Job("word count, English-like", "words", "wc", "english", rivals=(*MODULES, "limit")),
    "words-zipf": Job("word count, Zipf", "words", "wc", "zipf", rivals=(*MODULES, "limit")),
    "index-english": Job("inverted index, English-like, 32 files", "index", "index_native", "english", folder=True),
    "index-zipf": Job("inverted index, Zipf, 32 files", "index", "index_native", "zipf", folder=True),
    "bytes-per-url": Job("bytes per URL", "bytes", "url_bytes", "access"),
    "grep": Job(f"grep `{PATTERN}`", "grep", "grep", "access", rivals=(*MODULES, "coreutils")),
    "sort-1": Job(
        "sort of 100-byte records, one part",
        "sort",
        "records",
        "records",
        reduces=1,
        rivals=("polars", "duckdb", "coreutils"),
    ),
    "sort-2": Job(
        "the same, two parts, each sorted", "sort", "records", "records", rivals=("polars", "duckdb", "coreutils")
    ),
}


def installed(rival: str, job: Job) -> bool:
    """Whether the rival can run here."""
    if rival == "limit":
        return limit.program() is not None
    if rival == "coreutils":
        return shutil.which(job.kind) is not None
    return find_spec(rival) is not None


def command(who: str, job: Job, where: Path) -> list[str]:
    """How `who` does the job; the result is the file or folder where/who."""
    text, output = source(job).name, str(where / who)
    if who == "mrfast":
        app = HERE / "records.py" if job.app == "records" else ROOT / "apps" / f"{job.app}.py"
        run = [sys.executable, "-m", "mrfast", "run", str(app), text, "-q", "--overwrite", "-o", output]
        return [*run, "-w", str(PROCESSES), "-r", str(job.reduces), "--store", str(where / "store")]
    if who == "limit":
        return [str(limit.program()), str(PROCESSES), text, output]
    if who == "coreutils":
        if job.kind == "grep":
            return ["sh", "-c", 'exec grep -E "$PATTERN" "$0" > "$1"', text, output]
        return ["sort", f"--parallel={PROCESSES}", "-o", output, text]
    threads = [] if who == "polars" else [str(PROCESSES)]
    return [sys.executable, str(HERE / f"rival_{who}.py"), job.kind, output, *threads, text]


def source(job: Job) -> Path:
    """The job's input."""
    return corpora.folder(job.corpus) if job.folder else corpora.path(job.corpus)


def seconds(who: str, job: Job, where: Path) -> float:
    """Wall time of one run, which has to succeed."""
    arguments = command(who, job, where)
    start = time.perf_counter()
    ran = subprocess.run(arguments, cwd=source(job).parent, env=ENVIRONMENT, capture_output=True, check=False)
    assert ran.returncode == 0, f"{who}: {ran.stderr.decode()}"
    return time.perf_counter() - start


def result(who: str, job: Job, where: Path) -> list[bytes]:
    """The lines of a result, sorted: parts and rivals' files have orders of their own."""
    path = where / who
    files = sorted(path.glob("mr-out-*")) if path.is_dir() else [path]
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    if who == "mrfast" and job.kind == "grep":  # (filename, line) as grep -H has it; the rivals give lines
        prefix = source(job).name.encode() + b" "
        lines = [line.removeprefix(prefix) for line in lines]
    return sorted(lines)


def measure(
    job: Job, where: Path, rounds: int = 3, say: Callable[[str], object] = lambda line: None
) -> dict[str, float | None]:
    """Median seconds of mrfast and each rival (None: not installed), which take turns; their results are equal."""
    times: dict[str, list[float]] = {"mrfast": []}
    times.update({rival: [] for rival in job.rivals if installed(rival, job)})
    for number in range(rounds):
        for who, taken in times.items():
            taken.append(seconds(who, job, where))
            say(f"{job.title}: {who} {taken[-1]:.3f} s")
        if number == 0:
            check(job, where, list(times)[1:])
    return {who: statistics.median(times[who]) if who in times else None for who in ("mrfast", *job.rivals)}


def check(job: Job, where: Path, rivals: list[str]) -> None:
    """Every result is the same, and of a sort each part is in order."""
    ours = result("mrfast", job, where)
    for rival in rivals:
        assert result(rival, job, where) == ours, f"{job.title}: {rival} gives another result"
    if job.kind == "sort":
        for path in [*(where / "mrfast").glob("mr-out-*"), *(where / rival for rival in rivals)]:
            lines = path.read_bytes().splitlines()
            assert all(map(bytes.__le__, lines, lines[1:])), f"{path} is not sorted"
