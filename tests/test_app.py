"""An application file is loaded, checked, and refused with the place and the cure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mrfast import ops
from mrfast.app import App, load_app, user_traceback
from mrfast.errors import AppError
from mrfast.model import InputCut

APPS = Path(__file__).parent.parent / "apps"

PLAIN = """
def map(filename, contents): yield "a", 1
def reduce(key, values): return sum(values)
"""


@pytest.fixture(autouse=True)
def _same_path_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def write(folder: Path, source: str, name: str = "job.py") -> str:
    path = folder / name
    path.write_text(source)
    return str(path)


@pytest.mark.parametrize(
    ("name", "cut", "output"),
    [
        ("wc", InputCut("blocks", True), "text"),
        ("wc_python", InputCut("blocks", True), "text"),
        ("indexer", InputCut("file", False), "text"),
        ("index_native", InputCut("blocks", False), "text"),
        ("grep", InputCut("blocks", True), "text"),
        ("url_bytes", InputCut("blocks", True), "text"),
        ("sort", InputCut("blocks", True), "raw"),
        ("mean_size", InputCut("lines", True), "text"),
    ],
)
def test_the_example_applications_load(name: str, cut: InputCut, output: str) -> None:
    app = load_app(str(APPS / f"{name}.py"))
    assert (app.cut, app.output) == (cut, output)


def test_an_example_has_its_docstring_first() -> None:
    for path in APPS.glob("*.py"):
        assert path.read_text().startswith('"""'), path


def test_info_is_what_all_workers_agree_on(tmp_path: Path) -> None:
    app = load_app(write(tmp_path, PLAIN))
    info = app.info()
    assert info.fingerprint == load_app(write(tmp_path, PLAIN)).fingerprint
    assert (info.name, info.cut) == ("job.py", InputCut("file", False))
    assert info.python_version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert load_app(write(tmp_path, PLAIN + "#")).fingerprint != info.fingerprint


def test_the_fingerprint_sees_an_op_made_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(APPS / "grep.py")
    monkeypatch.setenv("PATTERN", "a")
    first = load_app(path).fingerprint
    monkeypatch.setenv("PATTERN", "b")
    assert load_app(path).fingerprint != first


def test_both_spellings_are_accepted(tmp_path: Path) -> None:
    app = load_app(write(tmp_path, PLAIN.replace("def map", "def Map").replace("def reduce", "def Reduce")))
    assert callable(app.map)
    assert callable(app.reduce)


def test_an_application_imports_its_neighbours_at_any_time(tmp_path: Path) -> None:
    write(tmp_path, "VALUE = 7", "a_neighbour.py")
    write(tmp_path, "VALUE = 8", "a_later_neighbour.py")
    source = """
from a_neighbour import VALUE
def map(filename, contents):
    import a_later_neighbour
    return [(__name__, VALUE + a_later_neighbour.VALUE)]
def reduce(key, values): return sum(values)
"""
    app = load_app(write(tmp_path, source))
    assert not ops.is_map_op(app.map)
    assert app.map("f", b"") == [("mrfast_app_job", 15)]  # type: ignore[operator]
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def map(f, c):\n  return [\n", "job.py:2: '[' was never closed\n    return ["),
        ("def map(f, c): pass", "has no `reduce`: define reduce(key, values)"),
        ("def reduce(k, v): pass", "has no `map`: define map(filename, contents)"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("import sys\nsys.exit(3)", "sys.exit(3)"),
        (PLAIN + "input = 'pages'", "input = 'pages' is none of file, blocks, lines, jsonl, csv"),
        (PLAIN + "output = 'xml'", "output = 'xml' is none of text, tsv, raw, jsonl"),
        (PLAIN + "map = 3", "`map` is 3: neither a function nor a native op"),
        (PLAIN + "map = lambda contents: 1", "takes 1 arguments: it is called as map(filename, contents)"),
        (PLAIN + "async def reduce(key, values): return 1", "async function"),
        (PLAIN + "from mrfast import ops\nmap = ops.sum()", "ops.sum() is a reduce op"),
        (PLAIN + "from mrfast import ops\nreduce = ops.lines()", "reduce = ops.lines() is a map op"),
        (PLAIN + "from mrfast import ops\nmap = ops.lines", "`map` is ops.lines itself: call it"),
        (PLAIN + "from mrfast import ops\ncombine = ops.mean()", "combine = ops.mean() does not fit"),
        (PLAIN + "from mrfast import ops\nmap = ops.lines()\ninput = 'lines'", "remove input = 'lines'"),
        ("from mrfast import ops\n\nmap = ops.words(letters='x')", "job.py:3: ops.words: letters='x'"),
        ("\0", "job.py"),
        (b"\xff".decode("latin-1") * 2, "job.py"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_bytes(source.encode("latin-1"))
    with pytest.raises(AppError) as caught:
        load_app("job.py")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no such application file"):
        load_app(str(tmp_path / "none.py"))
    with pytest.raises(AppError, match="cannot read"):
        load_app(str(tmp_path))


def test_a_failing_import_shows_only_the_frames_of_the_user(tmp_path: Path) -> None:
    path = write(tmp_path, "def helper():\n    return 1 // 0\nhelper()\n")
    with pytest.raises(AppError) as caught:
        load_app(path)
    text = str(caught.value)
    assert text.endswith("ZeroDivisionError: integer division or modulo by zero")
    assert text.count("File ") == 2
    assert "mrfast/app.py" not in text


def test_user_traceback_keeps_the_cause() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        fail()
    text = user_traceback(caught.value)
    assert "KeyError: 'inner'" in text
    assert text.endswith("ValueError: outer")


def total(key: Any, values: Any) -> int:
    return sum(values)


def test_what_combines() -> None:
    words = ops.words(letters="ascii")
    assert App.from_functions(map=words, reduce=ops.sum()).native_combine == ops.sum()
    assert App.from_functions(map=words, reduce=ops.identity()).native_combine is None
    assert App.from_functions(map=words, reduce=total).native_combine is None
    assert App.from_functions(map=words, reduce=total, combine=ops.sum()).native_combine == ops.sum()
    own = App.from_functions(map=words, reduce=ops.sum(), combine=total)
    assert own.native_combine is None
    assert own.python_combine is total


def test_native_ops_bring_their_own_cut() -> None:
    def cut(op: Any) -> InputCut:
        return App.from_functions(map=op, reduce=ops.identity()).cut

    assert cut(ops.words(letters="ascii", value="filename")) == InputCut("blocks", True)
    assert cut(ops.words(letters="ascii", distinct=True)) == InputCut("blocks", False)
    assert cut(ops.records(size=100)) == InputCut("records", True, 100)


def test_from_functions_tells_functions_apart() -> None:
    one = App.from_functions(map=lambda filename, contents: [], reduce=total)
    two = App.from_functions(map=lambda filename, contents: [("a", 1)], reduce=total)
    assert one.fingerprint != two.fingerprint
    with pytest.raises(AppError, match="neither a function"):
        App.from_functions(map=3, reduce=total)  # type: ignore[arg-type]
