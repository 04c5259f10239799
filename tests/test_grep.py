"""Grep by blocks finds exactly the lines that a search of each line finds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrfast.tasks.grep import Matcher, searches_blocks

PATTERNS = [
    b"", b"a", b"^a", b"a$", b"^$", b"a.*b", rb"a\s*b", rb"\s", rb"[^a]*b", rb"[^a]b", b"(?s)a.*b", b"(?m)^b", rb"\Ab",
    rb"b\Z", rb"\bb\b", rb"\Bb", b"(?i)A|B$", b"(a)|b", rb"(a)b\1", b"a(?=b)", b"(?<!a)b", b"(?s:a.)b", b"a{2,}?b",
    rb"a\nb", rb"\D+b", b"(?:^a)+", b"(a)?(?(1)b|^b)",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@given(block=st.text("ab\n \r1", max_size=40))
def test_grep_finds_what_a_search_of_each_line_finds(pattern: bytes, block: str) -> None:
    data = block.encode()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    want = [line for line in lines if re.search(pattern, line)]
    assert list(Matcher(pattern).lines(data)) == want
    assert Matcher(pattern).count(data) == len(want)


@pytest.mark.parametrize(
    ("pattern", "safe"),
    [
        (rb"POST .* 5\d\d", True),
        (b"^error|fail(ed)?$", True),
        (b"[^a]b", True),
        (b'[^\n"]*x', True),
        (b"[^a]*b", False),
        (rb"a\s+b", False),
        (rb"\Aa", False),
        (rb"a\Z", False),
        (b"(?=a)", False),
        (b"(?<!a)b", False),
        (b"(?s)a.*b", False),
        (b"(?s:.)*", False),
    ],
)
def test_only_safe_patterns_search_blocks(pattern: bytes, safe: bool) -> None:
    assert searches_blocks(pattern) is safe


@pytest.mark.parametrize("pattern", [b"a++b", b"(?>a+)b"])
def test_what_refuses_to_backtrack_does_not_search_blocks(pattern: bytes) -> None:
    assert not searches_blocks(pattern)
