"""Compressed segments: the same parts from fewer bytes, flagged one by one; damage is found; zstd may be missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_job_driver
import xxhash
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from memory_job import Job, Pages, example
from test_groups import Grouped

import mrfast
from mrfast import cat, core
from mrfast.control.explain import difference, fits
from mrfast.control.groups import singles
from mrfast.control.outputs import is_intact
from mrfast.errors import AppRefused, MrfastError
from mrfast.index import SegmentIndex
from mrfast.model import Failure, MapReport, ReduceReport, inter_key, out_key
from mrfast.storage import base, is_near
from mrfast.tasks import fetch, mapper, packed
from mrfast.tasks.packed import FrameError, Packed, unpacked
from mrfast.zstd import is_available, zstd

pytestmark = pytest.mark.skipif(not is_available(), reason="zstd is not installed")


class Segments:
    """Segments as a sink gives them: pieces cut anywhere, lengths known when the bytes behind them are asked for."""

    key_kind = "str"

    def __init__(self, segments: list[bytes], cuts: list[int], late: bool) -> None:
        self.lengths = [len(data) for data in segments]
        self.counts = [int(data != b"") for data in segments]
        self.checksums = [xxhash.xxh3_64_intdigest(data) if data else 0 for data in segments]
        self.records = sum(self.counts)
        self._body = b"".join(segments)
        self._cuts = [*sorted({cut % (len(self._body) + 1) for cut in cuts}), len(self._body)]
        self._late = late
        self._given = -1

    def chunks(self) -> Iterator[Any]:
        begin = 0
        for end in self._cuts:
            self._given = end
            if end > begin:
                yield bytearray(self._body[begin:end])
            begin = end
        self._given = len(self._body) + 1

    def ended(self, first: int) -> list[int]:
        end, found = 0, []
        for length in self.lengths:
            end += length
            if end < self._given + (not self._late) or self._given > len(self._body):
                found.append(length)
        return found[first:]


def data_of(size: int, kind: str, seed: int) -> bytes:
    rng = random.Random(seed)
    if kind == "noise":
        return rng.randbytes(size)
    return (b"%d line after line " % seed * (size // 10 + 1))[:size]


def whole(frame: Any, raw: int, piece_bytes: int = packed.CHUNK_BYTES) -> bytes:
    return b"".join(unpacked([frame], raw, piece_bytes))


PIECES = st.tuples(
    st.sampled_from([0, 0, 1, 15, 16, 17, 63, 64, 65, 200]), st.sampled_from(["text", "noise"]), st.integers(0, 9)
)


@given(st.lists(PIECES, min_size=1, max_size=12), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
@examples(150)
def test_every_segment_is_stored_as_it_is_or_as_a_frame(
    pieces: list[tuple[int, str, int]], cuts: list[int], late: bool
) -> None:
    raw = [data_of(*piece) for piece in pieces]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "BYTES_MIN", 16)
        patch.setattr(packed, "WHOLE_BYTES_MAX", 64)
        patch.setattr(packed, "CHUNK_BYTES", 100)
        made = Packed(Segments(raw, cuts, late))
        body = b"".join(bytes(chunk) for chunk in made.chunks())
        at = 0
        for data, length, xxh3, size in zip(raw, made.lengths, made.checksums, made.raws, strict=True):
            stored = body[at : at + length]
            at += length
            assert xxh3 == (xxhash.xxh3_64_intdigest(stored) if stored else 0)
            if not size:
                assert stored == data
                continue
            assert size == len(data) >= 16
            assert zstd().decompress(stored) == data == whole(stored, size)
            cut = [stored[n : n + 7] for n in range(0, length, 7)]
            assert b"".join(unpacked(cut, size, 5)) == data
        assert at == len(body)
    assert made.counts == [int(data != b"") for data in raw]


@examples(40)
@given(st.lists(st.integers(1, 3 << 20), max_size=6), st.booleans())
def test_what_is_stored_does_not_depend_on_the_chunks(cuts: list[int], late: bool) -> None:
    raw = [data_of(size, "text", 2) for size in (100, packed.WHOLE_BYTES_MAX, packed.WHOLE_BYTES_MAX + 1, 1_500_000)]
    plain, cut = Packed(Segments(raw, [], False)), Packed(Segments(raw, cuts, late))
    assert b"".join(bytes(chunk) for chunk in cut.chunks()) == b"".join(bytes(chunk) for chunk in plain.chunks())
    assert (cut.checksums, cut.raws) == (plain.checksums, plain.raws)


def test_what_gains_nothing_is_left_and_what_does_is_smaller() -> None:
    raw = [data_of(size, kind, 1) for size in (packed.BYTES_MIN - 1, 10_000, 3 << 20) for kind in ("text", "noise")]
    made = Packed(Segments(raw, [], False))
    assert b"".join(bytes(chunk) for chunk in made.chunks())
    assert [size > 0 for size in made.raws] == [False, False, True, False, True, False]
    for length, size, data in zip(made.lengths, made.raws, raw, strict=True):
        assert length < len(data) // 10 if size else length == len(data)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 10_000), st.integers(1, 255), st.integers(-2, 2))
@examples(200)
def test_a_damaged_frame_is_an_error_or_the_same_bytes(data: bytes, at: int, flip: int, more: int) -> None:
    frame = bytearray(zstd().compress(data))
    for size in {len(data) + more} - {len(data), 0, -1}:
        for read in (lambda size=size: whole(frame, size, 7), lambda size=size: whole(frame, size)):
            with pytest.raises(FrameError):
                read()
    for damaged in (frame + b"x", frame[:-1]):
        for read in (lambda d=damaged: whole(d, len(data), 7), lambda d=damaged: whole(d, len(data))):
            with pytest.raises(FrameError):
                read()
    frame[at % len(frame)] ^= flip
    for read in (lambda: whole(frame, len(data)), lambda: b"".join(unpacked([frame[:5], frame[5:]], len(data)))):
        with suppress(FrameError):
            assert len(read()) == len(data)


# -- jobs -------------------------------------------------------------------------------------------------------------


def files(rng: random.Random, count: int) -> dict[str, bytes]:
    """Lines of words of letters, some thousands of them distinct."""
    letters = bytes.maketrans(b"0123456789", b"abcdefghij")

    def line() -> bytes:
        return b" ".join(b"%d" % rng.randrange(5000) for _ in range(10)).translate(letters)

    return {f"{n}": b"\n".join(line() for _ in range(rng.randrange(400, 600))) for n in range(count)}


@given(st.integers(0, 99), st.sampled_from([1, 3000, 100_000, 1 << 30]), st.integers(1, 3), st.booleans())
@examples(25)
def test_parts_are_those_of_plain_segments(seed: int, memory_bytes: int, size: int, remote: bool) -> None:
    given_files = files(random.Random(seed), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "BYTES_MIN", 16)
        patch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
        plain, small = (Job(example("wc"), given_files, reduces=3, compress=compress) for compress in (0, 1))
        want = plain.parts()
        grouped = Grouped(small, size)
        assert sum(report.size for report in grouped.reports) < sum(report.size for report in plain.maps())
        small.memory_bytes = memory_bytes
        patch.setattr(type(small.store), "remote", remote)
        assert grouped.parts() == want
        for run in grouped.runs(0):
            assert run.length < sum(single.raw or single.length for single in singles(run))
            assert is_intact(small.store, inter_key("j", run.attempt), run)


def test_a_segment_with_a_wrong_byte_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(example("wc_python"), files(random.Random(1), 1), reduces=1, compress=1)
    [report] = reports = job.maps()
    [segment] = job.segments(reports, 0)
    assert segment.raw > segment.length
    key = inter_key("j", report.attempt)
    body = bytearray(base.read(job.store, key))
    body[segment.offset + 9] ^= 1
    job.store.put(key, body)
    assert not is_intact(job.store, key, segment)
    for memory_bytes in (1 << 30, 1):
        monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
        job.memory_bytes = memory_bytes
        source = Pages([segment])
        with monkeypatch.context() as patch:
            if memory_bytes > 1:
                patch.setattr(packed, "unpacked", None)
            failed = job.reduce(reports, 0, source)
        assert isinstance(failed, Failure)
        assert failed.kind == "corrupt"
        assert len(source.told) == fetch.ROUNDS_MAX - 1


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_a_frame_that_is_none_under_a_right_checksum_is_corrupt(
    monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    monkeypatch.setattr(fetch, "CORE_MEMORY_BYTES_MIN", 1)
    job = Job(example("wc_python"), files(random.Random(1), 1), reduces=1, compress=1)
    reports = job.maps()
    [segment] = job.segments(reports, 0)
    job.memory_bytes = memory_bytes
    failed = job.reduce(reports, 0, Pages([replace(segment, raw=segment.raw + 1)]))
    assert isinstance(failed, Failure)
    assert failed.kind == "corrupt"
    assert "frame" in failed.message


def test_a_map_that_spilled_is_compressed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapper, "CORE_MEMORY_BYTES_MIN", 1)
    given_files = files(random.Random(3), 2)
    plain, small = (
        Job(example("sort"), given_files, reduces=4, split_bytes=5000, memory_bytes=3000, compress=compress)
        for compress in (0, 1)
    )
    assert small.parts() == plain.parts()


def test_a_map_object_is_printed_and_checked(tmp_path: Any) -> None:
    job = Job(example("wc_python"), files(random.Random(1), 1), reduces=2, compress=1)
    [report] = job.maps()
    assert isinstance(report, MapReport)
    data = base.read(job.store, inter_key("j", report.attempt))
    (tmp_path / "object").write_bytes(data)
    lines = b"".join(cat.cat(str(tmp_path / "object"))).splitlines()
    assert len(lines) == report.records_out
    index = SegmentIndex.unpack(report.index)
    assert core.read_index(data[-len(report.index) - 8 :], len(data)) == index
    assert any(index.raws)


def test_without_zstd_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(example("wc_python"), files(random.Random(1), 1), reduces=1, compress=1)
    reports = job.maps()

    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(packed, "zstd", missing)
    failed = job.reduce(reports, 0)
    assert isinstance(failed, Failure)
    assert 'pip install "mrfast[zstd]"' in failed.message
    with pytest.raises(MrfastError, match="zstd"):
        whole(b"", 1)


def test_who_can_join_a_job() -> None:
    info = example("wc").info()
    have, lack = replace(info, zstd=True), replace(info, zstd=False)
    assert fits(have, have, compress=True)
    assert not fits(have, lack, compress=True)
    assert fits(have, lack, compress=False)
    assert fits(lack, have, compress=True)  # such a job does not compress
    assert not fits(have, replace(have, output="raw"), compress=False)
    assert "mrfast[zstd]" in difference(have, lack)


def test_a_job_that_may_find_compressed_segments_needs_workers_that_read_them() -> None:
    for reuse in (True, False):
        spec = test_job_driver.make_spec(reuse=reuse, compress_segments=False)
        run = test_job_driver.Run(spec)
        run.effects()
        driver = run.driver
        driver.hello("first", 1, replace(test_job_driver.APP, zstd=True), 0.0)
        with pytest.raises(AppRefused) if reuse else nullcontext():
            driver.hello("late", 1, replace(test_job_driver.APP, zstd=False), 0.0)


def test_reports_say_what_is_stored() -> None:
    job = Job(example("wc_python"), files(random.Random(5), 1), reduces=1, compress=1)
    reports = job.maps()
    report = job.reduce(reports, 0)
    assert isinstance(report, ReduceReport)
    assert base.read(job.store, out_key("j", report.attempt))
    index = SegmentIndex.unpack(reports[0].index)
    assert reports[0].size == index.end + len(reports[0].index) + 8


@pytest.mark.parametrize("compress", [None, False, True])
def test_a_job_compresses_where_it_is_told_and_gives_the_same(tmp_path: Any, compress: bool | None) -> None:
    for name, data in files(random.Random(7), 3).items():
        (tmp_path / name).write_bytes(data)
    app = Path(__file__).parent.parent / "apps" / "wc.py"
    inputs = sorted(tmp_path.iterdir())
    made = [
        mrfast.run(app, inputs, store=tmp_path / "s", workers=1, reduces=2, keep_intermediate=True, **options)
        for options in ({}, {"compress_segments": compress})
    ]
    assert [made[0].text(), len(made[0].parts)] == [made[1].text(), len(made[1].parts)]
    objects = sorted((tmp_path / "s" / "jobs" / made[1].job / "inter").iterdir())
    assert len(objects) == 3
    for path in objects:
        data = path.read_bytes()
        assert any(core.read_index(data, len(data)).raws) == bool(compress)


def test_where_bytes_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert [is_near(url) for url in ("/tmp", "memory://m", "s3://bucket/x")] == [True, True, False]
    for endpoint, near in [("http://127.0.0.1:99", True), ("http://localhost", True), ("http://[::1]:9000", True),
                           ("https://minio.example", False)]:  # fmt: skip
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert is_near("s3://bucket") == near
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
        assert not is_near("s3://bucket")
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
