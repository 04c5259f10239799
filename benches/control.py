"""The control plane by itself: a real coordinator, and workers that are only made up where no task need run.

python benches/control.py scale      M = 10,000 x R = 1,000: memory, journal and frames; then how soon it is resumed
python benches/control.py latency    from a task's being there to an idle worker's having it
python benches/control.py detect     from a worker's death, or its freezing, to its task's running elsewhere
python benches/control.py overhead   journal, leases and syncs on a job without faults: paired runs
python benches/control.py stragglers one worker ten times slower than the others: with backup attempts and without
"""

from __future__ import annotations

import argparse
import os
import resource
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfast.control import messages, wire
from mrfast.control.rpc import Connection, parse_address
from mrfast.control.schema import decode
from mrfast.errors import CoordinatorLost
from mrfast.index import SegmentIndex
from mrfast.model import AppInfo, InputCut, MapReport, MapTask, inter_key

ROOT = Path(__file__).parent.parent
APP = AppInfo("made-up.py", "f" * 32, InputCut("blocks", True), "text", "0", "3")
NO_BACKUPS = "from mrfast.control import backup; backup.is_due = lambda done, tasks: False; "
NO_JOURNAL = (
    "from mrfast.control.journal_files import Journal; from mrfast.engines import local; "
    "Journal.append = lambda self, record: 0; local._Engine._renew = lambda self, now: None; "
)
COMMANDS = {"mrfast": "main", "mrfast-coordinator": "coordinator_main", "mrfast-worker": "worker_main"}


def start(command: str, *arguments: Any, before: str = "", **environment: str) -> subprocess.Popen[str]:
    """A command of mrfast as a process; `before` is Python that it runs first."""
    code = f"{before}import mrfast.cli; mrfast.cli.{COMMANDS[command]}()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def coordinator(*arguments: Any, before: str = "") -> tuple[subprocess.Popen[str], tuple[str, int]]:
    """A coordinator on a free port, and its address."""
    process = start("mrfast-coordinator", *arguments, "--listen", "127.0.0.1:0", before=before)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "listening on " in said, said
    return process, parse_address(said.split()[3].rstrip(";"))


class Peer:
    """A worker that is made up; with no slots, one that only looks."""

    def __init__(self, address: tuple[str, int], name: str, slots: int = 1):
        self.name = name
        self.frame_bytes_max = 0
        self._connection = Connection(address, None, timeout_s=10)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._connection, selectors.EVENT_READ)
        lines = self._connection._lines

        def measured() -> list[bytes]:
            found = lines()
            self.frame_bytes_max = max([self.frame_bytes_max, *map(len, found)])
            return found

        self._connection._lines = measured  # type: ignore[method-assign]
        if slots:
            self.call("hello", messages.Hello(name, slots, APP))

    def ask(self, method: str, params: Any) -> list[Any]:
        """Where the reply will be."""
        got: list[Any] = []
        self._connection.call(method, params, got.append)
        return got

    def wait(self, got: list[Any]) -> Any:
        """The reply that comes."""
        while not got:
            self._selector.select(30)
            self._connection.on_ready()
        assert not isinstance(got[0], Exception), got[0]
        return got[0]

    def call(self, method: str, params: Any) -> Any:
        """A call and its reply."""
        return self.wait(self.ask(method, params))

    def poll(self, free: int, wait_s: float = 20.0) -> messages.Tasks:
        """Up to so many tasks."""
        return decode(messages.Tasks, self.call("poll", messages.Poll(self.name, free, wait_s)))


@dataclass
class MadeUp:
    """Map outputs without a map: the objects that they would be, of which a coordinator reads only the end."""

    store: Path
    reduces: int
    are_there: bool = True  # a coordinator looks for none whose index is in the report

    def report(self, task: MapTask) -> MapReport:
        lengths = [1 + (task.index * 31 + part) % 5000 for part in range(self.reduces)]
        records = [1 + length // 20 for length in lengths]
        index = SegmentIndex(
            lengths, records, [task.index * 65_537 + part for part in range(self.reduces)], key_kind="str"
        )
        packed = index.pack()
        tail = packed + len(packed).to_bytes(4, "little") + b"MRX1"
        size = sum(lengths) + len(tail)
        if self.are_there:
            path = self.store / inter_key(task.job, task.attempt)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:  # with a hole for the segments
                file.seek(size - len(tail))
                file.write(tail)
        return MapReport(task.attempt, size, "0" * 16, packed, 100, sum(records), 1000)


def inputs(folder: Path, count: int, text: str = "a line of text\n") -> Path:
    """A folder with so many inputs."""
    made = folder / "in"
    made.mkdir()
    first = made / "000000.txt"
    first.write_text(text)
    for number in range(1, count):  # links: one file's worth of page cache
        (made / f"{number:06d}.txt").hardlink_to(first)
    return made


def scale(folder: Path, maps: int = 10_000, reduces: int = 1_000, parts: int = 20) -> None:
    """The largest job that the design speaks of, on one coordinator."""
    store = folder / "store"
    process, address = coordinator(inputs(folder, maps), "-r", reduces, "--store", store, "--job", "scale")
    peer, made_up = Peer(address, "made-up", 64), MadeUp(store, reduces)
    began, accepted, report_bytes = time.monotonic(), 0, 0
    while accepted < maps:
        tasks = peer.poll(64)
        reports = [made_up.report(task) for task in tasks.maps]
        for reduce in tasks.reduces:  # an early one: not yet
            peer.call("release", messages.Release(peer.name, reduce.attempt))
        if not reports:
            continue
        calls = [messages.report_message(peer.name, report) for report in reports]
        report_bytes = max([report_bytes, *(len(wire.request(1, "report", call)) for call in calls)])
        for some in (calls[at : at + 16] for at in range(0, len(calls), 16)):
            for got in [peer.ask("report", call) for call in some]:
                assert peer.wait(got)["word"] == "accepted"
        accepted += len(reports)
        if accepted >= maps * 0.95 and process.poll() is None and not folder.joinpath("resumed").exists():
            folder.joinpath("resumed").touch()
            mapping_s, peak = time.monotonic() - began, peak_mib(process.pid)
            process.kill()
            process.wait()
            resumed = time.monotonic()
            process, address = coordinator("--resume", "scale", "--store", store)
            peer, before = Peer(address, "made-up", 64), peer
            peer.frame_bytes_max = before.frame_bytes_max
            task = peer.poll(1).maps[0]
            resume_s = time.monotonic() - resumed
            peer.call("release", messages.Release(peer.name, task.attempt))
            print(f"{accepted:,} reports of {reduces:,} segments: {accepted / mapping_s:,.0f} a second")
            print(f"resumed, and a task handed out: {resume_s:.2f} s from the start of the process (bar: 2 s)")
    for task in peer.poll(parts).reduces:
        since, complete, segments = 0, False, 0
        while not complete:
            page = peer.call("outputs", messages.AskOutputs(peer.name, task.attempt, since, 20.0))
            since, complete, segments = page["next"], page["complete"], segments + len(page["segments"])
        assert segments == maps
    journal = sum(file.stat().st_size for file in store.glob("jobs/*/journal/*.log"))
    print(f"coordinator: {max(peak, peak_mib(process.pid)):.0f} MiB at the most (bar: 500)")
    print(f"largest report {report_bytes:,} bytes, largest reply {peer.frame_bytes_max:,} (bar: 1 MiB each)")
    print(f"journal: {journal:,} bytes, {journal / maps:.0f} for each map")
    process.kill()


def peak_mib(pid: int) -> float:
    """The most memory that the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def latency(folder: Path, rounds: int = 500) -> None:
    """One worker gives a task back, another one has waited for it."""
    process, address = coordinator(inputs(folder, 1), "-r", 1, "--store", folder / "store")
    peers = [Peer(address, name) for name in ("one", "two")]
    task = peers[0].poll(1).maps[0]
    taken = []
    for number in range(rounds):
        gives, waits = peers[number % 2], peers[1 - number % 2]
        got = waits.ask("poll", messages.Poll(waits.name, 1, 20.0))
        waits.call("status", messages.Status())  # so the poll is there
        began = time.perf_counter()
        gives.ask("release", messages.Release(gives.name, task.attempt))
        task = decode(messages.Tasks, waits.wait(got)).maps[0]
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    print(
        f"a task for an idle worker: median {taken[rounds // 2]:.2f} ms, p99 {taken[rounds * 99 // 100]:.2f} (bar: 5)"
    )
    process.kill()


SLOW_APP = """
import os, time
input = "lines"
def map(path, line):
    time.sleep(float(os.environ.get("LINE_S", "0.01")))
    yield line.decode(), 1
def reduce(key, values):
    return sum(values)
"""


def detect(folder: Path) -> None:
    """Two workers with one task each; one is killed, or stopped; the task of it runs on a third one."""
    app = folder / "slow.py"
    app.write_text(SLOW_APP)
    source = inputs(folder, 2, "a line\n" * 100_000)
    for how, number, bar_s in (("killed", signal.SIGKILL, 4), ("frozen", signal.SIGSTOP, 11)):
        process, address = coordinator(source, "-r", 1, "--store", folder / how)
        where = f"{address[0]}:{address[1]}"
        workers = [start("mrfast-worker", app, where, "--slots", 1) for _ in range(3)]
        try:
            seconds = until_elsewhere(Peer(address, "watcher", 0), workers, number)
            print(
                f"the task of a worker that was {how} runs elsewhere after {seconds:.1f} s (bar: {bar_s})", flush=True
            )
        finally:
            process.kill()
            for worker in workers:
                worker.kill()


def until_elsewhere(watcher: Peer, workers: list[subprocess.Popen[str]], number: signal.Signals) -> float:
    """The time from a signal to the workers that have a task, all but the last one, until others have theirs."""
    wait_for(lambda: len(running(watcher)) == 2 and watcher.call("status", messages.Status())["workers"] >= 3)
    before = set(running(watcher))
    began = time.monotonic()
    busy = max(workers, key=lambda worker: children_cpu(worker.pid))
    busy.send_signal(number)
    wait_for(lambda: bool(set(running(watcher)) - before))
    return time.monotonic() - began


def running(watcher: Peer) -> dict[str, str]:
    """attempt -> worker."""
    return {each["attempt"]: each["worker"] for each in watcher.call("status", messages.Status())["running"]}


def children_cpu(pid: int) -> int:
    """The ticks that a worker's slots have computed."""
    found = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return found


def wait_for(true: Callable[[], bool], most_s: float = 60.0) -> None:
    """Returns when it is so."""
    until = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def overhead(folder: Path, pairs: int = 5, maps: int = 45_000) -> None:
    """`mrfast run` as it is, and with its journal and renewals taken out."""
    app = ROOT / "apps" / "wc.py"
    source = inputs(folder, maps, (" ".join(f"word{n * 7919 % 50_021}" for n in range(20_000)) + "\n") * 3)
    ratios = []
    for number in range(pairs):
        taken, cpu = {}, {}
        for before in (NO_JOURNAL, "") if number % 2 else ("", NO_JOURNAL):
            store = folder / "store"
            began, used = time.monotonic(), cpu_s()
            process = start("mrfast", "run", app, source, "-r", 10, "-w", 2, "--store", store, before=before)
            assert process.wait() == 0
            taken[before], cpu[before] = time.monotonic() - began, cpu_s() - used
            shutil.rmtree(store)
        ratios.append(taken[""] / taken[NO_JOURNAL])
        of_cpu = cpu[""] / cpu[NO_JOURNAL]
        print(
            f"with {taken['']:.2f} s, without {taken[NO_JOURNAL]:.2f} s: {ratios[-1]:.3f}; CPU {of_cpu:.3f}", flush=True
        )
    print(f"journal and leases: median {(statistics.median(ratios) - 1) * 100:+.1f} % (bar: 3 %)")


def cpu_s() -> float:
    """What all processes that have ended used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stragglers(folder: Path) -> None:
    """Three workers, and one that is ten times slower; the paper's job took 44 % longer without backup attempts."""
    app = folder / "slow.py"
    app.write_text(SLOW_APP)
    source = inputs(folder, 34, "a line\n" * 400)
    taken = {}
    for word, before in (("without", NO_BACKUPS), ("with", "")):
        process, address = coordinator(source, "-r", 4, "--store", folder / word, before=before)
        where = f"{address[0]}:{address[1]}"
        speeds = ("0.1", "0.01", "0.01", "0.01")
        began = time.monotonic()
        workers = [start("mrfast-worker", app, where, "--slots", 1, LINE_S=line_s) for line_s in speeds]
        assert process.wait() == 0
        taken[word] = time.monotonic() - began
        for worker in workers:
            worker.kill()
        print(f"{word} backup attempts: {taken[word]:.1f} s", flush=True)
    print(f"without, the job takes {(taken['without'] / taken['with'] - 1) * 100:.0f} % longer")


def main() -> None:
    """Runs the benches that are named, or all."""
    benches = {each.__name__: each for each in (scale, latency, detect, overhead, stragglers)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="*", choices=[[], *benches], default=[])
    for name in parser.parse_args().bench or benches:
        folder = Path(tempfile.mkdtemp(prefix="mrfast-bench-"))
        try:
            print(f"-- {name}", flush=True)
            benches[name](folder)
        except CoordinatorLost as error:
            raise SystemExit(f"{name}: {error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
