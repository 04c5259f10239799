"""The calls of the protocol: what each one takes and gives, as checked values.

    auth(nonce) -> {required, nonce, proof}      then, where a token is required, prove(proof)
    params() -> {params}, with which a worker loads its app before it says
    hello(worker, slots, app, running) -> the job  poll(worker, free, wait_s) -> {tasks, job}
    renew(worker, attempts) -> {attempts, job}    report(worker, map | reduce | failure) -> {word, job}
    outputs(attempt, since, wait_s) -> {segments, next, complete, word}     pieces(attempt, since) -> {pieces, next}
    bad_input(worker, attempt, map_index, map_attempt, why)  release(worker, attempt)  status()

hello, renew, report and release bring `requests`: all that the worker has sent to stores so far. renew and report
bring `printed`: attempt -> whole lines that it has printed since the last time, "" for the load of the application;
8 KiB in a renewal, in a report all that is left of its attempt. What a lost call brought is not sent again.
`job` is "running", "done" or "failed"; with "failed" comes `error`. Lists that could pass the frame's bound are paged:
a map task of many pieces is handed out without them (`pages` is set), and its worker fetches them with `pieces`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace

from mrfast.control.wire import dumps
from mrfast.model import (
    FRAME_BYTES_MAX,
    AppInfo,
    Failure,
    MapReport,
    MapTask,
    Piece,
    Progress,
    ReduceReport,
    ReduceTask,
    Segment,
)
from mrfast.storage.ledger import Counts

WAIT_S_MAX = 20.0
SEGMENTS_PER_PAGE = 2_000
PIECES_PER_PAGE = 500
TASKS_PER_POLL = 256
# Of a list in one frame: half the frame's bound.
LIST_BYTES_MAX = FRAME_BYTES_MAX // 2
# A report with a longer index, counters included, goes without it: the coordinator reads it from the object.
INDEX_BYTES_MAX = 512 << 10


@dataclass(frozen=True, slots=True)
class Hello:
    """The first call of every connection; `running` are the attempts that the worker still has."""

    worker: str
    slots: int
    app: AppInfo
    running: tuple[str, ...] = ()
    requests: Counts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Poll:
    """Asks for up to `free` tasks, and waits for one; `ahead`: its slots have a task each, this one is read ahead."""

    worker: str
    free: int
    wait_s: float
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Renew:
    """Keeps the leases of running attempts; brings some of what attempts have `printed`."""

    worker: str
    attempts: dict[str, Progress]
    requests: Counts = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """One of the three: what became of an attempt."""

    worker: str
    map: MapReport | None = None
    reduce: ReduceReport | None = None
    failure: Failure | None = None
    requests: Counts = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AskOutputs:
    """Asks for a reduce's segments from entry `since` of the log of map outputs on, and waits for one."""

    worker: str
    attempt: str
    since: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class AskPieces:
    """Asks for a map task's pieces from `since` on."""

    worker: str
    attempt: str
    since: int


@dataclass(frozen=True, slots=True)
class BadInput:
    """Says that a map's accepted output cannot be read; the reduce waits for another one."""

    worker: str
    attempt: str
    map_index: int
    map_attempt: str
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """Gives a task back."""

    worker: str
    attempt: str
    requests: Counts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """Asks how the job stands."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a poll gives. `pages` names the map attempts whose pieces must be fetched."""

    job: str
    maps: tuple[MapTask, ...] = ()
    reduces: tuple[ReduceTask, ...] = ()
    pages: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal gives: "ok" or "cancel" for each attempt."""

    job: str
    attempts: dict[str, str]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """What a report or a release gives."""

    job: str
    word: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class OutputsPage:
    """Segments in the order of the log, and the entry to go on from.

    A segment replaces an earlier one of its map, which ran again. `complete`: every map's is listed. `word` "cancel":
    the reduce must give up.
    """

    segments: tuple[Segment, ...]
    next: int
    complete: bool = False
    word: str = "ok"


@dataclass(frozen=True, slots=True)
class PiecesPage:
    """Pieces, and where the next page begins; None when that was all."""

    pieces: tuple[Piece, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Auth:
    """The first half of the handshake: the client's nonce."""

    nonce: str


@dataclass(frozen=True, slots=True)
class Prove:
    """The second half: the client's proof."""

    proof: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server's answer: its nonce and its own proof (empty where no token is required)."""

    required: bool
    nonce: str = ""
    proof: str = ""


@dataclass(frozen=True, slots=True)
class AskParams:
    """Asks what `mrfast.param` must give to the application of this job."""


@dataclass(frozen=True, slots=True)
class Params:
    """The job's parameters: they are part of the application that `hello` brings."""

    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What `hello` gives."""

    job: str
    name: str | None
    store_url: str
    output_url: str
    reduces: int
    lease_s: float
    renew_s: float


CALLS = {
    "auth": Auth,
    "prove": Prove,
    "params": AskParams,
    "hello": Hello,
    "poll": Poll,
    "renew": Renew,
    "report": Report,
    "outputs": AskOutputs,
    "pieces": AskPieces,
    "bad_input": BadInput,
    "release": Release,
    "status": Status,
}


def proof(token: bytes, role: str, client_nonce: str, server_nonce: str) -> str:
    """What shows that `role` ("client" or "server") knows the token, for this one connection: HMAC-SHA256."""
    text = f"mrfast {role} {client_nonce} {server_nonce}".encode()
    return hmac.new(token, text, hashlib.sha256).hexdigest()


def tasks_message(job: str, error: str, tasks: list[MapTask | ReduceTask]) -> Tasks:
    """The tasks of a poll; of the maps whose pieces would not fit in one frame, only the rest."""
    maps = [task for task in tasks if isinstance(task, MapTask)]
    pages = []
    room = LIST_BYTES_MAX
    for task in maps:
        need = LIST_BYTES_MAX if len(task.pieces) > PIECES_PER_PAGE else len(dumps(task))
        if need > room:
            pages.append(task.attempt)
        else:
            room -= need
    return Tasks(
        job,
        tuple(replace(task, pieces=()) if task.attempt in pages else task for task in maps),
        tuple(task for task in tasks if isinstance(task, ReduceTask)),
        tuple(pages),
        error,
    )


def fitting(pieces: list[Piece]) -> int:
    """How many of the pieces, from the first on, fit in one frame: at least one."""
    room = LIST_BYTES_MAX
    for count, piece in enumerate(pieces):
        room -= len(dumps(piece))
        if room < 0 and count:
            return count
    return len(pieces)


def report_message(
    worker: str,
    report: MapReport | ReduceReport | Failure,
    requests: Counts | None = None,
    printed: dict[str, str] | None = None,
) -> Report:
    """The report as a call; an index that is too long for a frame stays in its object."""
    requests, printed = requests or {}, printed or {}
    if isinstance(report, MapReport):
        if len(report.index) + len(dumps(report.counters)) > INDEX_BYTES_MAX:
            report = replace(report, index=b"")
        return Report(worker, map=report, requests=requests, printed=printed)
    if isinstance(report, ReduceReport):
        return Report(worker, reduce=report, requests=requests, printed=printed)
    return Report(worker, failure=report, requests=requests, printed=printed)
