/* What every kernel shares: status codes, unaligned loads, checked arithmetic, growable buffers. */
#ifndef MRFAST_BASE_H
#define MRFAST_BASE_H

#include "pages.h" /* first: it asks the system headers for all they have */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    MR_OK = 0,
    MR_NOMEM = -1,
    MR_KEY_TOO_LONG = -2,
    MR_VALUE_TOO_LONG = -3,
    MR_CORRUPT = -4,
    MR_BAD_LINE = -5,
    MR_BAD_VALUE = -6,
    MR_TORN_RECORD = -7,
    MR_NEEDS_PYTHON = 1, /* one group is beyond the native path: its twin in Python takes it */
    MR_FULL = 2,         /* the output has reached its limit: take it, then go on */
} mr_status;

/* DESIGN.md, section 5: a key or value over its bound is an error, never a cast. */
#define MR_KEY_MAX ((size_t)16 << 20)
#define MR_VALUE_MAX ((size_t)1 << 30)

#define MR_LIKELY(x) __builtin_expect(!!(x), 1)
#define MR_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define MR_INLINE static inline __attribute__((always_inline))
#define MR_TRY(call)                                                                                                   \
    do {                                                                                                               \
        int mr_try_status = (call);                                                                                    \
        if (MR_UNLIKELY(mr_try_status != MR_OK)) return mr_try_status;                                                 \
    } while (0)

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mrfast's kernels are written for little-endian machines (x86-64, arm64)"
#endif

MR_INLINE uint64_t mr_load64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

MR_INLINE uint32_t mr_load32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

MR_INLINE void mr_store64(void *p, uint64_t v) { memcpy(p, &v, 8); }

/* The first eight bytes as a big-endian integer, zero-padded: integers compare as the bytes do. Shorter keys are read by
 * loads that overlap: a memcpy of some length would be a call. */
MR_INLINE uint64_t mr_prefix(const uint8_t *key, size_t len) {
    uint64_t v = 0;
    if (len >= 8) {
        v = mr_load64(key);
    } else if (len >= 4) {
        v = mr_load32(key) | (uint64_t)mr_load32(key + len - 4) << (8 * (len - 4));
    } else if (len) {
        v = key[0] | (uint64_t)key[len / 2] << (8 * (len / 2)) | (uint64_t)key[len - 1] << (8 * (len - 1));
    }
    return __builtin_bswap64(v);
}

/* memcmp that takes (NULL, 0), and then the shorter key first. */
MR_INLINE int mr_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
    size_t n = a_len < b_len ? a_len : b_len;
    int order = n ? memcmp(a, b, n) : 0;
    if (order) return order;
    return (a_len > b_len) - (a_len < b_len);
}

/* A growable run of bytes; zero-initialised is empty. The owner frees it. */
typedef struct {
    uint8_t *data;
    size_t len;
    size_t cap;
} mr_buffer;

static inline int mr_buffer_reserve(mr_buffer *b, size_t more) {
    if (MR_LIKELY(b->cap - b->len >= more)) return MR_OK;
    size_t want;
    if (__builtin_add_overflow(b->len, more, &want)) return MR_NOMEM;
    size_t cap = b->cap < 256 ? 256 : b->cap;
    while (cap < want) {
        if (__builtin_add_overflow(cap, cap / 2, &cap)) return MR_NOMEM;
    }
    uint8_t *data = (uint8_t *)mr_pages_grow(b->data, b->cap, cap);
    if (!data) return MR_NOMEM;
    b->data = data;
    b->cap = cap;
    return MR_OK;
}

static inline int mr_buffer_append(mr_buffer *b, const void *bytes, size_t n) {
    MR_TRY(mr_buffer_reserve(b, n));
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    return MR_OK;
}

static inline void mr_buffer_free(mr_buffer *b) {
    mr_pages_free(b->data, b->cap);
    memset(b, 0, sizeof *b);
}

#endif
