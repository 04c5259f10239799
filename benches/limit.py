"""Compiles benches/limit.cpp, where there is a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import corpora

SOURCE = Path(__file__).with_name("limit.cpp")
HEADERS = SOURCE.parent.parent / "mrfast" / "_native"  # setup.py made the table of letters there


@cache
def program() -> Path | None:
    """The compiled program, as new as its source; None without a compiler, or where its 128-bit numbers are unknown."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or sys.platform != "linux" or not (HEADERS / "unicode_tables.h").exists():
        return None
    made = corpora.CACHE / "limit"
    if not made.exists() or made.stat().st_mtime < SOURCE.stat().st_mtime:
        corpora.CACHE.mkdir(exist_ok=True)
        partial = made.with_suffix(f".{os.getpid()}")
        flags = ["-std=c++17", "-O3", "-march=native", "-Wall", "-Wextra", "-pthread", f"-I{HEADERS}"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(partial)], check=True)
        partial.replace(made)
    return made
