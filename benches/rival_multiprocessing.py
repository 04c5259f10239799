"""The program that mrfast is measured against: multiprocessing, re and Counter, as one writes it by hand.

python benches/rival_multiprocessing.py OUTPUT PROCESSES INPUT...
"""

import re
import sys
from collections import Counter
from multiprocessing import Pool

CHUNK_BYTES = 4 << 20


def chunks(paths):
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk + file.readline()


def count(chunk):
    return Counter(re.findall(r"[^\W\d_]+", chunk.decode()))


def main(output, processes, *paths):
    total = Counter()
    with Pool(int(processes)) as pool:
        for counts in pool.imap_unordered(count, chunks(paths)):
            total.update(counts)
    with open(output, "w", encoding="utf-8") as file:
        file.writelines(f"{word} {n}\n" for word, n in sorted(total.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
