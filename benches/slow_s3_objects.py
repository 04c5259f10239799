"""What a stand-in S3 keeps, and what it answers to each request; knows no sockets (benches/slow_s3.py has those)."""

from __future__ import annotations

import base64
import random
import re
import threading
import time
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import count
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

import xxhash

PART_BYTES_MIN = 5 << 20
KEYS_MAX = 1000
CRC32C_BYTES_MAX = 256 << 10  # computed in Python
BLOCK_BYTES = 4 << 20
_WORDS = 4096
XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass(frozen=True)
class Object:
    """An object's size and version, and how to get at its bytes."""

    size: int
    etag: str
    modified: float
    read: Callable[[int, int], Iterator[memoryview]]  # from byte, up to byte


@dataclass
class Request:
    """One request as it came, but for how it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytearray
    bucket: str = ""
    key: str = ""
    verb: str = ""  # one of the ledger's: GET HEAD LIST PUT COPY POST DELETE

    @classmethod
    def parsed(cls, method: str, target: str, headers: dict[str, str]) -> Request:
        """The request without its body."""
        path, _, query = target.partition("?")
        names = dict(parse_qsl(query, keep_blank_values=True))
        bucket, _, key = path.lstrip("/").partition("/")
        verb = method
        if method == "GET" and not key:
            verb = "LIST"
        elif method == "PUT" and "x-amz-copy-source" in headers:
            verb = "COPY"
        return cls(method, path, names, headers, bytearray(), unquote(bucket), unquote(key), verb)


@dataclass
class Answer:
    """A status, the body's length and pieces, and headers of its own."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0
    pieces: Callable[[], Iterator[memoryview]] = lambda: iter(())


class Refusal(Exception):  # noqa: N818
    """An error that S3 answers with."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code

    def answer(self, request_id: str, bodiless: bool) -> Answer:
        """The XML document that says so; a HEAD has none."""
        text = (
            f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message>"
            f"<RequestId>{request_id}</RequestId></Error>"
        )
        return Answer(self.status) if bodiless else xml(text, self.status)


def xml(text: str, status: int = 200) -> Answer:
    """An answer with an XML body."""
    body = memoryview(('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode())
    return Answer(status, {"Content-Type": "application/xml"}, len(body), lambda: iter((body,)))


def stored(parts: list[memoryview], etag: str) -> Object:
    """An object made of bytes that were sent."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))

    def read(start: int, stop: int) -> Iterator[memoryview]:
        for at, part in zip(starts, parts, strict=False):
            if at < stop and at + len(part) > start:
                yield part[max(0, start - at) : stop - at]

    return Object(starts[-1], etag, time.time(), read)


_blocks: dict[int, memoryview] = {}


def text_block(seed: int) -> memoryview:
    """4 MiB of lines of words of Zipf's distribution, the same for the same seed."""
    if seed not in _blocks:
        chance = random.Random(seed)
        words = ["".join(chance.choices("etaoinshrdlucmfw", k=2 + n.bit_length() // 2)) for n in range(_WORDS)]
        drawn = chance.choices(words, [1 / (n + 1) for n in range(_WORDS)], k=BLOCK_BYTES // 4)
        text = " ".join(drawn)[: BLOCK_BYTES - 1] + "\n"
        block = bytearray(text.ljust(BLOCK_BYTES).encode())
        for at in range(80, BLOCK_BYTES, 80):
            if (space := block.find(b" ", at)) >= 0:
                block[space] = 10
        _blocks[seed] = memoryview(bytes(block))
    return _blocks[seed]


def synthetic(seed: int, number: int, size: int) -> Object:
    """An object of any size that takes no memory: the seed's block again and again, from a place of its own."""
    block = text_block(seed)
    first = number * 7919 * 64 % BLOCK_BYTES

    def read(start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            at = (first + start) % BLOCK_BYTES
            piece = block[at : at + stop - start]
            yield piece
            start += len(piece)

    return Object(size, f"{seed:08x}{number:08x}{size:016x}", time.time(), read)


class Objects:
    """Buckets with objects, in memory; each request is one atomic step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, dict[str, Object]] = {}
        self._keys: dict[str, list[bytes]] = {}  # sorted
        self._uploads: dict[str, tuple[str, str, dict[int, Object]]] = {}
        self._numbers = count(1)

    def make(self, bucket: str, prefix: str, number: int, size: int, seed: int = 1) -> None:
        """`number` synthetic objects of `size` bytes: prefix0000000, ..."""
        with self._lock:
            self._create(bucket)
            for n in range(number):
                self._keep(bucket, f"{prefix}{n:07d}", synthetic(seed, n, size))

    def answer(self, request: Request) -> Answer:
        """The answer to the request; Refusal if it is an error."""
        name = request.method.lower() + ("_object" if request.key else "_bucket")
        act = getattr(self, "_" + name, None)
        if act is None:
            raise Refusal(405, "MethodNotAllowed")
        _check_body(request)
        with self._lock:
            if request.bucket not in self._buckets and name != "put_bucket":
                raise Refusal(404, "NoSuchBucket", f"there is no bucket {request.bucket}")
            answer: Answer = act(request)
            return answer

    # Buckets

    def _create(self, bucket: str) -> None:
        self._buckets.setdefault(bucket, {})
        self._keys.setdefault(bucket, [])

    def _put_bucket(self, request: Request) -> Answer:
        self._create(request.bucket)
        return Answer()

    def _head_bucket(self, request: Request) -> Answer:
        return Answer()

    def _delete_bucket(self, request: Request) -> Answer:
        if self._buckets[request.bucket]:
            raise Refusal(409, "BucketNotEmpty")
        del self._buckets[request.bucket], self._keys[request.bucket]
        return Answer(204)

    def _post_bucket(self, request: Request) -> Answer:
        if "delete" not in request.query:
            raise Refusal(501, "NotImplemented")
        for key in re.findall(r"<Key>(.*?)</Key>", request.body.decode(), re.DOTALL):
            self._forget(request.bucket, _unescaped(key))
        return xml(f"<DeleteResult {XMLNS}></DeleteResult>")

    def _get_bucket(self, request: Request) -> Answer:
        if "uploads" in request.query:
            items = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId></Upload>"
                for name, (bucket, key, _) in self._uploads.items()
                if bucket == request.bucket
            )
            return xml(f"<ListMultipartUploadsResult {XMLNS}>{items}</ListMultipartUploadsResult>")
        if request.query.get("list-type") != "2":
            raise Refusal(501, "NotImplemented", "only LIST v2")
        query = request.query
        prefix, limit = query.get("prefix", ""), min(KEYS_MAX, int(query.get("max-keys", KEYS_MAX)))
        delimiter, after = query.get("delimiter", ""), query.get("start-after", "")
        if "continuation-token" in query:
            after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
        encoded = (lambda key: quote(key, safe="/")) if query.get("encoding-type") == "url" else escape
        names, objects = self._keys[request.bucket], self._buckets[request.bucket]
        at = max(bisect_left(names, prefix.encode()), bisect_left(names, after.encode() + b"\0") if after else 0)
        items: list[str] = []
        folder = last = ""
        while at < len(names) and len(items) < limit:
            key = names[at].decode()
            if not key.startswith(prefix):
                break
            at, last = at + 1, key
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                if (found := key[: cut + len(delimiter)]) != folder and not after.startswith(found):
                    folder = found
                    items.append(f"<CommonPrefixes><Prefix>{encoded(folder)}</Prefix></CommonPrefixes>")
                continue
            each = objects[key]
            items.append(
                f"<Contents><Key>{encoded(key)}</Key><LastModified>{_iso(each.modified)}</LastModified>"
                f"<ETag>&quot;{each.etag}&quot;</ETag><Size>{each.size}</Size></Contents>"
            )
        more = at < len(names) and names[at].startswith(prefix.encode()) and bool(items)
        token = base64.urlsafe_b64encode(last.encode()).decode() if more else ""
        token = token and f"<NextContinuationToken>{token}</NextContinuationToken>"
        kind = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
        return xml(
            f"<ListBucketResult {XMLNS}><Name>{request.bucket}</Name><Prefix>{encoded(prefix)}</Prefix>"
            f"<KeyCount>{len(items)}</KeyCount><MaxKeys>{limit}</MaxKeys>{kind}"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(items)}</ListBucketResult>"
        )

    # Objects

    def _found(self, bucket: str, key: str) -> Object:
        found = self._buckets.get(bucket, {}).get(key)
        if found is None:
            raise Refusal(404, "NoSuchKey", f"there is no key {key}")
        return found

    def _get_object(self, request: Request) -> Answer:
        found = self._found(request.bucket, request.key)
        _check_etag(request.headers.get("if-match"), found)
        start, stop, status = 0, found.size, 200
        headers = {
            "ETag": f'"{found.etag}"',
            "Last-Modified": formatdate(found.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        }
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "")):
            first, last = asked.groups()
            start = int(first) if first else max(0, found.size - int(last))
            stop = min(found.size, int(last) + 1) if first and last else found.size
            if start >= stop:
                raise Refusal(416, "InvalidRange", f"bytes={first}-{last} of {found.size} bytes")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
        return Answer(status, headers, stop - start, lambda: found.read(start, stop))

    def _head_object(self, request: Request) -> Answer:
        return self._get_object(request)

    def _put_object(self, request: Request) -> Answer:
        part = request.query.get("partNumber")
        new = self._copied(request) if request.verb == "COPY" else _whole(request.body)
        if part is not None:
            self._upload(request)[int(part)] = new
        else:
            self._check_conditions(request)
            self._keep(request.bucket, request.key, new)
        if request.verb == "COPY":
            kind = "CopyObjectResult" if part is None else "CopyPartResult"
            return xml(
                f"<{kind} {XMLNS}><ETag>&quot;{new.etag}&quot;</ETag>"
                f"<LastModified>{_iso(new.modified)}</LastModified></{kind}>"
            )
        sums = {name: value for name, value in request.headers.items() if name.startswith("x-amz-checksum-")}
        return Answer(200, {"ETag": f'"{new.etag}"', **sums})

    def _post_object(self, request: Request) -> Answer:
        place = f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key>"
        if "uploads" in request.query:
            name = f"upload-{next(self._numbers)}"
            self._uploads[name] = request.bucket, request.key, {}
            result = "InitiateMultipartUploadResult"
            return xml(f"<{result} {XMLNS}>{place}<UploadId>{name}</UploadId></{result}>")
        parts = self._upload(request)
        self._check_conditions(request)
        numbers = [int(n) for n in re.findall(r"<PartNumber>\s*(\d+)\s*</PartNumber>", request.body.decode())]
        if numbers != sorted(set(numbers)) or not numbers or not parts.keys() >= set(numbers):
            raise Refusal(400, "InvalidPart")
        chosen = [parts[n] for n in numbers]
        if any(part.size < PART_BYTES_MIN for part in chosen[:-1]):
            raise Refusal(400, "EntityTooSmall", f"a part has fewer than {PART_BYTES_MIN} bytes")
        etag = xxhash.xxh3_128_hexdigest("".join(part.etag for part in chosen).encode()) + f"-{len(chosen)}"
        views = [view for part in chosen for view in part.read(0, part.size)]
        self._keep(request.bucket, request.key, stored(views, etag))
        del self._uploads[request.query["uploadId"]]
        result = "CompleteMultipartUploadResult"
        return xml(f"<{result} {XMLNS}>{place}<ETag>&quot;{etag}&quot;</ETag></{result}>")

    def _delete_object(self, request: Request) -> Answer:
        if "uploadId" in request.query:
            self._upload(request)
            del self._uploads[request.query["uploadId"]]
        else:
            self._forget(request.bucket, request.key)
        return Answer(204)

    def _upload(self, request: Request) -> dict[int, Object]:
        bucket, key, parts = self._uploads.get(request.query.get("uploadId", ""), ("", "", {}))
        if (bucket, key) != (request.bucket, request.key):
            raise Refusal(404, "NoSuchUpload")
        return parts

    def _copied(self, request: Request) -> Object:
        bucket, _, key = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")
        found = self._found(bucket, key)
        _check_etag(request.headers.get("x-amz-copy-source-if-match"), found)
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("x-amz-copy-source-range", ""))
        start, stop = (int(part[1]), int(part[2]) + 1) if part else (0, found.size)
        views = list(found.read(start, stop))
        whole = xxhash.xxh3_128()
        for view in views:
            whole.update(view)
        return stored(views, whole.hexdigest())

    def _check_conditions(self, request: Request) -> None:
        there = self._buckets[request.bucket].get(request.key)
        if request.headers.get("if-none-match") == "*" and there is not None:
            raise Refusal(412, "PreconditionFailed")
        if "if-match" in request.headers:
            _check_etag(request.headers["if-match"], self._found(request.bucket, request.key))

    def _keep(self, bucket: str, key: str, new: Object) -> None:
        if key not in self._buckets[bucket]:
            insort(self._keys[bucket], key.encode())
        self._buckets[bucket][key] = new

    def _forget(self, bucket: str, key: str) -> None:
        if self._buckets[bucket].pop(key, None) is not None:
            names = self._keys[bucket]
            del names[bisect_left(names, key.encode())]


def _whole(body: bytearray) -> Object:
    return stored([memoryview(body).toreadonly()] if body else [], xxhash.xxh3_128_hexdigest(body))


def _check_etag(wanted: str | None, found: Object) -> None:
    if wanted is not None and wanted.strip('"') not in ("*", found.etag):
        raise Refusal(412, "PreconditionFailed")


def _check_body(request: Request) -> None:
    """Refuses a body that is not what its checksum header says; a CRC-32C of a larger body is believed."""
    for name, value in (("crc32", zlib.crc32), ("crc32c", crc32c)):
        said = request.headers.get(f"x-amz-checksum-{name}")
        if said is None or (name == "crc32c" and len(request.body) > CRC32C_BYTES_MAX):
            continue
        if base64.b64decode(said) != value(request.body).to_bytes(4, "big"):
            raise Refusal(400, "BadDigest", f"the {name} does not match")


def _crc32c_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC32C = _crc32c_table()


def crc32c(data: bytes | bytearray) -> int:
    """The CRC-32C of the bytes, slowly."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
