"""Threads that are gone for the system, too, when their pool has been shut down."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Threads(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose `shutdown` returns when none of its threads is left: whoever forks then is safe.

    A thread that has been joined may still be in the destructors of its C libraries. OpenSSL's hold a lock for a
    moment: a process forked in it has that lock held for ever, and stops at its first digest.
    """

    def __init__(self, threads_max: int, name: str) -> None:
        self._ids: set[int] = set()
        super().__init__(threads_max, name, initializer=self._begins)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            while any(os.path.exists(f"/proc/self/task/{thread}") for thread in self._ids - _alive()):
                time.sleep(0.0005)

    def _begins(self) -> None:
        self._ids.add(threading.get_native_id())


def _alive() -> set[Any]:
    """Those that Python knows: the system may have given a number again."""
    return {thread.native_id for thread in threading.enumerate()}
