/* Whole lines, and records of one size, out of blocks that are cut anywhere. */
#ifndef MRFAST_LINES_H
#define MRFAST_LINES_H

#include "batch.h"
#include "columns.h"

/* A line in a run of text that may be read from `text` to `limit`. */
typedef struct {
    const uint8_t *start, *end;   /* without its LF, which may lie at `end` */
    const uint8_t *text, *limit;
    const uint8_t *origin;        /* what marks count from */
    const uint16_t *marks;        /* the line's separators, then its end; NULL: it is so long that they were not sought */
} mr_line;

/* Called with each line. */
typedef int (*mr_line_fn)(void *context, const mr_line *line);

/* Zero-initialise, then set mark, sep and the batch. */
typedef struct {
    mr_mark_fn mark;
    uint8_t sep; /* LF: only line ends are sought */
    mr_buffer carry;
    uint64_t at; /* bytes of the piece before the line that is handled now: where an error is */
    mr_batch *batch;
} mr_lines;

MR_INLINE int mr_lines_one(mr_lines *l, const mr_line *line, mr_line_fn handle, void *context) {
    MR_TRY(handle(context, line));
    l->at += (uint64_t)(line->end - line->start) + 1;
    return MR_OK;
}

/* The lines of `text` that end in it; *used is where the first one that does not begins. */
MR_INLINE int mr_lines_run(mr_lines *l, const uint8_t *text, size_t len, mr_line_fn handle, void *context, size_t *used) {
    mr_marks m;
    const uint8_t *p = text, *limit = text + len;
    while (p < limit) {
        size_t left = (size_t)(limit - p), bytes = left < MR_MARK_BYTES ? left : MR_MARK_BYTES, first = 0;
        mr_line line = {.start = p, .end = p, .text = text, .limit = limit, .origin = p, .marks = NULL};
        mr_marks_find(&m, l->mark, p, bytes, l->sep);
        for (size_t i = 0; i < m.lines; i++) {
            line.marks = m.marks + first;
            line.end = line.origin + m.marks[m.ends[i]];
            MR_TRY(mr_lines_one(l, &line, handle, context));
            line.start = line.end + 1;
            first = (size_t)m.ends[i] + 1;
        }
        p = line.start;
        if (m.lines) continue;
        const uint8_t *stop = left == bytes ? NULL : (const uint8_t *)memchr(p + bytes, '\n', left - bytes);
        if (!stop) break;
        line.end = stop;
        MR_TRY(mr_lines_one(l, &line, handle, context));
        p = stop + 1;
    }
    *used = (size_t)(p - text);
    return MR_OK;
}

/* The line in the carry, without its LF. */
static int mr_lines_carried(mr_lines *l, mr_line_fn handle, void *context) {
    const uint8_t *p = l->carry.data, *end = p + l->carry.len;
    mr_line line = {.start = p, .end = end, .text = p, .limit = end, .origin = p, .marks = NULL};
    int status = mr_lines_one(l, &line, handle, context), folded = mr_batch_fold(l->batch);
    l->carry.len = 0;
    return status == MR_OK ? folded : status;
}

MR_INLINE int mr_lines_feed(mr_lines *l, const uint8_t *block, size_t len, mr_line_fn handle, void *context) {
    size_t used = 0;
    if (l->carry.len) {
        const uint8_t *stop = (const uint8_t *)memchr(block, '\n', len);
        size_t take = stop ? (size_t)(stop - block) : len;
        MR_TRY(mr_buffer_append(&l->carry, block, take));
        if (l->carry.len > MR_VALUE_MAX) return MR_VALUE_TOO_LONG;
        if (!stop) return MR_OK;
        MR_TRY(mr_lines_carried(l, handle, context));
        block += take + 1;
        len -= take + 1;
    }
    int status = mr_lines_run(l, block, len, handle, context, &used), folded = mr_batch_fold(l->batch);
    MR_TRY(status);
    MR_TRY(folded);
    return mr_buffer_append(&l->carry, block + used, len - used);
}

/* The last line of a file may lack its LF. */
MR_INLINE int mr_lines_end(mr_lines *l, mr_line_fn handle, void *context) {
    int status = l->carry.len ? mr_lines_carried(l, handle, context) : MR_OK;
    if (status == MR_OK) l->at = 0;
    return status;
}

/* `ops.lines`: the line is key and value at once. */
static int mr_emit_line(void *context, const mr_line *line) {
    mr_batch *b = (mr_batch *)context;
    size_t len = (size_t)(line->end - line->start);
    mr_value self = {.bytes = NULL, .len = 0, .number = 0, .tag = MR_SELF};
    if (b->sink->combine != MR_OP_NONE) {
        self.bytes = line->start;
        self.len = len;
        self.tag = MR_BYTES;
    }
    return mr_batch_add(b, line->start, len, &self, line->limit - line->start >= MR_INLINE_KEY);
}

/* `ops.records`: the key is record[start:stop], the value the record. */
typedef struct {
    size_t size, start, stop;
    mr_buffer carry;
    uint64_t at;
    mr_batch *batch;
} mr_records;

static int mr_emit_record(mr_records *r, const uint8_t *record) {
    mr_value v = {.bytes = record, .len = r->size, .number = 0, .tag = MR_BYTES};
    if (r->batch->sink->combine == MR_OP_NONE && r->start == 0 && r->stop == r->size) {
        v.tag = MR_SELF;
        v.len = 0;
    }
    int readable = r->size - r->start >= MR_INLINE_KEY;
    MR_TRY(mr_batch_add(r->batch, record + r->start, r->stop - r->start, &v, readable));
    r->at += r->size;
    return MR_OK;
}

static int mr_records_feed(mr_records *r, const uint8_t *block, size_t len) {
    if (r->carry.len) {
        size_t need = r->size - r->carry.len, take = need < len ? need : len;
        MR_TRY(mr_buffer_append(&r->carry, block, take));
        if (r->carry.len < r->size) return MR_OK;
        MR_TRY(mr_emit_record(r, r->carry.data));
        MR_TRY(mr_batch_fold(r->batch));
        r->carry.len = 0;
        block += take;
        len -= take;
    }
    int status = MR_OK;
    for (; len >= r->size && status == MR_OK; block += r->size, len -= r->size) status = mr_emit_record(r, block);
    int folded = mr_batch_fold(r->batch);
    MR_TRY(status);
    MR_TRY(folded);
    return mr_buffer_append(&r->carry, block, len);
}

/* A torn last record is an error: the input is not what the application says. */
static int mr_records_end(mr_records *r) {
    int status = r->carry.len ? MR_TORN_RECORD : MR_OK;
    r->carry.len = 0;
    if (status == MR_OK) r->at = 0;
    return status;
}

#endif
