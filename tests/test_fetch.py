"""A reduce follows its source: segments are replaced, cannot be read, come again, and the part is of the last table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import xxhash
from memory_job import Job, Pages, example

from mrfast import core, storage
from mrfast.errors import CorruptSegment
from mrfast.index import TableDigest
from mrfast.model import Failure, MapReport, ReduceReport, ReduceTask, Segment, inter_key, out_key
from mrfast.storage import base
from mrfast.tasks import fetch
from mrfast.tasks.reducer import run_reduce

FILES = {"a": b"one two", "b": b"two three", "c": b"", "d": b"four"}


class Case:
    """The maps of FILES, and what a run of the reduce reads of the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory_bytes: int = 1 << 30, files: dict[str, bytes] = FILES):
        self.job = Job(example("wc"), files, reduces=1)
        self.reports = self.job.maps()
        self.segments = list(self.job.segments(self.reports, 0))
        self.job.memory_bytes = memory_bytes
        self.reads: list[str] = []
        read_into = type(self.job.store).read_into

        def counting(store: Any, key: str, *rest: Any) -> int:
            if "/inter/" in key:
                self.reads.append(key.rpartition("/")[2])
            return read_into(store, key, *rest)

        monkeypatch.setattr(type(self.job.store), "read_into", counting)

    def again(self, index: int, data: bytes | None = None) -> Segment:
        """A second attempt of a map, over other data if there is some."""
        piece = self.job.pieces[index]
        if data is not None:
            other = Job(self.job.app, {piece.path: data}, reduces=1)
            piece = other.pieces[0]
        task_report = self.job.map(index, piece)
        assert isinstance(task_report, MapReport)
        old = self.key(task_report.attempt)
        new = f"{task_report.attempt[:-1]}2"
        body = base.read(self.job.store, old)
        if data is not None:
            assert isinstance(self.job.map(index), MapReport)  # the first attempt's object as it was
        self.job.store.put(self.key(new), body)
        reports = [*self.reports[:index], replace(task_report, attempt=new), *self.reports[index + 1 :]]
        return list(self.job.segments(reports, 0))[index]

    def key(self, attempt: str) -> str:
        return inter_key("j", attempt)

    def lose(self, *segments: Segment) -> None:
        for segment in segments:
            self.job.store.delete(self.key(segment.attempt))

    def reduce(self, source: Pages) -> ReduceReport | Failure:
        self.reads.clear()
        return self.job.reduce(self.reports, 0, source)

    def part(self, source: Pages, used: list[Segment]) -> bytes:
        """The part, whose report says that it is of the segments `used`."""
        report = self.reduce(source)
        assert isinstance(report, ReduceReport), report
        table = TableDigest()
        for segment in used:
            table.add(segment.map_index, segment.digest)
        assert report.table == table.hex()
        assert report.records_in == sum(segment.records for segment in used)
        return base.read(self.job.store, out_key("j", report.attempt))


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


WORDS = b"four 1\none 1\nthree 1\ntwo 2\n"


def test_pages_come_in_any_order_and_empty_segments_are_never_read(case: Case) -> None:
    a, b, c, d = case.segments
    assert case.part(Pages([d], [], [c, b], [a], []), case.segments) == WORDS
    assert case.reads == [d.attempt, b.attempt, a.attempt]


def test_objects_of_an_earlier_job_are_never_read() -> None:
    """The Go program's next job found the last one's map outputs under the names that its own would have."""
    earlier = Job(example("wc"), FILES, reduces=1)
    segments = list(earlier.segments(earlier.maps(), 0))
    task = ReduceTask("k", "r-00000.1.1", 0, len(FILES), earlier.url, 1 << 30)
    report = run_reduce(earlier.app, task, Pages(segments), lambda progress: None, storage.open_store)
    assert isinstance(report, Failure)
    assert "jobs/k/inter/" in report.message
    assert "missing" in report.message


def test_a_complete_page_waits_for_every_map(case: Case) -> None:
    class Early(Pages):
        def pages(self) -> Any:
            for page, _ in super().pages():
                yield page, True

    a, b, c, d = case.segments
    assert case.part(Early([a, b], [], [c, d]), case.segments) == WORDS


def test_the_same_output_again_is_not_fetched_again(case: Case) -> None:
    a, b, c, d = case.segments
    same = case.again(0)
    assert (same.attempt, same.digest) != (a.attempt, "")
    same = replace(same, digest=a.digest)
    assert case.part(Pages([a, b], [same, c, d]), case.segments) == WORDS
    assert same.attempt not in case.reads


def test_another_output_takes_the_place_of_the_first(case: Case) -> None:
    a, b, c, d = case.segments
    other = case.again(0, b"one one six")
    assert other.digest != a.digest
    assert case.part(Pages([a, b, c], [other, d]), [other, b, c, d]) == b"four 1\none 2\nsix 1\nthree 1\ntwo 1\n"
    assert case.reads == [a.attempt, b.attempt, other.attempt, d.attempt]


@pytest.mark.parametrize("data", [b"", b"nine"])
def test_a_map_may_gain_or_lose_all_its_records(case: Case, data: bytes) -> None:
    a, b, c, d = case.segments
    if data:
        other = case.again(2, data)
        assert case.part(Pages([a, b, c], [other, d]), [a, b, other, d]).splitlines()[1] == b"nine 1"
    else:
        other = case.again(3, data)
        assert case.part(Pages([a, b, c, d], [other]), [a, b, c, other]) == b"one 1\nthree 1\ntwo 2\n"


def test_of_one_page_only_the_newest_segment_is_fetched(case: Case) -> None:
    a, b, c, d = case.segments
    other = case.again(0, b"six")
    assert case.part(Pages([a, b, other, c, d]), [other, b, c, d]) == b"four 1\nsix 1\nthree 1\ntwo 1\n"
    assert a.attempt not in case.reads


def test_a_lost_output_is_said_and_its_successor_fetched(case: Case) -> None:
    a, b, c, d = case.segments
    new = case.again(1)
    case.lose(b)
    source = Pages([a, b, c, d], answer=lambda segment: [new])
    assert case.part(source, [a, new, c, d]) == WORDS
    [(segment, why)] = source.told
    assert segment == b
    assert "the object is missing" in why
    assert case.reads == [a.attempt, b.attempt, b.attempt, d.attempt, new.attempt]  # twice, to be sure


def test_an_output_that_is_back_is_read_after_all(case: Case) -> None:
    a, b, c, d = case.segments
    body = base.read(case.job.store, case.key(b.attempt))
    case.lose(b)

    def found(segment: Segment) -> list[Segment]:
        if len(source.told) == fetch.ROUNDS_MAX - 1:
            case.job.store.put(case.key(b.attempt), body)
        return [segment]

    source = Pages([a, b, c, d], answer=found)
    assert case.part(source, case.segments) == WORDS


def test_an_output_that_only_this_reduce_cannot_read_fails_its_attempt(case: Case) -> None:
    case.lose(case.segments[1])
    source = Pages(case.segments)
    report = case.reduce(source)
    assert isinstance(report, Failure)
    assert (report.kind, report.map_index, report.input) == ("corrupt", 1, case.segments[1].attempt)
    assert report.counted
    assert len(source.told) == fetch.ROUNDS_MAX - 1


def test_rounds_of_different_attempts_do_not_add_up(case: Case) -> None:
    a, b, c, d = case.segments
    attempts = iter([replace(b, attempt=f"m-000001.1.{n}") for n in range(3, 8)])
    last = case.again(1)
    case.lose(b)
    source = Pages([a, b, c, d], answer=lambda segment: [next(attempts, last)])
    assert case.part(source, [a, last, c, d]) == WORDS
    assert len(source.told) == 6


@pytest.mark.parametrize("large", [False, True])
def test_what_was_merged_on_disk_comes_again_when_a_segment_is_replaced(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
    case = Case(monkeypatch, files={f"{n}": b"one two" for n in range(8)})
    first, *rest = case.segments
    # Either every segment goes to disk by itself, or what is in memory is merged when the next one comes.
    case.job.memory_bytes = first.length if large else 4 * first.length
    other = case.again(0, b"six")
    assert case.part(Pages(case.segments, [other]), [other, *rest]) == b"one 7\nsix 1\ntwo 7\n"
    assert [case.reads.count(segment.attempt) for segment in (first, other)] == [1, 1]
    on_disk = rest if large else rest[:5]
    assert [case.reads.count(segment.attempt) for segment in rest] == [1 + (one in on_disk) for one in rest]


def test_a_segment_on_disk_may_be_gone_when_it_must_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
    case = Case(monkeypatch, 4)
    a, b, c, d = case.segments
    other, new = case.again(0, b"six"), case.again(1)

    class Source(Pages):
        def pages(self) -> Any:
            for number, page in enumerate(super().pages()):
                if number == 1:
                    case.lose(b)
                yield page

    source = Source([a, b, c, d], [other], [], answer=lambda segment: [new])
    assert case.part(source, [other, new, c, d]) == b"four 1\nsix 1\nthree 1\ntwo 1\n"
    assert [segment for segment, _ in source.told] == [b]


def test_progress_counts_fetching_and_reducing_alike(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrfast.tasks import reducer

    monkeypatch.setattr(reducer, "REPORT_S", 0.0)
    case.job.app = replace_reduce(case.job.app)
    case.job.progress.clear()
    assert case.part(Pages(case.segments), case.segments) == WORDS
    size = sum(segment.length for segment in case.segments)
    progress = case.job.progress
    assert [p.bytes_total for p in progress] == [2 * size] * len(progress)
    done = [p.bytes_done for p in progress]
    assert done == sorted(done)
    assert [p.phase for p in progress] == ["fetch"] * 4 + ["reduce"] * 5
    assert done[3] == done[4] == size
    assert done[-1] == 2 * size


def replace_reduce(app: Any) -> Any:
    """The app with a reduce in Python."""
    from mrfast.app import App

    return App.from_functions(map=app.map, reduce=lambda key, values: sum(values))


@pytest.mark.parametrize("damage", ["checksum", "records", "order", "none"])
def test_check_segment(damage: str) -> None:
    sink = core.MapSink(1)
    sink.emit_all([("a", 1), ("b", 2)])
    drained = sink.drain()
    data, records, xxh3 = bytes(drained.body), drained.counts[0], drained.checksums[0]
    if damage == "none":
        core.check_segment(data, records=records, xxh3=xxh3)
        core.check_segment(b"", records=0, xxh3=0)
        return
    if damage == "checksum":
        xxh3 ^= 1
    elif damage == "records":
        records += 1
    else:
        half = len(data) // 2
        data = data[half:] + data[:half]
        xxh3 = xxhash.xxh3_64_intdigest(data)
    with pytest.raises(CorruptSegment, match=f"map object o: partition 7, .*{damage}"):
        core.check_segment(data, records=records, xxh3=xxh3, object="o", partition=7)
