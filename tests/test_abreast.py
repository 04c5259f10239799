"""Reads that are many at once: in order, within their bytes, in the phase of who asked, and all ended at the end."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from memory_job import Job, Pages, example

from mrfast.errors import StoreError
from mrfast.model import ReduceReport, out_key
from mrfast.storage import abreast, base, ledger
from mrfast.storage.abreast import Abreast
from mrfast.tasks import fetch

WAIT_S = 60.0


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 20), st.integers(-1, 60))
@examples(100)
def test_results_come_in_order_and_bytes_are_bounded(sizes: list[int], bytes_max: int, fails_at: int) -> None:
    lock = threading.Lock()
    begun: list[int] = []
    taken = 0

    def work(at: int) -> int:
        with lock:
            begun.append(at)
            waiting = [sizes[n] for n in range(taken, max(begun) + 1)]
            assert len(waiting) <= 1 or sum(waiting[:-1]) + waiting[-1] <= bytes_max + sizes[taken]
        if at == fails_at:
            raise StoreError("down")
        return at * at

    results = []
    with Abreast(bytes_max, remote=True) as reads:
        try:
            for item, result in reads.each(range(len(sizes)), work, sizes.__getitem__):
                results.append((item, result))
                with lock:
                    taken = item + 1
        except StoreError:
            assert fails_at < len(sizes)
    end = fails_at if 0 <= fails_at < len(sizes) else len(sizes)
    assert results == [(n, n * n) for n in range(end)]
    assert Counter(begun).most_common(1) in ([], [(begun[0], 1)] if begun else [])
    assert not any(thread.name.startswith("mrfast-read") for thread in threading.enumerate())


def test_as_many_as_are_allowed_read_at_once_in_the_phase_of_who_asks() -> None:
    meeting = threading.Barrier(abreast.READS_MAX)

    def work(at: int) -> str:
        meeting.wait(WAIT_S)
        return ledger.phase()

    with ledger.working("reduce"), Abreast(1 << 20, remote=True) as reads:
        items = range(2 * abreast.READS_MAX)
        assert [phase for _, phase in reads.each(items, work, lambda item: 1)] == ["reduce"] * len(items)


def test_a_near_store_is_read_by_who_asks() -> None:
    with Abreast(1, remote=False) as reads:
        found = list(reads.each("ab", lambda item: (item, threading.current_thread()), lambda item: 100))
    assert found == [(item, (item, threading.main_thread())) for item in "ab"]


class FarStore:
    """What a job's store does when it is far away: which ranges are asked for, and faults at some of them."""

    def __init__(self, job: Job, monkeypatch: pytest.MonkeyPatch, remote: bool, faults: dict[int, str]) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()
        kind = type(job.store)
        read_into = kind.read_into

        def counting(store: Any, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
            count = int(read_into(store, key, offset, buffer, etag))
            if "/inter/" not in key:
                return count
            with self._lock:
                self.reads.append((key, offset, len(buffer)))
                tries = sum(read[:2] == (key, offset) for read in self.reads)
            if count and faults.get(int(key.split("/m-")[1][:6])) == "flip" and tries == 1:
                buffer[0] ^= 1
            return count

        monkeypatch.setattr(kind, "read_into", counting)
        monkeypatch.setattr(kind, "remote", remote, raising=False)


def part(job: Job, reports: Any) -> tuple[bytes, str, int]:
    report = job.reduce(reports, 0, Pages(list(job.segments(reports, 0))))
    assert isinstance(report, ReduceReport), report
    return base.read(job.store, out_key("j", report.attempt)), report.table, report.records_in


@given(
    st.lists(st.text("ab c", max_size=300), min_size=1, max_size=12),
    st.integers(4, 2000),
    st.dictionaries(st.integers(0, 11), st.sampled_from(["flip"])),
)
@examples(60)
def test_a_far_store_gives_the_same_part_from_one_get_a_segment(
    texts: list[str], memory_bytes: int, faults: dict[int, str]
) -> None:
    files = {f"{n:02}": text.encode() for n, text in enumerate(texts)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
        job = Job(example("wc_python"), files, reduces=1)
        reports = job.maps()
        segments = list(job.segments(reports, 0))
        job.memory_bytes = memory_bytes
        want = part(job, reports)
        far = FarStore(job, patch, True, faults)
        assert part(job, reports) == want
        gets = Counter(key.rpartition("/")[2] for key, *_ in far.reads)
    for segment in segments:
        large = segment.length > memory_bytes // 4
        step = max(1, min(fetch.RANGE_BYTES_MAX, memory_bytes // fetch.RANGES_PER_MEMORY))
        expected = -(-segment.length // step) if large else bool(segment.length)
        flipped = faults.get(segment.map_index) == "flip" and segment.length > 0
        # A fault in a large segment comes with the first range, or with each: all are read again.
        assert gets[segment.attempt] == expected * (2 if flipped and (expected == 1 or not large) else 1) or (
            flipped and large
        )


def test_the_requests_of_a_segment_on_disk_depend_on_its_size_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
    job = Job(example("wc_python"), {"a": b" ".join(b"w%d" % n for n in range(500))}, reduces=1)
    reports = job.maps()
    [segment] = job.segments(reports, 0)
    job.memory_bytes = 3200
    far = FarStore(job, monkeypatch, True, {})
    part(job, reports)
    ranges = [(offset - segment.offset, size) for _, offset, size in sorted(far.reads)]
    assert ranges == [(at, min(100, segment.length - at)) for at in range(0, segment.length, 100)]


def test_what_is_lost_is_told_and_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(example("wc"), {f"{n}": b"one two" for n in range(9)}, reduces=1)
    reports = job.maps()
    segments = list(job.segments(reports, 0))
    FarStore(job, monkeypatch, True, {})
    key = f"jobs/j/inter/{segments[4].attempt}"
    body = base.read(job.store, key)
    job.store.delete(key)

    def found(segment: Any) -> list[Any]:
        job.store.put(key, body)
        return [segment]

    source = Pages(segments, answer=found)
    assert isinstance(job.reduce(reports, 0, source), ReduceReport)
    assert [(segment.map_index, "missing" in why) for segment, why in source.told] == [(4, True)]
    job.store.delete(key)
    source = Pages(segments)
    assert getattr(job.reduce(reports, 0, source), "kind", "") == "corrupt"
    assert len(source.told) == fetch.ROUNDS_MAX - 1
    assert not any(thread.name.startswith("mrfast-read") for thread in threading.enumerate())
