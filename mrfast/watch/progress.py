"""A running job on a terminal: bars, or where there is no terminal a line every 10 seconds; always on stderr."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

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


class ProgressView:
    """Shows what `update` is told; `close` leaves the terminal as it was."""

    def __init__(self, now: float, *, quiet: bool = False, names_job: bool = True, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._unnamed = names_job  # whether the job is still to be named
        self._terminal = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._next = now + (BARS_AFTER_S if self._terminal else LINE_EVERY_S)
        self._start = now
        self._bars: Any = None
        self._rows: dict[str, Any] = {}

    def wait_s(self, now: float) -> float | None:
        """How long the caller may wait before `update` has something to show; None for ever."""
        return None if self._quiet else max(0.0, self._next - now)

    def update(self, status: dict[str, Any], now: float) -> None:
        """Shows the job's status, as JobDriver.status gives it, if it is time to."""
        if self._quiet or now < self._next or not status.get("maps"):
            return
        if self._unnamed:
            self._unnamed = False
            self.write(
                f"mrfast: job {status['job']}; should it be killed: mrfast run --resume {status['job']}\n".encode()
            )
        if self._terminal:
            self._next = now + BARS_EVERY_S
            self._draw(status, now)
        else:
            self._next = now + LINE_EVERY_S
            with suppress(OSError):  # nobody reads it any more: no reason to end the job
                print(self._line(status, now), file=self._stream, flush=True)

    def write(self, data: bytes) -> None:
        """Lets what an application printed through, above the bars."""
        text = data.decode("utf-8", "backslashreplace")
        if self._bars is None:
            with suppress(OSError):
                self._stream.write(text)
                self._stream.flush()
        else:
            self._bars.console.out(text, end="" if text.endswith("\n") else "\n", highlight=False)

    def close(self) -> None:
        """Removes the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _line(self, status: dict[str, Any], now: float) -> str:
        done = (
            f"{status['maps_done']:,} of {counted(status['maps'], 'map')}, "
            f"{status['reduces_done']:,} of {counted(status['reduces'], 'reduce')} done"
        )
        told = "; ".join(text for text in (done, self._speed(status, now), crew_text(status)) if text)
        return f"mrfast: {now - self._start:.0f} s: {told}"

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
            done, total = status[f"{name}_done"], status[name]
            if name == "reduces" and done == total and status["state"] != "COMMITTED":
                done -= 0.5  # nothing is there before the commit: no full bar either
            self._bars.update(row, completed=done, total=total, told=told[name])
        self._bars.refresh()
