/* Segments in, sorted groups out: equal keys side by side, their values in (map index, emit order).
 *
 * The runs are merged a batch of records at a time; `mr_group_step` goes from record to record and merges the next batch
 * when one is used up, so that a group may be of any size. */
#ifndef MRFAST_GROUP_H
#define MRFAST_GROUP_H

#include "hash.h"
#include "merge.h"

#define MR_BATCH_RECORDS 2048
#define MR_BATCH_BYTES ((size_t)1 << 20)

typedef struct {
    mr_merge merge;
    mr_entry *entries; /* the batch; entry.ref is the record's length */
    size_t count, at;  /* entries of the batch, and the one that is looked at now */
    uint64_t merged;   /* entries of this and all earlier batches of the pass */
} mr_grouper;

static inline void mr_group_free(mr_grouper *g) {
    mr_merge_free(&g->merge);
    free(g->entries);
    memset(g, 0, sizeof *g);
}

/* Checks every byte of a segment: checksum, record structure, number of records, order of keys. */
static int mr_segment_check(const uint8_t *data, size_t len, uint64_t records, uint64_t checksum, size_t *offset,
                            const char **why) {
    const uint8_t *p = data, *end = data + len, *key = NULL;
    size_t key_len = 0;
    uint64_t prefix = 0, n = 0;
    mr_record r;
    *offset = 0;
    *why = "checksum mismatch";
    if (len && mr_xxh3_64(data, len) != checksum) return MR_CORRUPT;
    for (; p < end; p = r.end, n++) {
        *offset = (size_t)(p - data);
        *why = "malformed record";
        MR_TRY(mr_get_record(p, end, &r));
        *why = "keys out of order";
        uint64_t before = prefix;
        prefix = mr_prefix(r.key, r.key_len);
        if (key && prefix <= before) {
            if (prefix < before || mr_compare(key, key_len, r.key, r.key_len) > 0) return MR_CORRUPT;
        }
        key = r.key;
        key_len = r.key_len;
    }
    *offset = len;
    *why = "wrong number of records";
    return n == records ? MR_OK : MR_CORRUPT;
}

/* Merges the next batch; with none left, `count` is 0. */
static int mr_group_fill(mr_grouper *g) {
    size_t n = 0, bytes = 0;
    g->at = g->count = 0;
    mr_merge_release(&g->merge);
    while (n < MR_BATCH_RECORDS && bytes < MR_BATCH_BYTES) {
        const mr_head *h = mr_merge_head(&g->merge);
        size_t len = (size_t)(h->end - h->record);
        if (!h->key) break;
        if (MR_UNLIKELY(len > UINT32_MAX)) return MR_CORRUPT;
        g->entries[n++] = (mr_entry){h->high, h->key, h->key_len, (uint32_t)len};
        bytes += len;
        MR_TRY(mr_merge_step(&g->merge));
    }
    g->count = n;
    g->merged += n;
    return MR_OK;
}

/* Goes to the first record, from wherever the grouper is. */
static int mr_group_begin(mr_grouper *g) {
    if (!g->entries) g->entries = (mr_entry *)malloc(MR_BATCH_RECORDS * sizeof *g->entries);
    if (!g->entries) return MR_NOMEM;
    MR_TRY(mr_merge_begin(&g->merge));
    g->merged = 0;
    return mr_group_fill(g);
}

/* The record that is looked at; NULL behind the last one. Its key stays valid, the entry only until the next step. */
MR_INLINE const mr_entry *mr_group_entry(const mr_grouper *g) { return g->at < g->count ? &g->entries[g->at] : NULL; }

MR_INLINE int mr_group_step(mr_grouper *g) {
    if (MR_LIKELY(++g->at < g->count)) return MR_OK;
    return mr_group_fill(g);
}

/* Whether the record that is looked at belongs to the group that began with `first`. */
MR_INLINE int mr_group_within(const mr_grouper *g, const mr_entry *first) {
    const mr_entry *e = mr_group_entry(g);
    return e && mr_entry_same(e, first);
}

/* The record of an entry. Its bytes were checked when they came. */
MR_INLINE int mr_entry_record(const mr_entry *e, mr_record *r) {
    const uint8_t *start = e->key - mr_varint_len(e->key_len);
    return mr_get_record(start, start + e->ref, r);
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

#endif
