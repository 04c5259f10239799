"""`mrfast cluster run`: ships an application and its job by way of the bucket, and tells how it gets on."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shlex import join
from typing import Any

from mrfast.cluster import machines, record, status
from mrfast.cluster.aws import Aws
from mrfast.cluster.board import Board, Job
from mrfast.cluster.names import COORDINATOR, PAGE_PORT
from mrfast.errors import MrfastError, UsageError
from mrfast.storage import Store, open_store

LOOK_S = 2.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# What the cluster decides itself.
OWN = (
    "--listen",
    "--store",
    "--resume",
    "--token-file",
    "--insecure",
    "--tls-cert",
    "--tls-key",
    "--json",
    "--linger-s",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A cluster that can take jobs: its board, its coordinator's instance, and where its jobs write."""

    board: Board
    instance: str
    store: str


def find(aws: Aws, name: str, open: Callable[[str], Store] = open_store) -> Found:
    """The running cluster; UsageError if its coordinator does not run."""
    names = record.names_of(aws, name)
    cluster = record.get(aws, names)
    found = machines.live(machines.find_instances(aws, names), COORDINATOR)
    if not found:
        raise UsageError(f"no coordinator of {name} runs: idle machines end; first: mrfast cluster up {name}")
    return Found(status.board(aws, names, cluster, open), str(found[-1]["InstanceId"]), names.store(cluster.bucket))


def check(inputs: Sequence[str], arguments: Sequence[str], job: str | None) -> None:
    """UsageError for what a cluster's job cannot have."""
    for url in inputs:
        if not url.startswith("s3://"):
            raise UsageError(f"{url}: the cluster reads s3:// only; first: aws s3 cp --recursive {url} s3://...")
    for word in arguments:
        if word.partition("=")[0] in OWN:
            raise UsageError(f"{word}: the cluster decides this itself; leave it out")
    if job is not None and not _ID.fullmatch(job):
        raise UsageError(f"--job {job}: use up to 100 letters, digits and . _ - for the name of a cluster's job")


def check_output(output: str | None, store: str) -> None:
    """UsageError for an output where the cluster's role may not write."""
    if output is not None and not output.startswith(store + "/"):
        raise UsageError(f"-o {output}: the machines of the cluster may write under {store}/ only; name a place there")


def submit(
    board: Board, app: bytes, app_name: str, arguments: Sequence[str], params: dict[str, str], job: str | None
) -> Job:
    """The job, at the end of the cluster's queue."""
    queued = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06}"
    made = Job(
        id=job or f"{app_name.removesuffix('.py')}-{secrets.token_hex(4)}",
        app=board.put_app(app),
        app_name=app_name,
        arguments=tuple(arguments),
        params=params,
        queued=queued,
    )
    if board.end_of(made.id) is not None:
        raise UsageError(f"--job {made.id}: the cluster has had a job of that name; take another one")
    board.submit(made)
    return made


def port_forward(aws: Aws, instance: str) -> str:
    """The command that brings the job's page to this machine; it needs AWS's session-manager-plugin."""
    return join(
        [
            "aws", "ssm", "start-session", "--region", aws.region, "--target", instance,
            "--document-name", "AWS-StartPortForwardingSession",
            "--parameters", f"portNumber={PAGE_PORT},localPortNumber={PAGE_PORT}",
        ]
    )  # fmt: skip


def follow(
    board: Board, job: str, *, say: Say, sleep: Callable[[float], None], known: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """How the job ended, after its lines have been told as they came.

    `known` says whether there is still a machine that could end it; it is asked seldom.
    """
    told: list[str] = []
    for look in range(1, 1 << 62):
        end = board.end_of(job)
        lines = end["lines"] if end is not None else board.progress_of(job)
        for line in new_lines(told, lines):
            say(line)
        told = lines or told
        if end is not None:
            return end
        if look % 30 == 0 and not known():
            raise MrfastError(
                f"job {job} has no coordinator any more; start one again and it goes on: mrfast cluster up"
            )
        sleep(LOOK_S)
    raise AssertionError


def new_lines(told: list[str], lines: list[str]) -> list[str]:
    """Those of the last lines that were not among the last lines before."""
    for overlap in range(min(len(told), len(lines)), 0, -1):
        if told[-overlap:] == lines[:overlap]:
            return lines[overlap:]
    return lines
