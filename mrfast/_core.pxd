"""The C surface of mrfast/_native as Cython sees it."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "locale.h" nogil:
    ctypedef void *locale_t
    int LC_ALL_MASK
    locale_t newlocale(int mask, const char *name, locale_t base)
    void freelocale(locale_t locale)


cdef extern from "_native/base.h" nogil:
    enum: MR_OK, MR_NOMEM, MR_KEY_TOO_LONG, MR_VALUE_TOO_LONG, MR_CORRUPT, MR_BAD_LINE, MR_BAD_VALUE
    enum: MR_TORN_RECORD, MR_NEEDS_PYTHON, MR_FULL
    ctypedef struct mr_buffer:
        uint8_t *data
        size_t len
        size_t cap
    int mr_buffer_reserve(mr_buffer *b, size_t more)
    int mr_buffer_append(mr_buffer *b, const void *bytes, size_t n)
    void mr_buffer_free(mr_buffer *b)


cdef extern from "_native/hash.h" nogil:
    uint64_t mr_xxh3_64(const uint8_t *p, size_t n)


cdef extern from "_native/crc32c.h" nogil:
    ctypedef uint32_t (*mr_crc32c_fn)(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil
    void mr_crc32c_init()
    mr_crc32c_fn mr_crc32c(mr_simd simd)


cdef extern from "_native/record.h" nogil:
    enum: MR_NULL, MR_FALSE, MR_TRUE, MR_INT, MR_FLOAT, MR_SELF, MR_BYTES, MR_STR, MR_JSON, MR_BIGINT, MR_DECIMAL, MR_STATE
    ctypedef struct mr_record:
        const uint8_t *key
        const uint8_t *payload
        const uint8_t *end
        uint64_t number
        uint32_t key_len
        uint32_t payload_len
        uint8_t tag
    ctypedef struct mr_value:
        const uint8_t *bytes
        size_t len
        uint64_t number
        uint8_t tag
    int mr_get_record(const uint8_t *p, const uint8_t *end, mr_record *r)


cdef extern from "_native/classify.h" nogil:
    ctypedef enum mr_letters:
        MR_UNICODE, MR_ASCII, MR_SPACE
    ctypedef enum mr_simd:
        MR_SIMD_SCALAR, MR_SIMD_NEON, MR_SIMD_SSE2, MR_SIMD_AVX2, MR_SIMD_AVX512
    ctypedef void (*mr_classify_fn)(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) noexcept nogil
    int mr_simd_runs(mr_simd simd)
    mr_classify_fn mr_classifier(mr_letters letters, mr_simd simd)


cdef extern from "_native/tokenize.h" nogil:
    const char *MR_UNICODE_VERSION
    size_t MR_WINDOW_TOKENS
    ctypedef struct mr_span:
        size_t start
        size_t len
    ctypedef struct mr_scan:
        size_t at
        size_t start
        size_t incomplete
        int open
    void mr_scan_begin(mr_scan *s, const uint8_t *text, size_t len, mr_letters letters, mr_classify_fn f)
    size_t mr_scan_window(mr_scan *s, mr_span *spans)
    uint8_t *mr_lower(const uint8_t *p, size_t n, uint8_t *out)


cdef extern from "_native/exact.h" nogil:
    enum: MR_HAS_FLOAT, MR_HAS_NAN, MR_HAS_INF, MR_HAS_NEG_INF
    ctypedef struct mr_exact:
        uint64_t limb[34]
        uint64_t flags
    double mr_exact_round(const mr_exact *x)


cdef extern from "_native/fold.h" nogil:
    ctypedef enum mr_op:
        MR_OP_NONE, MR_OP_SUM, MR_OP_COUNT, MR_OP_MIN, MR_OP_MAX, MR_OP_MEAN, MR_OP_FIRST, MR_OP_INDEX, MR_OP_CONCAT
        MR_OP_IDENTITY, MR_OP_TOP
    ctypedef struct mr_partial:
        uint64_t count
        mr_exact sum
    ctypedef struct mr_cell:
        uint64_t number
        uint32_t tag
    size_t MR_STATE_BYTES_MAX
    mr_value mr_cell_value(mr_op op, const mr_cell *c, uint8_t *scratch)
    double mr_bits_double(uint64_t bits)
    int mr_state_get(const uint8_t *p, size_t n, char kind, mr_partial *partial)


cdef extern from "_native/table.h" nogil:
    ctypedef struct mr_table:
        size_t count
        size_t expected
        uint64_t seed[2]
    size_t mr_table_bytes(const mr_table *t)
    void mr_table_free(mr_table *t)


cdef extern from "_native/sink.h" nogil:
    ctypedef struct mr_sink:
        mr_op combine
        mr_table table
        mr_buffer log
        uint64_t log_records
        uint64_t records_in
    int mr_sink_add(mr_sink *s, const uint8_t *key, size_t key_len, const mr_value *v, int readable)
    size_t mr_sink_bytes(const mr_sink *s)
    mr_sink mr_sink_take(mr_sink *s)
    void mr_sink_free(mr_sink *s)


cdef extern from "_native/words.h" nogil:
    ctypedef struct mr_words:
        mr_letters letters
        mr_simd simd
        mr_classify_fn classify
        int lower
        int distinct
        mr_value value
        mr_table seen
        mr_span *spans
    int mr_words_feed(mr_sink *s, mr_words *w, const uint8_t *block, size_t len)
    int mr_words_end(mr_sink *s, mr_words *w)
    void mr_words_leave(mr_words *w)
    void mr_words_free(mr_words *w)


cdef extern from "_native/batch.h" nogil:
    enum: MR_BATCH, MR_KEY_ONLY, MR_INLINE_KEY
    ctypedef struct mr_batch:
        mr_sink *sink
        size_t count
        const void *owners[64]
        size_t owned
    int mr_batch_takes(const mr_sink *s, const mr_value *v)
    int mr_batch_put(mr_batch *b, const uint8_t *key, size_t key_len, const mr_value *v, int readable)
    int mr_batch_fold(mr_batch *b)


cdef extern from "_native/grep.h" nogil:
    ctypedef struct mr_needle:
        uint8_t *text
        uint8_t *fold
        size_t len
        size_t first
        size_t second
    ctypedef const uint8_t *(*mr_find_fn)(const mr_needle *needle, const uint8_t *p, const uint8_t *end) noexcept nogil
    mr_find_fn mr_finder(mr_simd simd)
    ctypedef struct mr_grep:
        uint8_t class_of[256]
        size_t classes
        size_t states
        uint16_t *next
        uint8_t *ends
        mr_needle needle
        int leads
        int settles
        int counting
        mr_find_fn find
        mr_value key
        uint64_t matches
        mr_buffer carry
    int mr_grep_fits(const mr_grep *g)
    void mr_grep_free(mr_grep *g)
    int mr_grep_feed(mr_sink *s, mr_grep *g, const uint8_t *block, size_t len)
    int mr_grep_end(mr_sink *s, mr_grep *g)


cdef extern from "_native/columns.h" nogil:
    ctypedef void (*mr_mark_fn)(const uint8_t *p, size_t words, uint8_t sep, uint64_t *lf, uint64_t *marks) noexcept nogil
    mr_mark_fn mr_marker(mr_simd simd)


cdef extern from "_native/lines.h" nogil:
    ctypedef struct mr_line:
        pass
    ctypedef int (*mr_line_fn)(void *context, const mr_line *line) noexcept nogil
    ctypedef struct mr_lines:
        mr_mark_fn mark
        uint8_t sep
        mr_buffer carry
        uint64_t at
        mr_batch *batch
    ctypedef struct mr_records:
        size_t size
        size_t start
        size_t stop
        mr_buffer carry
        uint64_t at
        mr_batch *batch
    int mr_emit_line(void *context, const mr_line *line) noexcept
    int mr_lines_feed(mr_lines *l, const uint8_t *block, size_t len, mr_line_fn handle, void *context)
    int mr_lines_end(mr_lines *l, mr_line_fn handle, void *context)
    int mr_records_feed(mr_records *r, const uint8_t *block, size_t len)
    int mr_records_end(mr_records *r)


cdef extern from "_native/fields.h" nogil:
    enum: MR_NO_COLUMN, MR_NO_NUMBER, MR_LONG_NUMBER
    ctypedef struct mr_column:
        long column
        long word
    ctypedef struct mr_fields:
        mr_batch *batch
        uint8_t sep
        mr_column key
        mr_column value
        int skip_bad
        uint64_t skipped
        int reason
        locale_t c_locale
    int mr_emit_fields(void *context, const mr_line *line) noexcept


cdef extern from "_native/hot.h" nogil:
    enum: MR_HOT_KEYS, MR_HOT_KEY_BYTES
    ctypedef struct mr_hot_key:
        uint64_t bytes
        uint64_t records
        uint64_t digest
        uint32_t partition
        uint32_t key_len
        uint8_t key[64]
    ctypedef struct mr_hot:
        mr_hot_key keys[32]
        size_t count
        uint64_t least
        uint64_t runs


cdef extern from "_native/drain.h" nogil:
    size_t MR_NEED_BYTES
    ctypedef struct mr_drain:
        uint32_t partitions, partition
        uint64_t *lengths
        uint64_t *counts
        uint64_t *checksums
        uint64_t records
        mr_hot hot
    size_t mr_sink_need(const mr_sink *s, uint32_t partitions)
    int mr_drain_begin(const mr_sink *s, uint32_t partitions, mr_drain *d)
    int mr_drain_write(const mr_sink *s, mr_drain *d, mr_buffer *out, size_t limit)
    void mr_drain_free(mr_drain *d)


cdef extern from "_native/sort.h" nogil:
    ctypedef struct mr_entry:
        const uint8_t *key
        uint32_t key_len


cdef extern from "_native/format.h" nogil:
    ctypedef enum mr_format:
        MR_TEXT, MR_TSV, MR_RAW, MR_RECORDS
    ctypedef struct mr_escapes:
        pass
    const mr_escapes mr_escape_key, mr_escape_value, mr_escape_tsv
    int mr_put_escaped(mr_buffer *out, const uint8_t *p, size_t n, const mr_escapes *escapes)


cdef extern from "_native/merge.h" nogil:
    ctypedef struct mr_run:
        const uint8_t *data
        size_t len
        uint64_t records
        uint64_t order
        int ordered
        size_t release_bytes
    ctypedef struct mr_merge:
        uint64_t records
    int mr_merge_add(mr_merge *m, const mr_run *run)
    int mr_merge_begin(mr_merge *m)
    int mr_merge_write(mr_merge *m, int ordered, mr_buffer *out, size_t limit)


cdef extern from "_native/group.h" nogil:
    ctypedef struct mr_grouper:
        mr_merge merge
        size_t count, at
        uint64_t merged
    int mr_segment_check(const uint8_t *data, size_t len, uint64_t records, uint64_t checksum, size_t *offset,
                         const char **why)
    int mr_group_begin(mr_grouper *g)
    const mr_entry *mr_group_entry(const mr_grouper *g)
    int mr_group_step(mr_grouper *g)
    int mr_group_within(const mr_grouper *g, const mr_entry *first)
    int mr_entry_record(const mr_entry *e, mr_record *r)
    mr_value mr_record_value(const mr_record *r)
    void mr_group_free(mr_grouper *g)


cdef extern from "_native/reduce.h" nogil:
    ctypedef struct mr_writer:
        mr_op op
        mr_format format
        const uint8_t *joint
        size_t joint_len
        const uint8_t *terminator
        size_t terminator_len
        size_t limit
        mr_buffer out
        uint64_t lines
        mr_entry first
        mr_cell cell
        double number
    int mr_write_value(mr_writer *w, const mr_value *v)
    int mr_group_write(mr_grouper *g, mr_writer *w, int *is_float)
    void mr_writer_free(mr_writer *w)
