"""The commands that look at jobs: mrfast jobs, status and explain. What they find goes to stdout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .. import api
from ..errors import CoordinatorLost, UsageError
from ..watch.progress import counted, size_text
from .columns import (
    aligned,
    aligned_rows,
    first_line,
    indented,
    print_json,
    print_lines,
    print_table,
    seconds_text,
    when_text,
    wrapped,
)  # fmt: skip
from .options import paths, peer_options
from .show import quoted, requests_text, say, short

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..control.catalog import Listed, Standing
    from ..model import JobSpec
    from ..watch.advice import Finding
    from ..watch.story import FirstFailure

COLUMNS = ("JOB", "NAME", "STATE", "BEGAN", "TOOK", "RECORDS", "OUTPUT OR ERROR")
ENDS = {"COMMITTED": "was committed", "FAILED": "failed", "STOPPED": "was stopped"}
JOBS_SHOWN = 20
RUNNING_SHOWN = 10
FAILURES_SHOWN = 3
ANSWER_S = 10.0


def _job_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names and ids of the jobs of a store in a folder, for the shell; a store far away would keep it waiting."""
    from click.shell_completion import CompletionItem

    from ..storage import open_store, scheme_of
    from ..storage.shallow import entries

    url = ctx.params.get("store") or os.environ.get("MRFAST_STORE") or api.STORE
    if scheme_of(url) != "file":
        return []
    store = open_store(url)
    found = [*sorted(entries(store, "names/")), *sorted(entries(store, "jobs/"))]
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


store_option = click.option(
    "--store", default=api.STORE, envvar="MRFAST_STORE", show_default=True, metavar="URL", shell_complete=paths,
    help="Where the jobs are.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.command(epilog="Example: mrfast jobs\n\nExample: mrfast jobs --store s3://bucket/jobs -n 5 --json")
@store_option
@click.option("-n", "most", default=JOBS_SHOWN, show_default=True, type=click.IntRange(1), help="So many of them.")
@json_option
def jobs(store: str, most: int, as_json: bool) -> None:
    """List the jobs of a store, the newest first.

    A job is committed, failed, running (by a process of this machine), stopped (by Ctrl-C or SIGTERM), or not ended:
    then another machine runs it, or it was killed. Those can be resumed. In S3 that takes a LIST and one for each job,
    and a GET for each one shown.
    """
    from ..control import catalog
    from ..storage import open_store

    opened = open_store(store)
    found, number = catalog.jobs(opened, most)
    if as_json:
        print_json([_facts(each) for each in found])
    elif not found:
        say(f"mrfast: {short(opened.url)} has no jobs; name another store with --store")
    else:
        print_table(COLUMNS, [_row(each) for each in found], "llllrrl")
    if number > len(found) and found:
        say(f"mrfast: {counted(number - len(found), 'older job')} not shown; more with -n {number}")
    if any(each.state == catalog.OPEN for each in found):
        say(
            "mrfast: not ended: another machine runs it, or it was killed and goes on with mrfast run --resume JOB"
            f"{_store_text(opened.url)}"
        )
    _say_requests()


@click.command(
    epilog="Example: mrfast status\n\nExample: mrfast status 4f1c... --store s3://bucket/jobs\n\n"
    "Example: mrfast status --coordinator 172.31.5.21:8000 --token-file mrfast.token"
)
@click.argument("job", required=False, metavar="[JOB]", shell_complete=_job_names)
@store_option
@click.option("--coordinator", metavar="HOST:PORT", help="Ask the coordinator that runs it.")
@click.option(
    "--http", "page", metavar="URL", help="Ask the page of a job that runs with --http, as http://127.0.0.1:8080."
)
@peer_options
@json_option
def status(
    job: str | None,
    store: str,
    coordinator: str | None,
    page: str | None,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    as_json: bool,
) -> None:
    """Print how a job stands: JOB, by its name or id, or the newest one of the store.

    A job that runs is asked by --coordinator or --http how it stands at this moment; without them the store knows what
    its journal says. Exit code 3: there is no such job.
    """
    if coordinator is not None or page is not None:
        if job is not None or (coordinator is not None and page is not None):
            raise UsageError("--coordinator and --http each know one job: give one of them, and no JOB")
        if coordinator is not None:
            from ..control.tls import client_context

            live = _ask_coordinator(coordinator, token_file, client_context(tls_cert, tls_key, tls_ca))
        else:
            live = _ask_page(str(page), token_file)
        if as_json:
            print_json(live)
        else:
            print_lines(_live_lines(live))
        return
    from ..control import catalog, commit
    from ..storage import open_store

    opened = open_store(store)
    spec = commit.find_job(job or catalog.newest(opened), opened)
    listed = catalog.job(opened, spec.job)
    standing = None
    if listed.state in (catalog.RUNNING, catalog.STOPPED, catalog.OPEN):
        standing = catalog.standing(opened, spec)
    document = listed.document
    if listed.state == catalog.COMMITTED:
        document = _published(spec) or document
    if as_json:
        print_json(_facts(listed) | {"document": document, "journal": standing})
    else:
        print_lines(_status_lines(spec, listed, document, standing))
        if listed.state in (catalog.OPEN, catalog.STOPPED, catalog.FAILED):
            command = "mrfast run" if spec.app_path else "mrfast-coordinator"
            known = (
                "whether another machine runs it or it was killed is not known here; if nobody does"
                if listed.state == catalog.OPEN
                else "what was done is kept, and can be gone on from"
            )
            where = f"{spec.job}{_store_text(opened.url)}"
            say(f"mrfast: {known}: {command} --resume {where}")
    _say_requests()


@click.command(
    epilog="Example: mrfast explain 4f1c...\n\nExample: mrfast explain s3://bucket/counts\n\n"
    "Example: mrfast explain --store s3://bucket/jobs --json"
)
@click.argument("job", required=False, metavar="[JOB | OUTPUT]", shell_complete=_job_names)
@store_option
@json_option
def explain(job: str | None, store: str, as_json: bool) -> None:
    """Print what failed first in a job and why, and what was slow and what to do about it.

    JOB is its name or id, OUTPUT the folder or URL where its parts are; without either it is the store's newest job.
    It reads the event log that a job leaves when it ends, and names what cost at least a twentieth of its time.
    """
    from ..control import catalog, event_files
    from ..storage import open_store
    from ..watch import advice, story
    from ..watch.model import JobModel

    where = job or catalog.newest(open_store(store))
    model = JobModel.of(event_files.find_events(where, store))
    findings, failure, rows = advice.explain(model), story.first_failure(model), story.time_spent(model)
    if as_json:
        print_json(
            {
                "job": model.job,
                "name": model.facts.get("name"),
                "app": model.facts.get("app"),
                "state": model.state,
                "seconds": model.seconds,
                "slots": model.slots,
                "error": model.end.get("error", ""),
                "failure": failure,
                "findings": findings,
                "time": rows,
            }
        )
        return
    title = f"job {model.job}" + (f" ({model.facts['name']})" if model.facts.get("name") else "")
    what = ENDS.get(model.state, "has not ended")
    lines = [f"{title}, {model.facts.get('app', 'no app')}: {what} after {seconds_text(model.seconds)}"]
    if reason := _reason(model.end.get("error", ""), model.job):
        lines += ["", "Why it failed", *indented(reason if failure is None else first_line(reason, 1000))]
    if failure is not None:
        lines += ["", "What failed first", *_failure_lines(failure)]
    lines += ["", "What was slow", *_finding_lines(findings)] if findings else ["", "Nothing stands out."]
    print_lines([*lines, "", *_time_lines(rows, model.slots)])


# -- how jobs are shown -----------------------------------------------------------------------------------------------


def _facts(listed: Listed) -> dict[str, Any]:
    totals = listed.document.get("totals", {})
    return {
        "job": listed.job,
        "name": listed.name or None,
        "state": listed.state,
        "began": listed.began or None,
        "ended": listed.ended or None,
        "seconds": round(listed.seconds, 3),
        "records_out": totals.get("records_out"),
        "output_url": listed.document.get("output_url"),
        "error": _reason(listed.document.get("error", ""), listed.job) or listed.why or None,
    }


def _row(listed: Listed) -> tuple[str, ...]:
    facts = _facts(listed)
    what = facts["error"] or short(facts["output_url"] or "")
    if not what and listed.written:
        what = f"its journal was written last at {when_text(listed.written)}"
    records = "" if facts["records_out"] is None else f"{facts['records_out']:,}"
    took = seconds_text(listed.seconds) if listed.ended or listed.written else ""
    return listed.job, listed.name, listed.state, when_text(listed.began), took, records, first_line(what)


def _reason(error: str, job: str) -> str:
    """Why a job failed, without what is said of it already."""
    return error.removeprefix(f"job {job} failed: ")


def _status_lines(spec: JobSpec, listed: Listed, document: dict[str, Any], standing: Standing | None) -> list[str]:
    rows = [("job", listed.job + (f" ({listed.name})" if listed.name else ""))]
    state = f"{listed.state}, began {when_text(listed.began)}"
    if listed.ended:
        state += f", took {seconds_text(listed.seconds)}"
    elif listed.written:
        state += f", its journal was written last at {when_text(listed.written)}"
    rows.append(("state", state))
    if listed.why:
        rows.append(("why", listed.why))
    if app := document.get("app", {}).get("name") or os.path.basename(spec.app_path):
        rows.append(("app", app))
    totals, parts = document.get("totals"), document.get("parts", ())
    if totals:
        reused = f" ({totals['maps_reused']:,} of them reused)" if totals.get("maps_reused") else ""
        emitted, out = (counted(totals[name], "record") for name in ("records_emitted", "records_out"))
        rows.append(("maps", f"{totals['maps']:,}{reused}, {size_text(totals['bytes_in'])} in, {emitted}"))
        rows.append(("reduces", f"{totals['reduces']:,}, {size_text(totals['bytes_out'])} out, {out}"))
        rows.append(("output", f"{short(document['output_url'])}, {counted(len(parts), 'part')}"))
    else:
        rows.append(("output", f"{short(spec.output_url)} (nothing there{' yet' if not listed.ended else ''})"))
    if attempts := document.get("attempts"):
        told = ", ".join(f"{attempts[name]:,} {name}" for name in ("started", "failed") if name in attempts)
        rows.append(("attempts", told))
    if standing is not None:
        rows += _standing_rows(standing)
    rows += [(f"counter {name}", f"{count:,}") for name, count in sorted(document.get("counters", {}).items())]
    if by_verb := document.get("requests", {}).get("by_verb"):
        rows.append(("requests", f"{requests_text(by_verb)}, ${document['cost_usd']:,.4f}"))
    lines = aligned_rows(rows)
    if error := document.get("error"):
        lines += ["", *indented(_reason(error, listed.job), "")]
    return lines


def _standing_rows(standing: Standing) -> list[tuple[str, str]]:
    rows = [("maps", "not planned yet")]
    if standing.maps is not None:
        rows = [
            (
                "maps",
                f"{standing.maps_done:,} of {standing.maps:,} done, {size_text(standing.bytes_done)} in, "
                f"{counted(standing.records_done, 'record')}",
            ),
            ("reduces", f"{standing.reduces_done:,} of {standing.reduces:,} done"),
        ]
    for failure in standing.failures[-FAILURES_SHOWN:]:
        rows.append(("failed", f"{failure['attempt']} on {failure['worker']}: {first_line(failure['message'])}"))
    return rows + [(f"counter {name}", f"{count:,}") for name, count in sorted(standing.counters.items())]


def _live_lines(live: dict[str, Any]) -> list[str]:
    attempts = live["attempts"]
    told = ", ".join(f"{attempts[name]:,} {name}" for name in ("running", "started", "failed") if name in attempts)
    rows = [
        ("job", live["job"] + (f" ({live['name']})" if live.get("name") else "")),
        ("state", f"{live['state'].lower()}, for {seconds_text(live['seconds'])}"),
        (
            "maps",
            f"{live['maps_done']:,} of {live['maps']:,} done, {size_text(live['bytes_done'])} in, "
            f"{counted(live['records_done'], 'record')}",
        ),
        ("reduces", f"{live['reduces_done']:,} of {live['reduces']:,} done"),
        ("workers", f"{live['workers']:,}"),
        ("attempts", told),
    ]
    rows += [(f"counter {name}", f"{count:,}") for name, count in sorted(live["counters"].items())]
    if by_verb := live["requests"]["by_verb"]:
        rows.append(("requests", f"{requests_text(by_verb)}, ${live['cost_usd']:,.4f}"))
    for each in live["running"][:RUNNING_SHOWN]:
        done = f"{each['bytes_done'] / each['bytes_total']:.0%}" if each.get("bytes_total") else ""
        said = [f"on {each['worker']} for {seconds_text(each['seconds'])}", each["phase"], done]
        rows.append((each["attempt"], ", ".join(filter(None, said))))
    return aligned_rows(rows)


def _failure_lines(failure: FirstFailure) -> list[str]:
    rows = [("attempt", f"{failure.attempt} on {failure.worker}, at {failure.t:.3f} s ({failure.kind})")]
    if failure.input:
        offset = "" if failure.offset is None else f", at byte {failure.offset:,}"
        rows.append(("input", failure.input + offset))
    lines = [f"  {line}" for line in aligned_rows([*rows, ("why", failure.message)])]
    if failure.traceback:
        lines += ["", *indented(failure.traceback, "    ")]
    return [*lines, "", "  then", *(f"    {line}" for line in failure.then)] if failure.then else lines


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for number, finding in enumerate(findings, 1):
        head = f"{number}. {finding.title}: {seconds_text(finding.seconds)}"
        lines += [
            f"  {head}",
            *wrapped(finding.figure, "     "),
            *wrapped(f"-> {finding.advice}", "     ", "        "),
        ]
    return lines


def _time_lines(rows: Sequence[dict[str, Any]], slots: int) -> list[str]:
    """Where the time went: slot seconds by part."""
    parts = ("wait", "turn", "maps", "compute", "spill", "write", "idle")
    shown = [part for part in parts if any(row["slot_seconds"].get(part) for row in rows)]
    if not shown:
        return []
    table = [["", "tasks", "seconds", *shown]]
    for row in rows:
        seconds = [f"{row['slot_seconds'].get(part, 0.0):,.2f}" for part in shown]
        table.append([row["phase"], f"{row['tasks']:,}", f"{row['seconds']:,.2f}", *seconds])
    return [f"Where the time went (slot seconds of {counted(slots, 'slot')})", *aligned(table, "l" + "r" * 9, "  ")]


# -- where it comes from ----------------------------------------------------------------------------------------------


def _ask_coordinator(address: str, token_file: str | None, tls: Any) -> dict[str, Any]:
    from ..control.messages import Status
    from ..control.rpc import ask_once, parse_address
    from ..control.tokens import token_from

    token = token_from(os.environ, token_file)
    found = ask_once(parse_address(address), token, "status", Status(), timeout_s=ANSWER_S, tls=tls)
    return dict(found)


def _ask_page(url: str, token_file: str | None) -> dict[str, Any]:
    """What the page of a running job knows, as a coordinator would say it; the token is its password, if it asks."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    import orjson

    from ..control.tokens import token_from

    full = ("" if "://" in url else "http://") + url.rstrip("/") + "/api/status"
    if not full.startswith(("http://", "https://")):
        raise UsageError(f"--http {url}: is no http:// URL, such as http://127.0.0.1:8080")
    headers: dict[str, str] = {}
    while True:
        try:
            with urlopen(Request(full, headers=headers), timeout=ANSWER_S) as answer:
                return _of_page(orjson.loads(answer.read()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            asks = isinstance(error, HTTPError) and error.code == 401 and not headers
            if asks and (token := token_from(os.environ, token_file)) is not None:
                headers["Authorization"] = f"Bearer {token.decode()}"
                continue
            cure = "set MRFAST_TOKEN to its own" if asks else "is it run with --http, and still running?"
            raise CoordinatorLost(f"no job answers at {full}: {error}; {cure}") from None


def _of_page(document: dict[str, Any]) -> dict[str, Any]:
    """The last sample of the job; before there is one, what is known already."""
    maps, reduces, job = document["tasks"]["map"], document["tasks"]["reduce"], document["job"] or {}
    known = {
        "job": job.get("job", ""), "name": job.get("name"), "phase": "", "workers": 0, "running": [], "counters": {},
        "maps": sum(maps.values()), "maps_done": maps["done"], "reduces": sum(reduces.values()),
        "reduces_done": reduces["done"], "bytes_done": 0, "records_done": 0, "cost_usd": 0.0,
        "requests": {"by_verb": {}},
    }  # fmt: skip
    newer = {
        "state": document["state"],
        "seconds": document["seconds"],
        "attempts": {"failed": 0} | document["attempts"],
    }
    return known | (document["status"] or {}) | newer


def _published(spec: JobSpec) -> dict[str, Any] | None:
    """What `_SUCCESS` says, if it is this job's: the manifest, and what the job has cost."""
    from ..control.commit import SUCCESS_KEY
    from ..errors import StoreError
    from ..storage import open_store
    from ..storage.base import read_json

    try:
        found = read_json(open_store(spec.output_url), SUCCESS_KEY)
    except StoreError:
        return None
    return found if isinstance(found, dict) and found.get("job") == spec.job else None


# -- small things -----------------------------------------------------------------------------------------------------


def _store_text(url: str) -> str:
    return f" --store {quoted(short(url))}"


def _say_requests() -> None:
    from ..storage import ledger

    sent = ledger.document(ledger.current().counts())
    if by_verb := sent["requests"]["by_verb"]:
        say(f"mrfast: {requests_text(by_verb)}, ${sent['cost_usd']:,.4f}")
