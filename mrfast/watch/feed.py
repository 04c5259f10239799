"""A job's side of its live page: the page is a process of its own, and the job's events go to it by a socket.

The job never waits for the page. It sends what the socket takes, at most four times a second; a page that is gone is
told of once. The page's process (mrfast.watch.server) has a session of its own: Ctrl-C does not reach it, and nothing
that befalls it reaches the job. It gets the listening socket from here, so that an address that cannot be had is an
error before the job begins.

When the job has ended the page stays for those who look at it, for LINGER_S after the last of them, LINGER_S_MAX at
most; the command does not wait for that. The next job on the same port asks a page that stays so to go.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import orjson

from ..control.events import EventLog
from ..control.tokens import is_loopback
from ..errors import MrfastError, PortInUse, UsageError

PUMP_S = 0.25
LOOK_S = 1.0
LINES_PER_SEND = 2_000
CLOSE_S = 2.0  # how long the job's end may take to go out: a page that reads needs a blink
TAKE_OVER_S = 2.0
LAST_WORDS_BYTES = 2_000

Say = Callable[[str], None]


def http_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT", ":PORT" or "PORT", which are of 127.0.0.1."""
    from ..control.rpc import parse_address

    short = text.removeprefix(":")
    try:
        host, port = parse_address(f"127.0.0.1:{short}" if short.isascii() and short.isdigit() else text)
        if "/" in host:
            raise UsageError(host)
        return host, port
    except UsageError:
        raise UsageError(f"--http {text}: this is no address; write HOST:PORT, such as 127.0.0.1:8080") from None


def password_of(token: bytes) -> str:
    """The page's password off this machine: made of the token, which itself must not cross the network."""
    import hmac

    return hmac.new(token, b"mrfast live page", "sha256").hexdigest()[:32]


def goodbye_name(port: int) -> str:
    """The abstract socket at which a page whose job has ended is asked to go; a name of this user's and this port's."""
    return f"\0mrfast-page-{os.getuid()}-{port}"


class Feed:
    """A job's live page: a process from `start` on, left to itself by `close` or the `with`'s end."""

    def __init__(self, address: str, *, token: bytes | None = None, say: Say | None = None) -> None:
        self.url = ""  # once it is started
        self._address = address
        self._host, self._port = http_address(address)
        self._password = None
        if not is_loopback(self._host):
            if token is None:
                raise UsageError(
                    f"--http {address}: whoever reaches this address would see the job's keys, paths and errors, so a\n"
                    "token is needed, of which the page's password is made:\n"
                    "    mrfast token mrfast.token     then MRFAST_TOKEN=$(cat mrfast.token) mrfast ..."
                )
            self._password = password_of(token)
        _check_installed()
        self._say = say
        self._channel: socket.socket | None = None
        self._last_words = -1  # what the page's process writes to its stderr
        self._process: Any = None
        self._events: EventLog | None = None
        self._sent = 0
        self._rest: memoryview = memoryview(b"")
        self._next = 0.0

    def start(self, events: EventLog, say: Say) -> None:
        """Starts the page, which shows these events from the first one on; PortInUse if it cannot be had there."""
        with _listening(self._host, self._port, self._address) as listener:
            self._events, self._say = events, self._say or say
            self.url = _url(self._host, int(listener.getsockname()[1]))
            names = [self._host, *([] if self._password is None else [socket.gethostname()])]
            self._rest = memoryview(orjson.dumps({"names": names, "password": self._password}) + b"\n")
            self._spawn(listener)
            with suppress(OSError):  # what is not sent now is sent later
                self._send()
        access = "" if self._password is None else f" as user mrfast with the password {self._password}"
        self._tell(f"watch it at {self.url}{access}")

    def _spawn(self, listener: socket.socket) -> None:
        import subprocess

        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._last_words = os.memfd_create("mrfast-page")
        descriptors = [theirs.fileno(), listener.fileno()]
        # It finds what this process finds, and knows none of its secrets.
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "MRFAST_"))}
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __package__, *map(str, descriptors), self.url],
                    pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=self._last_words, start_new_session=True, env=environment, cwd="/",
                )  # fmt: skip
            except OSError as error:
                self._hang_up()
                raise MrfastError(f"--http: the page's process cannot be started: {error}") from error

    def descriptors(self) -> tuple[int, ...]:
        """What forked children must not keep."""
        return () if self._channel is None else (self._channel.fileno(), self._last_words)

    def pump(self, now: float) -> float:
        """Sends what is new, as far as the page takes it at this moment and if it is time to; when to call again.

        That is in a second at most: the samples that people see move must be taken too.
        """
        if self._channel is None or self._events is None:
            return float("inf")
        if not self._rest and self._sent == len(self._events.lines):
            return LOOK_S
        if now < self._next:
            return self._next - now
        self._next = now + PUMP_S
        try:
            while self._more():
                self._send()
            return LOOK_S
        except BlockingIOError:
            return PUMP_S
        except OSError:
            self._lost()
            return float("inf")

    def close(self, error: BaseException | None = None) -> None:
        """Tells the page how the job ended, by `error` if its events do not say so, and leaves it to itself."""
        if self._channel is not None and self._events is not None:
            until = time.monotonic() + CLOSE_S
            try:
                while self._more():
                    self._channel.settimeout(max(0.001, until - time.monotonic()))
                    self._send()
                if not self._events.ended:
                    self._channel.settimeout(max(0.001, until - time.monotonic()))
                    self._channel.sendall(self._ending(self._events, error))
            except TimeoutError:
                self._tell(f"the page at {self.url} does not read what it is told; it is left as it is")
            except OSError:
                self._lost()
        self._hang_up()
        if self._process is not None:
            from subprocess import TimeoutExpired

            with suppress(TimeoutExpired):  # it has ended long ago: the page itself was its child, and is nobody's here
                self._process.wait(CLOSE_S)
            self._process = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self.close(error)

    def _more(self) -> bool:
        """Whether there is something to send, which is in `_rest` then."""
        assert self._events is not None
        if not self._rest:
            lines = self._events.lines[self._sent : self._sent + LINES_PER_SEND]
            self._sent += len(lines)
            self._rest = memoryview(b"".join(lines))
        return bool(self._rest)

    def _send(self) -> None:
        assert self._channel is not None
        self._rest = self._rest[self._channel.send(self._rest, socket.MSG_NOSIGNAL) :]

    def _ending(self, events: EventLog, error: BaseException | None) -> bytes:
        """The last event of a job that has none, since it was left in mid-air."""
        known = isinstance(error, MrfastError)
        state, why = ("FAILED", str(error)) if known else ("STOPPED", "the job was stopped before its end")
        return events.line("end", time.monotonic(), {"state": state, "error": why, "task": "", "attempt": ""})

    def _lost(self) -> None:
        words = b""
        with suppress(OSError):
            size = os.fstat(self._last_words).st_size
            words = os.pread(self._last_words, LAST_WORDS_BYTES, max(0, size - LAST_WORDS_BYTES))
        last = words.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2]
        self._hang_up()
        self._tell(f"the page at {self.url} is gone{f' ({last})' if last else ''}; the job goes on without it")

    def _tell(self, text: str) -> None:
        if self._say is not None:
            self._say(text)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            os.close(self._last_words)
            self._channel, self._last_words = None, -1


def _url(host: str, port: int) -> str:
    named = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{named}]' if ':' in named else named}:{port}/"


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("aiohttp", "prometheus_client") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing).replace("_", "-")
        raise UsageError(f"--http needs {names}, which a whole installation of mrfast has: pip install {names}")


def _listening(host: str, port: int, address: str) -> socket.socket:
    """A socket that listens there; PortInUse if that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            return _bound(found)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _goes(port):
                raise
        return _bound(found)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise PortInUse(
            f"--http {address}: cannot listen there: {why}; choose another address, or port 0 for any that is free"
        ) from error


def _bound(found: Any) -> socket.socket:
    family, kind, protocol, _, where = found
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(64)  # from here on a browser may come: it waits for the page's process
    except OSError:
        listener.close()
        raise
    return listener


def _goes(port: int) -> bool:
    """Whether a page of this user's that has only stayed behind its job had the port, and has given it up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as goodbye:
        goodbye.settimeout(TAKE_OVER_S)
        try:
            goodbye.connect(goodbye_name(port))
            return goodbye.recv(1) == b""
        except ConnectionResetError:
            return True
        except OSError:
            return False
