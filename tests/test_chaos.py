"""Jobs survive their processes: a short run of chaos.py. `scripts/chaos` is a long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from chaos import Chaos


@pytest.mark.skipif(sys.platform != "linux", reason="finds what is left of its processes in /proc")
@pytest.mark.timeout(600)
def test_killed_frozen_and_cut_off_processes_change_no_byte(tmp_path: Path) -> None:
    tally = Chaos(tmp_path, seed=1, kills=20).run()
    assert tally.kills == 20
