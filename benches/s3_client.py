"""What a client of S3 costs this process: CPU per GiB and per small read, against a stub server on loopback.

    python benches/s3_client.py [--clients ours,boto3,obstore,awscrt] [--mib 512]

Clients that are not installed are left out. The last lines say how fast a computation runs beside 500 MB/s of reads.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

OBJECT_BYTES = 8 << 20
SMALL_BYTES = 4096
ROUNDS = 5
BESIDE_BYTES_S = 500e6

HEADERS = (
    "x-amz-id-2: Gyd3JYpQsPa9Jk1hjS2oPv9U+vOYZWkQ==\r\nx-amz-request-id: 4442587FB7D0A2F9\r\n"
    "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    'ETag: "d41d8cd98f00b204e9800998ecf8427e"\r\nAccept-Ranges: bytes\r\nContent-Type: binary/octet-stream\r\n'
    "Server: AmazonS3\r\n"
)


def serve() -> None:
    """Answers every GET with bytes and every PUT with success, on a port that is printed."""
    block = memoryview(os.urandom(OBJECT_BYTES))
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0], block), daemon=True).start()


def answer(connection: socket.socket, block: memoryview) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sink, rest = bytearray(1 << 20), b""
    while True:
        while (end := rest.find(b"\r\n\r\n")) < 0:
            if not (got := connection.recv(65536)):
                return
            rest += got
        first, *lines = rest[:end].decode("latin-1").split("\r\n")
        rest = rest[end + 4 :]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = int(headers.get("content-length", 0)) - len(rest)
        rest = rest[len(rest) + left :] if left < 0 else b""
        while left > 0:
            left -= connection.recv_into(sink, min(left, len(sink)))
        size, status, span = 0, "200 OK", ""
        if first.startswith(("GET", "HEAD")):
            size = OBJECT_BYTES
            if "range" in headers:
                start, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
                size, status = last + 1 - start, "206 Partial Content"
                span = f"Content-Range: bytes {start}-{last}/{OBJECT_BYTES}\r\n"
        head = f"HTTP/1.1 {status}\r\n{HEADERS}{span}Content-Length: {size}\r\n\r\n".encode()
        if first.startswith("HEAD"):
            size = 0
        if size < 65536:
            connection.sendall(head + block[:size])
        else:
            connection.sendall(head)
            connection.sendall(block[:size])


class Ours:
    def __init__(self, endpoint: str) -> None:
        from mrfast.storage import open_store

        self.store = open_store("s3://bucket")

    def get(self, buffer: bytearray) -> None:
        assert self.store.read_into("k", 0, buffer) == len(buffer)

    def put(self, body: bytearray) -> None:
        self.store.put("k", body)


class Boto3:
    def __init__(self, endpoint: str) -> None:
        import boto3
        from botocore.config import Config

        self.client: Any = boto3.client(
            "s3",
            config=Config(
                max_pool_connections=10,
                retries={"mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"payload_signing_enabled": False},
            ),
        )

    def get(self, buffer: bytearray) -> None:
        view = memoryview(buffer)
        found = self.client.get_object(Bucket="bucket", Key="k", Range=f"bytes=0-{len(buffer) - 1}")
        with found["Body"] as body:
            while view and (got := body.readinto(view[: 256 << 10])):
                view = view[got:]

    def put(self, body: bytearray) -> None:
        self.client.put_object(Bucket="bucket", Key="k", Body=body)


class Obstore:
    def __init__(self, endpoint: str) -> None:
        import obstore
        from obstore.store import S3Store

        self.obstore: Any = obstore
        self.store = S3Store(
            "bucket",
            endpoint=endpoint,
            region="us-east-1",
            unsigned_payload=True,
            client_options={"allow_http": True},
        )

    def get(self, buffer: bytearray) -> None:
        view = memoryview(buffer)
        view[:] = memoryview(self.obstore.get_range(self.store, "k", start=0, length=len(buffer)))

    def put(self, body: bytearray) -> None:
        self.obstore.put(self.store, "k", bytes(body), use_multipart=False)


class Awscrt:
    def __init__(self, endpoint: str) -> None:
        from awscrt import auth, http, io, s3

        self.http, self.s3 = http, s3
        provider = auth.AwsCredentialsProvider.new_static("a", "b")
        signing = s3.create_default_s3_signing_config(region="us-east-1", credential_provider=provider)
        self.client: Any = s3.S3Client(
            bootstrap=io.ClientBootstrap.get_or_create_static_default(),
            region="us-east-1",
            signing_config=signing,
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            throughput_target_gbps=10,
        )
        self.host = endpoint.removeprefix("http://")

    def ask(self, method: str, headers: list[tuple[str, str]], body: Any, kind: str, into: Any) -> None:
        request = self.http.HttpRequest(
            method, "/bucket/k", self.http.HttpHeaders([("host", self.host), *headers]), body
        )
        kind = getattr(self.s3.S3RequestType, kind)
        self.client.make_request(request=request, type=kind, on_body=into).finished_future.result()

    def get(self, buffer: bytearray) -> None:
        view = memoryview(buffer)

        def into(chunk: bytes, offset: int, **_: Any) -> None:
            view[offset : offset + len(chunk)] = chunk

        self.ask("GET", [("range", f"bytes=0-{len(buffer) - 1}")], None, "GET_OBJECT", into)

    def put(self, body: bytearray) -> None:
        from io import BytesIO

        self.ask("PUT", [("content-length", str(len(body)))], BytesIO(body), "PUT_OBJECT", None)


CLIENTS = {"ours": Ours, "boto3": Boto3, "obstore": Obstore, "awscrt": Awscrt}


def cpu_s(call: Callable[[bytearray], None], size: int, times: int, threads: int) -> float:
    """CPU seconds of this process for a call, in so many threads at once."""
    buffers = [bytearray(size) for _ in range(threads)]

    def some(buffer: bytearray) -> None:
        for _ in range(times // threads):
            call(buffer)

    before = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, buffers))
    return (time.process_time() - before) / (times // threads * threads)


def beside(get: Callable[[bytearray], None]) -> float:
    """The share of its speed that a computation without the GIL keeps beside paced reads.

    The time in which it could run, but other processes had the cores, is not counted: the server is one of them.
    """
    from hashlib import blake2b

    block = bytes(1 << 20)

    def queued_s() -> float:
        with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as line:
            return int(line.read().split()[1]) / 1e9

    def rate(seconds: float) -> float:
        began, queued, done = time.perf_counter(), queued_s(), 0
        while time.perf_counter() - began < seconds:
            blake2b(block)
            done += 1
        return done / (time.perf_counter() - began - queued_s() + queued)

    stop = threading.Event()

    def read(buffer: bytearray) -> None:
        due = time.perf_counter()
        while not stop.is_set():
            get(buffer)
            due = max(due + len(buffer) / (BESIDE_BYTES_S / 4), time.perf_counter() - 0.1)
            time.sleep(max(0.0, due - time.perf_counter()))

    shares = []
    for _ in range(ROUNDS):
        alone = rate(0.5)
        stop.clear()
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(read, bytearray(OBJECT_BYTES))
            shares.append(rate(1.0) / alone)
            stop.set()
    return statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ.update(
            AWS_ENDPOINT_URL_S3=endpoint,
            AWS_ACCESS_KEY_ID="a",
            AWS_SECRET_ACCESS_KEY="b",
            AWS_DEFAULT_REGION="us-east-1",
        )
        clients: dict[str, Any] = {}
        for name in options.clients.split(","):
            try:
                clients[name] = CLIENTS[name](endpoint)
            except ImportError:
                print(f"{name}: not installed", file=sys.stderr)
        big, small = options.mib * (1 << 20) // OBJECT_BYTES, 1000
        runs: dict[str, tuple[str, int, int, int, float]] = {
            "GET 8 MiB, s/GiB, 1 thread": ("get", OBJECT_BYTES, big, 1, (1 << 30) / OBJECT_BYTES),
            "GET 8 MiB, s/GiB, 4 threads": ("get", OBJECT_BYTES, big, 4, (1 << 30) / OBJECT_BYTES),
            "PUT 8 MiB, s/GiB, 1 thread": ("put", OBJECT_BYTES, big, 1, (1 << 30) / OBJECT_BYTES),
            "GET 4 KiB, ms, 1 thread": ("get", SMALL_BYTES, small, 1, 1000),
            "GET 4 KiB, ms, 4 threads": ("get", SMALL_BYTES, small, 4, 1000),
            "PUT 4 KiB, ms, 1 thread": ("put", SMALL_BYTES, small, 1, 1000),
        }
        for title, (call, size, times, threads, unit) in runs.items():
            found: dict[str, list[float]] = {name: [] for name in clients}
            for _ in range(ROUNDS):
                for name, client in clients.items():
                    found[name].append(cpu_s(getattr(client, call), size, times, threads) * unit)
            print(title, *(f"{name} {statistics.median(values):.3f}" for name, values in found.items()), sep="   ")
        for name, client in clients.items():
            print(f"computation beside 500 MB/s: {name} keeps {beside(client.get):.0%}")
    finally:
        server.kill()


if __name__ == "__main__":
    main()
