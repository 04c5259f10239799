"""What does not fit into memory goes to the disk in sorted runs, and the result is the same to the byte."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from memory_job import Job
from test_core_sink import TEXT, VALUES, same, segments

from mrfast import core, ops
from mrfast.app import App
from mrfast.errors import BoundPassed, StoreError
from mrfast.model import Failure, MapReport, ReduceReport, inter_key
from mrfast.storage import base
from mrfast.tasks import fetch, mapper, spill

NUMBERS = st.one_of(st.integers(-5, 5), st.floats(), st.booleans(), st.integers(-(1 << 62), 1 << 62))
FOLDS = [ops.sum(), ops.count(), ops.min(), ops.max(), ops.mean(), ops.first()]
Pairs = list[tuple[Any, Any]]


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are merged before their number is three, and a task spills at every look."""
    monkeypatch.setattr(spill, "RUNS_MAX", 3)
    monkeypatch.setattr(mapper, "CORE_MEMORY_BYTES_MIN", 1)
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)


def spilled(batches: list[Pairs], partitions: int, combine: Any = None) -> spill.SpilledSegments:
    """Each batch drained and spilled by itself."""
    out = spill.SpilledSegments(partitions, combine, 1 << 20)
    sink = core.MapSink(partitions, combine=combine)
    for batch in batches:
        sink.emit_all(batch)
        out.add(sink.drain())
    return out


def body(merged: spill.SpilledSegments) -> tuple[bytes, list[int], list[int], list[int]]:
    """The merged bytes and lists."""
    return b"".join(map(bytes, merged.chunks())), merged.lengths, merged.counts, merged.checksums


def at_once(
    batches: list[Pairs], partitions: int, combine: Any = None
) -> tuple[bytes, list[int], list[int], list[int]]:
    """The same of one sink that held everything."""
    sink = core.MapSink(partitions, combine=combine)
    for batch in batches:
        sink.emit_all(batch)
    drained = sink.drain()
    segments(drained)
    return bytes(drained.body), drained.lengths, drained.counts, drained.checksums


@examples(100)
@given(st.lists(st.lists(st.tuples(TEXT, VALUES), max_size=20), max_size=8), st.integers(1, 5))
def test_spilled_segments_are_the_segments(batches: list[Pairs], partitions: int) -> None:
    assert body(spilled(batches, partitions)) == at_once(batches, partitions)


@pytest.mark.parametrize("combine", FOLDS, ids=lambda op: op.kind)
@examples(60)
@given(batches=st.lists(st.lists(st.tuples(st.text("ab", max_size=20), NUMBERS), max_size=20), max_size=8))
def test_partial_results_of_several_spills_are_folded(combine: Any, batches: list[Pairs]) -> None:
    assert body(spilled(batches, 3, combine)) == at_once(batches, 3, combine)


@examples(60)
@given(st.lists(st.lists(st.tuples(st.text("ab", max_size=2), st.integers()), max_size=20), max_size=8))
def test_integers_of_any_size_survive_several_spills(batches: list[Pairs]) -> None:
    merged = spilled(batches, 1, ops.sum())
    data, _, [count], [checksum] = body(merged)
    group = core.Grouper(key_kind="str", reduce=ops.sum())
    group.add(data, order=0, records=count, xxh3=checksum)
    pairs = [pair for batch in batches for pair in batch]
    want = b"".join(b"%s %d\n" % (reference.escape_key(k.encode()), sum(v)) for k, v in reference.grouped(pairs))
    assert bytes(group.write("text")) == want


def test_a_key_that_cannot_be_folded_is_written_piece_by_piece() -> None:
    batches = [[("k", 1), ("k", 2**70)] + [("k", 2**70 + n) for n in range(2000)] + [("l", 1)] for _ in range(2)]
    merged = spilled(batches, 1, ops.sum())
    group = core.Grouper(key_kind="str", reduce=ops.sum())
    for order, (run, _) in enumerate(merged._runs):
        group.add_run(run[0], records=run[2][0], order=order)
    pieces = list(map(bytes, group.chunks("records", chunk_bytes=1000)))
    assert max(map(len, pieces)) < 1100
    found = list(core.read_segment(b"".join(pieces), "str"))
    assert len(found) == group.records_out == 4004 + 1
    assert sum(value for key, value in found if key == "k") == sum(v for batch in batches for k, v in batch if k == "k")


@pytest.mark.parametrize("chunk_bytes", [0, -5])
def test_no_piece_is_smaller_than_a_record(chunk_bytes: int) -> None:
    group = grouper([[("a", 1), ("b", 2)]], [0], ops.identity())
    assert b"".join(map(bytes, group.chunks("text", chunk_bytes=chunk_bytes))) == b"a 1\nb 2\n"
    sink = core.MapSink(1)
    sink.emit("a", 1)
    assert len(list(sink.drain().chunks(chunk_bytes))) == 1


def grouper(maps: list[Pairs], orders: list[int], reduce: Any = None) -> core.Grouper:
    """A Grouper over some maps' segments."""
    group = core.Grouper(key_kind="str", reduce=reduce)
    for order in orders:
        data, _, [count], [checksum] = at_once([maps[order]], 1)
        group.add(data, order=order, records=count, xxh3=checksum)
    return group


@examples(100)
@given(
    st.lists(st.lists(st.tuples(TEXT, VALUES), max_size=15), min_size=1, max_size=9),
    st.randoms(use_true_random=False),
)
def test_spilled_records_give_the_same_groups(maps: list[Pairs], rng: random.Random) -> None:
    records = spill.SpilledRecords("str", ops.identity(), 1 << 20)
    orders = rng.sample(range(len(maps)), len(maps))
    while orders:
        some = [orders.pop() for _ in range(min(rng.randint(1, 3), len(orders)))]
        if len(some) == 1:
            data, _, [count], _ = at_once([maps[some[0]]], 1)
            run = spill.write_run([data[i : i + 7] for i in range(0, len(data), 7)])
            records.add_segments(run, [(len(data), count)], some[0])
        else:
            records.add([grouper(maps, some)])
    want = reference.grouped([pair for each in maps for pair in each])
    assert same([(key, list(values)) for key, values in records.groups()], want)
    everything = grouper(maps, list(range(len(maps))), ops.identity())
    pieces = list(map(bytes, records.groups().chunks("text", chunk_bytes=rng.randint(1, 200))))
    assert b"".join(pieces) == bytes(everything.write("text"))


@examples(100)
@given(
    st.lists(st.lists(st.tuples(TEXT, VALUES), max_size=15), min_size=1, max_size=9),
    st.integers(2, 4),
    st.randoms(use_true_random=False),
)
def test_partitions_that_are_spilled_together_are_those_spilled_alone(
    maps: list[Pairs], partitions: int, rng: random.Random
) -> None:
    together = spill.SpilledRecords("str", ops.identity(), 1 << 20, partitions)
    alone = [spill.SpilledRecords("str", ops.identity(), 1 << 20) for _ in range(partitions)]
    for order in rng.sample(range(len(maps)), len(maps)):
        data, lengths, counts, checksums = at_once([maps[order]], partitions)
        cuts = [sum(lengths[:place]) for place in range(partitions + 1)]
        pieces = [data[begin:end] for begin, end in itertools.pairwise(cuts)]
        if rng.random() < 0.5:
            together.add_segments(spill.write_run([data]), list(zip(lengths, counts, strict=True)), order)
        else:
            groups = [core.Grouper(key_kind="str", reduce=ops.identity()) for _ in pieces]
            for group, piece, count, checksum in zip(groups, pieces, counts, checksums, strict=True):
                if count:
                    group.add(piece, order=order, records=count, xxh3=checksum)
            together.add(iter(groups))
        for records, piece, count in zip(alone, pieces, counts, strict=True):
            if count:
                records.add_segments(spill.write_run([piece]), [(len(piece), count)], order)
    for place, records in enumerate(alone):
        assert bytes(together.groups(place).write("text")) == bytes(records.groups().write("text"))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 1000])
@pytest.mark.parametrize(
    "reduce", [*FOLDS, ops.identity(), ops.concat("; "), ops.index(), ops.top(3)], ids=lambda op: op.kind
)
def test_a_group_larger_than_a_batch(reduce: Any, chunk_bytes: int) -> None:
    texts = reduce.kind in ("concat", "index")
    values: list[Any] = [f"v{n % 700}" if texts else n % 700 for n in range(5000)]
    maps = [
        [("a", values[0])],
        [("big", value) for value in values[:3000]],
        [("big", value) for value in values[3000:]],
    ]
    group = grouper(maps, [2, 0, 1], reduce)
    pairs = [(key, value) for key, values in reference.grouped([p for m in maps for p in m]) for value in values]
    want = b"".join(
        reference.line(key, value, "text")
        for key, values in reference.grouped(pairs)
        for value in reference.reduce_values(reduce, values)
    )
    assert b"".join(map(bytes, group.chunks("text", chunk_bytes=chunk_bytes))) == want
    assert group.records_out == want.count(b"\n")
    assert bytes(group.write("text")) == want


def test_a_buffer_that_is_looked_at_is_not_filled_again() -> None:
    group = grouper([[("k", n) for n in range(100)]], [0], ops.identity())
    kept = [memoryview(chunk) for chunk in group.chunks("raw", chunk_bytes=20)]
    assert b"".join(kept) == b"".join(b"%d\n" % n for n in range(100))


def test_a_pass_ends_the_one_before_it() -> None:
    group = grouper([[("a", 1), ("a", 2), ("b", 3)]], [0], ops.identity())
    first = iter(group)
    _, values = next(first)
    assert bytes(group.write("text")) == b"a 1\na 2\nb 3\n"
    for begun in (values, first):
        with pytest.raises(RuntimeError, match="anew"):
            next(begun)


# -- tasks ------------------------------------------------------------------------------------------------------------


def lines(seed: int, count: int) -> bytes:
    """Lines of a few words each, some words often, some once, some not ASCII."""
    rng = random.Random(seed)
    words = [*("the of and to über zwölf a-b" * 3).split(), *(f"w{rng.randrange(99)}x" for _ in range(60)), "z" * 40]
    return b"".join(
        b" ".join(rng.choices([w.encode() for w in words], k=rng.randint(0, 9))) + b"\n" for _ in range(count)
    )


def length(key: Any, values: Any) -> Any:
    return [sum(1 for _ in values), len(key)]


def words(filename: str, contents: bytes) -> Iterator[tuple[str, Any]]:
    for word in contents.decode().split():
        yield word, filename


def first_and_count(word: str, names: Any) -> str:
    names = list(names)
    return f"{names[0]} {len(names)}"


def adds(key: Any, values: Any) -> int:
    return sum(values)


def ones(filename: str, contents: bytes) -> Iterator[tuple[str, int]]:
    return ((word, 1) for word in contents.decode().split())


def app(map: Any, reduce: Any, combine: Any = None) -> App:
    """An App of them."""
    return App.from_functions(map=map, reduce=reduce, combine=combine)


APPS = {
    "count": app(ops.words(letters="unicode"), ops.sum()),
    "index": app(ops.words(letters="unicode", value="filename"), ops.index()),
    "documents": app(ops.words(letters="ascii", distinct=True), ops.sum()),
    "lines": app(ops.lines(), ops.identity()),
    "columns": app(ops.fields(sep=" ", key=0), ops.count()),
    "python": app(words, first_and_count),
    "combine": app(ones, adds, combine=adds),
}


# What does not spill has to fit: a file that is one value, the distinct words of a file.
LEAST = {"python": 1 << 15, "combine": 1 << 15, "documents": 1 << 18}


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("split_bytes", [700, 1 << 30])
def test_a_job_in_no_memory_gives_the_same_parts(name: str, split_bytes: int) -> None:
    files = {"a.txt": lines(1, 300), "b.txt": lines(2, 80), "empty.txt": b""}
    roomy = Job(APPS[name], files, split_bytes=split_bytes)
    whole = roomy.parts()
    for memory_bytes in (1 << 12, 1 << 17):
        tight = Job(APPS[name], files, split_bytes=split_bytes)
        tight.memory_bytes = memory_bytes
        tight.memory_bytes = max(memory_bytes, LEAST.get(name, 0))
        assert tight.parts() == whole


@examples(15)
@given(
    st.sampled_from(sorted(APPS)),
    st.sampled_from(core.SIMD_LEVELS),
    st.integers(1 << 15, 1 << 18),
    st.integers(50, 20_000),
    st.integers(0, 1000),
)
def test_no_byte_depends_on_level_memory_or_splits(
    name: str, level: str, memory_bytes: int, split_bytes: int, seed: int
) -> None:
    files = {"a.txt": lines(seed, 200), "b.txt": lines(seed + 1, 50)}
    app = APPS[name]
    want = Job(app, files).parts()
    core.use_simd(level)
    try:
        assert (
            Job(app, files, split_bytes=split_bytes, memory_bytes=max(memory_bytes, LEAST.get(name, 0))).parts() == want
        )
    finally:
        core.use_simd(core.SIMD)


def test_a_task_spills_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write_run = spill.write_run
    monkeypatch.setattr(spill, "write_run", lambda chunks: written.append(1) or write_run(chunks))
    job = Job(APPS["lines"], {"a.txt": lines(1, 3000)}, reduces=1)
    job.memory_bytes = 40_000
    reports = job.maps()
    in_maps = len(written)
    assert isinstance(job.reduce(reports, 0), ReduceReport)
    assert in_maps > 1
    assert len(written) > in_maps


def test_a_flipped_bit_in_a_segment_that_goes_to_disk_is_found() -> None:
    job = Job(APPS["lines"], {"a.txt": lines(1, 3000)}, reduces=1)
    job.memory_bytes = 40_000
    reports = job.maps()
    key = inter_key("j", reports[0].attempt)
    data = bytearray(base.read(job.store, key))
    data[len(data) // 2] ^= 1
    job.store.put(key, bytes(data))
    report = job.reduce(reports, 0)
    assert isinstance(report, Failure)
    assert (report.kind, report.map_index) == ("corrupt", 0)
    assert "checksum mismatch" in report.message


def test_distinct_words_of_a_file_that_do_not_fit_are_refused() -> None:
    text = " ".join("".join(chr(97 + n // 26**i % 26) for i in range(4)) for n in range(5000)).encode()
    job = Job(APPS["documents"], {"a.txt": text})
    job.memory_bytes = 1 << 18
    report = job.map(0)
    assert isinstance(report, Failure)
    assert report.fatal
    assert "a.txt: its distinct words take over half of the memory of 262,144 bytes; raise --memory" in report.message
    several = Job(APPS["documents"], {f"{n}.txt": text[n * 2000 : n * 2000 + 1900] for n in range(9)})
    several.memory_bytes = 1 << 18
    assert isinstance(several.map(0, *several.pieces), MapReport)  # what one file had is forgotten for the next


def test_a_full_disk_is_reported_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(StoreError, match=r"No space left.+TMPDIR.*--memory"):
        spill.write_run([b"bytes"])
    with pytest.raises(BoundPassed):  # what the bytes come from may fail too
        spill.write_run(_failing())


def _failing() -> Iterator[bytes]:
    yield b""
    raise BoundPassed("over a bound")
