"""What compressing segments takes and saves, by codec, level and size of a segment; and what that means over a network.

    python benches/compress.py [corpus ...]

The segments are those of real maps over the corpora. CPU per GiB of raw bytes; at the end of a line what a map and a
reduce gain or lose together where each byte passes twice at 90 MB/s: (2 / 90 MB/s - rest) of raw over plain.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import corpora

from mrfast import core, ops
from mrfast.tasks.mapper import native_source

JOBS: dict[str, tuple[Any, Any]] = {
    "english": (ops.words(letters="unicode"), ops.sum()),
    "zipf": (ops.words(letters="unicode"), ops.sum()),
    "access": (ops.fields(sep=" ", key=(4, 1), value=6), ops.sum()),
    "records": (ops.records(size=100, key=(0, 10)), None),
    "jsonl": (ops.lines(), None),
}
BYTES_PER_S = 90e6


def codecs() -> dict[str, tuple[Callable[[Any], bytes], Callable[[Any], bytes]]]:
    """(compress, decompress) by name, of those that are installed."""
    found: dict[str, tuple[Callable[[Any], bytes], Callable[[Any], bytes]]] = {}
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    for level in (-5, -1, 1, 3):
        found[f"zstd {level}"] = partial(zstd.compress, level=level), zstd.decompress
    try:
        lz4: Any = importlib.import_module("lz4.frame")
        found["lz4"] = lz4.compress, lz4.decompress
    except ImportError:
        pass
    return found


def segments(name: str, partitions: int) -> list[bytes]:
    """The segments of one map over 16 MiB of a corpus."""
    source, combine = JOBS[name]
    sink = core.MapSink(partitions, source=native_source(source), combine=combine)
    sink.begin("f", 0)
    sink.feed(corpora.path(name).read_bytes())
    sink.end()
    drained = sink.drain()
    body, at, found = bytes(drained.body), 0, []
    for length in drained.lengths:
        found.append(body[at : at + length])
        at += length
    return [data for data in found if data]


def timed(work: Callable[[Any], bytes], items: list[bytes]) -> tuple[float, list[bytes]]:
    """(best CPU seconds of three, results)."""
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        results = [work(item) for item in items]
        best = min(best, time.process_time() - begin)
    return best, results


def main() -> None:
    """Prints a table."""
    for name in sys.argv[1:] or list(JOBS):
        for partitions in (10, 100, 1000):
            raw = segments(name, partitions)
            size = sum(map(len, raw))
            for codec, (compress, decompress) in codecs().items():
                packing, packed = timed(compress, raw)
                unpacking, back = timed(decompress, packed)
                assert back == raw
                small = sum(map(len, packed))
                gib = (1 << 30) / size
                saved = 2 * (size - small) / BYTES_PER_S
                print(
                    f"{name:8} {size / len(raw) / 1024:8.1f} KiB each  {codec:8} {small / size:5.2f} of the bytes, "
                    f"CPU {packing * gib:5.2f} + {unpacking * gib:5.2f} s/GiB, "
                    f"{1e6 * (packing + unpacking) / len(raw):7.0f} us each, "
                    f"gain {(saved - packing - unpacking) * gib:6.2f} s/GiB"
                )


if __name__ == "__main__":
    main()
