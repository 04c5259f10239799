"""The command below scripts/chaos: a run of chaos.py as long as one likes."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos import Chaos, ChaosError


def main() -> int:
    """0 when every job was right, 1 and all the evidence when one was not."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spare-coordinators", action="store_true", help="kill workers only")
    parser.add_argument("--short-freezes", action="store_true", help="none that outlasts a lease")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mrfast-chaos-"))
    began = time.monotonic()
    chaos = Chaos(
        folder,
        seed=options.seed,
        kills=options.kills,
        kill_coordinators=not options.spare_coordinators,
        long_freezes=not options.short_freezes,
        say=lambda text: print(f"{time.monotonic() - began:6.0f} s: {text}", flush=True),
    )
    try:
        chaos.run()
    except ChaosError as error:
        print(f"{error}\n\nEverything is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
