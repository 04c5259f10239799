/* One record: varint(key length) key, a tag byte, the payload that the tag names.
 *
 * Lengths are LEB128 varints; ints are zigzag varints; floats eight bytes, little-endian. */
#ifndef MRFAST_RECORD_H
#define MRFAST_RECORD_H

#include "base.h"

enum {
    MR_NULL = 1,
    MR_FALSE = 2,
    MR_TRUE = 3,
    MR_INT = 4,     /* fits int64 */
    MR_FLOAT = 5,
    MR_SELF = 6,    /* the value is the key's bytes: `ops.lines` pays nothing for it */
    MR_BYTES = 7,   /* from here on: varint(length) and bytes */
    MR_STR = 8,
    MR_JSON = 9,
    MR_BIGINT = 10, /* two's complement, little-endian */
    MR_DECIMAL = 11,/* an integer of the input's own digits, too long for int64 */
    MR_STATE = 12,  /* a combiner's partial result; its first byte names the op */
    MR_TAG_LAST = 12,
    MR_LOGGED = 13, /* of a table's cell only, never in a record: all values of this key are in the log */
};

typedef struct {
    const uint8_t *key;
    const uint8_t *payload; /* the bytes after the length, for tags with one */
    const uint8_t *end;     /* one past the record */
    uint64_t number;        /* MR_INT: the int64; MR_FLOAT: its bits */
    uint32_t key_len;
    uint32_t payload_len;
    uint8_t tag;
} mr_record;

/* A value on its way into a record. */
typedef struct {
    const uint8_t *bytes;
    size_t len;
    uint64_t number;
    uint8_t tag;
} mr_value;

MR_INLINE uint8_t *mr_put_varint(uint8_t *p, uint64_t v) {
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

MR_INLINE size_t mr_varint_len(uint64_t v) {
    size_t n = 1;
    for (; v >= 0x80; v >>= 7) n++;
    return n;
}

/* NULL when the varint is cut off, over 64 bits or not in its shortest form: a key's length tells where its record
 * starts. */
MR_INLINE const uint8_t *mr_get_varint(const uint8_t *p, const uint8_t *end, uint64_t *v) {
    if (MR_LIKELY(p < end && *p < 0x80)) {
        *v = *p;
        return p + 1;
    }
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && p < end; shift += 7) {
        uint8_t b = *p++;
        if (shift == 63 && b > 1) return NULL;
        value |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) {
            if (!b && shift) return NULL;
            *v = value;
            return p;
        }
    }
    return NULL;
}

MR_INLINE uint64_t mr_zigzag(int64_t v) { return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63); }
MR_INLINE int64_t mr_unzigzag(uint64_t v) { return (int64_t)(v >> 1) ^ -(int64_t)(v & 1); }

/* At most so many bytes hold a record of this key and payload. */
MR_INLINE size_t mr_record_bound(size_t key_len, size_t payload_len) { return key_len + payload_len + 10 + 1 + 10; }

/* A record's tag and payload. */
MR_INLINE uint8_t *mr_put_payload(uint8_t *p, const mr_value *value) {
    *p++ = value->tag;
    if (value->tag == MR_INT) return mr_put_varint(p, mr_zigzag((int64_t)value->number));
    if (value->tag == MR_FLOAT) {
        mr_store64(p, value->number);
        return p + 8;
    }
    if (value->tag >= MR_BYTES) {
        p = mr_put_varint(p, value->len);
        if (value->len) memcpy(p, value->bytes, value->len);
        p += value->len;
    }
    return p;
}

/* Writes the record at p, which has mr_record_bound() bytes; returns one past it. */
MR_INLINE uint8_t *mr_put_record(uint8_t *p, const uint8_t *key, size_t key_len, const mr_value *value) {
    p = mr_put_varint(p, key_len);
    if (key_len) memcpy(p, key, key_len);
    return mr_put_payload(p + key_len, value);
}

/* Reads the record at p; every length is checked against `end`. Status: MR_CORRUPT. */
MR_INLINE int mr_get_record(const uint8_t *p, const uint8_t *end, mr_record *r) {
    uint64_t n;
    p = mr_get_varint(p, end, &n);
    if (MR_UNLIKELY(!p || n > MR_KEY_MAX || n >= (uint64_t)(end - p))) return MR_CORRUPT;
    r->key = p;
    r->key_len = (uint32_t)n;
    p += n;
    r->tag = *p++;
    r->payload = p;
    r->payload_len = 0;
    r->number = 0;
    if (r->tag == MR_INT) {
        p = mr_get_varint(p, end, &n);
        if (MR_UNLIKELY(!p)) return MR_CORRUPT;
        r->number = (uint64_t)mr_unzigzag(n);
    } else if (r->tag == MR_FLOAT) {
        if (MR_UNLIKELY(end - p < 8)) return MR_CORRUPT;
        r->number = mr_load64(p);
        p += 8;
    } else if (r->tag >= MR_BYTES) {
        if (MR_UNLIKELY(r->tag > MR_TAG_LAST)) return MR_CORRUPT;
        p = mr_get_varint(p, end, &n);
        if (MR_UNLIKELY(!p || n > MR_VALUE_MAX || n > (uint64_t)(end - p))) return MR_CORRUPT;
        r->payload = p;
        r->payload_len = (uint32_t)n;
        p += n;
    } else if (MR_UNLIKELY(r->tag == 0)) {
        return MR_CORRUPT;
    }
    r->end = p;
    return MR_OK;
}

#endif
