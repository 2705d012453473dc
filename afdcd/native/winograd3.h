/* Winograd's F(3x3, 3x3): 25 products for the nine outputs of a tile, instead of 81; the points are 0, 1, -1, 2. */

#define SIDE 3
#define SIDED(name) OF(winograd3_##name)

static inline void SIDED(take)(const OF(vec) d[5], OF(vec) t[5])
{
    t[0] = 2 * (d[0] - d[2]) - d[1] + d[3];
    t[1] = d[3] - d[2] - 2 * d[1];
    t[2] = d[3] - d[2] + 2 * (d[1] - d[2]);
    t[3] = d[3] - d[1];
    t[4] = 2 * (d[1] - d[3]) - d[2] + d[4];
}

/* The transpose for a tile's own cells; `above` and `below` are the neighbours' outermost numbers. */
static inline void SIDED(untake)(const OF(vec) t[5], OF(vec) above, OF(vec) below, OF(vec) d[3])
{
    d[0] = 2 * (t[2] - t[1] + t[4]) - t[0] - t[3] + above;
    d[1] = -2 * (t[0] + t[2]) - t[1] - t[2] - t[4];
    d[2] = t[0] + t[1] + t[2] + t[3] - 2 * t[4] + 2 * below;
}

static inline void SIDED(give)(const OF(vec) m[5], OF(vec) y[3])
{
    OF(vec) even = m[1] + m[2];
    y[0] = m[0] + even + m[3];
    y[1] = m[1] - m[2] + 2 * m[3];
    y[2] = even + 4 * m[3] + m[4];
}

static inline void SIDED(ungive)(const OF(vec) y[3], OF(vec) m[5])
{
    OF(vec) even = y[0] + y[2];
    m[0] = y[0];
    m[1] = even + y[1];
    m[2] = even - y[1];
    m[3] = y[0] + 2 * y[1] + 4 * y[2];
    m[4] = y[2];
}

static inline void SIDED(filter)(const OF(vec) g[3], OF(vec) f[5])
{
    const REAL sixth = (REAL)1 / 6;
    OF(vec) even = g[0] + g[2];
    f[0] = g[0] / 2;
    f[1] = (even + g[1]) / -2;
    f[2] = (g[1] - even) * sixth;
    f[3] = (g[0] + 2 * g[1] + 4 * g[2]) * sixth;
    f[4] = g[2];
}

static inline void SIDED(unfilter)(const OF(vec) f[5], OF(vec) g[3])
{
    const REAL sixth = (REAL)1 / 6;
    OF(vec) half = f[1] / 2, near = f[2] * sixth, far = f[3] * sixth;
    g[0] = f[0] / 2 - half - near + far;
    g[1] = near + 2 * far - half;
    g[2] = 4 * far - near - half + f[4];
}

#include "winograd.h"
#undef SIDE
#undef SIDED
