"""What people read of a job: data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import click

from .. import api
from ..errors import MrfastError
from ..watch.progress import counted, size_text


def say(text: str) -> None:
    """A line for people; that nobody can read it changes nothing."""
    with suppress(OSError):
        click.echo(text, err=True)


def print_data(blocks: Iterable[bytes]) -> None:
    """Data on stdout, as far as its reader wants it."""
    out = sys.stdout.buffer
    try:
        for block in blocks:
            out.write(block)
        out.flush()
    except OSError as error:
        to_null(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
            raise MrfastError(f"cannot write to the standard output: {error.strerror}") from None


def show_result(result: api.JobResult, seconds: float, *, as_json: bool, quiet: bool) -> None:
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
            "hot_keys": result.hot_keys,
            "seconds": round(seconds, 3),
            "requests": result.requests,
            "cost_usd": result.cost_usd,
        }
        print_data([orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)])
    if quiet:
        return
    where = short(result.output_url)
    reused = f" ({totals['maps_reused']:,} of them reused)" if totals["maps_reused"] else ""
    say(
        f"mrfast: job {result.job} done in {seconds:.2f} s: {counted(totals['maps'], 'map')}{reused}, "
        f"{counted(totals['reduces'], 'reduce')}, {size_text(totals['bytes_in'])} in, "
        f"{counted(totals['records_emitted'], 'record')} mapped, {counted(totals['records_out'], 'record')} out"
    )
    for name, count in sorted(result.counters.items()):
        say(f"mrfast: {name}: {count:,}")
    if result.hot_advice:
        say(f"mrfast: {result.hot_advice}")
    if by_verb := result.requests["by_verb"]:
        say(f"mrfast: {requests_text(by_verb)}, ${result.cost_usd:,.4f}")
    say(f"mrfast: output {where}\n\n    mrfast cat {quoted(where)}\n")


def show_plan(document: dict[str, Any], *, as_json: bool) -> None:
    """A plan on stdout: it is what was asked for."""
    if as_json:
        import orjson

        print_data([orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)])
        return
    requests, ranges = document["requests"], document["range"]
    reused = f" ({document['maps_reused']:,} of them reused)" if document["maps_reused"] else ""
    group = document["partitions_per_reduce"]
    by_group = f", {group:,} to a task" if group > 1 else ""
    lines = [
        f"{counted(document['maps'], 'map')}{reused} over {size_text(document['bytes_in'])}, the largest split "
        f"{size_text(document['largest_split_bytes'])}; {counted(document['reduces'], 'reduce')}{by_group}",
        f"memory per reducer: up to {size_text(document['memory_per_reducer_bytes'])}",
        f"{requests_text(requests['by_verb'])}, ${document['cost_usd']:,.4f}",
    ]
    for phase, verbs in requests["by_phase"].items():
        lines.append(f"  {phase:<8} {', '.join(f'{number:,} {verb}' for verb, number in verbs.items())}")
    if not document["exact"]:
        low, high = ranges["cost_usd"]
        lines.append(f"between ${low:,.4f} and ${high:,.4f}:")
        for verb, (least, most) in ranges["by_verb"].items():
            if least != most:
                lines.append(f"  {least:,} to {most:,} {verb}")
        lines += [f"  - {why}" for why in document["why"]]
    print_data([("\n".join(lines) + "\n").encode()])


def requests_text(by_verb: Mapping[str, int]) -> str:
    """Numbers of requests as people read them."""
    if not by_verb:
        return "no requests to S3"
    verbs = ", ".join(f"{number:,} {verb}" for verb, number in by_verb.items())
    return f"{counted(sum(by_verb.values()), 'request')} to S3 ({verbs})"


def short(url: str) -> str:
    """A local path as one would type it here."""
    below = os.getcwd().rstrip("/") + "/"
    return url.removeprefix(below) if url.startswith(below) else url


def quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII) else "'" + text.replace("'", "'\"'\"'") + "'"


def to_null(stream: TextIO) -> None:
    """Lets the stream's buffer run out without an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
