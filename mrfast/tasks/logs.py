"""What an application says by `logging`: on the streams of its slot, from INFO on, unless it has configured it."""

from __future__ import annotations

import sys
from typing import TextIO

QUIET = ("boto3", "botocore", "s3transfer", "urllib3")  # what they say of each connection is of no use to a user


def follow(before: tuple[TextIO, TextIO]) -> None:
    """Lets handlers that the parent has made write to this process's stdout and stderr, `before` they were its own."""
    if "logging" not in sys.modules:
        return
    import logging

    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in before:
            handler.stream = sys.stdout if handler.stream is before[0] else sys.stderr  # setStream would flush it


def show() -> None:
    """Shows INFO and above of an application that has loaded and has not configured logging."""
    if "logging" not in sys.modules:  # an application without it does not pay for it
        return
    import logging

    if logging.root.handlers or logging.root.level != logging.WARNING:
        return
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for name in QUIET:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
