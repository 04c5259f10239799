"""The commands from end to end: a cluster in moto's EC2, whose machines are processes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto_cluster import IMAGE
from test_cluster_host import APP, TEXT, Machines

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(s3_server: str, tmp_path: Path) -> Cli:
    environment = {**os.environ, "AWS_ENDPOINT_URL": s3_server, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["AWS_REGION"] = "us-east-1"

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mrfast", "cluster", *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=110, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def machines(s3_server: str, s3_bucket: str, tmp_path: Path) -> Iterator[Machines]:
    with ExitStack() as stack:
        yield Machines("logs", s3_bucket, s3_server, tmp_path, stack)


def test_a_cluster_from_up_to_down(cli: Cli, machines: Machines, s3_client: Any, s3_server: str):
    bucket = machines.bucket
    s3_client.put_object(Bucket=bucket, Key="books/a.txt", Body=TEXT)
    ec2 = boto3.client("ec2", endpoint_url=s3_server, region_name="us-east-1")
    options = ("--workers", "2", "--bucket", bucket, "--ami", IMAGE)

    plan = cli("up", "logs", *options, "--dry-run").stdout
    assert "2 x c7g.xlarge" in plan and "price       $" in plan and "nothing comes in" in plan
    assert not ec2.describe_instances()["Reservations"]
    assert "mrfast cluster up logs" in cli("status", "logs", code=3).stderr

    said = cli("up", "logs", *options).stderr
    assert "started 2 x worker" in said and "mrfast cluster down logs" in said
    document = json.loads(cli("status", "logs", "--json").stdout)
    assert [one["role"] for one in document["machines"]] == ["coordinator", "worker", "worker"]
    assert "has not said hello" in cli("status", "logs").stdout
    assert "Linux" in cli("logs", "logs", "--role", "worker").stdout

    for one in document["machines"]:
        machines.start(one["role"], instance=one["instance"])
    assert "3 of 3 machines have said hello" in cli("up", "logs", "--wait").stderr
    done = cli("run", "logs", str(APP), f"s3://{bucket}/books/", "-r", "1")
    assert "aws ssm start-session" in done.stderr and "done in" in done.stderr
    key = done.stdout.strip().removeprefix(f"s3://{bucket}/") + "/mr-out-0"
    assert s3_client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"a 3\nb 1\nc 1\n"
    failed = cli("run", "logs", str(APP), f"s3://{bucket}/nothing/", "--job", "none", code=3)
    assert "s3://" in failed.stderr
    assert cli("run", "logs", "--attach", "none", code=3).stdout == ""

    assert "reads s3:// only" in cli("run", "logs", str(APP), "books/", code=2).stderr
    assert "may write under" in cli("run", "logs", str(APP), f"s3://{bucket}/books/", "-o", "s3://x/y", code=2).stderr
    assert "no INPUT" in cli("run", "logs", str(APP), code=2).stderr
    assert "name an APP" in cli("run", "logs", code=2).stderr

    said = cli("down", "logs").stderr
    assert f"what jobs have written is still there: s3://{bucket}/mrfast" in said
    left = [one["Key"] for one in s3_client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert key in left and not [one for one in left if one.startswith("mrfast-cluster/")]
    assert "there is nothing of a cluster logs" in cli("down", "logs").stderr


def test_down_asks_on_a_terminal(cli: Cli, s3_server: str, tmp_path: Path):
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "AWS_ENDPOINT_URL": s3_server, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "mrfast", "cluster", "down", "logs", "--region", "us-east-1"],
        env=environment, cwd=tmp_path, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.write(master, b"n\n")
        _, said = process.communicate(timeout=100)
    os.close(master)
    os.close(slave)
    assert process.returncode == 2 and b"Remove the cluster logs?" in said and b"nothing was removed" in said
