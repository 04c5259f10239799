/* XXH3-64, seed 0, default secret: the partition of a key and the checksum of a segment.
 *
 * Written from the published specification (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md); bit for
 * bit what PyPI's xxhash.xxh3_64_intdigest gives. Also the table's own quick hash, which is nobody's contract. */
#ifndef MRFAST_HASH_H
#define MRFAST_HASH_H

#include "base.h"

static const uint8_t mr_xxh3_secret[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d,
    0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0,
    0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0,
    0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b,
    0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0,
    0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3,
    0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3,
    0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1,
    0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40,
    0x7e,
};

#define MR_P32_1 0x9E3779B1U
#define MR_P32_2 0x85EBCA77U
#define MR_P32_3 0xC2B2AE3DU
#define MR_P64_1 0x9E3779B185EBCA87ULL
#define MR_P64_2 0xC2B2AE3D27D4EB4FULL
#define MR_P64_3 0x165667B19E3779F9ULL
#define MR_P64_4 0x85EBCA77C2B2AE63ULL
#define MR_P64_5 0x27D4EB2F165667C5ULL

MR_INLINE uint64_t mr_mul_fold(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

MR_INLINE uint64_t mr_xxh3_avalanche(uint64_t h) {
    h ^= h >> 37;
    h *= 0x165667919E3779F9ULL;
    return h ^ (h >> 32);
}

MR_INLINE uint64_t mr_xxh64_avalanche(uint64_t h) {
    h ^= h >> 33;
    h *= MR_P64_2;
    h ^= h >> 29;
    h *= MR_P64_3;
    return h ^ (h >> 32);
}

MR_INLINE uint64_t mr_secret(size_t offset) { return mr_load64(mr_xxh3_secret + offset); }

MR_INLINE uint64_t mr_xxh3_mix16(const uint8_t *p, size_t secret) {
    return mr_mul_fold(mr_load64(p) ^ mr_secret(secret), mr_load64(p + 8) ^ mr_secret(secret + 8));
}

MR_INLINE uint64_t mr_xxh3_upto16(const uint8_t *p, size_t n) {
    if (n > 8) {
        uint64_t low = mr_load64(p) ^ (mr_secret(24) ^ mr_secret(32));
        uint64_t high = mr_load64(p + n - 8) ^ (mr_secret(40) ^ mr_secret(48));
        uint64_t h = n + __builtin_bswap64(low) + high + mr_mul_fold(low, high);
        return mr_xxh3_avalanche(h);
    }
    if (n >= 4) {
        uint64_t h = (mr_load32(p + n - 4) + ((uint64_t)mr_load32(p) << 32)) ^ (mr_secret(8) ^ mr_secret(16));
        h ^= ((h << 49) | (h >> 15)) ^ ((h << 24) | (h >> 40));
        h *= 0x9FB21C651E98DF25ULL;
        h ^= (h >> 35) + n;
        h *= 0x9FB21C651E98DF25ULL;
        return h ^ (h >> 28);
    }
    if (n) {
        uint32_t c = ((uint32_t)p[0] << 16) | ((uint32_t)p[n >> 1] << 24) | p[n - 1] | ((uint32_t)n << 8);
        return mr_xxh64_avalanche(c ^ (uint64_t)(mr_load32(mr_xxh3_secret) ^ mr_load32(mr_xxh3_secret + 4)));
    }
    return mr_xxh64_avalanche(mr_secret(56) ^ mr_secret(64));
}

static uint64_t mr_xxh3_upto240(const uint8_t *p, size_t n) {
    uint64_t h = n * MR_P64_1;
    if (n <= 128) {
        for (size_t i = (n - 1) / 32 + 1; i-- > 0;) {
            h += mr_xxh3_mix16(p + 16 * i, 32 * i);
            h += mr_xxh3_mix16(p + n - 16 * (i + 1), 32 * i + 16);
        }
        return mr_xxh3_avalanche(h);
    }
    for (size_t i = 0; i < 8; i++) h += mr_xxh3_mix16(p + 16 * i, 16 * i);
    h = mr_xxh3_avalanche(h);
    for (size_t i = 8; i < n / 16; i++) h += mr_xxh3_mix16(p + 16 * i, 16 * (i - 8) + 3);
    h += mr_xxh3_mix16(p + n - 16, 136 - 17);
    return mr_xxh3_avalanche(h);
}

/* Eight independent lanes: compilers turn the loop into SIMD of whatever width the target has. */
MR_INLINE void mr_xxh3_stripe(uint64_t *restrict acc, const uint8_t *restrict p, const uint8_t *restrict secret) {
    for (size_t i = 0; i < 8; i++) {
        uint64_t value = mr_load64(p + 8 * i);
        uint64_t keyed = value ^ mr_load64(secret + 8 * i);
        acc[i ^ 1] += value;
        acc[i] += (keyed & 0xFFFFFFFFU) * (keyed >> 32);
    }
}

#define MR_XXH3_STRIPE 64
#define MR_XXH3_STRIPES 16 /* a block: the secret has room for so many, then the lanes are scrambled */

#define MR_XXH3_LANES {MR_P32_3, MR_P64_1, MR_P64_2, MR_P64_3, MR_P64_4, MR_P32_2, MR_P64_5, MR_P32_1}

/* Takes whole stripes; `stripe` is how many of the current block are done. Bytes must follow the last of them. */
static unsigned mr_xxh3_consume(uint64_t acc[8], unsigned stripe, const uint8_t *p, size_t stripes) {
    for (; stripes; stripes--, p += MR_XXH3_STRIPE) {
        mr_xxh3_stripe(acc, p, mr_xxh3_secret + 8 * stripe);
        if (++stripe < MR_XXH3_STRIPES) continue;
        for (size_t i = 0; i < 8; i++) {
            acc[i] = (acc[i] ^ (acc[i] >> 47) ^ mr_secret(192 - 64 + 8 * i)) * MR_P32_1;
        }
        stripe = 0;
    }
    return stripe;
}

static uint64_t mr_xxh3_finish(uint64_t acc[8], const uint8_t *last_stripe, uint64_t n) {
    mr_xxh3_stripe(acc, last_stripe, mr_xxh3_secret + 192 - 64 - 7);
    uint64_t h = n * MR_P64_1;
    for (size_t i = 0; i < 4; i++) {
        h += mr_mul_fold(acc[2 * i] ^ mr_secret(11 + 16 * i), acc[2 * i + 1] ^ mr_secret(11 + 16 * i + 8));
    }
    return mr_xxh3_avalanche(h);
}

static uint64_t mr_xxh3_long(const uint8_t *p, size_t n) {
    uint64_t acc[8] = MR_XXH3_LANES;
    mr_xxh3_consume(acc, 0, p, (n - 1) / MR_XXH3_STRIPE);
    return mr_xxh3_finish(acc, p + n - MR_XXH3_STRIPE, n);
}

static inline uint64_t mr_xxh3_64(const uint8_t *p, size_t n) {
    if (n <= 16) return mr_xxh3_upto16(p, n);
    if (n <= 240) return mr_xxh3_upto240(p, n);
    return mr_xxh3_long(p, n);
}

/* The same digest of bytes that come in pieces; zero-initialised is one of no bytes yet. */
typedef struct {
    uint64_t acc[8];
    uint64_t total;
    unsigned stripe;
    size_t held_len;
    uint8_t last[MR_XXH3_STRIPE]; /* the bytes before those held, once any were consumed */
    uint8_t held[4 * MR_XXH3_STRIPE];
} mr_digest;

static void mr_digest_update(mr_digest *d, const uint8_t *p, size_t n) {
    static const uint64_t lanes[8] = MR_XXH3_LANES;
    if (!d->total) memcpy(d->acc, lanes, sizeof lanes);
    d->total += n;
    size_t room = sizeof d->held - d->held_len;
    if (n <= room) {
        if (n) memcpy(d->held + d->held_len, p, n);
        d->held_len += n;
        return;
    }
    memcpy(d->held + d->held_len, p, room);
    d->stripe = mr_xxh3_consume(d->acc, d->stripe, d->held, sizeof d->held / MR_XXH3_STRIPE);
    const uint8_t *before = d->held + sizeof d->held - MR_XXH3_STRIPE;
    p += room;
    n -= room;
    size_t stripes = (n - 1) / MR_XXH3_STRIPE;
    if (stripes) {
        d->stripe = mr_xxh3_consume(d->acc, d->stripe, p, stripes);
        p += stripes * MR_XXH3_STRIPE;
        n -= stripes * MR_XXH3_STRIPE;
        before = p - MR_XXH3_STRIPE;
    }
    memcpy(d->last, before, MR_XXH3_STRIPE);
    memcpy(d->held, p, n);
    d->held_len = n;
}

static uint64_t mr_digest_value(const mr_digest *d) {
    if (d->total <= sizeof d->held) return mr_xxh3_64(d->held, d->held_len);
    uint64_t acc[8];
    uint8_t end[MR_XXH3_STRIPE];
    size_t n = d->held_len, fresh = n < sizeof end ? n : sizeof end;
    memcpy(acc, d->acc, sizeof acc);
    mr_xxh3_consume(acc, d->stripe, d->held, (n - 1) / MR_XXH3_STRIPE);
    memcpy(end, d->last + fresh, sizeof end - fresh);
    memcpy(end + sizeof end - fresh, d->held + n - fresh, fresh);
    return mr_xxh3_finish(acc, end, d->total);
}

/* The combiner table's hash: seeded per process against flooding, one multiply for a key held in two words. Keys that
 * differ only in the NULs at their end share it: at most 16 of them. */
MR_INLINE uint64_t mr_table_hash_inline(uint64_t k0, uint64_t k1, const uint64_t seed[2]) {
    return mr_mul_fold(k0 ^ seed[0], k1 ^ seed[1]);
}

static inline uint64_t mr_table_hash_long(const uint8_t *p, size_t n, const uint64_t seed[2]) {
    uint64_t h = seed[0] ^ (n * MR_P64_1), i = 0;
    for (; i + 16 <= n; i += 16) h = mr_mul_fold(mr_load64(p + i) ^ seed[1], mr_load64(p + i + 8) ^ h);
    if (n >= 16) return mr_mul_fold(mr_load64(p + n - 16) ^ seed[1], mr_load64(p + n - 8) ^ h);
    return h;
}

#endif
