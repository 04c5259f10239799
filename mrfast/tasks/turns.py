"""Who computes when a slot has three processes: one reads ahead and one writes behind while the third has the turn.

A task in a remote store begins with waiting for its first bytes and ends with waiting for its last ones. So each slot
has places for two tasks more than it can compute; what is handed out are turns, as many as there are slots. The parent
hands them out: it knows at once when a process with a turn has died.
"""

from __future__ import annotations

from typing import Protocol


class Turns(Protocol):
    """What a task asks its slot for; `take` returns once the task may compute, `give` when it no longer does."""

    def take(self) -> None: ...
    def give(self) -> None: ...


class Always:
    """Where there is a process for each slot only."""

    def take(self) -> None:
        """At once."""

    def give(self) -> None:
        """Nobody waits for it."""


ALWAYS = Always()
