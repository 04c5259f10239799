"""The keys that take most of the shuffle: each map's heaviest, merged over its spills and over all accepted maps.

A sketch (`HotKeys`) is Space-Saving's (Metwally, Agrawal, El Abbadi, 2005): each of its keys has at least `size`
bytes and at most `size + error`, any other key at most `missed`. A drain's own sketch is exact, since in sorted
segments each key is one run. Sketches add up as in "Mergeable Summaries" (Agarwal et al., 2012): a key that one of
them lacks has at most its `missed` there. A sketch of k keys of n bytes misses at most n/k, and so does the sum over
maps; shorter ones (the journal's), a table that was pruned, and spills that were combined again miss more, and say
how much.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mrfast.model import HotKey, HotKeys

KEYS_MAX = 32  # in a report
KEYS_IN_JOURNAL = 8
LEAST_SHARE = 256  # of a map's bytes a key must have one part in so many to be named
TABLE_MAX = 4096  # keys that the merge of all maps may hold; half of them stay when there are more
TOP = 10
SHUFFLE_BYTES_MIN = 1 << 20  # of a smaller one nothing is worth saying
HOT_SHARE = 0.05
COMBINER_SHARE = 0.5  # of the records: a combiner that would leave more is no help

Drains = Iterable[tuple[list[tuple[bytes, int, int, int, int]], int, int]]  # Drained.hot of each
_Name = tuple[bytes, int, int]  # key, whole, partition


def of_map(drains: Drains, size: int, records: int, *, combined: bool, folded: bool) -> HotKeys | None:
    """The sketch of a map's output of `size` bytes; `folded`: what it drained was combined again when it was merged."""
    if not records:
        return None
    merged, distinct = HotTable(), 0
    for number, (keys, missed, runs) in enumerate(drains):
        distinct += runs
        named = tuple(HotKey(key, whole, partition, weight, count) for key, whole, partition, weight, count in keys)
        merged.add(number, HotKeys(named, missed, 0, 0, 0))
    heaviest = merged.heaviest(KEYS_MAX)
    whole = HotKeys(tuple(heaviest), merged.rest(heaviest), size, records, min(distinct, records), combined)
    if folded and len(merged) > 1:  # what is left of a key is not known, but that it is no more
        most = max((key.size + key.error for key in heaviest), default=0)
        return replace(whole, keys=(), missed=min(size, max(most, whole.missed)))
    return _without(whole, [key for key in heaviest if key.size * LEAST_SHARE >= size])


def cut(sketch: HotKeys | None, keys: int) -> HotKeys | None:
    """The sketch with no more than its heaviest so many keys."""
    return None if sketch is None else _without(sketch, sketch.keys[:keys])


def _without(sketch: HotKeys, kept: Iterable[HotKey]) -> HotKeys:
    kept = tuple(kept)
    names = {_name(key) for key in kept}
    left_out = [key.size + key.error for key in sketch.keys if _name(key) not in names]
    return replace(sketch, keys=kept, missed=max([sketch.missed, *left_out]))


def _name(key: HotKey) -> _Name:
    return key.key, key.whole, key.partition


class _Entry:
    """A key's sums: `slack` and the table's `missed` together are how much more it may have."""

    __slots__ = ("bytes", "name", "records", "slack")

    def __init__(self, name: _Name, slack: int) -> None:
        self.name = name
        self.bytes = self.records = 0
        self.slack = slack


class HotTable:
    """Sketches by map, added up; each map's may be taken out again when its output is lost."""

    def __init__(self, keys_max: int = TABLE_MAX) -> None:
        self.bytes = self.records = self.distinct = 0  # distinct: pairs of key and map, or somewhat more
        self._keys_max = keys_max
        self._entries: dict[_Name, _Entry] = {}
        self._maps: dict[int, tuple[tuple[_Name, ...], array[int], tuple[int, ...]]] = {}
        self._missed = 0
        self._pruned = 0  # no key that was dropped from the table had more
        self._combined = 0

    def __len__(self) -> int:
        return len(self._maps)

    def add(self, map_index: int, sketch: HotKeys | None) -> None:
        """Count a map's output, in the place of an earlier one of it."""
        self.remove(map_index)
        if sketch is None:
            return
        names, numbers = [], array("q")  # as objects, those of 10,000 maps would take 60 MB
        for key in sketch.keys:
            entry = self._entries.get(_name(key))
            if entry is None:
                entry = self._entries[_name(key)] = _Entry(_name(key), self._pruned)
            names.append(entry.name)
            numbers.extend((key.size, key.records, key.error - sketch.missed))
        totals = (sketch.missed, sketch.size, sketch.records, sketch.distinct, int(sketch.combined))
        self._maps[map_index] = tuple(names), numbers, totals
        self._count(map_index, 1)
        if len(self._entries) > self._keys_max:
            order = sorted(self._entries.values(), key=lambda entry: entry.bytes + entry.slack, reverse=True)
            for entry in order[self._keys_max // 2 :]:
                self._pruned = max(self._pruned, entry.bytes + entry.slack + self._missed)
                del self._entries[entry.name]

    def remove(self, map_index: int) -> None:
        """Forget a map's output."""
        if map_index in self._maps:
            self._count(map_index, -1)
            del self._maps[map_index]
        if not self._maps:
            self._entries.clear()
            self._pruned = 0

    def _count(self, map_index: int, sign: int) -> None:
        names, numbers, (missed, size, records, distinct, combined) = self._maps[map_index]
        self._missed += sign * missed
        self.bytes += sign * size
        self.records += sign * records
        self.distinct += sign * distinct
        self._combined += sign * combined
        for at, name in enumerate(names):
            # One that was dropped and came again may be taken out more than it has: its bounds only become wider.
            if (entry := self._entries.get(name)) is not None:
                entry.bytes += sign * numbers[3 * at]
                entry.records += sign * numbers[3 * at + 1]
                entry.slack += sign * numbers[3 * at + 2]

    @property
    def combined(self) -> bool:
        """Whether the application combines, or does what no combiner could."""
        return self._combined > 0

    @property
    def error_bytes(self) -> int:
        """No key has more than so many bytes over what is told of it; 0 is told of those that are not named."""
        return min(self._missed + self._pruned, self.bytes) if self.bytes else self._missed + self._pruned

    def heaviest(self, most: int = TOP) -> list[HotKey]:
        """The keys with the most bytes, those first."""
        found = [entry for entry in self._entries.values() if entry.bytes > 0]
        found.sort(key=lambda entry: (-entry.bytes, entry.name))
        return [
            HotKey(*entry.name, entry.bytes, max(0, entry.records), max(0, entry.slack + self._missed))
            for entry in found[:most]
        ]

    def rest(self, kept: Iterable[HotKey]) -> int:
        """The most bytes that any key but these may have."""
        names = {_name(key) for key in kept}
        others = [entry.bytes + entry.slack for name, entry in self._entries.items() if name not in names]
        return max(self._missed + self._pruned, self._missed + max(others, default=0))

    def told(self) -> list[dict[str, Any]]:
        """The heaviest keys as documents: key, bytes, records, share (of the shuffle), partition."""
        whole = max(1, self.bytes)
        return [
            {
                "key": text(key),
                "bytes": key.size,
                "records": key.records,
                "share": round(key.size / whole, 4),
                "partition": key.partition,
            }
            for key in self.heaviest()
        ]

    def event(self, reduces: int) -> dict[str, Any]:
        """What the event `hot` says."""
        return {
            "keys": self.told(),
            "error_bytes": self.error_bytes,
            "shuffle_bytes": self.bytes,
            "combined": self.combined,
            "advice": self.advice(reduces),
        }

    def advice(self, reduces: int) -> str:
        """One line on what slows the shuffle and its cure; empty if there is nothing that matters."""
        if self.bytes < SHUFFLE_BYTES_MIN:
            return ""
        hot = next(iter(self.heaviest(1)), None)
        share = hot.size / self.bytes if hot is not None else 0.0
        left = self.distinct / self.records
        combine = ""
        if not self.combined and left <= COMBINER_SHARE:
            combine = (
                f"a combiner would send {_percent(left)} of the {self.records:,} records. If reduce may be applied to "
                "its own results, as a sum may, add `combine = reduce`, or make reduce an op such as ops.sum()"
            )
        if hot is None or share <= HOT_SHARE or share <= 2 / reduces:
            return f"repeated keys: {combine}" if combine else ""
        named = f'hot key: "{printable(text(hot))}" is {_percent(share)} of the shuffle (partition {hot.partition})'
        return f"{named}: " + (
            combine
            or "the reduce of that partition will take longest. Make the key finer, or salt it: emit (key, 0) to "
            "(key, 9) in turn, and join the ten results of a key in a second job"
        )


def text(key: HotKey) -> str:
    """The key as text: a longer one ends with an ellipsis, and never within a character."""
    data = key.key
    if key.whole:
        for back in range(1, min(4, len(data)) + 1):
            lead = data[-back]
            if lead >= 0xC0:  # it says how many bytes the character has
                need = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
                data = data[:-back] if need > back else data
            if lead < 0x80 or lead >= 0xC0:
                break
    return data.decode("utf-8", "backslashreplace") + ("…" if key.whole else "")


def printable(said: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in said)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "under 1 %"
