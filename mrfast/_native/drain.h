/* A sink's records as R segments: partitioned by xxh3, each sorted by key, equal keys in emit order.
 *
 * The segments come out in pieces of about a limit, so that what is written needs no second copy in memory. */
#ifndef MRFAST_DRAIN_H
#define MRFAST_DRAIN_H

#include "hot.h"
#include "sink.h"
#include "sort.h"

#define MR_PARTITIONS_MAX 65535

typedef struct {
    uint32_t partitions;
    uint64_t *lengths; /* R of each */
    uint64_t *counts;
    uint64_t *checksums; /* xxh3 of each segment */
    uint64_t records;
    mr_entry *entries; /* all records, by partition */
    mr_entry *scratch; /* room for the largest partition */
    size_t scratch_room;
    uint32_t partition;
    size_t at, end;   /* entries of this partition that are not written yet */
    mr_digest digest; /* of this segment's bytes that were handed out */
    uint64_t written; /* bytes of all segments that were handed out */
    size_t run;       /* the first entry of the key that is being written, and `written` before it */
    uint64_t run_start;
    mr_hot hot;
} mr_drain;

static inline void mr_drain_free(mr_drain *d) {
    free(d->lengths);
    free(d->counts);
    free(d->checksums);
    mr_pages_free(d->entries, ((size_t)d->records + 1) * sizeof *d->entries);
    mr_pages_free(d->scratch, d->scratch_room * sizeof *d->scratch);
    memset(d, 0, sizeof *d);
}

/* Table slots that hold records of their own: with MR_OP_INDEX they only remember what the log has. */
MR_INLINE size_t mr_sink_table_records(const mr_sink *s) {
    if (s->combine == MR_OP_INDEX || s->combine == MR_OP_NONE) return 0;
    return s->table.count - (size_t)s->logged_keys;
}

/* How many keys or bytes may come before the next look at what a sink needs. */
#define MR_NEED_KEYS ((size_t)1 << 15)
#define MR_NEED_BYTES ((size_t)1 << 16)

/* The memory that a sink needs to take MR_NEED_KEYS or MR_NEED_BYTES more and be drained: what it holds, what would grow,
 * and the drain's entries (R partitions are taken to be of about the same size). */
static size_t mr_sink_need(const mr_sink *s, uint32_t partitions) {
    size_t need = mr_sink_bytes(s), records = mr_sink_table_records(s) + (size_t)s->log_records;
    if (s->table.count + MR_NEED_KEYS > s->table.capacity / 8 * 5) need += s->table.capacity * sizeof(mr_slot);
    if (s->log.len + MR_NEED_BYTES > s->log.cap) need += s->log.cap / 2;
    need += partitions * 4 * sizeof(uint64_t);
    return need + records * (sizeof(mr_entry) + sizeof(uint16_t) + sizeof(mr_entry) / partitions);
}

/* entry.ref of a record in the log; others are 1 + the slot's index. */
#define MR_FROM_LOG 0U

/* A walk over a sink's records: the table's first, then the log in emit order. */
typedef struct {
    size_t slot, slots;
    const uint8_t *log, *log_end;
} mr_walk;

MR_INLINE mr_walk mr_walk_begin(const mr_sink *s) {
    return (mr_walk){0, mr_sink_table_records(s) ? s->table.capacity : 0, s->log.data, s->log.data + s->log.len};
}

/* 1 with the next record's entry (its prefix is not set), 0 at the end, or a status below 0. */
MR_INLINE int mr_walk_next(const mr_sink *s, mr_walk *w, mr_entry *e) {
    while (w->slot < w->slots) {
        const mr_slot *slot = &s->table.slots[w->slot++];
        if (!slot->tag || slot->tag == MR_LOGGED) continue;
        *e = (mr_entry){0, mr_slot_key(slot), slot->len, (uint32_t)w->slot};
        return 1;
    }
    if (w->log == w->log_end) return 0;
    mr_record r;
    int status = mr_get_record(w->log, w->log_end, &r);
    if (status != MR_OK) return status;
    w->log = r.end;
    *e = (mr_entry){0, r.key, r.key_len, MR_FROM_LOG};
    return 1;
}

static int mr_drain_count(const mr_sink *s, mr_drain *d, uint16_t *part) {
    mr_walk walk = mr_walk_begin(s);
    mr_entry e;
    int found;
    for (size_t n = 0; (found = mr_walk_next(s, &walk, &e)) > 0; n++) {
        part[n] = d->partitions > 1 ? (uint16_t)(mr_xxh3_64(e.key, e.key_len) % d->partitions) : 0;
        d->counts[part[n]]++;
    }
    return found;
}

static int mr_drain_place(const mr_sink *s, mr_drain *d, const uint16_t *part) {
    mr_walk walk = mr_walk_begin(s);
    mr_entry e;
    int found;
    size_t *next = (size_t *)malloc(d->partitions * sizeof *next);
    if (!next) return MR_NOMEM;
    for (uint32_t p = 0; p < d->partitions; p++) next[p] = p ? next[p - 1] + (size_t)d->counts[p - 1] : 0;
    for (size_t n = 0; (found = mr_walk_next(s, &walk, &e)) > 0; n++) {
        e.prefix = mr_prefix(e.key, e.key_len);
        d->entries[next[part[n]]++] = e;
    }
    free(next);
    return found;
}

/* Sets `d` up (freed by the caller whatever the status); the sink must not change until the drain is over. */
static int mr_drain_begin(const mr_sink *s, uint32_t partitions, mr_drain *d) {
    size_t n = mr_sink_table_records(s) + (size_t)s->log_records, largest = 0;
    memset(d, 0, sizeof *d);
    if (s->table.capacity > UINT32_MAX - 1) return MR_NOMEM;
    d->partitions = partitions;
    d->records = n;
    d->lengths = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    d->counts = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    d->checksums = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    d->entries = (mr_entry *)mr_pages_take(n + 1, sizeof *d->entries);
    uint16_t *part = (uint16_t *)mr_pages_take(n + 1, sizeof *part);
    int status = d->lengths && d->counts && d->checksums && d->entries && part ? MR_OK : MR_NOMEM;
    if (status == MR_OK) status = mr_drain_count(s, d, part);
    if (status == MR_OK) status = mr_drain_place(s, d, part);
    mr_pages_free(part, (n + 1) * sizeof *part);
    MR_TRY(status);
    for (uint32_t p = 0; p < partitions; p++) largest = d->counts[p] > largest ? (size_t)d->counts[p] : largest;
    d->scratch_room = largest + 1;
    d->scratch = (mr_entry *)mr_pages_take(d->scratch_room, sizeof *d->scratch);
    if (!d->scratch) return MR_NOMEM;
    d->end = (size_t)d->counts[0];
    mr_sort(d->entries, d->scratch, d->end);
    return MR_OK;
}

/* Appends the record that an entry stands for. */
static int mr_drain_record(const mr_sink *s, const mr_entry *e, const uint8_t *log_end, mr_buffer *out) {
    if (e->ref == MR_FROM_LOG) {
        const uint8_t *start = e->key - mr_varint_len(e->key_len);
        mr_record r;
        MR_TRY(mr_get_record(start, log_end, &r));
        return mr_buffer_append(out, start, (size_t)(r.end - start));
    }
    uint8_t scratch[MR_STATE_BYTES_MAX];
    const mr_slot *slot = &s->table.slots[e->ref - 1];
    mr_cell cell = {.number = slot->number, .tag = slot->tag};
    mr_value v = mr_cell_value(s->combine, &cell, scratch);
    MR_TRY(mr_buffer_reserve(out, mr_record_bound(e->key_len, v.len)));
    out->len = (size_t)(mr_put_record(out->data + out->len, e->key, e->key_len, &v) - out->data);
    return MR_OK;
}

/* Sorting leaves records all over the sink: their lines are asked for so many records ahead. */
#define MR_DRAIN_AHEAD 12

MR_INLINE void mr_drain_prefetch(const mr_sink *s, const mr_drain *d) {
    if (d->at + MR_DRAIN_AHEAD >= d->end) return;
    const mr_entry *e = &d->entries[d->at + MR_DRAIN_AHEAD];
    if (e->ref == MR_FROM_LOG) {
        __builtin_prefetch(e->key);
        __builtin_prefetch(e->key + 64);
    } else {
        __builtin_prefetch(&s->table.slots[e->ref - 1]);
    }
}

/* The key before entry `at` has no more records; `written` bytes are behind it. */
MR_INLINE void mr_drain_run(mr_drain *d, size_t at, uint64_t written) {
    const mr_entry *e = &d->entries[at - 1];
    mr_hot_run(&d->hot, e->key, e->key_len, written - d->run_start, at - d->run, d->partition);
    d->run = at;
    d->run_start = written;
}

/* Appends records to `out` until it holds `limit` bytes (MR_FULL: take them and call again) or all are written. */
static int mr_drain_write(const mr_sink *s, mr_drain *d, mr_buffer *out, size_t limit) {
    const uint8_t *log_end = s->log.data + s->log.len;
    size_t start = out->len; /* of this segment's bytes in `out` */
    const uint64_t before = d->written - out->len;
    while (d->partition < d->partitions) {
        for (; d->at < d->end && out->len < limit; d->at++) {
            const mr_entry *e = &d->entries[d->at];
            mr_drain_prefetch(s, d);
            if (d->at != d->run && !mr_entry_same(e, e - 1)) mr_drain_run(d, d->at, before + out->len);
            MR_TRY(mr_drain_record(s, e, log_end, out));
        }
        d->written = before + out->len;
        mr_digest_update(&d->digest, out->data + start, out->len - start);
        start = out->len;
        if (d->at < d->end) return MR_FULL;
        if (d->at != d->run) mr_drain_run(d, d->at, d->written);
        uint32_t p = d->partition++;
        d->lengths[p] = d->digest.total;
        d->checksums[p] = d->counts[p] ? mr_digest_value(&d->digest) : 0;
        memset(&d->digest, 0, sizeof d->digest);
        if (d->partition == d->partitions) break;
        d->end += (size_t)d->counts[d->partition];
        mr_sort(d->entries + d->at, d->scratch, d->end - d->at);
    }
    return MR_OK;
}

#endif
