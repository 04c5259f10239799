"""The store work of a job, from the claim of its output to its end: effects out, their results in.

What the store must do comes out of `effects()`; the caller runs each effect wherever it likes (inline, or in a thread
pool) and gives its result or error back to `effect_done()`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from mrfast.control import commit, recovery, reuse, splits
from mrfast.control.bad_records import BadRecords
from mrfast.control.document import manifest
from mrfast.control.effects import Begun, Effect, Journals, Mirror, begin, read_indexes
from mrfast.control.explain import difference, failed, fits, unpublished
from mrfast.control.groups import Groups
from mrfast.control.journal_files import Journal, is_superseded
from mrfast.control.outputs import Outputs
from mrfast.control.scheduler import Scheduler
from mrfast.errors import AppRefused, JobTaken, MrfastError, NotFound
from mrfast.index import SegmentIndex
from mrfast.model import AppInfo, InputObject, JobSpec, MapReport, Piece, ReduceReport, inter_key
from mrfast.storage import ledger, open_store
from mrfast.storage.base import Store

LEASE_S = 10.0
INDEXES_PER_EFFECT = 100
INDEX_TRIES_MAX = 30
REREAD_S = 2.0  # after an error of the store

QuotedNewlines = Callable[[InputObject], bool]


class JobWork:
    """What a job has done and what the store must do for it next."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        store: Store,
        journals: Journals,
        resume: bool = False,
        quoted_newlines: QuotedNewlines | None = None,
        open_output: Callable[[str], Store] = open_store,
    ) -> None:
        self.spec = spec
        self.state = "WAITING"
        self.error: MrfastError | None = None
        self.result: dict[str, Any] | None = None
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
        self._checking: set[str] = set()  # map attempts that the coordinator is looking at
        self._reading: set[str] = set()  # map attempts whose index is being read
        self._bad = BadRecords(spec.bad_records_max)
        self._reports: dict[int, ReduceReport] = {}
        self._workers: dict[str, dict[str, Any]] = {}
        self._requests: dict[str, ledger.Counts] = {}  # what each worker has sent to stores
        self._attempts = {"started": 0, "failed": 0}
        self._start: float | None = None
        self._now = 0.0
        self._fence_at = 0.0
        self._reread_at = float("inf")
        self._tries = 0

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

    def effects(self) -> list[Effect]:
        """The store work to be done now, each given out once; what was accepted is in the journal's file by then."""
        try:
            self.write_journal()
        except MrfastError as error:
            self.fail(error)
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def write_journal(self) -> None:
        """Hands what was accepted to the operating system, and what fills an object to the store."""
        if self.journal is not None:
            try:
                self.journal.write()
            finally:  # for what finds no room here, the store's copy is the only one
                self._effects += self._mirror.effects(self.journal, self._now)

    def effect_done(self, effect: Effect, result: Any, now: float) -> None:
        """Goes on with what an effect gave, or with the MrfastError that it raised."""
        self._now = now
        if isinstance(result, MrfastError):
            self._effect_failed(effect, result, now)
        elif effect.name == "begin":
            self._on_begun(result)
        elif effect.name == "plan":
            self._planned(*result)
        elif effect.name == "index":
            worker, report = effect.subject
            self._index_read(worker, report, result, now)
        elif effect.name == "indexes":
            self._indexes_read(result, now)
        elif effect.name == "check":
            map_index, attempt = effect.subject
            self._checked(map_index, attempt, result, now)
        elif effect.name == "fence" and result:
            self._step_down()
        elif effect.name == "journal":
            self._mirror.done()
            if result:
                self._step_down()
        elif effect.name == "commit":
            self._effects.append(Effect("publish", lambda: self._publish(result)))
        elif effect.name == "publish":
            self._published(result, now)
        if self.state == "RUNNING":
            self._follow(now)

    def _output(self) -> Store:
        return self._open_output(self.spec.output_url)

    def _on_begun(self, begun: Begun) -> None:
        self.epoch, self.journal, self._history = begun.epoch, begun.journal, begun.records
        self.begun = True
        if begun.manifest is not None:  # committed by an earlier epoch: its parts need only be published again
            self.state = "COMMITTING"
            manifest = begun.manifest
            self._effects.append(Effect("publish", lambda: self._publish(manifest)))
            return
        if (plan := recovery.plan_of(self._history)) is not None:
            if self.app is not None and not fits(plan[0], self.app, compress=self.spec.reads_compressed):
                self.fail(AppRefused(difference(plan[0], self.app)))
                return
            self.app, self._whole = plan
        self._plan()

    def _plan(self) -> None:
        """Cuts the input as soon as the output is ours and the app has said how."""
        if self.state == "WAITING" and self.begun and self.app is not None:
            self.state = "PLANNING"
            self._effects.append(Effect("plan", self._make_splits))

    def _make_splits(self) -> tuple[list[tuple[Piece, ...]], set[str], dict[int, reuse.Kept]]:
        spec, app = self.spec, self.app
        assert app is not None
        whole, kept = self._whole, {}
        if whole is None:
            quoted = app.cut.kind == "csv" and app.cut.splittable
            whole = {
                item.url for item in spec.inputs if quoted and item.size > spec.split_bytes and self._is_quoted(item)
            }
        planned = list(splits.unsplit(splits.plan(spec.inputs, app.cut, spec.split_bytes), whole))
        if spec.reuse and self._whole is None:
            kept = reuse.look(self._store, app, spec.reduces, planned)
        return planned, whole, kept

    def _is_quoted(self, item: InputObject) -> bool:
        return self._quoted_newlines is None or self._quoted_newlines(item)

    def _planned(self, planned: list[tuple[Piece, ...]], whole: set[str], kept: dict[int, reuse.Kept]) -> None:
        if self.state != "PLANNING":  # given up meanwhile
            return
        self._splits = planned
        spec, app = self.spec, self.app
        assert app is not None
        self.scheduler = Scheduler(
            len(planned), self._groups.tasks, attempts_max=spec.attempts_max, epoch=self.epoch, lease_s=LEASE_S,
            stall_s=spec.stall_s,
        )  # fmt: skip
        if self._whole is None:
            self._note(recovery.plan_record(app, whole))
        try:
            restored = recovery.replay(self._history, self.scheduler, self._groups)
        except MrfastError as error:
            self.fail(error)
            return
        self._history = []
        self._unread, self._objects, self._reports = restored.maps, restored.objects, restored.parts
        self._bad.restore(restored)
        for map_index, each in kept.items():
            self._adopt(map_index, each)
        if kept:
            self._close_maps()
        self.state = "RUNNING"
        for worker, known in self._workers.items():
            self.scheduler.joined(worker, known["slots"], (), self._now)
        self._read_indexes()

    def _adopt(self, map_index: int, kept: reuse.Kept) -> None:
        """Accepts an earlier job's output, as of an attempt that was never handed out."""
        assert self.scheduler is not None
        attempt = self.scheduler.names.attempt(map_index, self.scheduler.names.serial(1))
        report = replace(kept.report, attempt=attempt)
        self.scheduler.restore("map", report.attempt, kept.digest, "", 1, self.epoch)
        self._outputs.add(map_index, report, kept.index, kept.digest, kept.object)
        self._note(recovery.map_record(report, kept.digest, 1, kept.object))

    def _keep(self, map_index: int, report: MapReport, digest: str) -> None:
        """Lets later jobs find an accepted output; not one that lacks records."""
        if not self.spec.reuse or self.app is None:
            return
        name = reuse.name_of(self.app, self.spec.reduces, self._splits[map_index])
        if name and not report.bad and not self._bad.skip(map_index):
            self._names.append((name, reuse.entry(inter_key(self.spec.job, report.attempt), report, digest)))
        if len(self._names) == reuse.BATCH:
            self._put_names()

    def _put_names(self) -> None:
        if self._names:
            names, self._names = self._names, []
            self._effects.append(Effect("keep", lambda: reuse.put(self._store, names)))

    def _close_maps(self) -> None:
        """The last map ends what is gathered in batches."""
        if self.scheduler is not None and self.scheduler.maps_done == self.scheduler.maps:
            self._put_names()
            if self.journal is not None:
                self.journal.close_batch()

    def _read_indexes(self) -> None:
        """What an earlier epoch accepted is listed for reduces once its index has been read from its object."""
        reports = list(self._unread.items())
        for at in range(0, len(reports), INDEXES_PER_EFFECT):
            some = reports[at : at + INDEXES_PER_EFFECT]
            self._effects.append(
                Effect("indexes", partial(read_indexes, self._store, self.spec.job, some, self._objects))
            )

    def _indexes_read(self, read: list[tuple[int, MapReport, SegmentIndex | None]], now: float) -> None:
        assert self.scheduler is not None
        for map_index, report, index in read:
            if self._unread.pop(map_index, None) is None or self.scheduler.accepted_map(map_index) != report.attempt:
                continue
            if index is None:
                self._lost(map_index, report.attempt, now)
            else:
                its = self._objects.get(map_index, "")
                self._outputs.add(map_index, report, index, index.digest(), its)
                if not its:  # the earlier epoch may not have come to it
                    self._keep(map_index, report, index.digest())
        self._put_names()

    def _effect_failed(self, effect: Effect, error: MrfastError, now: float) -> None:
        if effect.name == "index":
            worker, report = effect.subject
            self._unreadable(worker, report, error, now)
        elif effect.name == "begin":  # the output is another's, or the store is not there: nothing of ours to clean up
            self.state, self.error = "FAILED", error
        elif effect.name == "check":
            map_index, attempt = effect.subject
            self._checked(map_index, attempt, True, now)  # the reduce tries again, and says so again
        elif effect.name == "journal":
            self._mirror.failed(now)
        elif isinstance(error, JobTaken):
            self.state, self.error = "FAILED", error
        elif effect.name == "indexes" and self._tries < INDEX_TRIES_MAX:
            self._tries += 1
            self._reread_at = now + REREAD_S
        elif effect.name in ("commit", "publish"):
            # The manifest is there, or may be: what it names stays, and no failed.json contradicts it.
            self.state, self.error = "FAILED", unpublished(self.spec, effect.name, error)
        elif effect.name in ("plan", "indexes"):
            self.fail(error)

    def _step_down(self) -> None:
        """Another coordinator has the job: nothing of it is touched here any more."""
        if self.state in ("RUNNING", "WAITING", "PLANNING"):
            if self.scheduler is not None and self.scheduler.state == "RUNNING":
                self.scheduler.fail("taken over", self._now)
            self.state = "FAILED"
            self.error = self._taken()
            self._effects.clear()

    def _taken(self) -> JobTaken:
        return JobTaken(f"job {self.spec.job} was taken over by a coordinator that was started later")

    def _note(self, record: dict[str, Any]) -> None:
        if self.journal is not None:
            self.journal.append(record)

    def _checked(self, map_index: int, attempt: str, intact: bool, now: float) -> None:
        """The coordinator has looked at an output that a reduce could not read."""
        self._checking.discard(attempt)
        if self.scheduler is None or self.state != "RUNNING" or self._outputs.attempt(map_index) != attempt:
            return
        if intact:
            self._outputs.announce(map_index)
        else:
            self._lost(map_index, attempt, now)

    def _lost(self, map_index: int, attempt: str, now: float) -> None:
        assert self.scheduler is not None
        if self.scheduler.output_lost(map_index, attempt, now) == "accepted":
            self._outputs.remove(map_index)
            self._bad.forget(map_index)
            self._note(recovery.lost_record(map_index, attempt))

    def _discard(self, report: MapReport | ReduceReport) -> None:
        """Removes what a loser wrote, if its task is done by another attempt: it can never be accepted then."""
        task = self._task(report.attempt)
        if task is None or self.scheduler is None or self.scheduler.task_state(*task) != "ACCEPTED":
            return
        keys = self._groups.written(self.spec.job, *task, report.attempt)
        journal = self.journal

        def delete() -> None:
            if journal is not None:
                journal.sync()  # else a power cut could undo the other's acceptance, and this attempt would be wanted
            if not is_superseded(self._store, self.spec.job, self.epoch):  # in the eyes of a later epoch, too
                for key in keys:
                    self._store.delete(key)

        self._effects.append(Effect("discard", delete))

    def _task(self, attempt: str) -> tuple[str, int] | None:
        """("map", index) or ("reduce", index) of an attempt's name; None if it is none of this job."""
        found = None if self.scheduler is None else self.scheduler.names.parse(attempt)
        return None if found is None or self.scheduler is None else self.scheduler.names.kind_index(found[0])

    def _map_index(self, attempt: str) -> int | None:
        task = self._task(attempt)
        return task[1] if task is not None and task[0] == "map" else None

    def _reduce_index(self, attempt: str) -> int | None:
        task = self._task(attempt)
        return task[1] if task is not None and task[0] == "reduce" else None

    def _follow(self, now: float) -> None:
        """What the last event led to: a failed job, or one whose every part is there."""
        scheduler = self.scheduler
        if scheduler is None or self.state != "RUNNING":
            return
        if scheduler.state == "FAILED":
            assert scheduler.failure is not None
            self._end_failed(failed(self.spec.job, scheduler.failure))
        elif self._bad.are_too_many():
            self.fail(self._bad.error())
        elif scheduler.phase == "commit" and not self._unread:
            self.state = "COMMITTING"
            assert self.app is not None
            seconds = round(now - (now if self._start is None else self._start), 3)
            maps = len(self._splits)
            document = manifest(
                self.spec, self.app, self.epoch, maps, self._outputs, self._reports, self._attempts, seconds
            )
            lines = self._bad.lines()
            self._effects.append(Effect("commit", lambda: self._commit(document, lines)))

    def _commit(self, document: dict[str, Any], bad_records: bytes) -> dict[str, Any]:
        if is_superseded(self._store, self.spec.job, self.epoch):
            with suppress(NotFound):
                return commit.read_manifest(self.spec.job, self._store)
            raise self._taken()
        if bad_records:
            commit.write_bad_records(self.spec.job, bad_records, self._store)
        return commit.write_manifest(self.spec.job, document, self._store)

    def _publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        commit.publish(self.spec, manifest, self._store, self._output(), self.requests)
        return manifest

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
        if commit.write_failure(self.spec, document, self._store, self._output()) and not self.spec.keep_intermediate:
            commit.clean(self.spec.job, {"parts": []}, self._store, keep=kept)

    # What only the driver can do, which is this class and what workers say: each is made there

    def _index_read(self, worker: str, report: MapReport, index: SegmentIndex, now: float) -> None:
        raise NotImplementedError

    def _unreadable(self, worker: str, report: MapReport, error: Exception, now: float) -> None:
        raise NotImplementedError
