"""The driver and the commit without kernels or processes: reports are made up, the store is memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import xxhash
from journals import MemoryJournals

from mrfast.control import commit, messages
from mrfast.control.effects import Effect
from mrfast.control.event_files import EVENTS_KEY
from mrfast.control.job import CURSORS, JobDriver
from mrfast.errors import AppRefused, JobFailed, JobTaken, MrfastError, NameInUse, OutputExists, StoreError
from mrfast.index import TRAILER_MAGIC, SegmentIndex, TableDigest
from mrfast.model import (
    FRAME_BYTES_MAX,
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
    Segment,
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
        self.driver = JobDriver(spec, store=self.store, journals=MemoryJournals())
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
        page = self.driver.outputs(task.attempt, 0, 100, self.now)
        assert page is not None
        segments, _, complete = page
        assert complete
        for segment in segments:
            table.add(segment.map_index, segment.digest)
        text = b"part %d" % task.partition
        self.store.put(out_key(task.job, task.attempt), text)
        return ReduceReport(task.attempt, len(text), "0" * 16, 1, 1, table.hex())

    def tasks(self) -> Iterator[MapTask | ReduceTask]:
        while tasks := self.driver.poll("w", 1, self.now):
            yield from tasks

    def finish_running(self) -> Run:
        """As if every worker had died: what ran is handed out again, and done."""
        self.now = 100.0
        self.driver.tick(self.now)
        return self.finish()

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
    result = run.driver.result
    assert result == base.read_json(run.store, f"jobs/{run.spec.job}/manifest.json")
    assert {name: document[name] for name in result} == result
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


@pytest.mark.parametrize(("kind", "code"), [("app", 1), ("died", 1), ("input", 1), ("store", 4)])
def test_the_exit_code_of_a_failed_job_says_whether_the_store_was_why(kind: str, code: int) -> None:
    run = Run(make_spec(attempts_max=1)).start()
    task = run.driver.poll("w", 1, 0.0)[0]
    run.driver.report("w", Failure(task.attempt, kind, "no"), 0.0)
    assert isinstance(run.driver.error, JobFailed)
    assert run.driver.error.exit_code == code
    assert "m-000000 failed once: no" in str(run.driver.error)


def test_a_fatal_failure_is_not_tried_again() -> None:
    run = Run(make_spec()).start()
    task = run.driver.poll("w", 1, 0.0)[0]
    run.driver.report("w", Failure(task.attempt, "app", "a key of type int", fatal=True), 0.0)
    assert run.driver.state == "FAILED"


def at(entry: int) -> int:
    """A place in the log of the first epoch."""
    return CURSORS + entry


def lose(run: Run, attempt: str) -> None:
    """A map output is gone, and the coordinator has seen so for itself."""
    run.store.delete(inter_key(run.spec.job, attempt))
    reduce = next(each.name for each in run.driver.scheduler.running() if each.kind == "reduce")  # type: ignore[union-attr]
    assert run.driver.bad_input("w", reduce, int(attempt[2:8]), attempt, "missing", run.now) == "accepted"
    run.effects()


def test_a_lost_map_output_is_made_again_and_the_reduce_goes_on() -> None:
    run = Run(make_spec()).start()
    for task in list(run.driver.poll("w", 2, 0.0)):
        assert isinstance(task, MapTask)
        run.driver.report("w", run.map_report(task), 0.0)
    reduce = run.driver.poll("w", 1, 0.0)[0]
    assert isinstance(reduce, ReduceTask)
    page = run.driver.outputs(reduce.attempt, 0, 10, 0.0)
    assert page is not None and (page[1], page[2]) == (at(2), True)
    lose(run, "m-000001.e1.1")
    assert run.driver.outputs(reduce.attempt, at(2), 10, 0.0) == ([], at(2), False)
    again = run.driver.poll("w", 1, 0.0)[0]
    assert isinstance(again, MapTask)
    assert (again.index, again.attempt) == (1, "m-000001.e1.2")
    run.driver.report("w", run.map_report(again), 0.0)
    page = run.driver.outputs(reduce.attempt, at(2), 10, 0.0)
    assert page is not None
    assert ([(one.map_index, one.attempt) for one in page[0]], page[2]) == ([(1, "m-000001.e1.2")], True)
    assert run.driver.report("w", run.reduce_report(reduce), 0.0) == "accepted"
    assert run.finish().driver.state == "COMMITTED"


def test_an_output_that_is_there_is_announced_again_to_who_could_not_read_it() -> None:
    run = Run(make_spec()).start()
    data = b"the segment"
    index = SegmentIndex([len(data), 0], [1, 0], [xxhash.xxh3_64_intdigest(data), 0], key_kind="str")
    for task in taken(run, 2):
        run.store.put(inter_key(task.job, task.attempt), data)
        run.driver.report("w", MapReport(task.attempt, 1, "0" * 16, index.pack(), 1, 1, 1), 0.0)
    reduce = taken(run)[0]
    assert run.driver.bad_input("w", reduce.attempt, 0, "m-000000.e1.1", "flipped on the way", 0.0) == "accepted"
    assert run.driver.bad_input("w2", reduce.attempt, 0, "m-000000.e1.1", "the same", 0.0) == "superseded"
    run.effects()
    page = run.driver.outputs(reduce.attempt, at(2), 10, 0.0)
    assert page is not None
    assert [(one.map_index, one.attempt) for one in page[0]] == [(0, "m-000000.e1.1")]
    run.store.put(inter_key(run.spec.job, "m-000000.e1.1"), b"the segmenT")
    run.driver.bad_input("w", reduce.attempt, 0, "m-000000.e1.1", "flipped in the store", 0.0)
    run.effects()
    assert run.driver.status(0.0)["maps_done"] == 1


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
    assert run.driver.report("w", MapReport("m-000001.e1.5", 9, "0" * 16, b"", 0, 0, 0), 0.0) == "stale"
    task = run.driver.poll("w", 1, 0.0)[0]
    run.driver.report("w", MapReport(task.attempt, 9, "0" * 16, b"", 0, 0, 0), 0.0)
    run.effects()
    assert run.driver.state == "RUNNING"
    assert run.finish().driver.state == "COMMITTED"


def taken(run: Run, free: int = 1, worker: str = "w") -> Any:
    """The tasks of one poll."""
    return list(run.driver.poll(worker, free, run.now))


def mapped(run: Run) -> Run:
    """Every map is accepted."""
    for task in taken(run, 2):
        assert run.driver.report("w", run.map_report(task), run.now) == "accepted"
    return run


def other_bytes(report: MapReport) -> MapReport:
    """The report of a map that gave something else this time."""
    return replace(report, index=SegmentIndex([2, 0], [2, 0], [8, 0], key_kind="str").pack())


def test_what_is_said_before_the_plan_waits_for_it() -> None:
    run = Run(make_spec())
    assert run.driver.report("w", Failure("m-000000.e1.1", "app", "no"), 0.0) is None
    assert run.driver.bad_input("w", "r-00000.e1.1", 0, "m-000000.e1.1", "no", 0.0) == "job_done"
    assert run.driver.release("w", "m-000000.e1.1", 0.0) == "job_done"
    assert run.driver.renew("w", {"m-000000.e1.1": Progress()}, 0.0) == {"m-000000.e1.1": "ok"}
    assert run.driver.next_deadline() is None
    assert run.driver.status(0.0)["state"] == "WAITING"


def test_the_first_of_two_attempts_wins_whichever_it_is() -> None:
    for winner in (0, 1):
        run = Run(make_spec()).start()
        tasks = taken(run)
        run.now = run.driver.next_deadline() or 0.0
        assert run.driver.tick(run.now)
        tasks += taken(run, worker="v")
        assert [task.attempt for task in tasks] == ["m-000000.e1.1", "m-000000.e1.2"]
        assert run.driver.report("w", run.map_report(tasks[winner]), run.now) == "accepted"
        assert run.driver.report("v", run.map_report(tasks[1 - winner]), run.now) == "superseded"
        assert run.driver.report("w", run.map_report(tasks[winner]), run.now) == "already"
        attempts = {task.attempt: Progress() for task in tasks}
        words = run.driver.renew("v", attempts, run.now)
        assert words == {tasks[winner].attempt: "ok", tasks[1 - winner].attempt: "cancel"}
        assert run.finish().driver.state == "COMMITTED"


def test_a_silent_worker_never_fails_a_job_and_a_renewing_one_keeps_its_task() -> None:
    run = Run(make_spec(attempts_max=1)).start()
    for _ in range(5):
        silent, kept = taken(run, worker="silent"), taken(run, worker="w")
        while run.driver.status(run.now)["running"] and len(run.driver.status(run.now)["running"]) == 2:
            run.now += 2.0
            assert run.driver.renew("w", {task.attempt: Progress() for task in kept}, run.now) == {
                task.attempt: "ok" for task in kept
            }
            run.driver.tick(run.now)
        assert silent
        assert [each["worker"] for each in run.driver.status(run.now)["running"]] == ["w"]
        run.driver.release("w", kept[0].attempt, run.now)
    assert run.finish().driver.state == "COMMITTED"
    assert run.driver.status(run.now)["attempts"] == {"started": 14, "failed": 0, "running": 0}


def test_a_closed_connections_task_is_handed_out_again_and_one_that_is_back_keeps_it() -> None:
    run = Run(make_spec()).start()
    gone, back = taken(run, worker="gone"), taken(run, worker="back")
    run.driver.hello("gone", 1, APP, 0.0, (gone[0].attempt,))
    run.driver.hello("back", 1, APP, 0.0, (back[0].attempt,))
    for worker in ("gone", "back"):
        run.driver.gone(worker, 1.0)
    run.driver.hello("back", 1, APP, 2.0, (back[0].attempt,))
    assert run.driver.renew("back", {back[0].attempt: Progress()}, 2.0) == {back[0].attempt: "ok"}
    run.now = run.driver.next_deadline() or 0.0
    assert run.now < 5.0
    assert run.driver.tick(run.now)
    assert [task.attempt for task in taken(run, 9)] == [gone[0].attempt.replace(".1", ".2")]
    assert run.driver.status(run.now)["workers"] == 2


def test_what_was_released_is_handed_out_again_and_not_counted() -> None:
    run = Run(make_spec(attempts_max=1)).start()
    task = taken(run)[0]
    assert run.driver.release("w", task.attempt, 0.0) == "accepted"
    assert run.driver.release("w", task.attempt, 0.0) == "superseded"
    assert taken(run)[0].attempt == "m-000000.e1.2"
    assert run.driver.report("w", run.map_report(task), 0.0) == "superseded"
    assert run.driver.release("w", "m-000009.e1.1", 0.0) == "stale"


def test_a_repeated_failure_counts_once_and_other_tasks_do_not_add_up() -> None:
    run = Run(make_spec(attempts_max=2)).start()
    for task in taken(run, 2):
        failure = Failure(task.attempt, "app", "no")
        assert run.driver.report("w", failure, 0.0) == "accepted"
        assert run.driver.report("w", failure, 0.0) == "already"
    assert run.driver.status(0.0)["attempts"]["failed"] == 2
    assert run.finish().driver.state == "COMMITTED"
    assert run.driver.result is not None
    assert run.driver.result["attempts"] == {"started": 6, "failed": 2}


@pytest.mark.parametrize("same", [True, False])
def test_a_part_is_rolled_back_only_if_its_map_gives_other_bytes(same: bool) -> None:
    run = mapped(Run(make_spec()).start())
    early, stuck = taken(run, 2)
    assert run.driver.report("w", run.reduce_report(early), 0.0) == "accepted"
    lose(run, "m-000000.e1.1")
    assert run.driver.bad_input("w", stuck.attempt, 0, "m-000000.e1.1", "missing", 0.0) == "superseded"
    assert run.driver.renew("w", {stuck.attempt: Progress()}, 0.0) == {stuck.attempt: "ok"}
    again = taken(run)[0]
    report = run.map_report(again)
    run.driver.report("w", report if same else other_bytes(report), 0.0)
    assert run.driver.status(0.0)["reduces_done"] == int(same)
    assert run.driver.report("w", run.reduce_report(stuck), 0.0) == "accepted"
    run.finish()
    assert run.driver.result is not None
    attempts = [part["attempt"] for part in run.driver.result["parts"]]
    assert attempts == ["r-00000.e1.1" if same else "r-00000.e1.2", "r-00001.e1.1"]
    assert run.driver.result["totals"]["records_emitted"] == 6  # the lost output is not counted twice
    assert base.read(run.output, "mr-out-0") == b"part 0"


@pytest.mark.parametrize("same", [True, False])
def test_a_part_of_an_old_table_counts_unless_the_map_gives_other_bytes(same: bool) -> None:
    run = mapped(Run(make_spec()).start())
    first, second = taken(run, 2)
    old = run.reduce_report(first)
    run.reduce_report(second)
    lose(run, "m-000001.e1.1")
    report = run.map_report(taken(run)[0])
    run.driver.report("w", report if same else other_bytes(report), 0.0)
    # Whoever has been told of every map computes with the old bytes.
    assert run.driver.renew("w", {first.attempt: Progress()}, 0.0) == {first.attempt: "ok" if same else "cancel"}
    assert run.driver.report("w", old, 0.0) == ("accepted" if same else "superseded")
    run.now = 100.0
    run.driver.tick(run.now)
    assert run.finish().driver.state == "COMMITTED"


def test_a_job_whose_parts_are_all_there_needs_no_lost_map_again() -> None:
    run = mapped(Run(make_spec()).start())
    first, second = taken(run, 2)
    reports = run.reduce_report(first), run.reduce_report(second)
    lose(run, "m-000001.e1.1")
    for report in reports:
        assert run.driver.report("w", report, 0.0) == "accepted"
    run.effects()
    assert run.driver.state == "COMMITTED"


def test_a_map_output_that_is_lost_again_and_again_fails_the_job() -> None:
    run = mapped(Run(make_spec(attempts_max=2)).start())
    taken(run)
    for n in (1, 2):
        assert run.driver.state == "RUNNING"
        lose(run, f"m-000001.e1.{n}")
        for task in taken(run):
            run.driver.report("w", run.map_report(task), 0.0)
    run.effects()
    assert run.driver.state == "FAILED"
    assert "m-000001 lost its accepted output 2 times" in str(run.driver.error)


@pytest.mark.parametrize("name", ["m-000000.e2.1", "m-000000.e1.9", "m-000007.e1.1", "x", ""])
def test_reports_of_attempts_that_were_never_handed_out_change_nothing(name: str) -> None:
    run = Run(make_spec()).start()
    taken(run, 2)
    before = run.driver.status(0.0)
    packed = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str").pack()
    for report in (
        MapReport(name, 1, "0" * 16, packed, 1, 1, 1),
        ReduceReport(name, 1, "0" * 16, 1, 1, "0" * 16),
        Failure(name, "app", "no", fatal=True),
    ):
        assert run.driver.report("w", report, 0.0) == "stale"
    assert run.driver.status(0.0) == before
    assert run.finish_running().driver.state == "COMMITTED"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": b"nonsense"}, "holds no index"),
        ({"index": SegmentIndex([1], [1], [7], key_kind="str").pack()}, "1 partitions"),
    ],
)
def test_a_report_that_cannot_be_right_is_refused(changes: dict[str, Any], said: str) -> None:
    run = Run(make_spec()).start()
    tasks = taken(run, 2)
    with pytest.raises(MrfastError, match=said):
        run.driver.report("w", replace(run.map_report(tasks[0]), **changes), 0.0)
    assert run.driver.status(0.0)["maps_done"] == 0
    assert run.finish_running().driver.state == "COMMITTED"


def test_a_reduce_cannot_report_as_a_map_nor_a_map_as_a_reduce() -> None:
    run = mapped(Run(make_spec()).start())
    task = taken(run)[0]
    packed = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str").pack()
    with pytest.raises(MrfastError, match="is no map"):
        run.driver.report("w", MapReport(task.attempt, 1, "0" * 16, packed, 1, 1, 1), 0.0)
    with pytest.raises(MrfastError, match="is no reduce"):
        run.driver.report("w", replace(run.reduce_report(task), attempt="m-000000.e1.1"), 0.0)
    assert run.finish_running().driver.state == "COMMITTED"


def test_an_accepted_attempt_cannot_report_other_bytes() -> None:
    run = Run(make_spec()).start()
    task = taken(run)[0]
    run.driver.report("w", run.map_report(task), 0.0)
    with pytest.raises(MrfastError, match="cannot be right"):
        run.driver.report("w", other_bytes(run.map_report(task)), 0.0)
    assert run.finish().driver.state == "COMMITTED"


@pytest.mark.parametrize("map_index", [-1, 2, 1 << 40])
def test_a_lost_output_of_a_map_that_is_not_there(map_index: int) -> None:
    run = mapped(Run(make_spec()).start())
    task = taken(run)[0]
    assert run.driver.bad_input("w", task.attempt, map_index, "m-000000.e1.1", "x", 0.0) == "superseded"
    corrupt = Failure(task.attempt, "corrupt", "x", input="m-000000.e1.1", counted=False, map_index=map_index)
    assert run.driver.report("w", corrupt, 0.0) == "accepted"
    assert run.finish().driver.state == "COMMITTED"


@pytest.mark.parametrize("partitions", [1, 3])
def test_an_index_of_other_partitions_in_the_object_fails_the_attempt(partitions: int) -> None:
    run = Run(make_spec(attempts_max=1)).start()
    task = taken(run)[0]
    index = SegmentIndex([1] * partitions, [1] * partitions, [7] * partitions, key_kind="str").pack()
    data = b"x" * partitions + index + len(index).to_bytes(4, "little") + TRAILER_MAGIC
    run.store.put(inter_key(task.job, task.attempt), data)
    run.driver.report("w", MapReport(task.attempt, len(data), "0" * 16, b"", 1, 1, 1), 0.0)
    run.effects()
    assert run.driver.state == "FAILED"
    assert f"{partitions} partitions" in str(run.driver.error)


def test_a_job_that_is_given_up_while_it_is_planned_stays_so() -> None:
    run = Run(make_spec())
    run.driver.hello("w", 1, APP, 0.0)
    begin = run.driver.effects()[0]
    run.driver.effect_done(begin, begin.run(), 0.0)
    plan = run.driver.effects()[0]
    assert plan.name == "plan"
    run.driver.fail(MrfastError("stopped"))
    run.driver.effect_done(plan, plan.run(), 0.0)
    run.effects()
    assert run.driver.state == "FAILED"
    assert run.driver.poll("w", 1, 0.0) == []
    assert commit.claimed_by(run.output) is None
    run.driver.fail(MrfastError("again"))
    assert str(run.driver.error) == "stopped"


def test_a_plan_that_cannot_be_made_fails_the_job() -> None:
    def before(effect: Effect) -> None:
        if effect.name == "plan":
            raise StoreError("access denied")

    run = Run(make_spec(), before).start()
    assert run.driver.state == "FAILED"
    assert isinstance(run.driver.error, StoreError)
    assert commit.claimed_by(run.output) is None


def test_a_job_without_input_has_empty_parts() -> None:
    run = Run(make_spec(inputs=())).start().finish()
    assert run.driver.state == "COMMITTED"
    assert [info.key for info in run.output.list("mr-out-")] == ["mr-out-0", "mr-out-1"]


@pytest.mark.parametrize("reduces", [2, 40])
def test_the_pages_of_a_reduces_segments(reduces: int) -> None:
    """Whether an index is kept whole or only its segments with records: what a reduce hears is the same."""
    run = Run(make_spec(reduces=reduces)).start()
    for task in taken(run, 2):
        sizes = [10 + task.index, 20] + [0] * (reduces - 2)
        index = SegmentIndex(sizes, [int(size > 0) for size in sizes], [size * 7 for size in sizes], key_kind="bytes")
        run.driver.report("w", MapReport(task.attempt, 1, "0" * 16, index.pack(), 1, 1, 1), 0.0)
    for task in taken(run, reduces):
        page = run.driver.outputs(task.attempt, 0, 10, 0.0)
        assert page is not None
        whole, *rest = page
        assert rest == [at(2), True]
        page = run.driver.outputs(task.attempt, 0, 1, 0.0)
        assert page is not None
        first, *rest = page
        assert rest == [at(1), False]
        assert run.driver.outputs(task.attempt, at(1), 1, 0.0) == (whole[1:], at(2), True)
        assert run.driver.outputs(task.attempt, at(2), 1, 0.0) == ([], at(2), True)
        assert first == whole[:1]
        if task.partition > 1:
            assert [(one.length, one.records, one.key_kind) for one in whole] == [(0, 0, "bytes")] * 2
        elif task.partition == 1:
            assert [(one.offset, one.length, one.xxh3) for one in whole] == [(10, 20, 140), (11, 20, 140)]
    assert run.driver.outputs("m-000000.e1.1", 0, 10, 0.0) is None


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
    former = ["_SUCCESS", EVENTS_KEY, "_mrfast.json", "mr-out-0", "mr-out-1"]
    assert [info.key for info in Run(spec).start().finish().output.list()] == former
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
    assert [info.key for info in second.output.list()] == ["_SUCCESS", EVENTS_KEY, "_mrfast.json", "mr-out-0"]
    assert seen == [former]  # until then the former result stands


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
        if lost in (commit.CLAIM_KEY, EVENTS_KEY):  # the one is no part of it, the other is the driver's
            continue
        run.output.delete(lost)
        commit.publish(run.spec, run.driver.result, run.store, run.output, run.driver.requests)
        assert {info.key: base.read(run.output, info.key) for info in run.output.list()} == whole


def test_of_two_manifests_the_first_one_wins() -> None:
    run = Run(make_spec()).start().finish()
    other = {**(run.driver.result or {}), "epoch": 2}
    assert commit.write_manifest(run.spec.job, other, run.store) == run.driver.result


def second_coordinator(first: Run) -> Run:
    """One that was started later, and goes on from the first one's journal."""
    second = Run(first.spec)
    journals = first.driver._journals
    second.driver = JobDriver(first.spec, store=second.store, journals=journals, resume=True)
    return second.start()


def everything(store: Any) -> dict[str, bytes]:
    return {info.key: base.read(store, info.key) for info in store.list()}


def test_of_two_coordinators_the_later_one_goes_on_and_the_other_touches_nothing() -> None:
    first = Run(make_spec()).start()
    tasks = taken(first, 2)
    packed = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str").pack()
    data = b"x" + packed + len(packed).to_bytes(4, "little") + TRAILER_MAGIC
    done, report = (MapReport(task.attempt, len(data), "0" * 16, packed, 3, 1, 10) for task in tasks)
    first.store.put(inter_key(first.spec.job, done.attempt), data)
    first.driver.report("w", done, 0.0)
    first.effects()
    second = second_coordinator(first)
    assert second.driver.report("w", report, 0.0) == "accepted"  # of the epoch before
    assert [task.attempt for task in taken(second, 9)] == ["r-00000.e2.1", "r-00001.e2.1"]
    before = everything(first.store)
    first.finish_running()
    assert isinstance(first.driver.error, JobTaken)
    kept = {key: data for key, data in everything(first.store).items() if key in before}
    assert kept == before
    second.finish_running()
    assert second.driver.state == "COMMITTED"


def test_a_coordinator_finds_out_by_itself_that_it_was_replaced() -> None:
    first = Run(make_spec()).start()
    second_coordinator(first)
    first.driver.tick(100.0)
    first.effects()
    assert isinstance(first.driver.error, JobTaken)
    assert first.driver.poll("w", 1, 100.0) == []


def test_a_coordinator_that_fails_does_not_touch_what_another_has_committed() -> None:
    first = Run(make_spec(attempts_max=1)).start()
    second = second_coordinator(first)
    task = taken(first)[0]
    second.finish()
    before = everything(first.store)
    first.driver.report("w", Failure(task.attempt, "app", "no"), 0.0)
    first.effects()
    assert first.driver.state == "FAILED"
    assert everything(first.store) == before


def test_a_name_in_use_ends_the_job_before_it_begins() -> None:
    spec = make_spec(name="nightly")
    Run(spec).start()
    other = Run(replace(spec, job="1" * 32, output_url=f"{spec.store_url}/other"))
    other.effects()
    assert isinstance(other.driver.error, NameInUse)
    assert other.driver.hello("w", 1, APP, 0.0)["name"] == "nightly"  # who comes now hears why
    assert other.driver.poll("w", 1, 0.0) == []


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


def test_the_largest_page_of_segments_fits_in_a_frame() -> None:
    top = (1 << 64) - 1
    segment = Segment(999_999, "m-999999.e999999.999999", top, top, top, top, "bytes", "f" * 16)
    page = messages.OutputsPage((segment,) * messages.SEGMENTS_PER_PAGE, 999_999)
    assert len(messages.dumps(page)) < FRAME_BYTES_MAX


@pytest.mark.parametrize("over", [0, 1])
def test_a_report_takes_an_index_along_as_long_as_it_fits(over: int) -> None:
    index_bytes = messages.INDEX_BYTES_MAX - len(messages.dumps({})) + over  # beside no counters
    report = MapReport("m-000000.e1.1", 1, "0" * 16, b"x" * index_bytes, 1, 1, 1)
    message = messages.report_message("w" * 32, report)
    assert len(messages.dumps(message)) < FRAME_BYTES_MAX
    assert message == messages.Report("w" * 32, map=replace(report, index=b"") if over else report)
