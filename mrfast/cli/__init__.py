"""The commands: mrfast run, cat, ..., mrfast-coordinator, mrfast-worker. Data on stdout, the rest on stderr."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130


def _ctrl_c_ends_at_once(number: int, frame: object) -> None:
    """Ctrl-C while modules load: there is nothing to clean up, and an exception crashes some native modules there."""
    os.write(2, b"mrfast: interrupted\n")
    os._exit(INTERRUPTED)


_ctrl_c_before = signal.getsignal(signal.SIGINT)
with suppress(ValueError):  # only the main thread has handlers
    signal.signal(signal.SIGINT, _ctrl_c_ends_at_once)  # for the imports below; the end of this module undoes it

import time  # noqa: E402
from importlib import import_module  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

import click  # noqa: E402

from .. import __version__, api  # noqa: E402
from ..errors import MrfastError, UsageError  # noqa: E402
from ..watch.progress import ProgressView, counted, size_text  # noqa: E402
from ..watch.words import Words  # noqa: E402
from .command import HELP, LISTEN, Interrupted, QuietInvoke  # noqa: E402
from .options import (  # noqa: E402
    check_resume,
    engine_options,
    http_option,
    job_options,
    param_option,
    paths,
    peer_options,
)
from .show import print_data, say, show_plan, show_result, to_null  # noqa: E402

# The commands that are not here, and the modules that have them: `mrfast run` need not wait for their import.
_ELSEWHERE = {
    "check": "tools",
    "cluster": "cluster",
    "completion": "tools",
    "explain": "jobs",
    "jobs": "jobs",
    "new": "tools",
    "report": "report",
    "status": "jobs",
    "token": "tools",
}


class _Group(QuietInvoke, click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.commands, *_ELSEWHERE])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _ELSEWHERE:
            return super().get_command(ctx, name)
        command: click.Command = getattr(import_module(f".{_ELSEWHERE[name]}", __package__), name)
        return command


@click.group(
    cls=_Group,
    epilog="Example: mrfast run apps/wc.py books/*.txt",
    context_settings=HELP,
)
@click.version_option(__version__, "--version", message="mrfast %(version)s")
def mrfast() -> None:
    """MapReduce over text and logs, in S3 or in a folder.

    On several machines: mrfast-coordinator and mrfast-worker.
    """


workers_option = click.option(
    "-w", "--workers", envvar="MRFAST_WORKERS", type=click.IntRange(1), help="Processes.  [default: one a core]"
)


@mrfast.command(
    epilog="Example: mrfast run apps/wc.py books/*.txt -r 4 -o counts\n\n"
    "Example: mrfast run apps/grep.py s3://bucket/logs/ --store s3://bucket/jobs --json",
    options_metavar="[OPTIONS]",
)
@click.argument("app", required=False, metavar="APP", shell_complete=paths)
@click.argument("inputs", nargs=-1, metavar="INPUT...", shell_complete=paths)
@click.option("--resume", metavar="JOB", help="Go on with this job (its name or id); give --store, and nothing else.")
@workers_option
@engine_options
@http_option
@param_option
@job_options
def run(
    app: str | None,
    inputs: tuple[str, ...],
    resume: str | None,
    workers: int | None,
    engine: tuple[str, str | None],
    feed: Any,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run a job on this machine, or on a cluster of Dask's or Ray's.

    APP is a Python file with `map` and `reduce`. INPUT is a file, a folder, a glob, s3://bucket/key,
    s3://bucket/prefix/ or an s3:// glob, in any mix.

    A job that was killed or has failed goes on with: mrfast run --resume JOB
    """
    started = time.monotonic()
    view = ProgressView(started, quiet=quiet, feed=feed)
    if resume is not None:
        check_resume(resume, {"app", "workers", "engine"})
        api.preload()
        _ctrl_c_raises()
        result = api.resume_job(resume, app, store=options["store"], workers=workers, view=view, engine=engine)
    else:
        if app is None:
            raise UsageError("no APP; name a Python file with `map` and `reduce`, as in: mrfast run app.py books/*.txt")
        if not inputs:
            raise UsageError(f"no INPUT; name files, folders, globs or s3:// URLs, as in: mrfast run {app} books/*.txt")
        api.preload()
        _ctrl_c_raises()
        result = api.run_job(
            api.app_file(app), inputs, workers=workers, view=view, app_path=app, engine=engine, **options
        )
    show_result(result, time.monotonic() - started, as_json=as_json, quiet=quiet)


@mrfast.command(
    epilog="Example: mrfast plan apps/wc.py s3://bucket/books/ --store s3://bucket/jobs -r 100\n\n"
    "Example: mrfast plan apps/sort.py logs/ --split-bytes 256MiB --json"
)
@click.argument("app", metavar="APP", shell_complete=paths)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=paths)
@workers_option
@param_option
@job_options
def plan(app: str, inputs: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Print what a job would do: tasks, memory, requests to S3, and what they cost.

    Nothing is written, and of the inputs only their names and sizes are looked at.
    """
    api.app_file(app)
    show_plan(api.plan(app, inputs, **options), as_json=as_json)


@mrfast.command(epilog="Example: mrfast clean 4f1c...")
@click.argument("job", required=False, metavar="[JOB]")
@click.option(
    "--store", default=api.STORE, envvar="MRFAST_STORE", show_default=True, metavar="URL", help="Where the job is."
)
@click.option("--reuse", is_flag=True, help="The map outputs that jobs with --reuse have left; no JOB.")
@click.option("--force", is_flag=True, help="Even if the job has not ended: nobody may be running it.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def clean(job: str | None, store: str, reuse: bool, force: bool, quiet: bool) -> None:
    """Remove what a job left in the store, all but a finished job's result.

    JOB is its id or its name.
    """
    if (job is None) != reuse:
        raise UsageError("name a JOB to clean, or --reuse for the map outputs that jobs with --reuse have left")
    if job is None:
        removed = api.clean_reuse(store=store)
        if not quiet:
            say(f"mrfast: removed {counted(removed, 'object')} that --reuse had left")
        return
    removed = api.clean_job(job, store=store, force=force)
    if not quiet:
        say(f"mrfast: removed {counted(removed, 'object')} of job {job}")


@mrfast.command(epilog="Example: mrfast cat mrfast-store/out/4f1c... | sort -k2,2nr | head")
@click.argument("urls", nargs=-1, metavar="URL...", shell_complete=paths)
@click.option("--jsonl", is_flag=True, help="A JSON object of key and value per line.")
def cat(urls: tuple[str, ...], jsonl: bool) -> None:
    """Print a job's whole output, a part of it, or a map object.

    URL is a folder, a file or an s3:// URL.
    """
    if not urls:
        raise UsageError("nothing to print; name a job's output, as in: mrfast cat mrfast-store/out/4f1c...")
    from ..cat import cat as blocks_of

    print_data(block for url in urls for block in blocks_of(url, jsonl=jsonl))


@mrfast.command(epilog="Example: mrfast verify s3://bucket/jobs/out/4f1c...")
@click.argument("url", metavar="URL", shell_complete=paths)
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def verify(url: str, quiet: bool) -> None:
    """Read a job's output again, and check the size and checksum of every part.

    URL is the folder or s3:// URL of the output. The exit code is 1 if a part is not as its job wrote it.
    """
    found = api.verify(url)
    for fault in found.faults:
        say(f"mrfast: error: {fault}")
    if found.faults:
        raise click.exceptions.Exit(1)
    if not quiet:
        say(f"mrfast: {counted(found.parts, 'part')}, {size_text(found.bytes)}: as the job wrote them")


@click.command(
    cls=QuietInvoke,
    context_settings=HELP,
    epilog="Example: mrfast-coordinator books/*.txt, and then on any terminal: mrfast-worker apps/wc.py",
)
@click.argument("inputs", nargs=-1, metavar="INPUT...", shell_complete=paths)
@click.option(
    "--listen",
    default=LISTEN,
    envvar="MRFAST_LISTEN",
    show_default=True,
    metavar="HOST:PORT",
    help="Where workers come.",
)
@click.option(
    "--linger-s",
    default=3.0,
    envvar="MRFAST_LINGER_S",
    show_default=True,
    type=click.FloatRange(0),
    help="How long to answer late workers when the job is done.",
)
@peer_options
@http_option
@click.option("--insecure", is_flag=True, help="Listen for other machines without a token: anybody can take part.")
@click.option("--resume", metavar="JOB", help="Go on with this job (its name or id); give --store, and no INPUT.")
@param_option
@job_options
def mrfast_coordinator(
    inputs: tuple[str, ...],
    resume: str | None,
    listen: str,
    linger_s: float,
    insecure: bool,
    feed: Any,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Hand out a job's tasks to workers, until it is done.

    INPUT is a file, a folder, a glob, s3://bucket/key, s3://bucket/prefix/ or an s3:// glob, in any mix. The workers
    bring the application. An address that other machines reach needs a token, the same here and there: see
    `mrfast token`. What the token does not do is encrypt: --tls-cert does.
    """
    if resume is not None:
        check_resume(resume, {"listen", "linger_s", "insecure", "token_file", "tls_cert", "tls_key", "tls_ca"})
    if resume is None and not inputs:
        raise UsageError("no INPUT; name files, folders, globs or s3:// URLs, as in: mrfast-coordinator books/*.txt")
    from ..control.coordinator import Coordinator, check_listen
    from ..control.job import JobDriver
    from ..control.journal_files import JournalFiles, state_folder
    from ..control.rpc import parse_address
    from ..control.tls import server_context
    from ..control.tokens import token_from
    from ..engines.shell import has_quoted_newlines
    from ..storage import ledger, open_store

    _ctrl_c_raises()
    address, token = parse_address(listen), token_from(os.environ, token_file)
    tls = server_context(tls_cert, tls_key, tls_ca)
    if warning := check_listen(address[0], token, insecure=insecure):
        say(f"mrfast: {warning}")
    spec = api.make_spec(inputs, **options) if resume is None else api.find_job(resume, options["store"])
    store = open_store(spec.store_url)
    driver = JobDriver(
        spec,
        store=store,
        journals=JournalFiles(store, spec.job, state_folder(os.environ)),
        resume=resume is not None,
        quoted_newlines=has_quoted_newlines,
        began=time.time(),
    )
    view = ProgressView(time.monotonic(), quiet=quiet, names_job=False, feed=feed)  # it says so where it listens

    driver.events.hear = Words(view.say, view.printed, spec.attempts_max).heard

    def ended(driver: JobDriver) -> None:
        view.close()
        if driver.result is not None:
            document = driver.result | ledger.document(driver.requests())
            result = api.JobResult(spec.job, spec.output_url, document)
            show_result(result, driver.result["seconds"], as_json=as_json, quiet=quiet)

    coordinator = Coordinator(
        driver,
        address,
        token=token,
        tls=tls,
        insecure=insecure,
        linger_s=linger_s,
        say=view.say,
        on_step=view.pump,
        on_status=lambda status: view.update(status, time.monotonic()),
        on_end=ended,
    )
    with view.watching(driver.events, driver.status):
        code = coordinator.run()
    if code == INTERRUPTED:
        raise Interrupted
    if code:
        say(
            f"mrfast: stopped by SIGTERM; go on with: "
            f"mrfast-coordinator --resume {spec.name or spec.job} --store {spec.store_url}"
        )
        raise click.exceptions.Exit(code)


def programs() -> dict[str, click.Command]:
    """The commands that an installation has, by name."""
    from .worker import mrfast_worker

    return {"mrfast": mrfast, "mrfast-coordinator": mrfast_coordinator, "mrfast-worker": mrfast_worker}


def _ctrl_c_raises() -> None:
    """From here on Ctrl-C is an exception, and what was begun is undone."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_streams() -> None:
    """Takes the places of closed standard streams, which would go to the next files that are opened."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # Data for a closed stdout is an error like that of a full disk; what people would read is not.
            os.open(os.devnull, os.O_RDWR if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _fail(error: MrfastError) -> int:
    say(f"mrfast: error: {error}")
    return error.exit_code


def _run(command: click.Command, name: str) -> NoReturn:
    """Runs a command; the exit codes and the one line of an error are made here and nowhere else."""
    signal.signal(signal.SIGINT, _ctrl_c_ends_at_once)
    _open_streams()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        code = 2
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx is not None else name
        message = error.format_message()
        say(f"mrfast: error: {message}{'' if message.endswith(('.', '?')) else '.'} See: {asked} --help")
        code = 2
    except click.ClickException as error:
        say(f"mrfast: error: {error.format_message()}")
        code = error.exit_code
    except MrfastError as error:
        code = _fail(error)
    except (Interrupted, KeyboardInterrupt, click.Abort):
        say("mrfast: interrupted")
        code = INTERRUPTED
    try:
        sys.stderr.flush()
    except OSError:
        to_null(sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: the interpreter may end in peace
    code = code if isinstance(code, int) else 0
    try:
        sys.stdout.flush()
    except OSError:
        sys.exit(code)  # the interpreter says what went wrong
    os._exit(code)  # taking the interpreter down piece by piece takes 20 ms, a tenth of a small job


def main() -> NoReturn:
    """The `mrfast` command."""
    _run(mrfast, "mrfast")


def coordinator_main() -> NoReturn:
    """The `mrfast-coordinator` command."""
    _run(mrfast_coordinator, "mrfast-coordinator")


def worker_main() -> NoReturn:
    """The `mrfast-worker` command."""
    from .worker import mrfast_worker

    _run(mrfast_worker, "mrfast-worker")


with suppress(ValueError):
    signal.signal(signal.SIGINT, _ctrl_c_before)
