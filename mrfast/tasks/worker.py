"""mrfast-worker: a small parent that talks to the coordinator while its slots work.

It never computes: whatever a task does to its process, leases are renewed and the coordinator is told how it ended.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ..app import App
from ..control import messages
from ..control.schema import BadFrame, decode
from ..errors import CoordinatorLost, JobFailed, MrfastError
from ..interrupt import Interrupts
from ..model import Failure, MapTask, Piece, Progress
from .frames import Report, Task
from .link import Link, Say
from .pool import Event, Finished, Ready, Refused, SlotPool, Wanted

DRAIN_S = 90.0
FAREWELL_S = 2.0
_TEMP = re.compile(r"mrfast-worker-(\d+)-\w+", re.ASCII)


def run_worker(
    load: Callable[[], App],
    address: tuple[str, int],
    *,
    token: bytes | None = None,
    slots: int,
    connect_s: float = 60.0,
    say: Say = lambda text: None,
) -> None:
    """Returns when the job is done, or SIGTERM has drained this worker; raises for everything else.

    JobFailed, AppError, AppRefused, CoordinatorLost, KeyboardInterrupt: nothing of the worker is left then either.
    """
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts, _temp_dir() as tmp:
        worker = _Worker(load, address, token, slots, connect_s, selector, interrupts, tmp, say)
        try:
            worker.run()
        finally:
            worker.close()


@contextmanager
def _temp_dir() -> Iterator[str]:
    """A folder of this process alone, gone afterwards; those of workers that were killed go now."""
    top = tempfile.gettempdir()
    for name in os.listdir(top):
        found = _TEMP.fullmatch(name)
        if found is not None and not os.path.exists(f"/proc/{found[1]}"):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)  # another user's stays: it cannot be removed
    path = tempfile.mkdtemp(prefix=f"mrfast-worker-{os.getpid()}-")  # mode 0700
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class _Worker:
    def __init__(
        self,
        load: Callable[[], App],
        address: tuple[str, int],
        token: bytes | None,
        slots: int,
        connect_s: float,
        selector: selectors.BaseSelector,
        interrupts: Interrupts,
        tmp: str,
        say: Say,
    ):
        self.id = os.urandom(16).hex()
        self._say = say
        self._selector = selector
        self._interrupts = interrupts
        self._link = Link(address, token, selector, connect_s=connect_s, on_up=self._hello, say=say)
        self._pool = SlotPool(load, slots, selector, private=self._descriptors, tmp=tmp)
        self._job: messages.JobInfo | None = None
        self._polling = self._renewing = False
        self._known_here = False  # this connection's hello was answered
        self._renew_at = 0.0
        self._unreported: dict[str, Report] = {}
        self._wanted: dict[str, Wanted] = {}
        self._fetching: dict[str, tuple[MapTask, list[Piece]]] = {}
        self._drain_until: float | None = None
        self._over = False
        self._end: MrfastError | None = None

    def run(self) -> None:
        """Works until the job has ended or a signal has come."""
        self._pool.start(self._pool.slots_max)
        while not self._over:
            now = time.monotonic()
            self._on_signal(now)
            if self._pool.info is not None:  # the application loads: only now there is something to offer
                self._link.step(now)
            self._renew(now)
            self._poll()
            if self._over or self._drained(now):
                break
            for event in self._wait(now):
                self._on(event)
        if self._end is not None:
            raise self._end

    def close(self) -> None:
        """Ends the slots and hangs up."""
        self._pool.close()
        self._link.close()

    def _descriptors(self) -> tuple[int, ...]:
        return *self._link.descriptors(), *self._interrupts.descriptors()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _wait(self, now: float) -> list[Event]:
        until = [self._link.next_step_at(now)] if self._pool.info is not None else []
        if self._known_here and self._busy():
            until.append(self._renew_at)
        if self._drain_until is not None:
            until.append(self._drain_until)
        events: list[Event] = []
        for key, _ in self._selector.select(max(0.0, min(until) - now) if until else None):
            events += key.data()
        return events

    def _on(self, event: Event) -> None:
        if isinstance(event, Refused):
            raise event.error
        if isinstance(event, Ready):
            return
        if isinstance(event, Wanted):
            self._wanted[event.attempt] = event
            self._ask_outputs(event)
            return
        assert isinstance(event, Finished)
        report = event.report
        self._wanted.pop(report.attempt, None)
        if isinstance(report, Failure):
            self._say(f"attempt {report.attempt} failed: {report.message.splitlines()[0] if report.message else ''}")
        self._unreported[report.attempt] = report
        self._report(report)

    def _on_signal(self, now: float) -> None:
        if self._interrupts.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._interrupts.signal == signal.SIGTERM and self._drain_until is None:
            self._drain_until = now + DRAIN_S
            running = len(self._busy())
            self._say(f"draining: {running} running, no new tasks" if running else "draining: nothing runs")

    def _drained(self, now: float) -> bool:
        """Whether a draining worker may leave; at the end of its time it gives back what still runs."""
        if self._drain_until is None:
            return False
        if not self._busy() or not self._known_here:
            return True
        if now < self._drain_until:
            return False
        for attempt in [*self._pool.running(), *self._fetching]:
            self._pool.cancel(attempt)
            self._fetching.pop(attempt, None)
            self._wanted.pop(attempt, None)
            self._release(attempt)
        self._drain_until = now + FAREWELL_S
        still, self._unreported = self._unreported, {}
        return not still

    def _busy(self) -> set[str]:
        """The attempts that the coordinator counts on."""
        return {*self._pool.running(), *self._unreported, *self._fetching}

    # -- calls ------------------------------------------------------------------------------------------------------

    def _call(self, method: str, params: Any, reply: type[Any], on_reply: Callable[[Any], None]) -> None:
        """A call whose reply is checked; an error goes to `on_reply` as it is."""

        def heard(result: Any) -> None:
            if not isinstance(result, MrfastError):
                try:
                    result = decode(reply, result)
                except BadFrame as error:
                    result = error
            on_reply(result)
            if not isinstance(result, MrfastError):
                self._note_job(getattr(result, "job", ""), getattr(result, "error", ""))

        self._link.call(method, params, heard)

    def _note_job(self, job: str, error: str) -> None:
        if job == "done":
            self._say("the job is done")
            self._over = True
        elif job == "failed":
            self._over = True
            self._end = JobFailed(error or "the job failed")

    def _hello(self) -> None:
        """The first call of every connection; the others follow its answer."""
        self._known_here = self._polling = self._renewing = False
        assert self._pool.info is not None
        call = messages.Hello(self.id, self._pool.slots_max, self._pool.info)
        self._call("hello", call, messages.JobInfo, self._on_hello)

    def _on_hello(self, reply: Any) -> None:
        if isinstance(reply, MrfastError):
            self._over, self._end = True, reply
            return
        if self._job is None:
            slots = self._pool.slots_max
            self._say(f"joined job {reply.name or reply.job} at {self._link.name} with {slots} slot{'s' * (slots > 1)}")
        elif self._job.job != reply.job:
            self._over = True
            self._end = CoordinatorLost(f"the job is gone: {self._link.name} runs another one now, {reply.job}")
            return
        self._job = reply
        self._known_here = True
        for report in list(self._unreported.values()):
            self._report(report)
        for wanted in list(self._wanted.values()):
            self._ask_outputs(wanted)
        for attempt in list(self._fetching):
            self._ask_pieces(attempt)

    def _poll(self) -> None:
        free = self._pool.free - len(self._fetching)
        if not self._known_here or self._polling or free < 1 or self._drain_until is not None:
            return
        self._polling = True
        call = messages.Poll(self.id, free, messages.WAIT_S_MAX)
        self._call("poll", call, messages.Tasks, self._on_tasks)

    def _on_tasks(self, reply: Any) -> None:
        self._polling = False
        if isinstance(reply, MrfastError):
            self._over, self._end = True, reply
            return
        tasks: list[Task] = [*reply.maps, *reply.reduces]
        for task in tasks:
            if self._drain_until is not None:
                self._release(task.attempt)
            elif isinstance(task, MapTask) and task.attempt in reply.pages:
                self._fetching[task.attempt] = task, []
                self._ask_pieces(task.attempt)
            else:
                self._start(task)

    def _start(self, task: Task) -> None:
        if not self._pool.running():
            self._renew_at = time.monotonic() + self._renew_s
        self._pool.send(task)

    def _ask_pieces(self, attempt: str) -> None:
        call = messages.AskPieces(self.id, attempt, len(self._fetching[attempt][1]))
        self._call("pieces", call, messages.PiecesPage, lambda reply: self._on_pieces(attempt, reply))

    def _on_pieces(self, attempt: str, reply: Any) -> None:
        if attempt not in self._fetching:
            return
        task, pieces = self._fetching[attempt]
        if isinstance(reply, MrfastError):
            del self._fetching[attempt]
            self._release(attempt)
            return
        pieces += reply.pieces
        if reply.next is not None:
            self._ask_pieces(attempt)
            return
        del self._fetching[attempt]
        self._start(replace(task, pieces=tuple(pieces)))

    def _ask_outputs(self, wanted: Wanted) -> None:
        call = messages.AskOutputs(self.id, wanted.attempt, wanted.since, messages.WAIT_S_MAX)
        self._call("outputs", call, messages.OutputsPage, lambda reply: self._on_outputs(wanted, reply))

    def _on_outputs(self, wanted: Wanted, reply: Any) -> None:
        if self._wanted.get(wanted.attempt) is not wanted:  # it has died, or was cancelled
            return
        if isinstance(reply, MrfastError):
            del self._wanted[wanted.attempt]
            self._pool.cancel(wanted.attempt)
            self._release(wanted.attempt)
        elif reply.segments or reply.next is None:
            del self._wanted[wanted.attempt]
            wanted.slot.answer(reply.segments, reply.next)
        else:
            self._ask_outputs(wanted)

    def _report(self, report: Report) -> None:
        if not self._known_here:
            return  # the next hello brings it
        call = messages.report_message(self.id, report)
        self._call("report", call, messages.Word, lambda reply: self._on_word(report, reply))

    def _on_word(self, report: Report, reply: Any) -> None:
        if self._unreported.get(report.attempt) is report:
            del self._unreported[report.attempt]
        if isinstance(reply, MrfastError):
            self._say(f"the report of {report.attempt} was refused: {reply}")

    def _release(self, attempt: str) -> None:
        self._call("release", messages.Release(self.id, attempt), messages.Word, lambda reply: None)

    @property
    def _renew_s(self) -> float:
        return 2.0 if self._job is None else self._job.renew_s

    def _renew(self, now: float) -> None:
        if not self._known_here or self._renewing or now < self._renew_at:
            return
        self._renew_at = now + self._renew_s
        progress = {attempt: Progress() for attempt in self._busy()} | self._pool.running()
        if not progress:
            return
        self._renewing = True
        self._call("renew", messages.Renew(self.id, progress), messages.Renewed, self._on_renewed)

    def _on_renewed(self, reply: Any) -> None:
        self._renewing = False
        if isinstance(reply, MrfastError):
            self._say(f"a renewal was refused: {reply}")
            return
        for attempt, word in reply.attempts.items():
            if word == "cancel":
                self._fetching.pop(attempt, None)
                self._wanted.pop(attempt, None)
                with suppress(ProcessLookupError):
                    self._pool.cancel(attempt)
