"""The state of a job's driver, and how the job ends: committed and published, or failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from mrfast.control import commit
from mrfast.control.bad_records import BadRecords
from mrfast.control.chronicle import Chronicle
from mrfast.control.document import Reports, added, totals
from mrfast.control.effects import Effect, Journals, Mirror, begin
from mrfast.control.event_files import EVENTS, EVENTS_KEY, is_kept, keep
from mrfast.control.events import cut
from mrfast.control.groups import Groups
from mrfast.control.journal_files import Journal, is_superseded
from mrfast.control.outputs import Outputs
from mrfast.control.scheduler import Scheduler
from mrfast.errors import JobTaken, MrfastError, NotFound
from mrfast.model import AppInfo, InputObject, JobSpec, MapReport, Piece, job_key
from mrfast.storage import is_remote, ledger, open_store
from mrfast.storage.base import Store

QuotedNewlines = Callable[[InputObject], bool]


class JobEnd:
    """What is known of a job, and what the store must do when it ends."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        store: Store,
        journals: Journals,
        resume: bool = False,
        quoted_newlines: QuotedNewlines | None = None,
        open_output: Callable[[str], Store] = open_store,
        began: float | None = None,
        slots: int | None = None,
    ) -> None:
        self.spec = spec
        self.state = "WAITING"
        self.error: MrfastError | None = None
        self.result: dict[str, Any] | None = None
        self.warnings: list[str] = []  # for people, when the job has ended
        self.scheduler: Scheduler | None = None
        self.app: AppInfo | None = None
        self.journal: Journal | None = None
        self.epoch = 1
        self._store = store
        self._journals = journals
        self._open_output = open_output
        self._quoted_newlines = quoted_newlines
        self._splits: list[tuple[Piece, ...]] = []
        self._effects: deque[Effect] = deque(
            [Effect("begin", lambda: begin(spec, store, self._output(), journals, resume))]
        )
        self._history: list[dict[str, Any]] = []
        self._whole: set[str] | None = None
        self.begun = False
        self._mirror = Mirror(store, lambda: is_superseded(store, spec.job, self.epoch))
        self._outputs = Outputs()
        self._groups = Groups.of(spec)
        self._unread: dict[int, MapReport] = {}  # accepted by an earlier epoch, their indexes not read yet
        self._objects: dict[int, str] = {}  # of those that an earlier job ran
        self._names: list[tuple[str, bytes]] = []  # of this job's map outputs, for later jobs
        self._checking: dict[str, str] = {}  # map attempts that the coordinator is looking at, and why
        self._reading: set[str] = set()  # map attempts whose index is being read
        self._bad = BadRecords(spec.bad_records_max)
        self._reports = Reports()
        self._workers: dict[str, dict[str, Any]] = {}
        self._requests: dict[str, ledger.Counts] = {}  # what each worker has sent to stores
        self._attempts = {"started": 0, "failed": 0}
        self._start: float | None = None
        self._now = 0.0
        self._fence_at = 0.0
        self._reread_at = float("inf")
        self._tries = 0
        self._chronicle = Chronicle(spec, resumed=resume, began=began, slots=slots)
        self.events = self._chronicle.events

    def counted(self, worker: str, requests: ledger.Counts) -> None:
        """A worker has said what it has sent to stores, since it began; an older message changes nothing."""
        requests = ledger.checked(requests)
        if ledger.number(requests) >= ledger.number(self._requests.get(worker, {})):
            self._requests[worker] = requests

    def requests(self) -> ledger.Counts:
        """What this process and all workers have sent to stores, as far as they have said."""
        return ledger.total([ledger.current().counts(), *list(self._requests.values())])

    def fail(self, error: MrfastError) -> None:
        """The job is FAILED with this error, unless it has ended already or is being committed."""
        if self.state in ("COMMITTING", "COMMITTED", "FAILED"):
            return
        if self.scheduler is not None and self.scheduler.state == "RUNNING":
            self.scheduler.fail(str(error), self._now)
        self._end_failed(error)

    def stop(self, now: float) -> None:
        """Nobody goes on with the job here; it can be resumed. Its log is kept by the effect that follows."""
        self._now = now
        if self.state not in ("COMMITTED", "FAILED") and not self.events.ended:
            self._chronicle.tell("end", now, **self._ending("STOPPED"))
            if self.begun:
                self._effects.append(Effect("fail", self._keep_unfinished))

    def _output(self) -> Store:
        return self._open_output(self.spec.output_url)

    def _taken(self) -> JobTaken:
        return JobTaken(f"job {self.spec.job} was taken over by a coordinator that was started later")

    def _note(self, record: dict[str, Any]) -> None:
        if self.journal is not None:
            self.journal.append(record)

    def _commit(self, document: dict[str, Any], bad_records: bytes) -> dict[str, Any]:
        if is_superseded(self._store, self.spec.job, self.epoch):
            with suppress(NotFound):
                return commit.read_manifest(self.spec.job, self._store)
            raise self._taken()
        if bad_records:
            commit.write_bad_records(self.spec.job, bad_records, self._store)
        return commit.write_manifest(self.spec.job, document, self._store)

    def _publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        output = self._output()
        beside = partial(self._keep_beside, output, manifest)
        commit.publish(self.spec, manifest, self._store, output, self.requests, beside)
        return manifest

    def _keep_beside(self, output: Store, manifest: dict[str, Any]) -> None:
        """The event log, as of a job that is committed: `_SUCCESS` comes next."""
        committed_here = self.scheduler is not None and manifest["epoch"] == self.epoch
        if not committed_here and is_kept(output, self.spec.job):  # who committed it has seen more
            return
        # The log itself; whose the output is; _SUCCESS.
        rest = {"PUT": {"ok": 2}, "HEAD": {"ok": 1}, "GET": {"ok": 1}}
        own: ledger.Counts = {"commit": rest} if is_remote(output.url) else {}
        end = self._ending("COMMITTED", manifest, own)
        self._warn(keep(output, EVENTS_KEY, self.events.document(end, self._now)))

    def _keep_unfinished(self) -> None:
        """The event log of a job without a result, in its store, unless the job is another coordinator's."""
        if not is_superseded(self._store, self.spec.job, self.epoch):
            self._keep_in_store()

    def _keep_in_store(self) -> None:
        self._warn(keep(self._store, job_key(self.spec.job, EVENTS), self.events.document()))

    def _warn(self, text: str) -> None:
        if text:
            self.warnings.append(text)

    def _published(self, manifest: dict[str, Any], now: float) -> None:
        if self.scheduler is not None:
            self.scheduler.committed(now)
        self.result = manifest
        self.state = "COMMITTED"
        self._close_journal()
        known = self.scheduler is not None or not self.spec.reuse  # which map outputs are to stay
        if known and not self.spec.keep_intermediate:
            self._effects.append(Effect("clean", lambda: self._clean(manifest)))

    def _clean(self, manifest: dict[str, Any]) -> None:
        commit.clean(self.spec.job, manifest, self._store, self._kept() if self.spec.reuse else ())
        self._journals.forget()

    def _close_journal(self) -> None:
        self._note({"k": "end", "state": self.state})
        if self.journal is not None:
            self.journal.close_batch()

    def _end_failed(self, error: MrfastError) -> None:
        self.state = "FAILED"
        self._close_journal()
        kept = self._kept()
        self.error = commit.with_cure(error, self.spec, len(kept))
        document = {"job": self.spec.job, "name": self.spec.name, "error": str(error), "attempts": self._attempts}
        lines = self._bad.lines()
        self._effects.append(Effect("fail", lambda: self._write_failure(document, kept, lines)))
        self._tell_end()

    def _tell_end(self) -> None:
        """The log's last event, once the job has ended."""
        if self.state in ("COMMITTED", "FAILED") and not self.events.ended:
            self._chronicle.tell("sample", self._now, status=self.status(self._now))
            self._chronicle.tell("end", self._now, **self._ending(self.state, self.result))

    def _ending(
        self, state: str, manifest: dict[str, Any] | None = None, own: ledger.Counts | None = None
    ) -> dict[str, Any]:
        """What the last event says: how the job ended, and what came of it; `own`: requests that are still to come."""
        failure = None if self.scheduler is None else self.scheduler.failure
        result = manifest or {}
        return {
            "state": state,
            "error": "" if self.error is None else cut("error", str(self.error)),
            "task": "" if failure is None else failure.task,
            "attempt": "" if failure is None or failure.failure is None else failure.failure.attempt,
            "totals": result.get("totals") or totals(self.spec, len(self._splits), self._outputs, self._reports),
            "counters": result.get("counters", self._counters()),
            "seconds": result.get("seconds", 0.0 if self._start is None else round(self._now - self._start, 3)),
            **ledger.document(ledger.total([self.requests(), own or {}])),
        }

    def _counters(self) -> dict[str, int]:
        """What accepted tasks have counted so far."""
        return added(self._outputs.counters, self._reports.counters)

    def status(self, now: float) -> dict[str, Any]:
        """What people want to see of the job at this moment; made where the rest of the driver is."""
        raise NotImplementedError

    def _kept(self) -> set[str]:
        """The keys of what was accepted: a resumed job goes on from it."""
        if self.scheduler is None:
            return set()
        done = {"map": self.scheduler.accepted_maps(), "reduce": self.scheduler.accepted_reduces()}
        written = partial(self._groups.written, self.spec.job)
        return {key for kind, tasks in done.items() for index, name, _ in tasks for key in written(kind, index, name)}

    def _write_failure(self, document: dict[str, Any], kept: set[str], bad_records: bytes) -> None:
        if is_superseded(self._store, self.spec.job, self.epoch):
            return
        if bad_records:
            commit.write_bad_records(self.spec.job, bad_records, self._store)
        if not commit.write_failure(self.spec, document, self._store, self._output()):
            return
        if not self.spec.keep_intermediate:
            commit.clean(self.spec.job, {"parts": []}, self._store, keep=kept)
        self._keep_in_store()
