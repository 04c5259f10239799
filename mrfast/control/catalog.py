"""The jobs of a store, as what lies in jobs/<id>/ tells: which there are, and how each of them stands.

Of each job one level of its folder is listed, and one object read: the manifest of a committed one, `failed.json` of
one that failed, the beginning of any other's `spec.json`. In S3 that is a LIST for all jobs, a LIST for each (their ids
say nothing of their time), and for each that is shown a GET; of one that has not ended a LIST more, of its journal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from mrfast.control import commit, recovery, splits
from mrfast.control.event_files import EVENTS
from mrfast.control.groups import Groups
from mrfast.control.journal import chain
from mrfast.control.journal_files import read_journals, state_folder
from mrfast.control.schema import decode
from mrfast.errors import MrfastError, StoreError, UnknownJob
from mrfast.model import JobSpec, MapReport, ReduceReport, job_key
from mrfast.storage.abreast import each_of
from mrfast.storage.base import Store
from mrfast.storage.shallow import Entry, entries, read_entry

COMMITTED, FAILED, RUNNING, BROKEN = "committed", "failed", "running", "broken"
STOPPED, OPEN = "stopped", "not ended"
STOP_S = 2.0  # so much later than its event log a stopped job's journal may have been written
HEAD_BYTES = 4096
_JOB = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAMED = re.compile(rb'\{"job":"[0-9a-f]{32}","name":(?:null|"([A-Za-z0-9._-]{1,64})")', re.ASCII)
_JOURNAL = re.compile(r"/([0-9a-f]{32})/(?:journal/)?[0-9]{1,9}\.log", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listed:
    """A job of the store. Times are UNIX times as the store gives them, 0 where it gives none.

    `state`: committed; failed; running, if a process of this machine has its journal open; stopped, if it left its
    event log so and nothing has been written since; "not ended", where nobody here knows whether another machine runs
    it or it was killed; broken, and `why` says how.
    """

    job: str
    name: str = ""
    state: str = OPEN
    began: float = 0.0
    ended: float = 0.0
    written: float = 0.0  # when its journal was, of one that has not ended
    document: dict[str, Any] = field(default_factory=dict)  # the manifest, or failed.json
    why: str = ""

    @property
    def seconds(self) -> float:
        """How long it took, or has been there."""
        return float(self.document.get("seconds") or max(0.0, (self.ended or self.written) - self.began))


def jobs(store: Store, most: int | None = None) -> tuple[list[Listed], int]:
    """The newest `most` jobs of the store, newest first, and how many there are in all."""
    ids = [name for name, entry in entries(store, "jobs/").items() if entry.is_folder and _JOB.fullmatch(name)]
    seen = [
        found
        for found in each_of(store, lambda job: (job, entries(store, job_key(job, ""))), ids)
        if _is_there(store, *found)
    ]
    seen.sort(key=lambda found: (-_began(found[1]), found[0]))
    here = running_here()
    return each_of(store, lambda found: _listed(store, *found, here), seen[:most]), len(seen)


def newest(store: Store) -> str:
    """The id of the store's newest job; UnknownJob if it has none."""
    found, _ = jobs(store, 1)
    if not found:
        raise UnknownJob(f"{store.url} has no jobs; name another store with --store")
    return found[0].job


def job(store: Store, job_id: str) -> Listed:
    """The job with this id, as `jobs` lists it."""
    return _listed(store, job_id, entries(store, job_key(job_id, "")), running_here())


def running_here() -> frozenset[str]:
    """The jobs whose journals processes of this machine (of this user) have open: these run."""
    found = set()
    for process in _names("/proc"):
        if process.isdigit():
            for number in _names(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if journal := _JOURNAL.search(os.readlink(f"/proc/{process}/fd/{number}")):
                        found.add(journal[1])
    return frozenset(found)


@dataclass(slots=True)
class Standing:
    """How far a job has come that has not ended, by its journal."""

    maps: int | None = None  # None before the plan is made
    maps_done: int = 0
    reduces: int = 0  # parts
    reduces_done: int = 0
    records_done: int = 0
    bytes_done: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)  # that count, in order


def standing(store: Store, spec: JobSpec) -> Standing:
    """What the journal of the job says so far; DamagedJournal."""
    records = chain(read_journals(store, spec.job, state_folder(os.environ)))
    found, groups = Standing(reduces=spec.reduces), Groups.of(spec)
    maps: dict[str, MapReport] = {}
    reduces: dict[str, ReduceReport] = {}
    if (plan := recovery.plan_of(records)) is not None:
        app, whole = plan
        found.maps = sum(1 for _ in splits.unsplit(splits.plan(spec.inputs, app.cut, spec.split_bytes), whole))
    for record in records:
        if record["k"] == "map":
            report = decode(MapReport, record["report"])
            maps[report.attempt.partition(".")[0]] = report
        elif record["k"] == "reduce":
            part = decode(ReduceReport, record["report"])
            reduces[part.attempt.partition(".")[0]] = part
        elif record["k"] == "lost":
            maps.pop(str(record["attempt"]).partition(".")[0], None)
        elif record["k"] == "failed":
            found.failures.append(record["failure"] | {"worker": record["worker"]})
    found.maps_done, found.reduces_done = len(maps), min(len(reduces) * groups.size, spec.reduces)
    found.records_done = sum(report.records_in for report in maps.values())
    found.bytes_done = sum(report.bytes_in for report in maps.values())
    done: list[MapReport | ReduceReport] = [*maps.values(), *reduces.values()]
    for each in done:
        for name, count in each.counters.items():
            found.counters[name] = found.counters.get(name, 0) + count
    return found


# -- inside -----------------------------------------------------------------------------------------------------------


def _names(folder: str) -> Iterator[str]:
    with suppress(OSError):  # no /proc, a process that is gone, or another user's
        yield from os.listdir(folder)


def _is_there(store: Store, job_id: str, found: dict[str, Entry]) -> bool:
    """Whether any object is left of the job; a folder keeps its empty folders."""
    return (
        not all(entry.is_folder for entry in found.values()) or next(store.list(job_key(job_id, "")), None) is not None
    )


def _began(found: dict[str, Entry]) -> float:
    """When the spec was written; of a folder without one, when anything was."""
    if commit.SPEC in found:
        return found[commit.SPEC].modified
    return max((entry.modified for entry in found.values()), default=0.0)


def _listed(store: Store, job_id: str, found: dict[str, Entry], here: frozenset[str]) -> Listed:
    told = Listed(job_id, began=_began(found))
    try:
        for name, state in ((commit.MANIFEST, COMMITTED), (commit.FAILED, FAILED)):
            if name in found:
                document = orjson.loads(read_entry(store, job_key(job_id, ""), found[name]))
                if not isinstance(document, dict) or document.get("job") != job_id:
                    raise StoreError(f"{name} is not that of this job")
                title = str(document.get("name") or "")
                return replace(told, name=title, state=state, ended=found[name].modified, document=document)
        if commit.SPEC not in found:
            return replace(told, state=BROKEN, why=f"{commit.SPEC} is missing: it is what is left of a job")
        spec = found[commit.SPEC]
        head = read_entry(store, job_key(job_id, ""), replace(spec, size=min(spec.size, HEAD_BYTES)))
        named = _NAMED.match(head)
        if named is None:
            raise StoreError(f"{commit.SPEC} is damaged")
        journal = entries(store, job_key(job_id, "journal", "")) if "journal" in found else {}
        written = max((entry.modified for entry in journal.values()), default=0.0)
        stopped = found[EVENTS].modified if EVENTS in found else 0.0
        state = RUNNING if job_id in here else STOPPED if stopped and stopped >= written - STOP_S else OPEN
        return replace(told, name=(named[1] or b"").decode(), state=state, written=written)
    except (MrfastError, ValueError) as error:
        return replace(told, state=BROKEN, why=str(error))
