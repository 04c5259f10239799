"""What a worker does, without the doing: replies and events in, calls and tasks out, at whatever time it is told.

No clock, no socket and no process is in here: `link` and `pool` have them, in a test or a simulation other ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from ..control import messages
from ..control.printed import Outbox
from ..control.schema import BadFrame, decode
from ..errors import CoordinatorLost, JobFailed, MrfastError
from ..model import WAITING, AppInfo, Failure, MapTask, Piece, Progress
from ..storage import is_remote
from ..storage.ledger import Counts
from .frames import Report, Task
from .pool import Bad, Event, Finished, Ready, Refused, Turn, Wanted

DRAIN_S = 90.0
FAREWELL_S = 2.0
# Between two questions of a reduce that was told that its table is complete, and waits for a map to run again.
ASK_AGAIN_S = 1.0
RENEW_S = 2.0  # until the first hello is answered
IDLE_RENEW_S = 5.0  # where nothing runs: the coordinator counts those whom it heard of in the last ten seconds


class Calls(Protocol):
    """The line to the coordinator; a call of a line that is lost gets no reply."""

    @property
    def up(self) -> bool: ...
    @property
    def name(self) -> str: ...
    def call(self, method: str, params: Any, on_reply: Callable[[Any], None]) -> None: ...


class Slots(Protocol):
    """Where tasks run; `SlotPool`."""

    info: AppInfo | None
    slots_max: int
    ahead: bool  # whether a slot is given a task while it computes another one

    @property
    def free(self) -> int: ...
    @property
    def free_ahead(self) -> int: ...
    def running(self) -> dict[str, Progress]: ...
    def requests(self) -> Counts: ...
    def send(self, task: Task) -> object: ...
    def cancel(self, attempt: str) -> None: ...


class Agent:
    """A worker's decisions: `hello` when the line is up, `on` each event, then `step`, and again at `next_step_at`."""

    def __init__(
        self, worker_id: str, link: Calls, pool: Slots, *, say: Callable[[str], None], drain_s: float = DRAIN_S
    ):
        self.id = worker_id
        self.over = False  # there is nothing more to do
        self.end: MrfastError | None = None  # why, if it is an error
        self._link = link
        self._pool = pool
        self._say = say
        self._drain_s = drain_s
        self._now = 0.0
        self._job: messages.JobInfo | None = None
        self._polling: set[bool] = set()  # whether ahead, of each poll that waits
        self._renewing = False
        self._known_here = False  # this connection's hello was answered
        self._renew_at = 0.0
        self._unreported: dict[str, Report] = {}
        self._fetching: dict[str, tuple[MapTask, list[Piece]]] = {}
        self._wanted: dict[str, Wanted] = {}
        self._complete: dict[str, int] = {}  # the cursor at which a reduce was told that its table is complete
        self._ask_at: dict[str, float] = {}
        self._bad: dict[tuple[str, int], Bad] = {}  # (attempt, map index) -> what the coordinator may not know yet
        self._drain_until: float | None = None
        self._farewell = False
        self._outbox = Outbox()

    def hello(self) -> None:
        """The first call of every connection; the others follow its answer."""
        self._known_here = self._renewing = False
        self._polling.clear()
        assert self._pool.info is not None
        call = messages.Hello(
            self.id, self._pool.slots_max, self._pool.info, tuple(sorted(self._busy())), self._pool.requests()
        )
        self._call("hello", call, messages.JobInfo, self._on_hello)

    def on(self, event: Event, now: float) -> None:
        """Takes in what a slot has said."""
        self._now = now
        if isinstance(event, Refused):
            self.stop(event.error)
        elif isinstance(event, Finished):
            self._finished(event.report)
        elif isinstance(event, (Ready, Turn)) or event.attempt not in self._pool.running():  # cancelled in the meantime
            return
        elif isinstance(event, Bad):
            self._bad[event.attempt, event.map_index] = event
            self._say(f"attempt {event.attempt}: the output of {event.map_attempt} cannot be read: {event.why}")
            self._say_bad(event)
        else:
            self._wanted[event.attempt] = event
            if self._complete.get(event.attempt) == event.since:
                self._ask_at[event.attempt] = now + ASK_AGAIN_S
            else:
                self._ask_outputs(event)

    def printed(self, attempt: str, text: str) -> None:
        """Takes in lines that an attempt has printed, "" for the load of the app; they go with the next call."""
        self._outbox.add(attempt, text)

    def step(self, now: float) -> None:
        """Does what is due."""
        self._now = now
        if self.over:
            return
        self._renew()
        self._poll()
        for attempt, at in list(self._ask_at.items()):
            if at <= now:
                del self._ask_at[attempt]
                self._ask_outputs(self._wanted[attempt])
        self.over = self.over or self._drained()

    def next_step_at(self, now: float) -> float | None:
        """When `step` has something to do next, though nothing has come; None: never."""
        until = list(self._ask_at.values())
        if self._here and not self._renewing:
            until.append(self._renew_at)
        if self._drain_until is not None:
            until.append(self._drain_until)
        return max(now, min(until)) if until else None

    def drain(self, now: float) -> None:
        """Takes no new tasks from now on, and leaves when those that run have ended, or their time is up."""
        if self._drain_until is None:
            self._drain_until = now + self._drain_s
            for attempt in [name for name, done in self._pool.running().items() if done.phase == WAITING]:
                self._give_back(attempt)
            running = len(self._busy())
            self._say(f"draining: {running} running, no new tasks" if running else "draining: nothing runs")

    @property
    def has_joined(self) -> bool:
        """Whether it was ever told of a job."""
        return self._job is not None

    def stop(self, error: MrfastError | None = None) -> None:
        """There is nothing more to do; why, if it is an error."""
        self.over, self.end = True, error

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _here(self) -> bool:
        return self._link.up and self._known_here

    def _busy(self) -> dict[str, None]:
        """The attempts that the coordinator counts on, in an order that does not depend on hashes."""
        return dict.fromkeys([*self._pool.running(), *self._unreported, *self._fetching])

    def _forget(self, attempt: str) -> None:
        """Lets go of everything of an attempt but its report."""
        self._fetching.pop(attempt, None)
        self._wanted.pop(attempt, None)
        self._complete.pop(attempt, None)
        self._ask_at.pop(attempt, None)
        for key in [key for key in self._bad if key[0] == attempt]:
            del self._bad[key]

    def _cancel(self, attempt: str) -> None:
        self._forget(attempt)
        self._unreported.pop(attempt, None)
        with suppress(ProcessLookupError):
            self._pool.cancel(attempt)

    def _give_back(self, attempt: str) -> None:
        self._cancel(attempt)
        self._call(
            "release", messages.Release(self.id, attempt, self._pool.requests()), messages.Word, lambda reply: None
        )

    def _finished(self, report: Report) -> None:
        self._forget(report.attempt)
        if isinstance(report, Failure):
            self._say(f"attempt {report.attempt} failed: {report.message.splitlines()[0] if report.message else ''}")
        self._unreported[report.attempt] = report
        self._report(report)

    def _drained(self) -> bool:
        """Whether a draining worker may leave; at the end of its time it gives back what still runs."""
        if self._drain_until is None:
            return False
        if not self._busy():
            return True
        if self._now < self._drain_until:
            return False
        for attempt in [*self._pool.running(), *self._fetching]:
            self._give_back(attempt)
        if self._farewell or not self._here or not self._unreported:
            return True
        self._farewell = True  # the answers to the last reports
        self._drain_until = self._now + FAREWELL_S
        return False

    # -- calls ------------------------------------------------------------------------------------------------------

    def _call(self, method: str, params: Any, reply: type[Any], on_reply: Callable[[Any], None]) -> None:
        """A call whose reply is checked; an error goes to `on_reply` as it is. Before hello's answer, only hello."""
        if not self._here and method != "hello":
            return

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
            self.stop()
        elif job == "failed":
            self.stop(JobFailed(error or "the job failed"))

    def _on_hello(self, reply: Any) -> None:
        if isinstance(reply, MrfastError):
            self.stop(reply)
            return
        if self._job is None:
            slots = self._pool.slots_max
            self._say(f"joined job {reply.name or reply.job} at {self._link.name} with {slots} slot{'s' * (slots > 1)}")
        elif self._job.job != reply.job:
            self.stop(CoordinatorLost(f"the job is gone: {self._link.name} runs another one now, {reply.job}"))
            return
        self._job = reply
        self._pool.ahead = is_remote(reply.store_url)
        self._known_here = True
        if not self._busy():
            self._renew_at = self._now + IDLE_RENEW_S
        self._ask_at.clear()
        for report in list(self._unreported.values()):
            self._report(report)
        for bad in list(self._bad.values()):
            self._say_bad(bad)
        for wanted in list(self._wanted.values()):
            self._ask_outputs(wanted)
        for attempt in list(self._fetching):
            self._ask_pieces(attempt)

    def _poll(self) -> None:
        """Asks for tasks, one question at a time; apart from it for those that are read ahead, while slots are busy."""
        if not self._here or self._drain_until is not None:
            return
        for ahead, places in ((False, self._pool.free), (True, self._pool.free_ahead)):
            free = places - len(self._fetching)
            if free > 0 and ahead not in self._polling:
                self._polling.add(ahead)
                call = messages.Poll(self.id, free, messages.WAIT_S_MAX, ahead)
                self._call("poll", call, messages.Tasks, partial(self._on_tasks, ahead))

    def _on_tasks(self, ahead: bool, reply: Any) -> None:
        self._polling.discard(ahead)
        if isinstance(reply, MrfastError):
            self.stop(reply)
            return
        tasks: list[Task] = [*reply.maps, *reply.reduces]
        for task in tasks:
            if self._drain_until is not None:
                self._give_back(task.attempt)
            elif isinstance(task, MapTask) and task.attempt in reply.pages:
                self._fetching[task.attempt] = task, []
                self._ask_pieces(task.attempt)
            else:
                self._start(task)

    def _start(self, task: Task) -> None:
        self._renew_at = min(self._renew_at, self._now + self._renew_s)
        self._pool.send(task)

    def _ask_pieces(self, attempt: str) -> None:
        call = messages.AskPieces(self.id, attempt, len(self._fetching[attempt][1]))
        self._call("pieces", call, messages.PiecesPage, lambda reply: self._on_pieces(attempt, reply))

    def _on_pieces(self, attempt: str, reply: Any) -> None:
        if attempt not in self._fetching:
            return
        task, pieces = self._fetching[attempt]
        if isinstance(reply, MrfastError):
            self._give_back(attempt)
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
            self._give_back(wanted.attempt)
        elif reply.word == "cancel":
            self._cancel(wanted.attempt)
        elif reply.segments or reply.complete or reply.next != wanted.since:
            del self._wanted[wanted.attempt]
            if reply.complete:
                self._complete[wanted.attempt] = reply.next
            wanted.slot.answer(reply.segments, reply.next, reply.complete)
        else:
            self._ask_outputs(wanted)

    def _say_bad(self, bad: Bad) -> None:
        call = messages.BadInput(self.id, bad.attempt, bad.map_index, bad.map_attempt, bad.why)
        self._call("bad_input", call, messages.Word, lambda reply: self._on_bad(bad, reply))

    def _on_bad(self, bad: Bad, reply: Any) -> None:
        key = bad.attempt, bad.map_index
        if not isinstance(reply, MrfastError) and self._bad.get(key) is bad:
            del self._bad[key]

    def _report(self, report: Report) -> None:
        printed = self._outbox.of(report.attempt) if self._here else {}
        call = messages.report_message(self.id, report, self._pool.requests(), printed)
        self._call("report", call, messages.Word, lambda reply: self._on_word(report, reply))

    def _on_word(self, report: Report, reply: Any) -> None:
        if self._unreported.get(report.attempt) is not report:
            return
        del self._unreported[report.attempt]
        if isinstance(reply, MrfastError):
            self._say(f"the report of {report.attempt} was refused: {reply}")
            if not isinstance(report, Failure):  # told again it would be refused again: the attempt has failed
                self._finished(Failure(report.attempt, "refused", f"the report was refused: {reply}"))

    @property
    def _renew_s(self) -> float:
        return RENEW_S if self._job is None else self._job.renew_s

    def _renew(self) -> None:
        """Says what runs, and how far it is; a worker where nothing runs says that it is there."""
        if not self._here or self._renewing or self._now < self._renew_at:
            return
        progress = {attempt: Progress() for attempt in self._busy()} | self._pool.running()
        self._renew_at = self._now + (self._renew_s if progress else IDLE_RENEW_S)
        self._renewing = True
        call = messages.Renew(self.id, progress, self._pool.requests(), self._outbox.some())
        self._call("renew", call, messages.Renewed, self._on_renewed)

    def _on_renewed(self, reply: Any) -> None:
        self._renewing = False
        if isinstance(reply, MrfastError):
            self._say(f"a renewal was refused: {reply}")
            return
        for attempt, word in reply.attempts.items():
            if word == "cancel":
                self._cancel(attempt)
