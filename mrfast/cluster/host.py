"""What runs on an instance, between jobs and around them: it looks at the board, and starts mrfast for each job.

    python -m mrfast.cluster.host coordinator|worker --name NAME --bucket BUCKET --state FOLDER

systemd starts it again if it ends. SIGTERM goes on to the job's process, which drains; then the host ends, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import orjson

from mrfast.cluster.board import Board, Job
from mrfast.cluster.names import COORDINATOR, PAGE_PORT, PORT, ROLES, Names
from mrfast.errors import MrfastError
from mrfast.storage import open_store

POLL_S = 3.0
TICK_S = 2.0
LINES_KEPT = 20
TRIES_MAX = 3  # of a coordinator that dies without a word
UNKNOWN_JOB = 3
OVER = (0, 1, 2)  # of a worker: done, failed, or this machine is of no use to the job; else it tries again
DRAIN_S = 90  # within the two minutes that EC2 gives a spot machine
_MAIN = "import sys; from mrfast.cli import {0}_main; sys.argv[0] = 'mrfast-{0}'; {0}_main()"


class Host:
    """One machine of the cluster, whatever its role."""

    def __init__(
        self,
        board: Board,
        store_url: str,
        state: Path,
        *,
        instance: str,
        address: str,
        token: str,
        port: int = PORT,
        page_port: int = PAGE_PORT,
        poll_s: float = POLL_S,
    ) -> None:
        self.board = board
        self.store_url = store_url
        self.state = state
        self.instance = instance
        self.address = f"{address}:{port}"
        self.token = token
        self.port = port
        self.page_port = page_port
        self._poll_s = poll_s
        self._stopped = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._done: set[str] = set()
        self._tries: dict[str, int] = {}

    def stop(self, *_: Any) -> None:
        """SIGTERM: the job's process drains, and nothing is begun any more."""
        self._stopped.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def serve(self, role: str) -> None:
        """Says hello, and takes one step after another until it is stopped."""
        step = self.coordinate if role == COORDINATOR else self.work
        greeted = False
        while not self._stopped.is_set():
            try:
                if not greeted:
                    self.board.hello(self.instance, hello(role, self.address))
                    greeted = True
                    _say(f"{role} {self.instance} is ready")
                busy = step()
            except MrfastError as error:
                _say(f"{type(error).__name__}: {error}")
                busy = False
            if not busy:
                self._stopped.wait(self._poll_s)

    def coordinate(self) -> bool:
        """Whether there was a job: the first of the queue, resumed if it has begun before."""
        job = self.board.next_job()
        if job is None:
            if self.board.current() is not None:
                self.board.set_current(None, self.address)
            return False
        resume = self.board.begin(job)
        self.board.set_current(job, self.address)
        common = ["--listen", f"0.0.0.0:{self.port}", "--store", self.store_url, "--json"]
        params = [word for name, value in job.params.items() for word in ("--param", f"{name}={value}")]
        fresh = [*common, "--job", job.id, *params, *job.arguments]  # its workers get the parameters from it
        code, out, lines = self._run(COORDINATOR, [*common, "--resume", job.id] if resume else fresh, job)
        unknown = code == UNKNOWN_JOB and any("has no job" in line for line in lines)
        if resume and unknown and not self._stopped.is_set():  # it had begun, and got nowhere
            code, out, lines = self._run(COORDINATOR, fresh, job)
        if self._stopped.is_set():
            return False  # it is still in the queue: the next host resumes it
        self._tries[job.id] = self._tries.get(job.id, 0) + 1
        if code < 0 and self._tries[job.id] < TRIES_MAX:
            _say(f"the coordinator of {job.id} was ended by signal {-code}: it is resumed")
            return True
        self.board.set_current(None, self.address)
        self.board.end(job, code, lines, _json(out))
        return True

    def work(self) -> bool:
        """Whether there was a job to work for."""
        found = self.board.current()
        if found is None or found[0].id in self._done:
            return False
        job, address = found
        code, _, _ = self._run(
            "worker", [str(self._app_file(job)), address, "--connect-s", "60", "--drain-s", str(DRAIN_S)], None
        )
        if code in OVER:
            self._done.add(job.id)
        return False

    def _app_file(self, job: Job) -> Path:
        path = self.state / "apps" / job.app / job.app_name
        if not path.is_file():
            data = self.board.app(job.app)
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".half")
            half.write_bytes(data)
            half.replace(path)
        return path

    def _run(self, command: str, arguments: list[str], told: Job | None) -> tuple[int, bytes, list[str]]:
        """The exit code, stdout and last lines of mrfast-`command`; while it runs this machine is not idle."""
        _say(f"mrfast-{command} {' '.join(arguments)}")
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        child = subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(command), *arguments],
            env={**os.environ, "MRFAST_TOKEN": self.token, **(self._page() if command == COORDINATOR else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._child = child
        assert child.stdout is not None and child.stderr is not None
        out: list[bytes] = []
        readers = [_reader(child.stdout, out.append), _reader(child.stderr, lambda line: _pass_on(line, lines))]
        if self._stopped.is_set():  # between the look at the board and the start
            child.terminate()
        before: list[str] = []
        while True:
            (self.state / "busy").touch()
            try:
                child.wait(TICK_S)
                break
            except subprocess.TimeoutExpired:
                if told is not None and (now := list(lines)) != before:
                    before = now
                    self._tell(told, now)
        for reader in readers:
            reader.join(TICK_S)  # a grandchild may hold the pipes
        return child.returncode, b"".join(out), list(lines)

    def _page(self) -> dict[str, str]:
        """Where the coordinator shows its page: nowhere, if that of a coordinator before it is still there."""
        try:
            with socket.create_server(("127.0.0.1", self.page_port)) as server:
                return {"MRFAST_HTTP": f"127.0.0.1:{server.getsockname()[1]}"}
        except OSError:
            return {}

    def _tell(self, job: Job, lines: list[str]) -> None:
        try:
            self.board.tell(job.id, lines)
        except MrfastError as error:  # the job goes on
            _say(str(error))


def _reader(pipe: IO[bytes], use: Callable[[bytes], None]) -> threading.Thread:
    def read() -> None:
        for line in pipe:
            use(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _pass_on(line: bytes, lines: deque[str]) -> None:
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()
    lines.append(line.decode("utf-8", "replace").rstrip("\n"))


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _say(text: str) -> None:
    print(f"mrfast-host: {text}", file=sys.stderr, flush=True)


def hello(role: str, address: str) -> dict[str, Any]:
    """What a machine says of itself."""
    from mrfast import __version__

    return {
        "role": role,
        "version": __version__,
        "python": sys.version.split()[0],
        "cpus": len(os.sched_getaffinity(0)),
        "address": address,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def own_address() -> str:
    """The address by which others in the network reach this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def read_token(name: str) -> str:
    """The cluster's token, from SSM by this machine's role."""
    from mrfast.cluster.aws import Aws

    aws = Aws()
    names = Names(name, aws.region, "")
    found = aws.call("ssm", "get_parameter", Name=names.token, WithDecryption=True)
    return str(found["Parameter"]["Value"])


def main(arguments: list[str] | None = None) -> None:
    """Serves as the machine that the arguments say, until SIGTERM."""
    from mrfast.cluster.spot import instance_id

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--name", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--page-port", type=int, default=PAGE_PORT)
    parser.add_argument("--poll-s", type=float, default=POLL_S)
    options = parser.parse_args(arguments)
    names = Names(options.name, "", "")
    host = Host(
        Board(open_store(names.board(options.bucket))),
        names.store(options.bucket),
        options.state,
        instance=instance_id() or socket.gethostname(),
        address=own_address(),
        token=read_token(options.name),
        port=options.port,
        page_port=options.page_port,
        poll_s=options.poll_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, host.stop)
    host.serve(options.role)


if __name__ == "__main__":
    main()
