"""What the coordinator answers, and when: calls in, replies out, without a socket, a thread or a clock.

A poll waits here until there is a task, a question for map outputs until there is one, a report until what it brought
is in the journal for good. Nothing here ever waits for a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrfast.control import messages
from mrfast.control.job import JobDriver
from mrfast.errors import MrfastError

Reply = Callable[[Any], None]

TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A call that cannot be answered yet."""

    line: object  # the connection that it came from
    answer: Callable[[float, bool], Any]  # (now, whether its time is up) -> the reply, or None
    until: float
    reply: Reply


class Desk:
    """The calls of the protocol over a JobDriver; `step` after each call, and at least every half second."""

    def __init__(self, driver: JobDriver) -> None:
        self.driver = driver
        self.known: dict[str, object] = {}  # worker -> its connection
        self.told: set[str] = set()  # workers that have heard the end
        self.working = False  # store work is being done: the end is not to be told before
        self._waiting: list[_Waiting] = []
        self._unsynced: list[tuple[int, Reply, Any]] = []
        self._changed = False
        self._look_at = 0.0  # tasks rest, attempts grow slow: time alone can make work

    # What connections bring

    def call(self, line: object, call: Any, now: float, reply: Reply) -> None:
        """Takes a call in; its reply, a message or an MrfastError, comes now or in a later step."""
        answer = getattr(self, f"_{type(call).__name__.lower()}")
        try:
            answer(line, call, now, reply)
        except MrfastError as error:
            reply(error)

    def closed(self, line: object, now: float) -> None:
        """A connection is gone: nobody waits for its answers."""
        self._waiting = [waiting for waiting in self._waiting if waiting.line is not line]
        for worker in [worker for worker, its in self.known.items() if its is line]:
            del self.known[worker]
            self.driver.gone(worker, now)
            self._changed = True

    # What the caller does

    def step(self, now: float) -> None:
        """Lets time pass, and answers what can be answered now."""
        self._changed |= self.driver.tick(now) or now >= self._look_at
        changed, self._changed = self._changed, False
        if changed:
            self._look_at = now + TICK_S
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            late = now >= each.until
            if not (changed or late):
                self._waiting.append(each)
                continue
            try:
                answer = each.answer(now, late)
            except MrfastError as error:
                answer = error
            if answer is None:
                self._waiting.append(each)
            else:
                each.reply(answer)

    def changed(self) -> None:
        """Something has happened that those who wait may wait for; at the latest they are asked at the next tick."""
        self._changed = True

    def next_step_at(self, now: float) -> float:
        """When `step` is due again though nothing comes."""
        deadline = self.driver.next_deadline()
        until = min((each.until for each in self._waiting), default=now + TICK_S)
        return min(now + TICK_S, until, now + TICK_S if deadline is None else max(now, deadline))

    def wants_sync(self) -> bool:
        """Whether replies wait for the journal to be durable."""
        return bool(self._unsynced)

    def synced(self) -> None:
        """The journal is durable up to its `synced` record: what was promised so far can be told."""
        journal = self.driver.journal
        lost = journal is None or self.driver.state == "FAILED"  # of a failed job nothing is promised
        unsynced, self._unsynced = self._unsynced, []
        for each in unsynced:
            if lost or (journal is not None and each[0] <= journal.synced):
                each[1](each[2])
            else:
                self._unsynced.append(each)

    def job(self) -> str:
        """How the job stands, as workers hear it."""
        if self.driver.state == "COMMITTED":
            return "running" if self.working else "done"
        return "failed" if self.driver.state == "FAILED" else "running"

    # The calls

    def _job_for(self, worker: str) -> tuple[str, str]:
        job = self.job()
        if job != "running":
            self.told.add(worker)
        return job, "" if self.driver.error is None else str(self.driver.error)

    def _wait(self, line: object, until: float, reply: Reply, answer: Callable[[float, bool], Any], now: float) -> None:
        """Answers at once, or as soon as that is possible; at `until` in any case."""
        found = answer(now, now >= until)
        if found is None:
            self._waiting.append(_Waiting(line, answer, until, reply))
        else:
            reply(found)

    def _askparams(self, line: object, call: messages.AskParams, now: float, reply: Reply) -> None:
        reply(messages.Params(self.driver.spec.params))

    def _hello(self, line: object, call: messages.Hello, now: float, reply: Reply) -> None:
        info = self.driver.hello(call.worker, call.slots, call.app, now, call.running)
        self.driver.counted(call.worker, call.requests)
        self.known[call.worker] = line
        self._changed = True
        reply(messages.JobInfo(**info))

    def _poll(self, line: object, call: messages.Poll, now: float, reply: Reply) -> None:
        def answer(now: float, late: bool) -> Any:
            tasks = self.driver.poll(call.worker, min(call.free, messages.TASKS_PER_POLL), now, call.ahead)
            job, error = self._job_for(call.worker)
            return messages.tasks_message(job, error, tasks) if tasks or job != "running" or late else None

        self._wait(line, now + min(call.wait_s, messages.WAIT_S_MAX), reply, answer, now)

    def _renew(self, line: object, call: messages.Renew, now: float, reply: Reply) -> None:
        self.driver.counted(call.worker, call.requests)
        self.driver.printed(call.worker, call.printed, now)
        words = self.driver.renew(call.worker, call.attempts, now)
        job, error = self._job_for(call.worker)
        reply(messages.Renewed(job, words, error))

    def _report(self, line: object, call: messages.Report, now: float, reply: Reply) -> None:
        report = call.map or call.reduce or call.failure
        if report is None:
            raise MrfastError("a report of nothing")
        self.driver.counted(call.worker, call.requests)
        self.driver.printed(call.worker, call.printed, now)

        def answer(now: float, late: bool) -> Any:
            word = self.driver.report(call.worker, report, now)
            if word is None and not late:
                return None
            job, error = self._job_for(call.worker)
            self._changed = True
            return messages.Word(job, word or "stale", error)

        self._wait(line, now + messages.WAIT_S_MAX, self._when_durable(reply), answer, now)

    def _when_durable(self, reply: Reply) -> Reply:
        """The reply, given once all that is in the journal now is durable: it may promise any of it."""

        def later(answer: Any) -> None:
            journal = self.driver.journal
            if journal is None or journal.synced == journal.records:
                reply(answer)
            else:
                self._unsynced.append((journal.records, reply, answer))

        return later

    def _askoutputs(self, line: object, call: messages.AskOutputs, now: float, reply: Reply) -> None:
        def answer(now: float, late: bool) -> Any:
            page = self.driver.outputs(call.attempt, call.since, messages.SEGMENTS_PER_PAGE, now, call.worker)
            if page is None:
                return messages.OutputsPage((), call.since, word="cancel")
            segments, end, complete = page
            if segments or complete or end != call.since or late:
                return messages.OutputsPage(tuple(segments), end, complete)
            return None

        self._wait(line, now + min(call.wait_s, messages.WAIT_S_MAX), reply, answer, now)

    def _askpieces(self, line: object, call: messages.AskPieces, now: float, reply: Reply) -> None:
        pieces, after = self.driver.pieces(call.attempt, call.since, messages.PIECES_PER_PAGE)
        fit = messages.fitting(pieces)
        reply(messages.PiecesPage(tuple(pieces[:fit]), after if fit == len(pieces) else call.since + fit))

    def _badinput(self, line: object, call: messages.BadInput, now: float, reply: Reply) -> None:
        word = self.driver.bad_input(call.worker, call.attempt, call.map_index, call.map_attempt, call.why, now)
        self._changed = True
        reply(messages.Word(*self._said(call.worker, word)))

    def _release(self, line: object, call: messages.Release, now: float, reply: Reply) -> None:
        self.driver.counted(call.worker, call.requests)
        word = self.driver.release(call.worker, call.attempt, now)
        self._changed = True
        reply(messages.Word(*self._said(call.worker, word)))

    def _said(self, worker: str, word: str) -> tuple[str, str, str]:
        job, error = self._job_for(worker)
        return job, word, error

    def _status(self, line: object, call: messages.Status, now: float, reply: Reply) -> None:
        reply(self.driver.status(now))
