/* Winograd's F(2x2, 3x3): 16 products for the four outputs of a tile, instead of 36. */

#define SIDE 2
#define SIDED(name) OF(winograd2_##name)

static inline void SIDED(take)(const OF(vec) d[4], OF(vec) t[4])
{
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
}

/* The transpose for a tile's own cells; `above` and `below` are the neighbours' outermost numbers. */
static inline void SIDED(untake)(const OF(vec) t[4], OF(vec) above, OF(vec) below, OF(vec) d[2])
{
    d[0] = t[1] - t[2] - t[3] + above;
    d[1] = t[1] + t[2] - t[0] + below;
}

static inline void SIDED(give)(const OF(vec) m[4], OF(vec) y[2])
{
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
}

static inline void SIDED(ungive)(const OF(vec) y[2], OF(vec) m[4])
{
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[1];
}

static inline void SIDED(filter)(const OF(vec) g[3], OF(vec) f[4])
{
    OF(vec) even = (g[0] + g[2]) / 2, odd = g[1] / 2;
    f[0] = g[0];
    f[1] = even + odd;
    f[2] = even - odd;
    f[3] = g[2];
}

static inline void SIDED(unfilter)(const OF(vec) f[4], OF(vec) g[3])
{
    OF(vec) even = (f[1] + f[2]) / 2;
    g[0] = f[0] + even;
    g[1] = (f[1] - f[2]) / 2;
    g[2] = even + f[3];
}

#include "winograd.h"
#undef SIDE
#undef SIDED
