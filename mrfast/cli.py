"""The commands: mrfast run, mrfast cat, mrfast-coordinator, mrfast-worker. Data on stdout, all for people on stderr."""

from __future__ import annotations

import sys

try:
    import os
    import re
    import time
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    import click

    from . import __version__, api
    from .errors import MrfastError, UsageError
    from .watch.progress import ProgressView, counted, size_text
except KeyboardInterrupt:  # even before there is a command, Ctrl-C is no reason for a traceback
    sys.stderr.write("mrfast: interrupted\n")
    raise SystemExit(130) from None

INTERRUPTED = 130
LISTEN = "127.0.0.1:8000"
ADDRESS_VARIABLE = "MR_COORDINATOR_ADDRESS"

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?B?)", re.IGNORECASE | re.ASCII)
F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes with a unit: 67108864, 64MiB, 64M, 64MB (10**6)."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        parsed = _SIZE.fullmatch(value.strip())
        if parsed is None:
            self.fail(f"{value!r} is no size: write it as 64MiB, 1GiB or 100000", param, ctx)
        number, unit, tail = parsed.groups()
        decimal = bool(unit) and tail.upper() == "B"
        factor = 1000 ** "KMGT".index(unit.upper()) * 1000 if decimal else _UNITS[unit.upper()]
        size = int(float(number) * factor)
        if size < 1:
            self.fail("at least 1 byte is needed", param, ctx)
        return size


def _job_options(command: F) -> F:
    """The options that describe a job, for `run` and for the coordinator alike."""
    options = (
        click.option("--store", default=api.STORE, envvar="MRFAST_STORE", show_default=True, metavar="URL",
                     help="A folder, or s3://bucket/prefix, for all that the job writes."),
        click.option("-o", "--output", "output_url", metavar="URL",
                     help="Where the parts go.  [default: STORE/out/JOB ID]"),
        click.option("-r", "--reduces", default=api.REDUCES, envvar="MRFAST_REDUCES", show_default=True,
                     type=click.IntRange(1, 65_535), help="Number of reduce tasks, and of parts."),
        click.option("--split-bytes", default="64MiB", envvar="MRFAST_SPLIT_BYTES", show_default=True, type=Size(),
                     help="Larger inputs are cut, where the app allows it."),
        click.option("--memory", default="1GiB", envvar="MRFAST_MEMORY", show_default=True, type=Size(),
                     help="How much memory a task may plan with."),
        click.option("--attempts-max", default=api.ATTEMPTS_MAX, envvar="MRFAST_ATTEMPTS_MAX", show_default=True,
                     type=click.IntRange(1), help="A task that fails so often fails the job."),
        click.option("--job", metavar="NAME", help="A name for the job, besides its id."),
        click.option("--overwrite", is_flag=True, help="Replace the result that is at the output already."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    epilog="Example: mrfast run apps/wc.py books/*.txt", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "--version", message="mrfast %(version)s")
def mrfast() -> None:
    """MapReduce over text and logs, in S3 or in a folder.

    On several machines: mrfast-coordinator and mrfast-worker.
    """


@mrfast.command(
    epilog="Example: mrfast run apps/wc.py books/*.txt s3://bucket/more/ -r 4 -o counts",
    options_metavar="[OPTIONS]",
)
@click.argument("app", metavar="APP")
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option(
    "-w", "--workers", envvar="MRFAST_WORKERS", type=click.IntRange(1), help="Processes.  [default: one a core]"
)
@_job_options
def run(app: str, inputs: tuple[str, ...], workers: int | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Run a job on this machine.

    APP is a Python file with `map` and `reduce`. INPUT is a file, a folder, a glob, s3://bucket/key,
    s3://bucket/prefix/ or an s3:// glob, in any mix.
    """
    if not inputs:
        raise UsageError(f"no INPUT; name files, folders, globs or s3:// URLs, as in: mrfast run {app} books/*.txt")
    started = time.monotonic()
    view = ProgressView(started, quiet=quiet)
    result = api.run_job(api.app_file(app), inputs, workers=workers, view=view, **options)
    _show_result(result, time.monotonic() - started, as_json=as_json, quiet=quiet)


@mrfast.command(epilog="Example: mrfast cat mrfast-store/out/4f1c... | sort -k2,2nr | head")
@click.argument("urls", nargs=-1, metavar="URL...")
@click.option("--jsonl", is_flag=True, help="A JSON object of key and value per line.")
def cat(urls: tuple[str, ...], jsonl: bool) -> None:
    """Print a job's whole output, a part of it, or a map object.

    URL is a folder, a file or an s3:// URL.
    """
    if not urls:
        raise UsageError("nothing to print; name a job's output, as in: mrfast cat mrfast-store/out/4f1c...")
    from .cat import cat as blocks_of

    out = sys.stdout.buffer
    try:
        for url in urls:
            for block in blocks_of(url, jsonl=jsonl):
                out.write(block)
        out.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- what people read -------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line for people."""
    click.echo(text, err=True)


def _show_result(result: api.JobResult, seconds: float, *, as_json: bool, quiet: bool) -> None:
    """The summary on stderr, and the JSON document on stdout."""
    totals = result.totals
    if as_json:
        import orjson

        document = {
            "job": result.job,
            "output_url": result.output_url,
            "parts": result.parts,
            "totals": totals,
            "counters": result.counters,
            "seconds": round(seconds, 3),
        }
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    if quiet:
        return
    where = _short(result.output_url)
    say(
        f"mrfast: job {result.job} done in {seconds:.2f} s: {counted(totals['maps'], 'map')}, "
        f"{counted(totals['reduces'], 'reduce')}, {size_text(totals['bytes_in'])} in, "
        f"{counted(totals['records_emitted'], 'record')} mapped, {counted(totals['records_out'], 'record')} out"
    )
    say(f"mrfast: output {where}\n\n    mrfast cat {_quoted(where)}\n")


def _short(url: str) -> str:
    """A local path as one would type it here."""
    below = os.getcwd().rstrip("/") + "/"
    return url.removeprefix(below) if url.startswith(below) else url


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII) else "'" + text.replace("'", "'\"'\"'") + "'"


def _fail(error: MrfastError) -> int:
    say(f"mrfast: error: {error}")
    return error.exit_code


def _run(command: click.Command, name: str) -> NoReturn:
    """Runs a command; the exit codes and the one line of an error are made here and nowhere else."""
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        code = 2
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx is not None else name
        say(f"mrfast: error: {error.format_message()} See: {asked} --help")
        code = 2
    except click.ClickException as error:
        say(f"mrfast: error: {error.format_message()}")
        code = error.exit_code
    except MrfastError as error:
        code = _fail(error)
    except (KeyboardInterrupt, click.Abort):
        say("mrfast: interrupted")
        code = INTERRUPTED
    except BrokenPipeError:  # stdout of --json, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def main() -> NoReturn:
    """The `mrfast` command."""
    _run(mrfast, "mrfast")


if __name__ == "__main__":
    main()
