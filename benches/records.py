"""Sorts records of 100 bytes by their first 10, within each part."""

from mrfast import ops

map = ops.records(size=100, key=(0, 10))
reduce = ops.identity()
