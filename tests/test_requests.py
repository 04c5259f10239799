"""What a job sent to S3: the ledger, `plan` and the server's own access log say the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrfast
from mrfast.storage import ledger, open_store

TEXT = b"".join(b"the quick brown fox %d jumps over lazy dog %d\n" % (n, n * 7) for n in range(4000))
Log = Callable[[str], dict[str, int]]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))


def put_inputs(bucket: str, count: int, data: bytes = TEXT, suffix: str = "txt") -> str:
    store = open_store(f"s3://{bucket}/in")
    for number in range(count):
        store.put(f"{number:03d}.{suffix}", data)
    return f"s3://{bucket}/in/"


def words(filename: str, contents: bytes) -> Any:
    for word in contents.split():
        yield word, 1


def total(key: bytes, values: Any) -> int:
    return sum(values)


def since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {verb: number for verb in after if (number := after[verb] - before.get(verb, 0))}


def run_counted(bucket: str, access_log: Log, **options: Any) -> tuple[mrfast.JobResult, dict[str, int]]:
    before = access_log(bucket)
    result = mrfast.run(store=f"s3://{bucket}/store", **options)
    return result, since(before, access_log(bucket))


def test_the_ledger_is_the_access_log(s3_bucket: str, access_log: Log) -> None:
    source = put_inputs(s3_bucket, 5)
    options = {"map": mrfast.ops.words(letters="ascii"), "reduce": mrfast.ops.sum(), "inputs": source, "workers": 2}
    result, logged = run_counted(s3_bucket, access_log, reduces=3, **options)
    assert result.requests["by_verb"] == logged
    assert result.cost_usd == ledger.cost_usd(logged)
    assert result.requests["by_outcome"].keys() == {"ok", "refused"}  # what is looked for, and is not there
    by_phase = result.requests["by_phase"]
    assert by_phase["map"]["PUT"] == 5
    assert by_phase["reduce"] == {"GET": 15, "PUT": 3}
    assert list(by_phase) == list(ledger.PHASES)

    document = _success(result)
    assert "clean" not in document["requests"]["by_phase"]
    in_all = {phase: verbs for phase, verbs in by_phase.items() if phase not in ("clean", "journal")}
    assert {p: v for p, v in document["requests"]["by_phase"].items() if p != "journal"} == in_all


def _success(result: mrfast.JobResult) -> dict[str, Any]:
    from mrfast.storage.base import read_json

    return dict(read_json(open_store(result.output_url), "_SUCCESS"))


def test_the_requests_of_killed_slots_count(s3_bucket: str, access_log: Log, tmp_path: Path) -> None:
    source = put_inputs(s3_bucket, 4)
    marks = tmp_path / "marks"
    marks.mkdir()

    def dies_once(filename: str, contents: bytes) -> Any:
        mark = marks / filename.rpartition("/")[2]
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return words(filename, contents)

    def dies_too(key: bytes, values: Any) -> int:
        if key == b"fox" and not (marks / "fox").exists():
            (marks / "fox").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(values)

    result, logged = run_counted(s3_bucket, access_log, map=dies_once, reduce=dies_too, inputs=source, reduces=2)
    assert result.requests["by_verb"] == logged
    assert result.requests["by_phase"]["reduce"]["GET"] == 4 * 2 + 4


def test_a_job_in_a_folder_has_no_requests(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    result = mrfast.run(map=words, reduce=total, inputs=tmp_path / "a.txt", store=tmp_path / "store", reduces=2)
    assert result.requests["by_verb"] == {}
    assert result.cost_usd == 0
