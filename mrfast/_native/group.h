/* Segments in, sorted groups out: equal keys side by side, their values in (map index, emit order). */
#ifndef MRFAST_GROUP_H
#define MRFAST_GROUP_H

#include "fold.h"
#include "format.h"
#include "hash.h"
#include "sort.h"

/* One segment that was added; the bytes are the caller's and stay where they are. */
typedef struct {
    const uint8_t *data;
    size_t len;
    uint64_t order; /* map index */
    uint64_t records;
} mr_run;

typedef struct {
    mr_run *runs;
    size_t run_count, run_cap;
    uint64_t records;
    mr_entry *entries; /* all records, sorted, once mr_group_sort() ran; entry.ref is the run's index */
    size_t at;         /* the first entry that is not reduced yet */
    size_t bad;        /* the entry whose value the op could not take */
    double number;     /* a group's float, for Python to write */
    mr_arena cells;
} mr_grouper;

static inline void mr_group_free(mr_grouper *g) {
    free(g->runs);
    free(g->entries);
    mr_arena_free(&g->cells);
    memset(g, 0, sizeof *g);
}

/* Checks every byte of a segment: checksum, record structure, number of records, order of keys. */
static int mr_segment_check(const uint8_t *data, size_t len, uint64_t records, uint64_t checksum, size_t *offset,
                            const char **why) {
    const uint8_t *p = data, *end = data + len, *key = NULL;
    size_t key_len = 0;
    mr_record r;
    uint64_t n = 0;
    *offset = 0;
    *why = "checksum mismatch";
    if (len && mr_xxh3_64(data, len) != checksum) return MR_CORRUPT;
    for (; p < end; p = r.end, n++) {
        *offset = (size_t)(p - data);
        *why = "malformed record";
        MR_TRY(mr_get_record(p, end, &r));
        *why = "keys out of order";
        if (key && mr_compare(key, key_len, r.key, r.key_len) > 0) return MR_CORRUPT;
        key = r.key;
        key_len = r.key_len;
    }
    *offset = len;
    *why = "wrong number of records";
    return n == records ? MR_OK : MR_CORRUPT;
}

static int mr_group_add(mr_grouper *g, const mr_run *run) {
    if (g->run_count == g->run_cap) {
        size_t cap = g->run_cap ? g->run_cap * 2 : 16;
        mr_run *runs = (mr_run *)realloc(g->runs, cap * sizeof *runs);
        if (!runs) return MR_NOMEM;
        g->runs = runs;
        g->run_cap = cap;
    }
    g->runs[g->run_count++] = *run;
    g->records += run->records;
    return MR_OK;
}

static int mr_run_order(const void *a, const void *b) {
    uint64_t x = ((const mr_run *)a)->order, y = ((const mr_run *)b)->order;
    return (x > y) - (x < y);
}

/* Sorts all records: the runs in map order, one after the other, under a stable sort give equal keys in that order. */
static int mr_group_sort(mr_grouper *g) {
    size_t n = (size_t)g->records, at = 0;
    if (g->run_count > UINT32_MAX) return MR_NOMEM;
    qsort(g->runs, g->run_count, sizeof *g->runs, mr_run_order);
    g->entries = (mr_entry *)malloc((n + 1) * sizeof *g->entries);
    mr_entry *scratch = (mr_entry *)malloc((n + 1) * sizeof *scratch);
    int status = g->entries && scratch ? MR_OK : MR_NOMEM;
    for (size_t i = 0; i < g->run_count && status == MR_OK; i++) {
        const uint8_t *p = g->runs[i].data, *end = p + g->runs[i].len;
        mr_record r;
        for (; p < end && status == MR_OK; p = r.end) {
            status = at < n ? mr_get_record(p, end, &r) : MR_CORRUPT; /* not the bytes that were checked */
            if (status == MR_OK) {
                g->entries[at++] = (mr_entry){mr_prefix(r.key, r.key_len), r.key, r.key_len, (uint32_t)i};
            }
        }
    }
    if (at < n && status == MR_OK) status = MR_CORRUPT;
    if (status == MR_OK) mr_sort(g->entries, scratch, n);
    free(scratch);
    return status;
}

/* The record of a sorted entry. Its bytes were checked when the segment was added. */
MR_INLINE int mr_group_record(const mr_grouper *g, size_t i, mr_record *r) {
    const mr_entry *e = &g->entries[i];
    size_t head = 1;
    for (uint32_t v = e->key_len; v >= 0x80; v >>= 7) head++;
    const mr_run *run = &g->runs[e->ref];
    return mr_get_record(e->key - head, run->data + run->len, r);
}

/* The record's value as the reduce ops see it: a value that is the key is bytes again. */
MR_INLINE mr_value mr_record_value(const mr_record *r) {
    mr_value v = {.bytes = r->payload, .len = r->payload_len, .number = r->number, .tag = r->tag};
    if (r->tag == MR_SELF) {
        v.tag = MR_BYTES;
        v.bytes = r->key;
        v.len = r->key_len;
    }
    return v;
}

static size_t mr_group_end(const mr_grouper *g, size_t first) {
    size_t last = first + 1;
    while (last < g->records && mr_entry_same(&g->entries[last], &g->entries[first])) last++;
    return last;
}

/* How a part is written. */
typedef struct {
    mr_op op;
    mr_format format;
    const uint8_t *joint; /* of concat */
    size_t joint_len;
    const uint8_t *terminator; /* after a raw value */
    size_t terminator_len;
    mr_buffer out;
    uint64_t lines;
} mr_writer;

static int mr_write_key(mr_writer *w, const mr_entry *e) {
    if (w->format == MR_RAW) return MR_OK;
    MR_TRY(mr_put_escaped(&w->out, e->key, e->key_len, w->format == MR_TSV ? &mr_escape_tsv : &mr_escape_key));
    return mr_buffer_append(&w->out, w->format == MR_TSV ? "\t" : " ", 1);
}

MR_INLINE const mr_escapes *mr_value_escapes(const mr_writer *w) {
    return w->format == MR_RAW ? &mr_escape_none : w->format == MR_TSV ? &mr_escape_tsv : &mr_escape_value;
}

static int mr_write_end(mr_writer *w) {
    w->lines++;
    if (w->format == MR_RAW) return mr_buffer_append(&w->out, w->terminator, w->terminator_len);
    return mr_buffer_append(&w->out, "\n", 1);
}

static int mr_write_value(mr_writer *w, const mr_entry *e, const mr_value *v) {
    size_t start = w->out.len;
    MR_TRY(mr_write_key(w, e));
    int status = mr_put_value(&w->out, v, mr_value_escapes(w));
    if (status != MR_OK) w->out.len = start;
    MR_TRY(status);
    return mr_write_end(w);
}

static int mr_write_identity(mr_grouper *g, mr_writer *w, size_t first, size_t last) {
    size_t start = w->out.len;
    uint64_t lines = w->lines;
    for (size_t i = first; i < last; i++) {
        mr_record r;
        MR_TRY(mr_group_record(g, i, &r));
        mr_value v = mr_record_value(&r);
        int status = mr_write_value(w, &g->entries[i], &v);
        if (status != MR_OK) { /* the group as a whole is Python's */
            w->out.len = start;
            w->lines = lines;
            return status;
        }
    }
    return MR_OK;
}

static int mr_write_concat(mr_grouper *g, mr_writer *w, size_t first, size_t last) {
    MR_TRY(mr_write_key(w, &g->entries[first]));
    for (size_t i = first; i < last; i++) {
        mr_record r;
        MR_TRY(mr_group_record(g, i, &r));
        g->bad = i;
        if (r.tag != MR_STR) return MR_BAD_VALUE;
        if (i > first) MR_TRY(mr_put_escaped(&w->out, w->joint, w->joint_len, mr_value_escapes(w)));
        MR_TRY(mr_put_escaped(&w->out, r.payload, r.payload_len, mr_value_escapes(w)));
    }
    return mr_write_end(w);
}

/* The distinct values in byte order, behind their number: "2 a.txt,b.txt". */
static int mr_write_index(mr_grouper *g, mr_writer *w, size_t first, size_t last) {
    size_t n = last - first, distinct = 0;
    mr_entry *values = (mr_entry *)malloc(2 * n * sizeof *values);
    int status = values ? MR_OK : MR_NOMEM;
    for (size_t i = 0; i < n && status == MR_OK; i++) {
        mr_record r;
        status = mr_group_record(g, first + i, &r);
        g->bad = first + i;
        if (status == MR_OK && r.tag != MR_STR) status = MR_BAD_VALUE;
        if (status != MR_OK) break;
        mr_entry value = {mr_prefix(r.payload, r.payload_len), r.payload, r.payload_len, 0};
        if (!distinct || !mr_entry_same(&values[distinct - 1], &value)) values[distinct++] = value;
    }
    if (status == MR_OK) {
        size_t kept = 0;
        mr_sort(values, values + n, distinct);
        for (size_t i = 0; i < distinct; i++) {
            if (!kept || !mr_entry_same(&values[kept - 1], &values[i])) values[kept++] = values[i];
        }
        status = mr_write_key(w, &g->entries[first]);
        if (status == MR_OK) status = mr_put_int(&w->out, (int64_t)kept);
        for (size_t i = 0; i < kept && status == MR_OK; i++) {
            status = mr_buffer_append(&w->out, i ? "," : " ", 1);
            if (status == MR_OK) {
                status = mr_put_escaped(&w->out, values[i].key, values[i].key_len, mr_value_escapes(w));
            }
        }
        if (status == MR_OK) status = mr_write_end(w);
    }
    free(values);
    return status;
}

/* A folded cell as a value; MR_NEEDS_PYTHON with g->number set: a float to write; with it NaN-free int: the twin's. */
static int mr_write_cell(mr_grouper *g, mr_writer *w, size_t first, const mr_cell *c, int *is_float) {
    mr_value v = {.bytes = NULL, .len = 0, .number = c->number, .tag = (uint8_t)c->tag};
    if (c->tag == MR_STATE) {
        const mr_partial *partial = mr_cell_partial(c);
        if (!(partial->sum.flags & MR_HAS_FLOAT)) return MR_NEEDS_PYTHON;
        g->number = mr_exact_round(&partial->sum);
        if (w->op == MR_OP_MEAN) g->number /= (double)partial->count;
        *is_float = 1;
        return MR_NEEDS_PYTHON;
    }
    if (c->tag == MR_FLOAT) {
        g->number = mr_bits_double(c->number);
        *is_float = 1;
        return MR_NEEDS_PYTHON;
    }
    if (c->tag >= MR_BYTES) {
        v.bytes = mr_cell_text(c)->bytes;
        v.len = mr_cell_text(c)->len;
    }
    return mr_write_value(w, &g->entries[first], &v);
}

static int mr_write_folded(mr_grouper *g, mr_writer *w, size_t first, size_t last, int *is_float) {
    mr_cell cell = {0, 0};
    for (size_t i = first; i < last; i++) {
        mr_record r;
        MR_TRY(mr_group_record(g, i, &r));
        mr_value v = mr_record_value(&r);
        g->bad = i;
        MR_TRY(mr_fold(w->op, &cell, &v, &g->cells));
    }
    int status = mr_write_cell(g, w, first, &cell, is_float);
    mr_arena_free(&g->cells);
    return status;
}

/* Reduces and writes groups from g->at on. MR_NEEDS_PYTHON: the group at g->at is the caller's to write (its float
 * stands in g->number when *is_float), who then sets g->at to mr_group_end() and calls again. */
static int mr_group_write(mr_grouper *g, mr_writer *w, int *is_float) {
    *is_float = 0;
    while (g->at < g->records) {
        size_t first = g->at, last = mr_group_end(g, first);
        int status;
        switch (w->op) {
            case MR_OP_IDENTITY: status = mr_write_identity(g, w, first, last); break;
            case MR_OP_CONCAT: status = mr_write_concat(g, w, first, last); break;
            case MR_OP_INDEX: status = mr_write_index(g, w, first, last); break;
            case MR_OP_TOP: status = MR_NEEDS_PYTHON; break;
            default: status = mr_write_folded(g, w, first, last, is_float);
        }
        MR_TRY(status);
        g->at = last;
    }
    return MR_OK;
}

#endif
