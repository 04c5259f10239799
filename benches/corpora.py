"""Seeded corpora, made once and kept in benches/.cache: `path("english")` is a file of MRFAST_BENCH_MIB (16) MiB.

Random draws cost most here, so that every draw is one `random.choices` without weights from a table in which a word
stands as often as its frequency demands: 256 MiB take seconds.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path

MIB = int(os.environ.get("MRFAST_BENCH_MIB", "16"))
CACHE = Path(__file__).with_name(".cache")
FILES = 32  # of a folder corpus
DRAWS = 100_000  # at a time
TABLE = 150_000

COMMON = (
    "the of and to a in that it is was he for on are with as his they be at one have this from or had by hot but some "
    "what there we can out other were all your when up use word how said an each she which do their time if will way "
    "about many then them would write like so these her long make thing see him two has look more day could go come "
    "my sound no most number who over know water than call first people may down side been now find any new work part "
    "take get place made live where after back little only round man year came show every good me give our under name "
    "very through just form much great think say help low line before turn cause same mean differ move right boy old "
    "too does tell sentence set three want air well also play small end put home read hand port large spell add even "
    "café née naïve über façade"
).split()
SYLLABLES = "ba co di fu ger hal in jo kan lem mor nus ol per qui ras tin ul ven wex yor zan ing er tion ment é".split()
ENDS = [" "] * 60 + ["\n"] * 6 + [", "] * 7 + [". "] * 5 + ["; ", " “", "” ", "’s ", " – "]


def table(items: list[str], exponent: float) -> list[str]:
    """Each item about as often as Zipf's law says, and once at least."""
    weights = [(rank + 2.7) ** -exponent for rank in range(len(items))]
    scale = TABLE / sum(weights)
    return [item for item, weight in zip(items, weights, strict=True) for _ in range(max(1, round(scale * weight)))]


def alternating(first: list[str], second: list[str]) -> bytes:
    """One of the first, one of the second, and so on (twice as quick as adding them pair by pair)."""
    both = [""] * (2 * len(first))
    both[::2], both[1::2] = first, second
    return "".join(both).encode()


def english(rng: random.Random) -> Iterator[bytes]:
    """Text of 22,000 distinct words, some with letters beyond ASCII, with punctuation and lines."""
    words = dict.fromkeys(COMMON)
    while len(words) < 22_000:
        words["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5))))] = None
    drawn = table(list(words), 1.15)
    while True:
        yield alternating(rng.choices(drawn, k=DRAWS), rng.choices(ENDS, k=DRAWS))


def zipf(rng: random.Random) -> Iterator[bytes]:
    """Text with ever new words: a head and a tail, each by Zipf's law (7.4 million distinct ones in 256 MiB)."""
    letters = string.ascii_lowercase
    short = ["".join(word) for size in (1, 2, 3) for word in product("etaoinshrdlucmfwyp", repeat=size)]
    heads = [*short, *islice(map("".join, product(letters, repeat=4)), 50_000)]
    tails = ["", *map("".join, product(letters, repeat=1)), *map("".join, product(letters, repeat=2))]
    heads, ends = table(heads, 1.0), [tail + end for tail in table(tails, 1.3) for end in (" ", " ", ", ", "\n")]
    while True:
        yield alternating(rng.choices(heads, k=DRAWS), rng.choices(ends, k=DRAWS))


def access(rng: random.Random) -> Iterator[bytes]:
    """Lines of the common log format: 144,000 URLs; about 1 % match `POST .* 5\\d\\d`."""
    urls = [f"/{a}/{b}/{n}.html" for n in range(10) for a in COMMON[:120] for b in COMMON[:120]]
    drawn = table(urls, 0.8)
    methods = ["GET"] * 90 + ["POST"] * 7 + ["HEAD"] * 3
    statuses = [200] * 75 + [304] * 12 + [404] * 4 + [500, 502, 503]
    sizes = ["-", *map(str, range(100, 100_000, 37))]
    k = DRAWS // 10
    while True:
        columns = zip(
            rng.choices(range(256), k=k),
            rng.choices(range(60), k=k),
            rng.choices(methods, k=k),
            rng.choices(drawn, k=k),
            rng.choices(statuses, k=k),
            rng.choices(sizes, k=k),
            strict=True,
        )
        yield "".join(
            [
                f'10.{a}.{b}.7 - - [10/Oct/2000:13:{b:02}:36 -0700] "{method} {url} HTTP/1.1" {status} {size}\n'
                for a, b, method, url, status, size in columns
            ]
        ).encode()


def records(rng: random.Random) -> Iterator[bytes]:
    """Records of 100 bytes, printable: a key of 10, a payload, LF; so they are lines as well."""
    printable = bytes(33 + byte % 94 for byte in range(256))
    payload = rng.randbytes(8900).translate(printable)
    while True:
        keys = rng.randbytes(10 * DRAWS // 10).translate(printable)
        yield b"".join(
            [keys[at : at + 10] + payload[at % 8800 : at % 8800 + 89] + b"\n" for at in range(0, len(keys), 10)]
        )


def jsonl(rng: random.Random) -> Iterator[bytes]:
    """One object a line."""
    while True:
        rows = zip(rng.choices(range(10_000), k=2000), rng.choices(COMMON, k=2000), strict=True)
        yield "".join([f'{{"user":{u},"word":"{word}","ms":{rng.random() * 100:.3f}}}\n' for u, word in rows]).encode()


MAKERS: dict[str, Callable[[random.Random], Iterator[bytes]]] = {
    "english": english,
    "zipf": zipf,
    "access": access,
    "records": records,
    "jsonl": jsonl,
}


def path(name: str, mib: int = MIB) -> Path:
    """The file of a corpus, `mib` MiB long and then up to the end of a chunk; made if need be."""
    file = CACHE / f"{name}-{mib}.txt"
    if not file.exists():
        CACHE.mkdir(exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as out:
            for chunk in MAKERS[name](random.Random(name)):
                left = (mib << 20) - out.tell()
                if len(chunk) >= left:
                    out.write(
                        chunk[: chunk.index(b"\n", left - 1) + 1] if name != "records" else chunk[: left // 100 * 100]
                    )
                    break
                out.write(chunk)
        partial.replace(file)
    return file


def folder(name: str, mib: int = MIB) -> Path:
    """The same text as FILES files of whole lines."""
    out = CACHE / f"{name}-{mib}.files"
    if not out.exists():
        data, at = path(name, mib).read_bytes(), 0
        partial = out.with_suffix(f".{os.getpid()}")
        partial.mkdir()
        for number in range(FILES):
            stop = data.index(b"\n", len(data) * (number + 1) // FILES - 1) + 1
            (partial / f"{number:02}.txt").write_bytes(data[at:stop])
            at = stop
        partial.rename(out)
    return out
