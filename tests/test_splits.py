"""Which bytes each map task reads."""

from __future__ import annotations

import pytest
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast.control import splits
from mrfast.errors import BoundPassed, UsageError
from mrfast.model import InputCut, InputObject, Piece

WHOLE = InputCut("file", splittable=False)
LINES = InputCut("lines", splittable=True)
MANY = 10_001


def item(path: str, size: int) -> InputObject:
    return InputObject(path, "file:///" + path, size, "etag of " + path)


def ranges(task: tuple[Piece, ...]) -> list[tuple[str, int, int]]:
    return [(piece.path, piece.offset, piece.length) for piece in task]


def test_an_object_is_a_task_in_the_order_given():
    tasks = splits.plan([item("b", 5), item("a", 0), item("c", 100)], WHOLE, 10)
    assert [ranges(task) for task in tasks] == [[("b", 0, 5)], [("a", 0, 0)], [("c", 0, 100)]]


def test_a_piece_is_pinned_to_its_object():
    ((piece,),) = splits.plan([item("a b%\n\udcff", 7)], WHOLE, 10)
    assert piece == Piece("a b%\n\udcff", "file:///a b%\n\udcff", 7, "etag of a b%\n\udcff", 0, 7)


def test_a_large_object_is_cut_at_multiples():
    (first, second, third) = splits.plan([item("a", 21)], LINES, 10)
    assert [*ranges(first), *ranges(second), *ranges(third)] == [("a", 0, 10), ("a", 10, 10), ("a", 20, 1)]


@pytest.mark.parametrize(("size", "tasks"), [(0, 1), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2)])
def test_no_piece_is_empty_but_that_of_an_empty_object(size: int, tasks: int):
    assert len(splits.plan([item("a", size)], LINES, 10)) == tasks


@pytest.mark.parametrize("path", ["a.gz", "a.zst", "a.bz2", "A.GZ", "a.txt.Zst", ".bz2"])
def test_a_compressed_object_is_one_task(path: str):
    assert [ranges(task) for task in splits.plan([item(path, 100)], LINES, 10)] == [[(path, 0, 100)]]


@pytest.mark.parametrize("path", ["gz", "a.gz.txt", "a.zip"])
def test_other_names_are_not_compressed(path: str):
    assert len(splits.plan([item(path, 100)], LINES, 10)) == 10


@pytest.mark.parametrize(("split_bytes", "step"), [(1, 7), (7, 7), (13, 7), (14, 14), (100, 98)])
def test_records_are_cut_between_records(split_bytes: int, step: int):
    tasks = splits.plan([item("a", 7 * 50)], InputCut("records", splittable=True, record_bytes=7), split_bytes)
    assert [piece.offset for (piece,) in tasks] == list(range(0, 350, step))


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50), st.integers(0, 9))
@examples(200)
def test_the_pieces_cover_every_object_once(sizes: list[int], split_bytes: int, record_bytes: int):
    cut = InputCut("records", True, record_bytes) if record_bytes else LINES
    inputs = [item(f"{i}", size) for i, size in enumerate(sizes)]
    pieces = [piece for task in splits.plan(inputs, cut, split_bytes) for piece in task]
    for i, size in enumerate(sizes):
        mine = [piece for piece in pieces if piece.path == str(i)]
        assert [piece.offset for piece in mine] == [0, *(piece.offset + piece.length for piece in mine)][:-1]
        assert sum(piece.length for piece in mine) == size
    assert [int(piece.path) for piece in pieces] == sorted(int(piece.path) for piece in pieces)


def many(count: int = MANY, size: int = 100) -> list[InputObject]:
    return [item(f"logs/{i:06}.txt", size + i % 7) for i in range(count)]


def test_ten_thousand_objects_are_not_packed():
    assert len(splits.plan(many(10_000), WHOLE, 1 << 20)) == 10_000


@pytest.mark.parametrize(("size", "split_bytes"), [(100, 1 << 26), (1 << 20, 1 << 26), (3000, 10_000), (0, 1), (5, 5)])
def test_more_objects_are_packed_in_order_within_the_bounds(size: int, split_bytes: int):
    inputs = many(12_000, size)
    tasks = splits.plan(inputs, WHOLE, split_bytes)
    assert [piece.path for task in tasks for piece in task] == [one.path for one in inputs]
    assert all(piece.offset == 0 and piece.length == piece.size for task in tasks for piece in task)
    for task in tasks:
        assert len(task) == 1 or sum(piece.length for piece in task) <= split_bytes
        assert len(task) <= splits.PACK_OBJECTS_MAX
    if size == 100:
        assert len(tasks) < 200


def test_large_objects_among_many_are_still_cut():
    inputs = [*many(6000), item("large", 25), *many(6000)]
    tasks = splits.plan(inputs, LINES, 1000)
    assert ("large", 0, 25) in [entry for task in tasks for entry in ranges(task)]
    inputs = [*many(6000), item("large", 2500), *many(6000)]
    tasks = splits.plan(inputs, LINES, 1000)
    large = [ranges(task) for task in tasks if task[0].path == "large"]
    assert large == [[("large", 0, 1000)], [("large", 1000, 1000)], [("large", 2000, 500)]]


@given(st.integers(0, MANY), st.sampled_from([0, 100, 900, 20_000]), st.integers(0, 1 << 20))
@examples(25)
def test_a_new_object_changes_only_its_own_pack_and_its_neighbours(at: int, size: int, name: int):
    inputs = many(MANY, 300)
    before = {tuple(ranges(task)) for task in splits.plan(inputs, WHOLE, 20_000)}
    new = item(f"new{name}", size)
    after = {tuple(ranges(task)) for task in splits.plan([*inputs[:at], new, *inputs[at:]], WHOLE, 20_000)}
    gone = [entry for task in before - after for entry in task]
    assert len({entry[0] for entry in gone}) <= 2 * 20_000 / 300, "packs further away than one pack's size changed"
    assert len(before - after) <= 6
    places = sorted(int(path[5:11]) for path, _, _ in gone)
    assert not places or places[0] - 70 <= at <= places[-1] + 70


def test_the_same_object_many_times_over_is_no_trouble():
    assert len(splits.plan([item("a", 1)] * MANY, WHOLE, 1000)) <= MANY


def test_too_many_tasks_name_the_cure():
    with pytest.raises(BoundPassed, match=r"more than 1,000,000 map tasks with --split-bytes 1: give a larger"):
        splits.plan([item("a", 1_000_001)], LINES, 1)
    assert len(splits.plan([item("a", 1_000_000)], LINES, 1)) == 1_000_000


@pytest.mark.parametrize(("cut", "split_bytes"), [(LINES, 0), (LINES, -1), (InputCut("records", True, 0), 10)])
def test_impossible_sizes_are_usage_errors(cut: InputCut, split_bytes: int):
    with pytest.raises(UsageError, match="at least 1"):
        splits.plan([item("a", 10)], cut, split_bytes)


def test_no_input_is_no_task():
    assert splits.plan([], WHOLE, 10) == []
