"""A process beside a cluster's worker that runs a job's tasks there: a slot pool behind a socket.

The cluster's own process has threads, and runs other people's code: slots are forked here, from one thread. It ends
with the socket, and its slots with it.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from typing import Any

from .. import storage
from ..control.schema import decode, encode
from ..control.wire import error_to_wire
from ..errors import AlreadyExists, MrfastError
from ..model import WAITING, Failure, Progress, Segment, inter_key
from ..storage import ledger
from ..storage.base import Store
from ..tasks.frames import Unpacker, from_document, pack, to_document
from ..tasks.pool import Bad, Event, Finished, Ready, Refused, SlotPool, Wanted
from . import orders

PROGRESS_S = 1.0
RECEIVE_BYTES = 1 << 18
SLOTS_MAX = 1024  # the cluster decides how many tasks run here at once


class Host:
    """The tasks of one job on one worker of a cluster: orders in, outcomes out."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unpacker = Unpacker()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._on_channel)
        self._pool: SlotPool | None = None
        self._store: Store | None = None
        self._job = ""
        self._app: list[str] = []
        self._segments: dict[str, tuple[list[Segment], int]] = {}
        self._progress_at = 0.0
        self._stall_s = 0.0
        self._moved: dict[str, tuple[Progress, float]] = {}  # attempt -> where it is, and since when
        self._over = False

    def run(self) -> None:
        """Serves until the other end hangs up."""
        try:
            while not self._over:
                pool = self._pool
                busy = pool is not None and any(slot.task is not None for slot in pool.slots)
                timeout = max(0.0, self._progress_at - time.monotonic()) if busy else None
                for event in pool.wait(timeout) if pool is not None else self._first():
                    self._on(event)
                if busy and time.monotonic() >= self._progress_at:
                    self._progress_at = time.monotonic() + PROGRESS_S
                    self._tell_progress()
                    self._stop_stalled(time.monotonic())
        finally:
            if self._pool is not None:
                self._pool.close()

    def _first(self) -> list[Event]:
        """What comes before there is an application."""
        return [event for key, _ in self._selector.select() for event in key.data()]

    def _on_channel(self) -> list[Event]:
        try:
            data = self._channel.recv(RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self._over = True
        for message in self._unpacker.feed(data):
            [(word, value)] = message.items()
            getattr(self, f"_{word}")(value)
        return []

    def _begin(self, value: dict[str, Any]) -> None:
        self._job, self._store, self._app = value["job"], storage.open_store(value["store_url"]), value["app"]
        self._stall_s = value["stall_s"]

    def _load(self, store: Store) -> None:
        load = orders.loader(orders.opened(store, _sent(self._app)))
        self._pool = SlotPool(
            load, SLOTS_MAX, self._selector, on_printed=self._printed, private=lambda: (self._channel.fileno(),)
        )
        self._pool.start(1)

    def _order(self, value: dict[str, Any]) -> None:
        attempt = value["attempt"]
        assert self._store is not None
        try:
            if self._pool is None:
                self._load(self._store)
            # A cluster may run again what it believes lost, and both may write: only the first one begins.
            self._store.put_if_absent(inter_key(self._job, f"{attempt}.begun"), b"")
        except AlreadyExists:
            self._done(attempt, {"lost": "it had begun on another worker"})
            return
        except MrfastError as error:
            self._done(attempt, {"report": to_document(Failure(attempt, "store", str(error), counted=False))})
            return
        try:
            document = orders.opened(self._store, _sent(value["task"]))
        except MrfastError as error:
            self._done(attempt, {"report": to_document(Failure(attempt, "store", str(error), counted=False))})
            return
        if "segments" in document:
            self._segments[attempt] = [decode(Segment, item) for item in document["segments"]], document["next"]
        assert self._pool is not None
        self._pool.send(from_document(document["task"]))

    def _cancel(self, attempt: str) -> None:
        if self._pool is not None and attempt in self._pool.running():
            self._pool.cancel(attempt)
            self._done(attempt, {"lost": "it was cancelled"})

    def _on(self, event: Event) -> None:
        assert self._pool is not None
        if isinstance(event, Ready):
            self._say({"ready": encode(event.info)})
        elif isinstance(event, Refused):
            self._say({"refused": error_to_wire(event.error)})
        elif isinstance(event, Finished):
            self._done(event.report.attempt, {"report": to_document(event.report)})
        elif isinstance(event, Wanted):
            segments, next = self._segments[event.attempt]
            if event.since != next:  # it has heard all: only a map that runs again could tell it more
                event.slot.answer(segments, next, True)
        elif isinstance(event, Bad):
            failure = Failure(
                event.attempt, "corrupt", event.why, input=event.map_attempt, counted=False, map_index=event.map_index
            )
            self._pool.cancel(event.attempt)
            self._done(event.attempt, {"report": to_document(failure)})

    def _done(self, attempt: str, outcome: dict[str, Any]) -> None:
        self._segments.pop(attempt, None)
        slots = [] if self._pool is None else [self._pool.requests()]
        requests = ledger.total([*slots, ledger.current().counts()])
        self._say({"done": [attempt, outcome | {"requests": requests}]})

    def _printed(self, attempt: str, text: str) -> None:
        self._say({"printed": {attempt: text}})

    def _tell_progress(self) -> None:
        assert self._pool is not None
        if running := self._pool.running():
            self._say({"progress": {attempt: encode(done) for attempt, done in running.items()}})

    def _stop_stalled(self, now: float) -> None:
        """Ends attempts that have stood still for --stall-s: of some clusters no progress comes to the job."""
        assert self._pool is not None
        moved, self._moved = self._moved, {}
        for attempt, done in self._pool.running().items():
            before, since = moved.get(attempt, (done, now))
            self._moved[attempt] = (done, since if done == before and done.phase != WAITING else now)
            if now - self._moved[attempt][1] >= self._stall_s:
                failure = Failure(attempt, "stalled", f"no progress for {self._stall_s:g} s (--stall-s)")
                self._pool.cancel(attempt)
                self._done(attempt, {"report": to_document(failure)})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._channel.sendall(pack(message))
        except ConnectionError:
            self._over = True


def _sent(value: list[str]) -> bytes | str:
    """A parcel as it came through JSON."""
    kind, text = value
    return text.encode() if kind == "inline" else text


def main() -> None:
    """`python -m mrfast.engines.host FD`."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        Host(channel).run()


if __name__ == "__main__":
    main()
