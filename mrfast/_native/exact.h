/* Sums of doubles and int64s without any rounding, and one correctly rounded double at the end (= math.fsum).
 *
 * A fixed-point two's complement number of 34 limbs whose bit 0 is 2**-1074: every finite double is a shifted 53-bit
 * integer in it, and 2**64 of the largest ones still fit. The order of additions cannot matter, so a sum does not
 * depend on how the input was cut. (Neal, "Fast exact summation using small and large superaccumulators", 2015.) */
#ifndef MRFAST_EXACT_H
#define MRFAST_EXACT_H

#include "record.h" /* first: it asks the system headers for all they have */

#include <math.h>

#define MR_EXACT_LIMBS 34
#define MR_EXACT_UNIT 1074 /* bit of 2**0 */

enum { MR_HAS_FLOAT = 1, MR_HAS_NAN = 2, MR_HAS_INF = 4, MR_HAS_NEG_INF = 8 };

typedef struct {
    uint64_t limb[MR_EXACT_LIMBS];
    uint64_t flags;
} mr_exact;

/* Adds magnitude << shift, or subtracts it. */
static void mr_exact_shifted(mr_exact *x, uint64_t magnitude, unsigned shift, int negative) {
    unsigned i = shift / 64, off = shift % 64;
    uint64_t part[2] = {magnitude << off, off ? magnitude >> (64 - off) : 0};
    unsigned char carry = 0;
    for (unsigned k = 0; i < MR_EXACT_LIMBS && (k < 2 || carry); i++, k++) {
        uint64_t v = k < 2 ? part[k] : 0, out;
        if (negative) {
            unsigned char b = __builtin_sub_overflow(x->limb[i], v, &out);
            carry = (unsigned char)(b | __builtin_sub_overflow(out, (uint64_t)carry, &out));
        } else {
            unsigned char c = __builtin_add_overflow(x->limb[i], v, &out);
            carry = (unsigned char)(c | __builtin_add_overflow(out, (uint64_t)carry, &out));
        }
        x->limb[i] = out;
    }
}

static inline void mr_exact_add_int(mr_exact *x, int64_t v) {
    mr_exact_shifted(x, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, MR_EXACT_UNIT, v < 0);
}

static inline void mr_exact_add_double(mr_exact *x, double d) {
    uint64_t bits;
    memcpy(&bits, &d, 8);
    unsigned exponent = (unsigned)(bits >> 52) & 0x7FF;
    uint64_t mantissa = bits & 0xFFFFFFFFFFFFFULL;
    int negative = (int)(bits >> 63);
    x->flags |= MR_HAS_FLOAT;
    if (exponent == 0x7FF) {
        x->flags |= mantissa ? MR_HAS_NAN : negative ? MR_HAS_NEG_INF : MR_HAS_INF;
        return;
    }
    if (exponent) mantissa |= 1ULL << 52;
    mr_exact_shifted(x, mantissa, exponent ? exponent - 1 : 0, negative);
}

static inline void mr_exact_add(mr_exact *x, const mr_exact *y) {
    unsigned char carry = 0;
    for (unsigned i = 0; i < MR_EXACT_LIMBS; i++) {
        uint64_t out;
        unsigned char c = __builtin_add_overflow(x->limb[i], y->limb[i], &out);
        carry = (unsigned char)(c | __builtin_add_overflow(out, (uint64_t)carry, &out));
        x->limb[i] = out;
    }
    x->flags |= y->flags;
}

MR_INLINE uint64_t mr_exact_bit(const mr_exact *x, unsigned bit) { return (x->limb[bit / 64] >> (bit % 64)) & 1; }

/* The nearest double, halves to even; too large is an infinity, inf - inf and nan are nan. */
static double mr_exact_round(const mr_exact *from) {
    if (from->flags & MR_HAS_NAN) return (double)NAN;
    if ((from->flags & MR_HAS_INF) && (from->flags & MR_HAS_NEG_INF)) return (double)NAN;
    if (from->flags & MR_HAS_INF) return (double)INFINITY;
    if (from->flags & MR_HAS_NEG_INF) return -(double)INFINITY;
    mr_exact x = *from;
    int negative = (int)(x.limb[MR_EXACT_LIMBS - 1] >> 63);
    if (negative) {
        uint64_t carry = 1;
        for (unsigned i = 0; i < MR_EXACT_LIMBS; i++) {
            x.limb[i] = ~x.limb[i] + carry;
            carry = carry && !x.limb[i];
        }
    }
    int top = MR_EXACT_LIMBS - 1;
    while (top >= 0 && !x.limb[top]) top--;
    if (top < 0) return 0.0;
    unsigned high = (unsigned)top * 64 + 63 - (unsigned)__builtin_clzll(x.limb[top]);
    double result;
    if (high < 53) {
        result = ldexp((double)x.limb[0], -MR_EXACT_UNIT);
    } else {
        unsigned low = high - 52, limb = low / 64, off = low % 64;
        uint64_t mantissa = x.limb[limb] >> off;
        if (off && limb + 1 < MR_EXACT_LIMBS) mantissa |= x.limb[limb + 1] << (64 - off);
        mantissa &= (1ULL << 53) - 1;
        int sticky = 0;
        unsigned half = low - 1;
        for (unsigned i = 0; i < half / 64 && !sticky; i++) sticky = x.limb[i] != 0;
        if (half % 64) sticky |= (x.limb[half / 64] & ((1ULL << (half % 64)) - 1)) != 0;
        if (mr_exact_bit(&x, half) && (sticky || (mantissa & 1))) mantissa++;
        result = ldexp((double)mantissa, (int)low - MR_EXACT_UNIT);
    }
    return negative ? -result : result;
}

#define MR_EXACT_BYTES_MAX (3 + 8 * MR_EXACT_LIMBS)

/* flags, index of the first limb kept, their number, the limbs: zero limbs below and sign limbs above are left out. */
static uint8_t *mr_exact_put(uint8_t *p, const mr_exact *x) {
    unsigned first = 0, last = MR_EXACT_LIMBS;
    while (first < last && !x->limb[first]) first++;
    uint64_t sign = 0 - (x->limb[MR_EXACT_LIMBS - 1] >> 63);
    while (last > first && x->limb[last - 1] == sign && (last - 1 == first || x->limb[last - 2] >> 63 == (sign & 1))) {
        if (last - 1 == first && sign) break;
        last--;
    }
    *p++ = (uint8_t)x->flags;
    *p++ = (uint8_t)first;
    *p++ = (uint8_t)(last - first);
    for (unsigned i = first; i < last; i++, p += 8) mr_store64(p, x->limb[i]);
    return p;
}

/* Reads what mr_exact_put wrote; NULL when it is not that. */
static const uint8_t *mr_exact_get(const uint8_t *p, const uint8_t *end, mr_exact *x) {
    memset(x, 0, sizeof *x);
    if (end - p < 3) return NULL;
    unsigned first = p[1], count = p[2];
    x->flags = p[0];
    p += 3;
    if (first + count > MR_EXACT_LIMBS || (size_t)(end - p) < 8 * (size_t)count) return NULL;
    for (unsigned i = 0; i < count; i++, p += 8) x->limb[first + i] = mr_load64(p);
    if (count && x->limb[first + count - 1] >> 63) {
        for (unsigned i = first + count; i < MR_EXACT_LIMBS; i++) x->limb[i] = ~0ULL;
    }
    return p;
}

#endif
