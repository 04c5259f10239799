"""Where the event log of a job is kept, and how it is found again: `_events.jsonl.gz` beside the output of one that is
committed, `jobs/<id>/events.jsonl.gz` in the store of one that failed or was stopped. Both hold the lines that
`control/events.py` describes, in one gzip member without a name and a time, so that they depend on nothing else."""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import orjson

from mrfast.control import commit
from mrfast.errors import MrfastError, NoEvents, NotFound, StoreError, UnknownJob
from mrfast.model import JobSpec, job_key
from mrfast.storage import open_store, split_url
from mrfast.storage.base import Store, object_url, read, shown

EVENTS_KEY = "_events.jsonl.gz"  # beside the output
EVENTS = "events.jsonl.gz"  # of the job, in its store
LEVEL = 3  # of 45,000 tasks: 6 takes 2.7 times the CPU for 0.77 of the bytes, 1 takes 0.85 for 1.07
GZIP = 31  # wbits of a gzip member with the largest window


def packed(lines: bytes) -> bytes:
    """The lines as they are kept."""
    return zlib.compress(lines, LEVEL, GZIP)


def keep(store: Store, key: str, lines: bytes) -> str:
    """Write the log, over whatever was there; "", or why that could not be done: nothing depends on it."""
    try:
        store.put(key, packed(lines))
    except StoreError as error:
        with suppress(StoreError):  # a former job's would be taken for this one's
            store.delete(key)
        return f"the event log {object_url(store, key)} could not be written: {error}"
    return ""


def is_kept(output: Store, job: str) -> bool:
    """Whether this job's log is beside the output already."""
    with suppress(MrfastError):
        return _job(_lines(output, EVENTS_KEY) or []) == job
    return False


def find_events(where: str, store_url: str = "") -> list[bytes]:
    """The lines of a job's event log; NoEvents or another MrfastError says what there is instead.

    `where` is an output (a folder or URL), a log itself, or with a `store_url` the id or name of a job in that store;
    an output that has the name of no job is found with a `store_url`, too.
    """
    if where.endswith(EVENTS):
        root, key = split_url(where)
        lines = _lines(open_store(root), key)
        if lines is None:
            raise NoEvents(f"{shown(where)}: there is no such event log")
        return lines
    if store_url and commit.is_job_name(where):
        try:
            spec = commit.find_job(where, open_store(store_url))
        except UnknownJob as error:
            try:
                return _of_output(where)
            except NoEvents as other:
                raise NoEvents(f"{error}; {other}") from None
        return _of_job(spec, open_store(spec.store_url))
    return _of_output(where)


def _of_output(url: str) -> list[bytes]:
    output = open_store(url.rstrip("/"))
    held = commit.claimed_by(output)
    lines = _lines(output, EVENTS_KEY)
    if lines is None:
        if held is None:
            why = "it is no output of a job"
            cure = "name the folder or prefix that has _SUCCESS, or a job's id and its --store"
        else:
            why = f"job {held} keeps its log when it is committed, and an older mrfast kept none"
            cure = "ask by the job's id and its --store whether it failed"
        raise NoEvents(f"{shown(url)} has no event log ({EVENTS_KEY}): {why}; {cure}")
    if held and (job := _job(lines)) != held:
        raise NoEvents(
            f"{object_url(output, EVENTS_KEY)} is the log of job {job}, and the output is now that of job {held}, which"
            " has not ended or could not keep its log; ask for that job by its id and --store"
        )
    return lines


def _of_job(spec: JobSpec, store: Store) -> list[bytes]:
    """Beside its output if the job is committed, else in its store."""
    lines = None
    with suppress(NotFound):
        commit.read_manifest(spec.job, store)
        lines = _lines(open_store(spec.output_url), EVENTS_KEY)
        if lines is not None and _job(lines) != spec.job:  # another job has the output now
            lines = None
    lines = lines or _lines(store, job_key(spec.job, EVENTS))
    if lines is None:
        if commit.has_ended(spec.job, store):
            why = f"its output {shown(spec.output_url)} is another job's now, or the log could not be written"
        else:
            why = "the log is kept when the job has ended: watch it with --http, or wait for its end"
        raise NoEvents(f"job {spec.name or spec.job} in {shown(spec.store_url)} has no event log: {why}")
    return lines


def _lines(store: Store, key: str) -> list[bytes] | None:
    try:
        data = read(store, key)
    except NotFound:
        return None
    try:
        lines = zlib.decompress(data, GZIP).splitlines(keepends=True)
        if _job(lines):
            return lines
    except (zlib.error, ValueError):
        pass
    raise MrfastError(f"{object_url(store, key)} is damaged, or no event log of mrfast")


def _job(lines: list[bytes]) -> str:
    first: Any = orjson.loads(lines[0]) if lines else {}
    return str(first.get("job", "")) if isinstance(first, dict) and first.get("e") == "job" else ""
