/* Keys and values as a part's text: escaped so that every line parses back exactly. */
#ifndef MRFAST_FORMAT_H
#define MRFAST_FORMAT_H

#include "record.h"

typedef enum { MR_TEXT = 0, MR_TSV = 1, MR_RAW = 2, MR_RECORDS = 3 } mr_format;

/* What follows the backslash for a byte that a field may not hold as it is; 0 for all others. */
typedef struct {
    uint8_t letter[256];
} mr_escapes;

static const mr_escapes mr_escape_key = {.letter = {['\\'] = '\\', [' '] = 's', ['\n'] = 'n'}};
static const mr_escapes mr_escape_value = {.letter = {['\\'] = '\\', ['\n'] = 'n'}};
static const mr_escapes mr_escape_tsv = {.letter = {['\\'] = '\\', ['\t'] = 't', ['\n'] = 'n'}};
static const mr_escapes mr_escape_none = {.letter = {0}};

static int mr_put_escaped(mr_buffer *out, const uint8_t *p, size_t n, const mr_escapes *escapes) {
    if (escapes == &mr_escape_none) return mr_buffer_append(out, p, n);
    size_t room;
    if (__builtin_mul_overflow(n, (size_t)2, &room)) return MR_NOMEM;
    MR_TRY(mr_buffer_reserve(out, room));
    uint8_t *to = out->data + out->len;
    for (size_t i = 0; i < n; i++) {
        uint8_t letter = escapes->letter[p[i]];
        *to = '\\';
        to += letter != 0;
        *to++ = letter ? letter : p[i];
    }
    out->len = (size_t)(to - out->data);
    return MR_OK;
}

static int mr_put_int(mr_buffer *out, int64_t v) {
    char digits[20];
    size_t n = sizeof digits;
    uint64_t rest = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        digits[--n] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (v < 0) MR_TRY(mr_buffer_append(out, "-", 1));
    return mr_buffer_append(out, digits + n, sizeof digits - n);
}

/* MR_NEEDS_PYTHON for the values whose text only Python writes: floats, big integers, states. */
static int mr_put_value(mr_buffer *out, const mr_value *v, const mr_escapes *escapes) {
    switch (v->tag) {
        case MR_NULL: return mr_buffer_append(out, "null", 4);
        case MR_TRUE: return mr_buffer_append(out, "true", 4);
        case MR_FALSE: return mr_buffer_append(out, "false", 5);
        case MR_INT: return mr_put_int(out, (int64_t)v->number);
        case MR_BYTES:
        case MR_STR:
        case MR_JSON: return mr_put_escaped(out, v->bytes, v->len, escapes);
        default: return MR_NEEDS_PYTHON;
    }
}

#endif
