"""Which worker gets what, and when an attempt is given up for another: early reduces, backups, quarantine, stalls."""

from __future__ import annotations

import pytest

from mrfast.control.backup import SAMPLES_MAX, Durations, is_due, left_s, slow
from mrfast.control.crew import Crew
from mrfast.control.leases import Lease
from mrfast.control.scheduler import Scheduler
from mrfast.model import Failure, Progress


def crew_of(maps: int, reduces: int, /, **slots: int) -> Scheduler:
    s = Scheduler(maps, reduces)
    for worker, count in slots.items():
        s.joined(worker, count, (), 0.0)
    return s


def take(s: Scheduler, worker: str, now: float = 0.0) -> str:
    attempt = s.assign(worker, now)
    assert attempt is not None
    s.validate()
    return attempt.name


def fail(s: Scheduler, attempt: str, worker: str, now: float = 0.0, **fields: object) -> str:
    return s.failed(attempt, Failure(attempt, "app", "boom", **fields), now, worker)  # type: ignore[arg-type]


def done(s: Scheduler, attempt: str, now: float = 0.0) -> None:
    assert s.map_done(attempt, f"of {attempt[:8]}", now) == "accepted"
    s.validate()


def last(s: Scheduler, attempt: str) -> str:
    """What happened to an attempt last."""
    kind = "map" if attempt[0] == "m" else "reduce"
    return next(line for line in reversed(s.story(kind, int(attempt[2 : attempt.index(".")]))) if attempt in line)


# Early reduces


def test_reduces_start_early_at_half_of_the_maps_and_not_before():
    s = crew_of(5, 1, w1=9)
    maps = [take(s, "w1") for _ in range(5)]
    for attempt in maps[:2]:
        done(s, attempt)
        assert s.assign("w1", 0.0) is None
    done(s, maps[2])
    assert take(s, "w1") == "r-00000.e1.1"


def test_no_reduce_starts_early_while_a_map_waits():
    s = crew_of(3, 1, w1=3, w2=3)
    maps = [take(s, "w1") for _ in range(3)]
    done(s, maps[0])
    done(s, maps[1])
    fail(s, maps[2], "w1")
    assert s.assign("w1", 0.0) is None  # it is kept from w1, and yet it waits
    assert take(s, "w2") == "m-000002.e1.2"
    assert take(s, "w2") == "r-00000.e1.1"


def test_one_slot_is_left_for_a_map_until_every_map_is_accepted():
    s = crew_of(2, 9, w1=2, w2=2)
    first, second = take(s, "w1"), take(s, "w1")
    done(s, first)
    assert [take(s, "w2") for _ in range(3)] == [f"r-{n:05d}.e1.1" for n in range(3)]
    assert s.assign("w2", 0.0) is None
    done(s, second)
    assert take(s, "w2") == "r-00003.e1.1"


@pytest.mark.parametrize(("gone", "early"), [("", True), ("left", False), ("silent", False)])
def test_the_slots_of_those_who_are_gone_do_not_count(gone: str, early: bool):
    s = crew_of(2, 1, w1=1, w2=1)
    first = take(s, "w1")
    take(s, "w1")
    done(s, first)
    if gone == "left":
        s.worker_lost("w2", 1.0)
    now = 10.1 if gone == "silent" else 1.0
    attempt = s.assign("w1", now)
    assert (attempt is not None and attempt.kind == "reduce") == early


# Preemption


def starving(maps: int = 2, lost: int = 1, reduces: int = 3) -> tuple[Scheduler, list[str]]:
    """Reduces hold all slots and wait, and `lost` maps cannot run."""
    s = crew_of(maps, reduces, w1=reduces)
    names = [take(s, "w1") for _ in range(maps)]
    for name in names:
        done(s, name)
    held = [take(s, "w1") for _ in range(reduces)]
    for name in names[:lost]:
        assert s.output_lost(int(name[2:8]), name, 0.0) == "accepted"
    assert s.tick(0.0) == 0  # from now on they starve
    s.validate()
    return s, held


def test_a_map_that_waits_takes_a_slot_back_after_one_second_and_another_after_two_more():
    s, held = starving()
    for name, fetched in zip(held, (30, 10, 20), strict=True):
        assert s.renew(name, "w1", Progress(bytes_done=fetched), 0.0) == "ok"
    assert s.next_deadline() == 1.0
    assert s.tick(0.9) == 0
    assert s.tick(1.0) == 1
    assert "preempted" in last(s, held[1])
    assert s.renew(held[1], "w1", Progress(), 1.0) == "cancel"
    assert s.next_deadline() == 3.0
    assert s.tick(2.9) == 0
    assert s.tick(3.0) == 1
    assert "preempted" in last(s, held[2])
    s.validate()
    assert take(s, "w1", 3.0) == "m-000000.e1.2"
    assert s.tick(9.0) == 0
    assert s.renew(held[0], "w1", Progress(), 9.0) == "ok"


def test_at_most_one_reduce_gives_way_for_each_map_that_waits():
    s, held = starving(maps=3, lost=2, reduces=4)
    assert s.tick(1.0) == 2
    assert [("preempted" in last(s, name)) for name in held] == [True, True, False, False]


def test_a_reduce_that_has_all_its_input_gives_way_to_nobody():
    s, held = starving(maps=2, lost=2, reduces=2)
    assert s.fed(held[0], True, 0.5)
    assert s.tick(1.0) == 1
    assert "preempted" in last(s, held[1])
    assert [s.tick(now) for now in (3.0, 5.0, 9.0)] == [0, 0, 0]
    assert s.renew(held[0], "w1", Progress(), 9.0) == "ok"


def test_a_map_that_found_a_slot_starves_no_more():
    s, _ = starving()
    s.joined("w2", 1, (), 0.5)
    take(s, "w2", 0.5)
    assert s.tick(1.0) == s.tick(5.0) == 0
    s.validate()


def test_the_next_map_starves_from_when_the_one_before_found_a_slot():
    s, _ = starving(lost=2)
    s.joined("w2", 1, (), 0.9)
    take(s, "w2", 0.9)
    assert s.tick(1.0) == s.tick(1.9) == 0
    assert s.tick(2.0) == 1


# Backups


def nearly_done(reduce: bool = False, **slots: int) -> tuple[Scheduler, str]:
    """Four tasks, three of them done in 4 s each, the last one running on w1 since 0 s with little progress."""
    s = crew_of(0 if reduce else 4, 4 if reduce else 1, **(slots or {"w1": 4, "w2": 1}))
    names = [take(s, "w1") for _ in range(4)]
    for name in names[1:]:
        if reduce:
            assert s.reduce_done(name, "p", s.table_digest(), 4.0) == "accepted"
        else:
            done(s, name, 4.0)
    s.renew(names[0], "w1", Progress(bytes_done=1, bytes_total=100), 9.0)
    return s, names[0]


def only_reduces_wait(s: Scheduler, worker: str, now: float) -> None:
    """Take the reduce that may start early out of the way."""
    attempt = s.assign(worker, now)
    assert attempt is not None and attempt.kind == "reduce"


def test_the_slow_last_map_gets_a_backup_and_the_loser_is_told():
    s, slow = nearly_done()
    only_reduces_wait(s, "w1", 10.0)
    assert s.assign("w1", 10.0) is None  # never where it runs already
    second = take(s, "w2", 10.0)
    assert (second, s.backups) == ("m-000000.e1.2", 1)
    assert "backup" in last(s, second)
    s.joined("w3", 4, (), 10.0)
    assert s.assign("w3", 99.0) is None  # never a third
    done(s, second, 11.0)
    assert "superseded" in last(s, slow)
    assert s.renew(slow, "w1", Progress(), 11.0) == "cancel"
    assert s.map_done(slow, "of m-000000", 11.0) == "superseded"


def test_a_reduce_that_waits_makes_room_for_a_backup():
    s, _ = nearly_done()
    only_reduces_wait(s, "w2", 9.0)  # before a backup is due, so that no slot is left for one
    assert s.tick(9.9) == 0
    assert s.tick(10.0) == 0
    assert s.next_deadline() == 11.0
    s.renew("m-000000.e1.1", "w1", Progress(bytes_done=1, bytes_total=100), 11.0)
    assert s.tick(11.0) == 1
    assert take(s, "w2", 11.0) == "m-000000.e1.2"
    assert s.tick(14.0) == 0, "one backup, one slot"
    s.validate()


def test_a_reduce_that_waits_on_the_slow_worker_itself_stays():
    s, _ = nearly_done()
    only_reduces_wait(s, "w1", 9.0)
    assert s.tick(10.0) == s.tick(15.0) == 0


def test_a_backup_that_is_late_is_told():
    s, slow = nearly_done(reduce=True)
    second = take(s, "w2", 10.0)
    assert s.reduce_done(slow, "p", s.table_digest(), 11.0) == "accepted"
    assert s.renew(second, "w2", Progress(), 11.0) == "cancel"
    assert s.reduce_done(second, "p", s.table_digest(), 11.0) == "superseded"
    s.validate()


@pytest.mark.parametrize(("now", "given"), [(9.9, False), (10.0, True)])
def test_no_backup_before_ten_seconds(now: float, given: bool):
    s, _ = nearly_done(reduce=True)
    assert (s.assign("w2", now) is not None) == given


@pytest.mark.parametrize(
    ("done_tasks", "tasks", "due"),
    [(2, 3, False), (3, 3, False), (3, 4, True), (2, 2, False), (74, 100, False), (75, 100, True), (100, 100, False)],
)
def test_backups_are_for_the_end_of_a_phase(done_tasks: int, tasks: int, due: bool):
    assert is_due(done_tasks, tasks) == due


def lease(task: int, worker: str = "w1", since: float = 0.0, bytes_done: int = 1, *, backup: bool = False) -> Lease:
    made = Lease(task, 1, worker, since)
    made.progress, made.backup = Progress(bytes_done=bytes_done, bytes_total=100), backup
    return made


def choose(running: list[Lease], worker: str, slots: int, median_s: float, now: float) -> Lease | None:
    """The attempt that gets a backup on this worker."""
    return next((each for each in slow(running, slots, median_s, now) if each.worker != worker), None)


def test_the_task_with_the_longest_time_left_is_chosen():
    some, slower, unknown = lease(0, bytes_done=20), lease(1, bytes_done=10), lease(2, bytes_done=0)
    assert left_s(some, 20.0) == 80.0
    assert choose([some, slower], "w2", 10, 5.0, 20.0) is slower
    assert choose([some, slower, unknown], "w2", 10, 5.0, 20.0) is unknown
    assert choose([lease(4), lease(3)], "w2", 10, 5.0, 20.0).task == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("running", "worker", "median_s", "now", "why"),
    [
        ([lease(0)], "w1", 1.0, 50.0, "it runs on this worker"),
        ([lease(0), lease(0, "w3")], "w2", 1.0, 50.0, "it runs twice"),
        ([lease(0, since=41.0)], "w2", 1.0, 50.0, "it runs for 9 s"),
        ([lease(0)], "w2", 25.1, 50.0, "it has not taken twice the usual time"),
        ([lease(0, bytes_done=99)], "w2", 1.0, 50.0, "it is nearly done"),
        ([lease(0), lease(1, "w3", backup=True)], "w2", 1.0, 50.0, "there is a backup"),
    ],
)
def test_no_backup(running: list[Lease], worker: str, median_s: float, now: float, why: str):
    assert choose(running, worker, 19, median_s, now) is None, why


def test_one_slot_in_ten_may_hold_a_backup():
    running = [lease(0), lease(1, "w3", backup=True), lease(1, "w4")]
    assert choose(running, "w2", 19, 1.0, 50.0) is None
    assert choose(running, "w2", 20, 1.0, 50.0) is running[0]


def test_no_map_gets_a_backup_while_another_waits():
    s = crew_of(8, 1, w1=8, w2=1)
    names = [take(s, "w1") for _ in range(8)]
    for name in names[2:]:
        done(s, name, 1.0)
    fail(s, names[1], "w2", 12.0)  # kept from w2
    s.renew(names[0], "w1", Progress(), 12.0)
    s._tasks[1].shun, s._tasks[1].shun_at = "w2", 12.0
    assert s.assign("w2", 12.0) is None


def test_durations_are_those_of_the_newest_attempts():
    durations = Durations()
    assert durations.median() == 0.0
    for n in range(3 * SAMPLES_MAX):
        durations.add(float(n))
    assert durations.median() == 2.5 * SAMPLES_MAX - 0.5


def test_attempts_of_an_earlier_epoch_say_nothing_of_how_long_tasks_take():
    s = Scheduler(8, 1, epoch=2)
    for index in range(7):
        assert s.map_done(f"m-{index:06d}.e1.1", "d", 1.0, "w1") == "accepted"
    done(s, take(s, "w1", 1.0), 31.0)
    assert s._durations["map"].median() == 30.0


# Stalls


def test_an_attempt_that_shows_no_progress_for_ten_minutes_has_failed():
    s = crew_of(1, 1, w1=1, w2=1)
    name = take(s, "w1")
    for now in range(5, 900, 5):
        bytes_done = min(now, 300)  # the last progress comes at 300 s
        assert s.renew(name, "w1", Progress(bytes_done=bytes_done), float(now)) == "ok"
        assert s.tick(float(now)) == 0
    s.renew(name, "w1", Progress(bytes_done=300), 899.0)
    assert s.tick(899.9) == 0
    assert s.tick(900.0) == 1
    s.validate()
    assert s._tasks[0].counted == 1
    assert "stalled: no progress for 600 s" in s.story("map", 0)[-1]
    assert s.renew(name, "w1", Progress(bytes_done=301), 900.0) == "cancel"
    assert take(s, "w2", 900.0) == "m-000000.e1.2"


def test_stalling_too_often_fails_the_job():
    s = Scheduler(1, 1, attempts_max=1)
    name = take(s, "w1")
    s.renew(name, "w1", Progress(), 599.0)
    s.tick(600.0)
    assert s.failure is not None and "no progress for 600 s" in s.failure.reason


def test_a_reduce_that_waits_for_maps_never_stalls():
    s = crew_of(2, 1, w1=2, w2=1)
    first, second = take(s, "w1"), take(s, "w1")
    done(s, first)
    reduce = take(s, "w2")
    for now in range(5, 2000, 5):
        assert s.renew(second, "w1", Progress(bytes_done=now), float(now)) == "ok"
        assert s.renew(reduce, "w2", Progress(), float(now)) == "ok"
        assert s.tick(float(now)) == 0
    done(s, second, 2000.0)
    assert s.fed(reduce, True, 2000.0)
    assert s.renew(reduce, "w2", Progress(), 2599.0) == "ok"
    assert s.tick(2599.9) == 0  # its ten minutes began when it had all
    assert s.tick(2600.0) == 1


# Quarantine, and tasks that are kept from a worker


def test_a_worker_rests_after_three_failures_of_two_tasks_that_passed_elsewhere():
    crew = Crew()
    for worker in ("w1", "w2", "w3"):
        crew.joined(worker, 1, 0.0)
    assert [crew.passed(7, {"w1"}, 0.0) for _ in range(3)] == [[], [], []]  # of one task only
    assert crew.passed(8, {"w1"}, 0.0) == ["w1"]
    assert crew.rests("w1", 0.0)
    assert not crew.rests("w2", 0.0)


def test_two_failures_are_not_enough():
    crew = Crew()
    for worker in ("w1", "w2", "w3"):
        crew.joined(worker, 1, 0.0)
    assert [crew.passed(task, {"w1"}, 0.0) for task in (7, 8)] == [[], []]
    assert not crew.rests("w1", 0.0)


@pytest.mark.parametrize(("workers", "resting"), [(2, 0), (3, 1), (5, 1), (6, 2)])
def test_never_more_than_a_third_rests(workers: int, resting: int):
    crew = Crew()
    names = [f"w{n}" for n in range(workers)]
    for worker in names:
        crew.joined(worker, 1, 0.0)
    for task in range(5):
        crew.passed(task, set(names), 0.0)
    assert sum(crew.rests(worker, 0.0) for worker in names) == resting


def test_a_rest_ends_after_ten_minutes_and_strikes_begin_anew():
    crew = Crew()

    def all_say(now: float) -> None:
        for worker in ("w1", "w2", "w3"):
            crew.seen(worker, now)

    all_say(0.0)
    for task in range(3):
        crew.passed(task, {"w1"}, 0.0)
    all_say(599.9)
    assert crew.rests("w1", 599.9)
    all_say(600.0)
    assert not crew.rests("w1", 600.0)
    assert [crew.passed(task, {"w1"}, 600.0) for task in (8, 8, 8, 9)] == [[], [], [], ["w1"]]


def test_one_that_rests_is_nobody_to_leave_tasks_to():
    crew = Crew()
    for worker in ("w1", "w2", "w3"):
        crew.joined(worker, 1, 0.0)
    for task in range(3):
        crew.passed(task, {"w1"}, 0.0)
    assert crew.others("w2", 0.0)
    crew.left("w3")
    assert not crew.others("w2", 0.0)
    assert crew.others("w1", 0.0)


def test_a_worker_that_is_left_alone_rests_no_more():
    crew = Crew()
    for worker in ("w1", "w2", "w3"):
        crew.joined(worker, 1, 0.0)
    for task in range(3):
        crew.passed(task, {"w1"}, 0.0)
    crew.left("w2")
    assert crew.rests("w1", 0.0)
    crew.left("w3")
    assert not crew.rests("w1", 0.0)


def test_a_job_gives_nothing_to_a_worker_that_rests():
    s = crew_of(4, 1, w1=3, w2=3, w3=1)
    failed = [take(s, "w1") for _ in range(3)]
    for name in failed:
        fail(s, name, "w1")
    assert [s.map_done(take(s, "w2"), "d", 1.0) for _ in failed] == ["accepted"] * 3
    assert s.assign("w1", 1.0) is None
    assert take(s, "w2", 1.0) == "m-000003.e1.1"


def test_a_failure_strikes_once_though_its_task_runs_again():
    s = crew_of(3, 9, w1=3, w2=3, w3=1)
    first, second = take(s, "w1"), take(s, "w1")
    for name in (first, second):
        fail(s, name, "w1")
        s.map_done(take(s, "w2"), "d", 1.0)
    for _ in range(2):
        lost = s.accepted_map(0) or ""
        s.output_lost(0, lost, 1.0)
        s.map_done(take(s, "w2", 1.0), "d", 1.0)
    assert not s.crew.rests("w1", 1.0)


def test_a_task_is_kept_for_thirty_seconds_from_the_worker_that_it_failed_on():
    s = crew_of(1, 1, w1=1, w2=1)
    fail(s, take(s, "w1"), "w1")
    for now in (5.0, 15.0, 25.0, 29.9):
        s.crew.seen("w2", now)
        assert s.assign("w1", now) is None
    assert take(s, "w1", 30.0) == "m-000000.e1.2"


def test_a_task_is_not_kept_from_the_only_worker():
    s = crew_of(1, 1, w1=1, w2=1)
    fail(s, take(s, "w1"), "w1")
    assert s.assign("w1", 0.0) is None
    s.worker_lost("w2", 1.0)
    assert take(s, "w1", 1.0) == "m-000000.e1.2"


# Joining, and what earlier epochs left


def test_what_never_reached_a_worker_is_handed_out_again():
    s = crew_of(2, 1, w1=2)
    first, second = take(s, "w1"), take(s, "w1")
    s.worker_lost("w1", 1.0)
    s.joined("w1", 2, (second,), 2.0)
    s.validate()
    assert "released" in last(s, first)
    assert take(s, "w2", 2.0) == "m-000000.e1.2"
    assert s.renew(second, "w1", Progress(), 3.0) == "ok"


def test_an_attempt_of_an_earlier_epoch_goes_on():
    s = Scheduler(2, 1, epoch=3)
    s.joined("w1", 1, ("m-000000.e2.1",), 0.0)
    assert s.renew("m-000000.e2.1", "w1", Progress(), 0.0) == "ok"
    s.validate()
    assert s.renew("m-000000.e2.1", "w2", Progress(), 0.0) == "cancel"
    assert take(s, "w1") == "m-000001.e3.1"
    assert s.map_done("m-000000.e2.1", "d", 1.0, "w1") == "accepted"
    assert s.map_done("m-000000.e1.1", "d", 1.0, "w1") == "superseded"


def test_a_reduce_of_an_earlier_epoch_goes_on_though_it_asks_before_it_renews():
    s = Scheduler(0, 1, epoch=2)
    assert s.fed("r-00000.e1.1", True, 0.0, "w1")
    s.validate()
    assert s.renew("r-00000.e1.1", "w1", Progress(), 0.0) == "ok"
    assert s.reduce_done("r-00000.e1.1", "p", s.table_digest(), 0.0, "w1") == "accepted"


@pytest.mark.parametrize("how", ["success", "failure", "release"])
def test_the_report_of_an_earlier_epoch_counts_once(how: str):
    s = Scheduler(1, 1, epoch=2)
    name = "m-000000.e1.1"
    if how == "success":
        assert [s.map_done(name, "d", 0.0, "w1") for _ in range(2)] == ["accepted", "already"]
        return
    if how == "failure":
        assert [fail(s, name, "w1") for _ in range(2)] == ["accepted", "already"]
        assert s._tasks[0].counted == 1
    else:
        assert [s.released(name, 0.0, "w1") for _ in range(2)] == ["accepted", "superseded"]
    s.validate()
    assert s.renew(name, "w1", Progress(), 0.0) == "cancel"
    assert s.map_done(name, "d", 0.0, "w1") == "superseded"


@pytest.mark.parametrize(
    ("name", "adopted"),
    [
        ("m-000000.e1.1", False),  # was accepted, and lost
        ("m-000000.e1.2", False),  # was handed out before that
        ("m-000000.e1.3", True),
        ("m-000000.e2.1", True),
        ("m-000000.e2.2", False),  # failed
        ("m-000000.e3.1", False),  # this epoch's, and not handed out
        ("m-000000.e4.1", False),  # of an epoch to come
        ("m-000001.e1.9", False),  # its map is accepted
    ],
)
def test_only_attempts_that_may_be_of_use_are_adopted(name: str, adopted: bool):
    s = Scheduler(2, 1, epoch=3)
    s.restore("map", "m-000000.e1.1", "d", "", 2, 1)
    s.output_lost(0, "m-000000.e1.1", 0.0)
    s.restore_failure("m-000000.e2.2", "w9", Failure("m-000000.e2.2", "app", "boom"))
    s.restore("map", "m-000001.e1.1", "d", "", 1, 1)
    assert s.is_open(name) == adopted
    assert s.renew(name, "w1", Progress(), 0.0) == ("ok" if adopted else "cancel")
    s.validate()


def test_a_failure_of_an_earlier_epoch_keeps_its_task_from_nobody():
    s = Scheduler(1, 1, epoch=2)
    s.restore_failure("m-000000.e1.1", "w1", Failure("m-000000.e1.1", "app", "boom"))
    s.joined("w1", 1, (), 0.0)
    s.joined("w2", 1, (), 0.0)
    assert s.released(take(s, "w1"), 0.0) == "accepted"
    assert take(s, "w1") == "m-000000.e2.2"
    assert s._tasks[0].counted == 1
