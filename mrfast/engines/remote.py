"""A job on somebody else's cluster: our driver decides which attempt runs, the cluster where.

The shell is the local engine's, with a cluster in the place of the slot pool: attempts, commits, journal and ledger are
the same. The cluster places tasks, and notices lost machines; it never retries, and no data passes through it.
"""

from __future__ import annotations

import os
import queue
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..app import App
from ..control.explain import difference, fits
from ..control.job import JobDriver
from ..control.journal_files import JournalFiles, state_folder
from ..control.schema import decode, encode
from ..control.wire import error_from_wire
from ..errors import AppRefused, JobFailed, MrfastError, UsageError
from ..interrupt import Interrupts
from ..model import WAITING, AppInfo, Failure, JobSpec, MapTask, Progress, ReduceTask, job_key, map_name
from ..storage import is_remote, ledger, scheme_of
from ..storage.base import Store
from ..tasks.frames import from_document, to_document
from ..watch.progress import ProgressView
from ..watch.words import Words
from . import orders
from .local import discard, has_quoted_newlines, warn

RENEW_S = 2.0
SYNC_S = 1.0
PROBE = "probe"
LOST_MAX = (
    8  # workers that one task may lose: spot machines go often, and one that always takes its worker along must end
)
NEVER_EARLY = 2.0  # of all maps: a reduce that waits would hold a place of the cluster's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the cluster says of an attempt: an outcome of `place.perform`, or that the attempt is lost or has died."""

    attempt: str
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What a host says while it runs: {"progress": ...} or {"printed": {attempt: lines}}, and its name as "host"."""

    value: dict[str, Any]


class Cluster(Protocol):
    """Where orders are performed: Dask, Ray. Outcomes go to the function that `start` is given, from any thread."""

    name: str

    def start(self, job: str, on_event: Callable[[Outcome | Told], None]) -> None: ...
    def check(self) -> None:
        """Raises CoordinatorLost if the cluster's scheduler is gone."""

    def slots(self) -> int:
        """How many tasks it can run at once, now."""

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What the function gives on each of its workers, by their names."""

    def submit(self, order: dict[str, Any]) -> None: ...
    def cancel(self, attempt: str) -> None: ...
    def close(self) -> None:
        """Ends what still runs; a second time it does nothing."""


def run_remote(
    cluster: Cluster,
    load: Callable[[], App],
    app: orders.Document,
    spec: JobSpec,
    store: Store,
    *,
    view: ProgressView | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """The `_SUCCESS` document of the finished job; the error that failed it is raised.

    A signal ends the job without a trace of it. A cluster that is gone leaves a job that can be resumed.
    """
    if scheme_of(store.url) == "memory":
        raise UsageError("a memory:// store lives in one process only; --store takes a folder or s3://bucket/prefix")
    journals = JournalFiles(store, spec.job, state_folder(os.environ))
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts, ExitStack() as watched:
        watched.callback(cluster.close)
        driver = JobDriver(
            spec, store=store, journals=journals, resume=resume, quoted_newlines=has_quoted_newlines,
            began=time.time(), slots=cluster.slots(),
        )  # fmt: skip
        if view is not None:
            driver.events.hear = Words(view.say, view.printed, spec.attempts_max).heard
        shell = _Shell(cluster, driver, load().info(), app, store, selector, interrupts, view)
        try:
            if view is not None:
                watched.enter_context(view.watching(driver.events, driver.status))
            shell.run()
            if shell.stopped is not None and resume:
                shell.keep_log()
        finally:
            if driver.journal is not None:
                with suppress(MrfastError):  # what it could not hold has failed the job
                    driver.journal.close()
    warn(driver, view)
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


class _Shell:
    def __init__(
        self,
        cluster: Cluster,
        driver: JobDriver,
        info: AppInfo,
        app: orders.Document,
        store: Store,
        selector: selectors.BaseSelector,
        interrupts: Interrupts,
        view: ProgressView | None,
    ) -> None:
        self.stopped: signal.Signals | None = None
        self._cluster, self._driver, self._info, self._app = cluster, driver, info, app
        self._store = store
        self._selector, self._interrupts, self._view = selector, interrupts, view
        self._events: queue.SimpleQueue[Outcome | Told] = queue.SimpleQueue()
        self._mine, self._theirs = socket.socketpair()
        for end in (self._mine, self._theirs):
            end.setblocking(False)
        selector.register(self._mine, selectors.EVENT_READ, self._woken)
        self._running: dict[str, Progress] = {}
        self._inputs: dict[str, str] = {}  # of maps of one piece: task -> path
        self._lost: Counter[str] = Counter()  # task -> how often a worker was lost with it
        self._slots = 0
        self._renew_at = 0.0
        self._sync_at = time.monotonic() + SYNC_S
        self._parcel: bytes | str = b""

    def run(self) -> None:
        """Runs the job until it has ended, or a signal has come before its commit."""
        driver = self._driver
        try:
            self._cluster.start(driver.spec.job, self._on_event)
            self._effects()
            if driver.state in ("COMMITTED", "FAILED"):
                return
            self._check_folder()
            self._parcel = orders.parcel(self._store, driver.spec.job, "app", self._app)
            self._join()
            while True:
                self._effects()
                if driver.state in ("COMMITTED", "FAILED"):
                    return
                if self._interrupts.signal is not None and driver.state != "COMMITTING":
                    self.stopped = self._interrupts.signal
                    driver.stop(time.monotonic())
                    return
                driver.tick(time.monotonic())
                self._assign()
                self._wait()
        finally:
            self._selector.unregister(self._mine)

    def keep_log(self) -> None:
        """Of a job that can be resumed."""
        self._effects()

    def _on_event(self, event: Outcome | Told) -> None:
        """From any thread."""
        self._events.put(event)
        with suppress(OSError):  # full: it is awake
            self._theirs.send(b"!")

    def _woken(self) -> list[Any]:
        with suppress(BlockingIOError):
            while self._mine.recv(4096):
                pass
        return []

    def _effects(self) -> None:
        while effects := self._driver.effects():
            for effect in effects:
                result: Any
                try:
                    result = effect.run()
                except MrfastError as error:
                    result = error
                self._driver.effect_done(effect, result, time.monotonic())

    def _check_folder(self) -> None:
        """UsageError unless every worker sees the store and the input, where these are folders of this machine."""
        spec = self._driver.spec
        if is_remote(self._store.url):
            return
        data = os.urandom(16)
        key = job_key(spec.job, PROBE)
        self._store.put(key, [data])
        from .place import sees

        path = os.path.join(self._store.url, key)
        blind = [name for name, found in self._cluster.everywhere(sees, path, data).items() if not found]
        self._store.delete(key)
        if blind:
            raise UsageError(
                f"the folder {self._store.url} is not the same on all machines of the {self._cluster.name} cluster: "
                f"{blind[0]} does not see what is written here; use --store s3://bucket/prefix, or one that all share"
            )

    def _join(self) -> None:
        slots = max(1, self._cluster.slots())
        if slots != self._slots:
            self._slots = slots
            driver = self._driver
            driver.hello(self._cluster.name, slots, self._info, time.monotonic(), tuple(sorted(self._running)))

    def _assign(self) -> None:
        driver, name = self._driver, self._cluster.name
        if driver.state != "RUNNING" or driver.scheduler is None:
            return
        driver.scheduler.early_share = NEVER_EARLY
        now = time.monotonic()
        # A few more than there are places: the cluster's own queue is never empty while there is work.
        free = self._slots + max(1, self._slots // 4) - len(self._running)
        for task in driver.poll(name, free, now) if free > 0 else ():
            self._running[task.attempt] = Progress(phase=WAITING)
            self._submit(task, now)

    def _submit(self, task: MapTask | ReduceTask, now: float) -> None:
        document: orders.Document = {"task": to_document(task)}
        if isinstance(task, MapTask) and len(task.pieces) == 1:
            self._inputs[map_name(task.index)] = task.pieces[0].path
        if isinstance(task, ReduceTask):
            page = self._driver.outputs(task.attempt, 0, 1 << 30, now, self._cluster.name)
            if page is None:
                self._driver.release(self._cluster.name, task.attempt, now)
                del self._running[task.attempt]
                return
            segments, next, _ = page
            document |= {"segments": [encode(segment) for segment in segments], "next": next}
        spec = self._driver.spec
        sent = orders.parcel(self._store, spec.job, f"{task.attempt}.order", document)
        order = {"job": spec.job, "store_url": spec.store_url, "attempt": task.attempt, "stall_s": spec.stall_s}
        self._cluster.submit(order | {"app": _plain(self._parcel), "task": _plain(sent)})

    def _wait(self) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + RENEW_S
            self._cluster.check()
            self._join()
            for attempt, word in self._driver.renew(self._cluster.name, dict(self._running), now).items():
                if word == "cancel":
                    self._running.pop(attempt, None)
                    self._cluster.cancel(attempt)
        self._sync(now)
        timeout = self._renew_at - now
        if (deadline := self._driver.next_deadline()) is not None:
            timeout = max(0.0, min(timeout, deadline - now))
        if self._view is not None and (until_view := self._view.wait_s(now)) is not None:
            timeout = min(timeout, until_view)
        if self._view is not None:
            timeout = min(timeout, self._view.pump(now))
        for key, _ in self._selector.select(timeout):
            key.data()
        with suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                self._outcome(event) if isinstance(event, Outcome) else self._told(event.value)
        if self._view is not None and self._view.wait_s(now := time.monotonic()) == 0:
            self._view.update(self._driver.status(now), now)

    def _sync(self, now: float) -> None:
        journal = self._driver.journal
        if journal is not None and now >= self._sync_at and journal.synced < journal.records:
            self._sync_at = now + SYNC_S
            try:
                journal.sync()
            except MrfastError as error:
                self._driver.fail(error)

    def _told(self, value: dict[str, Any]) -> None:
        for attempt, done in value.get("progress", {}).items():
            if attempt in self._running:
                self._running[attempt] = decode(Progress, done)
        if printed := value.get("printed"):
            self._driver.printed(value["host"], printed, time.monotonic())

    def _outcome(self, outcome: Outcome) -> None:
        """What became of an attempt, in the words of the protocol."""
        attempt, value, now = outcome.attempt, outcome.value, time.monotonic()
        driver, name = self._driver, self._cluster.name
        wanted = self._running.pop(attempt, None) is not None
        if "requests" in value:
            driver.counted(value["host"], value["requests"])
        if "ready" in value:
            info = decode(AppInfo, value["ready"])
            if not fits(self._info, info, compress=driver.spec.reads_compressed):
                driver.fail(AppRefused(difference(self._info, info)))
                return
        if "refused" in value:
            driver.fail(error_from_wire(value["refused"]))
        elif "report" in value:
            report = from_document(value["report"])
            if isinstance(report, Failure) and report.kind == "corrupt" and report.map_index is not None:
                driver.bad_input(name, attempt, report.map_index, report.input, report.message, now)
                driver.release(name, attempt, now)
            else:
                driver.report(name, report, now)
        elif "died" in value:
            driver.report(name, Failure(attempt, "died", value["died"]), now)
        elif wanted:
            self._lose(attempt, value["lost"], now)

    def _lose(self, attempt: str, why: str, now: float) -> None:
        """An attempt was lost with its worker: not its own fault, unless that happens to its task again and again."""
        task = attempt.partition(".")[0]
        self._lost[task] += 1
        if self._lost[task] < LOST_MAX:
            self._driver.release(self._cluster.name, attempt, now)
            return
        message = (
            f"{LOST_MAX} workers of the {self._cluster.name} cluster were lost while they ran it; of the last: {why}; "
            "should they run out of memory, a smaller --split-bytes or --memory, or larger workers help"
        )
        failure = Failure(attempt, "died", message, input=self._inputs.get(task, ""), fatal=True)
        self._driver.report(self._cluster.name, failure, now)


def _plain(sent: bytes | str) -> list[str]:
    return ["inline", sent.decode()] if isinstance(sent, bytes) else ["stored", sent]
