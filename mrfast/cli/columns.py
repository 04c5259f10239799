"""Text in columns and lines, as the commands that look at jobs print it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .show import print_data

TEXT_CHARS_MAX = 100


def seconds_text(seconds: float) -> str:
    """A time as people read it: 0.31 s, 12.4 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def when_text(at: float) -> str:
    """A UNIX time as this machine's clocks show it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "?"


def print_json(document: Any) -> None:
    """A document on stdout, as JSON."""
    import orjson

    print_data([orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)])


def print_lines(lines: Sequence[str]) -> None:
    """Lines on stdout."""
    print_data(["\n".join([*lines, ""]).encode("utf-8", "backslashreplace")])


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> None:
    """Rows under their heads: on a terminal in bold, and what does not fit in is under its row."""
    lines = aligned([head, *rows], sides)
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        print_lines(lines)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if max(map(len, lines)) > console.width:
        lines = aligned([row[:-1] for row in (head, *rows)], sides)
        lines = [
            lines[0],
            *(line + f"\n    {row[-1]}" * bool(row[-1]) for line, row in zip(lines[1:], rows, strict=True)),
        ]
    for number, line in enumerate(lines):
        console.print(Text(line, style="" if number else "bold"), soft_wrap=True)


def aligned(rows: Sequence[Sequence[str]], sides: str, before: str = "") -> list[str]:
    """Rows as lines of columns; `sides` says of each column whether it is at the left (l) or right (r)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        before
        + "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=False)
        ).rstrip()
        for row in rows
    ]


def aligned_rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values, one pair a line."""
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {first_line(value, 4000)}" for name, value in rows]


def wrapped(text: str, before: str, further: str | None = None) -> list[str]:
    """A text in lines that fit the terminal, 120 columns at most; `before` each, or `further` from the second on."""
    import shutil
    import textwrap

    width = min(120, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.wrap(
        text, max(40, width), initial_indent=before, subsequent_indent=before if further is None else further,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def indented(text: str, before: str = "  ") -> list[str]:
    """The lines of a text."""
    return [before + line for line in str(text).splitlines()]


def first_line(text: str, most: int = TEXT_CHARS_MAX) -> str:
    """The first line of a text, cut."""
    line = next(iter(str(text).splitlines()), "")
    return line if len(line) <= most else line[: most - 4] + " ..."
