cdef tuple hot_keys(const mr_hot *hot):
    cdef const mr_hot_key *key
    cdef size_t i
    keys = []
    for i in range(hot.count):
        key = &hot.keys[i]
        text = PyBytes_FromStringAndSize(<const char *>key.key, min(key.key_len, <uint32_t>MR_HOT_KEY_BYTES))
        keys.append((text, key.digest, key.partition, key.bytes, key.records))
    return keys, hot.least, hot.runs


@cython.final
cdef class Drained:
    """What a sink held, as R sorted segments: chunks() gives them piece by piece, `body` all of them in one buffer.

    The lists (a segment's `lengths`, `counts`, `checksums`) are there once the segments were made; asking for them makes
    `body`, if chunks() was not used.
    """

    cdef mr_sink sink
    cdef mr_drain drain
    cdef bint busy, begun, done
    cdef Buffer all
    cdef list lists
    cdef tuple hottest
    cdef readonly object records
    cdef readonly object key_kind
    cdef readonly object combined

    def __dealloc__(self):
        mr_drain_free(&self.drain)
        mr_sink_free(&self.sink)

    cdef Buffer next(self, Buffer out, size_t limit):
        """The next piece, written into `out`; sets `done` behind the last one."""
        cdef int status
        cdef uint32_t i
        if self.busy:
            raise RuntimeError("these segments are being made by another thread")
        self.busy = self.begun = True
        try:
            with nogil:
                status = mr_drain_write(&self.sink, &self.drain, &out.bytes, limit)
        finally:
            self.busy = False
        if status != MR_FULL:
            check(status)
            self.done = True
            partitions = range(self.drain.partitions)
            self.lists = [[self.drain.lengths[i] for i in partitions], [self.drain.counts[i] for i in partitions],
                          [self.drain.checksums[i] for i in partitions]]
            self.hottest = hot_keys(&self.drain.hot)
            mr_drain_free(&self.drain)
            mr_sink_free(&self.sink)
        return out

    def chunks(self, chunk_bytes: int = 1 << 20):
        """The segments back to back, in buffers of about `chunk_bytes`; each is valid until the next is asked for."""
        cdef Buffer out = None
        if self.begun:
            raise RuntimeError("these segments were made already: use `body`, or chunks() once")
        while not self.done:
            out = self.next(emptied(out), <size_t>max(1, chunk_bytes))
            if out.bytes.len:
                yield out

    def ended(self, first: int):
        """The bytes of the segments from `first` on that chunks() has given out whole so far."""
        cdef uint32_t i
        if self.done:
            return self.lists[0][first:]
        partitions = range(first, self.drain.partition)
        return [self.drain.lengths[i] for i in partitions]

    @property
    def body(self):
        """The segments back to back, in one buffer."""
        if self.all is None:
            if self.begun:
                raise RuntimeError("these segments were given out by chunks()")
            self.all = self.next(Buffer(), <size_t>-1)
        return self.all

    cdef list made(self, int which):
        if not self.done:
            self.body
        return self.lists[which]

    @property
    def lengths(self):
        """The bytes of each partition's segment."""
        return self.made(0)

    @property
    def counts(self):
        """The records of each partition's segment."""
        return self.made(1)

    @property
    def checksums(self):
        """The XXH3 of each partition's segment; 0 for an empty one."""
        return self.made(2)

    @property
    def hot(self):
        """(the heaviest keys, the most bytes that any other key has, how many keys there are).

        A key is (its first 64 bytes, its XXH3 if there are more of them or 0, partition, bytes, records).
        """
        if not self.done:
            self.body
        return self.hottest
