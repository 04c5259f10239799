"""The coordinator's side of the connections: lines in, one gate, one dispatch table, lines out. asyncio, one thread."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from mrfast.control import messages
from mrfast.control.schema import BadFrame, decode
from mrfast.control.wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Request,
    error,
    parse,
    response,
)
from mrfast.errors import CoordinatorLost, MrfastError, PortInUse
from mrfast.model import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from ssl import SSLContext

CONNECTIONS_MAX = 1024
UNPROVEN_MAX = 32
IN_FLIGHT_MAX = 16
HANDSHAKE_S = 5.0
CLOSE_S = 2.0
UNPROVEN_FRAME_BYTES_MAX = 4096

Reply = Callable[[Any], None]  # takes the result, or the MrfastError that the call raises
Handler = Callable[["Peer", Any, Reply], None]


class Peer(asyncio.Protocol):
    """One connection, and whether it may speak."""

    def __init__(self, server: LineServer) -> None:
        self.proven = False
        self.nonces: tuple[str, str] | None = None
        self.in_flight = 0
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._is_open = False
        self._handshake: asyncio.TimerHandle | None = None
        self._incoming = bytearray()
        self._searched = 0  # so many bytes of it hold no line's end
        self._outgoing: list[bytes] = []

    def send(self, line: bytes) -> None:
        """Queues a line, for one write with all that this turn of the loop brings; nothing if the peer is gone."""
        if not self._is_open:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(line)

    def prove(self) -> None:
        """From now on its calls are heard."""
        self.proven = True
        if self._handshake is not None:
            self._handshake.cancel()

    def close(self) -> None:
        """Hangs up when all that was sent is written, or was not taken for too long."""
        if self._is_open:
            self._flush()
            self._is_open = False
            self._transport.close()
            self._loop.call_later(CLOSE_S, self._transport.abort)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_open = True
        if self._server.admits(self):
            self._handshake = self._loop.call_later(HANDSHAKE_S, self.close)
        else:
            self.close()

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        while self._is_open:
            end = self._incoming.find(b"\n", self._searched)
            length = len(self._incoming) if end < 0 else end + 1
            if length > (FRAME_BYTES_MAX if self.proven else UNPROVEN_FRAME_BYTES_MAX):
                if self.proven:
                    self.send(error(None, BadFrame(f"a line of over {FRAME_BYTES_MAX:,} bytes"), PARSE_ERROR))
                self.close()
                return
            self._searched = length
            if end < 0:
                return
            line = bytes(self._incoming[: end + 1])
            del self._incoming[: end + 1]
            self._searched = 0
            self._server.heard(self, line)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_open = False
        if self._handshake is not None:
            self._handshake.cancel()
        self._server.lost(self)

    def _flush(self) -> None:
        lines, self._outgoing = self._outgoing, []
        if not self._is_open or not lines:
            return
        self._transport.write(lines[0] if len(lines) == 1 else b"".join(lines))
        if self._transport.get_write_buffer_size() > 4 * FRAME_BYTES_MAX:  # it does not read what it asked for
            self._is_open = False
            self._transport.abort()


class LineServer:
    """Listens, authenticates, and calls `handlers[method](peer, params, reply)`; `on_close(peer)` when a peer is gone.

    A handler may call `reply` at once or later, once.
    """

    def __init__(
        self,
        handlers: dict[str, Handler],
        *,
        token: bytes | None,
        tls: SSLContext | None = None,
        on_close: Callable[[Peer], None],
    ) -> None:
        self._handlers = handlers
        self._token = token
        self._tls = tls
        self._on_close = on_close
        self._peers: set[Peer] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """The address that is listened on; PortInUse if another process has it."""
        loop = asyncio.get_running_loop()
        handshake_s = HANDSHAKE_S if self._tls is not None else None
        try:
            self._server = await loop.create_server(
                lambda: Peer(self), host, port, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError as failed:
            raise PortInUse(
                f"cannot listen on {host}:{port}: {failed.strerror or failed}; choose another address with --listen"
            ) from failed
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        """Stops listening and closes every connection; replies that are ready go out before."""
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.close()
        while self._peers:
            self._empty.clear()
            await self._empty.wait()

    # What peers call

    def admits(self, peer: Peer) -> bool:
        """Whether there is room for one more connection; it then counts."""
        unproven = sum(not each.proven for each in self._peers) if self._token else 0
        if len(self._peers) >= CONNECTIONS_MAX or unproven >= UNPROVEN_MAX:
            return False
        self._peers.add(peer)
        return True

    def lost(self, peer: Peer) -> None:
        """A connection has ended."""
        if peer in self._peers:
            self._peers.discard(peer)
            self._on_close(peer)
        if not self._peers:
            self._empty.set()

    def heard(self, peer: Peer, line: bytes) -> None:
        """A peer has sent a line."""
        try:
            call = parse(line)
        except BadFrame as bad:
            peer.send(error(None, bad, PARSE_ERROR))
            peer.close()
            return
        if not isinstance(call, Request) or peer.in_flight >= IN_FLIGHT_MAX:
            peer.close()
        elif peer.proven:
            self._answer(peer, call)
        elif not self._admit(peer, call):
            peer.close()

    # Inside

    def _admit(self, peer: Peer, call: Request) -> bool:
        """The gate: until a peer has proven itself it can only do that. False closes the connection."""
        try:
            if call.method == "auth" and peer.nonces is None:
                nonce = decode(messages.Auth, call.params).nonce
                if self._token is None:
                    peer.prove()
                    peer.send(response(call.id, messages.Challenge(required=False)))
                    return True
                own = os.urandom(32).hex()
                peer.nonces = nonce, own
                proof = messages.proof(self._token, "server", nonce, own)
                peer.send(response(call.id, messages.Challenge(required=True, nonce=own, proof=proof)))
                return True
            if call.method == "prove" and peer.nonces is not None and self._token is not None:
                expected = messages.proof(self._token, "client", *peer.nonces)
                if hmac.compare_digest(decode(messages.Prove, call.params).proof.encode(), expected.encode()):
                    peer.prove()
                    peer.send(response(call.id, {}))
                    return True
        except BadFrame:
            pass
        peer.send(error(call.id, CoordinatorLost("the coordinator refused: this token is not its own")))
        return False

    def _answer(self, peer: Peer, call: Request) -> None:
        handler = self._handlers.get(call.method)
        if handler is None:
            peer.send(error(call.id, MrfastError(f"there is no call {call.method!r}"), METHOD_NOT_FOUND))
            return
        try:
            params: Any = decode(messages.CALLS[call.method], call.params)
        except BadFrame as bad:
            peer.send(error(call.id, bad, INVALID_PARAMS))
            return
        peer.in_flight += 1

        def reply(answer: Any) -> None:
            peer.in_flight -= 1
            try:
                line = error(call.id, answer) if isinstance(answer, MrfastError) else response(call.id, answer)
            except MrfastError as raised:  # it is too long
                line = error(call.id, raised)
            peer.send(line)

        try:
            handler(peer, params, reply)
        except MrfastError as raised:
            reply(raised)
        except Exception as raised:  # noqa: BLE001 - a fault of ours: this call's peer is told of it, and all others go on
            peer.in_flight -= 1
            peer.send(error(call.id, raised, INTERNAL_ERROR))
            asyncio.get_running_loop().call_exception_handler({"message": f"{call.method} failed", "exception": raised})
