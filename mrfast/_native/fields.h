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

/* Why a line is malformed. */
enum { MR_NO_COLUMN = 1, MR_NO_NUMBER = 2, MR_LONG_NUMBER = 3 };

/* An integer beyond int64 goes through Python's int(), which is quadratic: as many digits as that takes by default. */
#define MR_DECIMAL_DIGITS 4300

typedef struct {
    mr_batch *batch;
    uint8_t sep;
    mr_column key;
    mr_column value; /* column < 0: count lines */
    int skip_bad;
    uint64_t skipped;
    int reason; /* of the last bad line */
    locale_t c_locale;
} mr_fields;

/* A walk over the fields of a line. */
typedef struct {
    const uint8_t *p;      /* where the next field starts; NULL after the last one */
    const uint8_t *end;    /* of the line, without CR LF */
    const uint8_t *origin;
    const uint16_t *marks; /* of the separators from p on; NULL: they are sought */
    int no_quote, no_bracket; /* none closes from here on: a line of unclosed ones is not searched again for each */
} mr_cursor;

/* The first separator at or after p, or the line's end. */
MR_INLINE const uint8_t *mr_cursor_stop(mr_cursor *c, const uint8_t *p, uint8_t sep) {
    const uint8_t *stop;
    if (MR_LIKELY(c->marks != NULL)) {
        stop = c->origin + *c->marks++;
        return stop < c->end ? stop : c->end;
    }
    stop = p < c->end ? (const uint8_t *)memchr(p, sep, (size_t)(c->end - p)) : NULL;
    return stop ? stop : c->end;
}

/* Whether the mark at p closes the field whose opening mark is at `open`: no odd run of backslashes before it. */
MR_INLINE int mr_unescaped(const uint8_t *open, const uint8_t *p) {
    const uint8_t *q = p;
    while (q[-1] == '\\' && q - 1 > open) q--;
    return ((p - q) & 1) == 0;
}

/* The end of a field that begins with `"` or `[`: behind the first closing mark that a separator or the line's end
 * follows. NULL: there is none, and then none for a field further on either, since both see the same escapes. */
static const uint8_t *mr_field_close(mr_cursor *c, uint8_t sep) {
    const uint8_t *open = c->p, *stop = open;
    uint8_t close = *open == '"' ? '"' : ']';
    int *none = *open == '"' ? &c->no_quote : &c->no_bracket;
    mr_cursor ahead = *c;
    if (*none) return NULL;
    do {
        stop = mr_cursor_stop(&ahead, stop + (stop != open), sep);
        if (stop - open >= 2 && stop[-1] == close && (close == ']' || mr_unescaped(open, stop - 1))) {
            c->marks = ahead.marks;
            return stop;
        }
    } while (stop < c->end);
    *none = 1;
    return NULL;
}

/* Reads the field at the cursor and steps past its separator. */
MR_INLINE mr_field mr_field_next(const mr_fields *f, mr_cursor *c) {
    const uint8_t *start = c->p, *stop = NULL;
    mr_field field;
    if (start < c->end && (*start == '"' || (*start == '[' && f->sep == ' '))) stop = mr_field_close(c, f->sep);
    if (stop) {
        field = (mr_field){.p = start + 1, .len = (size_t)(stop - start - 2)};
    } else {
        stop = mr_cursor_stop(c, start, f->sep);
        field = (mr_field){.p = start, .len = (size_t)(stop - start)};
    }
    c->p = stop < c->end ? stop + 1 : NULL;
    return field;
}

/* Bit 7 of each byte that is whitespace. */
MR_INLINE uint64_t mr_space_bytes(uint64_t v) {
    uint64_t low = v & MR_EACH_BYTE(0x7F), blank = low ^ MR_EACH_BYTE(' ');
    uint64_t control = (low + MR_EACH_BYTE(0x80 - 9)) & ~(low + MR_EACH_BYTE(0x80 - 14));
    return (control | ~(blank + MR_EACH_BYTE(0x7F))) & ~v & MR_EACH_BYTE(0x80);
}

/* The first byte from p to `end` that is whitespace, or `end`. */
MR_INLINE const uint8_t *mr_find_space(const uint8_t *p, const uint8_t *end) {
    for (; end - p >= 8; p += 8) {
        uint64_t spaces = mr_space_bytes(mr_load64(p));
        if (spaces) return p + (__builtin_ctzll(spaces) >> 3);
    }
    while (p < end && !mr_is_space(*p)) p++;
    return p;
}

static int mr_field_word(mr_field *field, long word) {
    const uint8_t *p = field->p, *end = p + field->len;
    for (;; word--) {
        while (p < end && mr_is_space(*p)) p++;
        if (p == end) return 0;
        const uint8_t *start = p;
        p = mr_find_space(p, end);
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
        if (!digit && p[i] != '.' && p[i] != 'e' && p[i] != 'E' && p[i] != '+' && p[i] != '-') return MR_NO_NUMBER;
    }
    char here[400], *stop; /* strtod needs a NUL behind the number */
    char *text = n < sizeof here ? here : (char *)malloc(n + 1);
    if (!text) return MR_NOMEM;
    memcpy(text, p, n);
    text[n] = 0;
    double d = strtod_l(text, &stop, f->c_locale);
    int whole = digits && stop == text + n;
    if (text != here) free(text);
    if (!whole) return MR_NO_NUMBER;
    memcpy(&v->number, &d, 8);
    v->tag = MR_FLOAT;
    return MR_OK;
}

/* The number that the 1 to 8 bytes before `end` spell; -1: one is no digit. Eight bytes are read there. */
MR_INLINE int64_t mr_digits(const uint8_t *end, size_t n) {
    unsigned absent = 64 - 8 * (unsigned)n;
    uint64_t v = (mr_load64(end - 8) >> absent << absent) | (MR_EACH_BYTE('0') & ((1ULL << absent) - 1));
    uint64_t high = v & MR_EACH_BYTE(0xF0), above = (v + MR_EACH_BYTE(6)) & MR_EACH_BYTE(0xF0);
    if ((high | above >> 4) != MR_EACH_BYTE(0x33)) return -1;
    v = (v & MR_EACH_BYTE(0x0F)) * ((10 << 8) + 1) >> 8; /* the first digit is the lowest byte */
    v = (v & 0x00FF00FF00FF00FFULL) * ((100 << 16) + 1) >> 16;
    v = (v & 0x0000FFFF0000FFFFULL) * ((10000ULL << 32) + 1) >> 32;
    return (int64_t)v;
}

/* The number of a column: digits make an int, a point or an exponent a float; "-" is 0 (common log format).
 * Gives MR_OK, MR_NOMEM, or why it is none. The field lies in a text that starts at `text`. */
static int mr_number(const mr_fields *f, mr_field field, const uint8_t *text, mr_value *v) {
    const uint8_t *p = field.p;
    size_t n = field.len;
    if (MR_LIKELY(n - 1 < 8 && (size_t)(p - text) + n >= 8)) {
        int64_t number = mr_digits(p + n, n);
        if (MR_LIKELY(number >= 0)) {
            *v = (mr_value){.bytes = NULL, .len = 0, .number = (uint64_t)number, .tag = MR_INT};
            return MR_OK;
        }
    }
    while (n && mr_is_space(p[0])) p++, n--;
    while (n && mr_is_space(p[n - 1])) n--;
    *v = (mr_value){.bytes = p, .len = 0, .number = 0, .tag = MR_INT};
    if (n == 1 && *p == '-') return MR_OK;
    size_t sign = n && (*p == '-' || *p == '+');
    if (n == sign) return MR_NO_NUMBER;
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
        if (n - sign > MR_DECIMAL_DIGITS) return MR_LONG_NUMBER;
        v->tag = MR_DECIMAL;
        v->len = n;
    }
    return MR_OK;
}

static int mr_bad_line(mr_fields *f, int reason) {
    f->reason = reason;
    if (!f->skip_bad) return MR_BAD_LINE;
    f->skipped++;
    return MR_OK;
}

static int mr_emit_fields(void *context, const mr_line *line) {
    mr_fields *f = (mr_fields *)context;
    const uint8_t *end = line->end;
    if (end > line->start && end[-1] == '\r') end--;
    mr_cursor c = {.p = line->start, .end = end, .origin = line->origin, .marks = line->marks};
    mr_field key = {NULL, 0}, value = {NULL, 0};
    long last = f->key.column > f->value.column ? f->key.column : f->value.column;
    for (long i = 0; i <= last; i++) {
        if (!c.p) return mr_bad_line(f, MR_NO_COLUMN);
        mr_field field = mr_field_next(f, &c);
        if (i == f->key.column) key = field;
        if (i == f->value.column) value = field;
    }
    if (f->key.word >= 0 && !mr_field_word(&key, f->key.word)) return mr_bad_line(f, MR_NO_COLUMN);
    mr_value v = {.bytes = NULL, .len = 0, .number = 1, .tag = MR_INT};
    if (f->value.column >= 0) {
        if (f->value.word >= 0 && !mr_field_word(&value, f->value.word)) return mr_bad_line(f, MR_NO_COLUMN);
        int why = mr_number(f, value, line->text, &v);
        if (MR_UNLIKELY(why != MR_OK)) return why < 0 ? why : mr_bad_line(f, why);
    }
    return mr_batch_add(f->batch, key.p, key.len, &v, line->limit - key.p >= MR_INLINE_KEY);
}

#endif
