"""One HTTP request and its answer over pooled connections, each request counted; nothing here knows S3 or retries.

A GET of 4 KiB costs a third of what http.client takes and a quarter of urllib3: a head is one `send` and one `recv`,
and of a body only what came along with the head is copied.
"""

from __future__ import annotations

import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from mrfast.errors import UsageError
from mrfast.storage import ledger

CONNECT_S = 3.0
IDLE_S = 20.0
KEPT_MAX = 32
AHEAD_BYTES = 16 << 10
HEAD_BYTES_MAX = 256 << 10
BLOCK_BYTES = 256 << 10
JOIN_BYTES = 64 << 10


class Unreachable(Exception):  # noqa: N818
    """No connection could be opened: nothing was sent."""


class Broken(Exception):  # noqa: N818
    """The request was sent, or began to be, and the answer did not come whole; `filled` of its body was received."""

    def __init__(self, why: str, filled: int = 0) -> None:
        super().__init__(why)
        self.filled = filled


class Http:
    """Connections to any number of servers, kept open for the next request; for any thread."""

    def __init__(self, ssl_context: ssl.SSLContext | None, proxies: Mapping[str, str]) -> None:
        self._ssl = ssl_context
        self._proxies = proxies
        self._kept: dict[tuple[str, str], list[_Line]] = {}

    def send(
        self,
        method: str,
        url: tuple[str, str, str],
        headers: Mapping[str, str],
        body: Sequence[memoryview] = (),
        verb: str = "",
    ) -> Reply:
        """The answer to a request for (scheme, host, target), as soon as its head is here; Unreachable, Broken."""
        scheme, host, target = url
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not lines.count("\n") == lines.count("\r") == len(headers):
            raise ValueError(f"a header of the request for {target} has a line break in it")
        proxy = self._proxies.get(scheme)
        if proxy and scheme == "http":
            target = f"http://{host}{target}"
            lines += _proxy_login(proxy)
        head = f"{method} {target} HTTP/1.1\r\n{lines}\r\n"
        size = sum(map(len, body))
        line = self._take(scheme, host, proxy)
        count = _Count(verb or method, size)
        try:
            try:
                line.send(head.encode(), body, size)
            except OSError:
                # A server may answer before it has read all of the body, and close.
                return Reply(self, line, method, count)
            return Reply(self, line, method, count)
        except (OSError, ValueError) as error:
            line.close()
            raise Broken(_why(error)) from error
        except BaseException:
            line.close()
            raise

    def _take(self, scheme: str, host: str, proxy: str | None) -> _Line:
        kept = self._kept.setdefault((scheme, host), [])
        while True:
            try:
                line = kept.pop()
            except IndexError:
                break
            if not line.has_news():
                return line
            line.close()
        try:
            return _Line((scheme, host), self._connect(scheme, host, proxy))
        except (OSError, ValueError, Broken) as error:
            raise Unreachable(_why(error)) from error

    def keep(self, line: _Line) -> None:
        """Takes back a connection whose answer was read to its end."""
        kept = self._kept[line.to]
        if len(kept) < KEPT_MAX:
            kept.append(line)
        else:
            line.close()

    def _connect(self, scheme: str, host: str, proxy: str | None) -> socket.socket:
        near = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}") if proxy else None
        there = urlsplit(f"{scheme}://{host}")
        through = near or there
        name, port = through.hostname or "", through.port or (443 if through.scheme == "https" else 80)
        sock = socket.create_connection((name, port), CONNECT_S)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if through.scheme == "https":
                if scheme == "https" and near:
                    raise UsageError(f"the proxy {name} for https:// must itself be reached by http://")
                sock = self._secured(sock, name)
            if near and scheme == "https":
                to = f"{there.hostname}:{there.port or 443}"
                tunnel = _Line(("", ""), sock)
                tunnel.send(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{_proxy_login(proxy or '')}\r\n".encode(), (), 0)
                status, _ = tunnel.head()
                if status != 200:
                    raise Broken(f"the proxy {name}:{port} answered {status}")
                sock = self._secured(tunnel.sock, there.hostname or "")
            sock.settimeout(IDLE_S)
        except BaseException:
            sock.close()
            raise
        return sock

    def _secured(self, sock: socket.socket, name: str) -> socket.socket:
        if self._ssl is None:
            raise Unreachable("TLS is not set up")
        return self._ssl.wrap_socket(sock, server_hostname=name)


def _proxy_login(proxy: str) -> str:
    parts = urlsplit(proxy)
    if not parts.username:
        return ""
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}\r\n"


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return str(error) or type(error).__name__


class _Count:
    """One request in the ledger: lost until it is answered whole."""

    def __init__(self, verb: str, bytes_up: int) -> None:
        self._ledger = ledger.current()
        self._row = self._ledger.sent(verb, ledger.phase(), bytes_up)

    def end(self, status: int | None, bytes_down: int) -> None:
        """The answer is over; without a status it was not whole."""
        if bytes_down:
            self._ledger.received(self._row, bytes_down)
        if status is not None:
            self._ledger.answered(self._row, ledger.outcome_of(status))


class _Line:
    """A connection, and what was received beyond the last answer's head."""

    __slots__ = ("_ahead", "_at", "_end", "_low", "_poll", "sock", "to")

    def __init__(self, to: tuple[str, str], sock: socket.socket) -> None:
        self.to, self.sock = to, sock
        self._ahead = bytearray(AHEAD_BYTES)
        self._at = self._end = 0
        self._low = 1
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def has_news(self) -> bool:
        """Whether something came that nobody asked for: mostly the end of the connection."""
        return self._at < self._end or bool(self._poll.poll(0))

    def send(self, head: bytes, body: Sequence[memoryview], size: int) -> None:
        if size <= JOIN_BYTES:
            head, body = b"".join([head, *body]), ()
        for piece in (memoryview(head), *body):
            # Not sendall: there the timeout is for all of it, however much that is.
            while piece:
                piece = piece[self.sock.send(piece) :]

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers (names in lower case) of the next answer."""
        while True:
            while (end := self._ahead.find(b"\r\n\r\n", self._at, self._end)) < 0:
                self._more()
            first, *lines = self._ahead[self._at : end].decode("latin-1").split("\r\n")
            self._at = end + 4
            version, status = first.split(None, 2)[:2]
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if not version.startswith("HTTP/1."):
                raise ValueError(f"this is no HTTP server: {first[:60]!r}")
            if version == "HTTP/1.0":
                headers.setdefault("connection", "close")
            if not status.startswith("1"):
                return int(status), headers

    def text_line(self) -> bytes:
        """The next line of a chunked body."""
        while (end := self._ahead.find(b"\r\n", self._at, self._end)) < 0:
            self._more()
        line = bytes(self._ahead[self._at : end])
        self._at = end + 2
        return line

    def _more(self) -> None:
        if self._at:
            self._ahead[: self._end - self._at] = self._ahead[self._at : self._end]
            self._at, self._end = 0, self._end - self._at
        if self._end == len(self._ahead):
            if self._end >= HEAD_BYTES_MAX:
                raise ValueError("the answer's head has no end")
            self._ahead.extend(bytes(len(self._ahead)))
        self._expect(1)
        with memoryview(self._ahead) as view:
            got = self.sock.recv_into(view[self._end :])
        if not got:
            raise ConnectionError("the connection was closed before the answer")
        self._end += got

    def some(self, view: memoryview, left: int) -> int:
        """The number of bytes received into the view, of a body of which so many are left; 0 at the end."""
        if self._at < self._end:
            got = min(len(view), self._end - self._at)
            view[:got] = self._ahead[self._at : self._at + got]
            self._at += got
            return got
        self._expect(min(len(view), left, BLOCK_BYTES))
        try:
            return self.sock.recv_into(view)
        except TimeoutError:
            # Less than was waited for may be here: a slow connection, but not a dead one.
            if self._low == 1:
                raise
            self._expect(1)
            if not self._poll.poll(0):
                raise
            return self.sock.recv_into(view)

    def _expect(self, size: int) -> None:
        """Wakes this thread when that much is here: a hundred small pieces cost others the GIL a hundred times."""
        low = BLOCK_BYTES if size >= BLOCK_BYTES and type(self.sock) is socket.socket else 1
        if low != self._low:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
            self._low = low


class Reply:
    """A status, headers, and a body that is read into the caller's memory."""

    def __init__(self, http: Http, line: _Line, method: str, count: _Count) -> None:
        self._http, self._line, self._count = http, line, count
        self.status, self.headers = line.head()
        self._got = 0
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._left: int | None = None  # of the body, or of the chunk; None: up to the connection's end
        if method == "HEAD" or self.status in (204, 304):
            self._left, self._chunked = 0, False
        elif self._chunked:
            self._left = 0
        elif "content-length" in self.headers:
            self._left = int(self.headers["content-length"])
        self.closed = False
        if self._left == 0 and not self._chunked:
            self._end()

    @property
    def etag(self) -> str:
        """The object's etag, without quotes."""
        return self.headers.get("etag", "").strip('"')

    def read_into(self, view: memoryview) -> int:
        """The number of bytes received into the view: less than its length only at the end of the body; Broken.

        What was received before it broke is in the view, and Broken says how much that is.
        """
        filled = 0
        try:
            while filled < len(view) and not self.closed:
                if self._chunked and not self._left:
                    self._next_chunk()
                    continue
                left = len(view) if self._left is None else self._left
                got = self._line.some(view[filled : filled + left], left)
                if not got:
                    if self._left is not None:
                        raise ConnectionError(f"the body ended {self._left} bytes early")
                    self._end()
                    break
                filled += got
                self._got += got
                if self._left is not None:
                    self._left -= got
                    if not self._left and not self._chunked:
                        self._end()
        except (OSError, ValueError) as error:
            self.abandon()
            raise Broken(_why(error), filled) from error
        except BaseException:
            self.abandon()
            raise
        return filled

    def read(self, limit: int) -> bytes:
        """The body; no more than `limit` of it, after which the connection is not used again."""
        whole = bytearray()
        while len(whole) < limit and not self.closed:
            block = bytearray(min(64 << 10, limit - len(whole)))
            got = self.read_into(memoryview(block))
            whole += memoryview(block)[:got]
        self.abandon()
        return bytes(whole)

    def abandon(self) -> None:
        """Gives up what was not read of the body, and the connection with it."""
        if not self.closed:
            self.closed = True
            self._line.close()
            self._count.end(None, self._got)

    def _next_chunk(self) -> None:
        if self._got and self._line.text_line():
            raise ValueError("a chunk is longer than it says")
        self._left = int(self._line.text_line().partition(b";")[0], 16)
        if not self._left:
            while self._line.text_line():
                pass
            self._end()

    def _end(self) -> None:
        self.closed = True
        self._count.end(self.status, self._got)
        if self._left is None or "close" in self.headers.get("connection", "").lower():
            self._line.close()
        else:
            self._http.keep(self._line)


def proxies_of(environ: Any) -> dict[str, str]:
    """Only the proxies for http:// and https://, with a scheme."""
    return {scheme: url for scheme, url in environ.items() if scheme in ("http", "https") and url}
