"""The commands for whoever writes an application: mrfast check and new; and what is made once: token, completion."""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from .. import api
from ..errors import MrfastError, OutputExists, UsageError
from ..watch.progress import counted
from .options import param_option, paths
from .show import print_data, say

if TYPE_CHECKING:
    from ..checking import Change

LINES_SHOWN = 20


@click.command(
    epilog="Example: mrfast check apps/mean_size.py access.log\n\nExample: mrfast check app.py books/*.txt s3://bucket/one.gz"
)
@click.argument("app", metavar="APP", shell_complete=paths)
@click.argument("sample", nargs=-1, metavar="SAMPLE...", shell_complete=paths)
@param_option
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def check(app: str, sample: tuple[str, ...], quiet: bool, params: Mapping[str, str]) -> None:
    """Run APP on a sample under other conditions, and see whether its answer changes.

    The conditions: other splits, combine applied or not or often, values in other orders, other hash seeds, another
    order of the maps, values that were records or not. If the answer changes, the smallest sample that was found on
    which it does is printed. Of SAMPLE (like INPUT of `mrfast run`) the first MiB is taken.

    Exit codes: 0 no change found, 1 a change found or the application fails, 2 usage, 3 no such sample.
    """
    if not sample:
        raise UsageError(f"no SAMPLE; name some files that the app can read, as in: mrfast check {app} books/one.txt")
    api.app_file(app)
    from ..checking import check as checked

    found = checked(app, sample, params=params)
    if not quiet:
        for bound in found.bounds:
            say(f"mrfast: {bound}")
        for name in found.left_out:
            say(f"mrfast: does not apply to this app: {name}")
    if found.change is not None:
        print_data([_shown(app, found.change)])
        raise click.exceptions.Exit(1)
    if not quiet:
        say(f"mrfast: {app}: the same answer under {counted(len(found.done), 'condition')}")


@click.command(epilog="Example: mrfast new longest, and then: mrfast run longest.py books/*.txt")
@click.argument("name", metavar="NAME")
@click.option("--force", is_flag=True, help="Replace the files that are there.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def new(name: str, force: bool, quiet: bool) -> None:
    """Write an application to start from, NAME.py, and its test, test_NAME.py, in this folder.

    It counts words, and its comments say what map, reduce and combine are.
    """
    from .starter import APP, TEST

    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot be the name of a Python module; use letters, digits and _, as in: word_count"
        )
    files = {f"{name}.py": APP, f"test_{name}.py": TEST}
    there = [path for path in files if os.path.lexists(path)]
    if there and not force:
        raise OutputExists(f"{' and '.join(there)} exists already; take another name, or replace it with --force")
    for path, text in files.items():
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.format(name=name))
        except OSError as error:
            raise MrfastError(f"{path}: cannot be written: {error.strerror}; go to a folder of your own") from None
    if not quiet:
        say(
            f"mrfast: wrote {' and '.join(files)}; next:\n\n    pytest test_{name}.py\n"
            f"    mrfast check {name}.py SAMPLE...\n    mrfast run {name}.py INPUT...\n"
        )


@click.command(epilog="Example: mrfast token mrfast.token, and then: mrfast-coordinator --token-file mrfast.token ...")
@click.argument("path", metavar="FILE", shell_complete=paths)
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def token(path: str, quiet: bool) -> None:
    """Write a new token to FILE (- is stdout), which nobody but you can read.

    Copy it to each machine whose workers are to be admitted. It never crosses the network: both sides prove by
    HMAC-SHA256 that they have it.
    """
    from ..control.tokens import new_token, write_token

    if path == "-":
        print_data([f"{new_token()}\n".encode()])
        return
    write_token(path)
    if not quiet:
        say(
            f"mrfast: wrote {path}; next, with a copy of it on each machine:\n\n"
            f"    mrfast-coordinator --token-file {path} --listen 0.0.0.0:8000 INPUT...\n"
            f"    mrfast-worker --token-file {path} APP HOST:8000\n"
        )


@click.command(epilog='Example: eval "$(mrfast completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script with which a shell completes mrfast, mrfast-coordinator and mrfast-worker.

    For each new shell: eval "$(mrfast completion bash)" in ~/.bashrc, or the same with zsh in ~/.zshrc behind
    compinit, or mrfast completion fish | source in ~/.config/fish/config.fish.
    """
    from click.shell_completion import get_completion_class

    from . import programs

    maker = get_completion_class(shell)
    assert maker is not None
    for name, command in programs().items():
        variable = f"_{name.replace('-', '_')}_COMPLETE".upper()
        print_data([maker(command, {}, name, variable).source().encode() + b"\n"])


def _shown(app: str, change: Change) -> bytes:
    expected, came = change.expected.lines, change.came.lines
    lines = [f"{app}: the answer changes with: {change.condition.name}", f"cure: {change.condition.cure}"]
    for path, data in change.files:
        lines += [f"input {path}:", *_some(data.splitlines())]
    same_lines = set(expected) & set(came)
    lines += ["expected:", *_some([line for line in expected if line not in same_lines] or expected)]
    lines += ["came:", *_some([line for line in came if line not in same_lines] or came)]
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")


def _some(lines: list[bytes]) -> list[str]:
    shown = [f"    {line.decode(errors='backslashreplace')}" for line in lines[:LINES_SHOWN]]
    return shown + (
        [f"    ... and {counted(len(lines) - LINES_SHOWN, 'line')} more"] if len(lines) > LINES_SHOWN else []
    )
