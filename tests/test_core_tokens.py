"""Tokens are exact: on any bytes, on every code point, on malformed UTF-8, and wherever the blocks are cut."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core, ops

LETTERS = ("unicode", "ascii", "space")

# Every way in which UTF-8 goes wrong, with letters on both sides of it.
MALFORMED = [
    b"a\x80b",  # a continuation byte alone
    b"a\xbfb\xbf",
    b"a\xc3b",  # cut off by a letter
    b"\xc3",
    b"ab\xc3",
    b"ab\xe4\xb8",
    b"ab\xf0\x90\x90",
    b"a\xe4b\xb8\x80",
    b"a\xc0\x80b",  # overlong NUL
    b"a\xc1\xa1b",  # overlong a
    b"a\xe0\x81\xa1b",
    b"a\xe0\x9f\xbfb",
    b"a\xf0\x80\x81\xa1b",
    b"a\xf0\x8f\xbf\xbfb",
    b"a\xed\xa0\x80b",  # surrogates
    b"a\xed\xbf\xbfb",
    b"a\xed\xa0\x81\xed\xb0\x80b",
    b"a\xf4\x90\x80\x80b",  # past U+10FFFF
    b"a\xf5\x80\x80\x80b",
    b"a\xf8\x88\x80\x80\x80b",
    b"a\xfe\xffb",
    "a\U0010ffffb".encode(),
    "a\U0010fffeb\x00c".encode(),
    b"\xc3\xc3\xa9\xc3",
    b"\xe4\xe4\xb8\x80\xe4\xb8",
    b"\xf0\xf0\x90\x90\x80\xf0\x90\x90",
    b"\xff" * 130,
    b"\xe4\xb8\x80" * 50 + b"\xe4\xb8",
]

# Letters of all lengths, what is not quite a letter, and what is no character at all, in any order.
PIECES = st.sampled_from(
    [
        text.encode()
        for text in ("a", "Z", "the", " ", "\n", "\0", "'", "_", "7", "é", "一", "𐐀", "ẞ", "İ", "·", "\u00a0")
    ]
    + [text.encode() for text in ("\u0300", "😀", "x" * 61, "ж" * 32, " " * 63)]
    + [b"\xc3", b"\xe4\xb8", b"\xf0\x90", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf"]
)
TEXTS = st.lists(PIECES, max_size=60).map(b"".join) | st.binary(max_size=300)


def fed(data: bytes, cuts: list[int], op: ops.Words, filename: str = "f") -> Counter[str | bytes]:
    """Word counts of `data`, fed in blocks cut at `cuts`."""
    sink = core.MapSink(1, source=op, combine=ops.sum())
    sink.begin(filename)
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in pairwise(edges):
        sink.feed(data[start:stop])
    sink.end()
    drained = sink.drain()
    return Counter(dict(core.read_segment(drained.body, drained.key_kind or "str")))


@pytest.mark.parametrize("letters", LETTERS)
@examples(300)
@given(data=TEXTS)
def test_tokens(letters: str, data: bytes) -> None:
    assert core.tokens(data, letters=letters) == reference.tokens(data, letters=letters)


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4095, 4096, 4097, 20_000])
def test_random_bytes_around_the_window(letters: str, size: int) -> None:
    rng = random.Random(size)
    for alphabet in (bytes(range(256)), b"ab \n", "aé 一\n".encode(), b"a", b"\xc3\xa9"):
        data = bytes(rng.choices(alphabet, k=size))
        assert core.tokens(data, letters=letters) == reference.tokens(data, letters=letters)
        letters_only = (b"x" * size)[:size]
        assert core.tokens(letters_only, letters=letters) == reference.tokens(letters_only, letters=letters)


def test_every_code_point_of_unicode() -> None:
    points = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    text = "".join(f"a{point}b\n" for point in points).encode()
    assert core.tokens(text, letters="unicode") == reference.tokens(text, letters="unicode")
    alone = [point for point in points if core.tokens(point.encode(), letters="unicode")]
    assert alone == [point for point in points if unicodedata.category(point).startswith("L")]
    assert unicodedata.unidata_version == core.UNICODE_VERSION


def test_every_code_point_has_its_own_lower_case() -> None:
    for first in range(0, sys.maxunicode + 1, 4096):
        text = "".join(chr(point) for point in range(first, first + 4096) if not 0xD800 <= point < 0xE000)
        assert core.lower(text) == reference.lower(text)


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: data[:12].hex())
def test_malformed_utf8(letters: str, data: bytes) -> None:
    for padding in (0, 1, 57, 60, 61, 62, 63, 4093, 4094, 4095):
        text = b" " * padding + data
        assert core.tokens(text, letters=letters) == reference.tokens(text, letters=letters), padding


def test_every_pair_of_bytes_and_every_three_high_ones() -> None:
    for first in range(256):
        pairs = b"".join(bytes((97, first, second, 98, 10)) for second in range(256))
        assert core.tokens(pairs, letters="unicode") == reference.tokens(pairs, letters="unicode"), first
    edge = (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF)
    runs = [bytes((97, a, b, c, d, 98, 10)) for a in edge for b in edge for c in edge for d in edge]
    assert core.tokens(b"".join(runs), letters="unicode") == reference.tokens(b"".join(runs), letters="unicode")


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("data", [*MALFORMED, "Größe 一二三 𐐀𐐁x y ẞİé".encode()], ids=lambda data: data[:12].hex())
def test_every_block_cut(letters: str, data: bytes) -> None:
    op = ops.words(letters=letters)
    expected = Counter(reference.tokens(data, letters=letters))
    for first in range(len(data) + 1):
        for second in range(first, min(first + 6, len(data) + 1)):
            assert fed(data, [first, second], op) == expected, (first, second)
    assert fed(data, list(range(len(data))), op) == expected


@pytest.mark.parametrize("letters", LETTERS)
@examples(200)
@given(data=st.data(), text=TEXTS)
def test_any_block_cuts(letters: str, data: st.DataObject, text: bytes) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    expected = Counter(reference.tokens(text, letters=letters))
    assert fed(text, cuts, ops.words(letters=letters)) == expected


@pytest.mark.parametrize("letter", ["é", "一", "𐐀"])
def test_a_letter_across_a_window_and_a_block(letter: str) -> None:
    raw = letter.encode()
    for window in (64, 128, 4096, 8192):
        for lead in range(window - 5, window + 1):
            data = b" " * (lead - 1) + b"x" + raw + b"y"
            for cut in range(lead, lead + len(raw) + 1):
                assert fed(data, [cut], ops.words(letters="unicode")) == {f"x{letter}y": 1}, (lead, cut)


@pytest.mark.parametrize("letters", LETTERS)
def test_a_word_longer_than_many_blocks(letters: str) -> None:
    for word in ("x" * 100_000, "é" * 50_000, "一" * 33_333, "𐐀" * 25_000):
        data = f"a {word} b".encode()
        expected = Counter(reference.tokens(data, letters=letters))
        for size in (255, 256, 257, 4096, 4097):
            assert fed(data, list(range(0, len(data), size)), ops.words(letters=letters)) == expected, size
        short = data[:6001]
        assert fed(short, list(range(6001)), ops.words(letters=letters)) == Counter(
            reference.tokens(short, letters=letters)
        )


@pytest.mark.parametrize("data", [bytes, bytearray, memoryview])
def test_any_bytes_like(data: type) -> None:
    assert core.tokens(data(b"to be"), letters="ascii") == ["to", "be"]
    assert core.tokens("tö be", letters="unicode") == ["tö", "be"]


def test_letters_must_be_spelt_out() -> None:
    with pytest.raises(TypeError):
        core.tokens(b"a")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'unicode', 'ascii' or 'space'"):
        core.tokens(b"a", letters="latin")


@pytest.mark.parametrize("value", [1, "filename"])
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("combine", [None, ops.count(), ops.index(), ops.first()], ids=str)
@examples(40)
@given(data=st.data(), texts=st.lists(TEXTS, max_size=3), lower=st.booleans())
def test_pieces_of_words(
    value: int | str, distinct: bool, combine: Any, data: st.DataObject, texts: list[bytes], lower: bool
) -> None:
    if combine == ops.index() and value == 1:
        return  # refused: an index takes str
    op = ops.words(letters="unicode", value=value, distinct=distinct, lower=lower)
    sink = core.MapSink(1, source=op, combine=combine)
    expected: dict[str, list[int | str]] = {}
    for number, text in enumerate(texts):
        name = f"f{number // 2}"  # two pieces of one file, then another file
        sink.begin(name)
        cut = data.draw(st.integers(0, len(text)))
        sink.feed(text[:cut])
        sink.feed(text[cut:])
        sink.end()
        words = reference.tokens(text, letters="unicode")
        words = [reference.lower(word) for word in words] if lower else words
        for word in dict.fromkeys(words) if distinct else words:
            expected.setdefault(word, []).append(name if value == "filename" else 1)
    assert sink.records_in == sum(len(values) for values in expected.values())
    pairs = sorted(expected.items(), key=lambda pair: pair[0].encode())
    kind = combine.kind if combine else None
    if kind == "count":
        out = [(word, len(values)) for word, values in pairs]
    elif kind == "first":
        out = [(word, values[0]) for word, values in pairs]
    elif kind == "index":
        out = [(word, name) for word, values in pairs for name in dict.fromkeys(values)]
    else:
        out = [(word, item) for word, values in pairs for item in values]
    assert list(core.read_segment(sink.drain().body, "str")) == out


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("size", [15, 16, 17, 40])
def test_long_and_mixed_case_words_in_batches(size: int, distinct: bool) -> None:
    rng = random.Random(size)
    words = ["".join(rng.choices("aBcDzZéÉẞİ", k=rng.randrange(1, size + 1))) for _ in range(500)]
    words += ["".join(rng.choices("AZaz", k=size)) for _ in range(500)]
    op = ops.words(letters="unicode", lower=True, distinct=distinct)
    found = fed(" ".join(words * 2).encode(), [1, 77, 5000], op)
    lowered = Counter(reference.lower(word) for word in words for _ in range(2))
    tokens = Counter(
        reference.lower(word) for word in reference.tokens(" ".join(words * 2).encode(), letters="unicode")
    )
    assert lowered == tokens
    assert found == (Counter(set(lowered)) if distinct else lowered)


def test_a_table_that_grows_in_place_keeps_every_count() -> None:
    rng = random.Random(9)
    words = [f"{rng.randrange(1 << 60):x}".translate(str.maketrans("0123456789", "ghijklmnop")) for _ in range(90_000)]
    words += [word * 2 for word in words[:1000]]
    counted = words + rng.choices(words, k=50_000) + words[:200] * 20
    rng.shuffle(counted)
    assert fed(" ".join(counted).encode(), [], ops.words(letters="ascii")) == Counter(counted)
