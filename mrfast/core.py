"""The native kernels by themselves: `from mrfast import core`.

    core.tokens(b"To be, or not", letters="ascii")      ['To', 'be', 'or', 'not']
    core.xxh3_64("key"), core.partition("key", 10)      the hash contract: what PyPI's xxhash gives

A word count of your own, as a map task and a reduce task do it:

    sink = core.MapSink(10, source=ops.words(letters="unicode"), combine=ops.sum())
    sink.begin("moby.txt")
    for block in blocks:                                 # cut anywhere: words across blocks are whole
        sink.feed(block)                                 # no GIL
    sink.end()
    drained = sink.drain()                               # 10 sorted segments in drained.body

    group = core.Grouper(key_kind=drained.key_kind, reduce=ops.sum())
    offset = 0
    for length, records, xxh3 in zip(drained.lengths, drained.counts, drained.checksums):
        segment = memoryview(drained.body)[offset : offset + length]
        ...                                              # group.add(segment, order=0, records=records, xxh3=xxh3)
        offset += length
    part = group.write("text")                           # b"be 1\\nor 1\\n..."

Pairs from Python go in with `sink.emit(key, value)` or, faster, `sink.emit_all(generator)`; groups come out by
iterating a Grouper; a `LineWriter` writes what a reduce makes of them. Keys are str or all bytes; values str, bytes,
int, float, bool, None or what JSON holds. A class here belongs to one thread at a time; using it from two at once
raises RuntimeError.

`SIMD` is the width of the vector code in use, one of `SIMD_LEVELS`; MRFAST_SIMD=scalar (sse2, avx2, avx512; neon on
arm64) in the environment forces one. All give the same bytes.

`map_object` wraps drained segments as the one object that a map task writes, and `read_index` finds them again:

    header   "MRFASTMAP1 <job> <attempt>" LF
    body     the R segments back to back; one with `index.raw(p)` bytes bare is a zstd frame
    index    a packed SegmentIndex (see mrfast/index.py)
    trailer  length of the index (4 bytes, little-endian) and "MRX1"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from mrfast._core import (
    COMBINING,
    FOLDING,
    SIMD,
    SIMD_LEVELS,
    UNICODE_VERSION,
    Buffer,
    Drained,
    Grouper,
    LineWriter,
    MapSink,
    check_segment,
    crc32c,
    escape_key,
    escape_value,
    lower,
    partition,
    read_segment,
    reduce_values,
    tokens,
    use_simd,
    xxh3_64,
)
from mrfast.index import TRAILER_MAGIC, SegmentIndex, read_index

__all__ = [
    "COMBINING",
    "FOLDING",
    "SIMD",
    "SIMD_LEVELS",
    "UNICODE_VERSION",
    "Buffer",
    "Drained",
    "Grouper",
    "LineWriter",
    "MapSink",
    "SegmentIndex",
    "Segments",
    "check_segment",
    "crc32c",
    "escape_key",
    "escape_value",
    "lower",
    "map_object",
    "object_header",
    "object_tail",
    "partition",
    "read_index",
    "read_segment",
    "reduce_values",
    "tokens",
    "use_simd",
    "xxh3_64",
]


class Segments(Protocol):
    """R segments, as a sink drained them or as spilled runs were merged."""

    @property
    def key_kind(self) -> str | None: ...
    @property
    def lengths(self) -> list[int]: ...
    @property
    def counts(self) -> list[int]: ...
    @property
    def checksums(self) -> list[int]: ...
    @property
    def records(self) -> int: ...
    def chunks(self) -> Iterator[Any]: ...
    def ended(self, first: int) -> list[int]: ...


def object_header(job: str, attempt: str) -> bytes:
    """The first line of a map object: a reader that finds another one was given the wrong object."""
    return f"MRFASTMAP1 {job} {attempt}\n".encode()


def map_object(drained: Drained, job: str, attempt: str) -> tuple[list[bytes | Buffer], bytes, int]:
    """The map object of drained segments: its buffers in order, its packed index, its size in bytes."""
    header = object_header(job, attempt)
    index, trailer = object_tail(drained, len(header), drained.combined)
    buffers: list[bytes | Buffer] = [header, drained.body, index, trailer]
    return buffers, index, sum(len(buffer) for buffer in buffers)


def object_tail(segments: Segments, base: int, combine: str | None, raws: Sequence[int] = ()) -> tuple[bytes, bytes]:
    """The packed index and the trailer of a map object whose first segment begins at offset `base`.

    `raws`: what each has uncompressed, 0 where it is not compressed.
    """
    index = SegmentIndex(
        segments.lengths,
        segments.counts,
        segments.checksums,
        key_kind=segments.key_kind,
        base=base,
        combine=combine or "",
        raws=raws,
    ).pack()
    return index, len(index).to_bytes(4, "little") + TRAILER_MAGIC
