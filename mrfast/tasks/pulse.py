"""A beat while Python code runs that says nothing by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

PULSE_S = 1.0


class Pulse:
    """Calls `beat` from a thread once a second, from its start to its end."""

    def __init__(self, beat: Callable[[], object]):
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mrfast-pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(PULSE_S):
            self._beat()
