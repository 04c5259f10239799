"""What an application prints, as text that can be shown: whole lines, in bounds, and nothing that a terminal obeys."""

from __future__ import annotations

import re
from collections.abc import Iterator

ATTEMPT_BYTES_MAX = 64 << 10  # of one attempt; behind it stands how much more there was
LINE_BYTES_MIN = 64  # that each line counts for at least: 1,024 lines an attempt
LINE_BYTES_MAX = 8 << 10  # a longer line goes on in the next
CALL_BYTES_MAX = 8 << 10  # of what a renewal brings; a report brings all that is left of its attempt
WAITING_BYTES_MAX = 1 << 20  # in a worker that has no coordinator at this time
JOB_BYTES_MAX = 16 << 20  # that a coordinator keeps

_COLOURS = re.compile("\x1b\\[[0-9;:]*m")
# Control characters, and those that turn the direction of a line around; not tab, nor the line's end.
_CODES = (*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CODES if chr(code) not in "\t\n"}


def clean(text: str) -> str:
    """The text without colours, and with control characters escaped; cleaned twice it is the same."""
    return _COLOURS.sub("", text).translate(_ESCAPES)


class Lines:
    """Makes whole lines of text of the bytes that one attempt prints, as they come."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._part = b""  # the line that has not ended yet
        self._given = 0
        self._more_lines = self._more_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether what comes now is only counted."""
        return self._more_bytes > 0

    def feed(self, data: bytes) -> str:
        """The lines that are whole now, each with its end."""
        if self.is_full:
            self._more_bytes += len(data)
            self._more_lines += data.count(b"\n")
            return ""
        whole, newline, part = (self._part + data).rpartition(b"\n")
        kept = part.rfind(b"\r", 0, len(part.rstrip(b"\r"))) + 1  # a progress bar of the application's own
        self._part = part[kept:]
        lines = whole.split(b"\n") if newline else []
        if len(self._part) > LINE_BYTES_MAX:
            *pieces, self._part = _pieces(self._part)
            lines += pieces
        return "".join(self._give(line) for line in lines)

    def end(self) -> str:
        """What is left when nothing more comes: a line without its end, and how much was left out; begins anew."""
        text = self._give(self._part) if self._part else ""
        if self.is_full:
            text += f"... {self._more_bytes:,} more bytes in {max(1, self._more_lines):,} lines left out\n"
        self._begin()
        return text

    def _give(self, line: bytes) -> str:
        """The line as text, if there is room for it."""
        if not self.is_full:
            shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # what a terminal shows of it
            pieces = [clean(piece.decode("utf-8", "backslashreplace")) + "\n" for piece in _pieces(shown)]
            text = "".join(pieces)
            size = sum(max(LINE_BYTES_MIN, len(piece.encode())) for piece in pieces)
            if self._given + size <= ATTEMPT_BYTES_MAX:
                self._given += size
                return text
        self._more_bytes += len(line) + 1
        self._more_lines += 1
        return ""


def _pieces(line: bytes) -> list[bytes]:
    """The line, cut where it is long, though never inside a character."""
    pieces = []
    while len(line) > LINE_BYTES_MAX:
        end = LINE_BYTES_MAX
        while end > LINE_BYTES_MAX - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


class Outbox:
    """What a worker has still to tell its coordinator of what its attempts have printed."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._size = self._lost = 0

    def add(self, attempt: str, text: str) -> None:
        """Takes whole lines in; where too much waits, they are only counted."""
        if self._size + len(text) > WAITING_BYTES_MAX:
            self._lost += len(text.encode())
            return
        self._size += len(text)
        self._texts[attempt] = self._texts.get(attempt, "") + text

    def of(self, attempt: str) -> dict[str, str]:
        """All of this attempt, for its report, behind what was printed before any."""
        short = len(self._texts.get("", "")) <= CALL_BYTES_MAX
        taken = {name: self._texts.pop(name) for name in ("", attempt) if name in self._texts and (name or short)}
        self._size -= sum(map(len, taken.values()))
        return taken

    def some(self) -> dict[str, str]:
        """As many of the oldest lines as a renewal may bring; the others wait for the next one."""
        taken: dict[str, str] = {}
        room = CALL_BYTES_MAX
        if self._lost and not self._texts:
            self.add("", f"... {self._lost:,} more bytes of several tasks left out\n")
            self._lost = 0
        for attempt, text in list(self._texts.items()):
            lines = text.splitlines(keepends=True)
            sizes = [len(line.encode()) for line in lines]
            fit = 0
            while fit < len(lines) and (sizes[fit] <= room or (not taken and not fit)):
                room -= sizes[fit]
                fit += 1
            if fit:
                taken[attempt] = "".join(lines[:fit])
                self._size -= len(taken[attempt])
                rest = "".join(lines[fit:])
                if rest:
                    self._texts[attempt] = rest
                else:
                    del self._texts[attempt]
            if room <= 0 or fit < len(lines):
                break
        return taken


class Printed:
    """What a job keeps of all that its attempts have printed, and of what its workers say that they have."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of the attempts that have printed
        self._loaded: set[str] = set()  # lines of the application's load: it says the same in each process
        self._room = JOB_BYTES_MAX
        self._is_full = False

    def take(self, printed: dict[str, str]) -> Iterator[tuple[str, str]]:
        """(attempt, lines) of what there is room for, "" for the load of the application; once, that there is none."""
        for attempt, text in printed.items():
            text = clean(text)
            if not attempt:
                lines = dict.fromkeys(text.splitlines(keepends=True))
                text = "".join(line for line in lines if line not in self._loaded)
            size = max(len(text.encode()), LINE_BYTES_MIN)
            given = self._sizes.get(attempt, 0) + size
            if not text or given > 2 * ATTEMPT_BYTES_MAX or self._is_full:
                continue
            if size > self._room:
                self._is_full = True
                yield "", f"... more than {JOB_BYTES_MAX >> 20} MiB: what is printed from here on is left out\n"
                continue
            self._room -= size
            if attempt:
                self._sizes[attempt] = given
            else:
                self._loaded.update(lines)
            yield attempt, text if text.endswith("\n") else text + "\n"
