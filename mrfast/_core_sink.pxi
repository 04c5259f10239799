cdef enum Source:
    NO_SOURCE, WORDS, LINES, FIELDS, RECORDS, GREP

# The keys of the sink that this process drained last: the next task's are likely about as many, so that its table need
# not grow from nothing (a tenth of a word count of millions of words).
cdef size_t LAST_KEYS = 0

# A sink looks at its memory once for so many pairs.
cdef uint64_t EMITS_PER_BOUND = 64

SOURCES = {"words": WORDS, "lines": LINES, "fields": FIELDS, "records": RECORDS, "grep": GREP}


cdef mr_column column(spec):
    cdef mr_column c
    if isinstance(spec, tuple):
        c.column, c.word = spec
    else:
        c.column, c.word = (-1 if spec is None else spec), -1
    return c


@cython.final
cdef class MapSink:
    """Collects a map task's records, combining where it can, and drains them as sorted segments.

    `source` is a native map op of mrfast.ops for feed(); `combine` a native reduce op. emit() and emit_all() take pairs
    from Python. One thread at a time; feed() and drain() run without the GIL. Memory grows with the distinct keys that
    are combined and the records that are not; when it and what a drain takes would pass `memory_bytes`, `spill` is
    called, which drains the sink and puts the segments somewhere.
    """

    cdef mr_sink sink
    cdef mr_words words
    cdef mr_lines lines
    cdef mr_fields fields
    cdef mr_records records
    cdef mr_grep grep
    cdef Source source
    cdef uint32_t partitions
    cdef bint busy
    cdef int kind  # of keys: 0 none yet, MR_STR, MR_BYTES
    cdef object combine_name
    cdef object filename
    cdef bytes filename_utf8
    cdef uint64_t offset
    cdef uint64_t drained_records
    cdef size_t memory  # 0: no bound
    cdef size_t most_keys
    cdef object spill
    cdef mr_batch batch
    cdef uint8_t[128] room  # for a key and a value that are encoded

    def __cinit__(self, partitions: int, *, source=None, combine=None, memory_bytes=None, spill=None):
        if (memory_bytes is None) != (spill is None):
            raise ValueError("memory_bytes and spill go together: what is over the bound has to go somewhere")
        self.memory = 0 if memory_bytes is None else max(1, memory_bytes)
        self.spill = spill
        if not 1 <= partitions <= 65535:
            raise ValueError(f"partitions={partitions}: choose 1 to 65535")
        self.partitions = partitions
        self.batch.sink = &self.sink
        self.combine_name = combine.kind if combine is not None and combine.kind in COMBINING else None
        self.sink.combine = OPS[self.combine_name] if self.combine_name else MR_OP_NONE
        memcpy(self.sink.table.seed, SEED, 16)
        self.sink.table.expected = min(LAST_KEYS, self.memory // 256) if self.memory else LAST_KEYS
        memcpy(self.words.seen.seed, SEED, 16)
        self.filename = ""
        self.source = NO_SOURCE
        if source is not None:
            self._set_source(source)

    cdef _set_source(self, source):
        if source.kind not in SOURCES or (source.kind == "grep" and not hasattr(source, "next")):
            raise ValueError(f"a MapSink cannot be fed by ops.{source.kind}; emit its pairs instead")
        self.source = SOURCES[source.kind]
        if self.source == WORDS:
            self.words.simd = LEVEL
            self.words.classify = classifier(source.letters)
            self.words.letters = <mr_letters>LETTERS[source.letters]
            self.words.lower = source.lower and self.words.letters != MR_SPACE
            if source.lower and self.words.letters == MR_SPACE:
                raise ValueError('lower=True needs letters="unicode" or "ascii": "space" tokens are any bytes')
            self.words.distinct = source.distinct
            self.words.value.tag = MR_STR if source.value == "filename" else MR_INT
            self.words.value.number = 1
            self.words.spans = <mr_span *>malloc((MR_WINDOW_TOKENS + 1) * sizeof(mr_span))
            if not self.words.spans:
                raise MemoryError
            self.kind = MR_BYTES if self.words.letters == MR_SPACE else MR_STR
        else:
            self.kind = MR_BYTES
        self.lines.mark = mr_marker(LEVEL)
        self.lines.sep = 10
        self.lines.batch = self.records.batch = self.fields.batch = &self.batch
        if self.source == FIELDS:
            self.fields.sep = self.lines.sep = source.sep[0]
            self.fields.key = column(source.key)
            self.fields.value = column(source.value)
            self.fields.skip_bad = source.bad == "skip"
            self.fields.c_locale = newlocale(LC_ALL_MASK, b"C", NULL)
            if not self.fields.c_locale:
                raise MemoryError
        elif self.source == RECORDS:
            self.records.size = source.size
            self.records.start, self.records.stop = source.key
        elif self.source == GREP:
            self.kind = MR_STR
            take_automaton(&self.grep, source)

    def __dealloc__(self):
        self._let_go()
        mr_sink_free(&self.sink)
        mr_words_free(&self.words)
        mr_grep_free(&self.grep)
        mr_buffer_free(&self.lines.carry)
        mr_buffer_free(&self.records.carry)
        if self.fields.c_locale:
            freelocale(self.fields.c_locale)

    cdef claim(self):
        if self.busy:
            raise RuntimeError("this MapSink is in use by another thread; give each thread its own")
        self._settle()
        self.busy = True

    cdef int _settle(self) except -1:
        """Folds the pairs that wait: whatever reads the sink or lets go of the GIL finds all of them in it."""
        cdef int status
        if self.batch.count:
            status = mr_batch_fold(&self.batch)
            self._let_go()
            check(status)
        return 0

    cdef void _let_go(self) noexcept:
        cdef size_t i
        for i in range(self.batch.owned):
            Py_DECREF(<object>self.batch.owners[i])
        self.batch.owned = 0

    @property
    def records_in(self):
        """Records emitted so far, before combining."""
        return self.sink.records_in

    @property
    def records_out(self):
        """Records drained so far, after combining."""
        return self.drained_records

    @property
    def memory_bytes(self):
        """Bytes that the tables, the log and a line across blocks hold."""
        self._settle()
        return (mr_sink_bytes(&self.sink) + mr_table_bytes(&self.words.seen) + self.lines.carry.cap
                + self.grep.carry.cap)

    @property
    def skipped(self):
        """Malformed lines that ops.fields(bad="skip") passed over."""
        return self.fields.skipped

    @property
    def key_kind(self):
        """"str" or "bytes", or None while no key was emitted."""
        return {0: None, MR_STR: "str", MR_BYTES: "bytes"}[self.kind]

    def begin(self, filename: str, offset: int = 0):
        """Starts a piece of input; `offset` is where it begins in its object, for error messages."""
        if self.busy:
            self.claim()
        self._leave()
        self.filename = filename
        self.offset = offset
        if self.memory and mr_table_bytes(&self.words.seen) > self.memory // 4:
            mr_table_free(&self.words.seen)
        if self.source == GREP or (self.source == WORDS and self.words.value.tag == MR_STR):
            self.filename_utf8 = utf8(filename)
            self.words.value.bytes = self.grep.key.bytes = <const uint8_t *>PyBytes_AS_STRING(self.filename_utf8)
            self.words.value.len = self.grep.key.len = <size_t>PyBytes_GET_SIZE(self.filename_utf8)

    def feed(self, block):
        """Takes the next bytes of the piece, cut anywhere, and emits what its source finds in them.

        Raises BadInput (ops.fields: a malformed line, with its offset), BoundPassed, BadRecord. O(len), without the GIL.
        """
        cdef _Input view = _Input(block)
        cdef const uint8_t *p = <const uint8_t *>view.view.buf
        cdef size_t n = <size_t>view.view.len, step
        if self.source == NO_SOURCE:
            raise ValueError("this MapSink has no native source: make it with source=ops.words(...) or another map op")
        while True:
            step = n if not self.memory or n < MR_NEED_BYTES else MR_NEED_BYTES
            self._feed(p, step)
            p += step
            n -= step
            self._bound()
            if not n:
                return

    cdef _feed(self, const uint8_t *p, size_t n):
        cdef int status = MR_OK
        self.claim()
        try:
            with nogil:
                if self.source == WORDS:
                    status = mr_words_feed(&self.sink, &self.words, p, n)
                elif self.source == LINES:
                    status = mr_lines_feed(&self.lines, p, n, mr_emit_line, &self.batch)
                elif self.source == FIELDS:
                    status = mr_lines_feed(&self.lines, p, n, mr_emit_fields, &self.fields)
                elif self.source == GREP:
                    status = mr_grep_feed(&self.sink, &self.grep, p, n)
                else:
                    status = mr_records_feed(&self.records, p, n)
        finally:
            self.busy = False
        if status != MR_OK:
            self._raise(status)

    cdef int _bound(self) except -1:
        """Spills when the sink could not take much more within its bound."""
        cdef size_t seen = mr_table_bytes(&self.words.seen)
        if not self.memory:
            return 0
        if self.lines.carry.len + self.grep.carry.len > self.memory:
            raise BoundPassed(f"{self.filename}: a line is over the memory of {self.memory:,} bytes; raise --memory")
        if seen > self.memory // 2:  # it cannot be spilled: a word counts once in the whole file
            raise BoundPassed(f"{self.filename}: its distinct words take over half of the memory of {self.memory:,} bytes; "
                              "raise --memory, or cut the file")
        if mr_sink_need(&self.sink, self.partitions) + seen > self.memory:
            if self.sink.log_records or self.sink.table.count:
                self.spill()
        return 0

    def end(self):
        """Ends the piece: what the last block left open (a word, a line without its LF) is emitted."""
        cdef int status = MR_OK
        self.claim()
        try:
            with nogil:
                if self.source == WORDS:
                    status = mr_words_end(&self.sink, &self.words)
                elif self.source == LINES:
                    status = mr_lines_end(&self.lines, mr_emit_line, &self.batch)
                elif self.source == FIELDS:
                    status = mr_lines_end(&self.lines, mr_emit_fields, &self.fields)
                elif self.source == RECORDS:
                    status = mr_records_end(&self.records)
                elif self.source == GREP:
                    status = mr_grep_end(&self.sink, &self.grep)
        finally:
            self.busy = False
        if status != MR_OK:
            self._raise(status)

    cdef _raise(self, int status):
        """Raises what a status stands for; the piece is over, and what it had emitted stays."""
        try:
            self._raise_status(status)
        finally:
            self._leave()

    cdef void _leave(self) noexcept:
        """Forgets what is open: nothing of a piece reaches the next one."""
        mr_words_leave(&self.words)
        self.lines.carry.len = self.records.carry.len = self.grep.carry.len = self.grep.matches = 0
        self.lines.at = self.records.at = 0

    cdef _raise_status(self, int status):
        if status == MR_BAD_LINE:
            what = {
                MR_NO_COLUMN: "a column is missing",
                MR_NO_NUMBER: "the value column is not a number",
                MR_LONG_NUMBER: "the value column is an integer of more than 4,300 digits",
            }[self.fields.reason]
            raise BadInput(f"{self.filename}: line at byte {self.offset + self.lines.at}: {what}; correct the key= and "
                           'value= of ops.fields, or pass over such lines with bad="skip", which counts them')
        if status == MR_TORN_RECORD:
            raise BadInput(f"{self.filename}: the last record, at byte {self.offset + self.records.at}, is cut off: the "
                           f"size of the object is not a multiple of the record size {self.records.size}")
        if status == MR_BAD_VALUE:
            raise BadRecord(f"{self.filename}: ops.{self.combine_name} takes {TAKES.get(self.combine_name)}; "
                            "the map op emits something else")
        check(status)

    cdef inline int _add(self, PyObject *key, PyObject *value) except -1:
        """One pair from Python; the GIL is held, so that the key's UTF-8 is read where it lies."""
        cdef const uint8_t *p
        cdef size_t n
        cdef mr_value v
        cdef int readable, kept, status, kind = mr_py_text(key, &p, &n, &readable, self.room)
        if not kind or kind != self.kind or self.busy:
            return self._add_any(<object>key, <object>value)
        if mr_py_scalar(value, &v):
            v.bytes = NULL
            v.len = 0
        else:
            v.number = 0
            v.tag = <uint8_t>mr_py_text(value, &v.bytes, &v.len, &kept, self.room + 64)
            if not v.tag:
                return self._add_any(<object>key, <object>value)
        if mr_batch_takes(&self.sink, &v):
            if self.batch.count == MR_BATCH:
                self._settle()
            status = mr_batch_put(&self.batch, p, n, &v, readable)
            if n > MR_INLINE_KEY and status == MR_OK:
                Py_INCREF(<object>key)
                self.batch.owners[self.batch.owned] = key
                self.batch.owned += 1
        else:
            status = mr_sink_add(&self.sink, p, n, &v, readable)
        return 0 if status == MR_OK else self._refuse(status, <object>key, <object>value)

    cdef int _refuse(self, int status, object key, object value) except -1:
        if status == MR_BAD_VALUE:
            raise bad_value(self.combine_name, key, value)
        check(status)
        return 0

    cdef int _add_any(self, object key, object value) except -1:
        """A pair that is more than plain bytes: a subclass, a big int, JSON, the first key of its sink, an error."""
        cdef const uint8_t *p
        cdef Py_ssize_t n
        cdef mr_value v
        cdef int overflow = 0, kind, status
        cdef double number
        cdef object keep = None, keep_key = None
        if self.busy:
            self.claim()
        if type(key) is str:
            kind = MR_STR
            p = <const uint8_t *>mr_py_utf8(key, &n)
            if not p:
                keep_key = utf8(key)
                p = <const uint8_t *>PyBytes_AS_STRING(keep_key)
                n = PyBytes_GET_SIZE(keep_key)
        elif isinstance(key, bytes):
            kind = MR_BYTES
            p = <const uint8_t *>PyBytes_AS_STRING(key)
            n = PyBytes_GET_SIZE(key)
        elif isinstance(key, str):
            kind = MR_STR
            keep_key = utf8(key)
            p = <const uint8_t *>PyBytes_AS_STRING(keep_key)
            n = PyBytes_GET_SIZE(keep_key)
        else:
            raise bad_key(key)
        if self.kind != kind:
            if self.kind:
                raise mixed_keys(self.key_kind, "bytes" if kind == MR_BYTES else "str")
            self.kind = kind
        v.bytes = NULL
        v.len = 0
        v.number = 0
        if type(value) is int:
            v.number = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
            v.tag = MR_INT
            if overflow:
                keep = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                v.tag = MR_BIGINT
        elif type(value) is str:
            v.tag = MR_STR
            v.bytes = <const uint8_t *>mr_py_utf8(value, <Py_ssize_t *>&v.len)
            if not v.bytes:
                keep = utf8(value)
        elif type(value) is float:
            v.tag = MR_FLOAT
            number = value
            memcpy(&v.number, &number, 8)
        elif value is None:
            v.tag = MR_NULL
        elif value is True:
            v.tag = MR_TRUE
        elif value is False:
            v.tag = MR_FALSE
        elif isinstance(value, bytes):
            v.tag = MR_BYTES
            keep = value
        elif isinstance(value, (int, float, str)):  # a subclass, such as IntEnum or numpy.float64
            return self._add_any(key, int(value) if isinstance(value, int) else float(value) if isinstance(value, float)
                             else str.__str__(value))
        else:
            v.tag = MR_JSON
            try:
                keep = orjson.dumps(value)
            except TypeError as error:
                raise BadRecord(
                    f"a value of type {type(value).__name__} was emitted ({value!r:.60}): values are str, bytes, int, float, bool, "
                    f"None, or what JSON holds ({error}); emit a list, such as sorted(value), or str(value)"
                ) from None
        if keep is not None:
            v.bytes = <const uint8_t *>PyBytes_AS_STRING(keep)
            v.len = <size_t>PyBytes_GET_SIZE(keep)
        status = mr_sink_add(&self.sink, p, <size_t>n, &v, MR_KEY_ONLY)
        return 0 if status == MR_OK else self._refuse(status, key, value)

    def emit(self, key, value):
        """Takes one pair. Raises BadRecord for a key or value that cannot be a record, BoundPassed for one too long."""
        self._add(<PyObject *>key, <PyObject *>value)
        self._bound()

    def emit_all(self, pairs) -> int:
        """Takes every (key, value) pair of an iterable and gives their number: the fast way in from Python.

        None counts as no pairs (a map that returned nothing). Raises as emit() does, and BadRecord for what is no pair.
        """
        cdef uint64_t n = 0
        cdef size_t logged = self.sink.log.len
        cdef PyObject *pair
        if pairs is None:
            return 0
        if isinstance(pairs, dict):
            raise BadRecord("map returned a dict; return dict.items(), or yield its pairs")
        try:
            iterator = iter(pairs)
        except TypeError:
            raise BadRecord(f"map returned {type(pairs).__name__} ({pairs!r:.60}): yield or return (key, value) pairs") from None
        while True:
            pair = mr_py_next(iterator)
            if not pair:
                break
            try:
                if PyTuple_CheckExact(<object>pair) and PyTuple_GET_SIZE(<object>pair) == 2:
                    self._add(PyTuple_GET_ITEM(<object>pair, 0), PyTuple_GET_ITEM(<object>pair, 1))
                else:
                    self._add_pair(<object>pair)
            finally:
                Py_DECREF(<object>pair)
            n += 1
            if n % EMITS_PER_BOUND == 0 or self.sink.log.len - logged > MR_NEED_BYTES:
                self._bound()
                logged = self.sink.log.len
        self._bound()
        return n

    cdef int _add_pair(self, object pair) except -1:
        """A pair that is no plain tuple of two."""
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise BadRecord(f"map emitted {pair!r:.60}, which is no (key, value) pair; yield key, value")
        key, value = pair[0], pair[1]
        return self._add(<PyObject *>key, <PyObject *>value)

    def drain(self) -> Drained:
        """Empties the sink into R sorted segments; it can then be used again. O(n log n) at worst, without the GIL."""
        global LAST_KEYS
        cdef Drained drained = Drained()
        cdef int status
        self.claim()
        try:
            with nogil:
                status = mr_drain_begin(&self.sink, self.partitions, &drained.drain)
        finally:
            self.busy = False
        check(status)
        drained.sink = mr_sink_take(&self.sink)
        if self.sink.combine != MR_OP_NONE:
            self.most_keys = LAST_KEYS = max(self.most_keys, drained.sink.table.count)
        if self.memory:
            self.sink.table.expected = min(self.sink.table.expected, self.memory // 256)
        drained.records = drained.drain.records
        drained.key_kind = self.key_kind
        drained.combined = self.combine_name
        self.drained_records += drained.drain.records
        return drained
