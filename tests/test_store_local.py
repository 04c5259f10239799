"""What only a folder can do wrong: crashes, full disks, files in the way, file systems without links."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stores import filled

from mrfast.errors import NotFound, PreconditionFailed, StoreError
from mrfast.storage import base, open_store


def test_undecodable_names_in_a_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    key = os.fsdecode(b"latin1 \xe9/\xff")
    info = store.put(key, b"x")
    assert list(store.list()) == [info]
    assert base.read(store, key) == b"x"


def test_replacing_within_one_tick_of_the_clock_changes_the_etag(tmp_path: Path) -> None:
    """Otherwise A → B → C of one size can end with A's time and inode, hence A's etag."""
    store = open_store(str(tmp_path))
    etag = store.put("k", b"0").etag
    ahead_ns = 1 << 62
    os.utime(tmp_path / "k", ns=(ahead_ns, ahead_ns))
    with pytest.raises(PreconditionFailed):
        store.replace("k", b"1", etag)
    for n in range(1, 4):
        info = store.replace("k", b"1", store.stat("k").etag)
        assert info == store.stat("k")
        assert (tmp_path / "k").stat().st_mtime_ns == ahead_ns + n


def test_copying_over_a_link_of_the_same_file_leaves_no_temp_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"content")
    for _ in range(2):
        store.copy_to("a", store, "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_copy_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    store = open_store(str(tmp_path))
    store.put("a", b"content")
    monkeypatch.setattr(os, "link", no_link)
    store.copy_to("a", store, "b")
    assert base.read(store, "b") == b"content"
    with pytest.raises(StoreError, match=r"cannot write .*/c: Invalid cross-device link"):
        store.put_if_absent("c", b"")


def test_listing_hides_temp_files_and_keys_cannot_be_named_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / ".mrfast-tmp-0123").write_bytes(b"half")
    (tmp_path / ".mrfast-lock").touch()
    store.put("a", b"")
    assert [info.key for info in store.list()] == ["a"]
    with pytest.raises(StoreError, match="reserved"):
        store.put("x/.mrfast-tmp-0123", b"")


def test_a_failed_write_leaves_no_temp_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = open_store(str(tmp_path))
    store.put("k", b"old")
    monkeypatch.setattr(os, "fsync", full)
    for call in (
        lambda: store.put("k", b"new", durable=True),
        lambda: store.put_if_absent("n", b""),
        lambda: store.replace("k", b"new", store.stat("k").etag),
    ):
        with pytest.raises(StoreError, match="No space left on device; free some space"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert base.read(store, "k") == b"old"


def test_durable_writes_reach_the_disk_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "link")}

    def fsync(fd: int) -> None:
        log.append("fsync " + os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path).split("-")[0])
        real["fsync"](fd)

    def rename(name: str, source: str, target: str) -> None:
        log.append(name)
        real[name](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, partial(rename, name))
    store = open_store(str(tmp_path))
    store.put("a/b/k", b"x", durable=True)
    assert log == ["fsync a", "fsync .", "fsync a/b/.mrfast", "replace", "fsync a/b"]
    log.clear()
    store.put_if_absent("n", b"x")
    assert log == ["fsync .mrfast", "link", "fsync ."]
    log.clear()
    store.put("quick", b"x")
    assert log == ["replace"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"")
    store.put("d/e", b"")
    for key in ("a/b", "d"):
        with pytest.raises(StoreError, match="in the way"):
            store.put(key, b"")
        with pytest.raises(NotFound):
            store.stat(key)
        with pytest.raises(NotFound):
            filled(store, key, 1)
    store.delete("d")
    assert [info.key for info in store.list()] == ["a", "d/e"]


def test_a_file_changed_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    etag = store.put("k", b"0123456789").etag
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        got = real(fd, buffers, offset)
        (tmp_path / "k").write_bytes(b"rewritten, in place")
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(PreconditionFailed, match="has changed"):
        filled(store, "k", 10, 0, etag)


def test_sweep_removes_an_empty_folder_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "store"))
    store.put("a/b/gone", b"x")
    store.put("a/kept", b"x")
    store.delete("a/b/gone")
    store.sweep("a/b/")
    store.sweep("a/")
    store.sweep("")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "store",
        "store/a",
        "store/a/kept",
    ]
    store.delete("a/kept")
    store.sweep("a/")
    with monkeypatch.context() as here:
        here.chdir(tmp_path / "store")
        store.sweep("")  # somebody's shell may stand there
    assert os.listdir(tmp_path) == ["store"]
    store.sweep("")
    assert os.listdir(tmp_path) == []


def test_sweep_removes_what_a_killed_writer_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.put("d/kept", b"x")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(os, "rename", killed)
        patch.setattr(os, "unlink", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            store.put("d/lost", b"y")
    assert len(os.listdir(tmp_path / "d")) == 2
    store.sweep("d/")
    store.sweep("never/")
    assert os.listdir(tmp_path / "d") == ["kept"]
