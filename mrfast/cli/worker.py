"""The mrfast-worker command."""

from __future__ import annotations

import os
import time

import click

from .. import api
from ..watch.progress import ProgressView
from ..watch.words import prefixed
from .command import HELP, LISTEN, QuietInvoke
from .options import param_option, paths, peer_options

ADDRESS_VARIABLE = "MR_COORDINATOR_ADDRESS"


@click.command(
    cls=QuietInvoke, context_settings=HELP, epilog="Example: mrfast-worker apps/wc.py 172.31.5.21:8000 --slots 4"
)
@click.argument("app", metavar="APP", shell_complete=paths)
@click.argument("address", required=False, metavar="[HOST:PORT]")
@param_option
@click.option("--slots", envvar="MRFAST_SLOTS", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option(
    "--connect-s",
    default=60.0,
    envvar="MRFAST_CONNECT_S",
    show_default=True,
    type=click.FloatRange(0),
    help="How long to look for the coordinator.",
)
@peer_options
@click.option(
    "--drain-s",
    default=90.0,
    envvar="MRFAST_DRAIN_S",
    show_default=True,
    type=click.FloatRange(0),
    help="After SIGTERM: how long running tasks may take before they are given back.",
)
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def mrfast_worker(
    app: str,
    address: str | None,
    slots: int | None,
    connect_s: float,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    drain_s: float,
    quiet: bool,
    params: dict[str, str],
) -> None:
    """Run tasks for a coordinator, until its job is done.

    APP is a Python file with `map` and `reduce`, the same for all workers of a job; its parameters come from the
    coordinator. That is at HOST:PORT, else at $MR_COORDINATOR_ADDRESS, else at 127.0.0.1:8000. SIGTERM lets the running
    tasks end, and takes no new ones.
    """
    from ..control.rpc import parse_address
    from ..control.tls import client_context
    from ..control.tokens import token_from
    from ..tasks.worker import run_worker

    load, view = api.app_file(app), ProgressView(time.monotonic(), quiet=quiet)
    run_worker(
        lambda params: api.with_params(load, params)(),
        parse_address(address or os.environ.get(ADDRESS_VARIABLE) or LISTEN),
        token=token_from(os.environ, token_file),
        tls=client_context(tls_cert, tls_key, tls_ca),
        slots=slots or api.default_workers(),
        connect_s=connect_s,
        params=params,
        drain_s=drain_s,
        say=view.say,
        on_printed=lambda task, text: view.printed(prefixed(task, "", text)),
    )
