/* The transforms of a convolution by Winograd's F(2x2, 3x3); afdcd/losses/winograd.py says what it is.
 *
 * Maps are (batch, height, width, channels), products (16, batch, down, across, channels) with 4 by 4 for each
 * tile of 2x2 cells, filters (outputs, 3, 3, channels). They are STORED numbers, which may be narrower than
 * REAL: all sums are made in registers, and rounded once. What lies beyond a map's border is zero.
 */

typedef struct {
    long height, width, channels, down, across, tiles;
} OF(Grid);

static inline OF(Grid) OF(grid)(long batch, long height, long width, long channels)
{
    long down = (height + 1) / 2, across = (width + 1) / 2;
    return (OF(Grid)){height, width, channels, down, across, batch * down * across};
}

/* Where a cell's channels begin; NULL beyond the border. */
static inline const STORED *OF(cell)(const STORED *map, const OF(Grid) *grid, long image, long y, long x)
{
    if (y < 0 || y >= grid->height || x < 0 || x >= grid->width) return NULL;
    return map + ((image * grid->height + y) * grid->width + x) * grid->channels;
}

/* Channels of a map -> the tiles' 16 numbers, B' d B. */
static void OF(taken)(const STORED *const cells[16], STORED *products, long apart, long channels)
{
    for (long c = 0; c < channels; c += LANES) {
        long lanes = OF(lanes)(c, channels);
        OF(vec) lines[4][4];
        for (int column = 0; column < 4; column++) {
            OF(vec) d[4];
            for (int row = 0; row < 4; row++) {
                const STORED *from = cells[4 * row + column];
                d[row] = from ? TAKE(from + c, lanes) : (OF(vec)){0};
            }
            lines[0][column] = d[0] - d[2];
            lines[1][column] = d[1] + d[2];
            lines[2][column] = d[2] - d[1];
            lines[3][column] = d[3] - d[1];
        }
        for (int row = 0; row < 4; row++) {
            OF(vec) *d = lines[row];
            STORED *to = products + 4 * row * apart + c;
            PUT(to, d[0] - d[2], lanes);
            PUT(to + apart, d[1] + d[2], lanes);
            PUT(to + 2 * apart, d[2] - d[1], lanes);
            PUT(to + 3 * apart, d[3] - d[1], lanes);
        }
    }
}

/* A map to products. */
int OF(winograd_inputs)(const STORED *map, STORED *products, long batch, long height, long width, long channels)
{
    OF(Grid) grid = OF(grid)(batch, height, width, channels);
#pragma omp parallel for schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        long x = tile % grid.across, y = tile / grid.across % grid.down, image = tile / grid.across / grid.down;
        const STORED *cells[16];
        for (int k = 0; k < 16; k++)
            cells[k] = OF(cell)(map, &grid, image, 2 * y - 1 + k / 4, 2 * x - 1 + k % 4);
        OF(taken)(cells, products + tile * channels, grid.tiles * channels, channels);
    }
    return 0;
}

/* Products to a map, A' m A, and a bias (channels) added. */
int OF(winograd_outputs)(
    const STORED *products, const REAL *bias, STORED *map, long batch, long height, long width, long channels)
{
    OF(Grid) grid = OF(grid)(batch, height, width, channels);
    long apart = grid.tiles * channels;
#pragma omp parallel for schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        long x = tile % grid.across, y = tile / grid.across % grid.down, image = tile / grid.across / grid.down;
        STORED *cells[4];
        for (int k = 0; k < 4; k++)
            cells[k] = (STORED *)OF(cell)(map, &grid, image, 2 * y + k / 2, 2 * x + k % 2);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            const STORED *from = products + tile * channels + c;
            OF(vec) lines[2][4], shift = {0};
            memcpy(&shift, bias + c, lanes * sizeof *bias);
            for (int column = 0; column < 4; column++) {
                OF(vec) m[4];
                for (int row = 0; row < 4; row++) m[row] = TAKE(from + (4 * row + column) * apart, lanes);
                lines[0][column] = m[0] + m[1] + m[2];
                lines[1][column] = m[1] - m[2] + m[3];
            }
            for (int row = 0; row < 2; row++) {
                OF(vec) *m = lines[row];
                STORED **to = cells + 2 * row;
                if (to[0]) PUT(to[0] + c, m[0] + m[1] + m[2] + shift, lanes);
                if (to[1]) PUT(to[1] + c, m[1] - m[2] + m[3] + shift, lanes);
            }
        }
    }
    return 0;
}

/* The transpose of `winograd_outputs`: a map's slopes to those of products. */
int OF(winograd_slopes)(const STORED *map, STORED *products, long batch, long height, long width, long channels)
{
    OF(Grid) grid = OF(grid)(batch, height, width, channels);
    long apart = grid.tiles * channels;
#pragma omp parallel for schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        long x = tile % grid.across, y = tile / grid.across % grid.down, image = tile / grid.across / grid.down;
        const STORED *cells[4];
        for (int k = 0; k < 4; k++) cells[k] = OF(cell)(map, &grid, image, 2 * y + k / 2, 2 * x + k % 2);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) g[4];
            for (int k = 0; k < 4; k++) g[k] = cells[k] ? TAKE(cells[k] + c, lanes) : (OF(vec)){0};
            OF(vec) lines[4][2] = {
                {g[0], g[1]}, {g[0] + g[2], g[1] + g[3]}, {g[0] - g[2], g[1] - g[3]}, {g[2], g[3]}};
            for (int row = 0; row < 4; row++) {
                OF(vec) *s = lines[row];
                STORED *to = products + 4 * row * apart + tile * channels + c;
                PUT(to, s[0], lanes);
                PUT(to + apart, s[0] + s[1], lanes);
                PUT(to + 2 * apart, s[0] - s[1], lanes);
                PUT(to + 3 * apart, s[1], lanes);
            }
        }
    }
    return 0;
}

/* The transpose of `winograd_inputs`: slopes of products to those of a map.
 *
 * Tiles overlap by two cells: a cell has its own tile's slopes, and from each neighbour only the outermost.
 */
int OF(winograd_to_inputs)(
    const STORED *products, STORED *map, long batch, long height, long width, long channels)
{
    OF(Grid) grid = OF(grid)(batch, height, width, channels);
    long apart = grid.tiles * channels;
#pragma omp parallel for schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        long x = tile % grid.across, y = tile / grid.across % grid.down, image = tile / grid.across / grid.down;
        STORED *cells[4];
        for (int k = 0; k < 4; k++)
            cells[k] = (STORED *)OF(cell)(map, &grid, image, 2 * y + k / 2, 2 * x + k % 2);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[2][6];
            /* The left tile's last column, four of its own, the right tile's first. */
            for (int k = 0; k < 6; k++) {
                int column = k == 0 ? 3 : k == 5 ? 0 : k - 1, side = k == 0 ? -1 : k == 5;
                if (x + side < 0 || x + side >= grid.across) {
                    lines[0][k] = lines[1][k] = (OF(vec)){0};
                    continue;
                }
                const STORED *from = products + (tile + side) * channels + c + column * apart;
                long line = grid.across * channels;
                OF(vec) p[4], above = {0}, below = {0};
                for (int row = 0; row < 4; row++) p[row] = TAKE(from + 4 * row * apart, lanes);
                if (y > 0) above = TAKE(from + 12 * apart - line, lanes);
                if (y + 1 < grid.down) below = TAKE(from + line, lanes);
                lines[0][k] = p[1] - p[2] - p[3] + above;
                lines[1][k] = p[1] + p[2] - p[0] + below;
            }
            for (int row = 0; row < 2; row++) {
                OF(vec) *p = lines[row];
                STORED **to = cells + 2 * row;
                if (to[0]) PUT(to[0] + c, p[2] - p[3] - p[4] + p[0], lanes);
                if (to[1]) PUT(to[1] + c, p[2] + p[3] - p[1] + p[5], lanes);
            }
        }
    }
    return 0;
}

/* Filters to the 16 numbers that they multiply with, G g G' (16, outputs, channels). */
int OF(winograd_filters)(const REAL *weight, STORED *filters, long outputs, long channels)
{
    long apart = outputs * channels;
#pragma omp parallel for schedule(static)
    for (long output = 0; output < outputs; output++)
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[4][3];
            for (int column = 0; column < 3; column++) {
                OF(vec) g[3] = {{0}};
                for (int row = 0; row < 3; row++)
                    g[row] = OF(some)(weight + (output * 9 + 3 * row + column) * channels + c, lanes);
                OF(vec) even = (g[0] + g[2]) / 2, odd = g[1] / 2;
                lines[0][column] = g[0];
                lines[1][column] = even + odd;
                lines[2][column] = even - odd;
                lines[3][column] = g[2];
            }
            for (int row = 0; row < 4; row++) {
                OF(vec) *g = lines[row], even = (g[0] + g[2]) / 2, odd = g[1] / 2;
                STORED *to = filters + 4 * row * apart + output * channels + c;
                PUT(to, g[0], lanes);
                PUT(to + apart, even + odd, lanes);
                PUT(to + 2 * apart, even - odd, lanes);
                PUT(to + 3 * apart, g[2], lanes);
            }
        }
    return 0;
}

/* The transpose of `winograd_filters`. */
int OF(winograd_to_weight)(const STORED *filters, REAL *weight, long outputs, long channels)
{
    long apart = outputs * channels;
#pragma omp parallel for schedule(static)
    for (long output = 0; output < outputs; output++)
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[3][4];
            for (int column = 0; column < 4; column++) {
                OF(vec) f[4];
                for (int row = 0; row < 4; row++)
                    f[row] = TAKE(filters + (4 * row + column) * apart + output * channels + c, lanes);
                OF(vec) even = (f[1] + f[2]) / 2;
                lines[0][column] = f[0] + even;
                lines[1][column] = (f[1] - f[2]) / 2;
                lines[2][column] = even + f[3];
            }
            for (int row = 0; row < 3; row++) {
                OF(vec) *f = lines[row], even = (f[1] + f[2]) / 2;
                REAL *to = weight + (output * 9 + 3 * row) * channels + c;
                OF(keep)(to, f[0] + even, lanes);
                OF(keep)(to + channels, (f[1] - f[2]) / 2, lanes);
                OF(keep)(to + 2 * channels, even + f[3], lanes);
            }
        }
    return 0;
}
