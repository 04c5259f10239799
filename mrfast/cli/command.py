"""What all commands share: how Ctrl-C leaves them, how help is asked for, and where a coordinator listens."""

from __future__ import annotations

from typing import Any

import click

LISTEN = "127.0.0.1:8000"
HELP = {"help_option_names": ["-h", "--help"]}


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """Ctrl-C, as click lets it pass without a word of its own."""


class QuietInvoke(click.Command):
    """A command that Ctrl-C ends by Interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None
