"""Prints the MB per CPU second at which MapSink.feed counts the words of a file; MRFAST_SIMD picks the vector code.

python benches/feed.py FILE
"""

import sys
import time

from mrfast import core, ops

BLOCK_BYTES = 1 << 20
ROUNDS = 3


def feed(data: memoryview) -> float:
    sink = core.MapSink(2, source=ops.words(letters="unicode"), combine=ops.sum())
    start = time.process_time()
    sink.begin("bench")
    for at in range(0, len(data), BLOCK_BYTES):
        sink.feed(data[at : at + BLOCK_BYTES])
    sink.end()
    return len(data) / (time.process_time() - start) / 1e6


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        contents = memoryview(file.read())
    print(round(max(feed(contents) for _ in range(ROUNDS)), 1))
