"""Counts executions: each map leaves a file of its own."""

import os
import tempfile


def map(filename, contents):
    os.close(tempfile.mkstemp(dir=os.environ["LAB_DIR"])[0])
    yield "a", "x"


def reduce(key, values):
    return str(len(os.listdir(os.environ["LAB_DIR"])))
