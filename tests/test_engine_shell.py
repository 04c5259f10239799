"""The shell of a job on a cluster, over threads of this process in the place of one: what must not stop a job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import mrfast
from mrfast import api
from mrfast.control.event_files import find_events
from mrfast.engines import place
from mrfast.engines import ray as on_ray
from mrfast.engines.dask import DaskCluster
from mrfast.engines.remote import LOST_MAX, Outcome, Told
from mrfast.errors import AppError, CoordinatorLost, InputMissing, JobFailed
from mrfast.model import Failure
from mrfast.tasks.frames import from_document

PRINTS = """
def map(name, text):
    print("in a map")
    return [(word, 1) for word in text.split()]

def reduce(key, values):
    return sum(values)
"""


class Threads:
    """A cluster of threads."""

    name = "threads"

    def __init__(self, perform: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._perform = perform
        self._job = ""
        self.closed = 0

    def start(self, job: str, on_event: Callable[[Outcome | Told], None]) -> None:
        self._job, self._on_event = job, on_event

    def check(self) -> None:
        pass

    def slots(self) -> int:
        return 2

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        return {"here": function(*arguments)}

    def submit(self, order: dict[str, Any]) -> None:
        threading.Thread(target=self._submitted, args=(order,), daemon=True).start()

    def _submitted(self, order: dict[str, Any]) -> None:
        self._on_event(Outcome(order["attempt"], self._perform(order)))

    def cancel(self, attempt: str) -> None:
        place.cancel(self._job, attempt)

    def close(self) -> None:
        self.closed += 1
        place.forget(self._job)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a b\n" * 10)
    path = tmp_path / "app.py"
    path.write_text(PRINTS)
    return path


def counted(app: Path, cluster: Any, **options: Any) -> dict[Any, Any]:
    return mrfast.run(app, app.parent / "in", store=app.parent / "store", engine=cluster, **options).to_dict()


@pytest.mark.timeout(60)
def test_what_is_printed_on_ray_goes_to_stderr_and_the_job_goes_on(app: Path, capfd: pytest.CaptureFixture[str]):
    assert {str(word): int(many) for word, many in counted(app, Threads(on_ray._on_worker)).items()} == {
        "a": 10,
        "b": 10,
    }
    assert "in a map\n" in capfd.readouterr().err


@pytest.mark.timeout(60)
def test_what_cannot_be_told_stops_no_outcome(app: Path):
    def tell(message: dict[str, Any]) -> None:
        raise RuntimeError("the loop is closed")

    assert len(counted(app, Threads(lambda order: place.perform(order, tell)))) == 2


class Future:
    """One of Dask's that was finished, and whose worker was lost before its value was fetched."""

    status = "finished"

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, function: Callable[[Any], None]) -> None:
        self.callbacks.append(function)

    def result(self) -> Any:
        raise TimeoutError("no answer")


def test_an_outcome_that_dask_cannot_bring_is_that_of_a_lost_attempt():
    future, heard = Future(), list[Any]()

    class Client:
        def subscribe_topic(self, topic: str, function: Any) -> None:
            pass

        def submit(self, *arguments: Any, **options: Any) -> Future:
            return future

    cluster = DaskCluster(Client())
    cluster.start("j", heard.append)
    cluster.submit({"attempt": "m-000000.e1.1", "job": "j"})
    future.callbacks[0](future)
    [outcome] = heard
    assert outcome.attempt == "m-000000.e1.1"
    assert "no answer" in outcome.value["lost"]


def test_a_resumed_job_that_is_stopped_keeps_its_log(app: Path):
    class Gone(Threads):
        def submit(self, order: dict[str, Any]) -> None:
            raise CoordinatorLost("gone")

    class Stopped(Threads):
        def submit(self, order: dict[str, Any]) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(CoordinatorLost):
        counted(app, Gone(place.perform), job="again")
    store = app.parent / "store"
    with pytest.raises(KeyboardInterrupt):
        api.resume_job("again", None, store=str(store), engine=Stopped(place.perform))
    assert orjson.loads(find_events("again", str(store))[-1])["state"] == "STOPPED"
    resumed = api.resume_job("again", None, store=str(store), engine=Threads(place.perform))
    assert len(resumed.to_dict()) == 2


def test_a_job_that_is_committed_asks_nothing_of_its_cluster(app: Path):
    class Blind(Threads):
        def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
            return {"there": False}

    store = app.parent / "store"
    counted(app, Threads(place.perform), job="again")
    resumed = api.resume_job("again", None, store=str(store), engine=Blind(place.perform))
    assert len(resumed.to_dict()) == 2
    assert not [path for path in store.glob("jobs/*/inter/*") if path.is_file()]


def test_a_cluster_is_closed_where_the_application_does_not_load(app: Path):
    cluster = Threads(place.perform)
    app.write_text("import no_such_module\n")
    with pytest.raises(AppError):
        counted(app, cluster)
    assert cluster.closed


@pytest.mark.parametrize("inputs", ["in", "no such file"])
def test_a_cluster_is_closed_where_the_job_cannot_begin(app: Path, inputs: str):
    unpicklable = threading.Lock()

    def map(name: str, text: bytes) -> list[Any]:
        return [unpicklable]

    cluster = Threads(place.perform)
    with pytest.raises((AppError, InputMissing)):
        mrfast.run(
            map=map, reduce=mrfast.ops.sum(), inputs=app.parent / inputs, store=app.parent / "store", engine=cluster
        )
    assert cluster.closed


@pytest.mark.timeout(60)
def test_a_task_that_always_takes_its_worker_along_fails_the_job(app: Path):
    asked: list[str] = []

    class Deadly(Threads):
        def submit(self, order: dict[str, Any]) -> None:
            asked.append(order["attempt"])
            self._on_event(Outcome(order["attempt"], {"lost": "killed by signal 9"}))

    with pytest.raises(JobFailed, match=r"(?s)m-000000 .*8 workers .*killed by signal 9.*--split-bytes.*a\.txt"):
        counted(app, Deadly(place.perform))
    assert asked == [f"m-000000.e1.{n}" for n in range(1, LOST_MAX + 1)]


@pytest.mark.timeout(60)
def test_workers_that_are_lost_now_and_then_cost_no_task(app: Path):
    class Weak(Threads):
        def submit(self, order: dict[str, Any]) -> None:
            if int(order["attempt"].rpartition(".")[2]) < LOST_MAX:
                self._on_event(Outcome(order["attempt"], {"lost": "reclaimed"}))
            else:
                super().submit(order)

    assert len(counted(app, Weak(place.perform))) == 2


@pytest.mark.timeout(60)
def test_a_task_that_stands_still_is_ended_without_a_word_of_its_progress(app: Path):
    app.write_text("import time\n" + PRINTS.replace('print("in a map")', "time.sleep(3600)"))
    with pytest.raises(JobFailed, match=r"no progress for 1\.5 s \(--stall-s\)"):
        counted(app, Threads(on_ray._on_worker), stall_s=1.5, attempts_max=1)


def test_a_ray_node_that_is_silent_is_named():
    exceptions = pytest.importorskip("ray.exceptions")

    class Silent:
        def __init__(self) -> None:
            self.exceptions = exceptions

        def remote(self, **options: Any) -> Any:
            return lambda function: self

        def options(self, **options: Any) -> Any:
            return type("Remote", (), {"remote": lambda self, *arguments: "ref"})()

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": "10.0.0.7"}]

        def get(self, ref: Any, timeout: float) -> Any:
            raise exceptions.GetTimeoutError("too long")

    with pytest.raises(CoordinatorLost, match=r"10\.0\.0\.7 .*ray status"):
        on_ray.RayCluster(Silent(), closes=False).everywhere(len, "abc")


@pytest.mark.parametrize("name", ["ObjectLostError", "ObjectReconstructionFailedError", "LocalRayletDiedError"])
def test_what_a_lost_ray_node_costs_is_not_counted(name: str):
    exceptions = pytest.importorskip("ray.exceptions")
    kind = getattr(exceptions, name)
    error = kind("00", "", "") if issubclass(kind, exceptions.ObjectLostError) else kind()

    class Ray:
        def remote(self, **options: Any) -> Any:
            return lambda function: function

        def get(self, ref: Any) -> Any:
            raise error

    assert "lost" in on_ray.RayCluster(Ray(), closes=False)._value(None)


def test_a_store_that_does_not_give_the_application_is_said_to_be_at_fault(tmp_path: Path):
    order = {
        "job": "j", "store_url": str(tmp_path), "attempt": "m-000000.e1.1",
        "app": ["stored", "jobs/j/inter/app"], "task": ["inline", "{}"], "stall_s": 60.0,
    }  # fmt: skip
    try:
        report = place.perform(order)["report"]
    finally:
        place.forget("j")
    failure = from_document(report)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.counted) == ("store", False)
    assert "jobs/j/inter/app" in failure.message
