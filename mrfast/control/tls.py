"""TLS between a coordinator and its workers: contexts from the files that both sides name.

Each side shows its certificate (--tls-cert, --tls-key) and demands of the other one that it is signed by --tls-ca: a
coordinator with a CA admits nobody without a certificate of it, a worker always checks the name or address it calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrfast.errors import UsageError

if TYPE_CHECKING:
    from ssl import SSLContext


def server_context(cert: str | None, key: str | None, ca: str | None) -> SSLContext | None:
    """What a coordinator listens with; None where none of the files is named. UsageError for what cannot be used."""
    if cert is None:
        if key is not None or ca is not None:
            raise UsageError("--tls-key or --tls-ca without --tls-cert: a coordinator with TLS needs a certificate")
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show(context, cert, key)
    if ca is not None:
        _trust(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(cert: str | None, key: str | None, ca: str | None) -> SSLContext | None:
    """What a worker calls with; None where none of the files is named. UsageError for what cannot be used."""
    if ca is None:
        if key is not None or cert is not None:
            raise UsageError("--tls-cert or --tls-key without --tls-ca: whose certificate is the coordinator to have?")
        return None
    if key is not None and cert is None:
        raise UsageError("--tls-key without --tls-cert: a key is of use only with its certificate")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate, and that it is the host's
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _trust(context, ca)
    if cert is not None:
        _show(context, cert, key)
    return context


def not_now() -> tuple[type[OSError], ...]:
    """The errors by which a socket under TLS says that it would block."""
    import ssl

    return BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError


def refusal(error: Exception) -> str:
    """Why TLS with the other side is impossible and stays so; "" for an error that is none of TLS's."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"--tls-ca does not vouch for its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return ""
    reason = _why(error)
    if "wrong version number" in reason:
        return "it speaks without; start it with --tls-cert, or leave --tls-ca out here"
    return reason


def _show(context: SSLContext, cert: str, key: str | None) -> None:
    import ssl

    _readable("--tls-cert", cert)
    if key is not None:
        _readable("--tls-key", key)

    def no_password() -> str:  # a prompt would hang a service for ever
        raise UsageError(f"--tls-key {key or cert}: it has a passphrase; name a key without one, readable by you alone")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        where = f"--tls-cert {cert}" + (f" --tls-key {key}" if key else "")
        raise UsageError(f"{where}: {_why(error)}; a certificate in PEM and its own private key are needed") from None


def _trust(context: SSLContext, ca: str) -> None:
    import ssl

    _readable("--tls-ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UsageError(f"--tls-ca {ca}: {_why(error)}; certificates in PEM are needed") from None


def _readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from None


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
