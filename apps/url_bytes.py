"""Bytes sent per URL, from access logs in the common (or combined) log format."""

from mrfast import ops

# 1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /index.html HTTP/1.0" 200 2326
#    0    1 2             3                          4                  5   6
map = ops.fields(sep=" ", key=(4, 1), value=6)
reduce = ops.sum()
