"""Grouper: sorted groups with values in (map index, emit order), and not one wrong byte let through."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import reference
from depth import ALL, examples
from hypothesis import given
from hypothesis import strategies as st
from test_core_sink import TEXT, VALUES, same

from mrfast import core, ops
from mrfast.errors import BadRecord, CorruptSegment

Pairs = list[tuple[Any, Any]]


def add(group: core.Grouper, pairs: Pairs, order: int, combine: Any = None) -> None:
    """One map's output, added."""
    sink = core.MapSink(1, combine=combine)
    sink.emit_all(pairs)
    drained = sink.drain()
    group.add(drained.body, order=order, records=drained.counts[0], xxh3=drained.checksums[0])


@examples(200)
@given(st.lists(st.lists(st.tuples(TEXT, VALUES), max_size=20), max_size=6), st.randoms(use_true_random=False))
def test_groups_in_whatever_order_the_maps_arrive(maps: list[Pairs], rng: random.Random) -> None:
    group = core.Grouper(key_kind="str")
    for order in rng.sample(range(len(maps)), len(maps)):
        add(group, maps[order], order)
    pairs = [pair for each in maps for pair in each]
    assert group.records_in == len(pairs)
    assert same([(key, list(values)) for key, values in group], reference.grouped(pairs))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_keys_that_differ_late_or_in_length_only(length: int) -> None:
    prefix = b"p" * length
    keys = [prefix + bytes([i]) for i in range(256)] + [prefix + bytes(n) for n in range(20)] + [prefix]
    pairs = [(key, i) for i, key in enumerate(keys * 3)]
    random.Random(length).shuffle(pairs)
    group = core.Grouper(key_kind="bytes")
    add(group, pairs[:400], 0)
    add(group, pairs[400:], 1)
    assert [(key, list(values)) for key, values in group] == reference.grouped(pairs)


@pytest.mark.parametrize("count", [300, 1500])
@pytest.mark.parametrize("shared", [0, 3, 7, 8, 12, 15, 16, 23, 24, 47, 48, 55, 56, 57, 63, 64, 65, 80])
def test_keys_with_a_long_common_beginning_and_a_long_end(shared: int, count: int) -> None:
    rng = random.Random(shared)
    keys = [b"p" * shared + bytes([rng.randrange(4)] * rng.randrange(3)) + rng.randbytes(20) for _ in range(count)]
    group = core.Grouper(key_kind="bytes")
    add(group, [(key, i) for i, key in enumerate(keys + [key[:shared] + b"q" * 9 + key for key in keys])], 0)
    found = [key for key, _ in group]
    assert found == sorted(found)
    assert len(found) == 2 * len(set(keys))


def test_values_are_one_pass_and_end_with_their_group() -> None:
    group = core.Grouper(key_kind="str")
    add(group, [("a", 1), ("a", 2), ("b", 3)], 0)
    groups = iter(group)
    _, first = next(groups)
    assert next(first) == 1
    key, second = next(groups)
    assert key == "b"
    assert list(first) == []
    assert list(second) == [3]
    assert list(second) == []


def flips(length: int) -> list[int]:
    """Which bits to flip: all of them in full depth, one of each byte otherwise."""
    return list(range(length * 8)) if ALL else [byte * 8 + byte % 8 for byte in range(length)]


def test_each_flipped_byte_is_found() -> None:
    sink = core.MapSink(1)
    sink.emit_all([("key", 1), ("key", "value"), ("other", 2.5), ("z" * 70, [1, "a"]), ("ä", b"bytes"), ("big", 2**70)])
    drained = sink.drain()
    good, count, checksum = bytes(drained.body), drained.counts[0], drained.checksums[0]
    for bit in flips(len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << (bit % 8)
        group = core.Grouper(key_kind="str")
        with pytest.raises(CorruptSegment) as caught:
            group.add(bytes(bad), order=0, records=count, xxh3=checksum, object="inter/m-1", partition=4)
        assert (caught.value.object, caught.value.partition) == ("inter/m-1", 4)
        assert group.records_in == 0
    for length in range(len(good)):
        with pytest.raises(CorruptSegment):
            core.Grouper(key_kind="str").add(good[:length], order=0, records=count, xxh3=checksum)
    for records, wrong in ((count + 1, checksum), (count - 1, checksum), (0, checksum), (count, checksum ^ 1)):
        with pytest.raises(CorruptSegment):
            core.Grouper(key_kind="str").add(good, order=0, records=records, xxh3=wrong)
    with pytest.raises(CorruptSegment):
        core.Grouper(key_kind="str").add(b"", order=0, records=1, xxh3=0)


@examples(300)
@given(st.binary(max_size=80), st.integers(0, 5))
def test_any_bytes_with_a_right_checksum_are_records_or_refused(data: bytes, records: int) -> None:
    group = core.Grouper(key_kind="bytes")
    try:
        group.add(data, order=0, records=records, xxh3=reference.xxh3_64(data))
    except CorruptSegment:
        return
    assert group.records_in == records


def test_lengths_have_one_encoding() -> None:
    data = b"\x81\x00a\x04\x02"  # a key of one byte, its length in two
    with pytest.raises(CorruptSegment, match="malformed"):
        core.Grouper(key_kind="str").add(data, order=0, records=1, xxh3=reference.xxh3_64(data))


@pytest.mark.parametrize("later", [b"\0\x01" * 50, b"\x61" + b"k" * 97 + b"\x01\x01"])
def test_bytes_that_change_after_their_check_are_no_other_number_of_records(later: bytes) -> None:
    data = bytearray(b"\x01a\x01" * 33)
    group = core.Grouper(key_kind="str")
    group.add(data, order=0, records=33, xxh3=reference.xxh3_64(bytes(data)))
    data[:] = later[: len(data)]
    with pytest.raises(SystemError):
        list(group)


def test_unsorted_keys_are_corrupt() -> None:
    def segment(key: str) -> bytes:
        sink = core.MapSink(1)
        sink.emit(key, 1)
        return bytes(sink.drain().body)

    data = segment("b") + segment("a")
    with pytest.raises(CorruptSegment, match="out of order"):
        core.Grouper(key_kind="str").add(data, order=0, records=2, xxh3=reference.xxh3_64(data))


PARTIALS = [(ops.count(), b"k 2\n"), (ops.sum(), b"k 3.5\n"), (ops.mean(), b"k 1.75\n")]


@pytest.mark.parametrize(("combine", "line"), PARTIALS, ids=lambda each: getattr(each, "kind", ""))
@pytest.mark.parametrize("reduce", [op for op, _ in PARTIALS] + [ops.first(), ops.identity()], ids=lambda op: op.kind)
def test_partial_results_of_another_op(combine: Any, line: bytes, reduce: Any) -> None:
    group = core.Grouper(key_kind="str", reduce=reduce)
    add(group, [("k", 1.5), ("k", 2)], 0, combine)
    if reduce == combine or reduce.kind in ("first", "identity"):
        assert bytes(group.write("text")) == line
    else:
        with pytest.raises(BadRecord, match=f"ops.{reduce.kind} takes"):
            group.write("text")


@pytest.mark.parametrize("format", ["text", "tsv", "raw"])
@examples(100)
@given(pairs=st.lists(st.tuples(TEXT, VALUES), max_size=30))
def test_parts_of_identity(format: str, pairs: Pairs) -> None:
    group = core.Grouper(key_kind="str", reduce=ops.identity())
    add(group, pairs, 0)
    grouped = reference.grouped(pairs)
    expected = b"".join(reference.line(key, value, format) for key, values in grouped for value in values)
    assert bytes(group.write(format)) == expected
    assert group.records_out == len(pairs)


@examples(200)
@given(st.binary(max_size=60))
def test_escapes(data: bytes) -> None:
    assert core.escape_key(data) == reference.escape_key(data)
    assert core.escape_value(data) == reference.escape_value(data)


def test_a_map_object_explains_itself() -> None:
    sink = core.MapSink(5)
    sink.emit_all((f"k{i}", i) for i in range(100))
    drained = sink.drain()
    buffers, packed, size = core.map_object(drained, "job", "m-000001.1.1")
    data = b"".join(bytes(buffer) for buffer in buffers)
    assert len(data) == size
    index = core.read_index(data, size)
    assert index == core.SegmentIndex.unpack(packed)
    found: Pairs = []
    for partition in range(5):
        offset, length, records, xxh3 = index.segment(partition)
        group = core.Grouper(key_kind=index.key_kind)
        group.add(data[offset : offset + length], order=0, records=records, xxh3=xxh3)
        found += [(key, value) for key, values in group for value in values]
    assert sorted(found) == sorted((f"k{i}", i) for i in range(100))
    with pytest.raises(ValueError):
        core.read_index(data[-9:], size)
    with pytest.raises(CorruptSegment):
        core.read_index(data[:-1], size - 1)


def test_a_grouper_belongs_to_one_thread_at_a_time() -> None:
    group = core.Grouper(key_kind="str", reduce=ops.sum())
    add(group, [(f"{i:06}", i) for i in range(300_000)], 0)
    expected = bytes(group.write("text"))
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(group.write, "text")
        refused = 0
        while not written.done():
            try:
                group.write("text")
            except RuntimeError:
                refused += 1
    assert refused
    assert bytes(written.result()) == expected


def test_a_read_grouper_takes_no_more() -> None:
    group = core.Grouper(key_kind="str")
    add(group, [("a", 1)], 0)
    list(group)
    with pytest.raises(RuntimeError, match="read already"):
        add(group, [("a", 1)], 1)
