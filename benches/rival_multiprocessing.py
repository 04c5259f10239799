"""The jobs as one writes them by hand: multiprocessing, re and Counter, about ten lines each.

python benches/rival_multiprocessing.py words|index|bytes|grep OUTPUT PROCESSES INPUT
"""

import os
import re
import sys
from collections import Counter, defaultdict
from multiprocessing import Pool

CHUNK_BYTES = 4 << 20
REQUEST = re.compile(rb'"\S+ (\S+)[^"]*" \d+ (\d+)')
POST_5XX = re.compile(rb"POST .* 5\d\d")


def chunks(path):
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk + file.readline()


def count(chunk):
    return Counter(re.findall(r"[^\W\d_]+", chunk.decode()))


def distinct(path):
    with open(path, encoding="utf-8") as file:
        return path, set(re.findall(r"[^\W\d_]+", file.read()))


def sizes(chunk):
    total = Counter()
    for line in chunk.splitlines():
        if match := REQUEST.search(line):
            total[match[1]] += int(match[2])
        else:
            total[line.split(b" ")[6]] += 0
    return total


def matching(chunk):
    return [line for line in chunk.splitlines(keepends=True) if POST_5XX.search(line)]


def words(pool, path):
    total = Counter()
    for counts in pool.imap_unordered(count, chunks(path)):
        total.update(counts)
    return (f"{word} {n}\n".encode() for word, n in total.items())


def index(pool, folder):
    files = defaultdict(list)
    for path, found in pool.imap(distinct, sorted(os.path.join(folder, name) for name in os.listdir(folder))):
        for word in found:
            files[word].append(path)
    return (f"{word} {len(paths)} {','.join(paths)}\n".encode() for word, paths in files.items())


def bytes_per_url(pool, path):
    total = Counter()
    for counts in pool.imap_unordered(sizes, chunks(path)):
        total.update(counts)
    return (b"%s %d\n" % item for item in total.items())


def grep(pool, path):
    for lines in pool.imap(matching, chunks(path)):
        yield from lines


JOBS = {"words": words, "index": index, "bytes": bytes_per_url, "grep": grep}


def main(job, output, processes, path):
    with Pool(int(processes)) as pool, open(output, "wb") as file:
        file.writelines(JOBS[job](pool, path))


if __name__ == "__main__":
    main(*sys.argv[1:])
