"""The records that `map` could not take: how many there are, which are to be passed over, and the list for people.

Section 4.6 of the MapReduce paper (Dean and Ghemawat, OSDI 2004): a record that kills its process twice is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from mrfast.control.schema import encode
from mrfast.errors import JobFailed
from mrfast.model import Failure, MapReport, SkippedRecord

if TYPE_CHECKING:
    from mrfast.control.recovery import Restored

DEATHS_MAX = 2


class BadRecords:
    """Of one job; `limit` 0 means that there may be none, and nothing is ever skipped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[int, tuple[SkippedRecord, ...]] = {}  # by map index
        self._skip: dict[int, list[tuple[str, int]]] = {}
        self._deaths: dict[tuple[str, int], int] = {}

    def restore(self, restored: Restored) -> None:
        """What an earlier epoch knew."""
        self._skip = restored.skip
        self._found = {index: report.bad for index, report in restored.maps.items() if report.bad}

    def accept(self, map_index: int, report: MapReport) -> None:
        """The bad records of an accepted map output, in the place of earlier ones."""
        self.forget(map_index)
        if report.bad:
            self._found[map_index] = report.bad

    def forget(self, map_index: int) -> None:
        """The output was lost: its next one brings its bad records along."""
        self._found.pop(map_index, None)

    def skip(self, map_index: int) -> tuple[tuple[str, int], ...]:
        """(url, offset) of the records that a map is not to be given."""
        return tuple(self._skip.get(map_index, ()))

    def died(self, map_index: int, failure: Failure) -> tuple[Failure, tuple[str, int] | None]:
        """The failure, not counted if a record is to blame that may be skipped; and that record, from its 2nd death on.

        Never more than two deaths for each record that may be bad: then they count as any other.
        """
        if not self._limit or failure.kind != "died" or not failure.url or failure.offset is None:
            return failure, None
        if sum(self._deaths.values()) >= DEATHS_MAX * (self._limit + 1):
            return failure, None
        record = failure.url, failure.offset
        self._deaths[record] = self._deaths.get(record, 0) + 1
        if self._deaths[record] < DEATHS_MAX:
            return replace(failure, counted=False), None
        self._skip.setdefault(map_index, []).append(record)
        return replace(failure, counted=False), record

    def are_too_many(self) -> bool:
        """Whether the job has more bad records than it may have."""
        if not self._found:
            return False
        return sum(map(len, self._found.values())) > self._limit

    def error(self) -> JobFailed:
        """Why the job fails: the first bad record, and how many there are."""
        found = [record for index in sorted(self._found) for record in self._found[index]]
        first = found[0]
        return JobFailed(
            f"{len(found)} bad records, and --max-bad-records allows {self._limit}; the first: {first.path}, at byte "
            f"{first.offset:,}: {first.why}"
        )

    def lines(self) -> bytes:
        """The list, a JSON object a line, in map order; empty if there are none."""
        records = (record for index in sorted(self._found) for record in self._found[index])
        return b"".join(orjson.dumps(encode(record), option=orjson.OPT_APPEND_NEWLINE) for record in records)
