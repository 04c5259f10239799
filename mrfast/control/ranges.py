"""Which bytes are read for a piece of an object in a remote store, and in which parts: known before the first read.

A pure function of the piece and of how the application wants its input, so that a plan can count the reads.
"""

from __future__ import annotations

from mrfast.control.splits import is_compressed
from mrfast.model import InputCut, Piece

BLOCK_BYTES = 1 << 20  # parts begin at multiples of it, from where their range does
PART_BYTES = 8 << 20
PARTS = 8  # a smaller range is cut into so many parts too, as long as they have a block each
HEADER_BYTES = 64 << 10  # read for the header of a CSV object with each piece but its first
OVERLAP_BYTES = 64 << 10  # read behind a piece's end, where its last record ends; the last part has it too


def span(piece: Piece, cut: InputCut) -> tuple[int, int]:
    """From where to where is read: the piece's own bytes, and what tells where its records begin and end."""
    begin, end, size = piece.offset, piece.offset + piece.length, piece.size
    if is_compressed(piece.path) or cut.kind == "file":
        return begin, end
    if cut.kind == "records":
        first, behind = (min(-(-at // cut.record_bytes) * cut.record_bytes, size) for at in (begin, end))
        return first, behind
    return max(0, begin - 1), end if end >= size else min(size, end + OVERLAP_BYTES)


def reads(piece: Piece, cut: InputCut) -> list[tuple[int, int]]:
    """From where to where each read of a piece goes: all of them, if no record is longer than the overlap."""
    header = [(0, min(HEADER_BYTES, piece.size))] if cut.kind == "csv" and piece.offset else []
    return header + parts(*span(piece, cut))


def parts(start: int, stop: int) -> list[tuple[int, int]]:
    """The parts in which the bytes from `start` to `stop` are read."""
    if start >= stop:
        return []
    body = max(1, stop - start - OVERLAP_BYTES - 1)
    blocks = -(-body // (PARTS * BLOCK_BYTES))
    step = max(1, min(PART_BYTES, blocks * BLOCK_BYTES))
    starts = range(start, start + body, step)
    return list(zip(starts, (*starts[1:], stop), strict=True))
