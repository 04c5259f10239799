"""`mrfast report`: where it finds a log, where it writes, and what it says when it cannot."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_events import HOSTILE, Synthetic

from mrfast.control.event_files import packed
from mrfast.watch.report import report_html


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mrfast", "report", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def events(html: str) -> bytes:
    found = re.search(r'id="events">"([^"]*)"</script>', html)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1]))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_events.jsonl.gz").write_bytes(packed(b"".join(Synthetic(5, 2).lines)))
    return tmp_path


def test_a_report_holds_every_line_and_nothing_of_it_as_markup() -> None:
    lines = Synthetic().lines
    html = report_html(lines)
    assert events(html) == b"".join(lines)
    assert HOSTILE not in html and "<img" not in html
    assert not re.search(r'(src|href)="(?!data:,|#)', html)  # nothing is loaded from elsewhere
    assert "script-src 'sha256-" in html and "connect-src" not in html


def test_a_report_of_ten_thousand_tasks_is_no_giant() -> None:
    assert len(report_html(Synthetic(10_000, 200, workers=40).lines)) < 2_500_000


def test_it_is_written_under_the_name_of_the_job(output: Path) -> None:
    done = report(output, "out")
    assert done.returncode == 0, done.stderr
    path = output / "mrfast-report-access-log.html"
    assert done.stderr.startswith("mrfast: wrote mrfast-report-access-log.html (")
    assert events(path.read_text()) == b"".join(Synthetic(5, 2).lines)
    assert report(output, "out", "-q").stderr == ""  # an earlier report is replaced


def test_minus_is_stdout(output: Path) -> None:
    done = report(output, "out", "-o", "-")
    assert done.stdout.startswith("<!doctype html>") and done.stderr == ""


def test_another_file_is_not_replaced_unless_told(output: Path) -> None:
    (output / "thesis.html").write_text("mine")
    done = report(output, "out", "-o", "thesis.html")
    assert done.returncode == 3 and "is no report of mrfast" in done.stderr and "--force" in done.stderr
    assert (output / "thesis.html").read_text() == "mine"
    assert report(output, "out", "-o", "thesis.html", "--force").returncode == 0
    assert "<!doctype html>" in (output / "thesis.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch"], 3, "has no job 'nosuch'"),
        (["out", "-o", "no/such/folder.html"], 1, "no/such/folder.html: cannot be written: No such file or directory"),
        (["out", "-o", "."], 1, ".: cannot be written: Is a directory"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_said(output: Path, arguments: list[str], code: int, said: str) -> None:
    done = report(output, *arguments)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
