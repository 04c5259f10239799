"""Where an attempt's time goes: into one part at a time, with a look at the clock only where that changes.

That is once a block or a segment and never once a record, so that it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

WAIT = "wait"  # for bytes of the store: the input's, or segments
TURN = "turn"  # for a turn to compute, while another process of the slot does
MAPS = "maps"  # a reduce that began early: for maps
COMPUTE = "compute"  # the application, and the kernels
SPILL = "spill"  # what is over the memory goes to the local disk
WRITE = "write"  # draining, compressing, uploading
ALWAYS_SAID = (WAIT, COMPUTE, WRITE)

T = TypeVar("T")


class Laps:
    """The seconds of each part so far; COMPUTE is what nothing else was said of. For one thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._spent: dict[str, float] = {}
        self._part = COMPUTE
        self._since = clock()

    def enter(self, part: str) -> str:
        """What follows is of this part; gives the one before."""
        now, before = self._clock(), self._part
        self._spent[before] = self._spent.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """What is done in it is of this part."""
        before = self.enter(part)
        try:
            yield
        finally:
            self.enter(before)

    def each(self, part: str, items: Iterable[T]) -> Iterator[T]:
        """The items; that they are made is of this part, and what is done with them is not."""
        before = self.enter(part)
        for item in items:
            self.enter(before)
            yield item
            before = self.enter(part)
        self.enter(before)

    def seconds(self) -> dict[str, float]:
        """The parts that took any, and always those three that every task has."""
        self.enter(self._part)
        spent = {name: round(seconds, 4) for name, seconds in self._spent.items()}
        return {name: seconds for name, seconds in spent.items() if seconds} | {
            name: spent.get(name, 0.0) for name in ALWAYS_SAID
        }
