/* 64 bytes to 64 bits: which are letters by themselves, and which are not ASCII.
 *
 * One function a vector width, chosen at run time; the scalar one is the twin that defines them all. */
#ifndef MRFAST_CLASSIFY_H
#define MRFAST_CLASSIFY_H

#include "base.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef enum { MR_UNICODE = 0, MR_ASCII = 1, MR_SPACE = 2 } mr_letters;
typedef enum { MR_SIMD_SCALAR, MR_SIMD_NEON, MR_SIMD_SSE2, MR_SIMD_AVX2, MR_SIMD_AVX512 } mr_simd;

/* words: 64-byte groups at p. inside: bit i set when byte i belongs to a token; high: when byte i is >= 0x80. */
typedef void (*mr_classify_fn)(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high);

MR_INLINE int mr_is_ascii_letter(uint8_t c) { return (uint8_t)((c | 0x20) - 'a') < 26; }
MR_INLINE int mr_is_space(uint8_t c) { return c == ' ' || (uint8_t)(c - 9) < 5; }

static void mr_classify_letters_scalar(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t in = 0, hi = 0;
        for (unsigned i = 0; i < 64; i++) {
            in |= (uint64_t)mr_is_ascii_letter(p[i]) << i;
            hi |= (uint64_t)(p[i] >> 7) << i;
        }
        inside[w] = in;
        high[w] = hi;
    }
}

static void mr_classify_space_scalar(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t in = 0;
        for (unsigned i = 0; i < 64; i++) in |= (uint64_t)!mr_is_space(p[i]) << i;
        inside[w] = in;
        high[w] = 0;
    }
}

#if defined(__x86_64__)

/* Signed compares: (c | 0x20) + (0x7f - 'z') stays above 0x7f - 26 just for the 26 letters. */
static void mr_classify_letters_sse2(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m128i fold = _mm_set1_epi8(0x20), shift = _mm_set1_epi8(0x7f - 'z'), floor = _mm_set1_epi8(0x7f - 26);
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t in = 0, hi = 0;
        for (unsigned i = 0; i < 4; i++) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
            __m128i letter = _mm_cmpgt_epi8(_mm_add_epi8(_mm_or_si128(v, fold), shift), floor);
            uint64_t h = (uint32_t)_mm_movemask_epi8(v);
            in |= ((uint64_t)(uint32_t)_mm_movemask_epi8(letter) & ~h) << (16 * i);
            hi |= h << (16 * i);
        }
        inside[w] = in;
        high[w] = hi;
    }
}

static void mr_classify_space_sse2(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m128i blank = _mm_set1_epi8(' '), shift = _mm_set1_epi8(0x7f - 13), floor = _mm_set1_epi8(0x7f - 5);
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t out = 0;
        for (unsigned i = 0; i < 4; i++) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
            __m128i space = _mm_or_si128(_mm_cmpeq_epi8(v, blank), _mm_cmpgt_epi8(_mm_add_epi8(v, shift), floor));
            out |= (uint64_t)(uint32_t)_mm_movemask_epi8(space) << (16 * i);
        }
        inside[w] = ~out;
        high[w] = 0;
    }
}

#define MR_WIDE __attribute__((target("avx2,bmi,bmi2")))

MR_WIDE static void mr_classify_letters_avx2(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m256i fold = _mm256_set1_epi8(0x20), shift = _mm256_set1_epi8(0x7f - 'z');
    const __m256i floor = _mm256_set1_epi8(0x7f - 26);
    for (size_t w = 0; w < words; w++, p += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));
        __m256i la = _mm256_cmpgt_epi8(_mm256_add_epi8(_mm256_or_si256(a, fold), shift), floor);
        __m256i lb = _mm256_cmpgt_epi8(_mm256_add_epi8(_mm256_or_si256(b, fold), shift), floor);
        uint64_t hi = (uint32_t)_mm256_movemask_epi8(a) | ((uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32);
        uint64_t in = (uint32_t)_mm256_movemask_epi8(la) | ((uint64_t)(uint32_t)_mm256_movemask_epi8(lb) << 32);
        inside[w] = in & ~hi;
        high[w] = hi;
    }
}

MR_WIDE static void mr_classify_space_avx2(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m256i blank = _mm256_set1_epi8(' '), shift = _mm256_set1_epi8(0x7f - 13);
    const __m256i floor = _mm256_set1_epi8(0x7f - 5);
    for (size_t w = 0; w < words; w++, p += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));
        a = _mm256_or_si256(_mm256_cmpeq_epi8(a, blank), _mm256_cmpgt_epi8(_mm256_add_epi8(a, shift), floor));
        b = _mm256_or_si256(_mm256_cmpeq_epi8(b, blank), _mm256_cmpgt_epi8(_mm256_add_epi8(b, shift), floor));
        inside[w] = ~((uint32_t)_mm256_movemask_epi8(a) | ((uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32));
        high[w] = 0;
    }
}

#define MR_AVX512 __attribute__((target("avx512f,avx512bw")))

MR_AVX512 static void mr_classify_letters_avx512(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m512i fold = _mm512_set1_epi8(0x20), first = _mm512_set1_epi8('a'), count = _mm512_set1_epi8(26);
    for (size_t w = 0; w < words; w++, p += 64) {
        __m512i v = _mm512_loadu_si512((const void *)p);
        inside[w] = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(_mm512_or_si512(v, fold), first), count);
        high[w] = _mm512_movepi8_mask(v);
    }
}

MR_AVX512 static void mr_classify_space_avx512(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    const __m512i blank = _mm512_set1_epi8(' '), first = _mm512_set1_epi8(9), count = _mm512_set1_epi8(5);
    for (size_t w = 0; w < words; w++, p += 64) {
        __m512i v = _mm512_loadu_si512((const void *)p);
        inside[w] = ~(_mm512_cmpeq_epi8_mask(v, blank) | _mm512_cmplt_epu8_mask(_mm512_sub_epi8(v, first), count));
        high[w] = 0;
    }
}

#elif defined(__aarch64__)

/* NEON has no movemask: one bit a lane is kept and neighbours are added up, four vectors to 64 bits. */
MR_INLINE uint64_t mr_neon_mask(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
    static const uint8_t lanes[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bits = vld1q_u8(lanes);
    uint8x16_t ab = vpaddq_u8(vandq_u8(a, bits), vandq_u8(b, bits));
    uint8x16_t cd = vpaddq_u8(vandq_u8(c, bits), vandq_u8(d, bits));
    uint8x16_t all = vpaddq_u8(ab, cd);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

MR_INLINE uint8x16_t mr_neon_letters(uint8x16_t v) {
    return vcltq_u8(vsubq_u8(vorrq_u8(v, vdupq_n_u8(0x20)), vdupq_n_u8('a')), vdupq_n_u8(26));
}

MR_INLINE uint8x16_t mr_neon_high(uint8x16_t v) { return vcgeq_u8(v, vdupq_n_u8(0x80)); }

MR_INLINE uint8x16_t mr_neon_space(uint8x16_t v) {
    return vorrq_u8(vceqq_u8(v, vdupq_n_u8(' ')), vcltq_u8(vsubq_u8(v, vdupq_n_u8(9)), vdupq_n_u8(5)));
}

static void mr_classify_letters_neon(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    for (size_t w = 0; w < words; w++, p += 64) {
        uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
        inside[w] = mr_neon_mask(mr_neon_letters(a), mr_neon_letters(b), mr_neon_letters(c), mr_neon_letters(d));
        high[w] = mr_neon_mask(mr_neon_high(a), mr_neon_high(b), mr_neon_high(c), mr_neon_high(d));
    }
}

static void mr_classify_space_neon(const uint8_t *p, size_t words, uint64_t *inside, uint64_t *high) {
    for (size_t w = 0; w < words; w++, p += 64) {
        uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
        inside[w] = ~mr_neon_mask(mr_neon_space(a), mr_neon_space(b), mr_neon_space(c), mr_neon_space(d));
        high[w] = 0;
    }
}

#endif

/* Whether this machine runs a level. */
static inline int mr_simd_runs(mr_simd simd) {
#if defined(__x86_64__)
    int wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (simd == MR_SIMD_AVX512) return wide && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512f");
    if (simd == MR_SIMD_AVX2) return wide;
    if (simd == MR_SIMD_SSE2) return 1;
#elif defined(__aarch64__)
    if (simd == MR_SIMD_NEON) return 1;
#endif
    return simd == MR_SIMD_SCALAR;
}

static inline mr_classify_fn mr_classifier(mr_letters letters, mr_simd simd) {
    int space = letters == MR_SPACE;
#if defined(__x86_64__)
    if (simd == MR_SIMD_AVX512) return space ? mr_classify_space_avx512 : mr_classify_letters_avx512;
    if (simd == MR_SIMD_AVX2) return space ? mr_classify_space_avx2 : mr_classify_letters_avx2;
    if (simd == MR_SIMD_SSE2) return space ? mr_classify_space_sse2 : mr_classify_letters_sse2;
#elif defined(__aarch64__)
    if (simd == MR_SIMD_NEON) return space ? mr_classify_space_neon : mr_classify_letters_neon;
#endif
    (void)simd;
    return space ? mr_classify_space_scalar : mr_classify_letters_scalar;
}

#endif
