/* One value folded into the running result of a reduce op: the same step combines in the sink and reduces a group.
 *
 * A cell is a tag and a word: the record's own tags for a plain value (bytes live in an arena), MR_STATE for a pointer
 * to a mr_partial. Folding is associative and, for all but `first`, commutative; `first` keeps what came first. */
#ifndef MRFAST_FOLD_H
#define MRFAST_FOLD_H

#include "arena.h"
#include "exact.h"

typedef enum {
    MR_OP_NONE = 0, /* every value is kept */
    MR_OP_SUM,
    MR_OP_COUNT,
    MR_OP_MIN,
    MR_OP_MAX,
    MR_OP_MEAN,
    MR_OP_FIRST,
    MR_OP_INDEX,
    MR_OP_CONCAT,
    MR_OP_IDENTITY,
    MR_OP_TOP,
} mr_op;

typedef struct {
    uint64_t number; /* as in mr_value; or a mr_text / mr_partial pointer */
    uint32_t tag;    /* 0: nothing folded yet */
} mr_cell;

typedef struct {
    uint32_t len, cap;
    uint8_t bytes[];
} mr_text;

/* A partial sum, count or mean that an int64 cannot hold. */
typedef struct {
    uint64_t count;
    mr_exact sum;
} mr_partial;

#define MR_STATE_BYTES_MAX (1 + 10 + MR_EXACT_BYTES_MAX)

MR_INLINE mr_partial *mr_cell_partial(const mr_cell *c) { return (mr_partial *)(uintptr_t)c->number; }
MR_INLINE mr_text *mr_cell_text(const mr_cell *c) { return (mr_text *)(uintptr_t)c->number; }

/* The cell becomes a partial that holds what it held. */
static int mr_cell_widen(mr_cell *c, mr_arena *arena) {
    if (c->tag == MR_STATE) return MR_OK;
    mr_partial *partial = (mr_partial *)(void *)mr_arena_take(arena, sizeof *partial, 1);
    if (!partial) return MR_NOMEM;
    memset(partial, 0, sizeof *partial);
    if (c->tag == MR_INT) mr_exact_add_int(&partial->sum, (int64_t)c->number);
    c->tag = MR_STATE;
    c->number = (uint64_t)(uintptr_t)partial;
    return MR_OK;
}

/* Keeps a value in the cell as it is; bytes are copied, over the old ones where they fit. Room doubles: what the arena
 * holds of a key stays linear in its longest value. */
static int mr_cell_keep(mr_cell *c, const mr_value *v, mr_arena *arena) {
    if (v->tag < MR_BYTES) {
        c->tag = v->tag;
        c->number = v->number;
        return MR_OK;
    }
    if (v->len > MR_VALUE_MAX) return MR_VALUE_TOO_LONG;
    mr_text *text = c->tag >= MR_BYTES ? mr_cell_text(c) : NULL;
    if (!text || text->cap < v->len) {
        size_t cap = text && 2 * (size_t)text->cap > v->len ? 2 * (size_t)text->cap : v->len;
        text = (mr_text *)(void *)mr_arena_take(arena, sizeof *text + cap, 1);
        if (!text) return MR_NOMEM;
        text->cap = (uint32_t)cap;
    }
    text->len = (uint32_t)v->len;
    if (v->len) memcpy(text->bytes, v->bytes, v->len);
    c->tag = v->tag;
    c->number = (uint64_t)(uintptr_t)text;
    return MR_OK;
}

MR_INLINE int mr_value_int(const mr_value *v, int64_t *out) {
    if (v->tag == MR_INT) {
        *out = (int64_t)v->number;
        return 1;
    }
    *out = v->tag == MR_TRUE;
    return v->tag == MR_TRUE || v->tag == MR_FALSE;
}

MR_INLINE double mr_bits_double(uint64_t bits) {
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

/* A partial as a STATE payload: its kind, the count, the sum. */
static size_t mr_state_put(uint8_t *p, char kind, const mr_partial *partial) {
    uint8_t *at = p;
    *at++ = (uint8_t)kind;
    at = mr_put_varint(at, partial->count);
    return (size_t)(mr_exact_put(at, &partial->sum) - p);
}

static int mr_state_get(const uint8_t *p, size_t n, char kind, mr_partial *partial) {
    if (!n || p[0] != (uint8_t)kind) return MR_BAD_VALUE;
    const uint8_t *at = mr_get_varint(p + 1, p + n, &partial->count);
    return at && mr_exact_get(at, p + n, &partial->sum) == p + n ? MR_OK : MR_BAD_VALUE;
}

static int mr_fold_partial(mr_cell *c, const mr_value *v, char kind, mr_arena *arena) {
    mr_partial other;
    MR_TRY(mr_state_get(v->bytes, v->len, kind, &other));
    MR_TRY(mr_cell_widen(c, arena));
    mr_cell_partial(c)->count += other.count;
    mr_exact_add(&mr_cell_partial(c)->sum, &other.sum);
    return MR_OK;
}

static int mr_fold_sum(mr_cell *c, const mr_value *v, mr_arena *arena) {
    int64_t i, total;
    if (MR_LIKELY(mr_value_int(v, &i))) {
        if (c->tag == 0) {
            c->tag = MR_INT;
            c->number = (uint64_t)i;
            return MR_OK;
        }
        if (MR_LIKELY(c->tag == MR_INT && !__builtin_add_overflow((int64_t)c->number, i, &total))) {
            c->number = (uint64_t)total;
            return MR_OK;
        }
        MR_TRY(mr_cell_widen(c, arena));
        mr_exact_add_int(&mr_cell_partial(c)->sum, i);
        return MR_OK;
    }
    if (v->tag == MR_FLOAT) {
        MR_TRY(mr_cell_widen(c, arena));
        mr_exact_add_double(&mr_cell_partial(c)->sum, mr_bits_double(v->number));
        return MR_OK;
    }
    if (v->tag == MR_STATE) return mr_fold_partial(c, v, 's', arena);
    return v->tag == MR_BIGINT || v->tag == MR_DECIMAL ? MR_NEEDS_PYTHON : MR_BAD_VALUE;
}

static int mr_fold_mean(mr_cell *c, const mr_value *v, mr_arena *arena) {
    int64_t i = 0;
    int is_int = mr_value_int(v, &i);
    if (v->tag == MR_STATE) return mr_fold_partial(c, v, 'm', arena);
    if (!is_int && v->tag != MR_FLOAT) {
        return v->tag == MR_BIGINT || v->tag == MR_DECIMAL ? MR_NEEDS_PYTHON : MR_BAD_VALUE;
    }
    MR_TRY(mr_cell_widen(c, arena));
    mr_cell_partial(c)->count++;
    if (is_int) {
        mr_exact_add_int(&mr_cell_partial(c)->sum, i);
    } else {
        mr_exact_add_double(&mr_cell_partial(c)->sum, mr_bits_double(v->number));
    }
    return MR_OK;
}

static int mr_fold_count(mr_cell *c, const mr_value *v) {
    uint64_t n = 1;
    if (v->tag == MR_STATE) {
        if (!v->len || v->bytes[0] != 'c' || mr_get_varint(v->bytes + 1, v->bytes + v->len, &n) != v->bytes + v->len) {
            return MR_BAD_VALUE;
        }
    }
    c->number = c->tag ? c->number + n : n;
    c->tag = MR_INT;
    return MR_OK;
}

/* -1, 0, 1 as Python compares an int with a float: exactly. */
MR_INLINE int mr_compare_int_double(int64_t i, double d) {
    if (d >= 9223372036854775808.0) return -1;
    if (d < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)d;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = d - (double)whole;
    return (rest < 0) - (rest > 0);
}

static int mr_compare_numbers(uint32_t a_tag, uint64_t a, uint32_t b_tag, uint64_t b) {
    if (a_tag == MR_INT && b_tag == MR_INT) return ((int64_t)a > (int64_t)b) - ((int64_t)a < (int64_t)b);
    if (a_tag == MR_INT) return mr_compare_int_double((int64_t)a, mr_bits_double(b));
    if (b_tag == MR_INT) return -mr_compare_int_double((int64_t)b, mr_bits_double(a));
    return (mr_bits_double(a) > mr_bits_double(b)) - (mr_bits_double(a) < mr_bits_double(b));
}

static int mr_fold_extreme(mr_cell *c, const mr_value *value, int want, mr_arena *arena) {
    mr_value v = *value;
    int64_t i;
    if (mr_value_int(&v, &i)) {
        v.tag = MR_INT;
        v.number = (uint64_t)i;
    }
    if (v.tag == MR_BIGINT || v.tag == MR_DECIMAL) return MR_NEEDS_PYTHON;
    int text = v.tag == MR_STR || v.tag == MR_BYTES;
    if (!text && v.tag != MR_INT && v.tag != MR_FLOAT) return MR_BAD_VALUE;
    if (!c->tag) return mr_cell_keep(c, &v, arena);
    if (text) {
        if (c->tag != v.tag) return MR_BAD_VALUE;
        mr_text *kept = mr_cell_text(c);
        int order = mr_compare(v.bytes, v.len, kept->bytes, kept->len);
        return order * want > 0 ? mr_cell_keep(c, &v, arena) : MR_OK;
    }
    if (c->tag >= MR_BYTES) return MR_BAD_VALUE;
    if (c->tag == MR_FLOAT && isnan(mr_bits_double(c->number))) return MR_OK;
    int nan = v.tag == MR_FLOAT && isnan(mr_bits_double(v.number));
    if (nan || mr_compare_numbers(v.tag, v.number, c->tag, c->number) * want > 0) return mr_cell_keep(c, &v, arena);
    return MR_OK;
}

/* Folds v into c. MR_NEEDS_PYTHON: an integer beyond int64, or a state, that this op cannot fold here; the cell is
 * unchanged. */
MR_INLINE int mr_fold(mr_op op, mr_cell *c, const mr_value *v, mr_arena *arena) {
    switch (op) {
        case MR_OP_SUM: return mr_fold_sum(c, v, arena);
        case MR_OP_COUNT: return mr_fold_count(c, v);
        case MR_OP_MIN: return mr_fold_extreme(c, v, -1, arena);
        case MR_OP_MAX: return mr_fold_extreme(c, v, 1, arena);
        case MR_OP_MEAN: return mr_fold_mean(c, v, arena);
        case MR_OP_FIRST:
            if (c->tag) return MR_OK;
            /* a cell of MR_STATE points to a partial, not to a state's bytes */
            return v->tag == MR_STATE ? MR_NEEDS_PYTHON : mr_cell_keep(c, v, arena);
        default: return MR_BAD_VALUE;
    }
}

/* The cell as a record's value; `scratch` (MR_STATE_BYTES_MAX) backs a state. */
static mr_value mr_cell_value(mr_op op, const mr_cell *c, uint8_t *scratch) {
    mr_value v = {.bytes = NULL, .len = 0, .number = c->number, .tag = (uint8_t)c->tag};
    if (op == MR_OP_COUNT) {
        scratch[0] = 'c';
        v.len = (size_t)(mr_put_varint(scratch + 1, c->number) - scratch);
        v.bytes = scratch;
        v.tag = MR_STATE;
    } else if ((op == MR_OP_SUM || op == MR_OP_MEAN) && c->tag == MR_STATE) {
        v.len = mr_state_put(scratch, op == MR_OP_SUM ? 's' : 'm', mr_cell_partial(c));
        v.bytes = scratch;
    } else if (c->tag >= MR_BYTES) {
        v.bytes = mr_cell_text(c)->bytes;
        v.len = mr_cell_text(c)->len;
    }
    return v;
}

#endif
