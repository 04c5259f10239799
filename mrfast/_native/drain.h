/* A sink's records as R segments: partitioned by xxh3, each sorted by key, equal keys in emit order. */
#ifndef MRFAST_DRAIN_H
#define MRFAST_DRAIN_H

#include "sink.h"
#include "sort.h"

typedef struct {
    mr_buffer body;      /* the R segments back to back */
    uint64_t *lengths;   /* R of each, freed by the owner */
    uint64_t *counts;
    uint64_t *checksums; /* xxh3 of each segment */
    uint64_t records;
} mr_drained;

static inline void mr_drained_free(mr_drained *d) {
    mr_buffer_free(&d->body);
    free(d->lengths);
    free(d->counts);
    free(d->checksums);
    memset(d, 0, sizeof *d);
}

/* Table slots that hold records of their own: with MR_OP_INDEX they only remember what the log has. */
MR_INLINE size_t mr_sink_table_records(const mr_sink *s) {
    return s->combine == MR_OP_INDEX || s->combine == MR_OP_NONE ? 0
                                                                          : s->table.count - (size_t)s->logged_keys;
}

/* entry.ref of a record in the log; others are 1 + the slot's index. */
#define MR_FROM_LOG 0U

/* Fills entries (table first, then the log in emit order) and each one's partition. */
static int mr_drain_entries(const mr_sink *s, uint32_t partitions, mr_entry *entries, uint32_t *part) {
    size_t n = 0;
    if (mr_sink_table_records(s)) {
        if (s->table.capacity > UINT32_MAX - 1) return MR_NOMEM;
        for (size_t i = 0; i < s->table.capacity; i++) {
            const mr_slot *slot = &s->table.slots[i];
            if (!slot->tag || slot->tag == MR_LOGGED) continue;
            const uint8_t *key = mr_slot_key(slot);
            entries[n] = (mr_entry){mr_prefix(key, slot->len), key, slot->len, (uint32_t)i + 1};
            part[n++] = (uint32_t)(mr_xxh3_64(key, slot->len) % partitions);
        }
    }
    const uint8_t *p = s->log.data, *end = p + s->log.len;
    mr_record r;
    for (; p < end; p = r.end) {
        MR_TRY(mr_get_record(p, end, &r));
        entries[n] = (mr_entry){mr_prefix(r.key, r.key_len), r.key, r.key_len, MR_FROM_LOG};
        part[n++] = (uint32_t)(mr_xxh3_64(r.key, r.key_len) % partitions);
    }
    return MR_OK;
}

static size_t mr_varint_len(uint64_t v) {
    size_t n = 1;
    for (; v >= 0x80; v >>= 7) n++;
    return n;
}

/* Appends the record that an entry stands for to the body. */
static int mr_drain_record(const mr_sink *s, const mr_entry *e, const uint8_t *log_end, mr_buffer *body) {
    if (e->ref == MR_FROM_LOG) {
        const uint8_t *start = e->key - mr_varint_len(e->key_len);
        mr_record r;
        MR_TRY(mr_get_record(start, log_end, &r));
        return mr_buffer_append(body, start, (size_t)(r.end - start));
    }
    uint8_t scratch[MR_STATE_BYTES_MAX];
    const mr_slot *slot = &s->table.slots[e->ref - 1];
    mr_cell cell = {.number = slot->number, .tag = slot->tag};
    mr_value v = mr_cell_value(s->combine, &cell, scratch);
    MR_TRY(mr_buffer_reserve(body, mr_record_bound(e->key_len, v.len)));
    body->len = (size_t)(mr_put_record(body->data + body->len, e->key, e->key_len, &v) - body->data);
    return MR_OK;
}

static int mr_drain_segments(const mr_sink *s, uint32_t partitions, mr_entry *entries, mr_entry *scratch,
                             mr_drained *out) {
    const uint8_t *log_end = s->log.data + s->log.len;
    size_t at = 0;
    MR_TRY(mr_buffer_reserve(&out->body, s->log.len + mr_sink_table_records(s) * 12));
    for (uint32_t p = 0; p < partitions; p++) {
        size_t n = (size_t)out->counts[p], start = out->body.len;
        mr_sort(entries + at, scratch, n);
        for (size_t i = at; i < at + n; i++) MR_TRY(mr_drain_record(s, &entries[i], log_end, &out->body));
        at += n;
        out->lengths[p] = out->body.len - start;
        out->checksums[p] = n ? mr_xxh3_64(out->body.data + start, out->body.len - start) : 0;
    }
    return MR_OK;
}

/* Drains the sink into `out` (zero-initialised; freed by the caller whatever the status). The sink is not changed. */
static int mr_drain(const mr_sink *s, uint32_t partitions, mr_drained *out) {
    size_t n = mr_sink_table_records(s) + (size_t)s->log_records;
    out->records = n;
    out->lengths = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    out->counts = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    out->checksums = (uint64_t *)calloc(partitions, sizeof(uint64_t));
    mr_entry *entries = (mr_entry *)malloc((n + 1) * sizeof *entries);
    mr_entry *placed = (mr_entry *)malloc((n + 1) * sizeof *placed);
    uint32_t *part = (uint32_t *)malloc((n + 1) * sizeof *part);
    uint64_t *next = (uint64_t *)calloc(partitions, sizeof *next);
    int status = MR_NOMEM;
    if (out->lengths && out->counts && out->checksums && entries && placed && part && next) {
        status = mr_drain_entries(s, partitions, entries, part);
    }
    if (status == MR_OK) {
        for (size_t i = 0; i < n; i++) out->counts[part[i]]++;
        for (uint32_t p = 1; p < partitions; p++) next[p] = next[p - 1] + out->counts[p - 1];
        for (size_t i = 0; i < n; i++) placed[next[part[i]]++] = entries[i];
        status = mr_drain_segments(s, partitions, placed, entries, out);
    }
    free(entries);
    free(placed);
    free(part);
    free(next);
    return status;
}

#endif
