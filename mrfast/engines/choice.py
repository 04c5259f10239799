"""Which engine runs a job: this machine's processes, or a cluster that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UsageError
from .remote import Cluster

ENGINES = ("local", "dask", "ray")


@contextmanager
def for_one_job(engine: Any, workers: int, address: str | None) -> Iterator[Cluster | None]:
    """The cluster that `connected` gives, closed afterwards, whatever happens; what the caller brought stays open."""
    cluster = connected(engine, workers, address)
    try:
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()


def connected(engine: Any, workers: int, address: str | None = None) -> Cluster | None:
    """The cluster that `engine` names, at `address` or a new one on this machine, or is; None for "local".

    UsageError for what is no engine or is not installed, CoordinatorLost where nobody answers.
    """
    if type(engine).__module__.partition(".")[0] == "distributed":
        from .dask import DaskCluster

        return DaskCluster(engine)
    if engine == "dask":
        from .dask import DaskCluster

        return DaskCluster.connect(address, workers)
    if engine == "ray":
        from .ray import RayCluster

        return RayCluster.connect(address, workers)
    if hasattr(engine, "everywhere"):
        cluster: Cluster = engine
        return cluster
    if engine != "local":
        raise UsageError(f"engine = {engine!r}: choose one of {', '.join(ENGINES)}, or give a Dask Client")
    return None
