"""Where an attempt's time goes, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from memory_job import Job

from mrfast import ops
from mrfast.app import App
from mrfast.control.recovery import map_record, reduce_record
from mrfast.control.schema import decode, encode
from mrfast.model import MapReport, ReduceReport
from mrfast.natively import native_op
from mrfast.storage import memory
from mrfast.tasks import mapper, reducer
from mrfast.tasks.laps import COMPUTE, WAIT, WRITE, Laps


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_time_is_in_one_part_and_what_nothing_is_said_of_is_compute() -> None:
    clock = Clock()
    laps = Laps(clock)
    clock.pass_by(1)
    with laps.within(WAIT):
        clock.pass_by(2)
        with laps.within("spill"):
            clock.pass_by(4)
        clock.pass_by(8)
    clock.pass_by(16)
    assert laps.seconds() == {"compute": 17, "wait": 10, "spill": 4, "write": 0}
    clock.pass_by(32)
    assert laps.seconds()["compute"] == 49


def test_making_items_is_of_a_part_and_using_them_is_not() -> None:
    clock = Clock()
    laps = Laps(clock)

    def made() -> Iterator[int]:
        for number in range(3):
            clock.pass_by(1)
            yield number
        clock.pass_by(0.5)

    with laps.within(WRITE):
        for _ in laps.each(COMPUTE, made()):
            clock.pass_by(10)
    assert laps.seconds() == {"compute": 3.5, "write": 30, "wait": 0}


def test_who_stops_early_goes_on_in_his_own_part() -> None:
    clock = Clock()
    laps = Laps(clock)
    for _ in laps.each(WAIT, iter([1, 2])):
        break
    clock.pass_by(5)
    assert laps.seconds() == {"compute": 5, "wait": 0, "write": 0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One that a read of the store moves by 1 s, and a put by 100 s for each of its chunks."""
    clock = Clock()
    for module in (mapper, reducer):
        monkeypatch.setattr(module, "Laps", lambda: Laps(clock))
    read_into, put = memory.MemoryStore.read_into, memory.MemoryStore.put

    def slow_read(self: Any, *args: Any, **options: Any) -> int:
        clock.pass_by(1)
        return read_into(self, *args, **options)

    def slow_put(self: Any, key: str, chunks: Any, **options: Any) -> Any:
        def each() -> Iterator[Any]:
            for chunk in chunks:
                clock.pass_by(100)
                yield chunk

        return put(self, key, chunks if isinstance(chunks, (bytes, bytearray)) else each(), **options)

    monkeypatch.setattr(memory.MemoryStore, "read_into", slow_read)
    monkeypatch.setattr(memory.MemoryStore, "put", slow_put)
    return clock


@pytest.mark.parametrize("kind", ["file", "blocks", "lines", "jsonl", "csv"])
def test_a_map_waits_for_its_input_computes_and_writes(clock: Clock, kind: str) -> None:
    def map(filename: str, contents: Any) -> Iterator[tuple[str, int]]:
        clock.pass_by(10_000)
        yield "a", 1

    [report] = Job(App.from_functions(map=map, reduce=ops.sum(), input=kind), {"f": b'{"a":1}\n'}, reduces=1).maps()
    calls = {"csv": 0}.get(kind, 1)  # a header alone
    assert report.seconds["compute"] == calls * 10_000
    assert report.seconds["wait"] == 1
    assert report.seconds["write"] == report.seconds["write"] // 100 * 100 > 0


def test_a_reduce_waits_for_segments_computes_and_writes(clock: Clock) -> None:
    def reduce(key: str, values: Any) -> int:
        clock.pass_by(10_000)
        return sum(values)

    job = Job(App.from_functions(map=ops.words(letters="ascii"), reduce=reduce), {"a": b"x y", "b": b"x"}, reduces=1)
    report = job.reduce(job.maps(), 0)
    assert isinstance(report, ReduceReport)
    assert report.seconds == {"wait": 2, "compute": 20_000, "write": 100}


def test_seconds_cross_the_wire_and_stay_out_of_the_journal_and_of_what_makes_reports_equal() -> None:
    map_report = MapReport(
        "m-000000.e1.1", 1, "0" * 16, b"", 1, 1, 1, seconds={"wait": 0.5, "compute": 1.0, "write": 0.0}
    )
    reduce_report = ReduceReport("r-00000.e1.1", 1, "0" * 16, 1, 1, "0" * 16, seconds={"maps": 2.5})
    for report, record in (
        (map_report, map_record(map_report, "d", 1)),
        (reduce_report, reduce_record(reduce_report, 1)),
    ):
        crossed = decode(type(report), encode(report))
        assert crossed.seconds == report.seconds
        again = decode(type(report), record["report"])
        assert again == crossed and not again.seconds


# -- which op could do it ---------------------------------------------------------------------------------------------


def words_of_a_text(filename: str, contents: bytes) -> Any:
    return ((word, 1) for word in contents.split())


def words_by_regex(filename: str, contents: bytes) -> Any:
    import re

    for word in re.findall(rb"\w+", contents):
        yield word, 1


def a_column(filename: str, line: bytes) -> Any:
    yield line.split(b"\t")[3], 1


def nothing_known(filename: str, line: bytes) -> Any:
    yield line[:3], filename.upper()


@pytest.mark.parametrize(
    ("role", "function", "op"),
    [
        ("map", words_of_a_text, 'ops.words(letters="space")'),
        ("map", words_by_regex, 'ops.words(letters="unicode")'),
        ("map", a_column, r"ops.fields(sep='\t', key=...)"),
        ("map", nothing_known, ""),
        ("map", len, ""),
        ("reduce", lambda key, values: sum(values), "ops.sum()"),
        ("combine", lambda key, values: max(values), "ops.max()"),
        ("reduce", lambda key, values: f"{len(values)} {','.join(sorted(values))}", "ops.index()"),
        ("reduce", lambda key, values: key, ""),
    ],
)
def test_the_op_that_may_do_it_is_guessed_from_the_code(role: str, function: Any, op: str) -> None:
    assert native_op(role, function) == op


def test_a_long_function_is_not_taken_for_an_op() -> None:
    names: dict[str, Any] = {}
    exec("def map(f, c):\n" + "    c = c.split()\n" * 200 + "    yield c, 1\n", names)
    assert native_op("map", names["map"]) == ""


def test_an_app_says_which_of_its_functions_are_python() -> None:
    info = App.from_functions(map=words_of_a_text, reduce=ops.sum()).info()
    assert info.python == {"map": 'ops.words(letters="space")'}
    assert App.from_functions(map=ops.words(letters="ascii"), reduce=ops.sum()).info().python == {}
