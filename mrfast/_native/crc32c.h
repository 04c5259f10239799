/* CRC-32C (Castagnoli), the checksum by which a store and its client agree on a body.
 *
 * The processor's own instruction where it has one, three streams at a time since each step waits for its last;
 * else eight tables. mr_crc32c_scalar is the twin that defines both. */
#ifndef MRFAST_CRC32C_H
#define MRFAST_CRC32C_H

#include "classify.h"

#if defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

#define MR_CRC32C_POLY 0x82f63b78u
#define MR_CRC32C_STREAM ((size_t)8192)
#define MR_CRC32C_SHIFT 0x28461564u /* x^(8 * MR_CRC32C_STREAM) modulo the polynomial, bits reversed */

/* crc: of what came before, 0 at first. */
typedef uint32_t (*mr_crc32c_fn)(uint32_t crc, const uint8_t *p, size_t n);

static uint32_t mr_crc32c_tables[8][256];

/* Once, before the first call of mr_crc32c_scalar. */
static inline void mr_crc32c_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? MR_CRC32C_POLY : 0);
        mr_crc32c_tables[0][i] = crc;
    }
    for (int t = 1; t < 8; t++) {
        for (int i = 0; i < 256; i++) {
            uint32_t crc = mr_crc32c_tables[t - 1][i];
            mr_crc32c_tables[t][i] = (crc >> 8) ^ mr_crc32c_tables[0][crc & 255];
        }
    }
}

MR_INLINE uint64_t mr_crc32c_word(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static uint32_t mr_crc32c_scalar(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word = mr_crc32c_word(p) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) crc ^= mr_crc32c_tables[7 - i][(word >> (8 * i)) & 255];
    }
    for (; n; p++, n--) crc = (crc >> 8) ^ mr_crc32c_tables[0][(crc ^ *p) & 255];
    return ~crc;
}

#if defined(__x86_64__)
#define MR_CRC32C_TARGET __attribute__((target("sse4.2")))
#define MR_CRC32C_STEP(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define MR_CRC32C_BYTE(crc, byte) (_mm_crc32_u8((crc), (byte)))
#elif defined(__aarch64__)
#define MR_CRC32C_TARGET __attribute__((target("+crc")))
#define MR_CRC32C_STEP(crc, word) (__crc32cd((crc), (word)))
#define MR_CRC32C_BYTE(crc, byte) (__crc32cb((crc), (byte)))
#endif

#if defined(MR_CRC32C_TARGET)

/* The state after MR_CRC32C_STREAM zeros: multiplication modulo the polynomial. */
static inline uint32_t mr_crc32c_shift(uint32_t crc) {
    uint32_t product = 0, power = MR_CRC32C_SHIFT;
    for (int bit = 31; bit >= 0; bit--) {
        product ^= power & (0u - ((crc >> bit) & 1u));
        power = (power >> 1) ^ (MR_CRC32C_POLY & (0u - (power & 1u)));
    }
    return product;
}

MR_CRC32C_TARGET static uint32_t mr_crc32c_wide(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (; n >= 3 * MR_CRC32C_STREAM; p += 3 * MR_CRC32C_STREAM, n -= 3 * MR_CRC32C_STREAM) {
        uint32_t b = 0, c = 0;
        const uint8_t *q = p + MR_CRC32C_STREAM, *r = q + MR_CRC32C_STREAM;
        for (size_t i = 0; i < MR_CRC32C_STREAM; i += 8) {
            crc = MR_CRC32C_STEP(crc, mr_crc32c_word(p + i));
            b = MR_CRC32C_STEP(b, mr_crc32c_word(q + i));
            c = MR_CRC32C_STEP(c, mr_crc32c_word(r + i));
        }
        crc = mr_crc32c_shift(mr_crc32c_shift(crc) ^ b) ^ c;
    }
    for (; n >= 8; p += 8, n -= 8) crc = MR_CRC32C_STEP(crc, mr_crc32c_word(p));
    for (; n; p++, n--) crc = MR_CRC32C_BYTE(crc, *p);
    return ~crc;
}

#endif

static inline mr_crc32c_fn mr_crc32c(mr_simd simd) {
#if defined(__x86_64__)
    if (simd >= MR_SIMD_SSE2 && __builtin_cpu_supports("sse4.2")) return mr_crc32c_wide;
#elif defined(__aarch64__) && defined(__linux__)
    if (simd == MR_SIMD_NEON && (getauxval(AT_HWCAP) & (1UL << 7))) return mr_crc32c_wide; /* HWCAP_CRC32 */
#elif defined(__aarch64__) && defined(__APPLE__)
    if (simd == MR_SIMD_NEON) return mr_crc32c_wide;
#endif
    (void)simd;
    return mr_crc32c_scalar;
}

#endif
