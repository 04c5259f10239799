/* Pairs that wait for their slots' cache lines: hash and prefetch now, fold sixty-four later, in their order. */
#ifndef MRFAST_BATCH_H
#define MRFAST_BATCH_H

#include "sink.h"

/* Zero-initialise, then set the sink. What values and keys over MR_INLINE_KEY point to must last until the fold. */
typedef struct {
    mr_sink *sink;
    size_t count;
    mr_key keys[MR_BATCH];
    mr_value values[MR_BATCH];
    const void *owners[MR_BATCH]; /* of pairs from Python: what keeps a long key's bytes where they are, or NULL */
    size_t owned;
} mr_batch;

/* The commonest folds, by the same rules as mr_fold: integers that stay integers. */
MR_INLINE int mr_batch_folds(mr_op op, mr_slot *slot, const mr_value *v) {
    int64_t number = op == MR_OP_COUNT ? 1 : (int64_t)v->number, total;
    if (op != MR_OP_COUNT && (op != MR_OP_SUM || v->tag != MR_INT)) return 0;
    if (MR_LIKELY(slot->tag == MR_INT)) {
        if (MR_UNLIKELY(__builtin_add_overflow((int64_t)slot->number, number, &total))) return 0;
        slot->number = (uint64_t)total;
        return 1;
    }
    if (slot->tag) return 0;
    slot->number = (uint64_t)number;
    slot->tag = MR_INT;
    return 1;
}

/* A long key's bytes lie in the arena: a second fetch, when the slot is there. */
MR_INLINE void mr_batch_fetch_key(const mr_table *t, const mr_key *k) {
    const mr_slot *slot = &t->slots[k->hash >> t->shift];
    if (k->len > MR_INLINE_KEY && slot->tag && slot->len > MR_INLINE_KEY) {
        __builtin_prefetch(mr_slot_key(slot), 0, 3);
        __builtin_prefetch(mr_slot_key(slot) + slot->len - 1, 0, 3);
    }
}

/* Puts what waits into the sink. The batch is empty afterwards, whatever the status; `owners` and `owned` stay, for the
 * caller to let go of. */
static int mr_batch_fold(mr_batch *b) {
    mr_sink *s = b->sink;
    size_t n = b->count;
    b->count = 0;
    if (n) MR_TRY(mr_table_reserve(&s->table, n));
    for (size_t i = 0; i < n; i++) mr_batch_fetch_key(&s->table, &b->keys[i]);
    for (size_t i = 0; i < n; i++) {
        mr_slot *slot = mr_table_slot(&s->table, &b->keys[i]);
        if (MR_UNLIKELY(!slot)) return MR_NOMEM;
        if (MR_LIKELY(mr_batch_folds(s->combine, slot, &b->values[i]))) continue;
        MR_TRY(mr_sink_fold_slot(s, slot, &b->keys[i], &b->values[i]));
    }
    return MR_OK;
}

/* A pair into a batch that is not full, of a sink that combines. */
MR_INLINE int mr_batch_put(mr_batch *b, const uint8_t *key, size_t key_len, const mr_value *v, int readable) {
    mr_sink *s = b->sink;
    if (MR_UNLIKELY(key_len > MR_KEY_MAX)) return MR_KEY_TOO_LONG;
    if (MR_UNLIKELY(v->len > MR_VALUE_MAX)) return MR_VALUE_TOO_LONG;
    if (!b->count) MR_TRY(mr_table_reserve(&s->table, MR_BATCH));
    mr_key *k = &b->keys[b->count];
    *k = mr_make_key(&s->table, key, key_len, readable);
    mr_table_prefetch(&s->table, k->hash);
    if (key_len <= MR_INLINE_KEY) k->bytes = (const uint8_t *)&k->k0;
    b->values[b->count++] = *v;
    s->records_in++;
    return MR_OK;
}

/* mr_sink_add for a pair whose bytes last, and which may therefore wait for others. */
MR_INLINE int mr_batch_add(mr_batch *b, const uint8_t *key, size_t key_len, const mr_value *v, int readable) {
    if (b->sink->combine == MR_OP_NONE) return mr_sink_add(b->sink, key, key_len, v, readable);
    MR_TRY(mr_batch_put(b, key, key_len, v, readable));
    return b->count == MR_BATCH ? mr_batch_fold(b) : MR_OK;
}

/* Whether a pair from Python may wait: only for ops whose result does not depend on the order, and only values that
 * they cannot refuse. Whoever emitted a pair hears of its error before the next one is taken. */
MR_INLINE int mr_batch_takes(const mr_sink *s, const mr_value *v) {
    if (s->combine == MR_OP_COUNT) return v->len <= MR_VALUE_MAX;
    return (s->combine == MR_OP_SUM || s->combine == MR_OP_MEAN) && v->tag >= MR_FALSE && v->tag <= MR_FLOAT;
}

#endif
