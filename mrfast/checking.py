"""Whether an application's answer depends on what it must not: `mrfast check`.

The application runs on a sample in a process of its own, first as it is and then under each condition. The two answers
must be the same bytes. Where they are not, the sample is shrunk as long as they still differ.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from subprocess import PIPE, Popen
from typing import Any

import orjson

from mrfast import model, parameters, storage
from mrfast.app import App, load_app
from mrfast.errors import AppError, InputMissing, JobFailed
from mrfast.model import InputCut, MapReport, Piece, ReduceReport
from mrfast.storage import base
from mrfast.storage.inputs import resolve
from mrfast.tasks.mapper import pairs_of
from mrfast.tasks.reader import PieceReader
from mrfast.testing import JOB, Job

SAMPLE_BYTES = 1 << 20
SHRINK_RUNS = 200
REDUCES, MEMORY_BYTES = 3, 256 << 20

File = tuple[str, bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The parts that a run wrote, or how it failed."""

    parts: tuple[bytes, ...] = ()
    failed: str = ""

    @property
    def lines(self) -> list[bytes]:
        """The lines of all parts."""
        return self.failed.encode().splitlines() if self.failed else b"".join(self.parts).splitlines()


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One thing that may be otherwise in two runs of the same job; `fits` says for which apps it can be."""

    name: str
    cure: str
    fits: Callable[[App], bool] = lambda app: True
    change: Callable[[App], App] = lambda app: app
    pieces: int = 1
    backwards: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A condition that changes the answer, and the smallest sample that was found on which it does."""

    condition: Condition
    files: tuple[File, ...]
    expected: Answer
    came: Answer


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """What was checked, what could not be, what was bounded, and the first change that was found."""

    done: tuple[str, ...]
    left_out: tuple[str, ...]
    bounds: tuple[str, ...]
    change: Change | None


def check(
    app_path: str, inputs: Sequence[str], *, params: Mapping[str, str] | None = None, shrink_runs: int = SHRINK_RUNS
) -> Checked:
    """What changes the answer of the application on the sample; JobFailed, AppError, InputMissing."""
    given = parameters.checked(params)
    before = parameters.use(given)
    try:
        app = load_app(app_path)
    finally:
        parameters.use(before)
    files, bounds = sample(inputs, app.cut)
    done: list[str] = []
    left_out = [condition.name for condition in CONDITIONS if not condition.fits(app)]
    with contextlib.closing(_Runs(app_path, given)) as runs:
        expected = runs.answer(files)
        if expected.failed:
            raise JobFailed("\n".join([f"{app_path} fails on the sample:", expected.failed, *bounds]))
        for condition in CONDITIONS:
            if condition.name in left_out:
                continue
            came = runs.answer(files, condition)
            if came == expected:
                done.append(condition.name)
                continue
            change = Change(condition, tuple(files), expected, came)
            change, tried = _shrunk(change, app.cut, runs, shrink_runs)
            if tried >= shrink_runs:
                bounds.append(f"shrinking ended after {tried} tries: the input may get smaller still")
            return Checked(tuple(done), tuple(left_out), tuple(bounds), change)
    return Checked(tuple(done), tuple(left_out), tuple(bounds), None)


def sample(inputs: Sequence[str], cut: InputCut, bytes_max: int = SAMPLE_BYTES) -> tuple[list[File], list[str]]:
    """The first `bytes_max` bytes of the inputs, decompressed, at a record's end; and what was left out."""
    files, bounds, room = list[File](), list[str](), bytes_max
    objects = resolve(inputs, storage.open_store("memory://check"))
    for number, item in enumerate(objects):
        if room <= 0:
            bounds.append(f"{len(objects) - number:,} of {len(objects):,} inputs left out: the sample is full")
            break
        root, key = storage.split_url(item.url)
        piece = Piece(item.path, item.url, item.size, item.etag, 0, item.size)
        data = bytearray()
        with contextlib.closing(PieceReader(storage.open_store(root), key, piece, InputCut("file", False))) as reader:
            for block in reader.blocks():
                data += block
                if len(data) > room:
                    break
        path = os.path.splitext(item.path)[0] if reader.is_compressed else item.path
        if len(data) > room:
            at = room - room % cut.record_bytes if cut.record_bytes else data.rfind(b"\n", 0, room) + 1 or room
            bounds.append(f"{item.path} cut at {at:,} bytes: the sample is {bytes_max:,} bytes")
            del data[at:]
            room = 0
        room -= len(data)
        files.append((path, bytes(data)))
    if not any(data for _, data in files):
        raise InputMissing(f"{', '.join(inputs)}: the sample is empty; name files with some lines to check")
    return files, bounds


def run_once(app: App, files: Sequence[File], *, pieces: int = 1, backwards: bool = False) -> Answer:
    """The answer of one job in memory: each file in so many pieces, where the app allows it; the last map first."""
    job = Job(app, {}, reduces=REDUCES, memory_bytes=MEMORY_BYTES)
    for number, (path, data) in enumerate(files):
        job.add(path, data, -(-len(data) // pieces), f"in/{number}")  # not by its path: it is decompressed already
    maps: dict[int, MapReport] = {}
    parts: list[bytes] = []
    try:
        for number in range(len(job.pieces))[:: -1 if backwards else 1]:
            mapped = job.map(number)
            if not isinstance(mapped, MapReport):
                return Answer(failed=_told(mapped))
            maps[number] = mapped
        for partition in range(REDUCES):
            reduced = job.reduce([maps[number] for number in sorted(maps)], partition)
            if not isinstance(reduced, ReduceReport):
                return Answer(failed=_told(reduced))
            parts.append(base.read(job.store, model.out_key(JOB, reduced.attempt)))
    finally:
        for found in list(job.store.list()):
            job.store.delete(found.key)
    return Answer(tuple(parts))


def _told(failure: model.Failure) -> str:
    offset = "" if failure.offset is None else f", offset {failure.offset}"
    where = f"{failure.input}{offset}: " if failure.input else ""
    return f"{where}{failure.message}\n{failure.traceback}".rstrip("\n")


def _python_combine(app: App) -> bool:
    return app.python_combine is not None


def _python_reduce(app: App) -> bool:
    return app.native_reduce is None


def _sees_order(app: App) -> bool:
    return _python_reduce(app) or _python_combine(app)


def _reordered(order: Callable[[list[Any]], None]) -> Callable[[App], App]:
    def wrapped(function: Any) -> Any:
        def other_order(key: Any, values: Iterable[Any]) -> Any:
            held = list(values)
            order(held)
            return function(key, iter(held))

        return other_order

    def change(app: App) -> App:
        reduce = wrapped(app.reduce) if _python_reduce(app) else app.reduce
        combine = wrapped(app.combine) if _python_combine(app) else app.combine
        return dataclasses.replace(app, reduce=reduce, combine=combine)

    return change


def _combined_again(size: int) -> Callable[[App], App]:
    """The combine on so many values at a time, and then once more on what that gave."""

    def change(app: App) -> App:
        function: Any = app.python_combine

        def again(key: Any, values: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
            held, once = list(values), []
            for at in range(1 - size, len(held), size):  # the first alone: means of equally many would be the mean
                for other, value in pairs_of(key, function(key, iter(held[max(at, 0) : at + size]))):
                    if other == key:
                        once.append(value)
                    else:
                        yield other, value
            if once:
                yield from pairs_of(key, function(key, iter(once)))

        return dataclasses.replace(app, combine=again)

    return change


def _as_emitted(app: App) -> App:
    """A reduce that is given the very objects that map emitted, in place of what their records hold."""
    emitted: dict[Any, list[Any]] = {}
    map_function: Any = app.map
    reduce_function: Any = app.reduce

    def map(filename: str, contents: Any) -> Iterator[tuple[Any, Any]]:
        for key, value in map_function(filename, contents) or ():
            emitted.setdefault(key, []).append(copy.deepcopy(value))
            yield key, value

    def reduce(key: Any, values: Iterable[Any]) -> Any:
        return reduce_function(key, iter(emitted[key]))

    return dataclasses.replace(app, map=map, reduce=reduce, combine=None)


_ORDER = "let the result depend on the values alone: sort them, or use what takes any order (math.fsum, ops.sum)"
_COMBINE = "combine must give what can be combined again, and reduce must take that: a (sum, count), not a mean"
_SPLIT = 'let map look at one record at a time, or have whole files: input = "file"'
_SEED = "do not emit or choose in the order of a set: sort it"

# The narrow ones first: a combine that is wrong shows with other splits, too.
CONDITIONS: tuple[Condition, ...] = (
    Condition("a second run", "map, combine and reduce must depend on their arguments alone: no clock, no chance"),
    Condition("combine not applied", _COMBINE, lambda app: app.combine is not None,
              lambda app: dataclasses.replace(app, combine=None)),
    Condition("combine applied to each value, and again", _COMBINE, _python_combine, _combined_again(1)),
    Condition("combine applied to two values at a time, and again", _COMBINE, _python_combine, _combined_again(2)),
    Condition("values as emitted, not as records hold them", "emit what JSON holds: lists for tuples, str as dict keys",
              lambda app: _python_reduce(app) and app.native_map is None, _as_emitted),
    Condition("values in reverse", _ORDER, _sees_order, _reordered(list.reverse)),
    Condition("values shuffled", _ORDER, _sees_order, _reordered(lambda held: random.Random(1).shuffle(held))),
    *(Condition(f"each input in {pieces} splits", _SPLIT, lambda app: app.cut.splittable, pieces=pieces)
      for pieces in (2, 3, 7, 64)),
    Condition("maps run in another order", "keep nothing between two calls of map: its arguments are all that it has",
              pieces=3, backwards=True),
    *(Condition(f"PYTHONHASHSEED={seed} in place of 0", _SEED, seed=seed) for seed in (1, 2, 3)),
)  # fmt: skip


class _Runs:
    """The processes that run the application, one for each hash seed; one that dies is replaced."""

    def __init__(self, app_path: str, params: Mapping[str, str]):
        self._app = os.path.abspath(app_path), params
        self._children: dict[int, Popen[bytes]] = {}

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for child in self._children.values():
            child.kill()
            child.communicate()

    def answer(self, files: Sequence[File], condition: Condition | None = None) -> Answer:
        """The answer on these files, as they are or under a condition."""
        seed = condition.seed if condition is not None else 0
        child = self._children.get(seed) or self._start(seed)
        asked = [
            None if condition is None else condition.name,
            *([os.fsencode(path).hex(), data.hex()] for path, data in files),
        ]
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(orjson.dumps([*self._app, *asked]) + b"\n")
            child.stdin.flush()
            reply = child.stdout.readline()
        except BrokenPipeError:
            reply = b""
        if not reply:
            status = self._children.pop(seed).wait()
            return Answer(failed=f"the application's process died: exit status {status}")
        failed, *parts = orjson.loads(reply)
        return Answer(tuple(bytes.fromhex(part) for part in parts), failed)

    def _start(self, seed: int) -> Popen[bytes]:
        code = f"import sys; sys.path[:] = {sys.path!r}; from mrfast.checking import serve; serve()"
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        child = Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, env=environment)
        return self._children.setdefault(seed, child)


def serve() -> None:
    """Answers on stdout what is asked on stdin; the application has neither."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that asks says what there is to say
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    conditions = {condition.name: condition for condition in CONDITIONS}
    for question in questions:
        path, params, name, *given = orjson.loads(question)
        files = [(os.fsdecode(bytes.fromhex(file)), bytes.fromhex(data)) for file, data in given]
        condition = conditions.get(name, Condition("", ""))
        try:
            parameters.use(params)
            app = load_app(path)  # each time: what it keeps in its module is not for the next run
            sys.path[:] = dict.fromkeys(sys.path)
            answer = run_once(condition.change(app), files, pieces=condition.pieces, backwards=condition.backwards)
        except AppError as error:
            answer = Answer(failed=str(error))
        failed = answer.failed.encode("utf-8", "backslashreplace").decode()
        replies.write(orjson.dumps([failed, *(part.hex() for part in answer.parts)]) + b"\n")
        replies.flush()


def _shrunk(change: Change, cut: InputCut, runs: _Runs, tries_max: int) -> tuple[Change, int]:
    """The change on as little of its sample as was found, files first and then lines; and how many tries it took."""
    tries = 0

    def differs(units: Sequence[tuple[int, bytes]]) -> bool:
        nonlocal change, tries
        if tries >= tries_max:
            return False
        tries += 1
        kept: dict[int, list[bytes]] = {}
        for number, unit in units:
            kept.setdefault(number, []).append(unit)
        files = tuple((change_files[number][0], b"".join(kept[number])) for number in sorted(kept))
        expected = runs.answer(files)
        came = runs.answer(files, change.condition) if not expected.failed else expected
        if came == expected:
            return False
        change = Change(change.condition, files, expected, came)
        return True

    change_files = change.files
    whole = ddmin([(number, data) for number, (_, data) in enumerate(change_files)], differs)
    units = [(number, unit) for number, data in whole for unit in _units(data, cut)]
    ddmin(units, differs)
    return change, tries


def _units(data: bytes, cut: InputCut) -> list[bytes]:
    """The lines or records of a file; the first row of CSV, which names the columns, goes with the second."""
    size = cut.record_bytes
    units = [data[at : at + size] for at in range(0, len(data), size)] if size else data.splitlines(keepends=True)
    if cut.kind == "csv" and len(units) > 1:
        units[:2] = [units[0] + units[1]]
    return units


def ddmin(units: list[Any], differs: Callable[[list[Any]], bool]) -> list[Any]:
    """Units that still differ and of which none can be left out, by delta debugging: complements, ever finer."""
    parts = 2
    while len(units) > 1:
        size = -(-len(units) // parts)
        for at in range(0, len(units), size):
            fewer = units[:at] + units[at + size :]
            if differs(fewer):
                units, parts = fewer, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(units))
    return units
