/* Dropout; afdcd/training/dropout.py. Which values fall is a function of the seed and their place alone. */

#ifndef DROPOUT
#define DROPOUT
/* 32 random bits: a finaliser over the place, once with each half of the seed. */
static inline uint32_t scattered(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}
#endif

/* Values times `scale`, or times 0 where random bits are below `fallen` of 2^32. */
int OF(dropout)(const STORED *values, STORED *to, long count, long seed, long fallen, double scale)
{
    const uint32_t low = seed, high = (uint64_t)seed >> 32, limit = fallen;
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long block = 0; block < (count + LANES - 1) / LANES; block++) {
        long at = block * LANES, lanes = count - at < LANES ? count - at : LANES;
        REAL factor[LANES];
        for (int lane = 0; lane < LANES; lane++)
            factor[lane] = scattered(scattered((uint32_t)at + lane + low) + high) < limit ? 0 : (REAL)scale;
        PUT(to + at, TAKE(values + at, lanes) * OF(load)(factor), lanes);
    }
    return 0;
}
