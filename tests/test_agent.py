"""What a worker decides, on a line and slots that are only lists: no socket, no process, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mrfast.control import messages
from mrfast.control.crew import LIVE_S
from mrfast.control.printed import ATTEMPT_BYTES_MAX, CALL_BYTES_MAX
from mrfast.control.schema import encode
from mrfast.control.wire import request
from mrfast.errors import AppError, CoordinatorLost, JobFailed, MrfastError
from mrfast.model import (
    FRAME_BYTES_MAX,
    WAITING,
    AppInfo,
    Failure,
    InputCut,
    MapReport,
    MapTask,
    Piece,
    Progress,
    ReduceTask,
    Segment,
)
from mrfast.tasks.agent import ASK_AGAIN_S, FAREWELL_S, IDLE_RENEW_S, Agent
from mrfast.tasks.pool import Bad, Finished, Refused, Wanted

JOB = messages.JobInfo("j", "books", "s", "o", 2, 10.0, 2.0)
MAP, REDUCE = "m-000000.e1.1", "r-00000.e1.1"
MAP_TASK = MapTask("j", MAP, 0, (), "s", 2, 1 << 20)
REDUCE_TASK = ReduceTask("j", REDUCE, 0, 1, "s", 1 << 20)
SEGMENT = Segment(0, MAP, 0, 10, 1, 7, "str", "d")
OK = messages.Word("running", "ok")


class Line:
    """A line whose replies are given by hand; those of a lost connection go nowhere."""

    name = "host:1"

    def __init__(self) -> None:
        self.up = False
        self.open: list[tuple[str, Any, Any]] = []

    def call(self, method: str, params: Any, on_reply: Any) -> None:
        if self.up:
            self.open.append((method, params, on_reply))

    def calls(self, method: str) -> list[Any]:
        return [params for name, params, _ in self.open if name == method]

    def reply(self, method: str, result: Any) -> Any:
        """Answers the oldest open call of that name, and gives what it asked."""
        at = next(i for i, (name, *_) in enumerate(self.open) if name == method)
        _, params, on_reply = self.open.pop(at)
        on_reply(result if isinstance(result, MrfastError) else encode(result))
        return params


class Child:
    """A slot's ear."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, *page: Any) -> None:
        self.answers.append(page)


class Pool:
    """Slots that do nothing."""

    def __init__(self) -> None:
        self.info: AppInfo | None = AppInfo("app", "f", InputCut("lines", True), "text", "1", "3")
        self.slots_max = 2
        self.ahead = False
        self.phase = "map"
        self.tasks: dict[str, Any] = {}

    @property
    def free(self) -> int:
        return max(0, self.slots_max - len(self.tasks))

    @property
    def free_ahead(self) -> int:
        return 2 * self.slots_max - len(self.tasks) if self.ahead and not self.free else 0

    def requests(self) -> dict[str, dict[str, dict[str, int]]]:
        return {}

    def running(self) -> dict[str, Progress]:
        return {attempt: Progress(self.phase, 1) for attempt in self.tasks}

    def send(self, task: Any) -> None:
        self.tasks[task.attempt] = task

    def cancel(self, attempt: str) -> None:
        self.tasks.pop(attempt, None)


class Bench:
    def __init__(self, **options: Any) -> None:
        self.line, self.pool, self.said = Line(), Pool(), []
        self.agent = Agent("w", self.line, self.pool, say=self.said.append, **options)  # type: ignore[arg-type]
        self.child = Child()

    def connect(self) -> Any:
        """A new connection, whose hello is answered; what hello said."""
        self.lose()
        self.line.up = True
        self.agent.hello()
        assert [name for name, *_ in self.line.open] == ["hello"]
        return self.line.reply("hello", JOB)

    def lose(self) -> None:
        self.line.up = False
        self.line.open.clear()

    def give(self, *tasks: Any, pages: tuple[str, ...] = (), now: float = 0.0) -> None:
        """The tasks as the answer to a poll."""
        self.agent.step(now)
        maps = tuple(task for task in tasks if isinstance(task, MapTask))
        reduces = tuple(task for task in tasks if isinstance(task, ReduceTask))
        self.line.reply("poll", messages.Tasks("running", maps, reduces, pages))

    def finish(self, report: Any, now: float = 0.0) -> None:
        self.pool.cancel(report.attempt)
        self.agent.on(Finished(self.child, report), now)  # type: ignore[arg-type]

    def wants(self, since: int, now: float = 0.0) -> None:
        self.agent.on(Wanted(self.child, REDUCE, since), now)  # type: ignore[arg-type]

    def bad(self, now: float = 0.0) -> None:
        self.agent.on(Bad(self.child, REDUCE, 0, MAP, "missing"), now)  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


DONE = MapReport(MAP, 1, "x", b"", 1, 1, 1)


def test_nothing_but_hello_is_said_before_its_answer() -> None:
    bench = Bench()
    bench.line.up = True
    bench.agent.hello()
    bench.agent.step(0.0)
    assert [name for name, *_ in bench.line.open] == ["hello"]
    assert bench.line.reply("hello", JOB).running == ()
    bench.agent.step(0.0)
    assert [poll.free for poll in bench.line.calls("poll")] == [2]
    assert bench.said == ["joined job books at host:1 with 2 slots"]


def test_leases_are_renewed_in_time_and_one_at_a_time(bench: Bench) -> None:
    bench.give(MAP_TASK, now=1.0)
    assert bench.agent.next_step_at(1.0) == 3.0
    bench.agent.step(2.9)
    assert not bench.line.calls("renew")
    bench.agent.step(3.0)
    assert [renew.attempts for renew in bench.line.calls("renew")] == [{MAP: Progress("map", 1)}]
    assert bench.agent.next_step_at(3.0) is None  # nothing is due before the answer
    bench.agent.step(20.0)
    assert len(bench.line.calls("renew")) == 1
    bench.line.reply("renew", messages.Renewed("running", {MAP: "ok"}))
    assert bench.agent.next_step_at(3.5) == 5.0


def test_a_worker_where_nothing_runs_says_that_it_is_there(bench: Bench) -> None:
    bench.agent.step(0.0)
    assert bench.agent.next_step_at(0.0) == IDLE_RENEW_S < LIVE_S
    bench.agent.step(IDLE_RENEW_S)
    assert [renew.attempts for renew in bench.line.calls("renew")] == [{}]
    bench.line.reply("renew", messages.Renewed("running", {}))
    assert bench.agent.next_step_at(IDLE_RENEW_S) == 2 * IDLE_RENEW_S


def test_hello_names_what_runs_is_fetched_or_is_not_reported(bench: Bench) -> None:
    other = MapTask("j", "m-000001.e1.1", 1, (), "s", 2, 1 << 20)
    bench.give(MAP_TASK, other, pages=(other.attempt,))
    bench.finish(DONE)
    bench.agent.step(0.0)
    bench.lose()
    assert bench.connect().running == (MAP, other.attempt)
    assert [report.map.attempt for report in bench.line.calls("report")] == [MAP]
    assert [ask.since for ask in bench.line.calls("pieces")] == [0]


def test_while_slots_are_busy_it_asks_for_tasks_to_read_ahead(bench: Bench) -> None:
    bench.pool.ahead = True
    other = MapTask("j", "m-000001.e1.1", 1, (), "s", 2, 1 << 20)
    bench.give(MAP_TASK, other)
    bench.agent.step(1.0)
    assert [(poll.free, poll.ahead) for poll in bench.line.calls("poll")] == [(2, True)]
    bench.finish(DONE)
    bench.agent.step(2.0)
    assert [(poll.free, poll.ahead) for poll in bench.line.calls("poll")] == [(2, True), (1, False)]


def test_a_draining_worker_gives_back_what_it_reads_ahead(bench: Bench) -> None:
    bench.give(MAP_TASK)
    bench.pool.phase = WAITING
    bench.agent.drain(1.0)
    assert [release.attempt for release in bench.line.calls("release")] == [MAP]
    assert bench.said[-1] == "draining: nothing runs"


@pytest.mark.parametrize("how", ["lost reply", "down"])
def test_a_report_is_repeated_until_it_is_heard(bench: Bench, how: str) -> None:
    bench.give(MAP_TASK)
    if how == "down":
        bench.lose()
    bench.finish(DONE)
    bench.connect()
    bench.line.reply("report", OK)
    assert bench.connect().running == ()
    assert not bench.line.calls("report")


def test_a_report_that_is_refused_is_a_failure_of_its_attempt(bench: Bench) -> None:
    bench.give(MAP_TASK)
    bench.finish(DONE)
    bench.line.reply("report", MrfastError("no such index"))
    (report,) = bench.line.calls("report")
    assert report.failure == Failure(MAP, "refused", "the report was refused: no such index")
    bench.line.reply("report", MrfastError("not that one either"))
    assert not bench.line.calls("report")
    assert bench.connect().running == ()


def test_pieces_are_fetched_page_by_page(bench: Bench) -> None:
    piece = Piece("p", "u", 9, "e", 0, 9)
    bench.give(MAP_TASK, pages=(MAP,))
    bench.line.reply("pieces", messages.PiecesPage((piece,), 1))
    assert not bench.pool.tasks
    assert bench.line.reply("pieces", messages.PiecesPage((piece,), None)).since == 1
    assert bench.pool.tasks[MAP].pieces == (piece, piece)


def test_pieces_that_are_refused_are_given_back(bench: Bench) -> None:
    bench.give(MAP_TASK, pages=(MAP,))
    bench.line.reply("pieces", MrfastError("unknown"))
    assert [release.attempt for release in bench.line.calls("release")] == [MAP]


def test_outputs_reach_their_slot(bench: Bench) -> None:
    bench.give(REDUCE_TASK)
    bench.wants(0)
    bench.line.reply("outputs", messages.OutputsPage((), 0))  # the wait was over: it is asked again
    bench.line.reply("outputs", messages.OutputsPage((SEGMENT,), 1))
    assert bench.child.answers == [((SEGMENT,), 1, False)]
    bench.wants(1)
    assert bench.line.reply("outputs", messages.OutputsPage((), 1, True)).since == 1
    assert bench.child.answers[1:] == [((), 1, True)]


def test_a_reduce_that_goes_on_after_a_complete_table_does_not_ask_without_a_pause(bench: Bench) -> None:
    bench.give(REDUCE_TASK)
    bench.wants(0)
    bench.line.reply("outputs", messages.OutputsPage((SEGMENT,), 1, True))
    bench.bad(3.0)
    bench.wants(1, 3.0)
    bench.line.reply("bad_input", OK)
    bench.agent.step(3.0)
    assert not bench.line.calls("outputs")
    bench.agent.step(3.0 + ASK_AGAIN_S)
    assert [ask.since for ask in bench.line.calls("outputs")] == [1]


@pytest.mark.parametrize("how", ["outputs", "renew"])
def test_a_cancelled_attempt_is_not_reported(bench: Bench, how: str) -> None:
    bench.give(REDUCE_TASK)
    bench.wants(0)
    bench.agent.step(5.0)
    if how == "outputs":
        bench.line.reply("outputs", messages.OutputsPage((), 0, word="cancel"))
    else:
        bench.line.reply("renew", messages.Renewed("running", {REDUCE: "cancel"}))
        bench.line.reply("outputs", messages.OutputsPage((SEGMENT,), 1))  # comes late, for nobody
    bench.wants(0)  # what the slot had said before it was ended
    bench.bad()
    assert not bench.pool.tasks
    assert not bench.child.answers
    for method in ("report", "release", "outputs", "bad_input"):
        assert not bench.line.calls(method)
    assert bench.connect().running == ()


def test_a_bad_input_is_repeated_while_its_reduce_runs(bench: Bench) -> None:
    bench.give(REDUCE_TASK)
    bench.bad()
    assert [(call.map_index, call.map_attempt) for call in bench.line.calls("bad_input")] == [(0, MAP)]
    bench.lose()
    bench.wants(1)
    bench.connect()
    assert [name for name, *_ in bench.line.open] == ["bad_input", "outputs"]  # in this order
    bench.line.reply("bad_input", MrfastError("not now"))
    bench.connect()
    bench.line.reply("bad_input", OK)
    bench.connect()
    assert not bench.line.calls("bad_input")
    bench.bad()
    bench.lose()
    bench.finish(Failure(REDUCE, "died", "killed"))
    bench.connect()
    assert not bench.line.calls("bad_input")


@pytest.mark.parametrize("drain_s", [0.0, 30.0])
def test_a_draining_worker_waits_and_then_gives_back(drain_s: float) -> None:
    bench = Bench(drain_s=drain_s)
    bench.connect()
    bench.give(MAP_TASK)
    bench.agent.step(0.0)
    bench.agent.drain(1.0)
    bench.agent.drain(2.0)  # a second signal changes nothing
    assert bench.said[-1] == "draining: 1 running, no new tasks"
    bench.line.reply("poll", messages.Tasks("running", (), (REDUCE_TASK,)))
    assert [release.attempt for release in bench.line.calls("release")] == [REDUCE]
    if drain_s:
        bench.agent.step(drain_s)
        assert not bench.agent.over
        assert bench.agent.next_step_at(drain_s) == 1.0 + drain_s
    bench.agent.step(1.0 + drain_s)
    assert bench.agent.over
    assert bench.agent.end is None
    assert not bench.pool.tasks
    assert [release.attempt for release in bench.line.calls("release")] == [REDUCE, MAP]


def test_a_draining_worker_waits_a_moment_for_the_answer_to_its_last_report(bench: Bench) -> None:
    bench.give(MAP_TASK)
    bench.agent.drain(0.0)
    bench.finish(DONE, 89.0)
    bench.agent.step(90.0)
    assert not bench.agent.over
    assert bench.agent.next_step_at(90.0) is not None
    bench.agent.step(90.0 + FAREWELL_S)
    assert bench.agent.over


def test_a_draining_worker_whose_line_is_lost_keeps_its_task_until_the_time_is_up(bench: Bench) -> None:
    bench.give(MAP_TASK)
    bench.agent.drain(0.0)
    bench.lose()
    bench.agent.step(1.0)
    assert not bench.agent.over
    bench.connect()
    bench.finish(DONE, 2.0)
    bench.line.reply("report", OK)
    bench.agent.step(2.0)
    assert bench.agent.over


def test_the_end_of_the_job_is_the_end_of_the_worker(bench: Bench) -> None:
    bench.agent.step(0.0)
    bench.line.reply("poll", messages.Tasks("done"))
    assert (bench.agent.over, bench.agent.end) == (True, None)
    failed = Bench()
    failed.connect()
    failed.give(MAP_TASK)
    failed.finish(Failure(MAP, "app", "bad day"))
    failed.line.reply("report", messages.Word("failed", "accepted", "ValueError: bad day"))
    assert failed.agent.over
    assert isinstance(failed.agent.end, JobFailed)
    assert "bad day" in str(failed.agent.end)


def test_what_ends_a_worker_with_an_error(bench: Bench) -> None:
    bench.lose()
    bench.line.up = True
    bench.agent.hello()
    other = messages.JobInfo("other", None, "s", "o", 2, 10.0, 2.0)
    bench.line.reply("hello", other)
    assert isinstance(bench.agent.end, CoordinatorLost)
    refused = Bench()
    refused.agent.on(Refused(refused.child, AppError("no map")), 0.0)  # type: ignore[arg-type]
    assert refused.agent.over
    assert isinstance(refused.agent.end, AppError)


def test_what_is_printed_goes_with_the_next_renewal_and_the_rest_with_the_report(bench: Bench) -> None:
    bench.agent.printed("", "loads\n")
    bench.give(MAP_TASK, now=1.0)
    bench.agent.printed(MAP, "one\n")
    bench.agent.step(3.0)
    assert [renew.printed for renew in bench.line.calls("renew")] == [{"": "loads\n", MAP: "one\n"}]
    bench.agent.printed(MAP, "two\n")
    bench.agent.printed("m-000007.e1.1", "another's\n")
    bench.finish(DONE, 3.5)
    assert [report.printed for report in bench.line.calls("report")] == [{MAP: "two\n"}]


def test_what_is_printed_without_a_line_waits_for_one(bench: Bench) -> None:
    bench.give(MAP_TASK)
    bench.lose()
    bench.agent.printed(MAP, "meanwhile\n")
    bench.finish(DONE, 1.0)
    bench.connect()
    assert [report.printed for report in bench.line.calls("report")] == [{MAP: "meanwhile\n"}]


def test_a_report_with_all_that_it_may_hold_fits_in_a_frame() -> None:
    index = b"x" * (messages.INDEX_BYTES_MAX - len("{}"))  # no counters
    printed = {"": '"' * CALL_BYTES_MAX, MAP: '"' * ATTEMPT_BYTES_MAX}
    report = messages.report_message("w" * 32, replace(DONE, index=index), {}, printed)
    assert report.map is not None and report.map.index == index
    assert len(request(1, "report", encode(report))) < FRAME_BYTES_MAX - 100_000
