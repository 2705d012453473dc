/* Maps of REALs, a pair of vectors at a time: see bfloat16.h. */

static inline OF(Pair) OF(dealt)(const REAL *from)
{
    return (OF(Pair)){OF(load)(from), OF(load)(from + LANES)};
}

static inline void OF(collected)(REAL *to, OF(Pair) pair)
{
    OF(store)(to, pair.a);
    OF(store)(to + LANES, pair.b);
}

static inline OF(Pair) OF(take)(const STORED *from) { return OF(dealt)(from); }

static inline REAL OF(take_one)(const STORED *from) { return *from; }

static inline void OF(put)(STORED *to, OF(Pair) pair) { OF(collected)(to, pair); }

static inline void OF(put_one)(STORED *to, REAL value) { *to = value; }
