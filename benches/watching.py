"""What the event log costs a job: the same job with it and with it taken out.

python benches/watching.py driver    the driver alone, with made-up reports: microseconds a task, bytes an event
python benches/watching.py many      `mrfast run` on 45,000 small tasks: CPU of paired runs
python benches/watching.py long      a job of about 20 s: the same
python benches/watching.py short     a job of half a second: wall and CPU
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from pathlib import Path
from unittest.mock import patch

import orjson
from control import ROOT, cpu_s, inputs, start

from mrfast.control.chronicle import Chronicle
from mrfast.control.events import EventLog
from mrfast.control.job import JobDriver
from mrfast.index import SegmentIndex
from mrfast.model import AppInfo, InputCut, InputObject, JobSpec, MapReport, MapTask

sys.path.insert(0, str(ROOT / "tests"))
from journals import MemoryJournals

from mrfast.storage import open_store

APP = AppInfo("made-up.py", "f" * 32, InputCut("blocks", True), "text", "0", "3")
NO_LOG = (
    "from mrfast.control import chronicle, job_end; job_end.keep = lambda *args: ''; "
    "[setattr(chronicle.Chronicle, name, lambda *args, **fields: None) for name in ('tell', 'planned', 'sample')]; "
    "from mrfast.control.job import JobDriver; JobDriver.next_sample = lambda self: None; "
)
TASKS = 9_000
ROUNDS = 15


def driver(folder: Path) -> None:
    """Two events a task, from the scheduler's words to the encoded lines; then what they take to hold and to keep."""
    one_job(), without_log()
    taken = {one_job: [], without_log: []}
    for _ in range(ROUNDS):
        for job in taken:
            taken[job].append(job()[0])
    with_log, without = (min(seconds) / TASKS * 1e6 for seconds in taken.values())
    print(f"the driver's CPU a task: {with_log:.1f} us, without the log {without:.1f} us: {with_log - without:.1f} us")
    log = one_job()[1]
    lines = list(map(orjson.loads, log.lines))
    before, again = resident_bytes(), EventLog()
    for event in lines:
        again.add(event["e"], 0.0, event)
    held = (resident_bytes() - before) / len(log.lines)
    document = log.document()
    print(f"{len(log.lines):,} events of {len(document) / len(log.lines):.0f} bytes, {held:.0f} bytes of memory each")
    for level in range(1, 10):
        began = time.process_time()
        size = len(zlib.compress(document, level, 31))
        spent = (time.process_time() - began) / len(log.lines) * 1e6
        print(f"gzip level {level}: {size / len(document):.4f} of the bytes, {spent:.2f} us an event")


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_job() -> tuple[float, EventLog]:
    """The CPU of a job's maps in a driver without store and workers, and its log."""
    root = f"memory://{time.time_ns()}"
    found = tuple(InputObject(f"books/of/2026/part-{n:06d}.txt", f"{root}/{n}", 10, "e") for n in range(TASKS))
    spec = JobSpec("0" * 32, None, root, f"{root}/out", 10, 100, 1 << 20, 2, False, found)
    job = JobDriver(spec, store=open_store(root), journals=MemoryJournals())
    index = SegmentIndex([100] * 10, [1] * 10, [7] * 10, key_kind="str").pack()
    for effect in job.effects():
        job.effect_done(effect, effect.run(), 0.0)
    job.hello("w", 2, APP, 0.0)
    for effect in job.effects():
        job.effect_done(effect, effect.run(), 0.0)
    assert job.scheduler is not None
    gc.collect()
    gc.disable()
    began = time.process_time()
    while job.scheduler.maps_done < TASKS:
        for task in job.poll("w", 2, 0.0):
            if isinstance(task, MapTask):
                job.report("w", MapReport(task.attempt, 1000, "0" * 16, index, 100, 50, 1000), 0.0)
    spent = time.process_time() - began
    gc.enable()
    return spent, job.events


def without_log() -> tuple[float, EventLog]:
    """The same without a log."""
    with patch.multiple(Chronicle, tell=nothing, planned=nothing, sample=nothing):
        return one_job()


def nothing(*args: object, **fields: object) -> None:
    """What takes the place of what is taken out."""


def many(folder: Path) -> None:
    """Many tasks, each of them of about half a millisecond."""
    source = inputs(folder, 45_000, (" ".join(f"word{n * 7919 % 50_021}" for n in range(20_000)) + "\n") * 3)
    pairs(folder, source, 5, "-r", 10)


def long(folder: Path) -> None:
    """Some tasks, each of them of half a second."""
    source = folder / "books"
    source.mkdir()
    text = "".join(
        " ".join(f"w{(line * 31 + n) * 7919 % 500_021}" for n in range(12)) + "\n" for line in range(300_000)
    )
    for number in range(80):
        (source / f"{number:02d}.txt").write_text(text)
    pairs(folder, source, 3, "-r", 10)


def short(folder: Path) -> None:
    """A few tasks."""
    source = inputs(folder, 8, "a line of text\n" * 40_000)
    pairs(folder, source, 20, "-r", 4)


def pairs(folder: Path, source: Path, count: int, *options: object) -> None:
    """Paired runs, in turn first with the log and first without."""
    ratios: dict[str, list[float]] = {"wall": [], "CPU": []}
    for number in range(count):
        wall, cpu = {}, {}
        for before in (NO_LOG, "") if number % 2 else ("", NO_LOG):
            store = folder / "store"
            began, used = time.monotonic(), cpu_s()
            process = start(
                "mrfast", "run", ROOT / "apps" / "wc.py", source, *options, "-w", 2, "--store", store, before=before
            )
            assert process.wait() == 0
            wall[before], cpu[before] = time.monotonic() - began, cpu_s() - used
            assert len(list(store.rglob("_events*"))) == (not before)
            shutil.rmtree(store)
        for name, spent in (("wall", wall), ("CPU", cpu)):
            ratios[name].append(spent[""] / spent[NO_LOG])
        print(f"wall {wall['']:.2f} s, CPU {cpu['']:.2f} s; with the log over without: "
              f"wall {ratios['wall'][-1]:.3f}, CPU {ratios['CPU'][-1]:.3f}", flush=True)  # fmt: skip
    print(", ".join(f"{name}: median {(statistics.median(its) - 1) * 100:+.1f} %" for name, its in ratios.items()))


def main() -> None:
    """Runs the benches that are named, or all."""
    benches = {each.__name__: each for each in (driver, many, long, short)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="*", choices=[[], *benches], default=[])
    for name in parser.parse_args().bench or benches:
        folder = Path(tempfile.mkdtemp(prefix="mrfast-bench-"))
        try:
            print(f"-- {name}", flush=True)
            benches[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
