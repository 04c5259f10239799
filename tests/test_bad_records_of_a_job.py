"""What a coordinator makes of the records that its maps could not take: how many, which to skip, and the list."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from mrfast.control.bad_records import DEATHS_MAX, BadRecords
from mrfast.model import Failure, MapReport, SkippedRecord

DIED = Failure("m-000003.e1.1", "died", "killed", url="s3://b/x", offset=70)


def report(map_index: int, *offsets: int) -> MapReport:
    bad = tuple(
        SkippedRecord(f"{map_index}.txt", f"s3://b/{map_index}", at, 3, b"abc", "ValueError: no") for at in offsets
    )
    return MapReport(f"m-{map_index:06d}.e1.1", 1, "0", b"", 1, 1, 1, bad=bad)


def test_the_records_of_all_maps_count_together() -> None:
    job = BadRecords(3)
    job.accept(4, report(4, 10, 20))
    job.accept(1, report(1, 5))
    assert not job.are_too_many()
    job.accept(2, report(2, 9))
    assert job.are_too_many()
    said = str(job.error())
    assert said.startswith("4 bad records, and --max-bad-records allows 3; the first: 1.txt, at byte 5: ValueError")


def test_an_output_that_was_lost_or_replaced_does_not_count_twice() -> None:
    job = BadRecords(2)
    job.accept(1, report(1, 5, 6))
    job.accept(1, report(1, 5, 6))
    assert not job.are_too_many()
    job.forget(1)
    assert job.lines() == b""
    job.accept(1, report(1))
    assert job.lines() == b""


def test_the_list_is_in_map_order_whatever_came_first() -> None:
    job = BadRecords(9)
    job.accept(2, report(2, 7))
    job.accept(0, report(0, 3, 8))
    listed = [orjson.loads(line) for line in job.lines().splitlines()]
    assert [(each["path"], each["offset"]) for each in listed] == [("0.txt", 3), ("0.txt", 8), ("2.txt", 7)]


def test_a_record_that_kills_twice_is_skipped_from_then_on() -> None:
    job = BadRecords(1)
    first, skipped = job.died(3, DIED)
    assert (first.counted, skipped, job.skip(3)) == (False, None, ())
    second, skipped = job.died(3, replace(DIED, attempt="m-000003.e1.2"))
    assert (second.counted, skipped) == (False, ("s3://b/x", 70))
    assert job.skip(3) == (("s3://b/x", 70),)
    assert job.skip(2) == ()


@pytest.mark.parametrize(
    "failure",
    [replace(DIED, kind="app"), replace(DIED, url=""), replace(DIED, offset=None)],
    ids=["it raised", "no input", "no offset"],
)
def test_what_no_record_is_to_blame_for_counts(failure: Failure) -> None:
    assert BadRecords(5).died(3, failure) == (failure, None)


@pytest.mark.parametrize("limit", [1, 2])
def test_deaths_of_too_many_records_count_as_any_failure(limit: int) -> None:
    job = BadRecords(limit)
    for n in range(DEATHS_MAX * (limit + 1)):
        assert not job.died(0, replace(DIED, offset=n))[0].counted
    assert job.died(0, replace(DIED, offset=999)) == (replace(DIED, offset=999), None)


def test_where_there_may_be_none_every_death_counts() -> None:
    assert BadRecords(0).died(3, DIED) == (DIED, None)
