/* Memory for what may grow large: from some size on whole pages of the system's own, huge ones where it has them.
 *
 * Filling fresh memory by faults of 4 KiB costs more than what is written, and what the allocator keeps of freed memory
 * counts as ours: a mapping is gone at once when it is freed, and moves without a copy when it grows. */
#ifndef MRFAST_PAGES_H
#define MRFAST_PAGES_H

/* mremap, memmem, strtod_l; before the first system header. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>

#define MR_HUGE_PAGE ((size_t)2 << 20)
#ifndef MR_PAGES_FROM
#define MR_PAGES_FROM ((size_t)1 << 20)
#endif

/* Mappings end at a border that every page size divides. */
static inline size_t mr_pages_round(size_t bytes) { return (bytes + 65535) & ~(size_t)65535; }

/* A mapping that starts at a huge page's border, which the system asks of it before it uses one. */
static void *mr_pages_map(size_t bytes) {
    size_t slack = MR_HUGE_PAGE;
    uint8_t *p = (uint8_t *)mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t before = (size_t)(-(uintptr_t)p & (MR_HUGE_PAGE - 1));
    if (before) munmap(p, before);
    if (slack > before) munmap(p + before + bytes, slack - before);
    madvise(p + before, bytes, MADV_HUGEPAGE); /* advice: without huge pages it is just slower */
    return p + before;
}
#endif

static inline void mr_pages_free(void *p, size_t bytes) {
#if defined(__linux__)
    if (bytes >= MR_PAGES_FROM) {
        if (p) munmap(p, mr_pages_round(bytes));
        return;
    }
#endif
    (void)bytes;
    free(p);
}

/* The block with `bytes`, of which those after `old_bytes` are zero; NULL, and the old block is left, when memory is
 * out. Large blocks grow by moving their pages: old and new never both take memory. */
static void *mr_pages_grow(void *old, size_t old_bytes, size_t bytes) {
    void *p;
    if (bytes > SIZE_MAX / 4) return NULL;
#if defined(__linux__)
    if (bytes >= MR_PAGES_FROM) {
        size_t held = mr_pages_round(old_bytes);
        if (!(p = mr_pages_map(mr_pages_round(bytes)))) return NULL;
        if (old_bytes >= MR_PAGES_FROM && mremap(old, held, held, MREMAP_MAYMOVE | MREMAP_FIXED, p) != MAP_FAILED) {
            return p;
        }
    } else
#endif
        if (!(p = calloc(bytes ? bytes : 1, 1)))
        return NULL;
    if (old_bytes) memcpy(p, old, old_bytes);
    mr_pages_free(old, old_bytes);
    return p;
}

/* Zeroed memory; mr_pages_free() takes it back. */
static inline void *mr_pages_take(size_t count, size_t size) {
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : mr_pages_grow(NULL, 0, bytes);
}

#endif
