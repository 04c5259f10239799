"""What runs inside a cluster's own worker processes: hands an order to the job's host beside it, and waits.

A cluster calls `perform` with an order and gets its outcome; everything else here keeps the hosts. Many threads may be
in `perform` at once.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..tasks.frames import Unpacker, pack

RECEIVE_BYTES = 1 << 18
END_S = 5.0
IDLE_S = 10.0  # without an order, a host ends: its job is over, or elsewhere

Tell = Callable[[dict[str, Any]], None]

_hosts: dict[str, HostProcess] = {}
_lock = threading.Lock()


def perform(order: dict[str, Any], tell: Tell = lambda message: None) -> dict[str, Any]:
    """The outcome of an order; `tell` hears of progress and of what the application prints, from another thread.

    An order has job, store_url, app, stall_s, attempt and task; an outcome is one of
    {"report": ...}, {"lost": why} of an attempt that began elsewhere, {"refused": error} of an application that does
    not load here; with it {"requests"} to stores, all that the host has sent, and {"host"}, its name.
    """
    with _lock:
        host = _hosts.get(order["job"])
        if host is None or host.ended:
            host = _hosts[order["job"]] = HostProcess(order, tell)
        host.orders += 1
    try:
        return host.perform(order)
    finally:
        with _lock:
            host.orders -= 1
            host.idle += 1
            if not host.orders:
                timer = threading.Timer(IDLE_S, _end_idle, (order["job"], host, host.idle))
                timer.daemon = True
                timer.start()


def cancel(job: str, attempt: str) -> None:
    """Ends the attempt if it runs here."""
    with _lock:
        host = _hosts.get(job)
    if host is not None:
        host.send({"cancel": attempt})


def forget(job: str) -> None:
    """Ends the job's host and all that runs there."""
    with _lock:
        host = _hosts.pop(job, None)
    if host is not None:
        host.close()


def sees(path: str, data: bytes) -> bool:
    """Whether this machine has the file with these bytes: whether a folder is the same one here and there."""
    try:
        with open(path, "rb") as file:
            return file.read(len(data) + 1) == data
    except OSError:
        return False


class HostProcess:
    """A running `mrfast.engines.host` and the orders that wait for it."""

    def __init__(self, order: dict[str, Any], tell: Tell) -> None:
        self.name = f"{socket.gethostname()}-{os.urandom(8).hex()}"
        self.ended = False
        self.orders = self.idle = 0  # orders that run, and how many have ended; for the module, under its lock
        self._tell = tell
        self._ready: dict[str, Any] = {}
        self._waiting: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self._sending = threading.Lock()
        self._channel, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # A session of its own: a Ctrl-C at the cluster's terminal is the cluster's affair.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __package__ + ".host", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
        )  # fmt: skip
        theirs.close()
        self.send({"begin": {name: order[name] for name in ("job", "store_url", "app", "stall_s")}})
        threading.Thread(target=self._listen, name="mrfast-host", daemon=True).start()

    def perform(self, order: dict[str, Any]) -> dict[str, Any]:
        """The outcome of an order, when it is there."""
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        attempt = order["attempt"]
        with self._sending:
            self._waiting[attempt] = answer
        self.send({"order": {"attempt": attempt, "task": order["task"]}})
        if self.ended:
            self._end(attempt)
        return answer.get() | {"host": self.name} | self._ready

    def send(self, message: dict[str, Any]) -> None:
        """Says something to the host; that it is gone is told by the end of its socket."""
        with self._sending, suppress(OSError):
            self._channel.sendall(pack(message))

    def close(self) -> None:
        """Hangs up: the host ends with all its slots."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        unpacker = Unpacker()
        while True:
            try:
                data = self._channel.recv(RECEIVE_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            for message in unpacker.feed(data):
                [(word, value)] = message.items()
                if word == "done":
                    attempt, outcome = value
                    self._answer(attempt, outcome)
                elif word == "ready":
                    self._ready = {"ready": value}
                elif word == "refused":
                    self._refuse({"refused": value})
                else:
                    with suppress(
                        Exception
                    ):  # a cluster that cannot pass it on: outcomes matter more than what is told
                        self._tell(message | {"host": self.name})
        self.ended = True
        self._process.wait()
        self._channel.close()
        for attempt in list(self._waiting):
            self._end(attempt)

    def _refuse(self, outcome: dict[str, Any]) -> None:
        for attempt in list(self._waiting):
            self._answer(attempt, outcome)

    def _end(self, attempt: str) -> None:
        code = self._process.returncode
        self._answer(attempt, {"died": f"the process that supervises the tasks on this machine ended with {code}"})

    def _answer(self, attempt: str, outcome: dict[str, Any]) -> None:
        with self._sending:
            answer = self._waiting.pop(attempt, None)
        if answer is not None:
            answer.put(outcome)


def _end_idle(job: str, host: HostProcess, idle: int) -> None:
    """Ends a host that has had no order since."""
    with _lock:
        if host.orders or host.idle != idle or _hosts.get(job) is not host:
            return
        del _hosts[job]
    host.close()
