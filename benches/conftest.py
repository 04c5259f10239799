"""What all benches share: the corpora, and the slow twins of tests/reference.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import corpora
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


@pytest.fixture(scope="session")
def corpus() -> Callable[[str], Path]:
    """Gives the path of a corpus by its name."""
    return corpora.path
