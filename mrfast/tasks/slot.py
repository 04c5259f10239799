"""The child's side of a slot: a forked process that loads the application once and runs one task after another."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from .. import storage
from ..app import App
from ..control.schema import decode, encode
from ..control.wire import error_to_wire
from ..errors import AppError, MrfastError
from ..model import Failure, MapTask, ReduceTask, Segment
from ..storage import ledger
from . import logs
from .failure import failure
from .frames import SharedProgress, Unpacker, from_document, pack, to_document
from .turns import ALWAYS, Turns

if TYPE_CHECKING:
    from ..storage.base import Store

RECEIVE_BYTES = 1 << 16
# A failure crosses the network in one frame, with other things in it.
FAILURE_CHARS_MAX = 50_000
LEFT_BY_PARENT = 0
_PR_SET_PDEATHSIG = 1


def slot_main(
    channel: socket.socket, stderr: int, crash: int, load: Callable[[], App], progress: SharedProgress, parent: int
) -> NoReturn:
    """Runs the slot until its parent closes the channel; never returns to the code that forked it."""
    code = 1
    try:
        _become_slot(stderr, parent)
        faulthandler.enable(crash, all_threads=False)  # the line of Python that led to a crash in native code
        _Slot(channel, load, progress).run()
        code = LEFT_BY_PARENT
    except OSError:  # the parent went away in the middle of a message
        code = LEFT_BY_PARENT
    except BaseException:  # noqa: BLE001 (nothing may go back into the parent's code; it sees the traceback and the exit code)
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _become_slot(stderr: int, parent: int) -> None:
    """Takes off what was inherited from the parent: its terminal, its signals, its standard streams."""
    signal.set_wakeup_fd(-1)
    # A group of its own: Ctrl-C on the terminal reaches the parent alone, and a kill takes the app's children along.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which the programs that an application starts would inherit.
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with(parent)
    _no_core_dump()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(stderr)
    before = sys.stdout, sys.stderr
    # Fresh objects: the parent's may be a notebook's, or a test's, and hold locks of threads that are not here.
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True))
    logs.follow(before)


def _die_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, however that comes about."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(LEFT_BY_PARENT)


def _no_core_dump() -> None:
    """Credentials and user data stay out of core files."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


class _Slot:
    def __init__(self, channel: socket.socket, load: Callable[[], App], progress: SharedProgress):
        self._channel = channel
        self._load = load
        self._progress = progress
        self._unpacker = Unpacker()
        self._waiting: list[dict[str, Any]] = []
        self._stores: dict[str, Store] = {}
        self._computes = False  # whether it has a turn

    def run(self) -> None:
        """Loads the application, says so, and runs what comes."""
        try:
            app = self._load()
            logs.show()
            info = app.info()
        except MrfastError as error:
            self.send({"refused": error_to_wire(error)})
            return
        except Exception as error:  # noqa: BLE001 (a function's own attributes may raise anything)
            self.send({"refused": error_to_wire(AppError(f"{type(error).__name__}: {error}"))})
            return
        self.send({"ready": encode(info)})
        while (message := self.receive()) is not None:
            document, ahead = message["task"]
            self._computes = False
            self.send({"report": to_document(self._perform(app, from_document(document), self if ahead else ALWAYS))})

    def take(self) -> None:
        """Returns when this process may compute."""
        if self._computes:  # a task that begins anew, without a record that it cannot take
            return
        self.send({"turn": True})
        if self.receive() is None:
            os._exit(LEFT_BY_PARENT)
        self._computes = True

    def give(self) -> None:
        """Lets another one compute."""
        self._computes = False
        self.send({"turn": False})

    def _perform(self, app: App, task: MapTask | ReduceTask, turns: Turns) -> Any:
        from .mapper import run_map
        from .reducer import run_reduce

        try:
            with ledger.working("map" if isinstance(task, MapTask) else "reduce"):
                if isinstance(task, MapTask):
                    report: Any = run_map(app, task, self._progress.write, self._store, self._progress.at, turns)
                else:
                    report = run_reduce(app, task, _Outputs(self, task), self._progress.write, self._store, turns)
        except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 (an app can raise KeyboardInterrupt by itself)
            report = failure(task.attempt, RuntimeError(repr(error)))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the app may have closed or replaced it
                stream.flush()
        return _cut(report) if isinstance(report, Failure) else report

    def _store(self, root: str) -> Store:
        found = self._stores.get(root)
        if found is None:
            found = self._stores[root] = storage.open_store(root)
        return found

    def send(self, document: dict[str, Any]) -> None:
        """Says something to the parent."""
        self._channel.sendall(pack(document))

    def receive(self) -> dict[str, Any] | None:
        """The parent's next message, None when it has closed the channel."""
        while not self._waiting:
            data = self._channel.recv(RECEIVE_BYTES)
            if not data:
                return None
            self._waiting = self._unpacker.feed(data)
        return self._waiting.pop(0)


class _Outputs:
    """The outputs of the maps for one reduce, as the coordinator gives them out."""

    def __init__(self, slot: _Slot, task: ReduceTask):
        self._slot = slot
        self._attempt = task.attempt

    def pages(self) -> Iterator[tuple[list[Segment], bool]]:
        """(segments, whether every map is listed now), a page after the other, without an end."""
        since = 0
        while True:
            self._slot.send({"outputs": [self._attempt, since]})
            message = self._slot.receive()
            if message is None:
                os._exit(LEFT_BY_PARENT)
            page, since, complete = message["outputs"]
            yield [decode(Segment, item) for item in page], complete

    def bad(self, segment: Segment, why: str) -> None:
        """Says that a segment cannot be read; another one for its map will come in a page."""
        self._slot.send({"bad": [self._attempt, segment.map_index, segment.attempt, why]})


def _cut(report: Failure) -> Failure:
    """The failure, short enough for a frame: the end of a text says more than its middle."""

    def short(text: str) -> str:
        if len(text) <= FAILURE_CHARS_MAX:
            return text
        half = FAILURE_CHARS_MAX // 2
        return f"{text[:half]}\n... ({len(text) - FAILURE_CHARS_MAX:,} characters left out) ...\n{text[-half:]}"

    return replace(report, message=short(report.message), traceback=short(report.traceback))
