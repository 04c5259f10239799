"""The README and the pages of docs/ do what they say: every command and every block of Python runs, page by page."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import socket
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import documents
import pytest
import seaweedfs
from documents import PageError, Runner, Step, counts, fits, read_page

from mrfast.control import events
from mrfast.control.messages import CALLS
from mrfast.model import JobSpec

ROOT = documents.ROOT
_buckets = itertools.count()
ADDRESS = re.compile(r"\b127\.0\.0\.1:(?:[1-9]\d+)\b")


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    documents.write_commands(folder)
    return folder


def free_addresses(text: str) -> dict[str, str]:
    """A free loopback address for each that the text names."""
    named = sorted(set(ADDRESS.findall(text)) | {"127.0.0.1:8000"})
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in named]
        return {name: f"127.0.0.1:{each.getsockname()[1]}" for name, each in zip(named, sockets, strict=True)}


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_is_true(page: Path, tmp_path: Path, commands: Path, request: pytest.FixtureRequest) -> None:
    steps = read_page(page)
    if not counts(steps)[0]:
        return
    text = page.read_text()
    names = free_addresses(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MRFAST_", "MR_"))}
    environment |= {
        "PATH": f"{commands}{os.pathsep}{environment['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / ".home"),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "MRFAST_LINGER_S": "0.2",
        "MRFAST_LISTEN": names["127.0.0.1:8000"],
        "MR_COORDINATOR_ADDRESS": names["127.0.0.1:8000"],
    }
    if "s3://bucket" in text:
        import boto3

        bucket = f"docs-{os.getpid()}-{next(_buckets)}"
        endpoint = request.getfixturevalue("s3_server")
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
        environment |= seaweedfs.environment(endpoint)
        names["s3://bucket"] = f"s3://{bucket}"
    for name in ("apps", "deploy", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    Runner(page, tmp_path, environment, names).run(steps)


# The runner itself


def runner(folder: Path, *steps: Step) -> None:
    Runner(folder / "page.md", folder, os.environ, {}).run(list(steps))


def page(folder: Path, text: str) -> list[Step]:
    (folder / "page.md").write_text(text)
    return read_page(folder / "page.md")


def test_dots_stand_for_text_and_for_lines() -> None:
    assert fits(("a ... c", "...", "z"), ["a b c", "x", "y", "z"])
    assert fits(("...",), [])
    assert not fits(("a ... c",), ["a b"])
    assert not fits(("a",), ["a", "b"])
    assert not fits((), ["a"])


def test_a_page_is_read_in_its_order(tmp_path: Path) -> None:
    steps = page(
        tmp_path,
        '1. A list:\n\n    ```python title="a.py"\n    x = 1\n    ```\n\n```console\n$ cat a.py\nx = 1\n$ cat <<E\n'
        "> b\n> E\n```\n\n```python\nprint(1)\n```\n\n```output\n1\n```\n\n<!-- docs: not run: no network -->\n"
        "```console\n$ pip install x\n```\n",
    )
    assert [(step.kind, step.text, step.expected) for step in steps] == [
        ("file", "x = 1\n", None),
        ("command", "cat a.py", ("x = 1",)),
        ("command", "cat <<E\nb\nE", None),
        ("python", "print(1)", ("1",)),
        ("command", "pip install x", None),
    ]
    assert counts(steps) == (3, ["no network"])
    runner(tmp_path, *steps)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```bash\nls\n```", "outside a console block"),
        ("```\nmrfast run a b\n```", "outside a console block"),
        ("```text\n$ ls\n```", "outside a console block"),
        ("```console\nls\n```", "begins with"),
        ("<!-- docs: not run: -->\n```console\n$ ls\n```", "nobody knows"),
        ("<!-- docs: exit 1 -->\ntext", "before no block"),
        ("<!-- docs: exit 1 -->\n```text\nx\n```", "before a block that is not run"),
        ("```output\n1\n```", "behind no python block"),
    ],
)
def test_nothing_hides_from_the_runner(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        page(tmp_path, text + "\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```console\n$ echo b\na\n```", "printed something else: echo b"),
        ("```console\n$ false\n```", "ended with 1, not 0"),
        ("<!-- docs: exit 3 -->\n```console\n$ true\n```", "ended with 0, not 3"),
        ("```console\n$ exit 7\n```", "ended with -1"),
        ("```python\nprint(2)\n```\n```output\n1\n```", "printed something else"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("<!-- docs: background -->\n```console\n$ false\n```\n", "ended with 1, not 0"),
        ("<!-- docs: setup\nfalse\n-->", "ended with 1, not 0"),
    ],
)
def test_a_page_that_is_not_true_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        runner(tmp_path, *page(tmp_path, text + "\n"))


def test_what_runs_beside_the_page_is_waited_for(tmp_path: Path) -> None:
    text = (
        "```console\n$ mkfifo pipe\n$ X=1\n```\n<!-- docs: background -->\n```console\n$ cat pipe\nhere 1\n```\n"
        "```console\n$ echo here $X > pipe\n```\n<!-- docs: wait -->\n```console\n$ rm pipe\n```\n"
    )
    runner(tmp_path, *page(tmp_path, text))
    assert not (tmp_path / "pipe").exists()


# What the pages must not leave out


def test_every_call_of_the_protocol_is_shown() -> None:
    text = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    assert not [name for name in CALLS if f'"method":"{name}"' not in text]


def test_every_field_of_a_job_and_kind_of_event_is_told() -> None:
    text = (ROOT / "docs" / "reference" / "formats.md").read_text()
    assert not [field.name for field in fields(JobSpec) if f'"{field.name}": ' not in text]
    assert events.__doc__ is not None
    kinds = re.findall(r"^    ([a-z]\w*)  ", events.__doc__, re.MULTILINE)
    assert len(kinds) > 10 and not [kind for kind in kinds if f"| `{kind}`" not in text]


# What mkdocs makes of the pages


@pytest.fixture(scope="module")
def hooks() -> Any:
    specification = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def shown(hooks: Any, folder: Path, text: str) -> str:
    (folder / "page.md").write_text(text)
    return str(
        hooks.on_page_markdown(text, page=SimpleNamespace(file=SimpleNamespace(abs_src_path=folder / "page.md")))
    )


def test_marks_become_text(hooks: Any, tmp_path: Path) -> None:
    text = (
        "<!-- docs: setup\nhidden\n-->\n<!-- docs: exit 3 -->\n```console\n$ false\n```\n\n"
        "<!-- docs: not run: no network -->\n```console\n$ pip install x\n$ pip install y\n```\n"
    )
    page = shown(hooks, tmp_path, text)
    assert "<!--" not in page and "hidden" not in page
    assert "Not run by the tests: no network." in page
    assert "a test runs 1, and" in page and "2 cannot run there: no network." in page
    assert shown(hooks, tmp_path, "only text\n") == "only text\n"


def test_every_command_and_variable_is_in_the_reference(hooks: Any, tmp_path: Path) -> None:
    page = shown(hooks, tmp_path, "<!-- made: commands -->\n")
    for name, command in hooks._commands().items():
        assert f"## {name}\n" in page or isinstance(command, click.Group)
    assert "| `--split-bytes SIZE` | Larger inputs are cut, where the app allows it." in page
    assert "| `MRFAST_REDUCES` | `--reduces` |" in shown(hooks, tmp_path, "<!-- made: environment -->\n")


def test_a_file_that_is_shown_stands_on_the_page(hooks: Any, tmp_path: Path) -> None:
    assert "```python\n" + (ROOT / "apps" / "wc.py").read_text() + "```" in shown(
        hooks, tmp_path, "<!-- shown: apps/wc.py -->\n"
    )


def test_nothing_may_be_loaded_from_elsewhere(hooks: Any) -> None:
    assert hooks._LOADED.search('<script src="https://unpkg.com/mermaid.js">')
    assert hooks._LOADED.search("<link rel=stylesheet href=//fonts.googleapis.com/css>")
    assert not hooks._LOADED.search('<a href="https://example.org">')
    assert hooks._IN_CSS.search('@import "https://a.b/c.css"') and hooks._IN_CSS.search("url(//a.b/c.woff)")
