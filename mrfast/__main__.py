"""`python -m mrfast`, the same as `mrfast`."""

from __future__ import annotations

from .cli import main

main()
