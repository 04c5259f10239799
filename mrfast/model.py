"""The frozen values that cross module borders; imports nothing of mrfast.

Everything here is plain data: `control/wire.py` turns it into JSON and back, so fields are str, int, float, bool,
None, bytes (base64 on the wire), tuples and other classes of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Bounds (DESIGN.md, section 5). A value over its bound is an error that names it.
REDUCES_MAX = 65_535
MAPS_MAX = 1_000_000
KEY_BYTES_MAX = 16 << 20
VALUE_BYTES_MAX = 1 << 30
FRAME_BYTES_MAX = 1 << 20
BAD_RECORD_BYTES_MAX = 64 << 10
OBJECTS_PER_TASK_THRESHOLD = 10_000


@dataclass(frozen=True, slots=True)
class InputObject:
    """One input object, pinned: `path` as the user named it, `url` where it is read from."""

    path: str
    url: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A byte range of one input object; the records that *start* in it belong to it."""

    path: str
    url: str
    size: int
    etag: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InputCut:
    """How an app wants its input: `kind` file|blocks|lines|jsonl|csv|records; `record_bytes` for records only."""

    kind: str
    splittable: bool
    record_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AppInfo:
    """What a worker says of its app in `hello`; all workers of a job agree on every field.

    `zstd`: whether it can compress and read compressed segments; one that can may join a job that does without.
    `python`: which of map, combine and reduce are Python functions, each with the native op that may do the same.
    """

    name: str
    fingerprint: str
    cut: InputCut
    output: str
    mrfast_version: str
    python_version: str
    zstd: bool = False
    python: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """`jobs/<id>/spec.json`: all that a job is, except the app."""

    job: str
    name: str | None
    store_url: str
    output_url: str
    reduces: int
    split_bytes: int
    memory_bytes: int
    attempts_max: int
    overwrite: bool
    inputs: tuple[InputObject, ...]
    stall_s: float = 600.0
    bad_records_max: int = 0
    keep_intermediate: bool = False
    reuse: bool = False  # of earlier jobs' map outputs; this one's are kept for later ones
    params: dict[str, str] = field(default_factory=dict)  # for the app
    app_path: str = ""  # of a job that runs on one machine, so that it can be resumed by its name alone
    compress_segments: bool = False  # where workers can
    compress: str = ""  # the parts: "zst" or "gz", the ends of their names
    partitions_per_reduce: int = 1  # of neighbouring partitions, one reduce task makes so many

    @property
    def reads_compressed(self) -> bool:
        """Whether segments may be compressed: this job's, or those that it finds of an earlier one."""
        return self.compress_segments or self.reuse


@dataclass(frozen=True, slots=True)
class MapTask:
    """One attempt of a map, as a slot receives it."""

    job: str
    attempt: str
    index: int
    pieces: tuple[Piece, ...]
    store_url: str
    reduces: int
    memory_bytes: int
    bad_records_max: int = 0
    skip: tuple[tuple[str, int], ...] = ()  # (url, offset) of records that have killed a process
    compress: bool = False  # the segments


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A record that `map` could not take: its address, its first bytes, and why; `length` is that of the whole."""

    path: str
    url: str
    offset: int
    length: int
    data: bytes
    why: str


@dataclass(frozen=True, slots=True)
class ReduceTask:
    """One attempt of a reduce, of `partition` and its neighbours; its segments come through `outputs`."""

    job: str
    attempt: str
    partition: int
    maps: int
    store_url: str
    memory_bytes: int
    partitions: int = 1
    compress: str = ""  # the parts, as in JobSpec


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one partition's records of one map output lie: in `object`, if empty in `inter_key(job, attempt)`.

    `key_kind` is that map's "str" or "bytes", and empty for a map that emitted nothing; `digest` names that map's
    output in the table whose digest a reduce reports. A compressed one has `raw` bytes uncompressed, any other 0.
    Neighbouring segments for one reduce task are one, and `parts` says (length, records, xxh3, raw) of each; its own
    xxh3 and raw are then 0.
    """

    map_index: int
    attempt: str
    offset: int
    length: int
    records: int
    xxh3: int
    key_kind: str = ""
    digest: str = ""
    object: str = ""
    parts: tuple[tuple[int, int, int, int], ...] = ()
    raw: int = 0


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key and its part of the shuffle: at least `size` bytes, at most `size + error`.

    Of a key over 64 bytes `key` is the beginning, and `whole` the XXH3 of all of it; of any other `whole` is 0.
    """

    key: bytes
    whole: int
    partition: int
    size: int
    records: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class HotKeys:
    """The heaviest keys of a map's output, the heaviest first; any other key has at most `missed` bytes.

    `size` and `records` are those of the whole output, before any compression, `distinct` its keys, or somewhat more
    if it was spilled. `combined`: the application has a combiner, or as reduce an op that combines wherever that helps.
    """

    keys: tuple[HotKey, ...]
    missed: int
    size: int
    records: int
    distinct: int
    combined: bool = False


@dataclass(frozen=True, slots=True)
class MapReport:
    """A finished map attempt: its object's size and digest, and the packed `SegmentIndex`."""

    attempt: str
    size: int
    xxh3: str
    index: bytes
    records_in: int
    records_out: int
    bytes_in: int
    counters: dict[str, int] = field(default_factory=dict)
    bad: tuple[SkippedRecord, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # where they went, as in tasks/laps.py
    hot: HotKeys | None = None


@dataclass(frozen=True, slots=True)
class PartReport:
    """One of several parts that a reduce attempt made."""

    size: int
    xxh3: str
    records: int


@dataclass(frozen=True, slots=True)
class ReduceReport:
    """A finished reduce attempt: its part's size and digest, and the digest of the table that it used.

    One of several partitions lists its `parts`; size and records are then their sums, xxh3 that of their digests.
    """

    attempt: str
    size: int
    xxh3: str
    records_in: int
    records_out: int
    table: str
    counters: dict[str, int] = field(default_factory=dict)
    parts: tuple[PartReport, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # where they went, as in tasks/laps.py


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt. `counted` ones add up to `attempts_max`; a `fatal` one fails the job at once.

    Kinds: "app", "input", "store", "died", "stalled", and "corrupt": map `map_index`, attempt `input`, cannot be read.
    `url` and `offset` are the address of the record that a process was working on when it died.
    """

    attempt: str
    kind: str
    message: str
    traceback: str = ""
    input: str = ""
    offset: int | None = None
    counted: bool = True
    fatal: bool = False
    map_index: int | None = None
    url: str = ""


WAITING = "wait"  # the phase of an attempt that waits for its turn to compute, and cannot show progress


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running attempt has done so far; only ever grows within one phase."""

    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One reduce output in the manifest: the attempt's object for it (`part_object`), and what it holds."""

    partition: int
    attempt: str
    size: int
    xxh3: str
    records: int


def map_name(index: int) -> str:
    """The task name of map `index`."""
    return f"m-{index:06d}"


def reduce_name(index: int) -> str:
    """The task name of reduce `index`: of partition `index`, where each task makes one."""
    return f"r-{index:05d}"


def job_key(job: str, *rest: str) -> str:
    """A key under the job's own prefix of the store."""
    return "/".join(("jobs", job, *rest))


def inter_key(job: str, attempt: str) -> str:
    """The key of a map attempt's object: only that attempt ever writes it."""
    return job_key(job, "inter", attempt)


def out_key(job: str, attempt: str) -> str:
    """The key of a reduce attempt's part: only that attempt ever writes it."""
    return job_key(job, "out", attempt)


def part_object(attempt: str, partition: int, partitions: int) -> str:
    """The last name in the key of one of the `partitions` parts that a reduce attempt writes."""
    return attempt if partitions == 1 else f"{attempt}.{partition}"


def part_name(partition: int, compress: str = "") -> str:
    """The stable name of a part in the output folder; that of a compressed one says so, as every tool expects."""
    return f"mr-out-{partition}.{compress}" if compress else f"mr-out-{partition}"
