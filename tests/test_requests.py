"""What a job sent to S3: the ledger, `plan` and the server's own access log say the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mrfast
from mrfast import cli
from mrfast.control import groups, plan
from mrfast.control.event_files import find_events
from mrfast.errors import UsageError
from mrfast.model import InputCut, InputObject, JobSpec
from mrfast.storage import base, ledger, open_store

TEXT = b"".join(b"the quick brown fox %d jumps over lazy dog %d\n" % (n, n * 7) for n in range(4000))
BLOCKS = InputCut("blocks", True)
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
    end = json.loads(find_events(result.output_url)[-1])
    assert {p: v for p, v in end["requests"]["by_phase"].items() if p != "journal"} == in_all


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


# -- plan -------------------------------------------------------------------------------------------------------------

APPS = {
    "words": "from mrfast import ops\nmap = ops.words(letters='space')\nreduce = ops.sum()\n",
    "lines": """
input = "lines"
def map(filename, line):
    for word in line.split():
        yield word, 1
def reduce(key, values):
    return sum(values)
""",
    "file": """
def map(filename, contents):
    for word in contents.split():
        yield word, filename
def reduce(key, values):
    return len(list(values))
""",
    "csv": """
input = "csv"
def map(filename, row):
    yield row["the"], 1
def reduce(key, values):
    return sum(values)
""",
}
CSV = b"a,the\n" + b"".join(b"%d,word %d\n" % (n, n) for n in range(8000))


@pytest.mark.parametrize(
    ("app", "inputs", "data", "options"),
    [
        ("words", 1, TEXT, {"reduces": 1}),
        ("words", 7, TEXT, {"reduces": 5, "job": "named"}),
        ("words", 70, TEXT[:9000], {"reduces": 3, "keep_intermediate": True}),
        ("words", 2, TEXT, {"reduces": 4, "split_bytes": 50_000}),
        ("words", 2, b"", {"reduces": 2}),
        ("lines", 3, TEXT, {"reduces": 2, "split_bytes": 70_000}),
        ("lines", 1, TEXT, {"reduces": 66, "overwrite": True}),
        ("file", 4, TEXT, {"reduces": 3}),
        ("csv", 2, CSV, {"reduces": 3, "split_bytes": 40_000}),
    ],
)
def test_plan_ledger_and_access_log_agree(
    s3_bucket: str, access_log: Log, tmp_path: Path, app: str, inputs: int, data: bytes, options: dict[str, Any]
) -> None:
    path = tmp_path / "app.py"
    path.write_text(APPS[app])
    source = put_inputs(s3_bucket, inputs, data)
    planned = mrfast.plan(path, source, store=f"s3://{s3_bucket}/store", **options)
    result, logged = run_counted(s3_bucket, access_log, app=path, inputs=source, **options)
    assert result.requests["by_verb"] == logged
    assert planned["requests"]["by_phase"] == result.requests["by_phase"]
    assert planned["requests"]["by_verb"] == logged
    assert planned["cost_usd"] == result.cost_usd
    assert (planned["maps"], planned["reduces"]) == (result.totals["maps"], result.totals["reduces"])


@pytest.mark.parametrize(("app", "memory"), [("words", 1 << 30), ("file", 1 << 30), ("lines", 1)])
def test_one_get_brings_the_segments_of_neighbouring_partitions(
    s3_bucket: str, access_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, memory: int
) -> None:
    path = tmp_path / "app.py"
    path.write_text(APPS[app])
    source = put_inputs(s3_bucket, 5)
    texts = []
    for size in (1, 3, 7, 9):
        monkeypatch.setattr(groups, "partitions_per_reduce", lambda *_, size=size, **__: size)
        options: dict[str, Any] = {"reduces": 7, "memory": memory}
        planned = mrfast.plan(path, source, store=f"s3://{s3_bucket}/store", **options)
        result, logged = run_counted(s3_bucket, access_log, app=path, inputs=source, **options)
        assert planned["partitions_per_reduce"] == size
        assert result.requests["by_verb"] == planned["requests"]["by_verb"] == logged
        assert planned["requests"]["by_phase"] == result.requests["by_phase"]
        assert result.requests["by_phase"]["reduce"] == {"GET": 5 * -(-7 // size), "PUT": 7}
        assert planned["cost_usd"] == result.cost_usd
        assert [part["partition"] for part in _success(result)["parts"]] == list(range(7))
        assert not mrfast.api.verify(result.output_url).faults
        texts.append([base.read(open_store(result.output_url), f"mr-out-{n}") for n in range(7)])
    assert all(each == texts[0] for each in texts)
    assert all(texts[0])


def test_plan_counts_what_is_uploaded_first(s3_bucket: str, access_log: Log, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes(TEXT + b"%d" % number)
    app = tmp_path / "app.py"
    app.write_text(APPS["words"])
    options: dict[str, Any] = {"inputs": [str(tmp_path / f"{n}.txt") for n in range(3)], "reduces": 2}
    for _ in range(2):  # the second time they are there
        planned = mrfast.plan(app, store=f"s3://{s3_bucket}/store", **options)
        result, logged = run_counted(s3_bucket, access_log, app=app, **options)
        assert planned["requests"]["by_verb"] == result.requests["by_verb"] == logged


def planned(sizes: list[int], cut: InputCut = BLOCKS, **changes: Any) -> plan.Plan:
    """The plan of a job over objects of these sizes, all of it in S3."""
    inputs = tuple(InputObject(f"{n}", f"s3://b/{n}", size, "e") for n, size in enumerate(sizes))
    spec = JobSpec("0" * 32, None, "s3://b/store", "s3://b/out", 10, 64 << 20, 1 << 30, 4, False, inputs)
    return plan.plan(replace(spec, **changes), cut, {})


def test_plan_is_exact_or_says_why() -> None:
    assert planned([1 << 20] * 100).exact
    assert not planned([1 << 20] * 100).why
    for sizes, cut, changes, why in (
        ([40 << 20], BLOCKS, {}, "map object over 32 MiB"),
        ([1 << 20], BLOCKS, {"overwrite": True}, "--overwrite"),
        ([100], BLOCKS, {}, "may be empty"),
        ([3 << 20], InputCut("csv", True), {"split_bytes": 1 << 20}, "line ends in quotes"),
        ([1 << 20] * 400, BLOCKS, {"reduces": 10}, "part over 32 MiB"),
        ([4 << 20] * 4, BLOCKS, {"reduces": 40_000}, "partitions may not fit a report"),
        ([1 << 20], BLOCKS, {"output_url": "/there"}, "blocks of 8 MiB"),
    ):
        found = planned(sizes, cut, **changes)
        assert not found.exact
        assert any(why in reason for reason in found.why), (why, found.why)
        document = found.document()
        low, high = document["range"]["cost_usd"]
        assert low <= document["cost_usd"] <= high
        assert low < high
        for verb, number in document["requests"]["by_verb"].items():
            least, most = document["range"]["by_verb"][verb]
            assert least <= number <= most


def test_plan_writes_nothing_and_prints(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPS["words"])
    (tmp_path / "a.txt").write_bytes(TEXT)
    command = ["plan", str(tmp_path / "app.py"), str(tmp_path / "a.txt"), "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(cli.mrfast, command)
    assert shown.exit_code == 0
    assert shown.output.startswith("1 map over ")
    document = json.loads(CliRunner().invoke(cli.mrfast, [*command, "--json"]).output)
    assert document["requests"] == {"by_verb": {}, "by_phase": {}}
    assert document["exact"]
    assert not (tmp_path / "store").exists()


def test_the_journal_of_ten_thousand_maps_costs_a_few_hundred_requests() -> None:
    inputs = tuple(InputObject(f"{n}", f"s3://b/{n}", 10, "e") for n in range(10_000))
    spec = JobSpec("0" * 32, None, "s3://b/store", "s3://b/out", 100, 1, 1 << 30, 4, False, inputs)
    journal = plan.plan(spec, InputCut("file", False), {}).document()["requests"]["by_phase"]["journal"]
    assert journal == {"PUT": 159, "GET": 159}


def test_plan_and_storage_mean_the_same_parts() -> None:
    from mrfast.storage import s3
    from mrfast.tasks import reader

    assert (plan.UPLOAD_PART_BYTES, plan.BLOCK_BYTES) == (s3.PART_BYTES, reader.BLOCK_BYTES)


def test_prices_of_one_run() -> None:
    counts = {"map": {"GET": {"ok": 2000}}}
    before = ledger.document(counts)["cost_usd"]
    with ledger.at_prices({"GET": 1}):
        assert ledger.document(counts)["cost_usd"] == 2
    with ledger.at_prices(None):
        assert ledger.document(counts)["cost_usd"] == before
    for wrong in ({"HELLO": 1}, {"GET": "1"}, {"GET": -1}, []):
        with pytest.raises(UsageError, match="prices: a dict of dollars"), ledger.at_prices(wrong):  # type: ignore[arg-type]
            pass


def test_prices_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_prices", ledger.PRICES)
    prices = tmp_path / "prices.json"
    prices.write_text('{"GET": 1, "DELETE": 0.5}')
    ledger.use_prices(ledger.read_prices(str(prices)))
    assert ledger.cost_usd({"GET": 2000, "PUT": 1000, "DELETE": 10}) == 2.01
    for wrong in ("{", "[]", '{"FETCH": 1}', '{"GET": -1}', '{"GET": true}', '{"GET": "1"}'):
        prices.write_text(wrong)
        with pytest.raises(UsageError, match="--prices"):
            ledger.read_prices(str(prices))
    with pytest.raises(UsageError, match="cannot be read"):
        ledger.read_prices(str(tmp_path / "none.json"))
