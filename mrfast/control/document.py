"""The manifest of a job, which `_SUCCESS` repeats: what the job was made of, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrfast.control.groups import Groups
from mrfast.control.outputs import Outputs
from mrfast.control.schema import encode
from mrfast.model import AppInfo, JobSpec, ReduceReport


class Reports(dict[int, ReduceReport]):
    """Of the accepted reduces, by task; and the sums of what they have counted."""

    def __init__(self, reports: Mapping[int, ReduceReport] | None = None) -> None:
        super().__init__()
        self.counters: dict[str, int] = {}
        for task, report in (reports or {}).items():
            self[task] = report

    def __setitem__(self, task: int, report: ReduceReport) -> None:
        self._count(task, -1)
        super().__setitem__(task, report)
        self._count(task, 1)

    def __delitem__(self, task: int) -> None:
        self._count(task, -1)
        super().__delitem__(task)

    def _count(self, task: int, sign: int) -> None:
        for name, count in self[task].counters.items() if task in self else ():
            self.counters[name] = self.counters.get(name, 0) + sign * count


def totals(spec: JobSpec, maps: int, outputs: Outputs, reports: Reports) -> dict[str, int]:
    """What the accepted tasks have read and written; of a job that is not done, so far."""
    return {
        "maps": maps,
        "maps_reused": outputs.reused,
        "reduces": spec.reduces,
        "bytes_in": outputs.bytes_in,
        "records_emitted": outputs.records_in,
        "records_shuffled": outputs.records_out,
        "records_out": sum(report.records_out for report in reports.values()),
        "bytes_out": sum(report.size for report in reports.values()),
    }


def added(*several: Mapping[str, int]) -> dict[str, int]:
    """The sums of several counts, by name."""
    counts = dict(several[0])
    for other in several[1:]:
        for name, count in other.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def manifest(
    spec: JobSpec,
    app: AppInfo,
    epoch: int,
    maps: int,
    outputs: Outputs,
    reports: Reports,
    attempts: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """The document; `reports` are those of the accepted reduces, by task."""
    groups = Groups.of(spec)
    parts = [part for task, report in sorted(reports.items()) for part in groups.parts(task, report)]
    counters = added(outputs.counters, reports.counters)
    return {
        "job": spec.job,
        "name": spec.name,
        "output_url": spec.output_url,
        "app": encode(app),
        "epoch": epoch,
        "compress": spec.compress,
        "parts": [encode(part) for part in parts],
        "inputs": [encode(item) for item in spec.inputs],
        "totals": totals(spec, maps, outputs, reports),
        "counters": counters,
        "hot_keys": outputs.hot.told(),
        "hot_advice": outputs.hot.advice(spec.reduces),
        "attempts": dict(attempts),
        "seconds": seconds,
    }
