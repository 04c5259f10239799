"""Which reduces that wait for maps give their slots to maps that wait for slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mrfast.control.leases import Lease


def fetched(lease: Lease) -> tuple[int, int]:
    """How much an attempt would lose."""
    return lease.progress.bytes_done, lease.task


def choose(waiting: Iterable[Lease], tried: list[int], fresh: int, may: Callable[[int, str], bool]) -> list[Lease]:
    """The reduces to end, those that have fetched least: one for each idle map that may run on their worker.

    Idle maps are the `tried` ones and `fresh` more, which may run anywhere. A slot that no map may take would stay
    empty, and the map would claim the next one.
    """
    left = list(tried)
    found = []
    for lease in sorted(waiting, key=fetched):
        task = next((task for task in left if may(task, lease.worker)), None)
        if task is not None:
            left.remove(task)
        elif fresh:
            fresh -= 1
        else:
            continue
        found.append(lease)
    return found
