/* Winograd's F(4x4, 3x3): 36 products for a tile's 16 outputs, instead of 144; the points are 0, 1, -1, 2, -2. */

#define SIDE 4
#define SIDED(name) OF(winograd4_##name)

static inline void SIDED(take)(const OF(vec) d[6], OF(vec) t[6])
{
    OF(vec) even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1], near = d[4] - d[2], far = 2 * (d[3] - d[1]);
    t[0] = 4 * (d[0] - d[2]) - d[2] + d[4];
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = near + far;
    t[4] = near - far;
    t[5] = 4 * (d[1] - d[3]) - d[3] + d[5];
}

/* The transpose for a tile's own cells; `above` and `below` are the neighbours' outermost numbers. */
static inline void SIDED(untake)(const OF(vec) t[6], OF(vec) above, OF(vec) below, OF(vec) d[4])
{
    OF(vec) even = t[1] + t[2], odd = t[1] - t[2], wide = t[3] + t[4], steep = 2 * (t[3] - t[4]);
    d[0] = 4 * (t[5] - odd) - steep + above;
    d[1] = -4 * (t[0] + even) - t[0] - wide;
    d[2] = odd + steep - 4 * t[5] - t[5];
    d[3] = t[0] + even + wide + 4 * below;
}

static inline void SIDED(give)(const OF(vec) m[6], OF(vec) y[4])
{
    OF(vec) even = m[1] + m[2], odd = m[1] - m[2], wide = m[3] + m[4], steep = 2 * (m[3] - m[4]);
    y[0] = m[0] + even + wide;
    y[1] = odd + steep;
    y[2] = even + 4 * wide;
    y[3] = odd + 4 * steep + m[5];
}

static inline void SIDED(ungive)(const OF(vec) y[4], OF(vec) m[6])
{
    OF(vec) even = y[0] + y[2], odd = y[1] + y[3], wide = y[0] + 4 * y[2], steep = 2 * (y[1] + 4 * y[3]);
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = wide + steep;
    m[4] = wide - steep;
    m[5] = y[3];
}

static inline void SIDED(filter)(const OF(vec) g[3], OF(vec) f[6])
{
    const REAL sixth = (REAL)1 / 6;
    OF(vec) even = (g[0] + g[2]) * sixth, odd = g[1] * sixth;
    OF(vec) wide = g[0] * (sixth / 4) + g[2] * sixth, steep = g[1] * (sixth / 2);
    f[0] = g[0] / 4;
    f[1] = -even - odd;
    f[2] = odd - even;
    f[3] = wide + steep;
    f[4] = wide - steep;
    f[5] = g[2];
}

static inline void SIDED(unfilter)(const OF(vec) f[6], OF(vec) g[3])
{
    const REAL sixth = (REAL)1 / 6;
    OF(vec) even = (f[1] + f[2]) * sixth, wide = (f[3] + f[4]) * sixth;
    g[0] = f[0] / 4 - even + wide / 4;
    g[1] = (f[2] - f[1]) * sixth + (f[3] - f[4]) * (sixth / 2);
    g[2] = wide - even + f[5];
}

#include "winograd.h"
#undef SIDE
#undef SIDED
