/* What the native tests share: a check that stops the program, a fixed random stream, blocks with no slack. */
#ifndef MRFAST_TESTS_CHECK_H
#define MRFAST_TESTS_CHECK_H

#include "../../mrfast/_native/sink.h"

#include <stdio.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint64_t random_state = 42;

static uint64_t random64(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

static size_t below(size_t n) { return (size_t)(random64() % n); }

/* Exactly n bytes of heap, so that a read past them is a read past the block. */
static uint8_t *exact(const void *bytes, size_t n) {
    uint8_t *p = (uint8_t *)malloc(n ? n : 1);
    CHECK(p);
    if (n) memcpy(p, bytes, n);
    return p;
}

/* The keys of a sink's log in emit order, each followed by LF. */
static void log_keys(const mr_sink *s, mr_buffer *out) {
    mr_record r;
    for (const uint8_t *p = s->log.data, *end = p + s->log.len; p < end; p = r.end) {
        CHECK(mr_get_record(p, end, &r) == MR_OK);
        CHECK(mr_buffer_append(out, r.key, r.key_len) == MR_OK);
        CHECK(mr_buffer_append(out, "\n", 1) == MR_OK);
    }
}

#endif
