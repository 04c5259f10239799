"""A whole job on this machine: the job's driver and its slots in one thread, without a port, asyncio or polling."""

from __future__ import annotations

import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..app import App
from ..control import commit
from ..control.job import JobDriver
from ..errors import JobFailed, MrfastError, UsageError
from ..interrupt import Interrupts
from ..model import InputObject, JobSpec, job_key
from ..storage import open_store, scheme_of, split_url
from ..storage.base import Store, read_json
from ..tasks.pool import Event, Finished, Ready, SlotPool, Wanted, write_stderr
from ..watch.progress import ProgressView

WORKER = "local"
RENEW_S = 2.0
SEGMENTS_PER_PAGE = 4096


def run_local(
    load: Callable[[], App], spec: JobSpec, store: Store, workers: int, *, view: ProgressView | None = None
) -> dict[str, Any]:
    """The `_SUCCESS` document of the finished job; the error that failed it is raised.

    A signal ends the job without a trace of it, and is raised again when all is clean.
    """
    if scheme_of(store.url) == "memory":
        raise UsageError("a memory:// store lives in one process only; --store takes a folder or s3://bucket/prefix")
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts:
        pool = SlotPool(
            load, workers, selector, on_output=view.write if view else write_stderr, private=interrupts.descriptors
        )
        driver = JobDriver(spec, store=store, quoted_newlines=has_quoted_newlines)
        engine = _Engine(driver, pool, interrupts, view)
        try:
            pool.start(_slots_at_start(spec))
            engine.run()
        except BaseException:
            pool.close()
            if driver.scheduler is None or driver.scheduler.phase != "commit":  # then a manifest may name the parts
                _discard(spec, store)
            raise
        finally:
            pool.close()
            if view is not None:
                view.close()
    if engine.stopped is not None:
        _discard(spec, store)
        signal.raise_signal(engine.stopped)
        raise KeyboardInterrupt
    if engine.driver.error is not None:
        raise engine.driver.error
    if engine.driver.result is None:
        raise JobFailed(f"job {spec.job} ended as {engine.driver.state}, without a result")
    return engine.driver.result


def has_quoted_newlines(item: InputObject) -> bool:
    """Whether this CSV object has line ends inside quotes: then nobody finds a record from its middle."""
    from ..tasks.reader import csv_has_quoted_newlines

    root, key = split_url(item.url)
    return csv_has_quoted_newlines(open_store(root), key, item.size, item.etag)


def _slots_at_start(spec: JobSpec) -> int:
    """How many slots will surely have work: the app then loads in all of them at once."""
    return sum(max(1, -(-item.size // spec.split_bytes)) for item in spec.inputs[:1000])


def _discard(spec: JobSpec, store: Store) -> None:
    """Removes what a job that nobody wants any more has written; what cannot be removed stays."""
    with suppress(MrfastError):
        commit.clean(spec.job, {"parts": []}, store)
        commit.release(spec, open_store(spec.output_url))
        if spec.name is not None and read_json(store, commit.name_key(spec.name)).get("job") == spec.job:
            store.delete(commit.name_key(spec.name))
    with suppress(MrfastError):
        store.delete(job_key(spec.job, commit.SPEC))


class _Engine:
    def __init__(self, driver: JobDriver, pool: SlotPool, interrupts: Interrupts, view: ProgressView | None):
        self.driver = driver
        self.stopped: signal.Signals | None = None
        self._pool = pool
        self._interrupts = interrupts
        self._view = view
        self._renew_at = 0.0
        self._waiting: list[Wanted] = []  # reduces whose next segments are not there yet

    def run(self) -> None:
        """Runs the job until it has ended, or a signal has come before its commit."""
        while True:
            self._effects()
            if self.driver.state in ("COMMITTED", "FAILED"):
                return
            if self._interrupts.signal is not None and self.driver.state != "COMMITTING":
                self.stopped = self._interrupts.signal
                return
            self._assign()
            for event in self._wait():
                self._on(event)

    def _effects(self) -> None:
        """Does the driver's store work, and what follows from it."""
        while effects := self.driver.effects():
            for effect in effects:
                result: Any
                try:
                    result = effect.run()
                except MrfastError as error:
                    result = error
                self.driver.effect_done(effect, result, time.monotonic())

    def _assign(self) -> None:
        if self._pool.info is None or self.driver.state != "RUNNING":
            return
        if free := self._pool.free:
            for task in self.driver.poll(WORKER, free, time.monotonic()):
                self._pool.send(task)

    def _wait(self) -> list[Event]:
        """What has happened since, in the order in which it was noticed; also keeps leases and the view alive."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + RENEW_S
            self._renew(now)
        timeout = self._renew_at - now
        if self._view is not None:
            until_view = self._view.wait_s(now)
            timeout = timeout if until_view is None else min(timeout, until_view)
        events: list[Event] = []
        for key, _ in self._pool.selector.select(timeout):
            events += key.data()
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
                    self._pool.cancel(attempt)
                    self._waiting = [wanted for wanted in self._waiting if wanted.attempt != attempt]
        self.driver.tick(now)

    def _on(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Ready):
            if self.driver.app is None:
                self.driver.hello(WORKER, self._pool.slots_max, event.info, now)
        elif isinstance(event, Finished):
            self.driver.report(WORKER, event.report, now)
            waiting, self._waiting = self._waiting, []
            for wanted in waiting:
                self._answer(wanted)
        elif isinstance(event, Wanted):
            self._answer(event)
        else:
            raise event.error

    def _answer(self, wanted: Wanted) -> None:
        """Gives a reduce its next segments, or lets it wait until another map is accepted."""
        if wanted.slot.task is None or wanted.slot.task.attempt != wanted.attempt:
            return
        segments, next = self.driver.outputs(wanted.attempt, wanted.since, SEGMENTS_PER_PAGE)
        if segments or next is None:
            wanted.slot.answer(segments, next)
        else:
            self._waiting.append(wanted)
