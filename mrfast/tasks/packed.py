"""Segments compressed by zstd, a frame each, for stores where bytes take longer than a core needs to save them.

benches/compress.py has the figures: zstd at level 1 leaves 0.15 to 0.6 of the bytes of a segment of 4 KiB or more for 3
to 9 CPU seconds a GiB there and back. LZ4 takes 0.4 of that time and leaves 1.3 to 1.7 times as many bytes; it wins
from about 200 MB/s a core on, which machines in a cloud do not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import xxhash

from mrfast.errors import MrfastError
from mrfast.tasks.inflate import gzip_module
from mrfast.zstd import zstd

if TYPE_CHECKING:
    from mrfast.core import Segments

LEVEL = 1
BYTES_MIN = 4 << 10  # a smaller segment takes as long, and leaves most of its bytes
WHOLE_BYTES_MAX = 1 << 20  # so much of a segment is held to see whether compressing it gains anything
LEAST_GAIN = 8  # at least an eighth of the bytes
CHUNK_BYTES = 1 << 20


class FrameError(Exception):
    """Bytes that are no such frame."""


def unpacked(blocks: Iterable[Any], raw: int, piece_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The `raw` bytes of the frame that the blocks make, piece by piece; FrameError behind them."""
    module = _zstd()
    decompressor, size = module.ZstdDecompressor(), 0
    try:
        for block in blocks:
            data = block
            while True:
                piece: bytes = decompressor.decompress(data, piece_bytes)
                size += len(piece)
                if size > raw:
                    raise FrameError(f"a frame gives more than {raw:,} bytes")
                if piece:
                    yield piece
                if decompressor.eof or (decompressor.needs_input and len(piece) < piece_bytes):
                    break
                data = b""
    except (module.ZstdError, EOFError) as error:
        raise FrameError(str(error)) from None
    if size != raw or not decompressor.eof or decompressor.unused_data:
        raise FrameError(f"a frame gives {size:,} of {raw:,} bytes")


def compressed(chunks: Iterable[Any], kind: str) -> Iterator[bytes]:
    """The chunks as one "zst" frame or "gz" member, piece by piece; of none an empty one, as tools expect."""
    if kind == "zst":
        compressor = _zstd().ZstdCompressor(LEVEL)
    else:
        zlib = gzip_module()
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, wbits=31)
    for chunk in chunks:
        if piece := compressor.compress(chunk):
            yield piece
    yield compressor.flush()


class Packed:
    """The segments of a map, each compressed if that gains something: as they are stored, once `chunks` has ended."""

    def __init__(self, segments: Segments) -> None:
        self.lengths: list[int] = []
        self.checksums: list[int] = []
        self.raws: list[int] = []  # the bytes of each before; 0 of one that is stored as it is
        self._segments = segments
        compressor = _zstd().ZstdCompressor
        self._whole = compressor(LEVEL)  # used again for each: making one takes as long as 10 KiB
        self._frame_end = compressor.FLUSH_FRAME
        self._block_end = compressor.FLUSH_BLOCK

    @property
    def key_kind(self) -> str | None:
        """That of the segments."""
        return self._segments.key_kind

    @property
    def counts(self) -> list[int]:
        """The records of each."""
        return self._segments.counts

    @property
    def records(self) -> int:
        """The records of all."""
        return self._segments.records

    def chunks(self) -> Iterator[bytearray]:
        """The segments back to back, as they are stored."""
        out = bytearray()
        segment = _Segment(self)
        for chunk in self._segments.chunks():
            view = memoryview(chunk)
            for length in self._segments.ended(len(self.lengths)):
                rest = length - segment.raw
                segment.add(view[:rest], out)
                view = view[rest:]
                self._end(segment, out)
                segment = _Segment(self)
            segment.add(view, out)
            view.release()
            if len(out) >= CHUNK_BYTES:
                yield out
                out = bytearray()
        for _ in self._segments.ended(len(self.lengths)):
            self._end(segment, out)
            segment = _Segment(self)
        if out:
            yield out

    def ended(self, first: int) -> list[int]:
        """The lengths of the segments from `first` on that have been made."""
        return self.lengths[first:]

    def _end(self, segment: _Segment, out: bytearray) -> None:
        segment.end(out)
        self.lengths.append(segment.stored)
        self.checksums.append(segment.digest.intdigest() if segment.stored else 0)
        self.raws.append(segment.raw if segment.is_packed else 0)

    def whole(self, data: bytearray) -> bytes:
        """The data as one frame."""
        self._whole.set_pledged_input_size(len(data))
        frame: bytes = self._whole.compress(data, self._frame_end)
        return frame

    def begun(self, data: bytearray) -> tuple[Any, bytes]:
        """(a compressor, the beginning of its frame)."""
        compressor = _zstd().ZstdCompressor(LEVEL)
        return compressor, compressor.compress(data, self._block_end)


class _Segment:
    """One segment on its way: held up to a bound, then as it is or through a compressor of its own."""

    def __init__(self, packed: Packed) -> None:
        self.raw = self.stored = 0
        self.is_packed = False
        self.digest = xxhash.xxh3_64()
        self._packed = packed
        self._held: bytearray | None = bytearray()
        self._compressor: Any = None

    def add(self, data: memoryview, out: bytearray) -> None:
        """More of it."""
        self.raw += len(data)
        if self._held is None:
            self._put(self._compressor.compress(data) if self.is_packed else data, out)
            return
        rest = WHOLE_BYTES_MAX - len(self._held)  # exactly so much: what is stored must not depend on the chunks
        self._held += data[:rest]
        if len(data) > rest:
            self._compressor, begin = self._packed.begun(self._held)
            self.is_packed = _gains(begin, self._held)
            self._put(begin if self.is_packed else self._held, out)
            self._held = None
            self._put(self._compressor.compress(data[rest:]) if self.is_packed else data[rest:], out)

    def end(self, out: bytearray) -> None:
        """That was all of it."""
        if self._held is None:
            if self.is_packed:
                self._put(self._compressor.flush(), out)
            return
        frame = self._packed.whole(self._held) if len(self._held) >= BYTES_MIN else b""
        self.is_packed = frame != b"" and _gains(frame, self._held)
        self._put(frame if self.is_packed else self._held, out)

    def _put(self, data: Any, out: bytearray) -> None:
        self.digest.update(data)
        self.stored += len(data)
        out += data


def _gains(frame: bytes, data: bytearray) -> bool:
    return len(frame) <= len(data) - len(data) // LEAST_GAIN


def _zstd() -> Any:
    try:
        return zstd()
    except ImportError:
        raise MrfastError('a segment is compressed by zstd: pip install "mrfast[zstd]"') from None
