"""Neighbouring partitions that one reduce task makes: how many, which, and what their parts are called.

At many partitions a map's segments are small, and the requests that fetch them are what a shuffle costs. The segments
of neighbouring partitions lie side by side in a map object, so that one ranged GET brings all that a task needs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mrfast.model import InputObject, JobSpec, Part, ReduceReport, Segment, inter_key, out_key, part_object

TASKS_MIN = 64  # reduce tasks that are left, and as many for each slot: the last ones must not be waited for
TASKS_PER_SLOT = 4
SLOTS = 16  # of a coordinator, which does not know its workers
RUN_BYTES_MAX = 1 << 20  # of one map object for one task: larger GETs cost what their bytes cost
PARTITIONS_MAX = 32  # in one task: of more, a page of segments names too few runs to fetch many side by side
# Of 64 MiB of input a map is taken to leave 10 MiB: what combines leaves less, a sort all of it.
SHARE = 10, 64


def partitions_per_reduce(
    inputs: Sequence[InputObject], reduces: int, split_bytes: int, memory_bytes: int, slots: int, *, remote: bool
) -> int:
    """How many partitions each reduce task is to make: 1 where requests cost nothing, or a larger GET gains nothing."""
    if not remote:
        return 1
    maps = sum(max(1, -(-item.size // split_bytes)) for item in inputs)
    bytes_out = sum(item.size for item in inputs) * SHARE[0] // SHARE[1]
    partition_bytes = max(1, bytes_out // reduces)
    segment_bytes = max(1, partition_bytes // max(1, maps))
    most = (
        reduces // max(TASKS_MIN, TASKS_PER_SLOT * slots),
        RUN_BYTES_MAX // segment_bytes,
        memory_bytes // partition_bytes,
        PARTITIONS_MAX,
    )
    return max(1, min(most))


@dataclass(frozen=True, slots=True)
class Groups:
    """The reduce tasks of a job: each makes `size` neighbouring partitions, the last one what is left."""

    reduces: int
    size: int = 1

    @classmethod
    def of(cls, spec: JobSpec) -> Groups:
        """Those of a job."""
        return cls(spec.reduces, spec.partitions_per_reduce)

    @property
    def tasks(self) -> int:
        """How many reduce tasks there are."""
        return -(-self.reduces // self.size)

    def partitions(self, task: int) -> range:
        """What a task makes."""
        return range(task * self.size, min(self.reduces, (task + 1) * self.size))

    def written(self, job: str, kind: str, index: int, attempt: str) -> list[str]:
        """The keys that an attempt of a task ("map" or "reduce", index) writes."""
        if kind == "map":
            return [inter_key(job, attempt)]
        partitions = self.partitions(index)
        return [out_key(job, part_object(attempt, number, len(partitions))) for number in partitions]

    def check(self, task: int, report: ReduceReport) -> None:
        """ValueError unless the report is of as many parts as the task makes."""
        partitions = self.partitions(task)
        if len(report.parts) != (0 if len(partitions) == 1 else len(partitions)):
            raise ValueError(f"{report.attempt} makes {len(partitions)} partitions and reports {len(report.parts)}")

    def parts(self, task: int, report: ReduceReport) -> list[Part]:
        """The parts that a task has made."""
        partitions = self.partitions(task)
        if not report.parts:
            return [Part(partitions[0], report.attempt, report.size, report.xxh3, report.records_out)]
        return [
            Part(number, part_object(report.attempt, number, len(partitions)), part.size, part.xxh3, part.records)
            for number, part in zip(partitions, report.parts, strict=True)
        ]


def run_of(segments: Sequence[Segment]) -> Segment:
    """Neighbouring segments of one map object as one."""
    if len(segments) == 1:
        return segments[0]
    held = [segment for segment in segments if segment.length]
    if not held:
        return segments[0]
    parts = tuple((segment.length, segment.records, segment.xxh3, segment.raw) for segment in segments)
    length, records = (sum(column) for column in list(zip(*parts, strict=True))[:2])
    return replace(held[0], length=length, records=records, xxh3=0, raw=0, parts=parts)


def singles(segment: Segment) -> list[Segment]:
    """The segments that `run_of` made one, by partition; one without records is all of them."""
    if not segment.parts:
        return [segment]
    found, offset = [], segment.offset
    for length, records, xxh3, raw in segment.parts:
        found.append(replace(segment, offset=offset, length=length, records=records, xxh3=xxh3, raw=raw, parts=()))
        offset += length
    return found
