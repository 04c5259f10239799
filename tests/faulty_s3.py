"""A proxy in front of an S3 server that counts requests, and answers some of them as S3 does on a bad day."""

from __future__ import annotations

import calendar
import socket
import struct
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.client import HTTPConnection
from urllib.parse import urlsplit

from mrfast import core

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
SKEW_S = 900
REFUSALS = {
    "SlowDown": 503,
    "ServiceUnavailable": 503,
    "TooManyRequests": 429,
    "InternalError": 500,
    "BadGateway": 502,
    "GatewayTimeout": 504,
    "RequestTimeout": 400,
    "ExpiredToken": 400,
    "RequestTimeTooSkewed": 403,
}
# What a retry cures. reset: before the request is looked at; lose: after it was carried out; late: 200, then an error;
# flip: a byte of what is put is another one on arrival.
PASSING = (*list(REFUSALS)[:7], "reset", "lose", "cut", "late", "flip")

Choose = Callable[[int, str, dict[str, str]], str]  # (number, verb, headers) -> what goes wrong, or ""


def checksum(data: bytes) -> str:
    """The CRC-32C as a header has it."""
    return b64encode(core.crc32c(data).to_bytes(4, "big")).decode()


def flipped(data: bytes) -> bytes:
    """The same, but for one bit in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class FaultyS3:
    """Listens on `url`; `choose` says what becomes of each request; `log` has the verbs of all that came."""

    def __init__(self, behind: str, choose: Choose, clock_offset_s: float = 0) -> None:
        self._behind = urlsplit(behind).netloc
        self.choose = choose
        self.clock_offset_s = clock_offset_s
        self.log: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.message = ""
        self.tells = ""  # which type of checksum an object that is asked for has
        self.spoil = flipped  # what becomes of a spoilt answer
        self.checked = 0  # bodies whose checksum was looked at, as an honest store does
        self._lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        """Serves until the listener is shut down."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(ConnectionError):
            while first := lines.readline():
                method, target, _ = first.decode().split(" ", 2)
                headers = {}
                while line := lines.readline().decode().strip():
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                body = lines.read(int(headers.get("content-length", 0)))
                verb = "COPY" if "x-amz-copy-source" in headers else "LIST" if "list-type=" in target else method
                with self._lock:
                    fault = self.choose(self.log.total(), verb, headers) or self._skew(headers)
                    self.log[verb] += 1
                    if fault:
                        self.faults[fault] += 1
                if not self._answer(connection, fault, method, target, headers, body):
                    return

    def _skew(self, headers: dict[str, str]) -> str:
        signed_at = calendar.timegm(time.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
        return "RequestTimeTooSkewed" if abs(signed_at - time.time() - self.clock_offset_s) > SKEW_S else ""

    def _answer(
        self, connection: socket.socket, fault: str, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Whether the connection goes on."""
        if fault == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return False
        late = fault == "late" and (method == "POST" or "x-amz-copy-source" in headers)
        if fault in REFUSALS or late:
            self._refuse(connection, REFUSALS.get(fault, 200), "InternalError" if late else fault, method)
            return True
        if fault == "flip" and method == "PUT" and body:
            body = flipped(body)
        if "x-amz-checksum-crc32c" in headers and method == "PUT":
            self.checked += 1
            if headers["x-amz-checksum-crc32c"] != checksum(body):
                self._refuse(connection, 400, "BadDigest", method)
                return True
        inner = HTTPConnection(self._behind)
        inner.request(method, target, body, {**headers, "connection": "close"})
        answer = inner.getresponse()
        data = answer.read()
        inner.close()
        if fault == "lose":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return False
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in ("connection", "date")}
        kept.pop("Transfer-Encoding", None)
        if method == "GET" and headers.get("x-amz-checksum-mode") and answer.status < 300 and self.tells:
            whole = kept.get("Content-Range", f"/{len(data)}").endswith(f"/{len(data)}")
            kept["x-amz-checksum-type"] = self.tells
            kept["x-amz-checksum-crc32c"] = checksum(data if whole else b"all of it")
        if fault == "spoil":
            kept = {name: value for name, value in kept.items() if "requestid" not in name.lower().replace("-", "")}
            kept["x-amz-request-id"] = "R-8"
            data = self.spoil(data)
        if method != "HEAD":
            kept = {name: value for name, value in kept.items() if name.lower() != "content-length"}
            kept["Content-Length"] = str(len(data))
        broken = fault in ("cut", "stall") and method == "GET" and len(data) > 1
        connection.sendall(self._head(answer.status, kept) + data[: len(data) // 2 if broken else None])
        if broken and fault == "stall":
            connection.recv(1)  # until the client has had enough
        return not broken

    def _refuse(self, connection: socket.socket, status: int, code: str, method: str) -> None:
        said = (
            b""
            if method == "HEAD"
            else (
                f"<Error><Code>{code}</Code><Message>{self.message}</Message><RequestId>R-7</RequestId></Error>".encode()
            )
        )
        connection.sendall(self._head(status, {"x-amz-request-id": "R-7", "Content-Length": str(len(said))}) + said)

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        date = formatdate(time.time() + self.clock_offset_s, usegmt=True)
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Date": date, **headers}.items())
        return f"HTTP/1.1 {status} -\r\n{lines}\r\n".encode("latin-1")


@contextmanager
def faulty_s3(behind: str, choose: Choose, clock_offset_s: float = 0) -> Iterator[FaultyS3]:
    """The proxy, serving."""
    server = FaultyS3(behind, choose, clock_offset_s)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()
