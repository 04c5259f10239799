"""What people see of a running job, and what they do not."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
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
    view.printed("m-000001 | from the app [bold]\n")
    view.say("m-000007 runs again")
    view.update(status(maps_done=8), BARS_AFTER_S + 1)
    view.close()
    shown = stream.getvalue()
    assert "3/8" in shown
    assert "8/8" in shown
    assert "m-000001 | from the app [bold]" in shown
    assert "mrfast: m-000007 runs again" in shown
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


def test_quiet_shows_nothing() -> None:
    stream = Terminal()
    view = ProgressView(0.0, quiet=True, stream=stream)
    assert view.wait_s(100.0) is None
    view.update(status(), 100.0)
    view.say("news")
    view.printed("hello\n")
    assert stream.getvalue() == ""


def test_a_process_may_have_no_stderr_or_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    view = ProgressView(0.0)
    view.update(status(), 100.0)
    view.printed("hello\n")
    closed = io.StringIO()
    view = ProgressView(0.0, stream=closed)
    closed.close()
    view.printed("hello\n")


def test_prints_alone_can_be_shown() -> None:
    stream = Terminal()
    view = ProgressView(0.0, prints_only=True, stream=stream)
    assert view.wait_s(100.0) is None
    view.update(status(), 100.0)
    view.say("news")
    view.printed("hello\n")
    assert stream.getvalue() == "hello\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 60, "5,120.0 PiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_counts() -> None:
    assert (counted(1, "map"), counted(1000, "map")) == ("1 map", "1,000 maps")


# -- on a real terminal -----------------------------------------------------------------------------------------------

APP = "import time\ndef map(n, c):\n  time.sleep(.3)\n  print('in map')\n  yield 'k', 1\ndef reduce(k, v): return 1\n"


def on_a_terminal(folder: Path, bars_after_s: float, *arguments: str, **env: str) -> str:
    """What `mrfast run` shows on a terminal, with a line for each module that it imports."""
    (folder / "app.py").write_text(APP)
    (folder / "in.txt").write_text("text\n")
    code = (
        f"import mrfast.cli as cli; cli.ProgressView.__init__.__globals__['BARS_AFTER_S'] = {bars_after_s}; cli.main()"
    )
    ours, theirs = os.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", code, "run", "app.py", "in.txt", *arguments],
        cwd=folder,
        env={**plain, "TERM": "xterm-256color", **env},
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO is the end of a terminal
        while data := os.read(ours, 1 << 16):
            shown += data
    os.close(ours)
    assert done.wait(60) == 0, shown
    return shown.decode()


def without_imports(shown: str) -> str:
    return "".join(line for line in shown.splitlines(keepends=True) if not line.startswith("import time:"))


def test_rich_is_not_imported_for_a_job_that_ends_before_there_are_bars(tmp_path: Path) -> None:
    assert BARS_AFTER_S == 0.5
    shown = on_a_terminal(tmp_path, 60)
    assert "m-000000 | in map" in shown
    assert " done in " in shown
    assert re.search(r"import time:.*\| +mrfast\.watch\.progress", shown)
    assert not re.search(r"import time:.*\| +(rich|IPython)\b", shown)
    assert "\x1b" not in shown


def test_a_longer_job_has_bars_in_colour_unless_no_color_is_set(tmp_path: Path) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9;]*m")
    shown = on_a_terminal(tmp_path, 0)
    assert re.search(r"import time:.*\| +rich\b", shown)
    assert "reduces" in shown
    assert coloured.search(shown)
    plain = on_a_terminal(tmp_path, 0, NO_COLOR="1")
    assert "reduces" in plain
    assert not coloured.search(plain)


def test_quiet_is_silent_on_a_terminal(tmp_path: Path) -> None:
    assert without_imports(on_a_terminal(tmp_path, 0, "-q")) == ""
