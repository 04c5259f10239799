/* `ops.grep`: the lines that a regular expression matches, by an automaton that was made of it (tasks/automaton.py).
 *
 * Where every match contains some string, only the lines with that string are looked at. */
#ifndef MRFAST_GREP_H
#define MRFAST_GREP_H

#include "search.h"
#include "sink.h"

/* The first states. A state stands in `next` as its number times `classes`, so that a step is one addition and a load. */
#define MR_GREP_MATCHED 0 /* whatever follows */
#define MR_GREP_FAILED 1  /* whatever follows */
#define MR_GREP_START 2   /* at the start of a line */
#define MR_GREP_LATER 3   /* the same behind a line's start */

/* Zero-initialise, then set what the comments name. */
typedef struct {
    uint8_t class_of[256];
    size_t classes;
    uint16_t *next;      /* owned; set */
    uint8_t *ends;       /* owned; set: whether a line that ends in this state matches */
    uint8_t *literal;    /* owned; set: what every match contains; NULL: nothing */
    size_t literal_len;
    int leads;           /* every match begins with the literal */
    int counting;        /* emit their number instead of the lines */
    mr_find_fn find;
    mr_value key;        /* the file's name */
    uint64_t matches;    /* in this piece, when counting */
    mr_buffer carry;
} mr_grep;

static inline void mr_grep_free(mr_grep *g) {
    free(g->next);
    free(g->ends);
    free(g->literal);
    mr_buffer_free(&g->carry);
}

/* Whether the line matches; a match can only begin at `from` or later. */
MR_INLINE int mr_grep_matches(const mr_grep *g, const uint8_t *line, const uint8_t *from, const uint8_t *end) {
    size_t failed = MR_GREP_FAILED * g->classes, state = g->classes * (from == line ? MR_GREP_START : MR_GREP_LATER);
    for (const uint8_t *p = from; p < end && state > failed; p++) state = g->next[state + g->class_of[*p]];
    return g->ends[state / g->classes];
}

static int mr_grep_line(mr_sink *s, mr_grep *g, const uint8_t *line, const uint8_t *end) {
    if (g->counting) {
        g->matches++;
        return MR_OK;
    }
    mr_value v = {.bytes = line, .len = (size_t)(end - line), .number = 0, .tag = MR_BYTES};
    return mr_sink_add(s, g->key.bytes, g->key.len, &v, MR_KEY_ONLY);
}

/* All lines of [p, end), whose last one may lack its LF. */
static int mr_grep_lines(mr_sink *s, mr_grep *g, const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        const uint8_t *at = p, *line = p;
        if (g->literal) {
            if (!(at = g->find(p, end, g->literal, g->literal_len))) return MR_OK;
            const uint8_t *before = (const uint8_t *)memrchr(p, '\n', (size_t)(at - p));
            if (before) line = before + 1;
        }
        const uint8_t *stop = (const uint8_t *)memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        if (mr_grep_matches(g, line, g->leads ? at : line, stop)) MR_TRY(mr_grep_line(s, g, line, stop));
        if (stop == end) return MR_OK;
        p = stop + 1;
    }
    return MR_OK;
}

static int mr_grep_feed(mr_sink *s, mr_grep *g, const uint8_t *block, size_t len) {
    const uint8_t *end = block + len;
    if (g->carry.len) {
        const uint8_t *stop = (const uint8_t *)memchr(block, '\n', len);
        MR_TRY(mr_buffer_append(&g->carry, block, (size_t)((stop ? stop : end) - block)));
        if (g->carry.len > MR_VALUE_MAX) return MR_VALUE_TOO_LONG;
        if (!stop) return MR_OK;
        MR_TRY(mr_grep_lines(s, g, g->carry.data, g->carry.data + g->carry.len));
        g->carry.len = 0;
        block = stop + 1;
    }
    const uint8_t *last = block < end ? (const uint8_t *)memrchr(block, '\n', (size_t)(end - block)) : NULL;
    if (last) {
        MR_TRY(mr_grep_lines(s, g, block, last + 1));
        block = last + 1;
    }
    return mr_buffer_append(&g->carry, block, (size_t)(end - block));
}

static int mr_grep_end(mr_sink *s, mr_grep *g) {
    int status = g->carry.len ? mr_grep_lines(s, g, g->carry.data, g->carry.data + g->carry.len) : MR_OK;
    mr_value total = {.bytes = NULL, .len = 0, .number = g->matches, .tag = MR_INT};
    g->carry.len = 0;
    g->matches = 0;
    if (status != MR_OK || !total.number) return status;
    return mr_sink_add(s, g->key.bytes, g->key.len, &total, MR_KEY_ONLY);
}

#endif
