/* Maps of bfloat16, the upper half of a float: a vector at a time, or a pair of vectors.
 *
 * A word of memory holds two values, so one vector of a pair has the even ones and the other the odd ones:
 * that takes a shift and a mask. What stands beside them in floats is dealt out alike.
 */

typedef uint32_t words __attribute__((vector_size(WIDTH), aligned(2), may_alias));
typedef uint16_t halves __attribute__((vector_size(WIDTH / 2), aligned(2), may_alias));

/* Floats whose upper halves are the nearest bfloat16, the even one of two. */
static inline words OF(rounded)(OF(vec) value)
{
    words bits = (words)value, nearest = bits + 0x7fff + (bits >> 16 & 1);
    /* Adding could carry a NaN over into an infinity or a zero. */
    return (words)OF(chosen)(value == value, (OF(vec))nearest, OF(all)(NAN));
}

/* The first lanes of a vector; the rest is zero. */
static inline OF(vec) OF(widened)(const uint16_t *from, long lanes)
{
    halves some = {0};
    if (lanes == LANES) some = *(const halves *)from;
    else memcpy(&some, from, lanes * sizeof *from);
    return (OF(vec))(__builtin_convertvector(some, words) << 16);
}

static inline void OF(narrowed)(uint16_t *to, OF(vec) value, long lanes)
{
    halves some = __builtin_convertvector(OF(rounded)(value) >> 16, halves);
    if (lanes == LANES) *(halves *)to = some;
    else memcpy(to, &some, lanes * sizeof *to);
}

/* A pair's floats, even and odd. */
static inline OF(Pair) OF(dealt)(const float *from)
{
    OF(Pair) pair;
    for (int lane = 0; lane < LANES; lane++) {
        pair.a[lane] = from[2 * lane];
        pair.b[lane] = from[2 * lane + 1];
    }
    return pair;
}

static inline void OF(collected)(float *to, OF(Pair) pair)
{
    for (int lane = 0; lane < LANES; lane++) {
        to[2 * lane] = pair.a[lane];
        to[2 * lane + 1] = pair.b[lane];
    }
}

static inline OF(Pair) OF(take)(const uint16_t *from)
{
    words both = *(const words *)from;
    return (OF(Pair)){(OF(vec))(both << 16), (OF(vec))(both & 0xffff0000)};
}

static inline float OF(take_one)(const uint16_t *from)
{
    uint32_t bits = (uint32_t)*from << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void OF(put)(uint16_t *to, OF(Pair) pair)
{
    *(words *)to = OF(rounded)(pair.a) >> 16 | (OF(rounded)(pair.b) & 0xffff0000);
}

static inline void OF(put_one)(uint16_t *to, float value)
{
    *to = OF(rounded)(OF(all)(value))[0] >> 16;
}
