/* The transforms of a convolution by Winograd's F(SIDE x SIDE, 3x3); afdcd/losses/winograd.py says what it is.
 * What they do along one axis stands in winograd2.h, winograd3.h and winograd4.h, which include this.
 *
 * Maps are (batch, height, width, channels), filters (outputs, 3, 3, channels). A tile of SIDE x SIDE cells becomes
 * TILE x TILE numbers a channel, each in a plane (tiles, channels) of its own; planes begin `apart` numbers from
 * each other. With a dilation of `step` each of the step x step grids of a map is tiled by itself. STORED may be
 * narrower than REAL: all sums are made in registers, and rounded once. Beyond a map's border is zero.
 */
#define TILE (SIDE + 2)

typedef struct {
    long height, width, channels, step, down, across, tiles;
} SIDED(Grid);

static inline SIDED(Grid) SIDED(grid)(long batch, long height, long width, long channels, long step)
{
    long down = (height + step * SIDE - 1) / (step * SIDE), across = (width + step * SIDE - 1) / (step * SIDE);
    return (SIDED(Grid)){height, width, channels, step, down, across, batch * step * step * down * across};
}

typedef struct {
    long image, y, x, down, across; /* the first cell; which tile of its grid */
} SIDED(Place);

static inline SIDED(Place) SIDED(place)(const SIDED(Grid) *grid, long tile)
{
    long across = tile % grid->across, down = tile / grid->across % grid->down;
    long first = tile / grid->across / grid->down, step = grid->step;
    return (SIDED(Place)){
        first / step / step, first / step % step + down * SIDE * step, first % step + across * SIDE * step, down,
        across};
}

/* Where the channels of a tile's cell begin, counted from its first; NULL beyond the border. */
static inline STORED *SIDED(cell)(
    const STORED *map, const SIDED(Grid) *grid, SIDED(Place) place, long row, long column)
{
    long y = place.y + row * grid->step, x = place.x + column * grid->step;
    if (y < 0 || y >= grid->height || x < 0 || x >= grid->width) return NULL;
    return (STORED *)map + ((place.image * grid->height + y) * grid->width + x) * grid->channels;
}

/* A tile's own cells. */
static inline void SIDED(cells)(
    const STORED *map, const SIDED(Grid) *grid, SIDED(Place) place, STORED *cells[SIDE][SIDE])
{
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++) cells[row][column] = SIDED(cell)(map, grid, place, row, column);
}

/* A map to planes, B' d B. */
int SIDED(inputs)(
    const STORED *map, STORED *planes, long batch, long height, long width, long channels, long step, long apart)
{
    SIDED(Grid) grid = SIDED(grid)(batch, height, width, channels, step);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        SIDED(Place) place = SIDED(place)(&grid, tile);
        const STORED *cells[TILE][TILE];
        for (int row = 0; row < TILE; row++)
            for (int column = 0; column < TILE; column++)
                cells[row][column] = SIDED(cell)(map, &grid, place, row - 1, column - 1);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[TILE][TILE];
            for (int column = 0; column < TILE; column++) {
                OF(vec) d[TILE], t[TILE];
                for (int row = 0; row < TILE; row++)
                    d[row] = cells[row][column] ? TAKE(cells[row][column] + c, lanes) : (OF(vec)){0};
                SIDED(take)(d, t);
                for (int row = 0; row < TILE; row++) lines[row][column] = t[row];
            }
            STORED *to = planes + tile * channels + c;
            for (int row = 0; row < TILE; row++) {
                OF(vec) t[TILE];
                SIDED(take)(lines[row], t);
                for (int column = 0; column < TILE; column++, to += apart) PUT(to, t[column], lanes);
            }
        }
    }
    return 0;
}

/* Planes to a map, A' m A, and a bias (channels) added. */
int SIDED(outputs)(
    const STORED *planes, const REAL *bias, STORED *map, long batch, long height, long width, long channels,
    long step, long apart)
{
    SIDED(Grid) grid = SIDED(grid)(batch, height, width, channels, step);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        SIDED(Place) place = SIDED(place)(&grid, tile);
        STORED *cells[SIDE][SIDE];
        SIDED(cells)(map, &grid, place, cells);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            const STORED *from = planes + tile * channels + c;
            OF(vec) lines[SIDE][TILE], shift = OF(some)(bias + c, lanes);
            for (int column = 0; column < TILE; column++) {
                OF(vec) m[TILE], y[SIDE];
                for (int row = 0; row < TILE; row++) m[row] = TAKE(from + (TILE * row + column) * apart, lanes);
                SIDED(give)(m, y);
                for (int row = 0; row < SIDE; row++) lines[row][column] = y[row];
            }
            for (int row = 0; row < SIDE; row++) {
                OF(vec) y[SIDE];
                SIDED(give)(lines[row], y);
                for (int column = 0; column < SIDE; column++)
                    if (cells[row][column]) PUT(cells[row][column] + c, y[column] + shift, lanes);
            }
        }
    }
    return 0;
}

/* The transpose of `outputs`: a map's slopes to those of planes. */
int SIDED(slopes)(
    const STORED *map, STORED *planes, long batch, long height, long width, long channels, long step, long apart)
{
    SIDED(Grid) grid = SIDED(grid)(batch, height, width, channels, step);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        SIDED(Place) place = SIDED(place)(&grid, tile);
        STORED *cells[SIDE][SIDE];
        SIDED(cells)(map, &grid, place, cells);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[TILE][SIDE];
            for (int column = 0; column < SIDE; column++) {
                OF(vec) g[SIDE], s[TILE];
                for (int row = 0; row < SIDE; row++)
                    g[row] = cells[row][column] ? TAKE(cells[row][column] + c, lanes) : (OF(vec)){0};
                SIDED(ungive)(g, s);
                for (int row = 0; row < TILE; row++) lines[row][column] = s[row];
            }
            STORED *to = planes + tile * channels + c;
            for (int row = 0; row < TILE; row++) {
                OF(vec) s[TILE];
                SIDED(ungive)(lines[row], s);
                for (int column = 0; column < TILE; column++, to += apart) PUT(to, s[column], lanes);
            }
        }
    }
    return 0;
}

/* The transpose of `inputs`: slopes of planes to those of a map.
 *
 * Tiles overlap by two cells: a cell has its own tile's slopes, and from each neighbour only the outermost.
 */
int SIDED(to_inputs)(
    const STORED *planes, STORED *map, long batch, long height, long width, long channels, long step, long apart)
{
    SIDED(Grid) grid = SIDED(grid)(batch, height, width, channels, step);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long tile = 0; tile < grid.tiles; tile++) {
        SIDED(Place) place = SIDED(place)(&grid, tile);
        STORED *cells[SIDE][SIDE];
        SIDED(cells)(map, &grid, place, cells);
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels), line = grid.across * channels;
            OF(vec) lines[SIDE][TILE + 2];
            /* The left tile's last column, its own, and the right tile's first. */
            for (int k = 0; k < TILE + 2; k++) {
                int side = k == 0 ? -1 : k == TILE + 1, column = k == 0 ? TILE - 1 : k == TILE + 1 ? 0 : k - 1;
                OF(vec) p[TILE], above = {0}, below = {0}, x[SIDE] = {{0}};
                if (place.across + side >= 0 && place.across + side < grid.across) {
                    const STORED *from = planes + (tile + side) * channels + c + column * apart;
                    for (int row = 0; row < TILE; row++) p[row] = TAKE(from + row * TILE * apart, lanes);
                    if (place.down > 0) above = TAKE(from + (TILE - 1) * TILE * apart - line, lanes);
                    if (place.down + 1 < grid.down) below = TAKE(from + line, lanes);
                    SIDED(untake)(p, above, below, x);
                }
                for (int row = 0; row < SIDE; row++) lines[row][k] = x[row];
            }
            for (int row = 0; row < SIDE; row++) {
                OF(vec) x[SIDE];
                SIDED(untake)(lines[row] + 1, lines[row][0], lines[row][TILE + 1], x);
                for (int column = 0; column < SIDE; column++)
                    if (cells[row][column]) PUT(cells[row][column] + c, x[column], lanes);
            }
        }
    }
    return 0;
}

/* Filters to the numbers that they multiply with, G g G', in planes (outputs, channels). */
int SIDED(filters)(const REAL *weight, STORED *planes, long outputs, long channels, long apart)
{
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long output = 0; output < outputs; output++)
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) lines[TILE][3];
            for (int column = 0; column < 3; column++) {
                OF(vec) g[3], f[TILE];
                for (int row = 0; row < 3; row++)
                    g[row] = OF(some)(weight + (output * 9 + 3 * row + column) * channels + c, lanes);
                SIDED(filter)(g, f);
                for (int row = 0; row < TILE; row++) lines[row][column] = f[row];
            }
            STORED *to = planes + output * channels + c;
            for (int row = 0; row < TILE; row++) {
                OF(vec) f[TILE];
                SIDED(filter)(lines[row], f);
                for (int column = 0; column < TILE; column++, to += apart) PUT(to, f[column], lanes);
            }
        }
    return 0;
}

/* The transpose of `filters`. */
int SIDED(to_weight)(const STORED *planes, REAL *weight, long outputs, long channels, long apart)
{
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long output = 0; output < outputs; output++)
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            const STORED *from = planes + output * channels + c;
            OF(vec) lines[3][TILE];
            for (int column = 0; column < TILE; column++) {
                OF(vec) f[TILE], g[3];
                for (int row = 0; row < TILE; row++) f[row] = TAKE(from + (TILE * row + column) * apart, lanes);
                SIDED(unfilter)(f, g);
                for (int row = 0; row < 3; row++) lines[row][column] = g[row];
            }
            for (int row = 0; row < 3; row++) {
                OF(vec) g[3];
                SIDED(unfilter)(lines[row], g);
                for (int column = 0; column < 3; column++)
                    OF(keep)(weight + (output * 9 + 3 * row + column) * channels + c, g[column], lanes);
            }
        }
    return 0;
}
#undef TILE
