"""mrfast.param(): from --param and params= to the application, while it loads and in its functions."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from test_cli import Shell

import mrfast
from mrfast import api
from mrfast.errors import AppError, JobFailed, UsageError

APP = """
import os
import mrfast
from mrfast import ops
WORD = mrfast.param("word")
reduce = ops.sum()
input = "lines"
def map(filename, line):
    if os.path.exists(os.path.dirname(filename) + "/fail"):
        raise ValueError("told to")
    yield WORD + mrfast.param("tail", "!"), line.decode().split().count(WORD)
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "in.txt").write_bytes(b"to be or\nnot to be\n")
    (tmp_path / "app.py").write_text(APP)
    return {
        "app": tmp_path / "app.py",
        "inputs": tmp_path / "in.txt",
        "store": tmp_path / "store",
        "reduces": 1,
        "workers": 1,
    }


def text(**options: Any) -> str:
    return mrfast.run(**options).text()


def test_an_application_gets_them_when_it_loads_and_in_its_functions(options: dict[str, Any]) -> None:
    assert text(params={"word": "to"}, **options) == "to! 2\n"
    assert text(params={"word": "or", "tail": "="}, **options) == "or= 1\n"
    assert mrfast.param("word", None) is None  # nothing of it is left in this process


def test_functions_get_them(options: dict[str, Any]) -> None:
    def map(filename: str, contents: bytes) -> Any:
        yield mrfast.param("key"), 1

    del options["app"]
    assert text(map=map, reduce=lambda key, values: sum(values), params={"key": "k"}, **options) == "k 1\n"


def test_one_that_is_missing_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"app.py:5: the parameter 'word' is not given: add --param word=\.\.\."):
        mrfast.run(**options)
    with pytest.raises(AppError, match="--param word="):
        mrfast.plan(options["app"], options["inputs"], store=tmp_path / "store")
    assert mrfast.plan(options["app"], options["inputs"], store=tmp_path / "store", params={"word": "x"})["maps"] == 1
    assert mrfast.param("word", None) is None


@pytest.mark.parametrize("params", [{"n": 1}, {1: "n"}, {"": "n"}])
def test_they_are_text(options: dict[str, Any], params: Any) -> None:
    with pytest.raises(UsageError, match="params"):
        mrfast.run(params=params, **options)


def test_a_resumed_job_keeps_its_own(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(JobFailed):
        mrfast.run(params={"word": "be"}, job="mine", attempts_max=1, **options)
    (tmp_path / "fail").unlink()
    assert api.find_job("mine", str(options["store"])).params == {"word": "be"}
    assert api.resume_job("mine", None, store=str(options["store"])).text() == "be! 2\n"


def test_other_parameters_are_another_app_to_reuse(options: dict[str, Any]) -> None:
    def reused(**params: str) -> int:
        found: int = mrfast.run(params=params, reuse=True, **options).totals["maps_reused"]
        return found

    assert [reused(word="to"), reused(word="to"), reused(word="be"), reused(word="to", tail="")] == [0, 1, 0, 0]


def test_the_command_line_has_them(options: dict[str, Any], tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "in.txt").write_bytes(b"a=b\n")
    done = shell("run", "app.py", "in.txt", "--param", "word=a=b", "--param", "tail=", "-r", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "mr-out-0").read_bytes() == b"a=b 1\n"
    assert "--param word=..." in shell.fails("run", "app.py", "in.txt", code=2)
    assert "name=value" in shell.fails("run", "app.py", "in.txt", "--param", "word", code=2)
    assert "twice" in shell.fails("run", "app.py", "in.txt", "--param", "a=", "--param", "a=", code=2)
    assert "leave out --param" in shell.fails("run", "--resume", "x", "--param", "a=b", code=2)


def test_workers_of_a_job_get_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    serving = shell.start(
        *("in.txt", "--listen", address, "-o", "out", "-r", "1", "--linger-s", "0", "--param", "word=to"),
        name="coordinator_main",
    )
    try:
        done = shell("app.py", address, "--slots", "1", name="worker_main")
        assert done.returncode == 0, done.stderr
        assert serving.wait(30) == 0
    finally:
        serving.kill()
        serving.communicate()
    assert (tmp_path / "out" / "mr-out-0").read_bytes() == b"to! 2\n"
