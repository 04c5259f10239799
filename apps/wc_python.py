"""Word count in plain Python: the same parts as wc.py, and a pattern for maps of your own."""

from collections import Counter

from mrfast import core

input = "blocks"  # big files are split; contents is a run of whole lines


def map(filename, contents):
    return Counter(core.tokens(contents, letters="unicode")).items()


def reduce(word, counts):
    return sum(counts)


combine = reduce
