"""Coordinators and workers as real processes: how they find each other, lose each other, and end."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrfast
from mrfast.control.rpc import parse_address
from mrfast.errors import CoordinatorLost, UsageError

APPS = Path(__file__).parent.parent / "apps"
TEXT = b"to be or not to be\n"
WAIT_S = 60
STOPS = """
import os, socket
def map(filename, contents):
    with socket.create_connection(("127.0.0.1", int(os.environ["TEST_PORT"]))) as peer:
        peer.sendall(b"in map")
        peer.recv(1)
    yield "done", 1
def reduce(key, values):
    return sum(values)
"""


def address_of(server: socket.socket) -> str:
    """HOST:PORT of a listening socket."""
    return f"127.0.0.1:{server.getsockname()[1]}"


class Process:
    """One of mrfast's commands; what it says on stderr is read line by line."""

    def __init__(self, cluster: Cluster, name: str, *arguments: str):
        code = f"import sys; from mrfast.cli import {name}; sys.exit({name}())"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=cluster.folder,
            env=cluster.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Waits for a line with the pattern in it."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.said += line
            found = re.search(pattern, line)
            if found is not None:
                return found
        raise AssertionError(f"it never said {pattern!r}: {self.said}")

    def end(self) -> int:
        """The exit code; `said` is all that it said by then."""
        out, said = self.popen.communicate(timeout=WAIT_S)
        self.out = out
        self.said += said
        assert "Traceback" not in self.said or "app.py" in self.said, self.said
        return self.popen.returncode


class Cluster:
    """A folder with input, and the processes that were started in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {**os.environ, "TMPDIR": str(folder / "tmp")}
        self.processes: list[Process] = []
        self.address = ""
        (folder / "tmp").mkdir()
        (folder / "in.txt").write_bytes(TEXT)

    def app(self, source: str) -> str:
        (self.folder / "app.py").write_text(source)
        return str(self.folder / "app.py")

    def start(self, name: str, *arguments: str) -> Process:
        process = Process(self, name, *arguments)
        self.processes.append(process)
        return process

    def coordinator(self, *arguments: str) -> Process:
        """A coordinator that is ready; its workers find it by the environment."""
        options = ("--listen", "127.0.0.1:0", "-r", "2", "-o", "out", "--linger-s", "0", *arguments)
        process = self.start("coordinator_main", *options, *([] if "in" in arguments else ["in.txt"]))
        self.address = process.until(r"listening on (127\.0\.0\.1:\d+)")[1]
        self.env["MR_COORDINATOR_ADDRESS"] = self.address
        return process

    def worker(self, app: str, *arguments: str) -> Process:
        return self.start("worker_main", app, "--slots", "1", *arguments)

    def left(self) -> list[Path]:
        """What workers have left in their temp folder."""
        return list((self.folder / "tmp").iterdir())

    def parts(self) -> bytes:
        return b"".join((self.folder / "out" / f"mr-out-{i}").read_bytes() for i in range(2))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for process in made.processes:
        process.popen.kill()
        process.popen.communicate()


class Gate:
    """Where the tasks of STOPS report, and wait until they may go on."""

    def __init__(self, server: socket.socket):
        self.server = server

    @contextlib.contextmanager
    def task(self) -> Iterator[socket.socket]:
        """A task that has come; it goes on at the end of the block."""
        task, _ = self.server.accept()
        task.settimeout(WAIT_S)
        with task:
            assert task.recv(6, socket.MSG_WAITALL) == b"in map"
            yield task
            with contextlib.suppress(OSError):  # it may have been killed
                task.sendall(b".")


@pytest.fixture
def gate(cluster: Cluster) -> Iterator[Gate]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        cluster.env["TEST_PORT"] = str(server.getsockname()[1])
        yield Gate(server)


WC = str(APPS / "wc.py")


def test_a_job_gives_the_bytes_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    coordinator = cluster.coordinator("--json")
    worker = cluster.worker(WC)
    assert (coordinator.end(), worker.end()) == (0, 0)
    local = mrfast.run(WC, tmp_path / "in.txt", store=tmp_path / "store", reduces=2)
    assert cluster.parts() == b"".join(Path(part).read_bytes() for part in local.parts)
    assert '"records_out": 4' in coordinator.out
    assert "mrfast cat out" in coordinator.said
    assert worker.said.endswith("the job is done\n")
    assert cluster.left() == []


def test_a_job_over_s3(
    cluster: Cluster, s3_server: str, s3_bucket: str, access_log: Callable[[str], dict[str, int]]
) -> None:
    from mrfast.storage import base, open_store

    cluster.env |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    cluster.env["MRFAST_STATE_DIR"] = str(cluster.folder / "state")
    options = ("--store", f"s3://{s3_bucket}/store", "-o", f"s3://{s3_bucket}/out", "--json")
    before = Counter(access_log(s3_bucket))
    coordinator = cluster.coordinator(*options)
    workers = [cluster.worker(WC), cluster.worker(WC)]
    assert [process.end() for process in (coordinator, *workers)] == [0, 0, 0]
    assert json.loads(coordinator.out)["requests"]["by_verb"] == Counter(access_log(s3_bucket)) - before
    assert "requests to S3 (" in coordinator.said
    out = open_store(f"s3://{s3_bucket}/out")
    lines = b"".join(base.read(out, f"mr-out-{i}") for i in range(2)).splitlines()
    assert sorted(lines) == [b"be 2", b"not 1", b"or 1", b"to 2"]


def test_maps_of_many_objects_come_in_pages(cluster: Cluster) -> None:
    folder = cluster.folder / "in"
    folder.mkdir()
    for i in range(10_100):
        (folder / f"{i:05d}").write_bytes(b"word")
    coordinator = cluster.coordinator("in")
    worker = cluster.worker(WC)
    assert (coordinator.end(), worker.end()) == (0, 0)
    assert cluster.parts() == b"word 10100\n"


def test_a_worker_that_starts_first_waits_for_its_coordinator(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address_of(server)
    worker = cluster.worker(WC, address)
    worker.until("no coordinator answers at")
    cluster.coordinator("--listen", address)
    assert worker.end() == 0


def test_a_coordinator_that_is_not_there_is_exit_5(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address_of(server)
    worker = cluster.worker(WC, address, "--connect-s", "0.2")
    assert worker.end() == 5
    assert address in worker.said
    assert cluster.left() == []


def test_a_worker_with_another_app_is_refused(cluster: Cluster, gate: Gate) -> None:
    cluster.coordinator()
    first = cluster.worker(cluster.app(STOPS))
    with gate.task():
        other = cluster.worker(WC)
        assert other.end() == 2
        assert "refused" in other.said
    assert first.end() == 0


@pytest.mark.parametrize(
    ("theirs", "code", "said"), [("right", 0, "done"), ("wrong", 5, "token"), ("", 5, "MRFAST_TOKEN")]
)
def test_the_token_decides_who_may_work(cluster: Cluster, theirs: str, code: int, said: str) -> None:
    cluster.env["MRFAST_TOKEN"] = "right"
    cluster.coordinator()
    cluster.env["MRFAST_TOKEN"] = theirs
    worker = cluster.worker(WC)
    assert worker.end() == code
    assert said in worker.said


def test_a_failed_job_is_exit_1_everywhere_with_the_users_traceback(cluster: Cluster) -> None:
    coordinator = cluster.coordinator("--attempts-max", "2")
    worker = cluster.worker(cluster.app("def map(n, c):\n  raise ValueError('bad day')\ndef reduce(k, v): pass"))
    assert (coordinator.end(), worker.end()) == (1, 1)
    for process in (coordinator, worker):
        assert "ValueError: bad day" in process.said
        assert 'app.py", line 2, in map' in process.said
        assert "in.txt" in process.said


def test_a_task_that_kills_its_process_fails_the_job_with_the_signal(cluster: Cluster) -> None:
    coordinator = cluster.coordinator("--attempts-max", "2")
    app = cluster.app("import os\ndef map(n, c):\n  os.kill(os.getpid(), 11)\ndef reduce(k, v): pass")
    assert cluster.worker(app).end() == 1
    assert coordinator.end() == 1
    assert "SIGSEGV" in coordinator.said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def map(a, b): pass", "no `reduce`"),
        ("def map(:", "invalid"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_a_bad_app_is_exit_2_without_a_coordinator(cluster: Cluster, source: str, said: str) -> None:
    worker = cluster.worker(cluster.app(source), "127.0.0.1:1")
    assert worker.end() == 2
    assert said in worker.said


PRINTS = """
import logging, sys
print("loads")
def map(filename, contents):
    print("map of", filename, end="")
    logging.getLogger("app").info("noted")
    yield "k", 1
def reduce(key, values):
    print("in reduce", file=sys.stderr)
    return sum(values)
"""


def test_what_the_app_prints_is_shown_by_the_worker_and_by_the_coordinator(cluster: Cluster) -> None:
    coordinator = cluster.coordinator()
    worker = cluster.worker(cluster.app(PRINTS))
    assert (worker.end(), coordinator.end()) == (0, 0)
    reduce = re.search("r-0000[01]", worker.said)[0]  # type: ignore[index]
    theirs = ["app | loads", "m-000000 | INFO:app:noted", "m-000000 | map of in.txt", f"{reduce} | in reduce"]
    assert [line for line in worker.said.splitlines() if " | " in line] == theirs
    name = re.search(r"worker (\w{8}) is here, with 1 slot\n", coordinator.said)[1]  # type: ignore[index]
    ours = [line.replace(" |", f" on {name} |") for line in theirs]
    assert [line for line in coordinator.said.splitlines() if " | " in line] == ours


def test_quiet_is_quiet_everywhere(cluster: Cluster) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = address_of(server)
    server.close()
    coordinator = cluster.start(
        *("coordinator_main", "in.txt", "--listen", address, "-r", "2", "-o", "out", "--linger-s", "1", "-q")
    )
    worker = cluster.worker(cluster.app(PRINTS), address, "-q")
    assert (worker.end(), coordinator.end()) == (0, 0)
    assert (worker.said, coordinator.said) == ("", "")
    events = gzip.decompress((cluster.folder / "out" / "_events.jsonl.gz").read_bytes())
    assert b"map of in.txt" in events


def test_a_failed_attempt_is_told_on_the_coordinators_terminal(cluster: Cluster) -> None:
    coordinator = cluster.coordinator()
    once = "import os\ndef map(n, c):\n  if not os.path.exists('once'):\n    open('once', 'w')\n    1 / 0\n"
    worker = cluster.worker(cluster.app(once + "  yield 'k', 1\ndef reduce(k, v): return sum(v)"))
    assert (worker.end(), coordinator.end()) == (0, 0)
    said = r"m-000000 on \w{8} failed \(1 of 4\): ZeroDivisionError: division by zero, in in.txt; it is tried again\n"
    assert re.search("mrfast: " + said, coordinator.said)


# -- parameters -------------------------------------------------------------------------------------------------------

ASKS = """
import mrfast
WORD = mrfast.param("word")
def map(filename, contents):
    yield WORD + mrfast.param("tail", "!"), contents.decode().split().count(WORD)
def reduce(key, values):
    return sum(values)
"""


@pytest.mark.parametrize("given", [[], ["--param", "word=to"]])
def test_workers_get_the_parameters_from_their_coordinator(cluster: Cluster, given: list[str]) -> None:
    coordinator = cluster.coordinator("--param", "word=to", "--param", "tail=?")
    worker = cluster.worker(cluster.app(ASKS), *given)
    assert (worker.end(), coordinator.end()) == (0, 0)
    assert cluster.parts() == b"to? 2\n"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (["--param", "word=to"], "was given --param word=be, and the job at {} has --param word=to"),
        ([], "was given --param word=be, and the job at {} has no parameter word"),
    ],
)
def test_a_worker_with_other_parameters_is_refused(cluster: Cluster, theirs: list[str], said: str) -> None:
    cluster.coordinator(*theirs)
    worker = cluster.worker(cluster.app(ASKS), "--param", "word=be")
    assert worker.end() == 2
    assert said.format(cluster.address) in worker.said
    assert "mrfast-coordinator" in worker.said


def test_a_parameter_that_nobody_gives_is_named(cluster: Cluster) -> None:
    cluster.coordinator("--param", "tail=?")
    worker = cluster.worker(cluster.app(ASKS))
    assert worker.end() == 2
    assert "app.py:3: the parameter 'word' is not given" in worker.said


@pytest.mark.parametrize("own", [[], ["--param", "word=to"]])
def test_a_worker_that_is_there_first_loads_again_with_the_parameters(cluster: Cluster, own: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address_of(server)
    worker = cluster.worker(cluster.app(ASKS), address, *own)
    worker.until("no coordinator answers at")
    coordinator = cluster.coordinator("--listen", address, "--param", "word=to", "--param", "tail=.")
    assert (worker.end(), coordinator.end()) == (0, 0)
    assert cluster.parts() == b"to. 2\n"


def test_a_resumed_coordinator_keeps_the_parameters(cluster: Cluster, gate: Gate) -> None:
    first = cluster.coordinator("--param", "word=to", "--job", "mine")
    app = cluster.app(STOPS.replace('"done"', '__import__("mrfast").param("word")'))
    worker = cluster.worker(app)
    with gate.task():
        first.popen.send_signal(signal.SIGTERM)
        assert first.end() == 143
        second = cluster.start("coordinator_main", "--resume", "mine", "--listen", cluster.address, "--linger-s", "0")
        worker.until("connected to .* again")
    assert (worker.end(), second.end()) == (0, 0)
    assert cluster.parts() == b"to 1\n"


def test_a_killed_workers_task_is_done_by_another(cluster: Cluster, gate: Gate) -> None:
    coordinator = cluster.coordinator()
    app = cluster.app(STOPS)
    first = cluster.worker(app)
    with gate.task() as task:
        first.popen.kill()
        first.popen.wait()
        assert task.recv(1) == b"", "the slot outlives its worker"
    second = cluster.worker(app)
    with gate.task():
        pass
    assert (second.end(), coordinator.end()) == (0, 0)
    assert cluster.parts() == b"done 1\n"
    assert len(cluster.left()) == 0, "the second worker removes what the first one left"


def test_sigterm_lets_the_running_task_end_and_takes_no_new_one(cluster: Cluster, gate: Gate) -> None:
    (cluster.folder / "in").mkdir()
    for name in ("a", "b"):
        (cluster.folder / "in" / name).write_bytes(TEXT)
    coordinator = cluster.coordinator("in")
    app = cluster.app(STOPS)
    first = cluster.worker(app)
    with gate.task():
        first.popen.send_signal(signal.SIGTERM)
        first.until("draining: 1 running")
    assert first.end() == 0
    assert "the job is done" not in first.said
    second = cluster.worker(app)
    with gate.task():
        pass
    assert (second.end(), coordinator.end()) == (0, 0)
    assert cluster.parts() == b"done 2\n"
    assert "failed" not in coordinator.said


def test_two_workers_share_a_job_and_both_hear_its_end(cluster: Cluster, gate: Gate) -> None:
    (cluster.folder / "in").mkdir()
    for name in ("a", "b"):
        (cluster.folder / "in" / name).write_bytes(TEXT)
    coordinator = cluster.coordinator("in")
    app = cluster.app(STOPS)
    workers = [cluster.worker(app), cluster.worker(app)]
    with gate.task(), gate.task():  # both at once: one slot each
        pass
    assert [process.end() for process in (coordinator, *workers)] == [0, 0, 0]
    assert cluster.parts() == b"done 2\n"


def test_sigterm_ends_an_idle_worker(cluster: Cluster, gate: Gate) -> None:
    cluster.coordinator()
    app = cluster.app(STOPS)
    cluster.worker(app)
    with gate.task():
        idle = cluster.worker(app)
        idle.until("joined")
        idle.popen.send_signal(signal.SIGTERM)
        assert idle.end() == 0


def test_ctrl_c_is_exit_130_and_leaves_nothing(cluster: Cluster, gate: Gate) -> None:
    cluster.coordinator()
    worker = cluster.worker(cluster.app(STOPS))
    with gate.task() as task:
        worker.popen.send_signal(signal.SIGINT)
        assert worker.end() == 130
        assert worker.said.endswith("mrfast: interrupted\n")
        assert task.recv(1) == b""
    assert cluster.left() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_coordinator(cluster: Cluster, number: signal.Signals, code: int) -> None:
    coordinator = cluster.coordinator()
    coordinator.popen.send_signal(number)
    assert coordinator.end() == code
    assert not (cluster.folder / "out" / "_SUCCESS").exists()


class Proxy:
    """A line between a worker and its coordinator that can be cut."""

    def __init__(self, target: str):
        self.target = parse_address(target)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = address_of(self.server)
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for pair in self.pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(self.target)
                self.pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


def test_a_task_survives_a_cut_connection(cluster: Cluster, gate: Gate) -> None:
    coordinator = cluster.coordinator()
    proxy = Proxy(cluster.address)
    worker = cluster.worker(cluster.app(STOPS), proxy.address)
    with gate.task():
        proxy.cut()
        worker.until("connected to .* again")
    assert (worker.end(), coordinator.end()) == (0, 0)
    assert cluster.parts() == b"done 1\n"
    gate.server.settimeout(0)
    with pytest.raises(BlockingIOError):  # the one attempt was enough
        gate.server.accept()


def test_a_coordinator_that_is_gone_for_good_is_exit_5(cluster: Cluster, gate: Gate) -> None:
    coordinator = cluster.coordinator()
    worker = cluster.worker(cluster.app(STOPS), "--connect-s", "0.5")
    with gate.task():
        coordinator.popen.kill()
        assert worker.end() == 5
    assert cluster.address in worker.said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "mrfast-coordinator books/*.txt"),
        (["absent.txt"], 3, "absent.txt"),
        (["in.txt", "--listen", "nowhere"], 2, "HOST:PORT"),
        (["in.txt", "--listen", "0.0.0.0:0"], 2, "MRFAST_TOKEN"),
        (["in.txt", "--linger-s", "-1"], 2, "--linger-s"),
    ],
)
def test_what_keeps_a_coordinator_from_starting(cluster: Cluster, arguments: list[str], code: int, said: str) -> None:
    process = cluster.start("coordinator_main", *arguments)
    assert process.end() == code
    assert said in process.said
    assert not (cluster.folder / "mrfast-store").exists()


def test_a_port_in_use_is_exit_3_and_leaves_nothing(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = cluster.start("coordinator_main", "in.txt", "--listen", address_of(server))
        assert process.end() == 3
    assert "--listen" in process.said
    store = cluster.folder / "mrfast-store"
    assert not [path for path in store.rglob("*") if path.is_file()]


def test_an_output_of_another_job_keeps_a_coordinator_from_listening(cluster: Cluster) -> None:
    mrfast.run(WC, cluster.folder / "in.txt", store=cluster.folder / "store", output_url=cluster.folder / "out")
    process = cluster.start("coordinator_main", "in.txt", "--listen", "127.0.0.1:0", "-o", "out")
    assert process.end() == 3
    assert "--overwrite" in process.said


def test_the_links_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is silent for too long is hung up on, and no more calls are in flight than the coordinator takes."""
    import selectors

    from mrfast.tasks import link

    made: list[Any] = []

    class Deaf:
        wants_write = False

        def __init__(self, *_: Any, **__: Any):
            self.ends = socket.socketpair()
            self.calls: list[Any] = []
            made.append(self)

        def fileno(self) -> int:
            return self.ends[0].fileno()

        def call(self, method: str, params: Any, on_reply: Any) -> None:
            self.calls.append((method, on_reply))

        def close(self) -> None:
            for end in self.ends:
                end.close()

    monkeypatch.setattr(link, "Connection", Deaf)
    said: list[str] = []
    ups: list[int] = []
    with selectors.DefaultSelector() as selector:
        line = link.Link(("h", 1), None, selector, connect_s=5, on_up=lambda: ups.append(1), say=said.append)
        line.call("lost", {}, print)
        line.step(0.0)
        replies: list[Any] = []
        for number in range(20):
            line.call(f"call_{number}", {}, replies.append)
        assert len(made[0].calls) == link.CALLS_MAX
        made[0].calls[0][1]("reply")
        line.step(line.next_step_at(0.0) - 1)
        assert len(made[0].calls) == link.CALLS_MAX + 1
        assert replies == ["reply"]
        line.step(line.next_step_at(0.0) + 1)
        assert "silent" in said[0]
        assert not line.up
        line.step(line.next_step_at(0.0))
        assert len(ups) == len(made) == 2
        line.close()


def test_a_refused_token_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import selectors

    from mrfast.tasks import link

    def refuses(*_: Any, **__: Any) -> None:
        raise CoordinatorLost("another token")

    monkeypatch.setattr(link, "Connection", refuses)
    with selectors.DefaultSelector() as selector:
        line = link.Link(("h", 1), None, selector, connect_s=60, on_up=lambda: None, say=print)
        with pytest.raises(CoordinatorLost, match="another token"):
            line.step(0.0)


@pytest.mark.parametrize("text", ["host", "host:", ":80", "host:99999", "host:x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(text)
