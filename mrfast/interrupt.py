"""Ctrl-C and SIGTERM as a flag that a select loop sees: nothing is cut off in the middle of a step."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

SECOND_CTRL_C = 130


class Interrupts:
    """While it is entered, the first signal sets `signal` and wakes the selector; a second Ctrl-C ends the process.

    Outside of the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, selector: selectors.BaseSelector):
        self.signal: signal.Signals | None = None
        self._selector = selector
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pair = socket.socketpair()
        for end in self._pair:
            end.setblocking(False)
        self._selector.register(self._pair[0], selectors.EVENT_READ, self._drain)
        self._wakeup_before = signal.set_wakeup_fd(self._pair[1].fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pair is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._selector.unregister(self._pair[0])
            for end in self._pair:
                end.close()

    def descriptors(self) -> tuple[int, ...]:
        """What forked children must not keep."""
        return () if self._pair is None else (self._pair[0].fileno(), self._pair[1].fileno())

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            shown = b"\x1b[?25h\n" if os.isatty(2) else b""  # the cursor, which bars hide
            with suppress(OSError):
                os.write(2, shown + b"mrfast: interrupted; not cleaned up\n")
            os._exit(SECOND_CTRL_C)  # the slots go with their parent
        self.signal = signal.Signals(number)

    def _drain(self) -> list[Any]:
        assert self._pair is not None
        try:
            while self._pair[0].recv(64):
                pass
        except BlockingIOError:
            pass
        return []
