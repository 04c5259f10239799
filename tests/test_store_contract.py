"""What every store promises, tried on all three, and on a second S3 server where it is installed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stores import SEAWEEDFS, filled

from mrfast.errors import (
    AlreadyExists,
    MrfastError,
    NotFound,
    PreconditionFailed,
    StoreError,
    UsageError,
)
from mrfast.storage import Store, base, open_store, split_url

ODD_KEYS = [
    "plain",
    "with space/and more",
    "100%/50%25",
    "line\nfeed/tab\t",
    "öäü/日本語/😀",
    "a+b&c=d?e#f;g",
    "~/.hidden/_under",
    "quote'\"<>|*[x]{y}\\back",
    "..dots/...",
    "x" * 200 + "/" + "y" * 200,
]


def outcomes(calls: Sequence[Callable[[], Any]]) -> list[type[Exception] | None]:
    """What each call raised (None: nothing), all of them begun at the same moment."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> type[Exception] | None:
        gate.wait()
        try:
            call()
        except MrfastError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# Reading and writing.


def test_put_then_read(store: Store) -> None:
    info = store.put("a/b", b"hello world")
    assert (info.key, info.size) == ("a/b", 11)
    assert store.stat("a/b") == info
    assert base.read(store, "a/b") == b"hello world"
    assert filled(store, "a/b", 5) == b"hello"
    assert filled(store, "a/b", 5, 6) == b"world"
    assert filled(store, "a/b", 100, 6) == b"world"
    assert filled(store, "a/b", 100, 11) == b""
    assert filled(store, "a/b", 100, 1 << 40) == b""
    assert filled(store, "a/b", 0) == b""


def test_read_into_part_of_a_larger_buffer(store: Store) -> None:
    store.put("k", b"0123456789")
    buffer = bytearray(b"-" * 8)
    assert store.read_into("k", 2, memoryview(buffer)[3:6]) == 3
    assert buffer == b"---234--"


def test_empty_object(store: Store) -> None:
    info = store.put("empty", b"")
    assert info.size == 0
    assert base.read(store, "empty") == b""
    assert filled(store, "empty", 10, 0, info.etag) == b""
    with pytest.raises(PreconditionFailed):
        filled(store, "empty", 10, 0, "another")


@pytest.mark.parametrize(
    "chunks",
    [
        b"abcdef",
        bytearray(b"abcdef"),
        memoryview(b"-abcdef-")[1:-1],
        [b"abc", b"", bytearray(b"d"), memoryview(b"ef")],
        (b"abcdef",),
        memoryview(bytearray(b"abcdef")).cast("H"),
    ],
    ids=["bytes", "bytearray", "slice", "list", "tuple", "shorts"],
)
def test_put_takes_any_buffers(store: Store, chunks: base.Buffers) -> None:
    assert store.put("k", chunks, durable=True).size == 6
    assert base.read(store, "k") == b"abcdef"
    assert store.put_if_absent("new", chunks).size == 6
    assert base.read(store, "new") == b"abcdef"


def test_put_takes_an_iterator_that_uses_its_buffer_again(store: Store) -> None:
    def blocks() -> Iterator[memoryview]:
        buffer = bytearray(2)
        for n in range(3):
            buffer[:] = b"%02d" % n
            yield memoryview(buffer)

    store.put("k", blocks())
    assert base.read(store, "k") == b"000102"


def test_put_overwrites_with_a_new_etag(store: Store) -> None:
    old = store.put("k", b"one")
    new = store.put("k", b"two")
    assert old.etag != new.etag
    assert store.stat("k") == new
    assert base.read(store, "k") == b"two"


def test_a_failing_producer_leaves_nothing(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put("k", broken())
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.stat("k")


def test_missing_object(store: Store) -> None:
    for call in (store.stat, lambda key: filled(store, key, 3), lambda key: base.read(store, key)):
        with pytest.raises(NotFound, match="no/such"):
            call("no/such")
    # S3 says 404 to an If-Match on what is not there, SeaweedFS 412.
    with pytest.raises(PreconditionFailed if store.url.startswith(SEAWEEDFS) else NotFound):
        store.replace("no/such", b"", "etag")
    with pytest.raises(NotFound):
        store.copy_to("no/such", store, "x")
    store.delete("no/such")


def test_delete(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(NotFound):
        store.stat("a/b")
    assert store.put_if_absent("a/b", b"2").size == 1


def test_json(store: Store) -> None:
    base.put_json(store, "doc.json", {"b": [1, None], "a": "ö"})
    assert base.read(store, "doc.json") == '{"a":"ö","b":[1,null]}\n'.encode()
    assert base.read_json(store, "doc.json") == {"a": "ö", "b": [1, None]}
    store.put("doc.json", b"{half")
    with pytest.raises(StoreError, match=r"doc\.json is not the JSON"):
        base.read_json(store, "doc.json")


def test_stream_is_the_object_in_blocks(store: Store) -> None:
    info = store.put("k", b"0123456789")
    assert [bytes(block) for block in base.stream(store, info, 4)] == [b"0123", b"4567", b"89"]


# Names.


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys(store: Store, key: str) -> None:
    if "\\" in key and store.url.startswith(SEAWEEDFS):
        pytest.skip("SeaweedFS takes a backslash in a key for a slash")
    info = store.put(key, b"x")
    assert list(store.list()) == [info]
    assert list(store.list(key[:3])) == [info]
    assert store.stat(key) == info
    assert filled(store, key, 9, 0, info.etag) == b"x"
    with pytest.raises(AlreadyExists):
        store.put_if_absent(key, b"y")
    info = store.replace(key, b"z", info.etag)
    store.copy_to(key, store, key + " copy")
    assert base.read(store, key + " copy") == b"z"
    root, whole = split_url(base.object_url(store, key))
    assert base.read(open_store(root), whole) == b"z"
    store.delete(key)
    assert [found.key for found in store.list()] == [key + " copy"]


@pytest.mark.parametrize(
    "key", ["", "/abs", "../up", "a/../b", "a/..", ".", "./a", "a//b", "a/", "nul\0byte", "\ud800"]
)
def test_keys_that_could_leave_the_store_are_refused(store: Store, key: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.put(key, b"x"),
        lambda: store.put_if_absent(key, b"x"),
        lambda: store.replace(key, b"x", "etag"),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="key"):
            call()
    assert list(store.list()) == []


# Listing.


def test_list_is_in_byte_order_and_by_prefix(store: Store) -> None:
    keys = [
        "a",
        "a-",
        "a.b/c",
        "a0",
        "ab/c",
        "ab/c.d",
        "ab/c/d" if "memory" in store.url else "ab/cc/d",
        "b",
        "z",
        "é",
        "😀",
    ]
    if store.url.startswith("/"):
        keys.insert(3, "a1/x")
    keys.sort(key=str.encode)
    for key in reversed(keys):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == keys
    assert [info.size for info in store.list()] == [len(key.encode()) for key in keys]
    for prefix in ("a", "ab", "ab/", "ab/c", "a.", "é", "no", "no/such/", "b/", "ab/c/"):
        assert [info.key for info in store.list(prefix)] == [key for key in keys if key.startswith(prefix)], prefix
    assert next(store.list("ab/c")) == store.stat("ab/c")


def test_list_of_an_empty_store(store: Store) -> None:
    assert list(store.list()) == []
    assert list(store.list("some/where")) == []


def test_list_goes_on_after_1000_keys(store: Store) -> None:
    keys = [f"many/{n:04d}" for n in range(1_003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert [info.key for info in store.list("many/")] == keys
    assert [info.key for info in store.list("many/1")] == keys[1000:]


def test_stores_of_one_place_share_objects_and_prefixes_nest(store: Store) -> None:
    inner = open_store(store.url + "/in ner/")
    inner.put("k", b"1")
    assert inner.url == store.url + "/in ner"
    assert [info.key for info in inner.list()] == ["k"]
    assert [info.key for info in open_store(store.url).list()] == ["in ner/k"]
    assert [info.key for info in open_store(store.url + "/in").list()] == []


# Conditions.


def test_read_with_an_etag(store: Store) -> None:
    info = store.put("k", b"first")
    assert filled(store, "k", 5, 0, info.etag) == b"first"
    store.put("k", b"other")
    for offset in (0, 3, 5, 99):
        with pytest.raises(PreconditionFailed, match="k has changed"):
            filled(store, "k", 5, offset, info.etag)


def test_put_if_absent(store: Store) -> None:
    info = store.put_if_absent("c/claim", b"mine")
    with pytest.raises(AlreadyExists, match="c/claim exists already"):
        store.put_if_absent("c/claim", b"yours")
    with pytest.raises(AlreadyExists):
        store.put_if_absent("c/claim", b"mine")
    assert store.stat("c/claim") == info
    assert base.read(store, "c/claim") == b"mine"


def test_put_if_absent_has_one_winner(store: Store) -> None:
    for turn in range(5):
        key = f"race/{turn}"
        results = outcomes([partial(store.put_if_absent, key, b"writer %d" % n * 100) for n in range(8)])
        assert sorted(map(str, results)) == sorted(map(str, [None] + [AlreadyExists] * 7))
        assert base.read(store, key) == b"writer %d" % results.index(None) * 100
    assert len(list(store.list())) == 5


def test_replace(store: Store) -> None:
    old = store.put("k", b"old")
    new = store.replace("k", [b"n", b"ew"], old.etag)
    assert store.stat("k") == new
    with pytest.raises(PreconditionFailed):
        store.replace("k", b"third", old.etag)
    assert base.read(store, "k") == b"new"


def test_replace_has_one_winner(store: Store) -> None:
    for turn in range(5):
        etag = store.put("k", b"turn %d" % turn).etag
        results = outcomes([partial(store.replace, "k", b"by %d" % n, etag) for n in range(8)])
        assert sorted(map(str, results)) == sorted(map(str, [None] + [PreconditionFailed] * 7))
        assert base.read(store, "k") == b"by %d" % results.index(None)
    assert [info.key for info in store.list()] == ["k"]


# Copies.


def test_copy_to_itself_overwrites(store: Store) -> None:
    store.put("a", b"content")
    store.put("to/b", b"old")
    for _ in range(2):
        store.copy_to("a", store, "to/b")
        store.copy_to("a", store, "c")
    assert {info.key: base.read(store, info.key) for info in store.list()} == dict.fromkeys(
        ("a", "c", "to/b"), b"content"
    )
    store.put("a", b"changed")
    assert base.read(store, "c") == b"content"


def test_copy_to_another_kind(store: Store, tmp_path: Path) -> None:
    folder, memory = open_store(str(tmp_path / "other")), open_store("memory://copies")
    store.put("k", b"0123456789" * 1000)
    for other in (folder, memory):
        store.copy_to("k", other, "x/y")
        assert base.read(other, "x/y") == b"0123456789" * 1000
        other.copy_to("x/y", store, "back")
        assert base.read(store, "back") == b"0123456789" * 1000


# URLs.


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("/abs/dir/f.txt", "/", "abs/dir/f.txt"),
        ("file:///abs/with%20space", "/", "abs/with space"),
        ("/abs/./x//y%20", "/", "abs/x/y%20"),
        ("s3://bucket/a/b c", "s3://bucket", "a/b c"),
        ("s3://bucket//odd", "s3://bucket", "/odd"),
        ("s3://bucket", "s3://bucket", ""),
        ("memory://m/k", "memory://m", "k"),
    ],
)
def test_split_url(url: str, root: str, key: str) -> None:
    assert split_url(url) == (root, key)


def test_relative_urls_are_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("st").url == str(tmp_path / "st")
    assert open_store("file://" + str(tmp_path)).url == str(tmp_path)
    assert split_url("d/f") == ("/", str(tmp_path / "d/f")[1:])
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/sub")
    assert split_url("link/../f") == ("/", str(tmp_path / "real/f")[1:])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://", "the bucket is missing"),
        ("s3:///key", "the bucket is missing"),
        ("gs://bucket/x", "no store for gs://"),
        ("file://host/x", "three slashes"),
        ("", "not the path"),
        ("a\0b", "not the path"),
        (__file__, "is a file"),
    ],
)
def test_bad_urls(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_store(url)


def test_sweep_leaves_objects_alone(store: Store) -> None:
    store.put("a/b", b"x")
    store.sweep("a/")
    assert [info.key for info in store.list()] == ["a/b"]
