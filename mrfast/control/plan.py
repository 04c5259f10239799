"""What a job will ask of S3, before it runs: a pure function of its inputs, options and the app's cut.

It is what the ledger says of a run without faults and backup attempts, where no segment is empty, no object is uploaded
in more than one part, and no line is longer than what a split reads beyond its end. Where the inputs make that doubtful
the plan has a range, and says why. Each term stands beside what makes its requests; who changes one changes the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrfast.control import ranges, splits
from mrfast.control.groups import Groups
from mrfast.control.journal_files import BATCH_RECORDS
from mrfast.model import InputCut, InputObject, JobSpec, Piece
from mrfast.storage import is_remote, ledger, split_url

# storage/s3: a HEAD of what is not there asks for the bucket as well; listings have pages; large objects go in parts.
ABSENT = 2
PAGE_KEYS = 1_000
UPLOAD_PART_BYTES = 32 << 20
BLOCK_BYTES = 1 << 20  # of tasks/reader, where it reads in place
# A map object or part is taken to be at most so many times its input, a compressed one so many times more.
GROWTH = 2
INFLATION = 20
# A piece with fewer bytes for a partition than this may well leave one empty.
BYTES_PER_PARTITION = 64
# control/messages: from about here on an index may not fit into a report, and is read from its object.
INDEX_PARTITIONS = 32_000

Range = tuple[int, int, int]  # at least, as planned, at most


@dataclass
class Plan:
    """The tasks of a job, and its requests: at least, as planned and at most."""

    maps: int
    maps_reused: int
    reduces: int
    partitions_per_reduce: int
    bytes_in: int
    largest_split_bytes: int
    memory_per_reducer_bytes: int
    low: ledger.Counts = field(default_factory=dict)
    planned: ledger.Counts = field(default_factory=dict)
    high: ledger.Counts = field(default_factory=dict)
    why: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether the plan has no range."""
        return self.low == self.planned == self.high

    def add(self, phase: str, verb: str, count: int | Range, why: str = "") -> None:
        """So many requests more; a range needs its reason."""
        bounds = (count, count, count) if isinstance(count, int) else count
        for counts, number in zip((self.low, self.planned, self.high), bounds, strict=True):
            if number:
                columns = counts.setdefault(phase, {}).setdefault(verb, {})
                columns["ok"] = columns.get("ok", 0) + number
        if bounds[0] != bounds[2] and why not in self.why:
            self.why.append(why)

    def document(self) -> dict[str, Any]:
        """The plan as `--json` prints it; `requests` and `cost_usd` as of a job that has run."""
        low, planned, high = (ledger.document(counts) for counts in (self.low, self.planned, self.high))
        requests = planned["requests"]
        by_verb = {
            verb: [low["requests"]["by_verb"].get(verb, 0), most]
            for verb, most in high["requests"]["by_verb"].items()
        }  # fmt: skip
        return {
            "maps": self.maps,
            "maps_reused": self.maps_reused,
            "reduces": self.reduces,
            "partitions_per_reduce": self.partitions_per_reduce,
            "bytes_in": self.bytes_in,
            "largest_split_bytes": self.largest_split_bytes,
            "memory_per_reducer_bytes": self.memory_per_reducer_bytes,
            "requests": {"by_verb": requests["by_verb"], "by_phase": requests["by_phase"]},
            "cost_usd": planned["cost_usd"],
            "exact": self.exact,
            "range": {"by_verb": by_verb, "cost_usd": [low["cost_usd"], high["cost_usd"]]},
            "why": self.why,
        }


def plan(
    spec: JobSpec,
    cut: InputCut,
    found: ledger.Counts,
    missing: Sequence[InputObject] = (),
    reused: Collection[int] = (),
) -> Plan:
    """The plan of a new job.

    `found`: what finding its inputs, and what of them an earlier job has mapped, took; `missing`: local files still to
    be uploaded; `reused`: the maps that need not run.
    """
    tasks = splits.plan(spec.inputs, cut, spec.split_bytes)
    bytes_in = sum(piece.length for pieces in tasks for piece in pieces)
    lengths = [sum(piece.length for piece in pieces) for pieces in tasks]
    group = spec.partitions_per_reduce
    held = min(spec.memory_bytes, GROWTH * bytes_in * group // spec.reduces + 1)
    made = Plan(len(tasks), len(reused), spec.reduces, group, bytes_in, max(lengths, default=0), held)
    for phase, verbs in found.items():
        for verb, columns in verbs.items():
            made.add(phase, verb, sum(columns.get(outcome, 0) for outcome in ledger.OUTCOMES))
    for item in missing:
        _add_upload(made, "plan", item.size, item.size, "")
    store, output = is_remote(spec.store_url), is_remote(spec.output_url)
    _begin(made, spec, cut, store, output)
    _tasks(made, spec, cut, tasks, store, reused)
    if store:
        _journal(made, spec)
    _commit(made, spec, store, output)
    if store and not spec.keep_intermediate:
        made.add("clean", "LIST", _pages(made.maps - len(reused)) + _pages(spec.reduces))
        made.add("clean", "DELETE", 0 if spec.reuse else made.maps)
    return made


def _begin(made: Plan, spec: JobSpec, cut: InputCut, store: bool, output: bool) -> None:
    """What each bucket is asked about conditions, commit.begin, and the look for line ends in quotes."""
    buckets = {split_url(url)[0] for url in (spec.store_url, spec.output_url) if is_remote(url)}
    made.add("plan", "PUT", 2 * len(buckets))
    made.add("plan", "DELETE", len(buckets))
    if store:
        made.add("plan", "PUT", 1 + (spec.name is not None))
    if output:
        made.add("plan", "PUT", 1)
        if spec.overwrite:
            why = "--overwrite takes more requests where there is a result already"
            made.add("plan", "HEAD", (0, 0, 2), why)
            made.add("plan", "GET", (0, 0, 1), why)
            made.add("plan", "PUT", (0, 0, 1), why)
        else:
            made.add("plan", "HEAD", ABSENT)
            made.add("plan", "LIST", 1)
    if cut.kind == "csv" and cut.splittable:
        for item in spec.inputs:
            if item.size > spec.split_bytes and is_remote(item.url):
                reads = len(ranges.parts(0, item.size))
                made.add(
                    "plan", "GET", (1, reads, reads), "the look for line ends in quotes ends at the first, and then"
                    " that CSV object is not split"
                )  # fmt: skip


def _tasks(
    made: Plan,
    spec: JobSpec,
    cut: InputCut,
    tasks: Sequence[tuple[Piece, ...]],
    store: bool,
    reused: Collection[int],
) -> None:
    reduces, most_out = spec.reduces, 0
    reduce_tasks = Groups.of(spec).tasks
    for number, pieces in enumerate(tasks):
        runs = number not in reused
        for piece in pieces:
            if runs and is_remote(piece.url):
                made.add("map", "GET", len(ranges.reads(piece, cut)))
        length = sum(piece.length for piece in pieces)
        inflation = INFLATION if any(splits.is_compressed(piece.path) for piece in pieces) else 1
        most_out += GROWTH * inflation * length
        if not store:
            continue
        why = f"a map object over {UPLOAD_PART_BYTES >> 20} MiB goes up in parts"
        if runs:
            _add_upload(made, "map", 0, GROWTH * inflation * length, why)
        if runs and spec.reuse:
            made.add("map", "PUT", 1)
            if not all(piece.etag for piece in pieces):  # it is looked for once it has been uploaded
                made.add("plan", "GET", 1)
        if runs and reduces > INDEX_PARTITIONS and length:
            made.add("map", "GET", (0, 0, 1), f"an index of over {INDEX_PARTITIONS:,} partitions may not fit a report")
        if length:  # an empty one has no segments
            some = length < BYTES_PER_PARTITION * reduce_tasks
            why = f"of a split with so few bytes some of the {reduces:,} segments may be empty: nobody reads those"
            made.add("reduce", "GET", (0 if some else reduce_tasks, reduce_tasks, reduce_tasks), why)
            most = GROWTH * inflation * length * spec.partitions_per_reduce // reduces
            if most > spec.memory_bytes // 4:
                # A large one is read by partition, in blocks of 1 MiB, or of less of a small memory.
                more = reduces + reduce_tasks * _blocks(most, min(BLOCK_BYTES, max(1, spec.memory_bytes // 32)))
                made.add("reduce", "GET", (0, 0, more), "a segment over a quarter of --memory is read in blocks")
    if store:
        why = f"a part over {UPLOAD_PART_BYTES >> 20} MiB goes up in parts"
        _add_upload(made, "reduce", 0, most_out // reduces, why, reduces)


def _journal(made: Plan, spec: JobSpec) -> None:
    """journal_files: an object for each batch, and a look with each whether another coordinator has the job."""
    # begin, plan and the maps; the reduces and the end.
    batches = -(-(2 + made.maps) // BATCH_RECORDS) + -(-(Groups.of(spec).tasks + 1) // BATCH_RECORDS)
    made.add("journal", "PUT", batches)
    made.add("journal", "GET", batches)


def _commit(made: Plan, spec: JobSpec, store: bool, output: bool) -> None:
    if store:  # whether another coordinator has the job; the manifest
        made.add("commit", "GET", 1)
        made.add("commit", "PUT", 1)
    if output:  # whose the output is: before and after the parts
        made.add("commit", "HEAD", 2)
        made.add("commit", "GET", 2)
        made.add("commit", "PUT", 2)  # the event log (event_files: a failed PUT is followed by a DELETE); _SUCCESS
        if spec.overwrite:
            made.add("commit", "HEAD", ABSENT)
            made.add("commit", "LIST", 1)
            made.add("commit", "DELETE", (0, 0, spec.reduces), "--overwrite removes what parts there are")
    if store:
        made.add("commit", "HEAD", spec.reduces)
    if store and output:
        made.add("commit", "COPY", spec.reduces)
    elif store:
        most = _blocks(GROWTH * made.bytes_in // spec.reduces, 8 << 20)
        reads = 0 if not made.bytes_in else most * spec.reduces
        made.add("commit", "GET", (0, spec.reduces, max(reads, spec.reduces)), "parts are read in blocks of 8 MiB")
    elif output:
        most = GROWTH * made.bytes_in // spec.reduces
        _add_upload(made, "commit", 0, most, "a large part goes up in parts", spec.reduces)


def _add_upload(made: Plan, phase: str, low: int, high: int, why: str, times: int = 1) -> None:
    """Objects of so many bytes each, at least and at most."""
    few, many = times * _parts(low), times * _parts(high)
    made.add(phase, "PUT", (few, few, many), why)
    few, many = (2 * times * (_parts(size) > 1) for size in (low, high))
    made.add(phase, "POST", (few, few, many), why)


def _parts(size: int) -> int:
    return max(1, -(-size // UPLOAD_PART_BYTES))


def _blocks(size: int, block_bytes: int = BLOCK_BYTES) -> int:
    return max(1, -(-size // block_bytes))


def _pages(keys: int) -> int:
    return max(1, -(-keys // PAGE_KEYS))
