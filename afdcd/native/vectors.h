/* Vectors of REAL, one register wide. */

#define LANES ((long)(WIDTH / sizeof(REAL)))
typedef REAL OF(vec) __attribute__((vector_size(WIDTH), aligned(sizeof(REAL)), may_alias));
typedef WHOLE OF(whole) __attribute__((vector_size(WIDTH), aligned(sizeof(REAL)), may_alias));

static inline OF(vec) OF(load)(const REAL *from) { return *(const OF(vec) *)from; }

static inline void OF(store)(REAL *to, OF(vec) value) { *(OF(vec) *)to = value; }

static inline OF(vec) OF(all)(REAL value) { return value - (OF(vec)){0}; }

static inline OF(vec) OF(magnitude)(OF(vec) value) { return (OF(vec))((OF(whole))value & POSITIVE); }

/* `yes` where a comparison held, else `no`. */
static inline OF(vec) OF(chosen)(OF(whole) where, OF(vec) yes, OF(vec) no)
{
    return (OF(vec))((where & (OF(whole))yes) | (~where & (OF(whole))no));
}

/* Whether a comparison held anywhere. */
static inline int OF(any)(OF(whole) where)
{
    uint64_t parts[WIDTH / 8], any = 0;
    memcpy(parts, &where, sizeof parts);
    for (int k = 0; k < WIDTH / 8; k++) any |= parts[k];
    return any != 0;
}

/* How many lanes hold numbers from place `at` on, of `count`. */
static inline long OF(lanes)(long at, long count) { return count - at < LANES ? count - at : LANES; }

/* The first lanes alone; the rest is zero. */
static inline OF(vec) OF(some)(const REAL *from, long lanes)
{
    if (lanes == LANES) return OF(load)(from);
    OF(vec) found = {0};
    memcpy(&found, from, lanes * sizeof *from);
    return found;
}

static inline void OF(keep)(REAL *to, OF(vec) value, long lanes)
{
    if (lanes == LANES) OF(store)(to, value);
    else memcpy(to, &value, lanes * sizeof *to);
}

typedef struct {
    OF(vec) a, b;
} OF(Pair);

static inline long OF(least)(long one, long other) { return one < other ? one : other; }

/* The next multiple of a step. */
static inline long OF(multiple)(long count, long step) { return (count + step - 1) / step * step; }
