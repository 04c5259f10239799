"""The text of a job's journal: a line a record, each with its number and its checksum.

A line is the CRC-32 of the JSON in 8 hexadecimal digits, a space, the JSON and a line feed. Each epoch of the
coordinator writes a journal of its own, whose first record says on how many records of which earlier epoch it builds.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import orjson

from mrfast.errors import DamagedJournal

Records = list[dict[str, Any]]

_CRC_CHARS = 8


def encode_line(number: int, record: dict[str, Any]) -> bytes:
    """The line of an epoch's record `number`, counted from 0."""
    body = orjson.dumps({"n": number, **record})
    return b"%08x %b\n" % (crc32(body), body)


def read_lines(data: bytes, where: str, first: int = 0, *, whole: bool = False) -> Records:
    """The records in `data`, which begins with number `first`; a torn last line is left out, unless `data` was whole.

    Raises DamagedJournal for anything else that was not written so: what follows it cannot be trusted.
    """
    lines = data.split(b"\n")
    records: Records = []
    for at, line in enumerate(lines[:-1]):
        record = _read_line(line)
        if record is None and at == len(lines) - 2 and not lines[-1] and not whole:
            break  # a power cut can leave the file's new length without its bytes
        if record is None or record.pop("n", None) != first + len(records) or type(record.get("k")) is not str:
            raise _damaged(where, at)
        records.append(record)
    if whole and lines[-1]:
        raise _damaged(where, len(lines) - 1)
    return records


def _damaged(where: str, at: int) -> DamagedJournal:
    return DamagedJournal(
        f"{where}: line {at + 1} is damaged, so what the job had done is not known; start the job again"
    )


def _read_line(line: bytes) -> dict[str, Any] | None:
    body = line[_CRC_CHARS + 1 :]
    if line[: _CRC_CHARS + 1] != b"%08x " % crc32(body):
        return None
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return record if type(record) is dict else None


def newest(journals: dict[int, Records]) -> tuple[int, int] | None:
    """The latest epoch that has begun and how many records it has: what a new one builds on."""
    begun = [epoch for epoch, records in journals.items() if records and records[0]["k"] == "begin"]
    return (max(begun), len(journals[max(begun)])) if begun else None


def chain(journals: dict[int, Records]) -> Records:
    """The records that count, oldest first, of the journals by epoch: the newest one, and what it builds on."""
    base = newest(journals)
    counted: list[Records] = []
    while base is not None:
        epoch, count = base
        records = journals.get(epoch, [])
        if len(records) < count or not count or records[0]["k"] != "begin":
            raise DamagedJournal(
                f"the journal of epoch {epoch} has {len(records)} records, and {count} were there when a later epoch "
                "began: part of it is on another machine, or was removed; resume the job there, or start it again"
            )
        counted.append(records[:count])
        earlier = records[0]["base"]
        if earlier is not None and earlier[0] >= epoch:
            raise DamagedJournal(f"the journal of epoch {epoch} builds on a later one; start the job again")
        base = None if earlier is None else (earlier[0], earlier[1])
    return [record for records in reversed(counted) for record in records]
