"""Who rests, and what for: tasks, workers, the slots they may claim, and what a resumed job remembers of failures."""

from __future__ import annotations

import pytest
from test_crew_backup import take

from mrfast.control.records import STORE_FAILURES_MAX
from mrfast.control.scheduler import IllegalEvent, Scheduler
from mrfast.model import Failure, Progress


def job(maps: int, reduces: int, epoch: int = 1, attempts_max: int = 4, /, **slots: int) -> Scheduler:
    s = Scheduler(maps, reduces, epoch=epoch, attempts_max=attempts_max)
    for worker, count in slots.items():
        s.joined(worker, count, (), 0.0)
    return s


def fail(s: Scheduler, attempt: str, worker: str, now: float = 0.0, kind: str = "app", counted: bool = True) -> None:
    assert s.failed(attempt, Failure(attempt, kind, "boom", counted=counted), now, worker) == "accepted"
    s.validate()


def beat(s: Scheduler, now: float, reduces: list[str]) -> int:
    """Everybody says something, and time passes: how many attempts that ended."""
    for worker in ("w1", "w2"):
        s.crew.seen(worker, now)
    for name in reduces:
        s.renew(name, "w1", Progress(bytes_done=int(now)), now)
    ended = s.tick(now)
    s.validate()
    return ended


def waiting_reduces(maps: int = 2) -> tuple[Scheduler, list[str], list[str]]:
    """Three reduces wait on w1, w2 is full, and the last maps are still to come: (job, reduces, those maps)."""
    s = job(maps, 3, w1=4, w2=1)
    names = [take(s, "w2") for _ in range(maps)]
    for name in names[: -(-maps // 2)]:
        assert s.map_done(name, "d", 0.0) == "accepted"
    return s, [take(s, "w1") for _ in range(3)], names[-(-maps // 2) :]


# Slots for maps that may use them


def test_no_reduce_gives_way_to_a_map_that_is_kept_from_its_worker():
    s, reduces, (late,) = waiting_reduces()
    assert s.released(late, 0.0) == "accepted"
    fail(s, take(s, "w1"), "w1")
    assert [beat(s, float(now), reduces) for now in range(30)] == [0] * 30
    assert s.next_deadline() == 39.0  # of a lease: no map starves
    assert beat(s, 30.0, reduces) == 0  # it may run on w1 now, and has a second to find a slot
    assert beat(s, 30.9, reduces) == 0
    assert beat(s, 31.0, reduces) == 1
    assert take(s, "w1", 31.0) == "m-000001.e1.3"


def test_no_reduce_gives_way_to_a_map_that_rests():
    s, reduces, (late,) = waiting_reduces()
    for n, worker in enumerate(("w2", "w1", "w2")):  # the third rest is 1 s
        name = take(s, worker, 5.0 * n) if n else late
        beat(s, 5.0 * n, reduces)
        fail(s, name, worker, 5.0 * n, "store", counted=False)
        s.crew.seen("w1", 5.0 * n + 5)
    assert [beat(s, now, reduces) for now in (10.0, 10.99, 11.0, 11.99)] == [0] * 4
    assert beat(s, 12.0, reduces) == 1


def test_each_map_claims_a_slot_where_it_may_run():
    s, reduces, late = waiting_reduces(4)
    for name in late:
        assert s.released(name, 0.0) == "accepted"
    fail(s, take(s, "w1"), "w1")  # one of the two is kept from w1
    assert (beat(s, 0.0, reduces), beat(s, 1.0, reduces)) == (0, 1)
    assert take(s, "w1", 1.0) == "m-000003.e1.2"


def test_a_lost_map_claims_a_slot_beside_one_that_may_not():
    s = job(4, 1, w1=3, w2=3)
    names = [take(s, "w1") for _ in range(4)]
    for name in names[:3]:
        s.map_done(name, "d", 0.0)
    reduce = take(s, "w1")
    assert s.released(names[3], 0.0) == "accepted"
    fail(s, take(s, "w1"), "w1")
    assert [beat(s, now, [reduce]) for now in (0.0, 1.0, 5.0)] == [0, 0, 0]
    s.output_lost(0, names[0], 5.0)
    assert [beat(s, now, [reduce]) for now in (5.0, 6.0)] == [0, 1]


def test_maps_that_were_never_handed_out_claim_slots_of_adopted_reduces():
    s = job(2, 3, 2, w1=3)
    s.restore("map", "m-000000.e1.1", "d", "", 1, 1)
    reduces = [f"r-{n:05d}.e1.1" for n in range(3)]
    assert [s.renew(name, "w1", Progress(), 0.0) for name in reduces] == ["ok"] * 3
    assert [beat(s, now, reduces) for now in (0.0, 1.0)] == [0, 1]  # one for one
    assert take(s, "w1", 1.0) == "m-000001.e2.1"


def test_a_worker_in_quarantine_gives_no_slots_back():
    s = job(4, 2, w1=4, w2=4, w3=1)
    names = [take(s, "w2") for _ in range(4)]
    for name in names[:3]:
        s.map_done(name, "d", 0.0)
    reduce = take(s, "w1")
    for task in (7, 8, 9):
        s.crew.passed(task, {"w1"}, 0.0)
    assert s.crew.rests("w1", 0.0)
    assert s.released(names[3], 0.0) == "accepted"
    assert [beat(s, now, [reduce]) for now in (0.0, 1.0, 3.0)] == [0, 0, 0]
    s.crew.left("w2")
    s.crew.left("w3")  # alone, it rests no more
    assert [s.tick(now) for now in (3.0, 4.0)] == [0, 1]


def test_starving_begins_anew_when_the_map_has_run():
    s, reduces, (late,) = waiting_reduces()
    assert s.released(late, 0.0) == "accepted"
    assert beat(s, 0.0, reduces) == 0
    again = take(s, "w2", 0.9)
    assert beat(s, 0.95, reduces) == 0
    assert s.released(again, 1.0) == "accepted"
    assert [beat(s, now, reduces) for now in (1.0, 1.9)] == [0, 0]
    assert beat(s, 2.0, reduces) == 1


def test_starving_begins_anew_though_no_time_passed_between():
    s, reduces, (late,) = waiting_reduces()
    assert s.released(late, 0.0) == "accepted"
    assert beat(s, 0.0, reduces) == 0
    assert s.released(take(s, "w2", 0.9), 0.9) == "accepted"
    assert [beat(s, now, reduces) for now in (1.0, 1.9)] == [0, 0]
    assert beat(s, 2.0, reduces) == 1


def test_starving_begins_anew_when_the_map_came_late_after_all():
    s, reduces, (late,) = waiting_reduces(3)
    assert s.renew(late, "w2", Progress(), 0.0) == "ok"
    assert [beat(s, float(now), reduces) for now in range(10)] == [0] * 10
    assert beat(s, 10.0, reduces) == 1  # its lease; and the map starves
    assert s.renew(late, "w2", Progress(), 10.5) == "ok"
    assert beat(s, 10.5, reduces) == 0
    assert s.output_lost(0, s.accepted_map(0) or "", 15.0) == "accepted"
    assert [beat(s, now, reduces) for now in (15.0, 15.9)] == [0, 0]
    assert beat(s, 16.0, reduces) == 1


def test_a_map_that_is_queued_and_runs_again_claims_nothing():
    s, reduces, (late,) = waiting_reduces()
    assert [beat(s, float(now), reduces) for now in range(11)] == [0] * 10 + [1]  # the map's lease has run out
    assert s.renew(late, "w2", Progress(), 10.5) == "ok"
    assert [beat(s, now, reduces) for now in (10.5, 12.0, 15.0)] == [0, 0, 0]


# Reduces that waited for long


@pytest.mark.parametrize("silent", [False, True])
def test_a_reduce_that_waited_for_long_has_its_ten_minutes_from_the_last_map_on(silent: bool):
    s = job(2, 1, 1, 1, w1=2, w2=1)
    first, last = take(s, "w1"), take(s, "w1")
    s.map_done(first, "d", 0.0)
    reduce = take(s, "w2")
    for now in range(5, 1001, 5):
        s.renew(last, "w1", Progress(bytes_done=now), float(now))
        if not silent:  # else its lease runs out, and it is back in the end
            s.renew(reduce, "w2", Progress(), float(now))
            assert s.fed(reduce, False, float(now))
        s.tick(float(now))
    assert s.map_done(last, "d", 1000.0) == "accepted"
    assert s.renew(reduce, "w2", Progress(), 1000.0) == "ok"
    assert s.tick(1000.0) == 0  # though it has yet to ask for the last output
    s.renew(reduce, "w2", Progress(), 1599.0)
    assert s.tick(1599.9) == 0
    assert s.tick(1600.0) == 1
    assert s.failure is not None and "no progress for 600 s" in s.failure.reason


# Errors of the store


def test_rests_after_errors_of_the_store_double_up_to_fifteen_seconds():
    s = job(1, 1, w1=1)
    now = 0.0
    for rest in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0):
        fail(s, take(s, "w1", now), "w1", now, "store", counted=False)
        assert s.assign("w1", now + rest - 0.01) is None
        now += rest
    fail(s, take(s, "w1", now), "w1", now, "store", counted=False)
    assert s.failure is not None
    assert s.failure.reason == f"m-000000 met errors of the store {STORE_FAILURES_MAX} times: boom"


def test_other_tasks_go_on_while_one_rests():
    s = job(2, 1, w1=2)
    fail(s, take(s, "w1"), "w1", kind="store", counted=False)
    assert take(s, "w1") == "m-000001.e1.1"


# What a resumed job remembers


def resumed(attempts_max: int = 2) -> Scheduler:
    return job(1, 1, 2, attempts_max, w1=1)


def told(n: int) -> Failure:
    return Failure(f"m-000000.e1.{n}", "app", f"boom {n}")


def test_failures_of_earlier_epochs_count_on():
    s = resumed()
    s.restore_failure("m-000000.e1.1", "w9", told(1))
    s.restored()
    assert s.state == "RUNNING"
    fail(s, take(s, "w1"), "w1")
    assert s.failure is not None
    assert (s.failure.worker, s.failure.reason) == ("w9", "m-000000 failed 2 times: boom 1")


def test_the_worker_of_an_earlier_failure_may_be_another_one_now():
    s = resumed()
    s.joined("w2", 1, (), 0.0)
    s.restore_failure("m-000000.e1.1", "w1", told(1))
    assert take(s, "w1", 0.0) == "m-000000.e2.1"


def test_a_job_that_the_journal_has_failed_is_failed():
    s = resumed()
    for n in (1, 2):
        s.restore_failure(f"m-000000.e1.{n}", "w9", told(n))
    s.restored()
    s.validate()
    assert s.failure is not None and s.failure.reason == "m-000000 failed 2 times: boom 1"


def lose_twice(s: Scheduler) -> None:
    for n in (1, 2):
        s.restore("map", f"m-000000.e1.{n}", "d", "", n, 1)
        s.restore_loss(f"m-000000.e1.{n}")


def test_a_job_that_the_journal_has_failed_by_losses_is_failed():
    s = resumed()
    lose_twice(s)
    s.restored()
    s.validate()
    assert s.failure is not None and "lost its accepted output 2 times" in s.failure.reason


def test_who_resumes_a_failed_job_gives_it_all_its_attempts_again():
    s = resumed()
    lose_twice(s)
    for n in (3, 4):
        s.restore_failure(f"m-000000.e1.{n}", "w9", told(n))
    s.forgive()
    s.restored()
    s.validate()
    assert s.state == "RUNNING"
    assert s.renew("m-000000.e1.3", "w9", Progress(), 0.0) == "cancel"  # what failed stays over
    fail(s, take(s, "w1"), "w1")
    assert s.state == "RUNNING"
    name = take(s, "w1", 40.0)
    assert s.map_done(name, "d", 40.0) == "accepted"
    assert s.output_lost(0, name, 40.0) == "accepted"
    assert s.state == "RUNNING"
    fail(s, take(s, "w1", 40.0), "w1", 40.0)
    assert s.failure is not None
    assert (s.failure.worker, s.failure.reason) == ("w1", "m-000000 failed 2 times: boom")


def test_forgiving_forgets_the_errors_of_the_store():
    s = job(1, 1, w1=1)
    for n in range(STORE_FAILURES_MAX - 1):
        fail(s, take(s, "w1", 20.0 * n), "w1", 20.0 * n, "store", counted=False)
    s.forgive()
    fail(s, take(s, "w1", 120.0), "w1", 120.0, "store", counted=False)  # at once, and it is the first again
    assert s.assign("w1", 120.24) is None
    assert take(s, "w1", 120.25)


@pytest.mark.parametrize("attempt", ["m-000000.e1.2", "m-000000.e9.1", "r-00000.e1.1", "nothing"])
def test_only_an_accepted_output_can_have_been_lost(attempt: str):
    s = resumed()
    s.restore("map", "m-000000.e1.1", "d", "", 2, 1)
    with pytest.raises(IllegalEvent):
        s.restore_loss(attempt)
    s.validate()
    assert s.accepted_map(0) == "m-000000.e1.1"


@pytest.mark.parametrize("attempt", ["m-000001.e1.1", "m-000000.e3.1", "nothing"])
def test_only_attempts_of_the_job_can_have_failed(attempt: str):
    with pytest.raises(IllegalEvent, match="no attempt of this job"):
        resumed().restore_failure(attempt, "w9", told(1))


# Backups


def test_a_job_has_one_backup_at_a_time_in_few_slots():
    s = job(0, 8, w1=8, w2=3)
    names = [take(s, "w1") for _ in range(8)]
    for name in names[2:]:
        s.reduce_done(name, "p", s.table_digest(), 1.0)
    for name in names[:2]:
        s.renew(name, "w1", Progress(bytes_done=1, bytes_total=100), 9.0)
    backup = take(s, "w2", 11.0)
    assert s.assign("w2", 11.0) is None
    assert s.reduce_done(backup, "p", s.table_digest(), 12.0) == "accepted"
    assert take(s, "w2", 12.0)


# Strikes, and those who are back


@pytest.mark.parametrize(
    ("elsewhere", "counted", "rests"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_only_failures_that_count_of_tasks_that_passed_elsewhere_strike(elsewhere: bool, counted: bool, rests: bool):
    s = job(3, 1, w1=3, w2=3, w3=1)
    for name in [take(s, "w1") for _ in range(3)]:
        fail(s, name, "w1", counted=counted)
    for worker in ("w1", "w2", "w3"):
        s.joined(worker, 3, (), 31.0)
    again = [take(s, "w2" if elsewhere else "w1", 31.0) for _ in range(3)]
    assert [s.map_done(name, "d", 32.0) for name in again] == ["accepted"] * 3
    assert s.crew.rests("w1", 32.0) == rests


def test_the_slots_of_one_that_is_back_count_again():
    s = job(2, 1, w1=1, w2=1)
    first = take(s, "w1")
    take(s, "w1")
    s.map_done(first, "d", 0.0)
    s.worker_lost("w2", 0.0)
    assert s.assign("w1", 0.0) is None  # the one slot stays for a map
    assert take(s, "w2", 1.0) == "r-00000.e1.1"


def test_what_an_adopted_attempt_won_is_lost_for_the_others_of_its_epoch():
    s = resumed()
    assert s.map_done("m-000000.e1.1", "d", 0.0, "w1") == "accepted"
    assert s.map_done("m-000000.e1.2", "d", 0.0, "w9") == "superseded"  # its worker deletes the object now
    assert s.output_lost(0, "m-000000.e1.1", 0.0) == "accepted"
    assert s.map_done("m-000000.e1.2", "d", 0.0, "w9") == "superseded"
    assert take(s, "w1") == "m-000000.e2.1"
