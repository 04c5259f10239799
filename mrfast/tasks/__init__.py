"""One task, from its first byte to its last: readers, the map and reduce loops, writers, slots and workers."""
