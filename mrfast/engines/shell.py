"""What every engine does with a job: drives its JobDriver from one thread, with its store work, journal and view.

Where tasks run is the engine's own: a pool of slots here, somebody else's cluster there.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..app import App
from ..control import commit
from ..control.job import JobDriver
from ..control.journal_files import JournalFiles
from ..errors import JobFailed, MrfastError, UsageError
from ..interrupt import Interrupts
from ..model import InputObject, JobSpec
from ..storage import ledger, open_store, scheme_of, split_url
from ..storage.base import Store
from ..watch.progress import ProgressView
from ..watch.words import Words

RENEW_S = 2.0
SYNC_S = 1.0

Load = Callable[[], App]


class Shell(ABC):
    """The loop around a driver; an engine says how tasks are handed out, waited for and renewed."""

    def __init__(self, driver: JobDriver, interrupts: Interrupts, view: ProgressView | None) -> None:
        self.driver = driver
        self.stopped: signal.Signals | None = None
        self._interrupts = interrupts
        self._view = view
        self._renew_at = 0.0
        self._sync_at = time.monotonic() + SYNC_S

    def run(self) -> None:
        """Runs the job until it has ended, or a signal has come before its commit."""
        while True:
            self.effects()
            if self.has_ended():
                return
            if self._interrupts.signal is not None and self.driver.state != "COMMITTING":
                self.stopped = self._interrupts.signal
                self.driver.stop(time.monotonic())
                return
            self.driver.tick(time.monotonic())
            self._assign()
            self._wait()

    def has_ended(self) -> bool:
        """Whether nothing is left to be done."""
        return self.driver.state in ("COMMITTED", "FAILED")

    def effects(self) -> None:
        """Does the driver's store work, and what follows from it."""
        while effects := self.driver.effects():
            self._before_effects()
            for effect in effects:
                result: Any
                try:
                    result = effect.run()
                except MrfastError as error:
                    result = error
                self.driver.effect_done(effect, result, time.monotonic())
                self._after_effect()

    # An engine's own

    @abstractmethod
    def _assign(self) -> None:
        """Hands out the tasks for which there is room."""

    @abstractmethod
    def _renew(self, now: float) -> None:
        """Tells the driver what runs; every two seconds."""

    @abstractmethod
    def _hear(self, timeout_s: float) -> None:
        """Waits so long at most, and passes on what has happened."""

    def _before_effects(self) -> None:  # noqa: B027 (not every engine has something to do here)
        """There is store work."""

    def _after_effect(self) -> None:  # noqa: B027
        """A piece of store work is done."""

    # Inside

    def _wait(self) -> None:
        """Waits for what is next, and keeps leases, journal and view alive."""
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
        self._hear(timeout)
        if self._view is not None:
            now = time.monotonic()
            if self._view.wait_s(now) == 0:
                self._view.update(self.driver.status(now), now)

    def _sync(self, now: float) -> None:
        """The journal survives this process at every step; a power cut may cost the last second."""
        journal = self.driver.journal
        if journal is not None and now >= self._sync_at and journal.synced < journal.records:
            self._sync_at = now + SYNC_S
            try:
                journal.sync()
            except MrfastError as error:
                self.driver.fail(error)


def check_store(store: Store) -> None:
    """UsageError for a store that lives in one process only."""
    if scheme_of(store.url) == "memory":
        raise UsageError("a memory:// store lives in one process only; --store takes a folder or s3://bucket/prefix")


@contextmanager
def driven(
    spec: JobSpec, store: Store, journals: JournalFiles, slots: int, view: ProgressView | None, *, resume: bool
) -> Iterator[JobDriver]:
    """The driver of a job, its story told in `view`; its journal is closed afterwards."""
    driver = JobDriver(
        spec, store=store, journals=journals, resume=resume, quoted_newlines=has_quoted_newlines,
        began=time.time(), slots=slots,
    )  # fmt: skip
    if view is not None:
        driver.events.hear = Words(view.say, view.printed, spec.attempts_max).heard
    try:
        yield driver
    finally:
        if driver.journal is not None:
            with suppress(MrfastError):  # what it could not hold has failed the job
                driver.journal.close()


def outcome(
    shell: Shell, spec: JobSpec, store: Store, journals: JournalFiles, view: ProgressView | None, *, resume: bool
) -> dict[str, Any]:
    """The `_SUCCESS` document of a job that has ended; what failed or stopped it is raised, its traces removed."""
    driver = shell.driver
    if view is not None:
        for warning in driver.warnings:
            view.printed(f"mrfast: warning: {warning}\n")
    if shell.stopped is not None:
        if not resume:
            discard(spec, store, journals)
        signal.raise_signal(shell.stopped)
        raise KeyboardInterrupt
    if driver.error is not None:
        raise driver.error
    if driver.result is None:
        raise JobFailed(f"job {spec.job} ended as {driver.state}, without a result")
    return driver.result | ledger.document(driver.requests())


def discard(spec: JobSpec, store: Store, journals: JournalFiles) -> None:
    """Removes what a job that nobody wants any more has written; what cannot be removed stays."""
    with suppress(MrfastError):
        commit.remove(spec, store, open_store(spec.output_url))
    journals.forget()


def has_quoted_newlines(item: InputObject) -> bool:
    """Whether this CSV object has line ends inside quotes: then nobody finds a record from its middle."""
    from ..tasks.quotes import csv_has_quoted_newlines

    root, key = split_url(item.url)
    return csv_has_quoted_newlines(open_store(root), key, item.size, item.etag)
