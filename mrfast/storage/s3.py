"""A bucket (or a prefix of one) as a store, at S3 or at any endpoint that botocore can be pointed at.

All settings are botocore's own (`AWS_ENDPOINT_URL_S3`, `AWS_PROFILE`, ...). Requests are retried by botocore alone;
what it cannot retry, a body that breaks off, is fetched on here from where it stopped.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
)
from urllib3.exceptions import HTTPError

from mrfast.errors import AlreadyExists, MrfastError, NotFound, PreconditionFailed, StoreError
from mrfast.storage.base import Buffers, ObjectInfo, Store, check_key, copy_through, iter_chunks, join, read, shown
from mrfast.storage.s3_errors import code_of, retries_of, translate

SINGLE_PUT_BYTES = 64 << 20
PART_BYTES = 32 << 20
# Parts grow as their number does, so that 10,000 of them hold all that S3 can.
PARTS_PER_SIZE = 2_000
COPY_WHOLE_BYTES = 5 << 30
COPY_PART_BYTES = 1 << 30
READ_CHUNK_BYTES = 256 << 10
READ_TRIES_MAX = 8
CONFLICT_TRIES_MAX = 8
ATTEMPTS_MAX = 8
UNREACHABLE_ATTEMPTS_MAX = 2
CONNECT_S = 3
READ_IDLE_S = 20
POOL_CONNECTIONS = 32
KEY_BYTES_MAX = 1024

# ValueError is what botocore says to an endpoint that is not a URL.
_CALL_ERRORS = (BotoCoreError, ClientError, ValueError)
_BODY_ERRORS = (BotoCoreError, HTTPError, OSError)


class _Connection:
    """A process's one boto3 client, and whether its endpoint has ever answered."""

    def __init__(self) -> None:
        retries: dict[str, Any] = {}
        if "AWS_RETRY_MODE" not in os.environ:
            retries["mode"] = "standard"
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = ATTEMPTS_MAX
        self.reached = False
        self.client = boto3.session.Session().client(
            "s3",
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_IDLE_S,
                max_pool_connections=POOL_CONNECTIONS,
                retries=retries or None,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"payload_signing_enabled": False},
            ),
        )
        self.client.meta.events.register_first("needs-retry.s3", self._give_up_early)

    def _give_up_early(self, attempts: int, caught_exception: Exception | None, **_: Any) -> bool | None:
        """False ends the retries: an endpoint that never answered is a wrong address, not an outage to wait for."""
        unreachable = isinstance(caught_exception, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError))
        if caught_exception is None:
            self.reached = True
        return False if unreachable and not self.reached and attempts >= UNREACHABLE_ATTEMPTS_MAX else None


_connections: dict[tuple[int, frozenset[tuple[str, str]]], _Connection] = {}
_lock = threading.Lock()


def _forget_connections() -> None:
    global _lock
    _lock = threading.Lock()
    _connections.clear()


# Sockets, and a lock that another thread may hold, must not be shared with a forked child.
os.register_at_fork(after_in_child=_forget_connections)


def _connection() -> _Connection:
    """This process's connection; another one only when the AWS settings in the environment have changed."""
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    with _lock:
        found = _connections.get((os.getpid(), settings))
        if found is None:
            found = _connections[os.getpid(), settings] = _Connection()
        return found


class S3Store:
    """Objects of one bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._connected: tuple[int, _Connection] | None = None

    @property
    def url(self) -> str:
        """`s3://bucket`, with the prefix if there is one."""
        return f"s3://{self.bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects under the prefix, in byte order, a page of 1,000 at a time."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", None, Prefix=self._prefix + prefix, **token)
            for found in page.get("Contents", ()):
                yield ObjectInfo(found["Key"][len(self._prefix) :], found["Size"], found["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and etag, by one HEAD."""
        try:
            head = self._call("head_object", key)
        except NotFound:
            # A HEAD's 404 has no body that would tell a missing bucket from a missing key.
            self._check_bucket()
            raise
        return ObjectInfo(key, head["ContentLength"], head["ETag"].strip('"'))

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes read by ranged GETs, all of one version; a body that breaks off is fetched on."""
        view = memoryview(buffer).cast("B")
        filled, end, tries = 0, len(view), 0
        while filled < end:
            try:
                response = self._get(key, offset + filled, offset + end, etag)
                if response is None:
                    break
                etag = response["ETag"].strip('"')
                end = min(end, filled + response["ContentLength"])
                with closing(response["Body"]) as body:
                    while filled < end and (got := body.readinto(view[filled : min(end, filled + READ_CHUNK_BYTES)])):
                        filled += got
                why = "the body ended early"
            except _BODY_ERRORS as error:
                why = str(error)
            if filled < end:
                tries += 1
                if tries >= READ_TRIES_MAX:
                    raise StoreError(
                        f"reading {self._shown(key)} broke off {tries} times, last at byte"
                        f" {offset + filled}: {why}; check the network"
                    )
                time.sleep(_backoff_s(tries - 1))
        return filled

    def put(self, key: str, chunks: Buffers, *, durable: bool = False) -> ObjectInfo:
        """The object written by one PUT, or by a multipart upload beyond 64 MiB; S3 is always durable."""
        # What an iterator yields may be one buffer, filled again and again: it is copied, and less of it is kept.
        flows = isinstance(chunks, Iterator)
        whole_bytes = PART_BYTES if flows else SINGLE_PUT_BYTES
        head: list[memoryview] = []
        size = 0
        pieces = iter_chunks(chunks)
        for piece in pieces:
            head.append(memoryview(bytes(piece)) if flows else piece)
            size += len(piece)
            if size > whole_bytes:
                return self._put_parts(check_key(key), chain(head, pieces))
        return self._put_whole(key, chunks if isinstance(chunks, bytes) else b"".join(head))

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        """The object written if there was none (If-None-Match: *)."""
        try:
            return self._put_whole(key, join(data), IfNoneMatch="*")
        except PreconditionFailed as error:
            raise AlreadyExists(f"{self._shown(key)} exists already") from error

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        """The object written over the one with this etag (If-Match)."""
        return self._put_whole(key, join(data), IfMatch=f'"{etag}"')

    def copy_to(self, key: str, other: Store, other_key: str) -> None:
        """Copies the object inside of S3, whatever its size; into another kind of store through this process."""
        if not isinstance(other, S3Store):
            copy_through(self, key, other, other_key)
            return
        info = self.stat(key)
        source = {
            "CopySource": {"Bucket": self.bucket, "Key": self._prefix + key},
            "CopySourceIfMatch": f'"{info.etag}"',
        }
        if info.size <= COPY_WHOLE_BYTES:
            other._call("copy_object", other_key, **source)
            return
        with _Multipart(other, other_key) as upload:
            for start in range(0, info.size, COPY_PART_BYTES):
                last = min(start + COPY_PART_BYTES, info.size) - 1
                upload.add("upload_part_copy", CopySourceRange=f"bytes={start}-{last}", **source)

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""
        self._call("delete_object", check_key(key))

    def sweep(self, prefix: str) -> None:
        """Nothing: an object is there whole or not at all; a killed upload is what a lifecycle rule removes."""

    def _call(self, operation: str, key: str | None, **params: Any) -> Any:
        """The answer of one S3 operation, or the error that says what to do."""
        full = None
        if key is not None:
            full = params["Key"] = self._prefix + key
            if not key or len(full.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX or not _is_unicode(full):
                raise StoreError(
                    f"S3 has no key like {full[:200]!r}: it is empty, over {KEY_BYTES_MAX} bytes, or not UTF-8"
                )
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        try:
            client = self._connect().client
            endpoint = client.meta.endpoint_url
            return getattr(client, operation)(Bucket=self.bucket, **params)
        except _CALL_ERRORS as error:
            raise translate(error, operation, self.bucket, full, endpoint) from error

    def _shown(self, key: str) -> str:
        return shown(f"s3://{self.bucket}/{self._prefix}{key}")

    def _connect(self) -> _Connection:
        pid = os.getpid()
        if self._connected is None or self._connected[0] != pid:
            self._connected = pid, _connection()
        return self._connected[1]

    def _check_bucket(self) -> None:
        try:
            self._call("head_bucket", None)
        except NotFound as error:
            raise StoreError(
                f"no such bucket: {self.bucket} at {self._connect().client.meta.endpoint_url};"
                " check its name, or create it"
            ) from error

    def _get(self, key: str, start: int, stop: int, etag: str | None) -> Any:
        """The answer to a ranged GET; None past the object's end."""
        condition = {} if etag is None else {"IfMatch": f'"{etag}"'}
        try:
            response = self._call("get_object", key, Range=f"bytes={start}-{stop - 1}", **condition)
        except StoreError as error:
            if error.__cause__ is None or code_of(error.__cause__) not in ("InvalidRange", "416"):  # type: ignore[arg-type]
                raise
            response = None
        found = self.stat(key).etag if response is None and etag is not None else etag
        if response is not None:
            found = response["ETag"].strip('"')
            if start and response["ResponseMetadata"]["HTTPStatusCode"] != 206:
                raise StoreError(f"S3 at {self._connect().client.meta.endpoint_url} ignores ranges; mrfast needs them")
        if etag is not None and found != etag:
            raise PreconditionFailed(f"{self._shown(key)} has changed: etag {found}, not {etag}")
        return response

    def _put_whole(self, key: str, body: bytes, **condition: str) -> ObjectInfo:
        check_key(key)
        for tries in range(CONFLICT_TRIES_MAX):
            try:
                answer = self._call("put_object", key, Body=body, **condition)
            except MrfastError as error:
                cause = error.__cause__
                if isinstance(error, PreconditionFailed) and isinstance(cause, Exception) and retries_of(cause):
                    return self._own_success(key, body, error)
                conflict = isinstance(cause, Exception) and code_of(cause) in ("ConditionalRequestConflict", "409")
                if not conflict or tries == CONFLICT_TRIES_MAX - 1:
                    raise
                time.sleep(_backoff_s(tries))
            else:
                return ObjectInfo(key, len(body), answer["ETag"].strip('"'))
        raise AssertionError("unreachable: the last try returns or raises")

    def _own_success(self, key: str, body: bytes, refused: PreconditionFailed) -> ObjectInfo:
        """The object, if it is what we sent: the first try did write it, and only its answer was lost."""
        info = self.stat(key)
        if info.size != len(body) or read(self, key) != body:
            raise refused
        return info

    def _put_parts(self, key: str, pieces: Iterator[memoryview]) -> ObjectInfo:
        size = 0
        with _Multipart(self, key) as upload:
            part = bytearray()
            for piece in pieces:
                while len(piece):
                    room = upload.part_bytes - len(part)
                    part += piece[:room]
                    piece = piece[room:]
                    if len(part) == upload.part_bytes:
                        size += upload.add("upload_part", Body=part)
                        part = bytearray()
            if part:
                size += upload.add("upload_part", Body=part)
        return ObjectInfo(key, size, upload.etag)


class _Multipart:
    """A multipart upload: completed at the end of its `with` block, aborted if that raises."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store, self._key = store, key
        self._parts: list[dict[str, Any]] = []
        self._id = ""
        self.etag = ""

    def __enter__(self) -> _Multipart:
        self._id = self._store._call("create_multipart_upload", self._key)["UploadId"]
        return self

    @property
    def part_bytes(self) -> int:
        """How big the next part should be."""
        return PART_BYTES << (len(self._parts) // PARTS_PER_SIZE)

    def add(self, operation: str, **params: Any) -> int:
        """The length of the body, which is uploaded as the next part (0 for a copied part)."""
        number = len(self._parts) + 1
        answer = self._store._call(operation, self._key, UploadId=self._id, PartNumber=number, **params)
        self._parts.append({"PartNumber": number, "ETag": answer.get("CopyPartResult", answer)["ETag"]})
        return len(params.get("Body", b""))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                done = {"Parts": self._parts}
                answer = self._store._call(
                    "complete_multipart_upload", self._key, UploadId=self._id, MultipartUpload=done
                )
                self.etag = answer["ETag"].strip('"')
                return
        except MrfastError:
            self._abort()
            raise
        self._abort()

    def _abort(self) -> None:
        # What went wrong before is what the caller has to hear; an upload left behind costs only its storage.
        try:
            self._store._call("abort_multipart_upload", self._key, UploadId=self._id)
        except StoreError:
            return


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _backoff_s(tries: int) -> float:
    return random.uniform(0, min(2.0, 0.05 * 2**tries))
