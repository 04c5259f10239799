"""What people see of a running job, and what they do not."""

from __future__ import annotations

import io
from typing import Any

import pytest

from mrfast.watch.progress import BARS_AFTER_S, LINE_EVERY_S, ProgressView, counted, size_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def status(**changes: Any) -> dict[str, Any]:
    return {
        **{"job": "j1", "state": "RUNNING", "maps": 8, "maps_done": 3, "reduces": 1, "reduces_done": 0, "workers": 2},
        **{"attempts": {"started": 9, "failed": 0, "running": 3}, "bytes_done": 0, "records_done": 0},
        **{"requests": {"by_verb": {}}, "cost_usd": 0.0},
        **changes,
    }


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


def test_without_a_terminal_there_is_a_line_every_ten_seconds() -> None:
    stream = io.StringIO()
    view = ProgressView(0.0, stream=stream)
    assert view.wait_s(1.0) == LINE_EVERY_S - 1.0
    view.update(status(), 9.9)
    assert stream.getvalue() == ""
    view.update(status(), 10.0)
    view.update(status(), 10.1)
    assert stream.getvalue().splitlines() == [
        "mrfast: job j1; should it be killed: mrfast run --resume j1",
        "mrfast: 10 s: 3 of 8 maps, 0 of 1 reduce done; 3 running on 2 workers",
    ]
    view.close()


def test_on_a_terminal_a_short_job_draws_nothing() -> None:
    stream = Terminal()
    view = ProgressView(0.0, stream=stream)
    view.update(status(), BARS_AFTER_S - 0.01)
    view.close()
    assert stream.getvalue() == ""


def test_on_a_terminal_bars_come_and_go_and_prints_stay() -> None:
    stream = Terminal()
    view = ProgressView(0.0, stream=stream)
    view.update(status(), BARS_AFTER_S)
    view.write(b"from the app \xff\n")
    view.update(status(maps_done=8), BARS_AFTER_S + 1)
    view.close()
    shown = stream.getvalue()
    assert "3/8" in shown
    assert "8/8" in shown
    assert "from the app \\xff" in shown
    assert "\x1b[3" not in shown, "a colour, in spite of NO_COLOR"


FULL: dict[str, Any] = {
    **{"attempts": {"started": 9, "failed": 1, "running": 3}, "bytes_done": 20 << 20, "records_done": 5000},
    **{"requests": {"by_verb": {"GET": 7, "PUT": 3}}, "cost_usd": 0.0123},
}


def test_a_line_tells_speed_workers_failures_and_cost() -> None:
    stream = io.StringIO()
    view = ProgressView(0.0, stream=stream)
    view.update(status(**FULL), 10.0)
    view.update(status(**FULL, maps_done=8), 20.0)
    crew = "3 running on 2 workers, 1 attempt failed, 10 requests to S3, $0.0123"
    assert stream.getvalue().splitlines()[1:] == [
        f"mrfast: 10 s: 3 of 8 maps, 0 of 1 reduce done; 2.0 MiB/s, 500 records/s; {crew}",
        f"mrfast: 20 s: 8 of 8 maps, 0 of 1 reduce done; {crew}",
    ]


def test_no_bar_is_full_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for state, full in (("COMMITTING", False), ("COMMITTED", True)):
        stream = Terminal()
        view = ProgressView(0.0, stream=stream)
        view.update(status(maps_done=8, reduces=4, reduces_done=4, state=state, **FULL), BARS_AFTER_S)
        view.close()
        assert ("4/4" in stream.getvalue()) == full
        assert "1 attempt failed, 10 requests to S3, $0.0123" in stream.getvalue()


def test_quiet_shows_nothing_but_lets_the_app_print() -> None:
    stream = Terminal()
    view = ProgressView(0.0, quiet=True, stream=stream)
    assert view.wait_s(100.0) is None
    view.update(status(), 100.0)
    view.write(b"hello\n")
    assert stream.getvalue() == "hello\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 60, "5,120.0 PiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_counts() -> None:
    assert (counted(1, "map"), counted(1000, "map")) == ("1 map", "1,000 maps")
