/* The heaviest keys of a sorted stream: a run of equal records at a time, in bounded memory.
 *
 * In one stream each key comes as one run, so the counts of what is kept are exact, and `least` bounds what is not: the
 * Space-Saving summary of Metwally, Agrawal and El Abbadi (2005) without its overestimates. Those come where summaries
 * are merged (mrfast/hot.py). */
#ifndef MRFAST_HOT_H
#define MRFAST_HOT_H

#include "hash.h"

#define MR_HOT_KEYS 32
#define MR_HOT_KEY_BYTES 64 /* so much of a key is kept; a longer one is known by its digest */

typedef struct {
    uint64_t bytes;
    uint64_t records;
    uint64_t digest; /* xxh3 of a key that was cut */
    uint32_t partition;
    uint32_t key_len; /* of the whole key */
    uint8_t key[MR_HOT_KEY_BYTES];
} mr_hot_key;

/* Zero-initialised is empty. */
typedef struct {
    mr_hot_key keys[MR_HOT_KEYS];
    size_t count;
    uint64_t least; /* no run that was left out has more bytes */
    uint64_t runs;
} mr_hot;

static size_t mr_hot_lightest(const mr_hot *h) {
    size_t found = 0;
    for (size_t i = 1; i < h->count; i++) found = h->keys[i].bytes < h->keys[found].bytes ? i : found;
    return found;
}

/* One run with more than `least` bytes; its key has not come before. */
static void mr_hot_put(mr_hot *h, const uint8_t *key, uint32_t key_len, uint64_t bytes, uint64_t records,
                       uint32_t partition) {
    size_t kept = key_len < MR_HOT_KEY_BYTES ? key_len : MR_HOT_KEY_BYTES;
    mr_hot_key *k = &h->keys[h->count < MR_HOT_KEYS ? h->count++ : mr_hot_lightest(h)];
    k->bytes = bytes;
    k->records = records;
    k->digest = key_len > kept ? mr_xxh3_64(key, key_len) : 0;
    k->partition = partition;
    k->key_len = key_len;
    if (kept) memcpy(k->key, key, kept);
    if (h->count == MR_HOT_KEYS) h->least = h->keys[mr_hot_lightest(h)].bytes;
}

MR_INLINE void mr_hot_run(mr_hot *h, const uint8_t *key, uint32_t key_len, uint64_t bytes, uint64_t records,
                          uint32_t partition) {
    h->runs++;
    if (MR_UNLIKELY(bytes > h->least)) mr_hot_put(h, key, key_len, bytes, records, partition);
}

#endif
