"""The C kernels by themselves, built with AddressSanitizer and UndefinedBehaviorSanitizer, against naive C."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from depth import FACTOR

SOURCES = sorted(Path(__file__).with_name("native").glob("*.c"))
FLAGS = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-unused-function"]


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """The C compiler that builds extensions here."""
    named = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = next((name for name in (named.split()[0], "cc", "gcc", "clang") if shutil.which(name)), None)
    assert command, "no C compiler; scripts/test names the package that brings one"
    return [command]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_kernels_under_sanitizers(compiler: list[str], source: Path, tmp_path: Path) -> None:
    program = tmp_path / source.stem
    command = [*compiler, *FLAGS, str(source), "-lm", "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [str(program), str(300 * FACTOR)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_kernels_on_arm64(source: Path, tmp_path: Path) -> None:
    """The same programs, cross-compiled and run by an emulator: the NEON code is held against the naive one."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static")
    program = tmp_path / source.stem
    command = [compiler, "-std=gnu11", "-O2", "-Wno-unused-function", "-static", str(source), "-lm", "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    command = [emulator, str(program), str(300 * FACTOR)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr
