"""A bucket (or a prefix of one) as a store, at S3 or at any endpoint that botocore can be pointed at.

All settings are botocore's own (`AWS_ENDPOINT_URL_S3`, `AWS_PROFILE`, ...). Requests are sent, retried and counted by
`s3_client`; a body that breaks off is fetched on here from where it stopped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mrfast.errors import AlreadyExists, MrfastError, NotFound, PreconditionFailed, StoreError
from mrfast.storage.base import Buffers, ObjectInfo, Store, check_key, copy_through, iter_chunks, join, read, shown
from mrfast.storage.s3_client import Answer, S3Client
from mrfast.storage.s3_errors import code_of, translate
from mrfast.storage.s3_http import Broken, Reply, Unreachable
from mrfast.storage.s3_retry import Patience, Refused
from mrfast.storage.s3_sums import checksum, whole_sum

SINGLE_PUT_BYTES = 64 << 20
PART_BYTES = 32 << 20
# Parts grow as their number does, so that 10,000 of them hold all that S3 can.
PARTS_PER_SIZE = 2_000
COPY_WHOLE_BYTES = 5 << 30
COPY_PART_BYTES = 1 << 30
KEY_BYTES_MAX = 1024
JOINED_BYTES = 64 << 10
PROBES = "mrfast-probe-"
CHECKSUM = "ChecksumCRC32C"

# ValueError is what botocore says to an endpoint that is not a URL.
_NOT_IMPLEMENTED = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest")
_CALL_ERRORS = (BotoCoreError, ClientError, ValueError, Refused, Unreachable, Broken)

_clients: dict[tuple[int, frozenset[tuple[str, str]]], S3Client] = {}
_lock = threading.Lock()


def _forget_clients() -> None:
    global _lock
    _lock = threading.Lock()
    _clients.clear()


# Sockets, and a lock that another thread may hold, must not be shared with a forked child.
os.register_at_fork(after_in_child=_forget_clients)


def _client() -> S3Client:
    """This process's client; another one only when the AWS settings or proxies in the environment have changed."""
    settings = frozenset(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("AWS_") or name.lower().endswith("_proxy")
    )
    with _lock:
        found = _clients.get((os.getpid(), settings))
        if found is None:
            found = _clients[os.getpid(), settings] = S3Client()
        return found


class S3Store:
    """Objects of one bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._connected: tuple[int, S3Client] | None = None

    @property
    def url(self) -> str:
        """`s3://bucket`, with the prefix if there is one."""
        return f"s3://{self.bucket}/{self._prefix}".rstrip("/")

    @property
    def remote(self) -> bool:
        """True: reads begin with waiting."""
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects under the prefix, in byte order, a page of 1,000 at a time."""
        for page in self.pages(prefix):
            for found in page.get("Contents", ()):
                yield ObjectInfo(found["Key"][len(self._prefix) :], found["Size"], found["ETag"].strip('"'))

    def pages(self, prefix: str, **params: str) -> Iterator[dict[str, Any]]:
        """The answers of S3 to a listing under the prefix, one after the other."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", None, Prefix=self._prefix + prefix, **params, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and etag, by one HEAD."""
        try:
            head = self._ask("head_object", key)
        except NotFound:
            # A HEAD's 404 has no body that would tell a missing bucket from a missing key.
            self._check_bucket()
            raise
        return ObjectInfo(key, int(head.headers["content-length"]), head.etag)

    def read_into(self, key: str, offset: int, buffer: Any, etag: str | None = None) -> int:
        """The number of bytes read by ranged GETs, all of one version; a body that breaks off is fetched on.

        What is an object as a whole is held against its CRC-32C, if the store gives it, and fetched again.
        """
        view = memoryview(buffer).cast("B")
        patience = Patience()
        while True:
            filled, first = self._fill(key, offset, view, etag, patience)
            said = whole_sum(first, filled) if first and not offset else ""
            if not said or said == checksum((view[:filled],)):
                return filled
            if not patience.again():
                request = f"bytes=0-{filled - 1}, request {first and first.headers.get('x-amz-request-id')}"
                raise StoreError(
                    f"what came of {self._shown(key)} is not what the store has, by its CRC-32C {said}"
                    f" (get_object {request}); check the network and this machine's memory"
                )

    def _fill(
        self, key: str, offset: int, view: memoryview, etag: str | None, patience: Patience
    ) -> tuple[int, Reply | None]:
        """The number of bytes read, and the first answer."""
        filled, end = 0, len(view)
        first: Reply | None = None
        while filled < end:
            reply = self._get(key, offset + filled, offset + end, etag, patience)
            if reply is None:
                break
            first = first or reply
            etag = reply.etag or etag
            try:
                filled += reply.read_into(view[filled:])
                reply.abandon()  # only of an answer that is longer than it may be
                break
            except Broken as error:
                filled += error.filled
                if not patience.again():
                    raise StoreError(
                        f"reading {self._shown(key)} broke off {patience.failures} times, last at byte"
                        f" {offset + filled}: {error}; check the network"
                    ) from error
        return filled, first

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
                return self._put_parts(check_key(key), chain(head, pieces), flows)
        if len(head) > 1 and size < len(head) * JOINED_BYTES:
            head = [memoryview(b"".join(head))]
        return self._put_whole(key, head)

    def put_if_absent(self, key: str, data: Buffers) -> ObjectInfo:
        """The object written if there was none (If-None-Match: *)."""
        body = memoryview(join(data))
        try:
            if not self._looks_first():
                return self._put_whole(key, [body], IfNoneMatch="*")
            with suppress(NotFound):
                raise PreconditionFailed(self.stat(key).etag)
            return self._put_whole(key, [body])
        except PreconditionFailed as error:
            raise AlreadyExists(f"{self._shown(key)} exists already") from error

    def replace(self, key: str, data: Buffers, etag: str) -> ObjectInfo:
        """The object written over the one with this etag (If-Match)."""
        body = memoryview(join(data))
        if not self._looks_first():
            return self._put_whole(key, [body], IfMatch=f'"{etag}"')
        self._check_etag(key, etag, self.stat(key).etag)
        return self._put_whole(key, [body])

    def honours_conditions(self) -> bool:
        """Whether the bucket keeps to If-None-Match, by three requests: two writes of one key, and its removal.

        If it does not, this process looks before it writes: what must not be there, or be unchanged, then only was so
        a moment before.
        """
        found = self._probe(f"{PROBES}{os.urandom(8).hex()}")
        self._connect().conditions[self.bucket] = found
        return found

    def _probe(self, key: str) -> bool:
        honoured = False
        try:
            for body in (b"1", b"2"):
                self._put_whole(key, [memoryview(body)], IfNoneMatch="*")
        except PreconditionFailed:
            honoured = True
        except StoreError as error:
            if not isinstance(error.__cause__, Refused) or error.__cause__.code not in _NOT_IMPLEMENTED:
                raise
        with suppress(StoreError):  # who may not delete can still run a job
            self.delete(key)
        return honoured

    def _looks_first(self) -> bool:
        with self._translated("connect", None):
            return not self._connect().conditions.get(self.bucket, True)

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
                upload.add_copy(CopySourceRange=f"bytes={start}-{last}", **source)

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""
        self._ask("delete_object", check_key(key))

    def sweep(self, prefix: str) -> None:
        """Nothing: an object is there whole or not at all; a killed upload is what a lifecycle rule removes."""

    def _call(self, operation: str, key: str | None, **params: Any) -> Any:
        """The answer of one S3 operation that botocore makes, or the error that says what to do."""
        full = None
        if key is not None:
            full = params["Key"] = self._full(key)
        with self._translated(operation, full or params.get("Prefix") or None):
            return getattr(self._connect().boto, operation)(Bucket=self.bucket, **params)

    def _ask(
        self,
        operation: str,
        key: str,
        body: Sequence[memoryview] = (),
        patience: Patience | None = None,
        **params: Any,
    ) -> Answer:
        """The answer of one of the frequent operations, or the error that says what to do."""
        full = self._full(key)
        with self._translated(operation, full, params.get("Range", "")):
            client = self._connect()
            return client.ask(operation, self.bucket, full, patience or Patience(), body, **params)

    def _full(self, key: str) -> str:
        full = self._prefix + key
        if not key or len(full.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX or not _is_unicode(full):
            raise StoreError(
                f"S3 has no key like {full[:200]!r}: it is empty, over {KEY_BYTES_MAX} bytes, or not UTF-8"
            )
        return full

    @contextmanager
    def _translated(self, operation: str, full: str | None, span: str = "") -> Iterator[None]:
        try:
            yield
        except _CALL_ERRORS as error:
            raise translate(error, operation, self.bucket, full, self._endpoint(), span) from error

    def _endpoint(self) -> str:
        if self._connected is None:
            return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        return self._connected[1].endpoint

    def _shown(self, key: str) -> str:
        return shown(f"s3://{self.bucket}/{self._prefix}{key}")

    def _connect(self) -> S3Client:
        pid = os.getpid()
        if self._connected is None or self._connected[0] != pid:
            self._connected = pid, _client()
        return self._connected[1]

    def _check_bucket(self) -> None:
        try:
            self._call("head_bucket", None)
        except NotFound as error:
            raise StoreError(
                f"no such bucket: {self.bucket} at {self._endpoint()}; check its name, or create it"
            ) from error

    def _get(self, key: str, start: int, stop: int, etag: str | None, patience: Patience) -> Reply | None:
        """The answer to a ranged GET; None past the object's end."""
        more: dict[str, Any] = {} if etag is None else {"IfMatch": f'"{etag}"'}
        if not start and self._sums(()):
            more["ChecksumMode"] = "ENABLED"
        try:
            reply = self._ask("get_object", key, (), patience, Range=f"bytes={start}-{stop - 1}", **more)
        except StoreError as error:
            if not isinstance(error.__cause__, Refused) or error.__cause__.code not in ("InvalidRange", "416"):
                raise
            self._check_etag(key, etag, etag and self.stat(key).etag)
            return None
        assert isinstance(reply, Reply)
        where = reply.headers.get("content-range", "")
        try:
            if (start and reply.status != 206) or (where and not where.startswith(f"bytes {start}-")):
                raise StoreError(f"S3 at {self._endpoint()} ignores ranges; mrfast needs them")
            self._check_etag(key, etag, reply.etag)
        except MrfastError:
            reply.abandon()
            raise
        return reply

    def _check_etag(self, key: str, wanted: str | None, found: str | None) -> None:
        if wanted is not None and wanted != found:
            raise PreconditionFailed(f"{self._shown(key)} has changed: etag {found}, not {wanted}")

    def _put_whole(self, key: str, body: Sequence[memoryview], **condition: str) -> ObjectInfo:
        patience = Patience()
        try:
            answer = self._ask("put_object", check_key(key), body, patience, **self._sums(body), **condition)
        except PreconditionFailed as error:
            if not patience.unsure:
                raise
            return self._own_success(key, b"".join(body), error)
        return ObjectInfo(key, sum(map(len, body)), answer.etag)

    def _sums(self, body: Sequence[memoryview]) -> dict[str, Any]:
        """What lets the store see whether the body arrives as it is; nothing for a store that refuses to be told."""
        with self._translated("connect", None):
            return {CHECKSUM: checksum(body)} if self._connect().checksums else {}

    def _own_success(self, key: str, body: bytes, refused: PreconditionFailed) -> ObjectInfo:
        """The object, if it is what we sent: the first try did write it, and only its answer was lost."""
        info = self.stat(key)
        if info.size != len(body) or read(self, key) != body:
            raise refused
        return info

    def _put_parts(self, key: str, pieces: Iterator[memoryview], flows: bool) -> ObjectInfo:
        size = 0
        with _Multipart(self, key, **self._sums(())) as upload:
            part: list[memoryview] = []
            room = upload.part_bytes
            for piece in pieces:
                while len(piece):
                    taken, piece = piece[:room], piece[room:]
                    part.append(memoryview(bytes(taken)) if flows else taken)
                    room -= len(taken)
                    if not room:
                        size += upload.add(part)
                        part, room = [], upload.part_bytes
            if part:
                size += upload.add(part)
        return ObjectInfo(key, size, upload.etag)


class _Multipart:
    """A multipart upload: completed at the end of its `with` block, aborted if that raises."""

    def __init__(self, store: S3Store, key: str, **sums: str) -> None:
        self._store, self._key = store, key
        self._begins = {"ChecksumAlgorithm": "CRC32C"} if sums else {}
        self._parts: list[dict[str, Any]] = []
        self._id = ""
        self._size = 0
        self.etag = ""

    def __enter__(self) -> _Multipart:
        self._id = self._store._call("create_multipart_upload", self._key, **self._begins)["UploadId"]
        return self

    @property
    def part_bytes(self) -> int:
        """How big the next part should be."""
        return PART_BYTES << (len(self._parts) // PARTS_PER_SIZE)

    def add(self, body: Sequence[memoryview]) -> int:
        """The length of the body, which is uploaded as the next part."""
        number = len(self._parts) + 1
        sums = self._store._sums(body) if self._begins else {}
        answer = self._store._ask("upload_part", self._key, body, UploadId=self._id, PartNumber=number, **sums)
        self._parts.append({"PartNumber": number, "ETag": f'"{answer.etag}"', **sums})
        size = sum(map(len, body))
        self._size += size
        return size

    def add_copy(self, **source: Any) -> None:
        """The next part, copied inside of S3."""
        number = len(self._parts) + 1
        answer = self._store._call("upload_part_copy", self._key, UploadId=self._id, PartNumber=number, **source)
        self._parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                done = {"Parts": self._parts}
                answer = self._store._call(
                    "complete_multipart_upload", self._key, UploadId=self._id, MultipartUpload=done
                )
                self.etag = answer["ETag"].strip('"')
                return
        except MrfastError as failed:
            if code_of(failed.__cause__) == "NoSuchUpload" and self._store._connect().was_unsure():
                # The first try may have completed it, and only its answer was lost.
                info = self._store.stat(self._key)
                if info.etag.endswith(f"-{len(self._parts)}") and info.size == (self._size or info.size):
                    self.etag = info.etag
                    return
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
