"""The commands as people type them: what they print where, and the exit code of everything that goes wrong."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

APPS = Path(__file__).parent.parent / "apps"
TEXT = b"to be or not to be\n"


class Shell:
    """Runs mrfast's commands in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {**os.environ, "NO_COLOR": "1"}
        (folder / "in.txt").write_bytes(TEXT)

    def command(self, name: str, *arguments: str) -> list[str]:
        code = f"import sys; from mrfast.cli import {name}; sys.exit({name}())"
        return [sys.executable, "-c", code, *arguments]

    def __call__(self, *arguments: str, name: str = "main") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(name, *arguments), cwd=self.folder, env=self.env, capture_output=True, timeout=60, check=False
        )

    def start(self, *arguments: str, name: str = "main") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(name, *arguments),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def app(self, body: str) -> str:
        path = self.folder / "app.py"
        path.write_text(body)
        return str(path)

    def fails(self, *arguments: str, code: int, name: str = "main") -> str:
        """What the command says when it ends with `code`: nothing on stdout, never a traceback of mrfast."""
        done = self(*arguments, name=name)
        said = done.stderr.decode()
        assert done.returncode == code, said
        assert done.stdout == b""
        assert "mrfast: error: " in said
        assert "site-packages" not in said
        assert "mrfast/cli.py" not in said
        return said


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


WC = str(APPS / "wc.py")


def test_run_and_cat_as_the_summary_says(shell: Shell) -> None:
    done = shell("run", WC, "in.txt")
    assert (done.returncode, done.stdout) == (0, b"")
    said = done.stderr.decode()
    assert "1 map, 10 reduces, 19 bytes in, 6 records mapped, 4 records out" in said
    cat = said.strip().splitlines()[-1].split()
    assert cat[:2] == ["mrfast", "cat"]
    assert cat[2].startswith("mrfast-store/out/")
    assert sorted(shell(*cat[1:]).stdout.splitlines()) == [b"be 2", b"not 1", b"or 1", b"to 2"]


def test_json_is_one_document_on_stdout(shell: Shell) -> None:
    done = shell("run", WC, "in.txt", "--json", "-q", "-r", "2", "--job", "hamlet")
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["totals"]["records_out"] == 4
    assert len(document["parts"]) == 2
    assert Path(document["output_url"]).is_dir()


def test_quiet_says_nothing(shell: Shell) -> None:
    done = shell("run", WC, "in.txt", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_options_come_from_the_environment_too(shell: Shell) -> None:
    shell.env |= {"MRFAST_REDUCES": "3", "MRFAST_STORE": "elsewhere"}
    document = json.loads(shell("run", WC, "in.txt", "--json").stdout)
    assert len(document["parts"]) == 3
    assert "/elsewhere/" in document["output_url"]
    assert len(json.loads(shell("run", WC, "in.txt", "--json", "-r", "1").stdout)["parts"]) == 1


def test_cat_prints_parts_map_objects_and_json_lines(shell: Shell) -> None:
    shell("run", WC, "in.txt", "-r", "1", "-o", "out")
    assert shell("cat", "out/mr-out-0").stdout == b"be 2\nnot 1\nor 1\nto 2\n"
    assert shell("cat", "out").stdout == shell("cat", "out/").stdout == shell("cat", "out/mr-out-0").stdout
    lines = [json.loads(line) for line in shell("cat", "--jsonl", "out").stdout.splitlines()]
    assert lines[0] == {"key": "be", "value": "2"}
    assert shell("cat", "--jsonl", "out/mr-out-0").stdout == shell("cat", "--jsonl", "out").stdout


def test_cat_prints_a_map_object(shell: Shell) -> None:
    from mrfast import core, ops

    sink = core.MapSink(3, combine=ops.sum())
    sink.emit_all([("a", 1), ("b c", 2), ("a", 5)])
    buffers, _, _ = core.map_object(sink.drain(), "j" * 32, "m-000000.e1.1")
    (shell.folder / "object").write_bytes(b"".join(bytes(buffer) for buffer in buffers))
    assert sorted(shell("cat", "object").stdout.splitlines()) == [b"a 6", b"b\\sc 2"]
    lines = [json.loads(line) for line in shell("cat", "--jsonl", "object").stdout.splitlines()]
    assert {"key": "b c", "value": 2} in lines


def test_cat_into_a_closed_pipe_is_silent(shell: Shell) -> None:
    (shell.folder / "mr-out-0").write_bytes(b"key value\n" * 100_000)
    process = shell.start("cat", "mr-out-0")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    process.stderr.close()


def test_a_full_standard_output_is_one_line(shell: Shell) -> None:
    (shell.folder / "mr-out-0").write_bytes(b"key value\n" * 100_000)
    for arguments in (["cat", "mr-out-0"], ["run", WC, "in.txt", "--json", "-q"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                shell.command("main", *arguments),
                cwd=shell.folder,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        said = "mrfast: error: cannot write to the standard output: No space left on device\n"
        assert (done.returncode, done.stderr.decode()) == (1, said)


@pytest.mark.parametrize(
    "streams", ["2>/dev/full", "2>&-", "<&-", "<&- >&- 2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}"]
)
def test_a_job_needs_no_standard_streams(shell: Shell, streams: str) -> None:
    app = shell.app(
        "import time\ndef map(n, c):\n  time.sleep(.3)\n  print(n)\n  yield n, 1\ndef reduce(k, v): return 1"
    )
    command = f"{shlex.join(shell.command('main', 'run', app, 'in.txt', '-r', '1', '-o', 'out'))} {streams}"
    assert subprocess.run(["bash", "-c", command], cwd=shell.folder, timeout=60, check=False).returncode == 0
    assert (shell.folder / "out" / "mr-out-0").read_bytes() == b"in.txt 1\n"


def test_data_for_a_closed_standard_output_is_an_error(shell: Shell) -> None:
    (shell.folder / "mr-out-0").write_bytes(b"key value\n")
    command = f"{shlex.join(shell.command('main', 'cat', 'mr-out-0'))} >&-"
    done = subprocess.run(["bash", "-c", command], cwd=shell.folder, capture_output=True, timeout=60, check=False)
    said = b"mrfast: error: cannot write to the standard output: Bad file descriptor\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_names_that_a_shell_would_split_are_quoted(shell: Shell) -> None:
    said = shell("run", WC, "in.txt", "-o", "my out").stderr.decode()
    assert "mrfast cat 'my out'" in said


def test_what_the_app_prints_goes_to_stderr(shell: Shell) -> None:
    app = shell.app("def map(n, c):\n  print('hello')\n  return []\ndef reduce(k, v): pass")
    done = shell("run", app, "in.txt")
    assert done.stdout == b""
    assert done.stderr.startswith(b"m-000000 | hello\nmrfast: job ")
    done = shell("run", app, "in.txt", "-q")
    assert (done.stdout, done.stderr) == (b"", b"")


LOGS = """
import logging
{configured}
def map(n, c):
    for level in (10, 20, 30):
        logging.getLogger("mine").log(level, "at %d", level)
        logging.getLogger("urllib3").log(level, "connects")
    return []
def reduce(k, v): pass
"""


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ("", ["INFO:mine:at 20", "WARNING:mine:at 30", "WARNING:urllib3:connects"]),
        (
            "logging.basicConfig(level=10, format='%(message)s')",
            ["at 10", "connects", "at 20", "connects", "at 30", "connects"],
        ),
        ("logging.getLogger().setLevel(40)", []),
    ],
)
def test_what_the_app_logs_is_shown_from_info_on_unless_it_says_otherwise(
    shell: Shell, configured: str, said: list[str]
) -> None:
    done = shell("run", shell.app(LOGS.format(configured=configured)), "in.txt")
    shown = [line for line in done.stderr.decode().splitlines() if " | " in line]
    assert shown == [f"m-000000 | {line}" for line in said]


# -- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", WC], "no INPUT"),
        (["run"], "no APP"),
        (["run", WC, "in.txt", "--wrong"], "No such option"),
        (["run", WC, "in.txt", "-r", "0"], "1<=x<=65535"),
        (["run", WC, "in.txt", "--memory", "much"], "is no size: write it as 64MiB, 1GiB or 100000. See: mrfast run"),
        (["run", WC, "in.txt", "--store", "ftp://x/y"], "ftp"),
        (["run", WC, "in.txt", "--store", "memory://x"], "memory://"),
        (["run", "absent.py", "in.txt"], "absent.py: no such application file"),
        (["run", ".", "in.txt"], "is a folder"),
        (["cat"], "nothing to print"),
        (["rum"], "No such command 'rum'. Did you mean 'run'? See: mrfast --help"),
    ],
)
def test_wrong_usage_is_exit_2(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.fails(*arguments, code=2)
    assert not (shell.folder / "mrfast-store").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def map(:", "app.py:1: invalid syntax"),
        ("def map(a, b): pass", "no `reduce`"),
        ("import nothing_like_this", "No module named 'nothing_like_this'"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_a_bad_app_is_exit_2(shell: Shell, source: str, said: str) -> None:
    assert said in shell.fails("run", shell.app(source), "in.txt", code=2)


def test_no_command_shows_the_help(shell: Shell) -> None:
    done = shell()
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Example: mrfast run" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["cat", "--help"]])
def test_help_has_an_example(shell: Shell, arguments: list[str]) -> None:
    done = shell(*arguments)
    assert done.returncode == 0
    assert b"Example: mrfast" in done.stdout


def test_version(shell: Shell) -> None:
    import mrfast

    assert shell("--version").stdout.decode() == f"mrfast {mrfast.__version__}\n"


# -- what is missing, or there already --------------------------------------------------------------------------------


def test_missing_input_is_exit_3(shell: Shell) -> None:
    assert "absent.txt" in shell.fails("run", WC, "absent.txt", code=3)
    assert "absent*" in shell.fails("run", WC, "absent*", code=3)
    assert "absent" in shell.fails("cat", "absent", code=3)
    (shell.folder / "folder").mkdir()
    assert "_SUCCESS" in shell.fails("cat", "folder", code=3)


def test_an_output_that_exists_is_exit_3(shell: Shell) -> None:
    assert shell("run", WC, "in.txt", "-o", "out").returncode == 0
    before = {path.name: path.read_bytes() for path in (shell.folder / "out").iterdir()}
    assert "--overwrite" in shell.fails("run", WC, "in.txt", "-o", "out", code=3)
    assert before == {path.name: path.read_bytes() for path in (shell.folder / "out").iterdir()}
    assert shell("run", WC, "in.txt", "-o", "out", "--overwrite").returncode == 0


def test_a_bucket_that_is_not_there_is_exit_4(shell: Shell, s3_server: str) -> None:
    shell.env |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert "no-such-bucket" in shell.fails("run", WC, "s3://no-such-bucket/x/", code=4)


def test_no_credentials_is_exit_4(shell: Shell, s3_server: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        shell.env.pop(name, None)
        kept.pop(name, None)
    shell.env |= kept
    assert "credentials" in shell.fails("run", WC, "s3://some-bucket/x/", code=4)


# -- a job that fails, or is stopped ----------------------------------------------------------------------------------


def test_an_exception_shows_the_users_traceback_and_the_input(shell: Shell) -> None:
    app = shell.app("def map(n, c):\n  raise ValueError('bad day')\ndef reduce(k, v): pass")
    said = shell.fails("run", app, "in.txt", "--attempts-max", "2", code=1)
    assert "ValueError: bad day" in said
    assert 'app.py", line 2, in map' in said
    assert "in.txt" in said
    assert "mrfast/tasks" not in said


def test_the_traceback_of_a_generator_has_the_users_frames_only(shell: Shell) -> None:
    app = shell.app("def map(n, c):\n  yield n, 1\n  raise ValueError('bad day')\ndef reduce(k, v): pass")
    said = shell.fails("run", app, "in.txt", code=1)
    assert 'app.py", line 3, in map' in said
    assert said.count('  File "') == 1


@pytest.mark.parametrize("pair", ["({1}, 1)", "(3, 1)", "('k', {1})"])
def test_a_bad_pair_is_named_at_once(shell: Shell, pair: str) -> None:
    app = shell.app(f"def map(n, c): return [{pair}]\ndef reduce(k, v): return 1")
    said = shell.fails("run", app, "in.txt", code=1)
    assert "set" in said or "int" in said
    assert "4 times" not in said


def test_a_second_ctrl_c_ends_at_once_and_says_so() -> None:
    code = """if True:
        import selectors, signal
        from mrfast.interrupt import Interrupts
        with Interrupts(selectors.DefaultSelector()):
            signal.raise_signal(signal.SIGINT)
            print("still here", flush=True)
            signal.raise_signal(signal.SIGINT)
            print("and here")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    said = b"mrfast: interrupted; not cleaned up\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, b"still here\n", said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_job_and_leaves_nothing(shell: Shell, number: signal.Signals, code: int) -> None:
    app = shell.app("import signal\ndef map(n, c):\n  print('in map')\n  signal.pause()\ndef reduce(k, v): pass")
    process = shell.start("run", app, "in.txt", "-o", "out")
    assert process.stderr is not None
    assert process.stderr.readline() == b"m-000000 | in map\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == (b"mrfast: interrupted\n" if number == signal.SIGINT else b"")
    left = [path for folder in ("mrfast-store", "out") for path in (shell.folder / folder).rglob("*")]
    assert not [path for path in left if path.is_file()]
