"""The protocol over real TCP: the gate, the frames, and a coordinator with workers that are made up."""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from journals import MemoryJournals
from test_job_driver import APP, make_spec

from mrfast.control import coordinator as module
from mrfast.control import job_work, messages, outputs, server
from mrfast.control.coordinator import Coordinator, check_listen, reached_at
from mrfast.control.job import CURSORS, JobDriver
from mrfast.control.rpc import Connection, parse_address
from mrfast.control.schema import decode
from mrfast.control.tokens import token_from
from mrfast.errors import AppRefused, CoordinatorLost, JobFailed, MrfastError, OutputExists, PortInUse, UsageError
from mrfast.index import TRAILER_MAGIC, SegmentIndex, TableDigest
from mrfast.model import (
    FRAME_BYTES_MAX,
    REDUCES_MAX,
    Failure,
    InputObject,
    MapReport,
    Progress,
    ReduceReport,
    inter_key,
    out_key,
)
from mrfast.storage import base, open_store

TOKEN = b"a token"


class Serving:
    """A coordinator in a thread, until its job has ended."""

    def __init__(self, spec: Any, token: bytes | None = None, linger_s: float = 0.0):
        self.spec = spec
        self.statuses: list[dict[str, Any]] = []
        self.states_at_end: list[str] = []
        self.driver = JobDriver(spec, store=open_store(spec.store_url), journals=MemoryJournals())
        self.listening = threading.Event()
        self.address = ("127.0.0.1", 0)
        self.ended: Any = None
        self.coordinator = Coordinator(
            self.driver,
            self.address,
            token=token,
            linger_s=linger_s,
            say=self._say,
            on_status=self.statuses.append,
            on_end=lambda driver: self.states_at_end.append(driver.state),
        )
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


class Clock:
    """The coordinator's time: it goes on by itself, and can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Signal handlers belong to the main thread; here the coordinator has another one."""
    clock = Clock()
    monkeypatch.setattr(module, "STOPPED", {})
    monkeypatch.setattr(module, "TICK_S", 0.02)
    monkeypatch.setattr(module, "time", clock)
    return clock


@contextmanager
def serving(token: bytes | None = None, linger_s: float = 0.0, **changes: Any) -> Iterator[Serving]:
    it = Serving(make_spec(**changes), token, linger_s)
    assert it.listening.wait(30)
    try:
        yield it
    finally:
        farewell_s_max = module.FAREWELL_S_MAX
        if it.thread.is_alive() and it.driver.state not in ("COMMITTED", "FAILED"):
            module.FAREWELL_S_MAX = 0.0
            it.driver.fail(MrfastError("the test is over"))
        it.thread.join(60)
        module.FAREWELL_S_MAX = farewell_s_max
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
    assert it.states_at_end == ["COMMITTED"]
    assert it.statuses[0]["state"] == "WAITING"
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


def noticed(it: Serving) -> queue.Queue[str]:
    """The workers whose connections the coordinator has seen close."""
    seen: queue.Queue[str] = queue.Queue()
    gone = it.driver.gone
    it.driver.gone = lambda worker, now: (gone(worker, now), seen.put(worker))[0]  # type: ignore[method-assign]
    return seen


def test_what_a_closed_connection_had_is_handed_out_again(clock: Clock) -> None:
    with serving() as it:
        seen = noticed(it)
        lost, other = Peer(it.address, "lost"), Peer(it.address, "other")
        had = [task.attempt for task in lost.poll(2).maps]
        assert had == ["m-000000.e1.1", "m-000001.e1.1"]
        lost.connection.close()
        assert seen.get(timeout=30) == "lost"
        assert other.poll(wait_s=0.0).maps == ()  # not before its time is up
        clock.ahead += 3.5
        again = [task.attempt for task in other.poll(2).maps]
        assert again[0] == "m-000000.e1.2"
        back = Peer(it.address, "lost")  # what it did meanwhile is taken, whoever has the task now
        index = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str").pack()
        assert back.report(MapReport(had[0], 1, "0" * 16, index, 1, 1, 1)).word == "accepted"
        assert back.report(MapReport(had[0], 1, "0" * 16, index, 1, 1, 1)).word == "already"
        assert other.report(MapReport(again[0], 1, "0" * 16, index, 1, 1, 1)).word == "superseded"
        assert other.call("release", messages.Release("other", had[0]))["word"] == "already"
        back.report(Failure(had[1], "app", "no", counted=False))
        for attempt in again[1:]:
            other.call("release", messages.Release("other", attempt))
        back.connection.close()
        assert other.work(it.driver._store) == "done"
    assert it.ended == 0


def test_a_silent_workers_task_is_handed_out_again_and_a_renewed_one_is_not(clock: Clock) -> None:
    with serving() as it:
        silent, renews, third = Peer(it.address, "silent"), Peer(it.address, "renews"), Peer(it.address, "third")
        first, second = silent.poll().maps[0].attempt, renews.poll().maps[0].attempt
        for _ in range(4):
            clock.ahead += 4.0
            reply = renews.call("renew", messages.Renew("renews", {second: Progress("map", 1, 2, 3)}))
            assert reply == {"job": "running", "attempts": {second: "ok"}, "error": ""}
        assert third.poll(2).maps[0].attempt == first.replace(".e1.1", ".e1.2")
        status = third.call("status", messages.Status())
        assert {each["worker"] for each in status["running"]} == {"renews", "third"}
        assert status["workers"] == 2, "of the silent one nothing was heard for long"


def test_a_second_connection_of_a_worker_takes_its_place() -> None:
    with serving() as it:
        seen = noticed(it)
        old, witness = Peer(it.address, "same"), Peer(it.address, "witness")
        new = Peer(it.address, "same")
        old.connection.close()
        witness.connection.close()
        assert seen.get(timeout=30) == "witness"  # and nobody else
        assert new.call("status", messages.Status())["workers"] == 1


def pass_time(it: Serving, clock: Clock, seconds: float) -> None:
    """Puts the clock forward until the coordinator has ended; from when on it counts is its own affair."""
    for _ in range(30):
        clock.ahead += seconds
        it.thread.join(1)
        if not it.thread.is_alive():
            return
    raise AssertionError("the coordinator does not end")


def test_the_coordinator_stays_a_while_for_who_comes_late(clock: Clock) -> None:
    with serving(linger_s=1000.0) as it:
        assert Peer(it.address).work(it.driver._store) == "done"
        late = Peer(it.address, "late")
        assert late.hello["job"] == it.spec.job
        assert late.poll().job == "done"
        assert it.thread.is_alive()
        pass_time(it, clock, 1001.0)
    assert it.ended == 0


def test_who_never_asks_is_not_waited_for_for_ever(clock: Clock) -> None:
    with serving() as it:
        mute = Peer(it.address, "mute")
        assert Peer(it.address).work(it.driver._store) == "done"
        assert it.thread.is_alive()
        pass_time(it, clock, module.FAREWELL_S_MAX + 1)
        assert it.ended == 0
        mute.connection.close()


HEARD_BY = {
    "poll": messages.Poll("idle", 1, 20.0),
    "renew": messages.Renew("idle", {"m-000001.e1.1": Progress()}),
    "report": messages.Report("idle", failure=Failure("m-000001.e1.1", "app", "no")),
    "release": messages.Release("idle", "m-000001.e1.1"),
    "bad_input": messages.BadInput("idle", "r-00000.e1.1", 0, "m-000000.e1.1", "no"),
}


@pytest.mark.parametrize("method", sorted(HEARD_BY))
def test_every_worker_hears_why_the_job_failed(method: str) -> None:
    with serving() as it:
        bad, idle = Peer(it.address, "bad"), Peer(it.address, "idle")
        task = bad.poll().maps[0]
        bad.report(Failure(task.attempt, "app", "a key of type int", "Traceback: line 3", "0.txt", 5, fatal=True))
        reply = idle.call(method, HEARD_BY[method])
        assert reply["job"] == "failed"
        for said in ("a key of type int", "Traceback: line 3", "0.txt", "byte 5", "m-000000"):
            assert said in reply["error"]
        it.thread.join(30)  # all have heard it: nobody is waited for
        assert not it.thread.is_alive()
    assert it.states_at_end == ["FAILED"]
    assert str(it.ended) == reply["error"]


def test_a_reduce_that_waits_for_outputs_is_told_to_give_up() -> None:
    with serving() as it:
        worker, waits = Peer(it.address, "worker"), Peer(it.address, "waits")
        first, last = worker.poll(2).maps
        index = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str")
        worker.report(MapReport(first.attempt, 1, "0" * 16, index.pack(), 1, 1, 1))
        reduce = waits.poll().reduces[0]
        got: list[Any] = []
        waits.connection.call("outputs", messages.AskOutputs("waits", reduce.attempt, CURSORS + 1, 20.0), got.append)
        status = waits.call("status", messages.Status())  # by now the coordinator has that call
        assert (status["state"], got) == ("RUNNING", [])
        worker.report(Failure(last.attempt, "app", "no", fatal=True))
        assert waits.poll().job == "failed"
        assert got[0]["word"] == "cancel"


def test_a_waiting_poll_is_answered_when_there_is_work() -> None:
    with serving() as it:
        first, second = Peer(it.address, "first"), Peer(it.address, "second")
        tasks = first.poll(2).maps
        got: list[Any] = []
        second.connection.call("poll", messages.Poll("second", 1, 20.0), got.append)
        second.call("status", messages.Status())
        assert not got
        first.call("release", messages.Release("first", tasks[0].attempt))
        with selectors.DefaultSelector() as selector:
            selector.register(second.connection, selectors.EVENT_READ)
            while not got:
                assert selector.select(30)
                second.connection.on_ready()
        assert [task["attempt"] for task in got[0]["maps"]] == ["m-000000.e1.2"]


def test_a_report_of_nothing_is_an_error() -> None:
    with serving() as it:
        with pytest.raises(MrfastError, match="nothing"):
            Peer(it.address).call("report", messages.Report("w"))
        assert Peer(it.address).work(it.driver._store) == "done"


@pytest.mark.parametrize("changes", [{"fingerprint": "0" * 32}, {"python_version": "3.13"}])
def test_a_worker_with_another_app_is_refused_and_not_waited_for(changes: dict[str, Any]) -> None:
    with serving() as it:
        peer = Peer(it.address)
        with pytest.raises(AppRefused, match="refused, so that all of a job is made by one program"):
            peer.call("hello", messages.Hello("other", 1, replace(APP, **changes)))
        assert peer.work(it.driver._store) == "done"
    assert it.ended == 0


def test_a_map_of_thousands_of_pieces_comes_in_pages() -> None:
    names = [f"{'n' * 200}{number:05d}" for number in range(10_500)]
    inputs = tuple(InputObject(name, f"memory://x/{name}", 0, "e") for name in names)
    with serving(inputs=inputs, split_bytes=1 << 20) as it:
        peer = Peer(it.address)
        paths: list[str] = []
        paged = 0
        while len(paths) < len(names):
            tasks = peer.poll(8)
            for task in tasks.maps:
                pieces, since = list(task.pieces), None if task.pieces else 0
                assert (task.attempt in tasks.pages) is (since is not None)
                while since is not None:
                    paged += 1
                    page = peer.call("pieces", messages.AskPieces("w", task.attempt, since))
                    pieces += decode(messages.PiecesPage, page).pieces
                    since = page["next"]
                paths += [piece.path for piece in pieces]
                index = SegmentIndex([0, 0], [0, 0], [0, 0], key_kind=None).pack()
                peer.report(MapReport(task.attempt, 0, "0" * 16, index, 0, 0, 0))
        assert paths == names
        assert paged
        with pytest.raises(MrfastError, match="no attempt of a map"):
            peer.call("pieces", messages.AskPieces("w", "r-00000.e1.1", 0))


@pytest.mark.parametrize("tail", [16, outputs.INDEX_TAIL_BYTES])
def test_an_index_too_long_for_a_frame_is_read_from_the_object(tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "INDEX_TAIL_BYTES", tail)
    with serving(reduces=REDUCES_MAX) as it:
        peer = Peer(it.address)
        for task in peer.poll(2).maps:
            index = SegmentIndex([1] * REDUCES_MAX, [1] * REDUCES_MAX, [9] * REDUCES_MAX, key_kind="str").pack()
            assert len(index) > messages.INDEX_BYTES_MAX
            data = b"x" * REDUCES_MAX + index + len(index).to_bytes(4, "little") + TRAILER_MAGIC
            it.driver._store.put(inter_key(task.job, task.attempt), data)
            peer.report(MapReport(task.attempt, len(data), "0" * 16, index, 1, 1, 1))
        reduce = peer.poll(7).reduces[6]
        page = decode(messages.OutputsPage, peer.call("outputs", messages.AskOutputs("w", reduce.attempt, 0, 20.0)))
        assert page.complete
        assert [(one.map_index, one.offset, one.length, one.xxh3) for one in page.segments] == [
            (0, 6, 1, 9),
            (1, 6, 1, 9),
        ]
        peer.report(Failure(reduce.attempt, "app", "enough", fatal=True))


def test_an_object_that_ends_early_fails_its_attempt() -> None:
    with serving(attempts_max=1) as it:
        peer = Peer(it.address)
        task = peer.poll().maps[0]
        it.driver._store.put(inter_key(task.job, task.attempt), b"short")
        word = peer.report(MapReport(task.attempt, 1000, "0" * 16, b"", 1, 1, 1))
        assert "shorter than its report says" in word.error
    assert isinstance(it.ended, JobFailed)


def test_a_fault_of_mrfasts_own_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(job_work.splits, "plan", broken)
    with serving() as it:
        assert Peer(it.address).poll().job == "failed"
    assert "plan: ZeroDivisionError: a fault" in str(it.ended)
    assert it.states_at_end == ["FAILED"]


def test_an_output_of_another_job_is_said_before_anyone_is_called() -> None:
    spec = make_spec()
    open_store(spec.output_url).put("_SUCCESS", b"{}")
    it = Serving(spec)
    it.thread.join(30)
    assert isinstance(it.ended, OutputExists)
    assert it.address[1] == 0


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
        b"x" * (FRAME_BYTES_MAX + 1),
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
        driver = JobDriver(make_spec(), store=open_store(make_spec().store_url), journals=MemoryJournals())
        with pytest.raises(PortInUse, match="--listen"):
            Coordinator(driver, taken.getsockname()).run()
        assert driver.state == "WAITING"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_off_loopback_a_token_is_needed(host: str) -> None:
    with pytest.raises(UsageError, match="mrfast token"):
        check_listen(host, None)
    check_listen(host, TOKEN)


def test_a_coordinator_without_a_token_does_not_start_off_loopback() -> None:
    driver = JobDriver(make_spec(), store=open_store(make_spec().store_url), journals=MemoryJournals())
    with pytest.raises(UsageError, match=r"--listen 0\.0\.0\.0"):
        Coordinator(driver, ("0.0.0.0", 0))
    assert [effect.name for effect in driver.effects()] == ["begin"]  # nothing has begun


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_on_loopback_none(host: str) -> None:
    check_listen(host, None)


def test_workers_are_sent_to_a_name_and_not_to_all_addresses() -> None:
    assert reached_at("0.0.0.0") == reached_at("::") == socket.gethostname()
    assert reached_at("172.31.5.21") == "172.31.5.21"


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
