"""The index of a map output object: where each partition's segment lies, how long it is, and its checksum.

Pure Python, so that the coordinator can read an index without the native core. A packed index is

    magic "MRI1" · header · entries · xxh3_64 of all before (8 bytes, little-endian)
    header   varints: key kind, base offset, length of the combine op's name (and its UTF-8), partitions
    entries  varint length L of a segment's bytes. L > 0: varint records, 8 bytes xxh3 (little-endian).
             L = 0: varint count of the empty partitions that begin here.

If any segment is compressed the magic is "MRI2", and behind each xxh3 stands a varint of the bytes that its segment has
uncompressed, 0 for one that is stored as it is. Checksums are of what is stored.

Varints are unsigned LEB128 in their shortest form, and neighbouring runs are joined, so each index has one encoding.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from operator import sub

import xxhash

from mrfast.errors import CorruptSegment
from mrfast.model import REDUCES_MAX

MAGIC = b"MRI1"
MAGIC_PACKED = b"MRI2"
TRAILER_MAGIC = b"MRX1"
TRAILER_BYTES = 8
KEY_KINDS = (None, "str", "bytes")
_U64_MAX = (1 << 64) - 1
_COMBINE_MAX = 64
_SUM_BYTES = 8


class SegmentIndex:
    """Lengths, record counts and checksums of the R segments of one map object, with O(1) access to each."""

    __slots__ = ("_digest", "_offsets", "base", "checksums", "combine", "key_kind", "raws", "records")

    def __init__(
        self,
        lengths: Sequence[int],
        records: Sequence[int],
        checksums: Sequence[int],
        *,
        key_kind: str | None,
        base: int = 0,
        combine: str = "",
        raws: Sequence[int] = (),
    ) -> None:
        if not 1 <= len(lengths) <= REDUCES_MAX or not len(lengths) == len(records) == len(checksums):
            raise ValueError(f"{len(lengths)} lengths, {len(records)} counts, {len(checksums)} checksums: no index")
        if key_kind not in KEY_KINDS:
            raise ValueError(f"key kind {key_kind!r} is none of {KEY_KINDS}")
        if len(combine.encode()) > _COMBINE_MAX:
            raise ValueError(f"the combine op's name has over {_COMBINE_MAX} bytes")
        self.key_kind = key_kind
        self.combine = combine
        self.base = base
        self._digest = ""
        offsets = [base]
        for length, count, checksum in zip(lengths, records, checksums, strict=True):
            if min(length, count, checksum) < 0 or (not length and (count or checksum)):
                raise ValueError(f"a segment of {length} bytes, {count} records and checksum {checksum}")
            offsets.append(offsets[-1] + length)
        if not any(raws):
            raws = ()
        elif len(raws) != len(lengths) or any(raw and raw <= length for raw, length in zip(raws, lengths, strict=True)):
            raise ValueError("a compressed segment that is none")
        try:
            self._offsets = array("Q", offsets)
            self.records = array("Q", records)
            self.checksums = array("Q", checksums)
            self.raws = array("Q", raws)
        except OverflowError as error:
            raise ValueError(f"an offset, count or checksum is not in 0 .. 2^64-1: {error}") from None

    @property
    def partitions(self) -> int:
        """R."""
        return len(self.records)

    @property
    def end(self) -> int:
        """The offset behind the last segment."""
        return self._offsets[-1]

    @property
    def total_records(self) -> int:
        """The records of all partitions."""
        return sum(self.records)

    def segment(self, partition: int) -> tuple[int, int, int, int]:
        """(offset in the object, length, records, xxh3) of one partition's segment."""
        if not 0 <= partition < len(self.records):
            raise IndexError(f"partition {partition} of {len(self.records)}")
        offset = self._offsets[partition]
        return offset, self._offsets[partition + 1] - offset, self.records[partition], self.checksums[partition]

    def lengths(self) -> list[int]:
        """The bytes of each partition's segment."""
        return list(map(sub, self._offsets[1:], self._offsets))

    def raw(self, partition: int) -> int:
        """The bytes that a partition's segment has uncompressed; 0 if it is stored as it is."""
        return self.raws[partition] if self.raws else 0

    def digest(self) -> str:
        """A name for the content: equal for two attempts of a map that gave the same segments."""
        if not self._digest:
            self._digest = xxhash.xxh3_64_hexdigest(b"".join(self._parts(with_base=False)))
        return self._digest

    def pack(self) -> bytes:
        """The index as bytes; `unpack` gives it back."""
        body = b"".join(self._parts(with_base=True))
        return body + xxhash.xxh3_64_intdigest(body).to_bytes(_SUM_BYTES, "little")

    @classmethod
    def unpack(cls, data: bytes) -> SegmentIndex:
        """The index from its bytes; ValueError if they are not exactly one packed index."""
        body = bytes(data[:-_SUM_BYTES])
        packed = body.startswith(MAGIC_PACKED)
        if not packed and not body.startswith(MAGIC):
            raise ValueError("not a segment index: wrong magic")
        if xxhash.xxh3_64_intdigest(body) != int.from_bytes(data[-_SUM_BYTES:], "little"):
            raise ValueError("the segment index does not match its checksum")
        kind, at = _read_varint(body, len(MAGIC))
        if kind >= len(KEY_KINDS):
            raise ValueError(f"unknown key kind {kind} in a segment index")
        kind_end = at
        base, at = _read_varint(body, at)
        rest = at
        named, at = _read_varint(body, at)
        if named > _COMBINE_MAX or at + named > len(body):
            raise ValueError("a segment index with a name that is too long")
        combine = body[at : at + named].decode()  # UnicodeDecodeError is a ValueError
        partitions, at = _read_varint(body, at + named)
        if not 1 <= partitions <= REDUCES_MAX:
            raise ValueError(f"a segment index of {partitions} partitions")
        lengths, records, checksums, raws = _read_entries(body, at, partitions, packed)
        if packed and not any(raws):
            raise ValueError("a segment index that says of compressed segments, and has none")
        index = cls(lengths, records, checksums, key_kind=KEY_KINDS[kind], base=base, combine=combine, raws=raws)
        # As `digest` would make it, from what is packed already: a half of what a report of 1,000 segments costs.
        index._digest = xxhash.xxh3_64_hexdigest(b"".join((body[:kind_end], _varint(0), memoryview(body)[rest:])))
        return index

    def _parts(self, with_base: bool) -> Iterator[bytes]:
        name = self.combine.encode()
        yield MAGIC_PACKED if self.raws else MAGIC
        yield _varint(KEY_KINDS.index(self.key_kind)) + _varint(self.base if with_base else 0)
        yield _varint(len(name)) + name + _varint(self.partitions)
        empty = 0
        for partition in range(self.partitions):
            length = self._offsets[partition + 1] - self._offsets[partition]
            if not length:
                empty += 1
                continue
            if empty:
                yield b"\0" + _varint(empty)
                empty = 0
            yield _varint(length) + _varint(self.records[partition])
            yield self.checksums[partition].to_bytes(8, "little")
            if self.raws:
                yield _varint(self.raws[partition])
        if empty:
            yield b"\0" + _varint(empty)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SegmentIndex) and self.pack() == other.pack()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return (
            f"SegmentIndex(partitions={self.partitions}, records={self.total_records}, "
            f"bytes={self.base}..{self.end}, key_kind={self.key_kind!r}, combine={self.combine!r})"
        )


def read_index(tail: bytes, size: int, object: str = "") -> SegmentIndex:
    """The index of a map object of `size` bytes, from its last bytes; raises CorruptSegment when it is none.

    A tail that is too short for the index raises ValueError whose argument is the number of bytes that are needed.
    """
    if len(tail) < TRAILER_BYTES or tail[-4:] != TRAILER_MAGIC:
        raise CorruptSegment(object, 0, size, "not a map object: its trailer is missing")
    need = int.from_bytes(tail[-8:-4], "little") + TRAILER_BYTES
    if need > size:
        raise CorruptSegment(object, 0, size, "the index is longer than the object")
    if need > len(tail):
        raise ValueError(need)
    try:
        index = SegmentIndex.unpack(bytes(tail[-need:-TRAILER_BYTES]))
    except ValueError as error:
        raise CorruptSegment(object, 0, size - need, str(error)) from None
    if index.end != size - need:
        raise CorruptSegment(object, 0, size - need, "the segments do not end where the index begins")
    return index


class TableDigest:
    """A digest of the table map index -> digest of its accepted output; the order of adding does not matter.

    Both sides keep one: the coordinator over the outputs it accepted, a reduce over those that it really used.
    """

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum = 0

    def add(self, map_index: int, digest: str) -> None:
        """Put one map's output in."""
        self._sum = (self._sum + _entry(map_index, digest)) & _U64_MAX

    def remove(self, map_index: int, digest: str) -> None:
        """Take one map's output out again."""
        self._sum = (self._sum - _entry(map_index, digest)) & _U64_MAX

    def hex(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._sum:016x}"


def _entry(map_index: int, digest: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{map_index} {digest}".encode())


def _varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset behind it)."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a segment index ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            break
        shift += 7
    if value > _U64_MAX or byte >= 0x80 or (shift and not byte):
        raise ValueError("a number in a segment index is too large or not in its shortest form")
    return value, at


def _read_entries(
    body: bytes, at: int, partitions: int, packed: bool
) -> tuple[list[int], list[int], list[int], list[int]]:
    raws: list[int] = []
    lengths: list[int] = []
    records: list[int] = []
    checksums: list[int] = []
    after_run = False
    while len(lengths) < partitions:
        length, at = _read_varint(body, at)
        count, at = _read_varint(body, at)
        if length:
            if at + 8 > len(body):
                raise ValueError("a segment index ends inside a checksum")
            lengths.append(length)
            records.append(count)
            checksums.append(int.from_bytes(body[at : at + 8], "little"))
            at += 8
            if packed:
                raw, at = _read_varint(body, at)
                raws.append(raw)
        else:
            if not 1 <= count <= partitions - len(lengths) or after_run:
                raise ValueError(f"a run of {count} empty partitions where it cannot be")
            for column in (lengths, records, checksums, raws) if packed else (lengths, records, checksums):
                column.extend([0] * count)
        after_run = not length
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes too many in a segment index")
    return lengths, records, checksums, raws
