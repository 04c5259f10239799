/* Where a short string of bytes comes next: two of its bytes compared at a whole vector of places at once.
 *
 * (W. Muła, "SIMD-friendly algorithms for substring searching", 2016; there the first and the last byte, here the two
 * rarest.) One function a vector width, chosen at run time; the scalar one is the twin that defines them all. */
#ifndef MRFAST_SEARCH_H
#define MRFAST_SEARCH_H

#include "classify.h"

/* Byte i of the text is one that, or-ed with fold[i], is text[i]: a fold of 0x20 takes both cases of a letter. */
typedef struct {
    uint8_t *text, *fold;
    size_t len;           /* 0: there is none */
    size_t first, second; /* the two bytes that are compared first */
} mr_needle;

/* The first place in [p, end) where the whole needle is, or NULL. */
typedef const uint8_t *(*mr_find_fn)(const mr_needle *needle, const uint8_t *p, const uint8_t *end);

MR_INLINE int mr_needle_is(const mr_needle *n, const uint8_t *p) {
    for (size_t i = 0; i < n->len; i++) {
        if ((p[i] | n->fold[i]) != n->text[i]) return 0;
    }
    return 1;
}

static const uint8_t *mr_find_scalar(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    const size_t a = n->first;
    for (; (size_t)(end - p) >= n->len; p++) {
        if ((p[a] | n->fold[a]) == n->text[a] && mr_needle_is(n, p)) return p;
    }
    return NULL;
}

/* The first of the places p + i, of the bits i of `mask`, where the needle is. */
MR_INLINE const uint8_t *mr_find_among(const mr_needle *n, const uint8_t *p, uint64_t mask) {
    for (; mask; mask &= mask - 1) {
        const uint8_t *hit = p + __builtin_ctzll(mask);
        if (mr_needle_is(n, hit)) return hit;
    }
    return NULL;
}

/* `mask` tells of the 64 places from p on; no byte is read that the needle would not reach at one of them. */
#define MR_FIND_LOOP(mask)                                                                                             \
    for (; (size_t)(end - p) >= n->len + 63; p += 64) {                                                                \
        uint64_t places = mask;                                                                                        \
        if (MR_LIKELY(!places)) continue;                                                                              \
        const uint8_t *hit = mr_find_among(n, p, places);                                                              \
        if (hit) return hit;                                                                                           \
    }                                                                                                                  \
    return mr_find_scalar(n, p, end)

#if defined(__x86_64__)

#define MR_SSE2_PAIR(i)                                                                                                \
    ((uint64_t)(uint32_t)_mm_movemask_epi8(_mm_and_si128(                                                              \
         _mm_cmpeq_epi8(_mm_or_si128(_mm_loadu_si128((const __m128i *)(const void *)(p + a + 16 * (i))), fold_a),      \
                        text_a),                                                                                       \
         _mm_cmpeq_epi8(_mm_or_si128(_mm_loadu_si128((const __m128i *)(const void *)(p + b + 16 * (i))), fold_b),      \
                        text_b)))                                                                                      \
     << (16 * (i)))

static const uint8_t *mr_find_sse2(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    const size_t a = n->first, b = n->second;
    const __m128i text_a = _mm_set1_epi8((char)n->text[a]), fold_a = _mm_set1_epi8((char)n->fold[a]);
    const __m128i text_b = _mm_set1_epi8((char)n->text[b]), fold_b = _mm_set1_epi8((char)n->fold[b]);
    MR_FIND_LOOP(MR_SSE2_PAIR(0) | MR_SSE2_PAIR(1) | MR_SSE2_PAIR(2) | MR_SSE2_PAIR(3));
}

#define MR_AVX2_PAIR(i)                                                                                                \
    ((uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_and_si256(                                                        \
         _mm256_cmpeq_epi8(                                                                                            \
             _mm256_or_si256(_mm256_loadu_si256((const __m256i *)(const void *)(p + a + 32 * (i))), fold_a), text_a),  \
         _mm256_cmpeq_epi8(                                                                                            \
             _mm256_or_si256(_mm256_loadu_si256((const __m256i *)(const void *)(p + b + 32 * (i))), fold_b), text_b))) \
     << (32 * (i)))

MR_WIDE static const uint8_t *mr_find_avx2(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    const size_t a = n->first, b = n->second;
    const __m256i text_a = _mm256_set1_epi8((char)n->text[a]), fold_a = _mm256_set1_epi8((char)n->fold[a]);
    const __m256i text_b = _mm256_set1_epi8((char)n->text[b]), fold_b = _mm256_set1_epi8((char)n->fold[b]);
    MR_FIND_LOOP(MR_AVX2_PAIR(0) | MR_AVX2_PAIR(1));
}

#define MR_AVX512_PLACES                                                                                               \
    (_mm512_cmpeq_epi8_mask(_mm512_or_si512(_mm512_loadu_si512((const void *)(p + a)), fold_a), text_a) &              \
     _mm512_cmpeq_epi8_mask(_mm512_or_si512(_mm512_loadu_si512((const void *)(p + b)), fold_b), text_b))

MR_AVX512 static const uint8_t *mr_find_avx512(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    const size_t a = n->first, b = n->second;
    const __m512i text_a = _mm512_set1_epi8((char)n->text[a]), fold_a = _mm512_set1_epi8((char)n->fold[a]);
    const __m512i text_b = _mm512_set1_epi8((char)n->text[b]), fold_b = _mm512_set1_epi8((char)n->fold[b]);
    MR_FIND_LOOP(MR_AVX512_PLACES);
}

#elif defined(__aarch64__)

MR_INLINE uint8x16_t mr_neon_byte(const uint8_t *p, uint8_t fold, uint8_t text) {
    return vceqq_u8(vorrq_u8(vld1q_u8(p), vdupq_n_u8(fold)), vdupq_n_u8(text));
}

MR_INLINE uint8x16_t mr_neon_pair(const mr_needle *n, const uint8_t *p) {
    const size_t a = n->first, b = n->second;
    return vandq_u8(mr_neon_byte(p + a, n->fold[a], n->text[a]), mr_neon_byte(p + b, n->fold[b], n->text[b]));
}

static const uint8_t *mr_find_neon(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    MR_FIND_LOOP(mr_neon_mask(mr_neon_pair(n, p), mr_neon_pair(n, p + 16), mr_neon_pair(n, p + 32),
                              mr_neon_pair(n, p + 48)));
}

#endif

static inline mr_find_fn mr_finder(mr_simd simd) {
#if defined(__x86_64__)
    if (simd == MR_SIMD_AVX512) return mr_find_avx512;
    if (simd == MR_SIMD_AVX2) return mr_find_avx2;
    if (simd == MR_SIMD_SSE2) return mr_find_sse2;
#elif defined(__aarch64__)
    if (simd == MR_SIMD_NEON) return mr_find_neon;
#endif
    (void)simd;
    return mr_find_scalar;
}

#endif
