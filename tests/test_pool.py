"""Slots as real processes: what they load, run, print, and how the pool knows that one has died."""

from __future__ import annotations

import os
import selectors
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrfast.app import App, load_app
from mrfast.errors import AppError
from mrfast.index import SegmentIndex
from mrfast.model import Failure, MapReport, MapTask, Piece, ReduceReport, ReduceTask, Segment
from mrfast.storage import open_store, split_url
from mrfast.storage.base import read
from mrfast.tasks.frames import SharedProgress, Unpacker, pack
from mrfast.tasks.pool import Event, Finished, Ready, Refused, SlotPool, Wanted

WAIT_S = 30
WORDS = """
def map(filename, contents):
    {body}
    for word in contents.decode().split():
        yield word, 1
def reduce(key, values):
    return sum(values)
"""


class Bench:
    """A pool of one application, its events one by one, and tasks over one input file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = open_store(str(folder / "store"))
        self.selector = selectors.DefaultSelector()
        self.printed: list[tuple[str, str]] = []
        self.pool: SlotPool = None  # type: ignore[assignment]
        self._events: list[Event] = []

    def start(self, app: str | Callable[[], App], slots: int = 1) -> SlotPool:
        if isinstance(app, str):
            path = self.folder / "app.py"
            path.write_text(textwrap.dedent(app))
            source = lambda: load_app(str(path))  # noqa: E731
        else:
            source = app
        self.pool = SlotPool(source, slots, self.selector, on_printed=self._print)
        self.pool.start(slots)
        return self.pool

    def next(self, kind: type[Any]) -> Any:
        while not self._events:
            self._events += self.pool.wait(WAIT_S)
        event = self._events.pop(0)
        assert isinstance(event, kind), event
        return event

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._events += self.pool.wait(WAIT_S)

    def map_task(self, text: str = "a b a", attempt: str = "m-000000.e1.1") -> MapTask:
        path = self.folder / "in.txt"
        path.write_text(text)
        root, key = split_url(str(path))
        info = open_store(root).stat(key)
        piece = Piece("in.txt", str(path), info.size, info.etag, 0, info.size)
        return MapTask("j" * 32, attempt, 0, (piece,), self.store.url, 1, 1 << 26)

    def failure_of(self, body: str) -> Failure:
        """What the failed map whose first statement is `body` is reported as."""
        self.start(WORDS.format(body=body))
        self.pool.send(self.map_task())
        self.next(Ready)
        report = self.next(Finished).report
        assert isinstance(report, Failure)
        return report

    def close(self) -> None:
        self.pool.close()
        self.selector.close()

    def _print(self, attempt: str, text: str) -> None:
        self.printed.append((attempt, text))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_task_runs_and_its_slot_is_used_again(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="pass"))
    ready = bench.next(Ready)
    assert ready.info.name.endswith("app.py")
    pids = set()
    for number in range(1, 4):
        slot = pool.send(bench.map_task(attempt=f"m-000000.e1.{number}"))
        pids.add(slot.pid)
        report = bench.next(Finished).report
        assert isinstance(report, MapReport)
        assert (report.records_in, report.attempt) == (3, f"m-000000.e1.{number}")
    assert len(pids) == 1
    assert pool.free == 1


def test_a_reduce_gets_its_segments_page_by_page(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="pass"))
    pool.send(bench.map_task("b a b"))
    bench.next(Ready)
    report = bench.next(Finished).report
    offset, length, records, xxh3 = SegmentIndex.unpack(report.index).segment(0)
    segment = Segment(0, report.attempt, offset, length, records, xxh3, "str", report.xxh3)
    pool.send(ReduceTask("j" * 32, "r-00000.e1.1", 0, 1, bench.store.url, 1 << 26))
    wanted = bench.next(Wanted)
    assert (wanted.attempt, wanted.since) == ("r-00000.e1.1", 0)
    wanted.slot.answer([segment], 1, False)
    again = bench.next(Wanted)
    assert again.since == 1
    again.slot.answer([], 1, True)
    done = bench.next(Finished).report
    assert isinstance(done, ReduceReport)
    assert read(bench.store, f"jobs/{'j' * 32}/out/r-00000.e1.1") == b"a 1\nb 2\n"


def test_functions_reach_their_slots_by_fork(bench: Bench) -> None:
    unpicklable = (word for word in ("x", "y"))
    app = App.from_functions(map=lambda name, data: [(word, 1) for word in unpicklable], reduce=lambda k, v: sum(v))
    bench.start(lambda: app).send(bench.map_task())
    bench.next(Ready)
    assert bench.next(Finished).report.records_in == 2


def test_more_tasks_start_more_slots_up_to_the_limit(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="pass"), slots=1)
    pool.slots_max = 2
    first = pool.send(bench.map_task(attempt="m-000000.e1.1"))
    second = pool.send(bench.map_task(attempt="m-000001.e1.1"))
    assert first is not second
    assert pool.free == 0
    assert set(pool.running()) == {"m-000000.e1.1", "m-000001.e1.1"}


def test_an_exception_is_reported_with_the_users_frames(bench: Bench) -> None:
    report = bench.failure_of("raise ValueError('no good')")
    assert (report.kind, report.message, report.counted) == ("app", "ValueError: no good", True)
    assert "app.py" in report.traceback
    assert "mrfast/tasks" not in report.traceback
    assert report.input == "in.txt"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_deadly_signal_is_reported_by_name_and_the_slot_replaced(bench: Bench, name: str) -> None:
    report = bench.failure_of(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert report.kind == "died"
    assert report.counted
    assert not report.fatal
    assert name in report.message
    assert report.input == "in.txt"
    assert ("out of memory?" in report.message) == (name == "SIGKILL")
    (bench.folder / "app.py").read_text()
    assert not bench.pool.slots
    assert bench.pool.free == 1


def test_a_segfault_in_native_code_is_survived(bench: Bench) -> None:
    said = bench.failure_of("import ctypes; ctypes.string_at(0)").message
    assert "SIGSEGV" in said
    assert said.splitlines()[0].endswith("SIGSEGV")
    assert 'app.py", line 3 in map' in said
    assert "mrfast/tasks" not in said
    assert bench.printed == []


def test_an_exit_is_reported_with_its_code_and_the_last_words(bench: Bench) -> None:
    report = bench.failure_of("import os, sys; print('about to go', file=sys.stderr, flush=True); os._exit(7)")
    assert report.kind == "died"
    assert "exit code 7" in report.message
    assert report.message.endswith("about to go")


def test_sys_exit_fails_the_task_and_spares_the_slot(bench: Bench) -> None:
    assert bench.failure_of("raise SystemExit(3)").kind == "app"
    assert len(bench.pool.slots) == 1


def test_last_words_are_bounded(bench: Bench) -> None:
    report = bench.failure_of("import os; os.write(2, b'x' * 100_000); os._exit(1)")
    assert 4000 < len(report.message) < 4500
    assert sum(len(text) for _, text in bench.printed) < 70_000


def test_what_an_app_prints_goes_to_the_output_callback(bench: Bench) -> None:
    bench.start(WORDS.format(body="print('to stdout', contents)")).send(bench.map_task())
    bench.next(Ready)
    bench.next(Finished)
    assert bench.printed == [("m-000000.e1.1", "to stdout b'a b a'\n")]


def printed(bench: Bench, attempt: str) -> str:
    return "".join(text for its, text in bench.printed if its == attempt)


def test_what_each_attempt_prints_has_its_name_to_the_last_line_without_an_end(bench: Bench) -> None:
    body = "print(contents); print('no end', end='', flush=True); import subprocess; subprocess.run(['echo', ' there'])"
    pool = bench.start("print('loads')\n" + WORDS.format(body=body + "; print('half', end='')"))
    for number in (1, 2):
        pool.send(bench.map_task(text=f"text {number}", attempt=f"m-000000.e1.{number}"))
        if number == 1:
            bench.next(Ready)
        bench.next(Finished)
        assert printed(bench, f"m-000000.e1.{number}") == f"b'text {number}'\nno end there\nhalf\n"
    assert printed(bench, "") == "loads\n"


def test_a_flood_is_bounded_and_counted_and_does_not_hold_up_what_else_happens(bench: Bench) -> None:
    body = "import subprocess; contents[0] == 89 and subprocess.run('yes | head -c 50000000', shell=True)"
    pool = bench.start(WORDS.format(body=body), slots=2)
    pool.send(bench.map_task(text="Y", attempt="m-000000.e1.1"))
    bench.next(Ready)
    bench.until(lambda: bool(pool.resting))
    pool.send(bench.map_task(text="quiet", attempt="m-000000.e1.2"))
    finished = []
    bench.until(lambda: len(bench._events) >= 3)
    finished = [event.report.attempt for event in bench._events if isinstance(event, Finished)]
    assert finished == ["m-000000.e1.2", "m-000000.e1.1"]
    *lines, last = printed(bench, "m-000000.e1.1").splitlines()
    assert set(lines) == {"y"}
    assert len(lines) == 1024
    assert last == f"... {50_000_000 - 2 * len(lines):,} more bytes in {25_000_000 - len(lines):,} lines left out"


def test_the_last_that_a_flooding_process_printed_is_known(bench: Bench) -> None:
    body = "import os; os.system('yes 2>/dev/null | head -c 1000000'); os.write(2, b'the end'); os._exit(1)"
    assert bench.failure_of(body).message.endswith("y\nthe end")


def test_a_grandchild_that_holds_everything_open_does_not_hide_a_death(bench: Bench) -> None:
    body = "import os, signal\n    if os.fork() == 0: signal.pause()\n    os._exit(9)"
    assert "exit code 9" in bench.failure_of(body).message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def map(a, b): pass", "no `reduce`"),
        ("def map(:", "invalid syntax"),
        ("raise KeyError('x')", "KeyError: 'x'"),
    ],
)
def test_an_app_that_does_not_load_is_refused_once(bench: Bench, source: str, said: str) -> None:
    bench.start(source)
    refused = bench.next(Refused)
    assert isinstance(refused.error, AppError)
    assert said in str(refused.error)
    bench.until(lambda: not bench.pool.slots)
    assert not bench._events


def test_a_segfault_while_the_app_loads_is_refused(bench: Bench) -> None:
    bench.start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    error = bench.next(Refused).error
    assert isinstance(error, AppError)
    assert "SIGSEGV" in str(error)


def test_an_app_that_changes_while_it_runs_is_refused(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="pass"))
    bench.next(Ready)
    pool.slots_max = 2
    (bench.folder / "app.py").write_text(WORDS.format(body="filename += ''"))
    pool.start(2)
    assert "was changed while the job was running" in str(bench.next(Refused).error)


def test_cancel_ends_the_attempt_without_a_report(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="print('here'); import signal; signal.pause()"))
    slot = pool.send(bench.map_task(attempt="m-000000.e1.1"))
    bench.next(Ready)
    bench.until(lambda: "here" in printed(bench, "m-000000.e1.1"))
    pool.cancel("m-000000.e1.1")
    assert not pool.slots
    with pytest.raises(ProcessLookupError):
        os.kill(slot.pid, 0)
    (bench.folder / "app.py").read_text()
    pool.cancel("m-000000.e1.1")
    assert not bench._events


def test_slots_ignore_ctrl_c_and_sigterm(bench: Bench) -> None:
    pool = bench.start(WORDS.format(body="import os, signal; [os.kill(os.getpid(), s) for s in (2, 15)]"))
    pool.send(bench.map_task())
    bench.next(Ready)
    assert isinstance(bench.next(Finished).report, MapReport)


def test_slots_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(WORDS.format(body="pass"))
    read_end, write_end = os.pipe()
    parent = os.fork()
    if not parent:
        os.close(read_end)  # from here on only this process and its slots hold the pipe
        pool = SlotPool(lambda: load_app(str(tmp_path / "app.py")), 2, selectors.DefaultSelector())
        pool.start(2)
        ready = 0
        while ready < 2:
            for key, _ in pool.selector.select():
                ready += sum(isinstance(event, Ready) for event in key.data())
        os.write(write_end, b"2")
        signal.pause()
    os.close(write_end)
    assert os.read(read_end, 1) == b"2"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(read_end, 1) == b""  # the end of file comes when the last of them is gone
    os.close(read_end)


def test_documents_survive_any_cut_of_their_bytes() -> None:
    documents = [{"a": ["x" * n, n]} for n in (0, 1, 300)]
    stream = b"".join(map(pack, documents))
    unpacker = Unpacker()
    assert [found for byte in stream for found in unpacker.feed(bytes([byte]))] == documents
    assert Unpacker().feed(stream) == documents


def test_shared_progress_is_read_whole() -> None:
    from mrfast.model import Progress

    shared = SharedProgress()
    assert shared.read() == Progress()
    shared.write(Progress("map", 1, 2, 3))
    assert shared.read() == Progress("map", 1, 2, 3)
    shared.clear()
    assert shared.read() == Progress()
    shared.close()
