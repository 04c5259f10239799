"""`python -m mrfast.watch FEED LISTENER URL`: the process of a live page; only mrfast.watch.feed starts it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Leaves the process that started it, which must not be left with a child to wait for, and serves the page."""
    if os.fork():
        os._exit(0)
    from .server import serve

    serve(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
