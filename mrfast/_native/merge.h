/* A merge of sorted runs: every record in the order of (key, order, place in its run).
 *
 * A tree of losers (Knuth, The Art of Computer Programming 3, 5.4.1) keeps the runs' next keys as two big-endian words:
 * one comparison a level, and equal prefixes look at the rest. A run may be a mapped file: pages that were read are
 * given back. */
#ifndef MRFAST_MERGE_H
#define MRFAST_MERGE_H

#include "record.h"
#include "sort.h"

#include <sys/mman.h>
#include <unistd.h>

/* A sorted run; the bytes are the caller's and stay where they are. */
typedef struct {
    const uint8_t *data;
    size_t len;
    uint64_t records;
    uint64_t order;       /* of all its records, when not `ordered`: the map index */
    int ordered;          /* each record has a varint before it: its own order */
    size_t release_bytes; /* of a mapped file: pages are given back in steps of so much; 0: memory */
} mr_run;

/* A run's next record. */
typedef struct {
    uint64_t high, low; /* the key's first 16 bytes, big-endian, zero-padded */
    uint64_t order;
    const uint8_t *key; /* NULL: the run is at its end */
    const uint8_t *record, *end;
    uint32_t key_len;
} mr_head;

typedef struct {
    mr_run *runs;
    size_t run_count, run_cap;
    uint64_t records; /* of all runs */
    mr_head *heads;   /* one a run, once the merge has begun */
    uint32_t *losers; /* [0] is the winner */
    uint64_t *left;   /* records of each run that were not reached yet */
    size_t *released;
} mr_merge;

static inline void mr_merge_stop(mr_merge *m) {
    free(m->heads);
    free(m->losers);
    free(m->left);
    free(m->released);
    m->heads = NULL;
    m->losers = NULL;
    m->left = NULL;
    m->released = NULL;
}

static inline void mr_merge_free(mr_merge *m) {
    mr_merge_stop(m);
    free(m->runs);
    memset(m, 0, sizeof *m);
}

static int mr_merge_add(mr_merge *m, const mr_run *run) {
    if (m->run_count >= UINT32_MAX / 2) return MR_NOMEM;
    if (m->run_count == m->run_cap) {
        size_t cap = m->run_cap ? m->run_cap * 2 : 16;
        mr_run *runs = (mr_run *)realloc(m->runs, cap * sizeof *runs);
        if (!runs) return MR_NOMEM;
        m->runs = runs;
        m->run_cap = cap;
    }
    m->runs[m->run_count++] = *run;
    m->records += run->records;
    return MR_OK;
}

static int mr_head_before_rest(const mr_head *a, const mr_head *b) {
    if (!a->key || !b->key) return a->key != NULL;
    uint32_t shorter = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = shorter > 16 ? memcmp(a->key + 16, b->key + 16, shorter - 16) : 0;
    if (order) return order < 0;
    if (a->key_len != b->key_len) return a->key_len < b->key_len;
    return a->order < b->order;
}

MR_INLINE int mr_head_before(const mr_head *a, const mr_head *b) {
    if (MR_LIKELY(a->high != b->high)) return a->high < b->high;
    if (a->low != b->low) return a->low < b->low;
    return mr_head_before_rest(a, b);
}

/* Reads the record at `p` into the head; MR_CORRUPT where the bytes are not what was checked or written. */
MR_INLINE int mr_head_read(mr_merge *m, size_t run, const uint8_t *p) {
    mr_head *h = &m->heads[run];
    const mr_run *r = &m->runs[run];
    const uint8_t *end = r->data + r->len;
    mr_record record;
    if (p == end) {
        *h = (mr_head){.high = ~0ULL, .low = ~0ULL};
        return m->left[run] ? MR_CORRUPT : MR_OK;
    }
    if (MR_UNLIKELY(!m->left[run]--)) return MR_CORRUPT;
    h->order = r->order;
    if (r->ordered && !(p = mr_get_varint(p, end, &h->order))) return MR_CORRUPT;
    MR_TRY(mr_get_record(p, end, &record));
    h->record = p;
    h->key = record.key;
    h->key_len = record.key_len;
    h->end = record.end;
    h->high = mr_prefix(record.key, record.key_len);
    h->low = record.key_len > 8 ? mr_prefix(record.key + 8, record.key_len - 8) : 0;
    return MR_OK;
}

/* Plays the run's head from its leaf to the root; the winner comes to losers[0]. */
MR_INLINE void mr_merge_play(mr_merge *m, uint32_t run) {
    for (size_t node = (m->run_count + run) / 2; node; node /= 2) {
        uint32_t other = m->losers[node];
        if (mr_head_before(&m->heads[other], &m->heads[run])) {
            m->losers[node] = run;
            run = other;
        }
    }
    m->losers[0] = run;
}

/* The best run below a node of the tree; leaf `i` is node run_count + i. */
static uint32_t mr_merge_build(mr_merge *m, size_t node) {
    if (node >= m->run_count) return (uint32_t)(node - m->run_count);
    uint32_t a = mr_merge_build(m, 2 * node), b = mr_merge_build(m, 2 * node + 1);
    int swap = mr_head_before(&m->heads[b], &m->heads[a]);
    m->losers[node] = swap ? a : b;
    return swap ? b : a;
}

static int mr_run_order(const void *a, const void *b) {
    uint64_t x = ((const mr_run *)a)->order, y = ((const mr_run *)b)->order;
    return (x > y) - (x < y);
}

/* Begins the merge, or begins it again. */
static int mr_merge_begin(mr_merge *m) {
    size_t n = m->run_count;
    mr_merge_stop(m);
    m->heads = (mr_head *)calloc(n + 1, sizeof *m->heads);
    m->losers = (uint32_t *)calloc(n + 1, sizeof *m->losers);
    m->left = (uint64_t *)calloc(n + 1, sizeof *m->left);
    m->released = (size_t *)calloc(n + 1, sizeof *m->released);
    if (!m->heads || !m->losers || !m->left || !m->released) return MR_NOMEM;
    if (n > 1) qsort(m->runs, n, sizeof *m->runs, mr_run_order); /* the same tree whatever the order of adding */
    for (size_t i = 0; i < n; i++) {
        m->left[i] = m->runs[i].records;
        MR_TRY(mr_head_read(m, i, m->runs[i].data));
    }
    m->losers[0] = n > 1 ? mr_merge_build(m, 1) : 0;
    return MR_OK;
}

/* The next record in order, or one without a key at the end. */
MR_INLINE const mr_head *mr_merge_head(const mr_merge *m) { return &m->heads[m->losers[0]]; }

MR_INLINE int mr_merge_step(mr_merge *m) {
    uint32_t run = m->losers[0];
    MR_TRY(mr_head_read(m, run, m->heads[run].end));
    mr_merge_play(m, run);
    return MR_OK;
}

/* Gives back the pages of mapped runs that lie before the heads: nobody refers to them any more. */
static void mr_merge_release(mr_merge *m) {
#if defined(MADV_DONTNEED)
    for (size_t i = 0; i < m->run_count; i++) {
        const mr_run *r = &m->runs[i];
        if (!r->release_bytes) continue;
        size_t at = m->heads[i].key ? (size_t)(m->heads[i].record - r->data) : r->len;
        if (at - m->released[i] < r->release_bytes) continue;
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1, from = ((uintptr_t)r->data + m->released[i] + page) & ~page;
        uintptr_t to = ((uintptr_t)r->data + at) & ~page;
        m->released[i] = at;
        /* Advice: the bytes stay right whether it is taken or not (a shared mapping of a file). */
        if (to > from) (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
#else
    (void)m;
#endif
}

/* Appends the merged records, each behind its order when `ordered`, until `out` holds `limit` bytes (MR_FULL) or all
 * are written. */
static int mr_merge_write(mr_merge *m, int ordered, mr_buffer *out, size_t limit) {
    const mr_head *h;
    while ((h = mr_merge_head(m))->key) {
        if (out->len >= limit) {
            mr_merge_release(m);
            return MR_FULL;
        }
        size_t len = (size_t)(h->end - h->record);
        MR_TRY(mr_buffer_reserve(out, len + 10));
        uint8_t *p = out->data + out->len;
        if (ordered) p = mr_put_varint(p, h->order);
        memcpy(p, h->record, len);
        out->len = (size_t)(p - out->data) + len;
        MR_TRY(mr_merge_step(m));
    }
    return MR_OK;
}

#endif
