"""A job on somebody else's cluster: our driver decides which attempt runs, the cluster where.

The shell is the local engine's, with a cluster in the place of the slot pool: attempts, commits, journal and ledger are
the same. The cluster places tasks, and notices lost machines; it never retries, and no data passes through it.
"""

from __future__ import annotations

import os
import queue
import selectors
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
from ..errors import AppRefused, UsageError
from ..interrupt import Interrupts
from ..model import WAITING, AppInfo, Failure, JobSpec, MapTask, Progress, ReduceTask, job_key, map_name
from ..storage import is_remote
from ..storage.base import Store
from ..tasks.frames import from_document, to_document
from ..watch.progress import ProgressView
from . import orders
from .shell import Shell, check_store, driven, outcome

PROBE = "probe"
LOST_MAX = 8  # workers lost with one task: spot machines go often, but a task that takes its worker along must end
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
    check_store(store)
    journals = JournalFiles(store, spec.job, state_folder(os.environ))
    with (
        selectors.DefaultSelector() as selector,
        Interrupts(selector) as interrupts,
        ExitStack() as watched,
        driven(spec, store, journals, cluster.slots(), view, resume=resume) as driver,
    ):
        watched.callback(cluster.close)
        shell = _Shell(cluster, driver, load().info(), app, store, selector, interrupts, view)
        if view is not None:
            watched.enter_context(view.watching(driver.events, driver.status))
        shell.run()
        if shell.stopped is not None and resume:
            shell.effects()  # it keeps its log
    return outcome(shell, spec, store, journals, view, resume=resume)


class _Shell(Shell):
    """The job's tasks as orders to a cluster."""

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
        super().__init__(driver, interrupts, view)
        self._cluster, self._info, self._app = cluster, info, app
        self._store = store
        self._selector = selector
        self._events: queue.SimpleQueue[Outcome | Told] = queue.SimpleQueue()
        self._mine, self._theirs = socket.socketpair()
        for end in (self._mine, self._theirs):
            end.setblocking(False)
        selector.register(self._mine, selectors.EVENT_READ, self._woken)
        self._running: dict[str, Progress] = {}
        self._inputs: dict[str, str] = {}  # of maps of one piece: task -> path
        self._lost: Counter[str] = Counter()  # task -> how often a worker was lost with it
        self._slots = 0
        self._parcel: bytes | str = b""

    def run(self) -> None:
        """Runs the job until it has ended, or a signal has come before its commit; the cluster may be asked nothing."""
        try:
            self._cluster.start(self.driver.spec.job, self._on_event)
            self.effects()
            if self.has_ended():
                return
            self._check_folder()
            self._parcel = orders.parcel(self._store, self.driver.spec.job, "app", self._app)
            self._join()
            super().run()
        finally:
            self._selector.unregister(self._mine)

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

    def _check_folder(self) -> None:
        """UsageError unless every worker sees the store and the input, where these are folders of this machine."""
        spec = self.driver.spec
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
            driver = self.driver
            driver.hello(self._cluster.name, slots, self._info, time.monotonic(), tuple(sorted(self._running)))

    def _assign(self) -> None:
        driver, name = self.driver, self._cluster.name
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
            page = self.driver.outputs(task.attempt, 0, 1 << 30, now, self._cluster.name)
            if page is None:
                self.driver.release(self._cluster.name, task.attempt, now)
                del self._running[task.attempt]
                return
            segments, next, _ = page
            document |= {"segments": [encode(segment) for segment in segments], "next": next}
        spec = self.driver.spec
        sent = orders.parcel(self._store, spec.job, f"{task.attempt}.order", document)
        order = {"job": spec.job, "store_url": spec.store_url, "attempt": task.attempt, "stall_s": spec.stall_s}
        self._cluster.submit(order | {"app": _plain(self._parcel), "task": _plain(sent)})

    def _renew(self, now: float) -> None:
        self._cluster.check()
        self._join()
        for attempt, word in self.driver.renew(self._cluster.name, dict(self._running), now).items():
            if word == "cancel":
                self._running.pop(attempt, None)
                self._cluster.cancel(attempt)

    def _hear(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            key.data()
        with suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                self._outcome(event) if isinstance(event, Outcome) else self._told(event.value)

    def _told(self, value: dict[str, Any]) -> None:
        for attempt, done in value.get("progress", {}).items():
            if attempt in self._running:
                self._running[attempt] = decode(Progress, done)
        if printed := value.get("printed"):
            self.driver.printed(value["host"], printed, time.monotonic())

    def _outcome(self, outcome: Outcome) -> None:
        """What became of an attempt, in the words of the protocol."""
        attempt, value, now = outcome.attempt, outcome.value, time.monotonic()
        driver, name = self.driver, self._cluster.name
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
            self.driver.release(self._cluster.name, attempt, now)
            return
        message = (
            f"{LOST_MAX} workers of the {self._cluster.name} cluster were lost while they ran it; of the last: {why}; "
            "should they run out of memory, a smaller --split-bytes or --memory, or larger workers help"
        )
        failure = Failure(attempt, "died", message, input=self._inputs.get(task, ""), fatal=True)
        self.driver.report(self._cluster.name, failure, now)


def _plain(sent: bytes | str) -> list[str]:
    return ["inline", sent.decode()] if isinstance(sent, bytes) else ["stored", sent]
