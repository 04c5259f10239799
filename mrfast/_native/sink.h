/* A map task's output while it grows: a combiner table, and a log of the records that are not combined. */
#ifndef MRFAST_SINK_H
#define MRFAST_SINK_H

#include "table.h"

typedef struct {
    mr_op combine;
    mr_table table; /* combined values, by key; with MR_OP_INDEX the value that a key was last given */
    mr_arena cells; /* texts and partials that the table's cells point to */
    mr_buffer log;  /* records back to back, in emit order */
    uint64_t log_records;
    uint64_t logged_keys; /* slots of MR_LOGGED: they hold no record */
    uint64_t records_in;
    mr_text *given; /* the value that ops.words gives in a piece, in `cells`: with MR_OP_INDEX all its keys share it */
    uint64_t given_piece;
} mr_sink;

static inline void mr_sink_free(mr_sink *s) {
    mr_table_free(&s->table);
    mr_arena_free(&s->cells);
    mr_buffer_free(&s->log);
    s->log_records = s->logged_keys = 0;
    s->given = NULL;
}

static inline size_t mr_sink_bytes(const mr_sink *s) {
    return mr_table_bytes(&s->table) + s->cells.total_bytes + s->log.cap;
}

/* All that the sink holds; it is empty then, and goes on. */
static inline mr_sink mr_sink_take(mr_sink *s) {
    mr_sink taken = *s;
    memset(s, 0, sizeof *s);
    s->combine = taken.combine;
    s->records_in = taken.records_in;
    s->table.expected = taken.table.count;
    memcpy(s->table.seed, taken.table.seed, sizeof s->table.seed);
    return taken;
}

static int mr_sink_log(mr_sink *s, const uint8_t *key, size_t key_len, const mr_value *v) {
    MR_TRY(mr_buffer_reserve(&s->log, mr_record_bound(key_len, v->len)));
    s->log.len = (size_t)(mr_put_record(s->log.data + s->log.len, key, key_len, v) - s->log.data);
    s->log_records++;
    return MR_OK;
}

/* The same for a key whose surroundings are `readable`: a short one, of a length that no branch could foresee, is
 * written as the two words that hold it, over the room that the bound leaves. */
MR_INLINE int mr_sink_log_near(mr_sink *s, const uint8_t *key, size_t key_len, const mr_value *v, int readable) {
    if (!readable || key_len > MR_INLINE_KEY) return mr_sink_log(s, key, key_len, v);
    MR_TRY(mr_buffer_reserve(&s->log, mr_record_bound(MR_INLINE_KEY, v->len)));
    uint64_t k0, k1;
    mr_key_words(key, key_len, readable, &k0, &k1);
    uint8_t *p = s->log.data + s->log.len;
    *p++ = (uint8_t)key_len;
    mr_store64(p, k0);
    mr_store64(p + 8, k1);
    s->log.len = (size_t)(mr_put_payload(p + key_len, v) - s->log.data);
    s->log_records++;
    return MR_OK;
}

/* The value is the one that this key was given last: an index lists it once anyway. */
static int mr_sink_repeats(mr_cell *last, const mr_value *v) {
    return last->tag == v->tag && v->tag >= MR_BYTES && mr_cell_text(last)->len == v->len &&
           (!v->len || !memcmp(mr_cell_text(last)->bytes, v->bytes, v->len));
}

/* An integer beyond int64: from here on the key's values are kept one by one, in their order. */
static int mr_sink_give_up(mr_sink *s, mr_slot *slot, const mr_key *k, const mr_value *v) {
    uint8_t scratch[MR_STATE_BYTES_MAX];
    mr_cell cell = {.number = slot->number, .tag = slot->tag};
    slot->tag = MR_LOGGED;
    s->logged_keys++;
    if (cell.tag) {
        mr_value held = mr_cell_value(s->combine, &cell, scratch);
        MR_TRY(mr_sink_log(s, k->bytes, k->len, &held));
    }
    return mr_sink_log(s, k->bytes, k->len, v);
}

/* Folds v into the key's slot. */
static int mr_sink_fold_slot(mr_sink *s, mr_slot *slot, const mr_key *k, const mr_value *v) {
    mr_cell cell = {.number = slot->number, .tag = slot->tag};
    if (s->combine == MR_OP_INDEX) {
        if (v->tag != MR_STR && v->tag != MR_BYTES) {
            mr_table_undo(&s->table, slot);
            return MR_BAD_VALUE;
        }
        if (mr_sink_repeats(&cell, v)) return MR_OK;
        if (cell.tag && !mr_cell_text(&cell)->cap) cell.tag = 0; /* shared: not to be written over */
        int status = mr_cell_keep(&cell, v, &s->cells);
        if (status != MR_OK) mr_table_undo(&s->table, slot);
        MR_TRY(status);
        slot->number = cell.number;
        slot->tag = cell.tag;
        return mr_sink_log(s, k->bytes, k->len, v);
    }
    if (cell.tag == MR_LOGGED) return mr_sink_log(s, k->bytes, k->len, v);
    int status = mr_fold(s->combine, &cell, v, &s->cells);
    if (status == MR_OK) {
        slot->number = cell.number;
        slot->tag = cell.tag;
    } else if (status == MR_NEEDS_PYTHON) {
        return mr_sink_give_up(s, slot, k, v);
    } else {
        mr_table_undo(&s->table, slot);
    }
    return status;
}

static int mr_sink_fold(mr_sink *s, const mr_key *k, const mr_value *v) {
    MR_TRY(mr_table_reserve(&s->table, 1));
    mr_slot *slot = mr_table_slot(&s->table, k);
    return slot ? mr_sink_fold_slot(s, slot, k, v) : MR_NOMEM;
}

/* One pair into the sink. Bounds are checked here, once, for whoever emits. */
static inline int mr_sink_add(mr_sink *s, const uint8_t *key, size_t key_len, const mr_value *v, int readable) {
    if (MR_UNLIKELY(key_len > MR_KEY_MAX)) return MR_KEY_TOO_LONG;
    if (MR_UNLIKELY(v->len > MR_VALUE_MAX)) return MR_VALUE_TOO_LONG;
    s->records_in++;
    if (s->combine == MR_OP_NONE) return mr_sink_log_near(s, key, key_len, v, readable);
    mr_key k = mr_make_key(&s->table, key, key_len, readable);
    return mr_sink_fold(s, &k, v);
}

#define MR_BATCH 64

/* (key, 1) for each key, with sum or count as the combiner; room is reserved for all of them, their slots are on their
 * way. Most keys lie in the very slot that their hash names and hold an integer: one compare says so. A key found past
 * that slot changes places with the one in it when it has come more often, so that frequent keys end up at home. */
MR_INLINE int mr_sink_count_keys(mr_sink *s, const mr_key *keys, size_t n) {
    mr_slot *const slots = s->table.slots;
    const unsigned shift = s->table.shift;
    for (size_t i = 0; i < n; i++) {
        const mr_key *k = &keys[i];
        mr_slot *home = &slots[k->hash >> shift];
        if (MR_LIKELY(mr_slot_holds(home, k, MR_INT) && home->number != (uint64_t)INT64_MAX)) {
            home->number++;
            continue;
        }
        mr_slot *slot = mr_table_slot(&s->table, k);
        if (MR_UNLIKELY(!slot)) return MR_NOMEM;
        if (MR_LIKELY(slot->tag == MR_INT && slot->number != (uint64_t)INT64_MAX)) {
            slot->number++;
            if (slot->number > home->number && home->tag == MR_INT) {
                mr_slot other = *home;
                *home = *slot;
                *slot = other;
            }
        } else if (!slot->tag) { /* a sum or a count of one */
            slot->tag = MR_INT;
            slot->number = 1;
        } else {
            mr_value one = {.bytes = NULL, .len = 0, .number = 1, .tag = MR_INT};
            MR_TRY(mr_sink_fold(s, k, &one));
        }
    }
    s->records_in += n;
    return MR_OK;
}

#endif
