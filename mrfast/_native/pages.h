/* Zeroed memory for tables: from some size on whole pages of the system, huge ones where it has them. */
#ifndef MRFAST_PAGES_H
#define MRFAST_PAGES_H

#include "base.h"

#if defined(__linux__)
#include <sys/mman.h>

#define MR_HUGE_PAGE ((size_t)2 << 20)
#ifndef MR_PAGES_FROM
#define MR_PAGES_FROM ((size_t)1 << 20)
#endif

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
        munmap(p, bytes);
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
#if defined(__linux__)
    if (bytes >= MR_PAGES_FROM) {
        if (!(p = mr_pages_map(bytes))) return NULL;
        if (old_bytes >= MR_PAGES_FROM &&
            mremap(old, old_bytes, old_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, p) != MAP_FAILED) {
            return p;
        }
    } else
#endif
        if (!(p = calloc(bytes, 1)))
        return NULL;
    if (old_bytes) memcpy(p, old, old_bytes);
    mr_pages_free(old, old_bytes);
    return p;
}

#endif
