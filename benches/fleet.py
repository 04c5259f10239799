"""A coordinator under many workers: real TCP connections, all from this process, and no task is ever run.

python benches/fleet.py idle     500 workers that wait for tasks: the coordinator's share of a core (bar: 2 %)
python benches/fleet.py tail     500 workers that ask for more while the last tasks of a phase end, 500 a second
python benches/fleet.py tiny     tasks assigned and reported over 50 connections: how many a second of the coordinator's
                                 CPU (bar: 5,000), and how long an assignment takes at several rates (bar: p99 20 ms)
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control import APP, MadeUp, coordinator, inputs

from mrfast.control import messages
from mrfast.control.rpc import Connection
from mrfast.control.schema import decode
from mrfast.model import MapTask

TICKS = os.sysconf("SC_CLK_TCK")
RENEW_S = 3.0
POLL_S = 20.0


def cpu_s(pid: int) -> float:
    """What the process has computed."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


class Fleet:
    """Many made-up workers, their replies heard by one loop."""

    def __init__(self, address: tuple[str, int], workers: int, slots: int = 1) -> None:
        self._selector = selectors.DefaultSelector()
        self.names = [f"{number:032x}" for number in range(workers)]
        self.connections = []
        said: list[Any] = []
        for name in self.names:
            connection = Connection(address, None, timeout_s=30)
            self._selector.register(connection, selectors.EVENT_READ, connection)
            self.connections.append(connection)
            connection.call("hello", messages.Hello(name, slots, APP), said.append)
        while len(said) < workers:
            self.step(1.0)
        assert not any(isinstance(each, Exception) for each in said), said

    def step(self, wait_s: float) -> None:
        """Hears what has come."""
        for key, _ in self._selector.select(max(0.0, wait_s)):
            key.data.on_ready()

    def poll(self, number: int, free: int, on_reply: Callable[[Any], None]) -> None:
        """Asks for tasks, for worker `number`."""
        poll = messages.Poll(self.names[number], free, POLL_S)
        self.connections[number].call("poll", poll, on_reply)


def idle(folder: Path, workers: int = 500, seconds: float = 40.0) -> None:
    """All tasks are with one worker, which keeps them; the others wait."""
    process, address = coordinator(inputs(folder, 1), "-r", 1, "--store", folder / "store")
    fleet = Fleet(address, workers)

    def again(number: int) -> Callable[[Any], None]:
        def heard(reply: Any) -> None:
            if isinstance(reply, Exception):
                raise reply
            tasks = decode(messages.Tasks, reply)
            if not tasks.maps and not tasks.reduces:
                fleet.poll(number, 1, again(number))

        return heard

    for number in range(workers):
        fleet.poll(number, 1, again(number))
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        fleet.step(0.1)
    before, began = cpu_s(process.pid), time.monotonic()
    while time.monotonic() < began + seconds:
        fleet.step(0.5)
    share = (cpu_s(process.pid) - before) / (time.monotonic() - began)
    print(f"{workers} idle workers: {share * 100:.2f} % of a core (bar: 2)")
    process.kill()
    process.wait()


def tail(folder: Path, maps: int = 10_000, workers: int = 500, slots: int = 4) -> None:
    """The end of a phase: all tasks are out, every worker asks for more, and the last reports come in."""
    store = folder / "store"
    process, address = coordinator(inputs(folder, maps), "-r", 1, "--store", store)
    fleet, made_up = Fleet(address, workers, slots), MadeUp(store, 1, are_there=False)
    running, accepted, asking = deque[tuple[int, MapTask]](), 0, 0
    times: list[float] = []

    def ask(number: int) -> None:
        nonlocal asking

        def heard(reply: Any) -> None:
            nonlocal asking
            asking -= 1
            if isinstance(reply, Exception):
                raise reply
            tasks = decode(messages.Tasks, reply).maps
            if handed_out < maps:  # later ones are backups, and never done
                running.extend((number, task) for task in tasks)
            if not tasks and accepted < maps:
                ask(number)

        asking += 1
        fleet.poll(number, slots, heard)

    def report(number: int, task: MapTask) -> None:
        asked = time.perf_counter()

        def heard(reply: Any) -> None:
            nonlocal accepted
            assert reply["word"] == "accepted", reply
            accepted += 1
            times.append((time.perf_counter() - asked) * 1000)

        message = messages.report_message(fleet.names[number], made_up.report(task))
        fleet.connections[number].call("report", message, heard)

    handed_out = 0
    while handed_out < maps:
        for number in range(workers):
            ask(number)
        while asking:
            fleet.step(0.05)
        handed_out = accepted + len(running)
        while len(running) > workers * slots - slots or (handed_out < maps and running):
            report(*running.popleft())
        while accepted + len(running) < handed_out:
            fleet.step(0.05)
    for number in range(workers):
        ask(number)
    left, sent, began, cpu = len(running), 0, time.monotonic(), cpu_s(process.pid)
    times.clear()
    while accepted < maps:
        while running and sent < (time.monotonic() - began) * 500:
            sent += 1
            report(*running.popleft())
        fleet.step(0.001)
    times.sort()
    took = time.monotonic() - began
    print(
        f"{workers} workers ask while {left} tasks end: {left / took:,.0f} reports a second (500 are sent), "
        f"{(cpu_s(process.pid) - cpu) / took * 100:.0f} % of a core; an answer: median {times[left // 2]:.1f} ms, "
        f"p99 {times[left * 99 // 100]:.1f}"
    )
    process.kill()
    process.wait()


def tiny(folder: Path, maps: int = 10_000, workers: int = 50, slots: int = 8) -> None:
    """At full speed first, then paced. More inputs than 10,000 would be packed into fewer maps."""
    source = inputs(folder, maps)
    for rate in (None, 500, 1_000, 2_000, 3_000, 5_000):
        store = folder / f"store-{rate}"
        process, address = coordinator(source, "-r", 1, "--store", store)
        try:
            measure(address, process.pid, MadeUp(store, 1, are_there=False), maps, workers, slots, rate)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(store, ignore_errors=True)


def measure(
    address: tuple[str, int], pid: int, made_up: MadeUp, maps: int, workers: int, slots: int, rate: int | None
) -> None:
    """A worker reports what it has, and asks for as many again; a paced one waits with its reports until it is time."""
    fleet = Fleet(address, workers, slots)
    accepted, due = 0, deque[tuple[int, MapTask]]()
    first: list[float] = []  # all workers ask at the same moment, and then when they have done something
    waits: list[float] = []
    held = [0] * workers
    began = time.monotonic()
    most = maps if rate is None else min(maps, rate * 5)

    def ask(number: int, free: int) -> None:
        asked = time.perf_counter()

        def heard(reply: Any) -> None:
            if isinstance(reply, Exception):
                raise reply
            tasks = decode(messages.Tasks, reply).maps
            if tasks:
                (waits if len(first) == workers else first).append((time.perf_counter() - asked) * 1000)
            due.extend((number, task) for task in tasks)
            held[number] += len(tasks)
            if not tasks and accepted < most:
                ask(number, free)

        fleet.poll(number, free, heard)

    def report(number: int, task: MapTask) -> None:
        def heard(reply: Any) -> None:
            nonlocal accepted
            assert reply["word"] == "accepted", reply
            accepted += 1
            held[number] -= 1
            if held[number] == 0:
                ask(number, slots)

        message = messages.report_message(fleet.names[number], made_up.report(task))
        fleet.connections[number].call("report", message, heard)

    for number in range(workers):
        ask(number, slots)
    cpu, own = cpu_s(pid), time.process_time()
    sent = 0
    while accepted < most:
        now = time.monotonic()
        while due and (rate is None or sent < (now - began) * rate):
            sent += 1
            report(*due.popleft())
        fleet.step(0.001 if rate is not None else 0.05)
        assert now < began + 120, f"{accepted} of {most}"
    took, used = time.monotonic() - began, cpu_s(pid) - cpu
    waits.sort()
    print(
        f"{'at full speed' if rate is None else f'paced at {rate:,}'}: {accepted / took:,.0f} tasks a second, "
        f"{accepted / used:,.0f} a second of its CPU ({used / took * 100:.0f} % of a core); an assignment: "
        f"median {waits[len(waits) // 2]:.1f} ms, p99 {waits[len(waits) * 99 // 100]:.1f}, "
        f"the first {workers} at once {max(first):.1f}; "
        f"this side {(time.process_time() - own) / took * 100:.0f} % of a core",
        flush=True,
    )


def main() -> None:
    """Runs the benches that are named, or all."""
    benches = {each.__name__: each for each in (idle, tail, tiny)}
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
