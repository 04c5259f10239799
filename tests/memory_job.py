"""One job in a memory store: its map and reduce attempts run one after the other, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xxhash

from mrfast import testing
from mrfast.app import App, load_app
from mrfast.model import MapReport, ReduceReport, out_key
from mrfast.storage import base
from mrfast.tasks.writer import parse
from mrfast.testing import Pages

__all__ = ["Job", "Pages", "example"]

APPS = Path(__file__).parent.parent / "apps"


class Job(testing.Job):
    """The same, with what tests check of every report."""

    def maps(self) -> list[MapReport]:
        reports = [self.map(index) for index in range(len(self.pieces))]
        for report in reports:
            assert isinstance(report, MapReport), report
        return reports  # type: ignore[return-value]

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
