/* Lines, fields and numbers under sanitizers, held against naive C. Usage as of test_native. */
#include "../../mrfast/_native/fields.h"
#include "check.h"

/* Text of lines, fields, quotes and numbers; now and then a stretch that no window of marks holds. */
static size_t random_lines(uint8_t *text, size_t room, uint8_t sep) {
    static const char alphabet[] = "ab1-. \"[]\\,\n\n\r\t";
    size_t n = 0;
    while (n < room) {
        if (below(400)) {
            text[n++] = below(4) ? (uint8_t)alphabet[below(sizeof alphabet - 1)] : sep;
            continue;
        }
        size_t run = below(2 * MR_MARK_BYTES) + 1;
        uint8_t c = below(2) ? 'x' : sep;
        for (; run && n < room; run--) text[n++] = c;
    }
    return n;
}

static const uint8_t *naive_close(const uint8_t *p, const uint8_t *end, uint8_t close, uint8_t sep) {
    for (; p < end; p++) {
        if (*p == '\\' && close == '"') {
            p++;
        } else if (*p == close && (p + 1 == end || p[1] == sep)) {
            return p;
        }
    }
    return NULL;
}

/* Column `which` of a line; 0 if it has none. */
static int naive_column(const uint8_t *p, const uint8_t *end, uint8_t sep, long which, mr_field *field) {
    for (;; which--) {
        const uint8_t *stop = NULL;
        if (p < end && (*p == '"' || (*p == '[' && sep == ' '))) stop = naive_close(p + 1, end, *p == '"' ? '"' : ']', sep);
        if (stop) {
            *field = (mr_field){p + 1, (size_t)(stop - p - 1)};
            stop++;
        } else {
            for (stop = p; stop < end && *stop != sep;) stop++;
            *field = (mr_field){p, (size_t)(stop - p)};
        }
        if (!which || stop == end) return !which;
        p = stop + 1;
    }
}

/* Column `key` of each line that has it, each followed by LF. */
static void naive_fields(const uint8_t *text, size_t n, const mr_fields *f, mr_buffer *out) {
    for (const uint8_t *p = text, *end = text + n, *stop; p < end; p = stop + 1) {
        for (stop = p; stop < end && *stop != '\n';) stop++;
        mr_field field;
        if (!naive_column(p, stop > p && stop[-1] == '\r' ? stop - 1 : stop, f->sep, f->key.column, &field)) continue;
        CHECK(mr_buffer_append(out, field.p, field.len) == MR_OK && mr_buffer_append(out, "\n", 1) == MR_OK);
    }
}

static void same_bytes(mr_buffer *a, mr_buffer *b) {
    CHECK(a->len == b->len && (!a->len || !memcmp(a->data, b->data, a->len)));
    mr_buffer_free(a);
    mr_buffer_free(b);
}

/* The keys that a source puts into the log of a sink, whatever the cuts; and as many pairs where a sink combines. */
static void test_lines_and_fields(locale_t c_locale, mr_simd simd, size_t room, int whole_lines) {
    uint8_t *text = (uint8_t *)malloc(room + 1);
    CHECK(text);
    mr_sink sinks[2];
    mr_lines lines[2];
    mr_batch batches[2];
    mr_fields fields[2];
    memset(sinks, 0, sizeof sinks);
    memset(lines, 0, sizeof lines);
    memset(batches, 0, sizeof batches);
    memset(fields, 0, sizeof fields);
    fields[0].sep = fields[1].sep = (uint8_t) " ,\xFF"[below(3)];
    fields[0].key = fields[1].key = (mr_column){(long)below(3), -1};
    size_t n = random_lines(text, room, fields[0].sep), line_count = 0;
    for (size_t i = 0; i < n; i++) line_count += text[i] == '\n' || i == n - 1;
    sinks[1].combine = MR_OP_COUNT;
    for (int i = 0; i < 2; i++) {
        lines[i].mark = mr_marker(simd);
        lines[i].sep = whole_lines ? '\n' : fields[i].sep;
        batches[i].sink = &sinks[i];
        lines[i].batch = fields[i].batch = &batches[i];
        fields[i].value = (mr_column){-1, -1};
        fields[i].skip_bad = 1;
        fields[i].c_locale = c_locale;
        mr_line_fn handle = whole_lines ? mr_emit_line : mr_emit_fields;
        void *context = whole_lines ? (void *)&batches[i] : (void *)&fields[i];
        for (size_t at = 0; at < n;) {
            size_t take = below(3) ? below(300) + 1 : below(30000) + 1;
            if (take > n - at) take = n - at;
            uint8_t *block = exact(text + at, take);
            CHECK(mr_lines_feed(&lines[i], block, take, handle, context) == MR_OK);
            free(block);
            at += take;
        }
        CHECK(mr_lines_end(&lines[i], handle, context) == MR_OK);
        CHECK(sinks[i].records_in + fields[i].skipped == line_count);
    }
    mr_buffer found = {NULL, 0, 0}, expected = {NULL, 0, 0};
    log_keys(&sinks[0], &found);
    if (whole_lines) {
        CHECK(mr_buffer_append(&expected, text, n) == MR_OK);
        if (n && text[n - 1] != '\n') CHECK(mr_buffer_append(&expected, "\n", 1) == MR_OK);
    } else {
        naive_fields(text, n, &fields[0], &expected);
    }
    uint64_t counted = 0;
    for (size_t i = 0; i < sinks[1].table.capacity; i++) counted += sinks[1].table.slots[i].number;
    CHECK(counted == sinks[0].log_records);
    same_bytes(&found, &expected);
    for (int i = 0; i < 2; i++) {
        mr_buffer_free(&lines[i].carry);
        mr_sink_free(&sinks[i]);
    }
    free(text);
}

/* Numbers of every length, at the start and in the middle of a text, against digit by digit. */
static void test_numbers(locale_t c_locale, size_t rounds) {
    mr_fields f;
    memset(&f, 0, sizeof f);
    f.c_locale = c_locale;
    for (size_t round = 0; round < rounds; round++) {
        uint8_t text[40];
        size_t before = below(12), n = below(22) + 1, bad = below(4) ? n : below(n);
        memset(text, '7', sizeof text);
        for (size_t i = 0; i < n; i++) text[before + i] = (uint8_t)('0' + below(10));
        if (bad < n) text[before + bad] = (uint8_t)"/:x\x80\xB5"[below(5)];
        uint8_t *p = exact(text, before + n);
        mr_value v;
        int is_number = mr_number(&f, (mr_field){p + before, n}, p, &v) == MR_OK;
        uint64_t total = 0;
        int overflow = 0;
        for (size_t i = 0; i < n; i++) {
            overflow |= __builtin_mul_overflow(total, 10, &total);
            overflow |= __builtin_add_overflow(total, (uint64_t)(p[before + i] - '0'), &total);
        }
        overflow |= total > (uint64_t)INT64_MAX;
        CHECK(is_number == (bad == n));
        CHECK(!is_number || v.tag == (overflow ? MR_DECIMAL : MR_INT));
        CHECK(!is_number || overflow || v.number == total);
        free(p);
    }
}

static void test_columns(size_t rounds) {
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", NULL);
    CHECK(c_locale);
    for (size_t i = 0; i < rounds; i++) {
        mr_simd simd = (mr_simd)below(MR_SIMD_AVX512 + 1);
        if (!mr_simd_runs(simd)) simd = MR_SIMD_SCALAR;
        test_lines_and_fields(c_locale, simd, below(8) ? below(400) : below(40000), (int)below(2));
    }
    test_numbers(c_locale, rounds * 10);
    freelocale(c_locale);
}

int main(int argc, char **argv) {
    test_columns(argc > 1 ? (size_t)strtoull(argv[1], NULL, 10) * 3 : 900);
    puts("ok");
    return 0;
}
