/* Where the separators and the line ends of a window are: one pass of vector compares in place of a search a field.
 *
 * One function a vector width, chosen at run time; the portable one is the twin that defines them all. */
#ifndef MRFAST_COLUMNS_H
#define MRFAST_COLUMNS_H

#include "classify.h"

#define MR_MARK_WORDS 128
#define MR_MARK_BYTES ((size_t)64 * MR_MARK_WORDS)

/* words: 64-byte groups at p. lf: bit i set when byte i is LF; marks: when it is LF or the separator. */
typedef void (*mr_mark_fn)(const uint8_t *p, size_t words, uint8_t sep, uint64_t *lf, uint64_t *marks);

typedef struct {
    size_t lines;
    uint16_t marks[MR_MARK_BYTES]; /* the offset of each separator and LF, ascending */
    uint16_t ends[MR_MARK_BYTES];  /* of each LF, its place in marks */
} mr_marks;

#define MR_EACH_BYTE(c) (0x0101010101010101ULL * (c))

/* Bit i is set when byte i of x is zero; exact: no carry leaves a byte. */
MR_INLINE uint64_t mr_zero_bytes(uint64_t x) {
    uint64_t low = MR_EACH_BYTE(0x7F);
    uint64_t zero = ~(((x & low) + low) | x | low);
    return ((zero >> 7) * 0x0102040810204080ULL) >> 56;
}

static void mr_mark_scalar(const uint8_t *p, size_t words, uint8_t sep, uint64_t *lf, uint64_t *marks) {
    uint64_t ends = MR_EACH_BYTE('\n'), seps = MR_EACH_BYTE(sep);
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t end = 0, any = 0;
        for (unsigned i = 0; i < 8; i++) {
            uint64_t v = mr_load64(p + 8 * i);
            end |= mr_zero_bytes(v ^ ends) << (8 * i);
            any |= mr_zero_bytes(v ^ seps) << (8 * i);
        }
        lf[w] = end;
        marks[w] = end | any;
    }
}

#if defined(__x86_64__)

static void mr_mark_sse2(const uint8_t *p, size_t words, uint8_t sep, uint64_t *lf, uint64_t *marks) {
    const __m128i ends = _mm_set1_epi8('\n'), seps = _mm_set1_epi8((char)sep);
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t end = 0, any = 0;
        for (unsigned i = 0; i < 4; i++) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
            end |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, ends)) << (16 * i);
            any |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, seps)) << (16 * i);
        }
        lf[w] = end;
        marks[w] = end | any;
    }
}

__attribute__((target("avx2"))) static void mr_mark_avx2(const uint8_t *p, size_t words, uint8_t sep, uint64_t *lf,
                                                         uint64_t *marks) {
    const __m256i ends = _mm256_set1_epi8('\n'), seps = _mm256_set1_epi8((char)sep);
    for (size_t w = 0; w < words; w++, p += 64) {
        uint64_t end = 0, any = 0;
        for (unsigned i = 0; i < 2; i++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32 * i));
            end |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, ends)) << (32 * i);
            any |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, seps)) << (32 * i);
        }
        lf[w] = end;
        marks[w] = end | any;
    }
}

__attribute__((target("avx512f,avx512bw"))) static void mr_mark_avx512(const uint8_t *p, size_t words, uint8_t sep,
                                                                       uint64_t *lf, uint64_t *marks) {
    const __m512i ends = _mm512_set1_epi8('\n'), seps = _mm512_set1_epi8((char)sep);
    for (size_t w = 0; w < words; w++, p += 64) {
        __m512i v = _mm512_loadu_si512((const void *)p);
        lf[w] = _mm512_cmpeq_epi8_mask(v, ends);
        marks[w] = lf[w] | _mm512_cmpeq_epi8_mask(v, seps);
    }
}

#endif

static inline mr_mark_fn mr_marker(mr_simd simd) {
#if defined(__x86_64__)
    if (simd == MR_SIMD_AVX512) return mr_mark_avx512;
    if (simd == MR_SIMD_AVX2) return mr_mark_avx2;
    if (simd == MR_SIMD_SSE2) return mr_mark_sse2;
#endif
    (void)simd;
    return mr_mark_scalar;
}

/* The marks of the `bytes` <= MR_MARK_BYTES at p. */
static void mr_marks_find(mr_marks *m, mr_mark_fn mark, const uint8_t *p, size_t bytes, uint8_t sep) {
    uint64_t lf[MR_MARK_WORDS], any[MR_MARK_WORDS];
    size_t whole = bytes / 64, words = whole, n = 0, lines = 0;
    mark(p, whole, sep, lf, any);
    if (bytes % 64) {
        uint8_t tail[64] = {0};
        memcpy(tail, p + whole * 64, bytes % 64);
        mark(tail, 1, sep, lf + whole, any + whole);
        any[whole] &= (1ULL << (bytes % 64)) - 1;
        words++;
    }
    for (size_t w = 0; w < words; w++) {
        for (uint64_t marks = any[w]; marks; marks &= marks - 1) {
            unsigned i = (unsigned)__builtin_ctzll(marks);
            m->marks[n] = (uint16_t)(w * 64 + i);
            m->ends[lines] = (uint16_t)n++;
            lines += (lf[w] >> i) & 1;
        }
    }
    m->lines = lines;
}

#endif
