"""What is true of a Scheduler between any two events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrfast.control import backup
from mrfast.index import TableDigest

if TYPE_CHECKING:
    from mrfast.control.scheduler import Scheduler


def check(s: Scheduler) -> None:
    """Raise AssertionError with what is wrong, if anything is."""
    for task in range(s.maps + s.reduces):
        _check_task(s, task)
    _check_counts(s)
    _check_leases(s)
    _check_table(s)
    _check_backups(s)
    _check_job(s)


def _claim(holds: bool, what: str) -> None:
    if not holds:  # not an assert statement: python -O must not remove it
        raise AssertionError(what)


def _check_task(s: Scheduler, task: int) -> None:
    kind, index = s.names.kind_index(task)
    state = s.task_state(kind, index)
    name = s.names.task(task)
    record = s._tasks.get(task)
    ready = s._ready_maps if kind == "map" else s._ready_reduces
    if record is None:
        _claim(state == "IDLE", f"{name} is {state} and was never handed out")
        _claim(task in ready, f"{name} is fresh and not queued")
        return
    attempts = record.open or {}
    live = [lease for lease in attempts.values() if lease.live]
    _claim((state == "ACCEPTED") == (record.accepted > 0), f"{name} is {state}, accepted attempt {record.accepted}")
    newest = s.names.serial(record.issued)
    _claim(0 <= record.accepted <= newest, f"{name}: accepted {record.accepted} of {record.issued} attempts")
    _claim(state != "ACCEPTED" or not attempts, f"{name} is ACCEPTED and has open attempts")
    _claim(state != "ACCEPTED" or bool(record.digest), f"{name} is ACCEPTED without a digest")
    _claim(all(n == lease.n and lease.task == task for n, lease in attempts.items()), f"{name}: mixed up attempts")
    _claim(all(1 <= n <= newest for n in attempts), f"{name}: an attempt that was never handed out is open")
    if s.state == "RUNNING":
        _claim((state == "LEASED") == bool(live), f"{name} is {state} with {len(live)} running attempts")
        _claim(state != "IDLE" or task in ready, f"{name} is IDLE and not queued")
        _claim(record.counted < s.attempts_max, f"{name} failed {record.counted} times and the job runs on")
        _claim(record.losses < s.attempts_max, f"{name} was lost {record.losses} times and the job runs on")


def _check_counts(s: Scheduler) -> None:
    accepted = s._states.count(2, 0, s.maps)
    _claim(s.maps_done == accepted, f"{s.maps_done} maps counted as done, {accepted} are accepted")
    accepted = s._states.count(2, s.maps)
    _claim(s.reduces_done == accepted, f"{s.reduces_done} reduces counted as done, {accepted} are accepted")
    idle = {"map": s._states.count(0, 0, s.maps), "reduce": s._states.count(0, s.maps)}
    _claim(s._idle == idle, f"{s._idle} counted as idle, {idle} are")


def _check_leases(s: Scheduler) -> None:
    held = list(s._leases)
    _claim(len(held) == len(s._leases), "the number of leases is wrong")
    for lease in held:
        record = s._tasks[lease.task]
        _claim(lease.live, "a lease that ended is still held")
        _claim(
            (record.open or {}).get(lease.n) is lease, f"{s.names.attempt(lease.task, lease.n)} runs and is not open"
        )
    live = sum(lease.live for record in s._tasks.values() for lease in (record.open or {}).values())
    _claim(live == len(held), f"{live} attempts think they run, {len(held)} leases are held")
    first = min((lease.deadline for lease in held), default=None)
    found = s._leases.next_deadline()
    _claim(found == first, f"the first lease is said to end at {found}, it ends at {first}")


def _check_table(s: Scheduler) -> None:
    table, known = TableDigest(), 0
    for task in range(s.maps):
        record = s._tasks.get(task)
        if record is not None and record.digest:
            table.add(task, record.digest)
            known += 1
    _claim(s.table_digest() == table.hex(), "the table's digest is not that of the last accepted maps")
    _claim(s._maps_known == known, f"{s._maps_known} maps counted as known, {known} are")
    for task in range(s.maps, s.maps + s.reduces):
        record = s._tasks.get(task)
        if record is not None and record.accepted:
            _claim(
                record.table == table.hex(), f"{s.names.task(task)} is accepted from other map outputs than the job's"
            )


def _check_backups(s: Scheduler) -> None:
    if s._slow_asked and s._slow_asked[-1] == s._leases.changes:  # as long as these agree, what was found is used again
        kind, slots, median_s, now, _ = s._slow_asked
        running = [lease for lease in s._leases if (lease.task < s.maps) == (kind == "map")]
        found = [lease.task for lease in backup.slow(running, slots, median_s, now)]
        _claim(found == [lease.task for lease in s._slow_found], "what was found slow is not what is slow")


def _check_job(s: Scheduler) -> None:
    _claim((s.failure is not None) == (s.state == "FAILED"), f"the job is {s.state}, failure {s.failure}")
    _claim(s.state == "RUNNING" or not len(s._leases), f"the job is {s.state} and holds leases")
    if s.reduces_done:
        _claim(s._maps_known == s.maps, "a reduce is accepted, and a map never was")
    _claim(s.state != "COMMITTED" or s.reduces_done == s.reduces, "the job is COMMITTED without all its parts")
