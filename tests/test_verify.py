"""An output that was damaged is noticed, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import mrfast
from mrfast import cli, storage
from mrfast.errors import InputMissing
from mrfast.storage.base import read


@pytest.fixture
def output(tmp_path: Path, store: storage.Store, monkeypatch: pytest.MonkeyPatch) -> storage.Store:
    """The output of a job, in a folder or in S3."""
    if store.url.startswith("memory:"):
        pytest.skip("a memory:// store lives in one process only")
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "in.txt").write_bytes(b"".join(b"word%d " % n for n in range(3000)))
    words = mrfast.ops.words(letters="space")
    found = mrfast.run(map=words, reduce=mrfast.ops.sum(), inputs=tmp_path / "in.txt", store=store.url, reduces=20)
    return storage.open_store(found.output_url)


def test_an_output_as_it_was_written(output: storage.Store) -> None:
    found = mrfast.verify(output.url)
    assert (found.parts, found.faults) == (20, ())
    shown = CliRunner().invoke(cli.mrfast, ["verify", output.url])
    assert shown.exit_code == 0
    assert "20 parts" in shown.output


def test_every_damaged_part_is_named(output: storage.Store) -> None:
    flipped = bytearray(read(output, "mr-out-3"))
    flipped[17] ^= 1
    output.put("mr-out-3", bytes(flipped))
    short = read(output, "mr-out-5")
    output.put("mr-out-5", short[:-4])
    output.delete("mr-out-11")
    faults = mrfast.verify(output.url).faults
    assert [fault.url.rpartition("/")[2] for fault in faults] == ["mr-out-3", "mr-out-5", "mr-out-11"]
    assert (faults[0].start, faults[0].stop) == (0, len(flipped))
    assert "xxh3" in faults[0].why
    assert (faults[1].start, faults[1].stop) == (len(short) - 4, len(short))
    assert "not there" in faults[2].why
    shown = CliRunner().invoke(cli.mrfast, ["verify", output.url])
    assert shown.exit_code == 1
    assert "mr-out-11" in shown.output


def test_what_is_no_output(tmp_path: Path, s3_bucket: str) -> None:
    for url in (str(tmp_path), str(tmp_path / "none"), f"s3://{s3_bucket}/none"):
        with pytest.raises(InputMissing):
            mrfast.verify(url)
