"""The token that a coordinator and its workers share: made here, and read here."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress

from mrfast.errors import MrfastError, OutputExists, UsageError

TOKEN_BYTES = 32


def token_from(environment: dict[str, str] | os._Environ[str], token_file: str | None = None) -> bytes | None:
    """The token of --token-file, else of MRFAST_TOKEN; None without either. A file others can read is refused."""
    if token_file is None:
        token = environment.get("MRFAST_TOKEN", "").strip().encode()
        return token or None
    try:
        with open(token_file, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read().strip()
    except OSError as error:
        raise UsageError(f"--token-file {token_file}: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(f"--token-file {token_file}: others can read it; chmod 600 {token_file}")
    if not token:
        raise UsageError(f"--token-file {token_file}: it is empty")
    return token


def new_token() -> str:
    """A token that nobody guesses."""
    return os.urandom(TOKEN_BYTES).hex()


def write_token(path: str) -> None:
    """A new token in a new file that only its owner can read; a file that is there is never replaced."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise OutputExists(f"{path} exists already; use it, name another file, or remove it first") from None
    except OSError as error:
        raise MrfastError(f"{path}: cannot be written: {error.strerror}; name another file") from None
    with open(descriptor, "w") as file:
        file.write(f"{new_token()}\n")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
