"""`import mrfast`: what it has, what it costs, and the shapes that `run` takes an application in."""

from __future__ import annotations

import subprocess
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import pytest

import mrfast
from mrfast import ops
from mrfast.errors import MrfastError, UsageError, UserError

TEXT = b"one two two\nthree three three\n"
EXPECTED = {"one": "1", "two": "2", "three": "3"}
APP = "from mrfast import ops\nmap = ops.words(letters='ascii')\nreduce = ops.sum()\n"
HEAVY = ("boto3", "rich", "asyncio", "http", "ssl", "multiprocessing", "importlib.metadata", "click", "mrfast._core")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "in.txt").write_bytes(TEXT)
    return {"inputs": tmp_path / "in.txt", "store": tmp_path / "store", "reduces": 2}


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_every_exported_name_is_there() -> None:
    for name in mrfast.__all__:
        assert getattr(mrfast, name) is not None
    assert set(mrfast.__all__) <= set(dir(mrfast))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = mrfast.nothing_like_this  # type: ignore[attr-defined]


def test_every_error_is_an_mrfast_error_with_an_exit_code() -> None:
    for name in mrfast.__all__:
        found = getattr(mrfast, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, MrfastError)
            assert found.exit_code in (1, 2, 3, 4, 5)


def test_importing_mrfast_costs_nothing() -> None:
    loaded = loaded_by("import mrfast")
    assert not loaded & {*HEAVY, "orjson", "mrfast.model"}


def test_the_command_line_imports_nothing_heavy() -> None:
    assert not loaded_by("import mrfast.cli") & (set(HEAVY) - {"click"})


def test_a_local_run_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(TEXT)
    code = (
        "import mrfast; from mrfast import ops\n"
        f"mrfast.run(inputs={str(tmp_path / 'in.txt')!r}, map=ops.words(letters='ascii'), reduce=ops.sum(), "
        f"store={str(tmp_path / 'store')!r})"
    )
    assert not loaded_by(code) & (set(HEAVY) - {"mrfast._core"})


def test_an_application_file(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    result = mrfast.run(tmp_path / "app.py", **options)
    assert dict(result.records()) == EXPECTED
    assert sorted(result.text().split("\n")) == ["", "one 1", "three 3", "two 2"]


def test_a_module(options: dict[str, Any]) -> None:
    module = types.ModuleType("counted")
    exec(APP, vars(module))
    assert dict(mrfast.run(module, **options).records()) == EXPECTED


def test_an_app_object(options: dict[str, Any]) -> None:
    from mrfast.app import App

    app = App.from_functions(map=ops.words(letters="ascii"), reduce=ops.sum())
    assert dict(mrfast.run(app, **options).records()) == EXPECTED


def test_functions_and_ops_mix_and_jsonl_keeps_types(options: dict[str, Any]) -> None:
    result = mrfast.run(
        map=lambda name, line: [(word.decode(), 1) for word in line.split()],
        reduce=ops.sum(),
        input="lines",
        output="jsonl",
        **options,
    )
    assert dict(result.records()) == {"one": 1, "two": 2, "three": 3}


def test_inputs_may_be_one_path_or_many(options: dict[str, Any]) -> None:
    path = options.pop("inputs")
    for inputs in (str(path), path, [path], (str(path),)):
        result = mrfast.run(inputs=inputs, map=ops.words(letters="ascii"), reduce=ops.sum(), **options)
        assert dict(result.records()) == EXPECTED


def test_an_application_given_twice_or_not_at_all(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not both"):
        mrfast.run("app.py", map=ops.lines(), **options)
    with pytest.raises(UsageError, match="needs an application"):
        mrfast.run(map=ops.lines(), **options)


@pytest.mark.parametrize("wrong", [{"reduces": 0}, {"reduces": 70_000}, {"reduces": "4"}, {"memory": "1GiB"}])
def test_numbers_are_checked(options: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        mrfast.run(map=ops.lines(), reduce=ops.identity(), **options | wrong)


def test_nothing_is_printed_unless_asked(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    mrfast.run(map=ops.words(letters="ascii"), reduce=ops.sum(), **options)
    assert capfd.readouterr() == ("", "")


def test_quiet_hides_what_functions_print(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    mrfast.run(map=lambda name, data: print("seen") or [], reduce=ops.sum(), quiet=True, **options)
    assert capsys.readouterr() == ("", "")


def test_what_functions_print_is_seen(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    mrfast.run(map=lambda name, data: print("seen") or [], reduce=ops.sum(), **options)
    assert capsys.readouterr().err == "m-000000 | seen\n"


@pytest.mark.parametrize("output", ["text", "tsv", "jsonl"])
def test_a_result_is_iterated_in_key_order(tmp_path: Path, output: str) -> None:
    words = [f"w{number * 7919 % 1000}" for number in range(500)] + ["é", "\U0001f600", "\uffff", "a b", "Z"]

    def each(filename: str, contents: bytes) -> Any:
        return [(word, 1) for word in words]

    (tmp_path / "in.txt").write_bytes(TEXT)
    result = mrfast.run(
        map=each, reduce=ops.sum(), output=output, inputs=tmp_path / "in.txt", store=tmp_path / "store", reduces=7
    )
    assert [key for key, _ in result] == sorted(words, key=str.encode)
    assert sorted(result) == sorted(result.records())
    assert {key: int(value) for key, value in result.to_dict().items()} == dict.fromkeys(words, 1)


def test_a_raw_result_is_iterated_part_by_part(options: dict[str, Any]) -> None:
    result = mrfast.run(map=ops.lines(), reduce=ops.identity(), **options)
    assert list(result) == list(result.records())
    assert len(list(result)) == 2


def test_a_result_shows_itself(options: dict[str, Any]) -> None:
    def one(filename: str, contents: bytes) -> Any:
        mrfast.count("<bad>", 1234)
        yield "k", 1

    result = mrfast.run(map=one, reduce=ops.sum(), **options)
    assert result.seconds > 0
    assert result.cost == result.cost_usd == 0
    assert repr(result).startswith(f"JobResult({result.job!r}, 1 records in 2 parts, ")
    html = result._repr_html_()
    assert "<th>&lt;bad&gt;</th><td>1,234</td>" in html
    assert result.job in html


STDIN = """
import mrfast
def map(filename, contents):
    for word in contents.decode().split():
        yield word, FACTOR
FACTOR = 10
result = mrfast.run(map=map, reduce=lambda key, values: sum(values), inputs="in.txt", store="store", workers=2)
print(result.to_dict())
"""


@pytest.mark.parametrize("arguments", [["-"], ["-c", STDIN], ["script.py"]])
def test_functions_of_a_script_run(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "in.txt").write_bytes(TEXT)
    (tmp_path / "script.py").write_text(STDIN)
    done = subprocess.run(
        [sys.executable, *arguments], input=STDIN, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'one': '10', 'three': '30', 'two': '20'}\n"


LOGGING = """
import logging, mrfast
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
def map(filename, contents):
    logging.debug("in a map")
    yield "k", 1
mrfast.run(map=map, reduce=lambda key, values: 1, inputs="in.txt", store="store", workers=1)
logging.debug("afterwards")
"""


def test_what_a_scripts_own_handler_logs_has_its_task_too(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(TEXT)
    done = subprocess.run(
        [sys.executable, "-c", LOGGING], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "DEBUG" in line]
    assert said[-2:] == ["m-000000 | DEBUG in a map", "DEBUG afterwards"]


def test_the_cause_of_a_failed_job_is_the_users_exception(options: dict[str, Any]) -> None:
    def broken(filename: str, contents: bytes) -> Any:
        raise ValueError("no good")

    with pytest.raises(mrfast.JobFailed, match="ValueError: no good") as caught:
        mrfast.run(map=broken, reduce=ops.sum(), attempts_max=1, **options)
    assert isinstance(caught.value.__cause__, UserError)
    said = "".join(traceback.format_exception(caught.value.__cause__))
    assert f'File "{__file__}"' in said
    assert 'raise ValueError("no good")' in said
