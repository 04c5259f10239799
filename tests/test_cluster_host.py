"""What runs on the instances, for real but for EC2: hosts as processes, jobs through the bucket, the spot notice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import pytest
from fake_imds import metadata_service

from mrfast.cluster import run, spot
from mrfast.cluster.board import Board, Job
from mrfast.cluster.host import Host
from mrfast.cluster.names import Names
from mrfast.errors import MrfastError, StoreError, UsageError
from mrfast.storage import open_store

APP = Path(__file__).parent.parent / "apps" / "wc.py"
TEXT = b"b a\na c a\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Machines:
    """A cluster's machines, as processes of this one."""

    def __init__(self, name: str, bucket: str, endpoint: str, folder: Path, stack: ExitStack) -> None:
        self.name, self.bucket, self.folder, self.stack = name, bucket, folder, stack
        self.port, self.page_port = free_port(), 0
        self.environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.board = Board(open_store(Names(name, "", "").board(bucket)))

    def start(self, role: str, number: int = 0, *, instance: str = "") -> subprocess.Popen[bytes]:
        instance = instance or f"i-{role}-{number}"
        state = self.folder / instance
        state.mkdir(exist_ok=True)
        imds = self.stack.enter_context(metadata_service({"instance-id": instance}))
        command = [
            sys.executable, "-m", "mrfast.cluster.host", role, "--name", self.name, "--bucket", self.bucket,
            "--state", str(state), "--port", str(self.port), "--poll-s", "0.2", "--page-port", str(self.page_port),
        ]  # fmt: skip
        environment = {**self.environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        self.stack.callback(end, process)
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def machines(s3_server: str, s3_bucket: str, tmp_path: Path) -> Iterator[Machines]:
    ssm = boto3.client("ssm", endpoint_url=s3_server, region_name=os.environ.get("AWS_REGION", "us-east-1"))
    ssm.put_parameter(Name=f"/mrfast/{s3_bucket}/token", Type="SecureString", Value="ab" * 32, Overwrite=True)
    with ExitStack() as stack:
        yield Machines(s3_bucket, s3_bucket, s3_server, tmp_path, stack)


def followed(board: Board, job: str) -> dict[str, Any]:
    import time

    return run.follow(board, job, say=lambda line: None, sleep=lambda _: time.sleep(0.1))


def test_a_job_runs_on_the_machines_and_its_app_comes_through_the_bucket(machines: Machines, s3_client: Any):
    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    machines.start("coordinator")
    machines.start("worker", 1)
    machines.start("worker", 2)
    arguments = ["-r", "1", f"s3://{machines.bucket}/books/"]
    first = run.submit(machines.board, APP.read_bytes(), "wc.py", arguments, {}, None)
    second = run.submit(machines.board, APP.read_bytes(), "wc.py", [*arguments, "--no-such-option"], {}, "bad")
    ended = followed(machines.board, first.id)
    assert ended["code"] == 0, ended["lines"]
    key = ended["result"]["output_url"].removeprefix(f"s3://{machines.bucket}/") + "/mr-out-0"
    assert key.startswith("mrfast/out/")
    assert s3_client.get_object(Bucket=machines.bucket, Key=key)["Body"].read() == b"a 3\nb 1\nc 1\n"
    ended = followed(machines.board, second.id)  # an error does not stop the queue
    assert ended["code"] == 2 and "--no-such-option" in "\n".join(ended["lines"])
    third = run.submit(machines.board, APP.read_bytes(), "wc.py", arguments, {}, "third")
    assert followed(machines.board, third.id)["code"] == 0
    hellos = machines.board.hellos()
    assert set(hellos) == {"i-coordinator-0", "i-worker-1", "i-worker-2"}
    assert hellos["i-worker-1"]["role"] == "worker"
    assert machines.board.next_job() is None


def test_parameters_reach_the_workers_by_way_of_the_coordinator(machines: Machines, s3_client: Any):
    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    app = b"import mrfast\nWORD = mrfast.param('word')\ndef map(n, c): yield WORD, 1\ndef reduce(k, v): return sum(v)\n"
    machines.start("coordinator")
    machines.start("worker")
    arguments = ["-r", "1", f"s3://{machines.bucket}/books/"]
    ended = followed(machines.board, run.submit(machines.board, app, "asks.py", arguments, {"word": "w"}, None).id)
    assert ended["code"] == 0, ended["lines"]
    key = ended["result"]["output_url"].removeprefix(f"s3://{machines.bucket}/") + "/mr-out-0"
    assert s3_client.get_object(Bucket=machines.bucket, Key=key)["Body"].read() == b"w 1\n"


def test_a_coordinator_that_is_replaced_goes_on_with_the_job(machines: Machines, s3_client: Any):
    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    job = run.submit(machines.board, APP.read_bytes(), "wc.py", ["-r", "1", f"s3://{machines.bucket}/books/"], {}, "j")
    first = machines.start("coordinator")
    while machines.board.current() is None:  # it has begun, and no worker is there
        assert first.poll() is None
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 0 and machines.board.end_of(job.id) is None
    machines.start("coordinator", 1)
    machines.start("worker")
    ended = followed(machines.board, job.id)
    assert ended["code"] == 0, ended["lines"]


def test_a_coordinator_that_got_nowhere_begins_anew(machines: Machines, s3_client: Any):
    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    job = run.submit(machines.board, APP.read_bytes(), "wc.py", ["-r", "1", f"s3://{machines.bucket}/books/"], {}, "j")
    machines.board.begin(job)  # as a host does whose machine ends before the job is in the store
    machines.start("coordinator")
    machines.start("worker")
    ended = followed(machines.board, job.id)
    assert ended["code"] == 0, ended["lines"]


def test_the_page_of_a_running_job_is_on_the_coordinators_loopback(machines: Machines, s3_client: Any):
    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    job = run.submit(machines.board, APP.read_bytes(), "wc.py", ["-r", "1", f"s3://{machines.bucket}/books/"], {}, "j")
    machines.page_port = free_port()
    coordinator = machines.start("coordinator")
    while True:
        assert coordinator.poll() is None
        with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{machines.page_port}/healthz") as answer:
            assert answer.status == 200
            break
    machines.start("worker")
    assert followed(machines.board, job.id)["code"] == 0


def test_the_page_is_left_out_where_its_port_is_taken(tmp_path: Path):
    board = Board(open_store("memory://cluster-page"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        host = Host(board, "s3://b", tmp_path, instance="i", address="127.0.0.1", token="t", page_port=port)
        assert host._page() == {}
    assert host._page() == {"MRFAST_HTTP": f"127.0.0.1:{port}"}


def test_a_worker_that_is_told_to_stop_drains_and_others_do_its_tasks(machines: Machines, s3_client: Any):
    for name in "abcdefgh":
        s3_client.put_object(Bucket=machines.bucket, Key=f"books/{name}.txt", Body=TEXT)
    machines.start("coordinator")
    first = machines.start("worker", 1)
    job = run.submit(machines.board, APP.read_bytes(), "wc.py", ["-r", "1", f"s3://{machines.bucket}/books/"], {}, None)
    while not (machines.folder / "i-worker-1" / "busy").exists():  # it works for the job, or is about to
        assert first.poll() is None
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 0
    machines.start("worker", 2)
    ended = followed(machines.board, job.id)
    assert ended["code"] == 0 and ended["result"]["totals"]["records_out"] == 3, ended["lines"]


def test_an_app_that_is_not_what_was_shipped_is_refused(tmp_path: Path):
    board = Board(open_store("memory://cluster-app"))
    job = run.submit(board, b"map = 1\n", "app.py", ["s3://b/x"], {}, None)
    board.store.put(f"apps/{job.app}", b"map = 2\n")
    host = Host(board, "s3://b/mrfast", tmp_path, instance="i-1", address="127.0.0.1", token="t")
    board.set_current(job, "127.0.0.1:1")
    with pytest.raises(StoreError, match="not the application that was shipped"):
        host.work()


def test_jobs_queue_in_their_order_and_have_names_of_their_own():
    board = Board(open_store("memory://cluster-queue"))
    jobs = [run.submit(board, b"x", f"app{n}.py", ["s3://b/x"], {"n": str(n)}, None) for n in range(5)]
    for job in jobs:
        assert board.next_job() == job
        board.end(job, 0, ["done"], None)
    with pytest.raises(UsageError, match="had a job of that name"):
        run.submit(board, b"x", "app.py", ["s3://b/x"], {}, jobs[0].id)
    assert not board.begin(jobs[0]) and board.begin(jobs[0])


def test_follow_tells_each_line_once():
    board = Board(open_store("memory://cluster-follow"))
    job = Job("j", "f", "app.py", (), {}, "1")
    steps = iter([["a"], ["a", "b"], ["b", "c", "c"], ["c", "c", "d"]])
    said: list[str] = []

    def sleep(seconds: float) -> None:
        if (lines := next(steps, None)) is not None:
            board.tell("j", lines)
        else:
            board.end(job, 1, ["c", "d", "e"], None)

    assert run.follow(board, "j", say=said.append, sleep=sleep)["code"] == 1
    assert said == ["a", "b", "c", "c", "d", "e"]
    with pytest.raises(MrfastError, match="no coordinator any more"):
        run.follow(board, "k", say=said.append, sleep=lambda _: None, known=lambda: False)


@pytest.mark.parametrize(
    ("inputs", "arguments", "job", "match"),
    [
        (["books/"], [], None, "reads s3:// only"),
        (["s3://b/x"], ["--listen=1"], None, "decides this itself"),
        (["s3://b/x"], ["--store", "s3://b"], None, "--store: the cluster"),
        (["s3://b/x"], [], "a/b", "--job a/b"),
    ],
)
def test_what_a_clusters_job_cannot_have(inputs: list[str], arguments: list[str], job: str | None, match: str):
    with pytest.raises(UsageError, match=match):
        run.check(inputs, arguments, job)
    run.check_output("s3://b/mrfast/counts", "s3://b/mrfast")
    with pytest.raises(UsageError, match="may write under"):
        run.check_output("s3://b/mrfastcounts", "s3://b/mrfast")


def test_the_spot_notice_ends_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    values: dict[str, str] = {"instance-id": "i-7"}
    with metadata_service(values) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert spot.instance_id() == "i-7" and spot.metadata("spot/instance-action") is None
        looks: list[float] = []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                values["spot/instance-action"] = '{"action": "terminate"}'

        assert "terminate" in spot.wait_for_notice(sleep)
        assert looks == [spot.POLL_S] * 3
        done = tmp_path / "stopped"
        assert spot.main(["--", sys.executable, "-c", f"open({str(done)!r}, 'w')"]) == 0 and done.exists()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert spot.instance_id() is None


def test_a_document_that_is_written_anew_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch):
    board = Board(open_store("memory://cluster-anew"))
    board.tell("j", ["a"])
    stat, writes = board.store.stat, iter(["b", "c"])

    def stat_and_write(key: str) -> Any:
        info = stat(key)
        if (line := next(writes, None)) is not None:
            board.tell("j", [line])
        return info

    monkeypatch.setattr(board.store, "stat", stat_and_write)
    assert board.progress_of("j") == ["c"]
