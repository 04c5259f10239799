"""mrfast jobs, status and explain: what they say of jobs in every state, in a folder and in S3."""

from __future__ import annotations

import http.server
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_completion import run as complete
from test_coordinator import Peer, serving

import mrfast
from mrfast import cli, ops, storage
from mrfast.cli import columns
from mrfast.control import catalog, commit, coordinator
from mrfast.control.journal_files import LogFile
from mrfast.errors import CoordinatorLost, JobFailed, MrfastError, NoEvents, UnknownJob, UsageError
from mrfast.storage import ledger
from mrfast.storage.shallow import entries, read_entry
from mrfast.watch import advice
from mrfast.watch.tally import Tally

WORDS: dict[str, Any] = {"map": ops.words(letters="space"), "reduce": ops.sum()}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(coordinator, "STOPPED", {})  # signal handlers are the main thread's
    monkeypatch.setenv("MRFAST_STATE_DIR", str(tmp_path / "state"))
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_bytes(b"to be or not to be\n")


@pytest.fixture
def shared(store: storage.Store) -> storage.Store:
    """A store that processes can share: a folder, or S3."""
    if store.url.startswith("memory:"):
        pytest.skip("a memory:// store lives in one process only")
    return store


def done(store: str = "mrfast-store", **options: Any) -> mrfast.JobResult:
    return mrfast.run(**WORDS, inputs="a.txt", store=store, reduces=2, **options)


def fails_at_d(filename: str, contents: bytes) -> Any:
    mrfast.count("texts")
    if filename.endswith("d.txt"):
        raise ValueError("no d")
    yield "a", 1


def failed(store: str = "mrfast-store", **options: Any) -> str:
    """The id of a job of which three maps of four are done."""
    inputs = [f"{name}.txt" for name in "abcd"]
    with pytest.raises(JobFailed, match="no d") as raised:
        mrfast.run(
            map=fails_at_d,
            reduce=ops.sum(),
            inputs=inputs,
            store=store,
            reduces=2,
            workers=1,
            attempts_max=1,
            **options,
        )
    return str(raised.value).split()[1]


def interrupted(store: storage.Store, *, stops: bool = False, **options: Any) -> str:
    """The id of a job that looks as if its coordinator had been killed, or stopped."""
    job = failed(store.url, **options)
    for name in ("failed.json", *(() if stops else ("events.jsonl.gz",))):
        store.delete(f"jobs/{job}/{name}")
    return job


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.mrfast, arguments)
    if isinstance(result.exception, MrfastError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def read(*arguments: str) -> Any:
    return json.loads(invoke(*arguments, "--json").stdout)


# -- one level of a store ---------------------------------------------------------------------------------------------


def test_one_level_of_a_store(store: storage.Store) -> None:
    assert entries(store, "jobs/") == {}
    for key in ("jobs/a/spec", "jobs/a/inter/m", "jobs/b", "jobsc", "jobs/d/e/f"):
        store.put(key, key.encode())
    found = entries(store, "jobs/")
    assert {(name, entry.is_folder) for name, entry in found.items()} == {("a", True), ("b", False), ("d", True)}
    assert read_entry(store, "jobs/", found["b"]) == b"jobs/b"
    assert set(entries(store, "jobs/a/")) == {"spec", "inter"}
    assert set(entries(store)) >= {"jobs", "jobsc"}
    if not store.url.startswith("memory:"):
        assert abs(found["b"].modified - os.stat(".").st_mtime) < 3600


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_in_every_state(shared: storage.Store) -> None:
    one, two = done(shared.url, job="words").job, failed(shared.url, job="fails")
    three = interrupted(shared, job="stopped")
    shared.put("jobs/" + "b" * 32 + "/manifest.json", b"{")
    shared.put("jobs/" + "c" * 32 + "/spec.json", b"nothing")
    shared.put("jobs/" + "d" * 32 + "/inter/m-000000.e1.1", b"")
    shared.put("jobs/no job/spec.json", b"{}")
    if not shared.remote:  # as an interrupted run leaves it
        os.makedirs(f"{shared.url}/jobs/{'e' * 32}/inter")
    found = {each["job"]: each for each in read("jobs", "--store", shared.url)}
    assert {job: (each["name"], each["state"]) for job, each in found.items()} == {
        one: ("words", "committed"),
        two: ("fails", "failed"),
        three: ("stopped", "not ended"),
        "b" * 32: (None, "broken"),
        "c" * 32: (None, "broken"),
        "d" * 32: (None, "broken"),
    }
    assert found[one]["records_out"] == 4
    assert found[one]["output_url"] == f"{shared.url}/out/{one}"
    assert found[two]["error"].startswith("m-000003 failed once")
    assert "JSON" in found["b" * 32]["error"] or "unexpected end" in found["b" * 32]["error"]
    assert "damaged" in found["c" * 32]["error"]
    assert "what is left of a job" in found["d" * 32]["error"]
    shown = invoke("jobs", "--store", shared.url)
    assert "--resume JOB" in shown.stderr
    assert len(shown.stdout.splitlines()) == 7
    assert "journal was written last" in shown.stdout


def test_the_newest_job_is_first_and_the_oldest_are_left_out(tmp_path: Path) -> None:
    ids = [done().job for _ in range(3)]
    for age, job in enumerate(ids):
        os.utime(f"mrfast-store/jobs/{job}/spec.json", (1e9 - age, 1e9 - age))
    assert [each["job"] for each in read("jobs")] == ids
    some = invoke("jobs", "-n", "2")
    assert [line.split()[0] for line in some.stdout.splitlines()[1:]] == ids[:2]
    assert "1 older job not shown; more with -n 3" in some.stderr
    assert columns.when_text(1e9) in some.stdout
    assert read("status")["job"] == ids[0]


def test_a_store_without_jobs_is_no_error(tmp_path: Path) -> None:
    nothing = invoke("jobs", "--store", "nowhere")
    assert nothing.stdout == ""
    assert "nowhere has no jobs; name another store with --store" in nothing.stderr
    assert read("jobs", "--store", "nowhere") == []
    assert not Path("nowhere").exists()
    with pytest.raises(UnknownJob, match="has no jobs"):
        invoke("status", "--store", "nowhere")


def test_what_a_list_of_jobs_costs_in_s3(
    s3_bucket: str, access_log: Callable[[str], dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{s3_bucket}/some"
    for _ in range(3):
        done(url)
    interrupted(storage.open_store(url))
    monkeypatch.setattr(ledger, "_own", ledger.Ledger())
    before = access_log(s3_bucket)
    shown = invoke("jobs", "--store", url)
    after = access_log(s3_bucket)
    sent = {verb: number - before.get(verb, 0) for verb, number in after.items() if number != before.get(verb, 0)}
    assert sent == {"LIST": 1 + 4 + 1, "GET": 4}
    assert "10 requests to S3 (" in shown.stderr
    assert read("jobs", "--store", url, "-n", "1")


def test_a_job_runs_while_its_journal_is_open_here(tmp_path: Path) -> None:
    store = storage.open_store("mrfast-store")
    job = interrupted(store)
    journal = LogFile(f"{store.url}/jobs/{job}/journal/2.log")
    assert read("jobs")[0]["state"] == "running"
    assert "--resume" not in invoke("jobs").stderr
    journal.close()
    assert read("jobs")[0]["state"] == "not ended"


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_of_a_committed_job(shared: storage.Store) -> None:
    job = done(shared.url, job="words").job
    for name in (job, "words"):
        shown = invoke("status", name, "--store", shared.url).stdout
        assert f"{job} (words)" in shown
        assert "1, 19 bytes in, 6 records" in shown
        assert "4 records" in shown
        assert "2 parts" in shown
        assert ("requests to S3" in shown) == shared.url.startswith("s3:")
    document = read("status", "words", "--store", shared.url)
    assert document["document"]["totals"]["records_out"] == 4
    assert "cost_usd" in document["document"]


def test_status_of_a_failed_job_says_why_and_how_to_go_on(tmp_path: Path) -> None:
    job = failed(job="fails")
    shown = invoke("status", "fails")
    assert "4 started, 1 failed" in shown.stdout
    assert "m-000003 failed once" in shown.stdout
    assert "ValueError: no d" in shown.stdout
    assert f"--resume {job} --store mrfast-store" in shown.stderr


def test_status_of_a_job_that_has_not_ended_comes_from_its_journal(shared: storage.Store) -> None:
    job = interrupted(shared)
    shown = invoke("status", job, "--store", shared.url)
    journal = read("status", job, "--store", shared.url)["journal"]
    done = journal["maps_done"]  # in S3 a slot has several of them at a time: which one failed first is open
    assert done == 3 or (shared.remote and done < 3)
    assert (journal["maps"], journal["reduces_done"]) == (4, 0)
    assert f"{done} of 4 done, {19 * done} bytes in, {done} record" in shown.stdout
    assert "0 of 2 done" in shown.stdout
    assert "ValueError: no d" in shown.stdout
    assert journal["counters"] == ({"texts": done} if done else {})
    assert not done or f"counter texts  {done}" in shown.stdout
    assert "not known here" in shown.stderr


def test_a_job_that_was_stopped_has_left_its_log_since(tmp_path: Path) -> None:
    store = storage.open_store("mrfast-store")
    job = interrupted(store, stops=True, job="halted")
    log = Path(f"mrfast-store/jobs/{job}/events.jsonl.gz")
    assert log.exists()
    os.utime(f"mrfast-store/jobs/{job}/journal/1.log", (1e9, 1e9))
    os.utime(log, (1e9, 1e9))
    assert read("jobs")[0]["state"] == "stopped"
    assert "go on with" not in invoke("jobs").stderr
    shown = invoke("status")
    assert "stopped, began" in shown.stdout
    assert f"gone on from: mrfast-coordinator --resume {job}" in shown.stderr
    Path(f"mrfast-store/jobs/{job}/journal/2.log").write_bytes(b"")  # somebody has resumed it
    assert read("jobs")[0]["state"] == "not ended"


def test_a_job_of_which_there_is_no_plan_yet(tmp_path: Path) -> None:
    store = storage.open_store("mrfast-store")
    job = interrupted(store)
    log = Path(f"mrfast-store/jobs/{job}/journal/1.log")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:1]))
    assert "not planned yet" in invoke("status", job).stdout


def test_status_asks_a_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(b"secret") as it:
        address = f"{it.address[0]}:{it.address[1]}"
        with pytest.raises(CoordinatorLost, match="wants a token"):
            invoke("status", "--coordinator", address)
        monkeypatch.setenv("MRFAST_TOKEN", "secret")
        worker = Peer(it.address, token=b"secret")
        worker.poll(1)
        live = read("status", "--coordinator", address)
        assert live["job"] == it.spec.job
        assert live["workers"] == 1
        assert live["attempts"]["running"] == 1
        shown = invoke("status", "--coordinator", address).stdout
        assert "running, for" in shown
        assert "m-000000.e1.1" in shown
        worker.connection.close()
    with pytest.raises(CoordinatorLost, match="no coordinator answers"):
        invoke("status", "--coordinator", address)


@pytest.fixture
def page() -> Iterator[tuple[str, Tally]]:
    """A server with what the page of a job says; it wants a token."""
    tally = Tally()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == "Bearer secret"
            self.send_response(401 if not known else 200 if self.path == "/api/status" and tally.job else 404)
            self.end_headers()
            self.wfile.write(json.dumps(tally.document()).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tally
    server.shutdown()
    thread.join()
    server.server_close()


def test_status_asks_a_page(page: tuple[str, Tally], monkeypatch: pytest.MonkeyPatch) -> None:
    url, tally = page
    with pytest.raises(CoordinatorLost, match="set MRFAST_TOKEN"):
        invoke("status", "--http", url)
    monkeypatch.setenv("MRFAST_TOKEN", "secret")
    with pytest.raises(CoordinatorLost, match="is it run with --http"):
        invoke("status", "--http", url)
    with serving() as it:
        worker = Peer(it.address)
        worker.poll(1)
        lines = list(it.driver.events.lines)
        sample = it.driver.events.line("sample", 0.0, {"status": it.driver.status(0.0)})
        worker.connection.close()
    for line in lines:
        if b'"e":"sample"' not in line:
            tally.add(line)
    early = read("status", "--http", url + "/")
    assert (early["job"], early["maps"], early["attempts"]["running"]) == (it.spec.job, 2, 1)
    assert "0 of 2 done" in invoke("status", "--http", url).stdout
    tally.add(sample)
    shown = invoke("status", "--http", url.removeprefix("http://")).stdout
    assert it.spec.job in shown
    assert "m-000000.e1.1" in shown
    with pytest.raises(UsageError, match="no JOB"):
        invoke("status", "some", "--http", url)
    with pytest.raises(UsageError, match="is no http"):
        invoke("status", "--http", "file:///etc/passwd")


# -- explain ----------------------------------------------------------------------------------------------------------


def test_explain_a_failed_job(shared: storage.Store) -> None:
    job = failed(shared.url, job="fails")
    shown = invoke("explain", "fails", "--store", shared.url).stdout
    assert f"job {job} (fails), " in shown
    assert ": failed after " in shown
    assert "Why it failed\n  m-000003 failed once" in shown
    assert "attempt  m-000003.e1.1 on local" in shown
    assert "input    d.txt" in shown
    assert 'raise ValueError("no d")' in shown
    assert "the job failed" in shown
    assert "\nmap " in shown.replace("  map ", "\nmap ")
    document = read("explain", "--store", shared.url)
    assert document["failure"]["message"] == "ValueError: no d"
    assert document["state"] == "FAILED"


def test_explain_a_job_that_had_no_fault(shared: storage.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "NOTABLE_S", 1000.0)
    result = done(shared.url)
    for where in ((result.job, "--store", shared.url), (result.output_url,)):
        shown = invoke("explain", *where).stdout
        assert ": was committed after " in shown
        assert "Nothing stands out." in shown
        assert "Where the time went (slot seconds of " in shown
    document = read("explain", result.output_url)
    assert document["findings"] == []
    assert [row["phase"] for row in document["time"]] == ["map", "reduce"]
    assert {"wait", "compute", "write", "idle"} <= document["time"][0]["slot_seconds"].keys()


def one_key(filename: str, contents: bytes) -> Any:
    for _ in range(100_000):
        yield "the", 1
    for word in contents.split():
        yield word.decode(), 1


def test_explain_a_skewed_job_and_one_of_tiny_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("NOTABLE_S", "NOTABLE_SHARE", "PYTHON_SHARE"):  # whatever it cost: that depends on the machine
        monkeypatch.setattr(advice, bound, -1e9)

    def total(key: str, values: Any) -> int:
        return sum(values)

    skewed = mrfast.run(map=one_key, reduce=total, inputs="a.txt", reduces=4)
    found = {each["kind"]: each for each in read("explain", skewed.job)["findings"]}
    assert "times the median" in found["skew"]["figure"]
    assert found["python_map"]["advice"].startswith("map = ops.words(")
    Path("long.txt").write_bytes(b"some words of a line\n" * 5000)
    tiny = mrfast.run(**WORDS, inputs="long.txt", split_bytes=1000, workers=2)
    found = {each["kind"]: each for each in read("explain", tiny.job)["findings"]}
    assert "105 maps of " in found["small_splits"]["figure"]
    assert "--split-bytes 1MiB" in found["small_splits"]["advice"]
    shown = invoke("explain", tiny.job).stdout
    assert "-> fewer, larger tasks" in shown


def test_what_cannot_be_explained(tmp_path: Path) -> None:
    with pytest.raises(UnknownJob, match="has no jobs"):
        invoke("explain")
    done()
    with pytest.raises(NoEvents, match="has no job 'nope'; mrfast jobs --store URL lists them"):
        invoke("explain", "nope")
    with pytest.raises(NoEvents, match="it is no output of a job"):
        invoke("explain", str(tmp_path))
    interrupted(storage.open_store("mrfast-store"), job="stopped")
    with pytest.raises(NoEvents, match=r"stopped in .* has no event log"):
        invoke("explain", "stopped")


# -- how it is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (9.994, "9.99 s"), (10, "10.0 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_as_people_read_them(seconds: float, text: str) -> None:
    assert columns.seconds_text(seconds) == text


class Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = io.BytesIO()

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [200, 40])
def test_a_table_on_a_terminal_puts_what_does_not_fit_below(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    rows = [("a", "[bold]", "x" * 50), ("b", "2", "")]
    columns.print_table(("NAME", "N", "WHAT"), rows, "lrl")
    lines = terminal.getvalue().splitlines()
    assert "\x1b[1m" in lines[0]
    if width == 200:
        assert lines[1:] == ["a     [bold]  " + "x" * 50, "b          2"]
    else:
        assert lines[1:] == ["a     [bold]", "    " + "x" * 50, "b          2"]
    monkeypatch.setenv("TERM", "dumb")
    columns.print_table(("NAME", "N", "WHAT"), rows, "lrl")
    assert terminal.buffer.getvalue().splitlines()[0] == b"NAME       N  WHAT"


def test_a_shell_completes_jobs(tmp_path: Path) -> None:
    job = done(job="words").job

    def answers(words: str, **more: str) -> list[str]:
        number = str(len(words.split()) - 1)
        variables = {"_MRFAST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
        return list(complete("main", **variables, **more).stdout.splitlines())

    assert answers("mrfast status w", MRFAST_STORE=str(tmp_path / "mrfast-store")) == ["plain,words"]
    assert answers(f"mrfast explain --store {tmp_path}/mrfast-store {job[:5]}") == [f"plain,{job}"]
    assert answers("mrfast status w", MRFAST_STORE="s3://nowhere") == [""]


def test_catalog_reads_names_from_the_beginning_of_a_spec(tmp_path: Path) -> None:
    store = storage.open_store("mrfast-store")
    job = interrupted(store, job="long")
    spec = commit.find_job("long", store)
    assert spec.job == job
    assert len(Path(f"mrfast-store/jobs/{job}/spec.json").read_bytes()) > 100
    catalog.HEAD_BYTES, before = 100, catalog.HEAD_BYTES
    try:
        assert catalog.job(store, job).name == "long"
    finally:
        catalog.HEAD_BYTES = before
