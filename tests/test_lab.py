"""The seven MapReduce tests of the MIT 6.5840 lab: real coordinators, real workers, real crashes."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).parent / "lab"
NAMES = [
    "being_ernest",
    "dorian_gray",
    "frankenstein",
    "grimm",
    "huckleberry",
    "metamorphosis",
    "sherlock",
    "tom_sawyer",
]
TIMEOUT_S = 90


@pytest.fixture
def books(tmp_path: Path) -> list[str]:
    """Eight texts with the lab's names, made of this Python's own library."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    for i, name in enumerate(NAMES):
        text = b"".join(path.read_bytes() for path in sources[3 * i : 3 * i + 3])
        (tmp_path / f"pg-{name}.txt").write_bytes(text)
    return [str(tmp_path / f"pg-{name}.txt") for name in NAMES]


class Lab:
    """One coordinator and its workers in a folder of their own."""

    def __init__(self, folder: Path, books: list[str]):
        self.folder = folder
        self.books = books
        self.output = folder / "out"
        self.env = dict(os.environ)
        self.processes: list[subprocess.Popen[str]] = []
        self.port = 0

    def _start(self, function: str, *arguments: str) -> subprocess.Popen[str]:
        code = f"import sys; from mrfast.cli import {function} as main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=self.folder, env=self.env, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def coordinator(self, *options: str, reduces: int = 10) -> subprocess.Popen[str]:
        """Starts the coordinator on a free port and reads the port from what it says."""
        process = self._start(
            "coordinator_main",
            "--listen",
            "127.0.0.1:0",
            "-r",
            str(reduces),
            "-o",
            str(self.output),
            *options,
            *self.books,
        )
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        assert self.port
        return process

    def worker(self, app: str) -> subprocess.Popen[str]:
        process = self._start("worker_main", str(LAB / f"{app}.py"), f"127.0.0.1:{self.port}", "--slots", "1")
        assert process.stderr is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return process

    def run(self, app: str, *options: str, workers: int = 3) -> list[str]:
        """A whole job; its output's lines, sorted."""
        self.coordinator(*options)
        for _ in range(workers):
            self.worker(app)
        self.wait()
        return self.lines()

    def wait(self) -> None:
        assert [process.wait(TIMEOUT_S) for process in self.processes] == [0] * len(self.processes)

    def parts(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.glob("mr-out-*")}

    def lines(self) -> list[str]:
        return sorted(line for part in self.parts().values() for line in part.decode().splitlines())

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def lab(tmp_path: Path, books: list[str]) -> Iterator[Lab]:
    lab = Lab(tmp_path, books)
    yield lab
    lab.stop()


def words(path: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", Path(path).read_bytes().decode("utf-8", "replace"))


def test_word_count(lab: Lab) -> None:
    counts = Counter(word for book in lab.books for word in words(book))
    assert lab.run("wc") == sorted(f"{word} {count}" for word, count in counts.items())


def test_indexer(lab: Lab) -> None:
    files: dict[str, set[str]] = {}
    for book in lab.books:
        for word in words(book):
            files.setdefault(word, set()).add(book)
    assert lab.run("indexer") == sorted(
        f"{word} {len(names)} {','.join(sorted(names))}" for word, names in files.items()
    )


@contextlib.contextmanager
def rendezvous(lab: Lab, parties: int) -> Iterator[set[bytes]]:
    """Lets tasks go on only when `parties` of them are here at once; then all that come. Yields who came."""
    server = socket.create_server(("127.0.0.1", 0))
    lab.env["LAB_PORT"] = str(server.getsockname()[1])
    met: set[bytes] = set()

    def serve() -> None:
        waiting: list[socket.socket] = []
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                met.add(peer.recv(64))
                waiting.append(peer)
                if len(met) >= parties:
                    for each in waiting:
                        each.sendall(b"go")
                        each.close()
                    waiting.clear()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield met
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_map_parallelism(lab: Lab) -> None:
    with rendezvous(lab, 2) as met:
        assert len(lab.run("mtiming", workers=2)) == len(NAMES)
    assert len(met) == 2


def test_reduce_parallelism(lab: Lab) -> None:
    with rendezvous(lab, 2) as met:
        assert lab.run("rtiming", workers=2) == [f"{key} {len(NAMES)}" for key in "abcdefghij"]
    assert len(met) == 2


def test_job_count(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    lab.env["LAB_DIR"] = str(tmp_path / "count")
    assert lab.run("jobcount", workers=4) == [f"a {len(NAMES)}"]


def test_nobody_leaves_early(lab: Lab) -> None:
    lab.coordinator()
    for _ in range(3):
        lab.worker("early_exit")
    with selectors.DefaultSelector() as selector:
        for process in lab.processes:
            selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ)
        assert selector.select(TIMEOUT_S)
    first = lab.parts()
    lab.wait()
    assert len(first) == 10
    assert lab.parts() == first
    assert lab.lines() == sorted(f"{book.replace(' ', chr(92) + 's')} 1" for book in lab.books)


def test_crash(lab: Lab, tmp_path: Path) -> None:
    import mrfast

    expected = mrfast.run(str(LAB / "nocrash.py"), lab.books, store=str(tmp_path / "plain"), workers=1)
    lab.coordinator("--attempts-max", "50")
    for _ in range(3):
        lab.worker("crash")
    lab.wait()
    assert lab.lines() == sorted(expected.text().splitlines())
