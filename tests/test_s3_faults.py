"""A store behind faults: what passes is survived, what does not is told, and every request is in the ledger."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from faulty_s3 import PASSING, REFUSALS, Choose, FaultyS3, faulty_s3

from mrfast.errors import AlreadyExists, PreconditionFailed, StoreError
from mrfast.storage import Store, base, ledger, open_store

Served = Callable[..., FaultyS3]


@pytest.fixture
def book() -> Iterator[ledger.Ledger]:
    """A ledger of the test's own."""
    before, own = ledger.current(), ledger.Ledger()
    ledger.use(own)
    yield own
    ledger.use(before)


@pytest.fixture
def faulty(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Puts faults between the store and the server; nothing sleeps."""
    from contextlib import ExitStack

    monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", lambda _: None)
    with ExitStack() as stack:

        def serve(choose: Choose, clock_offset_s: float = 0) -> FaultyS3:
            server = stack.enter_context(faulty_s3(s3_server, choose, clock_offset_s))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
            return server

        yield serve


def by_verb(book: ledger.Ledger) -> dict[str, int]:
    found: dict[str, int] = ledger.document(book.counts())["requests"]["by_verb"]
    return found


def fault_of(verb: str, fault: str) -> str:
    """The fault, if it can befall the verb: a HEAD has no body that could be late, nor one to say so."""
    return "" if (verb, fault) == ("HEAD", "RequestTimeout") else fault


def work(store: Store) -> None:
    """All that a store does, and that it came out right."""
    data = os.urandom(300_000)
    for number in range(4):
        assert store.put(f"a/{number}", data).size == len(data)
    assert [info.key for info in store.list("a/")] == [f"a/{number}" for number in range(4)]
    buffer = bytearray(100_000)
    for offset in range(0, 300_000, 100_000):
        assert store.read_into("a/1", offset, buffer, store.stat("a/1").etag) == len(buffer)
        assert buffer == data[offset : offset + len(buffer)]
    etag = store.put_if_absent("once", b"one").etag
    with pytest.raises(AlreadyExists):
        store.put_if_absent("once", b"two")
    store.replace("once", b"three", etag)
    with pytest.raises(PreconditionFailed):
        store.replace("once", b"four", etag)
    assert base.read(store, "once") == b"three"
    parts = store.put("parts", [data * 20])
    assert parts == store.stat("parts")
    store.copy_to("parts", store, "copied")
    assert base.read(store, "copied") == data * 20
    for info in list(store.list()):
        store.delete(info.key)
    assert list(store.list()) == []


@pytest.mark.parametrize("seed", range(4))
def test_the_ledger_is_the_servers_log_whatever_goes_wrong(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    chance = random.Random(seed)

    def now_and_then(number: int, verb: str, headers: dict[str, str]) -> str:
        return fault_of(verb, chance.choice(PASSING)) if chance.random() < 0.25 * bool(seed) else ""

    server = faulty(now_and_then)
    work(open_store(f"s3://{s3_bucket}/p"))
    assert by_verb(book) == dict(server.log)
    assert {"GET", "HEAD", "LIST", "PUT", "COPY", "POST", "DELETE"} == set(server.log)
    assert bool(server.faults.total()) == bool(seed)
    outcomes = ledger.document(book.counts())["requests"]["by_outcome"]
    assert set(outcomes) <= {"ok", "refused"} or seed
    throttled = sum(server.faults[code] for code in ("SlowDown", "ServiceUnavailable", "TooManyRequests"))
    assert outcomes.get("throttled", 0) == throttled


@pytest.mark.parametrize("fault", PASSING)
def test_each_fault_at_every_other_request_is_survived(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    seen: Counter[str] = Counter()

    def every_other(number: int, asked: str, headers: dict[str, str]) -> str:
        seen[asked] += 1
        return fault_of(asked, fault) if seen[asked] % 2 else ""

    server = faulty(every_other)
    work(open_store(f"s3://{s3_bucket}/p"))
    assert by_verb(book) == dict(server.log)
    assert server.faults[fault]


def test_many_threads_at_once(s3_bucket: str, faulty: Served, book: ledger.Ledger) -> None:
    chance = random.Random(7)
    server = faulty(lambda *_: chance.choice(PASSING) if chance.random() < 0.1 else "")
    store = open_store(f"s3://{s3_bucket}")
    data = os.urandom(2_000_000)
    etag = store.put("k", data).etag

    def read(number: int) -> None:
        with ledger.working("map" if number % 2 else "reduce"):
            start = number * 37_501
            size = (1, 4096, 300_000, 700_000)[number % 4]
            buffer = bytearray(size)
            got = store.read_into("k", start, buffer, etag)
            assert buffer[:got] == data[start : start + size] and got == min(size, len(data) - start)
            store.put(f"p/{number}", buffer)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(48)))
    assert len(list(store.list("p/"))) == 48
    assert by_verb(book) == dict(server.log)
    assert {"map", "reduce", "plan"} == set(book.counts())


def test_a_stalled_body_is_fetched_on(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrfast.storage.s3_http.IDLE_S", 0.3)
    server = faulty(lambda number, verb, _: "stall" if number in (1, 2) else "")
    store = open_store(f"s3://{s3_bucket}")
    data = os.urandom((1 << 20) + 1001)  # half of it is no whole number of blocks
    store.put("k", data)
    buffer = bytearray(len(data))
    assert store.read_into("k", 0, buffer) == len(data)
    assert buffer == data
    assert by_verb(book) == dict(server.log) == {"PUT": 1, "GET": 3}
    assert book.counts()["plan"]["GET"] == {"ok": 1, "lost": 2, "bytes_down": len(data)}


def test_throttling_is_waited_out_and_failures_are_not(
    s3_bucket: str, faulty: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    server = faulty(lambda *_: "SlowDown" if sum(waits) < 60 else "")
    monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", waits.append)
    store = open_store(f"s3://{s3_bucket}")
    store.put("k", b"x")
    assert len(waits) > 8 and max(waits) <= 5
    server.choose = lambda *_: "SlowDown"
    with pytest.raises(StoreError, match=r"SlowDown.*R-7.*try again later"):
        store.put("k", b"x")
    server.choose = lambda *_: "InternalError"
    before = server.log.total()
    with pytest.raises(StoreError, match="InternalError"):
        store.put("k", b"x")
    assert server.log.total() - before == 8


@pytest.mark.parametrize("offset_s", [-7200, 7200])
def test_a_wrong_clock_is_set_right_once(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, offset_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    server = faulty(lambda *_: "", offset_s)
    work(open_store(f"s3://{s3_bucket}"))
    assert server.faults == {"RequestTimeTooSkewed": 1}
    assert by_verb(book) == dict(server.log)
    server.choose = lambda *_: "RequestTimeTooSkewed"
    before = server.log.total()
    with pytest.raises(StoreError, match="clock is wrong"):
        open_store(f"s3://{s3_bucket}").put("k", b"x")
    assert server.log.total() - before == 1


@pytest.mark.parametrize("call", [lambda s: s.put("k", b"x"), lambda s: list(s.list()), lambda s: s.stat("k")])
def test_expired_credentials_are_asked_for_again(
    s3_bucket: str, faulty: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Callable[[Store], Any]
) -> None:
    file = tmp_path / "credentials"

    def log_in(name: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=s\naws_session_token=t\n")

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    log_in("FIRST")
    expired = {"none"}
    server = faulty(
        lambda number, verb, headers: "ExpiredToken" * any(f"={key}/" in headers["authorization"] for key in expired)
    )
    store = open_store(f"s3://{s3_bucket}")
    store.put("k", b"x")
    expired.add("FIRST")
    log_in("SECOND")
    call(store)
    call(store)
    assert server.faults == {"ExpiredToken": 1}
    expired.add("SECOND")
    before = server.log.total()
    with pytest.raises(StoreError, match=r"token has expired|without a reason"):
        call(store)
    assert server.log.total() - before == 1  # nothing new to try with


def test_a_read_that_fails_says_which_bytes(s3_bucket: str, faulty: Served) -> None:
    faulty(lambda number, verb, _: "InternalError" if verb == "GET" else "")
    with pytest.raises(StoreError, match=rf"s3://{s3_bucket}/k bytes=5-8, request R-7"):
        open_store(f"s3://{s3_bucket}").read_into("k", 5, bytearray(4))


@pytest.mark.parametrize("call", [lambda s: s.put("k", b"x"), lambda s: list(s.list()), lambda s: s.stat("k")])
def test_connections_that_always_break_end_in_an_error(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, call: Callable[[Store], Any]
) -> None:
    server = faulty(lambda *_: "reset")
    with pytest.raises(
        StoreError, match=rf"connection to S3 at http.* broke off: .*s3://{s3_bucket}.*check the network"
    ):
        call(open_store(f"s3://{s3_bucket}"))
    assert server.log.total() == sum(by_verb(book).values()) == 8


def test_a_connection_that_never_opened_is_no_request(
    s3_server: str, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", lambda _: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot reach"):
        open_store("s3://b").put("k", b"x")
    with pytest.raises(StoreError, match="cannot reach"):
        list(open_store("s3://b").list())
    assert by_verb(book) == {}


def test_a_store_without_conditions_is_recognised(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, capfd: pytest.CaptureFixture[str]
) -> None:
    from mrfast.control.effects import _ask_for_conditions

    def ignore(number: int, verb: str, headers: dict[str, str]) -> str:
        headers.pop("if-none-match", None)
        headers.pop("if-match", None)
        return ""

    server = faulty(ignore)
    store = open_store(f"s3://{s3_bucket}/deaf")
    _ask_for_conditions(store)
    _ask_for_conditions(store)
    assert capfd.readouterr().err.count("ignores If-None-Match") == 1
    assert by_verb(book) == dict(server.log) == {"PUT": 4, "DELETE": 2}
    info = store.put_if_absent("k", b"1")
    with pytest.raises(AlreadyExists):
        store.put_if_absent("k", b"2")
    store.replace("k", b"3", info.etag)
    with pytest.raises(PreconditionFailed):
        store.replace("k", b"4", info.etag)
    assert base.read(store, "k") == b"3"
    assert by_verb(book) == dict(server.log)


def test_a_store_with_conditions_is_left_in_peace(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, capfd: pytest.CaptureFixture[str]
) -> None:
    from mrfast.control.effects import _ask_for_conditions

    server = faulty(lambda *_: "")
    for _ in range(2):  # two jobs
        _ask_for_conditions(*(open_store(f"s3://{s3_bucket}{prefix}") for prefix in ("/in", "/out")))
    assert capfd.readouterr().err == ""
    assert by_verb(book) == dict(server.log) == {"PUT": 4, "DELETE": 2}
    assert list(open_store(f"s3://{s3_bucket}").list()) == []


@pytest.mark.parametrize("part_bytes", [64 << 20, 5 << 20])
def test_a_byte_flipped_on_its_way_up_is_sent_again(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", part_bytes)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", part_bytes)
    flips = iter(["flip", "", "flip", "flip", ""])
    server = faulty(lambda number, verb, _: next(flips, "") if verb == "PUT" else "")
    store = open_store(f"s3://{s3_bucket}")
    data = os.urandom(6 << 20)
    info = store.put("k", [data[:7], data[7:]])
    assert base.read(store, "k") == data and info == store.stat("k")
    assert server.checked == server.log["PUT"] == (2 if part_bytes > len(data) else 5)
    assert by_verb(book) == dict(server.log)
    server.choose = lambda number, verb, _: "flip" if verb == "PUT" else ""
    before = server.log["PUT"]
    with pytest.raises(StoreError, match=rf"not what was sent: BadDigest.*s3://{s3_bucket}/k, request R-7.*memory"):
        store.put("k", data)
    assert server.log["PUT"] - before == 8
    assert base.read(store, "k") == data


@pytest.mark.parametrize("room", [0, 1, 5000])
def test_a_byte_flipped_in_a_whole_object_is_fetched_again(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, room: int
) -> None:
    faults = iter(["", "spoil", "cut", "spoil", ""])
    server = faulty(lambda number, verb, _: next(faults) if verb == "GET" else "")
    server.tells = "FULL_OBJECT"
    store = open_store(f"s3://{s3_bucket}")
    data = os.urandom(300_001)
    etag = store.put("k", data).etag
    buffer = bytearray(len(data) + room)
    for _ in range(2):
        assert store.read_into("k", 0, buffer, etag) == len(data)
        assert buffer[: len(data)] == data
    assert by_verb(book) == dict(server.log) == {"PUT": 1, "GET": 5}
    server.choose = lambda number, verb, _: "spoil" if verb == "GET" else ""
    with pytest.raises(
        StoreError, match=rf"s3://{s3_bucket}/k is not what the store has.*bytes=0-300000, request R-8.*memory"
    ):
        store.read_into("k", 0, buffer)
    assert server.log["GET"] == 5 + 8


def test_a_part_of_an_object_is_held_against_no_checksum(s3_bucket: str, faulty: Served) -> None:
    server = faulty(lambda *_: "")
    server.tells = "FULL_OBJECT"
    store = open_store(f"s3://{s3_bucket}")
    store.put("k", bytes(range(100)))
    for start, stop in ((0, 99), (0, 1), (1, 100), (50, 60)):
        buffer = bytearray(stop - start)
        assert store.read_into("k", start, buffer) == len(buffer)
        assert buffer == bytes(range(start, stop))


def test_the_checksum_of_parts_is_no_checksum_of_the_object(
    s3_bucket: str, faulty: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = faulty(lambda *_: "")
    store = open_store(f"s3://{s3_bucket}")
    store.put("k", b"some bytes")
    server.tells = "COMPOSITE"
    monkeypatch.setattr("faulty_s3.checksum", lambda data: "AAAAAA==-3")
    assert base.read(store, "k") == b"some bytes"


@pytest.mark.parametrize("parts", [False, True])
def test_a_store_that_refuses_checksums_gets_none(
    s3_bucket: str, faulty: Served, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    monkeypatch.setitem(REFUSALS, "NotImplemented", 501)
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    server = faulty(lambda number, verb, headers: "NotImplemented" * ("x-amz-checksum-crc32c" in headers))
    server.message = "x-amz-checksum-crc32c is a header that implies what is not implemented"
    store = open_store(f"s3://{s3_bucket}")
    store.put("first", b"x")
    data = os.urandom(6 << 20 if parts else 100)
    assert store.put("k", data).size == len(data)
    assert base.read(store, "k") == data
    assert server.faults == {"NotImplemented": 1}


SPOILT: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: b"\x00garbage",
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data.replace(b"<Size>3", b"<Size>s"),
    lambda data: data.replace(b"<Size>", b"<Sizd>").replace(b"</Size>", b"</Sizd>"),
    lambda data: data.replace(b"<LastModified>2", b"<LastModified>r"),
    lambda data: data.replace(b"ListBucketResult", b"ListBucketResulu"),
    lambda data: data.replace(b"<IsTruncated>false", b"<IsTruncated>falsd"),
    lambda data: data.replace(b"<ETag>", b"<ETah>").replace(b"</ETag>", b"</ETah>"),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_damaged_listing_is_asked_for_again(
    s3_bucket: str, faulty: Served, book: ledger.Ledger, spoil: Callable[[bytes], bytes]
) -> None:
    faults = iter(["spoil", "spoil"])
    server = faulty(lambda number, verb, _: next(faults, "") if verb == "LIST" else "")
    server.spoil = spoil
    store = open_store(f"s3://{s3_bucket}/p")
    for name in "ab":
        store.put(f"in/{name}", b"abc")
    assert [(info.key, info.size) for info in store.list("in/")] == [("in/a", 3), ("in/b", 3)]
    assert by_verb(book) == dict(server.log) == {"PUT": 2, "LIST": 3}
    server.choose = lambda number, verb, _: "spoil" if verb == "LIST" else ""
    with pytest.raises(
        StoreError,
        match=rf"answer of S3 at http.* is damaged: .*list_objects_v2 on s3://{s3_bucket}/p/in/, request R-8",
    ):
        list(store.list("in/"))
    assert server.log["LIST"] == 3 + 8
