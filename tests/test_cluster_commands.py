"""The commands with which the pages send a job to a Dask or Ray cluster, as they stand there, on clusters made here."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "deploy.md", ROOT / "docs" / "how-to" / "dask-and-ray.md")
WORKERS_MAIN = "from mrfast.cli import main; main()"
SCHEDULER = "tcp://10.0.0.5:8786"
STARTS_S = 60.0
_numbers = itertools.count()


def commands(engine: str) -> list[str]:
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    return [line.removeprefix("$ mrfast ") for line in lines if line.startswith(f"$ mrfast run --engine {engine} ")]


@pytest.fixture
def here(s3_client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a command in a folder with what the pages have there, in buckets of its own; its output is on stdout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "apps").symlink_to(ROOT / "apps")
    (tmp_path / "a.txt").write_text("to be or not to be\n")

    def bucket(match: re.Match[str]) -> str:
        name = f"{match[1]}-{os.getpid()}-{next(_numbers)}"
        s3_client.create_bucket(Bucket=name)
        s3_client.put_object(Bucket=name, Key="books/a.txt", Body=b"to be or not to be\n")
        return f"s3://{name}"

    def run(command: str) -> str:
        words = shlex.split(re.sub(r"s3://([a-z-]+)", bucket, command))
        ran = subprocess.run(
            [sys.executable, "-c", WORKERS_MAIN, *words, "-o", str(tmp_path / "out"), "-r", "1"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return (tmp_path / "out" / "mr-out-0").read_text()

    return run


@pytest.mark.parametrize("command", commands("dask"))
def test_the_commands_for_dask(here: Any, command: str) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        assert here(command.replace(SCHEDULER, cluster.scheduler_address)) == "be 2\nnot 1\nor 1\nto 2\n"


@pytest.fixture
def ray_head(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster as `ray start` makes one."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token in the home folder is looked for, here and there
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
         "--include-dashboard=false", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        began = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert head.poll() is None
                assert time.monotonic() < began + STARTS_S
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # where `auto` looks first
        yield
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait()


@pytest.mark.timeout(300)
def test_the_commands_for_ray(ray_head: None, here: Any) -> None:
    for command in commands("ray"):
        assert here(f"{command} --overwrite") == "be 2\nnot 1\nor 1\nto 2\n"


def test_there_are_commands() -> None:
    assert len(commands("dask")) == 3
    assert len(commands("ray")) == 2
