"""What a slot and its parent say to each other: length-prefixed JSON documents, and progress in shared memory."""

from __future__ import annotations

import mmap
import struct
from typing import Any

import orjson

from ..control.schema import decode, encode
from ..errors import BoundPassed
from ..model import Failure, MapReport, MapTask, Progress, ReduceReport, ReduceTask

# Both ends are the same program on one machine; the bound is there to fail early, not to fend off anybody.
DOCUMENT_BYTES_MAX = 1 << 30
_LENGTH = struct.Struct(">I")
_CLASSES: dict[str, type] = {cls.__name__: cls for cls in (MapTask, ReduceTask, MapReport, ReduceReport, Failure)}

Task = MapTask | ReduceTask
Report = MapReport | ReduceReport | Failure


def pack(document: dict[str, Any]) -> bytes:
    """The bytes of one document, its length in front."""
    body = orjson.dumps(document)
    if len(body) > DOCUMENT_BYTES_MAX:
        raise BoundPassed(f"a message between a worker and its slot of {len(body):,} bytes; at most 1 GiB can be sent")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """The documents in a stream of bytes that arrives in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The documents that are whole now."""
        buffer = self._buffer
        buffer += data
        found = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            found.append(orjson.loads(buffer[at + _LENGTH.size : end]))
            at = end
        del buffer[:at]
        return found


def to_document(value: Task | Report) -> list[Any]:
    """A task or report with its class's name."""
    return [type(value).__name__, encode(value)]


def from_document(document: list[Any]) -> Any:
    """The task or report that was sent."""
    name, value = document
    return decode(_CLASSES[name], value)


class SharedProgress:
    """A Progress that a child writes and its parent reads, without a message between them."""

    # The number in front and behind: a reader that finds two different ones came in the middle of a write.
    _FORM = struct.Struct("<Q16sQQQQ")
    # Behind it, a record's address: 1 + the number of its piece, or 0, its offset, and the sum of the two.
    _AT = struct.Struct("QQQ")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._FORM.size + self._AT.size)
        self._number = 0
        self._last = Progress()

    def write(self, progress: Progress) -> None:
        """Replaces what the parent sees; costs about a microsecond."""
        self._number += 1
        phase = progress.phase.encode()
        done = (progress.bytes_done, progress.bytes_total, progress.records)
        self._FORM.pack_into(self._memory, 0, self._number, phase, *done, self._number)

    def read(self) -> Progress:
        """The newest whole Progress."""
        number, phase, bytes_done, bytes_total, records, again = self._FORM.unpack_from(self._memory)
        if number == again:
            self._last = Progress(phase.rstrip(b"\0").decode(), bytes_done, bytes_total, records)
        return self._last

    def at(self, piece: int, offset: int) -> None:
        """Replaces the address of the record that the application is given; piece -1 for none."""
        self._AT.pack_into(self._memory, self._FORM.size, piece + 1, offset, piece + 1 + offset)

    def record(self) -> tuple[int, int] | None:
        """(number of its piece, offset) of the record that the application was given last, if it is still at it."""
        number, offset, both = self._AT.unpack_from(self._memory, self._FORM.size)
        return (number - 1, offset) if number and number + offset == both else None

    def clear(self) -> None:
        """Back to nothing done; only while no task runs."""
        self.at(-1, 0)
        self._FORM.pack_into(self._memory, 0, 0, b"", 0, 0, 0, 0)
        self._last = Progress()

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()
