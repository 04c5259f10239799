"""mrfast check: apps that are wrong on purpose are found out on a small sample, and the right ones are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrfast.checking import ddmin

ROOT = Path(__file__).parent.parent
APPS = ROOT / "apps"
LOG = "".join(f'1.2.3.{n} - - [10/Oct/2000:13:55:36 -0700] "GET /{n % 7} HTTP/1.0" 200 {n}\n' for n in range(40))
SUM = "def reduce(key, values):\n    return sum(values)\n"
WRONG = {
    "float sum": (
        "input = 'lines'\ndef map(f, line):\n    yield 'k', float(line)\n"
        "def reduce(k, values):\n    total = 0.0\n    for v in values:\n        total += v\n    return total\n",
        "1\n2\n0.1\n0.2\n0.3\n5\n6\n1e16\n",
        "values in reverse",
        3,
    ),
    "mean of means": (
        "input = 'lines'\ndef map(f, line):\n    yield 'k', int(line)\n"
        "def reduce(k, values):\n    v = list(values)\n    return sum(v) / len(v)\ncombine = reduce\n",
        "1\n2\n6\n9\n13\n40\n",
        "combine applied to two values",
        3,
    ),
    "combine that is not associative": (
        "def map(f, text):\n    for n in text.split():\n        yield 'k', int(n)\n"
        "def combine(k, values):\n    return sum(values) + 1\n" + SUM,
        "1\n2\n3\n4\n",
        "combine not applied",
        1,
    ),
    "combine that does not fit a native reduce": (
        "from mrfast import ops\ninput = 'lines'\ndef map(f, line):\n    yield 'k', int(line)\n"
        "def combine(k, values):\n    return max(values)\nreduce = ops.sum()\n",
        "1\n2\n3\n4\n",
        "combine not applied",
        2,
    ),
    "order of values": (
        "input = 'lines'\ndef map(f, line):\n    yield 'k', line\ndef reduce(k, values):\n    return next(values)\n",
        "a\na\nb\nc\n",
        "values in reverse",
        2,
    ),
    "order of a set": (
        "def map(f, text):\n    yield next(iter({w.decode() for w in text.split()})), 1\n" + SUM,
        "".join(f"word{n}\n" for n in range(30)),
        "PYTHONHASHSEED",
        30,
    ),
    "ends of splits": (
        "input = 'blocks'\ndef map(f, block):\n    yield 'blocks', 1\n" + SUM,
        "a\nb\nc\nd\ne\n",
        "each input in 2 splits",
        2,
    ),
    "state between maps": (
        "n = 0\ndef map(f, text):\n    global n\n    n += 1\n    yield f, n\n" + SUM,
        "a\n",
        "maps run in another order",
        2,
    ),
    "tuples": (
        "def map(f, text):\n    yield 'k', (1, 2)\ndef reduce(k, values):\n    return str(list(values))\n",
        "a\nb\n",
        "values as emitted",
        1,
    ),
}


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from mrfast.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "check", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", WRONG)
def test_an_app_that_is_wrong_is_found_out_on_a_small_sample(name: str, tmp_path: Path):
    source, text, condition, lines_max = WRONG[name]
    (tmp_path / "app.py").write_text(source)
    for file in ("in1.txt", "in2.txt"):
        (tmp_path / file).write_text(text)
    files = ("in1.txt", "in2.txt") if name == "state between maps" else ("in1.txt",)
    done = check(tmp_path, "app.py", *files)
    assert done.returncode == 1, done.stderr
    first, cure, *rest = done.stdout.splitlines()
    assert condition in first
    assert cure.startswith("cure: ")
    shown = rest[: rest.index("expected:")]
    assert sum(line.startswith("    ") for line in shown) <= lines_max, done.stdout
    expected, came = "\n".join(rest).split("expected:\n")[1].split("\ncame:\n")
    assert expected and came and expected != came
    assert check(tmp_path, "app.py", *files).stdout == done.stdout


@pytest.mark.parametrize("app", sorted(path.name for path in APPS.glob("*.py")))
def test_the_apps_that_come_along_pass(app: str, tmp_path: Path):
    (tmp_path / "access.log").write_text(LOG)
    (tmp_path / "more.log").write_text(LOG)
    done = check(tmp_path, str(APPS / app), "access.log", "more.log")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""
    assert "the same answer under" in done.stderr


def test_an_app_that_fails_is_shown_with_its_traceback(tmp_path: Path):
    (tmp_path / "app.py").write_text("def map(f, text):\n    print('hello')\n    yield text.nothing, 1\n" + SUM)
    (tmp_path / "in.txt").write_text("a\n")
    done = check(tmp_path, "app.py", "in.txt")
    assert done.returncode == 1
    assert done.stdout == ""  # what the app prints goes to stderr
    assert "hello" in done.stderr
    assert "app.py fails on the sample" in done.stderr
    assert "line 3, in map" in done.stderr
    (tmp_path / "app.py").write_text("import os\ndef map(f, text):\n    os._exit(7)\n" + SUM)
    done = check(tmp_path, "app.py", "in.txt")
    assert done.returncode == 1
    assert "process died: exit status 7" in done.stderr


def test_usage_and_missing_samples(tmp_path: Path):
    assert check(tmp_path, str(APPS / "wc.py")).returncode == 2
    assert check(tmp_path, "nowhere.py", "in.txt").returncode == 2
    assert check(tmp_path, str(APPS / "wc.py"), "nowhere.txt").returncode == 3
    (tmp_path / "empty.txt").write_text("")
    assert check(tmp_path, str(APPS / "wc.py"), "empty.txt").returncode == 3


def test_a_large_sample_is_cut_and_said_to_be(tmp_path: Path):
    (tmp_path / "in.txt").write_text("to be or not\n" * 100_000)
    done = check(tmp_path, str(APPS / "wc.py"), "in.txt", "in.txt")
    assert done.returncode == 0, done.stderr
    assert "in.txt cut at 1,048,567 bytes" in done.stderr
    assert "1 of 2 inputs left out" in done.stderr


def test_a_compressed_sample_is_read_as_what_it_holds(tmp_path: Path):
    import gzip

    (tmp_path / "app.py").write_text(WRONG["ends of splits"][0])
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(b"a\nb\nc\n"))
    done = check(tmp_path, "app.py", "in.txt.gz")
    assert done.returncode == 1, done.stderr
    assert "input in.txt:\n" in done.stdout


def test_an_app_with_parameters(tmp_path: Path):
    app = "import mrfast\nKEY = mrfast.param('key')\ninput = 'lines'\n"
    app += "def map(f, line):\n    yield KEY, mrfast.param('key')\ndef reduce(key, values):\n    return max(values)\n"
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "a.txt").write_text("1\n2\n")
    assert check(tmp_path, "app.py", "a.txt", "--param", "key=k").returncode == 0
    done = check(tmp_path, "app.py", "a.txt")
    assert done.returncode == 2
    assert "add --param key=..." in done.stderr


def test_ddmin_leaves_out_all_that_can_be():
    asked = 0

    def differs(units: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return {3, 77} <= set(units)

    assert ddmin(list(range(100)), differs) == [3, 77]
    assert asked < 100
