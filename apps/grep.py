"""Distributed grep: the lines that match a regular expression, by file.

PATTERN='POST .* 5[0-9][0-9]' mrfast run apps/grep.py logs/
"""

import os

from mrfast import ops

map = ops.grep(os.fsencode(os.environ.get("PATTERN", "error")), by="line")  # (filename, line)
reduce = ops.identity()
