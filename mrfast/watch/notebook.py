"""A running job in a notebook: bars as HTML in the cell's output, replaced as the job goes on."""

from __future__ import annotations

import os
import sys
import time
from html import escape
from typing import Any

from .progress import ProgressView, crew_text, done_of

BARS_EVERY_S = 0.25  # each one is a message to the browser


def is_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def view_for(quiet: bool | None, http: str | None = None) -> ProgressView:
    """What shows a job of mrfast.run(): in a script only what its functions print, unless more or nothing is asked.

    Where its live page is, it says even if it is quiet.
    """
    now = time.monotonic()
    if is_notebook() and not quiet:
        view: ProgressView = NotebookView(now)
    else:
        view = ProgressView(now, quiet=bool(quiet), prints_only=quiet is None)
    if http is not None:
        from ..control.tokens import token_from
        from .feed import Feed

        token = token_from(os.environ, os.environ.get("MRFAST_TOKEN_FILE"))
        view.feed = Feed(http, token=token, say=view.insist)
    return view


class NotebookView(ProgressView):
    """Shows the same as on a terminal; prints go to the cell's standard output, and the bars stay."""

    bars_every_s = BARS_EVERY_S

    def __init__(self, now: float):
        super().__init__(now, stream=sys.stdout, names_job=False)
        self._from: dict[str, tuple[float, float]] = {}  # when each bar began to move, and from where

    def close(self, status: dict[str, Any] | None = None, now: float = 0.0) -> None:
        """Leaves the bars as they are at the end, if there are any by then."""
        if self._bars is not None and status is not None:
            self._draw(status, now)
        self._bars = None

    def _is_terminal(self) -> bool:
        return True

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _draw(self, status: dict[str, Any], now: float) -> None:
        html, text = self._html(status, now), self._line(status, now)
        content = {"text/html": html, "text/plain": f"mrfast: {text}"}
        if self._bars is None:
            from IPython.display import display

            self._bars = display(content, raw=True, display_id=True)
        else:
            self._bars.update(content, raw=True)

    def _html(self, status: dict[str, Any], now: float) -> str:
        ended = status["state"] in ("COMMITTED", "FAILED")
        rows = []
        told = {"maps": self._speed(status, now), "reduces": "" if ended else crew_text(status)}
        for name in ("maps", "reduces"):
            done, total = done_of(status, name)
            texts = [told[name], "" if ended else self._left(name, done, total, now)]
            rows.append(
                f"<tr><td>{name}</td><td><progress value='{done}' max='{total}' aria-label='{name}'></progress></td>"
                f"<td>{status[f'{name}_done']:,} of {total:,}</td>"
                f"<td style='text-align: left'>{escape(', '.join(text for text in texts if text))}</td></tr>"
            )
        caption = f"{now - self._start:.1f} s" + (f", {status['state'].lower()}" if ended else "")
        return f"<table><caption style='text-align: left'>{caption}</caption>{''.join(rows)}</table>"

    def _left(self, name: str, done: float, total: int, now: float) -> str:
        """How long a bar will take to be full if it goes on as since it began to move."""
        since, at = self._from.setdefault(name, (now, done)) if done else (now, done)
        return f"about {(now - since) / (done - at) * (total - done):,.0f} s left" if at < done < total else ""
