@cython.final
cdef class Values:
    """The values of one group, in (map index, emit order): an iterator that decodes one at a time."""

    cdef Grouper grouper
    cdef mr_entry first
    cdef uint64_t pass_
    cdef bint partials  # partial results stay Partial, for reduce_values
    cdef bint ended

    def __iter__(self):
        return self

    def __next__(self):
        cdef mr_record r = EMPTY
        cdef mr_value v
        if self.ended:
            raise StopIteration
        self.grouper.check_pass(self.pass_)
        if not mr_group_within(&self.grouper.groups, &self.first):
            self.ended = True
            raise StopIteration
        check(mr_entry_record(mr_group_entry(&self.grouper.groups), &r))
        v = mr_record_value(&r)
        value = partial_of(&v) if self.partials and v.tag == MR_STATE else value_object(&v)
        check(mr_group_step(&self.grouper.groups))
        return value

    cdef skip(self):
        """Goes behind the group."""
        while not self.ended:
            self.grouper.check_pass(self.pass_)
            self.ended = not mr_group_within(&self.grouper.groups, &self.first)
            if not self.ended:
                check(mr_group_step(&self.grouper.groups))


@cython.final
cdef class _Writer:
    """A kernel's writer, freed with this object."""

    cdef mr_writer w

    def __dealloc__(self):
        mr_writer_free(&self.w)


@cython.final
cdef class Grouper:
    """Merges the sorted segments of one partition into groups.

    add() every segment, then either iterate (key, values), or let write() or chunks() make what a native reduce op makes
    of the groups. The segments' bytes are held, not copied. Equal keys: values in (order, position in the segment).
    O(n log k) for n records of k segments, in constant memory beside them. A new pass (an iteration, a write) ends the
    one before it.
    """

    cdef mr_grouper groups
    cdef object reduce
    cdef object key_kind
    cdef list segments
    cdef bint busy
    cdef bint read
    cdef uint64_t pass_
    cdef readonly object held_bytes
    cdef readonly object records_out

    def __cinit__(self, *, key_kind, reduce=None):
        if key_kind not in (None, "str", "bytes"):
            raise ValueError(f"key_kind={key_kind!r}: choose 'str' or 'bytes'")
        self.key_kind = key_kind
        self.reduce = reduce
        self.segments = []
        self.held_bytes = 0
        self.records_out = 0

    def __dealloc__(self):
        mr_group_free(&self.groups)

    cdef claim(self):
        if self.busy:
            raise RuntimeError("this Grouper is in use by another thread; give each thread its own")
        self.busy = True

    cdef check_pass(self, uint64_t pass_):
        if self.busy:
            self.claim()
        if self.pass_ != pass_:
            raise RuntimeError("this Grouper is being read anew; what was begun before has ended")

    @property
    def records_read(self):
        """Records that the newest pass has gone by: a measure of how far it is."""
        return self.groups.merged - (self.groups.count - self.groups.at)

    @property
    def records_in(self):
        """Records of all segments that were added."""
        return self.groups.merge.records

    def add(self, data, *, order: int, records: int, xxh3: int, object: str = "", partition: int = 0):
        """Takes a segment after checking every byte of it; `order` (the map index) decides between equal keys.

        Raises CorruptSegment(object, partition, offset) when the checksum, a length, the count or the order of keys is off.
        """
        cdef _Input view = _Input(data)  # held all the while: nobody may resize it
        self.claim()
        try:
            check_segment(data, records=records, xxh3=xxh3, object=object, partition=partition)
        finally:
            self.busy = False
        self.add_run(data, records=records, order=order)
        self.held_bytes += view.view.len

    def add_run(self, data, *, records: int, order: int | None = None, release_bytes: int = 0):
        """Takes a sorted run that was checked, or written by merged(): with `order` a segment, without it a run with orders.

        `release_bytes` says that data is a shared mapping of a file: as the merge goes on, pages that were read are given
        back in steps of so many bytes.
        """
        cdef _Input view = _Input(data)
        cdef mr_run run
        run.ordered = order is None
        run.order = 0 if order is None else order
        run.release_bytes = release_bytes
        run.records = records
        run.data = <const uint8_t *>view.view.buf
        run.len = <size_t>view.view.len
        self._take(view, &run)

    cdef _take(self, _Input view, const mr_run *run):
        if self.read:
            raise RuntimeError("this Grouper was read already; make a new one for more segments")
        if self.busy:
            self.claim()
        check(mr_merge_add(&self.groups.merge, run))
        self.segments.append(view)

    cdef uint64_t begin(self, bint grouping=True) except 0:
        """Starts a pass over all records, and gives its number."""
        cdef int status
        self.claim()
        self.read = True
        self.records_out = 0
        self.pass_ += 1
        try:
            with nogil:
                status = mr_group_begin(&self.groups) if grouping else mr_merge_begin(&self.groups.merge)
        finally:
            self.busy = False
        check(status)
        return self.pass_

    cdef object key_object(self, const mr_entry *e):
        if self.key_kind == "bytes":
            return raw(e.key, e.key_len)
        return decode(e.key, e.key_len)

    cdef Values values_of(self, const mr_entry *first, bint partials):
        cdef Values values = Values.__new__(Values)
        values.grouper = self
        values.first = first[0]
        values.pass_ = self.pass_
        values.partials = partials
        return values

    def __iter__(self):
        """(key, values) for each group, by key bytes; `values` is a one-pass iterator that ends with its group."""
        cdef uint64_t pass_ = self.begin()
        cdef const mr_entry *first
        cdef Values values
        while True:
            self.check_pass(pass_)
            first = mr_group_entry(&self.groups)
            if not first:
                return
            values = self.values_of(first, False)
            yield self.key_object(first), values
            values.skip()

    def reduced(self):
        """(key, value) for each line of the native reduce op: what write() would format."""
        cdef uint64_t pass_ = self.begin()
        cdef const mr_entry *first
        cdef Values values
        while True:
            self.check_pass(pass_)
            first = mr_group_entry(&self.groups)
            if not first:
                return
            key, values = self.key_object(first), self.values_of(first, True)
            for value in reduce_values(self.reduce, key, values):
                self.records_out += 1
                yield key, value
            values.skip()

    def write(self, format: str, *, terminator: bytes = b"\n") -> Buffer:
        """The part that the native reduce op makes, in one buffer; see chunks()."""
        cdef Buffer out
        for out in self.chunks(format, terminator=terminator, chunk_bytes=sys.maxsize):
            return out
        return Buffer()

    def chunks(self, format: str, *, terminator: bytes = b"\n", chunk_bytes: int = 1 << 20):
        """The part that the native reduce op makes, in buffers of about `chunk_bytes`, each valid until the next.

        "text", "tsv", "raw" (values, each ended by `terminator`), or "records": a segment again, for a combine op. Raises
        BadRecord for a value that the op cannot take. Runs without the GIL but for floats and big integers.
        """
        cdef _Writer writer = _Writer()
        cdef mr_writer *w = &writer.w
        cdef bytes joint = utf8(self.reduce.sep) if self.reduce.kind == "concat" else b""
        cdef uint64_t pass_ = self.begin()
        cdef Buffer out = None
        cdef mr_buffer full
        cdef int status, is_float
        w.op = OPS[self.reduce.kind]
        w.format = FORMATS[format]
        w.joint = <const uint8_t *>PyBytes_AS_STRING(joint)
        w.joint_len = <size_t>PyBytes_GET_SIZE(joint)
        w.terminator = <const uint8_t *>PyBytes_AS_STRING(terminator)
        w.terminator_len = <size_t>PyBytes_GET_SIZE(terminator)
        w.limit = <size_t>max(1, chunk_bytes)
        while True:
            self.check_pass(pass_)
            self.claim()
            try:
                with nogil:
                    status = mr_group_write(&self.groups, w, &is_float)
            finally:
                self.busy = False
            if status == MR_NEEDS_PYTHON:
                self._write_group(w, is_float)
                continue
            if status == MR_BAD_VALUE:
                value = next(self.values_of(mr_group_entry(&self.groups), True))
                raise bad_value(self.reduce.kind, self.key_object(&w.first), value)
            if status != MR_FULL:
                check(status)
            self.records_out += w.lines
            w.lines = 0
            if w.out.len:
                out = emptied(out)
                full = w.out
                w.out = out.bytes
                out.bytes = full
                yield out
            if status != MR_FULL:
                return

    cdef _write_group(self, mr_writer *w, bint is_float):
        """Writes the group that the kernel left to Python, and goes behind it."""
        cdef Values rest
        cdef char *digits
        key = self.key_object(&w.first)
        rest = self.values_of(&w.first, True)
        if is_float:
            digits = PyOS_double_to_string(w.number, b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
            values = [(<bytes>digits)]
            PyMem_Free(digits)
        elif w.op == MR_OP_IDENTITY:  # one value, a line by itself
            values = [value_text(value) for value in reduce_values(self.reduce, key, [next(rest)])]
        else:
            folded = [] if not w.cell.tag else [cell_object(w.op, &w.cell)]
            values = [value_text(value) for value in reduce_values(self.reduce, key, chain(folded, rest))]
        for value in values:
            self._write_line(w, utf8(key) if isinstance(key, str) else key, value)
        if w.op != MR_OP_IDENTITY:
            rest.skip()

    cdef _write_line(self, mr_writer *w, bytes key, bytes value):
        cdef const mr_escapes *key_escapes = &mr_escape_tsv if w.format == MR_TSV else &mr_escape_key
        cdef const mr_escapes *value_escapes = &mr_escape_tsv if w.format == MR_TSV else &mr_escape_value
        if w.format == MR_RAW:
            check(mr_buffer_append(&w.out, PyBytes_AS_STRING(value), <size_t>len(value)))
            check(mr_buffer_append(&w.out, w.terminator, w.terminator_len))
        else:
            check(mr_put_escaped(&w.out, <const uint8_t *>PyBytes_AS_STRING(key), <size_t>len(key), key_escapes))
            check(mr_buffer_append(&w.out, b"\t" if w.format == MR_TSV else b" ", 1))
            check(mr_put_escaped(&w.out, <const uint8_t *>PyBytes_AS_STRING(value), <size_t>len(value), value_escapes))
            check(mr_buffer_append(&w.out, b"\n", 1))
        w.lines += 1


    def merged(self, *, ordered: bool, chunk_bytes: int = 1 << 20):
        """All records as one sorted run, in buffers of about `chunk_bytes`, each valid until the next.

        `ordered`: each record brings its order along, for add_run() without one; otherwise the run is a segment.
        """
        cdef Buffer out = None
        cdef uint64_t pass_ = self.begin(False)
        cdef int status = MR_FULL, with_order = ordered
        cdef size_t limit = <size_t>max(1, chunk_bytes)
        while status == MR_FULL:
            self.check_pass(pass_)
            out = emptied(out)
            self.claim()
            try:
                with nogil:
                    status = mr_merge_write(&self.groups.merge, with_order, &out.bytes, limit)
            finally:
                self.busy = False
            if status != MR_FULL:
                check(status)
            if out.bytes.len:
                yield out


def check_segment(data, *, records: int, xxh3: int, object: str = "", partition: int = 0):
    """Checks every byte of a segment.

    Raises CorruptSegment(object, partition, offset) when the checksum, a length, the count or the order of keys is off.
    """
    cdef _Input view = _Input(data)
    cdef const uint8_t *start = <const uint8_t *>view.view.buf
    cdef size_t length = <size_t>view.view.len, offset = 0
    cdef uint64_t count = records, checksum = xxh3
    cdef const char *why = ""
    cdef int status
    with nogil:
        status = mr_segment_check(start, length, count, checksum, &offset, &why)
    if status == MR_CORRUPT:
        raise CorruptSegment(object, partition, offset, (<bytes>why).decode())
    check(status)


def read_segment(data, key_kind: str):
    """An iterator over a segment's (key, value) pairs, in order. Raises CorruptSegment at bytes that are no record."""
    cdef _Input view = _Input(data)
    cdef const uint8_t *start = <const uint8_t *>view.view.buf
    cdef const uint8_t *p = start
    cdef const uint8_t *end = p + view.view.len
    cdef mr_record r = EMPTY
    cdef mr_value v
    while p < end:
        if mr_get_record(p, end, &r) != MR_OK:
            raise CorruptSegment("", 0, p - start, "malformed record")
        v = mr_record_value(&r)
        yield (raw(r.key, r.key_len) if key_kind == "bytes" else decode(r.key, r.key_len)), value_object(&v)
        p = r.end
