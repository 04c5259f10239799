"""Which bytes of which objects each map task reads: a pure function of the inputs, in map index order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import xxhash

from mrfast.errors import BoundPassed, UsageError
from mrfast.model import MAPS_MAX, OBJECTS_PER_TASK_THRESHOLD, InputCut, InputObject, Piece

COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
PACK_OBJECTS_MAX = 256  # each object weighs at least split_bytes / this, so that tiny ones spread over the workers


def is_compressed(path: str) -> bool:
    """Whether an object is read through a decompressor, and so is never split."""
    return path.lower().endswith(COMPRESSED_SUFFIXES)


def plan(inputs: Sequence[InputObject], cut: InputCut, split_bytes: int) -> list[tuple[Piece, ...]]:
    """The pieces of each map task; a record belongs to the piece that its first byte lies in.

    Up to 10,000 objects are a task each, or several if they are large and may be split. Of more objects, neighbours
    are packed into tasks of up to `split_bytes` and at most 256 objects.
    """
    step = _step(cut, split_bytes)
    tasks = _packed(inputs, cut, step) if len(inputs) > OBJECTS_PER_TASK_THRESHOLD else _single(inputs, cut, step)
    planned: list[tuple[Piece, ...]] = []
    for pieces in tasks:
        if len(planned) == MAPS_MAX:
            raise BoundPassed(
                f"the inputs give more than {MAPS_MAX:,} map tasks with --split-bytes {split_bytes}: "
                "give a larger --split-bytes, or fewer inputs"
            )
        planned.append(pieces)
    return planned


def _step(cut: InputCut, split_bytes: int) -> int:
    if split_bytes < 1:
        raise UsageError(f"--split-bytes {split_bytes}: must be at least 1")
    if cut.kind != "records":
        return split_bytes
    if cut.record_bytes < 1:
        raise UsageError(f"records of {cut.record_bytes} bytes: the size must be at least 1")
    return max(split_bytes // cut.record_bytes, 1) * cut.record_bytes


def _ranges(item: InputObject, cut: InputCut, step: int) -> Iterator[Piece]:
    """An object's pieces, all of `step` bytes but the last; an empty object is one empty piece."""
    if not cut.splittable or is_compressed(item.path):
        step = max(item.size, 1)
    for offset in range(0, max(item.size, 1), step):
        yield _piece(item, offset, min(step, item.size - offset))


def _piece(item: InputObject, offset: int, length: int) -> Piece:
    return Piece(item.path, item.url, item.size, item.etag, offset, length)


def _single(inputs: Sequence[InputObject], cut: InputCut, step: int) -> Iterator[tuple[Piece, ...]]:
    for item in inputs:
        for piece in _ranges(item, cut, step):
            yield (piece,)


def _packed(inputs: Sequence[InputObject], cut: InputCut, step: int) -> Iterator[tuple[Piece, ...]]:
    run: list[InputObject] = []
    for item in inputs:
        if item.size <= step:
            run.append(item)
            continue
        yield from _packs(run, step)
        run = []
        for piece in _ranges(item, cut, step):
            yield (piece,)
    yield from _packs(run, step)


def _packs(run: Sequence[InputObject], step: int) -> Iterator[tuple[Piece, ...]]:
    """Packs of neighbours: a run that is too large is parted before the name with the smallest hash in it, and so on.

    Borders found this way depend on the names around them only, so that a new object moves none but its own pack's.
    """
    if not run:
        return
    weights = [0, *accumulate(item.size - (-step // PACK_OBJECTS_MAX) for item in run)]
    root, left, right = _smallest_first([_hash(item.path) for item in run])
    parts = [(0, len(run), root)]
    while parts:
        first, end, border = parts.pop()
        if end - first == 1 or weights[end] - weights[first] <= step:
            yield tuple(_piece(item, 0, item.size) for item in run[first:end])
        else:
            parts.append((border, end, right[border]))
            parts.append((first, border, left[border]))


def _smallest_first(hashes: Sequence[int]) -> tuple[int, list[int], list[int]]:
    """The Cartesian tree over the places 1 .. n-1: (root, left children, right children); 0 is no child."""
    left, right = [0] * len(hashes), [0] * len(hashes)
    spine: list[int] = []
    for place in range(1, len(hashes)):
        below = 0
        while spine and hashes[spine[-1]] > hashes[place]:
            below = spine.pop()
        left[place] = below
        if spine:
            right[spine[-1]] = place
        spine.append(place)
    return (spine[0] if spine else 0), left, right


def _hash(path: str) -> int:
    return xxhash.xxh3_64_intdigest(path.encode("utf-8", "surrogatepass"))


def unsplit(planned: Iterable[tuple[Piece, ...]], whole: set[str]) -> Iterable[tuple[Piece, ...]]:
    """The plan with the objects of `whole` in one piece each, where their first piece was."""
    for pieces in planned:
        kept = tuple(
            replace(piece, length=piece.size) if piece.url in whole else piece
            for piece in pieces
            if piece.url not in whole or piece.offset == 0
        )
        if kept:
            yield kept
