"""How long a reduce takes to fetch many small segments from a store with latency, and of what that time is made.

    python benches/far_segments.py [segments] [bytes of each]

The store is in memory; a read sleeps for 30 ms and then for its bytes at 90 MB/s.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from mrfast import core
from mrfast.model import ReduceTask, Segment, inter_key
from mrfast.storage import abreast
from mrfast.storage.memory import MemoryStore
from mrfast.tasks.fetch import Fetched

FIRST_BYTE_S = 0.030
BYTES_PER_S = 90e6


class FarStore(MemoryStore):
    """A store in memory whose reads take the time of a distant one."""

    remote = True

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes copied, after a while."""
        time.sleep(FIRST_BYTE_S + len(buffer) / BYTES_PER_S)
        return super().read_into(key, offset, buffer, etag)


def main() -> None:
    """Prints one line of figures."""
    count, size = (int(word) for word in [*sys.argv[1:], "1000", "20000"][:2])
    store = FarStore("bench")
    sink = core.MapSink(1)
    sink.emit_all((f"key-{n:012}", n) for n in range(size // 24))
    drained = sink.drain()
    body, [records], [xxh3] = bytes(drained.body), drained.counts, drained.checksums
    segments = []
    for n in range(count):
        store.put(inter_key("j", f"m-{n:06}"), body)
        segments.append(Segment(n, f"m-{n:06}", 0, len(body), records, xxh3, "str", "d"))
    task = ReduceTask("j", "r", 0, count, store.url, 1 << 30)

    class Source:
        def pages(self) -> Any:
            yield segments, True

        def bad(self, segment: Segment, why: str) -> None:
            raise AssertionError(why)

    ideal = count * (FIRST_BYTE_S + len(body) / BYTES_PER_S) / abreast.READS_MAX
    begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    fetched = Fetched(task, store, None, lambda: None)
    fetched.follow(Source())
    wall, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    begin = time.perf_counter()
    for _ in fetched.groups().merged(ordered=True):
        pass
    merge = time.perf_counter() - begin
    print(
        f"{count} segments of {len(body):,} bytes: reads alone {ideal:.2f} s, fetch {wall:.2f} s ({wall / ideal:.2f}), "
        f"CPU {cpu:.2f} s ({1e3 * cpu / count:.2f} ms each), merge {merge:.2f} s"
    )


if __name__ == "__main__":
    main()
