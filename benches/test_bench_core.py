"""One bench a kernel: equal to its slow twin on a slice first, then timed; MB/s in extra_info."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference

from mrfast import core, ops

SLICE_BYTES = 200_000
Corpus = Callable[[str], Path]


def timed(benchmark: Any, function: Callable[[], Any], size: int) -> None:
    """Three rounds, and the throughput of the best."""
    benchmark.pedantic(function, rounds=3, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["MB/s"] = round(size / benchmark.stats.stats.min / 1e6, 1)


def mapped(data: bytes, source: Any, combine: Any = None, partitions: int = 10) -> core.Drained:
    """A map task's work on one object."""
    sink = core.MapSink(partitions, source=source, combine=combine)
    sink.begin("bench")
    for at in range(0, len(data), 1 << 20):
        sink.feed(memoryview(data)[at : at + (1 << 20)])
    sink.end()
    return sink.drain()


def groupers(drained: core.Drained, reduce: Any) -> list[core.Grouper]:
    """A Grouper for each partition, with its segment in it."""
    out, at, body = [], 0, memoryview(drained.body)
    for length, count, checksum in zip(drained.lengths, drained.counts, drained.checksums, strict=True):
        out.append(core.Grouper(key_kind=drained.key_kind, reduce=reduce))
        out[-1].add(body[at : at + length], order=0, records=count, xxh3=checksum)
        at += length
    return out


def parts(data: bytes, source: Any, combine: Any, reduce: Any, output: str, terminator: bytes = b"\n") -> list[bytes]:
    """A whole job's parts, in memory."""
    groups = groupers(mapped(data, source, combine), reduce)
    return [bytes(group.write(output, terminator=terminator)) for group in groups]


def test_xxh3(benchmark: Any, corpus: Corpus) -> None:
    data = corpus("records").read_bytes()
    assert core.xxh3_64(data[:SLICE_BYTES]) == reference.xxh3_64(data[:SLICE_BYTES])
    timed(benchmark, lambda: core.xxh3_64(data), len(data))


@pytest.mark.parametrize("letters", ["unicode", "ascii", "space"])
def test_tokens(benchmark: Any, corpus: Corpus, letters: str) -> None:
    data = corpus("english").read_bytes()
    part = data[:SLICE_BYTES]
    assert core.tokens(part, letters=letters) == reference.tokens(part, letters=letters)
    timed(benchmark, lambda: core.tokens(data, letters=letters), len(data))


JOBS = {
    "count-english": ("english", ops.words(letters="unicode"), ops.sum(), ops.sum(), "text"),
    "count-distinct": ("distinct", ops.words(letters="unicode"), ops.sum(), ops.sum(), "text"),
    "bytes-per-url": ("access", ops.fields(sep=" ", key=(4, 1), value=6), ops.sum(), ops.sum(), "text"),
    "sort-lines": ("access", ops.lines(), None, ops.identity(), "raw"),
    "sort-records": ("records", ops.records(size=100, key=(0, 10)), None, ops.identity(), "raw"),
}


def check(name: str, corpus: Corpus) -> None:
    """The job's parts of a slice of the corpus are the slow twin's."""
    data, source, combine, reduce, output, size = job(name, corpus)
    part = data[: SLICE_BYTES // 100 * 100]
    if not size:
        part = part[: part.rindex(b"\n") + 1]
    slow = reference.run_reference(source, reduce, [("bench", part)], 10, output=output, record_bytes=size)
    assert parts(part, source, combine, reduce, output, b"" if size else b"\n") == slow


@pytest.mark.parametrize("name", JOBS)
def test_map(benchmark: Any, corpus: Corpus, name: str) -> None:
    data, source, combine, *_ = job(name, corpus)
    check(name, corpus)
    timed(benchmark, lambda: mapped(data, source, combine), len(data))


@pytest.mark.parametrize("name", JOBS)
def test_reduce(benchmark: Any, corpus: Corpus, name: str) -> None:
    data, source, combine, reduce, output, size = job(name, corpus)
    check(name, corpus)
    drained = mapped(data, source, combine)
    end = b"" if size else b"\n"
    timed(
        benchmark,
        lambda: [group.write(output, terminator=end) for group in groupers(drained, reduce)],
        len(drained.body),
    )


def test_emit_all(benchmark: Any, corpus: Corpus) -> None:
    data = corpus("english").read_bytes()[: 1 << 20]
    pairs = [(word, 1) for word in core.tokens(data, letters="ascii")]

    def emit() -> core.Drained:
        sink = core.MapSink(1, combine=ops.sum())
        sink.emit_all(pairs)
        return sink.drain()

    drained = emit()
    counted = [(key, sum(values)) for key, values in reference.grouped(pairs)]
    assert list(core.read_segment(drained.body, drained.key_kind)) == counted
    timed(benchmark, emit, len(data))
    if benchmark.stats is not None:
        benchmark.extra_info["pairs/s"] = round(len(pairs) / benchmark.stats.stats.min)


def job(name: str, corpus: Corpus) -> tuple[bytes, Any, Any, Any, str, int]:
    """(data, source, combine, reduce, output, record size) of a job; data ends with a whole record."""
    where, source, combine, reduce, output = JOBS[name]
    data, size = corpus(where).read_bytes(), getattr(source, "size", 0)
    return (data[: len(data) // size * size] if size else data), source, combine, reduce, output, size
