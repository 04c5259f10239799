"""The ledger of requests: what is counted, when, and what it costs."""

from __future__ import annotations

import mmap
import os

import pytest

from mrfast.storage import ledger
from mrfast.storage.ledger import PAGE_BYTES, Ledger, cost_usd, document, outcome_of, total, working


def test_a_request_is_lost_until_it_is_answered() -> None:
    own = Ledger()
    row = own.sent("PUT", "map", 100)
    assert own.counts() == {"map": {"PUT": {"lost": 1, "bytes_up": 100}}}
    own.answered(row, "ok")
    own.received(row, 7)
    assert own.counts() == {"map": {"PUT": {"ok": 1, "bytes_up": 100, "bytes_down": 7}}}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (206, "ok"), (304, "ok"), (404, "refused"), (412, "refused"), (429, "throttled"), (500, "failed"),
     (503, "throttled"), (504, "failed")],
)  # fmt: skip
def test_outcomes(status: int, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_what_a_killed_child_had_sent_is_counted() -> None:
    page = mmap.mmap(-1, PAGE_BYTES)
    child = os.fork()
    if not child:
        Ledger(page).sent("GET", "reduce")
        os._exit(9)
    os.waitpid(child, 0)
    assert Ledger(page).counts() == {"reduce": {"GET": {"lost": 1}}}


def test_totals_and_their_price() -> None:
    one, two = Ledger(), Ledger()
    for _ in range(3):
        one.answered(one.sent("GET", "map"), "ok")
    two.answered(two.sent("GET", "reduce"), "throttled")
    two.answered(two.sent("PUT", "reduce", 5), "ok")
    said = document(total([one.counts(), two.counts()]))
    assert said["requests"]["by_verb"] == {"GET": 4, "PUT": 1}
    assert said["requests"]["by_phase"] == {"map": {"GET": 3}, "reduce": {"GET": 1, "PUT": 1}}
    assert said["requests"]["by_outcome"] == {"ok": 4, "throttled": 1}
    assert said["requests"]["bytes_up"] == 5
    assert said["cost_usd"] == pytest.approx(4 * 0.0000004 + 0.000005)
    assert cost_usd({"PUT": 10_000}) == pytest.approx(0.05)


def test_each_thread_works_for_a_phase() -> None:
    assert ledger.phase() == "plan"
    with working("map"):
        assert ledger.phase() == "map"
        with working("commit"):
            assert ledger.phase() == "commit"
        assert ledger.phase() == "map"
    assert ledger.phase() == "plan"
