"""Map and reduce attempts over a memory store give the right parts, however the input is cut."""

from __future__ import annotations

import gzip
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import xxhash
from memory_job import Job, example

from mrfast import core, ops
from mrfast.app import App
from mrfast.index import SegmentIndex, TableDigest
from mrfast.model import MapReport, ReduceReport, inter_key
from mrfast.storage import base
from mrfast.tasks import pulse

BOOKS = {
    "a.txt": b"the cat\nand the dog\n\nthe end",
    "b c%\nü.txt": "über the\nzwölf Ärzte the\n".encode(),
    "empty.txt": b"",
}
LOG = b"".join(
    b'1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "%s /p%d HTTP/1.0" %d %s\n'
    % (random.Random(n).choice([b"GET", b"POST"]), n % 7, 200 + n % 3 * 150, b"-" if n % 11 == 0 else b"%d" % (n * 100))
    for n in range(100)
)


def total(key: Any, values: Any) -> int:
    return sum(values)


# -- the examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wc", "wc_python"])
def test_word_count_is_the_same_however_it_is_cut(name: str) -> None:
    want = Counter(re.findall(r"[^\W\d_]+", b" ".join(BOOKS.values()).decode()))
    whole = Job(example("wc"), BOOKS).parts()
    for split_bytes in (1, 2, 5, 9, 1000):
        job = Job(example(name), BOOKS, split_bytes=split_bytes)
        assert job.parts() == whole
        assert {key: int(value) for key, value in job.pairs().items()} == want


def test_indexer() -> None:
    job = Job(example("indexer"), {"x": b"one two", "y": b"two two"})
    assert job.pairs() == {"one": "1 x", "two": "2 x,y"}


def test_parts_are_sorted_by_key_and_exist_when_they_are_empty() -> None:
    parts = Job(example("wc"), {"f": "b a ü Z c".encode()}, reduces=50).parts()
    assert len(parts) == 50
    assert b"" in parts
    [one] = Job(example("wc"), {"f": "b a ü Z c".encode()}, reduces=1).parts()
    assert one == "Z 1\na 1\nb 1\nc 1\nü 1\n".encode()


@pytest.mark.parametrize("split_bytes", [1, 50, 1000, 1 << 20])
def test_log_examples(split_bytes: int) -> None:
    urls: Counter[str] = Counter()
    sizes: dict[str, list[int]] = {}
    for line in LOG.decode().splitlines():
        columns = line.split()
        urls[columns[6]] += 0 if columns[9] == "-" else int(columns[9])
        if columns[9] != "-":
            sizes.setdefault(columns[8], []).append(int(columns[9]))
    got = Job(example("url_bytes"), {"log": LOG}, split_bytes=split_bytes).pairs()
    assert {key: int(value) for key, value in got.items()} == urls
    got = Job(example("mean_size"), {"log": LOG}, split_bytes=split_bytes).pairs()
    assert {key: float(value) for key, value in got.items()} == {k: sum(v) / len(v) for k, v in sizes.items()}


def test_sort_of_lines_and_of_records() -> None:
    lines = [b"%05d" % random.Random(n).randrange(10**5) for n in range(200)]
    [part] = Job(example("sort"), {"f": b"\n".join(lines)}, reduces=1, split_bytes=100).parts()
    assert part == b"".join(line + b"\n" for line in sorted(lines))
    records = App.from_functions(map=ops.records(size=6, key=(2, 6)), reduce=ops.identity())
    data = b"".join(b"%06d" % random.Random(n).randrange(10**6) for n in range(200))
    cut = [data[at : at + 6] for at in range(0, len(data), 6)]
    cut.sort(key=lambda record: record[2:])
    want = b"".join(cut)
    for split_bytes in (7, 100, 5000):
        [part] = Job(records, {"f": data}, reduces=1, split_bytes=split_bytes).parts()
        assert part == want
    in_python = App.from_functions(
        map=ops.records(size=6, key=(2, 6)), reduce=lambda key, values: ((key, v) for v in values)
    )
    assert in_python.output == "raw"
    assert Job(in_python, {"f": data}, reduces=1, split_bytes=100).parts() == [want]


# -- grep -------------------------------------------------------------------------------------------------------------


def test_grep_by_line_and_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATTERN", r"POST .* 5\d\d")
    lines = [line for line in LOG.splitlines() if re.search(rb"POST .* 5\d\d", line)]
    assert lines
    for split_bytes in (10, 1000, 1 << 20):
        [part] = Job(example("grep"), {"log": LOG}, reduces=1, split_bytes=split_bytes).parts()
        assert part == b"".join(b"log " + line.replace(b"\\", b"\\\\") + b"\n" for line in lines)
        count = App.from_functions(map=ops.grep(rb"POST .* 5\d\d", by="count"), reduce=ops.sum())
        assert Job(count, {"log": LOG, "none": b"x\n"}, split_bytes=split_bytes).pairs() == {"log": str(len(lines))}


# -- Python maps ------------------------------------------------------------------------------------------------------


def test_every_input_kind_reaches_a_python_map() -> None:
    calls: list[Any] = []

    def record(filename: str, contents: Any) -> None:
        calls.append((filename, contents))

    def seen(kind: str, data: bytes) -> list[Any]:
        calls.clear()
        Job(App.from_functions(map=record, reduce=total, input=kind), {"f": data}).maps()
        return calls

    assert seen("file", b"a\nb") == [("f", b"a\nb")]
    assert seen("file", b"") == [("f", b"")]
    assert seen("blocks", b"a\nb") == [("f", b"a\nb")]
    assert seen("lines", b"a\nb") == [("f", b"a"), ("f", b"b")]
    assert seen("jsonl", b'{"x":1}\n') == [("f", {"x": 1})]
    assert seen("csv", b"x,y\n1,2\n") == [("f", {"x": "1", "y": "2"})]


def test_compressed_input_gives_the_same_parts() -> None:
    data = b"one two\ntwo three\n" * 1000
    plain, packed = (Job(example("wc"), {name: body}) for name, body in (("f", data), ("f.gz", gzip.compress(data))))
    assert plain.parts() == packed.parts()


def test_distinct_words_come_once_a_file() -> None:
    app = App.from_functions(map=ops.words(letters="ascii", value="filename", distinct=True), reduce=ops.index())
    assert Job(app, {"x": b"a b a", "y": b"a"}, split_bytes=1).pairs() == {"a": "2 x,y", "b": "1 x"}


def test_several_pieces_make_one_task() -> None:
    job = Job(example("wc"), {"x": b"a b", "y": b"b c"}, reduces=1)
    report = job.map(0, *job.pieces)
    assert isinstance(report, MapReport)
    assert (report.records_in, report.records_out, report.bytes_in) == (4, 3, 6)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 64])
def test_a_python_combine_runs_any_number_of_times(memory_bytes: int) -> None:
    calls: Counter[str] = Counter()

    def combine(key: str, values: Any) -> Iterator[tuple[str, int]]:
        calls[key] += 1
        yield key, sum(values)

    words = ops.words(letters="ascii")
    job = Job(App.from_functions(map=words, reduce=total, combine=combine), BOOKS, memory_bytes=memory_bytes, reduces=2)
    [report, *_] = job.maps()
    assert calls["the"] == 2
    assert (report.records_in, report.records_out) == (7, 5)
    assert job.parts() == Job(App.from_functions(map=words, reduce=total), BOOKS, reduces=2).parts()


def test_a_python_combine_may_give_nothing_or_one_value() -> None:
    def combine(key: str, values: Any) -> int | None:
        return None if key == "the" else sum(values)

    app = App.from_functions(map=ops.words(letters="ascii"), reduce=total, combine=combine)
    assert Job(app, {"f": b"the cat the cat"}).pairs() == {"cat": "2"}


def test_the_map_object_and_its_report_agree() -> None:
    job = Job(example("wc"), BOOKS)
    [report, *_] = job.maps()
    data = base.read(job.store, inter_key("j", report.attempt))
    assert (len(data), xxhash.xxh3_64_hexdigest(data)) == (report.size, report.xxh3)
    assert core.read_index(data, len(data)).pack() == report.index
    assert job.progress[-1].phase == "write"


def test_progress_is_what_is_mapped_and_not_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup attempt is for whoever is far from the end, though all of its input has been read."""
    monkeypatch.setattr(pulse, "PULSE_S", 0.001)
    beaten = threading.Event()
    said: list[list[int]] = []

    def slowly(path: str, line: bytes) -> list[tuple[str, int]]:
        for _ in range(2):  # one that began before this line did may have seen the one before
            beaten.clear()
            assert beaten.wait(10)
        said.append([job.progress[-1].bytes_done, job.progress[-1].bytes_total])
        return [(line.decode(), 1)]

    class Told(list[Any]):
        def append(self, progress: Any) -> None:
            super().append(progress)
            beaten.set()

    job = Job(App.from_functions(map=slowly, reduce=total, input="lines"), {"a": b"1\n2\n", "b": b"3\n4\n"})
    job.progress = Told()
    job.map(0, *job.pieces)
    assert said == [[0, 8], [2, 8], [4, 8], [6, 8]]
    assert job.progress[-1].bytes_done == 8


def test_skipped_lines_are_counted() -> None:
    app = App.from_functions(map=ops.fields(sep=",", key=0, value=1, bad="skip"), reduce=ops.sum())
    [report] = Job(app, {"f": b"a,1\nb\nc,x\n"}).maps()
    assert report.counters == {"skipped": 2}


# -- reduce -----------------------------------------------------------------------------------------------------------


def test_what_a_reduce_may_return() -> None:
    def emit(filename: str, contents: bytes) -> Iterator[tuple[str, Any]]:
        yield from (("none", 1), ("value", 2), ("pairs", 3), ("pairs", 4), ("json", 5))

    def reduce(key: str, values: Any) -> Any:
        if key == "none":
            return None
        if key == "pairs":
            return ((f"pair {value}", value) for value in values)
        return list(values) if key == "json" else next(values)

    [part] = Job(App.from_functions(map=emit, reduce=reduce), {"f": b""}, reduces=1).parts()
    assert part == b"json [5]\npair\\s3 3\npair\\s4 4\nvalue 2\n"


@pytest.mark.parametrize("output", ["text", "tsv", "raw", "jsonl"])
@pytest.mark.parametrize(
    "reduce", [ops.sum(), ops.mean(), ops.top(2), ops.identity(), ops.max()], ids=lambda op: op.kind
)
def test_native_reduces_write_what_their_twins_write(output: str, reduce: Any) -> None:
    def emit(filename: str, contents: bytes) -> Iterator[tuple[str, Any]]:
        for n, value in enumerate([3, 1.5, -2, 10**30, 0.1, 7]):
            yield "ab"[n % 2], value

    def twin(key: str, values: Any) -> Any:
        return ((key, value) for value in core.reduce_values(reduce, key, list(values)))

    files = {"x": b"", "y": b""}
    native = Job(App.from_functions(map=emit, reduce=reduce, output=output), files).parts()
    assert native == Job(App.from_functions(map=emit, reduce=twin, output=output), files).parts()


def test_a_native_combine_feeds_a_python_reduce() -> None:
    def popular(word: str, counts: Any) -> int | None:
        count = sum(counts)
        return count if count > 1 else None

    app = App.from_functions(map=ops.words(letters="ascii"), reduce=popular, combine=ops.sum())
    assert Job(app, {"x": b"a b a", "y": b"b c"}).pairs() == {"a": "2", "b": "2"}


def test_the_table_digest_is_of_every_map() -> None:
    job = Job(example("wc"), BOOKS)
    reports = job.maps()
    table = TableDigest()
    for number, report in enumerate(reports):
        table.add(number, SegmentIndex.unpack(report.index).digest())
    reduced = job.reduce(reports, 0)
    assert isinstance(reduced, ReduceReport)
    assert reduced.table == table.hex()
