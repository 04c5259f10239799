"""Maps whose output an earlier job has left do not run again, and a wrong one is never used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_job_driver import Run, make_spec, second_coordinator

import mrfast
from mrfast import api, cli, storage
from mrfast.control.outputs import index_at_end
from mrfast.errors import UsageError
from mrfast.index import TRAILER_MAGIC, SegmentIndex
from mrfast.model import MapReport, MapTask, inter_key
from mrfast.storage.base import read, read_json

APP = "from mrfast import ops\nmap = ops.words(letters='space')\nreduce = ops.sum()\n"


class Daily:
    """A job that is run again and again over a growing folder of inputs."""

    def __init__(self, tmp_path: Path, store: storage.Store) -> None:
        self.store = store
        self.app = tmp_path / "app.py"
        self.app.write_text(APP)
        self.inputs = tmp_path / "in"
        self.inputs.mkdir()

    def add(self, name: str, words: str) -> None:
        (self.inputs / name).write_text(words)

    def run(self, **options: Any) -> mrfast.JobResult:
        options = {"reduces": 3, "reuse": True, "workers": 2} | options
        return mrfast.run(self.app, self.inputs, store=self.store.url, **options)

    def map_objects(self) -> list[str]:
        return [info.key for info in self.store.list("jobs/") if "/inter/" in info.key]

    def names(self) -> list[str]:
        return [info.key for info in self.store.list("reuse/")]


@pytest.fixture
def daily(tmp_path: Path, store: storage.Store, monkeypatch: pytest.MonkeyPatch) -> Daily:
    if store.url.startswith("memory:"):
        pytest.skip("a memory:// store lives in one process only")
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))
    made = Daily(tmp_path, store)
    for number in range(4):
        made.add(f"{number}.txt", f"a b{number} c{number} d e f")
    return made


def ran(result: mrfast.JobResult) -> int:
    """How many maps were run."""
    return int(result.document["attempts"]["started"]) - int(result.totals["reduces"])


def test_a_daily_job_runs_only_the_maps_of_new_objects(tmp_path: Path) -> None:
    daily = Daily(tmp_path, storage.open_store(str(tmp_path / "store")))
    for number in range(1000):
        daily.add(f"{number:04d}.txt", f"word{number} all {number % 7}")
    assert ran(daily.run()) == 1000
    for number in range(3):
        daily.add(f"new{number}.txt", f"fresh{number} all")
    result = daily.run()
    assert (ran(result), result.totals["maps"], result.totals["maps_reused"]) == (3, 1003, 1000)
    whole = daily.run(reuse=False)
    assert ran(whole) == 1003
    assert result.text() == whole.text()
    same = ("bytes_in", "records_emitted", "records_shuffled", "records_out", "bytes_out")
    assert [result.totals[name] for name in same] == [whole.totals[name] for name in same]


def test_what_differs_runs_again(daily: Daily) -> None:
    assert ran(daily.run()) == 4
    assert ran(daily.run()) == 0
    assert ran(daily.run(reduces=2)) == 4
    daily.add("1.txt", "another text")
    assert ran(daily.run()) == 1
    assert ran(daily.run(reuse=False)) == 4
    daily.app.write_text(APP + "# changed\n")
    result = daily.run()
    assert ran(result) == 4
    assert result.totals["maps_reused"] == 0


def test_a_missing_or_damaged_object_is_made_again(daily: Daily) -> None:
    text = daily.run().text()
    objects = daily.map_objects()
    daily.store.delete(objects[0])
    damaged = read(daily.store, objects[1])
    daily.store.put(objects[1], damaged[:-20])  # its index is not there
    flipped = bytearray(read(daily.store, objects[2]))
    index = index_at_end(daily.store, objects[2], len(flipped))
    offset = next(index.segment(partition)[0] for partition in range(3) if index.records[partition])
    flipped[offset + 1] ^= 1  # of a segment: seen by the reduce that fetches it, and then by the coordinator
    daily.store.put(objects[2], bytes(flipped))
    result = daily.run()
    assert result.text() == text
    assert len(list(daily.store.list(f"jobs/{result.job}/inter/"))) == 3  # reduces that waited may have run twice
    assert ran(daily.run()) == 0


def test_a_name_that_says_nothing_is_no_name(daily: Daily) -> None:
    text = daily.run().text()
    names = daily.names()
    documents = [read_json(daily.store, name) for name in names]
    daily.store.put(names[0], b"no JSON")
    daily.store.put(names[1], b'{"object": "/etc/passwd"}')
    daily.store.put(names[2], read(daily.store, names[3]))  # of another input, and whole: it is what its name says
    daily.store.put(names[2], b"[]")
    assert documents[0].keys() == {"object", "report", "digest"}
    result = daily.run()
    assert (ran(result), result.text()) == (3, text)


def test_cleaning(daily: Daily) -> None:
    first = daily.run()
    assert len(daily.map_objects()) == len(daily.names()) == 4
    api.clean_job(first.job, store=daily.store.url)
    assert daily.map_objects() == []
    assert ran(daily.run()) == 4
    shown = CliRunner().invoke(cli.mrfast, ["clean", "--reuse", "--store", daily.store.url])
    assert (shown.exit_code, "removed 8 objects" in shown.output) == (0, True)
    assert daily.map_objects() == daily.names() == []
    assert ran(daily.run()) == 4


def test_functions_have_no_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reuse=True needs an application file"):
        mrfast.run(map=mrfast.ops.words(letters="space"), reduce=mrfast.ops.sum(), inputs=str(tmp_path), reuse=True)


def test_plan_knows_what_will_be_reused(
    s3_bucket: str, access_log: Callable[[str], dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))
    daily = Daily(tmp_path, storage.open_store(f"s3://{s3_bucket}/store"))
    words = " ".join(f"word{n}" for n in range(50))
    for day in range(3):
        for number in range(1 + 2 * day):
            daily.add(f"{day}-{number}.txt", f"{words} {day} {number}")
        planned = mrfast.plan(daily.app, daily.inputs, store=daily.store.url, reduces=3, reuse=True)
        before = access_log(s3_bucket)
        result = daily.run()
        logged = {verb: number - before.get(verb, 0) for verb, number in access_log(s3_bucket).items()}
        assert planned["requests"]["by_phase"] == result.requests["by_phase"]
        assert result.requests["by_verb"] == {verb: number for verb, number in logged.items() if number}
        assert planned["maps_reused"] == result.totals["maps_reused"] == (0, 1, 4)[day]


def with_index(run: Run) -> Run:
    """The run, its maps' objects with their index at the end, as real ones are."""
    for task in run.tasks():
        if isinstance(task, MapTask):
            packed = SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str", base=0).pack()
            data = b"x" + packed + len(packed).to_bytes(4, "little") + TRAILER_MAGIC
            run.store.put(inter_key(task.job, task.attempt), data)
            assert run.driver.report("w", MapReport(task.attempt, len(data), "0" * 16, packed, 3, 1, 10), 0.0)
        else:
            assert run.driver.report("w", run.reduce_report(task), 0.0)
    run.effects()
    return run


def test_what_was_adopted_is_journalled() -> None:
    first = with_index(Run(replace(make_spec(), reuse=True)).start())
    assert first.driver.state == "COMMITTED"
    second = Run(replace(first.spec, job="1" * 32, output_url=f"{first.spec.output_url}-2")).start()
    assert second.driver.status(0.0)["maps_done"] == 2
    third = second_coordinator(second)
    assert third.driver.status(0.0)["maps_done"] == 2
    tasks = list(third.driver.poll("w", 9, 0.0))
    assert [task.attempt for task in tasks] == ["r-00000.e2.1", "r-00001.e2.1"]
    segments, _, complete = third.driver.outputs(tasks[0].attempt, 0, 9, 0.0) or ([], 0, False)
    assert complete
    assert {segment.object for segment in segments} == {
        inter_key(first.spec.job, f"m-00000{number}.e1.1") for number in range(2)
    }
    first.store.delete(segments[0].object)  # the coordinator looks where the segment says
    assert third.driver.bad_input("w", tasks[0].attempt, 0, segments[0].attempt, "missing", 0.0) == "accepted"
    third.effects()
    assert third.driver.status(0.0)["maps_done"] == 1
    assert [task.attempt for task in third.driver.poll("w", 9, 0.0)] == ["m-000000.e2.1"]
