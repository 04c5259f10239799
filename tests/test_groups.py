"""Neighbouring partitions in one reduce task: the same parts, from fewer requests."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_job_driver
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import MemoryJournals
from memory_job import Job, Pages, example

import mrfast
from mrfast import core, ops, storage
from mrfast.app import App
from mrfast.control import groups, messages, plan
from mrfast.control.effects import Effect
from mrfast.control.groups import PARTITIONS_MAX, Groups, run_of, singles
from mrfast.control.job import JobDriver
from mrfast.control.outputs import is_intact
from mrfast.errors import JobFailed, MrfastError, StoreError
from mrfast.index import TRAILER_MAGIC, SegmentIndex, TableDigest
from mrfast.model import (
    FRAME_BYTES_MAX,
    Failure,
    InputCut,
    InputObject,
    JobSpec,
    MapReport,
    MapTask,
    Part,
    PartReport,
    ReduceReport,
    ReduceTask,
    Segment,
    inter_key,
    out_key,
    part_object,
    reduce_name,
)
from mrfast.storage import base, ledger
from mrfast.tasks import fetch, reducer
from mrfast.tasks.reducer import run_reduce

MIB = 1 << 20

# -- how many ---------------------------------------------------------------------------------------------------------


def chosen(
    maps: int, reduces: int, size: int = 64 * MIB, *, memory: int = 1 << 30, slots: int = 16, remote: bool = True
) -> int:
    inputs = [InputObject(f"{n}", f"s3://b/{n}", size, "e") for n in range(maps)]
    return groups.partitions_per_reduce(inputs, reduces, 64 * MIB, memory, slots, remote=remote)


@pytest.mark.parametrize(
    ("reduces", "slots", "wanted"),
    [(1, 1, 1), (127, 1, 1), (128, 1, 2), (1000, 1, 15), (1000, 16, 15), (1000, 17, 14), (135, 17, 1), (136, 17, 2)],
)
def test_enough_tasks_remain(reduces: int, slots: int, wanted: int) -> None:
    found = chosen(10, reduces, slots=slots)
    assert found == wanted
    tasks = Groups(reduces, found).tasks
    assert found == 1 or tasks >= max(64, 4 * slots)


def test_a_folder_store_and_large_segments_need_no_groups() -> None:
    assert chosen(10, 1000, remote=False) == 1
    whole = groups.partitions_per_reduce
    inputs = [InputObject("0", "s3://b/0", 1 << 34, "e")]
    runs = [whole(inputs, 640, split_bytes, 1 << 40, 1, remote=True) for split_bytes in (1 << 30, 1 << 31, 1 << 32)]
    assert runs == [4, 2, 1]  # segments of 256 KiB, 512 KiB and 1 MiB
    assert chosen(0, 1000) == 15


def test_what_a_task_holds_is_within_its_memory() -> None:
    for memory, wanted in ((64 * MIB, 1), (256 * MIB, 2), (1 << 30, 10), (1 << 31, 15)):
        found = chosen(10_000, 1000, memory=memory)
        assert found == wanted
        assert found == 1 or found * 100 * MIB <= memory


def test_a_shuffle_of_ten_thousand_maps_and_a_thousand_partitions_costs_under_half_a_dollar() -> None:
    inputs = tuple(InputObject(f"{n}", f"s3://b/{n}", 64 * MIB, "e") for n in range(10_000))
    spec = JobSpec("0" * 32, None, "s3://b/store", "s3://b/out", 1000, 64 * MIB, 1 << 30, 4, False, inputs)
    found = groups.partitions_per_reduce(inputs, 1000, spec.split_bytes, spec.memory_bytes, 16, remote=True)
    costs = []
    for size in (1, found):
        made = plan.plan(replace(spec, partitions_per_reduce=size), InputCut("blocks", True), {})
        shuffle = {"PUT": made.planned["map"]["PUT"]["ok"], "GET": made.planned["reduce"]["GET"]["ok"]}
        assert shuffle == {"PUT": 10_000, "GET": 10_000 * -(-1000 // size)}
        costs.append(ledger.cost_usd(shuffle))
    assert costs[0] == pytest.approx(4.05)
    assert costs[1] < 0.5


@given(st.integers(1, 300), st.integers(1, 300))
def test_each_partition_is_in_one_task(reduces: int, size: int) -> None:
    made = Groups(reduces, size)
    assert [number for task in range(made.tasks) for number in made.partitions(task)] == list(range(reduces))
    assert all(made.partitions(task) for task in range(made.tasks))
    keys = [key for task in range(made.tasks) for key in made.written("j", "reduce", task, f"r-{task:05d}.e1.1")]
    assert len(set(keys)) == reduces


def test_a_plan_has_the_groups_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "is_remote", lambda url: True)
    app = tmp_path / "app.py"
    app.write_text("from mrfast import ops\nmap = ops.words(letters='ascii')\nreduce = ops.sum()\n")
    (tmp_path / "a.txt").write_text("one two three")
    options: dict[str, Any] = {"reduces": 300, "store": str(tmp_path / "store")}
    for workers, size in ((1, 4), (20, 3), (40, 1)):
        planned = mrfast.plan(app, tmp_path / "a.txt", workers=workers, **options)
        assert (planned["partitions_per_reduce"], planned["reduces"]) == (size, 300)
    result = mrfast.run(app, tmp_path / "a.txt", workers=2, **options)
    assert len({part["attempt"].partition(".")[0] for part in result.document["parts"]}) == 75
    assert dict(result.records()) == {"one": "1", "two": "1", "three": "1"}


def test_a_reduce_that_dies_between_two_parts_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "partitions_per_reduce", lambda *_, **__: 4)
    (tmp_path / "a.txt").write_bytes(b" ".join(b"w%d" % n for n in range(400)))
    died = tmp_path / "died"

    def words(filename: str, contents: bytes) -> Any:
        return ((word, 1) for word in contents.split())

    def dies_once(key: bytes, values: Any) -> int:
        if core.partition(key, 10) == 6 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(values)

    store = tmp_path / "store"
    result = mrfast.run(map=words, reduce=dies_once, inputs=tmp_path / "a.txt", store=store, reduces=10, workers=2)
    assert died.exists()
    assert result.document["attempts"]["failed"] == 1
    names = [part["attempt"] for part in result.document["parts"]]
    assert names[4:8] == [f"r-00001.e1.2.{n}" for n in (4, 5, 6, 7)]
    assert sorted(path.name for path in store.glob("jobs/*/out/*")) == sorted(names)
    assert sorted(dict(result.records())) == sorted(f"w{n}" for n in range(400))


# -- runs of segments -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 9))
def test_a_run_is_its_segments(lengths: list[int], base_offset: int) -> None:
    index = SegmentIndex(lengths, lengths, [7 * n for n in lengths], key_kind="str", base=base_offset)
    places = map(index.segment, range(len(lengths)))
    segments = [Segment(3, "m", *place, "str", "d") for place in places]
    run = run_of(segments)
    assert (run.length, run.records) == (sum(lengths), sum(lengths))
    if run.records:
        assert run.offset == base_offset
        assert [(one.length, one.records, one.xxh3) for one in singles(run)] == [
            s[1:] for s in map(index.segment, range(len(lengths)))
        ]
        assert [one.offset for one in singles(run)] == [one.offset for one in segments]
    assert all(not one.parts for one in singles(run))


@pytest.mark.parametrize("size", [1, 2, 7, PARTITIONS_MAX])
def test_the_largest_page_of_runs_fits_in_a_frame(size: int) -> None:
    top = (1 << 64) - 1
    segment = Segment(999_999, "m-999999.e999999.999999", top, top, top, top, "bytes", "f" * 16)
    if size > 1:
        segment = replace(segment, parts=((top, top, top, top),) * size)
    page = messages.OutputsPage((segment,) * max(1, messages.SEGMENTS_PER_PAGE // size), 999_999)
    assert len(messages.dumps(page)) < FRAME_BYTES_MAX
    part = PartReport(top, "f" * 16, top)
    report = ReduceReport("r-65535.e999999.999999", top, "f" * 16, top, top, "f" * 16, {}, (part,) * size)
    assert len(messages.dumps(messages.Report("w" * 32, reduce=report))) < FRAME_BYTES_MAX


# -- tasks ------------------------------------------------------------------------------------------------------------


class Grouped:
    """A job in memory whose reduces make `size` partitions each."""

    def __init__(self, job: Job, size: int) -> None:
        self.job, self.groups = job, Groups(job.reduces, size)
        self.reports = job.maps()

    def runs(self, task: int, reports: list[MapReport] | None = None) -> list[Segment]:
        its = self.groups.partitions(task)
        columns = [list(self.job.segments(reports or self.reports, number)) for number in its]
        return [run_of(segments) for segments in zip(*columns, strict=True)]

    def reduce(self, task: int, source: Pages | None = None) -> ReduceReport | Failure:
        its, job = self.groups.partitions(task), self.job
        attempt = f"{reduce_name(task)}.1.1"
        made = ReduceTask("j", attempt, its.start, len(self.reports), job.url, job.memory_bytes, len(its))
        source = source or Pages(self.runs(task))
        return run_reduce(job.app, made, source, job.progress.append, storage.open_store)

    def parts_of(self, task: int, report: ReduceReport | Failure) -> list[bytes]:
        assert isinstance(report, ReduceReport), report
        self.groups.check(task, report)
        found = []
        for part in self.groups.parts(task, report):
            data = base.read(self.job.store, out_key("j", part.attempt))
            assert part == Part(part.partition, part.attempt, len(data), base_digest(data), len(data.splitlines()))
            found.append(data)
        assert report.size == sum(map(len, found))
        return found

    def parts(self) -> list[bytes]:
        return [part for task in range(self.groups.tasks) for part in self.parts_of(task, self.reduce(task))]


def base_digest(data: bytes) -> str:
    import xxhash

    return xxhash.xxh3_64_hexdigest(data)


def total(key: Any, values: Any) -> int:
    return sum(values)


WORDS = "one two three four five six seven eight nine ten eleven".split()
APPS = [
    example("wc"),
    App.from_functions(map=ops.words(letters="ascii"), reduce=total),
    App.from_functions(map=ops.words(letters="ascii"), reduce=ops.count(), output="jsonl"),
]


@pytest.mark.parametrize("app", APPS, ids=["native", "python", "jsonl"])
@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=9), min_size=1, max_size=4),
    reduces=st.integers(1, 7),
    memory_bytes=st.sampled_from([1, 40, 150, 1 << 30]),
)
def test_parts_are_the_same_for_each_size(app: App, texts: list[list[str]], reduces: int, memory_bytes: int) -> None:
    files = {f"{n}": " ".join(words).encode() for n, words in enumerate(texts)}
    want = Job(app, files, reduces=reduces).parts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
        for size in range(1, reduces + 2):
            job = Job(app, files, reduces=reduces)
            grouped = Grouped(job, size)
            job.memory_bytes = memory_bytes
            assert grouped.parts() == want


FILES = {f"{n}": " ".join(WORDS[n:]).encode() for n in range(8)} | {"empty": b""}


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Grouped]:
    """A job of 5 partitions, two to a task, within so many bytes."""
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)

    def make(memory_bytes: int = 1 << 30) -> Grouped:
        grouped = Grouped(Job(APPS[0], FILES, reduces=5), 2)
        grouped.job.memory_bytes = memory_bytes
        return grouped

    return make


@pytest.fixture
def wanted() -> list[bytes]:
    return Job(APPS[0], FILES, reduces=5).parts()


def test_one_read_a_map_object_brings_all_partitions(
    case: Callable[[], Grouped], wanted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = case()
    reads: list[str] = []
    read_into = type(grouped.job.store).read_into

    def counting(store: Any, key: str, *rest: Any) -> int:
        reads.append(key)
        return read_into(store, key, *rest)

    monkeypatch.setattr(type(grouped.job.store), "read_into", counting)
    report = grouped.reduce(0)
    assert len([key for key in reads if "/inter/" in key]) == sum(run.records > 0 for run in grouped.runs(0)) >= 7
    assert grouped.parts_of(0, report) == wanted[:2]
    done = [each.bytes_done for each in grouped.job.progress if each.phase in ("fetch", "reduce")]
    assert done == sorted(done)


@pytest.mark.parametrize("memory_bytes", [1, 100, 300, 1 << 30])
def test_a_lost_map_and_one_that_differs(
    case: Callable[[int], Grouped], wanted: list[bytes], memory_bytes: int
) -> None:
    grouped = case(memory_bytes)
    first = grouped.reports[3]
    task = MapTask("j", "m-000003.1.2", 3, (grouped.job.pieces[4],), grouped.job.url, 5, 1 << 30)
    from mrfast.tasks.mapper import run_map

    other = run_map(grouped.job.app, task, lambda done: None, storage.open_store)
    assert isinstance(other, MapReport)
    reports = [*grouped.reports[:3], other, *grouped.reports[4:]]
    files = dict(FILES)
    files["3"] = files["4"]
    want = Job(APPS[0], files, reduces=5).parts()
    for number in range(3):
        # It is replaced when it is held already.
        source = Pages(grouped.runs(number), [grouped.runs(number, reports)[3]], [])
        report = grouped.reduce(number, source)
        assert grouped.parts_of(number, report) == want[2 * number : 2 * number + 2]
        table = TableDigest()
        for each in grouped.runs(number, reports):
            table.add(each.map_index, each.digest)
        assert isinstance(report, ReduceReport)
        assert report.table == table.hex()
    # It is gone, and comes again as another attempt's.
    grouped.job.store.delete(inter_key("j", first.attempt))
    source = Pages(grouped.runs(1), answer=lambda segment: [grouped.runs(1, reports)[3]])
    assert grouped.parts_of(1, grouped.reduce(1, source)) == want[2:4]
    assert [segment.map_index for segment, _ in source.told] == [3]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
@pytest.mark.parametrize("place", [0, 1])
def test_a_flipped_byte_in_any_partition_is_found(
    case: Callable[[int], Grouped], wanted: list[bytes], memory_bytes: int, place: int
) -> None:
    grouped = case(memory_bytes)
    run = grouped.runs(1)[0]
    damaged = next(one for one in singles(run)[place:] if one.length)
    key = inter_key("j", run.attempt)
    data = base.read(grouped.job.store, key)
    bad = bytearray(data)
    bad[damaged.offset] ^= 1
    grouped.job.store.put(key, bytes(bad))
    assert not is_intact(grouped.job.store, key, run)

    def mended(segment: Segment) -> list[Segment]:
        grouped.job.store.put(key, data)
        return [segment]

    source = Pages(grouped.runs(1), answer=mended)
    assert grouped.parts_of(1, grouped.reduce(1, source)) == wanted[2:4]
    assert [segment for segment, _ in source.told] == [run]
    assert is_intact(grouped.job.store, key, run)


# -- the driver -------------------------------------------------------------------------------------------------------


class Run(test_job_driver.Run):
    """The driver of a job of 5 partitions, two to a task."""

    def map_report(self, task: MapTask, text: bytes = b"xyz") -> MapReport:
        digests = [int(base_digest(text[n : n + 1]), 16) for n in range(3)]
        index = SegmentIndex([1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [digests[0], 0, *digests[1:], 0], key_kind="str")
        packed = index.pack()
        data = text + packed + len(packed).to_bytes(4, "little") + TRAILER_MAGIC
        self.store.put(inter_key(task.job, task.attempt), data)
        return MapReport(task.attempt, len(data), "0" * 16, packed, 3, 3, 10)

    def reduce_report(self, task: ReduceTask) -> ReduceReport:
        single = super().reduce_report(task)
        if task.partitions == 1:
            return single
        self.store.delete(out_key(task.job, task.attempt))
        parts = []
        for partition in range(task.partition, task.partition + task.partitions):
            text = b"part %d" % partition
            self.store.put(out_key(task.job, part_object(task.attempt, partition, task.partitions)), text)
            parts.append(PartReport(len(text), "0" * 16, 1))
        return replace(single, size=12, records_out=2, parts=tuple(parts))

    def maps(self) -> Run:
        for _ in range(2):
            [task] = self.driver.poll("w", 1, self.now)
            assert isinstance(task, MapTask)
            assert self.driver.report("w", self.map_report(task), self.now) == "accepted"
        return self

    def next_reduce(self) -> ReduceTask:
        [task] = self.driver.poll("w", 1, self.now)
        assert isinstance(task, ReduceTask)
        return task

    def keys(self) -> list[str]:
        return sorted(info.key.rpartition("/")[2] for info in self.store.list(f"jobs/{self.spec.job}/out/"))


def started(before: Callable[[Effect], None] = lambda effect: None) -> Run:
    run = Run(test_job_driver.make_spec(reduces=5, partitions_per_reduce=2), before)
    run.start()
    return run


def test_a_job_of_groups_from_spec_to_success() -> None:
    run = started().maps()
    [first, second, third] = itertools.chain(*(run.driver.poll("w", 1, 0.0) for _ in range(3)))
    assert [(t.partition, t.partitions) for t in (first, second, third)] == [(0, 2), (2, 2), (4, 1)]  # type: ignore[union-attr]
    assert isinstance(second, ReduceTask)
    segments, _, complete = run.driver.outputs(second.attempt, 0, 2, 0.0) or ([], 0, False)
    assert len(segments) == 1  # a page has as many partitions' segments as without groups
    assert not complete
    assert (segments[0].offset, segments[0].length, len(segments[0].parts)) == (1, 2, 2)
    for number, task in enumerate((third, first, second)):
        assert isinstance(task, ReduceTask)
        report = run.reduce_report(task)
        assert run.driver.report("w", report, 0.0) == "accepted"
        status = run.driver.status(0.0)
        assert status["reduces"] == 5
        assert (status["reduces_done"] == 5) == (number == 2)
    run.effects()
    assert run.driver.state == "COMMITTED"
    assert [base.read(run.output, f"mr-out-{n}") for n in range(5)] == [b"part %d" % n for n in range(5)]
    document = base.read_json(run.output, "_SUCCESS")
    assert [part["partition"] for part in document["parts"]] == list(range(5))
    assert document["parts"][3]["attempt"] == f"{second.attempt}.3"
    assert document["totals"]["reduces"] == document["totals"]["records_out"] == 5
    # The parts stay; the map outputs are gone.
    assert run.keys() == sorted(part["attempt"] for part in document["parts"])
    assert not list(run.store.list(f"jobs/{run.spec.job}/inter/"))


def test_a_report_of_other_parts_than_the_tasks_is_refused() -> None:
    run = started().maps()
    task = run.next_reduce()
    report = run.reduce_report(task)
    for parts in ((), report.parts[:1], report.parts * 2):
        with pytest.raises(MrfastError, match="makes 2 partitions and reports"):
            run.driver.report("w", replace(report, parts=parts), 0.0)
    assert run.driver.report("w", report, 0.0) == "accepted"


def test_what_a_loser_wrote_goes_and_what_was_accepted_stays_after_a_failure() -> None:
    run = started().maps()
    loser = run.next_reduce()
    run.now = 100.0
    run.driver.tick(run.now)
    winner = run.next_reduce()
    while winner.partition != loser.partition:
        winner = run.next_reduce()
    late = run.reduce_report(loser)
    assert run.driver.report("w", run.reduce_report(winner), run.now) == "accepted"
    assert run.driver.report("w", late, run.now) == "superseded"
    run.effects()
    assert run.keys() == [f"{winner.attempt}.{n}" for n in (0, 1)]
    run.driver.fail(JobFailed("no more"))
    run.effects()
    assert run.keys() == [f"{winner.attempt}.{n}" for n in (0, 1)]


@pytest.mark.parametrize("break_it", [False, True])
def test_a_resumed_job_has_the_same_groups(break_it: bool) -> None:
    run = Run(test_job_driver.make_spec(reduces=5, partitions_per_reduce=2))
    journals = MemoryJournals()
    run.driver = JobDriver(run.spec, store=run.store, journals=journals)
    run.start()
    run.maps()
    report = run.reduce_report(run.next_reduce())
    if not break_it:
        run.driver.report("w", report, 0.0)
    else:
        run.driver._groups = Groups(5, 5)  # one that a job of other groups wrote
        run.driver.report("w", replace(report, parts=report.parts * 2 + report.parts[:1]), 0.0)
    run.effects()
    run.driver = JobDriver(run.spec, store=run.store, journals=journals, resume=True)
    run.start()
    if break_it:
        assert run.driver.state == "FAILED"
        assert "makes 2 partitions and reports 5" in str(run.driver.error)
        return
    left = []
    for task in run.tasks():
        assert isinstance(task, ReduceTask)
        left.append(task.partition)
        assert run.driver.report("w", run.reduce_report(task), 0.0) == "accepted"
    run.effects()
    assert left == [2, 4]
    assert run.driver.state == "COMMITTED"
    assert [base.read(run.output, f"mr-out-{n}") for n in range(5)] == [b"part %d" % n for n in range(5)]


def test_a_partition_without_a_record_is_no_damage() -> None:
    run = started().maps()
    task = run.next_reduce()  # of the partitions 0 and 1, of which one is empty
    segments = run.driver.outputs(task.attempt, 0, 10, 0.0)[0]
    assert any(not length for segment in segments for length, *_ in segment.parts)
    assert run.driver.bad_input("w", task.attempt, 0, "m-000000.e1.1", "why", 0.0) == "accepted"
    run.effects()
    assert run.driver.scheduler is not None
    assert run.driver.scheduler.maps_done == 2


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_the_coordinator_looks_at_all_partitions_of_a_task(damaged: int) -> None:
    run = started().maps()
    run.next_reduce()
    task = run.next_reduce()  # of the partitions 2 and 3, whose bytes are 1 and 2
    key = inter_key(run.spec.job, "m-000000.e1.1")
    data = bytearray(base.read(run.store, key))
    data[damaged] ^= 1
    run.store.put(key, bytes(data))
    assert run.driver.bad_input("w", task.attempt, 0, "m-000000.e1.1", "why", 0.0) == "accepted"
    run.effects()
    scheduler = run.driver.scheduler
    assert scheduler is not None
    assert scheduler.maps_done == (2 if damaged == 0 else 1)


def test_a_task_that_spills_has_a_file_a_run_whatever_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
    rng = random.Random(1)
    files = {f"{n}": b"\n".join(b"%d" % rng.randrange(10**6) for _ in range(100)) for n in range(40)}
    job = Job(example("sort"), files, reduces=32)
    want = job.parts()
    job.memory_bytes = 8000
    most = 0
    spill_memory = fetch.Fetched._spill_memory

    def counting(fetched: fetch.Fetched) -> None:
        nonlocal most
        spill_memory(fetched)
        most = max(most, len(os.listdir("/proc/self/fd")))

    monkeypatch.setattr(fetch.Fetched, "_spill_memory", counting)
    before = len(os.listdir("/proc/self/fd"))
    assert Grouped(job, 32).parts() == want
    assert 0 < most - before <= 8


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=9), min_size=1, max_size=3),
    size=st.integers(1, 6),
    held=st.integers(0, 30),
)
def test_parts_that_go_up_meanwhile_are_the_same(texts: list[list[str]], size: int, held: int) -> None:
    files = {f"{n}": " ".join(words).encode() for n, words in enumerate(texts)}
    want = Job(example("wc"), files, reduces=6).parts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reducer, "PART_HELD_BYTES_MAX", held)
        grouped = Grouped(Job(example("wc"), files, reduces=6), size)
        patch.setattr(type(grouped.job.store), "remote", True)
        assert grouped.parts() == want


def test_small_parts_of_a_task_go_up_at_once_in_a_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = Grouped(Job(example("wc"), FILES, reduces=4), 4)
    kind = type(grouped.job.store)
    put, meeting = kind.put, threading.Barrier(4)
    phases = []

    def together(store: Any, key: str, *rest: Any, **options: Any) -> Any:
        meeting.wait(60.0)
        phases.append(ledger.phase())
        return put(store, key, *rest, **options)

    monkeypatch.setattr(kind, "remote", True)
    monkeypatch.setattr(kind, "put", together)
    with ledger.working("reduce"):
        report = grouped.reduce(0)
    assert isinstance(report, ReduceReport), report
    assert phases == ["reduce"] * 4


def test_a_part_that_cannot_go_up_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = Grouped(Job(example("wc"), FILES, reduces=4), 4)
    kind = type(grouped.job.store)
    put = kind.put

    def broken(store: Any, key: str, *rest: Any, **options: Any) -> Any:
        if key.endswith(".2"):
            raise StoreError("503 SlowDown")
        return put(store, key, *rest, **options)

    monkeypatch.setattr(kind, "remote", True)
    monkeypatch.setattr(kind, "put", broken)
    failed = grouped.reduce(0)
    assert isinstance(failed, Failure)
    assert failed.kind == "store"
    assert "503" in failed.message
