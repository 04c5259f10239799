"""Jobs in this process's memory, for the tests of an application: the real mapper and reducer, no folder and no fork.

from mrfast import testing
assert testing.run("app.py", {"a.txt": b"to be"}).to_dict() == {"to": "1", "be": "1"}
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import parameters, storage
from .api import JobResult, load_now
from .app import App
from .control.document import Reports, manifest
from .control.explain import failed
from .control.outputs import Outputs
from .control.records import JobFailure
from .index import SegmentIndex
from .model import (
    Failure,
    InputObject,
    JobSpec,
    MapReport,
    MapTask,
    Piece,
    Progress,
    ReduceReport,
    ReduceTask,
    Segment,
    job_key,
    map_name,
    out_key,
    part_name,
    reduce_name,
)
from .storage import base, ledger
from .tasks.mapper import run_map
from .tasks.reducer import run_reduce

JOB = "j"
_numbers = itertools.count()


def run(
    app: Any, files: Mapping[str, bytes], *, reduces: int = 1, params: Mapping[str, str] | None = None
) -> JobResult:
    """The result of `app` over the files, each of them one map; JobFailed at the first failure.

    `app` is what mrfast.run takes, or any object with `map` and `reduce`. The result stays in memory.
    """
    started = time.perf_counter()
    given = parameters.checked(params)
    before = parameters.use({})
    try:
        job = Job(load_now(app, given), dict(files), reduces=reduces)
        outputs, parts = Outputs(), {}
        maps = [_whole(report) for report in map(job.map, range(len(job.pieces)))]
        for index, report in enumerate(maps):
            outputs.add(index, report, SegmentIndex.unpack(report.index), "")
        for partition in range(reduces):
            parts[partition] = _whole(job.reduce(maps, partition))
            job.store.put(f"out/{part_name(partition)}", base.read(job.store, out_key(JOB, parts[partition].attempt)))
    finally:
        parameters.use(before)
    for info in list(job.store.list(job_key(JOB, ""))):
        job.store.delete(info.key)
    inputs = tuple(InputObject(piece.path, piece.url, piece.size, piece.etag) for piece in job.pieces)
    spec = JobSpec(JOB, None, job.url, f"{job.url}/out", reduces, 1, job.memory_bytes, 1, False, inputs, params=given)
    seconds = time.perf_counter() - started
    document = manifest(spec, job.app.info(), 1, len(maps), outputs, Reports(parts), {}, seconds)
    return JobResult(JOB, spec.output_url, document | ledger.document({}))


def _whole(report: Any) -> Any:
    if isinstance(report, Failure):
        raise failed(JOB, JobFailure(f"{report.attempt} failed: {report.message}", report.attempt, report))
    return report


class Pages:
    """A source of segments for run_reduce: the pages, and the answer to each `bad` as a page behind them."""

    def __init__(self, *pages: list[Segment], answer: Callable[[Segment], list[Segment]] = lambda segment: [segment]):
        self.told: list[tuple[Segment, str]] = []
        self._pages = list(pages)
        self._answer = answer

    def pages(self) -> Iterator[tuple[list[Segment], bool]]:
        while self._pages:
            page = self._pages.pop(0)
            yield page, not self._pages

    def bad(self, segment: Segment, why: str) -> None:
        self.told.append((segment, why))
        self._pages.append(self._answer(segment))


class Job:
    """The files of one job in a memory store, and its tasks run one after the other."""

    def __init__(
        self, app: App, files: dict[str, bytes], *, reduces: int = 3, split_bytes: int = 1 << 30, **limits: int
    ):
        self.app = app
        self.reduces = reduces
        self.url = f"memory://job-{next(_numbers)}"
        self.store = storage.open_store(self.url)
        self.memory_bytes = limits.get("memory_bytes", 1 << 30)
        self.compress = bool(limits.get("compress", 0))
        self.progress: list[Progress] = []
        self.pieces: list[Piece] = []
        for path, data in files.items():
            self.add(path, data, len(data) if path.endswith(".gz") else split_bytes, f"in/{path}")

    def add(self, path: str, data: bytes, split_bytes: int, key: str) -> None:
        """One more file, a map for each split of it where the application's input may be cut."""
        info = self.store.put(key, data)
        step = max(split_bytes if self.app.cut.splittable else len(data), 1)
        for at in range(0, max(len(data), 1), step):
            length = min(step, len(data) - at)
            self.pieces.append(Piece(path, f"{self.url}/{key}", len(data), info.etag, at, length))

    def map(self, index: int, *pieces: Piece) -> MapReport | Failure:
        task = MapTask(
            "j",
            f"{map_name(index)}.1.1",
            index,
            pieces or (self.pieces[index],),
            self.url,
            self.reduces,
            self.memory_bytes,
            compress=self.compress,
        )
        return run_map(self.app, task, self.progress.append, storage.open_store)

    def segments(self, reports: list[MapReport], partition: int) -> Iterator[Segment]:
        for number, report in enumerate(reports):
            index = SegmentIndex.unpack(report.index)
            which, kind = (number, report.attempt), index.key_kind or ""
            yield Segment(*which, *index.segment(partition), kind, index.digest(), raw=index.raw(partition))

    def reduce(self, reports: list[MapReport], partition: int, source: Pages | None = None) -> ReduceReport | Failure:
        task = ReduceTask("j", f"{reduce_name(partition)}.1.1", partition, len(reports), self.url, self.memory_bytes)
        source = source or Pages(list(self.segments(reports, partition)))
        return run_reduce(self.app, task, source, self.progress.append, storage.open_store)
