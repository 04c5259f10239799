"""The commands for whoever writes an application: mrfast check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import api
from ..errors import UsageError
from ..watch.progress import counted
from .show import print_data, say

if TYPE_CHECKING:
    from ..checking import Change

LINES_SHOWN = 20


@click.command(epilog="Examples: mrfast check apps/mean_size.py access.log; mrfast check app.py books/*.txt")
@click.argument("app", metavar="APP")
@click.argument("sample", nargs=-1, metavar="SAMPLE...")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def check(app: str, sample: tuple[str, ...], quiet: bool) -> None:
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

    found = checked(app, sample)
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
