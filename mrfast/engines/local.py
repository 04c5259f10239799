"""A whole job on this machine: the job's driver and its slots in one thread, without a port, asyncio or polling."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from ..app import App
from ..control import commit
from ..control.job import JobDriver
from ..control.journal_files import JournalFiles, state_folder
from ..errors import JobFailed, MrfastError, UsageError
from ..interrupt import Interrupts
from ..model import InputObject, JobSpec
from ..storage import is_remote, ledger, open_store, scheme_of, split_url
from ..storage.base import Store
from ..tasks.pool import Bad, Event, Finished, Ready, SlotPool, Turn, Wanted
from ..watch.progress import ProgressView
from ..watch.words import Words

WORKER = "local"
RENEW_S = 2.0
SYNC_S = 1.0
SEGMENTS_PER_PAGE = 4096


def run_local(
    load: Callable[[], App],
    spec: JobSpec,
    store: Store,
    workers: int,
    *,
    view: ProgressView | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """The `_SUCCESS` document of the finished job; the error that failed it is raised.

    A signal ends the job without a trace of it, and is raised again when all is clean; one that was resumed stays as it
    is, and can be resumed again.
    """
    if scheme_of(store.url) == "memory":
        raise UsageError("a memory:// store lives in one process only; --store takes a folder or s3://bucket/prefix")
    journals = JournalFiles(store, spec.job, state_folder(os.environ))
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts, ExitStack() as watched:
        driver = JobDriver(
            spec, store=store, journals=journals, resume=resume, quoted_newlines=has_quoted_newlines,
            began=time.time(), slots=workers,
        )  # fmt: skip
        pool = SlotPool(
            *(load, workers, selector),
            on_printed=lambda attempt, text: driver.printed(WORKER, {attempt: text}, time.monotonic()),
            private=lambda: (*interrupts.descriptors(), *(view.descriptors() if view else ())),
        )
        if view is not None:
            driver.events.hear = Words(view.say, view.printed, spec.attempts_max).heard
        pool.ahead = is_remote(store.url) or any(is_remote(item.url) for item in spec.inputs[:1])
        engine = _Engine(driver, pool, interrupts, view)
        if view is not None:
            watched.enter_context(view.watching(driver.events, driver.status))
        try:
            pool.start(_slots_at_start(spec))
            engine.run()
            if engine.stopped is not None and resume:
                engine.keep_log()
        except BaseException:
            pool.close()
            # In its last phase a manifest may name the parts.
            if not resume and (driver.scheduler is None or driver.scheduler.phase != "commit"):
                discard(spec, store, journals)
            raise
        finally:
            pool.close()
            if driver.journal is not None:
                with suppress(MrfastError):  # what it could not hold has failed the job
                    driver.journal.close()
    warn(driver, view)
    if engine.stopped is not None:
        if not resume:
            discard(spec, store, journals)
        signal.raise_signal(engine.stopped)
        raise KeyboardInterrupt
    if engine.driver.error is not None:
        raise engine.driver.error
    if engine.driver.result is None:
        raise JobFailed(f"job {spec.job} ended as {engine.driver.state}, without a result")
    return engine.driver.result | ledger.document(engine.driver.requests())


def has_quoted_newlines(item: InputObject) -> bool:
    """Whether this CSV object has line ends inside quotes: then nobody finds a record from its middle."""
    from ..tasks.quotes import csv_has_quoted_newlines

    root, key = split_url(item.url)
    return csv_has_quoted_newlines(open_store(root), key, item.size, item.etag)


def warn(driver: JobDriver, view: ProgressView | None) -> None:
    """Says what went wrong beside the job, once its bars are gone."""
    if view is not None:
        for warning in driver.warnings:
            view.printed(f"mrfast: warning: {warning}\n")


def _slots_at_start(spec: JobSpec) -> int:
    """How many slots will surely have work: the app then loads in all of them at once."""
    return sum(max(1, -(-item.size // spec.split_bytes)) for item in spec.inputs[:1000])


def discard(spec: JobSpec, store: Store, journals: JournalFiles) -> None:
    """Removes what a job that nobody wants any more has written; what cannot be removed stays."""
    with suppress(MrfastError):
        commit.remove(spec, store, open_store(spec.output_url))
    journals.forget()


class _Engine:
    def __init__(self, driver: JobDriver, pool: SlotPool, interrupts: Interrupts, view: ProgressView | None):
        self.driver = driver
        self.stopped: signal.Signals | None = None
        self._pool = pool
        self._interrupts = interrupts
        self._view = view
        self._renew_at = 0.0
        self._sync_at = time.monotonic() + SYNC_S
        self._joined = False
        self._waiting: list[Wanted] = []  # reduces whose next segments are not there yet
        self._complete: dict[str, int] = {}  # where a reduce was told that it has heard of every map

    def run(self) -> None:
        """Runs the job until it has ended, or a signal has come before its commit."""
        while True:
            self._effects()
            if self.driver.state in ("COMMITTED", "FAILED"):
                return
            if self._interrupts.signal is not None and self.driver.state != "COMMITTING":
                self.stopped = self._interrupts.signal
                self.driver.stop(time.monotonic())
                return
            self.driver.tick(time.monotonic())
            self._assign()
            for event in self._wait():
                self._on(event)

    def keep_log(self) -> None:
        """Of a job that can be resumed."""
        self._effects()

    def _effects(self) -> None:
        """Does the driver's store work, and what follows from it."""
        while effects := self.driver.effects():
            if self.driver.state == "COMMITTING":  # what still runs is wanted no more: what was sent is final
                self._pool.close()
            self.driver.counted(WORKER, self._pool.requests())
            for effect in effects:
                result: Any
                try:
                    result = effect.run()
                except MrfastError as error:
                    result = error
                self.driver.effect_done(effect, result, time.monotonic())
                self._answer_waiting()

    def _assign(self) -> None:
        if self._pool.info is None or self.driver.state != "RUNNING":
            return
        for ahead in (False, True):
            if free := self._pool.free_ahead if ahead else self._pool.free:
                for task in self.driver.poll(WORKER, free, time.monotonic(), ahead):
                    self._pool.send(task)

    def _wait(self) -> list[Event]:
        """What has happened since, in the order in which it was noticed; also keeps leases and the view alive."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + RENEW_S
            self._renew(now)
        self._sync(now)
        timeout = self._renew_at - now
        for deadline in (self.driver.next_deadline(), self.driver.next_sample()):
            if deadline is not None:
                timeout = max(0.0, min(timeout, deadline - now))
        if self._view is not None:
            until_view = self._view.wait_s(now)
            timeout = timeout if until_view is None else min(timeout, until_view)
            timeout = min(timeout, self._view.pump(now))
        events = self._pool.wait(timeout)
        if self._view is not None:
            now = time.monotonic()
            if self._view.wait_s(now) == 0:
                self._view.update(self.driver.status(now), now)
        return events

    def _renew(self, now: float) -> None:
        running = self._pool.running()
        if running:
            for attempt, word in self.driver.renew(WORKER, running, now).items():
                if word == "cancel":
                    self._cancel(attempt)

    def _cancel(self, attempt: str) -> None:
        self._pool.cancel(attempt)
        self._complete.pop(attempt, None)
        self._waiting = [wanted for wanted in self._waiting if wanted.attempt != attempt]

    def _sync(self, now: float) -> None:
        """The journal survives this process at every step; a power cut may cost the last second."""
        journal = self.driver.journal
        if journal is not None and now >= self._sync_at and journal.synced < journal.records:
            self._sync_at = now + SYNC_S
            try:
                journal.sync()
            except MrfastError as error:
                self.driver.fail(error)

    def _on(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Ready):
            if not self._joined:
                self._joined = True
                self.driver.hello(WORKER, self._pool.slots_max, event.info, now)
        elif isinstance(event, Finished):
            self._complete.pop(event.report.attempt, None)
            self.driver.report(WORKER, event.report, now)
            self._answer_waiting()
        elif isinstance(event, Wanted):
            self._answer(event)
        elif isinstance(event, Turn):
            return
        elif isinstance(event, Bad):
            self.driver.bad_input(WORKER, event.attempt, event.map_index, event.map_attempt, event.why, now)
        else:
            raise event.error

    def _answer_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wanted in waiting:
            self._answer(wanted)

    def _answer(self, wanted: Wanted) -> None:
        """Gives a reduce its next segments, or lets it wait until another map is accepted."""
        attempt = wanted.attempt
        if wanted.slot.task is None or wanted.slot.task.attempt != attempt:
            return
        page = self.driver.outputs(attempt, wanted.since, SEGMENTS_PER_PAGE, time.monotonic())
        if page is None:
            self._cancel(attempt)
            return
        segments, next, complete = page
        if segments or next != wanted.since or (complete and self._complete.get(attempt) != next):
            if complete:
                self._complete[attempt] = next
            wanted.slot.answer(segments, next, complete)
        else:
            self._waiting.append(wanted)
