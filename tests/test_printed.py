"""What an application prints: cut to lines, made harmless, kept in bounds, sent and shown with task and worker."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mrfast.control import printed
from mrfast.control.printed import Lines, Outbox, Printed, clean
from mrfast.errors import CorruptSegment
from mrfast.watch.words import FAILURES_SHOWN, PRINTED_BYTES_MAX, Words, prefixed


def told(*pieces: bytes) -> str:
    lines = Lines()
    return "".join(lines.feed(piece) for piece in pieces) + lines.end()


def test_bytes_become_whole_lines() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw") == "one\n"
    assert lines.feed(b"o\n\nthr") == "two\n\n"
    assert lines.end() == "thr\n"
    assert lines.end() == ""


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_it_does_not_matter_how_the_bytes_arrive(pieces: list[bytes]) -> None:
    assert told(*pieces) == told(b"".join(pieces))


def test_what_is_no_utf8_is_escaped_and_a_character_may_arrive_in_two_pieces() -> None:
    assert told("é€".encode()[:3], "é€".encode()[3:] + b"\xff\n") == "é€\\xff\n"


def test_a_terminal_obeys_nothing_of_it() -> None:
    assert told(b"\x1b[31mred\x1b[0m \x1b[2J\x07 \x9b \xc2\x9b\tnext\x00\x7f\n") == (
        "red \\x1b[2J\\x07 \\x9b \\x9b\tnext\\x00\\x7f\n"
    )
    assert told("left\u202eright\u2028".encode()) == "left\\u202eright\\u2028\n"


@given(st.text())
def test_what_was_cleaned_is_clean(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert not any(ord(sign) < 32 and sign not in "\t\n" for sign in once)
    assert len(once.splitlines()) == once.count("\n") + (not once.endswith("\n") and bool(once))


def test_of_a_line_that_was_written_over_the_last_is_left() -> None:
    assert told(b"10 %\r50 %\r", b"100 %\ndos\r\n") == "100 %\ndos\n"
    lines = Lines()
    for number in range(2_000):
        assert lines.feed(b"%d of 2,000\r" % number) == ""
    assert lines.end() == "1999 of 2,000\n"


def test_a_long_line_is_cut_between_characters() -> None:
    line = "€" * 10_000
    lines = told(line.encode()).splitlines()
    assert "".join(lines) == line
    assert all(printed.LINE_BYTES_MAX - 3 <= len(each.encode()) <= printed.LINE_BYTES_MAX for each in lines[:-1])


def test_an_attempt_has_its_bound_and_the_next_one_its_own() -> None:
    lines = Lines()
    text = lines.feed((b"x" * 99 + b"\n") * 1000)
    assert len(text) == printed.ATTEMPT_BYTES_MAX // 100 * 100
    assert lines.is_full
    assert lines.feed(b"short\n" * 10 + b"part") == ""
    assert lines.end() == f"... {100_000 - len(text) + 64:,} more bytes in 355 lines left out\n"
    assert not lines.is_full
    assert lines.feed(b"again\n") == "again\n"


@given(st.integers(0, 2_000), st.integers(0, 200))
def test_what_is_left_out_is_counted_to_the_byte(count: int, width: int) -> None:
    text = told((b"x" * width + b"\n") * count)
    shown = [line for line in text.splitlines() if not line.startswith("...")]
    rest = count - len(shown)
    expected = f"... {rest * (width + 1):,} more bytes in {rest:,} lines left out" if rest else ""
    assert text.splitlines()[len(shown) :] == ([expected] if rest else [])
    assert len(shown) == min(count, printed.ATTEMPT_BYTES_MAX // max(printed.LINE_BYTES_MIN, width + 1))


def test_a_renewal_brings_a_little_and_a_report_all_of_its_attempt() -> None:
    outbox = Outbox()
    line = "x" * 99 + "\n"
    outbox.add("a", line * 100)
    outbox.add("b", "short\n")
    first = outbox.some()
    assert list(first) == ["a"]
    assert printed.CALL_BYTES_MAX - 100 < len(first["a"]) <= printed.CALL_BYTES_MAX
    assert first["a"] + outbox.of("a")["a"] == line * 100
    assert outbox.of("a") == {}
    outbox.add("", "loading\n")
    assert outbox.of("b") == {"": "loading\n", "b": "short\n"}
    assert outbox.some() == {}


def test_a_line_longer_than_a_renewal_goes_by_itself() -> None:
    outbox = Outbox()
    outbox.add("a", "x" * 2 * printed.CALL_BYTES_MAX + "\nnext\n")
    assert len(outbox.some()["a"]) == 2 * printed.CALL_BYTES_MAX + 1
    assert outbox.some() == {"a": "next\n"}


def test_without_a_coordinator_a_bounded_amount_waits() -> None:
    outbox = Outbox()
    for number in range(40):
        outbox.add(f"a{number}", "x" * 65_535 + "\n")
    waiting = []
    while some := outbox.some():
        waiting.append(some)
    assert sum(len(text) for some in waiting[:-1] for text in some.values()) == printed.WAITING_BYTES_MAX
    assert waiting[-1] == {"": f"... {24 * 65_536:,} more bytes of several tasks left out\n"}


def test_a_job_trusts_no_worker() -> None:
    kept = Printed()
    assert list(kept.take({"a": "\x1b[2Jevil"})) == [("a", "\\x1b[2Jevil\n")]
    for _ in range(1000):
        list(kept.take({"a": "x" * 999 + "\n"}))
    assert list(kept.take({"a": "more\n"})) == []
    assert list(kept.take({"b": "more\n"})) == [("b", "more\n")]
    total = 0
    said = []
    for number in range(300):
        for attempt, text in kept.take({f"c{number}": "y" * 99_999 + "\n"}):
            total += len(text) if attempt else 0
            said += [] if attempt else [text]
    assert printed.JOB_BYTES_MAX - 300_000 < total <= printed.JOB_BYTES_MAX
    assert said == ["... more than 16 MiB: what is printed from here on is left out\n"]


def test_what_each_process_says_when_it_loads_is_told_once() -> None:
    kept = Printed()
    assert list(kept.take({"": "loading\ndevice 1\n"})) == [("", "loading\ndevice 1\n")]
    assert list(kept.take({"": "loading\ndevice 2\n"})) == [("", "device 2\n")]
    assert list(kept.take({"": "loading\ndevice 2\n"})) == []
    assert list(kept.take({"m": "loading\n"})) == [("m", "loading\n")]


# -- in words ---------------------------------------------------------------------------------------------------------


WORKER = "1f3a2b9c" + "0" * 24


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown = ""
        self.words = Words(self.said.append, self._show, attempts_max=4)

    def _show(self, text: str) -> None:
        self.shown += text

    def __call__(self, kind: str, /, **event: Any) -> list[str]:
        before = len(self.said)
        self.words.heard(kind, event)
        return self.said[before:]


FAILED: dict[str, Any] = {
    **{"word": "failed", "task": "m-000003", "worker": WORKER, "kind": "app", "counted": True, "fatal": False},
    **{"message": "ZeroDivisionError: division by zero\nand more", "input": "books/x.txt", "offset": 7},
}


def test_each_line_says_whose_it_is() -> None:
    assert prefixed("m-000003", WORKER, "a\n\nb\n") == (
        "m-000003 on 1f3a2b9c | a\nm-000003 on 1f3a2b9c | \nm-000003 on 1f3a2b9c | b\n"
    )
    assert prefixed("m-000003", "local", "a\n") == "m-000003 | a\n"
    assert prefixed("", "local", "a\n") == "app | a\n"
    assert prefixed("", "ip-10-0-0-1", "a\n") == "app on ip-10-0-0-1 | a\n"
    assert prefixed("", WORKER, "a\n") == "app on 1f3a2b9c | a\n"


def test_the_terminal_has_a_bound_and_says_so_once() -> None:
    told = Told()
    text = "x" * 1000 + "\n"
    for _ in range(2000):
        told("printed", task="m-000001", worker="local", text=text)
    assert PRINTED_BYTES_MAX - 2000 < len(told.shown) <= PRINTED_BYTES_MAX
    assert told.said == [
        "the application has printed 1.0 MiB: what comes now is in the event log only, beside the output"
    ]
    assert told("end", state="COMMITTED") == ["the application printed 942.3 KiB more"]


def test_a_failed_attempt_is_told_with_its_number_and_the_last_one_by_the_jobs_error() -> None:
    told = Told()
    assert told("ended", **FAILED) == [
        "m-000003 on 1f3a2b9c failed (1 of 4): ZeroDivisionError: division by zero, in books/x.txt; it is tried again"
    ]
    assert told("ended", **FAILED | {"counted": False, "kind": "store", "message": "503", "input": ""}) == [
        "m-000003 on 1f3a2b9c failed (this does not count): 503; it is tried again"
    ]
    assert told("ended", **FAILED | {"worker": "local", "message": "y" * 1000})[0].startswith(
        "m-000003 failed (2 of 4): " + "y" * 300 + " ..., in books/x.txt"
    )
    assert told("ended", **FAILED)[0].startswith("m-000003 on 1f3a2b9c failed (3 of 4)")
    assert told("ended", **FAILED) == []
    assert told("ended", **FAILED | {"task": "m-000004", "fatal": True}) == []


def test_ten_failures_are_told_and_the_others_counted() -> None:
    told = Told()
    for number in range(FAILURES_SHOWN + 3):
        told("ended", **FAILED | {"task": f"m-{number:06d}"})
    assert len(told.said) == FAILURES_SHOWN + 1
    assert told.said[-1] == "more attempts that fail are only counted from here on"
    assert told("end", state="COMMITTED") == ["3 more failed attempts"]


def test_work_that_runs_again_is_told() -> None:
    told = Told()
    lost = {"task": "m-000007", "attempt": "m-000007.e1.1", "why": ""}
    assert told("lost", **lost) == ["m-000007 runs again: its output is lost: it is missing"]
    lost["why"] = str(CorruptSegment("jobs/j/inter/m-000007.e1.1", 3, 58, "the object is missing"))
    assert told("lost", **lost) == ["m-000007 runs again: its output is lost: the object is missing"]
    lost["why"] = "its object is damaged"
    assert told("lost", **lost) == ["m-000007 runs again: its output is lost: its object is damaged"]
    assert told("rolled_back", task="r-00001", attempt="r-00001.e1.1") == [
        "r-00001 runs again: a map that ran again has given something else"
    ]
    assert told("ended", word="expired", task="m-000001", attempt="", worker=WORKER) == [
        "m-000001 on 1f3a2b9c is not heard of any more; it runs again"
    ]
    assert told("ended", word="accepted", task="m-000001", attempt="", worker=WORKER) == []
    assert told("restored", maps=[[0, 3], [5, 6]], reduces=[]) == ["4 maps are done already"]
    assert told("restored", maps=[[0, 1]], reduces=[[0, 2]]) == ["1 map and 2 reduces are done already"]
    assert told("restored", maps=[], reduces=[[4, 5]]) == ["1 reduce is done already"]


def test_workers_come_and_go() -> None:
    told = Told()
    assert told("worker", worker=WORKER, slots=2) == ["worker 1f3a2b9c is here, with 2 slots"]
    assert told("gone", worker=WORKER) == ["worker 1f3a2b9c is gone"]
    assert told("worker", worker=WORKER, slots=1) == ["worker 1f3a2b9c is here again, with 1 slot"]
    assert told("worker", worker="local", slots=2) == []
    assert told("sample", status={}) == []
