/* `ops.words`: the tokens of blocks that are cut anywhere, as pairs in a sink, a batch at a time. */
#ifndef MRFAST_WORDS_H
#define MRFAST_WORDS_H

#include "sink.h"
#include "tokenize.h"

/* What `ops.words` asks for; zero-initialise, then set. The carry holds bytes that only the next block can decide. */
typedef struct {
    mr_letters letters;
    mr_simd simd;
    mr_classify_fn classify; /* of `letters` and `simd` */
    int lower;
    int distinct;
    mr_value value;
    uint64_t piece;
    mr_table seen; /* with `distinct`: a word and the last piece that had it; its seed is the sink's table's */
    mr_buffer carry;
    size_t wait; /* the carry is not scanned again before it is so long: tiny blocks of a giant word stay linear */
    mr_buffer lowered;
    mr_span *spans; /* room for MR_WINDOW_TOKENS + 1 */
} mr_words;

/* The keys in lower case. Up to 16 ASCII letters are lowered in their two words; others are written out. */
static int mr_words_lower(mr_words *w, const mr_table *t, mr_key *keys, size_t n) {
    const uint64_t ones = ~0ULL / 255;
    size_t most = MR_INLINE_KEY;
    for (size_t i = 0; i < n; i++) most += 3 * keys[i].len;
    w->lowered.len = 0;
    MR_TRY(mr_buffer_reserve(&w->lowered, most));
    uint8_t *out = w->lowered.data;
    for (size_t i = 0; i < n; i++) {
        mr_key *k = &keys[i];
        if (k->len <= MR_INLINE_KEY && !((k->k0 | k->k1) & (ones * 0x80))) {
            k->k0 |= ((k->k0 + ones * (0x80 - 'A')) & ~(k->k0 + ones * (0x7F - 'Z')) & (ones * 0x80)) >> 2;
            k->k1 |= ((k->k1 + ones * (0x80 - 'A')) & ~(k->k1 + ones * (0x7F - 'Z')) & (ones * 0x80)) >> 2;
            k->hash = mr_table_hash_inline(k->k0, k->k1, t->seed);
            k->bytes = (const uint8_t *)&k->k0;
        } else {
            uint8_t *end = mr_lower(k->bytes, k->len, out);
            *k = mr_make_key(t, out, (size_t)(end - out), MR_AFTER);
            if (MR_UNLIKELY(k->len > MR_KEY_MAX)) return MR_KEY_TOO_LONG;
            out = end;
        }
        mr_table_prefetch(t, k->hash);
    }
    return MR_OK;
}

/* Leaves of the keys those that are new in this piece, their slots in the sink's table on their way. */
static int mr_words_unseen(mr_sink *s, mr_words *w, mr_key *keys, size_t *n) {
    size_t kept = 0;
    MR_TRY(mr_table_reserve(&w->seen, *n));
    for (size_t i = 0; i < *n; i++) mr_table_prefetch(&w->seen, keys[i].hash);
    for (size_t i = 0; i < *n; i++) {
        mr_slot *slot = mr_table_slot(&w->seen, &keys[i]);
        if (!slot) return MR_NOMEM;
        int first = !slot->tag || slot->number != w->piece;
        slot->tag = MR_INT;
        slot->number = w->piece;
        if (!first) continue;
        keys[kept] = keys[i];
        if (keys[kept].len <= MR_INLINE_KEY) keys[kept].bytes = (const uint8_t *)&keys[kept].k0;
        mr_table_prefetch(&s->table, keys[kept++].hash);
    }
    *n = kept;
    return MR_OK;
}

MR_INLINE int mr_words_log(mr_sink *s, const mr_key *k, const mr_value *v) {
    const uint8_t *bytes = k->len <= MR_INLINE_KEY ? (const uint8_t *)&k->k0 : k->bytes;
    return mr_sink_log_near(s, bytes, k->len, v, MR_AFTER);
}

/* The piece's value, where the slots of its keys point to. */
static int mr_words_given(mr_sink *s, const mr_words *w) {
    const mr_value *v = &w->value;
    if (s->given && s->given_piece == w->piece && s->given->len == v->len &&
        (!v->len || !memcmp(s->given->bytes, v->bytes, v->len))) {
        return MR_OK;
    }
    s->given = (mr_text *)(void *)mr_arena_take(&s->cells, sizeof *s->given + v->len, 1);
    if (!s->given) return MR_NOMEM;
    s->given_piece = w->piece;
    s->given->cap = 0;
    s->given->len = (uint32_t)v->len;
    if (v->len) memcpy(s->given->bytes, v->bytes, v->len);
    return MR_OK;
}

/* (key, the piece's value) for each key, with MR_OP_INDEX as the combiner. A slot that has the value already says that
 * the key came in this piece, so that `distinct` needs no table of its own. */
MR_INLINE int mr_words_index(mr_sink *s, const mr_words *w, const mr_key *keys, size_t n) {
    MR_TRY(mr_words_given(s, w));
    uint64_t given = (uint64_t)(uintptr_t)s->given;
    for (size_t i = 0; i < n; i++) {
        mr_slot *slot = mr_table_home(&s->table, keys[i].hash);
        if (MR_UNLIKELY(!mr_slot_holds(slot, &keys[i], w->value.tag))) slot = mr_table_slot(&s->table, &keys[i]);
        if (MR_UNLIKELY(!slot)) return MR_NOMEM;
        int here = slot->tag && slot->number == given;
        s->records_in += !here || !w->distinct;
        if (here) continue;
        mr_cell last = {.number = slot->number, .tag = slot->tag};
        int repeats = mr_sink_repeats(&last, &w->value);
        slot->tag = w->value.tag;
        slot->number = given;
        if (!repeats) MR_TRY(mr_words_log(s, &keys[i], &w->value));
    }
    return MR_OK;
}

/* A pair for each span: the keys of a batch, their slots prefetched, then the look-ups. */
MR_INLINE int mr_words_spans(mr_sink *s, mr_words *w, const uint8_t *text, size_t len, const mr_span *spans, size_t n) {
    mr_key keys[MR_BATCH];
    int listing = s->combine == MR_OP_INDEX && w->value.tag == MR_STR;
    int counting = s->combine == MR_OP_COUNT || (s->combine == MR_OP_SUM && w->value.tag == MR_INT);
    if (w->value.len > MR_VALUE_MAX) return MR_VALUE_TOO_LONG;
    for (size_t i = 0; i < n; i += MR_BATCH) {
        size_t batch = n - i < MR_BATCH ? n - i : MR_BATCH;
        MR_TRY(mr_table_reserve(&s->table, batch));
        for (size_t j = 0; j < batch; j++) {
            const uint8_t *p = text + spans[i + j].start;
            if (MR_UNLIKELY(spans[i + j].len > MR_KEY_MAX)) return MR_KEY_TOO_LONG;
            int readable = text + len - p >= MR_INLINE_KEY ? MR_AFTER : MR_KEY_ONLY;
            keys[j] = mr_make_key(&s->table, p, spans[i + j].len, readable);
            mr_table_prefetch(&s->table, keys[j].hash);
        }
        if (w->lower) MR_TRY(mr_words_lower(w, &s->table, keys, batch));
        if (w->distinct && !listing) MR_TRY(mr_words_unseen(s, w, keys, &batch));
        if (counting) {
            MR_TRY(mr_sink_count_keys(s, keys, batch));
        } else if (listing) {
            MR_TRY(mr_words_index(s, w, keys, batch));
        } else {
            s->records_in += batch;
            for (size_t j = 0; j < batch; j++) {
                MR_TRY(s->combine == MR_OP_NONE ? mr_words_log(s, &keys[j], &w->value)
                                                : mr_sink_fold(s, &keys[j], &w->value));
            }
        }
    }
    return MR_OK;
}

MR_INLINE int mr_words_run_body(mr_sink *s, mr_words *w, const uint8_t *text, size_t len, int final, size_t *rest) {
    mr_scan scan;
    mr_scan_begin(&scan, text, len, w->letters, w->classify);
    while (scan.at < len) {
        size_t n = mr_scan_window(&scan, w->spans);
        if (final && scan.at == len && scan.open) {
            w->spans[n++] = (mr_span){.start = scan.start, .len = scan.incomplete - scan.start};
        }
        MR_TRY(mr_words_spans(s, w, text, len, w->spans, n));
    }
    *rest = mr_scan_rest(&scan);
    return MR_OK;
}

static int mr_words_run_plain(mr_sink *s, mr_words *w, const uint8_t *text, size_t len, int final, size_t *rest) {
    return mr_words_run_body(s, w, text, len, final, rest);
}

#if defined(__x86_64__)
/* The same C for a machine that has BMI: bit scans, shifts and the multiply take fewer instructions, a sixth less time. */
MR_WIDE static int mr_words_run_wide(mr_sink *s, mr_words *w, const uint8_t *text, size_t len, int final, size_t *rest) {
    return mr_words_run_body(s, w, text, len, final, rest);
}
#endif

/* The words of a run of bytes; *rest is where the undecided tail begins (with `final` there is none). */
static int mr_words_run(mr_sink *s, mr_words *w, const uint8_t *text, size_t len, int final, size_t *rest) {
#if defined(__x86_64__)
    if (w->simd >= MR_SIMD_AVX2) return mr_words_run_wide(s, w, text, len, final, rest);
#endif
    return mr_words_run_plain(s, w, text, len, final, rest);
}

/* Feeds a block cut anywhere: the carry and just enough of the block to decide it, then the block itself. */
static int mr_words_feed(mr_sink *s, mr_words *w, const uint8_t *block, size_t len) {
    size_t rest, used = 0;
    while (w->carry.len && used < len) {
        size_t take = w->carry.len < 256 ? 256 : w->carry.len, held = w->carry.len;
        if (take > len - used) take = len - used;
        MR_TRY(mr_buffer_append(&w->carry, block + used, take));
        if (w->carry.len < w->wait) {
            used += take;
            continue;
        }
        MR_TRY(mr_words_run(s, w, w->carry.data, w->carry.len, 0, &rest));
        used += take;
        if (rest >= held && used < len) { /* the tail lies in the block: it is scanned there, with what follows it */
            used -= w->carry.len - rest;
            w->carry.len = 0;
            w->wait = 0;
            break;
        }
        if (rest) memmove(w->carry.data, w->carry.data + rest, w->carry.len - rest);
        w->carry.len -= rest;
        w->wait = w->carry.len + w->carry.len / 2;
        if (w->carry.len > MR_KEY_MAX + 8) return MR_KEY_TOO_LONG;
    }
    if (used == len) return MR_OK;
    MR_TRY(mr_words_run(s, w, block + used, len - used, 0, &rest));
    if (len - used - rest > MR_KEY_MAX + 8) return MR_KEY_TOO_LONG;
    w->carry.len = 0;
    w->wait = 0;
    return mr_buffer_append(&w->carry, block + used + rest, len - used - rest);
}

/* The piece is over: nothing of it may reach the next one, not as a carry and not as a word seen before. */
static inline void mr_words_leave(mr_words *w) {
    w->carry.len = 0;
    w->wait = 0;
    w->piece++;
}

static int mr_words_end(mr_sink *s, mr_words *w) {
    size_t rest;
    int status = w->carry.len ? mr_words_run(s, w, w->carry.data, w->carry.len, 1, &rest) : MR_OK;
    mr_words_leave(w);
    return status;
}

static inline void mr_words_free(mr_words *w) {
    mr_table_free(&w->seen);
    mr_buffer_free(&w->carry);
    mr_buffer_free(&w->lowered);
    free(w->spans);
    w->spans = NULL;
}

#endif
