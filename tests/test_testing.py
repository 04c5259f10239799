"""mrfast.testing.run: a job in memory gives what mrfast.run gives."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memory_job import APPS

import mrfast
from mrfast import ops, testing
from mrfast.errors import AppError, JobFailed

FILES = {"a.txt": b"to be or not to be\n", "b.txt": b"that is the question", "empty.txt": b""}


def test_it_gives_the_bytes_of_a_run(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    inputs = [tmp_path / name for name in FILES]
    for app in ("wc", "wc_python"):
        path = APPS / f"{app}.py"
        real = mrfast.run(path, inputs, store=tmp_path / "store", reduces=3)
        found = testing.run(path, FILES, reduces=3)
        assert found.text() == real.text()
        assert found.to_dict() == real.to_dict()
        assert list(found.records()) == list(real.records())
        assert found.totals == real.totals
        assert found.seconds > 0


def test_it_takes_objects_counts_has_parameters_and_does_not_fork() -> None:
    def map(filename: str, line: bytes) -> Any:
        mrfast.count("lines")
        yield mrfast.param("key"), os.getpid()

    app = SimpleNamespace(map=map, reduce=ops.max(), input="lines")
    result = testing.run(app, {"a": b"1\n2\n"}, params={"key": "pid"})
    assert result.to_dict() == {"pid": str(os.getpid())}
    assert result.counters == {"lines": 2}
    assert mrfast.param("key", None) is None


def test_what_fails_is_raised() -> None:
    def map(filename: str, contents: bytes) -> None:
        raise ValueError("no good")

    with pytest.raises(JobFailed, match="ValueError: no good"):
        testing.run(SimpleNamespace(map=map, reduce=ops.sum()), {"a": b""})
    with pytest.raises(AppError, match="no such application file"):
        testing.run("nothing.py", {"a": b""})
