"""The parent's end of the pipe into which a slot's process, and every program that it starts, prints."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable
from typing import Any

from ..control.printed import Lines

READ_BYTES = 1 << 16
TAIL_BYTES = 4096  # of what a process printed: they may say why it died
REST_S = 0.002  # between two reads of what is only counted: a flood fills a pipe as fast as it is emptied


class Output:
    """Gives whole lines to `tell`, in bounds; what is beyond them is read in no hurry: it rests in `resting`."""

    def __init__(self, selector: selectors.BaseSelector, resting: list[Output], tell: Callable[[str], None]):
        self.tail = b""
        self._selector = selector
        self._resting = resting
        self._tell = tell
        self._lines = Lines()
        self._end, self.write_end = os.pipe()

    def fileno(self) -> int:
        """The reading end, -1 when it is closed."""
        return self._end

    def start(self) -> None:
        """Listens; the writing end is the child's from now on."""
        os.close(self.write_end)
        os.set_blocking(self._end, False)
        self.listen()

    def listen(self) -> None:
        """Hears what comes, from the start or after a rest."""
        if self._end >= 0:
            self._selector.register(self._end, selectors.EVENT_READ, self._on_ready)

    def flush(self) -> None:
        """Tells all that was printed so far, a line without an end too: what comes next is of another task."""
        self._on_ready()
        self._say(self._lines.end())

    def close(self) -> None:
        """Tells what is left and closes the pipe."""
        self.flush()
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._end)
        os.close(self._end)
        self._end = -1

    def _on_ready(self) -> list[Any]:
        """One read: a flood never ends, and there is no more in a pipe, unless its writer has made it larger."""
        if self._end < 0:  # closed by an event of the same round
            return []
        try:
            data = os.read(self._end, READ_BYTES)
        except BlockingIOError:
            return []
        if not data or self._lines.is_full:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._end)
                if data:
                    self._resting.append(self)
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        self._say(self._lines.feed(data))
        return []

    def _say(self, text: str) -> None:
        if text:
            self._tell(text)
