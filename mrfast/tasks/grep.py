"""`ops.grep`: the lines that a bytes regex matches, by searching whole blocks where that finds the same lines.

Searching a block skips the lines in between without a call for each. With re.MULTILINE a search of the block finds, at
the latest, the place where the next matching line matches: whatever matches a line by itself also matches it inside
the block, unless the pattern looks around, names the ends of the text, or refuses to backtrack. Each candidate line is
then matched by itself, so the result is always that of `re.search(pattern, line)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mrfast import ops

# A repeat of something that matches a line end may run over the whole block from each place where it begins.
REPEAT_OVER_LINES_MAX = 16

_LF = 10


class Matcher:
    """Finds the matching lines of a block of whole lines."""

    def __init__(self, pattern: bytes):
        self._line = re.compile(pattern)
        self._block = re.compile(pattern, re.MULTILINE) if searches_blocks(pattern) else None

    def lines(self, block: bytes) -> Iterator[bytes]:
        """The matching lines of the block, without their line ends."""
        search = self._line.search
        if self._block is None:
            lines = block.split(b"\n")
            if not lines[-1]:
                lines.pop()
            return (line for line in lines if search(line))
        return self._candidates(self._block, block)

    def count(self, block: bytes) -> int:
        """How many lines of the block match."""
        return sum(1 for _ in self.lines(block))

    def _candidates(self, pattern: re.Pattern[bytes], block: bytes) -> Iterator[bytes]:
        position, size = 0, len(block)
        find, verify = pattern.search, self._line.search
        while position < size:
            match = find(block, position)
            if match is None or match.start() >= size:
                return
            at = match.start()
            start = block.rfind(b"\n", position, at) + 1 or position
            stop = block.find(b"\n", at)
            if stop < 0:
                stop = size
            line = block[start:stop]
            if verify(line):
                yield line
            position = stop + 1


def grep_pairs(op: ops.Grep, path: str, blocks: Iterable[bytes]) -> Iterator[list[tuple[str, Any]]]:
    """The pairs that `op` emits for one piece of the object at `path`, a list at a time."""
    matcher = Matcher(op.pattern)
    if op.by == "line":
        for block in blocks:
            yield [(path, line) for line in matcher.lines(block)]
        return
    total = sum(matcher.count(block) for block in blocks)
    if total:
        yield [(path, total)]


def searches_blocks(pattern: bytes) -> bool:
    """True if a multi-line search of a block misses no line that the pattern matches, and stays quick."""
    try:
        from re import _parser  # type: ignore[attr-defined]
    except ImportError:
        return False  # another Python's internals: lines one by one are always right
    parsed = _parser.parse(pattern)
    return _safe(parsed, bool(parsed.state.flags & re.DOTALL), repeats=1)


def _safe(parsed: Any, dotall: bool, repeats: int) -> bool:
    return all(_safe_item(str(op), argument, dotall, repeats) for op, argument in parsed)


def _safe_item(op: str, argument: Any, dotall: bool, repeats: int) -> bool:
    """Only what is known to be safe; `repeats` is how often the item can repeat at most."""
    few = repeats <= REPEAT_OVER_LINES_MAX
    if op == "LITERAL":
        return few or argument != _LF
    if op == "NOT_LITERAL":
        return few or argument == _LF
    if op == "ANY":
        return few or not dotall
    if op == "IN":
        return few or not _set_has_lf(argument)
    if op == "AT":
        return str(argument) in ("AT_BEGINNING", "AT_END", "AT_BOUNDARY", "AT_NON_BOUNDARY")
    if op in ("MAX_REPEAT", "MIN_REPEAT"):
        _, most, repeated = argument
        return _safe(repeated, dotall, repeats * int(most))
    if op == "BRANCH":
        return all(_safe(branch, dotall, repeats) for branch in argument[1])
    if op == "SUBPATTERN":
        _, added, removed, inner = argument
        return not removed & re.MULTILINE and _safe(inner, dotall or bool(added & re.DOTALL), repeats)
    return False


def _set_has_lf(items: Any) -> bool:
    negated = found = False
    for op, argument in items:
        kind = str(op)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found |= argument == _LF
        elif kind == "RANGE":
            found |= argument[0] <= _LF <= argument[1]
        else:
            found |= str(argument) in ("CATEGORY_SPACE", "CATEGORY_NOT_DIGIT", "CATEGORY_NOT_WORD")
    return found != negated
