"""Imports go one way: the table of who may import whom, enforced on the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mrfast"

# What a module or plane (the longest matching name counts) may import of mrfast; itself is always allowed.
# A module that is nowhere in the table may not exist: decide first where it belongs.
BASE = {"mrfast.model", "mrfast.errors"}
PLANES: dict[str, set[str]] = {
    "mrfast": BASE | {"mrfast.api", "mrfast.counting", "mrfast.ops", "mrfast.parameters"},
    "mrfast.api": set(),
    "mrfast.model": set(),
    "mrfast.errors": set(),
    "mrfast.index": BASE,
    "mrfast.interrupt": set(),
    "mrfast.counting": BASE,
    "mrfast.result": BASE | {"mrfast.cat"},
    "mrfast.parameters": BASE,
    "mrfast.core": BASE | {"mrfast._core", "mrfast.index", "mrfast.ops"},
    "mrfast.ops": BASE,
    "mrfast.zstd": set(),
    "mrfast.app": BASE
    | {
        "mrfast",
        "mrfast.core",
        "mrfast.natively",
        "mrfast.ops",
        "mrfast.parameters",
        "mrfast.zstd",
    },  # mrfast: the version
    "mrfast.natively": set(),
    "mrfast.storage": BASE,
    "mrfast.storage.s3": BASE | {"mrfast.core", "mrfast.storage"},  # core: the CRC of a body
    "mrfast.storage.s3_sums": BASE | {"mrfast.core", "mrfast.storage"},
    "mrfast.control": BASE | {"mrfast", "mrfast.index", "mrfast.storage"},  # mrfast: the version
    "mrfast.tasks": BASE
    | {
        "mrfast.app",
        "mrfast.control",
        "mrfast.counting",
        "mrfast.interrupt",
        "mrfast.core",
        "mrfast.index",
        "mrfast.ops",
        "mrfast.storage",
        "mrfast.zstd",
    },
    "mrfast.engines": BASE
    | {
        "mrfast.app",
        "mrfast.control",
        "mrfast.interrupt",
        "mrfast.ops",
        "mrfast.storage",
        "mrfast.tasks",
        "mrfast.watch",
    },
    # events: what it shows; rpc, tokens: addresses and the token are one and the same for all that listens
    "mrfast.watch": BASE | {"mrfast.storage", "mrfast.control.events", "mrfast.control.rpc", "mrfast.control.tokens"},
    "mrfast.cluster": BASE | {"mrfast", "mrfast.storage"},  # mrfast: the version
    "mrfast.cat": BASE | {"mrfast.app", "mrfast.core", "mrfast.index", "mrfast.storage", "mrfast.tasks"},
    "mrfast.checking": BASE | {"mrfast.app", "mrfast.parameters", "mrfast.storage", "mrfast.tasks", "mrfast.testing"},
    "mrfast.verification": BASE | {"mrfast.cat", "mrfast.storage"},
    "mrfast.cli": set(),
    "mrfast.testing": set(),
    "mrfast.__main__": {"mrfast.cli"},
}

# What a user starts with: it may import everything, and nothing but the fronts imports it.
FRONTS = {"mrfast.api", "mrfast.cli", "mrfast.testing"}

# The pure modules of control, and all that they may use: no clock, socket, thread, chance or log.
PURE = {
    f"mrfast.control.{name}"
    for name in (
        "backup",
        "crew",
        "events",
        "groups",
        "hot_keys",
        "invariants",
        "journal",
        "leases",
        "names",
        "preempt",
        "printed",
        "ranges",
        "ready",
        "records",
        "scheduler",
        "schema",
        "splits",
        "story",
        "table",
        "transitions",
        "wire",
    )
}
PURE_IMPORTS = {
    "array",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "functools",
    "heapq",
    "itertools",
    "math",
    "mrfast.control",
    "mrfast.errors",
    "mrfast.index",
    "mrfast.model",
    "orjson",
    "re",
    "statistics",
    "struct",
    "types",
    "typing",
    "xxhash",
    "zlib",
}

# Who alone may import these.
ONLY = {
    "aiohttp": ("mrfast.watch.server",),
    "boto3": ("mrfast.cluster",),
    "botocore": ("mrfast.storage.s3", "mrfast.storage.s3_client", "mrfast.cluster"),
    "click": ("mrfast.cli",),
    "dask": ("mrfast.engines.dask",),
    "distributed": ("mrfast.engines.dask",),
    "ray": ("mrfast.engines.ray",),
    "prometheus_client": ("mrfast.watch.metrics",),
    "pickle": ("mrfast.engines",),
    "marshal": ("mrfast.app",),  # to tell functions apart; nothing is ever loaded
    "shelve": (),
    "yaml": (),
}

# What `import mrfast`, the command line and a local run must not pay for: only inside functions.
HEAVY = {
    "aiohttp",
    "asyncio",
    "boto3",
    "botocore",
    "dask",
    "distributed",
    "http",
    "importlib.metadata",
    "multiprocessing",
    "prometheus_client",
    "ray",
    "rich",
    "ssl",
    "urllib.request",
}
HEAVY_ALLOWED = (
    "mrfast.storage.s3",
    "mrfast.storage.s3_client",
    "mrfast.storage.s3_http",
    "mrfast.storage.s3_sums",
    "mrfast.control.coordinator",
    "mrfast.control.server",
    "mrfast.cluster",
    "mrfast.engines.dask",
    "mrfast.engines.ray",
    "mrfast.watch",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def within(module: str, plane: str) -> bool:
    return module == plane or module.startswith(plane + ".")


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(module: str, tree: ast.AST, *, lazy: bool) -> Iterator[str]:
    """The modules that a tree imports, those inside functions too if `lazy`; not those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if for_types_only(node):
            yield from imports(module, ast.Module(node.orelse, []), lazy=lazy)  # type: ignore[attr-defined]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not lazy:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, source]).rstrip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES or inner == "mrfast._core" or inner in HEAVY else source
        else:
            yield from imports(module, node, lazy=lazy)


def imports_of(module: str, *, lazy: bool = True) -> set[str]:
    return set(imports(module, ast.parse(MODULES[module].read_text()), lazy=lazy))


def plane_of(module: str) -> str:
    planes = [plane for plane in PLANES if plane == module or (plane != "mrfast" and within(module, plane))]
    assert planes, f"{module} is in no plane: add it to the table in {Path(__file__).name}"
    return max(planes, key=len)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str):
    plane = plane_of(module)
    allowed = PLANES[plane]
    if plane in FRONTS:
        return
    for name in sorted(imports_of(module)):
        if not within(name, "mrfast") or (within(name, plane) and plane != "mrfast"):
            continue
        ok = any(name == one if one == "mrfast" else within(name, one) for one in allowed)
        assert ok, f"{module} imports {name}; {plane} may import {sorted(allowed) or 'nothing'} of mrfast"


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_use_nothing_that_can_differ_between_two_runs(module: str):
    for name in imports_of(module) - {"__future__"}:
        if within(name, "mrfast.control"):
            assert name in PURE | {"mrfast.control"}, f"{module} is pure and imports {name}"
        assert any(within(name, one) for one in PURE_IMPORTS), f"{module} is pure and imports {name}"
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & {"open", "print", "input", "hash", "id", "__import__", "eval", "exec"}


def test_tasks_know_no_scheduler():
    for module in MODULES:
        if within(module, "mrfast.tasks"):
            known = {name for name in imports_of(module) if within(name, "mrfast.control")}
            assert known <= {
                f"mrfast.control.{name}"
                for name in ("groups", "hot_keys", "messages", "printed", "ranges", "rpc", "schema", "tokens", "wire")
            }, f"{module} imports {known}"


@pytest.mark.parametrize("module", MODULES)
def test_some_packages_have_one_home(module: str):
    for name in sorted(imports_of(module)):
        homes = ONLY.get(name.partition(".")[0])
        assert homes is None or any(within(module, home) for home in homes), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_imports_are_lazy(module: str):
    if any(within(module, home) for home in HEAVY_ALLOWED):
        return
    for name in sorted(imports_of(module, lazy=False)):
        assert not any(within(name, heavy) for heavy in HEAVY), f"{module} imports {name} for everybody"


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_cost_time_are_reached_lazily(module: str):
    """A home of heavy imports must not be imported at the top of a module that everybody imports."""
    if any(within(module, home) for home in HEAVY_ALLOWED):
        return
    for name in sorted(imports_of(module, lazy=False)):
        homes = [home for home in HEAVY_ALLOWED if home != "mrfast.watch" and within(name, home)]
        assert not homes, f"{module} imports {name} at its top"


def test_the_native_core_knows_no_store_and_no_app():
    for path in [*PACKAGE.glob("_core*.p*"), *PACKAGE.glob("_native/*.h")]:
        text = path.read_text()
        for word in ("boto3", "mrfast.storage", "mrfast.app", "mrfast.control", "mrfast.tasks"):
            assert f"import {word}" not in text and f"from {word}" not in text, f"{path.name} names {word}"
    for path in PACKAGE.glob("_native/*.h"):
        assert "Python.h" not in path.read_text(), f"{path.name} includes Python.h"


def test_files_stay_one_idea_long():
    for module, path in MODULES.items():
        lines = path.read_text().count("\n")
        assert lines <= 450, f"{module} has {lines} lines: two ideas, split it"


def test_this_test_sees_what_it_looks_for():
    source = (
        "import time\nfrom mrfast.control import scheduler\nfrom . import app\n"
        "if TYPE_CHECKING:\n    import socket\ndef f():\n    from boto3 import x\n"
    )
    tree = ast.parse(source)
    eager = {"time", "mrfast.control.scheduler", "mrfast.app"}
    assert set(imports("mrfast.cat", tree, lazy=False)) == eager
    assert set(imports("mrfast.cat", tree, lazy=True)) == {*eager, "boto3"}
