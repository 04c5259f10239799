"""The mrfast that the instances install: a requirement for pip, or a file that `up` puts into the bucket."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrfast.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
_SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")
_MADE = {"_core.c", "unicode_tables.h"}  # by a build, on the machine that runs it
_LEFT_OUT = {".so", ".pyc", ".pyo"}


@dataclass(frozen=True, slots=True)
class Package:
    """What pip installs: a requirement, or the bytes of a file and its key in the bucket."""

    requirement: str = ""
    key: str = ""
    data: bytes = b""

    @property
    def text(self) -> str:
        """The package as a plan names it."""
        return self.requirement or f"{self.key} ({len(self.data):,} bytes)"


def package(given: str | None, version: str, prefix: str) -> Package:
    """The package that --package names: a file or a requirement; without it this checkout, else this version."""
    if given is not None:
        if not given.endswith((".tar.gz", ".zip", ".whl")):
            return Package(requirement=given)
        try:
            data = Path(given).read_bytes()
        except OSError as error:
            raise UsageError(
                f"--package {given}: {error.strerror}; give an sdist, a wheel, or what pip installs"
            ) from error
        return _file(prefix, os.path.basename(given), data)
    if not is_checkout():
        return Package(requirement=f"mrfast=={version}")
    return _file(prefix, f"mrfast-{version}.tar.gz", source_archive(version))


def is_checkout(root: Path = ROOT) -> bool:
    """Whether this mrfast runs from its own source tree."""
    return all((root / name).is_file() for name in ("pyproject.toml", "setup.py", "mrfast/_core.pyx"))


def source_archive(version: str, root: Path = ROOT) -> bytes:
    """The source tree as pip builds it, the same bytes for the same files: no clock, no owner, no order of a disk."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(_source_files(root)):
            entry = tarfile.TarInfo(f"mrfast-{version}/{path.relative_to(root).as_posix()}")
            data = path.read_bytes()
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _source_files(root: Path) -> Iterator[Path]:
    yield from (root / name for name in _SOURCES if (root / name).is_file())
    for path in (root / "mrfast").rglob("*"):
        left_out = path.suffix in _LEFT_OUT or path.name in _MADE or path.name.startswith(".")
        if path.is_file() and not left_out:
            yield path


def _file(prefix: str, name: str, data: bytes) -> Package:
    return Package(key=f"{prefix}package/{hashlib.sha256(data).hexdigest()[:16]}/{name}", data=data)
