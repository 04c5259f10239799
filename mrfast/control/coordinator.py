"""A job served to workers over TCP: the desk behind the calls, its store work in a small thread pool."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mrfast.control import messages
from mrfast.control.desk import TICK_S, Desk
from mrfast.control.effects import Effect
from mrfast.control.job import JobDriver
from mrfast.control.server import Handler, LineServer, Peer, Reply
from mrfast.control.tokens import is_loopback
from mrfast.errors import MrfastError, UsageError

if TYPE_CHECKING:
    from ssl import SSLContext

STORE_THREADS = 4
SHOW_S = 0.1
SYNC_GAP_S = 0.002  # from one sync's end to the next: under load ten reports share one, and a lone one does not wait
# A worker that is connected and says nothing is not waited for longer than this when the job has ended.
FAREWELL_S_MAX = 30.0
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}

Say = Callable[[str], None]


def check_listen(host: str, token: bytes | None, *, insecure: bool = False) -> str:
    """What is to be said of an address that other machines reach without a token; UsageError unless `insecure`."""
    if token is not None or is_loopback(host):
        return ""
    if insecure:
        return (
            f"warning: --insecure: whoever reaches {host} can take this job's tasks, read what it reads and report\n"
            "results of their own; no token is asked for"
        )
    raise UsageError(
        f"--listen {host}: whoever reaches this address could run the job's tasks and report results, so a token is\n"
        "needed, the same for the coordinator and its workers:\n"
        "    mrfast token mrfast.token     then --token-file mrfast.token, or its text in MRFAST_TOKEN, here and there"
    )


def reached_at(host: str) -> str:
    """Where workers find what listens on `host`: one that stands for all of the machine's addresses is none."""
    return socket.gethostname() if host in ("0.0.0.0", "::") else host


class Coordinator:
    """Serves one job until it has ended and every worker has heard so."""

    def __init__(
        self,
        driver: JobDriver,
        address: tuple[str, int],
        *,
        token: bytes | None = None,
        tls: SSLContext | None = None,
        insecure: bool = False,
        linger_s: float = 3.0,
        say: Say = lambda text: None,
        on_status: Callable[[dict[str, Any]], None] = lambda status: None,
        on_end: Callable[[JobDriver], None] = lambda driver: None,
        on_step: Callable[[float], object] = lambda now: None,
    ) -> None:
        check_listen(address[0], token, insecure=insecure)
        self.driver = driver
        self.desk = Desk(driver)
        self._address = address
        self._linger_s = linger_s
        self._say = say
        self._on_status = on_status
        self._on_end = on_end
        self._on_step = on_step
        self._changed = asyncio.Event()
        self._running_effects: set[asyncio.Task[None]] = set()
        self._syncing: asyncio.Task[None] | None = None
        self._sync_at = 0.0
        self._signal: signal.Signals | None = None
        handlers: dict[str, Handler] = {name: self._handle for name in messages.CALLS if name not in ("auth", "prove")}
        self._server = LineServer(handlers, token=token, tls=tls, on_close=self._closed)

    def run(self) -> int:
        """The exit code: 0 done; a failed job's error is raised; 130 and 143 after SIGINT and SIGTERM."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")
        try:
            host, port = await self._server.start(*self._address)
            for number in STOPPED:
                loop.add_signal_handler(number, self._stop, number)
            self._start_effects()
            while not self.driver.begun and self.driver.state != "FAILED":
                await self._wait(TICK_S)  # the output is claimed before anyone is told where to come
            if self.driver.state in ("WAITING", "PLANNING", "RUNNING") and self._signal is None:
                where = f"{reached_at(host)}:{port}"
                self._say(f"listening on {host}:{port}; start workers with: mrfast-worker APP {where}")
                self._say(f"job {self.driver.spec.job}; should this coordinator die, go on with --resume and its id")
            await self._serve()
            return 0 if self._signal is None or self.driver.state == "COMMITTED" else STOPPED[self._signal]
        finally:
            for number in STOPPED:
                loop.remove_signal_handler(number)
            await self._server.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            if self.driver.journal is not None:
                with suppress(MrfastError):  # what it could not hold has failed the job
                    self.driver.journal.close()

    async def _serve(self) -> None:
        """Keeps the clock of the job until it has ended and everybody knows."""
        show_at, planned = 0.0, False
        while self.driver.state not in ("COMMITTED", "FAILED"):
            if self._signal is not None and self.driver.state != "COMMITTING":  # what is being committed is committed
                await self._stop_job()
                if self.driver.state not in ("COMMITTED", "FAILED"):
                    return
                break
            if not planned and self.driver.state == "RUNNING":
                planned = True
                gc.freeze()  # the plan of 10,000 maps would hold all calls up for 35 ms at each full collection
            if (now := time.monotonic()) >= show_at:
                show_at = now + SHOW_S
                self._on_status(self.driver.status(now))
            await self._wait(max(0.0, self.desk.next_step_at(time.monotonic()) - time.monotonic()))
            self._step()
        self._step()
        while not self._effects_idle() or self.desk.wants_sync():
            await self._wait(TICK_S)
            self._step()
        self._on_end(self.driver)
        for warning in self.driver.warnings:
            self._say(f"warning: {warning}")
        if self._signal is None and (self.driver.state == "COMMITTED" or self.desk.known):
            await self._farewell()
        if self.driver.error is not None:
            if self._signal is None:
                raise self.driver.error
            self._say(str(self.driver.error))

    async def _stop_job(self) -> None:
        """SIGINT gives the job up; after SIGTERM it can be resumed: what was accepted is in the journal for good."""
        assert self._signal is not None
        if self._signal == signal.SIGINT:
            self.driver.fail(MrfastError("the coordinator was stopped by SIGINT"))
            return
        if self.driver.journal is not None:
            self.driver.journal.close_batch()
            self._start_effects()
            await asyncio.get_running_loop().run_in_executor(self._pool, self.driver.journal.sync)
            self.desk.synced()
        self.driver.stop(time.monotonic())
        self._start_effects()
        while not self._effects_idle():
            await self._wait(TICK_S)

    async def _farewell(self) -> None:
        """Waits until every known worker has heard the end, and for a while, in case one starts late."""
        ended = time.monotonic()
        linger_s = self._linger_s if self.driver.state == "COMMITTED" else 0.0
        while self._signal is None:
            waited = time.monotonic() - ended
            everyone = all(worker in self.desk.told for worker in self.desk.known)
            if (everyone and waited >= linger_s) or waited >= max(FAREWELL_S_MAX, linger_s):
                return
            await self._wait(TICK_S if not everyone else max(0.01, min(TICK_S, linger_s - waited)))
            self._step()

    def _stop(self, number: signal.Signals) -> None:
        if self._signal is not None:
            os._exit(STOPPED[number])
        self._signal = signal.Signals(number)
        self._wake()

    # Calls

    def _handle(self, peer: Peer, call: Any, reply: Reply) -> None:
        try:
            self.desk.call(peer, call, time.monotonic(), reply)
        except Exception as error:  # a fault of ours: the call would come again, and find it again
            self.driver.fail(MrfastError(f"internal error in {type(call).__name__}: {type(error).__name__}: {error}"))
            raise
        finally:
            self._wake()

    def _closed(self, peer: Peer) -> None:
        self.desk.closed(peer, time.monotonic())
        self._wake()

    # Steps

    def _step(self) -> None:
        self._start_effects()
        self.desk.step(time.monotonic())
        self._start_effects()
        self._on_step(time.monotonic())
        if self.desk.wants_sync() and self._syncing is None:
            self._syncing = asyncio.create_task(self._sync(self._sync_at - time.monotonic()))

    async def _sync(self, wait_s: float) -> None:
        """Makes the journal durable, for all replies that wait by then: a group commit."""
        assert self.driver.journal is not None
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self.driver.journal.sync)
        except MrfastError as error:
            self.driver.fail(error)
        self._syncing = None
        self._sync_at = time.monotonic() + SYNC_GAP_S
        self.desk.synced()
        self._wake()

    def _start_effects(self) -> None:
        for effect in self.driver.effects():
            task = asyncio.create_task(self._run_effect(effect))
            self._running_effects.add(task)
            task.add_done_callback(partial(self._effect_over, task))
        self.desk.working = not self._effects_idle()

    def _effect_over(self, task: asyncio.Task[None], _: Any) -> None:
        self._running_effects.discard(task)
        self.desk.working = not self._effects_idle()
        self.desk.changed()
        self._wake()

    async def _run_effect(self, effect: Effect) -> None:
        result: Any
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, effect.run)
        except MrfastError as error:
            result = error
        except Exception as error:
            failed = MrfastError(f"{effect.name}: {type(error).__name__}: {error}")
            self.driver.effect_done(effect, failed, time.monotonic())
            raise
        self.driver.effect_done(effect, result, time.monotonic())
        self._start_effects()

    def _effects_idle(self) -> bool:
        return not any(not task.done() for task in self._running_effects)

    # Waiting

    def _wake(self) -> None:
        """Something came: the loop takes a step."""
        self._changed.set()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()
