"""The store work that a job asks for, as values that anybody can run, and what of it is more than one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from mrfast.control import commit
from mrfast.control.journal import Records, chain, newest
from mrfast.control.journal_files import Journal, claim_epoch
from mrfast.control.outputs import index_at_end
from mrfast.control.recovery import begin_record
from mrfast.errors import AlreadyExists, CorruptSegment, NotFound
from mrfast.index import SegmentIndex
from mrfast.model import JobSpec, MapReport, inter_key, job_key
from mrfast.storage import ledger
from mrfast.storage.base import Store

_warned: set[str] = set()


REST_S = 2.0  # of the journal's copy in the store, after an error


@dataclass(frozen=True, slots=True)
class Effect:
    """Store work: `run()` once, anywhere; its result or its MrfastError goes to `effect_done`."""

    name: str
    work: Callable[[], Any]
    subject: Any = None

    def run(self) -> Any:
        """Does the work; its requests count for its phase."""
        with ledger.working(PHASES[self.name]):
            return self.work()


# What an effect's requests count for.
PHASES = {
    "begin": "plan", "plan": "plan", "indexes": "plan", "index": "map", "keep": "map", "check": "reduce",
    "journal": "journal", "fence": "journal", "commit": "commit", "publish": "commit", "fail": "commit",
    "discard": "clean", "clean": "clean",
}  # fmt: skip


class Journals(Protocol):
    """Where the journals of a job are; `JournalFiles`."""

    def open(self, epoch: int) -> Journal: ...
    def read(self) -> dict[int, Records]: ...
    def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A job that is this coordinator's: its journal and what earlier ones say, or the manifest if it is committed."""

    epoch: int = 1
    journal: Journal | None = None
    records: Records = ()  # type: ignore[assignment]
    manifest: dict[str, Any] | None = None


def begin(spec: JobSpec, store: Store, output: Store, journals: Journals, resume: bool) -> Begun:
    """Takes the job: a new one its name and output, a resumed one an epoch that no other coordinator has."""
    _ask_for_conditions(store, output)
    if not resume:
        commit.begin(spec, store, output)
        return Begun(1, _opened(journals, spec.job, 1, None))
    with suppress(NotFound):
        return Begun(manifest=commit.read_manifest(spec.job, store))
    epoch = claim_epoch(store, spec.job, at_least=2)
    found = journals.read()
    records = chain(found)
    commit.begin(spec, store, output)
    store.delete(job_key(spec.job, commit.FAILED))
    return Begun(epoch, _opened(journals, spec.job, epoch, newest(found)), records)


def _ask_for_conditions(*stores: Store) -> None:
    """Says so where races cannot be decided by the store; one that has no such doubts is not asked."""
    # Once a bucket and job, whatever earlier jobs of this process have found: a job's requests can be foretold.
    doubtful = {getattr(store, "bucket", ""): store for store in stores if hasattr(store, "honours_conditions")}
    for store in doubtful.values():
        if not store.honours_conditions() and store.url not in _warned:
            _warned.add(store.url)
            print(
                f"mrfast: warning: {store.url} ignores If-None-Match: two coordinators that write to it at the same"
                " moment would not notice each other; see to it that only one runs a job there",
                file=sys.stderr,
            )


def _opened(journals: Journals, job: str, epoch: int, base: tuple[int, int] | None) -> Journal:
    journal = journals.open(epoch)
    journal.append(begin_record(job, epoch, base))
    return journal


def read_indexes(
    store: Store, job: str, reports: Iterable[tuple[int, MapReport]], objects: Mapping[int, str]
) -> list[tuple[int, MapReport, SegmentIndex | None]]:
    """The index of each of these map objects; None where the object is missing or damaged."""
    read: list[tuple[int, MapReport, SegmentIndex | None]] = []
    for map_index, report in reports:
        index = None
        with suppress(NotFound, CorruptSegment):
            index = index_at_end(store, objects.get(map_index) or inter_key(job, report.attempt), report.size)
        read.append((map_index, report, index))
    return read


class Mirror:
    """Puts a journal's closed batches into the store, one after the other, and again where that failed.

    With each one goes a look whether another coordinator has taken the job over: in a store where requests cost, looks
    are counted, not timed.
    """

    def __init__(self, store: Store, is_superseded: Callable[[], bool]) -> None:
        self._store = store
        self._is_superseded = is_superseded
        self._waiting: list[tuple[str, bytes]] = []
        self._busy = False
        self._rest_until = 0.0

    def effects(self, journal: Journal, now: float) -> list[Effect]:
        """The next batch to put, if there is one and none is on its way."""
        self._waiting += journal.batches()
        if self._busy or not self._waiting or now < self._rest_until:
            return []
        self._busy = True
        key, data = self._waiting[0]
        return [Effect("journal", lambda: self._put(key, data))]

    def done(self) -> None:
        """The batch is in the store."""
        self._busy = False
        del self._waiting[0]

    def failed(self, now: float) -> None:
        """The batch is not: it is tried again after a rest. At once, a store that refuses it for good would be all."""
        self._busy = False
        self._rest_until = now + REST_S

    def _put(self, key: str, data: bytes) -> bool:
        with suppress(AlreadyExists):  # an earlier try whose answer was lost: the key is this epoch's alone
            self._store.put_if_absent(key, data)
        return self._is_superseded()
