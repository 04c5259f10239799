"""The options that describe a job, and the sizes that they take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import api
from ..errors import UsageError
from ..parameters import parsed
from ..storage import ledger

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?B?)", re.IGNORECASE | re.ASCII)
STAYS = {"resume", "store", "as_json", "quiet", "prices", "feed"}  # what says how, and not which job
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


def check_resume(job: str, own: Collection[str]) -> None:
    """UsageError for what describes a job beside --resume, which names one; `own` are the command's other options."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        name = param.name or ""
        given = param.expose_value and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and ctx.params[name] not in (None, ()) and name not in {*own, *STAYS}:
            what = "INPUT" if isinstance(param, click.Argument) else param.opts[-1]
            raise UsageError(f"--resume {job}: the job is described already; leave out {what}")


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the shell is to complete: a file's name, which click would do for its own type of a path only."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _use_prices(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if path is not None:
        ledger.use_prices(ledger.read_prices(path))


prices_option = click.option(
    "--prices", envvar="MRFAST_PRICES", metavar="FILE", callback=_use_prices, expose_value=False,
    shell_complete=paths,
    help="Dollars for 1,000 requests as JSON, where they are not S3's list prices: {\"GET\": 0.0004}.",
)  # fmt: skip


def _feed(ctx: click.Context, param: click.Parameter, address: str | None) -> Any:
    if not address:
        return None
    from ..control.tokens import token_from
    from ..watch.feed import Feed

    file = ctx.params.get("token_file") or os.environ.get("MRFAST_TOKEN_FILE")
    return Feed(address, token=token_from(os.environ, file))


http_option = click.option(
    "--http", "feed", envvar="MRFAST_HTTP", metavar="[HOST:]PORT", callback=_feed,
    help="A live page of the job there, with /metrics and /api/status.  HOST is 127.0.0.1 if left out, PORT 0 is any. "
    "Other machines reach it only with a token: see `mrfast token`.",
)  # fmt: skip


def peer_options(command: F) -> F:
    """How a coordinator and its workers know each other, for both alike."""
    options = (
        click.option("--token-file", envvar="MRFAST_TOKEN_FILE", metavar="FILE", shell_complete=paths, is_eager=True,
                     help="The file with the token, in place of $MRFAST_TOKEN; `mrfast token` makes one."),
        click.option("--tls-cert", envvar="MRFAST_TLS_CERT", metavar="FILE", shell_complete=paths,
                     help="The certificate that is shown to the other side, in PEM; with it a coordinator wants TLS."),
        click.option("--tls-key", envvar="MRFAST_TLS_KEY", metavar="FILE", shell_complete=paths,
                     help="Its private key, if that is in a file of its own."),
        click.option("--tls-ca", envvar="MRFAST_TLS_CA", metavar="FILE", shell_complete=paths,
                     help="What the other side's certificate must be signed by; with it a worker wants TLS."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _parsed(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    return parsed(texts)


param_option = click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", callback=_parsed,
    help="What the app gets from mrfast.param(NAME), as text; as often as needed.",
)  # fmt: skip


def engine_options(command: F) -> F:
    """Where a job runs; the command gets `engine`, a name or a cluster that answers."""

    def chosen(ctx: click.Context, param: click.Parameter, engine: str) -> Any:
        addresses = {"dask": ctx.params.pop("dask_scheduler", None), "ray": ctx.params.pop("ray_address", None)}
        for name, address in addresses.items():
            if address is not None and name != engine:
                raise UsageError(f"{address} is the address of a cluster of {name}: it takes --engine {name}")
        return engine, addresses.get(engine)

    options = (
        click.option("--dask-scheduler", envvar="MRFAST_DASK_SCHEDULER", metavar="ADDR", is_eager=True,
                     help="The Dask cluster.  [default: a new one on this machine]"),
        click.option("--ray-address", envvar="MRFAST_RAY_ADDRESS", metavar="ADDR", is_eager=True,
                     help="The Ray cluster.  [default: a new one on this machine]"),
        click.option("--engine", envvar="MRFAST_ENGINE", default="local", show_default=True, callback=chosen,
                     type=click.Choice(["local", "dask", "ray"]), help="Where tasks run."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def job_options(command: F) -> F:
    """The options that describe a job, for `run` and for the coordinator alike."""
    options = (
        click.option("--store", default=api.STORE, envvar="MRFAST_STORE", show_default=True, metavar="URL",
                     shell_complete=paths, help="A folder, or s3://bucket/prefix, for all that the job writes."),
        click.option("-o", "--output", "output_url", metavar="URL", shell_complete=paths,
                     help="Where the parts go.  [default: STORE/out/JOB ID]"),
        click.option("-r", "--reduces", default=api.REDUCES, envvar="MRFAST_REDUCES", show_default=True,
                     type=click.IntRange(1, 65_535), help="Number of partitions, and of parts."),
        click.option("--split-bytes", default="64MiB", envvar="MRFAST_SPLIT_BYTES", show_default=True, type=Size(),
                     help="Larger inputs are cut, where the app allows it."),
        click.option("--memory", default="1GiB", envvar="MRFAST_MEMORY", show_default=True, type=Size(),
                     help="What a task holds at most; more goes to TMPDIR."),
        click.option("--attempts-max", default=api.ATTEMPTS_MAX, envvar="MRFAST_ATTEMPTS_MAX", show_default=True,
                     type=click.IntRange(1), help="A task that fails so often fails the job."),
        click.option("--stall-s", default=api.STALL_S, envvar="MRFAST_STALL_S", show_default=True,
                     type=click.FloatRange(0, min_open=True),
                     help="An attempt that shows no progress for so long has failed."),
        click.option("--max-bad-records", "bad_records_max", default=0, envvar="MRFAST_MAX_BAD_RECORDS",
                     show_default=True, type=click.IntRange(0), metavar="N",
                     help="Skip up to N records whose map raises or kills its process, and list them."),
        click.option("--keep-intermediate", is_flag=True, help="Leave the map outputs when the job has ended."),
        click.option("--reuse", is_flag=True,
                     help="Do not run maps whose output an earlier job with --reuse has left; leave this job's."),
        click.option("--compress", envvar="MRFAST_COMPRESS", type=click.Choice(api.COMPRESSIONS),
                     help="Parts compressed, and named so: mr-out-0.zst."),
        click.option("--compress-segments/--plain-segments", default=None, envvar="MRFAST_COMPRESS_SEGMENTS",
                     help="Map outputs compressed by zstd, or not.  [default: compressed in S3, if zstd is there]"),
        click.option("--job", metavar="NAME", help="A name for the job, besides its id."),
        click.option("--overwrite", is_flag=True, help="Replace the result that is at the output already."),
        prices_option,
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
