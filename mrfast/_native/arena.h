/* Bytes that never move once written: chunks that double up to 4 MiB, freed together. */
#ifndef MRFAST_ARENA_H
#define MRFAST_ARENA_H

#include "base.h"

typedef struct mr_chunk {
    struct mr_chunk *previous;
    size_t size;
} mr_chunk;

typedef struct {
    mr_chunk *chunk;
    uint8_t *next;
    uint8_t *end;
    size_t chunk_bytes;
    size_t total_bytes;
} mr_arena;

/* Room for n bytes (8-byte aligned when `aligned`), or NULL when memory is out. */
static inline uint8_t *mr_arena_take(mr_arena *a, size_t n, int aligned) {
    uint8_t *at = a->next;
    if (aligned && at) at += (8 - ((uintptr_t)at & 7)) & 7;
    if (MR_LIKELY(at && at <= a->end && (size_t)(a->end - at) >= n)) {
        a->next = at + n;
        return at;
    }
    size_t size = a->chunk_bytes ? a->chunk_bytes : 64 << 10;
    if (a->chunk_bytes < (4U << 20)) a->chunk_bytes = size * 2;
    size_t need;
    if (__builtin_add_overflow(n, sizeof(mr_chunk) + 8, &need)) return NULL;
    if (size < need) size = need;
    mr_chunk *chunk = (mr_chunk *)mr_pages_take(1, size);
    if (!chunk) return NULL;
    chunk->previous = a->chunk;
    chunk->size = size;
    a->chunk = chunk;
    a->total_bytes += size;
    at = (uint8_t *)(chunk + 1);
    a->next = at + n;
    a->end = (uint8_t *)chunk + size;
    return at;
}

/* Forgets what was taken; the newest chunk is kept for what comes. */
static inline void mr_arena_reset(mr_arena *a) {
    mr_chunk *newest = a->chunk;
    if (!newest) return;
    for (mr_chunk *chunk = newest->previous; chunk;) {
        mr_chunk *previous = chunk->previous;
        mr_pages_free(chunk, chunk->size);
        chunk = previous;
    }
    newest->previous = NULL;
    a->total_bytes = newest->size;
    a->next = (uint8_t *)(newest + 1);
}

static inline void mr_arena_free(mr_arena *a) {
    for (mr_chunk *chunk = a->chunk; chunk;) {
        mr_chunk *previous = chunk->previous;
        mr_pages_free(chunk, chunk->size);
        chunk = previous;
    }
    memset(a, 0, sizeof *a);
}

#endif
