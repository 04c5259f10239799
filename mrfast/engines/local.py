"""A whole job on this machine: the job's driver and its slots in one thread, without a port, asyncio or polling."""

from __future__ import annotations

import os
import selectors
import time
from contextlib import ExitStack
from typing import Any

from ..control.job import JobDriver
from ..control.journal_files import JournalFiles, state_folder
from ..interrupt import Interrupts
from ..model import JobSpec
from ..storage import is_remote
from ..storage.base import Store
from ..tasks.pool import Bad, Event, Finished, Ready, SlotPool, Turn, Wanted
from ..watch.progress import ProgressView
from .shell import Load, Shell, check_store, discard, driven, outcome

WORKER = "local"
SEGMENTS_PER_PAGE = 4096


def run_local(
    load: Load,
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
    check_store(store)
    journals = JournalFiles(store, spec.job, state_folder(os.environ))
    with (
        selectors.DefaultSelector() as selector,
        Interrupts(selector) as interrupts,
        ExitStack() as watched,
        driven(spec, store, journals, workers, view, resume=resume) as driver,
    ):
        pool = SlotPool(
            *(load, workers, selector),
            on_printed=lambda attempt, text: driver.printed(WORKER, {attempt: text}, time.monotonic()),
            private=lambda: (*interrupts.descriptors(), *(view.descriptors() if view else ())),
        )
        pool.ahead = is_remote(store.url) or any(is_remote(item.url) for item in spec.inputs[:1])
        engine = _Engine(driver, pool, interrupts, view)
        if view is not None:
            watched.enter_context(view.watching(driver.events, driver.status))
        try:
            pool.start(_slots_at_start(spec))
            engine.run()
            if engine.stopped is not None and resume:
                engine.effects()  # it keeps its log
        except BaseException:
            pool.close()
            # In its last phase a manifest may name the parts.
            if not resume and (driver.scheduler is None or driver.scheduler.phase != "commit"):
                discard(spec, store, journals)
            raise
        finally:
            pool.close()
    return outcome(engine, spec, store, journals, view, resume=resume)


def _slots_at_start(spec: JobSpec) -> int:
    """How many slots will surely have work: the app then loads in all of them at once."""
    return sum(max(1, -(-item.size // spec.split_bytes)) for item in spec.inputs[:1000])


class _Engine(Shell):
    """The job's tasks in slots of this process."""

    def __init__(self, driver: JobDriver, pool: SlotPool, interrupts: Interrupts, view: ProgressView | None):
        super().__init__(driver, interrupts, view)
        self._pool = pool
        self._joined = False
        self._waiting: list[Wanted] = []  # reduces whose next segments are not there yet
        self._complete: dict[str, int] = {}  # where a reduce was told that it has heard of every map

    def _before_effects(self) -> None:
        if self.driver.state == "COMMITTING":  # what still runs is wanted no more: what was sent is final
            self._pool.close()
        self.driver.counted(WORKER, self._pool.requests())

    def _after_effect(self) -> None:
        self._answer_waiting()

    def _assign(self) -> None:
        if self._pool.info is None or self.driver.state != "RUNNING":
            return
        for ahead in (False, True):
            if free := self._pool.free_ahead if ahead else self._pool.free:
                for task in self.driver.poll(WORKER, free, time.monotonic(), ahead):
                    self._pool.send(task)

    def _hear(self, timeout_s: float) -> None:
        for event in self._pool.wait(timeout_s):
            self._on(event)

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
