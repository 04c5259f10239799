"""The coordinator's side of the connections: lines in, one gate, one dispatch table, lines out. asyncio, one thread."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

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
REPLY_TURNS = 3  # of the loop, from a call's answer to its line
UNPROVEN_FRAME_BYTES_MAX = 4096

Handler = Callable[["Peer", Any], Awaitable[Any]]


class Peer:
    """One connection: who is at its other end, and whether it may speak."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.worker: str | None = None
        self.proven = False
        self.nonces: tuple[str, str] | None = None
        self.writer = writer
        self.calls: set[asyncio.Task[None]] = set()

    def send(self, line: bytes) -> None:
        """Queues a line; a peer that does not read what it asked for is cut off."""
        self.writer.write(line)
        if self.writer.transport.get_write_buffer_size() > 4 * FRAME_BYTES_MAX:
            self.writer.transport.abort()


class LineServer:
    """Listens, authenticates, and calls `handlers[method](peer, params)`; `on_close(peer)` when a peer is gone."""

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
        self._serving: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """The address that is listened on; PortInUse if another process has it."""
        try:
            handshake_s = HANDSHAKE_S if self._tls is not None else None
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=FRAME_BYTES_MAX, ssl=self._tls, ssl_handshake_timeout=handshake_s
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
        for _ in range(REPLY_TURNS):
            await asyncio.sleep(0)
        for peer in list(self._peers):
            for call in peer.calls:
                call.cancel()
            peer.writer.close()
        if self._serving:  # cancelled at the loop's end they would print tracebacks
            _, stuck = await asyncio.wait(self._serving, timeout=CLOSE_S)
            for task in stuck:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        unproven = sum(not each.proven for each in self._peers)
        if len(self._peers) >= CONNECTIONS_MAX or (self._token and unproven >= UNPROVEN_MAX):
            writer.close()
            return
        self._peers.add(peer)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            await self._read(peer, reader)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the peer is gone, or never said who it is
        finally:
            self._peers.discard(peer)
            for call in peer.calls:
                call.cancel()
            writer.close()
            self._on_close(peer)

    async def _read(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                async with asyncio.timeout(None if peer.proven else HANDSHAKE_S):
                    line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                peer.send(error(None, BadFrame(f"a line of over {FRAME_BYTES_MAX:,} bytes"), PARSE_ERROR))
                return
            if not peer.proven and len(line) > UNPROVEN_FRAME_BYTES_MAX:
                return
            try:
                call = parse(line)
            except BadFrame as bad:
                peer.send(error(None, bad, PARSE_ERROR))
                return
            if not isinstance(call, Request) or len(peer.calls) >= IN_FLIGHT_MAX:
                return
            if not peer.proven:
                if not self._admit(peer, call):
                    await peer.writer.drain()
                    return
                continue
            task = asyncio.create_task(self._answer(peer, call))
            peer.calls.add(task)
            task.add_done_callback(peer.calls.discard)

    def _admit(self, peer: Peer, call: Request) -> bool:
        """The gate: until a peer has proven itself it can only do that. False closes the connection."""
        try:
            if call.method == "auth" and peer.nonces is None:
                nonce = decode(messages.Auth, call.params).nonce
                if self._token is None:
                    peer.proven = True
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
                    peer.proven = True
                    peer.send(response(call.id, {}))
                    return True
        except BadFrame:
            pass
        peer.send(error(call.id, CoordinatorLost("the coordinator refused: this token is not its own")))
        return False

    async def _answer(self, peer: Peer, call: Request) -> None:
        handler = self._handlers.get(call.method)
        if handler is None:
            peer.send(error(call.id, MrfastError(f"there is no call {call.method!r}"), METHOD_NOT_FOUND))
            return
        try:
            params: Any = decode(messages.CALLS[call.method], call.params)
        except BadFrame as bad:
            peer.send(error(call.id, bad, INVALID_PARAMS))
            return
        try:
            line = response(call.id, await handler(peer, params))
        except MrfastError as raised:
            line = error(call.id, raised)
        except Exception as raised:
            peer.send(error(call.id, raised, INTERNAL_ERROR))
            raise
        peer.send(line)
