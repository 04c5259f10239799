"""A job and its live page: whatever befalls the page, the job does what it does without one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from page_client import Viewer, ask, page_pid, wait_for_end
from test_cli import Shell

import mrfast
from mrfast.control.events import EventLog
from mrfast.errors import JobFailed, PortInUse, UsageError
from mrfast.watch import feed as module
from mrfast.watch.feed import Feed, http_address, password_of

JOB = {"format": 1, "job": "j1", "name": None, "app": None}


class Watched:
    """A made-up job, its page and what was said of it."""

    def __init__(self, address: str = "127.0.0.1:0"):
        self.events = EventLog()
        self.events.tell("job", 0.0, **JOB)
        self.said: list[str] = []
        self.feed = Feed(address)
        self.feed.start(self.events, self.said.append)
        self.url = self.feed.url
        self.now = 0.0

    def pump(self) -> float:
        self.now += 10.0
        return self.feed.pump(self.now)

    def status(self) -> Any:
        return ask(self.url, "/api/status").json


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.feed.close()
    end_page(made.url)


def end_page(url: str) -> None:
    """Ends the page that a job left behind, and sees that it ends."""
    while pid := page_pid(url):  # at its very beginning it is two, one after the other
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)


def url_in(said: str) -> str:
    [line] = [line for line in said.splitlines() if "watch it at" in line]
    return line.split()[4]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0", ("127.0.0.1", 0)),
        ("localhost:8080", ("localhost", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert http_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "65536", ":", "a:b", "-1", "1:2:", "http://127.0.0.1:8080"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="this is no address"):
        http_address(text)


def test_other_machines_need_a_password_which_is_not_the_token() -> None:
    with pytest.raises(UsageError, match="mrfast token"):
        Feed("0.0.0.0:0")
    said: list[str] = []
    token = b"a token of the cluster's"
    events = EventLog()
    events.tell("job", 0.0, **JOB)
    with Feed("0.0.0.0:0", token=token) as feed:
        feed.start(events, said.append)
        url = feed.url.replace(socket.gethostname(), "127.0.0.1")
        assert ask(url).status == 401
        password = said[0].split()[-1]
        assert password == password_of(token)
        assert token.decode() not in "".join(said)
        assert ask(url, "/metrics", Authorization=f"Bearer {password}").status == 200
        assert ask(url, "/metrics", Authorization=f"Bearer {token.decode()}").status == 401
        pid = page_pid(feed.url)
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()
            assert token not in shown and password.encode() not in shown
    end_page(feed.url)


def test_the_page_shows_what_the_job_tells(watched: Watched) -> None:
    assert watched.said == [f"watch it at {watched.url}"]
    assert watched.pump() > 0
    viewer = Viewer(watched.url)
    assert viewer.take(1) == [{"e": "job", "t": 0.0, **JOB}]
    watched.events.tell("worker", 1.0, worker="w", slots=2)
    watched.pump()
    assert viewer.take(1)[0]["worker"] == "w"
    assert watched.feed.pump(watched.now) == module.LOOK_S
    watched.events.tell("gone", 2.0, worker="w")
    assert watched.feed.pump(watched.now) == module.PUMP_S  # not so often
    watched.events.tell("end", 3.0, state="COMMITTED", error="")
    watched.feed.close()
    assert [event["e"] for event in viewer.until_end()] == ["gone", "end"]
    assert watched.status()["state"] == "COMMITTED"
    assert ask(watched.url, "/healthz").status == 200
    assert watched.feed.pump(1e9) == float("inf")


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (JobFailed("it cannot be"), "FAILED", "it cannot be"),
        (KeyboardInterrupt(), "STOPPED", "the job was stopped before its end"),
        (None, "STOPPED", "the job was stopped before its end"),
    ],
)
def test_a_job_left_in_mid_air_has_an_end_on_its_page(
    watched: Watched, error: BaseException | None, state: str, text: str
) -> None:
    watched.feed.close(error)
    status = watched.status()
    assert (status["state"], status["end"]["error"]) == (state, text)
    assert not watched.events.ended  # that is the job's own affair


def test_a_page_that_is_killed_is_told_of_once(watched: Watched) -> None:
    watched.pump()
    assert ask(watched.url).status == 200
    end_page(watched.url)
    for number in range(5):
        watched.events.tell("worker", 1.0, worker=f"w{number}", slots=1)
        watched.pump()
    watched.feed.close()
    assert watched.said[1:] == [f"the page at {watched.url} is gone; the job goes on without it"]
    assert watched.feed.descriptors() == ()


def test_why_a_page_could_not_begin_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ImportError('broken here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    watched = Watched()
    channel = watched.feed._channel
    assert channel is not None
    channel.settimeout(60)
    with suppress(ConnectionResetError):  # what was sent, nobody has read
        assert channel.recv(1) == b""
    channel.setblocking(False)
    watched.pump()
    watched.feed.close()
    [_, said] = watched.said
    assert "is gone (ImportError: broken here); the job goes on without it" in said


def test_a_page_that_does_not_read_holds_nobody_up(watched: Watched) -> None:
    watched.pump()
    viewer = Viewer(watched.url)
    viewer.take(1)
    pid = page_pid(watched.url)
    os.kill(pid, signal.SIGSTOP)
    for number in range(2_000):
        watched.events.tell("printed", 1.0, text="x" * 5_000, number=number)
    assert watched.pump() == watched.pump() == module.PUMP_S  # back at once, with more to send
    os.kill(pid, signal.SIGCONT)
    watched.feed.close()
    events = viewer.until_end()
    assert [event["number"] for event in events[:-1]] == list(range(2_000))


def test_a_page_that_does_not_read_the_end_is_left(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    watched.pump()
    ask(watched.url)
    os.kill(page_pid(watched.url), signal.SIGSTOP)
    for _ in range(2_000):
        watched.events.tell("printed", 1.0, text="x" * 5_000)
    watched.feed.close()
    assert watched.said[1:] == [f"the page at {watched.url} does not read what it is told; it is left as it is"]


def test_without_its_libraries_there_is_a_word_and_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "mrfast" else real(name))
    with pytest.raises(UsageError, match="pip install aiohttp and prometheus-client"):
        Feed("0")


# Whole jobs


def count_map(filename: str, contents: bytes) -> Any:
    for word in contents.decode().split():
        yield word, 1


def count_reduce(key: str, values: Any) -> int:
    return sum(values)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(b"to be or not to be " * 100)
    return {"inputs": [str(folder)], "store": tmp_path / "store", "reduces": 3, "workers": 2, "reduce": count_reduce}


def parts(result: mrfast.JobResult) -> list[bytes]:
    return [Path(part).read_bytes() for part in result.parts]


def test_a_job_and_its_page(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    result = mrfast.run(map=count_map, http="0", **options)
    url = url_in(capfd.readouterr().err)
    status = ask(url, "/api/status").json
    assert (status["state"], status["job"]["job"]) == ("COMMITTED", result.job)
    assert status["tasks"]["map"] == {"done": 3, "running": 0, "waiting": 0}
    assert status["end"]["totals"] == result.totals
    assert Viewer(url).until_end()[-1]["state"] == "COMMITTED"
    end_page(url)
    assert parts(result) == parts(mrfast.run(map=count_map, **options))


def test_the_page_of_a_job_that_fails_says_why(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    def raises(filename: str, contents: bytes) -> Any:
        raise ValueError("such is life")
        yield

    with pytest.raises(JobFailed, match="such is life"):
        mrfast.run(map=raises, http="0", **options)
    url = url_in(capfd.readouterr().err)
    status = ask(url, "/api/status").json
    assert status["state"] == "FAILED"
    assert "such is life" in status["end"]["error"]
    assert any("such is life" in event.get("traceback", "") for event in Viewer(url).until_end())
    end_page(url)


def test_a_page_killed_in_mid_job_changes_nothing(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    def kills(filename: str, contents: bytes) -> Any:
        with suppress(OSError):  # another map was here before
            ask(url)  # it is up
            end_page(url)
        yield from count_map(filename, contents)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    result = mrfast.run(map=kills, http=str(port), **options)
    said = capfd.readouterr().err
    assert said.count("is gone; the job goes on without it") == 1
    assert page_pid(url) == 0
    assert parts(result) == parts(mrfast.run(map=count_map, **options))


def test_a_port_that_is_taken_is_an_error_before_the_job(options: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=f"--http {port}: cannot listen there: address already in use") as failed:
            mrfast.run(map=count_map, http=str(port), **options)
    assert failed.value.exit_code == 3
    assert not [path for path in options["store"].rglob("*") if path.is_file()]
    with pytest.raises(PortInUse, match="cannot listen there"):  # an address of nobody's
        Feed("192.0.2.1:0", token=b"x").start(EventLog(), print)
    with pytest.raises(PortInUse, match="cannot listen there"):
        Feed("nowhere.invalid:0", token=b"x").start(EventLog(), print)


def test_the_next_job_gets_the_port_at_once(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/"
    viewers, pids, jobs = [], [], []
    for _ in range(3):
        jobs.append(mrfast.run(map=count_map, http=port, **options).job)
        for pid in pids:
            wait_for_end(pid)
        pids.append(page_pid(url))
        viewers.append(Viewer(url, viewers[-1].last if viewers else ""))  # a browser that comes back
        [first, *_, last] = viewers[-1].until_end()
        assert (first["e"], first["job"], last["e"]) == ("job", jobs[-1], "end")
    end_page(url)
    assert len(set(pids)) == len(set(jobs)) == 3


def test_neither_slots_nor_the_page_hold_what_is_the_others(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    private: list[str] = []
    in_page: list[set[str]] = []

    def links(pid: int | str) -> set[str]:
        found = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found.add(os.readlink(link))
            except OSError:
                continue
        return found

    def start(feed: Feed, *arguments: Any, real: Any = Feed.start) -> None:
        real(feed, *arguments)
        private.extend(os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in feed.descriptors())
        ask(feed.url)  # it is up
        in_page.append(links(page_pid(feed.url)))

    def holds(filename: str, contents: bytes) -> Any:
        for link in links("self"):
            yield link, 1

    monkeypatch.setattr(Feed, "start", start)
    before = links("self")
    result = mrfast.run(map=holds, http="0", **options)
    end_page(url_in(capfd.readouterr().err))
    held = {str(key) for key, _ in result.records()}
    assert len(private) == 2 and any("mrfast-page" in link for link in private)
    assert not held & set(private)
    assert not {link for link in in_page[0] & before if link.startswith(("socket:", "pipe:"))}


def test_ctrl_c_ends_the_job_cleanly_and_the_page_by_itself(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    app = shell.app(
        "import os, signal\n"
        "def map(filename, contents):\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    signal.pause()\n"
        "    yield 'a', 1\n"
        "def reduce(key, values): return 1\n"
    )
    done = shell("run", app, "in.txt", "--http", "0", "--workers", "1")
    said = done.stderr.decode()
    assert done.returncode == 130, said
    assert said.splitlines()[-1] == "mrfast: interrupted"
    assert not [path for path in (tmp_path / "mrfast-store").rglob("*") if path.is_file()]
    url = url_in(said)
    pid = page_pid(url)
    status = ask(url, "/api/status").json
    assert status["state"] == "STOPPED"
    wait_for_end(pid)  # a few seconds: nobody looks


def test_what_the_terminal_sends_to_its_processes_does_not_reach_the_page(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    running = subprocess.Popen(
        shell.command("coordinator_main", "in.txt", "--listen", "127.0.0.1:0", "--http", "0"),
        cwd=tmp_path, env=shell.env, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    said = ""
    while "listening on" not in said:
        line = running.stderr.readline().decode()
        assert line, said
        said += line
    url = url_in(said)
    viewer = Viewer(url)
    assert viewer.take(1)[0]["e"] == "job"
    pid = page_pid(url)
    assert ask(url, "/healthz").body == b"ok: the job is WAITING\n"
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(60) == 143
    running.stderr.close()
    assert viewer.until_end()[-1]["state"] == "STOPPED"
    assert page_pid(url) == pid
    viewer.close()
    end_page(url)


def test_a_job_that_is_killed_leaves_a_page_that_says_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    app = shell.app(
        "import os, signal\n"
        "def map(filename, contents):\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    yield 'a', 1\n"
        "def reduce(key, values): return 1\n"
    )
    done = shell("run", app, "in.txt", "--http", "0", "--workers", "1")
    assert done.returncode == -signal.SIGKILL
    url = url_in(done.stderr.decode())
    assert ask(url, "/healthz").status == 503
    end = Viewer(url).until_end()[-1]
    assert (end["e"], end["state"]) == ("end", "STOPPED")
    end_page(url)


def test_the_address_is_a_usage_error_on_the_command_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    app = shell.app("def map(filename, contents): return []\ndef reduce(key, values): return 1\n")
    assert "HOST:PORT" in shell.fails("run", app, "in.txt", "--http", "nowhere", code=2)
    assert "mrfast token" in shell.fails("run", app, "in.txt", "--http", "0.0.0.0:0", code=2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert "in use" in shell.fails("run", app, "in.txt", "--http", port, code=3)
        assert "in use" in shell.fails(
            "in.txt", "--listen", "127.0.0.1:0", "--http", port, code=3, name="coordinator_main"
        )
    shell.env["MRFAST_HTTP"] = port
    done = shell("run", app, "in.txt")
    assert url_in(done.stderr.decode()) == f"http://127.0.0.1:{port}/"
    end_page(f"http://127.0.0.1:{port}/")


def test_a_job_without_a_page_does_not_load_it() -> None:
    code = (
        "import sys, mrfast.cli\nfrom mrfast import api\napi.preload()\n"
        "print(*[name for name in ('aiohttp', 'prometheus_client', 'asyncio', 'hmac') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert b"aiohttp" not in done.stdout and b"prometheus" not in done.stdout and b"asyncio" not in done.stdout
