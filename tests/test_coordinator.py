"""The protocol over real TCP: the gate, the frames, and a coordinator with workers that are made up."""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_job_driver import APP, make_spec

from mrfast.control import coordinator as module
from mrfast.control import messages, server
from mrfast.control.coordinator import Coordinator, check_listen
from mrfast.control.job import JobDriver
from mrfast.control.rpc import Connection, parse_address
from mrfast.control.schema import decode
from mrfast.control.tokens import token_from
from mrfast.errors import CoordinatorLost, JobFailed, MrfastError, PortInUse, UsageError
from mrfast.index import SegmentIndex, TableDigest
from mrfast.model import FRAME_BYTES_MAX, Failure, MapReport, ReduceReport, inter_key, out_key
from mrfast.storage import base, open_store

TOKEN = b"a token"


class Serving:
    """A coordinator in a thread, until its job has ended."""

    def __init__(self, spec: Any, token: bytes | None = None, linger_s: float = 0.0):
        self.spec = spec
        self.driver = JobDriver(spec, store=open_store(spec.store_url))
        self.listening = threading.Event()
        self.address = ("127.0.0.1", 0)
        self.ended: Any = None
        self.coordinator = Coordinator(self.driver, self.address, token=token, linger_s=linger_s, say=self._say)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _say(self, text: str) -> None:
        if text.startswith("listening on "):
            self.address = parse_address(text.split()[2].rstrip(";"))
            self.listening.set()

    def _run(self) -> None:
        try:
            self.ended = self.coordinator.run()
        except MrfastError as error:
            self.ended = error
        self.listening.set()


@pytest.fixture(autouse=True)
def _in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers belong to the main thread; here the coordinator has another one."""
    monkeypatch.setattr(module, "STOPPED", {})


@contextmanager
def serving(token: bytes | None = None, **changes: Any) -> Iterator[Serving]:
    it = Serving(make_spec(**changes), token)
    assert it.listening.wait(30)
    try:
        yield it
    finally:
        if it.thread.is_alive() and it.driver.state not in ("COMMITTED", "FAILED"):
            it.driver.fail(MrfastError("the test is over"))
        it.thread.join(60)
        assert not it.thread.is_alive()


class Peer:
    """A worker that is made up: one call after the other."""

    def __init__(self, address: tuple[str, int], name: str = "w", token: bytes | None = None):
        self.name = name
        self.connection = Connection(address, token, timeout_s=10)
        self.hello = self.call("hello", messages.Hello(name, 2, APP))

    def call(self, method: str, params: Any) -> Any:
        got: list[Any] = []
        self.connection.call(method, params, got.append)
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            while not got:
                assert selector.select(30)
                try:
                    self.connection.on_ready()
                except CoordinatorLost:
                    if not got:  # the last reply and the end of the connection can come together
                        raise
        if isinstance(got[0], MrfastError):
            raise got[0]
        return got[0]

    def poll(self, free: int = 1, wait_s: float = 20.0) -> messages.Tasks:
        return decode(messages.Tasks, self.call("poll", messages.Poll(self.name, free, wait_s)))

    def report(self, report: Any) -> messages.Word:
        return decode(messages.Word, self.call("report", messages.report_message(self.name, report)))

    def work(self, store: Any) -> str:
        """Makes up every task until the job has ended; gives how."""
        while True:
            tasks = self.poll()
            for task in tasks.maps:
                store.put(inter_key(task.job, task.attempt), b"x")
                index = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str")
                self.report(MapReport(task.attempt, 1, "0" * 16, index.pack(), 1, 1, 1))
            for reduce in tasks.reduces:
                table = TableDigest()
                ask = messages.AskOutputs(self.name, reduce.attempt, 0, 20.0)
                for segment in decode(messages.OutputsPage, self.call("outputs", ask)).segments:
                    table.add(segment.map_index, segment.digest)
                store.put(out_key(reduce.job, reduce.attempt), b"part")
                self.report(ReduceReport(reduce.attempt, 4, "0" * 16, 1, 1, table.hex()))
            if tasks.job != "running":
                return tasks.job


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_whole_job(token: bytes | None) -> None:
    with serving(token) as it:
        peer = Peer(it.address, token=token)
        assert peer.hello["job"] == it.spec.job
        assert peer.work(it.driver._store) == "done"
    assert it.ended == 0
    assert base.read(open_store(it.spec.output_url), "mr-out-1") == b"part"


def test_a_failed_job_is_told_to_its_workers() -> None:
    with serving(attempts_max=1) as it:
        peer = Peer(it.address)
        task = peer.poll().maps[0]
        word = peer.report(Failure(task.attempt, "app", "ZeroDivisionError: division by zero"))
        assert word.job == "failed"
        assert "ZeroDivisionError" in word.error
    assert isinstance(it.ended, JobFailed)


def test_who_comes_late_hears_that_the_job_is_done() -> None:
    with serving() as it:
        idle = Peer(it.address, "idle")  # until it has heard the end, the coordinator stays
        assert Peer(it.address).work(it.driver._store) == "done"
        assert Peer(it.address, "late").poll().job == "done"
        assert it.thread.is_alive()
        assert idle.poll().job == "done"
    assert it.ended == 0


def test_a_closed_connection_is_noticed() -> None:
    with serving() as it:
        seen: queue.Queue[str] = queue.Queue()
        gone = it.driver.gone
        it.driver.gone = lambda worker, now: (gone(worker, now), seen.put(worker))[0]  # type: ignore[method-assign]
        peer = Peer(it.address, "gone")
        peer.poll()
        peer.connection.close()
        assert seen.get(timeout=30) == "gone"
        assert all(each.worker == "gone" for each in it.driver.scheduler.running())  # type: ignore[union-attr]


@pytest.mark.parametrize("method", sorted(set(messages.CALLS) - {"auth", "prove"}))
def test_nothing_is_answered_before_the_token_is_proven(method: str) -> None:
    with serving(TOKEN) as it, socket.create_connection(it.address, timeout=30) as raw:
        raw.sendall(orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}) + b"\n")
        reply = raw.makefile("rb").read()
        assert b"refused" in reply
        assert b"result" not in reply
        assert it.driver.app is None


@pytest.mark.parametrize("token", [None, b"another"])
def test_a_wrong_token_is_one_clear_line(token: bytes | None) -> None:
    with serving(TOKEN) as it, pytest.raises(CoordinatorLost, match="token"):
        Connection(it.address, token, timeout_s=10)


def test_a_token_here_and_none_there() -> None:
    with serving() as it, pytest.raises(CoordinatorLost, match="has no token"):
        Connection(it.address, TOKEN, timeout_s=10)


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"{}\n",
        b"[" * 1000 + b"\n",
        b'{"jsonrpc": "2.0", "id": 1, "method": "no_such", "params": {}}\n',
        b'{"jsonrpc": "2.0", "id": 1, "method": "poll", "params": {"worker": 5}}\n',
        b'{"jsonrpc": "2.0", "id": 1, "method": "poll", "params": {"worker": "w", "free": 1, "wait_s": 0, "x": 1}}\n',
        b"x" * (FRAME_BYTES_MAX + 10) + b"\n",
    ],
    ids=lambda line: line[:40].decode(),
)
def test_a_malformed_line_is_an_error_and_the_job_goes_on(line: bytes) -> None:
    with serving() as it:
        with socket.create_connection(it.address, timeout=30) as raw:
            raw.sendall(orjson.dumps({"jsonrpc": "2.0", "id": 0, "method": "auth", "params": {"nonce": "n"}}) + b"\n")
            lines = raw.makefile("rb")
            assert b"result" in lines.readline()
            raw.sendall(line)
            assert b"error" in lines.readline()
        assert Peer(it.address).work(it.driver._store) == "done"


def test_who_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.01)
    with serving() as it, socket.create_connection(it.address, timeout=30) as raw:
        assert raw.recv(1) == b""


def test_too_many_calls_at_once_are_cut_off() -> None:
    with serving() as it:
        peer = Peer(it.address)
        peer.poll(2)  # all there is to do: later polls wait
        for _ in range(server.IN_FLIGHT_MAX + 1):
            peer.connection.call("poll", messages.Poll("w", 1, 20.0), lambda reply: None)
        with selectors.DefaultSelector() as selector, pytest.raises(CoordinatorLost):
            selector.register(peer.connection, selectors.EVENT_READ)
            while selector.select(30):
                peer.connection.on_ready()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        driver = JobDriver(make_spec(), store=open_store(make_spec().store_url))
        with pytest.raises(PortInUse, match="--listen"):
            Coordinator(driver, taken.getsockname()).run()
        assert driver.state == "WAITING"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_off_loopback_a_token_is_needed(host: str) -> None:
    with pytest.raises(UsageError, match="MRFAST_TOKEN"):
        check_listen(host, None)
    check_listen(host, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_on_loopback_none(host: str) -> None:
    check_listen(host, None)


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"secret\n")
    path.chmod(0o600)
    assert token_from({}, None) is None
    assert token_from({"MRFAST_TOKEN": " abc\n"}, None) == b"abc"
    assert token_from({"MRFAST_TOKEN": "abc"}, str(path)) == b"secret"
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        token_from({}, str(path))
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="--token-file"):
            token_from({}, str(bad))
    (tmp_path / "empty").touch(0o600)
    with pytest.raises(UsageError, match="empty"):
        token_from(os.environ, str(tmp_path / "empty"))


@pytest.mark.parametrize("text", ["", "host", ":8000", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(text)


def test_a_proof_is_of_one_role_and_one_connection() -> None:
    proofs: list[Callable[[], str]] = [
        lambda: messages.proof(TOKEN, "client", "a", "b"),
        lambda: messages.proof(TOKEN, "server", "a", "b"),
        lambda: messages.proof(TOKEN, "client", "b", "a"),
        lambda: messages.proof(b"other", "client", "a", "b"),
    ]
    assert len({make() for make in proofs}) == 4
