"""The bucket as a board between one's own machine and the cluster's: jobs go there, and news come from there.

queue/<time>-<job>       what to run; the first is the one that runs           written by `mrfast cluster run`
apps/<sha256>            application files, by fingerprint                      written by `mrfast cluster run`
current                  the job that runs and where its coordinator is         written by the coordinator's host
jobs/<job>/progress, jobs/<job>/end     its last lines; its exit code and result
hello/<instance>         a machine is ready                                     written by each host
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from mrfast.errors import NotFound, PreconditionFailed, StoreError
from mrfast.storage import Store
from mrfast.storage.base import put_json, read, read_json

READS_MAX = 10


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is shipped: the application by its fingerprint, and the arguments of mrfast-coordinator."""

    id: str
    app: str  # SHA-256 of its bytes
    app_name: str
    arguments: tuple[str, ...]
    params: dict[str, str] = field(default_factory=dict)
    queued: str = ""  # the time, as its place in the queue

    @classmethod
    def of(cls, document: dict[str, Any]) -> Job:
        """The job of a document."""
        return cls(**{**document, "arguments": tuple(document["arguments"])})


class Board:
    """The objects of one cluster under its prefix."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # What one's own machine writes

    def put_app(self, data: bytes) -> str:
        """The fingerprint under which the application lies there now."""
        fingerprint = hashlib.sha256(data).hexdigest()
        self.store.put(f"apps/{fingerprint}", data, durable=True)
        return fingerprint

    def submit(self, job: Job) -> None:
        """Puts the job at the end of the queue."""
        put_json(self.store, f"queue/{job.queued}-{job.id}", asdict(job))

    # What hosts read

    def next_job(self) -> Job | None:
        """The first job of the queue."""
        for found in self.store.list("queue/"):
            return Job.of(read_json(self.store, found.key))
        return None

    def app(self, fingerprint: str) -> bytes:
        """The application's bytes; StoreError if they are not those of the fingerprint."""
        data = read(self.store, f"apps/{fingerprint}")
        if hashlib.sha256(data).hexdigest() != fingerprint:
            raise StoreError(
                f"{self.store.url}/apps/{fingerprint} is not the application that was shipped; run it again"
            )
        return data

    def current(self) -> tuple[Job, str] | None:
        """The job that runs, and its coordinator's address."""
        document = self._find("current")
        return None if not document else (Job.of(document["job"]), document["address"])

    # What hosts write

    def set_current(self, job: Job | None, address: str) -> None:
        """Tells the workers what to do."""
        if job is None:
            self.store.delete("current")
        else:
            put_json(self.store, "current", {"job": asdict(job), "address": address})

    def begin(self, job: Job) -> bool:
        """Whether the job has begun before: then it is to be resumed."""
        if self._find(f"jobs/{job.id}/begun") is not None:
            return True
        put_json(self.store, f"jobs/{job.id}/begun", {"app": job.app})
        return False

    def tell(self, job: str, lines: list[str]) -> None:
        """The last lines of the running job."""
        put_json(self.store, f"jobs/{job}/progress", lines)

    def end(self, job: Job, code: int, lines: list[str], result: Any) -> None:
        """How the job ended; it leaves the queue."""
        put_json(self.store, f"jobs/{job.id}/end", {"code": code, "lines": lines, "result": result})
        self.store.delete(f"queue/{job.queued}-{job.id}")

    def hello(self, instance: str, document: dict[str, Any]) -> None:
        """A machine is ready."""
        put_json(self.store, f"hello/{instance}", document)

    # What one's own machine reads

    def queue(self) -> list[str]:
        """The ids of the jobs that have not ended, the running one first."""
        return [found.key.removeprefix("queue/").partition("-")[2] for found in self.store.list("queue/")]

    def progress_of(self, job: str) -> list[str]:
        """The running job's last lines."""
        return self._find(f"jobs/{job}/progress") or []

    def end_of(self, job: str) -> dict[str, Any] | None:
        """How the job ended; None while it has not."""
        document: dict[str, Any] | None = self._find(f"jobs/{job}/end")
        return document

    def hellos(self) -> dict[str, dict[str, Any]]:
        """What each machine said when it was ready, by instance."""
        found = [one.key for one in self.store.list("hello/")]
        return {key.removeprefix("hello/"): self._read(key) for key in found}

    def _find(self, key: str) -> Any:
        try:
            return self._read(key)
        except NotFound:
            return None

    def _read(self, key: str) -> Any:
        """The document; it may be written anew between the look at its size and the reading of it."""
        for _ in range(READS_MAX):
            try:
                return read_json(self.store, key)
            except PreconditionFailed:
                continue
        return read_json(self.store, key)
