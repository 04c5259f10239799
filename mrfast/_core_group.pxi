cdef mr_record EMPTY
memset(&EMPTY, 0, sizeof(EMPTY))


cdef object value_object(const mr_value *v):
    """A record's value as the Python object that was emitted."""
    if v.tag == MR_INT:
        return <int64_t>v.number
    if v.tag == MR_STR:
        return decode(v.bytes, <Py_ssize_t>v.len)
    if v.tag == MR_BYTES:
        return raw(v.bytes, <Py_ssize_t>v.len)
    if v.tag == MR_FLOAT:
        return mr_bits_double(v.number)
    if v.tag == MR_NULL:
        return None
    if v.tag == MR_TRUE:
        return True
    if v.tag == MR_FALSE:
        return False
    if v.tag == MR_JSON:
        return orjson.loads(raw(v.bytes, <Py_ssize_t>v.len))
    if v.tag == MR_BIGINT:
        return int.from_bytes(raw(v.bytes, <Py_ssize_t>v.len), "little", signed=True)
    if v.tag == MR_DECIMAL:
        return any_length(int, raw(v.bytes, <Py_ssize_t>v.len))
    return partial_of(v).result()


class Partial:
    """A combiner's partial sum, count or mean, exactly: `total` is a Fraction, or an int while no float was added."""

    __slots__ = ("kind", "count", "total", "floats", "special")

    def __init__(self, kind):
        self.kind = kind
        self.count = 0
        self.total = 0
        self.floats = False
        self.special = 0.0  # the sum of the infinities and NaNs

    def add(self, value):
        from fractions import Fraction  # late: its imports cost a start-up 5 ms

        if isinstance(value, Partial):
            self.count += value.count
            self.total += value.total
            self.floats |= value.floats
            self.special += value.special
        elif isinstance(value, float):
            self.count += 1
            self.floats = True
            if value - value == 0:
                self.total += Fraction(value)
            else:
                self.special += value
        else:
            self.count += 1
            self.total += value

    def result(self):
        if self.kind == "count":
            return self.count
        if self.floats:
            total = self.special if self.special != 0 else rounded(self.total)
            return total / self.count if self.kind == "mean" else total
        return rounded(self.total, self.count) if self.kind == "mean" else int(self.total)


cdef object partial_of(const mr_value *v):
    """The Partial that a STATE value stands for."""
    cdef mr_partial partial
    kind = chr(v.bytes[0]) if v.len else ""
    self = Partial({"s": "sum", "m": "mean", "c": "count"}.get(kind, "unknown"))
    if kind == "c":
        self.count = varint(v.bytes + 1, v.len - 1)
        return self
    if kind == "" or mr_state_get(v.bytes, v.len, ord(kind), &partial) != MR_OK:
        raise BadRecord("a combiner's partial result is malformed; it was not written by this version of mrfast")
    units = int.from_bytes((<uint8_t *>partial.sum.limb)[:sizeof(partial.sum.limb)], "little", signed=True)
    self.count = partial.count
    self.floats = bool(partial.sum.flags & MR_HAS_FLOAT)
    from fractions import Fraction

    self.total = Fraction(units, 1 << 1074)
    if partial.sum.flags & MR_HAS_NAN:
        self.special = float("nan")
    if partial.sum.flags & MR_HAS_INF:
        self.special += float("inf")
    if partial.sum.flags & MR_HAS_NEG_INF:
        self.special -= float("inf")
    return self


def rounded(total, count=1) -> float:
    """The float nearest to the exact total / count; an infinity when that is too large for one."""
    try:
        return float(total / count)
    except OverflowError:
        return float("inf") if total > 0 else float("-inf")


cdef object varint(const uint8_t *p, size_t n):
    value = 0
    for i in range(n):
        value |= (p[i] & 0x7F) << (7 * i)
    return value


def reduce_values(op, key, values: list):
    """What a native reduce op makes of a group, in plain Python: a list of one value, or of several for several lines.

    The kernels call it for the groups they leave to Python: integers beyond 64 bits, ops.top, mixed kinds of identity.
    """
    kind = op.kind
    if kind == "identity":
        return [value.result() if isinstance(value, Partial) else value for value in values]
    if kind == "first":
        return [values[0].result() if isinstance(values[0], Partial) else values[0]]
    if kind == "count":
        return [sum(value.count if isinstance(value, Partial) else 1 for value in values)]
    if kind in ("sum", "mean"):
        partial = Partial(kind)
        for value in values:
            if not isinstance(value, (int, float, Partial)):
                raise bad_value(kind, key, value)
            partial.add(value)
        return [partial.result()]
    if kind in ("concat", "index"):
        for value in values:
            if not isinstance(value, str):
                raise bad_value(kind, key, value)
        if kind == "concat":
            return [op.sep.join(values)]
        names = sorted(set(values), key=utf8)
        return [f"{len(names)} {','.join(names)}"]
    numbers = all(isinstance(value, (int, float)) for value in values)
    for value in values:
        if not isinstance(value, (int, float, str, bytes)) or not (numbers or type(value) is type(values[0])):
            raise bad_value(kind, key, value)
    values = [int(value) if isinstance(value, bool) else value for value in values]
    nans = [value for value in values if value != value]
    if kind == "top":
        order = utf8 if isinstance(values[0], str) else None
        rest = sorted((value for value in values if value == value), key=order, reverse=True)
        return (nans + rest)[: op.n]
    if nans:
        return [nans[0]]
    order = utf8 if isinstance(values[0], str) else None
    return [min(values, key=order) if kind == "min" else max(values, key=order)]


cdef object any_length(convert, value):
    """convert(value) between int and decimal text, past the interpreter's limit: it guards against input, not sums."""
    try:
        return convert(value)
    except ValueError:
        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            return convert(value)
        finally:
            sys.set_int_max_str_digits(limit)


cdef bytes value_text(value):
    """A value as a part's text, before escaping."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return repr(value).encode()
    if isinstance(value, int) and not isinstance(value, bool):
        return any_length(b"%d".__mod__, value)
    return orjson.dumps(value)


@cython.final
cdef class Values:
    """The values of one group, in (map index, emit order): an iterator that decodes one at a time."""

    cdef Grouper grouper
    cdef size_t next, last

    def __iter__(self):
        return self

    def __next__(self):
        cdef mr_record r = EMPTY
        cdef mr_value v
        if self.next >= self.last:
            raise StopIteration
        check(mr_group_record(&self.grouper.groups, self.next, &r))
        self.next += 1
        v = mr_record_value(&r)
        return value_object(&v)

    def __length_hint__(self):
        return self.last - self.next


@cython.final
cdef class Grouper:
    """Sorts and groups the segments of one partition.

    add() every segment, then either iterate (key, values), or write() what a native reduce op makes of the groups. The
    segments' bytes are held, not copied. Equal keys: values in (order, position in the segment). O(n log n) at worst.
    """

    cdef mr_grouper groups
    cdef object reduce
    cdef object key_kind
    cdef list segments
    cdef bint busy
    cdef bint sorted
    cdef readonly object records_out

    def __cinit__(self, *, key_kind, reduce=None):
        if key_kind not in (None, "str", "bytes"):
            raise ValueError(f"key_kind={key_kind!r}: choose 'str' or 'bytes'")
        self.key_kind = key_kind
        self.reduce = reduce
        self.segments = []
        self.records_out = 0

    def __dealloc__(self):
        mr_group_free(&self.groups)

    cdef claim(self):
        if self.busy:
            raise RuntimeError("this Grouper is in use by another thread; give each thread its own")
        self.busy = True

    @property
    def records_in(self):
        """Records of all segments that were added."""
        return self.groups.records

    def add(self, data, *, order: int, records: int, xxh3: int, object: str = "", partition: int = 0):
        """Takes a segment after checking every byte of it; `order` (the map index) decides between equal keys.

        Raises CorruptSegment(object, partition, offset) when the checksum, a length, the count or the order of keys is off.
        """
        cdef _Input view = _Input(data)
        cdef mr_run run
        cdef size_t offset = 0
        cdef const char *why = ""
        cdef uint64_t checksum = xxh3
        cdef int status
        if self.sorted:
            raise RuntimeError("this Grouper was read already; make a new one for more segments")
        run.data = <const uint8_t *>view.view.buf
        run.len = <size_t>view.view.len
        run.order = order
        run.records = records
        self.claim()
        try:
            with nogil:
                status = mr_segment_check(run.data, run.len, run.records, checksum, &offset, &why)
                if status == MR_OK:
                    status = mr_group_add(&self.groups, &run)
        finally:
            self.busy = False
        if status == MR_CORRUPT:
            raise CorruptSegment(object, partition, offset, (<bytes>why).decode())
        check(status)
        self.segments.append(view)

    cdef sort(self):
        cdef int status
        if self.sorted:
            return
        self.claim()
        try:
            with nogil:
                status = mr_group_sort(&self.groups)
        finally:
            self.busy = False
        check(status)
        self.sorted = True

    cdef object key_at(self, size_t i):
        cdef const mr_entry *e = &self.groups.entries[i]
        if self.key_kind == "bytes":
            return raw(e.key, e.key_len)
        return decode(e.key, e.key_len)

    def __iter__(self):
        """(key, values) for each group, by key bytes; `values` is a one-pass iterator that ends with its group."""
        cdef size_t first = 0, last
        cdef Values values
        self.sort()
        while first < self.groups.records:
            last = mr_group_end(&self.groups, first)
            values = Values.__new__(Values)
            values.grouper = self
            values.next = first
            values.last = last
            yield self.key_at(first), values
            values.next = last
            first = last

    cdef list group_values(self, size_t first, size_t last):
        """The values of a group with partial results kept as Partial, for reduce_values."""
        cdef mr_record r = EMPTY
        cdef mr_value v
        cdef list out = []
        cdef size_t i
        for i in range(first, last):
            check(mr_group_record(&self.groups, i, &r))
            v = mr_record_value(&r)
            out.append(partial_of(&v) if v.tag == MR_STATE else value_object(&v))
        return out

    def reduced(self):
        """(key, value) for each line of the native reduce op: what write() would format."""
        cdef size_t first = 0, last
        self.sort()
        while first < self.groups.records:
            last = mr_group_end(&self.groups, first)
            key = self.key_at(first)
            for value in reduce_values(self.reduce, key, self.group_values(first, last)):
                self.records_out += 1
                yield key, value
            first = last

    def write(self, format: str, *, terminator: bytes = b"\n") -> Buffer:
        """The part that the native reduce op makes: "text", "tsv", or "raw" (values, each ended by `terminator`).

        Raises BadRecord for a value that the op cannot take. Runs without the GIL but for floats and big integers.
        """
        cdef mr_writer w
        cdef Buffer out = Buffer()
        cdef bytes joint = utf8(self.reduce.sep) if self.reduce.kind == "concat" else b""
        cdef int status, is_float
        self.sort()
        memset(&w, 0, sizeof(w))
        w.op = OPS[self.reduce.kind]
        w.format = FORMATS[format]
        w.joint = <const uint8_t *>PyBytes_AS_STRING(joint)
        w.joint_len = <size_t>PyBytes_GET_SIZE(joint)
        w.terminator = <const uint8_t *>PyBytes_AS_STRING(terminator)
        w.terminator_len = <size_t>PyBytes_GET_SIZE(terminator)
        self.claim()
        self.groups.at = 0
        try:
            while True:
                with nogil:
                    status = mr_group_write(&self.groups, &w, &is_float)
                if status != MR_NEEDS_PYTHON:
                    break
                self._write_group(&w, is_float)
            if status == MR_BAD_VALUE:
                value = self.group_values(self.groups.bad, self.groups.bad + 1)[0]
                raise bad_value(self.reduce.kind, self.key_at(self.groups.bad), value)
            check(status)
            self.records_out += w.lines
        finally:
            out.bytes = w.out
            self.busy = False
        return out

    cdef _write_group(self, mr_writer *w, bint is_float):
        """Writes the group at groups.at, and steps past it."""
        cdef size_t first = self.groups.at, last = mr_group_end(&self.groups, first)
        cdef char *digits
        key = self.key_at(first)
        if is_float:
            digits = PyOS_double_to_string(self.groups.number, b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
            values = [(<bytes>digits)]
            PyMem_Free(digits)
        else:
            values = [value_text(v) for v in reduce_values(self.reduce, key, self.group_values(first, last))]
        for value in values:
            self._write_line(w, utf8(key) if isinstance(key, str) else key, value)
        self.groups.at = last

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
