"""Sorts lines by their bytes, within each part.

Keys go to parts by their hash, so each part is sorted and the parts together are not: `sort -m` merges them, and so
does --reduces 1. A total order over all parts would need a partition by key ranges, chosen from a sample of the input.
For fixed-size records, map = ops.records(size=100, key=(0, 10)).
"""

from mrfast import ops

map = ops.lines()  # (line, line); parts are raw: the lines and nothing else
reduce = ops.identity()
