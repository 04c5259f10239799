"""A job served to workers over TCP: the driver's steps behind the calls, its store work in a small thread pool."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from mrfast.control import messages
from mrfast.control.job import Effect, JobDriver
from mrfast.control.server import LineServer, Peer
from mrfast.errors import MrfastError, UsageError
from mrfast.model import MapReport, ReduceReport

STORE_THREADS = 4
TICK_S = 0.5
# A worker that is connected and says nothing is not waited for longer than this when the job has ended.
FAREWELL_S_MAX = 30.0
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}

Say = Callable[[str], None]


def check_listen(host: str, token: bytes | None) -> None:
    """UsageError for an address that other machines reach, where there is no token."""
    if token is not None:
        return
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host == "localhost":
        return
    raise UsageError(
        f"--listen {host}: whoever reaches this address could run the job's tasks and report results, so a token is\n"
        "needed, the same for the coordinator and its workers:\n"
        "    export MRFAST_TOKEN=$(openssl rand -hex 32)"
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
        linger_s: float = 3.0,
        say: Say = lambda text: None,
        on_status: Callable[[dict[str, Any]], None] = lambda status: None,
        on_end: Callable[[JobDriver], None] = lambda driver: None,
    ) -> None:
        check_listen(address[0], token)
        self.driver = driver
        self._address = address
        self._linger_s = linger_s
        self._say = say
        self._on_status = on_status
        self._on_end = on_end
        self._known: dict[str, Peer] = {}
        self._farewells: set[str] = set()
        self._changed = asyncio.Event()
        self._running_effects: set[asyncio.Task[None]] = set()
        self._signal: signal.Signals | None = None
        handlers = {name: getattr(self, f"_{name}") for name in messages.CALLS if name not in ("auth", "prove")}
        self._server = LineServer(handlers, token=token, on_close=self._closed)

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
            while not self._effects_idle() and self.driver.state != "FAILED":
                await self._wait(TICK_S)  # the output is claimed before anyone is told where to come
            if self.driver.state != "FAILED" and self._signal is None:
                where = f"{reached_at(host)}:{port}"
                self._say(f"listening on {host}:{port}; start workers with: mrfast-worker APP {where}")
            await self._serve()
            return 0 if self._signal is None or self.driver.state == "COMMITTED" else STOPPED[self._signal]
        finally:
            for number in STOPPED:
                loop.remove_signal_handler(number)
            await self._server.close()
            self._pool.shutdown(wait=True, cancel_futures=True)

    async def _serve(self) -> None:
        """Keeps the clock of the job until it has ended and everybody knows."""
        while self.driver.state not in ("COMMITTED", "FAILED"):
            if self._signal is not None:  # what is being committed is committed first
                self.driver.fail(MrfastError(f"the coordinator was stopped by {self._signal.name}"))
                if self.driver.state == "FAILED":
                    break
            self._on_status(self.driver.status(time.monotonic()))
            await self._wait(TICK_S)
            if self.driver.tick(time.monotonic()):
                self._wake()
            self._start_effects()
        self._start_effects()
        while not self._effects_idle():
            await self._wait(TICK_S)
        self._on_end(self.driver)
        if self._signal is None:
            await self._farewell()
        if self.driver.error is not None and self._signal is None:
            raise self.driver.error

    async def _farewell(self) -> None:
        """Waits until every known worker has heard the end, and for a while, in case one starts late."""
        if self.driver.state == "FAILED" and not self._known:
            return
        ended = time.monotonic()
        linger_s = self._linger_s if self.driver.state == "COMMITTED" else 0.0
        while self._signal is None:
            waited = time.monotonic() - ended
            everyone = all(worker in self._farewells for worker in self._known)
            if (everyone and waited >= linger_s) or waited >= max(FAREWELL_S_MAX, linger_s):
                return
            await self._wait(TICK_S if not everyone else max(0.01, min(TICK_S, linger_s - waited)))

    def _stop(self, number: signal.Signals) -> None:
        if self._signal is not None:
            os._exit(STOPPED[number])
        self._signal = signal.Signals(number)
        self._wake()

    # Store work

    def _start_effects(self) -> None:
        for effect in self.driver.effects():
            task = asyncio.create_task(self._run_effect(effect))
            self._running_effects.add(task)
            task.add_done_callback(self._running_effects.discard)

    async def _run_effect(self, effect: Effect) -> None:
        result: Any
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, effect.run)
        except MrfastError as error:
            result = error
        except Exception as error:
            failed = MrfastError(f"{effect.name}: {type(error).__name__}: {error}")
            self.driver.effect_done(effect, failed, time.monotonic())
            self._wake()
            raise
        self.driver.effect_done(effect, result, time.monotonic())
        self._start_effects()
        self._wake()

    def _effects_idle(self) -> bool:
        return not any(not task.done() for task in self._running_effects)

    # Waiting

    def _wake(self) -> None:
        """Something changed: whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    # Calls

    @property
    def _job(self) -> str:
        if self.driver.state == "COMMITTED":
            return "running" if not self._effects_idle() else "done"
        return "failed" if self.driver.state == "FAILED" else "running"

    def _job_for(self, worker: str) -> tuple[str, str]:
        """(job, error) for a reply; a worker that hears the end is known to have heard it."""
        job = self._job
        if job != "running":
            self._farewells.add(worker)
            self._wake()
        return job, "" if self.driver.error is None else str(self.driver.error)

    def _stepped(self) -> None:
        self._start_effects()
        self._wake()

    async def _hello(self, peer: Peer, call: messages.Hello) -> Any:
        info = self.driver.hello(call.worker, call.slots, call.app, time.monotonic())
        if call.worker not in self._known:
            self._say(f"worker {call.worker[:8]} is here, with {call.slots} slot{'s' * (call.slots > 1)}")
        peer.worker = call.worker
        self._known[call.worker] = peer
        self._stepped()
        return messages.JobInfo(**info)

    async def _poll(self, peer: Peer, call: messages.Poll) -> Any:
        deadline = time.monotonic() + min(call.wait_s, messages.WAIT_S_MAX)
        while True:
            now = time.monotonic()
            tasks = self.driver.poll(call.worker, min(call.free, messages.TASKS_PER_POLL), now)
            job, error = self._job_for(call.worker)
            if tasks or job != "running" or now >= deadline:
                return messages.tasks_message(job, error, tasks)
            await self._wait(deadline - now)

    async def _renew(self, peer: Peer, call: messages.Renew) -> Any:
        words = self.driver.renew(call.worker, call.attempts, time.monotonic())
        job, error = self._job_for(call.worker)
        return messages.Renewed(job, words, error)

    async def _report(self, peer: Peer, call: messages.Report) -> Any:
        report = call.map or call.reduce or call.failure
        if report is None:
            raise MrfastError("a report of nothing")
        word = self.driver.report(call.worker, report, time.monotonic())
        if not isinstance(report, (MapReport, ReduceReport)) and word == "accepted":
            self._say(f"attempt {report.attempt} failed: {report.message.splitlines()[0] if report.message else ''}")
        self._stepped()
        job, error = self._job_for(call.worker)
        return messages.Word(job, word, error)

    async def _outputs(self, peer: Peer, call: messages.AskOutputs) -> Any:
        deadline = time.monotonic() + min(call.wait_s, messages.WAIT_S_MAX)
        while True:
            now = time.monotonic()
            segments, after = self.driver.outputs(call.attempt, call.since, messages.SEGMENTS_PER_PAGE)
            if segments or after is None or now >= deadline:
                return messages.OutputsPage(tuple(segments), after)
            if self.driver.state == "FAILED":  # an empty page would be asked for again, at once
                raise MrfastError("the job has failed: there will be no more outputs")
            await self._wait(deadline - now)

    async def _pieces(self, peer: Peer, call: messages.AskPieces) -> Any:
        pieces, after = self.driver.pieces(call.attempt, call.since, messages.PIECES_PER_PAGE)
        fit = messages.fitting(pieces)
        return messages.PiecesPage(tuple(pieces[:fit]), after if fit == len(pieces) else call.since + fit)

    async def _bad_input(self, peer: Peer, call: messages.BadInput) -> Any:
        now = time.monotonic()
        word = self.driver.bad_input(call.worker, call.attempt, call.map_index, call.map_attempt, call.why, now)
        self._stepped()
        job, error = self._job_for(call.worker)
        return messages.Word(job, word, error)

    async def _release(self, peer: Peer, call: messages.Release) -> Any:
        word = self.driver.release(call.worker, call.attempt, time.monotonic())
        self._stepped()
        job, error = self._job_for(call.worker)
        return messages.Word(job, word, error)

    async def _status(self, peer: Peer, call: messages.Status) -> Any:
        return self.driver.status(time.monotonic())

    def _closed(self, peer: Peer) -> None:
        if peer.worker is not None and self._known.get(peer.worker) is peer:
            del self._known[peer.worker]
            self.driver.gone(peer.worker, time.monotonic())
            self._wake()
