"""mrfast new: what it writes works as it is, and nothing is overwritten by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAIN = ("-c", "from mrfast.cli import main; main()")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_written_runs_and_its_test_and_check_pass(tmp_path: Path):
    made = run(tmp_path, *MAIN, "new", "words")
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    for command in ("pytest test_words.py", "mrfast check words.py SAMPLE...", "mrfast run words.py INPUT..."):
        assert f"\n    {command}\n" in made.stderr
    (tmp_path / "in.txt").write_text("Not to be\nto\n")
    done = run(tmp_path, *MAIN, "run", "words.py", "in.txt", "-r", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "mr-out-0").read_text().splitlines()
    assert lines == ['{"key":"be","value":1}', '{"key":"not","value":1}', '{"key":"to","value":2}']
    tested = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_words.py")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout
    checked = run(tmp_path, *MAIN, "check", "words.py", "in.txt")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("there", ["words.py", "test_words.py"])
def test_nothing_is_overwritten_without_force(there: str, tmp_path: Path):
    (tmp_path / there).write_text("mine\n")
    refused = run(tmp_path, *MAIN, "new", "words")
    assert refused.returncode == 3
    assert f"mrfast: error: {there} exists already" in refused.stderr
    assert "--force" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine\n"
    assert run(tmp_path, *MAIN, "new", "words", "--force").returncode == 0
    assert "mine" not in (tmp_path / there).read_text()


@pytest.mark.parametrize("name", ["2words", "a-b", "folder/words", "words.py", "class", ""])
def test_a_name_that_is_no_module_is_refused(name: str, tmp_path: Path):
    refused = run(tmp_path, *MAIN, "new", name)
    assert refused.returncode == 2
    assert "mrfast: error: " in refused.stderr
    assert not list(tmp_path.iterdir())
