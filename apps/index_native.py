"""Inverted index, natively: what indexer.py gives, with no Python per word. Files stay whole."""

from mrfast import ops

map = ops.words(letters="unicode", value="filename", distinct=True)
reduce = ops.index()
