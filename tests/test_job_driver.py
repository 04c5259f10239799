"""The driver and the commit without kernels or processes: reports are made up, the store is memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from mrfast.control import commit, messages
from mrfast.control.job import Effect, JobDriver
from mrfast.errors import AppRefused, JobFailed, MrfastError, OutputExists, StoreError
from mrfast.index import TRAILER_MAGIC, SegmentIndex, TableDigest
from mrfast.model import (
    AppInfo,
    Failure,
    InputCut,
    InputObject,
    JobSpec,
    MapReport,
    MapTask,
    Progress,
    ReduceReport,
    ReduceTask,
    inter_key,
    out_key,
)
from mrfast.storage import base, open_store

APP = AppInfo("wc.py", "f" * 32, InputCut("blocks", True), "text", "0.1.0", "3.11")
NAMES = itertools.count()


def make_spec(**changes: Any) -> JobSpec:
    root = f"memory://driver-{next(NAMES)}"
    inputs = tuple(InputObject(f"{i}.txt", f"{root}/{i}.txt", 10, "e") for i in range(2))
    spec = JobSpec("0" * 32, None, root, f"{root}/out", 2, 100, 1 << 20, 2, False, inputs)
    return replace(spec, **changes)


class Run:
    """A driver, its store, and the worker that makes reports up."""

    def __init__(self, spec: JobSpec, before: Callable[[Effect], None] = lambda effect: None):
        self.spec = spec
        self.store = open_store(spec.store_url)
        self.output = open_store(spec.output_url)
        self.driver = JobDriver(spec, store=self.store)
        self.now = 0.0
        self.before = before

    def effects(self) -> None:
        while effects := self.driver.effects():
            for effect in effects:
                result: Any
                try:
                    self.before(effect)
                    result = effect.run()
                except MrfastError as error:
                    result = error
                self.driver.effect_done(effect, result, self.now)

    def start(self) -> Run:
        self.effects()
        self.driver.hello("w", 2, APP, self.now)
        self.effects()
        return self

    def map_report(self, task: MapTask, text: bytes = b"x") -> MapReport:
        index = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str")
        self.store.put(inter_key(task.job, task.attempt), text)
        return MapReport(task.attempt, 1, "0" * 16, index.pack(), 3, 1, 10)

    def reduce_report(self, task: ReduceTask) -> ReduceReport:
        table = TableDigest()
        segments, after = self.driver.outputs(task.attempt, 0, 100)
        assert after is None
        for segment in segments:
            table.add(segment.map_index, segment.digest)
        text = b"part %d" % task.partition
        self.store.put(out_key(task.job, task.attempt), text)
        return ReduceReport(task.attempt, len(text), "0" * 16, 1, 1, table.hex())

    def tasks(self) -> Iterator[MapTask | ReduceTask]:
        while tasks := self.driver.poll("w", 1, self.now):
            yield from tasks

    def finish(self) -> Run:
        for task in self.tasks():
            report = self.map_report(task) if isinstance(task, MapTask) else self.reduce_report(task)
            assert self.driver.report("w", report, self.now) == "accepted"
            assert self.driver.report("w", report, self.now) in ("already", "job_done")
        self.effects()
        return self


def test_a_job_from_spec_to_success() -> None:
    run = Run(make_spec()).start().finish()
    assert run.driver.state == "COMMITTED"
    assert [base.read(run.output, f"mr-out-{i}") for i in range(2)] == [b"part 0", b"part 1"]
    document = base.read_json(run.output, "_SUCCESS")
    assert document == run.driver.result == base.read_json(run.store, f"jobs/{run.spec.job}/manifest.json")
    assert document["totals"]["records_emitted"] == 6
    assert document["attempts"] == {"started": 4, "failed": 0}
    assert [item["path"] for item in document["inputs"]] == ["0.txt", "1.txt"]
    assert not list(run.store.list(f"jobs/{run.spec.job}/inter/"))
    assert run.driver.renew("w", {"m-000000.e1.1": Progress()}, 0.0) == {"m-000000.e1.1": "cancel"}


def test_nothing_is_handed_out_before_the_output_is_claimed_and_the_app_known() -> None:
    run = Run(make_spec())
    run.driver.hello("w", 1, APP, 0.0)
    assert run.driver.poll("w", 1, 0.0) == []
    run.effects()
    assert run.driver.poll("w", 1, 0.0) != []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "0" * 32}, "same file"),
        ({"mrfast_version": "9"}, "mrfast 9"),
        ({"python_version": "3.13"}, "Python 3.13"),
    ],
)
def test_another_app_is_refused(change: dict[str, str], said: str) -> None:
    run = Run(make_spec()).start()
    with pytest.raises(AppRefused, match=said):
        run.driver.hello("v", 1, replace(APP, **change), 0.0)


def test_a_task_that_fails_too_often_fails_the_job_with_its_story() -> None:
    run = Run(make_spec()).start()
    for _ in range(2):
        task = next(task for task in run.driver.poll("w", 2, 0.0) if isinstance(task, MapTask) and task.index == 0)
        failure = Failure(task.attempt, "app", "ValueError: no", "Traceback: line 3", "0.txt", 5)
        assert run.driver.report("w", failure, 0.0) == "accepted"
        for other in [each.name for each in run.driver.scheduler.running()]:  # type: ignore[union-attr]
            run.driver.release("w", other, 0.0)
    run.effects()
    assert run.driver.state == "FAILED"
    assert isinstance(run.driver.error, JobFailed)
    for part in ("m-000000", "ValueError: no", "Traceback: line 3", "0.txt", "byte 5", "leased"):
        assert part in str(run.driver.error)
    assert base.read_json(run.store, f"jobs/{run.spec.job}/failed.json")["error"] == str(run.driver.error)
    assert commit.claimed_by(run.output) is None
    assert not list(run.output.list("mr-out-"))


def test_a_fatal_failure_is_not_tried_again() -> None:
    run = Run(make_spec()).start()
    task = run.driver.poll("w", 1, 0.0)[0]
    run.driver.report("w", Failure(task.attempt, "app", "a key of type int", fatal=True), 0.0)
    assert run.driver.state == "FAILED"


def test_a_lost_map_output_is_made_again_and_the_reduce_uses_the_new_one() -> None:
    run = Run(make_spec()).start()
    for task in list(run.driver.poll("w", 2, 0.0)):
        assert isinstance(task, MapTask)
        run.driver.report("w", run.map_report(task), 0.0)
    reduce = run.driver.poll("w", 1, 0.0)[0]
    corrupt = Failure(reduce.attempt, "corrupt", "flipped", input="m-000001.e1.1", counted=False, map_index=1)
    assert run.driver.report("w", corrupt, 0.0) == "accepted"
    again = run.driver.poll("w", 1, 0.0)[0]
    assert isinstance(again, MapTask)
    assert (again.index, again.attempt) == (1, "m-000001.e1.2")
    assert run.driver.outputs(reduce.attempt, 0, 10)[1] == 1  # the second map's segments are not there now
    run.driver.report("w", run.map_report(again), 0.0)
    assert run.finish().driver.state == "COMMITTED"


def test_a_lost_worker_costs_its_tasks_and_a_late_report_still_counts() -> None:
    run = Run(make_spec()).start()
    late = run.driver.poll("w", 1, 0.0)[0]
    assert isinstance(late, MapTask)
    run.driver.gone("w", 1.0)
    run.driver.tick(3.9)
    assert all(task.attempt != "m-000000.e1.2" for task in run.driver.poll("v", 1, 3.9))
    run.driver.tick(4.1)
    assert run.driver.poll("v", 1, 4.1)[0].attempt == "m-000000.e1.2"
    assert run.driver.report("w", run.map_report(late), 5.0) == "accepted"


def test_an_index_too_long_for_a_report_is_read_from_the_object() -> None:
    run = Run(make_spec()).start()
    for task in list(run.driver.poll("w", 2, 0.0)):
        assert isinstance(task, MapTask)
        whole = run.map_report(task)
        index = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str").pack()
        data = b"x" + index + len(index).to_bytes(4, "little") + TRAILER_MAGIC
        run.store.put(inter_key(task.job, task.attempt), data)
        run.driver.report("w", replace(whole, index=b"", size=len(data)), 0.0)
    run.effects()
    assert run.finish().driver.state == "COMMITTED"


def test_an_unreadable_index_fails_the_attempt_and_a_strange_one_nothing() -> None:
    run = Run(make_spec()).start()
    assert run.driver.report("w", MapReport("m-000077.e1.1", 9, "0" * 16, b"", 0, 0, 0), 0.0) == "stale"
    assert run.driver.report("w", MapReport("m-000001.e1.5", 9, "0" * 16, b"", 0, 0, 0), 0.0) == "accepted"
    task = run.driver.poll("w", 1, 0.0)[0]
    run.driver.report("w", MapReport(task.attempt, 9, "0" * 16, b"", 0, 0, 0), 0.0)
    run.effects()
    assert run.driver.state == "RUNNING"
    assert run.finish().driver.state == "COMMITTED"


# The commit


def test_an_output_of_another_job_is_refused_and_left_alone() -> None:
    spec = make_spec()
    Run(spec).start().finish()
    other = Run(replace(spec, job="1" * 32))
    other.effects()
    assert isinstance(other.driver.error, OutputExists)
    assert "--overwrite" in str(other.driver.error)
    assert base.read_json(other.output, "_SUCCESS")["job"] == spec.job
    assert not list(other.store.list(f"jobs/{'1' * 32}/"))


def test_overwrite_leaves_no_part_of_the_former_job() -> None:
    spec = make_spec()
    Run(spec).start().finish()
    seen: list[list[str]] = []

    def before(effect: Effect) -> None:
        if effect.name == "publish":
            seen.append([info.key for info in second.output.list()])

    second = Run(replace(spec, job="1" * 32, reduces=1, overwrite=True), before)
    second.start()
    for task in second.tasks():
        if isinstance(task, MapTask):
            index = SegmentIndex([1], [1], [7], key_kind="str").pack()
            second.driver.report("w", MapReport(task.attempt, 1, "0" * 16, index, 1, 1, 1), 0.0)
        else:
            second.driver.report("w", second.reduce_report(task), 0.0)
    second.effects()
    assert second.driver.state == "COMMITTED"
    assert [info.key for info in second.output.list()] == ["_SUCCESS", "_mrfast.json", "mr-out-0"]
    assert seen == [["_SUCCESS", "_mrfast.json", "mr-out-0", "mr-out-1"]]  # until then the former result stands


@pytest.mark.parametrize("step", ["commit", "publish"])
def test_an_error_in_the_commit_never_takes_the_parts_back(step: str) -> None:
    def before(effect: Effect) -> None:
        if effect.name == step:
            raise StoreError("the store is down")

    run = Run(make_spec(), before).start().finish()
    assert run.driver.state == "FAILED"
    assert run.driver.error is not None
    assert run.driver.error.exit_code == StoreError.exit_code
    assert "the store is down" in str(run.driver.error)
    keys = [info.key for info in run.store.list(f"jobs/{run.spec.job}/")]
    assert f"jobs/{run.spec.job}/failed.json" not in keys
    assert sum("/out/" in key for key in keys) == 2


def test_a_job_that_is_being_committed_cannot_be_failed() -> None:
    run = Run(make_spec()).start()
    for task in run.tasks():
        run.driver.report("w", run.map_report(task) if isinstance(task, MapTask) else run.reduce_report(task), 0.0)
    assert run.driver.state == "COMMITTING"
    run.driver.fail(MrfastError("stopped"))
    run.effects()
    assert run.driver.state == "COMMITTED"
    assert run.driver.error is None


def test_publishing_again_after_a_crash_gives_the_same_bytes() -> None:
    run = Run(make_spec()).start().finish()
    assert run.driver.result is not None
    whole = {info.key: base.read(run.output, info.key) for info in run.output.list()}
    for lost in whole:
        if lost == commit.CLAIM_KEY:
            continue
        run.output.delete(lost)
        commit.publish(run.spec, run.driver.result, run.store, run.output)
        assert {info.key: base.read(run.output, info.key) for info in run.output.list()} == whole


def test_of_two_manifests_the_first_one_wins() -> None:
    run = Run(make_spec()).start().finish()
    other = {**(run.driver.result or {}), "epoch": 2}
    assert commit.write_manifest(run.spec.job, other, run.store) == run.driver.result


# What crosses the wire stays within a frame


def test_map_tasks_that_do_not_fit_in_a_frame_are_paged() -> None:
    spec = make_spec()
    root = spec.store_url
    items = tuple(InputObject("p" * 700 + str(i), f"{root}/{'p' * 700}{i}", 1, "e" * 32) for i in range(11_000))
    run = Run(replace(spec, inputs=items, split_bytes=1 << 20)).start()
    tasks = run.driver.poll("w", 64, 0.0)
    message = messages.tasks_message("running", "", tasks)
    assert len(messages.dumps(message)) < 1 << 20
    assert message.pages
    for task in tasks:
        assert isinstance(task, MapTask)
        pieces: list[Any] = []
        since: int | None = 0
        while since is not None:
            page, after = run.driver.pieces(task.attempt, since, messages.PIECES_PER_PAGE)
            fit = messages.fitting(page)
            assert len(messages.dumps(page[:fit])) < 1 << 20
            pieces += page[:fit]
            since = after if fit == len(page) else since + fit
        assert tuple(pieces) == task.pieces
