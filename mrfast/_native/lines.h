/* Whole lines, and records of one size, out of blocks that are cut anywhere. */
#ifndef MRFAST_LINES_H
#define MRFAST_LINES_H

#include "sink.h"

/* Called with each line, without its LF. */
typedef int (*mr_line_fn)(void *context, const uint8_t *line, size_t len);

typedef struct {
    mr_buffer carry;
    uint64_t at; /* bytes of the piece before the line that is handled now: where an error is */
} mr_lines;

static int mr_lines_one(mr_lines *l, const uint8_t *line, size_t len, mr_line_fn handle, void *context) {
    MR_TRY(handle(context, line, len));
    l->at += len + 1;
    return MR_OK;
}

static int mr_lines_feed(mr_lines *l, const uint8_t *block, size_t len, mr_line_fn handle, void *context) {
    const uint8_t *p = block, *end = block + len;
    if (l->carry.len) {
        const uint8_t *stop = (const uint8_t *)memchr(p, '\n', len);
        MR_TRY(mr_buffer_append(&l->carry, p, (size_t)((stop ? stop : end) - p)));
        if (l->carry.len > MR_VALUE_MAX) return MR_VALUE_TOO_LONG;
        if (!stop) return MR_OK;
        MR_TRY(mr_lines_one(l, l->carry.data, l->carry.len, handle, context));
        l->carry.len = 0;
        p = stop + 1;
    }
    while (p < end) {
        const uint8_t *stop = (const uint8_t *)memchr(p, '\n', (size_t)(end - p));
        if (!stop) return mr_buffer_append(&l->carry, p, (size_t)(end - p));
        MR_TRY(mr_lines_one(l, p, (size_t)(stop - p), handle, context));
        p = stop + 1;
    }
    return MR_OK;
}

/* The last line of a file may lack its LF. */
static int mr_lines_end(mr_lines *l, mr_line_fn handle, void *context) {
    int status = l->carry.len ? mr_lines_one(l, l->carry.data, l->carry.len, handle, context) : MR_OK;
    l->carry.len = 0;
    if (status == MR_OK) l->at = 0;
    return status;
}

/* `ops.lines`: the line is key and value at once. */
static int mr_emit_line(void *context, const uint8_t *line, size_t len) {
    mr_sink *s = (mr_sink *)context;
    mr_value self = {.bytes = NULL, .len = 0, .number = 0, .tag = MR_SELF};
    if (s->combine != MR_OP_NONE) {
        self.bytes = line;
        self.len = len;
        self.tag = MR_BYTES;
    }
    return mr_sink_add(s, line, len, &self, 0);
}

/* `ops.records`: the key is record[start:stop], the value the record. */
typedef struct {
    size_t size, start, stop;
    mr_buffer carry;
    uint64_t at;
} mr_records;

static int mr_emit_record(mr_sink *s, mr_records *r, const uint8_t *record) {
    mr_value v = {.bytes = record, .len = r->size, .number = 0, .tag = MR_BYTES};
    if (s->combine == MR_OP_NONE && r->start == 0 && r->stop == r->size) {
        v.tag = MR_SELF;
        v.len = 0;
    }
    MR_TRY(mr_sink_add(s, record + r->start, r->stop - r->start, &v, 0));
    r->at += r->size;
    return MR_OK;
}

static int mr_records_feed(mr_sink *s, mr_records *r, const uint8_t *block, size_t len) {
    if (r->carry.len) {
        size_t need = r->size - r->carry.len, take = need < len ? need : len;
        MR_TRY(mr_buffer_append(&r->carry, block, take));
        if (r->carry.len < r->size) return MR_OK;
        MR_TRY(mr_emit_record(s, r, r->carry.data));
        r->carry.len = 0;
        block += take;
        len -= take;
    }
    for (; len >= r->size; block += r->size, len -= r->size) MR_TRY(mr_emit_record(s, r, block));
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
