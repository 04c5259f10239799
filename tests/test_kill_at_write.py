"""A coordinator killed after any of its journal's writes is resumed to the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import free_port
from kill_at_write import KILLED

import mrfast
from mrfast.control.commit import find_job
from mrfast.storage import open_store

MAPS, REDUCES = 4, 2
HANG_S = 60
APP = """
def map(filename, contents):
    for word in contents.decode().split():
        yield word, filename.rsplit("/", 1)[-1]


def reduce(word, filenames):
    return ",".join(filenames)
"""


class Job:
    """A small job with one worker that looks for its coordinator as long as need be."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.store = str(folder / "store")
        self.address = f"127.0.0.1:{free_port()}"
        source = str(Path(mrfast.__file__).parent.parent)
        self.environment = {**os.environ, "PYTHONPATH": source, "TMPDIR": str(folder)}

    def worker(self) -> subprocess.Popen[bytes]:
        code = "from mrfast.cli import worker_main; worker_main()"
        app = str(self.folder / "app.py")
        command = [sys.executable, "-c", code, app, self.address, "--slots", "2", "--connect-s", str(HANG_S)]
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, stderr=subprocess.DEVNULL)

    def coordinator(self, kth: int, *job: str) -> int:
        """Its exit code, having been killed after the k-th write."""
        script = str(Path(__file__).with_name("kill_at_write.py"))
        common = ["--store", self.store, "--listen", self.address, "--linger-s", "0"]
        done = subprocess.run(
            [sys.executable, script, str(kth), *common, *job],
            env=self.environment,
            cwd=self.folder,
            timeout=HANG_S,
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, KILLED), done.stderr.decode()
        return done.returncode

    def parts(self) -> list[bytes]:
        output = Path(find_job(self.name, open_store(self.store)).output_url)
        assert (output / "_SUCCESS").exists()
        return [(output / f"mr-out-{i}").read_bytes() for i in range(REDUCES)]


def write_job(folder: Path) -> list[bytes]:
    """Writes the app and its inputs; gives the parts of a run that nobody kills."""
    (folder / "app.py").write_text(APP)
    (folder / "in").mkdir()
    for i in range(MAPS):
        (folder / "in" / f"{i}.txt").write_text(" ".join(f"w{j % (i + 5)}" for j in range(40)))
    result = mrfast.run(folder / "app.py", folder / "in", store=folder / "calm", reduces=REDUCES, split_bytes=1)
    return [Path(url).read_bytes() for url in result.parts]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every", [False, True], ids=["once", "at each resume again"])
def test_killed_after_any_write_and_resumed(tmp_path: Path, every: bool) -> None:
    expected = write_job(tmp_path)
    new = ("-r", str(REDUCES), "--split-bytes", "1", str(tmp_path / "in"))
    kth, code = 0, KILLED
    while code == KILLED:
        kth += 1
        job = Job(tmp_path, f"killed-at-{kth}")
        with job.worker() as worker:
            try:
                again = code = job.coordinator(kth, "--job", job.name, *new)
                resumes = 0
                while again == KILLED:
                    resumes += 1
                    assert resumes < 100, "it gets nowhere"
                    # What an epoch begins with is in its first writes: killed after the third it has got on.
                    again = job.coordinator(max(kth, 3) if every else 0, "--resume", job.name)
            finally:
                worker.kill()
        assert job.parts() == expected, f"killed after write {kth}"
    assert kth > 1, "no write was ever counted"
