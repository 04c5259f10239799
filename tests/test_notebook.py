"""mrfast.run() in a notebook, by a real kernel: functions of cells, bars, prints, results, and the stop button."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrfast.watch.notebook import NotebookView

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SETUP = """
import sys, time
import mrfast
from mrfast import ops
options = dict(store="store", reduces=2, workers=2)
"""


class Notebook:
    """Cells that one kernel runs; a cell's outputs by kind."""

    def __init__(self, client: Any, folder: Path):
        self.client = client
        self.folder = folder

    def __call__(self, source: str, **options: Any) -> list[dict[str, Any]]:
        nb = self.client.nb
        nb.cells.append(nbformat.v4.new_code_cell(source))
        self.client.execute_cell(nb.cells[-1], len(nb.cells) - 1, **options)
        return list(nb.cells[-1].outputs)


def streams(outputs: list[dict[str, Any]], name: str) -> str:
    return "".join(each["text"] for each in outputs if each["output_type"] == "stream" and each["name"] == name)


def displayed(outputs: list[dict[str, Any]]) -> list[str]:
    return [each["data"]["text/html"] for each in outputs if each["output_type"] == "display_data"]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "in.txt").write_text("to be or not to be\n")
    for number in range(4):
        (folder / f"slow{number}.txt").write_text("to be\n")
    env = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "run")}
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(), timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel(env=env):
        made = Notebook(client, folder)
        made(SETUP)
        yield made


WORDS = """
def map(filename, contents):
    print("map of", filename)
    for word in contents.decode().split():
        yield word, 1
"""


def test_functions_and_lambdas_of_cells_run_and_the_result_is_shown(notebook: Notebook) -> None:
    notebook(WORDS)
    outputs = notebook("mrfast.run(map=map, reduce=lambda key, values: sum(values), inputs='in.txt', **options)")
    [shown] = [each["data"] for each in outputs if each["output_type"] == "execute_result"]
    assert "<tr><th>records_out</th><td>4</td></tr>" in shown["text/html"]
    assert streams(outputs, "stdout") == "m-000000 | map of in.txt\n"
    assert streams(outputs, "stderr") == ""
    outputs = notebook("print(mrfast.run(map=map, reduce=ops.sum(), inputs='in.txt', quiet=True, **options).to_dict())")
    assert streams(outputs, "stdout") == "{'be': '2', 'not': '1', 'or': '1', 'to': '2'}\n"


def test_a_job_of_half_a_second_shows_no_bars_and_a_longer_one_those_of_its_end(notebook: Notebook) -> None:
    code = """
def slow(filename, contents):
    time.sleep(SLEEP)
    yield filename, 1
mrfast.run(map=slow, reduce=ops.sum(), inputs="slow*.txt", **options)
"""
    assert displayed(notebook("SLEEP = 0\n" + code)) == []
    outputs = notebook("SLEEP = 0.6\n" + code)
    [bars] = displayed(outputs)
    assert "<td>4 of 4</td>" in bars
    assert "<td>2 of 2</td>" in bars
    assert "committed" in bars
    assert streams(outputs, "stdout") + streams(outputs, "stderr") == ""
    assert streams(notebook("print('rich' in sys.modules)"), "stdout") == "False\n"


def test_bars_tell_how_long_it_will_take() -> None:
    view = NotebookView(0.0)
    running: dict[str, Any] = {
        **{"state": "RUNNING", "maps": 8, "maps_done": 2, "reduces": 4, "reduces_done": 0, "workers": 1},
        **{"attempts": {"started": 9, "failed": 1, "running": 3}, "bytes_done": 0, "records_done": 0},
        **{"requests": {"by_verb": {}}, "cost_usd": 0.0},
    }
    assert " left" not in view._html(running, 10.0).replace("text-align: left", "")
    running["maps_done"] = 4
    shown = view._html(running, 12.0)
    assert "about 4 s left" in shown
    assert "3 running, 1 attempt failed" in shown
    done = running | {"maps_done": 8, "reduces_done": 4}
    assert "value='3.5' max='4'" in view._html(done, 20.0)
    assert "value='4' max='4'" in view._html(done | {"state": "COMMITTED"}, 21.0).replace("4.0", "4")


def test_a_failure_has_the_traceback_of_the_cell(notebook: Notebook) -> None:
    code = "mrfast.run(map=lambda name, data: 1 / 0, reduce=ops.sum(), inputs='in.txt', attempts_max=2, **options)"
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        notebook(code)
    said = streams(list(notebook.client.nb.cells[-1].outputs), "stdout")
    assert (
        said == "mrfast: m-000000 failed (1 of 2): ZeroDivisionError: division by zero, in in.txt; it is tried again\n"
    )


def test_the_stop_button_ends_the_job_and_leaves_nothing(notebook: Notebook) -> None:
    code = """
import signal
def stuck(filename, contents):
    import os
    os.kill(os.getppid(), signal.SIGINT)  # what the stop button does, once a map runs
    signal.pause()
try:
    mrfast.run(map=stuck, reduce=ops.sum(), inputs="in.txt", output_url="stopped", **options)
except KeyboardInterrupt:
    print("stopped")
"""
    assert streams(notebook(code), "stdout") == "stopped\n"
    assert not [path for path in (notebook.folder / "stopped").rglob("*") if path.is_file()]
    notebook(WORDS)
    outputs = notebook(
        "print(len(mrfast.run(map=map, reduce=ops.sum(), inputs='in.txt', quiet=True, **options).to_dict()))"
    )
    assert streams(outputs, "stdout") == "4\n"
