"""Which answers of S3 are worth another try, and how long to wait for it. Knows no HTTP and no boto3."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Mapping
from html import escape, unescape
from typing import Any
from xml.etree import ElementTree

FAILURES_MAX = 8
WAIT_S_MAX = 120.0
BACKOFF_S = 0.1
BACKOFF_S_MAX = 5.0

THROTTLED = 429, 503
FAILED = 500, 502, 504
AGAIN = ("RequestTimeout", "ConditionalRequestConflict", "OperationAborted")
# What arrived is not what was sent; the last one is ours, for an answer.
DAMAGED = ("BadDigest", "XAmzContentChecksumMismatch", "DamagedAnswer")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
ELSEWHERE = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed")
SKEWED = "RequestTimeTooSkewed"
SKEW_S_MAX = 300.0

_FIELD = re.compile(r"<(Code|Message|RequestId|Region|Endpoint)>([^<]*)</\1>")


class Refused(Exception):  # noqa: N818
    """An answer that is no success, with what it says in `response`, which has the shape of botocore's ClientError."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        said = {name: unescape(text) for name, text in _FIELD.findall(body[:65536].decode("utf-8", "replace"))}
        self.status, self.headers, self.body = status, headers, body
        self.code = said.get("Code") or str(status)
        self.response: dict[str, Any] = {
            "Error": {"Code": self.code, "Message": said.get("Message", ""), "Region": said.get("Region", "")},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": headers.get("x-amz-request-id") or said.get("RequestId"),
            },
        }
        super().__init__(f"{self.code}: {said.get('Message', '')}")


_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?Z")


def damage(body: bytes, *, listing: bool) -> str:
    """What is wrong with a success's XML; of a listing also what every one has to have. "" if nothing is seen."""
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return f"no XML: {error}"
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
    if not listing or root.tag != "ListBucketResult":
        return "no listing" if listing else ""
    more = root.findtext("IsTruncated", "false")
    if more not in ("true", "false") or (more == "true" and not root.findtext("NextContinuationToken")):
        return "it does not say whether there is more"
    for found in root.iter("Contents"):
        size, at = found.findtext("Size", ""), found.findtext("LastModified")
        if not found.findtext("Key") or not found.findtext("ETag") or not (size.isascii() and size.isdecimal()):
            return "an object without its key, etag or size"
        if at is not None and not _TIME.fullmatch(at):
            return "an object of no time"
    return ""


def damaged(headers: Mapping[str, str], what: str) -> Refused:
    """The refusal of a success whose body is damaged."""
    return Refused(500, headers, f"<Error><Code>DamagedAnswer</Code><Message>{escape(what)}</Message></Error>".encode())


class Patience:
    """How often and how long one call is tried: eight failures; being throttled counts only as time, two minutes."""

    def __init__(self) -> None:
        wanted = os.environ.get("AWS_MAX_ATTEMPTS", "")
        self._failures_max = int(wanted) if wanted.isdecimal() else FAILURES_MAX
        self._began = time.monotonic()
        self._waited_s = 0.0
        self.tries = 1
        self.failures = 0
        self.unsure = False  # whether a try that failed may have been carried out
        self.done: set[str] = set()  # the cures that were tried: each helps once

    def again(self, *, throttled: bool = False) -> bool:
        """True after the wait before the next try; False if there should be none."""
        self.failures += not throttled
        delay = random.uniform(0, min(BACKOFF_S_MAX, BACKOFF_S * 2 ** min(self.tries - 1, 10)))
        if self.failures >= self._failures_max or self._spent_s() + delay > WAIT_S_MAX:
            return False
        time.sleep(delay)
        self._waited_s += delay
        self.tries += 1
        return True

    def cure(self, name: str) -> bool:
        """Whether this cure is still to be tried; the next try comes at once."""
        if name in self.done:
            return False
        self.done.add(name)
        self.tries += 1
        return True

    def _spent_s(self) -> float:
        return max(time.monotonic() - self._began, self._waited_s)
