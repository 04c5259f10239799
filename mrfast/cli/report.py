"""The command that tells a job's story afterwards: mrfast report."""

from __future__ import annotations

import re
from contextlib import suppress

import click

from .. import api
from ..errors import MrfastError, OutputExists
from .options import paths
from .show import print_data, say

MARK = b'content="mrfast report"'  # in the head of each report
HEAD_BYTES = 2_000


@click.command(
    epilog="Example: mrfast report out\n\nExample: mrfast report s3://bucket/out -o story.html\n\n"
    "Example: mrfast report access-log --store s3://bucket/mrfast"
)
@click.argument("job", metavar="OUTPUT|JOB", shell_complete=paths)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    help="Where the report goes, - is stdout.  [default: mrfast-report-JOB.html]",
)
@click.option(
    "--store",
    default=api.STORE,
    envvar="MRFAST_STORE",
    show_default=True,
    metavar="URL",
    help="Where the job is, or was.",
)
@click.option("--force", is_flag=True, help="Replace FILE even if it is no report of mrfast.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def report(job: str, path: str | None, store: str, force: bool, quiet: bool) -> None:
    """Write what happened in a job as one HTML file: the pictures of the live page, to keep and to send.

    OUTPUT is the folder or URL that a job wrote, JOB the id or name of one in --store; of a job that failed there is
    only the latter. The file needs no network and no server. An earlier report is replaced, another file is not.

    Exit codes: 0 written, 1 it cannot be written, 2 usage, 3 no such job or output, no log of it, or FILE is not ours.
    """
    from ..control.event_files import find_events
    from ..watch.report import report_html

    lines = find_events(job, store)
    html = report_html(lines).encode()
    if path == "-":
        print_data([html])
        return
    path = path or f"mrfast-report-{_name(lines)}.html"
    if not force and not _is_free(path):
        raise OutputExists(f"{path} exists and is no report of mrfast; take another name, or replace it with --force")
    try:
        with open(path, "wb") as file:
            file.write(html)
    except OSError as error:
        raise MrfastError(f"{path}: cannot be written: {error.strerror}; name another place with -o") from None
    if not quiet:
        say(f"mrfast: wrote {path} ({len(html) / 1024:,.0f} KiB); open it in any browser")


def _is_free(path: str) -> bool:
    """Whether nothing is there, or a report, which can be made again."""
    with suppress(FileNotFoundError):
        try:
            with open(path, "rb") as file:
                return MARK in file.read(HEAD_BYTES)
        except OSError:
            return True  # writing says what is wrong
    return True


def _name(lines: list[bytes]) -> str:
    """The job's name, or its id, as part of a file name."""
    import orjson

    first = orjson.loads(lines[0])
    return re.sub(r"[^\w.-]", "_", str(first.get("name") or first.get("job") or "job"))[:100]
