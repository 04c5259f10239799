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
    uint8_t class_of[256]; /* set */
    size_t classes;      /* set */
    size_t states;       /* set */
    uint16_t *next;      /* owned; set */
    uint8_t *ends;       /* owned; set: whether a line that ends in this state matches */
    mr_needle needle;    /* owned; set: what every match contains */
    int leads;           /* set: every match begins with the needle */
    int settles;         /* set: what begins with the needle is a match */
    int counting;        /* emit their number instead of the lines */
    mr_find_fn find;
    mr_value key;        /* the file's name */
    uint64_t matches;    /* in this piece, when counting */
    mr_buffer carry;
} mr_grep;

static inline void mr_grep_free(mr_grep *g) {
    free(g->next);
    free(g->ends);
    free(g->needle.text);
    free(g->needle.fold);
    mr_buffer_free(&g->carry);
}

/* Whether no step leads out of the tables, and none out of the two states that are final. */
static int mr_grep_fits(const mr_grep *g) {
    const mr_needle *needle = &g->needle;
    size_t cells = g->states * g->classes;
    if (g->states <= MR_GREP_LATER || !g->classes) return 0;
    if (needle->len && (needle->first >= needle->len || needle->second >= needle->len)) return 0;
    for (size_t i = 0; i < 256; i++) {
        if (g->class_of[i] >= g->classes) return 0;
    }
    for (size_t i = 0; i < cells; i++) {
        if (g->next[i] >= cells || g->next[i] % g->classes) return 0;
        if (i < 2 * g->classes && g->next[i] != i - i % g->classes) return 0;
    }
    for (size_t i = 0; i < g->states; i++) {
        if (g->ends[i] > 1) return 0;
    }
    return g->ends[MR_GREP_MATCHED] == 1 && g->ends[MR_GREP_FAILED] == 0;
}

/* A line to decide on: a match can only begin at `from` or later. */
typedef struct {
    const uint8_t *line, *from, *end;
} mr_candidate;

/* Lines that wait to be walked together, so many at once. A step waits for the load of the one before: four walks side
 * by side wait for theirs at the same time. */
#define MR_GREP_WAITING 64
#define MR_GREP_LANES 4
#define MR_GREP_STRIDE 32

typedef struct {
    const uint8_t *p, *end;
    size_t state, which;
} mr_lane;

MR_INLINE size_t mr_grep_first(const mr_grep *g, const mr_candidate *c) {
    return g->classes * (c->from == c->line ? MR_GREP_START : MR_GREP_LATER);
}

/* Gives the lane the next line that is not decided at once; 0 when there is none left. */
MR_INLINE int mr_lane_next(const mr_grep *g, mr_lane *lane, const mr_candidate *lines, size_t n, size_t *taken,
                           uint64_t *matched) {
    while (*taken < n) {
        const mr_candidate *c = &lines[*taken];
        *lane = (mr_lane){c->from, c->end, mr_grep_first(g, c), (*taken)++};
        if (lane->p < lane->end) return 1;
        *matched |= (uint64_t)g->ends[lane->state / g->classes] << lane->which;
    }
    return 0;
}

/* `steps` bytes of each lane. */
MR_INLINE void mr_lanes_walk(const mr_grep *g, mr_lane *l, size_t steps) {
    const uint16_t *next = g->next;
    const uint8_t *class_of = g->class_of, *p0 = l[0].p, *p1 = l[1].p, *p2 = l[2].p, *p3 = l[3].p;
    size_t s0 = l[0].state, s1 = l[1].state, s2 = l[2].state, s3 = l[3].state;
    for (size_t i = 0; i < steps; i++) {
        s0 = next[s0 + class_of[p0[i]]];
        s1 = next[s1 + class_of[p1[i]]];
        s2 = next[s2 + class_of[p2[i]]];
        s3 = next[s3 + class_of[p3[i]]];
    }
    l[0].state = s0, l[1].state = s1, l[2].state = s2, l[3].state = s3;
    for (size_t i = 0; i < MR_GREP_LANES; i++) l[i].p += steps;
}

/* Which of n <= MR_GREP_WAITING lines match. */
static uint64_t mr_grep_matches(const mr_grep *g, const mr_candidate *lines, size_t n) {
    const size_t failed = MR_GREP_FAILED * g->classes;
    mr_lane lanes[MR_GREP_LANES];
    size_t taken = 0, live = 0;
    uint64_t matched = 0;
    while (live < MR_GREP_LANES && mr_lane_next(g, &lanes[live], lines, n, &taken, &matched)) live++;
    while (live == MR_GREP_LANES) {
        size_t steps = MR_GREP_STRIDE;
        for (size_t i = 0; i < MR_GREP_LANES; i++) {
            size_t left = (size_t)(lanes[i].end - lanes[i].p);
            if (left < steps) steps = left;
        }
        mr_lanes_walk(g, lanes, steps);
        for (size_t i = 0; i < live; i++) {
            if (lanes[i].p < lanes[i].end && lanes[i].state > failed) continue;
            matched |= (uint64_t)g->ends[lanes[i].state / g->classes] << lanes[i].which;
            if (!mr_lane_next(g, &lanes[i], lines, n, &taken, &matched)) lanes[i--] = lanes[--live];
        }
    }
    for (size_t i = 0; i < live; i++) {
        size_t state = lanes[i].state;
        for (const uint8_t *p = lanes[i].p; p < lanes[i].end && state > failed; p++) {
            state = g->next[state + g->class_of[*p]];
        }
        matched |= (uint64_t)g->ends[state / g->classes] << lanes[i].which;
    }
    return matched;
}

static int mr_grep_line(mr_sink *s, mr_grep *g, const uint8_t *line, const uint8_t *end) {
    if (g->counting) {
        g->matches++;
        return MR_OK;
    }
    mr_value v = {.bytes = line, .len = (size_t)(end - line), .number = 0, .tag = MR_BYTES};
    return mr_sink_add(s, g->key.bytes, g->key.len, &v, MR_KEY_ONLY);
}

static int mr_grep_decide(mr_sink *s, mr_grep *g, const mr_candidate *lines, size_t n) {
    for (uint64_t matched = mr_grep_matches(g, lines, n); matched; matched &= matched - 1) {
        const mr_candidate *c = &lines[__builtin_ctzll(matched)];
        MR_TRY(mr_grep_line(s, g, c->line, c->end));
    }
    return MR_OK;
}

/* All lines of [p, end), whose last one may lack its LF. */
static int mr_grep_lines(mr_sink *s, mr_grep *g, const uint8_t *p, const uint8_t *end) {
    mr_candidate lines[MR_GREP_WAITING];
    size_t n = 0;
    while (p < end) {
        const uint8_t *at = p, *line = p;
        if (g->needle.len) {
            if (!(at = g->find(&g->needle, p, end))) break;
            const uint8_t *before = (const uint8_t *)memrchr(p, '\n', (size_t)(at - p));
            if (before) line = before + 1;
        }
        const uint8_t *stop = (const uint8_t *)memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        if (g->settles) {
            MR_TRY(mr_grep_line(s, g, line, stop));
        } else {
            lines[n++] = (mr_candidate){line, g->leads ? at : line, stop};
        }
        if (n == MR_GREP_WAITING) {
            MR_TRY(mr_grep_decide(s, g, lines, n));
            n = 0;
        }
        if (stop == end) break;
        p = stop + 1;
    }
    return mr_grep_decide(s, g, lines, n);
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
