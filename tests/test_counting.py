"""mrfast.count(): once for each accepted attempt, bounded, harmless outside a task."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_job import Job
from test_bad_records import BadJob
from test_cli import Shell

import mrfast
from mrfast import counting
from mrfast.app import App
from mrfast.control import messages, wire
from mrfast.control.outputs import Outputs
from mrfast.errors import AppError
from mrfast.index import SegmentIndex
from mrfast.model import FRAME_BYTES_MAX, Failure, MapReport, ReduceReport


def words(filename: str, line: bytes) -> Iterator[tuple[str, int]]:
    mrfast.count("lines")
    for word in line.decode().split():
        mrfast.count("letters", len(word))
        yield word, 1


def total(key: str, values: Any) -> int:
    mrfast.count("keys")
    return sum(values)


def combined(key: str, values: Any) -> int:
    mrfast.count("combined")
    return sum(values)


LINES = App.from_functions(map=words, reduce=total, combine=combined, input="lines")


def test_map_combine_and_reduce_count() -> None:
    job = Job(LINES, {"a": b"one two\ntwo\n"}, reduces=1)
    [report] = job.maps()
    assert report.counters == {"combined": 2, "letters": 9, "lines": 2}
    part = job.reduce([report], 0)
    assert isinstance(part, ReduceReport)
    assert part.counters == {"keys": 2}
    assert job.maps() == [report]  # a second attempt begins at zero


def test_a_job_counts_each_accepted_attempt_once(tmp_path: Path) -> None:
    """The first attempt of a map and of a reduce dies after it has counted; another one is accepted."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"one two\ntwo\n")

    def die_once(what: str) -> None:
        try:
            (tmp_path / what).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def map(filename: str, line: bytes) -> Iterator[tuple[str, int]]:
        yield from words(filename, line)
        if filename.endswith("b"):
            die_once("map-died")

    def reduce(key: str, values: Any) -> int:
        found = total(key, values)
        die_once("reduce-died")
        return found

    inputs = [tmp_path / name for name in "abc"]
    result = mrfast.run(map=map, reduce=reduce, input="lines", inputs=inputs, store=tmp_path / "store", reduces=2)
    assert (tmp_path / "map-died").exists()
    assert (tmp_path / "reduce-died").exists()
    assert result.counters == {"keys": 2, "letters": 27, "lines": 6}
    success = json.loads((Path(result.output_url) / "_SUCCESS").read_bytes())
    assert success["counters"] == result.counters


def test_an_output_that_is_replaced_or_lost_takes_its_counts_along() -> None:
    [report] = Job(LINES, {"a": b"one two\n"}).maps()
    outputs, index = Outputs(), SegmentIndex.unpack(report.index)
    outputs.add(0, report, index, "")
    outputs.add(0, report, index, "")
    assert outputs.counters["lines"] == 1
    outputs.remove(0)
    assert not any(outputs.counters.values())


def test_a_skipped_record_takes_its_counts_along() -> None:
    def inverse(filename: str, line: bytes) -> Iterator[tuple[str, int]]:
        mrfast.count("seen")
        yield "inverse", 10 // int(line)

    app = App.from_functions(map=inverse, reduce=total, input="lines")
    report = BadJob(app, {"a": b"1\n0\n2\n0\n"}).map(0)
    assert isinstance(report, MapReport)
    assert len(report.bad) == 2
    assert report.counters == {"seen": 2}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("n" * 201,), "200 bytes"),
        (("é" * 101,), "200 bytes"),
        (("",), "printable"),
        (("two\nlines",), "printable"),
        (("\udc80",), "printable"),
        ((b"bytes",), "is a str"),
        (("n", 1.5), "only ints"),
        (("n", True), "only ints"),
    ],
)
def test_what_cannot_be_counted_is_an_app_error_everywhere(arguments: tuple[Any, ...], why: str) -> None:
    with pytest.raises(AppError, match=why):
        mrfast.count(*arguments)

    def bad(filename: str, line: bytes) -> None:
        mrfast.count(*arguments)

    failure = Job(App.from_functions(map=bad, reduce=total, input="lines"), {"a": b"x\n"}).map(0)
    assert isinstance(failure, Failure)
    assert why in failure.message


def test_outside_a_task_nothing_is_counted() -> None:
    mrfast.count("bad lines")
    assert list(words("f", b"a b")) == [("a", 1), ("b", 1)]
    with counting.counting(counting.Counters()) as counters:
        mrfast.count("lines", 2)
    mrfast.count("lines")
    assert counters.total() == {"lines": 2}


def test_names_and_numbers_are_bounded() -> None:
    with counting.counting(counting.Counters()) as counters:
        for number in range(counting.NAMES_MAX):
            mrfast.count(f"name {number}")
            counters.settle()
        mrfast.count("name 0")
        with pytest.raises(AppError, match="1,000 names"):
            mrfast.count("one more")
        mrfast.count("name 1", counting.COUNT_MAX - 1)
        with pytest.raises(AppError, match="in one task"):
            mrfast.count("name 1")
        mrfast.count("name 2", -5)
    found = counters.total()
    assert (found["name 0"], found["name 1"], found["name 2"]) == (2, counting.COUNT_MAX, -4)


def test_a_report_with_the_most_counters_fits_in_a_frame() -> None:
    counters = {('"' * 196 + f"{n:04}"): -counting.COUNT_MAX for n in range(counting.NAMES_MAX)}
    for index in (b"", b"i" * messages.INDEX_BYTES_MAX, b"i" * (messages.INDEX_BYTES_MAX // 4)):
        report = MapReport("m-000000.1.1", 1, "0" * 16, index, 1, 1, 1, counters)
        assert len(wire.dumps(messages.report_message("w", report))) < FRAME_BYTES_MAX


def test_the_summary_and_the_json_say_what_was_counted(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    app = shell.app(
        "import mrfast\nmrfast.count('loads')\n"
        "def map(filename, contents):\n    mrfast.count('bad lines', 1234)\n"
        "def reduce(key, values): return 1\n"
    )
    done = shell("run", app, "in.txt", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counters"] == {"bad lines": 1234}
    assert "mrfast: bad lines: 1,234\n" in done.stderr.decode()
