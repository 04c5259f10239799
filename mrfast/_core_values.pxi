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


cdef object cell_object(mr_op op, const mr_cell *cell):
    """What was folded so far, as a value for reduce_values."""
    cdef uint8_t scratch[1024]
    cdef mr_value v = mr_cell_value(op, cell, scratch)
    return partial_of(&v) if v.tag == MR_STATE else value_object(&v)


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


# Values that ops.top looks at together, at least: what it keeps is sorted once for so many.
TOP_BATCH = 10_000


def reduce_values(op, key, values):
    """What a native reduce op makes of a group, in plain Python: an iterable of one value, or of several for as many lines.

    The kernels call it for the groups they leave to Python: integers beyond 64 bits, ops.top. `values` may be of any
    length: it is read once, and only what the result holds is kept.
    """
    kind = op.kind
    values = iter(values)
    if kind == "identity":
        return (value.result() if isinstance(value, Partial) else value for value in values)
    if kind == "first":
        value = next(values)
        return [value.result() if isinstance(value, Partial) else value]
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
        texts = (text_of(kind, key, value) for value in values)
        if kind == "concat":
            return [op.sep.join(texts)]
        names = sorted(set(texts), key=utf8)
        return [f"{len(names)} {','.join(names)}"]
    return largest(op, key, values)


cdef object text_of(kind, key, value):
    if not isinstance(value, str):
        raise bad_value(kind, key, value)
    return value


cdef list largest(op, key, values):
    """ops.top, ops.max and ops.min: NaNs first, then the values in their order; equal ones as they came."""
    kind = op.kind
    wanted = op.n if kind == "top" else 1
    nans, best, batch = [], [], []
    order = first = None
    for value in values:
        if first is None:
            first = value
            order = utf8 if isinstance(first, str) else None
        number = isinstance(value, (int, float))
        if not (number and isinstance(first, (int, float)) or isinstance(value, (str, bytes)) and type(value) is type(first)):
            raise bad_value(kind, key, value)
        if value != value:
            if len(nans) < wanted:
                nans.append(value)
            continue
        batch.append(int(value) if isinstance(value, bool) else value)
        if len(batch) >= TOP_BATCH + wanted:
            best = sorted(best + batch, key=order, reverse=kind != "min")[:wanted]
            batch = []
    return (nans + sorted(best + batch, key=order, reverse=kind != "min"))[:wanted]


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
