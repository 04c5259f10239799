"""The scheduler's rules, one by one."""

from __future__ import annotations

import pytest

from mrfast.control.ready import Ready
from mrfast.control.scheduler import TRANSITIONS, IllegalEvent, JobFailure, Scheduler
from mrfast.control.transitions import after
from mrfast.model import WAITING, Failure, Progress

NO_PROGRESS = Progress()


def job(maps: int = 2, reduces: int = 1, **options: int) -> Scheduler:
    return Scheduler(maps, reduces, **options)


def take(s: Scheduler, worker: str = "w1", now: float = 0.0) -> str:
    attempt = s.assign(worker, now)
    assert attempt is not None
    s.validate()
    return attempt.name


def failure(attempt: str, **fields: object) -> Failure:
    return Failure(attempt, "app", "ValueError: 1", **fields)  # type: ignore[arg-type]


def run_maps(s: Scheduler, now: float = 0.0) -> list[str]:
    names = []
    while s.maps_done < s.maps:
        names.append(take(s, now=now))
        assert s.map_done(names[-1], f"digest of {names[-1][:8]}", now) == "accepted"
    return names


def test_a_job_without_faults():
    s = job(maps=3, reduces=2)
    assert [take(s) for _ in range(3)] == ["m-000000.e1.1", "m-000001.e1.1", "m-000002.e1.1"]
    assert s.assign("w1", 0.0) is None
    for index in (2, 0, 1):
        assert s.phase == "map"
        assert s.map_done(f"m-{index:06d}.e1.1", f"d{index}", 1.0) == "accepted"
    assert s.phase == "reduce"
    assert [take(s), take(s)] == ["r-00000.e1.1", "r-00001.e1.1"]
    for partition in (0, 1):
        assert s.reduce_done(f"r-{partition:05d}.e1.1", f"p{partition}", s.table_digest(), 2.0) == "accepted"
        s.validate()
    assert (s.phase, s.state) == ("commit", "RUNNING")
    assert list(s.accepted_maps()) == [(i, f"m-{i:06d}.e1.1", f"d{i}") for i in range(3)]
    assert list(s.accepted_reduces()) == [(i, f"r-{i:05d}.e1.1", f"p{i}") for i in range(2)]
    s.committed(3.0)
    s.validate()
    assert s.state == "COMMITTED"


def test_a_single_worker_with_one_slot_starts_reduces_after_every_map():
    s = job(maps=2)
    first, second = take(s), take(s)
    s.map_done(first, "d", 0.0)
    assert s.assign("w1", 0.0) is None
    s.map_done(second, "d", 0.0)
    assert take(s) == "r-00000.e1.1"


def test_no_maps_at_all_leaves_the_reduces():
    assert take(job(maps=0)) == "r-00000.e1.1"


@pytest.mark.parametrize(
    ("maps", "reduces", "attempts_max"), [(-1, 1, 4), (1_000_001, 1, 4), (1, 0, 4), (1, 65_536, 4), (1, 1, 0)]
)
def test_bounds(maps: int, reduces: int, attempts_max: int):
    with pytest.raises(ValueError, match="no such job"):
        Scheduler(maps, reduces, attempts_max=attempts_max)


def test_the_epoch_is_in_the_name():
    assert take(job(epoch=7)) == "m-000000.e7.1"


# Leases


def test_a_lease_ends_after_ten_seconds_and_the_task_is_queued_first():
    s = job(maps=3)
    take(s, "w1", 0.0)
    assert s.next_deadline() == 10.0
    assert s.tick(9.9) == 0
    assert s.tick(10.0) == 1
    s.validate()
    assert s.next_deadline() is None
    assert take(s, "w2", 10.0) == "m-000000.e1.2"
    assert take(s, "w2", 10.0) == "m-000001.e1.1"


def test_no_number_of_expired_leases_fails_a_job():
    s = job(maps=1, attempts_max=1)
    for n in range(200):
        take(s, "w1", n * 20.0)
        s.tick(n * 20.0 + 10)
    assert s.state == "RUNNING"


def test_a_renewed_lease_has_no_end():
    s = job()
    name = take(s)
    for second in range(2, 1000, 2):
        assert s.renew(name, "w1", Progress(records=second), float(second)) == "ok"
        assert s.tick(second + 1.9) == 0
    s.validate()
    assert s.tick(1008.0) == 1


def test_renewing_keeps_progress_for_those_who_watch():
    s = job()
    name = take(s, now=5.0)
    s.renew(name, "w1", Progress("read", 3, 10, 1), 6.0)
    (running,) = s.running()
    assert (running.name, running.worker, running.since, running.progress.bytes_done) == (name, "w1", 5.0, 3)


def test_an_expired_attempt_that_renews_goes_on():
    s = job(maps=1)
    name = take(s)
    s.tick(10.0)
    assert s.task_state("map", 0) == "IDLE"
    assert s.renew(name, "w1", NO_PROGRESS, 11.0) == "ok"
    s.validate()
    assert s.task_state("map", 0) == "LEASED"
    assert s.assign("w2", 11.0) is None
    s.tick(21.0)
    assert take(s, "w2", 21.0) == "m-000000.e1.2"


def test_an_expired_attempt_may_run_beside_its_successor_until_one_is_accepted():
    s = job(maps=1)
    old = take(s, "w1")
    s.tick(10.0)
    new = take(s, "w2", 10.0)
    assert s.renew(old, "w1", NO_PROGRESS, 11.0) == "ok"
    assert s.renew(new, "w2", NO_PROGRESS, 11.0) == "ok"
    assert s.released(new, 12.0) == "accepted"
    s.validate()
    assert s.task_state("map", 0) == "LEASED"
    assert s.map_done(old, "d", 13.0) == "accepted"
    s.validate()


def test_another_worker_cannot_renew_an_attempt():
    s = job()
    name = take(s, "w1")
    assert s.renew(name, "w2", NO_PROGRESS, 9.0) == "cancel"
    assert s.tick(10.0) == 1


def test_a_lost_worker_has_three_seconds():
    s = job(maps=3)
    first, second, other = take(s, "w1"), take(s, "w1"), take(s, "w2")
    s.worker_lost("w1", 1.0)
    s.validate()
    assert s.next_deadline() == 4.0
    assert s.tick(4.0) == 2
    assert s.task_state("map", 2) == "LEASED"
    assert [s.map_done(name, "d", 5.0) for name in (first, second, other)] == ["accepted"] * 3


def test_losing_a_worker_never_lengthens_a_lease():
    s = job()
    take(s, "w1")
    s.worker_lost("w1", 9.0)
    assert s.next_deadline() == 10.0


@pytest.mark.parametrize("sign", ["poll", "renew"])
def test_a_lost_worker_that_is_back_keeps_its_leases(sign: str):
    s = job(maps=2)
    first, second = take(s, "w1"), take(s, "w1")
    s.worker_lost("w1", 1.0)
    if sign == "poll":
        assert s.assign("w1", 3.0) is None
    else:
        assert s.renew(first, "w1", NO_PROGRESS, 3.0) == "ok"
    s.validate()
    assert s.tick(12.9) == 0
    assert s.tick(13.0) == 2
    assert s.map_done(second, "d", 14.0) == "accepted"


def test_losing_an_unknown_worker_is_nothing():
    s = job()
    s.worker_lost("nobody", 1.0)
    s.validate()


def test_thousands_of_ended_leases_leave_the_running_ones_alone():
    s = job(maps=3000)
    names = [take_unchecked(s, float(n % 7)) for n in range(3000)]
    for name in names[3:]:
        s.map_done(name, "d", 7.0)
    s.validate()
    assert [s.tick(now) for now in (9.9, 10.0, 11.0, 12.0)] == [0, 1, 1, 1]


def test_fresh_tasks_that_are_not_idle_are_passed_over():
    ready = Ready(5, 8)
    assert ready.take(lambda task: task == 6, lambda task: False) == 6
    assert ready.take(lambda task: task == 5, lambda task: False) is None
    assert 7 not in ready


# Reports


def test_reports_are_idempotent():
    s = job(maps=1)
    name = take(s)
    assert s.map_done(name, "d", 1.0) == "accepted"
    assert s.map_done(name, "d", 2.0) == "already"
    reduce = take(s)
    assert s.reduce_done(reduce, "p", s.table_digest(), 3.0) == "accepted"
    assert s.reduce_done(reduce, "p", s.table_digest(), 3.0) == "already"
    s.validate()
    assert (s.maps_done, s.reduces_done) == (1, 1)


def test_an_accepted_attempt_is_never_told_to_cancel():
    s = job(maps=1)
    name = take(s)
    s.map_done(name, "d", 1.0)  # the answer may be on its way still
    assert s.renew(name, "w1", NO_PROGRESS, 2.0) == "ok"
    assert s.failed(name, failure(name, fatal=True), 2.0) == "already"
    assert s.released(name, 2.0) == "already"
    s.validate()
    assert s.task_state("map", 0) == "ACCEPTED"


def test_the_same_attempt_with_other_bytes_is_illegal_and_changes_nothing():
    s = job()
    name = take(s)
    s.map_done(name, "d", 1.0)
    story = s.story("map", 0)
    with pytest.raises(IllegalEvent, match=r"accepted with digest d and now reports e"):
        s.map_done(name, "e", 2.0)
    assert s.story("map", 0) == story
    s.validate()


def test_the_first_of_two_attempts_wins_and_the_other_is_told():
    s = job(maps=1)
    old = take(s, "w1")
    s.tick(10.0)
    new = take(s, "w2", 10.0)
    assert s.map_done(old, "d", 11.0) == "accepted"
    assert s.renew(new, "w2", NO_PROGRESS, 11.0) == "cancel"
    assert s.map_done(new, "d", 12.0) == "superseded"
    assert s.failed(new, failure(new), 12.0) == "superseded"
    assert s.released(new, 12.0) == "superseded"
    s.validate()


def test_a_superseded_attempt_stays_so_even_if_the_winner_is_lost():
    s = job(maps=1)
    old = take(s, "w1")
    s.tick(10.0)
    new = take(s, "w2", 10.0)
    s.map_done(old, "d", 11.0)
    assert s.map_done(new, "d", 12.0) == "superseded"  # its worker deletes the object now
    s.output_lost(0, old, 13.0)
    assert s.map_done(new, "d", 14.0) == "superseded"
    assert s.map_done(old, "d", 14.0) == "superseded"
    assert take(s, "w1", 15.0) == "m-000000.e1.3"


@pytest.mark.parametrize(
    "attempt", ["m-000000.e2.1", "m-000000.e1.2", "m-000001.e1.1", "m-000009.e1.1", "r-00000.e1.1", "r-00009.e1.1"]
)
def test_attempts_that_were_never_handed_out_are_stale(attempt: str):
    s = job()
    take(s)
    done = s.map_done if attempt[0] == "m" else lambda name, digest, now: s.reduce_done(name, digest, "", now)
    assert done(attempt, "d", 1.0) == "stale"
    assert s.failed(attempt, failure(attempt), 1.0) == "stale"
    assert s.released(attempt, 1.0) == "stale"
    assert s.renew(attempt, "w1", NO_PROGRESS, 1.0) == "cancel"
    s.validate()


@pytest.mark.parametrize(
    "attempt", ["", "m-000000", "m-0000000.e1.1", "m-000000.e01.1", "m-000000.e1.1\n", "x-000000.e1.1", "m-٠٠٠٠٠٠.e1.1"]
)
def test_text_that_names_no_attempt_is_stale(attempt: str):
    s = job()
    take(s)
    assert s.map_done(attempt, "d", 1.0) == "stale"


def test_reports_of_the_wrong_kind_or_without_a_digest_are_illegal():
    s = job(maps=1)
    name = take(s)
    with pytest.raises(IllegalEvent, match="is no reduce"):
        s.reduce_done(name, "d", "", 1.0)
    with pytest.raises(IllegalEvent, match="no digest"):
        s.map_done(name, "", 1.0)
    s.validate()
    assert s.task_state("map", 0) == "LEASED"


def test_a_released_attempt_is_over_and_not_counted():
    s = job(maps=1, attempts_max=1)
    name = take(s)
    assert s.released(name, 1.0) == "accepted"
    s.validate()
    assert s.map_done(name, "d", 2.0) == "superseded"
    assert take(s) == "m-000000.e1.2"


# Failures


def test_counted_failures_fail_the_job_with_the_first_one_and_the_story():
    s = job(attempts_max=3)
    for n in range(3):
        assert s.state == "RUNNING"
        name = take(s, f"w{n}", float(n))
        word = s.failed(name, failure(name, traceback=f"traceback {n}", input="a.txt", offset=n), n + 0.5)
        assert word == "accepted"
    s.validate()
    assert s.state == "FAILED"
    assert s.failure is not None
    assert s.failure.task == "m-000000"
    assert s.failure.reason == "m-000000 failed 3 times: ValueError: 1"
    assert s.failure.worker == "w0"
    assert s.failure.failure is not None
    assert (s.failure.failure.traceback, s.failure.failure.input, s.failure.failure.offset) == (
        "traceback 0",
        "a.txt",
        0,
    )
    assert "    +1.500 s  failed       m-000000.e1.2  on w1" in s.failure.story
    assert "m-000000.e1.2 on w1: app: ValueError: 1, a.txt at offset 1" in s.failure.story


def test_a_repeated_failure_counts_once():
    s = job(attempts_max=2)
    name = take(s)
    assert s.failed(name, failure(name), 1.0) == "accepted"
    assert s.failed(name, failure(name), 1.0) == "already"
    assert s.state == "RUNNING"
    assert s.map_done(name, "d", 2.0) == "superseded"


def test_uncounted_failures_never_fail_the_job():
    s = job(maps=1, attempts_max=1)
    for _ in range(50):
        name = take(s)
        s.failed(name, failure(name, counted=False), 0.0)
    s.validate()
    assert s.state == "RUNNING"
    assert len(s.story("map", 0)) < 70
    name = take(s)
    s.failed(name, failure(name), 0.0)
    assert s.state == "FAILED"


def test_a_fatal_failure_fails_the_job_at_once():
    s = job(attempts_max=50)
    name = take(s)
    s.failed(name, failure(name, fatal=True, counted=False), 0.0)
    s.validate()
    assert s.state == "FAILED"
    assert s.failure is not None and s.failure.reason == "m-000000 failed for good: ValueError: 1"


def test_failures_of_different_tasks_do_not_add_up():
    s = job(maps=10, attempts_max=2)
    for name in [take(s) for _ in range(10)]:
        s.failed(name, failure(name), 0.0)
    assert s.state == "RUNNING"


def test_the_failure_of_an_expired_attempt_counts():
    s = job(attempts_max=1)
    name = take(s)
    s.tick(10.0)
    assert s.failed(name, failure(name), 11.0) == "accepted"
    s.validate()
    assert s.state == "FAILED"


def test_the_next_try_prefers_another_worker():
    s = job(maps=2)
    first = take(s, "w1")
    s.failed(first, failure(first), 0.0)
    assert take(s, "w1") == "m-000001.e1.1"
    assert take(s, "w2") == "m-000000.e1.2"


def test_the_next_try_does_not_require_another_worker():
    s = job(maps=1)
    first = take(s, "w1")
    s.failed(first, failure(first), 0.0)
    assert take(s, "w1") == "m-000000.e1.2"


def test_many_shunned_tasks_are_still_handed_out():
    s = job(maps=40)
    for name in [take(s, "w1") for _ in range(40)]:
        s.failed(name, failure(name), 0.0)
    s.validate()
    assert {take(s, "w1") for _ in range(40)} == {f"m-{index:06d}.e1.2" for index in range(40)}


# Lost outputs


def test_a_lost_output_runs_again_and_running_reduces_go_on():
    s = job(maps=2, reduces=2)
    names = run_maps(s)
    reduce = take(s, "w2")
    table = s.table_digest()
    assert s.output_lost(0, names[0], 1.0) == "accepted"
    s.validate()
    assert s.phase == "map"
    assert s.renew(reduce, "w2", NO_PROGRESS, 1.0) == "ok"
    assert s.output_lost(0, names[0], 1.0) == "superseded"
    again = take(s)
    assert again == "m-000000.e1.2"
    assert s.assign("w2", 1.0) is None
    s.map_done(again, "digest of m-000000", 2.0)
    assert s.table_digest() == table
    assert s.renew(reduce, "w2", NO_PROGRESS, 2.0) == "ok"
    assert s.reduce_done(reduce, "p", table, 2.0) == "accepted"
    assert take(s, "w2") == "r-00001.e1.1"


@pytest.mark.parametrize("fed", [False, True])
def test_other_bytes_of_a_map_cancel_the_reduces_that_had_all(fed: bool):
    s = job(maps=2)
    names = run_maps(s)
    reduce = take(s, "w2")
    table = s.table_digest()
    assert s.fed(reduce, fed, 0.0)
    s.output_lost(0, names[0], 1.0)
    assert s.fed(reduce, fed, 1.0)
    s.map_done(take(s), "other", 2.0)
    s.validate()
    assert s.fed(reduce, True, 2.0) is not fed
    assert s.renew(reduce, "w2", NO_PROGRESS, 2.0) == ("cancel" if fed else "ok")
    assert s.reduce_done(reduce, "p", table, 3.0) == "superseded"
    s.validate()
    assert take(s) == "r-00000.e1.2"


def test_an_accepted_reduce_stays_if_the_map_gives_the_same_bytes():
    s = job(maps=1, reduces=2)
    (name,) = run_maps(s)
    reduce = take(s)
    s.reduce_done(reduce, "p", s.table_digest(), 0.0)
    s.output_lost(0, name, 1.0)
    run_maps(s)
    s.validate()
    assert s.reduces_done == 1
    assert take(s) == "r-00001.e1.1"


def test_accepted_reduces_are_rolled_back_if_the_map_gives_other_bytes():
    s = job(maps=1, reduces=2)
    (name,) = run_maps(s)
    reduce = take(s)
    s.reduce_done(reduce, "p", s.table_digest(), 0.0)
    s.output_lost(0, name, 1.0)
    s.map_done(take(s), "other", 2.0)
    s.validate()
    assert (s.reduces_done, s.task_state("reduce", 0)) == (0, "IDLE")
    assert s.reduce_done(reduce, "p", s.table_digest(), 3.0) == "superseded"
    assert [take(s), take(s)] == ["r-00000.e1.2", "r-00001.e1.1"]


def test_a_reduce_of_another_table_is_refused_for_good_and_runs_again():
    s = job(maps=1)
    run_maps(s)
    reduce = take(s)
    assert s.reduce_done(reduce, "p", "0" * 16, 0.0) == "superseded"
    s.validate()
    assert s.reduce_done(reduce, "p", s.table_digest(), 0.0) == "superseded"
    assert take(s) == "r-00000.e1.2"


def test_an_expired_reduce_comes_back_after_its_input_was_lost():
    s = job(maps=1)
    (name,) = run_maps(s)
    reduce = take(s, "w2")
    s.tick(10.0)
    s.output_lost(0, name, 11.0)
    assert s.renew(reduce, "w2", NO_PROGRESS, 12.0) == "ok"
    s.validate()
    assert take(s) == "m-000000.e1.2"


def test_a_part_of_the_last_accepted_outputs_is_accepted_while_a_map_runs_again():
    s = job(maps=2)
    names = run_maps(s)
    reduce = take(s, "w2")
    table = s.table_digest()
    s.output_lost(0, names[0], 1.0)
    assert s.reduce_done(reduce, "p", table, 2.0) == "accepted"
    s.validate()
    assert s.phase == "commit"
    s.committed(3.0)
    s.validate()


def test_a_part_that_was_accepted_while_a_map_ran_again_is_rolled_back_if_that_gives_other_bytes():
    s = job(maps=2, reduces=2)
    names = run_maps(s)
    reduce = take(s, "w2")
    table = s.table_digest()
    s.output_lost(0, names[0], 1.0)
    again = take(s)
    assert s.reduce_done(reduce, "p", table, 2.0) == "accepted"
    s.map_done(again, "other", 3.0)
    s.validate()
    assert (s.reduces_done, s.task_state("reduce", 0)) == (0, "IDLE")


def test_no_part_is_accepted_before_every_map_was():
    s = job(maps=2)
    first, second = take(s), take(s, "w2")
    s.map_done(first, "d", 0.0)
    reduce = take(s, "w1")
    assert s.reduce_done(reduce, "p", s.table_digest(), 1.0) == "superseded"
    s.map_done(second, "d", 1.0)
    s.validate()
    assert take(s) == "r-00000.e1.2"


def test_a_late_reduce_is_accepted_while_its_table_is_the_jobs():
    s = job(maps=1)
    run_maps(s)
    reduce = take(s)
    s.tick(10.0)
    assert s.reduce_done(reduce, "p", s.table_digest(), 11.0) == "accepted"
    s.validate()


def test_once_every_part_is_accepted_no_output_is_missed():
    s = job(maps=1)
    (name,) = run_maps(s)
    s.reduce_done(take(s), "p", s.table_digest(), 0.0)
    assert s.output_lost(0, name, 1.0) == "superseded"
    s.committed(1.0)


def test_an_output_that_is_lost_again_and_again_fails_the_job():
    s = job(maps=1, attempts_max=3)
    for _ in range(3):
        assert s.state == "RUNNING"
        (name,) = run_maps(s)
        s.output_lost(0, name, 1.0)
    s.validate()
    assert s.failure is not None and "lost its accepted output 3 times" in s.failure.reason


def test_losing_the_output_of_a_map_that_is_not_there_is_illegal():
    with pytest.raises(IllegalEvent, match="no map 2"):
        job(maps=2).output_lost(2, "m-000002.e1.1", 0.0)


# The end


def finished(state: str) -> tuple[Scheduler, str, str]:
    s = job(maps=1)
    (name,) = run_maps(s)
    reduce = take(s)
    if state == "COMMITTED":
        s.reduce_done(reduce, "p", s.table_digest(), 0.0)
        s.committed(1.0)
    else:
        s.fail("no more", 1.0)
    return s, name, reduce


def test_a_busy_worker_reads_ahead_only_where_there_is_plenty() -> None:
    scheduler = Scheduler(5, 3)
    scheduler.joined("a", 2, (), 0.0)
    had = [scheduler.assign("a", 0.0) for _ in range(2)]
    assert scheduler.assign("a", 0.0, ahead=True) is not None  # 3 wait, and 2 slots are here
    assert scheduler.assign("a", 0.0, ahead=True) is not None
    assert scheduler.assign("a", 0.0, ahead=True) is None, "the last one is for a slot that is free"
    last = scheduler.assign("a", 0.0)
    assert last is not None
    assert all(had)
    for attempt in [each.name for each in scheduler.running()]:
        scheduler.map_done(attempt, "d", 1.0)
    reads = scheduler.assign("a", 1.0, ahead=True)
    assert reads is not None
    assert reads.kind == "reduce"
    assert scheduler.assign("a", 1.0, ahead=True) is not None
    assert scheduler.assign("a", 1.0, ahead=True) is None


def test_one_that_waits_for_its_turn_does_not_stall() -> None:
    scheduler = Scheduler(1, 1, stall_s=5.0)
    attempt = scheduler.assign("a", 0.0)
    assert attempt is not None
    for now in range(2, 20, 2):
        assert scheduler.renew(attempt.name, "a", Progress(WAITING), now) == "ok"
        scheduler.tick(now)
    scheduler.renew(attempt.name, "a", Progress("map"), 20.0)
    scheduler.renew(attempt.name, "a", Progress("map"), 25.0)
    scheduler.tick(25.0)
    assert [failure.kind for failure, _ in scheduler.stalled] == ["stalled"]


@pytest.mark.parametrize("state", ["COMMITTED", "FAILED"])
def test_the_end_is_final(state: str):
    s, name, reduce = finished(state)
    assert s.assign("w1", 2.0) is None
    assert s.renew(reduce, "w1", NO_PROGRESS, 2.0) == ("ok" if state == "COMMITTED" else "cancel")
    assert s.map_done(name, "d", 2.0) == "job_done"
    assert s.reduce_done(reduce, "p", s.table_digest(), 2.0) == "job_done"
    assert s.failed(reduce, failure(reduce, fatal=True), 2.0) == "job_done"
    assert s.released(reduce, 2.0) == "job_done"
    assert s.output_lost(0, name, 2.0) == "job_done"
    assert s.tick(1000.0) == 0
    assert s.next_deadline() is None
    for event in (lambda: s.committed(3.0), lambda: s.fail("again", 3.0)):
        with pytest.raises(IllegalEvent):
            event()
    s.validate()
    assert s.state == state
    assert s.failure == (None if state == "COMMITTED" else JobFailure("no more"))


def test_a_job_cannot_be_committed_before_every_part_is_accepted():
    s = job(maps=1)
    run_maps(s)
    with pytest.raises(IllegalEvent, match="0 of 1 reduces"):
        s.committed(0.0)
    assert s.state == "RUNNING"


# The table and the stories


def test_terminal_states_have_no_way_out_and_acceptance_has_one():
    assert not [key for key in TRANSITIONS if key[1] in ("COMMITTED", "FAILED")]
    assert [key for key in TRANSITIONS if key[1] == "ACCEPTED"] == [
        ("map", "ACCEPTED", "output_lost"),
        ("reduce", "ACCEPTED", "rolled_back"),
    ]
    with pytest.raises(IllegalEvent, match="m-000001 is ACCEPTED: leased cannot happen"):
        after("map", "ACCEPTED", "leased", "m-000001")


def test_a_story_tells_when_what_and_where():
    s = job(maps=1)
    assert s.story("map", 0) == []
    take(s, "w1", 100.0)
    s.tick(110.0)
    s.map_done(take(s, "w2", 111.0), "d", 112.25)
    assert s.story("map", 0) == [
        "    +0.000 s  leased       m-000000.e1.1  on w1",
        "   +10.000 s  expired      m-000000.e1.1  on w1",
        "   +11.000 s  leased       m-000000.e1.2  on w2",
        "   +12.250 s  superseded   m-000000.e1.1  on w1",
        "   +12.250 s  accepted     m-000000.e1.2  on w2",
    ]


def test_a_long_story_keeps_its_beginning_and_its_end():
    s = job(maps=1)
    for n in range(1000):
        s.released(take(s, "w1", float(n)), n + 0.5)
    told = s.story("map", 0)
    assert len(told) == 49
    assert told[7].endswith("released     m-000000.e1.4  on w1")
    assert told[8] == "... 1952 more events ..."
    assert told[-1].endswith("released     m-000000.e1.1000  on w1")


def test_an_unknown_task_has_no_story():
    with pytest.raises(IndexError, match="no reduce 1"):
        job().story("reduce", 1)


def test_a_million_maps_cost_nothing_before_they_run():
    s = Scheduler(1_000_000, 65_535)
    assert take_unchecked(s) == "m-000000.e1.1"
    assert take_unchecked(s) == "m-000001.e1.1"
    assert len(s._tasks) == 2


def take_unchecked(s: Scheduler, now: float = 0.0) -> str:
    attempt = s.assign("w1", now)
    assert attempt is not None
    return attempt.name


def test_a_story_repeats_no_long_message_and_names_no_offset_that_is_not_known() -> None:
    s = Scheduler(1, 1, attempts_max=1)
    attempt = s.assign("w", 0.0)
    assert attempt is not None
    s.failed(attempt.name, Failure(attempt.name, "app", "x" * 500 + "\nmore", input="a.txt"), 1.0)
    assert s.failure is not None
    assert s.failure.story[-1] == f"m-000000.e1.1 on w: app: {'x' * 97}..., a.txt"
