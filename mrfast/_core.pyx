# cython: language_level=3
"""The extension: classes that own memory, drop the GIL, and turn status codes into exceptions. See mrfast.core."""

import os
import sys
from itertools import chain

import orjson

from mrfast.errors import BadInput, BadRecord, BoundPassed, CorruptSegment

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen


cdef extern from *:
    """
    /* The UTF-8 that the str caches; NULL, and no exception, for one with a lone surrogate. */
    static inline const char *mr_py_utf8(PyObject *text, Py_ssize_t *size) {
        const char *p = PyUnicode_AsUTF8AndSize(text, size);
        if (!p) PyErr_Clear();
        return p;
    }

    /* UTF-8 of up to 16 code points, in 64 bytes; 0 for a surrogate. `kind` is a constant where it is called. */
    MR_INLINE size_t mr_py_encode(int kind, const void *text, Py_ssize_t n, uint8_t *out) {
        uint8_t *at = out;
        for (Py_ssize_t i = 0; i < n; i++) {
            Py_UCS4 c = PyUnicode_READ(kind, text, i);
            if (c < 0x80) {
                *at++ = (uint8_t)c;
            } else if (c < 0x800) {
                *at++ = (uint8_t)(0xC0 | c >> 6);
                *at++ = (uint8_t)(0x80 | (c & 0x3F));
            } else if (c < 0x10000) {
                if (c >= 0xD800 && c < 0xE000) return 0;
                *at++ = (uint8_t)(0xE0 | c >> 12);
                *at++ = (uint8_t)(0x80 | (c >> 6 & 0x3F));
                *at++ = (uint8_t)(0x80 | (c & 0x3F));
            } else {
                *at++ = (uint8_t)(0xF0 | c >> 18);
                *at++ = (uint8_t)(0x80 | (c >> 12 & 0x3F));
                *at++ = (uint8_t)(0x80 | (c >> 6 & 0x3F));
                *at++ = (uint8_t)(0x80 | (c & 0x3F));
            }
        }
        return (size_t)(at - out);
    }

    /* The UTF-8 of a short str that is not ASCII, in `room`; its length, or 0 where it is over 16 bytes or has none. */
    static inline size_t mr_py_short_utf8(PyObject *text, uint8_t *room) {
        if (!PyUnicode_IS_COMPACT(text) || PyUnicode_GET_LENGTH(text) > 16) return 0;
        const void *data = PyUnicode_DATA(text);
        Py_ssize_t n = PyUnicode_GET_LENGTH(text);
        size_t len;
        switch (PyUnicode_KIND(text)) {
            case PyUnicode_1BYTE_KIND: len = mr_py_encode(PyUnicode_1BYTE_KIND, data, n, room); break;
            case PyUnicode_2BYTE_KIND: len = mr_py_encode(PyUnicode_2BYTE_KIND, data, n, room); break;
            default: len = mr_py_encode(PyUnicode_4BYTE_KIND, data, n, room);
        }
        return len > 16 ? 0 : len;
    }

    /* The bytes of a str or bytes, where they lie or in `room` (64 bytes), and its kind; 0, and no exception, for any
     * other object. A short str that is not ASCII is encoded here: the cache in the str costs an allocation. */
    static inline int mr_py_text(PyObject *text, const uint8_t **p, size_t *len, int *readable, uint8_t *room) {
        *readable = MR_BEFORE;
        if (PyUnicode_CheckExact(text)) {
            if (MR_LIKELY(PyUnicode_IS_COMPACT_ASCII(text))) {
                *p = (const uint8_t *)PyUnicode_DATA(text);
                *len = (size_t)PyUnicode_GET_LENGTH(text);
                return MR_STR;
            }
            *readable = MR_AFTER;
            *p = room;
            *len = mr_py_short_utf8(text, room);
            if (*len) return MR_STR;
            *readable = MR_KEY_ONLY;
            *p = (const uint8_t *)mr_py_utf8(text, (Py_ssize_t *)len);
            return *p ? MR_STR : 0;
        }
        if (!PyBytes_CheckExact(text)) return 0;
        *p = (const uint8_t *)PyBytes_AS_STRING(text);
        *len = (size_t)PyBytes_GET_SIZE(text);
        return MR_BYTES;
    }

    /* A value that needs no memory of its own: an int of one digit, a float, a bool, None; 0 for any other. */
    static inline int mr_py_scalar(PyObject *value, mr_value *v) {
        v->number = 0;
        if (PyLong_CheckExact(value)) {
    #if PY_VERSION_HEX >= 0x030C0000
            if (!PyUnstable_Long_IsCompact((PyLongObject *)value)) return 0;
            v->number = (uint64_t)PyUnstable_Long_CompactValue((PyLongObject *)value);
    #else
            Py_ssize_t digits = Py_SIZE(value);
            if (digits < -1 || digits > 1) return 0;
            if (digits) v->number = (uint64_t)(digits * (int64_t)((PyLongObject *)value)->ob_digit[0]);
    #endif
            v->tag = MR_INT;
        } else if (PyFloat_CheckExact(value)) {
            double number = PyFloat_AS_DOUBLE(value);
            memcpy(&v->number, &number, 8);
            v->tag = MR_FLOAT;
        } else if (value == Py_None) {
            v->tag = MR_NULL;
        } else if (value == Py_True || value == Py_False) {
            v->tag = value == Py_True ? MR_TRUE : MR_FALSE;
        } else {
            return 0;
        }
        return 1;
    }

    /* A new reference; NULL at the end, or with an exception. PyIter_Next without its call. */
    static inline PyObject *mr_py_next(PyObject *iterator) {
        PyObject *next = Py_TYPE(iterator)->tp_iternext(iterator);
        if (!next && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopIteration)) PyErr_Clear();
        return next;
    }
    """
    const char *mr_py_utf8(object text, Py_ssize_t *size)
    int mr_py_text(PyObject *text, const uint8_t **p, size_t *len, int *readable, uint8_t *room)
    int mr_py_scalar(PyObject *value, mr_value *v)
    PyObject *mr_py_next(object iterator) except? NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    char *PyOS_double_to_string(double value, char code, int precision, int flags, int *kind) except NULL
    void PyMem_Free(void *p)
    int Py_DTSF_ADD_DOT_0
    bint PyIter_Check(object iterator)


UNICODE_VERSION = MR_UNICODE_VERSION.decode()

LEVELS = {
    "scalar": MR_SIMD_SCALAR, "neon": MR_SIMD_NEON, "sse2": MR_SIMD_SSE2, "avx2": MR_SIMD_AVX2, "avx512": MR_SIMD_AVX512
}
SIMD_LEVELS = tuple([name for name in LEVELS if mr_simd_runs(<mr_simd>LEVELS[name])])
SIMD = os.environ.get("MRFAST_SIMD") or SIMD_LEVELS[-1]
if SIMD not in SIMD_LEVELS:
    raise ImportError("MRFAST_SIMD=" + SIMD + ": this machine runs " + ", ".join(SIMD_LEVELS))
cdef mr_simd LEVEL = <mr_simd>LEVELS[SIMD]


def use_simd(level: str) -> None:
    """Lets what is made from now on run on one of SIMD_LEVELS: tests and benches compare them; else MRFAST_SIMD does."""
    global LEVEL
    if level not in SIMD_LEVELS:
        raise ValueError(f"level {level!r}: this machine runs {', '.join(SIMD_LEVELS)}")
    LEVEL = <mr_simd>LEVELS[level]


mr_crc32c_init()

cdef uint64_t[2] SEED
memcpy(SEED, PyBytes_AS_STRING(os.urandom(16)), 16)

LETTERS = {"unicode": MR_UNICODE, "ascii": MR_ASCII, "space": MR_SPACE}
OPS = {
    "sum": MR_OP_SUM, "count": MR_OP_COUNT, "min": MR_OP_MIN, "max": MR_OP_MAX, "mean": MR_OP_MEAN,
    "first": MR_OP_FIRST, "index": MR_OP_INDEX, "concat": MR_OP_CONCAT, "identity": MR_OP_IDENTITY, "top": MR_OP_TOP,
}
# These fold values as they come; the other ops need every value, so a sink only collects for them.
COMBINING = frozenset({"sum", "count", "min", "max", "mean", "first", "index"})
# Of these, what was folded twice is folded once more; an index only drops repeats.
FOLDING = COMBINING - {"index"}
FORMATS = {"text": MR_TEXT, "tsv": MR_TSV, "raw": MR_RAW, "records": MR_RECORDS}
TAKES = {
    "sum": "numbers", "mean": "numbers", "min": "numbers, or only str, or only bytes",
    "max": "numbers, or only str, or only bytes", "index": "str values", "concat": "str values", "top": "numbers, or only str, or only bytes",
}


cdef mr_classify_fn classifier(letters) except NULL:
    if letters not in LETTERS:
        raise ValueError(f"letters={letters!r}: choose 'unicode', 'ascii' or 'space'")
    return mr_classifier(<mr_letters>LETTERS[letters], LEVEL)


cdef object check(int status):
    """Raises what a kernel's status stands for, when nothing more is known about it."""
    if status == MR_OK:
        return None
    if status == MR_NOMEM:
        raise MemoryError("mrfast's core is out of memory")
    if status == MR_KEY_TOO_LONG:
        raise BoundPassed("a key is over 16 MiB, the bound of a key; shorten it, or make it part of the value")
    if status == MR_VALUE_TOO_LONG:
        raise BoundPassed("a value is over 1 GiB, the bound of a value; split it over several records")
    raise SystemError(f"mrfast's core: unexpected status {status}")


cdef bytes utf8(text):
    """UTF-8 of a str; undecodable bytes of a file name (surrogateescape) come back as they were."""
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        pass
    try:
        return str.encode(text, "utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadRecord(f"{text!r} holds a lone surrogate, which UTF-8 cannot carry; emit bytes, "
                        'or text.encode("utf-8", "replace").decode()') from None


cdef inline object decode(const uint8_t *p, Py_ssize_t n):
    return PyUnicode_DecodeUTF8(<const char *>p, n, "surrogateescape")


cdef inline bytes raw(const uint8_t *p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char *>p, n)


cdef class _Input:
    """A bytes-like argument, held for as long as a kernel reads it."""

    cdef Py_buffer view

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class Buffer:
    """Bytes that a kernel made, readable through the buffer protocol without a copy; or `size` bytes to fill, zeroed."""

    cdef mr_buffer bytes
    cdef int exports
    cdef bint writable

    def __cinit__(self, size: int = 0):
        if size:
            check(mr_buffer_reserve(&self.bytes, size))
            self.bytes.len = size
            self.writable = True

    def __dealloc__(self):
        mr_buffer_free(&self.bytes)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef char *data = <char *>self.bytes.data if self.bytes.data else <char *>""
        PyBuffer_FillInfo(view, self, data, <Py_ssize_t>self.bytes.len, not self.writable, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __len__(self):
        return self.bytes.len


def xxh3_64(data) -> int:
    """The XXH3 64-bit digest (seed 0) of a str (its UTF-8) or a bytes-like object: what partitions and checksums use."""
    cdef _Input view = _Input(utf8(data) if isinstance(data, str) else data)
    cdef uint64_t digest
    with nogil:
        digest = mr_xxh3_64(<const uint8_t *>view.view.buf, <size_t>view.view.len)
    return digest


def crc32c(data, crc: int = 0) -> int:
    """The CRC-32C of the bytes, or of them and of what came before, whose `crc` it was: how stores check a body."""
    cdef _Input view = _Input(data)
    cdef uint32_t state = crc
    cdef mr_crc32c_fn f = mr_crc32c(LEVEL)
    with nogil:
        state = f(state, <const uint8_t *>view.view.buf, <size_t>view.view.len)
    return state


def partition(key, partitions: int) -> int:
    """The partition of a key among `partitions`: xxh3_64(key) % partitions."""
    if not 1 <= partitions <= 65535:
        raise ValueError(f"partitions={partitions}: choose 1 to 65535")
    return xxh3_64(key) % partitions


def tokens(data, *, letters: str) -> list:
    """The tokens of a bytes-like object, in order: str for letters="unicode" and "ascii", bytes for "space".

    "unicode" is every maximal run of code points of general category L in UTF-8, "ascii" of A-Z and a-z, "space" what
    bytes.split() gives. Malformed UTF-8 is never a letter and never an error. O(n).
    """
    cdef mr_classify_fn classify = classifier(letters)
    cdef mr_letters kind = <mr_letters>LETTERS[letters]
    cdef _Input view = _Input(utf8(data) if isinstance(data, str) else data)
    cdef const uint8_t *text = <const uint8_t *>view.view.buf
    cdef size_t len = <size_t>view.view.len, n, i
    cdef mr_scan scan
    cdef mr_span *spans = <mr_span *>malloc((MR_WINDOW_TOKENS + 1) * sizeof(mr_span))
    cdef list out = []
    if not spans:
        raise MemoryError
    try:
        mr_scan_begin(&scan, text, len, kind, classify)
        while scan.at < len:
            with nogil:
                n = mr_scan_window(&scan, spans)
            if scan.at == len and scan.open:
                spans[n].start = scan.start
                spans[n].len = scan.incomplete - scan.start
                n += 1
            for i in range(n):
                if kind == MR_SPACE:
                    out.append(raw(text + spans[i].start, <Py_ssize_t>spans[i].len))
                else:
                    out.append(decode(text + spans[i].start, <Py_ssize_t>spans[i].len))
    finally:
        free(spans)
    return out


def lower(text: str) -> str:
    """The text with each code point lower-cased by itself, as ops.words(lower=True) does it."""
    cdef bytes data = utf8(text)
    cdef Buffer out = Buffer()
    cdef uint8_t *end
    check(mr_buffer_reserve(&out.bytes, 3 * <size_t>len(data)))
    end = mr_lower(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>len(data), out.bytes.data)
    return decode(out.bytes.data, end - out.bytes.data)


cdef bytes escaped(data, const mr_escapes *escapes):
    cdef _Input view = _Input(utf8(data) if isinstance(data, str) else data)
    cdef Buffer out = Buffer()
    check(mr_put_escaped(&out.bytes, <const uint8_t *>view.view.buf, <size_t>view.view.len, escapes))
    return raw(out.bytes.data, <Py_ssize_t>out.bytes.len) if out.bytes.len else b""


def escape_key(key) -> bytes:
    """The key as a line of `output = "text"` holds it: backslash, space and LF escaped."""
    return escaped(key, &mr_escape_key)


def escape_value(value) -> bytes:
    """The value as a line of `output = "text"` holds it: backslash and LF escaped."""
    return escaped(value, &mr_escape_value)


cdef object bad_key(key):
    name = type(key).__name__
    return BadRecord(f"a key of type {name} was emitted ({key!r:.60}): keys are str, or all of them bytes; "
                     "emit str(key)")


cdef object mixed_keys(kind, other):
    return BadRecord(f"a {other} key was emitted after {kind} keys: keys are str, or all of them bytes; "
                     "use key.decode() or key.encode() to make them one kind")


cdef object bad_value(op, key, value):
    name = type(value).__name__
    return BadRecord(f"ops.{op} takes {TAKES.get(op, 'other values')}; key {key!r:.60} has a value of type {name} ({value!r:.60})")


cdef Buffer emptied(Buffer used):
    """A buffer to write the next piece of output into: the used one, unless somebody still looks at it."""
    if used is None or used.exports:
        return Buffer()
    used.bytes.len = 0
    return used


# The sources and groupers of the core, one idea a file; included, so that they stay one extension.
include "_core_drain.pxi"
include "_core_grep.pxi"
include "_core_sink.pxi"
include "_core_values.pxi"
include "_core_group.pxi"
include "_core_lines.pxi"
