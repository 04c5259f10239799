"""The journal: what it gives back after a kill, a power cut, a full disk and a move to another machine."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import MemoryFile, MemoryJournals
from test_job_driver import Run, make_spec

from mrfast.control import journal_files
from mrfast.control.coordinator import Coordinator
from mrfast.control.effects import REST_S, Mirror
from mrfast.control.job import JobDriver
from mrfast.control.journal import Records, chain, encode_line, newest, read_lines
from mrfast.control.journal_files import (
    BATCH_RECORDS,
    Journal,
    JournalFiles,
    LogFile,
    claim_epoch,
    is_superseded,
    state_folder,
)
from mrfast.errors import DamagedJournal, JobTaken, StoreError
from mrfast.model import job_key
from mrfast.storage import Store, open_store

JOB = "0123456789abcdef" * 2
_numbers = itertools.count()

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
records = st.builds(
    lambda kind, rest: {"k": kind, **rest},
    st.text(max_size=10),
    st.dictionaries(st.text(max_size=5).filter(lambda name: name not in ("k", "n")), values, max_size=4),
)


def made(count: int) -> Records:
    return [{"k": "begin", "base": None}, *({"k": "map", "path": f"ü\n{n}"} for n in range(1, count))][:count]


def text(records: Records, first: int = 0) -> bytes:
    return b"".join(encode_line(first + n, record) for n, record in enumerate(records))


def begun(count: int, base: list[int] | None = None, tag: str = "") -> Records:
    return [{"k": "begin", "base": base}, *({"k": f"{tag}{n}"} for n in range(1, count))]


@pytest.fixture
def memory() -> Store:
    return open_store(f"memory://journal-{next(_numbers)}")


def put(store: Store, journal: Journal) -> list[str]:
    """The keys of the batches that go into the store now."""
    batches = journal.batches()
    for key, data in batches:
        store.put_if_absent(key, data)
    return [key for key, _ in batches]


def filled(files: JournalFiles, records: Records, epoch: int = 1) -> Journal:
    journal = files.open(epoch)
    for record in records:
        journal.append(record)
    journal.write()
    return journal


# The text of a journal.


@given(st.lists(records, max_size=8), st.integers(0, 10**6))
def test_what_was_written_is_read(written: Records, first: int) -> None:
    assert read_lines(text(written, first), "here", first) == written


@given(st.lists(records, min_size=1, max_size=5), st.data())
def test_a_cut_anywhere_leaves_whole_records_only(written: Records, data: st.DataObject) -> None:
    whole = text(written)
    cut = data.draw(st.integers(0, len(whole)))
    assert read_lines(whole[:cut], "here") == written[: whole[:cut].count(b"\n")]


def test_a_tail_torn_at_any_byte_is_left_out() -> None:
    written = made(3)
    whole, before = text(written), len(text(written[:2]))
    for cut in range(before, len(whole)):
        assert read_lines(whole[:cut], "here") == written[:2], cut
        # The file's new length, without its bytes.
        assert read_lines(whole[:cut].ljust(len(whole), b"\0"), "here") == written[:2], cut
        if cut < len(whole) - 1:
            assert read_lines(whole[:cut].ljust(len(whole) - 1, b"\0") + b"\n", "here") == written[:2], cut
    assert read_lines(whole, "here") == written


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_anywhere_before_the_last_lines_is_refused(flip: int) -> None:
    written = made(4)
    whole, end = text(written), len(text(written[:2]))
    for at in range(end):
        damaged = bytearray(whole)
        damaged[at] ^= flip
        with pytest.raises(DamagedJournal, match=r"^here: line [12] is damaged.*start the job again"):
            read_lines(bytes(damaged), "here")


def test_a_flipped_byte_in_the_last_line_never_gives_another_record() -> None:
    written = made(3)
    whole, before = text(written), len(text(written[:2]))
    for at in range(before, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x04
        assert read_lines(bytes(damaged), "here") == written[:2], at


def test_numbers_follow_each_other() -> None:
    lines = [encode_line(n, record) for n, record in enumerate(made(4))]
    wrong = [
        [lines[1], lines[2]],  # the first is missing
        [lines[0], lines[2], lines[3]],  # one in between is
        [lines[0], lines[2]],  # also where the last line is the one that does not follow
        [lines[0], lines[0]],
        [lines[0], lines[2], lines[1], lines[3]],
    ]
    for each in wrong:
        with pytest.raises(DamagedJournal):
            read_lines(b"".join(each), "here")
    with pytest.raises(DamagedJournal):
        read_lines(lines[0], "here", 1)


@pytest.mark.parametrize("record", [{}, {"k": 1}, {"k": None}])
def test_a_line_that_is_no_record_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(DamagedJournal):
        read_lines(encode_line(0, record) + encode_line(1, {"k": "map"}), "here")


# Which records count.


def test_without_a_begin_nothing_counts() -> None:
    assert chain({}) == [] and newest({}) is None
    assert chain({1: [], 2: [{"k": "map"}]}) == []


def test_an_epoch_builds_on_as_many_records_as_its_base_says() -> None:
    journals = {
        1: begun(5, tag="a"),
        2: begun(4, [1, 3], "b"),
        3: begun(2, [1, 4], "c"),  # lost the race for what 4 builds on
        4: begun(2, [2, 2], "d"),
        5: [],  # was claimed, and came no further
    }
    assert newest(journals) == (4, 2)
    assert chain(journals) == [*journals[1][:3], *journals[2][:2], *journals[4]]
    assert [record["k"] for record in chain(journals)] == ["begin", "a1", "a2", "begin", "b1", "begin", "d1"]
    assert chain({1: journals[1]}) == journals[1]


@pytest.mark.parametrize(
    "journals",
    [
        {2: begun(1, [1, 3])},
        {1: [], 2: begun(1, [1, 3])},
        {1: begun(2), 2: begun(1, [1, 3])},
        {1: [{"k": "map"}] * 3, 2: begun(1, [1, 3])},
        {1: begun(3), 2: begun(1, [1, 0])},
        {2: begun(3, [2, 1])},
        {1: begun(3, [2, 1]), 2: begun(3, [1, 1])},
    ],
)
def test_a_base_that_is_not_there_is_refused(journals: dict[int, Records]) -> None:
    with pytest.raises(DamagedJournal, match=r"the journal of epoch [12] .*start (it|the job) again"):
        chain(journals)


# Files.


def test_the_journal_of_a_folder_is_a_file_in_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    files = JournalFiles(store, JOB, str(tmp_path / "state"))
    written = made(BATCH_RECORDS + 1)
    journal = filled(files, written)
    journal.close_batch()
    assert journal.batches() == []
    path = tmp_path / "store" / job_key(JOB, "journal", "1.log")
    assert path.read_bytes() == text(written)  # before the sync, before the close: a kill takes nothing
    assert files.read() == {1: written}
    journal.close()
    assert not (tmp_path / "state").exists()


def test_counts_of_what_was_appended_and_of_what_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda _, name=name: synced.append(name))
    journal = Journal(LogFile(str(tmp_path / "job" / "1.log")))
    journal.sync()
    assert synced == []
    assert [journal.append(record) for record in made(3)] == [1, 2, 3]
    assert (journal.records, journal.synced) == (3, 0)
    journal.sync()
    assert journal.synced == 0 and synced == []  # nothing was written yet
    journal.write()
    journal.append({"k": "map"})
    journal.sync()
    assert (journal.records, journal.synced) == (4, 3)
    assert synced == ["fdatasync", "fsync", "fsync"]  # the folders too, once
    journal.write()
    journal.sync()
    journal.sync()
    assert journal.synced == 4 and synced[3:] == ["fdatasync"]
    journal.close()


def test_what_is_written_during_a_sync_is_not_called_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(LogFile(str(tmp_path / "1.log")))
    inside, go_on = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        inside.set()
        assert go_on.wait(60)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal.append({"k": "begin"})
    journal.write()
    thread = threading.Thread(target=journal.sync)
    thread.start()
    assert inside.wait(60)
    journal.append({"k": "map"})
    journal.write()
    go_on.set()
    thread.join()
    assert (journal.records, journal.synced) == (2, 1)
    journal.sync()
    assert journal.synced == 2
    journal.close()


def test_closing_writes_what_was_appended(tmp_path: Path) -> None:
    files = JournalFiles(open_store(str(tmp_path)), JOB, "")
    journal = files.open(1)
    journal.append({"k": "begin"})
    journal.close()
    assert files.read() == {1: [{"k": "begin"}]}


def test_an_epoch_has_one_writer(tmp_path: Path) -> None:
    files = JournalFiles(open_store(str(tmp_path)), JOB, "")
    files.open(1).close()
    with pytest.raises(StoreError, match=r"1\.log: File exists"):
        files.open(1)


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write the job's journal .*/job/1\.log: .*; .* resume the job"):
        LogFile(str(tmp_path / "job" / "1.log"))


def short_writes(*lengths: int) -> Callable[[int, bytes], int]:
    """An os.write that takes so many bytes at each call, then none: the disk is full."""
    left, real = list(lengths), os.write

    def write(descriptor: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: left.pop(0)])

    return write


def test_short_writes_write_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JournalFiles(open_store(str(tmp_path)), JOB, "")
    with monkeypatch.context() as patch:
        patch.setattr(journal_files.os, "write", short_writes(*[1, 2, 5] * 100))
        journal = filled(files, made(5))
    journal.close()
    assert files.read() == {1: made(5)}


@pytest.mark.parametrize("fits", [(), (1,), (30,), (30, 7)])
def test_a_full_disk_costs_what_it_could_not_hold_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: tuple[int, ...]
) -> None:
    """The job fails, which is appended too; when there is room again, the journal is whole and can be resumed from."""
    files = JournalFiles(open_store(str(tmp_path)), JOB, "")
    journal = filled(files, made(2))
    with monkeypatch.context() as patch:
        patch.setattr(journal_files.os, "write", short_writes(*fits))
        for kind in ("map", "reduce"):
            journal.append({"k": kind})
        with pytest.raises(StoreError, match=r"cannot write .*1\.log: No space left on device; make room"):
            journal.write()
        journal.append({"k": "end"})
        journal.sync()
        assert journal.synced == 2
        assert files.read() == {1: made(2) + [{"k": "map"}] * (sum(fits) >= 30)}  # 27 bytes
        with pytest.raises(StoreError):
            journal.write()
    journal.append({"k": "last"})
    journal.close()
    assert files.read() == {1: [*made(2), {"k": "map"}, {"k": "reduce"}, {"k": "end"}, {"k": "last"}]}


def test_a_failed_sync_makes_nothing_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = filled(JournalFiles(open_store(str(tmp_path)), JOB, ""), made(2))
    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(StoreError, match=r"1\.log: Input/output error"):
        journal.sync()
    assert journal.synced == 0
    journal.close()


def test_a_job_that_failed_for_a_full_disk_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(make_spec())
    here = JournalFiles(run.store, run.spec.job, str(tmp_path / "here"))
    run.driver = JobDriver(run.spec, store=run.store, journals=here)
    first, second = run.start().tasks()
    assert run.driver.report("w", run.map_report(first), 0.0) == "accepted"
    run.effects()
    with monkeypatch.context() as patch:
        patch.setattr(journal_files.os, "write", short_writes(9))
        assert run.driver.report("w", run.map_report(second), 0.0) == "accepted"
        run.effects()
        assert run.driver.state == "FAILED"
        with pytest.raises(StoreError):
            run.driver.journal.close()
    for folder in ("here", "elsewhere"):  # what did not fit into the file went into the store
        files = JournalFiles(run.store, run.spec.job, str(tmp_path / folder))
        found = [record["k"] for record in files.read()[1]]
        assert found[:3] == ["begin", "plan", "map"], folder
        assert folder == "here" or found[3:] == ["map", "end"]
    run.driver = JobDriver(run.spec, store=run.store, journals=here, resume=True)
    run.start().finish_running()
    assert run.driver.state == "COMMITTED"


def test_a_journal_that_cannot_be_closed_hides_no_other_error() -> None:
    class FullFile(MemoryFile):
        def write(self, data: bytes) -> None:
            raise StoreError("no room")

    class FullJournals(MemoryJournals):
        def open(self, epoch: int) -> Journal:
            return Journal(FullFile())

    spec = make_spec()
    driver = JobDriver(spec, store=open_store(spec.store_url), journals=FullJournals())
    with pytest.raises(StoreError, match="no room") as caught:
        Coordinator(driver, ("127.0.0.1", 0), linger_s=0.0).run()
    assert caught.value is driver.error


# Objects.


def test_batches_close_by_count_and_at_the_end_of_a_phase(memory: Store, tmp_path: Path) -> None:
    journal = JournalFiles(memory, JOB, str(tmp_path)).open(3)
    keys = []
    for n in range(2 * BATCH_RECORDS + 10):
        journal.append({"k": str(n)})
        keys += [key for key, _ in journal.batches()]
    prefix = job_key(JOB, "journal", "3-")
    assert keys == [f"{prefix}000000000", f"{prefix}{BATCH_RECORDS:09d}"]
    journal.close_batch()
    journal.close_batch()
    (batch,) = journal.batches()
    assert batch == (
        f"{prefix}{2 * BATCH_RECORDS:09d}",
        text([{"k": str(n)} for n in range(2 * BATCH_RECORDS, journal.records)], 2 * BATCH_RECORDS),
    )
    assert journal.batches() == []
    journal.append({"k": "more"})
    assert journal.batches() == []
    journal.close()


@pytest.mark.parametrize("count", [1, BATCH_RECORDS - 1, BATCH_RECORDS, BATCH_RECORDS + 1, 3 * BATCH_RECORDS])
def test_a_journal_is_read_again_from_either_place_or_both(memory: Store, tmp_path: Path, count: int) -> None:
    here = JournalFiles(memory, JOB, str(tmp_path / "here"))
    elsewhere = JournalFiles(memory, JOB, str(tmp_path / "elsewhere"))
    written = made(count)
    journal = filled(here, written)
    assert here.read() == {1: written} and elsewhere.read() == {}  # from the file only
    put(memory, journal)
    full = count - count % BATCH_RECORDS
    assert here.read() == {1: written}
    assert elsewhere.read() == ({1: written[:full]} if full else {})
    journal.close_batch()
    put(memory, journal)
    assert elsewhere.read() == {1: written}  # from the objects only
    journal.close()
    path = tmp_path / "here" / JOB / "1.log"
    for cut in (0, 5, len(text(written)) - 1):  # a power cut took a part of the file: the objects have it
        path.write_bytes(text(written)[:cut])
        assert here.read() == {1: written}
    here.forget()
    here.forget()
    assert not path.parent.exists()
    assert here.read() == {1: written}


def test_epochs_and_jobs_are_kept_apart(memory: Store, tmp_path: Path) -> None:
    files = JournalFiles(memory, JOB, str(tmp_path))
    other = JournalFiles(memory, JOB[::-1], str(tmp_path))
    for epoch, count in ((1, 3), (2, 70), (10, 4)):
        journal = filled(files, made(count), epoch)
        put(memory, journal)
        journal.close()
    filled(other, made(1)).close()
    (tmp_path / JOB / "notes.txt").write_bytes(b"not a journal")
    memory.put(job_key(JOB, "journal", "1-x"), b"nor is this")
    assert files.read() == {1: made(3), 2: made(70), 10: made(4)}
    other.forget()
    assert files.read().keys() == {1, 2, 10} and other.read() == {}


def test_a_batch_that_is_missing_before_others_is_damage_unless_this_machine_has_it(
    memory: Store, tmp_path: Path
) -> None:
    files = JournalFiles(memory, JOB, str(tmp_path))
    journal = filled(files, made(3 * BATCH_RECORDS))
    keys = put(memory, journal)
    journal.close()
    memory.delete(keys[1])
    assert files.read() == {1: made(3 * BATCH_RECORDS)}
    files.forget()
    with pytest.raises(DamagedJournal, match=rf"{keys[2]} is there, and what the journal says from record 64"):
        files.read()


def test_a_batch_that_the_store_refused_is_put_again_after_a_rest(memory: Store, tmp_path: Path) -> None:
    journal = filled(JournalFiles(memory, JOB, str(tmp_path)), made(2 * BATCH_RECORDS))
    mirror = Mirror(memory, lambda: False)
    (first,) = mirror.effects(journal, 5.0)
    mirror.failed(6.0)
    assert mirror.effects(journal, 6.0) == mirror.effects(journal, 6.0 + REST_S - 0.1) == []
    (again,) = mirror.effects(journal, 6.0 + REST_S)
    assert not again.run()
    mirror.done()
    (second,) = mirror.effects(journal, 6.0 + REST_S)
    second.run()
    assert len(list(memory.list())) == 2
    journal.close()
    assert first.name == again.name == "journal"


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-3] + b"x" + data[-2:]])
def test_an_object_has_no_torn_tail(
    memory: Store, tmp_path: Path, batch: int, damage: Callable[[bytes], bytes]
) -> None:
    """It was put whole: what is wrong with its last line is damage."""
    journal = filled(JournalFiles(memory, JOB, str(tmp_path)), made(2 * BATCH_RECORDS))
    batches = journal.batches()
    journal.close()
    for n, (key, data) in enumerate(batches):
        memory.put(key, damage(data) if n == batch else data)
    with pytest.raises(DamagedJournal, match=rf"^memory://.*{batches[batch][0]}: line {BATCH_RECORDS} is damaged"):
        JournalFiles(memory, JOB, str(tmp_path / "elsewhere")).read()


def test_a_file_and_objects_that_differ_are_refused(memory: Store, tmp_path: Path) -> None:
    files = JournalFiles(memory, JOB, str(tmp_path))
    journal = filled(files, made(BATCH_RECORDS))
    put(memory, journal)
    journal.close()
    path = tmp_path / JOB / "1.log"
    for count in (1, BATCH_RECORDS, BATCH_RECORDS + 5):
        path.write_bytes(text([{"k": "begin", "base": [0, 0]}, *made(count)[1:]]))
        with pytest.raises(DamagedJournal, match=r"differ in epoch 1, .*; start the job again"):
            files.read()


def test_a_file_that_cannot_be_read_is_named(memory: Store, tmp_path: Path) -> None:
    path = tmp_path / JOB / "1.log"
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=rf"cannot read the job's journal {path}: Is a directory; "):
        JournalFiles(memory, JOB, str(tmp_path)).read()


def test_where_journals_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert state_folder({}) == "/home/ann/.local/state/mrfast"
    assert state_folder({"XDG_STATE_HOME": "", "MRFAST_STATE_DIR": ""}) == "/home/ann/.local/state/mrfast"
    assert state_folder({"XDG_STATE_HOME": "/state"}) == "/state/mrfast"
    assert state_folder({"XDG_STATE_HOME": "/state", "MRFAST_STATE_DIR": "/own"}) == "/own"


# Epochs.


def test_epochs_are_claimed_one_after_the_other(store: Store) -> None:
    assert [claim_epoch(store, JOB) for _ in range(11)] == list(range(1, 12))
    assert claim_epoch(store, JOB[::-1], at_least=2) == 2  # the first is the one that began the job
    assert not is_superseded(store, JOB, 11)
    assert all(is_superseded(store, JOB, epoch) for epoch in range(1, 11))
    assert is_superseded(store, JOB[::-1], 1)


class Racing:
    """A store in which another coordinator claims the same epoch between this one's look and its claim."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put_if_absent(self, key: str, data: bytes) -> Any:
        self._store.put_if_absent(key, b"")
        return self._store.put_if_absent(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_of_two_that_claim_an_epoch_one_has_it(store: Store) -> None:
    assert claim_epoch(store, JOB) == 1
    with pytest.raises(JobTaken, match=rf"another coordinator has just taken job {JOB} over; ") as caught:
        claim_epoch(Racing(store), JOB)
    assert caught.value.exit_code == 3
    assert is_superseded(store, JOB, 1) and not is_superseded(store, JOB, 2)


def test_no_epoch_has_two_owners(memory: Store) -> None:
    start = threading.Barrier(8)
    claimed: list[int] = []
    refused: list[JobTaken] = []

    def claim() -> None:
        start.wait()
        try:
            claimed.append(claim_epoch(memory, JOB))
        except JobTaken as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) + len(refused) == 8
    assert sorted(claimed) == list(range(1, len(claimed) + 1))
