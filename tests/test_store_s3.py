"""What only S3 can do: answer with errors, break off, lose an answer; and big objects in parts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pytest
from stores import filled

from mrfast.errors import AlreadyExists, MrfastError, NotFound, PreconditionFailed, StoreError, UsageError
from mrfast.storage import Store, base, open_store


@pytest.fixture
def s3(s3_bucket: str) -> Store:
    return open_store(f"s3://{s3_bucket}")


def test_s3_reports_a_missing_bucket(s3_server: str) -> None:
    store = open_store("s3://there-is-none/p")
    calls: list[Callable[[], Any]] = [
        lambda: store.put("k", b""),
        lambda: store.put_if_absent("k", b""),
        lambda: list(store.list()),
        lambda: store.stat("k"),
        lambda: filled(store, "k", 1),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="no such bucket: there-is-none at http") as caught:
            call()
        assert not isinstance(caught.value, NotFound)
        assert caught.value.exit_code == 4


def test_s3_refuses_names_that_cannot_be(s3_server: str) -> None:
    with pytest.raises(UsageError, match="not a bucket or key"):
        open_store("s3://Not A Bucket/x").put("k", b"")
    for key in ("k" * 1025, os.fsdecode(b"latin1 \xe9")):
        with pytest.raises(StoreError, match="S3 has no key like"):
            open_store("s3://bucket").put(key, b"")


def test_s3_without_credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"no AWS credentials for s3://b/k .*; set AWS_ACCESS_KEY_ID"):
        open_store("s3://b").put("k", b"")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match=r"login does not work: .*nobody.*check AWS_PROFILE"):
        open_store("s3://b").put("k", b"")


def test_s3_that_nobody_serves(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        tries: list[float] = []
        monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", tries.append)
        with pytest.raises(StoreError, match=f"cannot reach S3 at {endpoint} for s3://b/k: .*; check the network"):
            open_store("s3://b").put("k", b"")
    assert len(tries) <= 1
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "not a url")
    with pytest.raises(UsageError, match=r"not a URL .*AWS_ENDPOINT_URL_S3"):
        open_store("s3://b").put("k", b"")


def test_s3_uploads_big_objects_in_parts(s3: Store, s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrfast.storage.s3.SINGLE_PUT_BYTES", 6 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PART_BYTES", 5 << 20)
    monkeypatch.setattr("mrfast.storage.s3.PARTS_PER_SIZE", 1)
    data = os.urandom(6 << 20)
    whole = s3.put("whole", data)
    assert "-" not in whole.etag
    for size, parts in ((1, 2), (9 << 20, 2), ((9 << 20) + 1, 3)):
        chunks: list[base.BytesLike] = [data, memoryview(data * 2)[:size]]
        info = s3.put("parts", chunks)
        assert info == s3.stat("parts")
        assert info.etag.endswith(f"-{parts}")
        assert base.read(s3, "parts") == b"".join(chunks)
    monkeypatch.setattr("mrfast.storage.s3.COPY_WHOLE_BYTES", 6 << 20)
    monkeypatch.setattr("mrfast.storage.s3.COPY_PART_BYTES", 6 << 20)
    s3.copy_to("parts", s3, "copied")
    assert s3.stat("copied").etag.endswith("-3")
    assert base.read(s3, "copied") == base.read(s3, "parts")

    def broken() -> Iterator[bytes]:
        yield data
        yield data
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        s3.put("broken", broken())
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=s3.url[5:])
    with pytest.raises(NotFound):
        s3.stat("broken")


def test_s3_client_is_made_anew_after_fork(s3: Store) -> None:
    from mrfast.storage import s3 as s3_module

    s3.put("k", b"parent")
    # The lock is held at the fork, as by a thread that is just making a client: the child must not wait for it.
    with s3_module._lock:
        pid = os.fork()
        if not pid:
            try:
                signal.alarm(30)
                s3.put("k", b"child")
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert base.read(s3, "k") == b"child"


def answer(status: str, body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    """A raw HTTP answer; `length` may promise more than `body` keeps."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>because</Message><RequestId>R-42</RequestId></Error>"
    return answer(status, body.encode(), Content_Type="application/xml", x_amz_request_id="R-42")


@contextmanager
def scripted_s3(
    monkeypatch: pytest.MonkeyPatch, reply: Callable[[int, str, str, dict[str, str]], bytes]
) -> Iterator[None]:
    """An endpoint whose every answer is `reply(number, method, path, headers)`, byte for byte; b"" cuts the line."""

    def serve(server: socket.socket) -> None:
        for number in count():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                method, path, _ = lines.readline().decode().split(" ", 2)
                headers = {}
                while line := lines.readline().decode().strip():
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                if headers.get("expect"):
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                lines.read(int(headers.get("content-length", 0)))
                with suppress(ConnectionError):  # a client may have heard enough
                    connection.sendall(reply(number, method, path, headers))

    monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


DATA = bytes(range(256)) * 8192


def ranged(headers: dict[str, str], keep: int, etag: str = '"e1"') -> bytes:
    """The range that was asked for of DATA, of which only the first `keep` bytes are sent."""
    start, stop = (int(number) for number in headers["range"].removeprefix("bytes=").split("-"))
    wanted = DATA[start : stop + 1]
    where = f"bytes {start}-{stop}/{len(DATA)}"
    return answer("206 Partial Content", wanted[:keep], len(wanted), ETag=etag, Content_Range=where)


def test_s3_goes_on_where_a_body_broke_off(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def reply(number: int, method: str, path: str, headers: dict[str, str]) -> bytes:
        asked.append((headers["range"], headers.get("if-match")))
        return ranged(headers, 600_000)

    with scripted_s3(monkeypatch, reply):
        buffer = bytearray(len(DATA))
        assert open_store("s3://b").read_into("k", 0, buffer) == len(DATA)
    assert buffer == DATA
    assert asked[0] == (f"bytes=0-{len(DATA) - 1}", None)
    starts = [int(span.removeprefix("bytes=").split("-")[0]) for span, _ in asked]
    assert starts == sorted(set(starts))
    assert {etag for _, etag in asked[1:]} == {'"e1"'}


def test_s3_never_mixes_two_versions(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object is replaced while its first half arrives; this endpoint ignores If-Match on top of that."""
    with (
        scripted_s3(monkeypatch, lambda number, method, path, headers: ranged(headers, 600_000, f'"e{number}"')),
        pytest.raises(PreconditionFailed, match="has changed"),
    ):
        open_store("s3://b").read_into("k", 0, bytearray(len(DATA)))


def test_s3_gives_up_on_a_body_that_never_comes(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        scripted_s3(monkeypatch, lambda number, method, path, headers: ranged(headers, 0)),
        pytest.raises(StoreError, match="reading s3://b/k broke off 8 times, last at byte 7"),
    ):
        open_store("s3://b").read_into("k", 7, bytearray(100))


def test_s3_that_ignores_ranges_is_refused(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_s3(monkeypatch, lambda *_: answer("200 OK", DATA[:100], ETag='"e"')):
        assert filled(open_store("s3://b"), "k", 200) == DATA[:100]
        with pytest.raises(StoreError, match="ignores ranges"):
            filled(open_store("s3://b"), "k", 10, 5)


@pytest.mark.parametrize(("there", "wins"), [(b"mine", True), (b"them", False), (b"longer", False)])
@pytest.mark.parametrize("call", ["put_if_absent", "replace"])
def test_s3_knows_its_own_write_when_the_answer_was_lost(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, call: str, there: bytes, wins: bool
) -> None:
    """The first PUT is applied, its answer lost; the retry is refused because of what the first one wrote."""

    def reply(number: int, method: str, path: str, headers: dict[str, str]) -> bytes:
        if method == "HEAD":
            return answer("200 OK", b"", len(there), ETag='"e9"')
        if method == "GET":
            return answer("206 Partial Content", there, ETag='"e9"')
        assert headers.get("if-none-match") == "*" if call == "put_if_absent" else headers["if-match"] == '"e8"'
        return b"" if number == 0 else refusal("412 Precondition Failed", "PreconditionFailed")

    with scripted_s3(monkeypatch, reply):
        store = open_store("s3://b")

        def write() -> base.ObjectInfo:
            return store.put_if_absent("k", b"mine") if call == "put_if_absent" else store.replace("k", b"mine", "e8")

        if wins:
            assert write() == base.ObjectInfo("k", 4, "e9")
        else:
            with pytest.raises(AlreadyExists if call == "put_if_absent" else PreconditionFailed):
                write()


def test_s3_tries_again_after_a_conflict(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(number: int, *_: Any) -> bytes:
        if number < 3:
            return refusal("409 Conflict", "ConditionalRequestConflict")
        return answer("200 OK", ETag='"won"')

    with scripted_s3(monkeypatch, reply):
        assert open_store("s3://b").put_if_absent("k", b"x").etag == "won"
    with (
        scripted_s3(monkeypatch, lambda *_: refusal("409 Conflict", "ConditionalRequestConflict")),
        pytest.raises(StoreError, match="ConditionalRequestConflict"),
    ):
        open_store("s3://b").put_if_absent("k", b"x")


def test_s3_retries_an_overloaded_server(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(number: int, *_: Any) -> bytes:
        return refusal("503 Slow Down", "SlowDown") if number < 5 else answer("200 OK", ETag='"ok"')

    with scripted_s3(monkeypatch, reply):
        assert open_store("s3://b").put("k", b"x").etag == "ok"


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        ("403 Forbidden", "AccessDenied", StoreError, r"access denied to s3://b/k .*R-42.*check the policies"),
        ("400 Bad Request", "ExpiredToken", StoreError, r"token has expired .*R-42.*log in again"),
        ("403 Forbidden", "InvalidAccessKeyId", StoreError, r"credentials are not valid: InvalidAccessKeyId .*R-42"),
        ("403 Forbidden", "SignatureDoesNotMatch", StoreError, r"credentials are not valid"),
        ("403 Forbidden", "RequestTimeTooSkewed", StoreError, r"clock is wrong"),
        ("404 Not Found", "NoSuchBucket", StoreError, r"no such bucket: b at http.*R-42.*create it"),
        ("404 Not Found", "NoSuchKey", NotFound, r"s3://b/k does not exist .*R-42"),
        ("503 Slow Down", "SlowDown", StoreError, r"SlowDown: because .*R-42.*try again later"),
        ("418 Teapot", "Strange", StoreError, r"Strange: because .*R-42"),
    ],
)
def test_s3_errors_say_what_where_and_the_cure(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, status: str, code: str, kind: type[MrfastError], says: str
) -> None:
    with scripted_s3(monkeypatch, lambda *_: refusal(status, code)), pytest.raises(kind, match=says) as caught:
        filled(open_store("s3://b"), "k", 1)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
