"""When calls are answered: at once, when there is work, when the journal is durable; without a socket or a clock."""

from __future__ import annotations

from typing import Any

import pytest
from test_job_driver import APP, Run, make_spec

from mrfast.control import messages
from mrfast.control.desk import Desk
from mrfast.control.printed import ATTEMPT_BYTES_MAX
from mrfast.errors import MrfastError
from mrfast.model import Failure, MapTask, Progress, ReduceTask


class Asked:
    """A call and what came back; empty while it waits."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    @property
    def answer(self) -> Any:
        (answer,) = self.answers
        return answer


class Front:
    """A desk before a driver, and workers by name; each has a connection of its own."""

    def __init__(self, **changes: Any) -> None:
        self.run = Run(make_spec(**changes))
        self.run.effects()
        self.desk = Desk(self.run.driver)
        self.now = 0.0
        for name in ("one", "two"):
            self.call(name, messages.Hello(name, 2, APP))
        self.run.effects()
        self.step()

    def call(self, name: str, call: Any) -> Asked:
        asked = Asked()
        self.desk.call(name, call, self.now, asked.answers.append)
        return asked

    def step(self, now: float | None = None) -> None:
        self.now = self.now if now is None else now
        self.desk.step(self.now)

    def poll(self, name: str, free: int = 1) -> Asked:
        return self.call(name, messages.Poll(name, free, 20.0))

    def take(self, name: str, free: int = 1) -> list[Any]:
        answer = self.poll(name, free).answer
        return [*answer.maps, *answer.reduces]

    def report(self, name: str, task: Any) -> Asked:
        run = self.run
        report = run.map_report(task) if isinstance(task, MapTask) else run.reduce_report(task)
        return self.call(name, messages.report_message(name, report))

    def sync(self) -> None:
        journal = self.run.driver.journal
        assert journal is not None
        self.run.driver.write_journal()
        journal.sync()
        self.desk.synced()


@pytest.fixture
def front() -> Front:
    return Front()


def test_a_poll_is_answered_as_soon_as_there_is_work(front: Front) -> None:
    task = front.take("one", 2)[0]
    waits = front.poll("two")
    front.step(1.0)
    assert not waits.answers
    front.call("one", messages.Release("one", task.attempt))
    front.step()
    assert [each.index for each in waits.answer.maps] == [task.index]


def test_a_poll_without_work_is_answered_when_its_time_is_up(front: Front) -> None:
    runs = {task.attempt: Progress("map", 1) for task in front.take("one", 2)}
    waits = front.poll("two")
    for now in (5.0, 10.0, 15.0, 19.9):
        front.now = now
        front.call("one", messages.Renew("one", runs))
        front.step()
        assert not waits.answers
    front.step(20.0)
    assert waits.answer == messages.Tasks("running")


def test_no_report_is_answered_before_the_journal_is_durable(front: Front) -> None:
    asked = front.report("one", front.take("one")[0])
    front.step()
    assert not asked.answers
    assert front.desk.wants_sync()
    front.run.driver.write_journal()
    front.desk.synced()  # written, but not yet durable
    assert not asked.answers
    front.sync()
    assert asked.answer.word == "accepted"
    assert not front.desk.wants_sync()


def test_a_report_that_came_during_a_sync_waits_for_the_next_one(front: Front) -> None:
    first, second = front.take("one", 2)
    one = front.report("one", first)
    journal = front.run.driver.journal
    assert journal is not None
    front.run.driver.write_journal()
    two = front.report("one", second)
    journal.sync()
    front.desk.synced()
    assert one.answer.word == "accepted"
    assert not two.answers
    front.sync()
    assert two.answer.word == "accepted"


def test_a_repeated_report_is_not_confirmed_before_the_first_one_is_durable(front: Front) -> None:
    task = front.take("one")[0]
    front.report("one", task)
    again = front.report("two", task)
    assert not again.answers
    front.sync()
    assert again.answer.word == "already"


def test_of_a_failed_job_nobody_waits_for_the_journal(front: Front) -> None:
    first, second = front.take("one", 2)
    asked = front.report("one", first)
    front.run.driver.fail(MrfastError("no room"))
    front.desk.synced()
    assert asked.answers
    last = front.report("one", second)
    front.desk.synced()
    assert last.answer.job == "failed"
    assert last.answer.error.startswith("no room")


def test_who_hung_up_gets_nothing(front: Front) -> None:
    front.take("one", 2)
    waits = front.poll("two")
    front.desk.closed("two", 1.0)
    front.desk.closed("one", 1.0)
    front.step(1.0)
    front.step(30.0)
    assert not waits.answers
    assert not front.desk.known


def test_a_second_connection_takes_over_from_the_first(front: Front) -> None:
    task = front.take("one")[0]
    asked = Asked()
    front.desk.call("one again", messages.Hello("one", 2, APP, (task.attempt,)), 1.0, asked.answers.append)
    front.desk.closed("one", 1.5)
    front.step(9.0)
    assert front.desk.known["one"] == "one again"
    assert front.run.driver.scheduler is not None
    assert front.run.driver.scheduler.is_open(task.attempt), "its lease did not end with the old connection"


def test_one_that_never_takes_its_answers_holds_up_nobody() -> None:
    """The Go coordinator held its lock across a call to every reducer: one frozen reducer froze all."""
    front = Front()
    first, second = front.take("one", 2)
    front.report("one", first)
    front.sync()
    early, _ = front.take("two", 2)
    page = front.call("two", messages.AskOutputs("two", early.attempt, 0, 20.0)).answer
    waits = front.call("two", messages.AskOutputs("two", early.attempt, page.next, 20.0))  # and it freezes
    assert isinstance(early, ReduceTask)
    assert not waits.answers
    asked = front.report("one", second)
    front.sync()
    assert asked.answer.word == "accepted"
    front.desk.closed("two", 2.0)
    for now in range(3, 16):
        front.step(float(now))
    done = [front.report("one", task) for task in front.take("one", 2)]
    front.sync()
    assert [asked.answer.word for asked in done] == ["accepted", "accepted"]
    front.run.effects()
    assert front.run.driver.state == "COMMITTED"


def test_outputs_are_told_as_maps_are_accepted(front: Front) -> None:
    first, second = front.take("one", 2)
    front.report("one", first)
    front.sync()
    (reduce,) = front.take("two")
    page = front.call("two", messages.AskOutputs("two", reduce.attempt, 0, 20.0)).answer
    assert [each.map_index for each in page.segments] == [first.index]
    assert not page.complete
    waits = front.call("two", messages.AskOutputs("two", reduce.attempt, page.next, 20.0))
    front.step(1.0)
    assert not waits.answers
    front.report("one", second)
    front.step(1.1)
    assert [each.map_index for each in waits.answer.segments] == [second.index]
    assert waits.answer.complete


def test_a_reduce_that_is_superseded_is_told_to_give_up() -> None:
    front = Front(attempts_max=1)
    for task in front.take("one", 2):
        front.report("one", task)
    front.sync()
    reduce = front.take("two")[0]
    failed = Failure(reduce.attempt, "app", "ValueError: no")
    front.call("two", messages.report_message("two", failed))
    page = front.call("two", messages.AskOutputs("two", reduce.attempt, 0, 20.0)).answer
    assert page.word == "cancel"


def test_the_end_is_told_once_all_store_work_is_done(front: Front) -> None:
    for _ in range(2):
        for task in front.take("one", 2):
            front.report("one", task)
        front.sync()
    waits = front.poll("one")
    front.desk.working = True
    front.run.effects()
    front.step(1.0)
    assert front.desk.job() == "running"
    assert not waits.answers
    front.desk.working = False
    front.desk.changed()
    front.step(1.1)
    assert waits.answer.job == "done"
    assert front.desk.told == {"one"}


def test_a_report_of_nothing_is_an_error(front: Front) -> None:
    asked = front.call("one", messages.Report("one"))
    assert isinstance(asked.answer, MrfastError)


def test_what_workers_say_that_attempts_printed_is_told_in_bounds_and_harmless() -> None:
    front = Front()
    told: list[tuple[Any, ...]] = []

    def hear(kind: str, event: Any) -> None:
        if kind == "printed":
            told.append((event["task"], event["attempt"], event["worker"], event["text"]))

    front.run.driver.events.hear = hear
    [task] = front.take("one")
    name = task.attempt
    printed = {name: "\x1b[2Jhello\n", "": "loads\n", "m-999999.e1.1": "of no task of this job\n", "\x1b": "x\n"}
    front.call("one", messages.Renew("one", {name: Progress()}, {}, printed))
    assert told == [("m-000000", name, "one", "\\x1b[2Jhello\n"), ("", "", "one", "loads\n")]
    front.call("two", messages.Renew("two", {}, {}, {"": "loads\n"}))
    assert len(told) == 2
    report = messages.report_message("one", front.run.map_report(task), {}, {name: "bye\n"})
    front.call("one", report)
    assert told[2:] == [("m-000000", name, "one", "bye\n")]
    for _ in range(100):
        front.call("one", messages.Renew("one", {}, {}, {name: "x" * 9999 + "\n"}))
    assert sum(len(text) for *_, text in told) < 2 * ATTEMPT_BYTES_MAX
    assert b'"e":"printed"' in front.run.driver.events.document()


def test_the_jobs_parameters_are_told_to_who_asks_before_hello() -> None:
    front = Front(params={"word": "to"})
    assert front.call("three", messages.AskParams()).answer == messages.Params({"word": "to"})
    assert "three" not in front.desk.known
