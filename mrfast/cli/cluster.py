"""mrfast cluster up, status, run, logs, down: a cluster of one's own on EC2."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .. import __version__, api
from ..errors import MrfastError, UsageError
from .options import param_option, paths
from .show import print_data, say

if TYPE_CHECKING:
    from ..cluster.aws import Aws

region_option = click.option(
    "--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], metavar="R", help="The AWS region.  [default: botocore's]"
)
HELLO_PATIENCE_S = 900.0


@click.group(epilog="Example: mrfast cluster up logs --workers 8 --spot --dry-run")
def cluster() -> None:
    """Start a cluster of your own on EC2, run jobs on it, and remove it."""


@cluster.command(epilog="Example: mrfast cluster up logs --workers 8 --spot --dry-run")
@click.argument("name", metavar="NAME")
@click.option("-w", "--workers", type=click.IntRange(1, 1000), help="Machines that work.  [default: 2]")
@click.option("--type", metavar="TYPE", help="Their machine type.  [default: c7g.xlarge]")
@click.option("--coordinator-type", metavar="TYPE", help="That of the coordinator's machine.  [default: c7g.large]")
@click.option(
    "--spot", is_flag=True, default=None, help="Workers as spot machines: cheaper, and EC2 may take them back."
)
@click.option("--bucket", metavar="B", help="The bucket to write to.  [default: one of the cluster's own]")
@click.option("--read", multiple=True, metavar="B", help="Another bucket that jobs may read; as often as needed.")
@click.option("--subnet", metavar="ID", help="Where to start.  [default: a subnet of the default VPC]")
@click.option("--ami", metavar="ID", help="An image with apt-get, in place of Debian 12's.")
@click.option("--volume-gib", type=click.IntRange(8, 16_384), help="Disk of each machine, encrypted.  [default: 30]")
@click.option(
    "--package", metavar="FILE|REQ", help="The mrfast to install.  [default: this checkout's, else this version]"
)
@click.option(
    "--idle-minutes", type=click.IntRange(5, 10_080), help="Machines without a job end after so long.  [default: 30]"
)
@region_option
@click.option("--dry-run", is_flag=True, help="Print the plan and the price, and change nothing.")
@click.option(
    "--wait", is_flag=True, help="Until every machine has said hello: mrfast is installed and looks for jobs."
)
def up(name: str, region: str | None, package: str | None, dry_run: bool, wait: bool, **options: Any) -> None:
    """Start a cluster: one coordinator, and workers.

    It returns when EC2 reports the machines running. After a failure, or to add workers, repeat it: what is there is
    found again by the tag mrfast-cluster=NAME.
    """
    from ..cluster import plan, status
    from ..cluster import up as steps

    options["read"] = options["read"] or None
    aws = _aws(region)
    prepared = steps.prepare(aws, name, plan.Wanted(**options), package, __version__)
    if dry_run:
        print_data([("\n".join(prepared.lines()) + "\n").encode()])
        return
    say(f"mrfast: {plan.price_text(prepared.cluster)}")
    steps.up(aws, prepared, package_given=package is not None, say=_say)
    _say(
        f"cluster {name} runs; next: mrfast cluster run {name} APP s3://... and in the end: mrfast cluster down {name}"
    )
    if wait and not status.wait_for_hellos(aws, name, patience_s=HELLO_PATIENCE_S, say=_say):
        raise MrfastError(
            f"not every machine has said hello within {HELLO_PATIENCE_S / 60:.0f} minutes; see what they print: "
            f"mrfast cluster logs {name} --role worker"
        )


@cluster.command("status", epilog="Example: mrfast cluster status logs")
@click.argument("name", metavar="NAME")
@region_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show_status(name: str, region: str | None, as_json: bool) -> None:
    """Print the machines of a cluster, and what they say."""
    from ..cluster import status

    document = status.status(_aws(region), name)
    if as_json:
        import orjson

        print_data([orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)])
    else:
        print_data([f"{line}\n".encode() for line in status.lines(document)])


@cluster.command(epilog="Example: mrfast cluster logs logs --role worker | grep ERROR")
@click.argument("name", metavar="NAME")
@click.option(
    "--instance", metavar="ID", help="One machine, as `mrfast cluster status` names it; also one that has ended."
)
@click.option("--role", type=click.Choice(["coordinator", "worker"]), default="coordinator", show_default=True)
@region_option
def logs(name: str, instance: str | None, role: str, region: str | None) -> None:
    """Print what the machines have written to their consoles: their installation, mrfast, the application."""
    from ..cluster import status

    for found, text in status.logs(_aws(region), name, instance=instance, role=role):
        say(f"mrfast: {found}:")
        print_data([text.encode("utf-8", "surrogateescape"), b"" if text.endswith("\n") or not text else b"\n"])


@cluster.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: mrfast cluster run logs apps/wc.py s3://bucket/books/ -r 100",
)
@click.argument("name", metavar="NAME")
@click.argument("app", required=False, metavar="APP", shell_complete=paths)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="INPUT... [OPTIONS OF A JOB]")
@param_option
@click.option("--job", metavar="NAME", help="A name for the job.  [default: the app's, and a number]")
@click.option("--attach", metavar="JOB", help="Show how this job gets on; no APP, no INPUT.")
@click.option("--detach", is_flag=True, help="Return as soon as the job is in the cluster's queue.")
@region_option
def run(
    name: str,
    app: str | None,
    arguments: tuple[str, ...],
    params: dict[str, str],
    job: str | None,
    attach: str | None,
    detach: bool,
    region: str | None,
) -> None:
    """Run a job on a cluster.

    APP goes to the cluster's workers by way of its bucket. INPUT is an s3:// URL; the options are those of
    mrfast-coordinator: -r, -o, --memory and so on. Jobs wait for one another. Ctrl-C leaves a job running.
    """
    from ..cluster import run as steps
    from . import _ctrl_c_raises

    if (attach is None) == (app is None):
        raise UsageError(f"name an APP and INPUTs to run, as in: mrfast cluster run {name} app.py s3://bucket/books/")
    _ctrl_c_raises()
    data, output = b"", None
    if app is not None:
        inputs, output = _job(app, arguments)
        steps.check(inputs, arguments, job)
        api.with_params(api.app_file(app), params)()  # an app that does not load fails here, not on the cluster
        with open(app, "rb") as file:
            data = file.read()
    aws = _aws(region)
    found = steps.find(aws, name)
    if app is not None:
        steps.check_output(output, found.store)
        attach = steps.submit(found.board, data, os.path.basename(app), arguments, params, job).id
        _say(f"job {attach} is in the queue of {name}")
    assert attach is not None
    say(f"mrfast: its page, at http://127.0.0.1:8080/ by:\n\n    {steps.port_forward(aws, found.instance)}\n")
    if detach:
        return
    try:
        end = steps.follow(found.board, attach, say=say, sleep=aws.sleep, known=lambda: _has_coordinator(aws, name))
    except KeyboardInterrupt:
        _say(f"job {attach} goes on; look again with: mrfast cluster run {name} --attach {attach}")
        raise
    if end["result"] is not None:
        print_data([f"{end['result']['output_url']}\n".encode()])
    if end["code"]:
        raise click.exceptions.Exit(end["code"] if end["code"] > 0 else 1)


@cluster.command(epilog="Example: mrfast cluster down logs --yes")
@click.argument("name", metavar="NAME")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@region_option
def down(name: str, yes: bool, region: str | None) -> None:
    """Remove a cluster: its machines and all else that `up` has made. What jobs have written stays.

    It asks on a terminal only, and can be repeated after a failure.
    """
    from ..cluster import down as steps

    if not yes and sys.stdin.isatty() and not click.confirm(f"Remove the cluster {name}?", err=True):
        raise UsageError("nothing was removed")
    removed = steps.down(_aws(region), name, say=_say)
    _say(f"cluster {name} is gone" if removed.what else f"there is nothing of a cluster {name}")
    if removed.store:
        _say(f"what jobs have written is still there: {removed.store}")


def _job(app: str, arguments: tuple[str, ...]) -> tuple[list[str], str | None]:
    """The INPUTs among a job's arguments and its output, which mrfast-coordinator's own parser takes apart."""
    from . import mrfast_coordinator

    params = mrfast_coordinator.make_context("mrfast cluster run", list(arguments)).params
    if not params["inputs"]:
        raise UsageError(f"no INPUT; name s3:// URLs, as in: mrfast cluster run NAME {app} s3://bucket/books/")
    return list(params["inputs"]), params["output_url"]


def _has_coordinator(aws: Aws, name: str) -> bool:
    from ..cluster import run as steps

    try:
        steps.find(aws, name)
    except UsageError:
        return False
    return True


def _say(text: str) -> None:
    say(f"mrfast: {text}")


def _aws(region: str | None) -> Aws:
    from ..cluster.aws import Aws

    aws = Aws(region)
    os.environ["AWS_REGION"] = aws.region  # for the store
    return aws
