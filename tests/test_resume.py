"""Jobs that go on: after each record of the journal, after kills and failures, and never beside another's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journals import MemoryFile, MemoryJournals
from test_cli import Shell
from test_job_driver import APP, Run, make_spec

from mrfast.control.event_files import find_events
from mrfast.control.job import JobDriver
from mrfast.control.journal import read_lines
from mrfast.index import TRAILER_MAGIC, SegmentIndex
from mrfast.model import Failure, InputObject, MapReport, MapTask, ReduceTask, inter_key
from mrfast.storage import base, open_store

MAPS = 3


class Made(Run):
    """A run whose map objects can be read again, and differ from attempt to attempt if they are to."""

    nonce = 0

    def map_report(self, task: MapTask, text: bytes = b"x") -> MapReport:
        index = SegmentIndex([1, 0], [1, 0], [7 + self.nonce, 0], key_kind="str")
        packed = index.pack()
        data = text + packed + len(packed).to_bytes(4, "little") + TRAILER_MAGIC
        self.store.put(inter_key(task.job, task.attempt), data)
        return MapReport(task.attempt, len(data), "0" * 16, packed, 3, 1, 10)

    def resumed(self, records: int | None = None) -> Made:
        """A later coordinator, that finds so many records of the last journal (all of them)."""
        journals = self.driver._journals
        assert isinstance(journals, MemoryJournals)
        last = max(journals.files, default=0)
        if records is not None:
            cut = MemoryFile()
            cut.write(b"".join(journals.files[last].data.splitlines(keepends=True)[:records]))
            journals.files[last] = cut
        later = Made(self.spec)
        later.driver = JobDriver(self.spec, store=later.store, journals=journals, resume=True)
        later.start()
        return later

    def journal(self) -> list[dict[str, Any]]:
        journals = self.driver._journals
        assert isinstance(journals, MemoryJournals)
        return [dict(record) for record in read_lines(journals.files[max(journals.files)].data, "here")]

    def parts(self) -> list[bytes]:
        return [base.read(self.output, f"mr-out-{i}") for i in range(2)]


def made(**changes: Any) -> Made:
    spec = make_spec(**changes)
    inputs = tuple(InputObject(f"{i}.txt", f"{spec.store_url}/{i}.txt", 10, "e") for i in range(MAPS))
    run = Made(replace(spec, inputs=inputs))
    run.start()
    return run


def accepted(records: list[dict[str, Any]]) -> set[str]:
    """The tasks that these records say are done."""
    done: dict[str, str] = {}
    for record in records:
        if record["k"] in ("map", "reduce"):
            attempt = record.get("a") or record["report"]["attempt"]
            done[attempt.split(".")[0]] = attempt
    return set(done)


@pytest.mark.parametrize("records", range(1, 2 + MAPS + 2 + 1))
def test_after_any_record_it_goes_on_and_does_nothing_again(records: int) -> None:
    first = made()
    tasks = list(first.driver.poll("w", 9, 0.0))
    for task in tasks:
        assert isinstance(task, MapTask)
        first.driver.report("w", first.map_report(task), 0.0)
    for reduce in first.driver.poll("w", 9, 0.0):
        assert isinstance(reduce, ReduceTask)
        first.driver.report("w", first.reduce_report(reduce), 0.0)
    first.driver.write_journal()  # and it dies before the commit
    assert len(first.journal()) == 2 + MAPS + 2  # begin, plan, maps, reduces
    known = accepted(first.journal()[:records])
    second = first.resumed(records)
    ran: set[str] = set()
    while given := second.driver.poll("w", 9, 0.0):
        for task in given:
            ran.add(task.attempt.split(".")[0])
            report = second.map_report(task) if isinstance(task, MapTask) else second.reduce_report(task)
            assert second.driver.report("w", report, 0.0) == "accepted"
        second.effects()
    assert ran.isdisjoint(known)
    assert ran | known == {f"m-{i:06d}" for i in range(MAPS)} | {"r-00000", "r-00001"}
    assert second.driver.state == "COMMITTED"
    assert second.parts() == [b"part 0", b"part 1"]


def test_failures_before_the_resume_count() -> None:
    first = made(attempts_max=2)
    task = first.driver.poll("w", 1, 0.0)[0]
    first.driver.report("w", Failure(task.attempt, "app", "ValueError: once"), 0.0)
    first.driver.write_journal()
    second = first.resumed()
    task = next(each for each in second.driver.poll("w", 9, 50.0) if each.attempt.startswith("m-000000"))
    second.driver.report("w", Failure(task.attempt, "app", "ValueError: twice"), 50.0)
    assert second.driver.state == "FAILED"
    assert "once" in str(second.driver.error), "the first traceback is the one to read"


def test_a_failed_job_that_is_resumed_has_all_its_attempts_again() -> None:
    first = made(attempts_max=1)
    tasks = first.driver.poll("w", 9, 0.0)
    first.driver.report("w", first.map_report(tasks[1]), 0.0)  # type: ignore[arg-type]
    first.driver.report("w", Failure(tasks[0].attempt, "app", "ValueError: no"), 0.0)
    first.effects()
    assert first.driver.state == "FAILED"
    failed = f"jobs/{first.spec.job}/failed.json"
    assert [info.key for info in first.store.list(failed)] == [failed]
    said = str(first.driver.error)
    assert f"mrfast-coordinator --resume {first.spec.job}" in said
    assert f"mrfast clean {first.spec.job}" in said
    second = first.resumed()
    assert not list(first.store.list(failed))
    assert [task.attempt for task in second.driver.poll("w", 2, 0.0)] == ["m-000000.e2.1", "m-000002.e2.1"]
    second.finish_running()
    assert second.driver.state == "COMMITTED"


@pytest.mark.parametrize("same", [True, False])
def test_a_lost_map_and_its_other_bytes_are_known_to_the_next_epoch(same: bool) -> None:
    first = made()
    maps = first.driver.poll("w", 9, 0.0)
    for task in maps:
        first.driver.report("w", first.map_report(task), 0.0)  # type: ignore[arg-type]
    done, waits = first.driver.poll("w", 9, 0.0)
    first.driver.report("w", first.reduce_report(done), 0.0)  # type: ignore[arg-type]
    lost = maps[0].attempt
    first.store.delete(inter_key(first.spec.job, lost))
    first.driver.bad_input("w", waits.attempt, 0, lost, "missing", 0.0)
    first.effects()
    again = first.driver.poll("w", 1, 0.0)[0]
    first.nonce = 0 if same else 1
    first.driver.report("w", first.map_report(again), 0.0)  # type: ignore[arg-type]
    first.driver.write_journal()
    second = first.resumed()
    given = [task.attempt.split(".")[0] for task in second.driver.poll("w", 9, 100.0)]
    assert given == (["r-00001"] if same else ["r-00000", "r-00001"])


def test_a_committed_job_is_published_again() -> None:
    first = made()
    first.finish()
    first.output.delete("mr-out-1")
    second = first.resumed()
    assert second.driver.state == "COMMITTED"
    assert second.parts() == [b"part 0", b"part 1"]
    assert second.driver.result == first.driver.result


def test_tasks_are_handed_out_before_the_indexes_are_read() -> None:
    first = made()
    for task in first.driver.poll("w", 2, 0.0):
        first.driver.report("w", first.map_report(task), 0.0)  # type: ignore[arg-type]
    first.driver.write_journal()
    driver = JobDriver(first.spec, store=first.store, journals=first.driver._journals, resume=True)
    assert not driver.begun
    for name in ("begin", "plan"):
        (effect,) = driver.effects()
        assert effect.name == name
        driver.effect_done(effect, effect.run(), 0.0)
    assert driver.begun
    assert [effect.name for effect in driver.effects()] == ["indexes"]
    driver.hello("w", 1, APP, 0.0)
    assert [task.attempt for task in driver.poll("w", 1, 0.0)] == ["m-000002.e2.1"]


# The commands

SLOW = """
import os
def map(name, contents):
    {map}
    for word in contents.decode().split():
        yield word, 1
def reduce(key, values):
    return sum(values)
"""


def journals(shell: Shell) -> list[dict[str, Any]]:
    files = sorted((shell.folder / "mrfast-store/jobs").glob("*/journal/*.log"), key=lambda path: int(path.stem))
    return [dict(record) for path in files for record in read_lines(path.read_bytes(), str(path))]


def write_inputs(shell: Shell) -> None:
    for i in range(6):
        (shell.folder / f"{i}.txt").write_text(f"a b{i} " * 50)


def until(true: Any) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def killed_job(shell: Shell) -> None:
    """A job of six maps of which three are done, and its process gone."""
    write_inputs(shell)
    app = shell.app(
        SLOW.format(map="\n    if name.endswith('3.txt'): os.mkfifo(name + '.p'); open(name + '.p').close()")
    )
    process = shell.start("run", app, *(f"{i}.txt" for i in range(6)), "-w", "1", "-r", "2", "--job", "nightly")
    until(lambda: len(accepted(journals(shell))) == 3 and (shell.folder / "3.txt.p").exists())
    process.kill()
    process.communicate()
    until(lambda: not slots_of(process))


def slots_of(process: subprocess.Popen[bytes]) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == process.pid]


def parent_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_a_killed_run_goes_on_where_it_was(shell: Shell) -> None:
    killed_job(shell)
    before = accepted(journals(shell))
    assert "has not ended" in shell.fails("clean", "nightly", code=2)
    shell.app(SLOW.format(map="pass"))  # another app by now
    assert "use the same file, unchanged" in shell.fails("run", "--resume", "nightly", code=2)
    os.remove(shell.folder / "3.txt.p")
    again = SLOW.format(map="\n    if name.endswith('3.txt'): os.mkfifo(name + '.p'); open(name + '.p').close()")
    shell.app(again)
    process = shell.start("run", "--resume", "nightly", "-w", "1")
    until((shell.folder / "3.txt.p").exists)
    with (shell.folder / "3.txt.p").open("w"):
        pass
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    records = journals(shell)
    later = accepted(records[[record["k"] for record in records].index("begin", 1) :])
    assert before.isdisjoint(later)
    (output,) = (shell.folder / "mrfast-store/out").iterdir()
    words = b"".join((output / f"mr-out-{i}").read_bytes() for i in range(2)).splitlines()
    assert sorted(words) == sorted([b"a 300", *(b"b%d 50" % i for i in range(6))])
    assert shell("run", "--resume", "nightly").returncode == 0, "it is committed: nothing to do"
    assert shell("clean", "nightly").returncode == 0
    assert sorted(path.name for path in output.iterdir())[-1] == "mr-out-1", "the result stays"


def test_the_wrong_ways_to_resume(shell: Shell) -> None:
    assert "has no job 'nope'" in shell.fails("run", "--resume", "nope", code=3)
    assert "has no job 'nope'" in shell.fails("--resume", "nope", code=3, name="coordinator_main")
    assert "has no job 'nope'" in shell.fails("clean", "nope", code=3)
    assert "leave out INPUT" in shell.fails("run", "app.py", "in.txt", "--resume", "nope", code=2)
    assert "leave out --reduces" in shell.fails("run", "--resume", "nope", "-r", "3", code=2)
    assert "leave out INPUT" in shell.fails("in.txt", "--resume", "nope", code=2, name="coordinator_main")


def test_a_failed_run_says_how_to_go_on_and_how_to_be_rid_of_it(shell: Shell) -> None:
    write_inputs(shell)
    app = shell.app(SLOW.format(map="assert not name.endswith('5.txt')"))
    said = shell.fails("run", app, *(f"{i}.txt" for i in range(6)), "-w", "1", "--job", "fails", code=1)
    job = next((shell.folder / "mrfast-store/jobs").iterdir()).name
    assert f"mrfast run --resume {job}" in said
    assert f"mrfast clean {job}" in said
    assert list((shell.folder / "mrfast-store").rglob("m-00000*")), "what was done is kept"
    assert shell("clean", "fails").returncode == 0
    assert not [path for path in (shell.folder / "mrfast-store").rglob("*") if path.is_file()]


@pytest.mark.parametrize("keep", [True, False])
def test_intermediates_stay_only_when_they_are_to(shell: Shell, keep: bool) -> None:
    app = shell.app(SLOW.format(map="pass"))
    assert shell("run", app, "in.txt", *(["--keep-intermediate"] if keep else [])).returncode == 0
    assert bool(list((shell.folder / "mrfast-store").rglob("m-000000*"))) == keep


def test_a_coordinator_that_is_stopped_can_be_resumed(shell: Shell) -> None:
    write_inputs(shell)
    app = shell.app(SLOW.format(map="pass"))
    listen = ("--listen", "127.0.0.1:0")
    first = shell.start(
        *(f"{i}.txt" for i in range(6)), "-r", "2", "--job", "stopped", *listen, name="coordinator_main"
    )
    assert first.stderr is not None
    assert b"listening on" in first.stderr.readline()
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 143
    assert b"mrfast-coordinator --resume stopped --store" in said
    assert b'"STOPPED"' in find_events("stopped", str(shell.folder / "mrfast-store"))[-1]
    second = shell.start("--resume", "stopped", *listen, name="coordinator_main")
    assert second.stderr is not None
    where = second.stderr.readline().split()[3].rstrip(b";").decode()
    worker = shell(app, where, name="worker_main")
    assert worker.returncode == 0, worker.stderr
    second.communicate(timeout=60)
    assert second.returncode == 0
    log = find_events("stopped", str(shell.folder / "mrfast-store"))
    assert b'"resumed":true' in log[0]
    assert b'"COMMITTED"' in log[-1]


def test_a_resumed_store_is_the_one_that_is_named(shell: Shell) -> None:
    app = shell.app(SLOW.format(map="pass"))
    assert shell("run", app, "in.txt", "--store", "elsewhere", "--job", "there").returncode == 0
    assert "has no job 'there'" in shell.fails("run", "--resume", "there", code=3)
    assert shell("run", "--resume", "there", "--store", "elsewhere").returncode == 0
    assert open_store(str(shell.folder / "elsewhere")).url


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
