"""INPUT arguments: what they expand to, in which order, under which names, and what they say when there is nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrfast.errors import InputMissing, StoreError, UsageError
from mrfast.model import InputObject
from mrfast.storage import Store, base, inputs, open_store, split_url
from mrfast.storage.inputs import resolve

TREE = [
    "a.txt",
    "b.log",
    "c c/%41.txt",
    "c c/é.txt",
    "c c/line\nfeed.txt",
    "deep/x/a.txt",
    "deep/x/y/a.txt",
    "deep/x-/a.txt",
    "deep/z.txt",
    "_SUCCESS",
    ".hidden",
    "deep/.git/config.txt",
    "deep/_tmp/part.txt",
]
SEEN = [
    "a.txt",
    "b.log",
    "c c/%41.txt",
    "c c/line\nfeed.txt",
    "c c/é.txt",
    "deep/x-/a.txt",
    "deep/x/a.txt",
    "deep/x/y/a.txt",
    "deep/z.txt",
]
EXPANSIONS = [
    ("d", [f"d/{name}" for name in SEEN]),
    ("d/", [f"d/{name}" for name in SEEN]),
    ("d/a.txt", ["d/a.txt"]),
    ("d/_SUCCESS", ["d/_SUCCESS"]),
    ("d/deep/.git/config.txt", ["d/deep/.git/config.txt"]),
    ("d/deep/.git/", ["d/deep/.git/config.txt"]),
    ("d/*.txt", ["d/a.txt"]),
    ("d/?.*", ["d/a.txt", "d/b.log"]),
    ("d/[ab].*", ["d/a.txt", "d/b.log"]),
    ("d/[!a].*", ["d/b.log"]),
    ("d/*", [f"d/{name}" for name in SEEN]),
    ("d/_*", ["d/_SUCCESS"]),
    ("d/.h*", ["d/.hidden"]),
    ("d/*/*.txt", [f"d/{name}" for name in SEEN if name.count("/") == 1]),
    ("d/*/x*/*.txt", ["d/deep/x-/a.txt", "d/deep/x/a.txt"]),
    ("d/deep/x*", ["d/deep/x-/a.txt", "d/deep/x/a.txt", "d/deep/x/y/a.txt"]),
    ("d/**/a.txt", ["d/a.txt", "d/deep/x-/a.txt", "d/deep/x/a.txt", "d/deep/x/y/a.txt"]),
    ("d/**", [f"d/{name}" for name in SEEN]),
    ("d/**/x/**/*.txt", ["d/deep/x/a.txt", "d/deep/x/y/a.txt"]),
    ("d/deep/**/y/*", ["d/deep/x/y/a.txt"]),
    ("*/a.txt", ["d/a.txt"]),
]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `d` with all sorts of names, in the working directory."""
    for name in TREE:
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def paths(found: list[InputObject]) -> list[str]:
    """The paths; every object is first read where its url says that it is, under its etag."""
    for item in found:
        root, key = split_url(item.url)
        buffer = bytearray(item.size + 1)
        assert open_store(root).read_into(key, 0, buffer, item.etag) == item.size
        if item.size:
            assert item.path.encode("utf-8", "surrogateescape").endswith(buffer[:-1])
    return [item.path for item in found]


# What they expand to: the same in a folder and in a bucket.


@pytest.mark.parametrize(("given", "expected"), EXPANSIONS)
def test_local_expansions(tree: Path, folder: Store, given: str, expected: list[str]) -> None:
    assert paths(resolve([given], folder)) == expected
    assert paths(resolve(["./" + given], folder)) == ["./" + name for name in expected]
    assert paths(resolve([f"{tree}/{given}"], folder)) == [f"{tree}/{name}" for name in expected]


@pytest.mark.parametrize(("given", "expected"), EXPANSIONS)
def test_bucket_expansions(folder: Store, given: str, expected: list[str]) -> None:
    bucket = open_store("memory://inputs")
    for name in TREE:
        bucket.put("d/" + name, name.encode())
    assert paths(resolve(["memory://inputs/" + given], folder)) == ["memory://inputs/" + name for name in expected]


def test_s3_keys_prefixes_and_globs(s3_bucket: str, s3_client: Any, folder: Store) -> None:
    store = open_store(f"s3://{s3_bucket}")
    for key in ["p/a.txt", "p/b c%.txt", "p/sub/d.txt", "p/_SUCCESS", "p2/x.txt"]:
        store.put(key, key.rpartition("/")[2].encode())
    s3_client.put_object(Bucket=s3_bucket, Key="p/", Body=b"")
    s3_client.put_object(Bucket=s3_bucket, Key="p//odd", Body=b"odd")
    root = f"s3://{s3_bucket}/"
    under = [root + key for key in ("p//odd", "p/a.txt", "p/b c%.txt", "p/sub/d.txt")]
    assert paths(resolve([root + "p/"], folder)) == under
    assert paths(resolve([root + "p"], folder)) == under
    assert paths(resolve([root], folder)) == [*under, root + "p2/x.txt"]
    assert paths(resolve([root[:-1]], folder)) == [*under, root + "p2/x.txt"]
    assert paths(resolve([root + "p/a.txt"], folder)) == [root + "p/a.txt"]
    assert paths(resolve([root + "p*/*.txt"], folder)) == [root + k for k in ("p/a.txt", "p/b c%.txt", "p2/x.txt")]
    assert paths(resolve([root + "**/d.txt"], folder)) == [root + "p/sub/d.txt"]


def test_order_is_that_of_the_arguments_and_repeats_stay(tree: Path, folder: Store) -> None:
    open_store("memory://order").put("k", b"k")
    given = ["d/b.log", "memory://order/k", "d/*.txt", "d/b.log"]
    assert paths(resolve(given, folder)) == ["d/b.log", "memory://order/k", "d/a.txt", "d/b.log"]
    assert resolve([], folder) == []


def test_the_working_directory_itself(tree: Path, folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "d")
    assert paths(resolve(["."], folder)) == ["./" + name for name in SEEN]
    assert paths(resolve(["**"], folder)) == SEEN
    assert paths(resolve(["*.txt"], folder)) == ["a.txt"]
    assert paths(resolve(["deep/../a.txt"], folder)) == ["deep/../a.txt"]
    assert paths(resolve([f"file://{tree}/d/c%20c/%2541.txt"], folder)) == [f"{tree}/d/c c/%41.txt"]


def test_a_literal_name_wins_over_the_pattern_in_it(tmp_path: Path, folder: Store) -> None:
    bucket = open_store("memory://literal")
    for name in ("*.txt", "a.txt", "[ab]", "a", "b"):
        (tmp_path / name).write_bytes(name.encode())
        bucket.put(name, name.encode())
    for root in (str(tmp_path), "memory://literal"):
        assert paths(resolve([root + "/*.txt"], folder)) == [root + "/*.txt"]
        assert paths(resolve([root + "/[ab]"], folder)) == [root + "/[ab]"]
        assert paths(resolve([root + "/[ab]*"], folder)) == [f"{root}/{name}" for name in ("a", "a.txt", "b")]


def test_undecodable_names(tmp_path: Path, folder: Store) -> None:
    name = os.fsdecode(b"latin1 \xe9")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(os.fsencode(name))
    assert paths(resolve([str(tmp_path / "d")], folder)) == [f"{tmp_path}/d/{name}"]
    assert paths(resolve([f"{tmp_path}/d/*"], folder)) == [f"{tmp_path}/d/{name}"]


def test_links_are_followed_and_loops_end(tree: Path, folder: Store) -> None:
    (tree / "outside").mkdir()
    (tree / "outside" / "o.txt").write_bytes(b"o.txt")
    (tree / "l").mkdir()
    (tree / "l" / "away").symlink_to("../outside")
    (tree / "l" / "file").symlink_to("../outside/o.txt")
    (tree / "l" / "loop").symlink_to("../l")
    (tree / "outside" / "back").symlink_to("../l")
    expected = ["l/away/o.txt", "l/file"]
    for given in ("l", "l/**", "l/*", "l/**/*"):
        assert [item.path for item in resolve([given], folder)] == expected, given
    assert [item.path for item in resolve(["l/loop/file"], folder)] == ["l/loop/file"]


def test_pinned_objects_know_a_later_change(tree: Path, folder: Store) -> None:
    before = resolve(["d/a.txt"], folder)[0]
    assert before == resolve(["d/a.txt"], folder)[0]
    (tree / "d" / "a.txt").write_bytes(b"longer than before")
    assert before.etag != resolve(["d/a.txt"], folder)[0].etag


# What they say when there is nothing.


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no/such.txt", r"^no/such\.txt: no such file or folder$"),
        ("d/*.nope", r"^d/\*\.nope: no file matches$"),
        ("d/no*/**/x", "no file matches"),
        ("d/a.txt/*", "no file matches"),
        ("d/a.txt/b", "not a directory"),
        ("empty", r"^empty: no input files in this folder \(names with _ or \."),
        ("onlyhidden", "no input files in this folder"),
        ("dangling", "a symbolic link to nowhere, which does not exist"),
        ("links", "links/dangling: a symbolic link to nowhere"),
        ("circle", "too many levels of symbolic links"),
        ("pipe", "pipe: is not a regular file"),
        ("line\nfeed", r"^'line\\nfeed': no such file"),
        ("memory://none/key", r"^memory://none/key: no such object, and none below it$"),
        ("memory://none/prefix/", "no objects there"),
        ("memory://none/*.txt", "no object matches"),
    ],
)
def test_missing_inputs(tree: Path, folder: Store, given: str, says: str) -> None:
    for name in ("empty", "onlyhidden", "links"):
        (tree / name).mkdir()
    (tree / "onlyhidden" / "_SUCCESS").touch()
    (tree / "dangling").symlink_to("nowhere")
    (tree / "links" / "dangling").symlink_to("nowhere")
    (tree / "circle").symlink_to("circle")
    os.mkfifo(tree / "pipe")
    with pytest.raises(InputMissing, match=says):
        resolve(["d/a.txt", given], folder)


@pytest.mark.parametrize("given", ["", "http://host/x", "s3://", "a\0b"])
def test_inputs_that_cannot_be(folder: Store, given: str) -> None:
    with pytest.raises(UsageError):
        resolve([given], folder)


@pytest.fixture
def ordinary_user(tree: Path) -> Iterator[None]:
    """Permissions are not checked for root: another user then, who can reach the tree."""
    if os.geteuid() != 0:
        yield
        return
    for above in tree.parents[: len(tree.parents) - 2]:
        above.chmod(0o755)
    tree.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_files_and_folders(tree: Path, folder: Store, request: pytest.FixtureRequest) -> None:
    (tree / "d" / "a.txt").chmod(0)
    (tree / "d" / "c c").chmod(0)
    request.getfixturevalue("ordinary_user")
    with pytest.raises(InputMissing, match=r"^d/a\.txt: permission denied; make it readable"):
        resolve(["d/a.txt"], folder)
    for given in ("d/c c", "d/c c/*", "d/c c/x"):
        with pytest.raises(InputMissing, match=r"d/c c.*: permission denied"):
            resolve([given], folder)


def test_s3_faults_are_store_errors(s3_server: str, folder: Store) -> None:
    for given in ("s3://there-is-none/key", "s3://there-is-none/prefix/", "s3://there-is-none/*"):
        with pytest.raises(StoreError, match="no such bucket: there-is-none"):
            resolve([given], folder)


# Local files for a store in S3.


def test_local_files_are_uploaded_once(tree: Path, s3_bucket: str, s3_client: Any) -> None:
    store = open_store(f"s3://{s3_bucket}/pre")
    s3_client.put_object(Bucket=s3_bucket, Key="there.txt", Body=b"there.txt")
    given = ["d", f"s3://{s3_bucket}/there.txt", "d/a.txt"]
    found = resolve(given, store)
    assert paths(found) == [*(f"d/{name}" for name in SEEN), f"s3://{s3_bucket}/there.txt", "d/a.txt"]
    assert all(item.url.startswith(f"s3://{s3_bucket}/pre/input/") for item in found if item.path.startswith("d"))
    assert found[0] == found[-1]
    assert len(list(store.list("input/"))) == len(SEEN)
    first = {info["Key"]: info["LastModified"] for info in s3_client.list_objects_v2(Bucket=s3_bucket)["Contents"]}
    assert resolve(given, store) == found
    again = {info["Key"]: info["LastModified"] for info in s3_client.list_objects_v2(Bucket=s3_bucket)["Contents"]}
    assert again == first
    (tree / "d" / "a.txt").write_bytes(b"xt")
    assert resolve(["d/a.txt"], store)[0].url != found[0].url
    assert paths(resolve(["d/a.txt"], store)) == ["d/a.txt"]


def test_uploaded_names_keep_their_suffix_and_are_utf8(tmp_path: Path, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    name = os.fsdecode(b"\xff" * 240 + b"%\n/"[:2] + b".tar.gz")
    (tmp_path / name).write_bytes(b".gz")
    (item,) = resolve([f"{tmp_path}/{name}"], store)
    assert item.url.endswith("%25%0A.tar.gz")
    assert paths([item]) == [f"{tmp_path}/{name}"]


def test_big_files_are_uploaded_in_parts(tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    data = os.urandom((9 << 20) + 7)
    (tmp_path / "big").write_bytes(data)
    (item,) = resolve([str(tmp_path / "big")], open_store(f"s3://{s3_bucket}"))
    assert item.etag.endswith("-2")
    root, key = split_url(item.url)
    assert base.read(open_store(root), key) == data


def test_a_file_that_changes_during_its_upload_is_not_uploaded(
    tree: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inputs._blocks

    def changing(item: InputObject) -> Iterator[memoryview]:
        yield from real(item)
        (tree / "d" / "a.txt").write_bytes(b"other")

    monkeypatch.setattr(inputs, "_blocks", changing)
    store = open_store(f"s3://{s3_bucket}")
    with pytest.raises(InputMissing, match=r"d/a\.txt: was changed while it was being uploaded"):
        resolve(["d/a.txt"], store)
    assert list(store.list()) == []


def test_a_missing_bucket_stops_the_uploads(tree: Path, s3_server: str) -> None:
    with pytest.raises(StoreError, match="no such bucket: none-here"):
        resolve(["d"], open_store("s3://none-here"))
    assert [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name] == []


def test_20000_small_files(tmp_path: Path, folder: Store) -> None:
    (tmp_path / "many").mkdir()
    for n in range(20_000):
        os.close(os.open(tmp_path / "many" / f"{n:05d}", os.O_CREAT | os.O_WRONLY))
    found = resolve([str(tmp_path / "many")], folder)
    assert [item.path for item in found] == [f"{tmp_path}/many/{n:05d}" for n in range(20_000)]


def test_sockets_are_not_input(tree: Path, folder: Store) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("d/socket")
        with pytest.raises(InputMissing, match="d/socket: is not a regular file"):
            resolve(["d"], folder)
