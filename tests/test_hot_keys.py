"""Hot keys: exact in a drain, within the stated bounds over spills and maps, and told only where they matter."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

import mrfast
from mrfast import core, ops
from mrfast.control import hot_keys, recovery
from mrfast.control.hot_keys import HotTable, cut, of_map
from mrfast.control.outputs import Outputs
from mrfast.control.schema import decode, encode
from mrfast.index import SegmentIndex
from mrfast.model import HotKey, HotKeys, MapReport

KEPT = 32
KEY_BYTES = 64


def named(key: bytes, partitions: int) -> tuple[bytes, int, int]:
    """What a sketch knows a key by."""
    whole = reference.xxh3_64(key) if len(key) > KEY_BYTES else 0
    return key[:KEY_BYTES], whole, reference.partition(key, partitions)


def record_size(key: bytes, value: bytes) -> int:
    """The bytes of a record with lengths below 2**14."""
    return sum(1 + (len(text) > 127) + len(text) for text in (key, value)) + 1


# Keys that share the sort's prefix, that are cut, and many of them, so that some are left out.
KEYS = st.one_of(
    st.integers(0, 60).map(lambda n: b"k%d" % n),
    st.integers(0, 40).map(lambda n: b"the-same-prefix-%d" % n),
    st.sampled_from([b"", b"x" * 63, b"x" * 64, b"x" * 65, b"x" * 64 + b"y", b"\xff" * 200]),
)
PAIRS = st.lists(st.tuples(KEYS, st.integers(0, 200)), max_size=250)


@given(PAIRS, st.integers(1, 7), st.integers(1, 500))
@examples(60)
def test_a_drain_names_its_heaviest_keys_exactly(pairs: list[tuple[bytes, int]], partitions: int, chunk: int) -> None:
    sink = core.MapSink(partitions)
    for key, length in pairs:
        sink.emit(key, b"v" * length)
    drained = sink.drain()
    for _ in drained.chunks(chunk):
        pass
    weights = reference.key_weights((key, record_size(key, b"v" * length)) for key, length in pairs)
    expected = {named(key, partitions): weight for key, weight in weights.items()}
    keys, least, runs = drained.hot
    assert runs == len(expected)
    assert len(keys) == min(KEPT, len(expected))
    found = {(key, whole, partition): (size, records) for key, whole, partition, size, records in keys}
    assert found.items() <= expected.items()
    assert least == (min(size for size, _ in found.values()) if len(found) == KEPT else 0)
    assert all(size <= least for name, (size, _) in expected.items() if name not in found)


def test_a_combined_drain_counts_what_is_left() -> None:
    sink = core.MapSink(3, combine=ops.sum())
    for key in ("a", "b", "a", "a", "c"):
        sink.emit(key, 1)
    keys, least, runs = sink.drain().hot
    assert (least, runs) == (0, 3)
    assert sorted((key, records) for key, _, _, _, records in keys) == [(b"a", 1), (b"b", 1), (b"c", 1)]


def sketch_of(weights: dict[bytes, tuple[int, int]], most: int, partitions: int = 3) -> HotKeys:
    """What a map would say of these keys, with room for so many."""
    order = sorted(weights.items(), key=lambda item: -item[1][0])
    keys = tuple(HotKey(*named(key, partitions), size, records) for key, (size, records) in order[:most])
    missed = max((size for _, (size, _) in order[most:]), default=0)
    size, records = (sum(weight[i] for weight in weights.values()) for i in (0, 1))
    return HotKeys(keys, missed, size, records, len(weights))


WEIGHTS = st.dictionaries(
    st.integers(0, 30).map(lambda n: b"key-%d" % n),
    st.tuples(st.integers(1, 1000), st.integers(1, 9)),
    min_size=1,
    max_size=20,
)


def check_bounds(table: HotTable, maps: dict[int, dict[bytes, tuple[int, int]]]) -> None:
    """Every key of all maps lies within what the table says of it."""
    truth: dict[tuple[bytes, int, int], tuple[int, int]] = {}
    for weights in maps.values():
        for key, (size, records) in weights.items():
            before = truth.get(named(key, 3), (0, 0))
            truth[named(key, 3)] = (before[0] + size, before[1] + records)
    kept = table.heaviest(1000)
    for key in kept:
        size, records = truth[key.key, key.whole, key.partition]
        assert key.size <= size <= key.size + key.error
        assert key.size + table.error_bytes >= size
        assert key.records <= records
    told = {(key.key, key.whole, key.partition) for key in kept}
    left_out = [size for name, (size, _) in truth.items() if name not in told]
    assert max(left_out, default=0) <= min(table.rest(kept), table.error_bytes)
    assert table.bytes == sum(size for size, _ in truth.values())
    assert table.records == sum(records for _, records in truth.values())
    assert table.distinct == sum(map(len, maps.values()))


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | WEIGHTS), max_size=25), st.integers(1, 8), st.integers(2, 40))
@examples(150)
def test_maps_that_come_are_lost_and_come_again_stay_within_the_bounds(
    steps: list[tuple[int, dict[bytes, tuple[int, int]] | None]], most: int, keys_max: int
) -> None:
    table, maps = HotTable(keys_max), {}
    for map_index, weights in steps:
        maps.pop(map_index, None)
        if weights is None:
            table.remove(map_index)
        else:
            maps[map_index] = weights
            table.add(map_index, sketch_of(weights, most))
        check_bounds(table, maps)
    assert len(table) == len(maps)


@given(st.lists(WEIGHTS, min_size=1, max_size=6), st.integers(1, 8))
@examples(80)
def test_the_spills_of_a_map_and_a_shorter_sketch_stay_within_the_bounds(
    spills: list[dict[bytes, tuple[int, int]]], most: int
) -> None:
    sketches = [sketch_of(weights, most) for weights in spills]
    drains = [
        ([(key.key, key.whole, key.partition, key.size, key.records) for key in each.keys], each.missed, each.distinct)
        for each in sketches
    ]
    size, records = sum(each.size for each in sketches), sum(each.records for each in sketches)
    sketch = of_map(drains, size, records, combined=True, folded=False)
    assert sketch is not None
    assert sketch.combined
    assert list(sketch.keys) == sorted(sketch.keys, key=lambda key: -key.size)
    whole: dict[bytes, tuple[int, int]] = {}
    for weights in spills:
        for key, (more, count) in weights.items():
            before = whole.get(key, (0, 0))
            whole[key] = before[0] + more, before[1] + count
    assert len(whole) <= sketch.distinct <= records
    for short in (sketch, cut(sketch, 2), cut(sketch, 0)):
        assert short is not None
        kept = {(key.key, key.whole, key.partition): key for key in short.keys}
        for name, (true_size, _) in whole.items():
            key = kept.get(named(name, 3))
            if key is None:
                assert true_size <= short.missed
            else:
                assert key.size <= true_size <= key.size + key.error
                assert key.error <= short.missed
    assert decode(HotKeys, encode(sketch)) == sketch


def test_what_is_combined_again_names_no_key_but_bounds_them_all() -> None:
    drain = ([(b"a", 0, 0, 100, 1), (b"b", 0, 0, 30, 1)], 7, 5)
    sketch = of_map([drain, drain], 1000, 8, combined=True, folded=True)
    assert sketch == HotKeys((), 200, 1000, 8, 8, True)
    assert of_map([drain], 137, 8, combined=True, folded=True).keys != ()  # type: ignore[union-attr]
    assert of_map([], 0, 0, combined=False, folded=False) is None


def test_the_sum_over_maps_keeps_the_bound_of_a_sketch() -> None:
    """A drain misses at most 1/32 of its bytes, so all of them together 1/32 of the shuffle."""
    table, random_ = HotTable(), random.Random(5)
    for index in range(20):
        sink = core.MapSink(2)
        for _ in range(2000):
            sink.emit(b"%d" % random_.randrange(300), 1)
        drained = sink.drain()
        table.add(index, of_map([drained.hot], sum(drained.lengths), drained.records, combined=False, folded=False))
    assert 0 < table.error_bytes <= table.bytes / KEPT


def test_a_lost_output_takes_its_keys_along_and_the_journal_keeps_the_heaviest() -> None:
    keys = tuple(HotKey(b"%d" % number, 0, 0, 100 - number, 1) for number in range(20))
    report = MapReport("m-000000.e1.1", 9, "0" * 16, b"", 1, 1, 1, hot=HotKeys(keys, 3, 5000, 20, 20))
    outputs, index = Outputs(), SegmentIndex([1, 0], [1, 0], [7, 0], key_kind="str")
    for map_index in (0, 1, 0):  # the first is made again
        outputs.add(map_index, report, index, index.digest())
    assert (outputs.hot.bytes, outputs.hot.heaviest(1)[0].size) == (10_000, 200)
    outputs.remove(1)
    assert (outputs.hot.bytes, outputs.hot.heaviest(1)[0].size) == (5000, 100)
    kept = decode(MapReport, recovery.map_record(report, index.digest(), 1)["report"]).hot
    assert kept == HotKeys(keys[:8], 92, 5000, 20, 20)


# What is told


def table_of(*keys: tuple[bytes, int, int], size: int, records: int, distinct: int, combined: bool) -> HotTable:
    table = HotTable()
    hot = tuple(HotKey(key, 0, partition, weight, 1) for key, partition, weight in keys)
    table.add(0, HotKeys(hot, 0, size, records, distinct, combined))
    return table


@pytest.mark.parametrize("combined", [True, False])
def test_what_the_event_says(combined: bool) -> None:
    event = table_of((b"a", 7, 100), size=150, records=10, distinct=9, combined=combined).event(4)
    assert (event["combined"], event["shuffle_bytes"], event["advice"]) == (combined, 150, "")
    assert event["keys"][0]["bytes"] == 100


MIB = 1 << 20


@pytest.mark.parametrize(
    ("share", "size", "reduces", "combined", "left", "said"),
    [
        (0.31, 2 * MIB, 10, False, 0.03, ['"the" is 31 % of the shuffle (partition 3)', "send 3 % of the 1,000 rec"]),
        (0.31, 2 * MIB, 10, True, 0.03, ['hot key: "the" is 31 %', "will take longest", "salt"]),
        (0.31, 2 * MIB, 10, False, 0.9, ['hot key: "the" is 31 %', "will take longest", "salt"]),
        (0.04, 2 * MIB, 1000, False, 0.03, ["repeated keys: a combiner would send 3 %"]),
        (0.31, MIB - 1, 10, False, 0.03, []),  # too small a shuffle
        (0.04, 2 * MIB, 1000, True, 0.03, []),  # too small a share
        (0.31, 2 * MIB, 6, True, 0.03, []),  # its fair share, near enough
        (0.9, 2 * MIB, 1, True, 0.03, []),
    ],
)
def test_the_advice_comes_when_it_matters(
    share: float, size: int, reduces: int, combined: bool, left: float, said: list[str]
) -> None:
    key = (b"the", 3, int(share * size) + 1)
    advice = table_of(key, size=size, records=1000, distinct=int(left * 1000), combined=combined).advice(reduces)
    assert (advice != "") == (said != [])
    assert [part for part in said if part not in advice] == []
    assert "\n" not in advice


def test_a_hostile_key_is_told_as_text_and_printed_tamely() -> None:
    nasty = b'\x1b[31m"\xff\n'
    table = table_of((nasty, 0, 2 * MIB), size=2 * MIB, records=2, distinct=2, combined=True)
    assert table.told()[0]["key"] == '\x1b[31m"\\xff\n'
    advice = table.advice(10)
    assert "\x1b" not in advice
    assert "\n" not in advice
    assert "\\x1b[31m" in advice


@pytest.mark.parametrize("letter", ["a", "é", "語", "🦊"])
def test_a_cut_key_ends_with_a_whole_character(letter: str) -> None:
    for shift in range(4):
        key = ("-" * shift + letter * 80).encode()
        shown = hot_keys.text(HotKey(key[:KEY_BYTES], 1, 0, 1, 1))
        assert shown == "-" * shift + letter * ((KEY_BYTES - shift) // len(letter.encode())) + "…"
    assert hot_keys.text(HotKey(b"\x80" * 64, 1, 0, 1, 1)) == "\\x80" * 64 + "…"
    assert hot_keys.text(HotKey(letter.encode(), 0, 0, 1, 1)) == letter


# A whole job


def pairs_of_text(filename: str, contents: bytes) -> Any:
    for word in contents.split():
        yield word.decode(), "x" * 20


def longest(word: str, values: Any) -> int:
    return sum(1 for _ in values)


@pytest.mark.parametrize("memory", [4 << 20, 1 << 30])
def test_a_job_names_the_key_that_dominates_its_shuffle(tmp_path: Path, memory: int) -> None:
    words = [b"the" if number % 3 else b"w%d" % number for number in range(200_000)]
    for name in "ab":
        (tmp_path / name).write_bytes(b" ".join(words))
    result = mrfast.run(
        map=pairs_of_text, reduce=longest, inputs=[str(tmp_path / "a"), str(tmp_path / "b")], store=tmp_path / "store",
        reduces=8, workers=1, memory=memory,
    )  # fmt: skip
    first = result.hot_keys[0]
    count = sum(word == b"the" for word in words) * 2
    assert first["key"] == "the"
    assert (first["records"], first["bytes"]) == (count, count * record_size(b"the", b"x" * 20))
    assert first["partition"] == reference.partition("the", 8)
    assert result.hot_advice.startswith(f'hot key: "the" is {first["share"]:.0%}'.replace("%", " %"))
    assert "a combiner would send 33 % of the 400,000 records" in result.hot_advice


def test_a_word_count_that_combines_is_left_in_peace(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b" ".join(b"w%d the" % number for number in range(50_000)))
    result = mrfast.run(
        map=ops.words(letters="space"), reduce=ops.sum(), inputs=str(tmp_path / "a"), store=tmp_path / "store",
        reduces=3, workers=1,
    )  # fmt: skip
    assert (result.hot_keys, result.hot_advice) == ([], "")
    assert replace(result, document={}).hot_keys == []
