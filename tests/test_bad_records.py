"""Records that map cannot take are passed over whole, are reported with their address, and cost no other record."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_job import Job
from test_pool import Bench

from mrfast import ops
from mrfast.app import App
from mrfast.control.messages import report_message
from mrfast.control.schema import decode, encode
from mrfast.counting import Counters
from mrfast.model import (
    BAD_RECORD_BYTES_MAX,
    FRAME_BYTES_MAX,
    Failure,
    MapReport,
    MapTask,
    Piece,
    Progress,
    SkippedRecord,
)
from mrfast.storage import open_store
from mrfast.tasks import pulse, skipping
from mrfast.tasks.frames import SharedProgress
from mrfast.tasks.mapper import run_map
from mrfast.tasks.pool import Finished, Ready


def total(key: Any, values: Any) -> int:
    return sum(values)


def inverse(filename: str, contents: Any) -> Iterator[tuple[str, int]]:
    """A pair before and one behind what raises: neither of a bad record may count."""
    number = int(contents["n"]) if isinstance(contents, dict) else int(contents)
    yield "records", 1
    yield "inverse", 1000 // number


class BadJob(Job):
    """A Job whose maps may pass over so many records."""

    bad_records_max = 10
    skip: tuple[tuple[str, int], ...] = ()

    def map(self, index: int, *pieces: Piece) -> MapReport | Failure:
        task = MapTask(
            "j",
            f"m-{index:06d}.1.1",
            index,
            pieces or (self.pieces[index],),
            self.url,
            self.reduces,
            self.memory_bytes,
            self.bad_records_max,
            self.skip,
        )
        self.at: list[tuple[int, int]] = []
        report = run_map(self.app, task, self.progress.append, open_store, lambda *at: self.at.append(at))
        assert isinstance(report, Failure) or not self.at or self.at[-1] == (-1, 0)
        return report

    def bad(self) -> list[SkippedRecord]:
        return [record for report in self.maps() for record in report.bad]


def app_of(cut: str, function: Callable[..., Any] = inverse, **more: Any) -> App:
    return App.from_functions(map=function, reduce=total, input=cut, **more)


CUTS = {
    "lines": b"5\n0\n\n8\nx\n1",
    "jsonl": b'{"n": 5}\n\n{"n": 0}\n{"m": 1}\n{"n": 8}\n{"n"\n{"n": 1}\n',
    "csv": b'n,t\n5,a\n0,"b\nb"\n\n8,c\nx,d\n1\n1,e\n',
}
ZERO = "ZeroDivisionError: integer division or modulo by zero"
BAD = {
    "lines": [(2, b"0", ZERO), (4, b"", "ValueError: invalid lit"), (7, b"x", "ValueError: invalid lit")],
    "jsonl": [
        (10, b'{"n": 0}', ZERO),
        (19, b'{"m": 1}', "KeyError: 'n'"),
        (37, b'{"n"', "f: offset 37: malformed JSON"),
    ],
    "csv": [
        (8, b'0,"b\nb"', ZERO),
        (21, b"x,d", "ValueError: invalid lit"),
        (25, b"1", "f: offset 25: malformed CSV: 1 fields"),
    ],
}


def shown(records: list[SkippedRecord]) -> list[tuple[int, bytes]]:
    return [(record.offset, record.data) for record in records]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["f", "f.gz"])
@pytest.mark.parametrize("combine", [None, ops.sum(), total], ids=["plain", "native", "python"])
def test_bad_records_are_left_out_and_reported(cut: str, name: str, combine: Any) -> None:
    data = gzip.compress(CUTS[cut]) if name == "f.gz" else CUTS[cut]
    job = BadJob(app_of(cut, combine=combine), {name: data})
    [report] = job.maps()
    assert [(record.offset, record.data) for record in report.bad] == [(at, raw) for at, raw, _ in BAD[cut]]
    for record, (_, raw, why) in zip(report.bad, BAD[cut], strict=True):
        assert record.why.replace("f.gz:", "f:").startswith(why)
        assert (record.path, record.url, record.length) == (name, job.pieces[0].url, len(raw))
    assert job.pairs() == {"records": "3", "inverse": "1325"}
    assert report.records_in == 6


@pytest.mark.parametrize("cut", CUTS)
def test_any_split_finds_the_same_bad_records(cut: str) -> None:
    data = CUTS[cut].replace(b"b\nb", b"bb")  # a row over two lines is not split
    whole = BadJob(app_of(cut), {"f": data}).bad()
    assert len(whole) == 3
    for split_bytes in range(1, len(data)):
        job = BadJob(app_of(cut), {"f": data}, split_bytes=split_bytes)
        found = [record for index in range(len(job.pieces)) for record in _of(job.map(index)).bad]
        assert shown(found) == shown(whole)


def _of(report: MapReport | Failure) -> MapReport:
    assert isinstance(report, MapReport), report
    return report


@given(st.lists(st.sampled_from([b"0", b"1", b"2", b"x", b"", b"k", b"None", b"[]"]), max_size=40))
@settings(deadline=None, max_examples=150)
@pytest.mark.parametrize("combine", [None, ops.sum(), ops.max(), total], ids=["plain", "sum", "max", "python"])
def test_the_good_records_count_as_if_there_were_no_others(combine: Any, lines: list[bytes]) -> None:
    def emit(filename: str, line: bytes) -> Iterator[tuple[Any, Any]]:
        yield "a", 1
        yield {b"k": b"bytes", b"None": None}.get(line, "b"), set() if line == b"[]" else 1
        yield "c", 2 if line in (b"k", b"None", b"[]") else 4 // int(line)

    good = [line for line in lines if line in (b"1", b"2")]
    app = app_of("lines", emit, combine=combine)
    job = BadJob(app, {"f": b"".join(line + b"\n" for line in lines)})
    job.bad_records_max = 100
    assert job.parts() == Job(app, {"f": b"".join(line + b"\n" for line in good)}).parts()
    assert [record.data for record in job.bad()] == [line for line in lines if line not in good]


def test_a_bad_first_record_does_not_choose_the_kind_of_keys() -> None:
    def emit(filename: str, line: bytes) -> list[tuple[Any, int]]:
        return [(b"k", 1), (5, 1)] if line == b"bad" else [("k", 1)]

    job = BadJob(app_of("lines", emit), {"f": b"bad\n1\n2\nbad\n3\n"})
    assert [record.offset for record in job.bad()] == [0, 8]
    assert job.pairs() == {"k": "3"}


def test_a_block_of_lines_is_one_record() -> None:
    def emit(filename: str, block: bytes) -> Iterator[tuple[str, int]]:
        for line in block.split():
            yield "sum", int(line)

    block = b"7\n" * (1 << 19)  # a block of 1 MiB
    job = BadJob(app_of("blocks", emit), {"f": block + b"1\nx\n" + block[4:] + b"5\n"})
    [record] = job.bad()
    assert (record.offset, record.length, len(record.data)) == (1 << 20, 1 << 20, BAD_RECORD_BYTES_MAX)
    assert record.data.startswith(b"1\nx\n7")
    assert job.pairs() == {"sum": str(7 * (1 << 19) + 5)}


@pytest.mark.parametrize("memory_bytes", [1 << 30, 64])
@pytest.mark.parametrize("combine", [None, ops.sum(), total], ids=["plain", "native", "python"])
@pytest.mark.parametrize("collected_bytes_max", [0, 3, 1 << 20])
def test_a_whole_object_is_one_record(
    memory_bytes: int, combine: Any, collected_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipping, "COLLECTED_BYTES_MAX", collected_bytes_max)

    def emit(filename: str, contents: bytes) -> Iterator[tuple[str, int]]:
        for word in contents.split():
            yield "sum", int(word)

    files = {"a": b"1 2 3", "b": b"4 x", "c": b"5", "d": b"6 y"}
    job = BadJob(app_of("file", emit, combine=combine), files, reduces=1, memory_bytes=memory_bytes)
    report = _of(job.map(0, *job.pieces))
    assert [(record.path, record.offset, record.data) for record in report.bad] == [("b", 0, b"4 x"), ("d", 0, b"6 y")]
    assert report.records_in == 4
    assert job.pairs() == {"sum": "11"}


@pytest.mark.parametrize("between", [0, 2 * skipping.TRIAL_PAIRS])
def test_a_value_that_does_not_go_with_an_earlier_one_is_bad(between: int) -> None:
    def emit(filename: str, line: bytes) -> list[tuple[str, Any]]:
        return [("other", 1), ("k", line.decode())] if line == b"text" else [("k" if line else "between", 5)]

    job = BadJob(app_of("lines", emit, combine=ops.max()), {"f": b"\n1\n" + b"\n" * between + b"text\n7\n"})
    [record] = job.bad()
    assert (record.offset, record.data) == (3 + between, b"text")
    assert "ops.max" in record.why
    began_anew = between > 0  # the trial has forgotten the first value by then
    assert {value.phase for value in job.progress} == {"map", "write"} | ({"map 2"} if began_anew else set())
    assert job.pairs() == {"k": "5", "between": "5"}


def test_what_map_may_return_is_still_what_it_was() -> None:
    results: dict[bytes, Any] = {
        b"none": None,
        b"zip": zip(["a"], [1], strict=True),
        b"items": {"a": 1}.items(),
        b"lists": [["a", 1]],
        b"dict": {"a": 1},
        b"number": 5,
        b"no pairs": [1],
    }
    job = BadJob(app_of("lines", lambda filename, line: results[line]), {"f": b"\n".join(results)})
    [report] = job.maps()
    assert [record.data for record in report.bad] == [b"dict", b"number", b"no pairs"]
    assert [record.why[:20] for record in report.bad] == [
        "map returned a dict;",
        "map returned int (5)",
        "map emitted 1, which",
    ]
    assert report.records_in == 3


def test_sys_exit_is_the_records_fault_and_an_interrupt_is_nobodys() -> None:
    def leave(filename: str, line: bytes) -> list[tuple[str, int]]:
        if line == b"interrupt":
            raise KeyboardInterrupt
        raise SystemExit(3)

    [record] = BadJob(app_of("lines", leave), {"f": b"x"}).bad()
    assert record.why == "the application called sys.exit(3)"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(leave)


def _interrupted(function: Any) -> None:
    job = Job(app_of("lines", function), {"f": b"interrupt"})
    task = MapTask("j", "m-000000.1.1", 0, (job.pieces[0],), job.url, 1, 1 << 30, 5)
    run_map(job.app, task, job.progress.append, lambda root: job.store)


@pytest.mark.parametrize("cut", ["lines", "file"])
@pytest.mark.parametrize("collected_bytes_max", [0, 1 << 20])
def test_too_many_bad_records_are_fatal(cut: str, collected_bytes_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipping, "COLLECTED_BYTES_MAX", collected_bytes_max)
    files = {"f": b"0\n0\n7\n0\n"} if cut == "lines" else {"a": b"0", "b": b"0", "c": b"7", "f": b"0"}
    job = BadJob(app_of(cut), files)
    job.bad_records_max = 2
    failure = job.map(0, *job.pieces)
    assert isinstance(failure, Failure)
    assert failure.message == f"3 bad records, and --max-bad-records allows 2; the last one: {ZERO}"
    assert (failure.kind, failure.fatal, failure.input, failure.offset) == (
        "app",
        True,
        "f",
        6 if cut == "lines" else 0,
    )
    assert "1000 // number" in failure.traceback
    assert "mrfast/tasks" not in failure.traceback
    job.bad_records_max = 3
    assert len(_of(job.map(0, *job.pieces)).bad) == 3


def test_without_leave_the_first_one_fails_the_attempt() -> None:
    job = BadJob(app_of("lines"), {"f": b"1\n0\n"})
    job.bad_records_max = 0
    failure = job.map(0)
    assert isinstance(failure, Failure)
    assert (failure.message, failure.offset, failure.fatal) == (ZERO, 2, False)
    assert not job.at


@pytest.mark.parametrize("cut", ["lines", "jsonl", "csv"])
def test_records_that_killed_a_process_are_not_given_to_map(cut: str) -> None:
    def emit(filename: str, contents: Any) -> Iterator[tuple[str, int]]:
        assert contents not in (b"x", {"n": 0}, {"n": "0", "t": "b\nb"})
        yield "given", 1

    job = BadJob(app_of(cut, emit), {"f": CUTS[cut]})
    at, raw, _ = BAD[cut][2 if cut == "lines" else 0]
    job.skip = ((job.pieces[0].url, at), ("memory://other", 0))
    [record, *_] = job.bad()
    assert (record.offset, record.data, record.why) == (at, raw, "killed the process twice")


def test_every_record_is_announced_and_none_is_while_the_next_block_is_read() -> None:
    job = BadJob(app_of("lines"), {"a": b"1\n0\n", "b": b"22\n\n3", "c": b"1\n" * (3 << 19)})  # three blocks
    job.map(0, *job.pieces)
    none = (-1, 0)
    assert job.at[:7] == [(0, 0), (0, 2), none, (1, 0), (1, 3), none, (1, 4)]
    assert job.at[7:9] == [none, (2, 0)]
    assert [number for number, at in enumerate(job.at[8:]) if at == none] == [1 << 19, (3 << 19) + 1]


def test_what_a_spill_or_a_combine_does_is_no_records_fault() -> None:
    seen: list[list[tuple[int, int]]] = []

    def combine(key: str, values: Any) -> int:
        seen.append(job.at[-1:])
        if len(seen) > 3:
            raise ValueError("no")
        return sum(values)

    def emit(filename: str, line: bytes) -> list[tuple[str, int]]:
        return [(f"{line!r} {n}", 1) for n in range(40_000)]

    job = BadJob(app_of("lines", emit, combine=combine), {"f": b"1\n2\n3\n"}, memory_bytes=64)
    failure = job.map(0)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("ValueError: no (in combine, key ")
    assert not failure.fatal
    assert seen[0] == [(-1, 0)]


def test_a_csv_that_cannot_be_read_on_is_an_error() -> None:
    failure = BadJob(app_of("csv"), {"f": b'n\n1\n"x"y\n1\n'}).map(0)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.fatal) == ("input", True)
    assert "malformed CSV" in failure.message


# -- what is reported -------------------------------------------------------------------------------------------------


def test_a_report_fits_a_frame_and_keeps_every_address() -> None:
    line = b"x" * (80 << 10)
    job = BadJob(app_of("lines"), {"f": b"".join(line + b"\n" for _ in range(300))})
    job.bad_records_max = 1000
    [report] = job.maps()
    assert [record.offset for record in report.bad] == [n * (len(line) + 1) for n in range(300)]
    assert {record.length for record in report.bad} == {len(line)}
    sizes = [len(record.data) for record in report.bad]
    assert sizes[:100] == [(256 << 10) // 100] * 100
    assert not any(sizes[100:])
    assert max(len(record.why) for record in report.bad) <= skipping.WHY_CHARS_MAX
    assert len(orjson.dumps(encode(report_message("w", report)))) < FRAME_BYTES_MAX
    assert decode(MapReport, json.loads(orjson.dumps(encode(report)))) == report


def test_addresses_that_no_report_can_hold_are_an_error_that_says_so() -> None:
    job = BadJob(app_of("lines"), {"f": b"x\n" * 10_000})
    job.bad_records_max = 1_000_000
    failure = job.map(0)
    assert isinstance(failure, Failure)
    assert failure.fatal
    assert "more than a report can hold: ValueError: invalid lit" in failure.message


def test_a_large_index_leaves_less_room_for_data() -> None:
    job = BadJob(app_of("lines"), {"f": b"".join(b"x" * (70 << 10) + b"\n" for _ in range(10))})
    made = skipping.Skipping(MapTask("j", "m", 0, (job.pieces[0],), job.url, 1, 1, 10), lambda *at: None, None)
    made.begin()
    reader = made.reader(job.store, "in/f", job.pieces[0], job.app.cut)
    from mrfast.core import MapSink

    made.call(inverse, reader, 0, MapSink(1), Counters())
    sizes = [sum(len(record.data) for record in made.report(b"i" * size, {})) for size in (0, 600 << 10, 1 << 20)]
    assert sizes[0] == (256 << 10) // 10 * 10
    assert 0 < sizes[1] < sizes[0]
    assert sizes[2] == 0
    assert len(made.report(b"", {})) == 10


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


DEADLY = """
import os, signal, ctypes
input = {cut!r}
def map(filename, contents):
    if "die" in str(contents):
        {how}
    yield "k", 1
def reduce(key, values):
    return sum(values)
"""
TEXTS = {
    "lines": ("a\nb\ndie\nc\n", 4),
    "jsonl": ('{"a": 1}\n\n{"a": "die"}\n', 10),
    "csv": ('a,b\n1,2\n3,"d\ndie"\n', 8),
    "blocks": ("a\ndie\n", 0),
    "file": ("a die", 0),
}


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"])
@pytest.mark.parametrize("cut", TEXTS)
def test_a_death_names_the_record_and_the_next_attempt_passes_over_it(bench: Bench, cut: str, how: str) -> None:
    pool = bench.start(DEADLY.format(cut=cut, how=how))
    text, offset = TEXTS[cut]
    task = replace(bench.map_task(text), bad_records_max=1)
    pool.send(task)
    bench.next(Ready)
    failure = bench.next(Finished).report
    url = task.pieces[0].url
    assert (failure.kind, failure.input, failure.url, failure.offset) == ("died", "in.txt", url, offset)
    pool.send(replace(task, attempt="m-000000.e1.2", skip=((failure.url, failure.offset),)))
    bench.next(Ready)
    report = bench.next(Finished).report
    [record] = report.bad
    assert (record.offset, record.why) == (offset, "killed the process twice")
    assert b"die" in record.data


def test_a_death_outside_map_names_no_record(bench: Bench) -> None:
    pool = bench.start(DEADLY.format(cut="lines", how="pass") + "def combine(key, values): os._exit(1)\n")
    pool.send(replace(bench.map_task("die"), bad_records_max=1))
    bench.next(Ready)
    failure = bench.next(Finished).report
    assert (failure.kind, failure.input, failure.url, failure.offset) == ("died", "in.txt", "", None)


def test_an_address_is_read_whole_and_cleared_between_tasks() -> None:
    shared = SharedProgress()
    assert shared.record() is None
    shared.at(0, 0)
    assert shared.record() == (0, 0)
    shared.at(7, (1 << 63) + 5)
    assert shared.record() == (7, (1 << 63) + 5)
    shared.write(Progress("map", 1, 2, 3))
    assert shared.record() == (7, (1 << 63) + 5)
    shared.clear()
    assert shared.record() is None
    shared.at(1, 2)
    shared.at(-1, 0)
    assert shared.record() is None
    shared.close()


# -- progress that moves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad_records_max", [0, 5])
def test_progress_moves_while_one_call_of_map_takes_long(monkeypatch: pytest.MonkeyPatch, bad_records_max: int) -> None:
    monkeypatch.setattr(pulse, "PULSE_S", 0.001)
    moved = threading.Event()

    def emit(filename: str, contents: bytes) -> Iterator[tuple[str, int]]:
        yield "a", 1
        yield "b", 1
        assert moved.wait(30)  # the call ends when what it has emitted was seen
        yield "c", 1

    def progress(value: Progress) -> None:
        seen.append(value)
        if value.records == 2:
            moved.set()

    seen: list[Progress] = []
    job = Job(App.from_functions(map=emit, reduce=total), {"f": b"x"})
    task = MapTask("j", "m-000000.1.1", 0, (job.pieces[0],), job.url, 1, 1 << 30, bad_records_max)
    report = run_map(job.app, task, progress, lambda root: job.store)
    assert isinstance(report, MapReport)
    assert [value.records for value in seen] == sorted(value.records for value in seen)
    assert seen[-1] == Progress("write", 1, 1, 3)
    assert "mrfast-pulse" not in Counter(thread.name for thread in threading.enumerate())
