/* Tokens of a run of bytes: maximal runs of letters, as spans, a window at a time.
 *
 * A window of 4 KiB is classified into bit masks; a byte >= 0x80 drops to the exact path for just that code point;
 * the edges of the masks (mask ^ mask << 1) are the token borders, taken with count-trailing-zeros. */
#ifndef MRFAST_TOKENIZE_H
#define MRFAST_TOKENIZE_H

#include "classify.h"
#include "unicode_tables.h"

#define MR_WINDOW_WORDS 64
#define MR_WINDOW_BYTES ((size_t)MR_WINDOW_WORDS * 64)
#define MR_WINDOW_TOKENS (MR_WINDOW_BYTES / 2 + 1)

typedef struct {
    size_t start;
    size_t len;
} mr_span;

/* The scan of one run of bytes; zero-initialise, then set text, len, letters, classify. */
typedef struct {
    const uint8_t *text;
    size_t len;
    mr_letters letters;
    mr_classify_fn classify;
    size_t at;          /* windows before it are done */
    size_t start;       /* where the open token starts, when `open` */
    int open;
    size_t decided;     /* bytes before it belong to code points decided in an earlier mask word ... */
    int decided_letter; /* ... and whether those were letters */
    size_t incomplete;  /* where an UTF-8 sequence cut off by the end of the text starts, or len */
} mr_scan;

MR_INLINE int mr_is_letter(uint32_t cp) {
    return cp <= 0x10FFFF && (mr_letter_pages[mr_letter_index[cp >> 8]][(cp & 0xFF) >> 3] >> (cp & 7)) & 1;
}

/* Decodes one code point at p. Returns its length; 0: malformed (one byte to skip); -1: cut off by the end. */
MR_INLINE int mr_decode_utf8(const uint8_t *p, size_t n, uint32_t *cp) {
    uint8_t lead = p[0];
    if (lead < 0xC2 || lead > 0xF4) return 0;
    int len = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint32_t v = lead & (0x7FU >> len);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return -1;
        uint8_t low = 0x80, high = 0xBF;
        if (i == 1) { /* overlong forms, surrogates and code points past U+10FFFF end here */
            if (lead == 0xE0) low = 0xA0;
            if (lead == 0xED) high = 0x9F;
            if (lead == 0xF0) low = 0x90;
            if (lead == 0xF4) high = 0x8F;
        }
        if (p[i] < low || p[i] > high) return 0;
        v = (v << 6) | (p[i] & 0x3F);
    }
    *cp = v;
    return len;
}

/* Settles the bytes >= 0x80 of the mask word at `base`: returns the word with their letters' bits set. */
static uint64_t mr_settle_high(mr_scan *s, size_t base, uint64_t inside, uint64_t high) {
    if (s->decided > base) { /* the tail of a code point that began in the word before */
        size_t n = s->decided - base;
        uint64_t tail = (1ULL << n) - 1;
        if (s->decided_letter) inside |= tail;
        high &= ~tail;
    }
    while (high) {
        unsigned i = (unsigned)__builtin_ctzll(high);
        size_t at = base + i;
        uint32_t cp = 0;
        int n = mr_decode_utf8(s->text + at, s->len - at, &cp);
        if (n < 0) {
            s->incomplete = at;
            return inside;
        }
        int letter = n > 0 && mr_is_letter(cp);
        size_t step = n > 0 ? (size_t)n : 1;
        uint64_t bits = ((1ULL << step) - 1) << i;
        if (letter) inside |= bits;
        high &= ~bits;
        if (i + step > 64) {
            s->decided = at + step;
            s->decided_letter = letter;
        }
    }
    return inside;
}

static inline void mr_scan_begin(mr_scan *s, const uint8_t *text, size_t len, mr_letters letters, mr_classify_fn f) {
    memset(s, 0, sizeof *s);
    s->text = text;
    s->len = len;
    s->incomplete = len;
    s->letters = letters;
    s->classify = f;
}

/* The tokens that end within the next window, into spans (room for MR_WINDOW_TOKENS); 0 < windows left. */
MR_INLINE size_t mr_scan_window(mr_scan *s, mr_span *spans) {
    uint64_t inside[MR_WINDOW_WORDS], high[MR_WINDOW_WORDS];
    size_t left = s->len - s->at, bytes = left < MR_WINDOW_BYTES ? left : MR_WINDOW_BYTES;
    size_t whole = bytes / 64, words = (bytes + 63) / 64, count = 0;
    s->classify(s->text + s->at, whole, inside, high);
    if (words > whole) {
        uint8_t tail[64];
        size_t rest = bytes - whole * 64;
        memset(tail, ' ', sizeof tail);
        memcpy(tail, s->text + s->at + whole * 64, rest);
        s->classify(tail, 1, inside + whole, high + whole);
    }
    uint64_t carry = (uint64_t)s->open;
    size_t start = s->start;
    for (size_t w = 0; w < words; w++) {
        size_t base = s->at + w * 64;
        uint64_t in = inside[w];
        if (MR_UNLIKELY(high[w] && s->letters == MR_UNICODE)) in = mr_settle_high(s, base, in, high[w]);
        uint64_t edges = in ^ ((in << 1) | carry);
        if (carry) {
            if (!edges) continue;
            size_t end = base + (unsigned)__builtin_ctzll(edges);
            edges &= edges - 1;
            spans[count].start = start;
            spans[count++].len = end - start;
        }
        carry = in >> 63;
        while (edges) {
            start = base + (unsigned)__builtin_ctzll(edges);
            edges &= edges - 1;
            if (!edges) break;
            spans[count].start = start;
            spans[count++].len = base + (unsigned)__builtin_ctzll(edges) - start;
            edges &= edges - 1;
        }
    }
    s->at += bytes;
    if (s->incomplete < s->len) s->at = s->len; /* what follows are the last bytes of the sequence that is cut off */
    /* A token that ends with the text, or at a sequence that the text cuts off, may go on in the next block: reopen. */
    if (s->at == s->len && !carry && count && spans[count - 1].start + spans[count - 1].len == s->incomplete) {
        start = spans[--count].start;
        carry = 1;
    }
    s->open = (int)carry;
    s->start = start;
    return count;
}

/* After the last window: where the bytes that only the next block can decide begin (len when there are none). */
static inline size_t mr_scan_rest(const mr_scan *s) {
    if (s->open) return s->start;
    return s->incomplete;
}

/* Writes the token with each code point lower-cased by itself (str.lower of one character); returns its end.
 * `out` has room for 3 bytes per input byte. */
static uint8_t *mr_lower(const uint8_t *p, size_t n, uint8_t *out) {
    for (size_t i = 0; i < n;) {
        if (p[i] < 0x80) {
            *out++ = (uint8_t)(p[i] | (((uint8_t)(p[i] - 'A') < 26) << 5));
            i++;
            continue;
        }
        uint32_t cp = 0;
        int len = mr_decode_utf8(p + i, n - i, &cp);
        if (len <= 0) {
            *out++ = p[i++];
            continue;
        }
        size_t low = 0, high = MR_LOWER_COUNT;
        while (low < high) {
            size_t mid = (low + high) / 2;
            if (mr_lower_table[mid].cp < cp) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        if (low < MR_LOWER_COUNT && mr_lower_table[low].cp == cp) {
            memcpy(out, mr_lower_table[low].utf8, mr_lower_table[low].len);
            out += mr_lower_table[low].len;
        } else {
            memcpy(out, p + i, (size_t)len);
            out += len;
        }
        i += (size_t)len;
    }
    return out;
}

#endif
