"""What mkdocs does besides for docs/: the pages' marks for tests/documents.py become text, and commands their options.

<!-- made: command mrfast run -->     the help of that command, from click
<!-- made: environment -->            the variables that options take their values from
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import click  # noqa: E402
from documents import SHOWN, counts, read_page  # noqa: E402

_SETUP = re.compile(r"^<!-- docs: setup\n.*?^-->\n", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"^( *)<!-- docs: not run: (.*?) -->$", re.MULTILINE)
_MARK = re.compile(r"^ *<!-- docs: .*? -->\n", re.MULTILINE)
_MADE = re.compile(r"^<!-- made: (.*?) -->$", re.MULTILINE)
_LOADED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
_IN_CSS = re.compile(r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^"')]+)""")
_NO_LOADING = ('rel="canonical"', "rel=canonical")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page as it is shown."""
    run, not_run = counts(read_page(Path(page.file.abs_src_path)))
    markdown = _SETUP.sub("", markdown)
    markdown = _NOT_RUN.sub(r"\1*Not run by the tests: \2.*{ .mark }\n", markdown)
    markdown = _MARK.sub("", markdown)
    markdown = SHOWN.sub(lambda found: f"```python\n{(ROOT / found[1]).read_text()}```", markdown)
    markdown = _MADE.sub(lambda found: _made(found[1]), markdown)
    if not run + len(not_run):
        return markdown
    said = f"Of the commands and Python blocks of this page a test runs {run}, and compares what they print."
    if not_run:
        said += f" {len(not_run)} cannot run there: {'; '.join(dict.fromkeys(not_run))}."
    return f"{markdown}\n\n*{said}*{{ .mark }}\n"


def on_post_build(config: Any, **_: Any) -> None:
    """Nothing of the site is loaded from elsewhere."""
    from mkdocs.exceptions import PluginError

    site = Path(config["site_dir"])
    found = {
        f"{path.relative_to(site)} loads {url}"
        for pattern, files in ((_LOADED, "*.html"), (_IN_CSS, "*.css"))
        for path in site.rglob(files)
        for match in pattern.finditer(path.read_text())
        for url in [match[1]]
        if not any(word in match[0] for word in _NO_LOADING)
    }
    if found:
        raise PluginError("\n".join(sorted(found)))


def _made(what: str) -> str:
    return "\n".join({"environment": _environment, "commands": _all_commands}[what]())


def _commands() -> dict[str, click.Command]:
    from mrfast.cli import programs

    found = programs()
    for name, command in programs().items():
        found |= _below(name, command)
    return found


def _below(name: str, command: click.Command) -> dict[str, click.Command]:
    """A group's commands, and those of the groups in it."""
    found: dict[str, click.Command] = {}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for sub in command.list_commands(context):
            each = command.get_command(context, sub)
            assert each is not None
            found |= {f"{name} {sub}": each, **_below(f"{name} {sub}", each)}
    return found


def _all_commands() -> Iterator[str]:
    for name, command in _commands().items():
        if not isinstance(command, click.Group):
            yield from (f"## {name}", "")
            yield from _command(name, command)


def _command(name: str, command: click.Command) -> Iterator[str]:
    ctx = click.Context(command, info_name=name, max_content_width=100)
    yield from ("```text", " ".join(command.get_usage(ctx).removeprefix("Usage: ").split()), "```", "")
    for paragraph in (command.help or "").split("\n\n"):
        yield from (_escaped(" ".join(paragraph.split())), "")
    for example in re.findall(r"Example: (.*)", command.epilog or ""):
        yield from (f"For example: `{example}`", "")
    yield from ("| option | |", "|---|---|")
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and isinstance(param, click.Option):
            option, text = record
            variable = f" `${param.envvar}`" if isinstance(param.envvar, str) else ""
            yield f"| `{option}` | {_escaped(' '.join(text.split()))}{variable} |"
    yield ""


def _environment() -> Iterator[str]:
    by_variable: dict[str, tuple[str, list[str]]] = {}
    for name, command in _commands().items():
        for param in command.params:
            if isinstance(param, click.Option) and isinstance(param.envvar, str):
                by_variable.setdefault(param.envvar, (max(param.opts, key=len), []))[1].append(name)
    yield from ("| variable | option | of |", "|---|---|---|")
    for variable, (option, names) in sorted(by_variable.items()):
        yield f"| `{variable}` | `{option}` | {', '.join(f'`{name}`' for name in names)} |"


def _escaped(text: str) -> str:
    """Text of click in Markdown: its own `code` stays, nothing else means anything."""
    parts = text.split("`")
    plain = [re.sub(r"([\\*_\[\]#])", r"\\\1", part).replace("<", "&lt;").replace("|", "&#124;") for part in parts]
    return "`".join(part if odd % 2 else plain[odd] for odd, part in enumerate(parts))
