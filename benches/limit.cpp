// The limit: word count of one file, as quick as a program of one purpose gets it on this machine.
//
//   limit THREADS FILE OUTPUT   writes "word count\n", sorted by bytes
//   limit feed FILE             prints the MB per CPU second of one thread that only counts: the bound of MapSink.feed
//
// Words are maximal runs of Unicode letters, exactly those of mrfast (its table of letters is included). The file is
// mapped; threads take pieces that begin and end at an ASCII byte that is no letter, so that no piece needs another.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "unicode_tables.h"

using Byte = uint8_t;
constexpr size_t PIECE = 1 << 20, BATCH = 64, SHORT = 16, PREFIXES = 1 << 16, FEEDS = 5;
constexpr uint64_t M = ~0ULL, masks[] = {0, M >> 56, M >> 48, M >> 40, M >> 32, M >> 24, M >> 16, M >> 8, M};
static uint64_t seeds[2];

[[noreturn]] static void die(const char *what) {
    std::perror(what);
    std::exit(1);
}
static uint64_t load(const Byte *p) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    return word;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = static_cast<unsigned __int128>(a ^ seeds[0]) * (b ^ seeds[1]);
    return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
}

static bool is_letter(Byte c) { return static_cast<Byte>((c | 0x20) - 'a') < 26; }
static unsigned lowest(uint64_t bits) { return static_cast<unsigned>(__builtin_ctzll(bits)); }

// A short word is k0 and k1, zero-padded; of a longer one k0 is how it begins, and k1 where it stands in the file.
struct Slot {
    uint64_t k0, k1, len, count;
    const Byte *bytes() const { return reinterpret_cast<const Byte *>(len > SHORT ? k1 : uint64_t(this)); }
    std::string_view text() const { return {reinterpret_cast<const char *>(bytes()), len}; }
    uint64_t prefix() const { return __builtin_bswap64(k0) >> 48; }
    uint64_t hash() const {
        if (len <= SHORT) return mix(k0, k1);
        uint64_t hash = len;
        for (size_t at = 0; at + 8 < len; at += 8) hash = mix(hash ^ load(bytes() + at), at + 1);
        return mix(hash ^ load(bytes() + len - 8), len);
    }
    bool operator==(const Slot &other) const {
        if (k0 != other.k0 || len != other.len) return false;
        return k1 == other.k1 || (len > SHORT && !std::memcmp(bytes(), other.bytes(), len));
    }
    bool operator<(const Slot &other) const {
        return k0 == other.k0 ? text() < other.text() : __builtin_bswap64(k0) < __builtin_bswap64(other.k0);
    }
};

// Open addressing by the top bits of the hash; words wait in a batch while their slots are fetched.
struct Table {
    Slot *slots = nullptr;
    size_t capacity = 0, used = 0, waiting = 0;
    unsigned shift = 64;
    struct { Slot word; uint64_t hash; } batch[BATCH];

    Table() { resize(1 << 14); }
    Table(const Table &) = delete;
    ~Table() { munmap(slots, capacity * sizeof(Slot)); }

    void resize(size_t wanted) {
        Slot *old = slots, *end = slots + capacity;
        void *room = mmap(nullptr, wanted * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED) die("mmap");
        madvise(room, wanted * sizeof(Slot), MADV_HUGEPAGE);
        slots = static_cast<Slot *>(room);
        std::swap(capacity, wanted);
        shift = 64 - lowest(capacity);
        for (Slot *s = old; s < end; s++) {
            if (!s->len) continue;
            size_t at = s->hash() >> shift;
            while (slots[at].len) at = (at + 1) & (capacity - 1);
            slots[at] = *s;
        }
        if (old) munmap(old, wanted * sizeof(Slot));
    }

    void add(const Byte *p, const Byte *stop) {
        size_t len = static_cast<size_t>(stop - p);
        Slot &word = batch[waiting].word;
        word.k0 = load(p) & masks[std::min<size_t>(len, 8)];
        word.k1 = len > SHORT ? reinterpret_cast<uint64_t>(p) : load(p + 8) & masks[len > 8 ? len - 8 : 0];
        word.len = len;
        uint64_t hash = batch[waiting].hash = word.hash();
        __builtin_prefetch(&slots[hash >> shift], 1);
        if (++waiting == BATCH) flush();
    }

    void flush() {
        for (size_t i = 0; i < waiting; i++) {
            const Slot &word = batch[i].word;
            size_t at = batch[i].hash >> shift;
            while (!(slots[at] == word) && slots[at].len) at = (at + 1) & (capacity - 1);
            if (!slots[at].len) {
                slots[at] = {word.k0, word.k1, word.len, 0};
                used++;
            }
            slots[at].count++;
        }
        waiting = 0;
        if (used + BATCH > capacity / 8 * 5) resize(capacity * 2);
    }

    template <class Use> void each(Use use) const {
        for (const Slot *s = slots; s < slots + capacity; s++)
            if (s->len) use(*s);
    }
};

// Bit i of inside: byte i is an ASCII letter; of high: it is not ASCII.
static void classify(const Byte *p, uint64_t &inside, uint64_t &high) {
#if defined(__AVX512BW__)
    __m512i v = _mm512_loadu_si512(p);
    __m512i letter = _mm512_sub_epi8(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), _mm512_set1_epi8('a'));
    inside = _mm512_cmplt_epu8_mask(letter, _mm512_set1_epi8(26));
    high = _mm512_movepi8_mask(v);
#else
    inside = high = 0;
    for (unsigned i = 0; i < 64; i++) {
        inside |= static_cast<uint64_t>(is_letter(p[i])) << i;
        high |= static_cast<uint64_t>(p[i] >> 7) << i;
    }
#endif
}

// Length of the UTF-8 sequence at p (1 when malformed) and whether it is a letter. Past the file there are zeros.
static unsigned decode(const Byte *p, bool &letter) {
    letter = false;
    if (p[0] < 0xC2 || p[0] > 0xF4) return 1;
    unsigned len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    uint32_t point = p[0] & (0x7FU >> len);
    for (unsigned i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) return 1;
        point = point << 6 | (p[i] & 0x3F);
    }
    if (point >> 11 == 0x1B || point > 0x10FFFF || point < (len == 4 ? 0x10000 : len == 3 ? 0x800 : 0x80)) return 1;
    letter = mr_letter_pages[mr_letter_index[point >> 8]][(point & 0xFF) >> 3] >> (point & 7) & 1;
    return len;
}

static void count(Table &table, const Byte *p, const Byte *stop) {
    const Byte *start = p, *decided = p; // bytes before `decided` belong to code points decided in the mask before
    bool carry = false, letter = false;
    for (; p < stop; p += 64) {
        uint64_t in, high, valid = stop - p < 64 ? (1ULL << (stop - p)) - 1 : ~0ULL;
        classify(p, in, high);
        in &= valid;
        if (__builtin_expect((high &= valid) != 0, 0)) {
            uint64_t tail = decided > p ? (1ULL << (decided - p)) - 1 : 0;
            if (letter) in |= tail;
            high &= ~tail;
            while (high) {
                unsigned at = lowest(high), len = decode(p + at, letter);
                uint64_t bits = ((1ULL << len) - 1) << at;
                if (letter) in |= bits;
                high &= ~bits;
                decided = p + at + len;
            }
        }
        uint64_t edges = in ^ (in << 1 | static_cast<uint64_t>(carry));
        for (bool ends = carry; edges; edges &= edges - 1, ends = !ends) {
            if (ends) table.add(start, p + lowest(edges));
            else start = p + lowest(edges);
        }
        carry = in >> 63;
    }
    if (carry) table.add(start, stop);
}

template <class Work> static void parallel(size_t threads, Work work) {
    std::vector<std::thread> running;
    for (size_t t = 0; t < threads; t++) running.emplace_back(work, t);
    for (auto &thread : running) thread.join();
}

static void feed(const Byte *text, size_t size) {
    std::clock_t best = 0;
    for (size_t round = 0; round < FEEDS; round++) {
        std::clock_t start = std::clock();
        Table table;
        count(table, text, text + size);
        table.flush();
        best = std::min(round ? best : CLOCKS_PER_SEC * 3600, std::clock() - start);
    }
    std::printf("%.1f\n", static_cast<double>(size) * CLOCKS_PER_SEC / static_cast<double>(best) / 1e6);
}

// Each table's words go to the place of their first two bytes; there they are sorted, and equal ones added up.
static void write_sorted(const std::vector<Table> &tables, std::FILE *out) {
    std::vector<std::vector<std::vector<Slot>>> places(tables.size(), std::vector<std::vector<Slot>>(PREFIXES));
    auto place = [&](size_t t) { tables[t].each([&](const Slot &s) { places[t][s.prefix()].push_back(s); }); };
    parallel(tables.size(), place);
    std::vector<std::string> parts(PREFIXES);
    std::atomic<size_t> next{0};
    parallel(tables.size(), [&](size_t) {
        for (size_t prefix; (prefix = next++) < PREFIXES;) {
            std::vector<Slot> all;
            for (auto &from : places) all.insert(all.end(), from[prefix].begin(), from[prefix].end());
            std::sort(all.begin(), all.end());
            for (Slot *s = all.data(), *end = s + all.size(); s < end; s++) {
                if (s + 1 < end && *s == s[1]) s[1].count += s->count;
                else parts[prefix].append(s->text()).append(1, ' ').append(std::to_string(s->count)).append(1, '\n');
            }
        }
    });
    for (const auto &part : parts) std::fwrite(part.data(), 1, part.size(), out);
}

int main(int argc, char **argv) {
    bool feeds = argc == 3 && !std::strcmp(argv[1], "feed");
    if (!feeds && argc != 4) return 2;
    for (auto &seed : seeds) seed = static_cast<uint64_t>(std::random_device{}()) << 32 | std::random_device{}() | 1;
    int file = open(argv[2], O_RDONLY);
    if (file < 0) die(argv[2]);
    size_t size = static_cast<size_t>(lseek(file, 0, SEEK_END));
    // Zeros follow the file, so that whoever reads a little past its end needs no check.
    void *room = mmap(nullptr, size + 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) die("mmap");
    if (size && mmap(room, size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) die(argv[2]);
    const Byte *text = static_cast<const Byte *>(room);
    if (feeds) return feed(text, size), 0;

    std::vector<Table> tables(std::max(1UL, std::strtoul(argv[1], nullptr, 10)));
    std::atomic<size_t> next{0};
    auto border = [&](size_t at) {
        if (at) while (at < size && (text[at] >= 0x80 || is_letter(text[at]))) at++;
        return text + std::min(at, size);
    };
    parallel(tables.size(), [&](size_t t) {
        for (size_t at; (at = PIECE * next++) < size;) count(tables[t], border(at), border(at + PIECE));
        tables[t].flush();
    });
    std::FILE *out = std::fopen(argv[3], "wb");
    if (out) write_sorted(tables, out);
    if (!out || std::ferror(out) | std::fclose(out)) die(argv[3]);
    std::_Exit(0); // the tables go with the process
}
