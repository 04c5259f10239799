"""`mrfast.count`: what an application counts besides its records, once for each attempt that is accepted.

The counts of an attempt travel in its report, so they count when it does: those of a killed, failed or second attempt
go with it. Those of a skipped record go with the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from mrfast.errors import AppError

# A report crosses the network in one frame: these three bound what counts may take of it.
NAMES_MAX = 1_000
NAME_BYTES_MAX = 200
COUNT_MAX = 1 << 43  # of one name in one task: the sum over half a million tasks is still a 64-bit number


class Counters:
    """What one attempt has counted; `held` until it is known whether its record is skipped."""

    def __init__(self) -> None:
        self._settled: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._lock = Lock()  # a map may have threads of its own

    def add(self, name: str, n: int) -> None:
        """Counts `n` more of `name`; AppError over a bound."""
        with self._lock:
            held = self._held.get(name)
            before = self._settled.get(name)
            if held is None and before is None:
                _check_name(name)
                if len(self._settled.keys() | self._held.keys()) >= NAMES_MAX:
                    raise AppError(f"count({name!r}): a task may count under {NAMES_MAX:,} names, and this is one more")
            count = (held or 0) + n
            if abs((before or 0) + count) > COUNT_MAX:
                raise AppError(f"count({name!r}): over {COUNT_MAX:,} in one task")
            self._held[name] = count

    def settle(self) -> None:
        """What was counted since the last time counts."""
        if self._held:
            with self._lock:
                for name, n in self._held.items():
                    self._settled[name] = self._settled.get(name, 0) + n
                self._held.clear()

    def drop(self) -> None:
        """What was counted since the last settle() does not count."""
        with self._lock:
            self._held.clear()

    def total(self) -> dict[str, int]:
        """Everything that counts, by name."""
        self.settle()
        return dict(sorted(self._settled.items()))


_current: Counters | None = None  # of the task that this process runs


def count(name: str, n: int = 1) -> None:
    """Counts `n` more of `name`, in a map, combine or reduce; the sum over the job is in its result's `counters`.

    Names are printable text of at most 200 bytes in UTF-8, at most 1,000 a task; `n` is an int. Outside a task (while
    the application loads, in its own tests) nothing is counted.
    """
    if not isinstance(name, str):
        raise AppError(f"count({name!r:.60}): a name is a str")
    if not isinstance(n, int) or isinstance(n, bool):
        raise AppError(f"count({name!r:.60}, {n!r:.60}): only ints can be counted")
    if _current is not None:
        _current.add(str(name), int(n))
    else:
        _check_name(name)


@contextmanager
def counting(into: Counters) -> Iterator[Counters]:
    """Within it, count() counts there."""
    global _current
    before, _current = _current, into
    try:
        yield into
    finally:
        _current = before


def _check_name(name: str) -> None:
    if not name or not name.isprintable():
        raise AppError(f"count({name!r:.200}): a name is printable text")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise AppError(
            f"count({name[:40]!r}...): a name has at most {NAME_BYTES_MAX} bytes, this one {len(name.encode()):,}"
        )
