"""mrfast-worker: a small parent that talks to the coordinator while its slots work.

It never computes: whatever a task does to its process, leases are renewed and the coordinator is told how it ended.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..app import App
from ..interrupt import Interrupts
from .agent import DRAIN_S, Agent
from .link import Link, Say
from .pool import Event, SlotPool

_TEMP = re.compile(r"mrfast-worker-(\d+)-\w+", re.ASCII)


def run_worker(
    load: Callable[[], App],
    address: tuple[str, int],
    *,
    token: bytes | None = None,
    slots: int,
    connect_s: float = 60.0,
    drain_s: float = DRAIN_S,
    say: Say = lambda text: None,
) -> None:
    """Returns when the job is done, or SIGTERM has drained this worker; raises for everything else.

    JobFailed, AppError, AppRefused, CoordinatorLost, KeyboardInterrupt: nothing of the worker is left then either.
    """
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts, _temp_dir() as tmp:
        worker = _Worker(load, address, token, slots, connect_s, drain_s, selector, interrupts, tmp, say)
        try:
            worker.run()
        finally:
            worker.close()


@contextmanager
def _temp_dir() -> Iterator[str]:
    """A folder of this process alone, gone afterwards; those of workers that were killed go now."""
    top = tempfile.gettempdir()
    for name in os.listdir(top):
        found = _TEMP.fullmatch(name)
        if found is not None and not os.path.exists(f"/proc/{found[1]}"):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)  # another user's stays: it cannot be removed
    path = tempfile.mkdtemp(prefix=f"mrfast-worker-{os.getpid()}-")  # mode 0700
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class _Worker:
    """The line, the slots and the signals around an Agent."""

    def __init__(
        self,
        load: Callable[[], App],
        address: tuple[str, int],
        token: bytes | None,
        slots: int,
        connect_s: float,
        drain_s: float,
        selector: selectors.BaseSelector,
        interrupts: Interrupts,
        tmp: str,
        say: Say,
    ):
        self._selector = selector
        self._interrupts = interrupts
        self._link = Link(address, token, selector, connect_s=connect_s, on_up=self._on_up, say=say)
        self._pool = SlotPool(load, slots, selector, private=self._descriptors, tmp=tmp)
        self._agent = Agent(os.urandom(16).hex(), self._link, self._pool, say=say, drain_s=drain_s)

    def run(self) -> None:
        """Works until the job has ended or a signal has come."""
        self._pool.start(self._pool.slots_max)
        agent = self._agent
        while True:
            now = time.monotonic()
            if self._interrupts.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if self._interrupts.signal == signal.SIGTERM:
                agent.drain(now)
            if self._pool.info is not None:  # the application loads: only now there is something to offer
                self._link.step(now)
            agent.step(now)
            if agent.over:
                break
            events = self._wait(now)
            now = time.monotonic()
            for event in events:
                agent.on(event, now)
        if agent.end is not None:
            raise agent.end

    def close(self) -> None:
        """Ends the slots and hangs up."""
        self._pool.close()
        self._link.close()

    def _on_up(self) -> None:
        self._agent.hello()

    def _descriptors(self) -> tuple[int, ...]:
        return *self._link.descriptors(), *self._interrupts.descriptors()

    def _wait(self, now: float) -> list[Event]:
        until = [self._link.next_step_at(now)] if self._pool.info is not None else []
        if (at := self._agent.next_step_at(now)) is not None:
            until.append(at)
        events: list[Event] = []
        for key, _ in self._selector.select(max(0.0, min(until) - now) if until else None):
            events += key.data()
        return events
