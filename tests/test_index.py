"""The segment index: its bytes, its checks, and the digest of a table of outputs."""

from __future__ import annotations

import pytest
import xxhash
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast.index import MAGIC, MAGIC_PACKED, SegmentIndex, TableDigest

U64 = st.integers(0, (1 << 64) - 1)
segments = st.lists(
    st.one_of(st.just((0, 0, 0)), st.tuples(st.integers(1, 1 << 40), U64, U64)), min_size=1, max_size=40
)


@st.composite
def indexes(draw: st.DrawFn) -> SegmentIndex:
    lengths, records, checksums = zip(*draw(segments), strict=True)
    packs = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    raws = [length * pack + (pack > 0) if length else 0 for length, pack in zip(lengths, packs, strict=True)]
    kind = draw(st.sampled_from([None, "str", "bytes"]))
    base, combine = draw(st.integers(0, 1 << 40)), draw(st.sampled_from(["", "sum", "größte"]))
    return SegmentIndex(lengths, records, checksums, key_kind=kind, base=base, combine=combine, raws=raws)


def sealed(body: bytes) -> bytes:
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


@given(indexes())
@examples(200)
def test_unpack_gives_back_what_was_packed(index: SegmentIndex):
    again = SegmentIndex.unpack(index.pack())
    assert again == index and hash(again) == hash(index)
    for field in ("key_kind", "base", "combine", "partitions", "end", "total_records"):
        assert getattr(again, field) == getattr(index, field)
    assert [again.segment(p) for p in range(again.partitions)] == [index.segment(p) for p in range(index.partitions)]
    assert [again.raw(p) for p in range(again.partitions)] == [index.raw(p) for p in range(index.partitions)]
    assert again.digest() == index.digest()


def test_segments_lie_back_to_back_from_the_base():
    index = SegmentIndex([3, 0, 5], [1, 0, 2], [11, 0, 22], key_kind="str", base=100)
    assert [index.segment(p) for p in range(3)] == [(100, 3, 1, 11), (103, 0, 0, 0), (103, 5, 2, 22)]
    assert (index.end, index.total_records) == (108, 3)
    for partition in (-1, 3):
        with pytest.raises(IndexError):
            index.segment(partition)


def test_runs_of_empty_partitions_take_no_room():
    empty = SegmentIndex([0] * 65_535, [0] * 65_535, [0] * 65_535, key_kind=None)
    assert len(empty.pack()) < 30
    assert SegmentIndex.unpack(empty.pack()) == empty


@given(indexes(), st.data())
@examples(200)
def test_damaged_bytes_are_refused(index: SegmentIndex, data: st.DataObject):
    packed = bytearray(index.pack())
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        SegmentIndex.unpack(bytes(packed))
    with pytest.raises(ValueError):
        SegmentIndex.unpack(index.pack()[:place])
    with pytest.raises(ValueError):
        SegmentIndex.unpack(index.pack() + b"\0")


@given(st.sampled_from([MAGIC, MAGIC_PACKED]), st.binary(max_size=60))
@examples(500)
def test_any_bytes_under_a_right_checksum_are_one_index_or_refused(magic: bytes, body: bytes):
    data = sealed(magic + body)
    try:
        index = SegmentIndex.unpack(data)
    except ValueError:
        return
    assert index.pack() == data


HEADER = MAGIC + bytes([1, 0, 0])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"MRI3" + bytes([1, 0, 0, 1, 0, 1]), "magic"),
        (b"MRI2" + bytes([1, 0, 0, 1, 0, 1]), "has none"),
        (b"MRI2" + bytes([1, 0, 0, 1, 9, 1]) + bytes(8) + b"\x09", "that is none"),
        (b"MRI2" + bytes([1, 0, 0, 1, 9, 1]) + bytes(8), "inside a number"),
        (MAGIC + bytes([3, 0, 0, 1, 0, 1]), "key kind 3"),
        (MAGIC + bytes([1, 0, 65]) + bytes(70), "too long"),
        (MAGIC + bytes([1, 0, 1, 0xFF, 1, 0, 1]), "decode"),
        (HEADER + b"\0", "0 partitions"),
        (HEADER + bytes([0x80, 0x80, 0x04]), "65536 partitions"),
        (HEADER + bytes([2, 0, 3]), "run of 3"),
        (HEADER + bytes([2, 0, 0]), "run of 0"),
        (HEADER + bytes([2, 0, 1, 0, 1]), "run of 1"),
        (HEADER + bytes([1, 0, 1, 9]), "1 bytes too many"),
        (HEADER + bytes([1, 5, 1, 0]), "inside a checksum"),
        (HEADER + bytes([1, 0x80]), "inside a number"),
        (HEADER + bytes([0x81, 0x00]), "shortest"),
        (HEADER + b"\xff" * 9 + b"\x02", "too large"),
        (HEADER + b"\xff" * 30, "too large"),
        (HEADER + b"\x02" + (b"\xff" * 9 + b"\x01\x01" + bytes(8)) * 2, "2\\^64"),
    ],
)
def test_each_fault_is_named(body: bytes, why: str):
    with pytest.raises(ValueError, match=why):
        SegmentIndex.unpack(sealed(body))


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (([], [], []), "str"),
        (([1], [1, 2], [1]), "str"),
        (([1], [1], [1]), "int"),
        (([-1], [1], [1]), "str"),
        (([0], [1], [0]), "str"),
        (([1], [1 << 64], [1]), "str"),
        (([0] * 65_536, [0] * 65_536, [0] * 65_536), "str"),
    ],
)
def test_impossible_segments_are_refused(columns: tuple[list[int], list[int], list[int]], kind: str):
    with pytest.raises(ValueError):
        SegmentIndex(*columns, key_kind=kind)


def test_the_digest_names_the_content_and_not_the_place():
    one = SegmentIndex([3, 4], [1, 2], [5, 6], key_kind="str", base=10)
    assert one.digest() == SegmentIndex([3, 4], [1, 2], [5, 6], key_kind="str", base=99).digest()
    assert one.digest() != SegmentIndex([3, 4], [1, 2], [5, 7], key_kind="str", base=10).digest()
    assert one.digest() != SegmentIndex([3, 4], [1, 2], [5, 6], key_kind="bytes", base=10).digest()


def table(entries: list[tuple[int, str]]) -> str:
    digest = TableDigest()
    for entry in entries:
        digest.add(*entry)
    return digest.hex()


@given(st.dictionaries(st.integers(0, 99), st.text(max_size=4), min_size=1), st.randoms(use_true_random=False))
@examples(100)
def test_a_tables_digest_depends_on_its_entries_only(entries: dict[int, str], random):  # type: ignore[no-untyped-def]
    items = list(entries.items())
    shuffled = random.sample(items, len(items))
    assert table(items) == table(shuffled)
    assert table(items) != table(items[1:])
    assert table(items) != table([(items[0][0], items[0][1] + "x"), *items[1:]])
    digest = TableDigest()
    for entry in [*items, (1000, "gone")]:
        digest.add(*entry)
    digest.remove(1000, "gone")
    assert digest.hex() == table(items)
