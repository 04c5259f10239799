"""A running job on a terminal: bars, or where there is no terminal a line every 10 seconds; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..control.events import EventLog
    from .feed import Feed

BARS_AFTER_S = 0.5
BARS_EVERY_S = 0.1
LINE_EVERY_S = 10.0
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} {_UNITS[-1]}"


def counted(count: int, noun: str) -> str:
    """A number and its noun: 1 map, 2 maps."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def crew_text(status: dict[str, Any]) -> str:
    """Who works, what went wrong, and what it cost so far."""
    told = [f"{status['attempts']['running']:,} running"]
    if status["workers"] != 1:  # `mrfast run` is one
        told[0] += f" on {counted(status['workers'], 'worker')}"
    if failed := status["attempts"]["failed"]:
        told.append(f"{counted(failed, 'attempt')} failed")
    if requests := sum(status["requests"]["by_verb"].values()):
        told.append(f"{counted(requests, 'request')} to S3, ${status['cost_usd']:,.4f}")
    return ", ".join(told)


def done_of(status: dict[str, Any], name: str) -> tuple[float, int]:
    """How full a bar is, of how much: that of the reduces is full when the job is committed, and not before."""
    done, total = status[f"{name}_done"], status[name]
    unsure = name == "reduces" and done == total and status["state"] != "COMMITTED"
    return done - 0.5 * unsure, total


class ProgressView:
    """Shows what `update` is told; `close` leaves the terminal as it was."""

    bars_every_s = BARS_EVERY_S

    def __init__(
        self,
        now: float,
        *,
        quiet: bool = False,
        prints_only: bool = False,
        names_job: bool = True,
        stream: TextIO | None = None,
        feed: Feed | None = None,
    ):
        self.feed = feed
        self._stream: TextIO = stream or sys.stderr
        quiet = quiet or not hasattr(self._stream, "write")  # a process may have no stderr
        self._prints = not quiet  # whether what the application prints is shown
        self._quiet = quiet or prints_only
        self._unnamed = names_job  # whether the job is still to be named
        self._terminal = not self._quiet and self._is_terminal()
        self._next = now + (BARS_AFTER_S if self._terminal else LINE_EVERY_S)
        self._start = now
        self._bars: Any = None
        self._rows: dict[str, Any] = {}

    def wait_s(self, now: float) -> float | None:
        """How long the caller may wait before `update` has something to show; None for ever."""
        return None if self._quiet else max(0.0, self._next - now)

    @contextmanager
    def watching(self, events: EventLog, status: Callable[[float], dict[str, Any]]) -> Iterator[None]:
        """Shows the job on its live page too, if it is to have one; in the end removes the bars."""
        with self.feed or nullcontext():
            try:
                if self.feed is not None:
                    self.feed.start(events, self.say)
                yield
            finally:
                now = time.monotonic()
                self.close(status(now), now)

    def pump(self, now: float) -> float:
        """Lets the live page know what is new, never waiting for it; when to call again, in seconds."""
        return float("inf") if self.feed is None else self.feed.pump(now)

    def descriptors(self) -> tuple[int, ...]:
        """What forked children must not keep."""
        return () if self.feed is None else self.feed.descriptors()

    def update(self, status: dict[str, Any], now: float) -> None:
        """Shows the job's status, as JobDriver.status gives it, if it is time to."""
        if self._quiet or now < self._next or not status.get("maps"):
            return
        if self._unnamed:
            self._unnamed = False
            self.say(f"job {status['job']}; should it be killed: mrfast run --resume {status['job']}")
        if self._terminal:
            self._next = now + self.bars_every_s
            self._draw(status, now)
        else:
            self._next = now + LINE_EVERY_S
            self.say(self._line(status, now))

    def say(self, text: str) -> None:
        """Shows news of the job in a line, above the bars."""
        if not self._quiet:
            self._write(f"mrfast: {text}\n")

    def insist(self, text: str) -> None:
        """Shows a line even if it is to be quiet."""
        self._write(f"mrfast: {text}\n")

    def printed(self, text: str) -> None:
        """Shows whole lines that an application printed, above the bars."""
        if self._prints:
            self._write(text)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more: no reason to end the job
            if self._bars is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._bars.console.out(text, end="", highlight=False)

    def close(self, status: dict[str, Any] | None = None, now: float = 0.0) -> None:
        """Removes the bars; `status` is the job's last."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _is_terminal(self) -> bool:
        return self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def _line(self, status: dict[str, Any], now: float) -> str:
        done = (
            f"{status['maps_done']:,} of {counted(status['maps'], 'map')}, "
            f"{status['reduces_done']:,} of {counted(status['reduces'], 'reduce')} done"
        )
        told = "; ".join(text for text in (done, self._speed(status, now), crew_text(status)) if text)
        return f"{now - self._start:.0f} s: {told}"

    def _speed(self, status: dict[str, Any], now: float) -> str:
        """What the maps that are done took in each second so far; "" before the first and behind the last."""
        seconds, size = now - self._start, status["bytes_done"]
        if not size or seconds <= 0 or status["maps_done"] == status["maps"]:
            return ""
        return f"{size_text(size / seconds)}/s, {status['records_done'] / seconds:,.0f} records/s"

    def _draw(self, status: dict[str, Any], now: float) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                *(TextColumn("{task.description:<7}"), BarColumn(), MofNCompleteColumn()),
                *(TimeRemainingColumn(compact=True, elapsed_when_finished=True), TextColumn("{task.fields[told]}")),
            )
            console = Console(file=self._stream)  # rich itself honours NO_COLOR
            # No thread of its own: the process forks.
            self._bars = Progress(*columns, console=console, transient=True, auto_refresh=False)
            self._bars.start()
            for name in ("maps", "reduces"):
                self._rows[name] = self._bars.add_task(name, total=status[name], told="")
        told = {"maps": self._speed(status, now), "reduces": crew_text(status)}
        for name, row in self._rows.items():
            done, total = done_of(status, name)
            self._bars.update(row, completed=done, total=total, told=told[name])
        self._bars.refresh()
