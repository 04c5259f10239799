"""The wire: what is sent comes back equal, and nothing else gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import typing

import orjson
import pytest
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import errors, model
from mrfast.control import wire
from mrfast.control.wire import BadFrame

CLASSES = [
    cls
    for cls in vars(model).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == model.__name__
]
any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)  # lone surrogates too
big_ints = st.one_of(st.integers(), st.integers(-(1 << 66), 1 << 66), st.sampled_from([1 << 53, (1 << 53) + 1]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53), 1 << 53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def values_of(hint: object) -> st.SearchStrategy[object]:
    plain = {str: any_text, int: big_ints, bool: st.booleans(), bytes: st.binary(max_size=20), type(None): st.none()}
    if hint in plain:
        return plain[hint]  # type: ignore[index]
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(hint)})  # type: ignore[arg-type]
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and args[-1] is not Ellipsis:
        return st.tuples(*(values_of(arg) for arg in args))
    if typing.get_origin(hint) is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=3)
    return st.one_of(*(values_of(arg) for arg in args))


@dataclasses.dataclass(frozen=True)
class Everything:
    text: str
    number: int
    real: float
    yes: bool
    data: bytes
    maybe: str | None
    pair: tuple[int, str]
    many: tuple[bytes, ...]
    table: dict[str, int]
    nested: tuple[model.InputCut | None, ...]
    by_default: int = 7

    def __post_init__(self) -> None:
        if self.number == 13:
            raise ValueError("13 brings bad luck")


everything = st.builds(
    Everything,
    pair=st.tuples(big_ints, any_text),
    number=values_of(int).filter(lambda number: number != 13),
    **{
        field.name: values_of(typing.get_type_hints(Everything)[field.name])
        for field in dataclasses.fields(Everything)
        if field.name not in ("pair", "number")
    },
)
EXAMPLE = Everything("a", 1, 0.5, True, b"x", None, (1, "b"), (b"y",), {"k": 2}, (None,))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_of_the_model_comes_back_equal(cls: type):
    @given(values_of(cls))
    @examples(30)
    def comes_back(value: object) -> None:
        assert wire.decode(cls, wire.encode(value)) == value
        assert wire.loads(cls, wire.dumps(value)) == value

    comes_back()


@given(everything)
@examples(200)
def test_every_kind_of_field_comes_back_equal(value: Everything):
    again = wire.loads(Everything, wire.dumps(value))
    assert again == value
    assert repr(again) == repr(value)  # -0.0, and 1 against 1.0 or True


@given(any_text)
@examples(300)
def test_any_file_name_comes_back_whole(path: str):
    part = model.Part(0, path, 1, "", 0)
    assert wire.loads(model.Part, wire.dumps(part)).attempt == path


def changed(**fields: object) -> dict[str, object]:
    return {**wire.encode(EXAMPLE), **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": 1},
        {"text": 1},
        {"text": None},
        {"text": {"b64": "YQ=="}},  # plain text in the form for lone surrogates
        {"text": {"b64": "!"}},
        {"text": {"b64": "/w=="}},
        {"text": {"b64": "7bO/", "x": 1}},
        {"number": "1"},
        {"number": "0"},
        {"number": "9007199254740992"},
        {"number": "09007199254740993"},
        {"number": "+9007199254740993"},
        {"number": "٩007199254740993"},
        {"number": "9" * 101},
        {"number": 9007199254740993},
        {"number": 1.0},
        {"number": True},
        {"number": 13},
        {"real": "1"},
        {"real": True},
        {"real": float("inf")},
        {"yes": 1},
        {"data": "a"},
        {"data": "YR=="},
        {"data": "YQ==\n"},
        {"data": []},
        {"maybe": 1},
        {"pair": [1]},
        {"pair": [1, "b", 2]},
        {"pair": {"0": 1}},
        {"many": "YQ=="},
        {"many": [None]},
        {"table": {"k": None}},
        {"table": [["k", 1]]},
        {"table": [[{"b64": "7bO/"}, 1], [{"b64": "7bO/"}, 2]]},
        {"table": [["k"]]},
        {"nested": [{"kind": "file"}]},
        {"nested": [{"kind": "file", "splittable": True, "x": 1}]},
    ],
    ids=lambda fields: str(ascii(fields))[:50],
)
def test_anything_but_the_schema_is_refused(fields: dict[str, object]):
    with pytest.raises(BadFrame):
        wire.decode(Everything, changed(**fields))


def test_a_field_with_a_default_may_be_missing_and_no_other():
    document = changed()
    del document["by_default"]
    assert wire.decode(Everything, document) == EXAMPLE
    del document["text"]
    with pytest.raises(BadFrame, match="Everything without text"):
        wire.decode(Everything, document)


@given(json_values)
@examples(200)
def test_any_json_value_is_decoded_or_refused(value: object):
    for cls in (Everything, model.MapReport, model.InputCut):
        with pytest.raises(BadFrame):
            wire.decode(cls, value)


@given(everything, st.data())
@examples(200)
def test_a_document_with_one_value_exchanged_is_decoded_or_refused(value: Everything, data: st.DataObject):
    document = wire.encode(value)
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(json_values)
    with contextlib.suppress(BadFrame):
        wire.decode(Everything, document)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 1 << 400, {1: 2}, {"a": {2, 3}}, object(), dataclasses.replace(EXAMPLE, text=1)],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_cross_is_refused_by_the_sender(value: object):
    with pytest.raises((TypeError, ValueError)):
        wire.encode(value)


# Documents


@given(st.binary(max_size=200))
@examples(500)
def test_any_bytes_are_a_document_or_a_bad_frame(data: bytes):
    for read in (wire.parse_document, wire.parse):
        with contextlib.suppress(BadFrame):
            read(data)


@given(
    st.lists(
        st.sampled_from(['{"a":', '"b":', "[", "]", "{", "}", ",", '"', "\\", '"c"', "1", ":", "\ud83d", " "]),
        max_size=30,
    )
)
@examples(500)
def test_json_like_text_is_read_like_json_or_refused(pieces: list[str]):
    text = "".join(pieces)
    try:
        expected = json.loads(text)
    except ValueError:
        expected = BadFrame
    try:
        found = wire.parse_document(text.encode("utf-8", "surrogatepass"))
    except BadFrame:
        return
    assert found == expected


@given(json_values)
@examples(300)
def test_every_json_value_is_a_document(value: object):
    assert wire.parse_document(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"b": {"a": 1, "\\u0061": 2}}',
        '[{"a:": 1, "a:": 2}]',
        "[NaN]",
        "[Infinity]",
        '"\\ud800"',
        "",
        "{",
        "[1,]",
        "{} {}",
        "'a'",
    ],
)
def test_loose_json_is_refused(text: str):
    with pytest.raises(BadFrame):
        wire.parse_document(text.encode())


def test_colons_and_brackets_in_strings_are_no_keys_and_no_depth():
    value = {"a:b": ':"[[{{', '"': "]" * 100, "\\": ["\\", "[" * 100]}
    assert wire.parse_document(orjson.dumps(value)) == value


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded_before_parsing(pair: tuple[str, str]):
    def nested(depth: int) -> bytes:
        return (pair[0] * depth + "1" + pair[1] * depth).encode()

    wire.parse_document(nested(wire.NESTING_MAX))
    for depth in (wire.NESTING_MAX + 1, 100_000):
        with pytest.raises(BadFrame, match="over 32 deep"):
            wire.parse_document(nested(depth))
    with pytest.raises(BadFrame, match="over 32 deep"):
        wire.parse_document(b"[" * 1_000_000)


def test_a_frame_is_at_most_one_mebibyte():
    size = model.FRAME_BYTES_MAX
    assert wire.parse_document(b'"' + b"a" * (size - 2) + b'"')
    with pytest.raises(BadFrame, match="1,048,577 bytes"):
        wire.parse_document(b'"' + b"a" * (size - 1) + b'"')
    assert wire.loads(model.Part, wire.dumps(model.Part(0, "a" * size, 1, "", 0))).attempt == "a" * size
    with pytest.raises(errors.BoundPassed, match="in pages"):
        wire.request(1, "report", {"x": "a" * size})


# Calls


@given(st.integers(0, 1 << 53) | st.text(max_size=64), st.dictionaries(st.text(max_size=5), json_values, max_size=4))
@examples(100)
def test_calls_and_results_come_back(id: int | str, params: dict[str, object]):
    assert wire.parse(wire.request(id, "poll", params)) == wire.Request(id, "poll", params)
    assert wire.parse(wire.response(id, params)) == wire.Reply(id, params)


def test_a_line_holds_one_line_and_dataclasses_inside():
    cut = model.InputCut("file", True)
    line = wire.request(1, "hello", {"cut": cut, "more": [cut], "text": "a\nb"})
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    call = wire.parse(line)
    assert isinstance(call, wire.Request)
    assert wire.decode(model.InputCut, call.params["more"][0]) == cut


@pytest.mark.parametrize(
    "fields",
    [
        {"jsonrpc": "1.0"},
        {"jsonrpc": None},
        {"id": None},
        {"id": True},
        {"id": -1},
        {"id": 1.5},
        {"id": "x" * 65},
        {"id": [1]},
        {"method": "Poll"},
        {"method": ""},
        {"method": 1},
        {"method": "a" * 41},
        {"params": []},
        {"params": None},
        {"extra": 1},
        {"result": 1},
    ],
    ids=str,
)
def test_a_crooked_call_is_refused(fields: dict[str, object]):
    document = {"jsonrpc": "2.0", "id": 1, "method": "poll", "params": {}}
    assert isinstance(wire.parse(orjson.dumps(document)), wire.Request)
    with pytest.raises(BadFrame):
        wire.parse(orjson.dumps({**document, **fields}))


@given(st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), json_values))
@examples(200)
def test_any_document_is_a_call_an_answer_or_refused(document: dict[str, object]):
    with contextlib.suppress(BadFrame):
        wire.parse(orjson.dumps({"jsonrpc": "2.0", **document}))


# Errors

ERRORS = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.MrfastError) and cls is not errors.CorruptSegment
]


def sent(raised: BaseException) -> errors.MrfastError:
    reply = wire.parse(wire.error(7, raised))
    assert isinstance(reply, wire.ErrorReply) and reply.id == 7
    return reply.error


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_comes_back_as_its_own_class(cls: type[errors.MrfastError]):
    back = sent(cls("no such file: a\udcff\nb"))
    assert type(back) is cls
    assert str(back) == "no such file: a\udcff\nb"
    assert back.exit_code == cls.exit_code


def test_a_corrupt_segment_comes_back_whole():
    back = sent(errors.CorruptSegment("jobs/\udcff", 3, 1 << 60, "checksum"))
    assert isinstance(back, errors.CorruptSegment)
    assert (back.object, back.partition, back.offset, back.why) == ("jobs/\udcff", 3, 1 << 60, "checksum")


def test_errors_that_the_other_side_does_not_know_become_the_nearest_it_knows():
    class Mine(errors.InputMissing):
        exit_code = 3

    assert type(sent(Mine("gone"))) is errors.InputMissing
    assert type(sent(BadFrame("torn"))) is errors.MrfastError
    assert str(sent(KeyError("k"))) == "KeyError: 'k'"
    back = wire.error_from_wire({"type": "FromTheFuture", "message": "m", "exit_code": 9})
    assert (type(back), str(back), back.exit_code) == (errors.MrfastError, "m", 9)
    back = wire.error_from_wire({"type": "CorruptSegment", "message": "m", "exit_code": 1})
    assert (type(back), str(back)) == (errors.MrfastError, "m")


@pytest.mark.parametrize("name", ["SystemExit", "Exception", "annotations", "__builtins__", "os"])
def test_only_errors_of_mrfast_are_ever_made(name: str):
    assert type(wire.error_from_wire({"type": name, "message": "m", "exit_code": 1})) is errors.MrfastError


def test_an_error_without_a_call_and_a_long_message():
    reply = wire.parse(wire.error(None, BadFrame("x" * 2_000_000), wire.PARSE_ERROR))
    assert isinstance(reply, wire.ErrorReply)
    assert (reply.id, reply.code) == (None, wire.PARSE_ERROR)
    assert len(str(reply.error)) < 101_000
