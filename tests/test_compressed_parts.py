"""Compressed parts: named so, read back by everything here and by the usual tools, verified, replaced."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from test_job_driver import APP

import mrfast
from mrfast import api, cli
from mrfast.app import App
from mrfast.cat import cat, part_blocks
from mrfast.control.explain import NO_ZSTD
from mrfast.errors import AppRefused, OutputExists, UsageError
from mrfast.tasks.packed import compressed
from mrfast.zstd import is_available, zstd

WC = Path(__file__).parent.parent / "apps" / "wc.py"
KINDS = ["gz", pytest.param("zst", marks=pytest.mark.skipif(not is_available(), reason="zstd is not installed"))]


def unpacked(data: bytes, kind: str) -> bytes:
    return gzip.decompress(data) if kind == "gz" else bytes(zstd().decompress(data))


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "in.txt").write_text("one two two three " * 1000 + "\n")
    return {"inputs": tmp_path / "in.txt", "store": tmp_path / "s", "workers": 1, "reduces": 4}


@pytest.mark.parametrize("kind", KINDS)
@given(chunks=st.lists(st.binary(max_size=200), max_size=8))
@examples(40)
def test_the_chunks_come_back(kind: str, chunks: list[bytes]) -> None:
    data = b"".join(compressed(iter(chunks), kind))
    assert data
    assert unpacked(data, kind) == b"".join(chunks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_whose_parts_are_compressed(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    plain = mrfast.run(WC, **options)
    made = mrfast.run(WC, compress=kind, **options)
    assert [Path(url).name for url in made.parts] == [f"mr-out-{n}.{kind}" for n in range(4)]
    for url, other in zip(made.parts, plain.parts, strict=True):  # empty ones, too
        assert unpacked(Path(url).read_bytes(), kind) == Path(other).read_bytes()
    assert made.text() == plain.text()
    assert list(made.records()) == list(plain.records())
    assert made.totals["bytes_out"] == sum(Path(url).stat().st_size for url in made.parts)
    assert b"".join(cat(made.output_url)) == plain.text().encode()
    assert b"".join(cat(made.output_url, jsonl=True)) == b"".join(cat(plain.output_url, jsonl=True))
    assert b"".join(cat(made.parts[0], jsonl=True)) == b"".join(cat(plain.parts[0], jsonl=True))
    assert not api.verify(made.output_url).faults
    part = Path(made.parts[1])
    part.write_bytes(part.read_bytes()[:-1])
    assert [fault.url.endswith(part.name) for fault in api.verify(made.output_url).faults] == [True]
    again = [mrfast.run(WC, **{**options, "inputs": run.parts[0]}).text() for run in (plain, made)]
    assert again[0] == again[1]  # as the input of another job


@pytest.mark.skipif(shutil.which("gzip") is None, reason="gzip is not installed")
def test_the_usual_tool_reads_the_parts(options: dict[str, Any]) -> None:
    made = mrfast.run(WC, compress="gz", **options)
    for url in made.parts:
        found = subprocess.run(["gzip", "-dc", url], capture_output=True, check=True).stdout
        assert found == b"".join(part_blocks(url))


def test_other_kinds_of_output_and_a_python_reduce(options: dict[str, Any]) -> None:
    for output in ("text", "jsonl", "tsv"):
        app = App.from_functions(
            map=lambda name, text: ((word, 1) for word in text.split()), reduce=lambda key, values: sum(values),
            output=output,
        )  # fmt: skip
        plain, made = (mrfast.run(app, compress=kind, **options) for kind in (None, "gz"))
        assert made.text() == plain.text()
        assert list(made.records()) == list(plain.records())


def test_parts_of_either_kind_are_replaced_whole(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mrfast.run(WC, compress="gz", output_url=out, **options)
    with pytest.raises(OutputExists):
        mrfast.run(WC, output_url=out, **options)
    mrfast.run(WC, output_url=out, overwrite=True, **{**options, "reduces": 2})
    assert sorted(path.name for path in out.iterdir() if path.name.startswith("mr")) == ["mr-out-0", "mr-out-1"]
    mrfast.run(WC, compress="gz", output_url=out, overwrite=True, **{**options, "reduces": 1})
    assert sorted(path.name for path in out.iterdir() if path.name.startswith("mr")) == ["mr-out-0.gz"]


def test_what_cannot_be_is_said(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="zst, gz"):
        mrfast.run(WC, compress="lzma", **options)
    found = CliRunner().invoke(cli.mrfast, ["run", str(WC), str(options["inputs"]), "--compress", "xz"])
    assert found.exit_code == 2
    assert not APP.zstd
    monkeypatch.setattr("mrfast.zstd.is_available", lambda: False)
    with pytest.raises(AppRefused, match="zstd is not here") as refused:
        mrfast.run(WC, compress="zst", **options)
    assert str(refused.value) == NO_ZSTD
    made = mrfast.run(WC, compress="gz", compress_segments=True, **options)  # which it then does without
    assert made.text()
