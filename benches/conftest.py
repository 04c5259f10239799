"""Seeded corpora, made once and kept in benches/.cache: MRFAST_BENCH_MIB (16) MiB each."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest

MIB = int(os.environ.get("MRFAST_BENCH_MIB", "16"))
CACHE = Path(__file__).with_name(".cache")
WORDS_PER_CHUNK = 50_000

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # reference.py, the slow twins

COMMON = (
    "the of and to a in that it is was he for on are with as his they be at one have this from or had by hot but some "
    "what there we can out other were all your when up use word how said an each she which do their time if will way "
    "about many then them would write like so these her long make thing see him two has look more day could go "
    "come did "
    "my sound no most number who over know water than call first people may down side been now find any new work part "
    "take get place made live where after back little only round man year came show every good me give our under name "
    "very through just form much great think say help low line before turn cause same mean differ move right boy old "
    "too does tell sentence set three want air well also play small end put home read hand port large spell add even"
).split()
SYLLABLES = "ba co di fu ger hal in jo kan lem mor nus ol per qui ras tin ul ven wex yor zan ing er tion ment".split()


def vocabulary(size: int, rng: random.Random) -> list[str]:
    """`size` distinct words, the common ones first."""
    words = dict.fromkeys(COMMON)
    while len(words) < size:
        words["".join(rng.choices(SYLLABLES, k=rng.randint(2, 5)))] = None
    return list(words)


def zipf_text(size: int, exponent: float) -> Callable[[random.Random], Iterator[bytes]]:
    """Text whose word of rank r has the frequency r ** -exponent, with punctuation and lines."""

    def chunks(rng: random.Random) -> Iterator[bytes]:
        words = vocabulary(size, rng)
        weights = list(accumulate((rank + 2.7) ** -exponent for rank in range(size)))
        ends = [" "] * 14 + [", ", ". ", "\n", "; "]
        while True:
            drawn = rng.choices(words, cum_weights=weights, k=WORDS_PER_CHUNK)
            yield "".join(map(str.__add__, drawn, rng.choices(ends, k=WORDS_PER_CHUNK))).encode()

    return chunks


def access_log(rng: random.Random) -> Iterator[bytes]:
    """Lines of the common log format."""
    urls = [f"/{a}/{b}.html" for a in COMMON[:40] for b in COMMON[40:90]]
    while True:
        lines = [
            f"10.{rng.randrange(256)}.{rng.randrange(256)}.7 - - [10/Oct/2000:13:{rng.randrange(60):02}:36 -0700] "
            f'"GET {url} HTTP/1.1" {rng.choice((200, 200, 304, 404))} {rng.choice(("-", rng.randrange(100_000)))}\n'
            for url in rng.choices(urls, k=2000)
        ]
        yield "".join(lines).encode()


def fixed_records(rng: random.Random) -> Iterator[bytes]:
    """Records of 100 bytes with keys of 10, all random: what sort benchmarks sort."""
    while True:
        yield rng.randbytes(100_000)


def json_lines(rng: random.Random) -> Iterator[bytes]:
    """One object a line."""
    while True:
        rows = [
            f'{{"user":{rng.randrange(10_000)},"word":"{rng.choice(COMMON)}","ms":{rng.random() * 100:.3f}}}\n'
            for _ in range(2000)
        ]
        yield "".join(rows).encode()


MAKERS: dict[str, Callable[[random.Random], Iterator[bytes]]] = {
    "english": zipf_text(30_000, 1.07),
    "distinct": zipf_text(400_000, 0.6),
    "access": access_log,
    "records": fixed_records,
    "jsonl": json_lines,
}


def corpus_path(name: str) -> Path:
    """The file of a corpus, about MIB MiB long (whole chunks, then cut at a line or record); made if need be."""
    path = CACHE / f"{name}-{MIB}.bin"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    wanted = MIB << 20
    with partial.open("wb") as file:
        for chunk in MAKERS[name](random.Random(name)):
            file.write(chunk)
            if file.tell() >= wanted:
                break
    partial.replace(path)
    return path


@pytest.fixture(scope="session")
def corpus() -> Callable[[str], Path]:
    """Gives the path of a corpus by its name."""
    return corpus_path
