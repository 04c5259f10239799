"""What goes wrong in an attempt comes back as a Failure: whose fault, where, and whether it counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from memory_job import Job, Pages, example

from mrfast import ops
from mrfast.app import App
from mrfast.errors import PreconditionFailed
from mrfast.index import SegmentIndex
from mrfast.model import Failure, inter_key
from mrfast.storage import base

BOOKS = {"a.txt": b"the cat\nand the dog\n", "b.txt": b"the end", "empty.txt": b""}


def failed(report: Any) -> Failure:
    assert isinstance(report, Failure), report
    return report


def nothing(filename: str, contents: Any) -> list[Any]:
    return []


def total(key: Any, values: Any) -> int:
    return sum(values)


def test_an_exception_in_map_has_the_input_the_offset_and_the_frames_of_the_user() -> None:
    def broken(filename: str, line: bytes) -> Iterator[tuple[str, int]]:
        yield line.decode(), int(line)

    app = App.from_functions(map=broken, reduce=total, input="lines")
    failure = failed(Job(app, {"f.txt": b"1\n22\nx\n"}).map(0))
    assert (failure.kind, failure.input, failure.offset) == ("app", "f.txt", 5)
    assert failure.message.startswith("ValueError: invalid literal for int()")
    assert "line.decode(), int(line)" in failure.traceback
    assert "mrfast/tasks" not in failure.traceback
    assert failure.counted
    assert not failure.fatal


@pytest.mark.parametrize("line", [b"to be", "to be"])
def test_who_takes_bytes_for_text_is_told_so(line: bytes | str) -> None:
    def map(filename: str, contents: Any) -> Iterator[tuple[str, int]]:
        yield re.findall("[a-z]+", line)[2 if isinstance(line, str) else 0], 1  # type: ignore[call-overload]

    failure = failed(Job(App.from_functions(map=map, reduce=total, input="lines"), BOOKS).map(0))
    assert ("contents.decode() is their text" in failure.message) is isinstance(line, bytes), failure.message


def test_an_exception_in_a_whole_file_has_no_offset() -> None:
    failure = failed(Job(App.from_functions(map=lambda f, c: [("k", 1 // 0)], reduce=total), {"f": b"x"}).map(0))
    assert (failure.input, failure.offset, failure.fatal) == ("f", None, False)


def test_exit_is_a_failure_and_an_interrupt_is_not() -> None:
    def leave(filename: str, contents: bytes) -> None:
        raise SystemExit(3)

    def interrupt(filename: str, contents: bytes) -> None:
        raise KeyboardInterrupt

    failure = failed(Job(App.from_functions(map=leave, reduce=total), {"f": b""}).map(0))
    assert (failure.kind, failure.message) == ("app", "the application called sys.exit(3)")
    with pytest.raises(KeyboardInterrupt):
        Job(App.from_functions(map=interrupt, reduce=total), {"f": b""}).map(0)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([("k", {1, 2})], "type set"),
        ([(1, 2)], "a key of type int"),
        ([("a", 1), (b"b", 1)], "bytes"),
        ({"a": 1}, "return dict.items()"),
        ([1], "no (key, value) pair"),
        (5, "yield or return (key, value) pairs"),
    ],
)
def test_records_that_cannot_be_are_fatal(result: Any, message: str) -> None:
    failure = failed(Job(App.from_functions(map=lambda f, c: result, reduce=total), {"f": b""}).map(0))
    assert failure.fatal
    assert message in failure.message


def test_bad_input_is_fatal() -> None:
    app = App.from_functions(map=nothing, reduce=total, input="jsonl")
    failure = failed(Job(app, {"f": b"{}\n{\n"}).map(0))
    assert (failure.kind, failure.fatal) == ("input", True)
    assert "f: offset 3: malformed JSON" in failure.message
    app = App.from_functions(map=ops.fields(sep=",", key=0, value=1), reduce=ops.sum())
    job = Job(app, {"f": b"a,1\nb,2\nc\n"}, split_bytes=6)
    failure = failed(job.map(1))
    assert failure.fatal
    assert "byte 8" in failure.message


def test_an_object_over_the_memory_is_refused_with_advice() -> None:
    app = App.from_functions(map=nothing, reduce=total)
    failure = failed(Job(app, {"f": b"x" * 100}, memory_bytes=99).map(0))
    assert failure.fatal
    assert 'set input = "blocks"' in failure.message


def test_an_exception_in_reduce_names_the_key() -> None:
    def broken(key: str, values: Any) -> None:
        raise ValueError("no")

    app = App.from_functions(map=ops.words(letters="ascii"), reduce=broken)
    job = Job(app, {"f": b"word"}, reduces=1)
    failure = failed(job.reduce(job.maps(), 0))
    assert (failure.kind, failure.message) == ("app", "ValueError: no (in reduce, key 'word')")
    assert 'raise ValueError("no")' in failure.traceback
    assert not failure.fatal


def test_an_exception_in_combine_names_the_key() -> None:
    def broken(key: str, values: Any) -> None:
        raise ValueError("no")

    app = App.from_functions(map=ops.words(letters="ascii"), reduce=total, combine=broken)
    assert "(in combine, key 'word')" in failed(Job(app, {"f": b"word"}).map(0)).message


@pytest.mark.parametrize("result", [{1, 2}, (x for x in [1]), (x for x in [(1, 2)])])
def test_what_a_part_cannot_hold_is_fatal(result: Any) -> None:
    app = App.from_functions(map=ops.words(letters="ascii"), reduce=lambda key, values: result)
    job = Job(app, {"f": b"word"}, reduces=1)
    failure = failed(job.reduce(job.maps(), 0))
    assert failure.fatal
    assert "key 'word'" in failure.message


def test_str_and_bytes_keys_do_not_mix_across_maps() -> None:
    def emit(filename: str, contents: bytes) -> list[tuple[Any, int]]:
        return [("k" if filename == "x" else b"k", 1)]

    job = Job(App.from_functions(map=emit, reduce=total), {"x": b"", "y": b""}, reduces=1)
    failure = failed(job.reduce(job.maps(), 0))
    assert failure.fatal
    assert "map 1 emitted bytes keys" in failure.message


@pytest.mark.parametrize("damage", ["missing", "flipped", "short"])
def test_a_damaged_map_object_names_the_map(damage: str) -> None:
    job = Job(example("wc"), BOOKS, reduces=1)
    reports = job.maps()
    key = inter_key("j", reports[1].attempt)
    data = bytearray(base.read(job.store, key))
    offset = SegmentIndex.unpack(reports[1].index).segment(0)[0]
    if damage == "missing":
        job.store.delete(key)
    elif damage == "flipped":
        data[offset + 3] ^= 1
        job.store.put(key, data)
    else:
        job.store.put(key, data[: offset + 5])
    source = Pages(list(job.segments(reports, 0)))
    failure = failed(job.reduce(reports, 0, source))
    assert (failure.kind, failure.map_index, failure.input) == ("corrupt", 1, reports[1].attempt)
    assert failure.counted  # it was announced again and again: nobody else finds a fault with it
    assert [segment.attempt for segment, _ in source.told] == [reports[1].attempt] * 2
    assert not failure.fatal


def test_a_store_that_fails_is_no_fault_of_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(example("wc"), BOOKS)

    def put(self: Any, key: str, chunks: Any, *, durable: bool = False) -> None:
        raise PreconditionFailed("no")

    monkeypatch.setattr(type(job.store), "put", put)
    failure = failed(job.map(0))
    assert (failure.kind, failure.fatal, failure.counted) == ("store", False, False)
