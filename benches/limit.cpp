// The limit: word count of one file, as quick as a program of one purpose gets it on this machine.
//
//   limit THREADS FILE OUTPUT      writes "word count\n", sorted by bytes
//   limit feed FILE                prints the MB per CPU second of one thread that only counts: what MapSink.feed is held against
//
// Words are maximal runs of Unicode letters, exactly those of mrfast (its table of letters is included). The file is
// mapped; threads take 1 MiB pieces that begin and end at an ASCII byte that is no letter, so that no piece needs another.

#include <fcntl.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "unicode_tables.h"

using std::size_t;
using std::uint64_t;
using std::uint8_t;

constexpr size_t PIECE = 1 << 20, BATCH = 64, INLINE = 16, PREFIXES = 1 << 16, FEEDS = 5;
static uint64_t seed0, seed1;

[[noreturn]] static void die(const char *what) {
    std::perror(what);
    std::exit(1);
}

static uint64_t load(const uint8_t *p) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    return word;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = static_cast<unsigned __int128>(a ^ seed0) * (b ^ seed1);
    return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
}

// A word of up to 16 bytes is k0 and k1, zero-padded; of a longer one k0 is its begin and k1 its address in the mapping.
struct Slot {
    uint64_t k0, k1, count, len;
    const uint8_t *bytes() const { return len > INLINE ? reinterpret_cast<const uint8_t *>(k1) : reinterpret_cast<const uint8_t *>(&k0); }
};

struct Table {
    Slot *slots = nullptr;
    size_t capacity = 0, used = 0, waiting = 0;
    unsigned shift = 64;
    struct Word {
        uint64_t k0, k1, hash, len;
    } batch[BATCH];

    Table() { resize(1 << 14); }
    ~Table() { munmap(slots, capacity * sizeof(Slot)); }
    Table(const Table &) = delete;

    static uint64_t hash_long(const uint8_t *p, size_t len) {
        uint64_t hash = len;
        for (size_t at = 0; at + 8 < len; at += 8) hash = mix(hash ^ load(p + at), at + 1);
        return mix(hash ^ load(p + len - 8), len);
    }

    void resize(size_t wanted) {
        Slot *old = slots;
        size_t before = capacity;
        void *memory = mmap(nullptr, wanted * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) die("mmap");
        madvise(memory, wanted * sizeof(Slot), MADV_HUGEPAGE);
        slots = static_cast<Slot *>(memory);
        capacity = wanted;
        shift = 64 - static_cast<unsigned>(__builtin_ctzll(wanted));
        for (size_t i = 0; i < before; i++) {
            if (!old[i].len) continue;
            size_t at = (old[i].len > INLINE ? hash_long(old[i].bytes(), old[i].len) : mix(old[i].k0, old[i].k1)) >> shift;
            while (slots[at].len) at = (at + 1) & (capacity - 1);
            slots[at] = old[i];
        }
        if (old) munmap(old, before * sizeof(Slot));
    }

    void add(const uint8_t *p, size_t len) {
        static const uint64_t masks[9] = {0, 0xFF, 0xFFFF, 0xFFFFFF, ~0ULL >> 32, ~0ULL >> 24, ~0ULL >> 16, ~0ULL >> 8, ~0ULL};
        Word &w = batch[waiting];
        w.k0 = load(p) & masks[std::min<size_t>(len, 8)];
        w.len = len;
        if (__builtin_expect(len <= INLINE, 1)) {
            w.k1 = load(p + 8) & masks[len > 8 ? len - 8 : 0];
            w.hash = mix(w.k0, w.k1);
        } else {
            w.k1 = reinterpret_cast<uint64_t>(p);
            w.hash = hash_long(p, len);
        }
        __builtin_prefetch(&slots[w.hash >> shift], 1);
        if (++waiting == BATCH) flush();
    }

    void flush() {
        for (size_t i = 0; i < waiting; i++) {
            const Word &w = batch[i];
            size_t at = w.hash >> shift;
            for (;; at = (at + 1) & (capacity - 1)) {
                Slot &s = slots[at];
                if (s.k0 == w.k0 && s.len == w.len &&
                    (s.k1 == w.k1 || (w.len > INLINE && !std::memcmp(s.bytes(), reinterpret_cast<uint8_t *>(w.k1), w.len)))) {
                    s.count++;
                    break;
                }
                if (!s.len) {
                    s = {w.k0, w.k1, 1, w.len};
                    used++;
                    break;
                }
            }
        }
        waiting = 0;
        if (used + BATCH > capacity / 8 * 5) resize(capacity * 2);
    }
};

// Bit i of inside: byte i is an ASCII letter; of high: it is not ASCII.
static void classify(const uint8_t *p, uint64_t &inside, uint64_t &high) {
#if defined(__AVX512BW__)
    __m512i v = _mm512_loadu_si512(p);
    __m512i letter = _mm512_sub_epi8(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), _mm512_set1_epi8('a'));
    inside = _mm512_cmplt_epu8_mask(letter, _mm512_set1_epi8(26));
    high = _mm512_movepi8_mask(v);
#else
    inside = high = 0;
    for (unsigned i = 0; i < 64; i++) {
        inside |= static_cast<uint64_t>(static_cast<uint8_t>((p[i] | 0x20) - 'a') < 26) << i;
        high |= static_cast<uint64_t>(p[i] >> 7) << i;
    }
#endif
}

// Length of the UTF-8 sequence at p (1 when malformed) and whether it is a letter. Past the file there are zeros.
static unsigned decode(const uint8_t *p, bool &letter) {
    letter = false;
    if (p[0] < 0xC2 || p[0] > 0xF4) return 1;
    unsigned len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    uint32_t point = p[0] & (0x7FU >> len);
    for (unsigned i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) return 1;
        point = point << 6 | (p[i] & 0x3F);
    }
    if ((len == 3 && (point < 0x800 || (point >> 11) == 0x1B)) || (len == 4 && (point < 0x10000 || point > 0x10FFFF))) return 1;
    letter = mr_letter_pages[mr_letter_index[point >> 8]][(point & 0xFF) >> 3] >> (point & 7) & 1;
    return len;
}

static void count(Table &table, const uint8_t *p, const uint8_t *stop) {
    const uint8_t *start = p, *decided = p;
    bool carry = false, decided_letter = false;
    for (; p < stop; p += 64) {
        uint64_t in, high;
        classify(p, in, high);
        if (stop - p < 64) {
            uint64_t valid = (1ULL << (stop - p)) - 1;
            in &= valid;
            high &= valid;
        }
        if (__builtin_expect(high != 0, 0)) {
            if (decided > p) {
                uint64_t tail = (1ULL << (decided - p)) - 1;
                if (decided_letter) in |= tail;
                high &= ~tail;
            }
            while (high) {
                unsigned at = static_cast<unsigned>(__builtin_ctzll(high));
                unsigned len = decode(p + at, decided_letter);
                uint64_t bits = ((1ULL << len) - 1) << at;
                if (decided_letter) in |= bits;
                high &= ~bits;
                decided = p + at + len;
            }
        }
        uint64_t edges = in ^ (in << 1 | static_cast<uint64_t>(carry));
        if (carry && edges) {
            table.add(start, static_cast<size_t>(p + __builtin_ctzll(edges) - start));
            edges &= edges - 1;
        }
        carry = in >> 63;
        while (edges) {
            start = p + __builtin_ctzll(edges);
            edges &= edges - 1;
            if (!edges) break;
            table.add(start, static_cast<size_t>(p + __builtin_ctzll(edges) - start));
            edges &= edges - 1;
        }
    }
    if (carry) table.add(start, static_cast<size_t>(stop - start));
}

static bool less(const Slot &a, const Slot &b) { // k0, and k1 of short words, are big-endian here
    if (a.k0 != b.k0) return a.k0 < b.k0;
    if (a.len <= INLINE && b.len <= INLINE) return a.k1 < b.k1;
    uint8_t first[INLINE], second[INLINE];
    auto bytes = [](const Slot &s, uint8_t *buffer) {
        if (s.len > INLINE) return reinterpret_cast<const uint8_t *>(s.k1);
        uint64_t k[2] = {__builtin_bswap64(s.k0), __builtin_bswap64(s.k1)};
        return static_cast<const uint8_t *>(std::memcpy(buffer, k, INLINE));
    };
    int order = std::memcmp(bytes(a, first), bytes(b, second), std::min(a.len, b.len));
    return order ? order < 0 : a.len < b.len;
}

static void put(std::string &out, const Slot &s) {
    char text[INLINE + 24];
    uint64_t k[2] = {__builtin_bswap64(s.k0), __builtin_bswap64(s.k1)};
    size_t len = s.len;
    if (len > INLINE) {
        out.append(reinterpret_cast<const char *>(s.k1), len);
        len = 0;
    }
    std::memcpy(text, k, INLINE);
    text[len] = ' ';
    char *end = std::to_chars(text + len + 1, text + sizeof text - 1, s.count).ptr;
    *end++ = '\n';
    out.append(text, static_cast<size_t>(end - text));
}

template <class Work> static void parallel(size_t threads, Work work) {
    std::vector<std::thread> running;
    for (size_t t = 0; t < threads; t++) running.emplace_back(work, t);
    for (auto &thread : running) thread.join();
}

int main(int argc, char **argv) {
    bool feed = argc == 3 && !std::strcmp(argv[1], "feed");
    if (!feed && argc != 4) return 2;
    seed0 = 0x9E3779B97F4A7C15 ^ static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    seed1 = seed0 * 0xD6E8FEB86659FD93;
    int file = open(argv[2], O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) die(argv[2]);
    size_t size = static_cast<size_t>(status.st_size);
    // Zeros follow the file, so that whoever reads a little past its end needs no check.
    void *room = mmap(nullptr, size + 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED || (size && mmap(room, size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)) die("mmap");
    const uint8_t *text = static_cast<const uint8_t *>(room);

    if (feed) {
        double best = 0;
        for (size_t round = 0; round < FEEDS; round++) {
            std::clock_t start = std::clock();
            Table table;
            count(table, text, text + size);
            table.flush();
            double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
            best = std::max(best, static_cast<double>(size) / took / 1e6);
        }
        std::printf("%.1f\n", best);
        return 0;
    }

    size_t threads = std::max(1UL, std::strtoul(argv[1], nullptr, 10));
    auto border = [&](size_t at) {
        while (at < size && (text[at] >= 0x80 || static_cast<uint8_t>((text[at] | 0x20) - 'a') < 26)) at++;
        return text + std::min(at, size);
    };
    std::vector<Table> tables(threads);
    std::vector<std::vector<size_t>> places(threads, std::vector<size_t>(PREFIXES + 1));
    std::atomic<size_t> next{0};
    auto each = [&](size_t t, auto use) {
        for (size_t i = 0; i < tables[t].capacity; i++)
            if (tables[t].slots[i].len) use(tables[t].slots[i], __builtin_bswap64(tables[t].slots[i].k0) >> 48);
    };
    parallel(threads, [&](size_t t) {
        for (size_t piece; (piece = next++) * PIECE < size;)
            count(tables[t], piece ? border(piece * PIECE) : text, border((piece + 1) * PIECE));
        tables[t].flush();
        each(t, [&](const Slot &, size_t prefix) { places[t][prefix]++; });
    });
    // Every table's words go to the place of their first two bytes; there they are sorted, and equal ones added up.
    std::vector<size_t> begins(PREFIXES + 1);
    size_t total = 0;
    for (size_t prefix = 0; prefix <= PREFIXES; prefix++) {
        begins[prefix] = total;
        for (auto &place : places) total += std::exchange(place[prefix], total);
    }
    std::unique_ptr<Slot[]> all(new Slot[total]);
    parallel(threads, [&](size_t t) {
        each(t, [&](const Slot &s, size_t prefix) {
            all[places[t][prefix]++] = {__builtin_bswap64(s.k0), s.len > INLINE ? s.k1 : __builtin_bswap64(s.k1), s.count, s.len};
        });
    });
    std::vector<std::string> parts(PREFIXES);
    next = 0;
    parallel(threads, [&](size_t) {
        for (size_t prefix; (prefix = next++) < PREFIXES;) {
            Slot *from = &all[begins[prefix]], *to = &all[begins[prefix + 1]];
            std::sort(from, to, less);
            for (; from < to; from++) {
                if (from + 1 < to && !less(*from, from[1])) {
                    from[1].count += from->count;
                } else {
                    put(parts[prefix], *from);
                }
            }
        }
    });
    int out = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (out < 0) die(argv[3]);
    for (const auto &part : parts)
        for (size_t at = 0; at < part.size();) {
            ssize_t wrote = write(out, part.data() + at, part.size() - at);
            if (wrote < 0) die(argv[3]);
            at += static_cast<size_t>(wrote);
        }
    if (close(out)) die(argv[3]);
    std::_Exit(0);
}
