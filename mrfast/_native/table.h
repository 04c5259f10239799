/* The combiner's hash table: open addressing, 32-byte slots, keys of up to 16 bytes inside the slot.
 *
 * A slot's place is the top bits of its hash, so growth walks old and new memory in order and never reads key bytes
 * (a long key's hash lies before its bytes in the arena). Probing is linear; the load stays under 5/8. */
#ifndef MRFAST_TABLE_H
#define MRFAST_TABLE_H

#include "fold.h"
#include "hash.h"
#include "pages.h"

#define MR_INLINE_KEY 16

typedef struct {
    uint64_t k0, k1;  /* the key, zero-padded; of a longer key its first 8 bytes and the address of all of them */
    uint64_t number;  /* with tag: the cell that the values are folded into */
    uint32_t tag;     /* 0: the slot is free */
    uint32_t len;
} mr_slot;

/* A key on its way into the table. */
typedef struct {
    uint64_t k0, k1, hash;
    const uint8_t *bytes;
    size_t len;
} mr_key;

typedef struct {
    mr_slot *slots;
    size_t capacity; /* a power of two */
    size_t count;
    size_t expected; /* how many keys will come, by experience; 0: nobody knows */
    unsigned shift;
    uint64_t seed[2];
    mr_arena arena; /* long keys, each after its hash */
} mr_table;

MR_INLINE const uint8_t *mr_slot_key(const mr_slot *s) {
    return s->len <= MR_INLINE_KEY ? (const uint8_t *)&s->k0 : (const uint8_t *)(uintptr_t)s->k1;
}

/* `readable`: what may be read around the bytes of a key, whatever its length. */
enum {
    MR_KEY_ONLY = 0,
    MR_AFTER = 1,  /* 16 bytes from its first on */
    MR_BEFORE = 2, /* 16 bytes up to its last: the header of a Python object lies there */
};

/* A key of up to 16 bytes as two zero-padded words. */
MR_INLINE void mr_key_words(const uint8_t *p, size_t len, int readable, uint64_t *k0, uint64_t *k1) {
    static const uint8_t kept[32] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    if (MR_LIKELY(readable == MR_AFTER)) {
        *k0 = mr_load64(p) & mr_load64(kept + 16 - len);
        *k1 = mr_load64(p + 8) & mr_load64(kept + 24 - len);
    } else if (readable == MR_BEFORE && len) {
        __extension__ unsigned __int128 words = mr_load64(p + len - 8);
        words = (words << 64 | mr_load64(p + len - 16)) >> 8 * (MR_INLINE_KEY - len);
        *k0 = (uint64_t)words;
        *k1 = (uint64_t)(words >> 64);
    } else {
        uint8_t padded[16] = {0};
        if (len) memcpy(padded, p, len);
        *k0 = mr_load64(padded);
        *k1 = mr_load64(padded + 8);
    }
}

MR_INLINE mr_key mr_make_key(const mr_table *t, const uint8_t *p, size_t len, int readable) {
    mr_key k = {.k0 = 0, .k1 = 0, .hash = 0, .bytes = p, .len = len};
    if (MR_LIKELY(len <= MR_INLINE_KEY)) {
        mr_key_words(p, len, readable, &k.k0, &k.k1);
        k.hash = mr_table_hash_inline(k.k0, k.k1, t->seed);
    } else {
        k.k0 = mr_load64(p);
        k.hash = mr_table_hash_long(p, len, t->seed);
    }
    return k;
}

/* Puts a slot's content where its hash wants it; 0: it would have to wrap round to a slot before `least`. */
MR_INLINE int mr_table_place(mr_table *t, const mr_slot *s, uint64_t hash, size_t least) {
    size_t at = (size_t)(hash >> t->shift);
    if (at < least) return 0;
    while (t->slots[at].tag) {
        at = (at + 1) & (t->capacity - 1);
        if (MR_UNLIKELY(at < least)) return 0;
    }
    t->slots[at] = *s;
    return 1;
}

MR_INLINE uint64_t mr_slot_hash(const mr_table *t, const mr_slot *s) {
    return s->len <= MR_INLINE_KEY ? mr_table_hash_inline(s->k0, s->k1, t->seed)
                                   : mr_load64((const uint8_t *)(uintptr_t)s->k1 - 8);
}

/* Grows in place: the slots go up from the last to the first, each to a free one at or after its own. The few that
 * cannot (displaced ones near the start, and what wraps round the end) wait until all others are placed. */
static int mr_table_resize(mr_table *t, size_t capacity) {
    size_t old_capacity = t->capacity;
    if (capacity > SIZE_MAX / 2 / sizeof(mr_slot)) return MR_NOMEM;
    mr_slot *slots = (mr_slot *)mr_pages_grow(t->slots, old_capacity * sizeof(mr_slot), capacity * sizeof(mr_slot));
    if (!slots) return MR_NOMEM;
    t->slots = slots;
    t->capacity = capacity;
    t->shift = 64 - (unsigned)__builtin_ctzll(capacity);
    mr_buffer waiting = {NULL, 0, 0};
    int status = MR_OK;
    for (size_t i = old_capacity; i-- > 0;) {
        mr_slot s = slots[i];
        if (!s.tag) continue;
        memset(&slots[i], 0, sizeof s);
        if (!mr_table_place(t, &s, mr_slot_hash(t, &s), i) && status == MR_OK) {
            status = mr_buffer_append(&waiting, &s, sizeof s);
        }
    }
    for (size_t at = 0; at < waiting.len; at += sizeof(mr_slot)) {
        mr_slot s;
        memcpy(&s, waiting.data + at, sizeof s);
        mr_table_place(t, &s, mr_slot_hash(t, &s), 0);
    }
    mr_buffer_free(&waiting);
    return status;
}

/* Makes sure that `more` new keys fit without another resize, so that slot addresses hold meanwhile. */
MR_INLINE int mr_table_reserve(mr_table *t, size_t more) {
    size_t want = t->count + more, capacity = t->capacity;
    if (MR_LIKELY(capacity && want <= capacity / 8 * 5)) return MR_OK;
    if (!capacity) {
        capacity = 1024;
        if (t->expected > want) want = t->expected;
    }
    while (want > capacity / 8 * 5) capacity *= 2;
    return mr_table_resize(t, capacity);
}

/* The slot that a hash names. */
MR_INLINE mr_slot *mr_table_home(const mr_table *t, uint64_t hash) { return &t->slots[hash >> t->shift]; }

MR_INLINE void mr_table_prefetch(const mr_table *t, uint64_t hash) { __builtin_prefetch(mr_table_home(t, hash), 1, 3); }

/* Whether the slot holds this key, of at most 16 bytes, with this tag: three words compared at once. */
MR_INLINE int mr_slot_holds(const mr_slot *s, const mr_key *k, uint32_t tag) {
    uint64_t meta;
    memcpy(&meta, &s->tag, 8); /* tag and len */
    return !((s->k0 ^ k->k0) | (s->k1 ^ k->k1) | (meta ^ ((uint64_t)k->len << 32 | tag)));
}

/* The key's slot, entered with tag 0 when it is new (the caller sets the tag); NULL: out of memory.
 * mr_table_reserve() must have made room. */
MR_INLINE mr_slot *mr_table_slot(mr_table *t, const mr_key *k) {
    size_t mask = t->capacity - 1, at = (size_t)(k->hash >> t->shift);
    for (;; at = (at + 1) & mask) {
        mr_slot *s = &t->slots[at];
        if (MR_LIKELY(s->tag && s->k0 == k->k0 && s->len == k->len)) {
            if (MR_LIKELY(k->len <= MR_INLINE_KEY)) {
                if (MR_LIKELY(s->k1 == k->k1)) return s;
            } else if (!memcmp((const void *)(uintptr_t)s->k1, k->bytes, k->len)) {
                return s;
            }
        } else if (!s->tag) {
            s->k0 = k->k0;
            s->k1 = k->k1;
            if (MR_UNLIKELY(k->len > MR_INLINE_KEY)) {
                uint8_t *p = mr_arena_take(&t->arena, k->len + 8, 1);
                if (!p) return NULL;
                mr_store64(p, k->hash);
                memcpy(p + 8, k->bytes, k->len);
                s->k1 = (uint64_t)(uintptr_t)(p + 8);
            }
            s->len = (uint32_t)k->len;
            t->count++;
            return s;
        }
    }
}

/* Takes back a key that was just entered and got no value. */
MR_INLINE void mr_table_undo(mr_table *t, mr_slot *s) {
    if (!s->tag) t->count--;
}

static inline size_t mr_table_bytes(const mr_table *t) {
    return t->capacity * sizeof(mr_slot) + t->arena.total_bytes;
}

static inline void mr_table_free(mr_table *t) {
    mr_pages_free(t->slots, t->capacity * sizeof(mr_slot));
    mr_arena_free(&t->arena);
    t->slots = NULL;
    t->capacity = t->count = 0;
}

#endif
