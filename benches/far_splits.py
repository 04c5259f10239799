"""How well reading hides behind computing, for splits of a store with 30 ms to the first byte and 90 MB/s a connection.

    python benches/far_splits.py [splits] [MiB of each] [latency in ms]

Reading and computing sleep: what is measured is the order of things alone, so that a busy machine does not matter. Two
splits are on their way at a time, as a slot has two processes. `of ideal` is max(reading alone, computing alone) over
the time that both took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from mrfast.model import InputCut, Piece
from mrfast.storage.memory import MemoryStore
from mrfast.tasks.prefetch import Prefetcher, parts_of
from mrfast.tasks.reader import PieceReader

BYTES_PER_S = 90e6
WAITED_S = 0.001
COMPUTE_MB_S = (100, 250, 500, 1000)
ANYWHERE = InputCut("records", True, 1)


class FarStore(MemoryStore):
    """A store whose objects are empty bytes, as many as one likes, after a while."""

    remote = True

    def __init__(self, latency_s: float) -> None:
        super().__init__("far")
        self._latency_s = latency_s

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes that there are."""
        time.sleep(self._latency_s + len(buffer) / BYTES_PER_S)
        return len(buffer)


class Compute:
    """Takes its time for what it is given, as a kernel would that has a core for itself."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._due = time.perf_counter()

    def all(self, blocks: Iterator[memoryview]) -> None:
        """Computes the blocks, each when it is there."""
        while True:
            asked = time.perf_counter()
            block = next(blocks, None)
            if (now := time.perf_counter()) - asked > WAITED_S:  # sleeping too long before is no waiting
                self._due = max(self._due, now)
            if block is None:
                return
            if self._bytes_s:
                self._due += len(block) / self._bytes_s
                time.sleep(max(0.0, self._due - time.perf_counter()))


def took_s(store: FarStore, pieces: list[Piece], compute_bytes_s: float) -> float:
    """How long it takes to read and compute all pieces."""
    begin = time.perf_counter()
    ahead: list[Prefetcher] = []
    compute = Compute(compute_bytes_s)
    for number, piece in enumerate(pieces):
        for later in pieces[number + len(ahead) : number + 2]:
            ahead.append(Prefetcher(parts_of(store, "in", later, ANYWHERE)))
            ahead[-1].start()
        with ahead.pop(0) as prefetcher:
            compute.all(PieceReader(store, "in", piece, ANYWHERE, prefetcher=prefetcher).blocks())
    return time.perf_counter() - begin


def main() -> None:
    """Prints a line for each speed of computing."""
    count, size_mib, latency_ms = (int(word) for word in [*sys.argv[1:], *("24", "64", "30")[len(sys.argv) - 1 :]])
    store, size = FarStore(latency_ms / 1000), size_mib << 20
    pieces = [Piece("in", "in", count * size, "", n * size, size) for n in range(count)]
    reading = took_s(store, pieces, 0)
    print(
        f"{count} splits of {size_mib} MiB, {latency_ms} ms: {count * size / reading / 1e6:,.0f} MB/s without computing"
    )
    for rate in COMPUTE_MB_S:
        took = took_s(store, pieces, rate * 1e6)
        ideal = max(reading, count * size / rate / 1e6)
        print(f"computing at {rate:5,} MB/s: {count * size / took / 1e6:5,.0f} MB/s, {ideal / took:.0%} of ideal")


if __name__ == "__main__":
    main()
