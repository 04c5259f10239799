"""The machines of a simulated job: workers around the real Agent, a coordinator around the real driver and desk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import xxhash

from mrfast import core
from mrfast.control import messages
from mrfast.control.desk import Desk
from mrfast.control.job import JobDriver
from mrfast.control.schema import BadFrame, decode, encode
from mrfast.control.wire import ErrorReply, Reply, Request, error, parse, request, response
from mrfast.errors import CorruptSegment, MrfastError, StoreError
from mrfast.index import SegmentIndex
from mrfast.model import (
    AppInfo,
    Failure,
    InputCut,
    MapReport,
    MapTask,
    PartReport,
    Progress,
    ReduceReport,
    inter_key,
    out_key,
    part_object,
)
from mrfast.tasks.agent import Agent
from mrfast.tasks.failure import failure
from mrfast.tasks.fetch import Fetched
from mrfast.tasks.pool import Bad, Finished, Wanted

from .store import Killed, SimStore
from .world import World

APP = AppInfo("sim.py", "f" * 32, InputCut("lines", True), "text", "0", "3")
SILENCE_S = 40.0  # as tasks/link.py
CONNECT_S = 600.0


@lru_cache(maxsize=4096)
def map_output(reduces: int, index: int, nonce: str) -> tuple[bytes, bytes]:
    """(segments, packed index) of a map: each partition gets the map's own key, and what this attempt drew."""
    sink = core.MapSink(reduces)
    sink.emit_all((f"k{index}-{word}", nonce) for word in range(2 * reduces))
    drained = sink.drain()
    body = b"".join(bytes(chunk) for chunk in drained.chunks())
    packed = SegmentIndex(drained.lengths, drained.counts, drained.checksums, key_kind="str").pack()
    return body, packed


class Wire:
    """A connection between a worker and a coordinator: lines there and back, late, twice, out of order or lost."""

    def __init__(self, world: World, net: Net, worker: Worker, coordinator: Coordinator) -> None:
        self.world, self.net, self.worker, self.coordinator = world, net, worker, coordinator
        self.up = True
        self.waiting: dict[int, tuple[type[Any] | None, Callable[[Any], None]]] = {}
        self.numbers = 0

    def call(self, method: str, params: Any, on_reply: Callable[[Any], None]) -> None:
        self.numbers += 1
        number = self.numbers
        self.waiting[number] = (None, on_reply)
        line = request(number, method, params)
        self.send(lambda: self.coordinator.hear(self, line))
        self.world.after(SILENCE_S, lambda: self.silent(number))

    def silent(self, number: int) -> None:
        if self.up and number in self.waiting:
            self.drop()

    def answer(self, line: bytes) -> None:
        self.send(lambda: self.worker.hear(self, line))

    def send(self, deliver: Callable[[], None]) -> None:
        world, net = self.world, self.net
        if world.chance(net.lose) or net.is_cut(self.worker, self.coordinator):
            # TCP loses nothing without losing the connection: each end learns of it at a time of its own.
            world.after(world.random.uniform(0, 5), self.drop)
            return
        for _ in range(2 if world.chance(net.double) else 1):
            delay = world.random.uniform(0.0005, 0.003)
            if world.chance(net.late):
                delay += world.random.expovariate(1 / 5)
            world.after(delay, lambda: deliver() if self.up else None)

    def drop(self) -> None:
        """Both ends see that it is gone, each in its own time."""
        if not self.up:
            return
        self.up = False
        self.world.after(self.world.random.uniform(0, 1), lambda: self.coordinator.lost(self))
        self.world.after(self.world.random.uniform(0, 1), lambda: self.worker.lost(self))


@dataclass
class Net:
    """How bad the network is at this moment."""

    lose: float = 0.0
    double: float = 0.0
    late: float = 0.0
    cut: set[str] = field(default_factory=set)  # workers that reach nobody

    def is_cut(self, worker: Worker, coordinator: Coordinator) -> bool:
        return worker.id in self.cut or coordinator.cut


class Host:
    """A machine that can freeze, thaw and die; what happens to it while it is frozen happens when it thaws."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = self.frozen = False
        self.backlog: list[Callable[[], None]] = []

    def do(self, action: Callable[[], None]) -> None:
        """Lets the host do something as soon as it can."""
        if self.dead:
            return
        if self.frozen:
            self.backlog.append(action)
            return
        action()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.after(seconds, lambda: self.do(action))

    def freeze(self, seconds: float) -> None:
        if not self.dead and not self.frozen:
            self.frozen = True
            self.world.after(seconds, self.thaw)

    def thaw(self) -> None:
        self.frozen = False
        backlog, self.backlog = self.backlog, []
        for action in backlog:
            self.do(action)


class Slot:
    """One task of a simulated worker: it sleeps as long as a task takes, and does its store work with real code."""

    def __init__(self, worker: Worker, task: Any) -> None:
        self.worker, self.task = worker, task
        self.phase = ""
        self.began = worker.world.now
        self.stopped = False
        self.since = 0
        self.fetched: Fetched | None = None
        faults = worker.job.task_faults
        world = worker.world
        self.seconds = worker.job.seconds_of(task) * world.random.uniform(0.9, 1.1) * worker.slowness
        if world.chance(faults.hang):
            return  # no progress, for ever
        if isinstance(task, MapTask):
            self.phase = "map"
            self.go(self.seconds / 2, self.half)
        else:
            self.fetched = Fetched(task, worker.store, None, lambda: None)
            self.go(0.001, self.ask)

    def go(self, seconds: float, step: Callable[[], None]) -> None:
        self.worker.later(seconds, lambda: None if self.stopped else self.guarded(step))

    def guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except CorruptSegment as error:
            segment = self.fetched.unreadable if self.fetched is not None else None
            at = {} if segment is None else {"input": segment.attempt, "map_index": segment.map_index}
            self.report(Failure(self.task.attempt, "corrupt", str(error), **at))
        except StoreError as error:
            self.report(failure(self.task.attempt, error))

    def half(self) -> None:
        self.fail_now_and_then()
        self.go(self.seconds / 2, self.finish_map)

    def fail_now_and_then(self) -> None:
        faults, world = self.worker.job.task_faults, self.worker.world
        poison = self.task.attempt.startswith(tuple(faults.poison))
        if poison or world.chance(faults.fail * (5 if self.worker.sick else 1)):
            self.worker.job.app_failures += 1
            self.report(Failure(self.task.attempt, "app", "ValueError: as told"))

    def finish_map(self) -> None:
        task, job = self.task, self.worker.job
        nonce = job.nonce(task)
        body, packed = map_output(task.reduces, task.index, nonce)
        tail = packed + len(packed).to_bytes(4, "little") + b"MRX1"
        self.worker.write(inter_key(task.job, task.attempt), body + tail)
        index = b"" if job.long_indexes else packed
        digest = xxhash.xxh3_64_hexdigest(body + tail)
        self.report(MapReport(task.attempt, len(body + tail), digest, index, 2, 2, 10))

    @property
    def progress(self) -> Progress:
        """As much of its time as has passed; of one that hangs, nothing."""
        share = (self.worker.world.now - self.began) / self.seconds if self.phase else 0.0
        return Progress(self.phase, int(10_000 * min(1.0, share)), 10_000, self.since)

    # a reduce

    def ask(self) -> None:
        self.worker.event(Wanted(self, self.task.attempt, self.since))  # type: ignore[arg-type]

    def answer(self, segments: Any, next: int, complete: bool) -> None:
        def hear() -> None:
            assert self.fetched is not None
            self.since = next
            if self.fetched.hear([decode(type(each), encode(each)) for each in segments], complete, self):
                self.phase, self.began = "reduce", self.worker.world.now
                self.go(self.seconds, self.finish_reduce)
            else:
                self.ask()

        self.go(0.001, hear)

    def bad(self, segment: Any, why: str) -> None:
        self.worker.event(Bad(self, self.task.attempt, segment.map_index, segment.attempt, why))  # type: ignore[arg-type]

    def pages(self) -> Any:
        raise NotImplementedError("a simulated slot hears its pages one by one, as they come")

    def finish_reduce(self) -> None:
        assert self.fetched is not None
        self.fail_now_and_then()
        if self.stopped:
            return
        table, task = self.fetched.table(), self.task
        parts = []
        for place in range(task.partitions):
            lines = [f"{key} {','.join(values)}\n" for key, values in self.fetched.groups()]
            data = "".join(lines).encode()
            self.worker.write(
                out_key(task.job, part_object(task.attempt, task.partition + place, task.partitions)), data
            )
            parts.append(PartReport(len(data), xxhash.xxh3_64_hexdigest(data), len(lines)))
        sizes, digests, records = zip(*((part.size, part.xxh3, part.records) for part in parts), strict=True)
        listed = tuple(parts) if len(parts) > 1 else ()
        self.report(ReduceReport(task.attempt, sum(sizes), "".join(digests), 1, sum(records), table, parts=listed))

    def report(self, report: Any) -> None:
        if not self.stopped:
            self.stopped = True
            self.worker.slots.pop(self.task.attempt, None)
            self.worker.event(Finished(self, report))  # type: ignore[arg-type]


class Worker(Host):
    """A worker process: the real Agent, virtual slots, and a line that it makes anew whenever it is lost."""

    def __init__(self, world: World, job: Any, store: SimStore, number: int) -> None:
        super().__init__(world)
        self.job = job
        self.store = store
        self.id = f"{number:04d}{world.random.getrandbits(64):016x}"
        self.slots: dict[str, Slot] = {}
        self.slots_max = world.random.randint(1, 2)
        self.ahead = False  # as the agent thinks
        self.reads_ahead = world.chance(0.3)
        self.slowness = 1.0
        self.drains = False
        self.sick = False
        self.wire: Wire | None = None
        self.info: AppInfo | None = APP
        self.name = "sim:1"
        self.gone_since = world.now
        self.gave_up = False
        self.agent = Agent(self.id, self, self, say=lambda text: None, drain_s=job.drain_s)
        self._step_at = float("inf")
        self.later(0.01, self.connect)

    # what the Agent sees of its line and its pool

    @property
    def up(self) -> bool:
        return self.wire is not None

    @property
    def free(self) -> int:
        return max(0, self.slots_max - len(self.slots))

    @property
    def free_ahead(self) -> int:
        return 2 * self.slots_max - len(self.slots) if self.reads_ahead and not self.free else 0

    def call(self, method: str, params: Any, on_reply: Callable[[Any], None]) -> None:
        if self.wire is not None:
            self.wire.call(method, params, on_reply)

    def requests(self) -> dict[str, dict[str, dict[str, int]]]:
        return {}

    def running(self) -> dict[str, Progress]:
        return {name: slot.progress for name, slot in self.slots.items()}

    def send(self, task: Any) -> None:
        self.slots[task.attempt] = Slot(self, task)

    def cancel(self, attempt: str) -> None:
        slot = self.slots.pop(attempt, None)
        if slot is not None:
            slot.stopped = True

    # what happens to it

    def connect(self) -> None:
        if self.wire is not None or self.agent.over:
            return
        coordinator = self.job.coordinator
        self.job.net_check(self)
        if coordinator is None or coordinator.dead or coordinator.frozen or self.job.net.is_cut(self, coordinator):
            if self.world.now - self.gone_since > CONNECT_S:
                self.gave_up = True
                self.die()
                return
            self.later(self.world.random.uniform(0.1, 5), self.connect)
            return
        self.wire = Wire(self.world, self.job.net, self, coordinator)
        self.agent.hello()
        self.step()

    def lost(self, wire: Wire) -> None:
        def reconnect() -> None:
            if self.wire is wire:
                self.wire = None
                self.gone_since = self.world.now
                self.step()
                self.connect()

        self.do(reconnect)

    def hear(self, wire: Wire, line: bytes) -> None:
        def heard() -> None:
            if self.wire is not wire:
                return
            reply = parse(line)
            assert isinstance(reply, (Reply, ErrorReply))
            found = wire.waiting.pop(reply.id, None)  # type: ignore[arg-type]
            if found is not None:
                found[1](reply.result if isinstance(reply, Reply) else reply.error)
            self.step()

        self.do(heard)

    def event(self, event: Any) -> None:
        self.agent.on(event, self.world.now)
        self.step()

    def step(self) -> None:
        if not self.agent.over:
            self.agent.step(self.world.now)
        if self.agent.over:
            self.job.worker_over(self)
            self.die()
            return
        at = self.agent.next_step_at(self.world.now)
        if at is not None and at < self._step_at:
            self._step_at = at
            self.world.at(at, lambda: self.do(self.stepped))

    def stepped(self) -> None:
        self._step_at = float("inf")
        self.step()

    def write(self, key: str, data: bytes) -> None:
        self.store.put(key, data)

    def die(self) -> None:
        if self.dead:
            return
        self.dead = True
        for slot in self.slots.values():
            slot.stopped = True
        if self.wire is not None:
            self.wire.drop()
        self.job.worker_died(self)


class Coordinator(Host):
    """A coordinator process: the real driver and desk, its store work and its journal's syncs in virtual time."""

    def __init__(self, world: World, job: Any, driver: JobDriver, stores: list[SimStore]) -> None:
        super().__init__(world)
        self.job, self.driver, self.stores = job, driver, stores
        self.cut = False
        self.desk = Desk(driver)
        self.effects = 0
        self.syncing = False
        self.wires: dict[Wire, None] = {}  # in the order of their first calls
        self.ended = False
        self.do(self.step)
        self.tick()

    def tick(self) -> None:
        if self.dead:
            return
        self.do(self.step)
        self.world.after(0.5, self.tick)

    def hear(self, wire: Wire, line: bytes) -> None:
        def heard() -> None:
            self.wires[wire] = None
            call = parse(line)
            assert isinstance(call, Request)

            def reply(answer: Any) -> None:
                if isinstance(answer, MrfastError):
                    wire.answer(error(call.id, answer))
                else:
                    self.job.told(self, call.method, params, answer)
                    wire.answer(response(call.id, answer))

            try:
                params = decode(messages.CALLS[call.method], call.params)
            except BadFrame as bad:
                wire.answer(error(call.id, bad))
                return
            self.desk.call(wire, params, self.world.now, reply)
            self.step()

        self.do(heard)

    def lost(self, wire: Wire) -> None:
        def closed() -> None:
            self.wires.pop(wire, None)
            self.desk.closed(wire, self.world.now)
            self.step()

        self.do(closed)

    def step(self) -> None:
        """As the TCP shell does."""
        if self.dead or self.frozen:
            return
        self.start_effects()
        self.desk.step(self.world.now)
        self.start_effects()
        if self.desk.wants_sync() and not self.syncing:
            self.syncing = True
            journal = self.driver.journal
            assert journal is not None
            self.later(self.world.random.uniform(0.0005, 0.01), self.sync)
        self.job.stepped(self)
        if self.driver.state in ("COMMITTED", "FAILED") and not self.effects and not self.ended:
            self.ended = True
            self.later(self.job.linger_s, self.close)

    def close(self) -> None:
        if any(worker not in self.desk.told for worker in self.desk.known) and self.world.now < self.job.end_s:
            self.later(1.0, self.close)
            return
        self.die()

    def sync(self) -> None:
        journal = self.driver.journal
        assert journal is not None
        self.job.sync(journal)
        self.syncing = False
        self.desk.synced()
        self.step()

    def start_effects(self) -> None:
        for effect in self.driver.effects():
            self.effects += 1
            self.desk.working = True
            self.later(self.world.random.uniform(0.0005, 0.02), lambda effect=effect: self.run(effect))

    def run(self, effect: Any) -> None:
        result: Any
        try:
            result = effect.run()
        except MrfastError as error:
            result = error
        except Killed:
            self.world.tell(f"the coordinator dies in the middle of {effect.name}")
            self.job.kill_coordinator(self)
            return

        def done() -> None:
            self.effects -= 1
            self.driver.effect_done(effect, result, self.world.now)
            self.desk.working = self.effects > 0
            self.desk.changed()
            self.step()

        self.later(self.world.random.uniform(0.0005, 0.02), done)

    def die(self) -> None:
        if self.dead:
            return
        self.dead = True
        for wire in list(self.wires):
            wire.drop()
