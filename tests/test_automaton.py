"""Grep by an automaton finds exactly the lines that `re.search` finds, whatever the pattern and the cuts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from memory_job import Job

from mrfast import core, ops
from mrfast.app import App
from mrfast.errors import BoundPassed
from mrfast.tasks.automaton import automaton

TRANSLATED = [
    b"", b"a", b"^a", b"a$", b"^$", b"a.*b", rb"a\s*b", rb"\s", rb"[^a]*b", rb"[^a]b", b"(?s)a.*b", b"(?m)^b", rb"\Ab",
    rb"b\Z", b"(?i)A|B$", b"(a)|b", b"(?s:a.)b", b"a{2,}?b", b"a{2,4}b", b"(ab|ba)+$", b"(?:^a)+", rb"\D+b", b"x*",
    rb"a\nb", rb"\n", rb"POST .* 5\d\d", b"a$b", b"a^b", b"(?:a|^)b", b"(?:$|b)a", b"[\x80-\xff]+", b"(?i)[^a]B",
    b"(?x) a  b # and no more", b"a??b", b"(?:ab){3}", b"a|b|", b"(|a)b", b"[a-cx-z]", rb"[\W\d]a", b"$^", b"^^a$$",
    b"aab", b"aaab", b"1\r", b"\r$", b"(?i:a)b", rb"\b", rb"\B", rb"\bb\b", rb"\Bb", rb"a\B", rb"\ba\b|\B1", rb"^\b",
    rb"\b^a", rb"a\b$", rb"^\B$", rb"(?:\b|a)b", rb"a\b.*\bb", rb"(?:a\b )+", rb"(?i)\bAB\b", rb"\b\B", rb"a(?:\b|\B)b",
]  # fmt: skip
LEFT_TO_RE = [
    rb"(a)b\1", b"a(?=b)", b"(?<!a)b", b"(a)?(?(1)b|^b)", b"(?:a?)*b", b"(?:|a)+b", b"(?L)a",
    b"(?L:a)b", rb"(?:\b)+a", b"a++b", b"(?>a+)b", b"(?:a|b){900}c{900}d{900}", b"(a|b)*a(a|b){12}",
]  # fmt: skip


def matches(pattern: bytes, block: bytes, cuts: list[int], by: str = "line", level: str = core.SIMD) -> list[Any]:
    """The values that the core emits for the block, fed in pieces of these sizes."""
    tables = automaton(pattern, by)
    assert tables is not None
    core.use_simd(level)
    try:
        sink = core.MapSink(1, source=tables)
    finally:
        core.use_simd(core.SIMD)
    sink.begin("ü.log")
    at = 0
    for cut in [*cuts, len(block)]:
        sink.feed(block[at : at + cut])
        at += cut
    sink.end()
    found = list(core.read_segment(sink.drain().body, "str"))
    assert {key for key, _ in found} <= {"ü.log"}
    return [value for _, value in found]


def wanted(pattern: bytes, block: bytes) -> list[bytes]:
    return [line for line in reference.lines_of(block) if re.search(pattern, line)]


@pytest.mark.parametrize("pattern", TRANSLATED, ids=repr)
@examples(60)
@given(
    text=st.text("abAB \n\r1x", max_size=60),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    level=st.sampled_from(core.SIMD_LEVELS),
)
def test_each_kind_of_pattern(pattern: bytes, text: str, cuts: list[int], level: str) -> None:
    block = text.encode()
    want = wanted(pattern, block)
    assert matches(pattern, block, cuts, level=level) == want
    assert matches(pattern, block, cuts, "count") == ([len(want)] if want else [])


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "A",
        "1",
        " ",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\D",
        "[ab]",
        "[^a]",
        "[^ab1]",
        "[a-b1]",
        "^",
        "$",
        r"\A",
        r"\Z",
        r"\b",
        r"\B",
        "\xe9",
        r"[^\W1]",
    ]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{2,}", "{0,2}?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda part: f"({part})"),
        inner.map(lambda part: f"(?i:{part})"),
    ),
    max_leaves=8,
)


@examples(1500)
@given(
    PATTERNS,
    st.lists(st.text("abAB1 _\r\x00\xe9", max_size=8), max_size=6),
    st.sampled_from(["", "(?i)", "(?s)", "(?m)"]),
)
def test_any_pattern_that_is_translated(pattern: str, lines: list[str], flags: str) -> None:
    compiled, block = (flags + pattern).encode("latin-1"), "\n".join(lines).encode("latin-1")
    assume(automaton(compiled, "line") is not None)
    assert matches(compiled, block, [3]) == wanted(compiled, block)


@examples(200)
@given(
    st.binary(min_size=1, max_size=70),
    st.lists(st.tuples(st.integers(0, 140), st.booleans()), max_size=8),
    st.sampled_from(core.SIMD_LEVELS),
    st.sampled_from([b"", b"(?i)"]),
)
def test_literals_wherever_they_lie(literal: bytes, lines: list[tuple[int, bool]], level: str, flags: bytes) -> None:
    pattern = flags + re.escape(literal)
    block = b"".join(literal[:1] * size + (literal if holds else literal[:-1]) + b"\n" for size, holds in lines)
    assert matches(pattern, block, [65, 64], level=level) == wanted(pattern, block)


@pytest.mark.parametrize("pattern", LEFT_TO_RE, ids=repr)
def test_what_is_left_to_re(pattern: bytes) -> None:
    assert automaton(pattern, "line") is None


@pytest.mark.parametrize(
    ("pattern", "literal", "leads"),
    [
        (rb"POST .* 5\d\d", b"POST ", True),
        (b"ab|cd", b"", False),
        (b"a(bc|x)d", b"d", False),
        (b"(?i)a1@c", b"a1@c", True),
        (b"[Pp]ost|x", b"", False),
        (b"[0p]ost [Pp]", b"post p", True),
        (b"[1p]ost [Pp]", b"ost p", False),
        (b"(ab[xX])+c", b"abx", True),
        (rb"5\d\d \d", b"5", True),
        (b"^abc", b"abc", False),
        (b"a(bcd)+x", b"bcd", False),
        (b"x*abc", b"abc", False),
        (b"x(?i:bcd)", b"bcd", False),
        (b"(?:Q)bcd(e)", b"Qbcd", True),
        (b"(Qk)bcd", b"Qk", True),
        (b"(?:abc)?xd", b"xd", False),
        (b"e+", b"e", True),
        (b"e.", b"e", True),
    ],
)
def test_the_string_that_every_match_contains(pattern: bytes, literal: bytes, leads: bool) -> None:
    tables = automaton(pattern, "line")
    assert tables is not None
    assert (tables.literal, tables.leads) == (literal, leads)


@pytest.mark.parametrize(
    ("pattern", "settles"),
    [
        (b"abc", True),
        (b"(?i)abc", True),
        (b"abc|abcd", True),
        (b"abc+", False),
        (b"abc$", False),
        (b"^abc", False),
        (b"abc.", False),
    ],
)
def test_a_string_that_is_all_of_the_pattern(pattern: bytes, settles: bool) -> None:
    tables = automaton(pattern, "line")
    assert tables is not None and tables.settles is settles


@pytest.mark.parametrize("pattern", [b"a.b", b"(?=a)a"], ids=["automaton", "re"])
@pytest.mark.parametrize("by", ["line", "count"])
def test_a_job_either_way(pattern: bytes, by: str) -> None:
    files = {"x": b"a-b\r\na\xffb\nno\n\nlast a b", "empty": b"", "y": b"\n"}
    op = ops.grep(pattern, by=by)
    app = App.from_functions(map=op, reduce=ops.identity())
    want = reference.run_reference(op, app.reduce, list(files.items()), 3)
    for split_bytes in (3, 1 << 20):
        if by == "count" and split_bytes == 3:
            continue  # a count for each piece
        assert Job(app, files, split_bytes=split_bytes).parts() == want


def test_tables_that_do_not_fit_are_refused() -> None:
    tables = automaton(b"a", "line")
    assert tables is not None
    with pytest.raises(ValueError, match="fit"):
        core.MapSink(1, source=replace(tables, ends=b"\0"))
    with pytest.raises(ValueError, match="emit its pairs"):
        core.MapSink(1, source=ops.grep(b"a"))


ALTERNATIVES = b"|".join(b"\\x%02x!" % byte for byte in range(256))


@pytest.mark.parametrize("pattern", [b"x.{12}y|" + ALTERNATIVES, b"x.{300}y|" + ALTERNATIVES], ids=["12", "300"])
def test_what_takes_too_much_work_is_left_to_re(pattern: bytes) -> None:
    re.compile(pattern)
    assert automaton(pattern, "line") is None


@pytest.mark.parametrize("end", [2, 255])
def test_ends_that_are_no_truth_are_refused(end: int) -> None:
    tables = automaton(b"a.b", "line")
    assert tables is not None
    with pytest.raises(ValueError, match="lead out"):
        core.MapSink(1, source=replace(tables, ends=bytes(end for _ in tables.ends)))


@pytest.mark.parametrize("source", [automaton(b"q", "count"), ops.lines()], ids=["grep", "lines"])
def test_a_line_over_the_memory_is_refused(source: Any) -> None:
    sink = core.MapSink(1, source=source, memory_bytes=1 << 20, spill=list)
    sink.begin("f")
    with pytest.raises(BoundPassed, match="f: a line is over the memory of 1,048,576 bytes; raise --memory"):
        for _ in range(20):
            sink.feed(bytes(1 << 16))
    assert sink.memory_bytes > 1 << 20


def test_a_piece_that_was_left_reaches_no_other() -> None:
    sink = core.MapSink(1, source=automaton(b"o", "count"))
    sink.begin("one")
    sink.feed(b"o\no\nleft-o")
    sink.begin("two")
    sink.feed(b"zzz\no\n")
    sink.end()
    assert list(core.read_segment(sink.drain().body, "str")) == [("two", 1)]
