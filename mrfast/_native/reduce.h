/* What a native reduce op makes of the groups: the lines of a part, or records again when map-side runs are merged.
 *
 * Output stops at a limit (MR_FULL), between groups, or inside one where an op writes value by value. */
#ifndef MRFAST_REDUCE_H
#define MRFAST_REDUCE_H

#include "fold.h"
#include "format.h"
#include "group.h"

typedef struct {
    mr_op op;
    mr_format format;
    const uint8_t *joint; /* of concat */
    size_t joint_len;
    const uint8_t *terminator; /* after a raw value */
    size_t terminator_len;
    size_t limit;
    mr_buffer out;
    uint64_t lines;
    mr_entry first; /* the group that is being written, and what was folded of it */
    int open;
    mr_cell cell;
    double number; /* its float, for Python to write */
    mr_arena cells;
} mr_writer;

static inline void mr_writer_free(mr_writer *w) {
    mr_buffer_free(&w->out);
    mr_arena_free(&w->cells);
}

static int mr_write_key(mr_writer *w) {
    if (w->format == MR_RAW) return MR_OK;
    const mr_escapes *escapes = w->format == MR_TSV ? &mr_escape_tsv : &mr_escape_key;
    MR_TRY(mr_put_escaped(&w->out, w->first.key, w->first.key_len, escapes));
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

static int mr_write_value(mr_writer *w, const mr_value *v) {
    size_t start = w->out.len;
    MR_TRY(mr_write_key(w));
    int status = mr_put_value(&w->out, v, mr_value_escapes(w));
    if (status != MR_OK) w->out.len = start;
    MR_TRY(status);
    return mr_write_end(w);
}

static int mr_write_record(mr_writer *w, const mr_value *v) {
    MR_TRY(mr_buffer_reserve(&w->out, mr_record_bound(w->first.key_len, v->len)));
    uint8_t *p = w->out.data + w->out.len;
    w->out.len = (size_t)(mr_put_record(p, w->first.key, w->first.key_len, v) - w->out.data);
    w->lines++;
    return MR_OK;
}

/* A line for each value: nothing to remember between two of them. */
static int mr_write_identity(mr_grouper *g, mr_writer *w) {
    while (mr_group_entry(g)) {
        if (w->out.len >= w->limit) return MR_FULL;
        mr_record r;
        w->first = *mr_group_entry(g);
        MR_TRY(mr_entry_record(&w->first, &r));
        mr_value v = mr_record_value(&r);
        MR_TRY(mr_write_value(w, &v));
        MR_TRY(mr_group_step(g));
    }
    return MR_OK;
}

static int mr_write_concat(mr_grouper *g, mr_writer *w) {
    for (; mr_group_within(g, &w->first); w->open = 1) {
        if (w->out.len >= w->limit) return MR_FULL;
        mr_record r;
        MR_TRY(mr_entry_record(mr_group_entry(g), &r));
        if (r.tag != MR_STR) return MR_BAD_VALUE;
        if (!w->open) MR_TRY(mr_write_key(w));
        if (w->open) MR_TRY(mr_put_escaped(&w->out, w->joint, w->joint_len, mr_value_escapes(w)));
        MR_TRY(mr_put_escaped(&w->out, r.payload, r.payload_len, mr_value_escapes(w)));
        MR_TRY(mr_group_step(g));
    }
    w->open = 0;
    return mr_write_end(w);
}

/* The distinct values so far, sorted; `values` has room for as many again. Gives their number. */
static size_t mr_distinct(mr_entry *values, size_t n) {
    size_t kept = 0;
    mr_sort(values, values + n, n);
    for (size_t i = 0; i < n; i++) {
        if (!kept || !mr_entry_same(&values[kept - 1], &values[i])) values[kept++] = values[i];
    }
    return kept;
}

/* Collects the group's distinct values in *values (freed by the caller): *n of them, sorted. */
static int mr_collect_distinct(mr_grouper *g, mr_writer *w, mr_entry **values, size_t *n) {
    size_t room = 0, count = 0;
    for (; mr_group_within(g, &w->first);) {
        mr_record r;
        MR_TRY(mr_entry_record(mr_group_entry(g), &r));
        if (r.tag != MR_STR) return MR_BAD_VALUE;
        mr_entry value = {mr_prefix(r.payload, r.payload_len), r.payload, r.payload_len, 0};
        if (!count || !mr_entry_same(&(*values)[count - 1], &value)) {
            if (count == room) {
                if (room) count = mr_distinct(*values, count);
                if (count >= room / 2) {
                    room = room ? 2 * room : 64;
                    mr_entry *more = (mr_entry *)realloc(*values, 2 * room * sizeof *more);
                    if (!more) return MR_NOMEM;
                    *values = more;
                }
            }
            (*values)[count++] = value;
        }
        MR_TRY(mr_group_step(g));
    }
    *n = mr_distinct(*values, count);
    return MR_OK;
}

/* The distinct values in byte order, behind their number: "2 a.txt,b.txt". */
static int mr_write_index(mr_grouper *g, mr_writer *w) {
    mr_entry *values = NULL;
    size_t n = 0;
    int status = mr_collect_distinct(g, w, &values, &n);
    if (status == MR_OK) status = mr_write_key(w);
    if (status == MR_OK) status = mr_put_int(&w->out, (int64_t)n);
    for (size_t i = 0; i < n && status == MR_OK; i++) {
        status = mr_buffer_append(&w->out, i ? "," : " ", 1);
        if (status == MR_OK) status = mr_put_escaped(&w->out, values[i].key, values[i].key_len, mr_value_escapes(w));
    }
    free(values);
    return status == MR_OK ? mr_write_end(w) : status;
}

/* The folded cell as a line; MR_NEEDS_PYTHON: with *is_float w->number is what Python writes, else the cell is. */
static int mr_write_cell(mr_writer *w, int *is_float) {
    const mr_cell *c = &w->cell;
    mr_value v = {.bytes = NULL, .len = 0, .number = c->number, .tag = (uint8_t)c->tag};
    if (c->tag == MR_STATE) {
        const mr_partial *partial = mr_cell_partial(c);
        if (!(partial->sum.flags & MR_HAS_FLOAT)) return MR_NEEDS_PYTHON;
        w->number = mr_exact_round(&partial->sum);
        if (w->op == MR_OP_MEAN) w->number /= (double)partial->count;
        *is_float = 1;
        return MR_NEEDS_PYTHON;
    }
    if (c->tag == MR_FLOAT) {
        w->number = mr_bits_double(c->number);
        *is_float = 1;
        return MR_NEEDS_PYTHON;
    }
    if (c->tag >= MR_BYTES) {
        v.bytes = mr_cell_text(c)->bytes;
        v.len = mr_cell_text(c)->len;
    }
    return mr_write_value(w, &v);
}

static int mr_write_cell_record(mr_writer *w) {
    uint8_t scratch[MR_STATE_BYTES_MAX];
    if (!w->cell.tag) return MR_OK;
    mr_value v = mr_cell_value(w->op, &w->cell, scratch);
    return mr_write_record(w, &v);
}

/* What cannot be folded here goes on as it is: the reduce will see it, behind what was folded. */
static int mr_write_rest_as_records(mr_grouper *g, mr_writer *w) {
    if (!w->open) MR_TRY(mr_write_cell_record(w));
    for (w->open = 1; mr_group_within(g, &w->first); w->lines++) {
        if (w->out.len >= w->limit) return MR_FULL;
        const mr_entry *e = mr_group_entry(g);
        MR_TRY(mr_buffer_append(&w->out, e->key - mr_varint_len(e->key_len), e->ref));
        MR_TRY(mr_group_step(g));
    }
    w->open = 0;
    return MR_OK;
}

static int mr_write_folded(mr_grouper *g, mr_writer *w, int *is_float) {
    if (w->open) return mr_write_rest_as_records(g, w);
    while (mr_group_within(g, &w->first)) {
        mr_record r;
        MR_TRY(mr_entry_record(mr_group_entry(g), &r));
        mr_value v = mr_record_value(&r);
        int status = mr_fold(w->op, &w->cell, &v, &w->cells);
        if (status == MR_NEEDS_PYTHON && w->format == MR_RECORDS) return mr_write_rest_as_records(g, w);
        MR_TRY(status);
        MR_TRY(mr_group_step(g));
    }
    return w->format == MR_RECORDS ? mr_write_cell_record(w) : mr_write_cell(w, is_float);
}

/* Reduces and writes groups until all are done, or MR_FULL: take w->out and call again. MR_NEEDS_PYTHON: the caller
 * writes the group w->first. With *is_float it is its number and the group is used up, else w->cell is what was folded
 * so far and the rest of the group is to come. MR_BAD_VALUE: the record that is looked at. */
static int mr_group_write(mr_grouper *g, mr_writer *w, int *is_float) {
    *is_float = 0;
    if (w->op == MR_OP_IDENTITY) return mr_write_identity(g, w);
    while (w->open || mr_group_entry(g)) {
        if (w->out.len >= w->limit) return MR_FULL;
        if (!w->open) {
            w->first = *mr_group_entry(g);
            w->cell = (mr_cell){0, 0};
            mr_arena_reset(&w->cells);
        }
        switch (w->op) {
            case MR_OP_CONCAT: MR_TRY(mr_write_concat(g, w)); break;
            case MR_OP_INDEX: MR_TRY(mr_write_index(g, w)); break;
            case MR_OP_TOP: return MR_NEEDS_PYTHON;
            default: MR_TRY(mr_write_folded(g, w, is_float));
        }
    }
    return MR_OK;
}

#endif
