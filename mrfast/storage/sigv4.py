"""AWS Signature Version 4 of one request: pure, and cheap enough to sign each small read anew.

botocore makes the same signature in a hundred times as long, since it has to look at everything; here the caller hands
over what it has built: a path and a query that are encoded already, and headers with names in lower case.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"


class Credentials(NamedTuple):
    """What a request is signed with; botocore's frozen credentials have the same names."""

    access_key: str
    secret_key: str
    token: str | None = None


def encode_path(key: str) -> str:
    """The key as it stands in a URL's path, and in the signature."""
    return quote(key, safe="/~")


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """The canonical query string: encoded, in the order of the encoded names."""
    encoded = [(quote(name, safe="~"), quote(value, safe="~")) for name, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


class Signer:
    """Signs for one service in one region; any thread may use it."""

    def __init__(self, region: str, service: str = "s3") -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._region, self._service = region, service
        # Replaced as a whole, so that threads need no lock: (second, its text); ((secret, day), signing key).
        self._clock = (-1, "")
        self._key: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        credentials: Credentials,
        now: float,
        payload: str = UNSIGNED,
    ) -> dict[str, str]:
        """All of the headers, and those that sign them; `host` must be among the given ones."""
        second, stamp = self._clock
        if second != int(now):
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(int(now)))
            self._clock = int(now), stamp
        sent = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        access_key, secret_key, token = credentials[:3]
        if token:
            sent["x-amz-security-token"] = token
        names = sorted(sent)
        lines = "".join([f"{name}:{' '.join(sent[name].split())}\n" for name in names])
        signed = ";".join(names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload}"
        scope = f"{stamp[:8]}/{self._scope}"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(secret_key, stamp[:8]), text.encode(), "sha256").hex()
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
        return sent

    def _signing_key(self, secret: str, day: str) -> bytes:
        known, key = self._key
        if known != (secret, day):
            key = f"AWS4{secret}".encode()
            for step in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._key = (secret, day), key
        return key
