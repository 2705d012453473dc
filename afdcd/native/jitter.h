/* Colours of bytes, to the bits of Pillow's builds for x86: afdcd/data/transforms.py. */

/* Pillow multiplies and adds in steps. From here to the end of the file that includes this one. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define BITS 22 /* of a share, a whole number in parts of 2^BITS */
#define ABREAST_BYTES 48 /* whole vectors, and whole pixels */
#define SPAN 64 /* pixels whose three planes are in the nearest cache */

static inline uint32_t share_of(uint32_t sum, long count)
{
    return (sum * (uint32_t)(0.5 + 1.0 / count * (1 << BITS)) + (1 << (BITS - 1))) >> BITS;
}

/* The mean colour of pixels (rows, columns, 3): that of each line rounded, then that of all lines. */
int mean_uint8(const uint8_t *pixels, uint8_t *mean, long rows, long columns)
{
    uint32_t sums[3] = {0};
    for (long row = 0; row < rows; row++, pixels += 3 * columns) {
        uint32_t lanes[ABREAST_BYTES] = {0}, line[3] = {0};
        long x = 0;
        for (; x + ABREAST_BYTES <= 3 * columns; x += ABREAST_BYTES)
            for (long lane = 0; lane < ABREAST_BYTES; lane++) lanes[lane] += pixels[x + lane];
        for (long lane = 0; x + lane < 3 * columns; lane++) lanes[lane] += pixels[x + lane];
        for (long lane = 0; lane < ABREAST_BYTES; lane++) line[lane % 3] += lanes[lane];
        for (long c = 0; c < 3; c++) sums[c] += share_of(line[c], columns);
    }
    for (long c = 0; c < 3; c++) mean[c] = share_of(sums[c], rows);
    return 0;
}

static inline uint8_t level(float value)
{
    value = value > 0 ? value : 0;
    return (int)(value < 255 ? value : 255);
}

static inline void mix_some(const uint8_t *restrict from, const float *restrict matrix, uint8_t *restrict to, long count)
{
    float planes[3][SPAN];
    uint8_t mixed[3][SPAN];
    for (long i = 0; i < count; i++)
        for (long c = 0; c < 3; c++) planes[c][i] = from[3 * i + c];
    for (long c = 0; c < 3; c++) {
        const float *of = matrix + 4 * c;
        for (long i = 0; i < count; i++)
            mixed[c][i] =
                level(of[0] * planes[0][i] + of[1] * planes[1][i] + of[2] * planes[2][i] + of[3] + 0.5f);
    }
    for (long i = 0; i < count; i++)
        for (long c = 0; c < 3; c++) to[3 * i + c] = mixed[c][i];
}

/* Each pixel (3) times a matrix (3, 4), whose last column is added; rounded and kept within 0..255. */
int mix_uint8(const uint8_t *pixels, const float *matrix, uint8_t *mixed, long count)
{
    long i = 0;
    for (; i + SPAN <= count; i += SPAN) mix_some(pixels + 3 * i, matrix, mixed + 3 * i, SPAN);
    mix_some(pixels + 3 * i, matrix, mixed + 3 * i, count - i);
    return 0;
}
