"""The store work of a job, from the claim of its output to its end: effects out, their results in.

What the store must do comes out of `effects()`; the caller runs each effect wherever it likes (inline, or in a thread
pool) and gives its result or error back to `effect_done()`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mrfast.control import recovery, reuse, splits
from mrfast.control.document import Reports, manifest
from mrfast.control.effects import Begun, Effect, read_indexes
from mrfast.control.explain import difference, failed, fits, unpublished
from mrfast.control.job_end import JobEnd
from mrfast.control.journal_files import is_superseded
from mrfast.control.scheduler import Scheduler
from mrfast.errors import AppRefused, JobTaken, MrfastError
from mrfast.index import SegmentIndex
from mrfast.model import InputObject, MapReport, Piece, ReduceReport, inter_key

LEASE_S = 10.0
INDEXES_PER_EFFECT = 100
INDEX_TRIES_MAX = 30
REREAD_S = 2.0  # after an error of the store


class JobWork(JobEnd):
    """What a job has done and what the store must do for it next."""

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
        self._tell_end()

    def _on_begun(self, begun: Begun) -> None:
        self.epoch, self.journal, self._history = begun.epoch, begun.journal, begun.records
        self.begun = True
        self._chronicle.tell("job", self._now)
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
        self._unread, self._objects, self._reports = restored.maps, restored.objects, Reports(restored.parts)
        self._bad.restore(restored)
        for map_index, each in kept.items():
            self._adopt(map_index, each)
        if kept:
            self._close_maps()
        self.state = "RUNNING"
        self._chronicle.planned(spec, app, planned, self.scheduler, self._now)
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
                self._lost(map_index, report.attempt, "its object is missing or damaged", now)
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
            self._effects.append(Effect("fail", self._keep_unfinished))
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

    def _checked(self, map_index: int, attempt: str, intact: bool, now: float) -> None:
        """The coordinator has looked at an output that a reduce could not read."""
        why = self._checking.pop(attempt, "")
        if self.scheduler is None or self.state != "RUNNING" or self._outputs.attempt(map_index) != attempt:
            return
        if intact:
            self._outputs.announce(map_index)
        else:
            self._lost(map_index, attempt, why, now)

    def _lost(self, map_index: int, attempt: str, why: str, now: float) -> None:
        assert self.scheduler is not None
        self._chronicle.why = why
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

    # What only the driver can do, which is this class and what workers say: each is made there

    def _index_read(self, worker: str, report: MapReport, index: SegmentIndex, now: float) -> None:
        raise NotImplementedError

    def _unreadable(self, worker: str, report: MapReport, error: Exception, now: float) -> None:
        raise NotImplementedError
