"""A bytes regex as a table for the core's grep: a deterministic automaton over the bytes of one line.

`re.search(pattern, line)` finds a match exactly when the automaton accepts the line. Only what that holds for is
translated: literals, sets, `.`, groups, alternatives, repeats, `^`, `$`, `\\A`, `\\Z`, `\\b`, `\\B`. Look-around,
back-references, possessive repeats, repeats of what can be empty and what depends on the locale are left to `re`.

The pattern's own parse tree becomes an automaton with several next states (Thompson, CACM 11, 1968), and that one a
deterministic automaton by the subset construction; bytes that no set tells apart share a class.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

NODES_MAX = 2_000
STATES_MAX = 1_000
CELLS_MAX = 60_000  # states times classes of bytes: the table's numbers have 16 bits
WORK_MAX = 10_000_000  # looks at a byte of a move: about half a second
LITERAL_BYTES_MAX = 64
_LF = 10
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CATEGORIES = {
    "CATEGORY_DIGIT": frozenset(b"0123456789"),
    "CATEGORY_SPACE": frozenset(b" \t\n\r\f\v"),
    "CATEGORY_WORD": _WORD,
}
_ALL = frozenset(range(256))
# What the kernel knows the first states as.
MATCHED, FAILED, START, LATER = range(4)
_NOWHERE = frozenset[str]()
_LINE_START, _LINE_END = frozenset(["AT_BEGINNING"]), frozenset(["AT_END"])
_BOUNDARY = {False: frozenset(["AT_NON_BOUNDARY"]), True: frozenset(["AT_BOUNDARY"])}
# Whether \B matches in an empty line: it does from Python 3.14 on.
_EMPTY_LINE = _BOUNDARY[False] if re.search(rb"\B", b"") else _NOWHERE


@dataclass(frozen=True, slots=True)
class Automaton:
    """The tables of a pattern, as `core.MapSink(source=...)` takes them."""

    kind: ClassVar[str] = "grep"
    class_of: bytes  # of each byte
    classes: int
    next: array[int]  # states times classes of 16 bits: the next state, times classes
    ends: bytes  # of each state: 1 if a line that ends there matches
    literal: bytes  # what every match contains, once each byte is or-ed with the one in `fold`; empty: nothing is known
    fold: bytes
    rarest: tuple[int, int]  # which two of these bytes to look for
    leads: bool  # every match begins with the literal
    settles: bool  # what begins with the literal is a match
    by: str


class _UntranslatableError(Exception):
    pass


@lru_cache(maxsize=4)  # a slot maps many pieces with one pattern
def automaton(pattern: bytes, by: str) -> Automaton | None:
    """The pattern's automaton; None if it is one for `re`."""
    try:
        from re import _parser  # type: ignore[attr-defined]
    except ImportError:
        return None  # another Python's internals
    parsed = _parser.parse(pattern)
    flags = parsed.state.flags
    nodes = _Nodes()
    try:
        if flags & re.LOCALE:
            raise _UntranslatableError
        first, last = nodes.sequence(parsed, flags)
        class_of, next, ends = _determine(nodes, first, last)
    except (_UntranslatableError, RecursionError):
        return None
    width = max(class_of) + 1
    found = _literal(parsed, flags)
    leads = found.leads and bool(found.text)
    settles = leads and _matched_by(found.text, class_of, width, next)
    needle = bytes(found.text), bytes(found.fold), found.rarest(), leads, settles
    return Automaton(class_of, width, next, ends, *needle, by)


def _matched_by(text: bytearray, class_of: bytes, width: int, next: array[int]) -> bool:
    state = LATER * width
    for byte in text:
        state = next[state + class_of[byte]]
    return state == MATCHED


class _Nodes:
    """The automaton with several next states: node numbers, and edges by bytes or by nothing."""

    def __init__(self) -> None:
        self.moves: list[tuple[frozenset[int], int] | None] = []  # of a node, at most one
        self.free: list[list[int]] = []  # edges that take no byte
        self.places: list[list[tuple[str, int]]] = []  # ... and only where the named place is
        self.bounded = False  # some place depends on the bytes on both of its sides

    def new(self) -> int:
        if len(self.free) >= NODES_MAX:
            raise _UntranslatableError
        self.moves.append(None)
        self.free.append([])
        self.places.append([])
        return len(self.free) - 1

    def sequence(self, items: Iterable[Any], flags: int) -> tuple[int, int]:
        """(first node, last node) of the items, one after the other."""
        first = last = self.new()
        for op, argument in items:
            begin, end = self.item(str(op), argument, flags)
            self.free[last].append(begin)
            last = end
        return first, last

    def item(self, op: str, argument: Any, flags: int) -> tuple[int, int]:
        if op in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self.byte(_bytes_of(op, argument, flags))
        if op == "AT":
            return self.place(str(argument))
        if op == "SUBPATTERN":
            _, added, removed, inner = argument
            if added & re.LOCALE:
                raise _UntranslatableError
            return self.sequence(inner, (flags | added) & ~removed)
        if op == "BRANCH":
            first, last = self.new(), self.new()
            for branch in argument[1]:
                begin, end = self.sequence(branch, flags)
                self.free[first].append(begin)
                self.free[end].append(last)
            return first, last
        if op in ("MAX_REPEAT", "MIN_REPEAT"):  # how many are taken first says nothing about whether there is a match
            least, most, inner = argument
            return self.repeat(least, most, inner, flags)
        raise _UntranslatableError

    def byte(self, values: frozenset[int]) -> tuple[int, int]:
        first, last = self.new(), self.new()
        self.moves[first] = (values - {_LF}, last)
        return first, last

    def place(self, where: str) -> tuple[int, int]:
        """A line has one start and one end: MULTILINE is no different, nor is the LF that `$` may stand before."""
        first, last = self.new(), self.new()
        if where in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
            self.bounded = True
        elif where not in ("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING"):
            raise _UntranslatableError
        self.places[first].append((where.removesuffix("_STRING"), last))
        return first, last

    def repeat(self, least: int, most: Any, item: Any, flags: int) -> tuple[int, int]:
        if item.getwidth()[0] == 0:
            raise _UntranslatableError  # `re` ends a repeat at an empty turn
        first = last = self.new()
        for _ in range(least):
            begin, end = self.sequence(item, flags)
            self.free[last].append(begin)
            last = end
        if str(most) == "MAXREPEAT":
            begin, end = self.sequence(item, flags)
            after = self.new()
            self.free[last] += [begin, after]
            self.free[end] += [begin, after]
            return first, after
        out = self.new()
        for _ in range(int(most) - least):
            begin, end = self.sequence(item, flags)
            self.free[last] += [begin, out]
            last = end
        self.free[last].append(out)
        return first, out

    def closure(self, nodes: Iterable[int], here: frozenset[str] = _NOWHERE) -> frozenset[int]:
        """The nodes and all that are reached from them without a byte, at a place that is all of `here`."""
        found = set(nodes)
        pending = list(found)
        while pending:
            node = pending.pop()
            for other in (*self.free[node], *(to for where, to in self.places[node] if where in here)):
                if other not in found:
                    found.add(other)
                    pending.append(other)
        return frozenset(found)


def _bytes_of(op: str, argument: Any, flags: int) -> frozenset[int]:
    """The bytes that one item matches."""
    if op == "ANY":
        return _ALL
    if op == "IN":
        negated = bool(argument) and str(argument[0][0]) == "NEGATE"
        found: frozenset[int] = frozenset()
        for kind, value in argument[negated:]:
            found |= _set_of(str(kind), value)
        found = _both_cases(found) if flags & re.IGNORECASE else found
        return _ALL - found if negated else found
    found = frozenset([argument])
    found = _both_cases(found) if flags & re.IGNORECASE else found
    return found if op == "LITERAL" else _ALL - found


def _set_of(kind: str, value: Any) -> frozenset[int]:
    if kind == "LITERAL":
        return frozenset([value])
    if kind == "RANGE":
        return frozenset(range(value[0], value[1] + 1))
    name = str(value)
    if kind == "CATEGORY" and name in _CATEGORIES:
        return _CATEGORIES[name]
    if kind == "CATEGORY" and name.replace("_NOT", "") in _CATEGORIES:
        return _ALL - _CATEGORIES[name.replace("_NOT", "")]
    raise _UntranslatableError


def _both_cases(values: frozenset[int]) -> frozenset[int]:
    """With the other case of each ASCII letter: bytes have no other letters."""
    text = bytes(values)
    return frozenset(text + text.lower() + text.upper())


def _determine(nodes: _Nodes, first: int, last: int) -> tuple[bytes, array[int], bytes]:
    """(class of each byte, next states, ends) of the deterministic automaton that finds a match anywhere in a line."""
    sets = {move[0] for move in nodes.moves if move is not None}
    class_of, samples = _classes(sets | {_WORD} if nodes.bounded else sets)
    width = len(samples)
    hopeful = _leading_to(nodes, last)
    behind = {target: nodes.closure([target]) for _, target in filter(None, nodes.moves)}
    again = nodes.closure([first])  # a match may begin at any byte
    # A state: its nodes, and whether it stands behind a byte of a word (False where no place asks for it).
    matched, failed, later = (frozenset([last]), False), (frozenset[int](), False), (again, False)
    # MATCHED, FAILED, START and LATER, even where two of them are the same.
    states = [matched, failed, (nodes.closure([first], _LINE_START), False), later]
    numbers = {later: LATER, matched: MATCHED, failed: FAILED}
    rows = [[MATCHED] * width, [FAILED] * width]
    work = 0
    for number in range(START, STATES_MAX):
        if number == len(states):
            break
        current, in_word = states[number]
        line_start = _LINE_START if number == START else _NOWHERE
        before = {}  # the nodes before a byte outside of words, and before one of a word
        for word in (False, True) if nodes.bounded else (False,):
            place = line_start | (_BOUNDARY[word != in_word] if nodes.bounded else _NOWHERE)
            before[word] = nodes.closure(current, place)
        moves = {word: [move for node in at if (move := nodes.moves[node])] for word, at in before.items()}
        work += width * (len(again) + sum(map(len, moves.values())))
        if work > WORK_MAX or len(states) * width > CELLS_MAX:
            raise _UntranslatableError
        row = []
        for byte in samples:
            word = nodes.bounded and byte in _WORD
            there = again.union(*(behind[target] for values, target in moves[word] if byte in values))
            state = (there, word)
            if last in there or last in before[word]:
                state = matched
            elif there.isdisjoint(hopeful):
                state = failed
            if state not in numbers:
                numbers[state] = len(states)
                states.append(state)
            row.append(numbers[state])
        rows.append(row)
    if len(rows) < len(states) or len(states) * width > CELLS_MAX:
        raise _UntranslatableError
    ends = bytearray(last in nodes.closure(current, _LINE_END | _BOUNDARY[word]) for current, word in states)
    ends[START] = last in nodes.closure(states[START][0], _LINE_START | _LINE_END | _EMPTY_LINE)
    ends[MATCHED], ends[FAILED] = 1, 0
    return class_of, array("H", (state * width for row in rows for state in row)), bytes(ends)


def _leading_to(nodes: _Nodes, last: int) -> frozenset[int]:
    """The nodes from which more bytes, or the line's end, can still lead to `last`; a line's start is behind them."""
    before: dict[int, list[int]] = {}
    for node, move in enumerate(nodes.moves):
        places = [to for where, to in nodes.places[node] if where != "AT_BEGINNING"]
        for other in (*nodes.free[node], *places, *([move[1]] if move is not None and move[0] else [])):
            before.setdefault(other, []).append(node)
    found = {last}
    pending = [last]
    while pending:
        for node in before.get(pending.pop(), ()):
            if node not in found:
                found.add(node)
                pending.append(node)
    return frozenset(found)


def _classes(sets: Iterable[frozenset[int]]) -> tuple[bytes, list[int]]:
    """(class of each byte, a byte of each class): bytes that no set tells apart are of one class."""
    distinct = sorted(sets, key=sorted)
    numbers: dict[tuple[bool, ...], int] = {}
    samples: list[int] = []
    class_of = bytearray(256)
    for byte in range(256):
        signature = tuple(byte in each for each in distinct)
        if signature not in numbers:
            numbers[signature] = len(samples)
            samples.append(byte)
        class_of[byte] = numbers[signature]
    return bytes(class_of), samples


# Bytes of text and logs, the commonest first; what is not here is rare.
_COMMON = b' 0e1t2a"/oi.n-sr3:4l5d6c7h8u9mp\tfgybw,vk=TSAICEPMDR'


def _rarity(byte: int) -> int:
    at = _COMMON.find(byte)
    return 1 + (len(_COMMON) if at < 0 else at) // 4


@dataclass(slots=True)
class _Literal:
    """Bytes that follow each other: one of them is text[i] once it is or-ed with fold[i], which is 0 or one bit."""

    text: bytearray = field(default_factory=bytearray)
    fold: bytearray = field(default_factory=bytearray)
    leads: bool = False

    def add(self, values: frozenset[int]) -> bool:
        """Appends the byte that is one of `values`; False if no fold makes one of them."""
        fold = max(values, default=0) ^ min(values, default=0)
        if not 1 <= len(values) <= 2 or fold & (fold - 1) or len(self.text) == LITERAL_BYTES_MAX:
            return False
        self.text.append(max(values))
        self.fold.append(fold)
        return True

    def weight(self) -> int:
        return sum(map(_rarity, self.text))

    def rarest(self) -> tuple[int, int]:
        """Where its two rarest bytes are."""
        places = sorted(range(len(self.text)), key=lambda at: -_rarity(self.text[at]))
        return (places[0], places[min(1, len(places) - 1)]) if places else (0, 0)


def _literal(items: Any, flags: int) -> _Literal:
    """The rarest string that every match contains."""
    runs = [_Literal(leads=True)]
    for op, argument in items:
        name = str(op)
        if name in ("LITERAL", "IN") and runs[-1].add(_bytes_of(name, argument, flags) - {_LF}):
            continue
        if name == "SUBPATTERN":
            inner = _literal(argument[3], (flags | argument[1]) & ~argument[2])
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and argument[0]:
            inner = _literal(argument[2], flags)
        else:
            inner = _Literal()
        inner.leads &= runs[-1].leads and not runs[-1].text
        runs += [inner, _Literal()]
    return max(runs, key=_Literal.weight)
