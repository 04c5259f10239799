"""The manifest of a job, which `_SUCCESS` repeats: what the job was made of, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrfast.control.groups import Groups
from mrfast.control.outputs import Outputs
from mrfast.control.schema import encode
from mrfast.model import AppInfo, JobSpec, ReduceReport


def manifest(
    spec: JobSpec,
    app: AppInfo,
    epoch: int,
    maps: int,
    outputs: Outputs,
    reports: Mapping[int, ReduceReport],
    attempts: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """The document; `reports` are those of the accepted reduces, by task."""
    groups = Groups.of(spec)
    parts = [part for task, report in sorted(reports.items()) for part in groups.parts(task, report)]
    counters = dict(outputs.counters)
    for report in reports.values():
        for name, count in report.counters.items():
            counters[name] = counters.get(name, 0) + count
    return {
        "job": spec.job,
        "name": spec.name,
        "output_url": spec.output_url,
        "app": encode(app),
        "epoch": epoch,
        "compress": spec.compress,
        "parts": [encode(part) for part in parts],
        "inputs": [encode(item) for item in spec.inputs],
        "totals": {
            "maps": maps,
            "maps_reused": outputs.reused,
            "reduces": spec.reduces,
            "bytes_in": outputs.bytes_in,
            "records_emitted": outputs.records_in,
            "records_shuffled": outputs.records_out,
            "records_out": sum(part.records for part in parts),
            "bytes_out": sum(part.size for part in parts),
        },
        "counters": counters,
        "attempts": dict(attempts),
        "seconds": seconds,
    }
