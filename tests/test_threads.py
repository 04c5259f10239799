"""Threads of a pool that was shut down are gone: a fork then copies no lock that one of them holds."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import pytest

from mrfast.storage.threads import Threads


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list a process's threads in /proc")
def test_no_thread_is_left_in_a_destructor() -> None:
    libc = ctypes.CDLL(None)
    key = ctypes.c_uint()
    # The destructor of this key is usleep itself, and gets the key's value: how long a thread takes to leave.
    assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0
    try:
        pool = Threads(3, "leaves-late")

        def work(_: int) -> int:
            libc.pthread_setspecific(key, ctypes.c_void_p(200_000))
            return threading.get_native_id()

        ids = set(pool.map(work, range(30)))
        pool.shutdown()
        assert ids
        assert not ids & {int(name) for name in os.listdir("/proc/self/task")}
    finally:
        libc.pthread_key_delete(key)


def test_a_number_of_a_thread_that_python_knows_is_not_waited_for() -> None:
    pool = Threads(1, "numbered-again")
    pool._ids.add(threading.get_native_id())
    assert pool.submit(len, "abc").result() == 3
    pool.shutdown()
