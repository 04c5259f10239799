"""A worker's line to its coordinator: connects, connects again, and keeps the number of calls in flight in bounds."""

from __future__ import annotations

import random
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..control.rpc import Connection, OnReply
from ..errors import CoordinatorLost, MrfastError

if TYPE_CHECKING:
    from ssl import SSLContext

CONNECT_TRY_S = 3.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
# The coordinator cuts off who has more than 16 calls open.
CALLS_MAX = 12
# Longer than any call may take, long polls included: then the network is gone, though nobody said so.
SILENCE_S_MAX = 40.0

Say = Callable[[str], None]


class Link:
    """Calls to one address; `on_up` when a connection is there, new or again. Calls of a lost one get no reply."""

    def __init__(
        self,
        address: tuple[str, int],
        token: bytes | None,
        selector: selectors.BaseSelector,
        *,
        connect_s: float,
        tls: SSLContext | None = None,
        on_up: Callable[[], None],
        say: Say,
    ):
        self.up = False
        self._address = address
        self._token = token
        self._tls = tls
        self._selector = selector
        self._connect_s = connect_s
        self._on_up = on_up
        self._say = say
        self._connection: Connection | None = None
        self._queue: deque[tuple[str, Any, OnReply]] = deque()
        self._sent: dict[int, float] = {}  # call number -> when it was sent
        self._numbers = 0
        self._was_up = False
        self._gone_since: float | None = None
        self._try_at = 0.0
        self._backoff_s = BACKOFF_FIRST_S

    @property
    def name(self) -> str:
        """The address as people write it."""
        return f"{self._address[0]}:{self._address[1]}"

    def descriptors(self) -> tuple[int, ...]:
        """What slots must not keep open: the coordinator must see when this process is gone."""
        return () if self._connection is None else (self._connection.fileno(),)

    def step(self, now: float) -> None:
        """Connects if it is time to, sends what may be sent; CoordinatorLost when it is of no use any more."""
        if self._connection is None:
            if now >= self._try_at:
                self._connect(now)
            return
        oldest = min(self._sent.values(), default=now)
        if now - oldest > SILENCE_S_MAX:
            self._lost(CoordinatorLost(f"{self.name} has been silent for {SILENCE_S_MAX:.0f} s"))
        else:
            self._send()

    def next_step_at(self, now: float) -> float:
        """When `step` has something to do next, though nothing has come."""
        return self._try_at if self._connection is None else min(self._sent.values(), default=now) + SILENCE_S_MAX

    def call(self, method: str, params: Any, on_reply: OnReply) -> None:
        """Makes a call as soon as possible; nothing happens while there is no connection."""
        if self.up:
            self._queue.append((method, params, on_reply))
            self._send()

    def close(self) -> None:
        """Hangs up."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
        self._connection = None
        self.up = False
        self._queue.clear()
        self._sent.clear()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        self._gone_since = now if self._gone_since is None else self._gone_since
        left = self._gone_since + self._connect_s - now
        try:
            timeout_s = max(0.1, min(CONNECT_TRY_S, left))
            self._connection = Connection(self._address, self._token, timeout_s=timeout_s, tls=self._tls)
        except CoordinatorLost as error:
            # Without a cause in the network it is an answer, "another token" for instance, and stays so.
            if error.__cause__ is None and "closed the connection" not in str(error):
                raise
            self._retry(error)
            return
        self._gone_since, self._backoff_s = None, BACKOFF_FIRST_S
        self.up = True
        if self._was_up:
            self._say(f"connected to {self.name} again")
        self._was_up = True
        self._selector.register(self._connection, selectors.EVENT_READ, self._on_ready)
        self._on_up()

    def _retry(self, error: CoordinatorLost) -> None:
        now = time.monotonic()
        assert self._gone_since is not None
        if now + self._backoff_s >= self._gone_since + self._connect_s:
            raise CoordinatorLost(
                f"{error}; tried for {self._connect_s:g} s. Start mrfast-coordinator there, or give its address: "
                "mrfast-worker APP HOST:PORT"
            ) from error
        if self._backoff_s == BACKOFF_FIRST_S and not self._was_up:
            self._say(f"no coordinator answers at {self.name} yet; trying for {self._connect_s:g} s")
        self._try_at = now + self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)

    def _lost(self, error: MrfastError) -> None:
        if self._connection is None:
            return
        self._say(f"{error}; connecting again")
        self.close()
        self._gone_since = self._try_at = time.monotonic()

    def _on_ready(self) -> list[Any]:
        """The selector's callback; what replies lead to happens in their own functions."""
        if self._connection is not None:
            try:
                self._connection.on_ready()
            except MrfastError as error:
                self._lost(error)
            self._send()
        return []

    def _send(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            while self._queue and len(self._sent) < CALLS_MAX:
                method, params, on_reply = self._queue.popleft()
                self._numbers += 1
                self._sent[self._numbers] = time.monotonic()
                connection.call(method, params, self._counted(self._numbers, on_reply))
        except CoordinatorLost as error:
            self._lost(error)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_write else 0)
        self._selector.modify(connection, wanted, self._on_ready)

    def _counted(self, number: int, on_reply: OnReply) -> OnReply:
        def heard(result: Any) -> None:
            self._sent.pop(number, None)
            on_reply(result)

        return heard
