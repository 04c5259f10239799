"""How a slot's process died, in words."""

from __future__ import annotations

import os
import signal

_TRACE_BYTES = 1 << 16
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def how_it_died(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGKILL:
        return f"was killed ({name}): out of memory? Fewer --slots or --workers, or a smaller --split-bytes, may help"
    return f"was killed by {name}"


def crash_frames(descriptor: int) -> str:
    """The innermost frames of what faulthandler wrote, without those of mrfast."""
    text = os.pread(descriptor, _TRACE_BYTES, 0).decode("utf-8", "backslashreplace")
    frames = [line for line in text.splitlines() if line.startswith("  File ")]
    ours = (i for i, line in enumerate(frames) if line.startswith(f'  File "{_PACKAGE}'))
    return "\n".join(frames[: next(ours, 0)])
