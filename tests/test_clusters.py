"""Jobs on real local clusters of Dask's and Ray's: the same bytes, and what a lost worker or scheduler costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import mrfast
from mrfast import ops
from mrfast.control.event_files import find_events
from mrfast.engines import choice, orders, place
from mrfast.errors import AppError, CoordinatorLost, JobFailed, UsageError
from mrfast.model import inter_key
from mrfast.storage import open_store

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parent.parent
WORDS = ROOT / "apps" / "wc.py"
WORKERS = 2


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A Dask cluster of two processes."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, path in enumerate(sorted((ROOT / "mrfast").rglob("*.py"))[:24]):
        (folder / f"{number:02d}.txt").write_bytes(path.read_bytes())
    return folder


def parts(result: mrfast.JobResult) -> list[bytes]:
    return [Path(part).read_bytes() for part in result.parts]


def left(store: Path, job: str) -> list[str]:
    return [str(path) for path in (store / "jobs" / job / "inter").rglob("*") if path.is_file()]


def run(texts: Path, tmp_path: Path, engine: Any, app: Any = WORDS, **options: Any) -> mrfast.JobResult:
    options.setdefault("store", tmp_path / "store")
    return mrfast.run(app, texts, engine=engine, workers=WORKERS, **options)


def test_a_file_gives_the_same_bytes_on_dask(client: Any, texts: Path, tmp_path: Path):
    here = run(texts, tmp_path, "local")
    there = run(texts, tmp_path, client, split_bytes=4096)
    assert parts(there) == parts(here)
    assert there.totals["maps"] > here.totals["maps"] or here.totals["maps"] >= 24
    assert left(tmp_path / "store", there.job) == []


def test_functions_and_parameters_go_to_dask(client: Any, texts: Path, tmp_path: Path):
    least = 3

    def map(name: str, text: str) -> Any:
        mrfast.count("files")
        return [(word, 1) for word in text.split() if len(word) > least + int(mrfast.param("more"))]

    result = mrfast.run(
        map=map, reduce=lambda key, values: sum(values), inputs=texts, store=tmp_path / "store", engine=client,
        params={"more": "1"},
    )  # fmt: skip
    expected: dict[str, int] = {}
    for path in texts.iterdir():
        for word in path.read_text().split():
            if len(word) > 4:
                expected[word] = expected.get(word, 0) + 1
    assert {key: int(value) for key, value in result.to_dict().items()} == expected
    assert result.counters == {"files": 24}


def test_a_failing_application_fails_the_job_with_its_traceback(client: Any, texts: Path, tmp_path: Path):
    app = tmp_path / "bad.py"
    app.write_text("def map(name, text):\n    return [(1 / 0, 1)]\n\ndef reduce(key, values):\n    return 0\n")
    with pytest.raises(JobFailed, match=r"ZeroDivisionError(.|\n)*bad\.py"):
        run(texts, tmp_path, client, app)
    app.write_text("import no_such_module\n")
    with pytest.raises(AppError, match="no_such_module"):
        run(texts, tmp_path, client, app)


def test_a_process_that_dies_costs_its_attempt_only(client: Any, texts: Path, tmp_path: Path):
    app = tmp_path / "dies.py"
    app.write_text(
        "import os\nfrom mrfast import ops\n\ndef map(name, text):\n"
        f"    if name.endswith('07.txt') and not os.path.exists({str(tmp_path / 'died')!r}):\n"
        f"        open({str(tmp_path / 'died')!r}, 'w').close()\n        os._exit(3)\n"
        "    return [(word, 1) for word in text.split()]\n\nreduce = ops.sum()\n"
    )
    pids = client.run(os.getpid)
    result = run(texts, tmp_path, client, app)
    assert (tmp_path / "died").exists()
    assert result.document["attempts"]["failed"] == 1
    assert client.run(os.getpid) == pids


def test_an_attempt_that_had_begun_elsewhere_is_not_run_again_by_its_name(client: Any, texts: Path, tmp_path: Path):
    """As Dask does with what a lost worker ran: the second one must not write over the first one's object."""
    store = open_store(str(tmp_path / "store"))
    app = orders.app_of_file(str(WORDS), {})
    order = {
        "job": "j", "store_url": store.url, "attempt": "m-000000.e1.1",
        "app": ["inline", orjson.dumps(app).decode()], "task": ["inline", "{}"], "stall_s": 60.0,
    }  # fmt: skip
    store.put(inter_key("j", "m-000000.e1.1.begun"), [b""])
    assert "another worker" in client.submit(place.perform, order, pure=False).result()["lost"]
    client.run(place.forget, "j")


@pytest.mark.parametrize(("tasks", "kills"), [(40, 3), pytest.param(200, 20, marks=pytest.mark.depth)])
def test_a_worker_that_is_killed_costs_its_tasks_only(client: Any, tmp_path: Path, tasks: int, kills: int):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(tasks):
        (folder / f"{number}.txt").write_text(f"a{number} b c\n" * 10)
    log = tmp_path / "log"
    app = tmp_path / "slow.py"
    app.write_text(
        "import os, time\nfrom mrfast import ops\n\ndef map(name, text):\n    time.sleep(0.05)\n"
        f"    with open({str(log)!r}, 'a') as file:\n        file.write(os.path.basename(name) + '\\n')\n"
        "    return [(word, 1) for word in text.split()]\n\nreduce = ops.sum()\n"
    )
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            lines = log.read_text().count("\n") if log.exists() else 0
            if lines >= 8 * (len(killed) + 1) and len(killed) < kills:
                pid = next(iter(client.run(os.getpid).values()))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        there = run(folder, tmp_path, client, app, split_bytes=20)
    finally:
        over.set()
        thread.join()
    assert len(killed) >= kills * 2 // 3
    events = [orjson.loads(line) for line in find_events(there.output_url)]
    accepted = Counter(event["task"] for event in events if event.get("word") == "accepted")
    assert set(accepted.values()) == {1} and len(accepted) == tasks + 10
    ran = log.read_text().splitlines()
    assert parts(there) == parts(run(folder, tmp_path, "local", app))
    # Every map has run; again only those that had not been accepted: at most one for each place of a killed worker.
    assert set(ran) == {f"{number}.txt" for number in range(tasks)}
    assert len(ran) <= tasks + 4 * len(killed)


def test_a_scheduler_that_is_gone_leaves_a_job_to_resume(texts: Path, tmp_path: Path):
    distributed = pytest.importorskip("distributed")
    app = tmp_path / "slow.py"
    app.write_text(
        "import time\nfrom mrfast import ops\n\ndef map(name, text):\n    time.sleep(0.2)\n"
        "    return [(word, 1) for word in text.split()]\n\nreduce = ops.sum()\n"
    )
    known = tmp_path / "scheduler.json"
    command = [sys.executable, "-m"]
    options = ["--scheduler-file", str(known), "--no-dashboard"]
    quiet: dict[str, Any] = {"stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = subprocess.Popen([*command, "distributed.cli.dask_scheduler", "--port", "0", *options], **quiet)
    worker = subprocess.Popen([*command, "distributed.cli.dask_worker", "--no-nanny", *options], **quiet)
    try:
        client = distributed.Client(scheduler_file=str(known))
        client.wait_for_workers(1, timeout=60)
        jobs = tmp_path / "store" / "jobs"

        def kill() -> None:
            while not list(jobs.glob("*/inter/*.begun")):
                time.sleep(0.02)
            scheduler.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(CoordinatorLost, match="--resume"):
            run(texts, tmp_path, client, app, job="resumable")
        thread.join()
        client.close(timeout=1)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    from mrfast import api

    resumed = api.resume_job("resumable", None, store=str(tmp_path / "store"), workers=WORKERS)
    assert parts(resumed) == parts(run(texts, tmp_path, "local", app))


def test_a_folder_that_workers_do_not_share_is_refused(
    client: Any, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mrfast.engines.dask import DaskCluster

    monkeypatch.setattr(DaskCluster, "everywhere", lambda self, function, *arguments: {"10.0.0.2": False})
    with pytest.raises(UsageError, match=r"not the same on all machines.*10\.0\.0\.2.*s3://"):
        run(texts, tmp_path, client)


def test_what_is_long_goes_through_the_store(tmp_path: Path):
    store = open_store(str(tmp_path))
    for size in (10, orders.INLINE_BYTES_MAX + 1):
        sent = orders.parcel(store, "j", "m-000000.order", {"text": "x" * size})
        assert len(sent) <= orders.INLINE_BYTES_MAX
        assert isinstance(sent, bytes) == (size == 10)
        assert orders.opened(store, sent) == {"text": "x" * size}


def test_a_script_that_its_workers_would_run_again_is_told_so(texts: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import mrfast\nfrom mrfast import ops\n"
        f"mrfast.run(map=lambda name, text: [(name, 1)], reduce=ops.sum(), inputs={str(texts)!r}, store='st', "
        "engine='dask', workers=1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.count("Traceback") == 1, ran.stderr
    assert 'must stand below `if __name__ == "__main__":`' in ran.stderr.splitlines()[-1]


def test_what_is_no_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrfast.engines.dask.CONNECT_S", 0.5)
    with pytest.raises(UsageError, match="local, dask, ray"):
        choice.connected("spark", 1)
    with pytest.raises(CoordinatorLost, match=r"127\.0\.0\.1:9"):
        choice.connected("dask", 1, "127.0.0.1:9")


def test_functions_that_cannot_be_sent_are_refused(client: Any, texts: Path, tmp_path: Path):
    lock = threading.Lock()
    with pytest.raises(AppError, match="cannot be sent to a cluster"):
        mrfast.run(
            map=lambda name, text: [(str(lock), 1)], reduce=ops.sum(), inputs=texts, store=tmp_path / "store",
            engine=client,
        )  # fmt: skip


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()


def test_the_same_bytes_on_ray(ray: Any, texts: Path, tmp_path: Path):
    there = run(texts, tmp_path, "ray")
    assert parts(there) == parts(run(texts, tmp_path, "local"))
    assert left(tmp_path / "store", there.job) == []
    assert ray.is_initialized()


def test_a_ray_worker_that_is_killed_costs_its_tasks_only(ray: Any, texts: Path, tmp_path: Path):
    app = tmp_path / "kills.py"
    app.write_text(
        "import os, signal\nfrom mrfast import ops\n\ndef map(name, text):\n"
        f"    if name.endswith('07.txt') and not os.path.exists({str(tmp_path / 'killed')!r}):\n"
        f"        open({str(tmp_path / 'killed')!r}, 'w').close()\n"
        "        with open(f'/proc/{os.getppid()}/stat') as stat:\n"  # of the host, whose parent is Ray's worker
        "            os.kill(int(stat.read().rpartition(')')[2].split()[1]), signal.SIGKILL)\n"
        "        signal.pause()\n"
        "    return [(word, 1) for word in text.split()]\n\nreduce = ops.sum()\n"
    )
    there = run(texts, tmp_path, "ray", app)
    assert (tmp_path / "killed").exists()
    assert there.document["attempts"]["failed"] == 0
    assert parts(there) == parts(run(texts, tmp_path, "local", app))
