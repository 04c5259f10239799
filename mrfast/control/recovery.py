"""What a job's journal says, and a Scheduler as it was when its last line was written.

A record is one accepted event; rolled back reduces need none, since they follow from the map output that differs:

    begin   job, epoch, base          the first of an epoch's journal: which records of which earlier epoch count
    plan    app, whole                the application, and the inputs that are not to be cut
    map     report, issued, object    an accepted map output, without its index, which stands in its object; its key is
                                      there if an earlier job wrote it
    reduce  report, issued            an accepted reduce: its part, or parts
    lost    map, attempt              an accepted map output that was missing or corrupt
    failed  failure, worker           a failure that counts
    skip    map, url, offset          a record that killed its process twice
    end     state                     the job has ended
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mrfast.control import hot_keys
from mrfast.control.groups import Groups
from mrfast.control.scheduler import IllegalEvent, Scheduler
from mrfast.control.schema import BadFrame, decode, encode
from mrfast.errors import DamagedJournal
from mrfast.model import AppInfo, Failure, MapReport, ReduceReport

MESSAGE_CHARS_MAX = 1000


@dataclass
class Restored:
    """What accepted tasks gave, by their index, and what is to be left out."""

    maps: dict[int, MapReport] = field(default_factory=dict)
    objects: dict[int, str] = field(default_factory=dict)  # of those maps that earlier jobs ran
    parts: dict[int, ReduceReport] = field(default_factory=dict)
    skip: dict[int, list[tuple[str, int]]] = field(default_factory=dict)


def begin_record(job: str, epoch: int, base: tuple[int, int] | None) -> dict[str, Any]:
    """The first record of an epoch."""
    return {"k": "begin", "job": job, "epoch": epoch, "base": None if base is None else list(base)}


def plan_record(app: AppInfo, whole: Iterable[str]) -> dict[str, Any]:
    """How the input was cut: it is cut the same way again."""
    return {"k": "plan", "app": encode(app), "whole": sorted(whole)}


def map_record(report: MapReport, digest: str, issued: int, object: str = "") -> dict[str, Any]:
    """An accepted map output; `object` is the key of one that an earlier job wrote."""
    short = replace(report, index=b"", seconds={}, hot=hot_keys.cut(report.hot, hot_keys.KEYS_IN_JOURNAL))
    record = {"k": "map", "report": encode(short), "digest": digest, "issued": issued}
    return record | {"object": object} if object else record


def reduce_record(report: ReduceReport, issued: int) -> dict[str, Any]:
    """An accepted part."""
    return {"k": "reduce", "report": encode(replace(report, seconds={})), "issued": issued}


def lost_record(map_index: int, attempt: str) -> dict[str, Any]:
    """A lost map output."""
    return {"k": "lost", "map": map_index, "attempt": attempt}


def failed_record(failure: Failure, worker: str) -> dict[str, Any]:
    """A failure that counts, its texts cut."""
    cut = replace(
        failure, message=failure.message[:MESSAGE_CHARS_MAX], traceback=failure.traceback[-MESSAGE_CHARS_MAX:]
    )
    return {"k": "failed", "failure": encode(cut), "worker": worker}


def skip_record(map_index: int, url: str, offset: int) -> dict[str, Any]:
    """A record that is to be passed over."""
    return {"k": "skip", "map": map_index, "url": url, "offset": offset}


def plan_of(records: Iterable[dict[str, Any]]) -> tuple[AppInfo, set[str]] | None:
    """The application and the uncut inputs, or None if the job had not got so far."""
    for record in records:
        if record["k"] == "plan":
            return decode(AppInfo, record["app"]), set(record["whole"])
    return None


def replay(records: list[dict[str, Any]], scheduler: Scheduler, groups: Groups) -> Restored:
    """Steps a fresh Scheduler through the records; DamagedJournal for one that cannot have been written."""
    restored, epoch = Restored(), 0
    for record in records:
        kind = record["k"]
        try:
            if kind == "begin":
                epoch = int(record["epoch"])
            elif kind == "map":
                report = decode(MapReport, record["report"])
                scheduler.restore("map", report.attempt, record["digest"], "", record["issued"], epoch)
                index = scheduler.names.index(report.attempt)
                restored.maps[index] = report
                restored.objects[index] = str(record.get("object", ""))
            elif kind == "reduce":
                part = decode(ReduceReport, record["report"])
                scheduler.restore("reduce", part.attempt, part.xxh3, part.table, record["issued"], epoch)
                index = scheduler.names.index(part.attempt)
                groups.check(index, part)
                restored.parts[index] = part
            elif kind == "lost":
                scheduler.restore_loss(record["attempt"])
                restored.maps.pop(int(record["map"]), None)
            elif kind == "failed":
                failure = decode(Failure, record["failure"])
                scheduler.restore_failure(failure.attempt, record["worker"], failure)
            elif kind == "end":
                scheduler.forgive()
            elif kind == "skip":
                restored.skip.setdefault(int(record["map"]), []).append((record["url"], int(record["offset"])))
        except (IllegalEvent, BadFrame, KeyError, TypeError, ValueError) as error:
            raise DamagedJournal(
                f"the journal's record {record!r:.200} does not fit what comes before: {error}"
            ) from None
    scheduler.restored()
    return restored
