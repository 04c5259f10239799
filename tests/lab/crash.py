"""Tasks that exit or stall at random: a third of them dies, a third takes up to three seconds."""

import os
import random
import time

import nocrash


def maybe_crash():
    fate = random.SystemRandom().random()
    if fate < 0.33:
        os._exit(1)
    elif fate < 0.66:
        time.sleep(3 * random.SystemRandom().random())


def map(filename, contents):
    maybe_crash()
    yield from nocrash.map(filename, contents)


def reduce(key, values):
    maybe_crash()
    return nocrash.reduce(key, values)
