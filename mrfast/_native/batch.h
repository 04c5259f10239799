/* Pairs that wait for their slots' cache lines: hash and prefetch now, fold sixty-four later.
 *
 * Only for ops whose result does not depend on the order, and values that they cannot refuse: whoever emitted a pair
 * hears of its error before the next one is taken. */
#ifndef MRFAST_BATCH_H
#define MRFAST_BATCH_H

#include "sink.h"

typedef struct {
    mr_key key;        /* its bytes are the owner's, or, up to MR_INLINE_KEY of them, the key's own words */
    const void *owner; /* what keeps a long key's bytes where they are; the caller lets go of it after the fold */
    uint64_t number;
    uint8_t tag;
} mr_waiting;

typedef struct {
    mr_waiting pairs[MR_BATCH];
    size_t count;
    size_t owners; /* pairs with an owner */
} mr_batch;

MR_INLINE int mr_batch_takes(const mr_sink *s, const mr_value *v) {
    if (s->combine == MR_OP_COUNT) return v->len <= MR_VALUE_MAX;
    return (s->combine == MR_OP_SUM || s->combine == MR_OP_MEAN) && v->tag >= MR_FALSE && v->tag <= MR_FLOAT;
}

/* One pair that mr_batch_takes() into a batch that is not full. *kept: the owner is needed until the fold. */
MR_INLINE int mr_batch_put(mr_sink *s, mr_batch *b, const uint8_t *key, size_t key_len, const mr_value *v, int readable,
                           const void *owner, int *kept) {
    if (MR_UNLIKELY(key_len > MR_KEY_MAX)) return MR_KEY_TOO_LONG;
    if (!b->count) MR_TRY(mr_table_reserve(&s->table, MR_BATCH));
    mr_waiting *w = &b->pairs[b->count++];
    w->key = mr_make_key(&s->table, key, key_len, readable);
    mr_table_prefetch(&s->table, w->key.hash);
    *kept = key_len > MR_INLINE_KEY;
    if (*kept) {
        b->owners++;
    } else {
        w->key.bytes = (const uint8_t *)&w->key.k0;
    }
    w->owner = *kept ? owner : NULL;
    w->number = v->number;
    w->tag = v->tag;
    s->records_in++;
    return MR_OK;
}

/* What lies behind a waiting pair's slot, a long key or a partial sum, is fetched for all pairs at once too. */
static void mr_batch_prefetch(const mr_sink *s, const mr_batch *b) {
    for (size_t i = 0; i < b->count; i++) {
        const mr_slot *slot = &s->table.slots[b->pairs[i].key.hash >> s->table.shift];
        if (!slot->tag) continue;
        if (slot->len > MR_INLINE_KEY) __builtin_prefetch((const void *)(uintptr_t)slot->k1);
    }
}

/* Folds what waits; the owners are still the caller's to let go of, and then to clear `count` and `owners`. */
static int mr_batch_fold(mr_sink *s, const mr_batch *b) {
    MR_TRY(mr_table_reserve(&s->table, b->count));
    if (b->owners) mr_batch_prefetch(s, b);
    for (size_t i = 0; i < b->count; i++) {
        const mr_waiting *w = &b->pairs[i];
        int64_t number = s->combine == MR_OP_COUNT ? 1 : (int64_t)w->number, total;
        if (MR_LIKELY(s->combine == MR_OP_COUNT || (s->combine == MR_OP_SUM && w->tag == MR_INT))) {
            mr_slot *slot = mr_table_slot(&s->table, &w->key);
            if (MR_UNLIKELY(!slot)) return MR_NOMEM;
            if (MR_LIKELY(slot->tag == MR_INT && !__builtin_add_overflow((int64_t)slot->number, number, &total))) {
                slot->number = (uint64_t)total;
                continue;
            }
            if (MR_LIKELY(!slot->tag)) {
                slot->tag = MR_INT;
                slot->number = (uint64_t)number;
                continue;
            }
        }
        mr_value v = {.bytes = NULL, .len = 0, .number = w->number, .tag = w->tag};
        MR_TRY(mr_sink_fold(s, &w->key, &v));
    }
    return MR_OK;
}

#endif
