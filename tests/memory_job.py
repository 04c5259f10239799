"""One job in a memory store: its map and reduce attempts run one after the other, without a coordinator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from mrfast import storage
from mrfast.app import App, load_app
from mrfast.index import SegmentIndex
from mrfast.model import (
    Failure,
    MapReport,
    MapTask,
    Piece,
    Progress,
    ReduceReport,
    ReduceTask,
    Segment,
    map_name,
    out_key,
    reduce_name,
)
from mrfast.storage import base
from mrfast.tasks.mapper import run_map
from mrfast.tasks.reducer import run_reduce
from mrfast.tasks.writer import parse

APPS = Path(__file__).parent.parent / "apps"
jobs = itertools.count()


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
        self.url = f"memory://job-{next(jobs)}"
        self.store = storage.open_store(self.url)
        self.memory_bytes = limits.get("memory_bytes", 1 << 30)
        self.compress = bool(limits.get("compress", 0))
        self.progress: list[Progress] = []
        self.pieces: list[Piece] = []
        for path, data in files.items():
            info = self.store.put(f"in/{path}", data)
            step = split_bytes if app.cut.splittable and not path.endswith(".gz") else max(len(data), 1)
            for at in range(0, max(len(data), 1), step):
                length = min(step, len(data) - at)
                self.pieces.append(Piece(path, f"{self.url}/in/{path}", len(data), info.etag, at, length))

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

    def maps(self) -> list[MapReport]:
        reports = [self.map(index) for index in range(len(self.pieces))]
        for report in reports:
            assert isinstance(report, MapReport), report
        return reports  # type: ignore[return-value]

    def segments(self, reports: list[MapReport], partition: int) -> Iterator[Segment]:
        for number, report in enumerate(reports):
            index = SegmentIndex.unpack(report.index)
            yield Segment(
                number,
                report.attempt,
                *index.segment(partition),
                index.key_kind or "",
                index.digest(),
                raw=index.raw(partition),
            )

    def reduce(self, reports: list[MapReport], partition: int, source: Pages | None = None) -> ReduceReport | Failure:
        task = ReduceTask("j", f"{reduce_name(partition)}.1.1", partition, len(reports), self.url, self.memory_bytes)
        source = source or Pages(list(self.segments(reports, partition)))
        return run_reduce(self.app, task, source, self.progress.append, storage.open_store)

    def parts(self) -> list[bytes]:
        reports = self.maps()
        parts = []
        for partition in range(self.reduces):
            report = self.reduce(reports, partition)
            assert isinstance(report, ReduceReport), report
            part = base.read(self.store, out_key("j", report.attempt))
            assert report.size == len(part)
            assert report.xxh3 == xxhash.xxh3_64_hexdigest(part)
            parts.append(part)
        return parts

    def pairs(self) -> dict[Any, Any]:
        return {key: value for part in self.parts() for key, value in parse([part], self.app.output)}


def example(name: str) -> App:
    return load_app(str(APPS / f"{name}.py"))
