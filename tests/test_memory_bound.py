"""A task's peak memory stays within --memory and a quarter, whatever its keys and partitions are like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY_BYTES = 8 << 20
DATA_BYTES = 10 * MEMORY_BYTES
# What does not depend on --memory: code that is loaded late, the block that is read, the pieces that are written.
FIXED_BYTES = 10 << 20

# Runs the map tasks and the one reduce task of a job in this process, and prints by how many bytes its peak grew.
PROGRAM = """
import resource, sys
from mrfast import core, storage
from mrfast.app import load_app
from mrfast.index import SegmentIndex
from mrfast.model import MapReport, MapTask, Piece, ReduceReport, ReduceTask, Segment
from mrfast.tasks import spill
from mrfast.tasks.mapper import run_map
from mrfast.tasks.reducer import run_reduce

folder, memory_bytes = sys.argv[1], int(sys.argv[2])
app = load_app(folder + "/app.py")
store = storage.open_store(folder)
info = store.stat("data.txt")
written = []
write_run = spill.write_run
spill.write_run = lambda chunks: written.append(1) or write_run(chunks)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before, segments = peak(), []
for index, offset in enumerate(range(0, info.size, 64 << 20)):
    piece = Piece("data.txt", folder + "/data.txt", info.size, info.etag, offset, min(64 << 20, info.size - offset))
    task = MapTask("j", f"m-{index:06}.1.1", index, (piece,), folder, 1, memory_bytes)
    report = run_map(app, task, lambda progress: None, storage.open_store)
    assert isinstance(report, MapReport), report
    found = SegmentIndex.unpack(report.index)
    segments.append(Segment(index, report.attempt, *found.segment(0), found.key_kind, found.digest()))
in_maps = len(written)
task = ReduceTask("j", "r-000000.1.1", 0, len(segments), folder, memory_bytes)
class Source:
    def pages(self):
        yield segments, True
report = run_reduce(app, task, Source(), lambda progress: None, storage.open_store)
assert isinstance(report, ReduceReport), report
print(peak() - before, in_maps, len(written) - in_maps)
"""

ONE_KEY = """
input = "lines"
def map(filename, line):
    yield "k", line
def reduce(key, values):
    return sum(map_len(value) for value in values)
map_len = len
"""
APPS = {
    "one key, values to Python": ONE_KEY,
    "one key, joined": ONE_KEY.replace("yield", "line = line.decode(); yield").partition("def reduce")[0]
    + 'from mrfast import ops\nreduce = ops.concat(",")\n',
    "one partition": "from mrfast import ops\nmap = ops.lines()\nreduce = ops.identity()\n",
    "distinct words": "from mrfast import ops\nmap = ops.words(letters='ascii')\nreduce = ops.sum()\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten times the memory in data: words of seven letters, none of them twice, nine a line."""
    made = tmp_path_factory.mktemp("bound")
    letters = bytes(range(97, 123))
    with (made / "data.txt").open("wb") as file:
        word = 0
        while file.tell() < DATA_BYTES:
            first = bytes(letters[word // 26**i % 26] for i in range(4))
            word += 1
            ends = [first + bytes((a, b, c)) for a in letters[:5] for b in letters[:20] for c in letters]
            file.write(b"".join(b" ".join(ends[at : at + 9]) + b"\n" for at in range(0, len(ends), 9)))
    return made


@pytest.mark.parametrize("name", APPS)
def test_peak_memory(name: str, folder: Path) -> None:
    (folder / "app.py").write_text(APPS[name])
    command = [sys.executable, "-c", PROGRAM, str(folder), str(MEMORY_BYTES)]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)}, check=False
    )
    assert ran.returncode == 0, ran.stderr
    grown, in_maps, in_reduce = map(int, ran.stdout.split())
    assert min(in_maps, in_reduce) >= 2
    assert grown <= MEMORY_BYTES * 5 // 4 + FIXED_BYTES
