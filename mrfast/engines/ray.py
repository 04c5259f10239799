"""A Ray cluster that performs a job's orders; https://docs.ray.io/en/latest/ray-core/api/core.html."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import CoordinatorLost, UsageError
from .place import perform
from .remote import Outcome, Told

WAIT_S = 0.1
ANSWER_S = 60.0  # a node that has to start a process first takes seconds


def _on_worker(order: dict[str, Any]) -> dict[str, Any]:
    """The outcome of an order, on a Ray worker; what its application prints, Ray brings to whoever runs the job."""

    def tell(message: dict[str, Any]) -> None:
        sys.stderr.write("".join(message.get("printed", {}).values()))

    return perform(order, tell)


class RayCluster:
    """Ray as the place where tasks run; one that the caller has initialised stays so."""

    name = "ray"

    def __init__(self, ray: Any, *, closes: bool) -> None:
        self._ray = ray
        self._closes = closes
        self._job = ""
        self._refs: dict[Any, str] = {}
        self._lock = threading.Lock()
        self._new = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None
        self._remote = ray.remote(max_retries=0)(_on_worker)
        self._on_event: Callable[[Outcome | Told], None] = lambda event: None

    @classmethod
    def connect(cls, address: str | None, workers: int) -> RayCluster:
        """The initialised cluster, that at `address`, or a new one on this machine. UsageError, CoordinatorLost."""
        try:
            import ray
        except ImportError:
            raise UsageError('--engine ray needs Ray: pip install "mrfast[ray]"') from None
        if ray.is_initialized():
            return cls(ray, closes=False)
        options = {"include_dashboard": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            if address is None:
                ray.init(num_cpus=workers, **options)
            else:
                ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise CoordinatorLost(f"no Ray cluster answers at {address or 'this machine'}: {error}") from None
        return cls(ray, closes=True)

    def start(self, job: str, on_event: Callable[[Outcome | Told], None]) -> None:
        """From now on outcomes go to `on_event`."""
        self._job, self._on_event = job, on_event
        self._thread = threading.Thread(target=self._listen, name="mrfast-ray", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises CoordinatorLost if the cluster is gone."""
        if not self._ray.is_initialized():
            raise CoordinatorLost(
                f"the Ray cluster is gone; the job can go on elsewhere: mrfast run --resume {self._job}"
            )

    def slots(self) -> int:
        """The CPUs of all nodes."""
        return int(self._ray.cluster_resources().get("CPU", 1))

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What the function gives on each node, by its address."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {}
        for node in self._ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                remote = self._ray.remote(num_cpus=0, max_retries=0)(function)
                asked[node["NodeManagerAddress"]] = remote.options(scheduling_strategy=there).remote(*arguments)
        found = {}
        for name, ref in asked.items():
            try:
                found[name] = self._ray.get(ref, timeout=ANSWER_S)
            except self._ray.exceptions.RayError as error:
                raise CoordinatorLost(
                    f"{name} of the Ray cluster does not answer ({type(error).__name__}: {error}); `ray status` says "
                    "what is wrong with it"
                ) from None
        return found

    def submit(self, order: dict[str, Any]) -> None:
        """Performs the order, wherever Ray likes, once."""
        ref = self._remote.remote(order)
        with self._lock:
            self._refs[ref] = order["attempt"]
        self._new.set()

    def cancel(self, attempt: str) -> None:
        """The attempt's outcome is of no interest any more; where it runs, its process ends, and its host with it."""
        with self._lock:
            found = [ref for ref, its in self._refs.items() if its == attempt]
            for ref in found:
                del self._refs[ref]
        for ref in found:
            self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """Ends what still runs of the job."""
        self._over = True
        self._new.set()
        with suppress(Exception):  # a cluster that is gone needs no closing
            for ref in list(self._refs):
                self._ray.cancel(ref, force=True)
        if self._thread is not None:
            self._thread.join()
        if self._closes:
            self._ray.shutdown()

    def _listen(self) -> None:
        while not self._over:
            with self._lock:
                refs = list(self._refs)
            if not refs:
                self._new.wait()
                self._new.clear()
                continue
            with suppress(Exception):  # what became of each is asked below
                done, _ = self._ray.wait(refs, num_returns=1, timeout=WAIT_S)
                for ref in done:
                    with self._lock:
                        attempt = self._refs.pop(ref, None)
                    if attempt is not None:
                        self._on_event(Outcome(attempt, self._value(ref)))

    def _value(self, ref: Any) -> dict[str, Any]:
        from ray import exceptions

        try:
            value: dict[str, Any] = self._ray.get(ref)
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
            exceptions.ObjectLostError,  # a long outcome, with the node that had it
            exceptions.TaskCancelledError,
        ) as error:
            return {"lost": f"Ray says: {error}"}
        except Exception as error:  # noqa: BLE001 (reported: it counts against the task)
            return {"died": f"on the Ray cluster: {type(error).__name__}: {error}"}
        return value
