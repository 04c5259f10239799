"""What `mrfast new` writes: an application to change, and its test."""

from __future__ import annotations

APP = '''\
"""{name}: how often each word occurs, to be changed into what you need.

    mrfast run {name}.py INPUT...
"""

import re

# How the input is cut for map: "file" (the default), "blocks", "lines", "jsonl" or "csv". All but "file" let mrfast
# split big files.
input = "lines"

# What a line of the output looks like: "text" (the default: key, space, value), "tsv", "jsonl" or "raw" (values only).
output = "jsonl"

WORD = re.compile(r"\\w+")


def map(filename, line):
    """Yields (key, value) pairs for one line, given as bytes. It looks at nothing but its arguments."""
    for word in WORD.findall(line.decode("utf-8", "replace")):
        yield word.lower(), 1


def reduce(word, counts):
    """Returns the one value of a key, from all the values that were emitted for it, an iterator."""
    return sum(counts)


def combine(word, counts):
    """Optional: reduces what one map emitted before it travels. What it returns, reduce (or combine) is given again.

    A sum of sums is the sum. A mean of means is not the mean: emit and combine (sum, count), and divide in reduce.
    """
    return sum(counts)
'''

TEST = '''\
"""Runs {name}.py on a small input: pytest test_{name}.py"""

from pathlib import Path

from mrfast import testing

APP = Path(__file__).with_name("{name}.py")


def test_words_are_counted():
    result = testing.run(APP, {{"one.txt": b"To be, or not\\nto be\\n", "two.txt": b"be\\n"}})
    assert result.to_dict() == {{"to": 2, "be": 3, "or": 1, "not": 1}}
'''
