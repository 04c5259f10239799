"""What crash.py computes, without the crashes."""


def map(filename, contents):
    yield "a", filename
    yield "b", str(len(filename))
    yield "c", str(len(contents))
    yield "d", "xyzzy"


def reduce(key, values):
    return " ".join(sorted(values))
