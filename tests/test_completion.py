"""mrfast completion: the scripts are what shells take, and what they ask for is answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ("mrfast", "mrfast-coordinator", "mrfast-worker")


def run(entry: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", f"from mrfast.cli import {entry}; {entry}()", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell: str):
    done = run("main", "completion", shell)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE={shell}_complete"
        assert variable in done.stdout, name
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", done.stdout], check=True, timeout=60)


def test_another_shell_is_refused():
    done = run("main", "completion", "tcsh")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "'bash', 'zsh', 'fish'" in done.stderr


@pytest.mark.parametrize(
    ("entry", "words", "answer"),
    [
        ("main", "mrfast che", "plain,check"),
        ("main", "mrfast run app.p", "file,app.p"),
        ("main", "mrfast run app.py in", "file,in"),
        ("main", "mrfast check app.py in", "file,in"),
        ("main", "mrfast run app.py --store fol", "file,fol"),
        ("main", "mrfast completion z", "plain,zsh"),
        ("worker_main", "mrfast-worker app.p", "file,app.p"),
        ("coordinator_main", "mrfast-coordinator --linger", "plain,--linger-s"),
    ],
)
def test_what_a_shell_asks_is_answered(entry: str, words: str, answer: str):
    name, number = words.split()[0], len(words.split()) - 1
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    done = run(entry, **{variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [answer]


@pytest.mark.parametrize("command", ["run", "plan", "check"])
def test_help_has_two_examples(command: str):
    assert run("main", command, "--help").stdout.count(f"Example: mrfast {command} ") == 2
