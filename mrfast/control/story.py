"""What happened to a task, when and to which attempt: packed, so that a million tasks can each keep theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

WORDS = (
    "leased",
    "backup",
    "back",
    "adopted",
    "expired",
    "failed",
    "released",
    "preempted",
    "cancelled",
    "accepted",
    "superseded",
    "output_lost",
    "rolled_back",
)
FIRST_KEPT = 8  # of a long story the beginning stays, ...
EVENTS_MAX = 48  # ... and the newest events; those between are counted only

_CODES = {word: code for code, word in enumerate(WORDS)}
_EVENT = Struct("<IdBQI")  # number, seconds since the job's start, word, attempt, worker


def tell(story: bytearray, at_s: float, word: str, n: int, worker: int) -> None:
    """Append one event; past the bound the oldest one after the beginning goes."""
    serial = _EVENT.unpack_from(story, len(story) - _EVENT.size)[0] + 1 if story else 0
    story += _EVENT.pack(serial, at_s, _CODES[word], n, worker)
    if len(story) > EVENTS_MAX * _EVENT.size:
        del story[FIRST_KEPT * _EVENT.size : (FIRST_KEPT + 1) * _EVENT.size]


def lines(story: bytes | bytearray, attempt: Callable[[int], str], worker: Callable[[int], str]) -> Iterator[str]:
    """The story as lines for people, a line where events were left out."""
    expected = 0
    for serial, at_s, code, n, who in _EVENT.iter_unpack(story):
        if serial != expected:
            yield f"... {serial - expected} more events ..."
        expected = serial + 1
        place = worker(who)
        yield f"{at_s:+10.3f} s  {WORDS[code]:<11}  {attempt(n)}" + (f"  on {place}" if place else "")
