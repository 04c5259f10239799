"""Whole jobs in S3: by real processes on servers that others wrote, and behind every fault of the stand-in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference import run_reference
from slow_s3 import SlowS3

import mrfast
from mrfast import ops
from mrfast.storage import base, ledger, open_store

WC = str(Path(__file__).parent.parent / "apps" / "wc.py")
REDUCES = 3
WORDS: dict[str, Any] = {"map": ops.words(letters="unicode"), "reduce": ops.sum()}
TEXT = "der Fluß läuft über the quick brown fox\n".encode()
FILES = {
    f"{n}.txt": b"".join(TEXT + b"line w%s\n" % (b"abcdef"[i % 6 :] * (n + 1)) for i in range(900)) for n in range(4)
}
WAIT_S = 60


def fill(url: str) -> list[bytes]:
    """Puts the text under `url`/in; gives the parts that the word count of it has to have."""
    store = open_store(f"{url}/in")
    for name, data in FILES.items():
        store.put(name, data)
    inputs = [(f"{url}/in/{name}", data) for name, data in sorted(FILES.items())]
    return run_reference(WORDS["map"], WORDS["reduce"], inputs, REDUCES)


def parts(output: str) -> list[bytes]:
    store = open_store(output)
    return [base.read(store, f"mr-out-{n}") for n in range(REDUCES)]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))


# Processes, on real servers.


class Processes:
    """Starts mrfast's commands in a folder, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[str]] = []

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; from mrfast.cli import {command}; sys.exit({command}())", *arguments],
            cwd=self.folder,
            env={**os.environ, "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.all.append(process)
        return process


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.all:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> str:
    """What the process printed on stdout, once it has ended well."""
    out, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    return out


def test_run_as_a_process(any_s3_url: str, processes: Processes) -> None:
    expected = fill(any_s3_url)
    options = ["-r", str(REDUCES), "--split-bytes", "30000", "-w", "2", "--json"]
    said = ended(processes.start("main", "run", WC, f"{any_s3_url}/in/", "--store", f"{any_s3_url}/store", *options))
    assert parts(json.loads(said)["output_url"]) == expected
    assert not list(open_store(f"{any_s3_url}/store/jobs").list("inter/"))


def test_a_coordinator_and_workers(any_s3_url: str, processes: Processes) -> None:
    expected = fill(any_s3_url)
    store = ["--store", f"{any_s3_url}/store", "-o", f"{any_s3_url}/out", "--listen", "127.0.0.1:0", "--linger-s", "0"]
    coordinator = processes.start("coordinator_main", *store, "-r", str(REDUCES), f"{any_s3_url}/in/")
    assert coordinator.stderr is not None
    address = next(filter(None, (re.search(r"listening on (127\.0\.0\.1:\d+)", line) for line in coordinator.stderr)))
    workers = [processes.start("worker_main", WC, address[1], "--slots", "1") for _ in range(2)]
    for process in (coordinator, *workers):
        ended(process)
    assert parts(f"{any_s3_url}/out") == expected


# Behind faults.


@pytest.fixture(scope="module")
def _far() -> Iterator[SlowS3]:
    with SlowS3() as server:
        yield server


@pytest.fixture
def far(_far: SlowS3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[SlowS3]:
    """The stand-in without latency; what waits for it to do better does not wait long, in forked slots neither."""
    for name, value in _far.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mrfast.storage.s3_retry.BACKOFF_S_MAX", 0.01)
    monkeypatch.setattr("mrfast.storage.s3_http.IDLE_S", 0.5)
    _far.faults([])
    yield _far
    _far.faults([])


def run_behind(far: SlowS3, rules: list[dict[str, Any]], **options: Any) -> tuple[mrfast.JobResult, list[bytes]]:
    """Runs a job behind these faults, and compares its ledger with the server's log; the parts that it should have."""
    bucket = f"b{os.urandom(6).hex()}"
    far.make(bucket)
    expected = fill(f"s3://{bucket}")
    far.faults(rules)
    far.reset_log()
    try:
        result = mrfast.run(
            **WORDS,
            inputs=f"s3://{bucket}/in/",
            store=f"s3://{bucket}/store",
            reduces=REDUCES,
            workers=2,
            split_bytes=30_000,
            **options,
        )
    finally:
        far.faults([])
    assert_ledger_is_log(result, far.log())
    return result, expected


def assert_ledger_is_log(result: mrfast.JobResult, log: dict[str, Any]) -> None:
    """Every request that the server saw is in the job's ledger, and no other."""
    assert result.requests["by_verb"] == log["by_verb"]
    assert result.cost_usd == ledger.cost_usd(log["by_verb"])


# What a retry cures; a HEAD's answer has no body to break off.
CURED = [
    {"do": "InternalError", "every": 3},
    {"do": "SlowDown", "every": 2},
    {"do": "ServiceUnavailable", "every": 4},
    {"do": "reset", "every": 3},
    {"do": "lose", "every": 5},
    {"do": "cut", "every": 5, "verb": ["GET", "LIST", "COPY"]},
    {"do": "stall", "every": 7, "verb": "GET", "times": 3},
    {"do": "flip", "verb": "GET", "key": "/inter/", "times": 1},
    {"do": "flip", "verb": "PUT", "key": "/inter/", "times": 1},
    {"do": "RequestTimeout", "every": 3, "verb": ["GET", "PUT"]},
]


@pytest.mark.parametrize("rule", CURED, ids=lambda rule: f"{rule['do']} {rule.get('verb', '')}")
def test_the_same_bytes_behind_a_fault(far: SlowS3, rule: dict[str, Any]) -> None:
    result, expected = run_behind(far, [rule])
    assert parts(result.output_url) == expected
    assert far.log()["by_fault"][rule["do"]]


@pytest.mark.parametrize("do", ["ExpiredToken", "InternalError"])
def test_a_journal_that_the_store_refuses_stops_no_job(far: SlowS3, do: str) -> None:
    result, expected = run_behind(far, [{"do": do, "verb": "PUT", "key": "/journal/"}])
    assert parts(result.output_url) == expected


def test_a_part_that_was_damaged_on_its_way_up_is_sent_again(far: SlowS3) -> None:
    result, expected = run_behind(far, [{"do": "flip", "verb": "PUT", "key": "/out/r-", "times": 1}])
    assert parts(result.output_url) == expected
    assert not mrfast.verify(result.output_url).faults
    assert far.log()["by_fault"]["flip"] == 1


UNCURED = [
    ({"do": "flip", "verb": "PUT", "key": "/out/r-"}, r"not what was sent: BadDigest.*s3://b\w+/\S+, request SLOW\d+"),
    ({"do": "AccessDenied", "verb": "GET", "key": "^in/1"}, r"s3://b\w+/in/1\.txt bytes=\d+-\d+, request SLOW\d+"),
    ({"do": "InternalError", "verb": "GET", "key": "/inter/"}, r"s3://b\w+/\S+ bytes=\d+-\d+, request SLOW\d+"),
    ({"do": "InternalError", "verb": "PUT", "key": "/inter/"}, r"s3://b\w+/\S+/inter/m-\S+, request SLOW\d+"),
    ({"do": "ExpiredToken", "verb": "GET", "key": "^in/"}, r"s3://b\w+/in/\d\.txt bytes=\d+-\d+, request SLOW\d+"),
    ({"do": "RequestTimeTooSkewed", "verb": "GET", "key": "^in/"}, r"clock is wrong.*bytes=\d+-\d+, request SLOW\d+"),
    ({"do": "reset", "verb": "PUT", "key": "/out/r-"}, r"broke off: .*s3://b\w+/\S+/out/r-"),
    ({"do": "cut", "verb": "GET", "key": "^in/1"}, r"s3://b\w+/in/1\.txt broke off 8 times, last at byte \d+"),
]


@pytest.mark.parametrize(("rule", "says"), UNCURED, ids=lambda case: case["do"] if isinstance(case, dict) else "")
def test_what_no_retry_cures_is_told(
    far: SlowS3, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("mrfast.control.scheduler.STORE_FAILURES_MAX", 1)
    with pytest.raises(mrfast.JobFailed, match=says):
        run_behind(far, [rule])


def test_a_clock_that_is_wrong_is_set_right(far: SlowS3) -> None:
    result, expected = run_behind(far, [{"do": "skew", "offset_s": 7200}])
    assert parts(result.output_url) == expected
