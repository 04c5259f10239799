"""The parent's side of the slots: starts them, hands them tasks, hears them, and knows how each one ended.

The parent stays one thread, with everything that it waits for in one selector, so that forking a replacement is safe at
any moment. Whoever owns the selector calls `data()` of each ready key and gets the pool's events.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ..app import App
from ..control.schema import decode, encode
from ..control.wire import error_from_wire
from ..errors import AppError, MrfastError
from ..model import WAITING, AppInfo, Failure, MapTask, Progress, Segment
from ..storage import ledger
from .deaths import crash_frames, how_it_died
from .frames import Report, SharedProgress, Task, Unpacker, from_document, pack, to_document
from .output import REST_S, Output

PLACES = 3  # of a slot in a remote store: one task reads, one computes, one writes
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ready:
    """A slot has loaded the application."""

    slot: Slot
    info: AppInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The application cannot be loaded; more slots would not help."""

    slot: Slot
    error: MrfastError


@dataclass(frozen=True, slots=True)
class Finished:
    """A task has ended, well or badly; the slot is idle, or gone."""

    slot: Slot
    report: Report


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reduce asks for the segments from entry `since` of its log on; `Slot.answer` gives them."""

    slot: Slot
    attempt: str
    since: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A slot's process wants to compute, or no longer does: nothing for whoever owns the pool to do."""

    slot: Slot
    attempt: str


@dataclass(frozen=True, slots=True)
class Bad:
    """A reduce cannot read a map's output; it goes on, and waits for another one."""

    slot: Slot
    attempt: str
    map_index: int
    map_attempt: str
    why: str


Event = Ready | Refused | Finished | Wanted | Turn | Bad


class Slot:
    """One child process; made by SlotPool alone."""

    def __init__(self, pool: SlotPool, number: int):
        self.number = number
        self.task: Task | None = None
        self.ready = self.refused = False
        self.has_turn = self.wants_turn = False
        self.has_computed = False  # the task; what is left of it is to be written
        self.progress = SharedProgress()
        self.requests = pool.pages.new()
        self.crashed_at = ""  # the application's lines of Python, innermost first, if native code crashed below them
        self.record: tuple[int, int] | None = None  # (number of its piece, offset): what the application was given last
        self._pool = pool
        self._unpacker = Unpacker()
        self._unsent = bytearray()
        # All of a slot's descriptors exist before the fork, so that a failure here leaves no child behind.
        self._channel, theirs = socket.socketpair()
        self._output = Output(pool.selector, pool.resting, self._printed)
        self._crash = os.memfd_create("mrfast-crash")  # shared with the child, which writes there when it crashes
        self._exit = -1
        parent = os.getpid()
        self.pid = _fork()
        if not self.pid:
            pool.run_child(self, theirs, self._output.write_end, self._crash, parent)
        theirs.close()
        self._output.start()
        with contextlib.suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(self.pid, self.pid)
        self._exit = os.pidfd_open(self.pid)
        self._channel.setblocking(False)
        pool.selector.register(self._channel, selectors.EVENT_READ, self._on_channel)
        pool.selector.register(self._exit, selectors.EVENT_READ, self._on_exit)

    def descriptors(self) -> tuple[int, ...]:
        """What other children must not hold: it would hide from this child that its parent has ended."""
        return self._channel.fileno(), self._output.fileno(), self._exit, self._crash

    def send(self, task: Task) -> None:
        """Gives the slot its next task; it need not be ready yet."""
        assert self.task is None
        if self.ready:  # what came since the last task is not of this one
            self._output.flush()
        self.task, self.has_computed = task, False
        self.progress.clear()
        if self.ready:
            self._send_task(task)

    def answer(self, segments: Iterable[Segment], next: int, complete: bool) -> None:
        """The answer to Wanted: a page of segments, where the next page begins, and whether every map was listed."""
        self._send({"outputs": [[encode(segment) for segment in segments], next, complete]})

    def go(self) -> None:
        """The answer to a wish for a turn."""
        self.has_turn, self.wants_turn, self.has_computed = True, False, False
        self._send({"go": True})

    def close(self) -> int:
        """Ends the child and its own children at once; its exit status as waitpid gives it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._output.close()
        self.crashed_at = crash_frames(self._crash)
        os.close(self._crash)
        for source in (self._channel, self._exit):
            with contextlib.suppress(KeyError, ValueError):
                self._pool.selector.unregister(source)
        self._channel.close()
        os.close(self._exit)
        self._exit = -1
        self.record = self.progress.record()
        self.progress.close()
        self._pool.pages.close(self.requests)
        return status

    def last_words(self) -> str:
        """What the child left behind: where it crashed, and the end of what it printed."""
        at = f"\nmost recent call first:\n{self.crashed_at}" if self.crashed_at else ""
        text = self._output.tail.decode("utf-8", "backslashreplace").strip()
        return f"{at}\nthe last that it printed:\n{text}" if text else at

    # -- what the selector calls ------------------------------------------------------------------------------------

    def _on_channel(self) -> list[Event]:
        """Reads what has come and writes what could not go out before."""
        if self._channel.fileno() < 0:  # closed by an event of the same round
            return []
        if self._unsent:
            self._flush()
        events: list[Event] = []
        ended = False
        while True:
            try:
                data = self._channel.recv(READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                ended = True
                break
            events += [self._heard(message) for message in self._unpacker.feed(data)]
        return events + self._pool.ended(self) if ended else events

    def _on_exit(self) -> list[Event]:
        """The process has ended; what it said last comes first."""
        if self._exit < 0:
            return []
        events = self._on_channel()
        return events + self._pool.ended(self) if self._exit >= 0 else events

    # -- inside -----------------------------------------------------------------------------------------------------

    def _printed(self, text: str) -> None:
        self._pool.on_printed(self.task.attempt if self.ready and self.task is not None else "", text)

    def _heard(self, message: dict[str, Any]) -> Event:
        [(word, value)] = message.items()
        if word == "report":
            self._output.flush()  # it comes before what is said of the task
            self.task = None
            self._pool.turn_over(self)
            return Finished(self, from_document(value))
        if word == "outputs":
            return Wanted(self, *value)
        if word == "bad":
            return Bad(self, *value)
        if word == "turn":
            self._pool.wants_turn(self) if value else self._pool.turn_over(self)
            return Turn(self, "" if self.task is None else self.task.attempt)
        if word == "refused":
            self.refused = True
            return Refused(self, error_from_wire(value))
        info = decode(AppInfo, value)
        if self._pool.info not in (None, info):
            self.refused = True
            return Refused(self, AppError(f"{info.name}: the application was changed while the job was running"))
        self._pool.info = info
        self._output.flush()
        self.ready = True
        if self.task is not None:
            self._send_task(self.task)
        return Ready(self, info)

    def _send_task(self, task: Task) -> None:
        self._send({"task": [to_document(task), self._pool.ahead]})

    def _send(self, document: dict[str, Any]) -> None:
        self._unsent += pack(document)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = self._channel.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except ConnectionError:  # it has died; its end is an event of its own
            self._unsent.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._pool.selector.modify(self._channel, wanted, self._on_channel)


class SlotPool:
    """Up to `slots_max` slots of one application, forked when there is a task for them.

    With `ahead`, a slot has two more processes, for the tasks before and after the one that computes; see `turns`.
    """

    def __init__(
        self,
        load: Callable[[], App],
        slots_max: int,
        selector: selectors.BaseSelector,
        *,
        on_printed: Callable[[str, str], None] = lambda attempt, text: None,
        private: Callable[[], Iterable[int]] = tuple,
        tmp: str | None = None,
    ):
        self.selector = selector
        self.slots: list[Slot] = []
        self.slots_max = slots_max
        self.ahead = False
        self.on_printed = on_printed  # attempt ("" for none: the application loads) and whole lines
        self.resting: list[Output] = []  # of slots that print too much to be heard at once
        self.info: AppInfo | None = None  # what the first slot that was ready said
        self.pages = ledger.Pages()
        self._load = load
        self._private = private  # descriptors that children must not keep open, a connection for instance
        self._tmp = tmp
        self._numbers = 0
        self._queue: list[Slot] = []  # those that want a turn, the first one first

    @property
    def free(self) -> int:
        """How many more tasks can be sent now, and computed at once."""
        return max(0, self.slots_max - sum(slot.task is not None for slot in self.slots))

    @property
    def free_ahead(self) -> int:
        """How many more can be sent now to be read ahead, one for each slot, while all slots are busy."""
        busy = [slot for slot in self.slots if slot.task is not None]
        if not self.ahead or len(busy) < self.slots_max:
            return 0
        to_compute = sum(not slot.has_computed for slot in busy)
        return max(0, min(PLACES * self.slots_max - len(busy), 2 * self.slots_max - to_compute))

    def start(self, count: int) -> None:
        """Forks slots until there are `count` of them, so that the application loads before its first task comes."""
        while len(self.slots) < min(count, self.slots_max):
            self._fork()

    def send(self, task: Task) -> Slot:
        """The slot that runs the task from now on: an idle one, or a new one."""
        idle = [slot for slot in self.slots if slot.task is None]
        slot = next((slot for slot in idle if slot.ready), None) or (idle[0] if idle else self._fork())
        slot.send(task)
        return slot

    def wait(self, timeout_s: float | None) -> list[Event]:
        """What has happened, in the order in which it was noticed, after at most so long; None: after any time."""
        rested = self.resting[:]
        if rested:
            timeout_s = REST_S if timeout_s is None else min(timeout_s, REST_S)
        events: list[Event] = []
        for key, _ in self.selector.select(timeout_s):
            events += key.data()
        del self.resting[: len(rested)]
        for output in rested:
            output.listen()
        return events

    def running(self) -> dict[str, Progress]:
        """The attempts that run, and how far each one is."""
        return {slot.task.attempt: _progress(slot) for slot in self.slots if slot.task is not None}

    def wants_turn(self, slot: Slot) -> None:
        """A slot's process asks for a turn: it has it at once, or when another one's is over."""
        slot.wants_turn = True
        self._queue.append(slot)
        self._hand_out()

    def turn_over(self, slot: Slot) -> None:
        """A slot's process does not compute any more, or is no more."""
        slot.has_turn = slot.wants_turn = False
        slot.has_computed = True
        self._hand_out()

    def requests(self) -> ledger.Counts:
        """What all slots, dead ones too, have sent to stores."""
        return self.pages.counts()

    def cancel(self, attempt: str) -> None:
        """Ends the attempt without a report, and its process with it; nothing happens if it is not running."""
        for slot in self.slots:
            if slot.task is not None and slot.task.attempt == attempt:
                self.slots.remove(slot)
                slot.close()
                self.turn_over(slot)
                return

    def ended(self, slot: Slot) -> list[Event]:
        """What the end of a slot's process means."""
        self.slots.remove(slot)
        status = slot.close()
        self.turn_over(slot)
        if slot.refused:
            return []
        if self.info is None:
            why = f"the process that loads the application {how_it_died(status)}{slot.last_words()}"
            return [Refused(slot, AppError(why))]
        if slot.task is None:
            return []
        message = f"the process that ran the task {how_it_died(status)}{slot.last_words()}"
        failure = Failure(slot.task.attempt, "died", message)
        pieces = slot.task.pieces if isinstance(slot.task, MapTask) else ()
        if slot.record is not None and slot.record[0] < len(pieces):
            piece, offset = pieces[slot.record[0]], slot.record[1]
            failure = replace(failure, input=piece.path, url=piece.url, offset=offset)
        elif len(pieces) == 1:
            failure = replace(failure, input=pieces[0].path)
        return [Finished(slot, failure)]

    def close(self) -> None:
        """Ends every slot at once, whatever it is doing."""
        while self.slots:
            self.slots.pop().close()

    def run_child(self, slot: Slot, channel: socket.socket, stderr: int, crash: int, parent: int) -> NoReturn:
        """The forked child's whole life."""
        from .slot import slot_main

        for descriptor in self._child_must_close(slot):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        ledger.use(slot.requests)
        if self._tmp is not None:
            os.environ["TMPDIR"] = self._tmp
        slot_main(channel, stderr, crash, self._load, slot.progress, parent)

    def _child_must_close(self, newest: Slot) -> Iterator[int]:
        for slot in self.slots:
            yield from slot.descriptors()
        yield from (descriptor for descriptor in newest.descriptors()[:2])
        yield from self._private()
        with contextlib.suppress(AttributeError, ValueError):
            yield self.selector.fileno()  # type: ignore[attr-defined]

    def _hand_out(self) -> None:
        """Gives the turns that are free to those who have waited longest; `slots` is in no order of waiting."""
        free = self.slots_max - sum(slot.has_turn for slot in self.slots)
        self._queue = [slot for slot in self._queue if slot.wants_turn and slot in self.slots]
        while free > 0 and self._queue:
            self._queue.pop(0).go()
            free -= 1

    def _fork(self) -> Slot:
        self._numbers += 1
        slot = Slot(self, self._numbers)
        self.slots.append(slot)
        return slot


def _progress(slot: Slot) -> Progress:
    done = slot.progress.read()
    return replace(done, phase=WAITING) if slot.wants_turn else done


def _fork() -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # else the child would print it again
            stream.flush()
    with warnings.catch_warnings():
        # In a notebook there are other threads; the child touches nothing that they may hold locked.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
