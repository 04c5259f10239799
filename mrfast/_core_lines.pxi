@cython.final
cdef class LineWriter:
    """The lines of a part as a Python reduce gives them: `add(key, result)` for each group, and `rest()` at the end.

    A result is a value, None for no line, or an iterator of pairs. str, bytes, numbers, bool and None are written here
    as "text", "tsv" or "raw" (values, each ended by `terminator`); any other pair, and all of them with another format,
    is what `line(pair)` gives, which also refuses it.
    """

    cdef mr_writer w  # its `out` is the buffer that grows
    cdef bint native
    cdef object line
    cdef object pairs  # an iterator that is not at its end, while `out` is full
    cdef Buffer taken
    cdef size_t buffer_bytes
    cdef bytes terminator
    cdef uint8_t[128] room  # for a key and a value that are encoded

    def __cinit__(self, format: str, line, *, terminator: bytes = b"\n", buffer_bytes: int = 1 << 20):
        self.native = format in FORMATS
        self.w.format = FORMATS[format] if self.native else MR_RAW
        self.terminator = terminator
        self.w.terminator = <const uint8_t *>PyBytes_AS_STRING(terminator)
        self.w.terminator_len = <size_t>PyBytes_GET_SIZE(terminator)
        self.line = line
        self.buffer_bytes = max(1, buffer_bytes)

    def __dealloc__(self):
        mr_writer_free(&self.w)

    @property
    def lines(self):
        """Pairs written so far."""
        return self.w.lines

    def add(self, key, result) -> bool:
        """Writes what reduce(key, values) returned; True: call take() until it gives None, before the next add().

        Raises what an iterator of pairs raises, and BadRecord.
        """
        if result is None:
            return False
        if not PyIter_Check(result):
            if not self.native or not self._put(<PyObject *>key, <PyObject *>result):
                self._put_slow((key, result))
        else:
            self.pairs = result
            self._pull()
        return self.w.out.len >= self.buffer_bytes

    cdef _pull(self):
        """Writes pairs until the buffer is full or there are no more."""
        cdef PyObject *pair
        while self.pairs is not None and self.w.out.len < self.buffer_bytes:
            pair = mr_py_next(self.pairs)
            if not pair:
                self.pairs = None
                return
            try:
                if not (self.native and PyTuple_CheckExact(<object>pair) and PyTuple_GET_SIZE(<object>pair) == 2
                        and self._put(PyTuple_GET_ITEM(<object>pair, 0), PyTuple_GET_ITEM(<object>pair, 1))):
                    self._put_slow(<object>pair)
            finally:
                Py_DECREF(<object>pair)

    def take(self) -> Buffer | None:
        """A full buffer, valid until the next is taken; None when there is none."""
        if self.w.out.len < self.buffer_bytes:
            return None
        full = self.rest()
        self._pull()
        return full

    def rest(self) -> Buffer:
        """What was written since the last take()."""
        cdef mr_buffer written = self.w.out
        self.taken = emptied(self.taken)
        self.w.out = self.taken.bytes
        self.taken.bytes = written
        return self.taken

    cdef int _put(self, PyObject *key, PyObject *value) except -1:
        """1 when the pair is written, 0 when it is for Python."""
        cdef mr_value v
        cdef size_t key_len
        cdef char *digits = NULL
        cdef int readable, status
        if self.w.format != MR_RAW:
            if not mr_py_text(key, &self.w.first.key, &key_len, &readable, self.room):
                return 0
            if key_len > 0xFFFFFFFF:
                return 0
            self.w.first.key_len = <uint32_t>key_len
        v.number = 0
        v.tag = <uint8_t>mr_py_text(value, &v.bytes, &v.len, &readable, self.room + 64)
        if not v.tag and not mr_py_scalar(value, &v):
            return 0
        if v.tag == MR_FLOAT:
            digits = PyOS_double_to_string(mr_bits_double(v.number), b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
            v.tag = MR_STR
            v.bytes = <const uint8_t *>digits
            v.len = strlen(digits)
        status = mr_write_value(&self.w, &v)
        PyMem_Free(digits)
        check(status)
        return 1

    cdef _put_slow(self, pair):
        cdef bytes line = self.line(pair)
        check(mr_buffer_append(&self.w.out, PyBytes_AS_STRING(line), <size_t>PyBytes_GET_SIZE(line)))
        self.w.lines += 1
