"""Word count, natively: no Python runs per word."""

from mrfast import ops

map = ops.words(letters="unicode")  # (word, 1) for every maximal run of letters
reduce = ops.sum()  # associative, so it is also the combiner
