/* What kept cells of a map give to their neighbours, and take from them; afdcd/losses/gathered.py.
 *
 * Maps are (batch, height, width, channels); `places` (count) are the kept cells in order. Each has a row
 * (9, channels), one part a tap, line by line: a tap of a cell reads from one line above to one below.
 */

/* Add up what each cell reads from kept ones: parts (count, 9, channels), and with each of them the tap's
 * offset (9, channels) unless that is NULL, on top of a bias (channels).
 */
int OF(gathered_sums)(
    const STORED *parts, const int64_t *places, const REAL *offsets, const REAL *bias, STORED *map, long count,
    long batch, long height, long width, long channels)
{
    long cells = batch * height * width;
    int64_t *rows = calloc(cells, sizeof *rows); /* from 1 on */
    if (!rows) return NO_MEMORY;
    for (long row = 0; row < count; row++) rows[places[row]] = row + 1;
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long cell = 0; cell < cells; cell++) {
        long x = cell % width, y = cell / width % height, taps[9];
        const STORED *from[9];
        int found = 0;
        for (long tap = 0; tap < 9; tap++) {
            long down = tap / 3 - 1, across = tap % 3 - 1;
            if (y + down < 0 || y + down >= height || x + across < 0 || x + across >= width) continue;
            long row = rows[cell + down * width + across];
            if (!row) continue;
            taps[found] = tap * channels;
            from[found++] = parts + (row - 1) * 9 * channels + tap * channels;
        }
        for (long c = 0; c < channels; c += LANES) {
            long lanes = OF(lanes)(c, channels);
            OF(vec) sum = OF(some)(bias + c, lanes);
            for (int k = 0; k < found; k++) {
                sum += TAKE(from[k] + c, lanes);
                if (offsets) sum += OF(some)(offsets + taps[k] + c, lanes);
            }
            PUT(map + cell * channels + c, sum, lanes);
        }
    }
    free(rows);
    return 0;
}

/* The transpose: each kept cell's parts of a map's slopes, zero beyond the border. */
int OF(gathered_slopes)(
    const STORED *map, const int64_t *places, STORED *parts, long count, long height, long width, long channels)
{
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long row = 0; row < count; row++) {
        long cell = places[row], x = cell % width, y = cell / width % height;
        for (long tap = 0; tap < 9; tap++) {
            long up = tap / 3 - 1, back = tap % 3 - 1;
            STORED *to = parts + (row * 9 + tap) * channels;
            if (y - up < 0 || y - up >= height || x - back < 0 || x - back >= width)
                memset(to, 0, channels * sizeof *to);
            else memcpy(to, map + (cell - up * width - back) * channels, channels * sizeof *to);
        }
    }
    return 0;
}
