#!/usr/bin/env python3
"""Starts mrfast where a scheduler starts processes, on machines and at times of its choice, and again after a death.

    fleet.py coordinate JOB INPUT...    the coordinator: goes on with the job of this name if the store has it, else
                                        begins it (any options of mrfast-coordinator may stand among the inputs)
    fleet.py work JOB APP [OPTION...]   a worker: looks for the coordinator again and again, until the job has ended

The store is $MRFAST_STORE. Workers find the coordinator at $MR_COORDINATOR_ADDRESS; where that cannot be known before,
the coordinator writes its address into the store (with $MRFAST_ADVERTISE=HOST:PORT) and workers read it there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

from mrfast.api import find_job
from mrfast.control import catalog
from mrfast.errors import CoordinatorLost, MrfastError, NotFound, UnknownJob, UsageError
from mrfast.storage import open_store
from mrfast.storage.base import read

WAIT_S = 600.0
LOOK_S = 5.0  # in S3 a look is up to five requests
CONNECT_S = 30
NO_COORDINATOR = CoordinatorLost.exit_code
STOPPED = 128 + signal.SIGTERM
MAIN = "import sys; from mrfast.cli import {0}_main; sys.argv[0] = 'mrfast-{0}'; {0}_main()"


def address_key(job: str) -> str:
    """Where in the store the address of the job's coordinator is."""
    return f"fleet/{job}.address"


def command(role: str, arguments: list[str]) -> list[str]:
    """mrfast-coordinator or mrfast-worker, by this interpreter."""
    return [sys.executable, "-c", MAIN.format(role), *arguments]


def coordinate(job: str, arguments: list[str]) -> NoReturn:
    """Becomes the job's coordinator, which gets the scheduler's signals itself."""
    store = os.environ["MRFAST_STORE"]
    if address := os.environ.get("MRFAST_ADVERTISE"):
        open_store(store).put(address_key(job), address.encode())
    try:
        find_job(job, store)
        arguments = ["--resume", job]
    except UnknownJob:
        arguments = ["--job", job, *arguments]
    print(f"fleet: mrfast-coordinator {' '.join(arguments)}", file=sys.stderr, flush=True)
    os.execv(sys.executable, command("coordinator", arguments))


def work(job: str, arguments: list[str]) -> int:
    """The exit code: the worker's; 5 if there was no coordinator for $FLEET_WAIT_S; 143 after SIGTERM.

    143 is no success: a scheduler that counts those would otherwise take a worker that was told to go for a done one.
    """
    child: subprocess.Popen[bytes] | None = None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if child is None:
            sys.exit(STOPPED)
        child.terminate()  # it drains

    signal.signal(signal.SIGTERM, stop)
    heard = time.monotonic()
    wait_s = float(os.environ.get("FLEET_WAIT_S") or WAIT_S)
    while time.monotonic() - heard < wait_s:
        if (state := state_of(job)) in (catalog.COMMITTED, catalog.FAILED):
            print(f"fleet: job {job} is {state}", file=sys.stderr)
            return 0 if state == catalog.COMMITTED else 1
        if address := address_of(job):
            app, *options = arguments
            began = time.monotonic()
            child = subprocess.Popen(command("worker", [app, address, "--connect-s", str(CONNECT_S), *options]))
            code = child.wait()
            child = None
            if stopped:
                return STOPPED
            if code != NO_COORDINATOR:
                return code if code >= 0 else 128 - code
            if time.monotonic() - began > 2 * CONNECT_S:  # it had found one
                heard = time.monotonic()
        time.sleep(float(os.environ.get("FLEET_LOOK_S") or LOOK_S))
    print(f"fleet: no coordinator of {job} for {wait_s:.0f} s", file=sys.stderr)
    return NO_COORDINATOR


def state_of(job: str) -> str:
    """How the job stands by the store; "" if it is not there yet."""
    try:
        spec = find_job(job, os.environ["MRFAST_STORE"])
    except UnknownJob:
        return ""
    return catalog.job(open_store(spec.store_url), spec.job).state


def address_of(job: str) -> str:
    """Where the coordinator is said to be; "" if nobody has said so yet."""
    if address := os.environ.get("MR_COORDINATOR_ADDRESS"):
        return address
    try:
        return read(open_store(os.environ["MRFAST_STORE"]), address_key(job)).decode()
    except NotFound:
        return ""


def main() -> int:
    """Does what the arguments say."""
    if len(sys.argv) < 4 or sys.argv[1] not in ("coordinate", "work"):
        print(__doc__, file=sys.stderr)
        return UsageError.exit_code
    try:
        if "MRFAST_STORE" not in os.environ:
            raise UsageError("MRFAST_STORE is not set: it says where the job's data are, to all of its machines")
        if sys.argv[1] == "coordinate":
            coordinate(sys.argv[2], sys.argv[3:])
        return work(sys.argv[2], sys.argv[3:])
    except MrfastError as error:
        print(f"fleet: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
