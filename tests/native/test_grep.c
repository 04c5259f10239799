/* The search for a needle and the walks of an automaton under sanitizers, against naive C. Usage as of test_native. */
#include "../../mrfast/_native/grep.h"
#include "check.h"

static const mr_simd LEVELS[] = {MR_SIMD_SCALAR, MR_SIMD_NEON, MR_SIMD_SSE2, MR_SIMD_AVX2, MR_SIMD_AVX512};

static const uint8_t *naive_find(const mr_needle *n, const uint8_t *p, const uint8_t *end) {
    for (; p + n->len <= end; p++) {
        size_t i = 0;
        while (i < n->len && (p[i] | n->fold[i]) == n->text[i]) i++;
        if (i == n->len) return p;
    }
    return NULL;
}

/* Few letters, both cases, so that needles occur, and almost occur. */
static void random_text(uint8_t *p, size_t n, size_t letters, size_t line_ends) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)((below(8) ? 'a' : 'A') + below(letters));
    for (size_t i = 0; i < n; i++) {
        if (line_ends && !below(line_ends)) p[i] = '\n';
    }
}

static mr_needle random_needle(size_t len, size_t letters) {
    mr_needle n = {(uint8_t *)malloc(len + 1), (uint8_t *)malloc(len + 1), len, len ? below(len) : 0, len ? below(len) : 0};
    CHECK(n.text && n.fold);
    random_text(n.text, len, letters, 0);
    for (size_t i = 0; i < len; i++) {
        n.fold[i] = below(3) ? 0 : 0x20;
        n.text[i] |= n.fold[i];
    }
    return n;
}

static void test_find(void) {
    size_t letters = below(3) + 1, room = below(400);
    mr_needle n = random_needle(below(5) ? below(4) + 1 : below(90) + 1, letters);
    uint8_t *text = (uint8_t *)malloc(room + 1);
    CHECK(text);
    random_text(text, room, letters, 0);
    for (size_t at = below(room + 1), copies = below(3); copies--; at = below(room + 1)) {
        if (at + n.len <= room) memcpy(text + at, n.text, n.len);
    }
    uint8_t *block = exact(text, room);
    for (size_t i = 0; i < sizeof LEVELS / sizeof *LEVELS; i++) {
        if (!mr_simd_runs(LEVELS[i])) continue;
        mr_find_fn find = mr_finder(LEVELS[i]);
        for (const uint8_t *p = block, *want; p <= block + room; p = want + 1) {
            want = naive_find(&n, p, block + room);
            CHECK(find(&n, p, block + room) == want);
            if (!want) break;
        }
    }
    free(block);
    free(text);
    free(n.text);
    free(n.fold);
}

static void random_automaton(mr_grep *g, mr_simd simd) {
    memset(g, 0, sizeof *g);
    g->states = below(12) + 4;
    g->classes = below(4) + 1;
    g->next = (uint16_t *)malloc(g->states * g->classes * sizeof *g->next);
    g->ends = (uint8_t *)malloc(g->states);
    CHECK(g->next && g->ends);
    for (size_t i = 0; i < 256; i++) g->class_of[i] = (uint8_t)below(g->classes);
    for (size_t i = 0; i < g->states * g->classes; i++) {
        size_t state = i / g->classes, to = below(20) ? 2 + below(g->states - 2) : below(2);
        g->next[i] = (uint16_t)((state < 2 ? state : to) * g->classes);
    }
    for (size_t i = 0; i < g->states; i++) g->ends[i] = i < 2 ? i == MR_GREP_MATCHED : (uint8_t)below(2);
    g->needle = random_needle(below(2) ? below(3) : 0, 2);
    g->leads = g->needle.len && below(2);
    g->find = mr_finder(simd);
    g->key = (mr_value){.bytes = (const uint8_t *)"f", .len = 1, .tag = MR_STR};
    CHECK(mr_grep_fits(g));
}

static int naive_matches(const mr_grep *g, const uint8_t *line, const uint8_t *end) {
    const uint8_t *p = g->needle.len ? naive_find(&g->needle, line, end) : line;
    if (!p) return 0;
    if (!g->leads) p = line;
    size_t state = (p == line ? MR_GREP_START : MR_GREP_LATER) * g->classes;
    for (; p < end; p++) state = g->next[state + g->class_of[*p]];
    return g->ends[state / g->classes];
}

/* The lines in a sink's log, or their number, whatever the cuts. */
static void test_lines(mr_simd simd, size_t room) {
    mr_grep g;
    mr_sink s;
    memset(&s, 0, sizeof s);
    random_automaton(&g, simd);
    g.counting = !below(4);
    uint8_t *text = (uint8_t *)malloc(room + 1);
    CHECK(text);
    random_text(text, room, 3, below(3) ? below(10) + 1 : 300);
    for (size_t at = 0; at < room;) {
        size_t take = below(3) ? below(300) : below(30000);
        if (take > room - at) take = room - at;
        uint8_t *block = exact(text + at, take);
        CHECK(mr_grep_feed(&s, &g, block, take) == MR_OK);
        free(block);
        at += take;
    }
    CHECK(mr_grep_end(&s, &g) == MR_OK);
    const uint8_t *p = s.log.data, *log_end = p + s.log.len;
    mr_record r;
    uint64_t matches = 0;
    for (const uint8_t *line = text, *stop; line < text + room; line = stop + 1) {
        for (stop = line; stop < text + room && *stop != '\n';) stop++;
        if (!naive_matches(&g, line, stop)) continue;
        matches++;
        if (g.counting) continue;
        CHECK(mr_get_record(p, log_end, &r) == MR_OK && r.tag == MR_BYTES);
        CHECK(r.payload_len == (size_t)(stop - line) && !memcmp(r.payload, line, r.payload_len));
        p = r.end;
    }
    if (g.counting && matches) {
        CHECK(mr_get_record(p, log_end, &r) == MR_OK && r.tag == MR_INT && r.number == matches);
        p = r.end;
    }
    CHECK(p == log_end);
    free(text);
    mr_grep_free(&g);
    mr_sink_free(&s);
}

static void test_tables_that_lead_astray(void) {
    mr_grep g;
    random_automaton(&g, MR_SIMD_SCALAR);
    uint16_t *cell = &g.next[below(g.states * g.classes)], kept = *cell;
    *cell = (uint16_t)(g.states * g.classes);
    CHECK(!mr_grep_fits(&g));
    *cell = kept;
    g.next[0] = (uint16_t)(2 * g.classes); /* a match that can be lost again */
    CHECK(!mr_grep_fits(&g));
    g.next[0] = 0;
    g.class_of[below(256)] = (uint8_t)g.classes;
    CHECK(!mr_grep_fits(&g));
    mr_grep_free(&g);
}

int main(int argc, char **argv) {
    size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 300;
    for (size_t i = 0; i < rounds; i++) {
        test_find();
        test_tables_that_lead_astray();
        for (size_t level = 0; level < sizeof LEVELS / sizeof *LEVELS; level++) {
            if (mr_simd_runs(LEVELS[level])) test_lines(LEVELS[level], below(4) ? below(2000) : below(60000));
        }
    }
    puts("ok");
    return 0;
}
