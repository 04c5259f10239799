"""One simulated job: what goes wrong in it, when, and what must hold at each moment and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mrfast.control import commit
from mrfast.control.groups import Groups
from mrfast.control.job import JobDriver
from mrfast.control.journal import chain, read_lines
from mrfast.control.journal_files import Journal, is_superseded, read_journals
from mrfast.model import InputObject, JobSpec, MapTask, job_key, out_key, part_name
from mrfast.storage.base import read, read_json

from .hosts import Coordinator, Net, Worker
from .store import Bucket, SimStore, StoreFaults
from .world import Violation, World

JOB = "5" * 32
LIMIT_S = 3000.0  # after the last fault: every job with a live worker has ended by then
AFTER_S = 60.0  # so long a finished job is watched


@dataclass
class TaskFaults:
    """What tasks do."""

    fail: float = 0.0
    hang: float = 0.0
    poison: list[str] = field(default_factory=list)


class SimFile:
    """A journal's file: what was written survives a kill, what was synced survives a power cut."""

    def __init__(self) -> None:
        self.data = b""
        self.synced = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def sync(self) -> None:
        self.synced = len(self.data)

    def sync_if_read(self) -> None:
        """What a new epoch builds on is made durable first, as `read_journals` does."""
        self.sync()

    def close(self) -> None:
        pass


class SimJournals:
    """The job's journals on the coordinator's disk, mirrored to the store or not."""

    def __init__(self, store: SimStore, mirrored: bool) -> None:
        self.files: dict[int, SimFile] = {}
        self.store, self.mirrored = store, mirrored

    def open(self, epoch: int) -> Journal:
        if epoch in self.files:
            raise Violation(f"epoch {epoch} is taken twice")
        self.files[epoch] = SimFile()
        return Journal(self.files[epoch], job_key(JOB, "journal", str(epoch)) if self.mirrored else "")

    def read(self) -> dict[int, Any]:
        for file in self.files.values():
            file.sync_if_read()
        found = {epoch: read_lines(file.data, f"epoch {epoch}") for epoch, file in self.files.items()}
        if self.mirrored:
            for epoch, records in read_journals(self.store, JOB, "/nowhere").items():
                found[epoch] = max(found.get(epoch, []), records, key=len)
        return found

    def forget(self) -> None:
        pass

    def power_cut(self, world: World) -> None:
        """Of what was not synced an arbitrary beginning is left."""
        for file in self.files.values():
            file.data = file.data[: world.random.randint(file.synced, len(file.data))]

    def records(self) -> list[dict[str, Any]]:
        """All that counts, as it is now; after a power cut the store may have more of an epoch than the disk."""
        found = {epoch: read_lines(file.data, "") for epoch, file in self.files.items()}
        if self.mirrored:
            with self.store.without_faults():
                for epoch, records in read_journals(self.store, JOB, "/nowhere").items():
                    found[epoch] = max(found.get(epoch, []), records, key=len)
        return chain(found)


class SimJob:
    """A whole run; `run` raises Violation if anything that is promised does not hold."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        self.seed = seed
        random = world.random
        self.bucket = Bucket()
        self.bucket.on_change = self.on_change
        self.maps = random.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])
        self.reduces = random.randint(1, 3)
        self.workers_at_start = random.randint(1, 4)
        slowest_s = random.choice([0.2, 2, 8, 25])
        self.seconds = [random.uniform(0.05, slowest_s) for _ in range(self.maps + self.reduces)]
        self.drain_s = random.choice([0.0, 5.0, 90.0])
        self.linger_s = 3.0
        self.faults_until = random.uniform(5, 90)
        self.end_s = self.faults_until + LIMIT_S
        self.long_indexes = world.chance(0.1)
        self.varying = world.chance(0.2)  # maps whose output is another one each time
        self.net = Net()
        self.task_faults = TaskFaults()
        self.store_faults = StoreFaults()
        self.coordinator: Coordinator | None = None
        self.coordinators: list[Coordinator] = []
        self.workers: list[Worker] = []
        self.numbers = 0
        self.app_failures = 0
        self.may_fail: set[str] = set()  # what a job of this seed may fail of
        self.excused: set[str] = set()  # objects that a fault has removed or damaged
        self.promised: dict[str, str] = {}  # task -> the attempt whose acceptance its worker was told
        self.executed: Counter[str] = Counter()
        self.published: dict[str, bytes] = {}
        inputs = tuple(InputObject(f"{i}", f"sim://in/{i}", 10, "e") for i in range(self.maps))
        group = Random(seed).choice([1, 1, 2, 3])  # of its own: what else a seed does stays as it is
        self.spec = JobSpec(
            JOB, None, "sim://store", "sim://output", self.reduces, 100, 1 << 20, 4, False, inputs, stall_s=60.0,
            partitions_per_reduce=group,
        )  # fmt: skip
        self.groups = Groups.of(self.spec)
        self.disk = SimJournals(self.store_of(StoreFaults()), world.chance(0.3))
        self.plan_faults()

    # What goes wrong

    def plan_faults(self) -> None:
        """Swarm testing (Groce et al., ISSTA 2012): each seed has some of the faults only, at rates of its own."""
        world, random = self.world, self.world.random

        def some(rate: float) -> float:
            return random.uniform(rate / 10, rate) if world.chance(0.3) else 0.0

        self.net.lose, self.net.double, self.net.late = some(0.05), some(0.2), some(0.2)
        faults = self.store_faults
        faults.before, faults.after, faults.full = some(0.15), some(0.1), some(0.05)
        faults.flip, faults.cut = some(0.1), some(0.1)
        self.task_faults.fail, self.task_faults.hang = some(0.1), some(0.05)
        if world.chance(0.04) and self.maps:
            self.task_faults.poison = [f"m-{random.randrange(self.maps):06d}."]
        self.may_fail |= {"503", "reset"} if faults.before or faults.after else set()
        self.may_fail |= {"no space left"} if faults.full else set()
        self.may_fail |= {"map object", "lost its accepted output", "/inter/"} if faults.flip or faults.cut else set()
        self.may_fail |= {"as told"} if self.task_faults.fail or self.task_faults.poison else set()
        self.may_fail |= {"no progress"} if self.task_faults.hang else set()
        self.start_coordinator()
        for _ in range(self.workers_at_start):
            self.start_worker(random.uniform(0, 2))
        kinds: list[Callable[[], None]] = [
            self.kill_worker, self.freeze_worker, self.cut_worker, self.kill_the_coordinator, self.freeze_coordinator,
            self.cut_coordinator, self.kill_in_an_effect, self.power_cut, self.second_coordinator, self.remove_object,
            self.damage_object, self.drain_worker, self.slow_worker, self.sick_worker,
        ]  # fmt: skip
        for kind in kinds:
            if world.chance(0.3):
                for _ in range(random.choice([1, 1, 2, 3, 6])):
                    world.at(random.uniform(0, self.faults_until), kind)
        world.at(self.faults_until, self.heal)

    def heal(self) -> None:
        self.world.tell("all is well from here on")
        self.net.lose = self.net.double = self.net.late = 0.0
        self.net.cut.clear()
        self.store_faults.__dict__.update(StoreFaults().__dict__)
        self.task_faults.fail = self.task_faults.hang = 0.0
        for worker in self.workers:
            worker.slowness, worker.sick = 1.0, False
            if worker.frozen:
                worker.thaw()
        if self.coordinator is not None:
            self.coordinator.cut = False
            if self.coordinator.frozen:
                self.coordinator.thaw()
        if not any(not worker.dead for worker in self.workers):
            self.start_worker(0.0)

    def a_worker(self) -> Worker | None:
        alive = [worker for worker in self.workers if not worker.dead]
        return self.world.random.choice(alive) if alive else None

    def kill_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            self.world.tell(f"worker {worker.id[:4]} is killed")
            worker.die()

    def freeze_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            self.world.tell(f"worker {worker.id[:4]} freezes")
            worker.freeze(self.world.random.choice([1.0, 5.0, 15.0, 100.0]))

    def cut_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            self.world.tell(f"worker {worker.id[:4]} is cut off")
            self.net.cut.add(worker.id)
            self.world.after(self.world.random.uniform(1, 30), lambda: self.net.cut.discard(worker.id))

    def drain_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            self.world.tell(f"worker {worker.id[:4]} drains")
            worker.drains = True
            worker.do(lambda: (worker.agent.drain(self.world.now), worker.step()))  # type: ignore[arg-type, return-value]

    def slow_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            worker.slowness = self.world.random.uniform(4, 50)

    def sick_worker(self) -> None:
        if (worker := self.a_worker()) is not None:
            worker.sick = True

    def kill_the_coordinator(self) -> None:
        if self.coordinator is not None and not self.coordinator.dead:
            self.world.tell("the coordinator is killed")
            self.kill_coordinator(self.coordinator)

    def kill_coordinator(self, coordinator: Coordinator) -> None:
        coordinator.die()

    def kill_in_an_effect(self) -> None:
        if self.coordinator is not None:
            for store in self.coordinator.stores:
                store.die_at = self.world.random.randint(0, 6)

    def power_cut(self) -> None:
        if self.coordinator is not None and not self.coordinator.dead:
            self.world.tell("the coordinator's machine loses its power")
            for coordinator in self.coordinators:  # all are on that machine
                self.kill_coordinator(coordinator)
            self.disk.power_cut(self.world)

    def freeze_coordinator(self) -> None:
        if self.coordinator is not None:
            self.world.tell("the coordinator freezes")
            self.coordinator.freeze(self.world.random.choice([1.0, 5.0, 15.0, 60.0]))

    def cut_coordinator(self) -> None:
        if (coordinator := self.coordinator) is not None:
            self.world.tell("the coordinator is cut off")
            coordinator.cut = True
            self.world.after(self.world.random.uniform(1, 30), lambda: setattr(coordinator, "cut", False))

    def second_coordinator(self) -> None:
        if self.coordinator is not None and not self.coordinator.dead and self.begun():
            self.world.tell("a second coordinator is started")
            if self.world.chance(0.5):
                self.coordinator.freeze(self.world.random.uniform(1, 40))
            self.start_coordinator()

    def remove_object(self) -> None:
        keys = [key for key in self.bucket.objects if "/inter/" in key]
        if keys:
            key = self.world.random.choice(sorted(keys))
            self.world.tell(f"{key} is lost")
            self.excused.add(key)
            self.may_fail |= {"map object", "lost its accepted output", "/inter/"}  # lost too often, a map fails
            self.bucket.remove(key)

    def damage_object(self) -> None:
        keys = [key for key in self.bucket.objects if "/inter/" in key]
        if keys:
            key = self.world.random.choice(sorted(keys))
            data = bytearray(self.bucket.objects[key][0])
            data[self.world.random.randrange(len(data))] ^= 1
            self.world.tell(f"{key} is damaged")
            self.excused.add(key)
            self.may_fail |= {"map object", "lost its accepted output", "/inter/"}
            self.bucket.write(key, bytes(data))

    # Who is there

    def store_of(self, faults: StoreFaults, prefix: str = "store") -> SimStore:
        return SimStore(self.world, self.bucket, prefix, faults)

    def begun(self) -> bool:
        return f"store/{job_key(JOB, commit.SPEC)}" in self.bucket.objects

    def start_coordinator(self) -> None:
        store, output = self.store_of(self.store_faults), self.store_of(self.store_faults, "output")
        if not self.begun():
            self.disk.files.clear()
        driver = JobDriver(
            self.spec, store=store, journals=self.disk, resume=self.begun(), open_output=lambda url: output
        )
        self.disk.store = store
        self.coordinator = Coordinator(self.world, self, driver, [store, output])
        self.coordinators.append(self.coordinator)

    def start_worker(self, delay: float) -> None:
        def start() -> None:
            self.numbers += 1
            self.workers.append(Worker(self.world, self, self.store_of(self.store_faults), self.numbers))

        self.world.after(delay, start)

    def worker_died(self, worker: Worker) -> None:
        if not self.has_ended():
            self.start_worker(self.world.random.uniform(0.5, 20))

    def worker_over(self, worker: Worker) -> None:
        if worker.agent.end is None and not worker.drains and not self.has_ended():
            raise Violation(f"worker {worker.id[:4]} ends as if the job were done")

    def net_check(self, worker: Worker) -> None:
        """A worker looks for the coordinator: a supervisor has seen to it that there will be one."""
        if (self.coordinator is None or self.coordinator.dead) and not self.has_ended():
            self.start_coordinator()

    # What must hold

    def nonce(self, task: Any) -> str:
        self.executed[task.attempt] += 1
        return str(task.attempt) if self.varying else "d"

    def seconds_of(self, task: Any) -> float:
        """A task takes as long each time: one that is long stays so."""
        return self.seconds[task.index if isinstance(task, MapTask) else self.maps + task.partition]

    def has_ended(self) -> bool:
        if f"store/{job_key(JOB, commit.FAILED)}" in self.bucket.objects:
            return True
        return "output/_SUCCESS" in self.bucket.objects

    def sync(self, journal: Journal) -> None:
        journal.sync()

    def stepped(self, coordinator: Coordinator) -> None:
        scheduler = coordinator.driver.scheduler
        if scheduler is not None:
            scheduler.validate()
            deadline = scheduler._leases.next_deadline()
            if deadline is not None and deadline < self.world.now and coordinator.driver.state == "RUNNING":
                raise Violation("a lease outlives its end")

    def told(self, coordinator: Coordinator, method: str, call: Any, answer: Any) -> None:
        """The coordinator has said something to a worker."""
        if is_superseded(self.store_of(StoreFaults()), JOB, coordinator.driver.epoch):
            return  # it does not know yet; what it accepts is not in the journal that counts
        if method == "poll":
            for task in [*answer.maps, *answer.reduces]:
                self.check_not_done(task.attempt.split(".")[0])
        elif method == "report" and call.failure is None and answer.word in ("accepted", "already"):
            report = call.map or call.reduce
            if answer.word == "accepted":
                kind, index = ("map" if call.map else "reduce"), int(report.attempt[2:].partition(".")[0])
                for key in self.groups.written(JOB, kind, index, report.attempt):
                    if f"store/{key}" not in self.bucket.objects and f"store/{key}" not in self.excused:
                        raise Violation(f"{report.attempt} was accepted, and its object is not there")
            self.promised[report.attempt.split(".")[0]] = report.attempt

    def check_not_done(self, task: str) -> None:
        """No accepted task runs again, unless the journal says why."""
        attempt = self.promised.get(task)
        if attempt is None:
            return
        digests: dict[str, set[str]] = {}
        for record in self.disk.records():
            if record["k"] == "lost" and record["attempt"] == attempt:
                break
            if record["k"] == "map":
                seen = digests.setdefault(record["report"]["attempt"].split(".")[0], set())
                seen.add(record["digest"])
                if task.startswith("r") and len(seen) > 1:
                    break
        else:
            raise Violation(f"{task} was accepted as {attempt}, and is handed out again")
        del self.promised[task]

    def on_change(self, key: str, data: bytes | None) -> None:
        before = self.bucket.objects.get(key)
        if "/manifest.json" in key and before is not None:
            raise Violation("a second manifest")
        if key in self.published and data != self.published[key]:
            raise Violation(f"{key} changes after it was published")
        attempt = "/inter/" in key or ("/jobs/" in key and "/out/" in key)
        if attempt and data is not None and before is not None and key not in self.excused and before[0] != data:
            raise Violation(f"{key} is written a second time, with other bytes")
        if key == "output/_SUCCESS" and data is not None:
            for name, (part, _) in self.bucket.objects.items():
                if name.startswith("output/mr-out-"):
                    self.published[name] = part

    def run(self) -> SimJob:
        """Runs the job to its end, and some time beyond."""
        world = self.world
        until: float | None = None
        while world.now < self.end_s and (until is None or world.now < until):
            if not world.step():
                break
            if until is None and self.has_ended() and world.now > self.faults_until:
                until = world.now + AFTER_S
            if until is not None and not self.has_ended():  # a coordinator that was frozen has resumed a failed job
                until = None
                self.start_worker(0.0)
            if world.events > 400_000:
                raise Violation("no end of events")
        self.check_end()
        return self

    def full_story(self) -> list[str]:
        """What was done to the job, and what happened to its tasks in the eyes of its last coordinator."""
        lines = list(self.world.story)
        scheduler = None if self.coordinator is None else self.coordinator.driver.scheduler
        if scheduler is not None:
            for kind, count in (("map", self.maps), ("reduce", self.groups.tasks)):
                lines += [line for index in range(count) for line in scheduler.story(kind, index)]
        return lines

    def check_failures(self) -> None:
        """Only what was done to it counts against a task."""
        for record in self.disk.records():
            if record["k"] == "failed":
                why = record["failure"]["message"]
                if not any(reason in why for reason in self.may_fail):
                    raise Violation(f"a failure that nobody made was counted: {why}")

    def check_end(self) -> None:
        self.check_failures()
        store, output = self.store_of(StoreFaults()), self.store_of(StoreFaults(), "output")
        if not self.has_ended():
            raise Violation("the job has not ended")
        objects = self.bucket.objects
        failed, manifest = (f"store/{job_key(JOB, name)}" in objects for name in (commit.FAILED, commit.MANIFEST))
        if failed:
            if manifest:
                raise Violation("the job is committed and failed")
            why = read_json(store, job_key(JOB, commit.FAILED))["error"]
            if not why:
                raise Violation("the job failed without a reason")
            if not any(reason in why for reason in self.may_fail):
                raise Violation(f"the job failed of something that was not done to it: {why}")
            return
        if self.task_faults.poison:
            raise Violation("a job with a task that always fails is committed")
        document = read_json(output, "_SUCCESS")
        keys: Counter[str] = Counter()
        nonces: dict[str, set[str]] = {}
        if [part["partition"] for part in document["parts"]] != list(range(self.reduces)):
            raise Violation("the output has not each part once")
        for part in document["parts"]:
            data = read(output, part_name(part["partition"]))
            if data != read(store, out_key(JOB, part["attempt"])):
                raise Violation(f"part {part['partition']} is not the one of the manifest")
            for line in data.decode().splitlines():
                key, nonce = line.split(" ")
                keys[key] += 1
                nonces.setdefault(key.split("-")[0], set()).add(nonce)
        expected = Counter(f"k{index}-{word}" for index in range(self.maps) for word in range(2 * self.reduces))
        if keys != expected:
            raise Violation(f"the output has {sorted((keys - expected).elements())} too many, lacks "
                            f"{sorted((expected - keys).elements())}")  # fmt: skip
        mixed = {name: found for name, found in nonces.items() if len(found) > 1}
        if mixed:
            raise Violation(f"parts were made from different outputs of one map: {mixed}")
        if not self.varying and any(found != {"d"} for found in nonces.values()):
            raise Violation("the output is not that of a run without faults")
