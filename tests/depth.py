"""How deep property tests look: a little every time, a lot with MRFAST_TEST_ALL=1 (scripts/test --all)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

ALL = os.environ.get("MRFAST_TEST_ALL", "") not in ("", "0")
FACTOR = 20 if ALL else 1


def examples(count: int) -> settings:
    """Settings for a property test: `count` examples, or twenty times as many; never a deadline."""
    return settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=[HealthCheck.too_slow])
