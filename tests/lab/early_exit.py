"""Some reduces take long: nobody may leave before they are done."""

import time


def map(filename, contents):
    yield filename, "1"


def reduce(key, values):
    if "sherlock" in key or "tom" in key:
        time.sleep(3)  # the work of this task, as in the lab
    return str(len(list(values)))
