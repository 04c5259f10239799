"""A Dask cluster that performs a job's orders; https://distributed.dask.org/en/stable/client.html."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import CoordinatorLost, MrfastError, UsageError
from .place import cancel, forget, perform
from .remote import Outcome, Told

CONNECT_S = 10.0


def _on_worker(order: dict[str, Any]) -> dict[str, Any]:
    """The outcome of an order, on a Dask worker; what its host tells goes through Dask's event log."""
    from distributed import get_worker

    worker, topic = get_worker(), _topic(order["job"])
    return perform(order, lambda message: worker.log_event(topic, message))


def _topic(job: str) -> str:
    return f"mrfast-{job}"


class DaskCluster:
    """Dask as the place where tasks run; a Client that the caller brought stays open."""

    name = "dask"

    def __init__(self, client: Any, *, closes: tuple[Any, ...] = ()) -> None:
        self._client = client
        self._closes = closes
        self._job = ""
        self._futures: dict[str, Any] = {}
        self._on_event: Callable[[Outcome | Told], None] = lambda event: None

    @classmethod
    def connect(cls, address: str | None, workers: int) -> DaskCluster:
        """The cluster whose scheduler is at `address`, or a new one on this machine. UsageError, CoordinatorLost."""
        try:
            from distributed import Client, LocalCluster
        except ImportError:
            raise UsageError('--engine dask needs Dask: pip install "mrfast[dask]"') from None
        if address is None:
            if getattr(multiprocessing.current_process(), "_inheriting", False):
                sys.exit(1)  # a worker that is being started runs the script again; who starts it says so below
            try:
                local = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=40)
            except RuntimeError as error:
                raise UsageError(
                    f"Dask cannot start its workers: {error} They import the script that starts them: what runs a "
                    'job in it must stand below `if __name__ == "__main__":`'
                ) from None
            client = Client(local)
            return cls(client, closes=(client, local))
        try:
            client = Client(address, timeout=CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise CoordinatorLost(f"no Dask scheduler answers at {address}: {error or 'timed out'}") from None
        return cls(client, closes=(client,))

    def start(self, job: str, on_event: Callable[[Outcome | Told], None]) -> None:
        """From now on outcomes go to `on_event`."""
        self._job, self._on_event = job, on_event
        self._client.subscribe_topic(_topic(job), lambda event: on_event(Told(event[1])))

    def check(self) -> None:
        """Raises CoordinatorLost if the scheduler is gone."""
        if self._client.status != "running":
            raise CoordinatorLost(
                f"the Dask scheduler is gone ({self._client.status}); the job can go on elsewhere: "
                f"mrfast run --resume {self._job}"
            )

    def slots(self) -> int:
        """The threads of all workers."""
        return sum(self._asked(self._client.nthreads).values())

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What the function gives on each worker, by address."""
        found: dict[str, Any] = self._asked(partial(self._client.run, function, *arguments))
        return found

    def submit(self, order: dict[str, Any]) -> None:
        """Performs the order, wherever Dask likes, once."""
        attempt = order["attempt"]
        key = f"{_topic(self._job)}-{attempt}"
        future = self._client.submit(_on_worker, order, key=key, pure=False, retries=0)
        self._futures[attempt] = future
        future.add_done_callback(partial(self._done, attempt))

    def cancel(self, attempt: str) -> None:
        """The attempt's outcome is of no interest any more; where it runs, it is ended."""
        if (future := self._futures.pop(attempt, None)) is not None:
            future.cancel()
            with suppress(MrfastError):
                self._asked(partial(self._client.run, cancel, self._job, attempt, wait=False))

    def close(self) -> None:
        """Ends what still runs of the job."""
        if self._client.status == "running":  # one that is gone needs no closing, and would be waited for
            with suppress(Exception):
                for future in list(self._futures.values()):
                    future.cancel()
                self._client.unsubscribe_topic(_topic(self._job))
                self._client.run(forget, self._job)
        for each in self._closes:
            with suppress(Exception):
                each.close()

    def _done(self, attempt: str, future: Any) -> None:
        """From a thread of Dask's."""
        if self._futures.pop(attempt, None) is None:
            return
        self._on_event(Outcome(attempt, self._value(future)))

    def _value(self, future: Any) -> dict[str, Any]:
        if future.status == "finished":
            try:
                value: dict[str, Any] = future.result()
            except Exception as error:  # noqa: BLE001 (it was there, and is lost with the worker that had it)
                return {"lost": f"Dask cannot bring what was finished: {type(error).__name__}: {error}"}
            return value
        if future.status == "error":
            raised = future.exception()
            return {"died": f"on the Dask cluster: {type(raised).__name__}: {raised}"}
        return {"lost": f"Dask says that it is {future.status}"}

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 (whatever a cluster's client raises when its scheduler is not there)
            raise CoordinatorLost(
                f"the Dask scheduler does not answer: {type(error).__name__}: {error}; the job can go on elsewhere: "
                f"mrfast run --resume {self._job}"
            ) from None
