"""The lab's indexer: for each word, in how many files it occurs, and which."""

from mrfast import core


def map(filename, contents):
    for word in set(core.tokens(contents, letters="unicode")):
        yield word, filename


def reduce(key, filenames):
    names = sorted(filenames)
    return f"{len(names)} {','.join(names)}"
