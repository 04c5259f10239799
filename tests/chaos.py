"""Whole jobs of real processes that are killed, frozen and cut off from each other: no byte of the result may differ.

Each fault is chosen by one random.Random(seed); when it strikes is up to the machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_proxy import Proxy

import mrfast
from mrfast.control.commit import find_job
from mrfast.errors import MrfastError, UnknownJob
from mrfast.storage import open_store

FILES, REDUCES, WORKERS, SLOTS = 300, 20, 4, 2
HANG_S = 120.0  # without any progress
LEAVE_S = 3.0  # that workers get to hear the end of their job; cut off, they would look for it for a minute
GONE_S = 20.0  # for the slots of killed workers to be gone
PORT_TRIES_MAX = 100
MARK = "MRFAST_CHAOS_RUN"
LOG_TAIL_BYTES = 3000

# The order of the values counts too: the first and the last file of each word are in the result.
APP = """
import time

input = "file"


def map(filename, contents):
    time.sleep(0.02 + len(contents) % 7 / 200)
    name = filename.rsplit("/", 1)[-1]
    for word in contents.decode().split():
        yield word, name


def reduce(word, filenames):
    names = list(filenames)
    return f"{len(names)} {names[0]} {names[-1]}"
"""


class ChaosError(Exception):
    """What went wrong, what had been done to the processes, and what they said."""


@dataclass
class Tally:
    """What was done, and to how many jobs."""

    jobs: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return sum(count for fault, count in self.faults.items() if fault.startswith("kill"))

    def __str__(self) -> str:
        faults = ", ".join(f"{count} × {fault}" for fault, count in sorted(self.faults.items()))
        return f"{self.jobs} jobs, {self.kills} kills: {faults}"


class Process:
    """A command of mrfast in a session of its own."""

    def __init__(self, label: str, command: str, arguments: list[str], folder: Path, mark: str) -> None:
        self.label = label
        self.log = folder / f"{label}.log"
        self.thaw_at: float | None = None
        source = str(Path(mrfast.__file__).parent.parent)
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", f"from mrfast.cli import {command}; {command}()", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": source, "TMPDIR": str(temporary), MARK: mark},
                start_new_session=True,
            )

    @property
    def lives(self) -> bool:
        return self.popen.poll() is None

    def freeze(self, thaw_at: float) -> None:
        self.popen.send_signal(signal.SIGSTOP)
        self.thaw_at = max(thaw_at, self.thaw_at or 0.0)

    def thaw(self) -> None:
        self.thaw_at = None
        self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> bool:
        """Whether it lived until now."""
        self.popen.kill()
        return self.popen.wait() == -signal.SIGKILL


def free_port() -> int:
    """A port that nobody listens on just now, below those that outgoing connections get."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(15_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise ChaosError("no port is free")


def marked(mark: str) -> dict[int, str]:
    """The command lines, by pid, of all processes that were started with this mark and of their children."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


class Chaos:
    """Runs jobs in `folder` until `kills` processes have been killed and the last job is done in peace."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        kills: int,
        kill_coordinators: bool = True,
        long_freezes: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._seed = seed
        self._random = random.Random(seed)
        self._kills = kills
        self._long_freezes = long_freezes
        self._say = say
        self._name = "calm"
        self._mark = uuid.uuid4().hex
        self._port = free_port()
        self._proxy = Proxy(self._port)
        self._store = folder / "store"
        self._processes: list[Process] = []
        self._workers: list[Process] = []
        self._history: list[str] = []
        self._began = time.monotonic()
        self._faults: dict[str, tuple[int, Callable[[], bool]]] = {
            "kill a worker": (6, self._kill_worker),
            "kill the coordinator": (4 if kill_coordinators else 0, self._kill_coordinator),
            "freeze a worker": (2, lambda: self._freeze(self._workers)),
            "freeze the coordinator": (1, lambda: self._freeze([self._coordinator])),
            "cut every connection": (1, lambda: self._cut(1.0)),
            "cut some connections": (2, lambda: self._cut(0.5)),
            "slow the network down": (1, self._slow),
            "stall the network": (1, self._stall),
        }

    def run(self) -> Tally:
        """What was done; ChaosError as soon as anything is not as it should be. No process is left in any case."""
        try:
            self._write_inputs()
            expected = self._calm_run()
            while self.tally.kills < self._kills:
                name = f"job-{self.tally.jobs}"
                self._job(name)
                self._check(name, expected)
                self.tally.jobs += 1
                self._say(str(self.tally))
        except (ChaosError, MrfastError, OSError) as error:
            raise ChaosError(f"{error}\n\n{self._evidence()}") from error
        finally:
            self._proxy.close()
            for process in self._processes:
                process.popen.kill()
                process.popen.wait()
            for pid in marked(self._mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return self.tally

    # What the jobs are about

    def _write_inputs(self) -> None:
        (self._folder / "app.py").write_text(APP)
        (self._folder / "in").mkdir()
        letters = "abcdefghijklmnopqrstuvwxyzäöüßéñ日本語"
        words = ["".join(self._random.choices(letters, k=self._random.randint(1, 9))) for _ in range(2000)]
        for i in range(FILES):
            text = " ".join(self._random.choices(words, k=self._random.randint(0, 200)))
            (self._folder / "in" / f"{i:04d}.txt").write_text(text, "utf-8")

    def _calm_run(self) -> list[bytes]:
        result = mrfast.run(
            self._folder / "app.py",
            self._folder / "in",
            store=self._folder / "calm",
            reduces=REDUCES,
            workers=WORKERS * SLOTS,
            split_bytes=1,
        )
        return self._parts(result.output_url)

    def _parts(self, output_url: str) -> list[bytes]:
        return [(Path(output_url) / f"mr-out-{i}").read_bytes() for i in range(REDUCES)]

    # One job

    def _job(self, name: str) -> None:
        self._name = name
        self._port_tries = 0
        self._known: Any = None
        self._progress_at = time.monotonic()
        self._start_coordinator(resume=False)
        self._workers = []
        for _ in range(WORKERS):
            self._start_worker()
        fault_at = asked_at = time.monotonic()
        while not self._is_done():
            now = time.monotonic()
            for process in (self._coordinator, *self._workers):
                if process.thaw_at is not None and now >= process.thaw_at:
                    process.thaw()
            if now >= asked_at + 0.5:
                self._watch()
                asked_at = time.monotonic()
            if now >= fault_at:
                self._fault()
                fault_at = time.monotonic() + self._random.uniform(0.1, 0.7)
            time.sleep(0.01)
        self._end_workers()

    def _start(self, label: str, command: str, *arguments: str) -> Process:
        process = Process(
            f"{self._name}-{label}{len(self._processes)}", command, list(arguments), self._folder, self._mark
        )
        self._processes.append(process)
        self._note(f"{process.label} is process {process.popen.pid}")
        return process

    def _start_worker(self) -> None:
        address = f"127.0.0.1:{self._proxy.port}"
        app = str(self._folder / "app.py")
        self._workers.append(
            self._start("worker", "worker_main", app, address, "--slots", str(SLOTS), "--connect-s", "60")
        )

    def _start_coordinator(self, resume: bool) -> None:
        common = ["--store", str(self._store), "--listen", f"127.0.0.1:{self._port}", "--linger-s", "0.2"]
        new = ["--job", self._name, "-r", str(REDUCES), "--split-bytes", "1", str(self._folder / "in")]
        job = ["--resume", self._name] if resume else new
        self._coordinator = self._start("coordinator", "coordinator_main", *common, *job)

    def _is_done(self) -> bool:
        """Whether the coordinator has ended well; starts it again where it could not start, or not find its job yet."""
        for worker in [worker for worker in self._workers if not worker.lives]:
            if worker.popen.returncode:
                raise ChaosError(f"{worker.label} ended by itself with {worker.popen.returncode}")
            self._note(f"{worker.label} has heard that the job is done")
            self._workers.remove(worker)
        if self._coordinator.lives:
            return False
        code, said = self._coordinator.popen.returncode, self._coordinator.log.read_text(errors="replace")
        if code == 0:
            return True
        self._port_tries += 1
        if self._port_tries < PORT_TRIES_MAX:
            if "cannot listen" in said:
                time.sleep(0.05)
                self._start_coordinator(resume=self._exists())
                return False
            if not self._exists():  # killed before there was a job
                self._start_coordinator(resume=False)
                return False
        raise ChaosError(f"{self._coordinator.label} ended with {code}")

    def _exists(self) -> bool:
        try:
            find_job(self._name, open_store(str(self._store)))
        except UnknownJob:
            return False
        return True

    def _watch(self) -> None:
        """Asks the coordinator how the job stands, past the proxy."""
        known = None
        with suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", self._port), timeout=0.5) as asked:
            replies = asked.makefile("rb")
            for call, params in ("auth", {"nonce": "0" * 64}), ("status", {}):
                asked.sendall(
                    json.dumps({"jsonrpc": "2.0", "id": 1, "method": call, "params": params}).encode() + b"\n"
                )
                reply = json.loads(replies.readline())
            if "result" not in reply:
                raise ChaosError(f"status was answered with {reply}")
            status = reply["result"]
            known = [status[name] for name in ("state", "phase", "maps_done", "reduces_done")]
        if known is not None and known != self._known:
            self._known = known
            self._progress_at = time.monotonic()
            self._note(f"status: {known}")
        if time.monotonic() > self._progress_at + HANG_S:
            raise ChaosError(f"no progress for {HANG_S:.0f} s; the last status was {self._known}")

    def _end_workers(self) -> None:
        self._proxy.heal()
        for worker in self._workers:
            worker.thaw()
        until = time.monotonic() + LEAVE_S
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.popen.wait(max(0.0, until - time.monotonic()))
            if worker.kill():
                self._note(f"{worker.label} did not hear the end")
            elif worker.popen.returncode:
                raise ChaosError(f"{worker.label} ended by itself with {worker.popen.returncode}")
        until = time.monotonic() + GONE_S
        while left := marked(self._mark):
            if time.monotonic() > until:
                raise ChaosError(f"processes are left: {left}")
            time.sleep(0.02)

    def _check(self, name: str, expected: list[bytes]) -> None:
        spec = find_job(name, open_store(str(self._store)))
        output = Path(spec.output_url)
        if not (output / "_SUCCESS").exists():
            raise ChaosError(f"{name} has no _SUCCESS")
        differ = [i for i, part in enumerate(self._parts(spec.output_url)) if part != expected[i]]
        if differ:
            raise ChaosError(f"{name}: the parts {differ} differ from those of a calm run")
        inter = [str(path) for path in (self._store / "jobs" / spec.job / "inter").rglob("*") if path.is_file()]
        if inter:
            raise ChaosError(f"{name} has left {inter}")

    # Faults

    def _fault(self) -> None:
        if self.tally.kills >= self._kills:
            return
        weights = [weight for weight, _ in self._faults.values()]
        name = self._random.choices(list(self._faults), weights)[0]
        if self._faults[name][1]():
            self.tally.faults[name] += 1

    def _seconds(self) -> float:
        longest = self._long_freezes and self._random.random() < 0.05
        return self._random.uniform(11, 13) if longest else self._random.uniform(0.2, 3.0)

    def _kill_worker(self) -> bool:
        if not self._workers:
            return False
        worker = self._random.choice(self._workers)
        lived = worker.kill()
        self._note(f"killed {worker.label}: {lived}")
        if lived:
            self._workers.remove(worker)
            self._start_worker()
        return lived

    def _kill_coordinator(self) -> bool:
        lived = self._coordinator.kill()
        self._note(f"killed {self._coordinator.label}: {lived}")
        if lived:
            self._start_coordinator(resume=self._exists())
        return lived

    def _freeze(self, processes: list[Process]) -> bool:
        living = [process for process in processes if process.lives]
        if not living:
            return False
        process = self._random.choice(living)
        seconds = self._seconds()
        self._note(f"froze {process.label} for {seconds:.1f} s")
        process.freeze(time.monotonic() + seconds)
        return True

    def _cut(self, share: float) -> bool:
        chosen = [self._random.random() < share for _ in range(64)]
        reset = self._random.random() < 0.5
        self._note(f"{'reset' if reset else 'closed'} connections: {'all' if share == 1 else chosen[:WORKERS]}")
        self._proxy.cut(lambda i: chosen[i % len(chosen)], reset)
        return True

    def _slow(self) -> bool:
        delay_s, for_s = self._random.uniform(0.01, 0.3), self._seconds()
        self._note(f"slowed the network down by {delay_s:.2f} s for {for_s:.1f} s")
        self._proxy.slow(delay_s, for_s)
        return True

    def _stall(self) -> bool:
        to_server, for_s = self._random.random() < 0.5, self._seconds()
        self._note(f"stalled what goes to the {'coordinator' if to_server else 'workers'} for {for_s:.1f} s")
        self._proxy.stall(to_server, for_s)
        return True

    # Evidence

    def _note(self, text: str) -> None:
        self._history.append(f"{time.monotonic() - self._began:8.2f} {text}")

    def _evidence(self) -> str:
        lines = [f"seed {self._seed}; {self.tally}", "", "What was done last:", *self._history[-80:]]
        for process in self._processes:
            if process.label.startswith(f"{self._name}-"):
                said = process.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").rstrip()
                lines += ["", f"{process.label} ({process.popen.poll()}):", said]
        return "\n".join(lines)
