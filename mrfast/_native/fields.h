/* Columns of delimited lines: find two of them without splitting the rest, read a number, emit. */
#ifndef MRFAST_FIELDS_H
#define MRFAST_FIELDS_H

#include "lines.h" /* first: it asks the system headers for strtod_l */

#if defined(__APPLE__)
#include <xlocale.h>
#endif
#include <locale.h>

typedef struct {
    const uint8_t *p;
    size_t len;
} mr_field;

/* A column, and with word >= 0 a whitespace-separated word inside it. */
typedef struct {
    long column;
    long word;
} mr_column;

enum { MR_NO_COLUMN = 1, MR_NO_NUMBER = 2 };

typedef struct {
    mr_sink *sink;
    uint8_t sep;
    mr_column key;
    mr_column value; /* column < 0: count lines */
    int skip_bad;
    uint64_t skipped;
    int reason;      /* of the last bad line: MR_NO_COLUMN or MR_NO_NUMBER */
    locale_t c_locale;
} mr_fields;

MR_INLINE int mr_field_closes(const mr_fields *f, const uint8_t *p, const uint8_t *end) {
    return p + 1 == end || p[1] == f->sep;
}

/* The closing mark of a field that began with `"` or `[`: the first one with a separator or the end behind it. */
static const uint8_t *mr_field_close(const mr_fields *f, const uint8_t *p, const uint8_t *end, uint8_t close) {
    for (; p < end; p++) {
        if (*p == '\\' && close == '"') {
            p++;
        } else if (*p == close && mr_field_closes(f, p, end)) {
            return p;
        }
    }
    return NULL;
}

/* Reads the field at *p and steps past its separator; *p is NULL after the last one. */
static mr_field mr_field_next(const mr_fields *f, const uint8_t **p, const uint8_t *end) {
    const uint8_t *start = *p, *stop = NULL;
    mr_field field;
    int marked = start < end && (*start == '"' || (*start == '[' && f->sep == ' ')) && *start != f->sep;
    if (marked) stop = mr_field_close(f, start + 1, end, *start == '"' ? '"' : ']');
    if (stop) {
        field = (mr_field){.p = start + 1, .len = (size_t)(stop - start - 1)};
        stop++;
    } else {
        stop = start < end ? (const uint8_t *)memchr(start, f->sep, (size_t)(end - start)) : NULL;
        if (!stop) stop = end;
        field = (mr_field){.p = start, .len = (size_t)(stop - start)};
    }
    *p = stop < end ? stop + 1 : NULL;
    return field;
}

static int mr_field_word(mr_field *field, long word) {
    const uint8_t *p = field->p, *end = p + field->len;
    for (;; word--) {
        while (p < end && mr_is_space(*p)) p++;
        if (p == end) return 0;
        const uint8_t *start = p;
        while (p < end && !mr_is_space(*p)) p++;
        if (word == 0) {
            *field = (mr_field){.p = start, .len = (size_t)(p - start)};
            return 1;
        }
    }
}

static int mr_number_float(const mr_fields *f, const uint8_t *p, size_t n, mr_value *v) {
    size_t digits = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = (uint8_t)(p[i] - '0') < 10;
        digits += (size_t)digit;
        if (!digit && p[i] != '.' && p[i] != 'e' && p[i] != 'E' && p[i] != '+' && p[i] != '-') return 0;
    }
    char here[400], *stop; /* strtod needs a NUL behind the number */
    char *text = n < sizeof here ? here : (char *)malloc(n + 1);
    if (!text) return MR_NOMEM;
    memcpy(text, p, n);
    text[n] = 0;
    double d = strtod_l(text, &stop, f->c_locale);
    int whole = digits && stop == text + n;
    if (text != here) free(text);
    if (!whole) return 0;
    memcpy(&v->number, &d, 8);
    v->tag = MR_FLOAT;
    return 1;
}

/* The number of a column: digits make an int, a point or an exponent a float; "-" is 0 (common log format).
 * Gives 1, 0 when it is none, or MR_NOMEM. */
static int mr_number(const mr_fields *f, mr_field field, mr_value *v) {
    const uint8_t *p = field.p;
    size_t n = field.len;
    while (n && mr_is_space(p[0])) p++, n--;
    while (n && mr_is_space(p[n - 1])) n--;
    *v = (mr_value){.bytes = p, .len = 0, .number = 0, .tag = MR_INT};
    if (n == 1 && *p == '-') return 1;
    size_t sign = n && (*p == '-' || *p == '+');
    if (n == sign) return 0;
    int64_t total = 0;
    int overflow = 0;
    for (size_t i = sign; i < n; i++) {
        uint8_t digit = (uint8_t)(p[i] - '0');
        if (digit > 9) return mr_number_float(f, p, n, v);
        overflow |= __builtin_mul_overflow(total, 10, &total);
        overflow |= __builtin_sub_overflow(total, (int64_t)digit, &total); /* negative: reaches INT64_MIN */
    }
    if (*p != '-') overflow |= __builtin_sub_overflow((int64_t)0, total, &total);
    v->number = (uint64_t)total;
    if (overflow) {
        v->tag = MR_DECIMAL;
        v->len = n;
    }
    return 1;
}

static int mr_bad_line(mr_fields *f, int reason) {
    f->reason = reason;
    if (!f->skip_bad) return MR_BAD_LINE;
    f->skipped++;
    return MR_OK;
}

static int mr_emit_fields(void *context, const uint8_t *line, size_t len) {
    mr_fields *f = (mr_fields *)context;
    if (len && line[len - 1] == '\r') len--;
    const uint8_t *p = line, *end = line + len;
    mr_field key = {NULL, 0}, value = {NULL, 0};
    long last = f->key.column > f->value.column ? f->key.column : f->value.column;
    for (long i = 0; i <= last; i++) {
        if (!p) return mr_bad_line(f, MR_NO_COLUMN);
        mr_field field = mr_field_next(f, &p, end);
        if (i == f->key.column) key = field;
        if (i == f->value.column) value = field;
    }
    if (f->key.word >= 0 && !mr_field_word(&key, f->key.word)) return mr_bad_line(f, MR_NO_COLUMN);
    mr_value v = {.bytes = NULL, .len = 0, .number = 1, .tag = MR_INT};
    if (f->value.column >= 0) {
        if (f->value.word >= 0 && !mr_field_word(&value, f->value.word)) return mr_bad_line(f, MR_NO_COLUMN);
        int is_number = mr_number(f, value, &v);
        if (is_number < 0) return is_number;
        if (!is_number) return mr_bad_line(f, MR_NO_NUMBER);
    }
    return mr_sink_add(f->sink, key.p, key.len, &v, end - key.p >= MR_INLINE_KEY);
}

#endif
