"""Every request that was sent to an object store, counted by verb, phase and outcome, and what they cost.

A request counts when it is sent, as `lost` until its answer tells: a process that is killed between the two has counted
it. The counts are an array of numbers over any memory, so that a parent can share it with the child that it forks, and
read what a child had sent that is no more.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from mrfast.errors import UsageError

VERBS = ("GET", "HEAD", "LIST", "PUT", "COPY", "POST", "DELETE")
PHASES = ("plan", "map", "reduce", "commit", "journal", "clean")
OUTCOMES = ("ok", "refused", "throttled", "failed", "lost")  # 2xx; 4xx; 429, 503; other 5xx; no whole answer
_COLUMNS = (*OUTCOMES, "bytes_up", "bytes_down")
PAGE_BYTES = 8 * len(VERBS) * len(PHASES) * len(_COLUMNS)

Counts = dict[str, dict[str, dict[str, int]]]  # phase -> verb -> column -> number; zeros are left out

# US East (N. Virginia), S3 Standard, dollars for 1,000 requests: https://aws.amazon.com/s3/pricing/
PRICES = {"GET": 0.0004, "HEAD": 0.0004, "LIST": 0.005, "PUT": 0.005, "COPY": 0.005, "POST": 0.005, "DELETE": 0.0}


class Ledger:
    """The requests of one process; counting is for any thread, and costs under a microsecond."""

    def __init__(self, memory: Any = None) -> None:
        self._cells = memoryview(bytearray(PAGE_BYTES) if memory is None else memory)[:PAGE_BYTES].cast("Q")
        self._lock = threading.Lock()

    def sent(self, verb: str, phase: str, bytes_up: int = 0) -> int:
        """A request goes out; the row for `answered`."""
        row = (PHASES.index(phase) * len(VERBS) + VERBS.index(verb)) * len(_COLUMNS)
        with self._lock:
            self._cells[row + 4] += 1
            self._cells[row + 5] += bytes_up
        return row

    def answered(self, row: int, outcome: str) -> None:
        """Its answer is here."""
        if outcome != "lost":
            with self._lock:
                self._cells[row + 4] -= 1
                self._cells[row + OUTCOMES.index(outcome)] += 1

    def received(self, row: int, bytes_down: int) -> None:
        """So many bytes of a body have come."""
        with self._lock:
            self._cells[row + 6] += bytes_down

    def counts(self) -> Counts:
        """What was counted so far; `sent` requests whose answer is still to come are among the lost ones."""
        counts: Counts = {}
        cells = self._cells.tolist()
        at = iter(range(0, len(cells), len(_COLUMNS)))
        for phase in PHASES:
            for verb in VERBS:
                row = next(at)
                if any(cells[row : row + len(_COLUMNS)]):
                    found = {name: cells[row + n] for n, name in enumerate(_COLUMNS) if cells[row + n]}
                    counts.setdefault(phase, {})[verb] = found
        return counts

    def add(self, other: Ledger) -> None:
        """What the other one has counted is counted here too."""
        with self._lock:
            for n, count in enumerate(other._cells):
                self._cells[n] += count


class Pages:
    """The requests of a process's children, of dead ones too: each child counts in a page of its own."""

    def __init__(self) -> None:
        self._living: list[Ledger] = []
        self._dead = Ledger()

    def new(self) -> Ledger:
        """The ledger of a child that is about to be forked: there it is for `use`."""
        page = Ledger(mmap.mmap(-1, PAGE_BYTES))
        self._living.append(page)
        return page

    def close(self, page: Ledger) -> None:
        """The child has ended; what it had sent stays counted."""
        if page in self._living:
            self._living.remove(page)
            self._dead.add(page)

    def counts(self) -> Counts:
        """What all of them have sent."""
        return total([self._dead.counts(), *(page.counts() for page in self._living)])


def outcome_of(status: int) -> str:
    """The outcome of an answer with this HTTP status."""
    if status < 400:
        return "ok"
    if status in (429, 503):
        return "throttled"
    return "refused" if status < 500 else "failed"


def total(several: Iterable[Counts]) -> Counts:
    """The sum of several Counts."""
    counts: Counts = {}
    for each in several:
        for phase, verbs in each.items():
            for verb, columns in verbs.items():
                into = counts.setdefault(phase, {}).setdefault(verb, {})
                for name, number in columns.items():
                    into[name] = into.get(name, 0) + number
    return counts


def checked(counts: Counts) -> Counts:
    """What of the counts another process may have sent us: known names and numbers from 0 on."""
    found: Counts = {}
    for phase in PHASES:
        verbs = counts.get(phase, {})
        for verb in VERBS if verbs else ():
            columns = verbs.get(verb, {})
            if kept := {name: columns[name] for name in _COLUMNS if columns.get(name, 0) > 0}:
                found.setdefault(phase, {})[verb] = kept
    return found


def number(counts: Counts) -> int:
    """How many requests these are."""
    return sum(columns.get(name, 0) for verbs in counts.values() for columns in verbs.values() for name in OUTCOMES)


def document(counts: Counts) -> dict[str, Any]:
    """`requests` and `cost_usd` as `--json`, `_SUCCESS`, the status and `plan` show them."""
    by_verb: dict[str, int] = {}
    by_phase: dict[str, dict[str, int]] = {}
    by_outcome: dict[str, int] = {}
    up = down = 0
    for phase, verbs in checked(counts).items():
        for verb, columns in verbs.items():
            requests = sum(columns.get(outcome, 0) for outcome in OUTCOMES)
            by_verb[verb] = by_verb.get(verb, 0) + requests
            by_phase.setdefault(phase, {})[verb] = requests
            for outcome in OUTCOMES:
                if found := columns.get(outcome, 0):
                    by_outcome[outcome] = by_outcome.get(outcome, 0) + found
            up += columns.get("bytes_up", 0)
            down += columns.get("bytes_down", 0)
    return {
        "requests": {"by_verb": by_verb, "by_phase": by_phase, "by_outcome": by_outcome, "bytes_up": up,
                     "bytes_down": down},
        "cost_usd": cost_usd(by_verb),
    }  # fmt: skip


def cost_usd(by_verb: Mapping[str, int], prices: Mapping[str, float] | None = None) -> float:
    """What so many requests cost, in dollars."""
    table = _prices if prices is None else prices
    return round(sum(requests * table[verb] for verb, requests in by_verb.items()) / 1000, 9)


def read_prices(path: str) -> dict[str, float]:
    """The price table with what the JSON file says in place of its own numbers: {"GET": dollars for 1,000, ...}."""
    try:
        with open(path, "rb") as file:
            found = orjson.loads(file.read())
    except OSError as error:
        raise UsageError(f"--prices {path}: cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--prices {path}: is not JSON: {error}") from None
    return checked_prices(found, f"--prices {path}: a JSON object")


def checked_prices(found: Any, what: str = "prices: a dict") -> dict[str, float]:
    """The price table with `found` in place of its own numbers; UsageError."""
    if not isinstance(found, dict) or not all(
        verb in VERBS and type(price) in (int, float) and price >= 0 for verb, price in found.items()
    ):
        raise UsageError(
            f'{what} of dollars for 1,000 requests is needed, as in {{"GET": 0.0004}}; its names are {", ".join(VERBS)}'
        )
    return PRICES | found


# -- of this process --------------------------------------------------------------------------------------------------

_own = Ledger()
_prices: Mapping[str, float] = PRICES
_thread = threading.local()


def use(ledger: Ledger) -> None:
    """Counts this process's requests in `ledger` from now on: a forked child its own page."""
    global _own
    _own = ledger


def current() -> Ledger:
    """Where this process's requests are counted."""
    return _own


def use_prices(prices: Mapping[str, float]) -> None:
    """Costs are by this table from now on."""
    global _prices
    _prices = prices


@contextmanager
def at_prices(prices: Mapping[str, float] | None) -> Iterator[None]:
    """In the block, costs are by the price table with these in place of its own; None: by that in use."""
    before = _prices
    if prices is not None:
        use_prices(checked_prices(prices))
    try:
        yield
    finally:
        use_prices(before)


def phase() -> str:
    """The phase for which this thread works; "plan" until it is told."""
    return getattr(_thread, "phase", "plan")


@contextmanager
def working(phase: str) -> Iterator[None]:
    """In the block, this thread's requests count for `phase`; a thread that it starts has to be told itself."""
    before = getattr(_thread, "phase", "plan")
    _thread.phase = phase
    try:
        yield
    finally:
        _thread.phase = before
