"""Virtual time, and chance: one heap of events and one random number generator, so that a seed says everything."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class Violation(AssertionError):  # noqa: N818 (it says what it is)
    """Something that mrfast promises did not hold."""


class World:
    """Runs events in the order of their times; equal times in the order in which they were made."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.story: list[str] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Lets something happen at a time, at the earliest now."""
        self._made += 1
        heapq.heappush(self._heap, (max(when, self.now), self._made, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Lets something happen so much later."""
        self.at(self.now + seconds, do)

    def chance(self, rate: float) -> bool:
        """Whether something with this probability happens now."""
        return rate > 0 and self.random.random() < rate

    def tell(self, what: str) -> None:
        """Adds a line to the story."""
        self.story.append(f"{self.now:10.3f} {what}")

    def step(self) -> bool:
        """Lets the next event happen; False if there is none."""
        if not self._heap:
            return False
        self.now, _, do = heapq.heappop(self._heap)
        self.events += 1
        do()
        return True
