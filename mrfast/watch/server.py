"""The live page's process: what a feed tells it, served over HTTP to those who look. It knows nothing of the job else.

    /             the page (mrfast/watch/page), and its files
    /events       the events as server-sent events; a reader that comes back goes on behind its Last-Event-ID
    /api/status   JSON: how the job stands
    /metrics      for Prometheus
    /healthz      200 while the job tells of itself or has told its end, 503 if it fell silent before

Each reader has a place of its own in one list of lines, and is sent no more than its connection takes: a slow one costs
no memory, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import os
import signal
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import orjson
from aiohttp import web

from .feed import goodbye_name
from .metrics import Metrics
from .tally import Tally

BATCH_S = 0.25
BATCH_LINES = 1_000
KEEP_ALIVE_S = 15.0
LINGER_S = 5.0
LINGER_S_MAX = 30.0
SHUTDOWN_S = 0.2
VIEWERS_MAX = 100
READ_BYTES = 1 << 18
LAST_COUNTS = ("shuffle", "hot")

FILES = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
NO_PAGE = (
    b"<!doctype html><title>mrfast</title><p>The page's files are not installed; see <a href=/api/status>status</a>."
)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "mrfast",
}

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """What is known of the job, and who looks at it."""

    def __init__(self) -> None:
        self.names: set[str] = {"localhost"}
        self.password: str | None = None
        self.lines: list[bytes] = []  # b"" where a later one has made one void
        self.tally = Tally()
        self.metrics = Metrics(self.tally)
        self.run = os.urandom(4).hex()  # a browser that comes back may have seen another job on this port
        self.silent = False  # the feed ended before the job's end was told
        self.fed = asyncio.Event()
        self.leaving = asyncio.Event()
        self.left_at = 0.0  # when somebody was here last
        self._news = asyncio.Event()
        self._last: dict[str, int] = {}

    def add(self, line: bytes) -> None:
        """One more event, without its line feed."""
        kind = self.tally.add(line)
        if kind in LAST_COUNTS:
            if kind in self._last:
                self.lines[self._last[kind]] = b""
            self._last[kind] = len(self.lines)
        # A carriage return ends a line of server-sent events; in JSON it can only stand between tokens.
        self.lines.append(line.replace(b"\r", b" ") if kind else b"")

    def tell(self) -> None:
        """Wakes those who wait for news."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(self, feed: socket.socket) -> None:
        """Takes in all that the feed says, until it ends."""
        feed.setblocking(False)
        loop, rest, configured = asyncio.get_running_loop(), b"", False
        while data := await self._received(loop, feed):
            *lines, rest = (rest + data).split(b"\n")
            if lines and not configured:
                configured, config = True, orjson.loads(lines.pop(0))
                self.names |= {name.lower() for name in config["names"]}
                self.password = config["password"]
                self.fed.set()
            for line in lines:
                self.add(line)
            self.tell()
        if not self.tally.end:
            self.silent = True
            how = f"; it goes on with --resume {self.tally.job['job']}" if self.tally.job else ""
            why = f"the process that ran the job fell silent before the job's end: it was killed, it seems{how}"
            self.add(orjson.dumps({"e": "end", "t": self.tally.at_s, "state": "STOPPED", "error": why}))
            self.tell()

    async def _received(self, loop: asyncio.AbstractEventLoop, feed: socket.socket) -> bytes:
        try:
            return await loop.sock_recv(feed, READ_BYTES)
        except ConnectionError:
            return b""

    async def news(self, at: int, timeout_s: float) -> bool:
        """Whether there is a line behind `at`, now or within that time."""
        if at >= len(self.lines):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
        return at < len(self.lines)

    def batch(self, at: int, end: int) -> bytes:
        """These lines as server-sent events; an event's id says how many lines are told with it."""
        run = self.run.encode()
        return b"".join(
            b"id: %d-%s\ndata: %s\n\n" % (number, run, line)
            for number, line in enumerate(self.lines[at:end], at + 1)
            if line
        )

    def place(self, last_event_id: str) -> int:
        """Where a reader goes on that has had the event of this id: at 0 if it was another job's."""
        number, _, run = last_event_id.partition("-")
        known = run == self.run and number.isascii() and number.isdigit()
        return int(number) if known and int(number) <= len(self.lines) else 0

    # What is asked for

    async def status(self, _: web.Request) -> web.StreamResponse:
        """/api/status."""
        return web.Response(body=orjson.dumps(self.tally.document()) + b"\n", content_type="application/json")

    async def prometheus(self, request: web.Request) -> web.StreamResponse:
        """/metrics."""
        body, kind = self.metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def health(self, _: web.Request) -> web.StreamResponse:
        """/healthz."""
        if self.silent:
            return web.Response(status=503, text="the job's process fell silent before the job's end\n")
        return web.Response(text=f"ok: the job {'has ended as' if self.tally.end else 'is'} {self.tally.state}\n")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """/events, until the reader goes or the page does."""
        if self.metrics.viewers >= VIEWERS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{VIEWERS_MAX} look at this page already; close one of them\n")
        given = request.headers.get("Last-Event-ID", "")
        at = self.place(given)
        if self.tally.end and at == len(self.lines):  # it has had all: a browser that hears 204 does not come back
            return web.Response(status=204)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        # On this machine the bytes cost less than packing them would.
        packer = zlib.compressobj(1, wbits=31) if _is_far(request) and _takes_gzip(request) else None
        if packer is not None:
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        if request.method == "HEAD":
            return response

        async def write(data: bytes) -> None:
            if packer is not None:
                data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
            await response.write(data)

        self.metrics.viewers += 1
        try:
            await write(b"retry: 2000\n\n")
            while True:
                if not await self.news(at, KEEP_ALIVE_S):
                    await write(b":\n\n")
                    continue
                while at < len(self.lines):
                    end = min(at + BATCH_LINES, len(self.lines))
                    await write(self.batch(at, end) or b":\n\n")
                    at = end
                await asyncio.sleep(BATCH_S)
        except ConnectionError:
            return response
        finally:
            self.metrics.viewers -= 1
            self.left_at = asyncio.get_running_loop().time()
            self.tell()

    def application(self) -> web.Application:
        """What answers requests."""

        @web.middleware
        async def guard(request: web.Request, handler: Handle) -> web.StreamResponse:
            await self.fed.wait()
            self.left_at = asyncio.get_running_loop().time()
            if not self.may_be_called(request.headers.get("Host", "")):
                return web.Response(
                    status=421,
                    text="this page does not go by that name; ask for it by the address it was started with, "
                    "by localhost or by an IP address\n",
                )
            if request.path != "/healthz" and not self.may_look(request.headers.get("Authorization", "")):
                return web.Response(
                    status=401,
                    text="the page's password is on the terminal of the job\n",
                    headers={"WWW-Authenticate": 'Basic realm="mrfast", charset="UTF-8"'},
                )
            return await handler(request)

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(HEADERS)

        app = web.Application(middlewares=[guard])
        app.on_response_prepare.append(add_headers)
        for path, handle in (
            ("/events", self.events),
            ("/api/status", self.status),
            ("/metrics", self.prometheus),
            ("/healthz", self.health),
        ):
            app.router.add_get(path, handle)
        files = {f"/{each.name}": each for each in sorted(FILES.glob("*")) if each.suffix in TYPES}
        for path, kind, body in [
            ("/", "text/html", files["/index.html"].read_bytes() if "/index.html" in files else NO_PAGE),
            *((path, TYPES[each.suffix], each.read_bytes()) for path, each in files.items()),
        ]:
            app.router.add_get(path, _file(kind, body))
        return app

    def may_be_called(self, host: str) -> bool:
        """Whether a Host header names this page, and not a stranger's name that was made to point here.

        Any IP address is right, since only names can be made to; the port is not looked at: a tunnel may change it.
        """
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return name in self.names

    def may_look(self, authorization: str) -> bool:
        """Whether a request has the page's password, if there is one: of any user, or as a bearer's token."""
        if self.password is None:
            return True
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self.password.encode())

    async def stay(self) -> None:
        """Returns when nobody has looked for a while, or time is up, or another job wants the port."""
        loop = asyncio.get_running_loop()
        ended = self.left_at = loop.time()
        while not self.leaving.is_set():
            until = ended + LINGER_S_MAX
            if not self.metrics.viewers:
                until = min(until, self.left_at + LINGER_S)
            if (wait_s := until - loop.time()) <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, 1.0)):
                    await self.leaving.wait()


def _file(kind: str, body: bytes) -> Handle:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=body, content_type=kind, charset="utf-8" if kind.startswith("text") else None)
        if _is_far(request):
            response.enable_compression()
        return response

    return handle


def _is_far(request: web.Request) -> bool:
    remote = request.remote or ""
    return not (remote.startswith("127.") or remote in ("::1", "::ffff:127.0.0.1", ""))


def _takes_gzip(request: web.Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


async def run(feed: socket.socket, listener: socket.socket) -> None:
    """Serves until the feed has ended and nobody looks any more."""
    page = Page()
    port = int(listener.getsockname()[1])
    runner = web.AppRunner(
        page.application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a reader that goes is noticed at once
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    held: list[asyncio.StreamWriter] = []

    async def asked_to_go(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)  # closed by this process's end: then the port is free
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] == os.getuid():
            page.leaving.set()

    try:
        await page.read(feed)
        page.fed.set()
        goodbye = None
        with suppress(OSError):  # another page has stayed behind, at another address with this port
            goodbye = await asyncio.start_unix_server(asked_to_go, goodbye_name(port))
        await page.stay()
        del goodbye
    finally:
        await runner.cleanup()


def serve(feed: int, listener: int) -> None:
    """The life of the page's process; SIGTERM ends it at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(run(socket.socket(fileno=feed), socket.socket(fileno=listener)))
