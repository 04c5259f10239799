/* Where a short string of bytes comes next: its first and its last byte compared at a whole vector of places at once.
 *
 * (W. Muła, "SIMD-friendly algorithms for substring searching", 2016.) One function a vector width, chosen at run time;
 * the C library's memmem is the twin that defines them all. */
#ifndef MRFAST_SEARCH_H
#define MRFAST_SEARCH_H

#include "classify.h"

/* The first place of needle[0:n], n >= 1, in [p, end); NULL: none. */
typedef const uint8_t *(*mr_find_fn)(const uint8_t *p, const uint8_t *end, const uint8_t *needle, size_t n);

static const uint8_t *mr_find_scalar(const uint8_t *p, const uint8_t *end, const uint8_t *needle, size_t n) {
    return (const uint8_t *)memmem(p, (size_t)(end - p), needle, n);
}

#if defined(__x86_64__)

/* The first of the places whose bits are set where the needle is; the bits stand for places from p on. */
MR_INLINE const uint8_t *mr_find_among(const uint8_t *p, uint64_t places, const uint8_t *needle, size_t n) {
    for (; places; places &= places - 1) {
        const uint8_t *at = p + __builtin_ctzll(places);
        if (n <= 2 || !memcmp(at + 1, needle + 1, n - 2)) return at;
    }
    return NULL;
}

static const uint8_t *mr_find_sse2(const uint8_t *p, const uint8_t *end, const uint8_t *needle, size_t n) {
    const __m128i first = _mm_set1_epi8((char)needle[0]), last = _mm_set1_epi8((char)needle[n - 1]);
    for (; (size_t)(end - p) >= 16 + n - 1; p += 16) {
        __m128i a = _mm_cmpeq_epi8(first, _mm_loadu_si128((const __m128i *)(const void *)p));
        __m128i b = _mm_cmpeq_epi8(last, _mm_loadu_si128((const __m128i *)(const void *)(p + n - 1)));
        const uint8_t *found = mr_find_among(p, (uint32_t)_mm_movemask_epi8(_mm_and_si128(a, b)), needle, n);
        if (found) return found;
    }
    return mr_find_scalar(p, end, needle, n);
}

MR_WIDE static const uint8_t *mr_find_avx2(const uint8_t *p, const uint8_t *end, const uint8_t *needle, size_t n) {
    const __m256i first = _mm256_set1_epi8((char)needle[0]), last = _mm256_set1_epi8((char)needle[n - 1]);
    for (; (size_t)(end - p) >= 32 + n - 1; p += 32) {
        __m256i a = _mm256_cmpeq_epi8(first, _mm256_loadu_si256((const __m256i *)(const void *)p));
        __m256i b = _mm256_cmpeq_epi8(last, _mm256_loadu_si256((const __m256i *)(const void *)(p + n - 1)));
        const uint8_t *found = mr_find_among(p, (uint32_t)_mm256_movemask_epi8(_mm256_and_si256(a, b)), needle, n);
        if (found) return found;
    }
    return mr_find_scalar(p, end, needle, n);
}

MR_AVX512 static const uint8_t *mr_find_avx512(const uint8_t *p, const uint8_t *end, const uint8_t *needle, size_t n) {
    const __m512i first = _mm512_set1_epi8((char)needle[0]), last = _mm512_set1_epi8((char)needle[n - 1]);
    for (; (size_t)(end - p) >= 64 + n - 1; p += 64) {
        __mmask64 a = _mm512_cmpeq_epi8_mask(first, _mm512_loadu_si512((const void *)p));
        __mmask64 b = _mm512_mask_cmpeq_epi8_mask(a, last, _mm512_loadu_si512((const void *)(p + n - 1)));
        const uint8_t *found = mr_find_among(p, b, needle, n);
        if (found) return found;
    }
    return mr_find_scalar(p, end, needle, n);
}

#endif

static inline mr_find_fn mr_finder(mr_simd simd) {
#if defined(__x86_64__)
    if (simd == MR_SIMD_AVX512) return mr_find_avx512;
    if (simd == MR_SIMD_AVX2) return mr_find_avx2;
    if (simd == MR_SIMD_SSE2) return mr_find_sse2;
#endif
    (void)simd;
    return mr_find_scalar;
}

#endif
