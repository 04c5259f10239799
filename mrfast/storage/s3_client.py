"""The requests of one process to S3: made by botocore or by us, and all signed, sent, retried and counted here.

    list, copy, multipart ... ─▶ botocore: parameters, XML ─before-send─┐
    get, put, part, head, delete ─▶ botocore's address of the bucket ───┴─▶ sign ─▶ Http ─▶ again? ─▶ answer

botocore spends 0.8 ms of Python on a call. What is frequent and has no XML takes from it only where the bucket is
(asked once, by letting botocore make a request that is then not sent), the region, and the credentials.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.httpsession import create_urllib3_context, get_cert_path
from botocore.utils import get_environ_proxies

from mrfast.storage.s3_http import Broken, Http, Reply, Unreachable, proxies_of
from mrfast.storage.s3_retry import (
    AGAIN,
    DAMAGED,
    ELSEWHERE,
    EXPIRED,
    FAILED,
    SKEW_S_MAX,
    SKEWED,
    THROTTLED,
    Patience,
    Refused,
    damage,
    damaged,
)
from mrfast.storage.sigv4 import UNSIGNED, Credentials, Signer, encode_path, encode_query

UNREACHABLE_TRIES_MAX = 2
BODY_BYTES_MAX = 64 << 20

_METHODS = {
    "get_object": "GET",
    "head_object": "HEAD",
    "put_object": "PUT",
    "upload_part": "PUT",
    "delete_object": "DELETE",
}
_HEADERS = {
    "Range": "range",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "ChecksumCRC32C": "x-amz-checksum-crc32c",
    "ChecksumMode": "x-amz-checksum-mode",
}
_QUERY = {"PartNumber": "partNumber", "UploadId": "uploadId"}
_SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=.+/\d{8}/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), Signature=.*"
)
_SIGNING = ("authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "expect")


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; `signer` is None if the headers are complete as they are."""

    method: str
    verb: str
    scheme: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    signer: Signer | None
    plain: Mapping[str, str]  # headers that are not signed
    body: Sequence[memoryview] = ()
    payload: str = UNSIGNED
    whole: bool = False  # the answer's body is read here, inside of the retries


@dataclass(slots=True)
class Whole:
    """An answer with its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def stream(self) -> list[bytes]:
        """The body, as botocore wants to read it."""
        return [self.body]

    @property
    def etag(self) -> str:
        """The object's etag, without quotes."""
        return self.headers.get("etag", "").strip('"')


Answer: TypeAlias = Reply | Whole


class _Prepared(Exception):  # noqa: N818
    def __init__(self, request: Any) -> None:
        self.request = request


class S3Client:
    """All of a process's requests under one set of AWS settings; for any thread."""

    def __init__(self) -> None:
        session = botocore.session.get_session()
        self.boto = session.create_client(
            "s3",
            config=Config(
                # Retries, connections and time-outs are ours.
                retries={"mode": "standard", "total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"payload_signing_enabled": False},
            ),
        )
        self.endpoint = str(self.boto.meta.endpoint_url)
        self._credentials = session.get_credentials()
        self._clock_offset_s = 0.0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._signers: dict[tuple[str, str], Signer] = {}
        self._places: dict[str, Request | None] = {}
        self._reached = False
        self.checksums = True  # whether the store lets itself be told them
        self.conditions: dict[str, bool] = {}  # which of the buckets that were asked honour If-None-Match
        proxies = proxies_of(get_environ_proxies(self.endpoint))
        context = None
        if "https" in (urlsplit(self.endpoint).scheme, urlsplit(proxies.get("http", "")).scheme):
            context = create_urllib3_context()
            bundle = get_cert_path(session.get_config_variable("ca_bundle") or True)
            context.load_verify_locations(*((None, bundle) if os.path.isdir(bundle) else (bundle,)))
        self._http = Http(context, proxies)
        self.boto.meta.events.register_first("before-send.s3", self._carry)

    # Made by us

    def ask(
        self, operation: str, bucket: str, key: str, patience: Patience, body: Sequence[memoryview] = (), **params: Any
    ) -> Answer:
        """The answer to one of the frequent operations; a GET's body is still to be read."""
        while True:
            place = self._place(bucket)
            request = self._made(operation, place, key, body, params) if place else None
            if request is None:
                prepared = self._prepare(operation, Bucket=bucket, Key=key, **params)
                request = replace(self._taken(prepared), body=body)
                if body:
                    request.headers["content-length"] = str(sum(map(len, body)))  # type: ignore[index]
            try:
                return self.exchange(request, patience)
            except Refused as error:
                sums = [name for name in params if name.startswith("Checksum")]
                if sums and _knows_no_checksums(error):
                    for name in sums:
                        del params[name]
                    self.checksums = False
                    continue
                if not self._is_elsewhere(error, request) or not patience.cure("region"):
                    raise
                # botocore finds out where the bucket is, and remembers it.
                self.boto.head_bucket(Bucket=bucket)
                self._places.pop(bucket, None)

    def _made(
        self, operation: str, place: Request, key: str, body: Sequence[memoryview], params: Mapping[str, Any]
    ) -> Request:
        method = _METHODS[operation]
        headers = {"host": place.host}
        query = []
        for name, value in params.items():
            if name in _QUERY:
                query.append((_QUERY[name], str(value)))
            else:
                headers[_HEADERS[name]] = value
        plain = place.plain
        if method == "PUT":
            plain = {**plain, "content-length": str(sum(map(len, body)))}
        return Request(
            method,
            method,
            place.scheme,
            place.host,
            place.path + encode_path(key),
            encode_query(query) if query else "",
            headers,
            place.signer,
            plain,
            body,
            whole=method != "GET",
        )

    def _place(self, bucket: str) -> Request | None:
        """Where a bucket's objects are, as a request for one without its key; None if we cannot sign for it."""
        try:
            return self._places[bucket]
        except KeyError:
            request = self._taken(self._prepare("get_object", Bucket=bucket, Key="k"))
            fit = request.signer is not None and not request.query and request.path.endswith("/k")
            place = replace(request, path=request.path[:-1]) if fit else None
            self._places[bucket] = place
            return place

    def _prepare(self, operation: str, **params: Any) -> Any:
        """The request that botocore would send."""
        self._local.preparing = "".join(word.title() for word in operation.split("_"))
        try:
            getattr(self.boto, operation)(**params)
        except _Prepared as prepared:
            return prepared.request
        finally:
            self._local.preparing = None
        raise AssertionError("unreachable: the request is never sent")

    @staticmethod
    def _is_elsewhere(error: Refused, request: Request) -> bool:
        malformed = request.method == "HEAD" and error.status == 400 and "x-amz-bucket-region" in error.headers
        return error.code in ELSEWHERE or error.status in (301, 307) or malformed

    # Made by botocore

    def _carry(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        """Sends for botocore what it has made."""
        if getattr(self._local, "preparing", None) == event_name.rpartition(".")[2]:
            raise _Prepared(request)
        url, patience = request.url, Patience()
        try:
            answer = self.exchange(replace(self._taken(request), whole=True), patience)
        except Refused as error:
            answer = Whole(error.status, error.headers, error.body)
        finally:
            self._local.unsure = patience.unsure
        return AWSResponse(url, answer.status, answer.headers, answer)

    def was_unsure(self) -> bool:
        """Whether a try of this thread's last call by botocore may have been carried out without saying so."""
        return bool(self._local.unsure)

    def _taken(self, request: Any) -> Request:
        """A request of botocore's as ours; it is signed anew if it has the usual kind of signature."""
        parts = urlsplit(request.url)
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        signature = _SIGNATURE.fullmatch(headers.get("authorization", ""))
        signer, signed, payload = None, set(headers) - {"expect"}, headers.get("x-amz-content-sha256", UNSIGNED)
        if signature and "x-amz-s3session-token" not in headers:
            region, service, names = signature.groups()
            signer = self._signers.setdefault((region, service), Signer(region, service))
            signed = set(names.split(";")).difference(_SIGNING)
        headers["host"] = parts.netloc
        body = request.body.read() if hasattr(request.body, "read") else request.body
        if isinstance(body, str):
            body = body.encode()
        left_out = _SIGNING if signer else ("expect",)
        pairs = parts.query.split("&")
        return Request(
            request.method,
            _verb_of(request.method, headers, parts.query),
            parts.scheme,
            parts.netloc,
            parts.path or "/",
            "&".join(f"{name}={value}" for name, _, value in sorted(pair.partition("=") for pair in pairs if pair)),
            {name: value for name, value in headers.items() if name in signed or name == "host"},
            signer,
            {name: value for name, value in headers.items() if name not in signed and name not in (*left_out, "host")},
            (memoryview(body),) if body else (),
            payload,
        )

    # Sent

    def exchange(self, request: Request, patience: Patience) -> Answer:
        """The answer, if it is a success; Refused with what it says, Unreachable, Broken, when patience is over."""
        while True:
            credentials = self._frozen() if request.signer else None
            try:
                reply = self._send(request, credentials)
                answer = Whole(reply.status, reply.headers, reply.read(BODY_BYTES_MAX)) if request.whole else reply
                self._reached = True
            except Unreachable:
                # An endpoint that never answered is a wrong address, not an outage to wait for.
                hopeless = not self._reached and patience.failures + 1 >= UNREACHABLE_TRIES_MAX
                if hopeless or not patience.again():
                    raise
                continue
            except Broken:
                patience.unsure = True
                if not patience.again():
                    raise
                continue
            hidden = isinstance(answer, Whole) and _hides_an_error(request, answer)
            if answer.status < 300 and not hidden:
                what = _damage(request, answer)
                if not what:
                    return answer
                error = damaged(answer.headers, what)
            else:
                body = answer.body if isinstance(answer, Whole) else reply.read(BODY_BYTES_MAX)
                error = Refused(500 if hidden else answer.status, answer.headers, body)
            if not self._is_worth_a_try(error, request, credentials, patience):
                raise error

    def _send(self, request: Request, credentials: Credentials | None) -> Reply:
        headers, target = request.headers, request.path
        if request.signer and credentials:
            now = time.time() + self._clock_offset_s
            headers = request.signer.signed(
                request.method, request.path, request.query, headers, credentials, now, request.payload
            )
        if request.query:
            target = f"{target}?{request.query}"
        url = request.scheme, request.host, target
        return self._http.send(request.method, url, {**headers, **request.plain}, request.body, request.verb)

    def _is_worth_a_try(
        self, error: Refused, request: Request, credentials: Credentials | None, patience: Patience
    ) -> bool:
        """Whether another try may help; True comes after the wait for it, or after what was wrong was put right."""
        bare = request.method == "HEAD"  # its answer has no body that says what is wrong
        if error.status in THROTTLED:
            patience.unsure |= error.code != "SlowDown"
            return patience.again(throttled=True)
        if error.status in FAILED or error.code in AGAIN or error.code in DAMAGED:
            patience.unsure |= error.status in FAILED
            return patience.again()
        if error.code == SKEWED or (bare and error.status == 403):
            offset = _offset_s(error.headers.get("date", ""))
            off = abs(offset - self._clock_offset_s) > SKEW_S_MAX
            if off and patience.cure("clock"):
                self._clock_offset_s = offset
                return True
        if error.code in EXPIRED or (bare and error.status == 400):
            return credentials is not None and self._renewed(credentials) and patience.cure("credentials")
        return False

    def _frozen(self) -> Credentials:
        frozen: Credentials = self._credentials.get_frozen_credentials()
        return frozen

    def _renewed(self, used: Credentials) -> bool:
        """Whether there are other credentials now than those that were refused."""
        with self._lock:
            if self._frozen() == used:
                # A new session asks the providers again: files, processes and roles may have new ones.
                found = botocore.session.get_session().get_credentials()
                if found is None or found.get_frozen_credentials() == used:
                    return False
                self._credentials = found
            return True


def _verb_of(method: str, headers: Mapping[str, str], query: str) -> str:
    """What the request counts as in the ledger and in the price list."""
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "COPY"
    return "LIST" if method == "GET" and ("list-type=" in query or query.startswith("uploads")) else method


def _hides_an_error(request: Request, answer: Whole) -> bool:
    """Copies and completions say 200 while they still work, and may end with an error nevertheless."""
    return answer.status == 200 and request.verb in ("COPY", "POST") and b"<Error>" in answer.body[:1024]


def _damage(request: Request, answer: Answer) -> str:
    """What botocore could not read, or would read as something else."""
    if request.verb not in ("LIST", "COPY", "POST") or not isinstance(answer, Whole):
        return ""
    listing = "list-type=2" in request.query
    return damage(answer.body, listing=listing) if listing or answer.body else ""


def _knows_no_checksums(error: Refused) -> bool:
    return error.code == "NotImplemented" and "checksum" in str(error).lower()


def _offset_s(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return 0.0


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
