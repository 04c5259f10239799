"""TLS between real processes and over a real connection: who is admitted, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mrfast.control import messages
from mrfast.control.coordinator import check_listen
from mrfast.control.rpc import Connection
from mrfast.control.server import LineServer, Peer, Reply
from mrfast.control.tls import client_context, server_context
from mrfast.control.tokens import token_from, write_token
from mrfast.errors import CoordinatorLost, OutputExists, UsageError
from mrfast.model import FRAME_BYTES_MAX

ROOT = Path(__file__).resolve().parent.parent
TOKEN = b"a token"
BIG = "x" * (FRAME_BYTES_MAX - 1000)


class Authority:
    """A certificate authority for one test folder."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder = folder
        self._x509, self._hash = x509, hashes.SHA256()
        self._new_key = lambda: ec.generate_private_key(ec.SECP256R1())
        self._key = self._new_key()
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"CA of {folder.name}")])
        self._id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = made.add_extension(usage, True).add_extension(self._id, False)
        self.ca = self._write("ca.pem", made.sign(self._key, self._hash))

    def certificate(self, name: str, address: str = "127.0.0.1") -> tuple[str, str]:
        """The files of a certificate for this address and of its key."""
        x509 = self._x509
        key = self._new_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._id)
        made = self._builder(subject, key).add_extension(names, False).add_extension(authority, False)
        return self._write(f"{name}.pem", made.sign(self._key, self._hash)), self._write_key(f"{name}.key", key)

    def locked_key(self, name: str) -> str:
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

        return self._write_key(name, self._new_key(), BestAvailableEncryption(b"secret"))

    def _builder(self, subject: Any, key: Any) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        builder = self._x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(self._x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))

    def _write(self, name: str, certificate: Any) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding

        (self.folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))
        return str(self.folder / name)

    def _write_key(self, name: str, key: Any, encryption: Any = None) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "tls").mkdir()
    return Authority(tmp_path / "tls")


@contextmanager
def serving(tls: ssl.SSLContext | None, token: bytes | None = None) -> Iterator[tuple[str, int]]:
    """The address of a server that answers `status` with a line of nearly a mebibyte."""
    ready = threading.Event()
    address: list[tuple[str, int]] = []
    loop = asyncio.new_event_loop()

    def answer(peer: Peer, params: Any, reply: Reply) -> None:
        reply({"big": BIG})

    async def serve() -> None:
        server = LineServer({"status": answer}, token=token, tls=tls, on_close=lambda peer: None)
        address.append(await server.start("127.0.0.1", 0))
        stop.append(asyncio.Event())
        ready.set()
        await stop[0].wait()
        await server.close()

    stop: list[asyncio.Event] = []
    loop.set_exception_handler(lambda loop, context: None)  # refused handshakes
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop[0].set)
        thread.join(30)
        loop.close()
        assert not thread.is_alive()


def asked(connection: Connection) -> Any:
    got: list[Any] = []
    connection.call("status", messages.Status(), got.append)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while not got:
            assert selector.select(30)
            connection.on_ready()
    return got[0]


@pytest.mark.parametrize("token", [None, TOKEN])
def test_calls_and_long_replies_go_through(authority: Authority, token: bytes | None):
    with serving(server_context(*authority.certificate("here"), None), token) as address:
        connection = Connection(address, token, timeout_s=10, tls=client_context(None, None, authority.ca))
        assert [asked(connection)["big"] for _ in range(3)] == [BIG] * 3
        connection.close()


def test_what_goes_over_the_wire_is_encrypted(authority: Authority):
    tls = server_context(*authority.certificate("here"), None)
    with serving(tls) as address, socket.create_connection(address, timeout=30) as raw:
        raw.sendall(b'{"jsonrpc":"2.0","id":1,"method":"auth","params":{"nonce":"n"}}\n')
        assert b"jsonrpc" not in raw.makefile("rb").read()


def test_a_certificate_of_another_authority_is_refused(authority: Authority, tmp_path: Path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with serving(server_context(*other.certificate("there"), None)) as address:
        with pytest.raises(CoordinatorLost, match=r"no TLS.*--tls-ca does not vouch") as raised:
            Connection(address, None, timeout_s=10, tls=client_context(None, None, authority.ca))
        assert raised.value.__cause__ is None  # final: the worker does not try again


def test_a_certificate_for_another_address_is_refused(authority: Authority):
    tls = server_context(*authority.certificate("elsewhere", "10.0.0.1"), None)
    with serving(tls) as address, pytest.raises(CoordinatorLost, match=r"not valid for '127\.0\.0\.1'"):
        Connection(address, None, timeout_s=10, tls=client_context(None, None, authority.ca))


def test_a_coordinator_with_an_authority_admits_its_certificates_only(authority: Authority):
    with serving(server_context(*authority.certificate("here"), authority.ca)) as address:
        with pytest.raises(CoordinatorLost, match="a certificate from us, --tls-cert"):
            Connection(address, None, timeout_s=10, tls=client_context(None, None, authority.ca))
        mine = client_context(*authority.certificate("worker"), authority.ca)
        connection = Connection(address, None, timeout_s=10, tls=mine)
        assert asked(connection)["big"] == BIG
        connection.close()


def test_tls_on_one_side_only_is_said(authority: Authority):
    with serving(None) as address, pytest.raises(CoordinatorLost, match="speaks without"):
        Connection(address, None, timeout_s=10, tls=client_context(None, None, authority.ca))
    tls = server_context(*authority.certificate("here"), None)
    with serving(tls) as address, pytest.raises(CoordinatorLost, match=r"protocol|TLS, --tls-ca is needed"):
        Connection(address, None, timeout_s=10)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path):
    cert, key = authority.certificate("here")
    other_key = authority.certificate("other")[1]
    empty = tmp_path / "empty"
    empty.touch()
    for bad, word in (
        ((cert, other_key, None), "--tls-key"),
        ((cert, None, None), "private key"),
        ((cert, str(tmp_path / "none"), None), "No such file"),
        ((cert, key, str(empty)), "--tls-ca"),
        ((None, key, None), "without --tls-cert"),
        ((None, None, authority.ca), "without --tls-cert"),
        ((cert, authority.locked_key("locked.key"), None), "passphrase"),
    ):
        with pytest.raises(UsageError, match=word):
            server_context(*bad)
    for bad, word in (((cert, key, None), "without --tls-ca"), ((None, key, authority.ca), "without --tls-cert")):
        with pytest.raises(UsageError, match=word):
            client_context(*bad)
    assert server_context(None, None, None) is client_context(None, None, None) is None


def test_a_new_token_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "token"
    before = os.umask(0)
    try:
        write_token(str(path))
    finally:
        os.umask(before)
    token = token_from({}, str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert token is not None and len(token) == 64
    with pytest.raises(OutputExists, match="exists already"):
        write_token(str(path))
    assert token_from({}, str(path)) == token


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_insecure_says_what_it_does(host: str):
    assert host in check_listen(host, None, insecure=True)
    assert check_listen(host, TOKEN, insecure=True) == ""
    assert check_listen("127.0.0.1", None, insecure=True) == ""


def command(name: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    code = f"import sys; from mrfast.cli import {name}; {name}()"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MR")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_job_with_token_and_tls_from_the_command_line(authority: Authority, tmp_path: Path):
    (tmp_path / "in.txt").write_text("a b a\n")
    assert command("main", "token", "t", folder=tmp_path).wait(60) == 0
    assert command("main", "token", "other", folder=tmp_path).wait(60) == 0
    cert, key = authority.certificate("here")
    coordinator = command(
        "coordinator_main", "--listen", "127.0.0.1:0", "--token-file", "t", "--tls-cert", cert, "--tls-key", key,
        "--linger-s", "0", "-o", "out", "in.txt", folder=tmp_path,
    )  # fmt: skip
    try:
        assert coordinator.stderr is not None
        said = coordinator.stderr.readline()
        assert "listening on 127.0.0.1:" in said
        address = said.split("listening on ")[1].split(";")[0]
        app = str(ROOT / "apps" / "wc.py")
        wrong = command("worker_main", app, address, "--token-file", "other", "--tls-ca", authority.ca, folder=tmp_path)
        assert wrong.communicate(timeout=60)[1].count("\n") == 1
        assert wrong.returncode == 5
        right = command("worker_main", app, address, "--token-file", "t", "--tls-ca", authority.ca, folder=tmp_path)
        assert right.communicate(timeout=60)[0] is not None
        assert right.returncode == 0
        coordinator.communicate(timeout=60)
        assert coordinator.returncode == 0
    finally:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.communicate()
    parts = sorted((tmp_path / "out").glob("mr-out-*"))
    assert sorted(line for path in parts for line in path.read_text().splitlines()) == ["a 2", "b 1"]
