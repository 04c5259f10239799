"""Every native op gives what its slow twin gives, combined or not, however the input was cut."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from test_core_sink import TEXT
from test_core_tokens import TEXTS

from mrfast import core, ops
from mrfast.errors import BadInput, BadRecord

Pairs = list[tuple[Any, Any]]
INTS = st.integers(-3, 3) | st.integers() | st.integers(-(2**64), 2**64) | st.booleans()
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = INTS | st.floats() | st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 2.0**53, 2**53 + 1, 2**70, 2.0**70])
WORDS = st.sampled_from(["a", "b", "a b", "ä", "", "z\n", "x,y"]) | TEXT
VALUES = {
    "sum": NUMBERS,
    "count": NUMBERS | WORDS | st.none(),
    "min": NUMBERS,
    "max": NUMBERS,
    "mean": NUMBERS,
    "first": NUMBERS | WORDS | st.none() | st.binary(max_size=5),
    "index": WORDS,
    "concat": WORDS,
    "identity": NUMBERS | WORDS,
    "top": NUMBERS,
}
REDUCES = [ops.sum(), ops.count(), ops.min(), ops.max(), ops.mean(), ops.first(), ops.index(), ops.concat(", ")]
REDUCES += [ops.identity(), ops.top(1), ops.top(3)]
KEYS = st.sampled_from(["a", "b c", "long key " * 9])


def part(maps: list[Pairs], reduce: Any, combine: Any, format: str = "text") -> bytes:
    """The part that a job with one reduce writes."""
    kind = next(("bytes" if isinstance(key, bytes) else "str" for pairs in maps for key, _ in pairs), "str")
    group = core.Grouper(key_kind=kind, reduce=reduce)
    for order, pairs in enumerate(maps):
        sink = core.MapSink(1, combine=combine)
        sink.emit_all(pairs)
        drained = sink.drain()
        group.add(drained.body, order=order, records=drained.counts[0], xxh3=drained.checksums[0])
    written = bytes(group.write(format))
    again = b"".join(reference.line(key, value, format) for key, value in group.reduced())
    assert again == written
    return written


def expected(maps: list[Pairs], reduce: Any, format: str = "text") -> bytes:
    """The same by the slow twin."""
    grouped = reference.grouped(pair for pairs in maps for pair in pairs)
    lines = ((key, value) for key, values in grouped for value in reference.reduce_values(reduce, values))
    return b"".join(reference.line(key, value, format) for key, value in lines)


def fed(op: Any, files: list[tuple[str, bytes]], size: int, combine: Any = None, partitions: int = 1) -> core.MapSink:
    """A sink that was fed every file in blocks of `size`."""
    sink = core.MapSink(partitions, source=op, combine=combine)
    for name, data in files:
        sink.begin(name)
        for at in range(0, len(data), size):
            sink.feed(data[at : at + size])
        sink.end()
    return sink


def records(sink: core.MapSink) -> Pairs:
    """What a sink with one partition holds."""
    drained = sink.drain()
    return list(core.read_segment(drained.body, drained.key_kind or "str"))


def by_key(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=lambda pair: reference.key_bytes(pair[0]))


# -- reduce side ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combined", [False, True], ids=["plain", "combined"])
@pytest.mark.parametrize("reduce", REDUCES, ids=str)
@examples(120)
@given(data=st.data())
def test_reduce_ops(reduce: Any, combined: bool, data: st.DataObject) -> None:
    pairs = st.lists(st.tuples(KEYS, VALUES[reduce.kind]), max_size=12)
    maps = data.draw(st.lists(pairs, min_size=1, max_size=4))
    assert part(maps, reduce, reduce if combined else None) == expected(maps, reduce)


@pytest.mark.parametrize("combined", [False, True], ids=["plain", "combined"])
@pytest.mark.parametrize("reduce", [ops.min(), ops.max(), ops.top(2)], ids=str)
@pytest.mark.parametrize("values", [WORDS, st.binary(max_size=20)], ids=["str", "bytes"])
@examples(60)
@given(data=st.data())
def test_extremes_of_text(values: Any, reduce: Any, combined: bool, data: st.DataObject) -> None:
    maps = data.draw(st.lists(st.lists(st.tuples(KEYS, values), max_size=12), min_size=1, max_size=3))
    assert part(maps, reduce, reduce if combined else None) == expected(maps, reduce)


@pytest.mark.parametrize("format", ["text", "tsv", "raw"])
@pytest.mark.parametrize("reduce", REDUCES, ids=str)
def test_formats(reduce: Any, format: str) -> None:
    values: list[Any] = ["a\tb", "c\\d\n", ""] if reduce.kind in ("index", "concat") else [3, 2.5, -1, 10**30]
    maps = [[("k\t \\\n", value) for value in values]] * 2
    assert part(maps, reduce, None, format) == expected(maps, reduce, format)


@pytest.mark.parametrize("combined", [False, True], ids=["plain", "combined"])
@pytest.mark.parametrize("reduce", [ops.sum(), ops.mean(), ops.min(), ops.max(), ops.top(1)], ids=str)
@pytest.mark.parametrize("number", [10**400, -(10**400), 10**5000, 2**63, -(2**63) - 1], ids=int.bit_length)
def test_huge_integers(number: int, reduce: Any, combined: bool) -> None:
    for values in ([number], [number, 1], [2**63 - 1, number, -number], [number, number]):
        maps = [[("k", value) for value in values]]
        assert part(maps, reduce, reduce if combined else None) == expected(maps, reduce)


@examples(150)
@given(st.lists(st.lists(FINITE, max_size=20), min_size=1, max_size=4))
def test_float_sums_do_not_depend_on_the_cut(cuts: list[list[float]]) -> None:
    values = [value for cut in cuts for value in cut]
    if not values:
        return
    written = part([[("k", value) for value in cut] for cut in cuts], ops.sum(), ops.sum())
    assert written == part([[("k", value) for value in values]], ops.sum(), None)
    if math.fsum(abs(value) / 2**60 for value in values) < 2**900:
        assert float(written.split()[1]) == math.fsum(values)


def test_nan_is_the_extreme() -> None:
    nan, inf = math.nan, math.inf
    for reduce in (ops.min(), ops.max(), ops.sum(), ops.mean(), ops.top(2)):
        for values in (
            [1, nan, 2],
            [nan, 1],
            [1, nan],
            [inf, -inf],
            [inf, 1],
            [inf, nan, -inf],
            [2**70, nan],
            [nan, 2**70],
        ):
            maps = [[("k", value) for value in values]]
            for combine in (None, reduce):
                assert part(maps, reduce, combine) == expected(maps, reduce), (reduce, values)


@pytest.mark.parametrize("combined", [False, True], ids=["plain", "combined"])
@pytest.mark.parametrize(
    ("reduce", "values"),
    [
        (ops.sum(), ["1"]),
        (ops.sum(), [1, None]),
        (ops.mean(), [b"1"]),
        (ops.min(), [1, "a"]),
        (ops.max(), ["a", b"a"]),
        (ops.max(), [None]),
        (ops.min(), [[1]]),
        (ops.top(2), [1, "a"]),
        (ops.top(2), [None]),
        (ops.index(), [1]),
        (ops.index(), ["a", b"a"]),
        (ops.concat(","), ["a", 1]),
    ],
)
def test_values_that_an_op_cannot_take(reduce: Any, values: list[Any], combined: bool) -> None:
    with pytest.raises(reference.RefusedError):
        reference.reduce_values(reduce, values)
    with pytest.raises(BadRecord, match=rf"ops\.{reduce.kind} takes") as caught:
        part([[("some key", value) for value in values]], reduce, reduce if combined else None)
    assert type(values[-1]).__name__ in str(caught.value)


# -- map side ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", [None, ops.sum()], ids=["plain", "combined"])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("letters", ["unicode", "ascii"])
@examples(60)
@given(texts=st.lists(TEXTS, max_size=3), size=st.integers(1, 70))
def test_words(letters: str, distinct: bool, lower: bool, combine: Any, texts: list[bytes], size: int) -> None:
    op = ops.words(letters=letters, distinct=distinct, lower=lower)
    files = [(f"file-{i}", text) for i, text in enumerate(texts)]
    pairs = list(reference.emitted(op, files))
    if combine is not None:
        pairs = [(key, sum(values)) for key, values in reference.grouped(pairs)]
    assert records(fed(op, files, size, combine)) == by_key(pairs)


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("combine", [None, ops.index(), ops.min(), ops.count()], ids=str)
@examples(60)
@given(texts=st.lists(TEXTS, max_size=4), size=st.integers(1, 70))
def test_words_with_their_file(combine: Any, distinct: bool, texts: list[bytes], size: int) -> None:
    op = ops.words(letters="unicode", value="filename", distinct=distinct)
    files = [(f"odd name,{i}\n", text) for i, text in enumerate(texts)]
    reduce = combine or ops.identity()
    group = core.Grouper(key_kind="str", reduce=reduce)
    for order, file in enumerate(files):
        drained = fed(op, [file], size, combine).drain()
        group.add(drained.body, order=order, records=drained.counts[0], xxh3=drained.checksums[0])
    assert [bytes(group.write("text"))] == reference.run_reference(op, reduce, files, 1)


LINES = st.lists(
    st.lists(st.sampled_from([b"a", b"b b", b"", b"\0", b"\r", "é".encode(), b"x" * 70]), max_size=3).map(b"".join),
    max_size=12,
).map(b"\n".join)


@examples(150)
@given(LINES, st.booleans(), st.integers(1, 40))
def test_lines(data: bytes, final: bool, size: int) -> None:
    files = [("f", data + b"\n" * final), ("g", data)]
    assert records(fed(ops.lines(), files, size)) == by_key(list(reference.emitted(ops.lines(), files)))


@examples(150)
@given(st.integers(1, 30), st.data(), st.integers(1, 70))
def test_records(size: int, data: st.DataObject, block: int) -> None:
    start = data.draw(st.integers(0, size - 1))
    op = ops.records(size=size, key=(start, data.draw(st.integers(start + 1, size))))
    contents = data.draw(st.binary(max_size=200))
    whole = contents[: len(contents) // size * size]
    assert records(fed(op, [("f", whole)], block)) == by_key(list(reference.map_pairs(op, "f", whole)))
    if len(whole) < len(contents):
        with pytest.raises(BadInput, match=f"at byte {len(whole)}"):
            fed(op, [("f", contents)], block)


FIELD = st.sampled_from(
    [
        b"",
        b"a",
        b"12",
        b"-",
        b"-7",
        b"+3",
        b"1.5",
        b"1e3",
        b".5",
        b"5.",
        b"e5",
        b"1e",
        b"--1",
        b"0x1",
        b"inf",
        b"nan",
        b'"q r"',
        b'"a,b"',
        b'"a\\"b"',
        b'"open',
        b'"a"b',
        b"[x y]",
        b"[open",
        b'""',
        b"[]",
        b'"a\\',
        b"\t8 ",
        b"1_0",
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775808",
        b"-9223372036854775809",
        b"1" * 40,
        b'"GET /x HTTP/1.0"',
        b"\xd0\xb6",
        b"\r",
        b"1e999",
        b"1e-400",
        b"0.1",
        b"1" * 400,
    ]
)
COLUMN = st.integers(0, 3) | st.tuples(st.integers(0, 3), st.integers(0, 2))


@pytest.mark.parametrize("sep", [b" ", b",", b"\t", b"[", b";"])
@examples(250)
@given(data=st.data())
def test_fields(sep: bytes, data: st.DataObject) -> None:
    line = st.lists(FIELD, min_size=1, max_size=5).map(sep.join)
    contents = data.draw(st.lists(line, max_size=6).map(lambda lines: b"\n".join(lines) + b"\n"))
    key, value = data.draw(COLUMN), data.draw(st.none() | COLUMN)
    files, size = [("log", contents)], data.draw(st.integers(1, 60))
    skipping = ops.fields(sep=sep, key=key, value=value, bad="skip")
    pairs = list(reference.emitted(skipping, files))
    sink = fed(skipping, files, size)
    assert sink.skipped == len(reference.lines_of(contents)) - len(pairs)
    assert repr(records(sink)) == repr(by_key(pairs))
    strict = ops.fields(sep=sep, key=key, value=value)
    if sink.skipped:
        with pytest.raises(BadInput, match="log: line at byte"):
            fed(strict, files, size)
    else:
        assert repr(records(fed(strict, files, size))) == repr(by_key(pairs))


def test_an_access_log() -> None:
    rng = random.Random(3)
    lines = [
        b'10.0.0.%d - - [10/Oct/2000:13:55:36 -0700] "GET /page%d?q=\\"x\\" HTTP/1.0" 200 %b\n'
        % (rng.randrange(256), rng.randrange(20), rng.choice([b"-", b"0", b"2326", b"99999999999"]))
        for _ in range(500)
    ]
    op = ops.fields(sep=" ", key=(4, 1), value=6)
    files = [("access.log", b"".join(lines))]
    group = core.Grouper(key_kind="bytes", reduce=ops.sum())
    drained = fed(op, files, 999, ops.sum()).drain()
    group.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
    assert [bytes(group.write("text"))] == reference.run_reference(op, ops.sum(), files, 1)


def test_numbers_of_thousands_of_digits() -> None:
    files = [("f", b"a,%b\na,-%b\na,1\n" % (b"9" * 4300, b"8" * 4300))]
    op = ops.fields(sep=",", key=0, value=1)
    for combine in (None, ops.sum()):
        group = core.Grouper(key_kind="bytes", reduce=ops.sum())
        drained = fed(op, files, 4096, combine).drain()
        group.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
        assert [bytes(group.write("text"))] == reference.run_reference(op, ops.sum(), files, 1)


@pytest.mark.parametrize("sign", [b"", b"-", b"+"])
@pytest.mark.parametrize("digits", [4299, 4300, 4301, 100_000])
def test_an_integer_may_have_4300_digits(digits: int, sign: bytes) -> None:
    op = ops.fields(sep=",", key=0, value=1)
    small = b"0" * (digits - 1) + b"7"
    assert records(fed(op, [("f", b"k,%b\n" % (sign + small))], 4096)) == [(b"k", int(sign + b"7"))]
    contents = b"a,1\nk,%b\n" % (sign + b"9" * digits)
    if digits <= 4300:
        assert records(fed(op, [("f", contents)], 4096)) == list(reference.map_pairs(op, "f", contents))
    else:
        with pytest.raises(BadInput, match=r"line at byte 4: the value column is an integer of more than 4,300 digits"):
            fed(op, [("f", contents)], 4096)


LONG = st.sampled_from([0, 1, 7, 8, 15, 16, 17, 62, 63, 64, 65, 8100, 8190, 8191, 8192, 8193, 20_000])
PAIR_OPS = [None, ops.sum(), ops.count(), ops.min(), ops.max(), ops.mean(), ops.first()]


@pytest.mark.parametrize("combine", PAIR_OPS, ids=str)
@pytest.mark.parametrize("sep", [b" ", b",", b"\xff"])
@examples(40)
@given(data=st.data())
def test_fields_of_any_length(sep: bytes, combine: Any, data: st.DataObject) -> None:
    """Keys, lines and batches on both sides of every size that the kernels know."""
    lines = []
    for length, fill, repeat in data.draw(st.lists(st.tuples(LONG, st.sampled_from('x" [\\'), st.integers(1, 70)))):
        column = fill.encode() * length if length < 100 else b"long"
        number = data.draw(st.sampled_from([b"1", b"-", b"12345678", b"123456789", b"1.5", b"9223372036854775807"]))
        rest = (b"x" + sep) * (length // 2) if length >= 100 else b"end"
        lines += [sep.join([column, number, rest])] * (repeat if length < 100 else 1)
    contents = b"\n".join(lines) + data.draw(st.sampled_from([b"", b"\n", b"\r", b"\r\n"]))
    op, size = ops.fields(sep=sep, key=0, value=1, bad="skip"), data.draw(LONG) + 1
    maps = [list(reference.map_pairs(op, "f", contents))]
    reduce = combine or ops.identity()
    group = core.Grouper(key_kind="bytes", reduce=reduce)
    sink = fed(op, [("f", contents)], size, combine)
    drained = sink.drain()
    group.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
    assert bytes(group.write("text")) == expected(maps, reduce)
    assert sink.records_in == len(maps[0])


@pytest.mark.parametrize("op", [ops.lines(), ops.records(size=7, key=(0, 2)), ops.records(size=20)], ids=str)
@pytest.mark.parametrize("combine", [ops.count(), ops.min(), ops.max(), ops.first()], ids=str)
@examples(40)
@given(data=st.data())
def test_lines_and_records_combined(combine: Any, op: Any, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(st.sampled_from([b"ab\n", b"cd" * 9 + b"\n", b"\n"]), st.integers(1, 140))))
    contents = b"".join(row * repeat for row, repeat in rows)
    contents = contents[: len(contents) // getattr(op, "size", 1) * getattr(op, "size", 1)]
    maps = [list(reference.map_pairs(op, "f", contents))]
    drained = fed(op, [("f", contents)], data.draw(LONG) + 1, combine).drain()
    group = core.Grouper(key_kind="bytes", reduce=combine)
    group.add(drained.body, order=0, records=drained.counts[0], xxh3=drained.checksums[0])
    assert bytes(group.write("text")) == expected(maps, combine)


@pytest.mark.parametrize("sep", [b" ", b","])
@pytest.mark.parametrize("mark", [b"[", b'"a', b'"\\"', b'["'])
def test_marks_that_never_close(sep: bytes, mark: bytes) -> None:
    """They are plain fields; a search of the whole line for each would be quadratic."""
    contents = sep.join([mark] * 300_000) + b"\n"
    op = ops.fields(sep=sep, key=ops.COLUMNS_MAX - 1)
    assert records(fed(op, [("f", contents)], 1 << 20)) == [(mark, 1)]


@pytest.mark.parametrize(
    "values", [[2**70, 2.0**70], [2.0**70, 2**70], [2**64, 2.0**64, 1], [1, 1.0], [1.0, 1]], ids=str
)
@pytest.mark.parametrize("reduce", [ops.min(), ops.max()], ids=str)
def test_of_equal_extremes_the_first(reduce: Any, values: list[Any]) -> None:
    maps = [[("k", value) for value in values]]
    assert part(maps, reduce, None) == expected(maps, reduce)
    assert part(maps, reduce, reduce) == expected(maps, reduce)


def test_a_bad_line_is_named_by_its_offset_in_the_object() -> None:
    sink = core.MapSink(1, source=ops.fields(sep=",", key=0, value=1))
    sink.begin("data.csv", 1000)
    with pytest.raises(BadInput, match=r"data.csv: line at byte 1008: the value column is not a number"):
        sink.feed(b"a,1\nb,2\nc,x\n")


@pytest.mark.parametrize("digits", [398, 399, 400, 1074, 10_000])
def test_floats_of_any_length(digits: int) -> None:
    contents = f"a,{5e-324:.{digits}f}\nb,1{'0' * digits}e-{digits}\nc,0.{'3' * digits}\nd,0.{'3' * digits}x".encode()
    op = ops.fields(sep=",", key=0, value=1, bad="skip")
    assert records(fed(op, [("f", contents)], 4096)) == by_key(list(reference.map_pairs(op, "f", contents)))


def test_so_is_a_bad_last_line_without_its_lf() -> None:
    sink = core.MapSink(1, source=ops.fields(sep=",", key=0, value=1))
    sink.begin("data.csv", 1000)
    sink.feed(b"a,1\nb,2\nc,x")
    with pytest.raises(BadInput, match=r"data.csv: line at byte 1008: the value column is not a number"):
        sink.end()


@pytest.mark.parametrize("partitions", [1, 2, 10, 1000])
def test_a_whole_job(partitions: int) -> None:
    rng = random.Random(partitions)
    words = ["the", "of", "Größe", "一二", "zebra", "x" * 20, "ʼn", "𐐀"]
    files = [(f"f{i}", " ".join(rng.choices(words, k=500)).encode()) for i in range(4)]
    op = ops.words(letters="unicode")
    groups = [core.Grouper(key_kind="str", reduce=ops.sum()) for _ in range(partitions)]
    for order, file in enumerate(files):
        drained, at = fed(op, [file], 777, ops.sum(), partitions).drain(), 0
        body = memoryview(drained.body)
        for r, length in enumerate(drained.lengths):
            groups[r].add(body[at : at + length], order=order, records=drained.counts[r], xxh3=drained.checksums[r])
            at += length
    parts = [bytes(group.write("text")) for group in groups]
    assert parts == reference.run_reference(op, ops.sum(), files, partitions)
