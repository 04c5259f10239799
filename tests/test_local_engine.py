"""Whole jobs on this machine: real slots, a real folder, and what is left of a job that did not end well."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mrfast
from mrfast import api
from mrfast.errors import AppError, BadRecord, InputMissing, JobFailed, NameInUse, OutputExists, UsageError

TEXTS = {"a.txt": b"to be or not to be\n", "b.txt": b"that is the question", "empty.txt": b""}


def count_map(filename: str, contents: bytes) -> Any:
    for word in contents.decode().split():
        yield word, 1


def count_reduce(key: str, values: Any) -> int:
    return sum(values)


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in TEXTS.items():
        (folder / name).write_bytes(data)
    return [str(folder)]


@pytest.fixture
def options(tmp_path: Path, inputs: list[str]) -> dict[str, Any]:
    return {"inputs": inputs, "store": tmp_path / "store", "reduces": 3, "workers": 2}


def left_over(store: Path) -> list[str]:
    """The files of a store, but not the names of its folders."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


def test_a_job_counts_words(options: dict[str, Any]) -> None:
    result = mrfast.run(map=count_map, reduce=count_reduce, **options)
    expected = Counter(b" ".join(TEXTS.values()).decode().split())
    assert {key: int(value) for key, value in result.records()} == expected
    assert len(result.parts) == 3
    assert all(Path(part).is_file() for part in result.parts)
    assert result.totals["maps"] == 3


@pytest.mark.parametrize("workers", [1, 4])
def test_parts_do_not_depend_on_the_number_of_workers(options: dict[str, Any], workers: int) -> None:
    def text(**changes: Any) -> list[bytes]:
        result = mrfast.run(map=count_map, reduce=count_reduce, **{**options, **changes})
        return [Path(part).read_bytes() for part in result.parts]

    assert text() == text(workers=workers)


def test_no_more_slots_are_started_than_there_are_tasks(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrfast.tasks import pool

    started: list[int] = []
    monkeypatch.setattr(pool, "_fork", lambda real=pool._fork: started.append(1) or real())
    mrfast.run(map=count_map, reduce=count_reduce, **{**options, "workers": 50, "reduces": 2})
    assert len(started) == 3


def test_empty_input_gives_empty_parts(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "nothing").write_bytes(b"")
    result = mrfast.run(map=count_map, reduce=count_reduce, **{**options, "inputs": tmp_path / "nothing"})
    assert [Path(part).read_bytes() for part in result.parts] == [b""] * 3
    assert list(result.records()) == []


def test_a_task_that_dies_once_is_run_again(options: dict[str, Any], tmp_path: Path) -> None:
    flag = tmp_path / "died"

    def dies_once(filename: str, contents: bytes) -> Any:
        if filename.endswith("a.txt") and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return count_map(filename, contents)

    result = mrfast.run(map=dies_once, reduce=count_reduce, **options)
    assert dict(result.records())["be"] == "2"


def test_a_task_that_always_dies_fails_the_job_with_the_signal(options: dict[str, Any], tmp_path: Path) -> None:
    def dies(filename: str, contents: bytes) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(JobFailed, match=r"SIGKILL.*out of memory"):
        mrfast.run(map=dies, reduce=count_reduce, attempts_max=2, **options)


def test_an_exception_fails_the_job_with_its_traceback_and_input(options: dict[str, Any]) -> None:
    def raises(filename: str, contents: bytes) -> Any:
        if filename.endswith("b.txt"):
            raise LookupError("what is a question?")
        return []

    with pytest.raises(JobFailed) as caught:
        mrfast.run(map=raises, reduce=count_reduce, **options)
    said = str(caught.value)
    assert "LookupError: what is a question?" in said
    assert "in raises" in said
    assert "b.txt" in said


def test_a_bad_record_fails_the_job_at_once(options: dict[str, Any]) -> None:
    with pytest.raises((BadRecord, JobFailed), match="key"):
        mrfast.run(map=lambda name, data: [({1}, 1)], reduce=count_reduce, **options)


def test_a_failed_job_leaves_no_output_and_no_claim(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(JobFailed):
        mrfast.run(map=lambda name, data: 1 / 0, reduce=count_reduce, output_url=out, attempts_max=1, **options)
    assert left_over(out) == []
    mrfast.run(map=count_map, reduce=count_reduce, output_url=out, **options)


def test_a_second_run_over_the_firsts_output(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mrfast.run(map=count_map, reduce=count_reduce, output_url=out, **options)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputExists, match="--overwrite"):
        mrfast.run(map=count_map, reduce=count_reduce, output_url=out, **options)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    result = mrfast.run(map=count_map, reduce=count_reduce, output_url=out, overwrite=True, **{**options, "reduces": 1})
    assert sorted(path.name for path in out.glob("mr-out-*")) == ["mr-out-0"]
    assert dict(result.records())["to"] == "2"


def test_a_jobs_name_is_its_own(options: dict[str, Any]) -> None:
    mrfast.run(map=count_map, reduce=count_reduce, job="hamlet", **options)
    with pytest.raises(NameInUse, match="hamlet"):
        mrfast.run(map=count_map, reduce=count_reduce, job="hamlet", **options)


def test_intermediates_are_gone_when_the_job_is_done(options: dict[str, Any], tmp_path: Path) -> None:
    mrfast.run(map=count_map, reduce=count_reduce, **options)
    assert not [name for name in left_over(tmp_path / "store") if "/inter/" in name]


@pytest.mark.parametrize("when", ["map", "reduce"])
def test_ctrl_c_leaves_nothing(options: dict[str, Any], tmp_path: Path, when: str) -> None:
    parent = os.getpid()

    def stop(now: str) -> None:
        if now == when:
            with contextlib.suppress(FileExistsError):  # one of the tasks is enough: a second Ctrl-C kills
                (tmp_path / "stopped").touch(exist_ok=False)
                os.kill(parent, signal.SIGINT)
            signal.pause()

    def map(filename: str, contents: bytes) -> Any:
        stop("map")
        return count_map(filename, contents)

    def reduce(key: str, values: Any) -> Any:
        stop("reduce")

    handler = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        mrfast.run(map=map, reduce=reduce, output_url=out, job="named", **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert left_over(tmp_path / "store") + left_over(out) == []


def test_a_job_can_run_in_a_thread(options: dict[str, Any]) -> None:
    results: list[api.JobResult] = []

    def work() -> None:
        results.append(mrfast.run(map=count_map, reduce=count_reduce, **options))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert dict(results[0].records())["to"] == "2"


def test_what_cannot_start(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="absent"):
        mrfast.run(map=count_map, reduce=count_reduce, **{**options, "inputs": [tmp_path / "absent"]})
    with pytest.raises(UsageError, match="no input"):
        mrfast.run(map=count_map, reduce=count_reduce, **{**options, "inputs": []})
    with pytest.raises(UsageError, match="memory://"):
        mrfast.run(map=count_map, reduce=count_reduce, **{**options, "store": "memory://x"})
    with pytest.raises(UsageError, match="reduces"):
        mrfast.run(map=count_map, reduce=count_reduce, **{**options, "reduces": 0})
    with pytest.raises(AppError, match="no such application"):
        mrfast.run(tmp_path / "absent.py", **options)
    assert not (tmp_path / "store").exists()


def test_an_app_that_does_not_load_leaves_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def map(a, b): pass")
    with pytest.raises(AppError, match="no `reduce`"):
        mrfast.run(tmp_path / "app.py", **options)
    assert not (tmp_path / "store").exists() or left_over(tmp_path / "store") == []


def test_the_app_sees_the_callers_folder(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = mrfast.run(map=lambda name, data: [(os.getcwd(), 1)], reduce=count_reduce, **options)
    assert dict(result.records()) == {str(tmp_path): "3"}


@pytest.mark.parametrize(("field", "is_split"), [("plain", True), ('"two\nlines"', False)])
def test_csv_is_split_where_no_quoted_field_forbids_it(
    options: dict[str, Any], tmp_path: Path, field: str, is_split: bool
) -> None:
    (tmp_path / "table.csv").write_text("name,count\n" + f"{field},2\n" * 20)
    result = mrfast.run(
        map=lambda filename, row: [(row["name"], int(row["count"]))],
        reduce=count_reduce,
        input="csv",
        split_bytes=25,
        **{**options, "inputs": tmp_path / "table.csv"},
    )
    assert list(dict(result.records()).values()) == ["40"]
    assert (result.totals["maps"] > 1) == is_split


@pytest.mark.parametrize("step", ["write_manifest", "publish"])
def test_a_fault_of_ours_in_the_commit_removes_no_part(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from mrfast.control import commit

    def broken(*_: Any) -> None:
        raise RuntimeError("no error of the store's")

    monkeypatch.setattr(commit, step, broken)
    with pytest.raises(RuntimeError):
        mrfast.run(map=count_map, reduce=count_reduce, output_url=tmp_path / "out", **options)
    names = left_over(tmp_path / "store")
    assert sum("/out/r-" in name for name in names) == options["reduces"]
    assert not any(name.endswith("failed.json") for name in names)
    assert left_over(tmp_path / "out") == [commit.CLAIM_KEY]
