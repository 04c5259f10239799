"""What a Markdown page shows, and a runner that does it in the page's order: one folder, one shell, one Python a page.

    ```console              each `$ command` runs (lines that begin with `> ` go on with it); its exit status must be 0.
                            The lines below it are what it prints, stdout and stderr; without any it may print all.
    ```python               runs; blocks of a page share their names. ```output right behind it is what it prints.
    ```any title="a.txt"    is written to that file of the folder (but for console, whose title is only a heading).
    <!-- shown: apps/wc.py -->    is that file of the project as a python block; the folder has apps, deploy, scripts.

In what is printed `...` stands for any text, and alone on a line for any number of lines. Comments before a block:

    <!-- docs: exit 3 -->               its last command ends so
    <!-- docs: background -->           its command runs beside the next ones; it is waited for at the page's end,
    <!-- docs: wait -->                 or here
    <!-- docs: not run: REASON -->      it cannot run in a test; the page is told so (scripts/docs_hooks.py)
    <!-- docs: setup                    hidden commands, one script, up to a line `-->`

`127.0.0.1:PORT` becomes a free port and `s3://bucket` an empty bucket, in commands, files and expectations alike.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"mrfast": "main", "mrfast-coordinator": "coordinator_main", "mrfast-worker": "worker_main"}
SHELL_LANGUAGES = {"bash", "sh", "shell", "zsh", "fish", "shell-session"}

_FENCE = re.compile(r"( *)```+(\S*)(.*)")
_TITLE = re.compile(r'title="([^"]+)"')
_COMMENT = re.compile(r"\s*<!-- docs: (.*?)\s*(-->)?\s*")
_EXIT = re.compile(r"exit (\d+)")
SHOWN = re.compile(r"<!-- shown: (\S+) -->")
_DOTS = "..."

# Reads a JSON text of code a line, runs it in __main__, and ends what it prints with the mark that it was given.
_PYTHON = """
def serve():
    import json, sys, traceback
    for line in sys.stdin:
        name, code = json.loads(line)
        status = 0
        try:
            exec(compile(code, name, "exec"), globals())
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        print(f"\\n{sys.argv[1]} {status}", flush=True)
serve()
"""


class PageError(AssertionError):
    """A page that is not true, or cannot be read."""


@dataclass(frozen=True)
class Step:
    """One thing to do: `kind` is command, background, python, shown, file, setup or wait."""

    kind: str
    line: int
    text: str
    expected: tuple[str, ...] | None = None
    status: int = 0
    name: str = ""
    not_run: str = ""


def read_page(path: Path) -> list[Step]:
    """The steps of a page, in its order."""
    steps: list[Step] = []
    notes: list[str] = []
    lines = path.read_text().split("\n")
    at = 0
    behind_python = False
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if shown := SHOWN.fullmatch(line):
            steps.append(Step("shown", number, (ROOT / shown[1]).read_text()))
            continue
        if comment := _COMMENT.fullmatch(line):
            if comment[1] == "wait":
                steps.append(Step("wait", number, ""))
            elif comment[1] == "setup":
                end = lines.index("-->", at)
                steps.append(Step("setup", number, "\n".join(lines[at:end])))
                at = end + 1
            else:
                notes.append(comment[1])
            continue
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if line.strip():
                behind_python = False
                if notes:
                    raise PageError(f"{path.name}:{number}: `docs: {notes[0]}` stands before no block")
            continue
        indent, language, rest = len(fence[1]), fence[2], fence[3]
        end = next(i for i in range(at, len(lines)) if lines[i].strip() == "```")
        block = [each[indent:] for each in lines[at:end]]
        at = end + 1
        title = _TITLE.search(rest)
        if language == "output":
            if not behind_python:
                raise PageError(f"{path.name}:{number}: an output block behind no python block")
            last = steps.pop()
            steps.append(Step(last.kind, last.line, last.text, tuple(block), not_run=last.not_run))
        else:
            steps += _steps(path, number, language, title[1] if title else "", block, notes)
        behind_python = language == "python" and not title
        notes = []
    return steps


def _steps(path: Path, number: int, language: str, title: str, block: list[str], notes: list[str]) -> list[Step]:
    where = f"{path.name}:{number}"
    not_run, status, background = "", 0, False
    for note in notes:
        if note.startswith("not run:") and note.removeprefix("not run:").strip():
            not_run = note.removeprefix("not run:").strip()
        elif found := _EXIT.fullmatch(note):
            status = int(found[1])
        elif note == "background":
            background = True
        else:
            raise PageError(f"{where}: nobody knows what `docs: {note}` means")
    if language == "console":
        commands = _commands(where, block)
        kind = "background" if background else "command"
        return [
            Step(kind, number + line, text, expected, status if line == commands[-1][0] else 0, not_run=not_run)
            for line, text, expected in commands
        ]
    if title:
        return [Step("file", number, "\n".join([*block, ""]), name=title)]
    if language == "python":
        return [Step("python", number, "\n".join(block), status=status, not_run=not_run)]
    if language in SHELL_LANGUAGES or any(re.match(r"(\$ |mrfast(-\w+)? )", line) for line in block):
        raise PageError(f"{where}: a command outside a console block, which no test runs")
    if notes:
        raise PageError(f"{where}: `docs: {notes[0]}` stands before a block that is not run")
    return []


def _commands(where: str, block: list[str]) -> list[tuple[int, str, tuple[str, ...] | None]]:
    found: list[tuple[int, list[str], list[str]]] = []
    for line, text in enumerate(block, 1):
        if text.startswith("$ "):
            found.append((line, [text[2:]], []))
        elif not found:
            raise PageError(f"{where}: a console block begins with `$ command`")
        elif text.startswith("> ") and not found[-1][2]:
            found[-1][1].append(text[2:])
        else:
            found[-1][2].append(text)
    cut = [(line, command, _without_blank_end(printed)) for line, command, printed in found]
    return [(line, "\n".join(command), tuple(printed) or None) for line, command, printed in cut]


def _without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def fits(expected: tuple[str, ...], came: list[str]) -> bool:
    """Whether these lines came, `...` standing for any text, and for any lines where it is alone."""
    if not expected:
        return not came
    if expected[0] == _DOTS:
        return any(fits(expected[1:], came[at:]) for at in range(len(came) + 1))
    pattern = ".*".join(re.escape(part) for part in expected[0].split(_DOTS))
    return bool(came) and re.fullmatch(pattern, came[0]) is not None and fits(expected[1:], came[1:])


class _Talk:
    """A child that is given work on its standard input, and says what it printed and how it ended."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.mark = f"mark-{os.urandom(8).hex()}"
        self._process = subprocess.Popen(
            [*command, self.mark],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )

    def say(self, text: str) -> tuple[list[str], int]:
        """The lines that it printed, and its status."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(self.mark):
                return _without_blank_end(lines), int(line.split()[1])
            lines.append(line.rstrip("\n"))
        return lines, -1

    def end(self) -> None:
        """Ends it, and all that it left running."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class Runner:
    """Does the steps of one page in `folder`; `names` are what the page says, and what it is here."""

    def __init__(self, page: Path, folder: Path, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        self._page = page
        self._folder = folder
        self._environment = environment
        self._names = names
        self._shell = _Talk(["bash", "--norc", "-s"], folder, environment)
        self._python: _Talk | None = None
        self._running: list[tuple[Step, Path]] = []

    def run(self, steps: list[Step]) -> None:
        """PageError at the first step that does not do what the page says."""
        doing = {
            "command": self._command,
            "setup": self._command,
            "background": self._start,
            "wait": self._wait,
            "python": self._in_python,
            "shown": self._in_python,
            "file": self._write,
        }
        try:
            for step in steps:
                if not step.not_run:
                    doing[step.kind](step)
            self._wait()
        finally:
            self._shell.end()
            if self._python is not None:
                self._python.end()

    def _here(self, text: str) -> str:
        for name, here in self._names.items():
            text = text.replace(name, here)
        return text

    def _ask(self, script: str) -> tuple[list[str], int]:
        return self._shell.say(f"{script}\nprintf '\\n%s %s\\n' {self._shell.mark} $?")

    def _command(self, step: Step) -> None:
        self._check(step, *self._ask(f"{{ {self._here(step.text)}\n}} </dev/null 2>&1"))

    def _start(self, step: Step) -> None:
        printed = self._folder / f".printed-{len(self._running)}"
        self._running.append((step, printed))
        self._ask(f"{{ {self._here(step.text)}\n}} </dev/null >{printed.name} 2>&1 & running{step.line}=$!")

    def _wait(self, step: Step | None = None) -> None:
        for started, printed in self._running:
            status = self._ask(f"wait $running{started.line}")[1]
            self._check(started, _without_blank_end(printed.read_text().split("\n")), status)
        self._running = []

    def _in_python(self, step: Step) -> None:
        if self._python is None:
            self._python = _Talk([sys.executable, "-u", "-c", _PYTHON], self._folder, self._environment)
        code = json.dumps([f"{self._page.name}:{step.line}", "\n" * step.line + self._here(step.text)])
        self._check(step, *self._python.say(code))

    def _write(self, step: Step) -> None:
        path = (self._folder / step.name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise PageError(f"{self._page.name}:{step.line}: {step.name} is not in the page's own folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(step.text))

    def _check(self, step: Step, came: list[str], status: int) -> None:
        expected = None if step.expected is None else tuple(self._here(line) for line in step.expected)
        __tracebackhide__ = True
        if status == step.status and (expected is None or fits(expected, came)):
            return
        why = f"ended with {status}, not {step.status}" if status != step.status else "printed something else"
        said = "\n    ".join(["", *came])
        wanted = "" if expected is None else "\n  expected:" + "\n    ".join(["", *expected])
        raise PageError(f"{self._page.name}:{step.line} {why}: {step.text}{wanted}\n  came:{said}")


def counts(steps: list[Step]) -> tuple[int, list[str]]:
    """How many commands and Python blocks of a page are run, and why each of the others is not."""
    shown = [step for step in steps if step.kind in ("command", "background", "python")]
    return sum(not step.not_run for step in shown), [step.not_run for step in shown if step.not_run]


def pages() -> list[Path]:
    """Every page whose commands are run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def write_commands(folder: Path) -> None:
    """Puts mrfast's commands and this Python there, to be found by PATH before any others."""
    folder.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    for name in ("python", "python3"):
        _write_script(folder / name, f'exec {python} "$@"')
    _write_script(folder / "pytest", f'exec {python} -m pytest -p no:cacheprovider "$@"')
    for name, function in COMMANDS.items():
        code = f"import sys; sys.argv[0] = {name!r}; from mrfast.cli import {function}; {function}()"
        _write_script(folder / name, f'exec {python} -c {shlex.quote(code)} "$@"')


def _write_script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
