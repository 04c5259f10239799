"""Both ends of a connection, each against the bare wire: the gate, the frames, the bounds, and who is cut off."""

from __future__ import annotations

import asyncio
import itertools
import selectors
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import orjson
import pytest

from mrfast.control import messages, rpc, server, wire
from mrfast.control.rpc import Connection
from mrfast.control.server import LineServer, Peer
from mrfast.errors import CoordinatorLost, MrfastError, PortInUse, UsageError
from mrfast.model import FRAME_BYTES_MAX

TOKEN = b"a token"
NONCE = "n" * 64
STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status","params":{}}\n'


def line(method: str, id: Any = 1, **params: Any) -> bytes:
    """A call as it goes over the wire, unchecked."""
    return orjson.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) + b"\n"


# The server


class Served:
    """A LineServer whose every call is noted, and answered when `go` is set."""

    def __init__(self, token: bytes | None):
        self.address = ("", 0)
        self.calls: list[str] = []
        self.closed: asyncio.Queue[Peer] = asyncio.Queue()
        self.held: list[Callable[[], None]] | None = None  # answers that wait
        handlers = {name: self._handler(name) for name in messages.CALLS if name not in ("auth", "prove")}
        self.server = LineServer(handlers, token=token, on_close=self.closed.put_nowait)

    def _handler(self, name: str) -> Any:
        def handle(peer: Peer, params: Any, reply: server.Reply) -> None:
            self.calls.append(name)
            if name == "bad_input":
                raise UsageError("a user's mistake")
            if name == "release" and params.attempt == "fault":
                raise ZeroDivisionError("a fault of ours")
            if self.held is None:
                reply({"called": name})
            else:
                self.held.append(lambda: reply({"called": name}))

        return handle

    def hold(self) -> None:
        """From now on answers wait."""
        self.held = []

    def go(self) -> None:
        """Gives the answers that wait; those to come do not."""
        held, self.held = self.held or [], None
        for answer in held:
            answer()

    async def connect(self) -> Talk:
        return Talk(*await asyncio.open_connection(*self.address, limit=2 * FRAME_BYTES_MAX))

    async def admitted(self) -> Talk:
        talk = await self.connect()
        assert (await talk.ask(line("auth", nonce=NONCE)))["result"]["required"] is False
        return talk


class Talk:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes) -> Any:
        self.writer.write(data)
        return orjson.loads(await self.reader.readline())

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def served(token: bytes | None = None) -> AsyncIterator[Served]:
    it = Served(token)
    it.address = await it.server.start("127.0.0.1", 0)
    try:
        yield it
    finally:
        await it.server.close()


def test_calls_are_answered_by_name_and_in_any_order() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            it.hold()
            talk.writer.write(line("release", id="slow", worker="w", attempt="a"))
            assert (await talk.ask(line("no_such", id=2)))["error"]["code"] == wire.METHOD_NOT_FOUND
            it.go()
            assert orjson.loads(await talk.reader.readline())["id"] == "slow"
            assert it.calls == ["release"]

    asyncio.run(scene())


PARAMS: dict[str, dict[str, Any]] = {
    "hello": {},
    "params": {},
    "poll": {"worker": "w", "free": 1, "wait_s": 0},
    "renew": {"worker": "w", "attempts": {}},
    "report": {"worker": "w"},
    "outputs": {"worker": "w", "attempt": "a", "since": 0, "wait_s": 0},
    "pieces": {"worker": "w", "attempt": "a", "since": 0},
    "bad_input": {"worker": "w", "attempt": "a", "map_index": 0, "map_attempt": "a", "why": ""},
    "release": {"worker": "w", "attempt": "a"},
    "status": {},
    "prove": {"proof": "0" * 64},
    "no_such": {},
}


@pytest.mark.parametrize("method", sorted({*messages.CALLS, *PARAMS} - {"auth"}))
@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_call_is_heard_before_the_handshake(method: str, token: bytes | None) -> None:
    async def scene() -> None:
        async with served(token) as it:
            talk = await it.connect()
            reply = await talk.ask(line(method, **PARAMS[method]))
            assert "refused" in reply["error"]["data"]["message"]
            assert reply["error"]["data"]["type"] == "CoordinatorLost"
            assert await talk.rest() == b""
            assert it.calls == []

    asyncio.run(scene())


@pytest.mark.parametrize("method", sorted({*messages.CALLS, *PARAMS} - {"prove"}))
def test_no_call_is_heard_in_the_middle_of_the_handshake(method: str) -> None:
    async def scene() -> None:
        async with served(TOKEN) as it:
            talk = await it.connect()
            assert (await talk.ask(line("auth", nonce=NONCE)))["result"]["required"] is True
            params = PARAMS.get(method, {"nonce": NONCE})
            assert "refused" in (await talk.ask(line(method, **params)))["error"]["data"]["message"]
            assert await talk.rest() == b""
            assert it.calls == []

    asyncio.run(scene())


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("behind", ["auth", "status"])
def test_what_follows_a_refused_call_is_not_heard(token: bytes | None, behind: str) -> None:
    async def scene() -> None:
        async with served(token) as it:
            talk = await it.connect()
            talk.writer.write(STATUS + line(behind, **({"nonce": NONCE} if behind == "auth" else {})) + STATUS)
            assert (await talk.rest()).count(b"\n") <= 1
            assert it.calls == []

    asyncio.run(scene())


def proof_for(kind: str, challenge: dict[str, Any]) -> Any:
    good = messages.proof(TOKEN, "client", NONCE, challenge["nonce"])
    return {
        "right": good,
        "another token": messages.proof(b"other", "client", NONCE, challenge["nonce"]),
        "the server's own": challenge["proof"],
        "another nonce": messages.proof(TOKEN, "client", NONCE, "0" * 64),
        "in capitals": good.upper(),
        "too short": good[:-1],
        "too long": good + "0",
        "empty": "",
        "not ASCII": "ä" * 64,
        "a number": 5,
        "null": None,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "right",
        "another token",
        "the server's own",
        "another nonce",
        "in capitals",
        "too short",
        "too long",
        "empty",
        "not ASCII",
        "a number",
        "null",
    ],
)
def test_only_the_right_proof_opens_the_gate(kind: str) -> None:
    async def scene() -> None:
        async with served(TOKEN) as it:
            talk = await it.connect()
            challenge = (await talk.ask(line("auth", nonce=NONCE)))["result"]
            assert challenge["proof"] == messages.proof(TOKEN, "server", NONCE, challenge["nonce"])
            reply = await talk.ask(line("prove", id=2, proof=proof_for(kind, challenge)))
            if kind == "right":
                assert reply["result"] == {}
                assert (await talk.ask(STATUS))["result"] == {"called": "status"}
            else:
                assert "token" in reply["error"]["data"]["message"]
                assert await talk.rest() == b""
                assert it.calls == []

    asyncio.run(scene())


def test_a_proof_that_was_overheard_is_of_no_use() -> None:
    async def scene() -> None:
        async with served(TOKEN) as it:
            overheard, nonces = "", set()
            for _ in range(2):
                talk = await it.connect()
                challenge = (await talk.ask(line("auth", nonce=NONCE)))["result"]
                nonces.add(challenge["nonce"])
                overheard = overheard or proof_for("right", challenge)
            assert len(nonces) == 2
            assert "error" in await talk.ask(line("prove", proof=overheard))
            assert it.calls == []

    asyncio.run(scene())


def malformed() -> Iterator[bytes]:
    yield b"\n"
    yield b"hello\n"
    yield b"GET / HTTP/1.1\r\n"
    yield b"\xff\xfe\n"
    yield b"\x16\x03\x01\x02\n"
    yield b"{}\n"
    yield b"[]\n"
    yield b"null\n"
    yield b"[" + STATUS.strip() + b"]\n"  # batches are not spoken here
    yield b"[" * 3000 + b"\n"
    yield STATUS.replace(b'"2.0"', b'"1.0"')
    yield STATUS.replace(b'"id":1', b'"id":null')
    yield STATUS.replace(b'"id":1', b'"id":1.5')
    yield STATUS.replace(b'"id":1', b'"id":-1')
    yield STATUS.replace(b'"id":1', b'"id":1,"id":2')
    yield STATUS.replace(b'"id":1,', b"")
    yield STATUS.replace(b"{}", b"[]")
    yield STATUS.replace(b"status", b"Status")
    yield STATUS.replace(b"status", b"")
    yield STATUS.replace(b'"params":{}', b'"params":{},"more":1')


@pytest.mark.parametrize("text", list(malformed()), ids=lambda text: repr(text[:60]))
@pytest.mark.parametrize("proven", [False, True])
def test_a_malformed_line_is_answered_and_ends_its_connection_only(text: bytes, proven: bool) -> None:
    async def scene() -> None:
        async with served() as it:
            other = await it.admitted()
            talk = await (it.admitted() if proven else it.connect())
            reply = await talk.ask(text)
            assert reply["id"] is None
            assert reply["error"]["code"] == wire.PARSE_ERROR
            assert await talk.rest() == b""
            assert (await other.ask(STATUS))["result"] == {"called": "status"}
            assert it.calls == ["status"]

    asyncio.run(scene())


@pytest.mark.parametrize("reply", [wire.response(1, {}), wire.error(1, MrfastError("no"))])
def test_a_peer_that_answers_what_nobody_asked_is_cut_off(reply: bytes) -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            talk.writer.write(reply)
            assert await talk.rest() == b""

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("status", {"x": 1}),
        ("poll", {}),
        ("poll", {"worker": "w", "free": "1", "wait_s": 0}),
        ("poll", {"worker": "w", "free": True, "wait_s": 0}),
        ("poll", {"worker": "w", "free": 1, "wait_s": 0, "more": 1}),
        ("hello", {"worker": "w", "slots": 1, "app": {}}),
        ("report", {"worker": "w", "map": {"attempt": "a"}}),
        ("renew", {"worker": "w", "attempts": []}),
    ],
)
def test_unknown_and_wrong_parameters_are_an_error_of_that_call(method: str, params: dict[str, Any]) -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            reply = await talk.ask(line(method, id=7, **params))
            assert (reply["id"], reply["error"]["code"]) == (7, wire.INVALID_PARAMS)
            assert (await talk.ask(STATUS))["result"] == {"called": "status"}
            assert it.calls == ["status"]

    asyncio.run(scene())


def test_a_fault_of_ours_is_told_and_ends_no_connection() -> None:
    faults: list[Any] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
        async with served() as it:
            talk = await it.admitted()
            answer = await talk.ask(line("release", worker="w", attempt="fault"))
            assert answer["error"]["code"] == wire.INTERNAL_ERROR
            assert (await talk.ask(STATUS))["result"] == {"called": "status"}

    asyncio.run(scene())
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


def test_answers_of_one_moment_come_whole_and_in_order() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            it.hold()
            calls = b"".join(line("status", id=id) for id in range(server.IN_FLIGHT_MAX))
            talk.writer.write(calls[:-40])
            await asyncio.sleep(0)
            talk.writer.write(calls[-40:])
            while len(it.calls) < server.IN_FLIGHT_MAX:
                await asyncio.sleep(0)
            it.go()
            replies = [orjson.loads(await talk.reader.readline()) for _ in range(server.IN_FLIGHT_MAX)]
            assert [reply["id"] for reply in replies] == list(range(server.IN_FLIGHT_MAX))

    asyncio.run(scene())


def test_a_second_handshake_is_no_call() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            assert (await talk.ask(line("auth", nonce=NONCE)))["error"]["code"] == wire.METHOD_NOT_FOUND
            assert (await talk.ask(line("prove", proof="")))["error"]["code"] == wire.METHOD_NOT_FOUND
            assert (await talk.ask(STATUS))["result"] == {"called": "status"}

    asyncio.run(scene())


def test_an_error_of_a_call_keeps_its_class() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            found = wire.parse(orjson.dumps(await talk.ask(line("bad_input", **PARAMS["bad_input"]))))
            assert isinstance(found, wire.ErrorReply)
            assert type(found.error) is UsageError
            assert str(found.error) == "a user's mistake"

    asyncio.run(scene())


def test_an_over_long_line_ends_its_connection() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            talk.writer.write(b"x" * (FRAME_BYTES_MAX + 1))
            reply = orjson.loads(await talk.reader.readline())
            assert (reply["id"], reply["error"]["code"]) == (None, wire.PARSE_ERROR)
            assert await talk.rest() == b""
            assert it.calls == []

    asyncio.run(scene())


@pytest.mark.parametrize("over", [0, 1])
def test_before_the_handshake_lines_are_short(over: int) -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.connect()
            text = line("auth", nonce="n" * 64)
            fill = server.UNPROVEN_FRAME_BYTES_MAX - len(text) + over
            talk.writer.write(text.replace(b":", b":" + b" " * fill, 1))
            assert (b"required" in await talk.reader.readline()) is not bool(over)

    asyncio.run(scene())


@pytest.mark.parametrize("over", [0, 1])
def test_no_more_than_sixteen_calls_are_in_flight(over: int) -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            it.hold()
            for id in range(server.IN_FLIGHT_MAX + over):
                talk.writer.write(line("status", id=id))
            while len(it.calls) < server.IN_FLIGHT_MAX:
                await asyncio.sleep(0)
            if over:
                assert await talk.rest() == b""
                await it.closed.get()
                return
            it.go()
            replies = [orjson.loads(await talk.reader.readline()) for _ in range(server.IN_FLIGHT_MAX)]
            assert {reply["id"] for reply in replies} == set(range(server.IN_FLIGHT_MAX))
            assert "result" in await talk.ask(STATUS)  # answered calls do not count

    assert server.IN_FLIGHT_MAX == 16
    asyncio.run(scene())


@pytest.mark.parametrize("said", [b"", b'{"jsonrpc":', line("auth", nonce=NONCE)])
def test_a_slow_handshake_is_cut_off(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.01)

    async def scene() -> None:
        async with served(TOKEN) as it:
            talk = await it.connect()
            talk.writer.write(said)
            assert b"refused" not in await talk.rest()
            assert (await it.closed.get()).proven is False
            assert it.calls == []

    asyncio.run(scene())


def test_strangers_cannot_take_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNPROVEN_MAX", 2)

    async def scene() -> None:
        async with served(TOKEN) as it:
            first, second = await it.connect(), await it.connect()
            third = await it.connect()
            assert await third.rest() == b""
            challenge = (await first.ask(line("auth", nonce=NONCE)))["result"]
            await first.ask(line("prove", proof=proof_for("right", challenge)))  # no stranger any more
            assert "result" in await (await it.connect()).ask(line("auth", nonce=NONCE))
            assert "result" in await second.ask(line("auth", nonce=NONCE))

    asyncio.run(scene())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)

    async def scene() -> None:
        async with served() as it:
            first, _ = await it.admitted(), await it.admitted()
            assert await (await it.connect()).rest() == b""
            first.writer.close()
            await it.closed.get()
            assert (await (await it.admitted()).ask(STATUS))["result"] == {"called": "status"}

    asyncio.run(scene())


def test_who_hangs_up_is_noticed_and_its_calls_end() -> None:
    async def scene() -> None:
        async with served() as it:
            talk = await it.admitted()
            it.hold()
            talk.writer.write(STATUS)
            talk.writer.write_eof()
            await it.closed.get()
            assert it.held is not None and len(it.held) == 1
            it.go()  # nobody hears it
            assert await talk.rest() == b""
            assert (await (await it.admitted()).ask(STATUS))["result"] == {"called": "status"}

    asyncio.run(scene())


def test_a_port_in_use() -> None:
    async def scene() -> None:
        async with served() as it:
            other = LineServer({}, token=None, on_close=lambda peer: None)
            with pytest.raises(PortInUse, match=rf"{it.address[1]}.*--listen"):
                await other.start(*it.address)
            await other.close()

    asyncio.run(scene())


def test_a_host_that_is_not_there_is_no_traceback() -> None:
    async def scene() -> None:
        with pytest.raises(PortInUse, match="cannot listen"):
            await LineServer({}, token=None, on_close=lambda peer: None).start("192.0.2.1", 0)

    asyncio.run(scene())


# The client


@contextmanager
def pretending(*scripts: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server that does to each connection what the test says."""
    failed: list[BaseException] = []

    def serve(listening: socket.socket) -> None:
        try:
            for script in scripts:
                peer, _ = listening.accept()
                with peer:
                    peer.settimeout(30)
                    script(peer)
        except BaseException as error:
            failed.append(error)
            raise

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            thread.join(60)
    assert not failed


def heard(peer: socket.socket, count: int = 1) -> list[Any]:
    """The next documents of the client, which then waits."""
    data = b""
    while data.count(b"\n") < count:
        piece = peer.recv(1 << 16)
        assert piece, data
        data += piece
    return [orjson.loads(text) for text in data.splitlines()]


def admit(peer: socket.socket) -> None:
    """The handshake of a server without a token."""
    heard(peer)
    peer.sendall(wire.response(1, messages.Challenge(required=False)))


def says(*texts: bytes) -> Callable[[socket.socket], None]:
    """Waits for a call, says something, and hangs up when the client does."""

    def script(peer: socket.socket) -> None:
        for text in texts:
            heard(peer)
            with suppress(ConnectionError):
                peer.sendall(text)
        with suppress(ConnectionError):  # the client does not read what it need not
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 16):
                pass

    return script


def until(connection: Connection, got: list[Any], count: int) -> list[Any]:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while len(got) < count:
            assert selector.select(30)
            connection.on_ready()
    return got


def test_replies_find_their_calls_in_any_order_and_in_any_pieces() -> None:
    def script(peer: socket.socket) -> None:
        admit(peer)
        calls = heard(peer, 3)
        assert [call["params"] for call in calls] == [{"n": 0}, {"n": 1}, {"n": 2}]
        answer = b"".join(
            [
                wire.response(calls[2]["id"], "third"),
                wire.response(999, "nobody asked"),
                wire.response("x", "nobody asked this either"),
                wire.request(5, "status", {}),
                wire.error(calls[0]["id"], UsageError("first")),
                wire.response(calls[1]["id"], "second"),
                wire.response(calls[1]["id"], "twice"),
            ]
        )
        for first, end in itertools.pairwise([*range(0, len(answer), 7), len(answer)]):
            peer.sendall(answer[first:end])
        peer.recv(1)

    with pretending(script) as address:
        connection = Connection(address, None, timeout_s=10)
        got: list[Any] = []
        for number in range(3):
            connection.call("ask", {"n": number}, lambda result, number=number: got.append((number, result)))
        until(connection, got, 3)
        connection.close()
    assert [got[0], got[2]] == [(2, "third"), (1, "second")]
    assert got[1][0] == 0
    assert type(got[1][1]) is UsageError


@pytest.mark.parametrize("reset", [False, True])
def test_a_last_word_is_heard_before_the_end_of_the_connection(reset: bool) -> None:
    gone = threading.Event()

    def script(peer: socket.socket) -> None:
        admit(peer)
        [call] = heard(peer)
        peer.sendall(wire.response(call["id"], "done"))
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        gone.set()

    with pretending(script) as address:
        connection = Connection(address, None, timeout_s=10)
        got: list[Any] = []
        connection.call("status", {}, got.append)
        assert gone.wait(30)
        if not reset:  # what a reset leaves of what came before is the system's affair
            connection.on_ready()
            assert got == ["done"]
        with pytest.raises(CoordinatorLost):
            until(connection, [], 1)
        connection.close()


def test_what_the_socket_does_not_take_at_once_is_sent_later() -> None:
    text = "x" * 900_000
    calls: list[Any] = []

    def script(peer: socket.socket) -> None:
        admit(peer)
        calls.extend(heard(peer, 12))
        for call in calls:
            peer.sendall(wire.response(call["id"], len(call["params"]["text"])))
        peer.recv(1)

    with pretending(script) as address:
        connection = Connection(address, None, timeout_s=10)
        got: list[Any] = []
        for _ in range(12):
            connection.call("ask", {"text": text}, got.append)
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while connection.wants_write:
                assert selector.select(30)
                connection.on_ready()
        assert until(connection, got, 12) == [len(text)] * 12
        connection.close()
    assert len(calls) == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}\n', "does not talk to us"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"required":"yes"}}\n', "does not talk to us"),
        (wire.error(None, MrfastError("what is this?")), "what is this"),
        (wire.error(1, UsageError("go away")), "go away"),
        (wire.error(1, CoordinatorLost("another token")), "another token"),
        (b"x" * (FRAME_BYTES_MAX + 1), "no coordinator"),
        (wire.response(1, messages.Challenge(required=True, nonce="n", proof="p")), "wants a token"),
    ],
    ids=lambda value: repr(value[:50]),
)
def test_whatever_answers_a_handshake_the_coordinator_is_lost(text: bytes, said: str) -> None:
    with pretending(says(text)) as address, pytest.raises(CoordinatorLost, match=said):
        Connection(address, None, timeout_s=10)


def test_a_server_that_does_not_know_the_token_learns_nothing() -> None:
    """The client proves itself only to one who has."""
    told: list[bytes] = []

    def script(peer: socket.socket) -> None:
        heard(peer)
        peer.sendall(wire.response(1, messages.Challenge(required=True, nonce="n", proof="0" * 64)))
        told.append(peer.recv(1 << 16))

    with pretending(script) as address, pytest.raises(CoordinatorLost, match="another token"):
        Connection(address, TOKEN, timeout_s=10)
    assert told == [b""]


def test_a_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "HANDSHAKE_S", 0.01)
    silent = pretending(lambda peer: peer.recv(1 << 16) and peer.recv(1))
    with silent as address, pytest.raises(CoordinatorLost, match="timed out"):
        Connection(address, None, timeout_s=10)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
    with pytest.raises(CoordinatorLost, match="no coordinator answers"):
        Connection(address, None, timeout_s=10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "closed the connection"),
        (b"nonsense\n", "protocol"),
        (b"x" * (FRAME_BYTES_MAX + 1), "no coordinator"),
        (b'"' + b"x" * FRAME_BYTES_MAX + b'"\n', "no coordinator|protocol"),
        (wire.error(None, MrfastError("a line of over 1 byte")), "a line of over 1 byte"),
    ],
    ids=lambda value: repr(value[:50]),
)
def test_a_connection_that_goes_wrong_later_says_so(text: bytes, said: str) -> None:
    handshake = wire.response(1, messages.Challenge(required=False))
    with pretending(says(handshake, text)) as address:
        connection = Connection(address, None, timeout_s=10)
        got: list[Any] = []
        connection.call("status", {}, got.append)
        with pytest.raises(MrfastError, match=said):
            until(connection, got, 1)
        connection.close()
        assert got == []
