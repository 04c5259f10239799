"""A worker's side of the connection: calls in flight by id, on a non-blocking socket that a selector watches.

The caller owns the loop and the clock: it selects on `fileno()`, calls `on_ready()`, and gets each reply through the
function that it gave with the call.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mrfast.control import messages
from mrfast.control.schema import BadFrame, decode
from mrfast.control.tls import not_now, refusal
from mrfast.control.wire import ErrorReply, Reply, parse, request
from mrfast.errors import CoordinatorLost, MrfastError, UsageError
from mrfast.model import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from ssl import SSLContext

OnReply = Callable[[Any], None]
RECEIVE_BYTES = 1 << 18
HANDSHAKE_S = 5.0


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT"; UsageError if it is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"{text!r} is no address: write HOST:PORT, such as 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def ask_once(
    address: tuple[str, int],
    token: bytes | None,
    method: str,
    params: Any,
    *,
    timeout_s: float,
    tls: SSLContext | None = None,
) -> Any:
    """The result of one call, on a connection of its own; CoordinatorLost if none comes."""
    connection = Connection(address, token, timeout_s=timeout_s, tls=tls)
    got: list[Any] = []
    try:
        connection.call(method, params, got.append)
        while not got:
            writing = [connection] if connection.wants_write else []
            if not any(select.select([connection], writing, [], timeout_s)):
                raise CoordinatorLost(f"{address[0]}:{address[1]} has been silent for {timeout_s:.0f} s")
            connection.on_ready()
    finally:
        connection.close()
    if isinstance(got[0], MrfastError):
        raise got[0]
    return got[0]


class Connection:
    """One authenticated connection to a coordinator. CoordinatorLost whenever it cannot go on."""

    def __init__(
        self, address: tuple[str, int], token: bytes | None, *, timeout_s: float, tls: SSLContext | None = None
    ) -> None:
        self.address = address
        self._sent_at_most = 0
        self._waiting: dict[int, OnReply] = {}
        self._again: tuple[type[OSError], ...] = (BlockingIOError,)  # what says "not now"
        self._incoming = bytearray()
        self._outgoing = bytearray()
        try:
            self._socket = socket.create_connection(address, timeout=timeout_s)
        except OSError as error:
            raise CoordinatorLost(f"no coordinator answers at {self._name}: {error}") from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.settimeout(HANDSHAKE_S)
            if tls is not None:
                self._again = not_now()
                self._socket = tls.wrap_socket(self._socket, server_hostname=address[0])
            self._handshake(token)
            self._socket.setblocking(False)
        except (MrfastError, OSError) as error:
            self.close()
            if tls is not None and (refused := refusal(error)):
                raise CoordinatorLost(f"no TLS with the coordinator at {self._name}: {refused}") from None
            if isinstance(error, CoordinatorLost):
                raise
            raise CoordinatorLost(f"{self._name} does not talk to us: {error}") from error

    @property
    def _name(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return bool(self._outgoing)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def call(self, method: str, params: Any, on_reply: OnReply) -> None:
        """Sends a call; its result's JSON value, or the MrfastError it raised, goes to `on_reply` in on_ready()."""
        self._sent_at_most += 1
        self._waiting[self._sent_at_most] = on_reply
        self._outgoing += request(self._sent_at_most, method, params)
        self._flush()

    def on_ready(self) -> None:
        """Sends what waits, and hands out the replies that have come.

        CoordinatorLost comes in a call of its own: a last word and the end of the connection often arrive together.
        """
        self._flush()
        heard = False
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except self._again:
                return
            except OSError as error:
                if heard:
                    return
                raise CoordinatorLost(f"the connection to {self._name} broke: {error}") from error
            if not data:
                if heard:
                    return
                raise CoordinatorLost(f"the coordinator at {self._name} closed the connection")
            heard = True
            self._incoming += data
            for line in self._lines():
                self._heard(line)

    def close(self) -> None:
        """Closes the socket; calls in flight get no reply."""
        self._socket.close()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except self._again:
            pass
        except OSError as error:
            raise CoordinatorLost(f"the connection to {self._name} broke: {error}") from error

    def _lines(self) -> list[bytes]:
        head, newline, rest = self._incoming.rpartition(b"\n")
        if len(rest) > FRAME_BYTES_MAX:
            raise CoordinatorLost(f"{self._name} sent a line of over {FRAME_BYTES_MAX:,} bytes: it is no coordinator")
        if not newline:
            return []
        self._incoming = bytearray(rest)
        return bytes(head).split(b"\n")

    def _heard(self, line: bytes) -> None:
        try:
            reply = parse(line)
        except BadFrame as error:
            raise CoordinatorLost(f"{self._name} does not speak mrfast's protocol: {error}") from error
        if isinstance(reply, ErrorReply) and reply.id is None:
            raise reply.error
        if isinstance(reply, (Reply, ErrorReply)) and isinstance(reply.id, int):
            on_reply = self._waiting.pop(reply.id, None)
            if on_reply is not None:
                on_reply(reply.result if isinstance(reply, Reply) else reply.error)

    def _handshake(self, token: bytes | None) -> None:
        nonce = os.urandom(32).hex()
        challenge = decode(messages.Challenge, self._ask("auth", messages.Auth(nonce)))
        if not challenge.required:
            if token is not None:
                raise CoordinatorLost(f"the coordinator at {self._name} has no token, and MRFAST_TOKEN is set here")
            return
        if token is None:
            raise CoordinatorLost(f"the coordinator at {self._name} wants a token: set MRFAST_TOKEN to its own")
        import hmac

        if not hmac.compare_digest(challenge.proof, messages.proof(token, "server", nonce, challenge.nonce)):
            raise CoordinatorLost(f"the coordinator at {self._name} has another token than MRFAST_TOKEN here")
        self._ask("prove", messages.Prove(messages.proof(token, "client", nonce, challenge.nonce)))

    def _ask(self, method: str, params: Any) -> Any:
        """One call and its result, waiting; for the handshake only."""
        got: list[Any] = []
        self._sent_at_most += 1
        self._waiting[self._sent_at_most] = got.append
        self._socket.sendall(request(self._sent_at_most, method, params))
        while not got:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                cure = "a certificate from us, --tls-cert is" if len(self._again) > 1 else "TLS, --tls-ca is"
                raise CoordinatorLost(
                    f"the coordinator at {self._name} closed the connection before a word; should it want {cure} "
                    "needed here"
                )
            self._incoming += data
            for line in self._lines():
                self._heard(line)
        if isinstance(got[0], MrfastError):
            raise got[0]
        return got[0]
