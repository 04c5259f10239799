"""A TCP proxy that can be told to cut, slow down or hold up what passes through it."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

HELD_BYTES_MAX = 1 << 18  # then the sender feels it
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset in place of what was still to be sent


class Way:
    """One direction of a connection: what has come from `source` and is still to go to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        self.source, self.sink, self.to_server = source, sink, to_server
        self.held: deque[tuple[float, bytes]] = deque()  # (not to be passed on before, bytes)
        self.ended = False

    def held_bytes(self) -> int:
        return sum(len(data) for _, data in self.held)


class Proxy:
    """Passes connections to 127.0.0.1:port on `server_port` on, until told otherwise; one thread, no randomness."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._bell, self._rope = socket.socketpair()
        self._orders: deque[Callable[[], None]] = deque()
        self._connections: list[tuple[Way, Way]] = []
        self._stalled_until = {True: 0.0, False: 0.0}  # by to_server
        self._slow_until = self._delay_s = 0.0
        self._open = True
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    # Orders, from any thread

    def cut(self, which: Callable[[int], bool], reset: bool) -> None:
        """Cuts the connections whose place in line is chosen: they are closed, or reset, at both ends."""
        self._order(lambda: [self._cut(pair, reset) for i, pair in enumerate(list(self._connections)) if which(i)])

    def slow(self, delay_s: float, for_s: float) -> None:
        """What comes in the next `for_s` seconds is passed on `delay_s` later."""

        def order() -> None:
            self._slow_until, self._delay_s = time.monotonic() + for_s, delay_s

        self._order(order)

    def stall(self, to_server: bool, for_s: float) -> None:
        """Nothing passes in one direction for `for_s` seconds, not even the end of a connection."""
        self._order(lambda: self._stalled_until.__setitem__(to_server, time.monotonic() + for_s))

    def heal(self) -> None:
        """Ends what slows or stalls."""

        def order() -> None:
            self._stalled_until = {True: 0.0, False: 0.0}
            self._slow_until = 0.0

        self._order(order)

    def close(self) -> None:
        """Cuts everything and ends the thread."""
        self._order(lambda: setattr(self, "_open", False))
        self._thread.join(10)

    def _order(self, order: Callable[[], object]) -> None:
        self._orders.append(lambda: order() and None)
        with suppress(OSError):
            self._rope.send(b"!")

    # The thread

    def _run(self) -> None:
        while self._open:
            now = time.monotonic()
            ways = list(self._ways())
            reads = [way.source for way in ways if self._wants_read(way, now)]
            writes = [way.sink for way in ways if self._wants_write(way, now)]
            restless = now < max(*self._stalled_until.values(), self._slow_until) or any(way.held for way in ways)
            readable, writable, _ = select.select(
                [self._listener, self._bell, *reads], writes, [], 0.01 if restless else None
            )
            if self._bell in readable:
                self._bell.recv(4096)
            if self._listener in readable:
                self._accept()
            for pair in list(self._connections):
                try:
                    for way in pair:
                        self._move(way, way.source in readable, way.sink in writable)
                except OSError:
                    self._cut(pair, reset=True)
                else:
                    if any(way.ended and not way.held for way in pair):
                        self._cut(pair, reset=False)
            while self._orders:
                self._orders.popleft()()
        for pair in list(self._connections):
            self._cut(pair, reset=False)
        for each in (self._listener, self._bell, self._rope):
            each.close()

    def _ways(self) -> Iterator[Way]:
        for pair in self._connections:
            yield from pair

    def _wants_read(self, way: Way, now: float) -> bool:
        return not way.ended and now >= self._stalled_until[way.to_server] and way.held_bytes() < HELD_BYTES_MAX

    def _wants_write(self, way: Way, now: float) -> bool:
        return bool(way.held) and now >= max(self._stalled_until[way.to_server], way.held[0][0])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), timeout=1.0)
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.append((Way(client, server, True), Way(server, client, False)))

    def _move(self, way: Way, readable: bool, writable: bool) -> None:
        with suppress(BlockingIOError):
            if writable:
                ready_at, data = way.held[0]
                sent = way.sink.send(data)
                way.held.popleft()
                if sent < len(data):
                    way.held.appendleft((ready_at, data[sent:]))
        with suppress(BlockingIOError):
            if readable:
                now = time.monotonic()
                data = way.source.recv(1 << 16)
                way.ended = not data
                if data:
                    way.held.append((now + self._delay_s if now < self._slow_until else now, data))

    def _cut(self, pair: tuple[Way, Way], reset: bool) -> None:
        if pair not in self._connections:
            return
        self._connections.remove(pair)
        for way in pair:
            if reset:
                with suppress(OSError):
                    way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            way.source.close()
