"""Where requests go and how they are signed: as botocore would do it, whatever is configured; TLS and proxies too."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config

from mrfast.errors import StoreError, UsageError
from mrfast.storage import ledger, open_store
from mrfast.storage.s3_client import S3Client
from mrfast.storage.s3_http import Broken, Http, Unreachable
from mrfast.storage.s3_retry import Patience, Refused

KEYS = ["k", "a/b c%20+ä\n€", "~x/-._", "a=b&c?d#e", "k" * 200]
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("get_object", {"Range": "bytes=5-9", "IfMatch": '"e"', "ChecksumMode": "ENABLED"}),
    ("head_object", {}),
    ("put_object", {"IfNoneMatch": "*", "ChecksumCRC32C": "AAAAAA=="}),
    ("upload_part", {"UploadId": "a/b+c=", "PartNumber": 7, "ChecksumCRC32C": "AAAAAA=="}),
    ("delete_object", {}),
]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr("mrfast.storage.s3_retry.time.sleep", lambda _: None)


def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"[default]\n{lines}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("", ""),
        ("", "  use_dualstack_endpoint = true"),
        ("http://127.0.0.1:9000", ""),
        ("https://s3.example/some/base/", ""),
        ("https://h:8443", ""),
    ],
)
@pytest.mark.parametrize("style", ["auto", "path", "virtual"])
@pytest.mark.parametrize("bucket", ["bucket", "dotted.bucket.name"])
def test_requests_go_where_botocore_sends_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str, more: str, style: str, bucket: str
) -> None:
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    configure(monkeypatch, tmp_path, f"s3 =\n  addressing_style = {style}\n{more}")
    client = S3Client()
    place = client._place(bucket)
    assert place is not None
    for key in KEYS:
        for operation, params in ASKED:
            ours = client._made(operation, place, key, (), params)
            theirs = client._taken(client._prepare(operation, Bucket=bucket, Key=key, **params))
            for name in ("method", "verb", "scheme", "host", "path", "signer"):
                assert getattr(ours, name) == getattr(theirs, name), name
            wanted = {pair for pair in theirs.query.split("&") if not pair.startswith("x-id=")}
            assert set(ours.query.split("&")) - {""} == wanted - {""}
            signed = {name: value for name, value in theirs.headers.items() if name in ours.headers}
            assert signed == ours.headers


@pytest.mark.parametrize(("version", "signed"), [("s3", "AWS"), (UNSIGNED, "")])
def test_what_we_cannot_sign_botocore_signs(monkeypatch: pytest.MonkeyPatch, version: Any, signed: str) -> None:
    sent: list[tuple[str, Any, dict[str, str]]] = []

    def send(self: Http, method: str, url: Any, headers: Any, *_: Any) -> Any:
        sent.append((method, url, dict(headers)))
        raise Refused(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")

    monkeypatch.setattr(
        "mrfast.storage.s3_client.Config", lambda **options: Config(**options, signature_version=version)
    )
    monkeypatch.setattr(Http, "send", send)
    client = S3Client()
    for operation, params in ASKED:
        with pytest.raises(Refused):
            client.ask(operation, "bucket", "a b", Patience(), (memoryview(b"xyz"),) * ("p" in operation), **params)
    assert [method for method, _, _ in sent] == ["GET", "HEAD", "PUT", "PUT", "DELETE"]
    for _, (scheme, host, target), headers in sent:
        assert (scheme, host, target.partition("?")[0]) == ("https", "bucket.s3.eu-west-1.amazonaws.com", "/a%20b")
        assert headers.get("authorization", "").partition(" ")[0] == signed
    assert sent[0][2]["range"] == "bytes=5-9" and sent[2][2]["content-length"] == "3"


def test_a_bucket_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer names another region; botocore asks for it, and from then on requests go there."""
    sent: list[tuple[str, str]] = []

    class Answered:
        def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.status, self.headers, self.body = status, headers, body

        def read(self, limit: int) -> bytes:
            return self.body

    def send(self: Http, method: str, url: Any, headers: Any, *_: Any) -> Any:
        sent.append((method, url[1]))
        if "us-west-2" in url[1]:
            assert "/us-west-2/s3/" in headers["authorization"]
            return Answered(200, {"etag": '"e"', "content-length": "0"})
        body = b"" if method == "HEAD" else b"<Error><Code>PermanentRedirect</Code></Error>"
        return Answered(301, {"x-amz-bucket-region": "us-west-2"}, body)

    monkeypatch.setattr(Http, "send", send)
    client = S3Client()
    for _ in range(2):
        assert client.ask("put_object", "bucket", "k", Patience(), (memoryview(b"x"),)).status == 200
    here, there = (f"bucket.s3.{region}.amazonaws.com" for region in ("eu-west-1", "us-west-2"))
    assert sent[0] == ("PUT", here)
    assert [host for method, host in sent if method == "PUT"] == [here, there, there]
    assert {method for method, _ in sent[1:-2]} == {"HEAD"}


# Real sockets


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate of 127.0.0.1 that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - dt.timedelta(1), now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return path


def serve_one(connection: socket.socket, replies: list[bytes], heads: list[str]) -> None:
    with suppress(OSError), connection, connection.makefile("rb") as lines:
        for reply in replies:
            head = ""
            while line := lines.readline().decode().rstrip("\r\n"):
                head += line + "\n"
            if not head:
                return
            heads.append(head)
            connection.sendall(reply)


@contextmanager
def serving(replies: list[bytes], tls: Path | None = None) -> Iterator[tuple[str, list[str]]]:
    """(host:port, the heads of the requests that came); each connection gets the replies in turn."""
    heads: list[str] = []
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
                if context:
                    connection = context.wrap_socket(connection, server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection, replies, heads), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


OK = b'HTTP/1.1 206 Partial\r\nETag: "e"\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/4\r\n\r\nbody'


def read(url: str = "s3://bucket") -> bytes:
    buffer = bytearray(4)
    assert open_store(url).read_into("k", 0, buffer) == 4
    return bytes(buffer)


def test_tls_trusts_the_bundle_and_nothing_else(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    with serving([OK, OK], certificate) as (host, heads):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://{host}")
        with pytest.raises(StoreError, match=r"cannot reach S3 at https://.*certificate verify failed"):
            read()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert read() == read() == b"body"
    assert len(heads) == 2


def test_proxies(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    with serving([OK]) as (proxy, heads):
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{proxy}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.test:9000")
        assert read() == b"body"
        assert heads[0].startswith("GET http://s3.test:9000/bucket/k HTTP/1.1\n")
        assert "Proxy-Authorization: Basic bWU6cEBzcw==\n" in heads[0]
        assert "host: s3.test:9000\n" in heads[0]
    with serving([b"HTTP/1.1 403 No\r\n\r\n"]) as (proxy, heads):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.test")
        with pytest.raises(StoreError, match=r"cannot reach S3 .*the proxy 127.0.0.1:\d+ answered 403"):
            read()
        assert heads[0] == "CONNECT s3.test:443 HTTP/1.1\nHost: s3.test:443\n"
        monkeypatch.setenv("https_proxy", f"https://{proxy}")
        with pytest.raises(UsageError, match="must itself be reached by http://"):
            read()
        monkeypatch.setenv("no_proxy", "s3.test")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.test:1")
        before = len(heads)
        with pytest.raises(StoreError, match="cannot reach S3"):
            read()
        assert len(heads) == before


def test_a_tunnel_through_a_proxy_is_tls_to_the_end(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    """One server is proxy and S3: after its 200 to CONNECT it speaks TLS."""
    heads: list[str] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        while not connection.recv(4096, socket.MSG_PEEK).endswith(b"\r\n\r\n"):
            pass
        heads.append(connection.recv(4096).decode())
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        serve_one(context.wrap_socket(connection, server_side=True), [OK, OK], heads)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:4433")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert read() == read() == b"body"
    assert heads[0].startswith("CONNECT 127.0.0.1:4433 ") and heads[1].startswith("GET /bucket/k ")


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: r\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nconnection: Close\r\nX: " + b"y" * 40_000 + b"\r\nContent-Length: 1\r\n\r\na", b"a"),
    ],
)
def test_answers_of_every_form_are_read_and_the_connection_used_again(reply: bytes, body: bytes) -> None:
    own, before = ledger.Ledger(), ledger.current()
    ledger.use(own)
    try:
        http = Http(None, {})
        with serving([reply, OK]) as (host, heads):
            assert http.send("GET", ("http", host, "/"), {"host": host}).read(1 << 20) == body
            if b"Close" not in reply:
                assert http.send("GET", ("http", host, "/"), {"host": host}).read(1 << 20) == b"body"
        assert own.counts()["plan"]["GET"].get("ok") == len(heads)
        assert own.counts()["plan"]["GET"].get("bytes_down", 0) == len(body) + 4 * (len(heads) - 1)
        assert "lost" not in own.counts()["plan"]["GET"]
    finally:
        ledger.use(before)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 xyz\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600_000,
    ],
)
def test_an_answer_that_is_none_is_a_lost_request(reply: bytes) -> None:
    own, before = ledger.Ledger(), ledger.current()
    ledger.use(own)
    try:
        with serving([reply]) as (host, _), pytest.raises(Broken):
            Http(None, {}).send("GET", ("http", host, "/"), {"host": host}).read(1 << 20)
        assert own.counts()["plan"]["GET"]["lost"] == 1
    finally:
        ledger.use(before)


def test_a_header_cannot_smuggle_another() -> None:
    for bad in ("a\nb: c", "a\r\nb: c", "a\rb"):
        with pytest.raises(ValueError, match="line break"):
            Http(None, {}).send("GET", ("http", "127.0.0.1:1", "/"), {"host": "h", "if-match": bad})
    with pytest.raises(Unreachable):
        Http(None, {}).send("GET", ("http", "127.0.0.1:1", "/"), {"host": "h"})
