"""The live page and the report in a browser: what is shown, that it moves, and that nothing in a log can act."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from live_page import FILES, PAGE, LivePage
from page_events import HOSTILE, Synthetic

from mrfast.watch.report import report_html

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install mrfast[test]")
CHROMIUM = os.environ.get("MRFAST_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: sudo apt-get install -y chromium")
ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Window:
    """A page of the browser; what the console says, and what must never come up, is kept in `said`."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(**({"viewport": SIZE} | options))
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "http://127.0.0.1:")):
            self.said.append(f"asked for {request.url}")

    def report(self, folder: Path, lines: list[bytes]) -> Any:
        path = folder / "report.html"
        path.write_text(report_html(lines))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.getElementById('figures').childElementCount > 0")
        return self.page


@pytest.fixture
def window(browser: Any) -> Iterator[Window]:
    window = Window(browser)
    yield window
    window.page.close()
    assert window.said == []


@pytest.fixture
def live() -> Iterator[LivePage]:
    server = LivePage()
    yield server
    server.close()


def wait_text(page: Any, selector: str, text: str) -> None:
    page.locator(selector).filter(has_text=re.compile(text)).first.wait_for(state="attached", timeout=10_000)


def overflows(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def filled(page: Any) -> float:
    return float(page.evaluate("parseFloat(document.getElementById('progress-fill').style.width)"))


def test_the_page_names_each_of_its_files_and_no_other() -> None:
    named = re.findall(r'(?:src|href)="([^"#:]+)"', (PAGE / "index.html").read_text())
    assert sorted([*named, "index.html"]) == sorted(FILES)


def test_a_report_shows_a_committed_job(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic().lines)
    assert page.locator("#name").inner_text() == "access-log"
    assert page.locator("#state").inner_text() == "Committed"
    assert page.locator("#percent").inner_text() == "100 %" and filled(page) == 100
    assert "240 of 240 maps" in page.locator("#steps").inner_text()
    assert page.locator("#banner").is_hidden()
    for panel in ("errors", "shuffle", "requests", "counters", "printed"):
        assert page.locator(f"#{panel}-panel").is_visible(), panel
    assert "combine()" in page.locator("#advice").inner_text()
    assert page.locator("#workers tbody tr").count() == 6 and "gone" in page.locator("#workers").inner_text()
    drawn = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return d.some(Boolean) }"
    for canvas in ("#throughput", "#maps canvas", "#reduces canvas", "#timeline canvas", "#shuffle"):
        assert page.eval_on_selector(canvas, drawn), canvas


def test_hostile_texts_are_shown_and_do_nothing(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic().lines)
    for place in ("#output", "#params", "#errors", "#printed", "#counters", "#hot-body"):
        assert HOSTILE in page.locator(place).text_content(), place
    assert page.locator("img").count() == 0
    assert "\\u202egpj.exe" in page.locator("#hot-body").text_content()  # and looks like no other name
    assert page.evaluate("document.scripts.length") == len([name for name in FILES if name.endswith(".js")]) + 1


def test_the_policy_of_a_report_lets_no_other_code_run(browser: Any, tmp_path: Path) -> None:
    window = Window(browser)
    path = tmp_path / "report.html"
    html = report_html(Synthetic(5, 2).lines)
    path.write_text(
        html.replace("</main>", '<script>document.title = "mine"</script><img src="data:," onerror="x()"></main>')
    )
    window.page.goto(path.as_uri())
    wait_text(window.page, "#state", "Committed")
    assert window.page.title() != "mine"
    assert len(window.said) == 2 and all("Content Security Policy" in text for text in window.said)
    window.page.close()


def test_a_failed_job_has_no_full_bar_and_the_users_traceback(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic(end="FAILED").lines)
    assert page.locator("#state").inner_text() == "Failed"
    assert "The job failed" in page.locator("#banner").inner_text() and HOSTILE in page.locator("#banner").inner_text()
    assert 0 < filled(page) < 60 and "Failed at" in page.locator("#percent").inner_text()
    first = page.locator("#errors details").first
    assert "fatal" in first.inner_text() and "invalid literal for int()" in first.locator("pre.traceback").inner_text()
    page.locator("#banner button").click()
    assert page.locator("#story-title").inner_text() == "m-000239"
    assert "invalid literal for int()" in page.locator("#story pre.traceback").first.inner_text()


def test_a_live_page_moves_and_is_full_only_when_committed(window: Window, live: LivePage) -> None:
    lines = Synthetic().lines
    half = len(lines) // 2
    live.tell(lines[:half])
    page = window.page
    page.goto(live.url)
    wait_text(page, "#connection", "^live$")
    wait_text(page, "#state", "Running")
    page.wait_for_function("parseFloat(document.getElementById('progress-fill').style.width) > 5")
    before = filled(page)
    live.tell(lines[half:-1])
    wait_text(page, "#steps", "240 of 240 maps · 12 of 12 reduces")
    assert before < filled(page) <= 99 and page.locator("#percent").inner_text() == "99 %"
    live.tell(lines[-1:])
    wait_text(page, "#state", "Committed")
    wait_text(page, "#connection", "has ended")
    wait_text(page, "#live", "Job Committed")
    assert filled(page) == 100


def test_a_lost_connection_is_said_and_goes_on_where_it_was(browser: Any, live: LivePage) -> None:
    window, lines = Window(browser), Synthetic().lines
    page = window.page
    live.tell(lines[:200])
    page.goto(live.url)
    wait_text(page, "#connection", "^live$")
    live.drop()
    wait_text(page, "#connection", "connection lost")
    assert page.locator("#name").inner_text() == "access-log"  # the page stays
    live.mend()
    live.tell(lines[200:])
    wait_text(page, "#state", "Committed")
    assert live.resumed_at == [None, "200"]
    assert page.evaluate("mrfast.page.model.events") == len(lines)
    page.close()


def test_a_task_tells_its_story_by_mouse_and_by_keyboard(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic().lines)
    page.locator("#maps canvas").click(position={"x": 30, "y": 10})
    assert page.locator("#story-title").inner_text() == "m-000001"
    cells = page.locator("#maps .cells")
    cells.focus()
    cells.press("ArrowRight")
    assert page.locator("#story-title").inner_text() == "m-000002"
    assert "m-000002: done" in page.locator("#option-m").inner_text()
    cells.press("End")
    assert page.locator("#story-title").inner_text() == "m-000239"
    cells.press("Home")
    cells.press("ArrowDown")
    columns = page.evaluate("Number(document.getElementById('story-title').textContent.slice(2))")
    assert columns > 10
    story = page.locator("#story").inner_text()
    assert "s3://logs/2026/11/access-" in story and "Records" in story and "compute" in story
    cells.press("Enter")
    assert page.evaluate("document.activeElement.id") == "story-close"
    page.keyboard.press("Escape")
    assert page.locator("#story").is_hidden()
    assert page.evaluate("document.activeElement.className") == "cells"
    page.fill("#find-name", "r-3")
    page.press("#find-name", "Enter")
    assert page.locator("#story-title").inner_text() == "r-00003"


def test_the_legend_goes_to_the_next_task_in_a_state(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic(end="FAILED").lines)
    page.get_by_role("button", name="failed 1").click()
    assert page.locator("#story-title").inner_text() == "m-000239"


def test_a_bar_of_the_timeline_opens_its_task(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic(5, 2, workers=1, slots=1).lines)
    page.locator("#timeline canvas").click(position={"x": 220, "y": 8})
    assert page.locator("#story-title").inner_text() == "m-000000"
    page.locator("#timeline .bars").press("+")
    page.locator("#timeline .bars").press("ArrowRight")
    page.locator("#timeline canvas").hover(position={"x": 400, "y": 8})
    assert "on worker-0" in page.locator("#timeline .caption").inner_text()


def test_ten_thousand_tasks_scroll(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic(10_000, 200, workers=40).lines)
    # However many tasks there are: no elements for them, and a canvas no higher than what is in sight.
    assert page.evaluate("document.getElementsByTagName('*').length") < 3_000
    assert page.evaluate("document.querySelector('#maps canvas').clientHeight") < 400
    page.evaluate("""() => {
        window.frames_ = [];
        let last = performance.now();
        const frame = (now) => { frames_.push(now - last); last = now; requestAnimationFrame(frame); };
        requestAnimationFrame(frame);
    }""")
    cells = page.locator("#maps .cells")
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    for _ in range(12):
        page.mouse.wheel(0, 120)
        page.evaluate("new Promise(requestAnimationFrame)")
    assert page.evaluate("document.querySelector('#maps .cells').scrollTop") > 500
    frames = page.evaluate("frames_")
    assert len(frames) > 10 and sum(each > 250 for each in frames) < len(frames) / 4
    cells.focus()
    cells.press("End")
    assert page.locator("#story-title").inner_text() == "m-009999"


@pytest.mark.parametrize("end", ["COMMITTED", "FAILED"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, tmp_path: Path, end: str) -> None:
    window = Window(browser, viewport={"width": 360, "height": 740}, has_touch=True)
    page = window.report(tmp_path, Synthetic(end=end).lines)
    assert not overflows(page)
    page.locator("#maps canvas").click(position={"x": 10, "y": 10})
    assert page.locator("#story").is_visible() and not overflows(page)
    assert window.said == []
    page.close()


def test_dark_and_light_follow_the_system_and_the_button(browser: Any, tmp_path: Path) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    colours = {}
    for scheme in ("light", "dark"):
        window = Window(browser, color_scheme=scheme)
        page = window.report(tmp_path, Synthetic(5, 2).lines)
        colours[scheme] = page.evaluate(background)
        page.locator("#theme").click()
        colours[f"not {scheme}"] = page.evaluate(background)
        assert window.said == []
        page.close()
    assert colours["light"] == colours["not dark"] != colours["dark"] == colours["not light"]


@pytest.fixture
def model(window: Window, tmp_path: Path) -> Any:
    """Folds events into a Model, and gives what a JavaScript expression over it is."""
    page = window.report(tmp_path, Synthetic(0, 0).lines)

    def fold(events: list[dict[str, Any]], expression: str) -> Any:
        text = orjson.dumps(events).decode()
        return page.evaluate(
            f"() => {{ const model = new mrfast.Model(); for (const e of {text}) model.apply(e);"
            f" return {expression}; }}"
        )

    return fold


def attempts(*more: dict[str, Any]) -> list[dict[str, Any]]:
    task = {"task": "m-000000", "worker": "a"}
    return [
        {"e": "job", "t": 0, "job": "j"},
        {"e": "planned", "t": 0, "maps": 2, "reduces": 1, "reduce_tasks": 1, "bytes_in": 10},
        {"e": "started", "t": 1, "attempt": "m-000000.e1.1", "backup": False, **task},
        *({**task, **event} for event in more),
    ]


ONE, TWO = {"attempt": "m-000000.e1.1"}, {"attempt": "m-000000.e1.2"}
ACCEPTED = {"e": "ended", "t": 2, "word": "accepted", "bytes_in": 10, "records_in": 4, "size": 3} | ONE


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ([], "running"),
        ([{"e": "started", "t": 2, "backup": True, **TWO}], "backup"),
        ([ACCEPTED], "done"),
        ([ACCEPTED, {"e": "lost", "t": 3, "why": "gone", **ONE}], "again"),
        ([ACCEPTED, {"e": "rolled_back", "t": 3, **ONE}], "again"),
        ([{"e": "ended", "t": 2, "word": "expired", **ONE}], "again"),
        ([{"e": "ended", "t": 2, "word": "expired", **ONE}, {"e": "back", "t": 3, **ONE}], "running"),
        ([{"e": "ended", "t": 2, "word": "expired", **ONE}, ACCEPTED], "done"),
        ([{"e": "ended", "t": 2, "word": "failed", "message": "m", **ONE}], "again"),
        ([{"e": "ended", "t": 2, "word": "failed", "message": "m", "fatal": True, **ONE}], "failed"),
        ([{"e": "of another time", "t": 2}, {"e": "", "t": 0}], "running"),
    ],
)
def test_the_state_of_a_task(model: Any, more: list[dict[str, Any]], state: str) -> None:
    events = attempts(*more)
    assert model(events, "model.maps[0].state") == state
    others = {"waiting": 1} | {state: 1}
    assert {name: n for name, n in model(events, "model.counts.m").items() if n} == others


def test_restored_tasks_count_as_done(model: Any) -> None:
    events = attempts({"e": "restored", "t": 1, "maps": [[1, 2]], "reduces": []})
    assert model(events, "[model.maps[1].state, model.done('m'), model.fraction()]") == ["restored", 1, 0.25]


def test_what_an_attempt_read_is_spread_over_its_time(model: Any) -> None:
    total = "model.bytes.m.perSecond(64).reduce((a, b) => a + b) * model.bytes.m.width"
    assert model(attempts(ACCEPTED), total) == pytest.approx(10)
    assert model(attempts(ACCEPTED), "model.bytes.m.perSecond(64).filter(Boolean).length") < 10


def test_a_job_of_no_input_has_a_report(window: Window, tmp_path: Path) -> None:
    page = window.report(tmp_path, Synthetic(0, 0).lines)
    assert page.locator("#state").inner_text() == "Committed" and page.locator("#maps").is_hidden()


def events_of(reduces: int, *more: dict[str, Any]) -> list[bytes]:
    """The log of a job whose four maps take 5 s, and whose reduces begin with the maps and end at 6 s."""
    worker = "0123456789abcdef" * 2
    events: list[dict[str, Any]] = [
        {"e": "job", "t": 0, "format": 1, "job": "j", "name": None, "reduces": reduces, "params": {}},
        {"e": "planned", "t": 0, "maps": 4, "reduces": reduces, "reduce_tasks": reduces, "bytes_in": 400},
        {"e": "worker", "t": 0, "worker": worker, "slots": 8},
    ]
    tasks = [(f"m-{n:06d}", 0.0, 5.0, {}) for n in range(4)] + [
        (f"r-{n:05d}", 1.0 if n < 3 else 5.0, 6.0, {"seconds": {"maps": 4.0 if n < 3 else 0.0}}) for n in range(reduces)
    ]
    for task, start, end, told in tasks:
        one = {"task": task, "attempt": f"{task}.e1.1", "worker": worker}
        events.append({"e": "started", "t": start, "backup": False, "bytes": 100, **one})
        events.append(
            {"e": "ended", "t": end, "word": "accepted", "size": 1, "records_in": 1, "records_out": 1} | one | told
        )
    return [orjson.dumps(each) + b"\n" for each in sorted([*events, *more], key=lambda each: each["t"])]


def stragglers(page: Any) -> list[str]:
    """The tasks that the page calls so, asked of each one's story."""
    found = []
    for task in [*(f"m-{n:06d}" for n in range(4)), *(f"r-{n:05d}" for n in range(6))]:
        page.fill("#find-name", task)
        page.press("#find-name", "Enter")
        if "Straggler" in page.locator("#story").text_content():
            found.append(task)
    return found


def test_a_reduce_that_waited_for_maps_is_no_straggler(window: Window, tmp_path: Path) -> None:
    late = {"task": "r-00005", "attempt": "r-00005.e1.2", "worker": "0123456789abcdef" * 2}
    again = [{"e": "started", "t": 5.0, "backup": True, **late}, {"e": "ended", "t": 9.0, "word": "superseded", **late}]
    page = window.report(tmp_path, events_of(6, *again))
    assert stragglers(page) == ["r-00005"]
    assert page.locator("#workers th[scope=row]").inner_text() == "01234567"


APP = """
import fcntl
from mrfast import ops

def map(name, text):
    if name.endswith("bad.txt"):
        return [(1 / 0, 1)]
    with open("gate") as gate:
        if int(name.split("/")[-1].split(".")[0]) > 3:
            fcntl.flock(gate, fcntl.LOCK_SH)  # until the page was looked at
    print("seen", name)
    return [(word, 1) for word in text.split()]

reduce = ops.sum()
"""


@contextmanager
def job(folder: Path, *names: str) -> Iterator[tuple[str, Any]]:
    """A real `mrfast run --http`, and the URL that it says; its later maps wait until "gate" is unlocked."""
    (folder / "app.py").write_text(APP)
    (folder / "in").mkdir()
    for name in names:
        (folder / "in" / name).write_text("a b a\n" * 100)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MRFAST_")}
    code = "import sys; sys.argv[0] = 'mrfast'; from mrfast.cli import main; main()"
    with open(folder / "gate", "w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", code, "run", "--http", "0", "app.py", "in/", "-o", "out", "-w", "2"],
            cwd=folder, stderr=subprocess.PIPE, text=True, env=environment | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert process.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
            assert found is not None
            yield found[0], lambda: fcntl.flock(gate, fcntl.LOCK_UN)
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()


def test_a_real_job_moves_on_its_page_until_it_is_committed(window: Window, tmp_path: Path) -> None:
    with job(tmp_path, *(f"{number:02d}.txt" for number in range(12))) as (url, go):
        window.page.goto(url)
        wait_text(window.page, "#state", "Running")
        wait_text(window.page, "#steps", "4 of 12 maps")
        assert 0 < filled(window.page) < 100
        go()
        wait_text(window.page, "#state", "Committed")
        assert window.page.locator("#percent").inner_text() == "100 %"
        wait_text(window.page, "#printed", "seen in/11.txt")
        window.page.close()


def test_a_real_failure_shows_its_traceback_on_the_page(window: Window, tmp_path: Path) -> None:
    with job(tmp_path, "00.txt", "01.txt", "09.txt", "bad.txt") as (url, go):
        window.page.goto(url)
        wait_text(window.page, "#errors", "ZeroDivisionError: division by zero")
        assert "app.py" in window.page.locator("#errors").text_content()
        go()
        wait_text(window.page, "#state", "Failed")
        assert filled(window.page) < 100
        window.page.close()
