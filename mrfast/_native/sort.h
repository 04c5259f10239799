/* Stable sort of keys by their bytes: radix on an eight-byte big-endian prefix, then the ties by what is left. */
#ifndef MRFAST_SORT_H
#define MRFAST_SORT_H

#include "base.h"

/* A key and where its record is found; `ref` is the caller's. */
typedef struct {
    uint64_t prefix;
    const uint8_t *key;
    uint32_t key_len;
    uint32_t ref;
} mr_entry;

MR_INLINE int mr_entry_compare(const mr_entry *a, const mr_entry *b) {
    if (a->prefix != b->prefix) return a->prefix < b->prefix ? -1 : 1;
    return mr_compare(a->key, a->key_len, b->key, b->key_len);
}

MR_INLINE int mr_entry_same(const mr_entry *a, const mr_entry *b) {
    return a->prefix == b->prefix && a->key_len == b->key_len &&
           (a->key_len <= 8 || !memcmp(a->key + 8, b->key + 8, a->key_len - 8));
}

static void mr_sort_insertion(mr_entry *a, size_t n, int whole) {
    for (size_t i = 1; i < n; i++) {
        mr_entry e = a[i];
        size_t j = i;
        for (; j && (whole ? mr_entry_compare(&e, &a[j - 1]) < 0 : e.prefix < a[j - 1].prefix); j--) a[j] = a[j - 1];
        a[j] = e;
    }
}

/* Bottom-up merge sort by the whole keys, or by the prefixes alone; scratch has n entries. Never worse than n log n
 * compares, whatever the keys. */
MR_INLINE void mr_sort_merge(mr_entry *a, mr_entry *scratch, size_t n, int whole) {
    const size_t run = 16;
    for (size_t i = 0; i < n; i += run) mr_sort_insertion(a + i, n - i < run ? n - i : run, whole);
    for (size_t width = run; width < n; width *= 2) {
        for (size_t i = 0; i + width < n; i += 2 * width) {
            size_t right = i + width, end = n - i < 2 * width ? n : i + 2 * width;
            memcpy(scratch, a + i, width * sizeof *a);
            size_t l = 0, r = right, out = i;
            while (l < width && r < end) {
                int take = whole ? mr_entry_compare(&a[r], &scratch[l]) < 0 : a[r].prefix < scratch[l].prefix;
                a[out++] = take ? a[r++] : scratch[l++];
            }
            memcpy(a + out, scratch + l, (width - l) * sizeof *a);
        }
    }
}

#define MR_RADIX_THRESHOLD 512

/* Stable, by the prefixes alone: least significant byte first, without the bytes that all have in common. */
static void mr_sort_radix(mr_entry *a, mr_entry *scratch, size_t n) {
    size_t counts[8][256];
    memset(counts, 0, sizeof counts);
    int sorted = 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t p = a[i].prefix;
        sorted &= !i || a[i - 1].prefix <= p;
        for (unsigned b = 0; b < 8; b++) counts[b][(p >> (8 * b)) & 0xFF]++;
    }
    mr_entry *from = a, *to = scratch;
    for (unsigned b = 0; b < 8 && !sorted; b++) {
        if (counts[b][(a[0].prefix >> (8 * b)) & 0xFF] == n) continue;
        size_t at = 0;
        for (unsigned v = 0; v < 256; v++) {
            size_t here = counts[b][v];
            counts[b][v] = at;
            at += here;
        }
        for (size_t i = 0; i < n; i++) to[counts[b][(from[i].prefix >> (8 * b)) & 0xFF]++] = from[i];
        mr_entry *swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, n * sizeof *a);
}

/* So many bytes of a key are sorted eight at a time; keys that share more are compared whole. */
#define MR_SORT_DEPTH 64

/* Sorts entries whose keys share their first `depth` bytes, and whose prefixes are the next eight. */
static void mr_sort_from(mr_entry *a, mr_entry *scratch, size_t n, size_t depth) {
    if (n < MR_RADIX_THRESHOLD) {
        mr_sort_merge(a, scratch, n, 0);
    } else {
        mr_sort_radix(a, scratch, n);
    }
    for (size_t i = 0, j; i < n; i = j) {
        uint64_t prefix = a[i].prefix;
        uint32_t shortest = a[i].key_len;
        int differ = 0;
        for (j = i + 1; j < n && a[j].prefix == prefix; j++) {
            differ |= !mr_entry_same(&a[j], &a[i]);
            if (a[j].key_len < shortest) shortest = a[j].key_len;
        }
        if (!differ) continue;
        if (shortest <= depth + 8 || depth + 16 > MR_SORT_DEPTH) { /* a zero byte of one may be the end of another */
            mr_sort_merge(a + i, scratch, j - i, 1);
            continue;
        }
        for (size_t k = i; k < j; k++) a[k].prefix = mr_prefix(a[k].key + depth + 8, a[k].key_len - depth - 8);
        mr_sort_from(a + i, scratch, j - i, depth + 8);
        for (size_t k = i; k < j; k++) a[k].prefix = prefix;
    }
}

/* Sorts a by (key bytes, position); scratch has n entries. O(n) passes over eight bytes at a time, never worse than
 * n log n compares. */
static void mr_sort(mr_entry *a, mr_entry *scratch, size_t n) { mr_sort_from(a, scratch, n, 0); }

#endif
