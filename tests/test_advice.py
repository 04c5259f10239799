"""What is said of a job's event log: every finding on both sides of its threshold, on logs that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrfast.control.events import VOID, EventLog
from mrfast.watch import advice, story
from mrfast.watch.advice import Finding, explain
from mrfast.watch.model import JobModel

MIB = 1 << 20


@dataclass(frozen=True)
class Try:
    """One attempt of a made-up job."""

    task: str
    began: float
    ended: float | None
    worker: str = "w1"
    word: str = "accepted"
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 64 * MIB
    input: str = ""
    backup: bool = False
    n: int = 1
    why: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.task}.e1.{self.n}"


def lines_of(tries: Sequence[Try], *, slots: int = 2, workers: Sequence[str] = ("w1",), **facts: Any) -> list[bytes]:
    """The log of a job that these attempts made up; it ends 0.1 s behind the last one."""
    told: list[tuple[float, int, str, dict[str, Any]]] = []
    for each in tries:
        own = {"task": each.task, "attempt": each.name, "worker": each.worker}
        started: dict[str, Any] = {"backup": each.backup}
        if each.task.startswith("m") and each.n == 1:
            started |= {"input": each.input or f"in/{each.task}.txt", "bytes": each.bytes, "pieces": 1}
        told.append((each.began, 1, "started", own | started))
        if each.ended is not None:
            figures: dict[str, Any] = each.why
            if each.word == "accepted":
                figures = {"records_in": each.bytes // 100, "records_out": 10, "size": 1000}
                figures |= {"seconds": each.seconds} if each.seconds else {}
                figures |= {"bytes_in": each.bytes} if each.task.startswith("m") else {}
            told.append((each.ended, 0, "ended", own | {"word": each.word} | figures))
    log = EventLog()
    job = {"job": "j" * 32, "name": "made", "store_url": "/s", "reduces": 4} | facts.pop("job", {})
    log.tell("job", 0.0, **job)
    log.tell("planned", 0.0, app="app.py", python=facts.pop("python", {}))
    for worker in workers:
        log.tell("worker", 0.0, worker=worker, slots=slots // len(workers))
    for at, _, kind, fields in sorted(told, key=lambda event: event[:2]):
        log.tell(kind, at, **fields)
    last = max(at for at, *_ in told)
    for kind in ("shuffle", "hot", "gone"):
        if kind in facts:
            log.tell(kind, last, **facts.pop(kind))
    log.tell("end", last + facts.pop("commit_s", 0.1), **{"state": "COMMITTED", "error": "", **facts})
    return log.lines


def model_of(tries: Sequence[Try], **facts: Any) -> JobModel:
    return JobModel.of(lines_of(tries, **facts))


def phase(kind: str, lasting: Sequence[float], *, begin: float = 0.0, slots: int = 2, **more: Any) -> list[Try]:
    """Tasks that so many slots take one after the other."""
    free = [begin] * slots
    tries = []
    for number, seconds in enumerate(lasting):
        slot = free.index(min(free))
        spent = {"compute": 0.9 * seconds, "wait": 0.05 * seconds, "write": 0.05 * seconds}
        width = 6 if kind == "m" else 5
        task = Try(f"{kind}-{number:0{width}}", free[slot], free[slot] + seconds, seconds=spent)
        tries.append(replace(task, **more))
        free[slot] += seconds
    return tries


MAPS = phase("m", [5.0] * 8)  # to 20 s
REDUCES = phase("r", [5.0] * 4, begin=20.0)  # to 30 s
GOOD = [*MAPS, *REDUCES]


def found(kind: str, tries: Sequence[Try], **facts: Any) -> Finding | None:
    [one, *more] = [finding for finding in explain(model_of(tries, **facts)) if finding.kind == kind] or [None]
    assert not more
    return one


def test_of_a_job_without_a_fault_nothing_stands_out() -> None:
    assert explain(model_of(GOOD, shuffle={"bytes": [1000] * 4, "partitions": 4})) == []


def test_the_fold_knows_what_happened() -> None:
    model = model_of(GOOD, slots=4, workers=("w1", "w2"), counters={"bad": 1})
    assert (model.job, model.state, model.slots, model.seconds) == ("j" * 32, "COMMITTED", 4, 30.1)
    assert (model.span("m"), model.span("r")) == ((0, 20), (20, 30))
    assert len(model.of_kind("m")) == 8
    assert model.tasks["m-000003"].input == "in/m-000003.txt"
    assert model.spent("m")["compute"] == pytest.approx(36)
    assert not list(model.thrown_away())
    [maps, reduces] = story.time_spent(model)
    assert maps["tasks"] == 8
    assert maps["slot_seconds"]["idle"] == pytest.approx(40)  # four slots, and two of them had nothing
    assert reduces["seconds"] == 10
    early = [replace(each, began=10.0) if each.task == "r-00000" else each for each in GOOD]
    assert story.time_spent(model_of(early))[1]["began"] == 20


def test_slots_count_while_their_worker_is_there() -> None:
    model = model_of(GOOD, slots=4, workers=("w1", "w2"))
    model.workers["w2"].came, model.workers["w2"].gone = 5.0, 15.0
    assert model.slots == 4
    assert model.capacity(0.0, 20.0) == 2 * 20 + 2 * 10
    assert model.capacity(10.0, 12.0) == 8
    assert story.time_spent(model)[0]["slot_seconds"]["idle"] == pytest.approx(20)
    assert JobModel().capacity(1.0, 3.0) == 2.0


def test_the_attempt_of_a_lost_worker_stays_expired_when_another_one_has_done_its_task() -> None:
    lost = [Try("m-000000", 0.0, 5.0, "w2", "expired"), replace(MAPS[0], n=2, began=5.0, ended=10.0)]
    lines = lines_of([*lost, *MAPS[1:], *REDUCES], workers=("w1", "w2"))
    own = b'"task":"m-000000","attempt":"m-000000.e1.1","worker":"w2"'
    lines.insert(-1, b'{"e":"ended","t":30.0,"word":"superseded",' + own + b"}\n")
    [attempt] = JobModel.of(lines).thrown_away()
    assert (attempt.word, attempt.ended) == ("expired", 5.0)


def test_an_expired_lease_may_come_back_and_a_lost_output_does_not_count() -> None:
    log = EventLog()
    own = {"task": "m-000000", "attempt": "m-000000.e1.1", "worker": "w"}
    log.tell("job", 0.0, job="j")
    log.tell("started", 1.0, **own)
    log.tell("ended", 2.0, word="expired", **own)
    assert JobModel.of(log.lines).attempts["m-000000.e1.1"].word == "expired"
    log.tell("back", 3.0, **own)
    assert JobModel.of(log.lines).attempts["m-000000.e1.1"].ended is None
    log.tell("ended", 4.0, word="accepted", **own)
    model = JobModel.of(log.lines)
    assert [attempt.lasted for attempt in model.of_kind("m")] == [3.0]
    log.tell("lost", 5.0, task="m-000000", attempt="m-000000.e1.1", why="gone")
    model = JobModel.of(log.lines)
    assert model.of_kind("m") == []
    assert [attempt.word for attempt in model.thrown_away()] == ["lost"]
    assert model.losses == [(5.0, "m-000000.e1.1", "gone")]


# -- findings ---------------------------------------------------------------------------------------------------------


def test_a_partition_is_far_larger_than_the_others() -> None:
    skewed = [*MAPS, *phase("r", [2.0, 2.0, 2.0, 20.0], begin=20.0)]
    assert found("skew", skewed, shuffle={"bytes": [10, 10, 10, 29], "partitions": 4}) is None
    skew = found("skew", skewed, shuffle={"bytes": [10, 10, 10, 31], "partitions": 4})
    assert skew is not None
    assert skew.seconds == pytest.approx(20 - 13)  # 26 s on two slots
    assert "partition 3 has 31 bytes of 61 bytes (51%), 3.1 times the median" in skew.figure
    assert "--reduces 8" in skew.advice
    assert found("skew", GOOD, shuffle={"bytes": [10, 10, 10, 31], "partitions": 4}) is None  # and it cost nothing


def test_skew_by_one_key_wants_a_combine_and_not_more_partitions() -> None:
    skewed = [*MAPS, *phase("r", [2.0, 2.0, 2.0, 20.0], begin=20.0)]
    shuffle = {"bytes": [10, 10, 10, 40], "partitions": 4}

    def told(key_bytes: int, partition: int = 3, **more: Any) -> Finding:
        hot = {"keys": [{"key": "the", "bytes": key_bytes, "records": 1, "share": 0.5, "partition": partition}]}
        finding = found("skew", skewed, shuffle=shuffle, hot=hot | more)
        assert finding is not None
        return finding

    assert "'the' alone is 29% of the shuffle" in told(20).figure
    assert "combine = reduce" in told(20).advice
    assert "combine" not in told(20, combined=True).advice
    assert told(20, advice="do this").advice == "do this"
    assert "--reduces" in told(19).advice
    assert "--reduces" in told(30, partition=2).advice


def test_a_map_that_is_slow_for_its_input_and_one_for_its_worker() -> None:
    def last(seconds: float, **more: Any) -> list[Try]:
        maps = phase("m", [5.0] * 7)
        slow = replace(phase("m", [seconds], begin=20.0)[0], task="m-000007", **more)
        assert slow.ended
        return [*maps, slow, *phase("r", [5.0] * 4, begin=slow.ended)]

    assert found("slow_maps", last(9.9)) is None
    slow = found("slow_maps", last(10.1))
    assert slow is not None
    assert slow.seconds == pytest.approx(10.1)  # behind all others
    assert "2.0 times the median of 5.00 s" in slow.figure
    assert "9.1 s of it in compute" in slow.figure
    large = found("large_input", last(30.0, bytes=640 * MIB, input="big.gz"))
    assert large is not None
    assert "640.0 MiB of big.gz, the median is 64.0 MiB" in large.figure
    assert found("slow_maps", last(30.0, bytes=640 * MIB)) is None
    assert found("large_input", last(30.0, bytes=95 * MIB)) is None


def test_of_short_tasks_none_is_a_straggler() -> None:
    def short(longest: float) -> list[Try]:
        return [*phase("m", [0.01] * 20), Try("m-000099", 0.1, 0.1 + longest, seconds={"compute": longest})]

    assert found("slow_maps", short(0.5)) is None
    assert found("slow_maps", short(0.52)) is not None


def test_a_slow_worker_is_named() -> None:
    fast = phase("m", [5.0] * 6)
    slow = [replace(each, task=f"m-00010{n}", worker="w2") for n, each in enumerate(phase("m", [20.0] * 2))]
    finding = found("slow_maps", [*fast, *slow, *REDUCES], workers=("w1", "w2"))
    assert finding is not None
    assert "w2 is slow" in finding.title
    assert "2 of them on w2, whose median is 20.00 s, elsewhere 5.00 s" in finding.figure
    alone = found("slow_maps", [*fast, *(replace(each, worker="w1") for each in slow), *REDUCES])
    assert alone is not None
    assert "is slow" not in alone.title


@pytest.mark.parametrize(("kind", "finding"), [("m", "store_wait_map"), ("r", "store_wait_reduce")])
def test_waiting_for_the_store(kind: str, finding: str) -> None:
    def waiting(share: float) -> list[Try]:
        spent = {"wait": 5 * share, "compute": 5 * (1 - share), "write": 0.0}
        return [replace(each, seconds=spent) if each.task.startswith(kind) else each for each in GOOD]

    assert found(finding, waiting(0.29)) is None
    waited = found(finding, waiting(0.4))
    assert waited is not None
    tasks = 8 if kind == "m" else 4
    assert waited.seconds == pytest.approx(0.4 * 5 * tasks / 2)
    assert "(40%)" in waited.figure
    assert "disk" in waited.advice
    far = found(finding, waiting(0.4), job={"store_url": "s3://b"}, requests={"by_outcome": {"throttled": 12}})
    assert far is not None
    assert "throttled 12 requests" in far.figure
    assert "region" in far.advice


def test_what_was_waited_while_others_computed_is_not_lost() -> None:
    """A slot has three processes in a store that is far away: one waits while another one computes."""
    spent = {"wait": 5.0, "compute": 4.9, "turn": 5.0, "write": 0.1}
    busy = [replace(each, seconds=spent) for each in MAPS]
    assert found("store_wait_map", [*busy, *REDUCES]) is None


def test_splits_that_are_too_small() -> None:
    def maps(number: int, worked: float, gap: float, **more: Any) -> list[Try]:
        made = phase("m", [worked + gap] * number, **more)
        spent = {"compute": worked, "wait": 0.0, "write": 0.0}
        return [replace(each, seconds=spent, bytes=MIB) for each in made]

    few = found("small_splits", [*maps(8, 0.1, 0.4), *REDUCES])
    assert few is None
    tiny = found("small_splits", [*maps(400, 0.1, 0.4, input="in/one"), *REDUCES])
    assert tiny is not None
    assert tiny.seconds == pytest.approx(80.0)
    assert "400 maps of 100 ms (median), 1.0 MiB each: 400.0 ms of overhead" in tiny.figure
    assert "--split-bytes 64MiB" in tiny.advice
    files = found("small_splits", [*maps(400, 0.1, 0.4), *REDUCES])
    assert files is not None
    assert "join them" in files.advice
    assert found("small_splits", [*maps(400, 1.0, 4.0), *REDUCES]) is None
    assert found("small_splits", [*maps(400, 0.1, 0.001), *REDUCES]) is None


def test_too_few_tasks_for_the_slots() -> None:
    few = found("few_maps", [*phase("m", [5.0] * 4, slots=4), *phase("r", [5.0] * 16, slots=8, begin=5.0)], slots=8)
    assert few is not None
    assert few.seconds == pytest.approx(2.5)
    assert "4 maps for 8 slots: 50% of the slots' time" in few.figure
    assert "--split-bytes 8MiB" in few.advice
    full = [*phase("m", [5.0] * 8, slots=8), *phase("r", [5.0] * 16, slots=8, begin=5.0)]
    assert found("few_maps", full, slots=8) is None
    one = found("few_reduces", [*MAPS, *phase("r", [20.0], begin=20.0)])
    assert one is not None
    assert one.seconds == pytest.approx(10.0)
    assert "--reduces 8" in one.advice
    assert found("few_reduces", GOOD) is None


def test_python_in_the_hot_path() -> None:
    assert found("python_map", GOOD) is None
    assert found("python_reduce", GOOD, python={"reduce": "ops.sum()"}) is None  # a third of the computing
    guessed = found("python_map", GOOD, python={"map": 'ops.words(letters="space")', "reduce": "ops.sum()"})
    assert guessed is not None
    assert guessed.seconds == pytest.approx(18)
    assert "(67%)" in guessed.figure
    assert 'map = ops.words(letters="space") and reduce = ops.sum() may do the same' in guessed.advice
    alone = found("python_map", GOOD, python={"map": 'ops.words(letters="space")', "combine": "ops.sum()"})
    assert alone is not None
    assert 'map = ops.words(letters="space") and combine = ops.sum() may' in alone.advice
    unknown = found("python_map", GOOD, python={"map": ""})
    assert unknown is not None
    assert "mrfast.core" in unknown.advice
    reduce = found("python_reduce", [*phase("m", [1.0] * 8), *phase("r", [5.0] * 4, begin=4.0)], python={"reduce": ""})
    assert reduce is not None


FAILURE = {
    "kind": "app",
    "message": "ValueError: no",
    "traceback": "Traceback ...\nValueError: no",
    "input": "in/a.txt",
    "offset": 17,
    "counted": True,
    "fatal": False,
}


def test_work_that_was_thrown_away() -> None:
    def thrown(seconds: float, word: str = "failed", **why: Any) -> list[Try]:
        own = FAILURE | why if word == "failed" else {}
        lost = Try("m-000000", 0.0, seconds, word=word, why=own)
        return [lost, *(replace(each, n=2) if each.task == "m-000000" else each for each in GOOD)]

    assert found("thrown_away", thrown(2.0)) is None  # a second of thirty
    app = found("thrown_away", thrown(8.0))
    assert app is not None
    assert app.seconds == 4.0
    assert "1 attempt thrown away (1 of the application): 8.0 slot seconds" in app.figure
    assert "--max-bad-records" in app.advice
    assert found("thrown_away", thrown(8.0), state="FAILED") is None
    died = found("thrown_away", thrown(8.0, kind="died"))
    assert died is not None
    assert "--memory" in died.advice
    lost = found("thrown_away", thrown(8.0, "expired"), gone={"worker": "w1"})
    assert lost is not None
    assert "gone: w1" in lost.figure
    assert found("thrown_away", thrown(8.0, "preempted")) is None
    own = {"task": "m-000000", "attempt": "m-000000.e1.2"}
    model = JobModel.of([*lines_of(thrown(2.0))[:-1], b'{"e":"lost","t":29.0,"why":"gone",' + orjson.dumps(own)[1:]])
    [gone] = [finding for finding in explain(model) if finding.kind == "thrown_away"]
    assert "1 of the application, 1 whose output was lost" in gone.figure


def test_what_was_thrown_away_is_no_overhead_of_the_others() -> None:
    spent = {"compute": 0.5, "wait": 0.0, "write": 0.0}
    maps = [replace(each, seconds=spent) for each in phase("m", [0.5] * 40)]
    lost = Try("m-000000", 0.0, 20.0, "w2", "expired")
    tries = [lost, *(replace(each, n=2) for each in maps), *phase("r", [5.0] * 4, begin=10.0)]
    assert found("small_splits", tries, slots=4, workers=("w1", "w2"), gone={"worker": "w2"}) is None


def test_backups_that_won_and_lost() -> None:
    won = [Try("m-000000", 0.0, 19.0, "w2", "cancelled"), replace(MAPS[0], n=2, backup=True)]
    tries = [*won, *MAPS[1:], *REDUCES]
    finding = found("backups", tries, workers=("w1", "w2"))
    assert finding is not None
    assert "1 backup attempt, of which 1 won; 19.0 slot seconds" in finding.figure
    lost = [MAPS[0], Try("m-000000", 0.0, 1.0, "w2", "superseded", n=2, backup=True), *MAPS[1:], *REDUCES]
    assert found("backups", lost, workers=("w1", "w2")) is None


def test_reduces_that_waited_for_maps() -> None:
    def waited(seconds: float) -> list[Try]:
        spent = {"maps": seconds, "compute": 5.0, "wait": 0.0, "write": 0.0}
        return [*MAPS, *(replace(each, began=20.0 - seconds, seconds=spent) for each in REDUCES)]

    assert found("map_waits", waited(2.0)) is None
    finding = found("map_waits", waited(6.0))
    assert finding is not None
    assert "4 reduces waited 24.0 slot seconds" in finding.figure


def test_spills_to_the_local_disk() -> None:
    spilled = [replace(MAPS[0], seconds={"compute": 1.0, "spill": 4.0, "wait": 0.0, "write": 0.0}), *MAPS[1:], *REDUCES]
    finding = found("spills_map", spilled)
    assert finding is not None
    assert "1 of 8 maps spent 4.0 slot seconds" in finding.figure
    assert "--memory" in finding.advice
    assert found("spills_map", [replace(each, seconds={"spill": 0.1}) for each in MAPS] + REDUCES) is None


def test_the_time_between() -> None:
    later = [replace(each, began=each.began + 5, ended=(each.ended or 0) + 5) for each in GOOD]
    start = found("start", later)
    assert start is not None
    assert start.seconds == 5.0
    gap = [*MAPS, *phase("r", [5.0] * 4, begin=24.0)]
    between = found("between", gap)
    assert between is not None
    assert between.seconds == 4.0
    commit = found("commit", GOOD, commit_s=6.0)
    assert commit is not None
    assert commit.seconds == pytest.approx(6.0)
    assert found("commit", GOOD, commit_s=6.0, state="FAILED") is None


# -- what failed first ------------------------------------------------------------------------------------------------


def test_the_first_failure_that_counts_is_told_with_what_came_of_it() -> None:
    store = Try("m-000001", 0.0, 0.5, word="failed", why=FAILURE | {"kind": "store", "counted": False})
    first = Try("m-000000", 0.0, 1.0, word="failed", why=FAILURE)
    again = Try("m-000000", 1.0, 2.0, "w2", "failed", n=2, why=FAILURE)
    model = model_of([store, first, again, replace(MAPS[0], n=3, began=2.0), *MAPS[1:], *REDUCES])
    told = story.first_failure(model)
    assert told is not None
    assert (told.attempt, told.worker, told.t, told.kind) == ("m-000000.e1.1", "w1", 1.0, "app")
    assert (told.input, told.offset, told.message) == ("in/a.txt", 17, "ValueError: no")
    assert told.then == (
        "2.000 s: m-000000.e1.2 on w2 failed the same way",
        "5.000 s: m-000000.e1.3 on w1 accepted",
        "1 other attempt failed, of 1 task",
        "30.100 s: the job was committed nevertheless",
    )


def test_a_failure_that_does_not_count_is_told_where_there_is_no_other() -> None:
    store = Try("m-000000", 0.0, 0.5, word="failed", why=FAILURE | {"kind": "store", "counted": False})
    told = story.first_failure(model_of([store, *(replace(each, n=2) for each in MAPS)], state="FAILED"))
    assert told is not None
    assert told.kind == "store"
    assert told.then[-1].endswith("the job failed")
    assert story.first_failure(model_of(GOOD)) is None


# -- any log ----------------------------------------------------------------------------------------------------------

TIMES = st.floats(0, 1000, allow_nan=False).map(lambda at: round(at, 3))
TRIES = st.lists(
    st.builds(
        lambda kind, index, n, began, lasts, worker, word, parts, backup: Try(
            f"m-{index:06}" if kind else f"r-{index:05}",
            began,
            None if word == "" else began + lasts,
            worker,
            word,
            parts,
            n=n,
            backup=backup,
            why=FAILURE if word == "failed" else {},
        ),
        st.booleans(),
        st.integers(0, 5),
        st.integers(1, 3),
        TIMES,
        TIMES,
        st.sampled_from(["w1", "w2"]),
        st.sampled_from(["", "accepted", "failed", "expired", "cancelled", "preempted"]),
        st.dictionaries(st.sampled_from(["wait", "turn", "maps", "compute", "spill", "write"]), TIMES),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


@given(TRIES, st.lists(st.integers(0, 10**9), max_size=6), st.data())
def test_of_any_log_and_of_its_beginning_something_is_said(tries: list[Try], sizes: list[int], data: Any) -> None:
    lines = lines_of(tries, workers=("w1", "w2"), python={"map": "", "reduce": "ops.sum()"}, shuffle={"bytes": sizes})
    cut = data.draw(st.integers(1, len(lines)))
    model = JobModel.of(lines[:cut])
    findings = explain(model)
    least = max(advice.NOTABLE_S, advice.NOTABLE_SHARE * model.seconds)
    assert all(finding.seconds >= least - 0.001 for finding in findings)
    assert findings == sorted(findings, key=lambda finding: -finding.seconds)
    story.first_failure(model)
    story.time_spent(model)
    other = [VOID, b'{"e":"news of a later version","t":0,"x":[1]}\n']
    assert JobModel.of([line for each in lines[:cut] for line in (each, *other)]) == model
