"""A stand-in S3 on loopback that is as far away as one likes: latency, a cap a connection, faults on order, a log.

    python benches/slow_s3.py --latency-ms 30 --cap-mb-s 90          prints its port; serves until its input ends
    with SlowS3(latency_s=0.03, cap_bytes_s=90e6) as s3:             the same, as a process of its own, from Python
        s3.make("bucket", "in/", 100, 64 << 20)                      100 objects of text that take no memory
        s3.faults([{"do": "SlowDown", "verb": "GET", "every": 7}])
        ... s3.environ, s3.log()["by_verb"]

It answers what mrfast asks (ranged GET, HEAD, LIST v2, PUT and DELETE, copies, multipart uploads, conditions) and
believes any signature. A request counts in the log when its head has come, whatever becomes of it.

A fault is {"do": ...} and which requests it hits: `verb` (one, or a list), `key` (a pattern to search), `access_key`;
of those the first `skip` are let pass, then each `every`-th (1) is hit, `times` (no limit) at most. What it does:
    a code in ERRORS     an error answer, e.g. "SlowDown" (503), "InternalError" (500), "ExpiredToken", "AccessDenied"
    "skew"               RequestTimeTooSkewed to a request signed more than 15 minutes from this clock plus `offset_s`
    "reset"              the connection is reset before the request is looked at
    "lose"               the request is carried out, then the connection is reset
    "cut"                the connection ends after half of the body; "stall": nothing comes after half of it
    "flip"               one bit in the middle of the body is another (in a PUT: of what is stored)
"""

from __future__ import annotations

import argparse
import calendar
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

from slow_s3_objects import Answer, Objects, Refusal, Request

CHUNK_BYTES = 256 << 10
HEAD_BYTES_MAX = 64 << 10
SKEW_S_MAX = 900
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
ERRORS = {
    "SlowDown": 503,
    "ServiceUnavailable": 503,
    "InternalError": 500,
    "ExpiredToken": 400,
    "RequestTimeout": 400,
    "AccessDenied": 403,
    "RequestTimeTooSkewed": 403,
    "InvalidAccessKeyId": 403,
    "NoSuchKey": 404,
    "ConditionalRequestConflict": 409,
}


class Pace:
    """Sleeps so that what passes stays under a rate; time that was not used is not made up for."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._due = time.monotonic()

    def passed(self, size: int) -> None:
        """So many bytes went through just now."""
        if self._bytes_s:
            now = time.monotonic()
            self._due = max(self._due, now - CHUNK_BYTES / self._bytes_s) + size / self._bytes_s
            if self._due > now:
                time.sleep(self._due - now)


class Fault:
    """One rule of which requests are to go wrong, and how."""

    def __init__(self, rule: dict[str, Any]) -> None:
        self.do = str(rule["do"])
        if self.do not in (*ERRORS, "skew", "reset", "lose", "cut", "stall", "flip"):
            raise ValueError(f"no such fault: {self.do}")
        verb = rule.get("verb")
        self._verbs = {verb} if isinstance(verb, str) else set(verb or ())
        self._key = re.compile(rule.get("key", ""))
        self._access_key = rule.get("access_key", "")
        self._offset_s = float(rule.get("offset_s", 0))
        self._skip, self._every = int(rule.get("skip", 0)), int(rule.get("every", 1))
        self._times = rule.get("times")
        self._seen = self.hits = 0

    def hits_it(self, request: Request) -> bool:
        """Whether this request is one to go wrong; counts it."""
        if self._verbs and request.verb not in self._verbs:
            return False
        if not self._key.search(request.key) or f"={self._access_key}" not in _signed(request):
            return False
        if self.do == "skew" and abs(_signed_at(request) - time.time() - self._offset_s) <= SKEW_S_MAX:
            return False
        self._seen += 1
        number = self._seen - self._skip
        if number <= 0 or number % self._every or (self._times is not None and self.hits >= self._times):
            return False
        self.hits += 1
        return True

    def refuse(self) -> None:
        """Raises the error that it is, if it is one."""
        if self.do == "skew":
            raise Refusal(403, "RequestTimeTooSkewed", "the difference between the clocks is too large")
        if self.do in ERRORS:
            raise Refusal(ERRORS[self.do], self.do, "a fault on order")

    def now(self) -> float:
        """The server's time, as the answer's Date says it."""
        return time.time() + self._offset_s


def _signed(request: Request) -> str:
    return request.headers.get("authorization", "") or "=" + request.query.get("X-Amz-Credential", "")


def _signed_at(request: Request) -> float:
    said = request.headers.get("x-amz-date") or request.query.get("X-Amz-Date") or "19700101T000000Z"
    return calendar.timegm(time.strptime(said, "%Y%m%dT%H%M%SZ"))


class Log:
    """What was asked, and how it ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Counts from nothing."""
        self.requests: list[dict[str, Any]] = []
        self.under_way = self.under_way_max = 0

    def begin(self, request: Request, number: str) -> dict[str, Any]:
        """A request's head is here."""
        line = {"verb": request.verb, "bucket": request.bucket, "key": request.key, "id": number, "status": 0,
                "range": request.headers.get("range", ""), "fault": "", "bytes_up": 0, "bytes_down": 0}  # fmt: skip
        with self.lock:
            self.requests.append(line)
            self.under_way += 1
            self.under_way_max = max(self.under_way, self.under_way_max)
        return line

    def end(self) -> None:
        """A request is done with."""
        with self.lock:
            self.under_way -= 1

    def document(self, lines: bool) -> dict[str, Any]:
        """The counts, and each request if wanted; status 0 is a request that got no answer."""
        with self.lock:
            requests = list(self.requests)
        said: dict[str, Any] = {
            "by_verb": Counter(line["verb"] for line in requests),
            "by_status": Counter(line["status"] for line in requests),
            "by_fault": Counter(line["fault"] for line in requests if line["fault"]),
            "bytes_up": sum(line["bytes_up"] for line in requests),
            "bytes_down": sum(line["bytes_down"] for line in requests),
            "under_way_max": self.under_way_max,
        }
        return {**said, "requests": requests} if lines else said


class Server:
    """Answers connections, a thread each."""

    def __init__(self, latency_s: float, cap_bytes_s: float, port: int = 0) -> None:
        self.latency_s, self.cap_bytes_s = latency_s, cap_bytes_s
        self.objects, self.log = Objects(), Log()
        self._faults: list[Fault] = []
        self._numbers = count(1)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Accepts connections for ever."""
        while True:
            connection = self._listener.accept()[0]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        rest = bytearray()
        try:
            while True:
                while (end := rest.find(b"\r\n\r\n")) < 0:
                    got = connection.recv(HEAD_BYTES_MAX)
                    if not got:
                        return
                    rest += got
                first, *lines = rest[:end].decode("latin-1").split("\r\n")
                del rest[: end + 4]
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                request = Request.parsed(method, target, headers)
                if request.bucket == "-":
                    self._read_body(connection, request, rest, Pace(0))
                    self._order(connection, request)
                elif not self._exchange(connection, request, rest):
                    return
        except (ConnectionError, TimeoutError):
            return
        finally:
            connection.close()

    def _exchange(self, connection: socket.socket, request: Request, rest: bytearray) -> bool:
        """One request and its answer; whether the connection goes on."""
        number = f"SLOW{next(self._numbers):012d}"
        line = self.log.begin(request, number)
        with self.log.lock:
            fault = next((fault for fault in self._faults if fault.hits_it(request)), None)
        line["fault"] = do = fault.do if fault else ""
        pace = Pace(self.cap_bytes_s)
        try:
            if do == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return False
            self._read_body(connection, request, rest, pace)
            line["bytes_up"] = len(request.body)
            ready_at = time.monotonic() + self.latency_s
            try:
                if fault:
                    fault.refuse()
                if do == "flip" and request.verb == "PUT" and request.body:
                    request.body[len(request.body) // 2] ^= 1
                answer = self.objects.answer(request)
            except Refusal as refusal:
                answer = refusal.answer(number, request.method == "HEAD")
            time.sleep(max(0.0, ready_at - time.monotonic()))
            if do == "lose":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return False
            answer.headers["x-amz-request-id"] = number
            line["status"] = answer.status
            head = _head(answer, fault.now() if fault else time.time())
            if request.method == "HEAD":
                connection.sendall(head)
                return True
            pieces = answer.pieces()
            if do == "flip" and request.verb != "PUT":
                pieces = _flipped(pieces, answer.size // 2)
            limit = answer.size // 2 if do in ("cut", "stall") else answer.size
            line["bytes_down"] = _send(connection, head, pieces, limit, pace)
            if do == "stall":
                connection.recv(1)  # until the client has had enough
            return do not in ("cut", "stall") and request.headers.get("connection", "").lower() != "close"
        finally:
            self.log.end()

    def _read_body(self, connection: socket.socket, request: Request, rest: bytearray, pace: Pace) -> None:
        size = int(request.headers.get("content-length") or 0)
        if request.headers.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = rest[:size]
        del rest[:size]
        filled = len(request.body)
        request.body.extend(bytes(size - filled))
        with memoryview(request.body) as view:
            while filled < size:
                got = connection.recv_into(view[filled : filled + CHUNK_BYTES])
                if not got:
                    raise ConnectionResetError
                filled += got
                pace.passed(got)
        if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            request.body = _unchunked(request.body)

    def _order(self, connection: socket.socket, request: Request) -> None:
        """What a test or a bench tells the server, or asks it: /-/log, /-/faults, /-/make, /-/shape."""
        said = json.loads(request.body) if request.body else None
        reply: Any = None
        status = "200 OK"
        try:
            if request.key == "log" and request.method == "GET":
                reply = self.log.document("lines" in request.query)
            elif request.key == "log" and request.method == "DELETE":
                with self.log.lock:
                    self.log.reset()
            elif request.key == "faults":
                with self.log.lock:
                    self._faults = [Fault(rule) for rule in said]
            elif request.key == "make":
                self.objects.make(**said)
            elif request.key == "shape":
                self.latency_s, self.cap_bytes_s = said["latency_s"], said["cap_bytes_s"]
            else:
                raise ValueError(f"{request.method} /-/{request.key}")
        except (ValueError, TypeError, KeyError, re.error) as error:
            status, reply = "400 Bad Request", str(error)
        body = json.dumps(reply).encode()
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def _head(answer: Answer, at: float) -> bytes:
    headers = {"Date": formatdate(at, usegmt=True), "Server": "slow_s3", **answer.headers}
    if answer.status != 204:
        headers["Content-Length"] = str(answer.size)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} -\r\n{lines}\r\n".encode("latin-1")


def _send(connection: socket.socket, head: bytes, pieces: Iterator[memoryview], limit: int, pace: Pace) -> int:
    sent = 0
    for piece in pieces:
        for start in range(0, min(len(piece), limit - sent), CHUNK_BYTES):
            chunk = piece[start : min(start + CHUNK_BYTES, limit - sent + start)]
            if head and len(chunk) < 16 << 10:
                connection.sendall(head + chunk)
            else:
                if head:
                    connection.sendall(head)
                connection.sendall(chunk)
            head = b""
            sent += len(chunk)
            pace.passed(len(chunk))
    if head:
        connection.sendall(head)
    return sent


def _flipped(pieces: Iterator[memoryview], at: int) -> Iterator[memoryview]:
    for piece in pieces:
        if 0 <= at < len(piece):
            other = bytearray(piece)
            other[at] ^= 1
            piece = memoryview(other)
        at -= len(piece)
        yield piece


def _unchunked(body: bytearray) -> bytearray:
    """The bytes inside the aws-chunked encoding."""
    whole, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            return whole
        whole += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


class SlowS3:
    """The server as a process of its own, which ends with this one."""

    def __init__(self, latency_s: float = 0.0, cap_bytes_s: float = 0.0) -> None:
        options = ["--latency-ms", str(latency_s * 1000), "--cap-mb-s", str(cap_bytes_s / 1e6)]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError("slow_s3 did not start")
        self.pid, self.port = self._process.pid, int(port)
        self.url = f"http://127.0.0.1:{port}"
        self.environ = {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "slow",
            "AWS_SECRET_ACCESS_KEY": "slow-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> SlowS3:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server."""
        self._process.kill()
        self._process.communicate()

    def log(self, lines: bool = False) -> dict[str, Any]:
        """The access log since the last reset: `by_verb`, `by_status`, ...; with `lines` each request, too."""
        said: dict[str, Any] = self._order("GET", "log?lines=1" if lines else "log")
        return said

    def reset_log(self) -> None:
        """Counts from nothing."""
        self._order("DELETE", "log")

    def faults(self, rules: list[dict[str, Any]]) -> None:
        """From now on these and no other faults."""
        self._order("POST", "faults", rules)

    def make(self, bucket: str, prefix: str = "", number: int = 0, size: int = 0, seed: int = 1) -> None:
        """A bucket, if it is not there, and `number` objects of `size` bytes of text in it: prefix0000000, ..."""
        self._order("POST", "make", {"bucket": bucket, "prefix": prefix, "number": number, "size": size, "seed": seed})

    def shape(self, latency_s: float, cap_bytes_s: float) -> None:
        """Another latency, and another cap a connection (0: none), from the next request on."""
        self._order("POST", "shape", {"latency_s": latency_s, "cap_bytes_s": cap_bytes_s})

    def _order(self, method: str, path: str, said: Any = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/-/{path}", None if said is None else json.dumps(said))
            answer = connection.getresponse()
            reply = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(reply)
        return reply


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serves until standard input ends, or for ever if it is a terminal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=30.0, help="before the first byte of an answer (30)")
    parser.add_argument("--cap-mb-s", type=float, default=90.0, help="MB/s of a connection; 0: no cap (90)")
    parser.add_argument("--port", type=int, default=0, help="a free one")
    chosen = parser.parse_args()
    server = Server(chosen.latency_ms / 1000, chosen.cap_mb_s * 1e6, chosen.port)
    print(server.port, flush=True)
    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        server.run()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
