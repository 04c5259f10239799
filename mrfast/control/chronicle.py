"""What a JobDriver tells its EventLog: the scheduler's words as they come, and how the job as a whole stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mrfast import __version__
from mrfast.control.events import FORMAT, EventLog, cut
from mrfast.control.names import COUNT_BITS
from mrfast.control.outputs import Outputs
from mrfast.control.scheduler import Scheduler
from mrfast.model import AppInfo, Failure, JobSpec, MapReport, Piece, ReduceReport

SAMPLE_S = 1.0
SAMPLES = 300  # so many in the time that the job has run, once that is more than so many seconds
SHUFFLE_S = 5.0
BUCKETS_MAX = 1024
COUNT_MASK = (1 << COUNT_BITS) - 1
KINDS = {"back": "back", "adopted": "adopted", "output_lost": "lost", "rolled_back": "rolled_back"}


class Chronicle:
    """Writes down one job; `now` is the driver's clock, `began` the wall clock's time when it was made."""

    def __init__(self, spec: JobSpec, *, resumed: bool, began: float | None, slots: int | None) -> None:
        self.events = EventLog()
        self.report: MapReport | ReduceReport | None = None  # what the scheduler is about to be told of
        self.why = ""  # the map output is lost that the scheduler is about to be told of
        self._job = {
            "format": FORMAT,
            "job": spec.job,
            "name": spec.name,
            "mrfast": __version__,
            "began": began,
            "store_url": spec.store_url,
            "output_url": spec.output_url,
            "reduces": spec.reduces,
            "resumed": resumed,
            "app": None,
            "params": spec.params,
            "slots": slots,
        }
        self._start: float | None = None
        self._splits: Sequence[tuple[Piece, ...]] = ()
        self._scheduler: Scheduler | None = None
        self.sample_at = self._shuffle_at = 0.0
        self._maps_told = 0  # of the last shuffle

    def tell(self, kind: str, now: float, /, **fields: Any) -> None:
        """Write one event down; the first is always what the job is."""
        if self._start is None:
            self._start = now
            self._shuffle_at = now + SHUFFLE_S
            self.events.tell("job", now, **self._job)
        if kind != "job":
            self.events.tell(kind, now, **fields)

    def planned(
        self, spec: JobSpec, app: AppInfo, splits: Sequence[tuple[Piece, ...]], scheduler: Scheduler, now: float
    ) -> None:
        """The tasks are known, and those that need not run; from here on the scheduler is followed."""
        self._splits, self._scheduler = splits, scheduler
        lengths = [sum(piece.length for piece in pieces) for pieces in splits]
        self.tell(
            "planned",
            now,
            app=app.name,
            python=app.python,
            maps=len(splits),
            reduces=spec.reduces,
            reduce_tasks=scheduler.reduces,
            partitions_per_reduce=spec.partitions_per_reduce,
            bytes_in=sum(lengths),
            largest_split_bytes=max(lengths, default=0),
        )
        maps, reduces = (
            ranges(index for index, _, _ in done) for done in (scheduler.accepted_maps(), scheduler.accepted_reduces())
        )
        if maps or reduces:
            self.tell("restored", now, maps=maps, reduces=reduces)
        scheduler.observer = self._noted

    def _noted(self, task: int, word: str, n: int, worker: str, now: float) -> None:
        """The scheduler has said something of an attempt."""
        scheduler = self._scheduler
        assert scheduler is not None
        attempt = scheduler.names.attempt(task, n)
        fields: dict[str, Any] = {"task": attempt[: attempt.index(".")], "attempt": attempt}
        if word in ("leased", "backup"):
            kind = "started"
            fields["worker"], fields["backup"] = worker, word == "backup"
            if task < scheduler.maps and n & COUNT_MASK == 1 and (pieces := self._splits[task]):
                fields["input"] = pieces[0].path
                fields["bytes"] = sum([piece.length for piece in pieces])
                fields["pieces"] = len(pieces)
        elif word in KINDS:
            kind = KINDS[word]
            if word == "output_lost":
                fields["why"] = cut("message", self.why)
            elif word != "rolled_back":
                fields["worker"] = worker
        else:
            kind = "ended"
            fields["word"], fields["worker"] = word, worker
            if word == "accepted" and self.report is not None and self.report.attempt == attempt:
                fields |= numbers(self.report)
            elif word == "failed" and (failure := scheduler.last_failure(task)) is not None:
                fields |= reasons(failure)
        self.events.add(kind, now, fields)

    def sample(self, now: float, status: Callable[[float], dict[str, Any]], outputs: Outputs) -> None:
        """How the job stands, if it is time to say so again."""
        if self._scheduler is None:
            return
        if now >= self.sample_at:
            self.sample_at = now + max(SAMPLE_S, (now - (self._start or 0.0)) / SAMPLES)
            self.tell("sample", now, status=status(now))
        maps = len(outputs)
        if maps != self._maps_told and (maps == self._scheduler.maps or now >= self._shuffle_at):
            self._maps_told = maps
            self._shuffle_at = now + SHUFFLE_S
            self.tell("shuffle", now, bytes=buckets(outputs.shuffled), partitions=len(outputs.shuffled))
            if outputs.hot.bytes:
                self.tell("hot", now, **outputs.hot.event(len(outputs.shuffled)))


def numbers(report: MapReport | ReduceReport) -> dict[str, Any]:
    """What an accepted attempt has read and written, and where its time went."""
    found: dict[str, Any] = {"records_in": report.records_in, "records_out": report.records_out, "size": report.size}
    if isinstance(report, MapReport):
        found["bytes_in"] = report.bytes_in
    if report.seconds:
        found["seconds"] = report.seconds
    return found


def reasons(failure: Failure) -> dict[str, Any]:
    """Why an attempt failed."""
    return {
        "kind": failure.kind,
        "message": cut("message", failure.message),
        "traceback": cut("traceback", failure.traceback),
        "input": failure.input,
        "offset": failure.offset,
        "counted": failure.counted,
        "fatal": failure.fatal,
    }


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[first, end] of each run of neighbouring numbers; they ascend."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def buckets(sizes: Sequence[int]) -> list[int]:
    """The sizes themselves, or of too many the sums over runs of neighbours, all of one length but the last."""
    run = -(-len(sizes) // BUCKETS_MAX)
    return list(sizes) if run <= 1 else [sum(sizes[at : at + run]) for at in range(0, len(sizes), run)]
