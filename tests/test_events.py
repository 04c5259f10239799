"""The event log: every kind of event from a real driver, its bounds, and that it says what the scheduler knows."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sim.hosts import Coordinator
from sim.job import SimJob
from test_job_driver import Run, lose, make_spec, mapped, other_bytes, taken
from test_resume import Made

import mrfast
from mrfast import api
from mrfast.control import chronicle, event_files, events
from mrfast.control.chronicle import buckets, ranges
from mrfast.control.document import Reports
from mrfast.control.event_files import EVENTS, EVENTS_KEY, find_events, packed
from mrfast.control.events import VOID, EventLog
from mrfast.control.job import JobDriver
from mrfast.control.outputs import Outputs
from mrfast.errors import JobFailed, MrfastError, NoEvents, StoreError
from mrfast.index import SegmentIndex
from mrfast.model import Failure, MapReport, MapTask, Progress, ReduceReport
from mrfast.storage import base


def told(log: EventLog | JobDriver, kind: str = "") -> list[dict[str, Any]]:
    """The events of a kind, as a reader sees them."""
    lines = (log.events if isinstance(log, JobDriver) else log).lines
    return [event for event in map(orjson.loads, lines) if event["e"] == kind or not kind]


def words(driver: JobDriver, task: str) -> list[str]:
    """What became of a task: the kinds of its events, and how its attempts ended."""
    return [event.get("word", event["e"]) for event in told(driver) if event.get("task") == task]


class Fold:
    """The states of all tasks, from the events alone, as every reader computes them."""

    def __init__(self) -> None:
        self.read = 0
        self.accepted: dict[str, str] = {}
        self.live: dict[str, set[str]] = {}
        self.epoch_accepted: Counter[str] = Counter()

    def follow(self, log: EventLog) -> Fold:
        """Takes in what has come since."""
        for line in log.lines[self.read :]:
            event = orjson.loads(line)
            kind, task, attempt = event["e"], event.get("task", ""), event.get("attempt", "")
            if kind in ("started", "back"):
                self.live.setdefault(task, set()).add(attempt)
            elif kind == "ended":
                self.live.setdefault(task, set()).discard(attempt)
                if event["word"] == "accepted":
                    self.accepted[task] = attempt
            elif kind in ("lost", "rolled_back"):
                assert self.accepted.pop(task) in (attempt, "")  # of one that was restored no attempt was told
            elif kind == "restored":
                for letter, width, name in (("m", 6, "maps"), ("r", 5, "reduces")):
                    for first, end in event[name]:
                        self.accepted |= dict.fromkeys((f"{letter}-{n:0{width}}" for n in range(first, end)), "")
        self.read = len(log.lines)
        return self

    def state(self, task: str) -> str:
        if task in self.accepted:
            return "ACCEPTED"
        return "LEASED" if self.live.get(task) else "IDLE"

    def check(self, driver: JobDriver) -> None:
        """AssertionError unless the scheduler says the same."""
        scheduler = driver.scheduler
        assert scheduler is not None
        for kind, count in (("map", scheduler.maps), ("reduce", scheduler.reduces)):
            for index in range(count):
                name = f"m-{index:06d}" if kind == "map" else f"r-{index:05d}"
                state = scheduler.task_state(kind, index)
                if scheduler.state == "RUNNING" or "ACCEPTED" in (state, self.state(name)):
                    assert self.state(name) == state, f"{name}: {scheduler.story(kind, index)}"
        accepted = {**{f"m-{i:06d}": a for i, a, _ in scheduler.accepted_maps()},
                    **{f"r-{i:05d}": a for i, a, _ in scheduler.accepted_reduces()}}  # fmt: skip
        assert {task: attempt or accepted[task] for task, attempt in self.accepted.items()} == accepted


# -- every kind, from a real driver


def test_a_job_from_its_first_event_to_its_last() -> None:
    spec = make_spec(name="daily", params={"top": "3"}, partitions_per_reduce=2)
    run = Run(spec)
    run.driver = JobDriver(spec, store=run.store, journals=run.driver._journals, began=1234.5, slots=7)
    run.now = 50.0
    run.effects()
    first = told(run.driver)[0]
    assert first == {
        "e": "job", "t": 0.0, "format": 1, "job": spec.job, "name": "daily", "mrfast": mrfast.__version__,
        "began": 1234.5, "store_url": spec.store_url, "output_url": spec.output_url, "reduces": 2, "resumed": False,
        "app": None, "params": {"top": "3"}, "slots": 7,
    }  # fmt: skip
    run.start()
    (planned,) = told(run.driver, "planned")
    assert {name: planned[name] for name in ("app", "maps", "reduces", "reduce_tasks")} == {
        "app": "wc.py", "maps": 2, "reduces": 2, "reduce_tasks": 1,
    }  # fmt: skip
    assert (planned["partitions_per_reduce"], planned["bytes_in"], planned["largest_split_bytes"]) == (2, 20, 10)
    assert told(run.driver, "worker") == [{"e": "worker", "t": 0.0, "worker": "w", "slots": 2}]


def test_what_an_accepted_attempt_gave() -> None:
    run = Run(make_spec()).start()
    run.now = 1.25
    run.finish()
    started, ended = told(run.driver, "started"), told(run.driver, "ended")
    assert started[0] == {
        "e": "started", "t": 1.25, "task": "m-000000", "attempt": "m-000000.e1.1", "worker": "w", "backup": False,
        "input": "0.txt", "bytes": 10, "pieces": 1,
    }  # fmt: skip
    assert "input" not in started[-1]  # a reduce
    assert ended[0] == {
        "e": "ended", "t": 1.25, "task": "m-000000", "attempt": "m-000000.e1.1", "word": "accepted", "worker": "w",
        "records_in": 3, "records_out": 1, "size": 1, "bytes_in": 10,
    }  # fmt: skip
    assert ended[-1] == {
        "e": "ended", "t": 1.25, "task": "r-00001", "attempt": "r-00001.e1.1", "word": "accepted", "worker": "w",
        "records_in": 1, "records_out": 1, "size": 6,
    }  # fmt: skip
    last = told(run.driver)[-1]
    assert run.driver.result is not None
    assert (last["e"], last["state"], last["error"], last["task"]) == ("end", "COMMITTED", "", "")
    assert (last["totals"], last["counters"]) == (run.driver.result["totals"], {})
    assert {"requests", "cost_usd", "seconds"} <= last.keys()
    assert told(run.driver)[-2]["status"]["state"] == "COMMITTED"


def test_a_failure_says_why_and_the_end_says_which() -> None:
    run = Run(replace(make_spec(attempts_max=2), inputs=make_spec().inputs[:1])).start()
    for _ in range(2):
        (task,) = taken(run)
        failure = Failure(task.attempt, "app", "m" * 3000, "t" * 30_000, "0.txt", 17)
        run.driver.report("w", failure, 0.0)
    failed = told(run.driver, "ended")
    assert [event["word"] for event in failed] == ["failed"] * 2
    assert {name: failed[0][name] for name in ("kind", "input", "offset", "counted", "fatal")} == {
        "kind": "app", "input": "0.txt", "offset": 17, "counted": True, "fatal": False,
    }  # fmt: skip
    assert (len(failed[0]["message"]), len(failed[0]["traceback"])) == (2_000, 20_000)
    last = told(run.driver)[-1]
    assert (last["e"], last["state"], last["task"], last["attempt"]) == ("end", "FAILED", "m-000000", "m-000000.e1.1")
    assert "failed 2 times" in last["error"]
    run.effects()
    assert told(run.driver)[-1] == last


def test_an_attempt_that_stalls_or_cannot_be_read_has_a_reason_too() -> None:
    run = Run(make_spec(stall_s=5.0)).start()
    unread, stalled = taken(run, 2)
    run.driver.report("w", MapReport(unread.attempt, 9, "0" * 16, b"", 0, 0, 0), 0.0)
    run.effects()
    run.driver.tick(6.0)
    ended = {event["attempt"]: event for event in told(run.driver, "ended")}
    assert ended[unread.attempt]["kind"] == "corrupt"
    assert (ended[stalled.attempt]["kind"], "--stall-s" in ended[stalled.attempt]["message"]) == ("stalled", True)
    assert all(event["worker"] == "w" for event in ended.values())


def test_leases_that_run_out_come_back_or_are_overtaken() -> None:
    run = Run(make_spec()).start()
    mine = taken(run, 2)
    run.driver.gone("w", 1.0)
    run.driver.tick(4.5)
    assert run.driver.renew("w", {mine[0].attempt: Progress()}, 5.0) == {mine[0].attempt: "ok"}
    run.now = 5.0
    other = taken(run, worker="v")[0]
    assert other.attempt == "m-000001.e1.2"
    assert "input" not in told(run.driver, "started")[-1]
    run.driver.report("v", run.map_report(other), 5.0)
    run.driver.release("w", mine[0].attempt, 6.0)
    assert words(run.driver, "m-000000") == ["started", "expired", "back", "released"]
    assert words(run.driver, "m-000001") == ["started", "expired", "started", "superseded", "accepted"]
    assert told(run.driver, "gone") == [{"e": "gone", "t": 1.0, "worker": "w"}]
    assert told(run.driver, "back")[0]["worker"] == "w"
    Fold().follow(run.driver.events).check(run.driver)


def test_a_backup_is_told_as_one() -> None:
    run = Run(make_spec()).start()
    run.driver.hello("v", 8, run.driver.app or pytest.fail("no app"), 0.0)
    first, slow = taken(run, 2)
    run.now = 1.0
    run.driver.report("w", run.map_report(first), run.now)
    run.now = 300.0
    run.driver.renew("w", {slow.attempt: Progress("map", 1, 100, 1)}, run.now)
    backups = [task for task in taken(run, 8, "v") if isinstance(task, MapTask)]
    if not backups:  # the rule may want more samples: then nothing is told either
        assert not any(event["backup"] for event in told(run.driver, "started"))
    for task in backups:
        (event,) = [event for event in told(run.driver, "started") if event["attempt"] == task.attempt]
        assert event["backup"]


def test_what_is_lost_says_why_and_what_used_it_is_rolled_back() -> None:
    run = mapped(Run(make_spec()).start())
    early, stuck = taken(run, 2)
    assert run.driver.report("w", run.reduce_report(early), 0.0) == "accepted"
    run.driver.outputs(stuck.attempt, 0, 100, 0.0)
    lose(run, "m-000000.e1.1")
    (lost,) = told(run.driver, "lost")
    assert (lost["task"], lost["attempt"], bool(lost["why"])) == ("m-000000", "m-000000.e1.1", True)
    run.driver.report("w", other_bytes(run.map_report(taken(run)[0])), 0.0)
    assert [event["attempt"] for event in told(run.driver, "rolled_back")] == [early.attempt]
    assert words(run.driver, "m-000000") == ["started", "accepted", "lost", "started", "accepted"]
    Fold().follow(run.driver.events).check(run.driver)
    run.finish_running()
    Fold().follow(run.driver.events).check(run.driver)


def test_a_resumed_job_says_what_it_need_not_run_and_whom_it_adopts() -> None:
    first = Made(make_spec()).start()
    done, running = taken(first, 2)
    first.driver.report("w", first.map_report(done), 0.0)
    first.effects()
    second = first.resumed()
    assert told(second.driver)[0]["resumed"] is True
    (restored,) = told(second.driver, "restored")
    assert (restored["maps"], restored["reduces"]) == ([[0, 1]], [])
    assert second.driver.renew("w", {running.attempt: Progress()}, 1.0) == {running.attempt: "ok"}
    assert words(second.driver, "m-000001") == ["adopted", "back"]
    Fold().follow(second.driver.events).check(second.driver)
    second.now = 100.0
    second.driver.tick(100.0)
    second.finish()
    Fold().follow(second.driver.events).check(second.driver)
    assert second.driver.state == "COMMITTED"
    log = [orjson.loads(line) for line in find_events(second.spec.output_url)]
    assert (log[0]["resumed"], log[-1]["state"]) == (True, "COMMITTED")


def test_samples_grow_rarer_and_the_status_shows_progress_and_counts() -> None:
    run = Run(make_spec()).start()
    task, _ = taken(run, 2)
    run.driver.renew("w", {task.attempt: Progress("map", 5, 10, 2)}, 0.0)
    for tenth in range(0, 12_000, 5):
        run.driver.renew("w", {each["attempt"]: Progress("map", tenth, 1 << 20, 1) for each in
                               run.driver.status(tenth / 10)["running"]}, tenth / 10)  # fmt: skip
        run.driver.tick(tenth / 10)
    samples = told(run.driver, "sample")
    assert [sample["t"] for sample in samples[:4]] == [0.0, 1.0, 2.0, 3.0]
    gaps = [later["t"] - sample["t"] for sample, later in itertools.pairwise(samples)]
    assert max(gaps) > 3.9
    assert len(samples) < 300 + 300 * 1.5
    shown = samples[-1]["status"]
    assert shown["running"][0] | {"seconds": 0, "bytes_done": 0} == {
        "attempt": task.attempt, "worker": "w", "seconds": 0, "phase": "map", "bytes_done": 0,
        "bytes_total": 1 << 20, "records": 1,
    }  # fmt: skip
    report = replace(run.map_report(task), counters={"bad lines": 3})
    run.driver.report("w", report, 2000.0)
    assert run.driver.status(2000.0)["counters"] == {"bad lines": 3}


def test_the_shuffle_is_told_now_and_then_and_the_last_one_counts() -> None:
    run = Run(make_spec()).start()
    first, second = taken(run, 2)
    run.driver.report("w", run.map_report(first), 1.0)
    run.driver.tick(1.0)
    assert not told(run.driver, "shuffle")
    run.driver.tick(6.0)
    run.driver.tick(7.0)
    assert [event["bytes"] for event in told(run.driver, "shuffle")] == [[1, 0]]
    run.driver.report("w", run.map_report(second), 7.0)
    run.driver.tick(7.0)
    assert [event["bytes"] for event in told(run.driver, "shuffle")] == [[2, 0]]
    assert told(run.driver, "shuffle")[0]["partitions"] == 2
    assert run.driver.events.lines.count(VOID) == 1
    assert VOID not in run.driver.events.document().splitlines(keepends=True)


@pytest.mark.parametrize("lengths", [[3, 0, 5, 1], [0, 0, 0, 9], [0, 0, 0, 0]])
def test_bytes_by_partition_follow_what_is_accepted(lengths: list[int]) -> None:
    outputs = Outputs()
    index = SegmentIndex(lengths, [int(n > 0) for n in lengths], [7 * (n > 0) for n in lengths], key_kind="str")
    for number in range(3):
        outputs.add(number, MapReport(f"m-{number:06d}.e1.1", 1, "", b"", 1, 1, 1), index, "d")
    assert index.lengths() == lengths
    assert outputs.shuffled == [3 * length for length in lengths]
    outputs.remove(1)
    outputs.add(0, MapReport("m-000000.e1.2", 1, "", b"", 1, 1, 1), index, "d")
    assert outputs.shuffled == [2 * length for length in lengths]


def test_many_partitions_are_told_in_buckets() -> None:
    assert buckets([1, 2, 3]) == [1, 2, 3]
    assert buckets([1] * 1024) == [1] * 1024
    assert buckets([1] * 2500) == [3] * 833 + [1]
    assert ranges([0, 1, 2, 5, 7, 8]) == [[0, 3], [5, 6], [7, 9]]
    assert ranges([]) == []


def test_reports_know_the_sums_of_what_they_counted() -> None:
    def report(count: int) -> ReduceReport:
        return ReduceReport("r-00000.e1.1", 1, "", 1, 1, "", {"a": count})

    reports = Reports({0: report(1), 1: report(2)})
    reports[0] = report(5)
    assert reports.counters == {"a": 7}
    del reports[1]
    assert reports.counters == {"a": 5}


# -- the log itself


def test_a_full_log_says_how_much_it_left_out_and_keeps_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SPARE_LINES", 4)
    log = EventLog(lines_max=5)
    log.tell("job", 0.0, job="j")
    for n in range(10):
        log.tell("started", 1.0, task=str(n))
    for n in range(6):
        log.tell("ended", 2.0, word="failed", task=str(n))
        log.tell("ended", 2.0, word="accepted", task=str(n))
    log.tell("end", 3.0, state="FAILED")
    log.tell("started", 4.0, task="none")
    kinds = Counter(event["e"] for event in told(log))
    assert kinds == {"job": 1, "started": 4, "ended": 4, "left_out": 1, "end": 1}
    assert all(event["word"] == "failed" for event in told(log, "ended"))
    assert told(log)[-2:] == [
        {"e": "left_out", "t": 3.0, "events": 6 + 2 + 6},
        {"e": "end", "t": 3.0, "state": "FAILED"},
    ]
    assert log.document() == b"".join(log.lines)


def test_a_full_log_of_few_long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BYTES_MAX", 5_000)
    log = EventLog()
    for _ in range(20):
        log.tell("printed", 0.0, text="x" * 1_000)
    log.tell("end", 0.0)
    assert [event["e"] for event in told(log)] == ["printed"] * 5 + ["left_out", "end"]


def test_a_document_before_the_end_has_the_end_that_is_to_come() -> None:
    log = EventLog()
    log.tell("job", 7.0, job="j")
    whole = log.document({"state": "COMMITTED"}, 9.5).splitlines()
    assert orjson.loads(whole[-1]) == {"e": "end", "t": 2.5, "state": "COMMITTED"}
    assert len(log.lines) == 1
    log.tell("end", 10.0, state="FAILED")
    assert log.document({"state": "COMMITTED"}, 9.5) == b"".join(log.lines)


def test_what_is_no_json_is_told_as_text() -> None:
    log = EventLog()
    log.tell("started", 0.0, input="a\udcff.txt", counters={"n": 1 << 70, "\udc80": -(1 << 64)}, kind=("x", None, 1.5))
    (event,) = told(log)
    assert event["input"] == "a\\udcff.txt"
    assert event["counters"] == {"n": float(1 << 70), "\\udc80": -float(1 << 64)}
    assert event["kind"] == ["x", None, 1.5]


# -- what is kept


def kept(url: str, key: str = EVENTS_KEY) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in find_events(f"{url}/{key}")]


def test_who_sees_success_sees_the_log() -> None:
    run = Run(make_spec()).start()
    seen: list[set[str]] = []
    put = run.output.put

    def watched(key: str, *arguments: Any, **options: Any) -> Any:
        if key == "_SUCCESS":
            seen.append({info.key for info in run.output.list()})
        return put(key, *arguments, **options)

    run.driver._open_output = lambda url: run.output
    run.output.put = watched  # type: ignore[method-assign]
    run.finish()
    assert [EVENTS_KEY in keys for keys in seen] == [True]
    log = kept(run.spec.output_url)
    assert (log[0]["e"], log[0]["job"], log[-1]["e"], log[-1]["state"]) == ("job", run.spec.job, "end", "COMMITTED")
    assert log[-1]["totals"] == base.read_json(run.output, "_SUCCESS")["totals"]
    assert log == told(run.driver)[:-2] + log[-1:]


def test_a_log_that_cannot_be_written_is_a_warning_and_no_former_one_stays() -> None:
    former = Run(make_spec()).start().finish()
    run = Run(replace(former.spec, job="1" * 32, overwrite=True)).start()
    put = run.output.put

    def full(key: str, *arguments: Any, **options: Any) -> Any:
        if key == EVENTS_KEY:
            raise StoreError("no space left")
        return put(key, *arguments, **options)

    run.driver._open_output = lambda url: run.output
    run.output.put = full  # type: ignore[method-assign]
    run.finish()
    assert run.driver.state == "COMMITTED"
    (warning,) = run.driver.warnings
    assert "no space left" in warning
    assert EVENTS_KEY in warning
    assert EVENTS_KEY not in [info.key for info in run.output.list()]
    with pytest.raises(NoEvents, match="could not be written"):
        find_events(run.spec.job, run.spec.store_url)


def test_a_failed_jobs_log_is_in_its_store_until_it_is_cleaned() -> None:
    run = Run(make_spec(attempts_max=1, name="daily")).start()
    run.driver.report("w", Failure(taken(run)[0].attempt, "app", "no"), 0.0)
    run.effects()
    for name in ("daily", run.spec.job):
        log = [orjson.loads(line) for line in find_events(name, run.spec.store_url)]
        assert (log[0]["name"], log[-1]["state"], log[-1]["task"]) == ("daily", "FAILED", "m-000000")
    from mrfast.control import commit

    commit.remove(run.spec, run.store, run.output)
    assert not [info.key for info in run.store.list("jobs/")]
    with pytest.raises(NoEvents, match="has no job 'daily'"):
        find_events("daily", run.spec.store_url)


def test_a_failed_job_that_cannot_keep_its_log_has_failed_as_it_would() -> None:
    run = Run(make_spec(attempts_max=1)).start()
    put = run.store.put

    def full(key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith(EVENTS):
            raise StoreError("no space left")
        return put(key, *arguments, **options)

    run.store.put = full  # type: ignore[method-assign]
    run.driver.report("w", Failure(taken(run)[0].attempt, "app", "no"), 0.0)
    run.effects()
    assert "app" not in str(run.driver.warnings)
    assert "no space left" in run.driver.warnings[0]
    assert f"jobs/{run.spec.job}/failed.json" in [info.key for info in run.store.list("jobs/")]


def test_a_job_that_is_stopped_keeps_its_log_and_one_that_goes_on_replaces_it() -> None:
    first = Made(make_spec()).start()
    first.driver.report("w", first.map_report(taken(first)[0]), 0.0)
    first.driver.stop(3.0)
    first.driver.stop(4.0)
    first.effects()
    log = [orjson.loads(line) for line in find_events(first.spec.job, first.spec.store_url)]
    assert (log[-1]["state"], log[-1]["t"], log[-1]["error"]) == ("STOPPED", 3.0, "")
    assert {name: log[-1]["totals"][name] for name in ("maps", "bytes_in", "records_out")} == {
        "maps": 2, "bytes_in": 10, "records_out": 0,
    }  # fmt: skip
    second = first.resumed().finish()
    assert second.driver.state == "COMMITTED"
    log = [orjson.loads(line) for line in find_events(first.spec.job, first.spec.store_url)]
    assert (log[-1]["state"], log[0]["resumed"]) == ("COMMITTED", True)


def test_publishing_again_keeps_the_log_that_tells_more() -> None:
    run = Run(make_spec()).start().finish()
    before = kept(run.spec.output_url)
    run.output.delete("_SUCCESS")

    def again() -> Run:
        later = Run(run.spec)
        later.driver = JobDriver(run.spec, store=run.store, journals=run.driver._journals, resume=True)
        later.effects()
        assert later.driver.state == "COMMITTED"
        return later

    again()
    assert kept(run.spec.output_url) == before
    run.output.delete("_SUCCESS")
    run.output.delete(EVENTS_KEY)
    later = again()
    log = kept(run.spec.output_url)
    assert [event["e"] for event in log] == ["job", "end"]
    assert log[-1]["totals"] == (later.driver.result or {})["totals"]


def test_an_output_that_was_taken_over_leaves_the_log_in_the_store() -> None:
    run = Run(make_spec()).start()
    for task in run.tasks():
        run.driver.report("w", run.map_report(task) if isinstance(task, MapTask) else run.reduce_report(task), 0.0)
    base.put_json(run.output, "_mrfast.json", {"job": "2" * 32})
    run.effects()
    assert run.driver.state == "FAILED"
    log = [orjson.loads(line) for line in find_events(run.spec.job, run.spec.store_url)]
    assert (log[-1]["state"], "taken over by job" in log[-1]["error"]) == ("FAILED", True)
    assert EVENTS_KEY not in [info.key for info in run.output.list()]


def test_the_wrong_ways_to_ask_for_a_log(tmp_path: Any) -> None:
    with pytest.raises(NoEvents, match="no output of a job; name"):
        find_events(str(tmp_path))
    with pytest.raises(NoEvents, match="no such event log"):
        find_events(str(tmp_path / EVENTS_KEY))
    (tmp_path / EVENTS_KEY).write_bytes(b"no gzip")
    for where in (tmp_path, tmp_path / EVENTS_KEY):
        with pytest.raises(MrfastError, match="damaged, or no event log"):
            find_events(str(where))
    (tmp_path / EVENTS_KEY).write_bytes(packed(b'{"e":"job","t":0,"job":"a"}\n'))
    assert len(find_events(str(tmp_path))) == 1
    (tmp_path / "_mrfast.json").write_bytes(b'{"job":"b"}')
    with pytest.raises(NoEvents, match="the log of job a, and the output is now that of job b"):
        find_events(str(tmp_path))
    running = Run(make_spec()).start()
    with pytest.raises(NoEvents, match="when the job has ended"):
        find_events(running.spec.job, running.spec.store_url)
    with pytest.raises(NoEvents, match="keeps its log when it is committed"):
        find_events(running.spec.output_url)


# -- in the simulator


class Watched(SimJob):
    """A simulated job whose coordinators' logs are folded after each of their steps."""

    def __init__(self, seed: int) -> None:
        self.folds: dict[int, Fold] = {}
        self.checks = 0
        super().__init__(seed)

    def stepped(self, coordinator: Coordinator) -> None:
        super().stepped(coordinator)
        driver = coordinator.driver
        fold = self.folds.setdefault(id(driver), Fold()).follow(driver.events)
        if driver.scheduler is not None and driver.state == "RUNNING":
            fold.check(driver)
            self.checks += 1


def test_the_fold_of_the_log_is_what_the_scheduler_knows() -> None:
    first, checks = int.from_bytes(os.urandom(5)), 0
    for seed in range(first, first + 60):
        job = Watched(seed)
        try:
            job.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        checks += job.checks
        for coordinator in job.coordinators:
            log = told(coordinator.driver.events)
            assert [event["e"] for event in log[:1]] in ([], ["job"])
            assert all(event["e"] != "end" for event in log[:-1])
            assert [event["t"] for event in log if event["e"]] == sorted(event["t"] for event in log if event["e"])
            driver = coordinator.driver
            assert not log or (driver.state in ("COMMITTED", "FAILED")) == (log[-1]["e"] == "end")
    assert checks > 1000
    assert chronicle.SAMPLE_S == 1.0


def test_a_simulated_job_keeps_its_log() -> None:
    outcomes = Counter()
    for seed in range(40):
        job = SimJob(seed).run()
        for key in (f"output/{EVENTS_KEY}", f"store/jobs/{job.spec.job}/{EVENTS}"):
            outcomes[key.partition("/")[0]] += key in job.bucket.objects
    assert outcomes["output"] > 20
    assert outcomes["store"]


# -- whole jobs on this machine


def words_of(filename: str, contents: bytes) -> Any:
    assert b"bad" not in contents, "a bad one"
    for word in contents.split():
        yield word, 1


def total(key: bytes, values: Any) -> int:
    mrfast.count("words")
    return sum(values)


def run(folder: Path, output: str, **options: Any) -> mrfast.JobResult:
    options = {
        "inputs": str(folder / "in"),
        "store": str(folder / "store"),
        "output_url": str(folder / output),
    } | options
    return mrfast.run(map=words_of, reduce=total, reduces=2, workers=2, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.txt").write_bytes(b"to be or not to be " * 9)
    return tmp_path


def test_a_finished_job_has_its_log_beside_its_output(folder: Path) -> None:
    result = run(folder, "out")
    log = [orjson.loads(line) for line in find_events(str(folder / "out"))]
    assert log == [orjson.loads(line) for line in find_events(result.job, str(folder / "store"))]
    assert log == [
        orjson.loads(line) for line in gzip.decompress((folder / "out" / EVENTS_KEY).read_bytes()).splitlines()
    ]
    assert (log[0]["job"], log[0]["slots"], log[-1]["counters"]) == (result.job, 2, {"words": 4})
    assert abs(log[0]["began"] - time.time()) < 3600
    assert log[-1]["seconds"] == result.seconds
    assert Counter(event["word"] for event in log if event["e"] == "ended") == {"accepted": 5}
    assert mrfast.verify(str(folder / "out")).faults == ()
    assert dict(result) == {"to": "54", "be": "54", "or": "27", "not": "27"}


def test_the_next_job_does_not_read_the_log(folder: Path) -> None:
    run(folder, "out")
    document = run(folder, "again", inputs=str(folder / "out")).document
    assert [item["path"].rpartition("/")[2] for item in document["inputs"]] == ["mr-out-0", "mr-out-1"]


def test_overwriting_replaces_the_log(folder: Path) -> None:
    first = run(folder, "out")
    second = run(folder, "out", overwrite=True)
    assert orjson.loads(find_events(str(folder / "out"))[0])["job"] == second.job != first.job
    with pytest.raises(NoEvents, match="another job's now"):
        find_events(first.job, str(folder / "store"))


def test_a_job_that_fails_keeps_the_traceback(folder: Path) -> None:
    (folder / "in" / "b.txt").write_bytes(b"bad")
    with pytest.raises(JobFailed):
        run(folder, "out", job="nightly")
    log = [orjson.loads(line) for line in find_events("nightly", str(folder / "store"))]
    failures = [event for event in log if event.get("word") == "failed"]
    assert {event["task"] for event in failures} == {"m-000001"}
    assert "AssertionError: a bad one" in failures[0]["traceback"]
    assert failures[0]["input"].endswith("b.txt")
    assert (log[-1]["state"], log[-1]["task"]) == ("FAILED", "m-000001")
    api.clean_job("nightly", store=str(folder / "store"))
    assert not list((folder / "store").rglob("*events*"))


def test_a_job_whose_process_dies_tells_so(folder: Path) -> None:
    def dies_once(filename: str, contents: bytes) -> Any:
        mark = folder / "mark"
        if filename.endswith("a.txt") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return words_of(filename, contents)

    options = {"inputs": str(folder / "in"), "store": str(folder / "store"), "output_url": str(folder / "out")}
    mrfast.run(map=dies_once, reduce=total, **options)
    log = [orjson.loads(line) for line in find_events(str(folder / "out"))]
    (died,) = [event for event in log if event.get("word") == "failed"]
    assert (died["kind"], died["task"], died["counted"]) == ("died", "m-000000", True)
    assert log[-1]["state"] == "COMMITTED"


def test_a_log_that_finds_no_room_is_said_on_stderr(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(lines: bytes) -> bytes:
        raise StoreError("no space left on device")

    monkeypatch.setattr(event_files, "packed", full)
    assert run(folder, "out").counters == {"words": 4}
    said = capfd.readouterr().err
    assert f"mrfast: warning: the event log {folder}/out/{EVENTS_KEY} could not be written: no space left" in said
