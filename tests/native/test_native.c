/* The kernels by themselves, under sanitizers: random inputs from a fixed seed, each held against naive C.
 * Usage: test_native [rounds]. Prints the first difference and exits 1. */
#include "../../mrfast/_native/batch.h"
#include "../../mrfast/_native/crc32c.h"
#include "../../mrfast/_native/drain.h"
#include "../../mrfast/_native/format.h"
#include "../../mrfast/_native/reduce.h"
#include "../../mrfast/_native/words.h"
#include "check.h"

/* -- hash ---------------------------------------------------------------------------------------------------------- */

/* Values of the reference implementation, for byte i = (i * 131 + 7) & 255: each length class of the algorithm. */
static const struct {
    size_t len;
    uint64_t digest;
} hashes[] = {
    {0, 0x2d06800538d394c2ULL},
    {1, 0x4c5cca45d0f4811fULL},
    {2, 0x29c60963cbfa4e6eULL},
    {3, 0x6e3e2670e61106acULL},
    {4, 0x5c4c63133443d03fULL},
    {7, 0x46a5c724d51fe43fULL},
    {8, 0xf9fd4dd0b04d78f5ULL},
    {9, 0x7c20df9712c26edfULL},
    {15, 0xb345a7b2698ba575ULL},
    {16, 0x86abf6baccea0858ULL},
    {17, 0xb58bf5dc5022d071ULL},
    {32, 0xe3712ed84c04a66eULL},
    {33, 0xa4dee99b093e1f73ULL},
    {63, 0x30ca01f63dcc223bULL},
    {64, 0x1291d2d4042330ddULL},
    {65, 0x97c6bf83217e5ec9ULL},
    {96, 0x81296929fc063365ULL},
    {97, 0xf145a45b658ab9ddULL},
    {127, 0xed4cf62104020db5ULL},
    {128, 0x10d17f72c0ccba41ULL},
    {129, 0x1648bdc3db49d1a2ULL},
    {143, 0xd05ced598f7f87b3ULL},
    {144, 0xb46dbfc6d9e31abaULL},
    {160, 0x655c8dc33b4b4c4aULL},
    {239, 0xf0d154819adb16cdULL},
    {240, 0xb6cfaf343fab81e6ULL},
    {241, 0x956cae592c67279eULL},
    {255, 0x64a6073025eb7929ULL},
    {256, 0xb15e550733c5dfacULL},
    {257, 0x87b3bf2d941cf085ULL},
    {511, 0x5a17da924907228aULL},
    {512, 0xa0e9790eb93990d7ULL},
    {1023, 0xa94ffcd2254368e4ULL},
    {1024, 0x70bd377d9574f4bbULL},
    {1025, 0x66c4487c41e127a7ULL},
    {2049, 0x581cd184fd9b76c5ULL},
    {4096, 0x9ddd66c14af0daffULL},
    {10000, 0x9e5d23d943285455ULL},
};

static void test_hash(void) {
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
        uint8_t *p = exact("", 0);
        free(p);
        p = (uint8_t *)malloc(hashes[i].len + 1);
        CHECK(p);
        for (size_t k = 0; k < hashes[i].len; k++) p[k] = (uint8_t)(k * 131 + 7);
        uint8_t *q = exact(p, hashes[i].len);
        CHECK(mr_xxh3_64(q, hashes[i].len) == hashes[i].digest);
        free(p);
        free(q);
    }
}

/* Bit by bit, over two pieces at a time as a caller may hand them over. */
static void test_crc32c(void) {
    static const size_t lengths[] = {0, 1, 7, 8, 9, 63, 4096, 24575, 24576, 24577, 49152, 60001};
    mr_crc32c_init();
    CHECK(mr_crc32c_scalar(0, (const uint8_t *)"123456789", 9) == 0xe3069283u);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        size_t n = lengths[k], cut = n / 3;
        uint8_t *p = (uint8_t *)malloc(n + 1);
        uint32_t right = ~0u;
        CHECK(p);
        for (size_t i = 0; i < n; i++) {
            p[i] = (uint8_t)(i * 131 + (i >> 8) + 7);
            right ^= p[i];
            for (int bit = 0; bit < 8; bit++) right = (right >> 1) ^ (right & 1 ? 0x82f63b78u : 0);
        }
        uint8_t *q = exact(p, n);
        for (int simd = MR_SIMD_SCALAR; simd <= MR_SIMD_AVX512; simd++) {
            if (!mr_simd_runs((mr_simd)simd)) continue;
            mr_crc32c_fn f = mr_crc32c((mr_simd)simd);
            CHECK(f(0, q, n) == ~right);
            CHECK(f(f(0, q, cut), q + cut, n - cut) == ~right);
        }
        free(p);
        free(q);
    }
}

/* -- tokens -------------------------------------------------------------------------------------------------------- */

static size_t random_text(uint8_t *p, size_t room) {
    static const char *const pieces[] = {
        "a", "Zq", " ", "\n", "\xC3\xA9", "\xE4\xB8\x80", "\xF0\x90\x90\x80", "\xC3", "\xE4\xB8", "\x80", "\xED\xA0\x80",
        "\xC0\x80", "\xF4\x90\x80\x80", "7", "\xC2\xA0", "\xF0\x9F\x98\x80", "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww",
        "                                              ",
    };
    size_t n = 0;
    for (;;) {
        const char *piece = pieces[below(sizeof pieces / sizeof *pieces)];
        size_t len = strlen(piece);
        if (n + len > room) return n;
        memcpy(p + n, piece, len);
        n += len;
    }
}

/* One code point at a time: 1 if a letter is at p; *step is how far to go on. */
static int naive_letter(const uint8_t *p, size_t n, mr_letters letters, size_t *step) {
    uint32_t cp = 0;
    *step = 1;
    if (letters == MR_SPACE) return !mr_is_space(*p);
    if (*p < 0x80) return mr_is_ascii_letter(*p);
    if (letters == MR_ASCII) return 0;
    int len = mr_decode_utf8(p, n, &cp);
    if (len <= 0) return 0;
    *step = (size_t)len;
    return mr_is_letter(cp);
}

/* Tokens, each followed by LF, which is in none. */
static void naive_tokens(const uint8_t *p, size_t n, mr_letters letters, mr_buffer *out) {
    int open = 0;
    for (size_t i = 0, step; i < n; i += step) {
        int letter = naive_letter(p + i, n - i, letters, &step);
        if (open && !letter) CHECK(mr_buffer_append(out, "\n", 1) == MR_OK);
        if (letter) CHECK(mr_buffer_append(out, p + i, step) == MR_OK);
        open = letter;
    }
    if (open) CHECK(mr_buffer_append(out, "\n", 1) == MR_OK);
}

static void test_words(mr_letters letters, mr_simd simd, size_t room) {
    uint8_t *text = (uint8_t *)malloc(room);
    CHECK(text);
    size_t n = random_text(text, room);
    mr_sink sink;
    mr_words words;
    memset(&sink, 0, sizeof sink);
    memset(&words, 0, sizeof words);
    words.letters = letters;
    words.simd = simd;
    words.classify = mr_classifier(letters, simd);
    words.value = (mr_value){.bytes = NULL, .len = 0, .number = 1, .tag = MR_INT};
    words.spans = (mr_span *)malloc((MR_WINDOW_TOKENS + 1) * sizeof(mr_span));
    CHECK(words.spans);
    for (size_t at = 0; at < n;) {
        size_t take = below(3) ? below(9) + 1 : below(5000) + 1;
        if (take > n - at) take = n - at;
        uint8_t *block = exact(text + at, take);
        CHECK(mr_words_feed(&sink, &words, block, take) == MR_OK);
        free(block);
        at += take;
    }
    CHECK(mr_words_end(&sink, &words) == MR_OK);
    mr_buffer found = {NULL, 0, 0}, expected = {NULL, 0, 0};
    log_keys(&sink, &found);
    naive_tokens(text, n, letters, &expected);
    CHECK(found.len == expected.len && (!found.len || !memcmp(found.data, expected.data, found.len)));
    mr_buffer_free(&found);
    mr_buffer_free(&expected);
    mr_words_free(&words);
    mr_sink_free(&sink);
    free(text);
}

static void test_tokens(size_t rounds) {
    for (size_t i = 0; i < rounds; i++) {
        mr_simd simd;
        do simd = (mr_simd)below(MR_SIMD_AVX512 + 1);
        while (!mr_simd_runs(simd));
        test_words((mr_letters)below(3), simd, below(8) ? below(300) + 1 : below(20000) + 1);
    }
}

/* -- records, sort ------------------------------------------------------------------------------------------------- */

static size_t random_key(uint8_t *key) {
    static const size_t lengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 300};
    size_t n = lengths[below(sizeof lengths / sizeof *lengths)];
    for (size_t i = 0; i < n; i++) key[i] = (uint8_t)(below(4) ? 'a' : below(3));
    return n;
}

static mr_value random_value(const uint8_t *bytes, size_t room) {
    static const uint8_t tags[] = {MR_NULL, MR_FALSE, MR_TRUE, MR_INT, MR_INT, MR_FLOAT, MR_SELF, MR_BYTES, MR_STR, MR_BIGINT};
    mr_value v = {.bytes = NULL, .len = 0, .number = 0, .tag = tags[below(sizeof tags)]};
    if (v.tag == MR_INT || v.tag == MR_FLOAT) v.number = random64() >> below(64);
    if (v.tag >= MR_BYTES) {
        v.bytes = bytes;
        v.len = below(room + 1);
    }
    return v;
}

static void test_records(size_t rounds) {
    uint8_t key[300], value[200];
    for (size_t i = 0; i < sizeof value; i++) value[i] = (uint8_t)random64();
    for (size_t i = 0; i < rounds; i++) {
        size_t key_len = random_key(key);
        mr_value v = random_value(value, sizeof value);
        uint8_t *p = (uint8_t *)malloc(mr_record_bound(key_len, v.len));
        CHECK(p);
        size_t n = (size_t)(mr_put_record(p, key, key_len, &v) - p);
        CHECK(n <= mr_record_bound(key_len, v.len));
        uint8_t *q = exact(p, n);
        mr_record r;
        CHECK(mr_get_record(q, q + n, &r) == MR_OK && r.end == q + n);
        CHECK(r.tag == v.tag && r.number == v.number && r.key_len == key_len && !memcmp(r.key, key, key_len));
        CHECK(v.tag < MR_BYTES || (r.payload_len == v.len && (!v.len || !memcmp(r.payload, v.bytes, v.len))));
        size_t cut = below(n);
        uint8_t *torn = exact(q, cut);
        CHECK(mr_get_record(torn, torn + cut, &r) == MR_CORRUPT);
        free(torn);
        free(p);
        free(q);
    }
}

static void test_sort(size_t rounds) {
    static const size_t sizes[] = {0, 1, 2, 15, 16, 17, 31, 33, 511, 512, 513, 3000};
    for (size_t round = 0; round < rounds; round++) {
        size_t n = sizes[below(sizeof sizes / sizeof *sizes)];
        uint8_t(*keys)[300] = (uint8_t(*)[300])malloc((n + 1) * sizeof *keys);
        mr_entry *entries = (mr_entry *)malloc((n + 1) * sizeof *entries);
        mr_entry *scratch = (mr_entry *)malloc((n + 1) * sizeof *scratch);
        CHECK(keys && entries && scratch);
        for (size_t i = 0; i < n; i++) {
            size_t len = random_key(keys[i]);
            entries[i] = (mr_entry){mr_prefix(keys[i], len), keys[i], (uint32_t)len, (uint32_t)i};
        }
        mr_sort(entries, scratch, n);
        uint64_t seen = 0;
        for (size_t i = 0; i < n; i++) {
            seen += entries[i].ref;
            if (!i) continue;
            const mr_entry *a = &entries[i - 1], *b = &entries[i];
            size_t common = a->key_len < b->key_len ? a->key_len : b->key_len;
            int order = memcmp(a->key, b->key, common);
            if (!order) order = (a->key_len > b->key_len) - (a->key_len < b->key_len);
            CHECK(order < 0 || (order == 0 && a->ref < b->ref));
        }
        CHECK(seen == (uint64_t)n * (n ? n - 1 : 0) / 2);
        free(keys);
        free(entries);
        free(scratch);
    }
}

/* -- table, drain, segments ---------------------------------------------------------------------------------------- */

/* The segments of a sink, drained with some limit; the lists are the drain's. */
static mr_buffer drained(const mr_sink *sink, uint32_t partitions, mr_drain *d) {
    mr_buffer body = {NULL, 0, 0}, piece = {NULL, 0, 0};
    size_t limit = below(3) ? below(500) + 1 : SIZE_MAX;
    CHECK(mr_drain_begin(sink, partitions, d) == MR_OK);
    for (int status = MR_FULL; status == MR_FULL; piece.len = 0) {
        status = mr_drain_write(sink, d, &piece, limit);
        CHECK(status == MR_OK || (status == MR_FULL && piece.len >= limit));
        CHECK(mr_buffer_append(&body, piece.data, piece.len) == MR_OK);
    }
    mr_buffer_free(&piece);
    return body;
}

/* A summing sink against a list: the same keys, the same totals, in each partition sorted. */
static void fold_batch(mr_batch *batch) {
    CHECK(mr_batch_fold(batch) == MR_OK && !batch->count);
    for (; batch->owned; batch->owned--) free((void *)(uintptr_t)batch->owners[batch->owned - 1]);
}

/* A key behind a header of 16 bytes, and nothing after it; a short one is gone before the fold. */
static void batch_key(mr_batch *batch, const char *text, size_t len, const mr_value *v) {
    uint8_t *held = (uint8_t *)malloc(16 + len);
    CHECK(held);
    memset(held, 0xA5, 16);
    memcpy(held + 16, text, len);
    if (batch->count == MR_BATCH) fold_batch(batch);
    CHECK(mr_batch_put(batch, held + 16, len, v, MR_BEFORE) == MR_OK);
    if (len > MR_INLINE_KEY) {
        batch->owners[batch->owned++] = held;
    } else {
        free(held);
    }
}

static void test_table(size_t keys_count) {
    enum { PARTITIONS = 7 };
    uint64_t *totals = (uint64_t *)calloc(keys_count, sizeof *totals);
    CHECK(totals);
    mr_sink sink;
    mr_batch batch;
    memset(&sink, 0, sizeof sink);
    memset(&batch, 0, sizeof batch);
    batch.sink = &sink;
    sink.combine = MR_OP_SUM;
    sink.table.seed[0] = random64();
    sink.table.seed[1] = random64();
    char text[64];
    for (size_t i = 0; i < keys_count * 3; i++) {
        size_t which = below(keys_count);
        int len = snprintf(text, sizeof text, "%zu%s", which, which % 3 ? "" : "-a-key-over-sixteen-bytes");
        mr_value v = {.bytes = NULL, .len = 0, .number = below(1000), .tag = MR_INT};
        uint8_t *key = exact(text, (size_t)len);
        CHECK(mr_sink_add(&sink, key, (size_t)len, &v, 0) == MR_OK);
        free(key);
        totals[which] += v.number + 2;
        v.number = 1;
        batch_key(&batch, text, (size_t)len, &v);
        CHECK(mr_sink_add(&sink, (const uint8_t *)text, (size_t)len, &v, 1) == MR_OK);
    }
    fold_batch(&batch);
    mr_drain d;
    mr_buffer body = drained(&sink, PARTITIONS, &d);
    size_t at = 0, found = 0, why_offset;
    const char *why;
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        uint8_t *segment = exact(body.data + at, (size_t)d.lengths[p]), *end = segment + d.lengths[p];
        CHECK(mr_segment_check(segment, (size_t)d.lengths[p], d.counts[p], d.checksums[p], &why_offset, &why) == MR_OK);
        mr_record r;
        for (const uint8_t *q = segment; q < end; q = r.end, found++) {
            CHECK(mr_get_record(q, end, &r) == MR_OK && mr_xxh3_64(r.key, r.key_len) % PARTITIONS == p);
            size_t digits = r.key_len < sizeof text - 1 ? r.key_len : sizeof text - 1;
            memcpy(text, r.key, digits);
            text[digits] = 0;
            size_t which = (size_t)strtoull(text, NULL, 10);
            CHECK(r.tag == MR_INT && totals[which] == r.number);
            totals[which] = 0;
        }
        free(segment);
        at += (size_t)d.lengths[p];
    }
    for (size_t i = 0; i < keys_count; i++) CHECK(!totals[i]);
    CHECK(found == d.records && at == body.len);
    mr_buffer_free(&body);
    mr_drain_free(&d);
    mr_sink_free(&sink);
    free(totals);
}

/* A log's heaviest keys against counters: exact, whatever the pieces, and none that is left out has more bytes. */
static void test_hot(size_t records) {
    enum { KEYS = 90, PARTITIONS = 3 };
    uint64_t bytes[KEYS] = {0}, counts[KEYS] = {0}, runs = 0;
    mr_sink sink;
    memset(&sink, 0, sizeof sink);
    char text[128];
    for (size_t i = 0; i < records; i++) {
        size_t which = below(below(KEYS) + 1);
        int len = snprintf(text, sizeof text, "%03zu%.*s", which, which % 5 ? 0 : 61 + (int)which % 3,
                           "-----------------------------------------------------------------");
        mr_value v = {.bytes = (const uint8_t *)text, .len = below(100), .tag = MR_BYTES};
        uint8_t *key = exact(text, (size_t)len);
        size_t before = sink.log.len;
        CHECK(mr_sink_add(&sink, key, (size_t)len, &v, 0) == MR_OK);
        free(key);
        bytes[which] += sink.log.len - before;
        counts[which]++;
    }
    mr_drain d;
    mr_buffer body = drained(&sink, PARTITIONS, &d);
    for (size_t i = 0; i < KEYS; i++) runs += counts[i] != 0;
    CHECK(d.hot.runs == runs && d.hot.count == (runs < MR_HOT_KEYS ? runs : MR_HOT_KEYS));
    for (size_t i = 0; i < d.hot.count; i++) {
        const mr_hot_key *k = &d.hot.keys[i];
        size_t which = (size_t)(k->key[0] - '0') * 100 + (size_t)(k->key[1] - '0') * 10 + (size_t)(k->key[2] - '0');
        CHECK(k->bytes == bytes[which] && k->records == counts[which] && (k->digest != 0) == (k->key_len > MR_HOT_KEY_BYTES));
        CHECK(k->key_len == 3 + (which % 5 ? 0 : 61 + which % 3));
        bytes[which] = 0;
    }
    for (size_t i = 0; i < KEYS; i++) CHECK(bytes[i] <= d.hot.least);
    mr_buffer_free(&body);
    mr_drain_free(&d);
    mr_sink_free(&sink);
}

/* A segment of random records: read back whole, and with corrupted bytes behind a right checksum never read astray. */
static void test_segments(size_t rounds) {
    uint8_t key[300], value[64] = {0};
    for (size_t round = 0; round < rounds; round++) {
        mr_sink sink;
        memset(&sink, 0, sizeof sink);
        for (size_t i = below(40) + 1; i; i--) {
            size_t len = random_key(key);
            mr_value v = random_value(value, sizeof value);
            CHECK(mr_sink_add(&sink, key, len, &v, 0) == MR_OK);
        }
        mr_drain d;
        mr_buffer body = drained(&sink, 1, &d);
        size_t n = body.len, offset;
        const char *why;
        uint8_t *segment = exact(body.data, n);
        mr_buffer_free(&body);
        CHECK(mr_segment_check(segment, n, d.counts[0], d.checksums[0], &offset, &why) == MR_OK);
        for (size_t i = 0; i < 40; i++) {
            size_t where = below(n), length = below(4) ? n : below(n);
            uint8_t *bad = exact(segment, length);
            if (where < length) bad[where] ^= (uint8_t)(1U << below(8));
            int changed = where < length || length != n;
            if (changed) CHECK(mr_segment_check(bad, length, d.counts[0], d.checksums[0], &offset, &why) == MR_CORRUPT);
            uint64_t right = mr_xxh3_64(bad, length);
            mr_run run = {.data = bad, .len = length, .records = d.counts[0]};
            if (mr_segment_check(bad, length, d.counts[0], right, &offset, &why) == MR_OK) {
                mr_grouper g;
                mr_writer w;
                int is_float;
                memset(&g, 0, sizeof g);
                memset(&w, 0, sizeof w);
                w.op = MR_OP_COUNT;
                w.limit = SIZE_MAX;
                CHECK(mr_merge_add(&g.merge, &run) == MR_OK && mr_group_begin(&g) == MR_OK);
                int status = mr_group_write(&g, &w, &is_float); /* a flipped tag may make a state of it: then refused */
                CHECK(status == MR_OK || status == MR_CORRUPT || status == MR_BAD_VALUE);
                mr_group_free(&g);
                mr_writer_free(&w);
            }
            CHECK(offset <= length);
            free(bad);
        }
        free(segment);
        mr_drain_free(&d);
        mr_sink_free(&sink);
    }
}

/* Runs of random keys, merged: sorted by (key, order), all there, and the same through a run with orders. */
static void test_merge(size_t rounds) {
    enum { RUNS = 9 };
    uint8_t key[300];
    for (size_t round = 0; round < rounds; round++) {
        mr_merge merge, again;
        memset(&merge, 0, sizeof merge);
        memset(&again, 0, sizeof again);
        mr_buffer segments[RUNS] = {{NULL, 0, 0}};
        size_t runs = below(RUNS + 1), total = 0;
        for (size_t i = 0; i < runs; i++) {
            mr_sink sink;
            memset(&sink, 0, sizeof sink);
            size_t n = below(30);
            for (size_t k = 0; k < n; k++) {
                mr_value v = {.bytes = NULL, .len = 0, .number = i, .tag = MR_INT};
                CHECK(mr_sink_add(&sink, key, random_key(key), &v, 0) == MR_OK);
            }
            mr_drain d;
            segments[i] = drained(&sink, 1, &d);
            mr_run run = {.data = segments[i].data, .len = segments[i].len, .records = n, .order = i};
            CHECK(mr_merge_add(&merge, &run) == MR_OK);
            mr_drain_free(&d);
            mr_sink_free(&sink);
            total += n;
        }
        mr_buffer run_bytes = {NULL, 0, 0};
        size_t limit = below(200) + 1;
        CHECK(mr_merge_begin(&merge) == MR_OK);
        for (int status = MR_FULL; status == MR_FULL; limit += 100) {
            status = mr_merge_write(&merge, 1, &run_bytes, limit);
            CHECK(status == MR_OK || status == MR_FULL);
        }
        mr_run whole = {.data = run_bytes.data, .len = run_bytes.len, .records = total, .ordered = 1};
        CHECK(mr_merge_add(&again, &whole) == MR_OK && mr_merge_begin(&again) == MR_OK);
        CHECK(mr_merge_begin(&merge) == MR_OK);
        const mr_head *h = mr_merge_head(&merge);
        const uint8_t *last = NULL;
        size_t last_len = 0, found = 0;
        uint64_t last_order = 0;
        for (; h->key; found++, h = mr_merge_head(&merge)) {
            const mr_head *other = mr_merge_head(&again);
            mr_record r;
            CHECK(mr_get_record(h->record, h->end, &r) == MR_OK && r.number == h->order);
            CHECK(other->key && other->order == h->order);
            CHECK(other->end - other->record == h->end - h->record);
            CHECK(!memcmp(other->record, h->record, (size_t)(h->end - h->record)));
            int order = last ? mr_compare(last, last_len, h->key, h->key_len) : -1;
            CHECK(order < 0 || (order == 0 && last_order <= h->order));
            last = h->key;
            last_len = h->key_len;
            last_order = h->order;
            CHECK(mr_merge_step(&merge) == MR_OK && mr_merge_step(&again) == MR_OK);
        }
        CHECK(found == total && !mr_merge_head(&again)->key);
        for (size_t i = 0; i < runs; i++) mr_buffer_free(&segments[i]);
        mr_buffer_free(&run_bytes);
        mr_merge_free(&merge);
        mr_merge_free(&again);
    }
}

/* The digest of bytes in pieces is the digest of them all. */
static void test_digest(size_t rounds) {
    for (size_t round = 0; round < rounds; round++) {
        size_t n = below(4) ? below(5000) : below(300);
        uint8_t *p = (uint8_t *)malloc(n + 1);
        CHECK(p);
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)random64();
        mr_digest d;
        memset(&d, 0, sizeof d);
        size_t most = (size_t[]){3, 64, 65, 300, 2000}[below(5)];
        for (size_t at = 0; at < n;) {
            size_t take = below(most + 1);
            if (take > n - at) take = n - at;
            uint8_t *piece = exact(p + at, take);
            mr_digest_update(&d, piece, take);
            free(piece);
            at += take;
        }
        CHECK(mr_digest_value(&d) == mr_xxh3_64(p, n) && d.total == n);
        free(p);
    }
}

/* -- escapes ------------------------------------------------------------------------------------------------------- */

static void test_escapes(size_t rounds) {
    static const char alphabet[] = "a \\\n\t";
    for (size_t round = 0; round < rounds; round++) {
        uint8_t text[50];
        size_t n = below(sizeof text), at = 0;
        for (size_t i = 0; i < n; i++) text[i] = (uint8_t)alphabet[below(sizeof alphabet - 1)];
        mr_buffer out = {NULL, 0, 0};
        CHECK(mr_put_escaped(&out, text, n, &mr_escape_key) == MR_OK);
        for (size_t i = 0; i < out.len; i++, at++) {
            uint8_t c = out.data[i];
            CHECK(c != ' ' && c != '\n' && at < n);
            if (c == '\\') {
                c = out.data[++i];
                c = c == 's' ? ' ' : c == 'n' ? '\n' : c;
            }
            CHECK(c == text[at]);
        }
        CHECK(at == n);
        mr_buffer_free(&out);
    }
}

int main(int argc, char **argv) {
    size_t rounds = argc > 1 ? (size_t)strtoull(argv[1], NULL, 10) : 300;
    test_hash();
    test_crc32c();
    test_tokens(rounds * 4);
    test_records(rounds * 10);
    test_sort(rounds / 10 + 1);
    for (size_t keys = 1; keys < 20000; keys = keys * 2 + 1) test_table(keys);
    for (size_t records = 0; records < 5000; records = records * 2 + 1) test_hot(records);
    test_merge(rounds);
    test_digest(rounds);
    test_segments(rounds / 3 + 1);
    test_escapes(rounds);
    puts("ok");
    return 0;
}
