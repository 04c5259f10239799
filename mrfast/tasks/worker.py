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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..app import App
from ..control import messages
from ..control.printed import Printed
from ..control.schema import decode
from ..errors import AppRefused, CoordinatorLost, MrfastError, ParamMissing
from ..interrupt import Interrupts
from .agent import DRAIN_S, Agent
from .link import Link, Say
from .pool import Event, Ready, Refused, SlotPool

if TYPE_CHECKING:
    from ssl import SSLContext

Params = Mapping[str, str]
_TEMP = re.compile(r"mrfast-worker-(\d+)-\w+", re.ASCII)


def run_worker(
    load: Callable[[Params], App],
    address: tuple[str, int],
    *,
    params: Params | None = None,
    token: bytes | None = None,
    tls: SSLContext | None = None,
    slots: int,
    connect_s: float = 60.0,
    drain_s: float = DRAIN_S,
    say: Say = lambda text: None,
    on_printed: Callable[[str, str], None] = lambda task, text: None,
) -> None:
    """Returns when the job is done, or SIGTERM has drained this worker; raises for everything else.

    `load` gives the app with the parameters of the job, which the coordinator knows; AppRefused if `params` are others.
    JobFailed, AppError, AppRefused, CoordinatorLost, KeyboardInterrupt: nothing of the worker is left then either.
    """
    with selectors.DefaultSelector() as selector, Interrupts(selector) as interrupts, _temp_dir() as tmp:
        worker = _Worker(
            *(load, params or {}, address, token, tls, slots, connect_s, drain_s),
            *(selector, interrupts, tmp, say, on_printed),
        )
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
        load: Callable[[Params], App],
        params: Params,
        address: tuple[str, int],
        token: bytes | None,
        tls: SSLContext | None,
        slots: int,
        connect_s: float,
        drain_s: float,
        selector: selectors.BaseSelector,
        interrupts: Interrupts,
        tmp: str,
        say: Say,
        on_printed: Callable[[str, str], None],
    ):
        self._say = say
        self._selector = selector
        self._interrupts = interrupts
        self._link = Link(
            address, token, selector, connect_s=connect_s, tls=tls, on_up=self._on_up, say=self._say_of_line
        )
        self._own_params = self._params = params  # what it was told here, and what its slots have
        self._loads = False
        self._told: Params | None = None  # what the coordinator says, on this connection
        self._greeted: Params | None = None  # what it said when this worker said hello
        self._refused: MrfastError | None = None
        self._pool = SlotPool(
            lambda: load(self._params), slots, selector, on_printed=self._print, private=self._descriptors, tmp=tmp
        )
        self._agent = Agent(os.urandom(16).hex(), self._link, self._pool, say=say, drain_s=drain_s)
        self._printed = Printed()
        self._on_printed = on_printed

    def run(self) -> None:
        """Works until the job has ended or a signal has come."""
        agent = self._agent
        while True:
            now = time.monotonic()
            if self._interrupts.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if self._interrupts.signal == signal.SIGTERM:
                agent.drain(now)
            self._link.step(now)
            if not self._link.up and not self._loads:  # an app that cannot load is known without a coordinator
                self._load(self._own_params)
            agent.step(now)
            if agent.over:
                break
            events = self._wait(now)
            now = time.monotonic()
            for event in events:
                if isinstance(event, Refused) and isinstance(event.error, ParamMissing) and self._told is None:
                    self._refused = event.error  # the coordinator may know it
                else:
                    agent.on(event, now)
                if isinstance(event, Ready):
                    self._hello()
        if agent.end is not None:
            raise agent.end

    def close(self) -> None:
        """Ends the slots and hangs up."""
        self._pool.close()
        self._link.close()

    def _say_of_line(self, text: str) -> None:
        if not self._agent.over:  # a coordinator that has said that the job is done may hang up
            self._say(text)

    def _on_up(self) -> None:
        self._told = None
        self._link.call("params", messages.AskParams(), self._on_params)

    def _on_params(self, reply: Any) -> None:
        try:
            if isinstance(reply, MrfastError):
                raise reply
            self._told = decode(messages.Params, reply).params
            self._check_params(self._told)
        except MrfastError as error:
            self._agent.stop(error)
            return
        if not self._loads or self._told != self._params:
            self._load(self._told)
        elif self._refused is not None:
            self._agent.stop(self._refused)
        self._hello()

    def _load(self, params: Params) -> None:
        """Loads the application with these parameters; what was loaded without them is no more."""
        self._pool.close()
        self._pool.info = self._refused = None
        self._params, self._loads = params, True
        self._pool.start(self._pool.slots_max)

    def _check_params(self, told: Params) -> None:
        if self._agent.has_joined and told != self._params:
            raise CoordinatorLost(f"the job is gone: {self._link.name} runs one with other parameters now")
        for name, value in self._own_params.items():
            if told.get(name) != value:
                has = f"has --param {name}={told[name]}" if name in told else f"has no parameter {name}"
                raise AppRefused(
                    f"this worker was given --param {name}={value}, and the job at {self._link.name} {has}: "
                    "parameters are for mrfast-coordinator, and its workers get them from it"
                )

    def _hello(self) -> None:
        """Joins as soon as the application has loaded with what this connection's coordinator says."""
        if self._told is not None and self._pool.info is not None and self._greeted is not self._told:
            self._greeted = self._told
            self._agent.hello()

    def _print(self, attempt: str, text: str) -> None:
        for its, lines in self._printed.take({attempt: text}):
            self._on_printed(its.partition(".")[0], lines)
            self._agent.printed(its, lines)

    def _descriptors(self) -> tuple[int, ...]:
        return *self._link.descriptors(), *self._interrupts.descriptors()

    def _wait(self, now: float) -> list[Event]:
        until = [at for at in (self._link.next_step_at(now), self._agent.next_step_at(now)) if at is not None]
        return self._pool.wait(max(0.0, min(until) - now))
