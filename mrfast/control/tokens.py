"""The token that a coordinator and its workers share: where it is read from."""

from __future__ import annotations

import os

from mrfast.errors import UsageError


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
