"""One bench a kernel: equal to its slow twin on a slice first, then timed; MB/s of one core in extra_info."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import limit
import orjson
import pytest
import reference

import mrfast
from mrfast import core, ops
from mrfast.tasks.automaton import automaton
from mrfast.tasks.grep import Matcher

SLICE_BYTES = 200_000
ROUNDS = 3
PARTITIONS = 10
BLOCK_BYTES = 1 << 20
FEED = Path(__file__).with_name("feed.py")
Corpus = Callable[[str], Path]

# name: corpus, source, combine, reduce, output
JOBS: dict[str, tuple[str, Any, Any, Any, str]] = {
    "words-english": ("english", ops.words(letters="unicode"), ops.sum(), ops.sum(), "text"),
    "words-zipf": ("zipf", ops.words(letters="unicode"), ops.sum(), ops.sum(), "text"),
    "index-english": (
        "english",
        ops.words(letters="unicode", value="filename", distinct=True),
        ops.index(),
        ops.index(),
        "text",
    ),
    "index-zipf": (
        "zipf",
        ops.words(letters="unicode", value="filename", distinct=True),
        ops.index(),
        ops.index(),
        "text",
    ),
    "fields": ("access", ops.fields(sep=" ", key=(4, 1), value=6), ops.sum(), ops.sum(), "text"),
    "lines": ("access", ops.lines(), None, ops.identity(), "raw"),
    "records": ("records", ops.records(size=100, key=(0, 10)), None, ops.identity(), "raw"),
}
COUNTED = ("words-english", "words-zipf", "fields")


@pytest.fixture
def timed(benchmark: Any) -> Callable[..., None]:
    """Times a function that takes what `setup` gives, and notes the throughput of the best round."""

    def run(function: Callable[..., Any], size: int, setup: Callable[[], Any] | None = None) -> None:
        arguments = None if setup is None else lambda: ((setup(),), {})
        benchmark.pedantic(function, setup=arguments, rounds=ROUNDS)
        if not benchmark.disabled:
            benchmark.extra_info["MB/s"] = round(size / benchmark.stats.stats.min / 1e6, 1)

    return run


def fed(data: bytes, source: Any, combine: Any) -> core.MapSink:
    """A map task's sink after one object."""
    sink = core.MapSink(PARTITIONS, source=source, combine=combine)
    sink.begin("bench")
    for at in range(0, len(data), BLOCK_BYTES):
        sink.feed(memoryview(data)[at : at + BLOCK_BYTES])
    sink.end()
    return sink


def groupers(drained: core.Drained, reduce: Any) -> list[core.Grouper]:
    """A Grouper for each partition, with its segment in it."""
    out, at, body = [], 0, memoryview(drained.body)
    for length, count, checksum in zip(drained.lengths, drained.counts, drained.checksums, strict=True):
        out.append(core.Grouper(key_kind=drained.key_kind, reduce=reduce))
        out[-1].add(body[at : at + length], order=0, records=count, xxh3=checksum)
        at += length
    return out


def written(drained: core.Drained, reduce: Any, output: str, terminator: bytes) -> list[bytes]:
    """What the reduce tasks write: their segments checked, sorted, grouped, reduced."""
    return [bytes(group.write(output, terminator=terminator)) for group in groupers(drained, reduce)]


def prepared(name: str, corpus: Corpus) -> tuple[bytes, Any, Any, Any, str, bytes]:
    """Data, source, combine, reduce, output, terminator of a job that gives the slow twin's parts of a slice."""
    where, source, combine, reduce, output = JOBS[name]
    data, size = corpus(where).read_bytes(), getattr(source, "size", 0)
    part, end = data[: data.index(b"\n", min(SLICE_BYTES, len(data) - 1)) + 1], b"" if size else b"\n"
    slow = reference.run_reference(source, reduce, [("bench", part)], PARTITIONS, output=output, record_bytes=size)
    assert written(fed(part, source, combine).drain(), reduce, output, end) == slow
    return data, source, combine, reduce, output, end


def test_xxh3(timed: Callable[..., None], corpus: Corpus) -> None:
    data = corpus("records").read_bytes()
    assert core.xxh3_64(data[:SLICE_BYTES]) == reference.xxh3_64(data[:SLICE_BYTES])
    timed(lambda: core.xxh3_64(data), len(data))


@pytest.mark.parametrize("letters", ["unicode", "ascii", "space"])
def test_tokens(timed: Callable[..., None], corpus: Corpus, letters: str) -> None:
    data = corpus("english").read_bytes()
    part = data[:SLICE_BYTES]
    assert core.tokens(part, letters=letters) == reference.tokens(part, letters=letters)
    timed(lambda: core.tokens(data, letters=letters), len(data))


@pytest.mark.parametrize("simd", core.SIMD_LEVELS)
@pytest.mark.parametrize("name", ["words-english", "words-zipf"])
def test_feed_beside_the_limit(benchmark: Any, corpus: Corpus, name: str, simd: str) -> None:
    """Words by each vector width; `of the limit` is the share of what benches/limit.cpp does on one core, just then."""
    prepared(name, corpus)
    path, rates = str(corpus(JOBS[name][0])), []
    environment = {**jobs.ENVIRONMENT, "MRFAST_SIMD": simd}
    ours = [sys.executable, str(FEED), path]
    benchmark.pedantic(
        lambda: rates.append(float(subprocess.check_output(ours, env=environment))),
        rounds=1 if benchmark.disabled else ROUNDS,
    )
    benchmark.extra_info["MB/s"] = max(rates)
    if not benchmark.disabled and (program := limit.program()) is not None:
        bound = float(subprocess.check_output([str(program), "feed", path]))
        benchmark.extra_info.update({"limit MB/s": bound, "of the limit": round(max(rates) / bound, 2)})


@pytest.mark.parametrize("name", JOBS)
def test_map(timed: Callable[..., None], corpus: Corpus, name: str) -> None:
    data, source, combine, *_ = prepared(name, corpus)
    timed(lambda: fed(data, source, combine), len(data))


@pytest.mark.parametrize("name", JOBS)
def test_drain(timed: Callable[..., None], corpus: Corpus, name: str) -> None:
    data, source, combine, *_ = prepared(name, corpus)
    size = len(fed(data, source, combine).drain().body)
    timed(lambda sink: sink.drain(), size, setup=lambda: fed(data, source, combine))


@pytest.mark.parametrize("name", JOBS)
def test_reduce(timed: Callable[..., None], corpus: Corpus, name: str) -> None:
    data, source, combine, reduce, output, end = prepared(name, corpus)
    drained = fed(data, source, combine).drain()
    timed(lambda: [g.write(output, terminator=end) for g in groupers(drained, reduce)], len(drained.body))


@pytest.mark.parametrize("by", ["line", "count"])
def test_grep(timed: Callable[..., None], corpus: Corpus, by: str) -> None:
    data, op = corpus("access").read_bytes(), ops.grep(jobs.PATTERN, by=by)
    tables = automaton(op.pattern, by)
    part = data[: data.index(b"\n", min(SLICE_BYTES, len(data) - 1)) + 1]
    drained = fed(part, tables, None).drain()
    assert list(core.read_segment(drained.body, "str")) == list(reference.map_pairs(op, "bench", part))
    timed(lambda: fed(data, tables, None), len(data))


def test_grep_by_re(timed: Callable[..., None], corpus: Corpus) -> None:
    data, pattern = corpus("access").read_bytes(), jobs.PATTERN.encode() + b"(?:x?)*"
    assert automaton(pattern, "count") is None
    cuts = [0]
    while cuts[-1] < len(data):
        cuts.append(data.index(b"\n", min(cuts[-1] + BLOCK_BYTES, len(data) - 1)) + 1)
    blocks = [data[a:b] for a, b in itertools.pairwise(cuts)]
    matcher = Matcher(pattern)
    assert matcher.count(blocks[0]) == sum(1 for line in blocks[0].splitlines() if re.search(pattern, line))
    timed(lambda: sum(map(matcher.count, blocks)), len(data))


def test_emit_all(timed: Callable[..., None], benchmark: Any, corpus: Corpus) -> None:
    """`times the generator`: what emitting costs, as a multiple of only running the generator that is emitted."""
    data = corpus("english").read_bytes()[: 16 << 20]
    words = core.tokens(data, letters="ascii")

    def pairs(count: int | None = None) -> Iterator[tuple[str, int]]:
        for word in words[:count]:
            yield word, 1

    def emit(count: int | None = None) -> core.MapSink:
        sink = core.MapSink(1, combine=ops.sum())
        sink.emit_all(pairs(count))
        return sink

    few = SLICE_BYTES // 10
    drained = emit(few).drain()
    counted = [(key, sum(values)) for key, values in reference.grouped(pairs(few))]
    assert list(core.read_segment(drained.body, drained.key_kind)) == counted
    bare = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        deque(pairs(), maxlen=0)
        bare.append(time.perf_counter() - start)
    timed(emit, len(data))
    if not benchmark.disabled:
        best = benchmark.stats.stats.min
        benchmark.extra_info.update({"pairs/s": round(len(words) / best), "times the generator": best / min(bare)})


def slowest(filename: str, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    yield row["word"], row["ms"]


def test_json_lines(timed: Callable[..., None], corpus: Corpus, tmp_path: Path) -> None:
    """A Python map over JSON lines by one worker, start-up included."""
    path = corpus("jsonl")

    def run(source: Path) -> mrfast.JobResult:
        return mrfast.run(
            inputs=[source],
            map=slowest,
            reduce=ops.max(),
            input="jsonl",
            store=tmp_path / "store",
            output_url=tmp_path / "out",
            overwrite=True,
            reduces=1,
            workers=1,
        )

    few = tmp_path / "few"
    with path.open("rb") as file:
        few.write_bytes(b"".join(file.readlines(SLICE_BYTES)))
    most: dict[str, float] = {}
    for row in map(orjson.loads, few.read_bytes().splitlines()):
        most[row["word"]] = max(row["ms"], most.get(row["word"], 0))
    expected = "".join(f"{word} {ms!r}\n" for word, ms in sorted(most.items(), key=lambda item: item[0].encode()))
    assert run(few).text() == expected
    timed(lambda: run(path), os.path.getsize(path))
