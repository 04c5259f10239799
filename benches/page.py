"""What a live page costs the process that it is of: 10,000 tasks, three that look, runs in pairs.

python benches/page.py [--tasks 10000] [--a-second 500] [--viewers 3] [--pairs 3]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from control import MadeUp, Peer, inputs, start

from mrfast.control import messages
from mrfast.control.rpc import parse_address

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Its own time, by the thread's clock: differences of whole runs are as noisy as the machine.
MEASURED = """
import atexit, time
from mrfast.watch.feed import Feed
spent = [0.0, 0]
def measured(real):
    def call(*arguments):
        began = time.thread_time()
        try:
            return real(*arguments)
        finally:
            spent[0] += time.thread_time() - began
            spent[1] += 1
    return call
Feed.pump = measured(Feed.pump)
def close(feed, *arguments, real=Feed.close):
    open({path!r}, "w").write(f"{{spent[0]}} {{spent[1]}}")
    real(feed, *arguments)
Feed.close = close
"""


def cpu_s(pid: int) -> float:
    """What a process has computed so far."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) * TICK_S


def page_pid(url: str) -> int:
    """The page's process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"mrfast.watch" in words and url.encode() in words:
                return int(folder.name)
    raise AssertionError(f"no page at {url}")


def look(url: str, read: list[int]) -> None:
    """A viewer: reads all that comes, and counts it."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/events")
    response = connection.getresponse()
    with contextlib.suppress(http.client.HTTPException, OSError):
        while data := response.read1(1 << 16):
            read.append(data.count(b"\ndata: "))


def run(folder: Path, tasks: int, a_second: int, viewers: int, *, with_page: bool) -> tuple[float, float, float, float]:
    """Seconds that the job took; that the coordinator computed, those for the page, and the page's process."""
    store, spent = folder / f"store-{time.monotonic_ns()}", folder / "spent"
    arguments = [folder / "in", "-r", 10, "--store", store, "--listen", "127.0.0.1:0"]
    before = MEASURED.format(path=str(spent)) if with_page else ""
    process = start("mrfast-coordinator", *arguments, *(["--http", "0"] if with_page else []), before=before)
    assert process.stderr is not None
    url, read = "", [[] for _ in range(viewers)]
    while "listening on" not in (said := process.stderr.readline()):
        assert said
        url = said.split()[4]
    threads = [threading.Thread(target=look, args=(url, each), daemon=True) for each in read if with_page]
    for thread in threads:
        thread.start()
    peer, made_up = Peer(parse_address(said.split()[3].rstrip(";")), "made-up", 16), MadeUp(store, 10)
    peer.poll(1)
    page = page_pid(url) if with_page else 0
    began, used, pages = time.monotonic(), cpu_s(process.pid), cpu_s(page) if page else 0.0
    accepted = 0
    while accepted < tasks - 1:
        for got in [peer.ask("report", messages.report_message(peer.name, made_up.report(task)))
                    for task in peer.poll(16).maps]:  # fmt: skip
            assert peer.wait(got)["word"] == "accepted"
            accepted += 1
        time.sleep(max(0.0, began + accepted / a_second - time.monotonic()))
    taken, used = time.monotonic() - began, cpu_s(process.pid) - used
    pages = cpu_s(page) - pages if page else 0.0
    process.send_signal(signal.SIGTERM)
    process.wait()
    if page:
        os.kill(page, signal.SIGTERM)
    for thread in threads:
        thread.join()
    counts = [sum(each) for each in read]
    assert not with_page or all(count >= 1.9 * tasks for count in counts), counts
    return taken, used, float(spent.read_text().split()[0]) if with_page else 0.0, pages


def main() -> None:
    """Runs the pairs and says what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tasks", 10_000), ("a-second", 500), ("viewers", 3), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    own, differences, pages = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs(folder, given.tasks)
        for number in range(given.pairs):
            found = {}
            for with_page in (False, True) if number % 2 else (True, False):
                found[with_page] = run(folder, given.tasks, given.a_second, given.viewers, with_page=with_page)
            (taken, used, spent, page), (plain_taken, plain, _, _) = found[True], found[False]
            own.append(spent / taken * 100)
            differences.append((used / taken - plain / plain_taken) * 100)
            pages.append(page / taken * 100)
            print(
                f"{taken:.1f} s: coordinator {used / taken * 100:.1f} % of a core, without a page "
                f"{plain / plain_taken * 100:.1f} %; in the feed's own code {own[-1]:.2f} %; page {pages[-1]:.1f} %",
                flush=True,
            )
    print(
        f"{given.tasks:,} tasks, {given.viewers} viewers: {statistics.median(own):.2f} % of a core in the feed, "
        f"{statistics.median(differences):+.1f} % by the difference of runs (bar: 2); "
        f"the page's process {statistics.median(pages):.1f} %"
    )


if __name__ == "__main__":
    main()
