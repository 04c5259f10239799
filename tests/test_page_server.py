"""The live page's process: who may ask it what, and that every reader gets every event once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from page_client import Viewer, ask
from prometheus_client.parser import text_string_to_metric_families

from mrfast.watch import server
from mrfast.watch.tally import Tally

JOB = {"e": "job", "t": 0.0, "format": 1, "job": "j1", "name": None, "app": None, "output_url": "/s/out/j1"}
PLANNED = {"e": "planned", "t": 0.1, "app": "wc.py", "maps": 3, "reduces": 4, "reduce_tasks": 2}
END = {"e": "end", "t": 9.0, "state": "COMMITTED", "error": "", "requests": {"by_verb": {}}, "cost_usd": 0.0}
PATHS = ["/", "/events", "/api/status", "/metrics", "/healthz"]


def started(task: str, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"e": "started", "t": 1.0, "task": task, "attempt": f"{task}.e1.{number}", "worker": "w", **more}


def ended(task: str, word: str, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"e": "ended", "t": 2.0, "task": task, "attempt": f"{task}.e1.{number}", "word": word, **more}


class Serving:
    """A page in a thread, fed by the test."""

    def __init__(self, names: list[str], password: str | None):
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self.feed, theirs = socket.socketpair()
        self.thread = threading.Thread(target=lambda: asyncio.run(server.run(theirs, listener)))
        self.thread.start()
        self.say({"names": names, "password": password})

    def say(self, *events: dict[str, Any]) -> None:
        self.raw(*(json.dumps(event).encode() for event in events))

    def raw(self, *lines: bytes) -> None:
        self.feed.sendall(b"".join(line + b"\n" for line in lines))

    def close(self) -> None:
        self.feed.close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def start(names: tuple[str, ...] = ("127.0.0.1",), password: str | None = None) -> Serving:
        made.append(Serving(list(names), password))
        return made[-1]

    yield start
    monkeypatch.setattr(server, "LINGER_S_MAX", 0.0)
    for serving in made:
        serving.close()


@pytest.fixture
def serving(serve: Callable[..., Serving]) -> Serving:
    return serve()


def told(serving: Serving, events: int) -> dict[str, Any]:
    """/api/status, once the page has taken in so many events."""
    viewer = Viewer(serving.url)
    viewer.take(events)
    viewer.close()
    return ask(serving.url, "/api/status").json


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("HEAD", "/events", 200),
        ("GET", "/api/status", 200),
        ("GET", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/nothing", 404),
        ("GET", "/../server.py", 404),
        ("GET", "/%2e%2e/server.py", 404),
        ("GET", "/api/status/", 404),
        ("POST", "/", 405),
        ("PUT", "/metrics", 405),
        ("DELETE", "/events", 405),
        ("POST", "/nothing", 404),
    ],
)
def test_every_answer_bears_the_headers_that_keep_strangers_out(
    serving: Serving, method: str, path: str, status: int
) -> None:
    answer = ask(serving.url, path, method=method)
    assert answer.status == status
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "aiohttp" not in answer.headers["Server"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_name_that_was_made_to_point_here_is_refused(serving: Serving, path: str, host: str) -> None:
    answer = ask(serving.url, path, Host=host)
    assert answer.status in (421, 400 if not host else 421)
    assert b"j1" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "10.0.0.7:99"])
def test_its_own_names_are_right_whatever_port_a_tunnel_gives(serving: Serving, host: str) -> None:
    assert ask(serving.url, Host=host).status == 200


def test_the_name_that_it_was_bound_to_is_right(serve: Callable[..., Serving]) -> None:
    serving = serve(("Box.example", "box"))
    assert ask(serving.url, Host="box.example:8080").status == ask(serving.url, Host="BOX").status == 200
    assert ask(serving.url, Host="other.example").status == 421


def test_off_this_machine_it_wants_the_password(serve: Callable[..., Serving]) -> None:
    serving = serve(password="s3cret")
    basic = {word: "Basic " + base64.b64encode(f"anyone:{word}".encode()).decode() for word in ("s3cret", "s3cre", "")}
    wrong = [
        "",
        basic["s3cre"],
        basic[""],
        "Basic !!",
        "Basic /w==",
        "Bearer s3cre",
        "Bearer",
        "Digest s3cret",
        "Bearer é",
    ]
    for path in ("/", "/events", "/api/status", "/metrics", "/nothing"):
        for given in wrong:
            answer = ask(serving.url, path, Authorization=given.encode().decode("latin-1"))
            assert answer.status == 401, (path, given)
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert ask(serving.url, Authorization=basic["s3cret"]).status == 200
    assert ask(serving.url, "/metrics", Authorization="Bearer s3cret").status == 200
    assert ask(serving.url, "/healthz").status == 200


def test_a_reader_that_comes_back_gets_each_event_once(serving: Serving) -> None:
    events = [JOB, PLANNED, *(started(f"m-{index:06}") for index in range(50))]
    serving.say(*events[:30])
    first = Viewer(serving.url)
    assert first.response.headers.get_content_type() == "text/event-stream"
    got = first.take(20)
    first.close()
    serving.say(*events[30:], END)
    second = Viewer(serving.url, first.last)
    got += second.until_end()
    assert got == [*events, END]
    after = Viewer(serving.url, second.last)
    assert after.response.status == 204  # a browser that hears so does not come back
    for number, last in enumerate(("1-ffffffff", "999999-" + first.last.partition("-")[2], "nonsense", "7", "-1")):
        assert Viewer(serving.url, last).take(1) == [JOB], number


def test_what_an_event_holds_cannot_break_out_of_it(serving: Serving) -> None:
    hostile = {"e": "printed", "t": 1, "text": "a\n\ndata: {}\r\rid: 9\x00\u2028\ud7ff</script><!--", "task\n": "\r\n"}
    spaced = json.dumps(hostile, separators=(",", ":\r\r")).encode()  # a carriage return is JSON's white space, too
    serving.raw(json.dumps(hostile).encode(), spaced, b"no JSON", b"", b"[1]", b'{"e":"x"}', b'data: {"e":"y"}')
    serving.say(END)
    assert Viewer(serving.url).until_end() == [hostile, hostile, END]


def test_of_superseded_lines_the_last_is_replayed(serving: Serving) -> None:
    shuffles = [{"e": "shuffle", "t": number, "bytes": [number]} for number in range(4)]
    hots = [{"e": "hot", "t": number, "keys": []} for number in range(3)]
    serving.say(JOB, *shuffles, *hots, END)
    told(serving, 4)
    viewer = Viewer(serving.url)
    assert viewer.until_end() == [JOB, shuffles[-1], hots[-1], END]
    assert viewer.last.startswith("9-")


def test_readers_come_and_go_and_one_that_never_reads_costs_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    real = server.Page.batch

    def batch(page: server.Page, at: int, end: int) -> bytes:
        data = real(page, at, end)
        packed.append(len(data))
        return data

    monkeypatch.setattr(server.Page, "batch", batch)
    serving.say(JOB)
    gone, reads, also = Viewer(serving.url), Viewer(serving.url), Viewer(serving.url)
    stuck = socket.create_connection(("127.0.0.1", int(serving.url.rstrip("/").rpartition(":")[2])))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert stuck.recv(10) == b"HTTP/1.1 2"
    assert gone.take(1) == [JOB]
    gone.close()
    text = "x" * 10_000
    threading.Thread(
        target=lambda: serving.say(*({"e": "printed", "t": n, "text": text} for n in range(4_000)), END)
    ).start()
    for viewer in (reads, also):
        events = viewer.until_end()
        assert len(events) == 4_002
        assert [event["t"] for event in events[1:-1]] == list(range(4_000))
    # 40 MB for each that reads; what was made for the one that does not is what its connection holds.
    assert sum(packed) < 2.7 * 4_000 * len(text)
    assert ask(serving.url, "/healthz").status == 200
    stuck.close()


def test_a_feed_that_falls_silent_is_no_good_end(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.say(JOB)
    viewer = Viewer(serving.url)
    assert viewer.take(1) == [JOB]
    assert ask(serving.url, "/healthz").body == b"ok: the job is WAITING\n"
    serving.feed.close()
    [end] = viewer.take(1)
    assert (end["e"], end["state"]) == ("end", "STOPPED")
    assert "--resume j1" in end["error"]
    assert ask(serving.url, "/healthz").status == 503
    assert ask(serving.url, "/api/status").json["state"] == "STOPPED"


def test_a_job_that_fails_is_served_as_such(serving: Serving) -> None:
    serving.say(JOB, PLANNED, {**END, "state": "FAILED", "error": "map raised", "task": "m-000000"})
    status = told(serving, 3)
    assert (status["state"], status["end"]["error"], status["job"]["job"]) == ("FAILED", "map raised", "j1")
    assert ask(serving.url, "/healthz").body == b"ok: the job has ended as FAILED\n"
    assert b'mrfast_job_state{state="FAILED"} 1.0' in ask(serving.url, "/metrics").body


def test_metrics_are_as_prometheus_wants_them(serving: Serving) -> None:
    status = {
        "state": "RUNNING", "workers": 2, "counters": {'bad "lines"\n': 3}, "cost_usd": 0.25,
        "requests": {"by_verb": {"GET": 7, "PUT": 2}},
    }  # fmt: skip
    serving.say(
        {**JOB, "name": 'a "name"\\ \n'}, PLANNED, started("m-000000"), started("m-000001", backup=True),
        ended("m-000000", "accepted", bytes_in=100, records_in=10, size=50), ended("m-000001", "failed"),
        started("m-000001", 2), {"e": "sample", "t": 3.5, "status": status},
    )  # fmt: skip
    told(serving, 8)
    answer = ask(serving.url, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.body.decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge"), family.name
        for sample in family.samples:
            assert sample.name.startswith("mrfast_")
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names)) == text.count("# HELP ")
    assert found["mrfast_tasks"][("map", "done")] == 1
    assert found["mrfast_tasks"][("map", "running")] == 1
    assert found["mrfast_tasks"][("map", "waiting")] == 1
    assert found["mrfast_tasks"][("reduce", "waiting")] == 2
    assert found["mrfast_attempts_ended_total"] == {("map", "accepted"): 1, ("map", "failed"): 1}
    assert sum(found["mrfast_attempts_started_total"].values()) == 3
    assert found["mrfast_input_bytes_total"][()] == 100 and found["mrfast_input_records_total"][()] == 10
    assert found["mrfast_requests_total"] == {("GET",): 7, ("PUT",): 2}
    assert found["mrfast_cost_dollars_total"][()] == 0.25 and found["mrfast_workers"][()] == 2
    assert found["mrfast_job_seconds"][()] == 3.5
    assert found["mrfast_app_count"][('bad "lines"\n',)] == 3
    assert found["mrfast_job_state"][("RUNNING",)] == 1 and sum(found["mrfast_job_state"].values()) == 1
    serving.feed.shutdown(socket.SHUT_WR)  # an end that knows no numbers takes none away
    told(serving, 9)
    after = ask(serving.url, "/metrics").body.decode()
    assert 'mrfast_requests_total{verb="GET"} 7.0' in after and "mrfast_cost_dollars_total 0.25" in after
    assert "mrfast_workers 0.0" in after and 'mrfast_job_state{state="STOPPED"} 1.0' in after
    newer = ask(serving.url, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert newer.body.endswith(b"# EOF\n")


def test_far_readers_get_it_packed(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_is_far", lambda request: True)
    serving.say(JOB)
    viewer = Viewer(serving.url, Accept_Encoding="gzip")
    assert viewer.response.headers["Content-Encoding"] == "gzip"
    assert viewer.take(1) == [JOB]  # at once, not when a block is full
    serving.say(PLANNED)
    assert viewer.take(1) == [PLANNED]
    assert "Content-Encoding" not in Viewer(serving.url).response.headers


def test_it_stays_while_somebody_looks_and_no_longer(
    serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve()
    monkeypatch.setattr(server, "LINGER_S", 0.0)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 3600.0)  # that it has gone is seen without writing to it
    serving.say(JOB, END)
    viewer = Viewer(serving.url)
    assert viewer.until_end() == [JOB, END]
    serving.feed.close()
    assert ask(serving.url, "/api/status").json["state"] == "COMMITTED"
    viewer.close()
    serving.thread.join(30)
    assert not serving.thread.is_alive()


def test_it_does_not_stay_for_ever(serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch) -> None:
    serving = serve()
    monkeypatch.setattr(server, "LINGER_S_MAX", 0.1)
    serving.say(JOB, END)
    viewer = Viewer(serving.url)
    serving.feed.close()
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        assert list(viewer) == [JOB, END]
    serving.thread.join(30)
    assert not serving.thread.is_alive()


def test_a_page_is_full_at_some_point(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "VIEWERS_MAX", 1)
    serving.say(JOB)
    viewer = Viewer(serving.url)
    viewer.take(1)
    assert ask(serving.url, "/events").status == 503
    assert ask(serving.url, "/").status == 200


def tally(*events: dict[str, Any]) -> Tally:
    found = Tally()
    for event in events:
        found.add(json.dumps(event).encode())
    return found


def test_tasks_are_counted_as_they_go_and_come_back() -> None:
    m0, m1 = "m-000000", "m-000001"
    events = [
        JOB, PLANNED, {"e": "restored", "t": 0, "maps": [[2, 3]], "reduces": []}, started(m0),
        started(m0, 2, backup=True),
        ended(m0, "accepted"), ended(m0, "superseded", 2), started(m1), ended(m1, "expired"),
    ]  # fmt: skip
    found = tally(*events)
    assert found.tasks()["map"] == {"done": 2, "running": 0, "waiting": 1}
    found = tally(*events, {"e": "back", "t": 3, "task": m1, "attempt": f"{m1}.e1.1"})
    assert found.tasks()["map"] == {"done": 2, "running": 1, "waiting": 0}
    lost = [{"e": "lost", "t": 4, "task": task, "attempt": "a"} for task in (m0, "m-000002")]
    found = tally(*events, *lost)
    assert found.tasks()["map"] == {"done": 0, "running": 0, "waiting": 3}
    assert found.document()["attempts"] == {"started": 3, "running": 0, "accepted": 1, "superseded": 1, "expired": 1}


def test_a_line_that_was_made_void_says_nothing() -> None:
    void = {"e": "", "t": 0}
    found = tally(JOB, {"e": "shuffle", "t": 7.5, "bytes": []}, void)
    assert (found.at_s, found.events) == (7.5, 3)


def test_void_lines_are_counted_and_not_sent(serving: Serving) -> None:
    serving.say(JOB, {"e": "", "t": 0}, END)
    viewer = Viewer(serving.url)
    assert viewer.until_end() == [JOB, END]
    assert viewer.last.startswith("3-")


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "STARTING"),
        ([JOB], "WAITING"),
        ([JOB, {"e": "sample", "t": 1, "status": {"state": "PLANNING"}}], "PLANNING"),
        ([JOB, PLANNED], "RUNNING"),
        ([JOB, PLANNED, {"e": "sample", "t": 1, "status": {"state": "COMMITTING"}}], "COMMITTING"),
        ([JOB, PLANNED, END], "COMMITTED"),
        ([JOB, {"e": "news", "t": 1}, {"e": "planned"}, {"t": 1}], "WAITING"),
    ],
)
def test_the_state_follows_the_events(events: list[dict[str, Any]], state: str) -> None:
    assert tally(*events).state == state
