"""What went wrong in an attempt, as the value that is reported."""

from __future__ import annotations

from mrfast.app import user_traceback
from mrfast.errors import BadInput, BadRecord, BoundPassed, MrfastError, StoreError
from mrfast.model import Failure

KEY_SHOWN_CHARS = 200
BYTES_HINT = "(files, blocks and lines come to map as bytes: contents.decode() is their text)"


def failure(
    attempt: str, error: BaseException, *, input: str = "", offset: int | None = None, note: str = ""
) -> Failure:
    """The Failure to report for `error`; a KeyboardInterrupt is raised again: it is nobody's failure."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, StoreError):
        return Failure(attempt, "store", str(error), input=input, offset=offset, counted=False)
    if isinstance(error, MrfastError):
        kind = "input" if isinstance(error, BadInput) else "app"
        fatal = isinstance(error, (BadRecord, BoundPassed, BadInput))
        return Failure(attempt, kind, f"{error}{note}", input=input, offset=offset, fatal=fatal)
    message = what_went_wrong(error) + note
    return Failure(attempt, "app", message, traceback=user_traceback(error), input=input, offset=offset)


def what_went_wrong(error: BaseException) -> str:
    """The error in words, without its traceback."""
    if isinstance(error, MrfastError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the application called sys.exit({error.code!r})"
    if isinstance(error, MemoryError):
        return "MemoryError: the task needs more memory than there is: smaller --split-bytes or more --reduces help"
    if isinstance(error, TypeError) and "bytes" in str(error):
        return f"TypeError: {error} {BYTES_HINT}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def shown(key: object) -> str:
    """A key for a message, cut where it is long."""
    text = repr(key[:KEY_SHOWN_CHARS] if isinstance(key, (str, bytes)) else key)
    return text if len(text) <= KEY_SHOWN_CHARS else text[:KEY_SHOWN_CHARS] + "..."
