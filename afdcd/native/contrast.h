/* The contrast of anchors with the rows of their patch; afdcd/losses/contrast/forms.py says what it is.
 *
 * Distances are formed four anchors and a few vectors of rows at a time, in registers. All but a few of an
 * anchor's rows are so far away that their powers are below rounding: only the near ones reach the sum and
 * the gradient.
 */

/* Distances (4, padded) of four anchors, squared for l2, from columns (width, padded). */
static inline void OF(distances)(
    const REAL *const anchors[4], const REAL *columns, long padded, long width, int l2, REAL *found)
{
    for (long row = 0; row < padded; row += LANES * ABREAST) {
        OF(vec) sums[4][ABREAST] = {{{0}}};
        for (long k = 0; k < width; k++) {
            OF(vec) others[ABREAST];
            for (int v = 0; v < ABREAST; v++) others[v] = OF(load)(columns + k * padded + row + v * LANES);
            for (int a = 0; a < 4; a++)
                for (int v = 0; v < ABREAST; v++) {
                    OF(vec) apart = anchors[a][k] - others[v];
                    if (l2) sums[a][v] += apart * apart;
                    else sums[a][v] += OF(magnitude)(apart);
                }
        }
        for (int a = 0; a < 4; a++)
            for (int v = 0; v < ABREAST; v++) OF(store)(found + a * padded + row + v * LANES, sums[a][v]);
    }
}

/* Rows that take part in an anchor's gradient, and their factors; for l2 these are over the distance. */
typedef struct {
    long count, *rows;
    REAL *scales;
} OF(Pulls);

/* The gradient (width) of an anchor: all rows' derivatives of the distance, which is 0 where it has none. */
static inline void OF(pulled)(
    const OF(Pulls) *pulls, const REAL *anchor, const REAL *rows, long width, REAL share, int l2, REAL *slope)
{
    for (long k = 0; k < width; k += LANES) {
        long lanes = OF(lanes)(k, width);
        OF(vec) one = OF(some)(anchor + k, lanes), sum = {0};
        for (long i = 0; i < pulls->count; i++) {
            OF(vec) two = OF(some)(rows + pulls->rows[i] * width + k, lanes), scale = OF(all)(pulls->scales[i]);
            if (l2) sum += scale * (one - two);
            else sum += OF(chosen)(one > two, scale, OF(chosen)(one < two, -scale, (OF(vec)){0}));
        }
        OF(keep)(slope + k, sum * share, lanes);
    }
}

/* The loss of one anchor; its distances (padded), which are used up; its gradient (width) unless NULL. */
static REAL OF(of_anchor)(
    const REAL *anchor, const REAL *rows, REAL *distances, REAL *slope, OF(Pulls) *pulls, long own, long count,
    long padded, long width, long groups, int cross_group, REAL temperature, REAL reach, int l2)
{
    OF(vec) sum = {0}, none = {0};
    if (l2)
        for (long row = 0; row < padded; row++) distances[row] = sqrt(distances[row]);
    for (long row = 0; row < padded; row += LANES) sum += OF(load)(distances + row);
    if (OF(any)(sum != sum)) {
        for (long k = 0; slope && k < width; k++) slope[k] = NAN;
        return NAN;
    }
    REAL apart = distances[own], nearest = apart;
    if (cross_group)
        for (long row = own % groups; row < count; row += groups) distances[row] = INFINITY;
    distances[own] = INFINITY;
    for (long row = count; row < padded; row++) distances[row] = INFINITY;
    OF(vec) least = OF(all)(nearest), rest = {0};
    for (long row = 0; row < padded; row += LANES) {
        OF(vec) some = OF(load)(distances + row);
        least = OF(chosen)(some < least, some, least);
    }
    for (int lane = 0; lane < LANES; lane++) nearest = least[lane] < nearest ? least[lane] : nearest;

    REAL far = nearest + reach * temperature, together = 0;
    pulls->count = 0;
    for (long block = 0; block < padded; block += LANES) {
        OF(vec) some = OF(load)(distances + block);
        OF(whole) near = (some <= far) & (some < INFINITY);
        if (!OF(any)(near)) continue;
        OF(vec) power = OF(chosen)(near, OF(exponential)((nearest - some) / temperature), none);
        rest += power;
        if (l2) power = OF(chosen)(some > 0, power / some, none);
        for (int lane = 0; lane < LANES; lane++) {
            pulls->rows[pulls->count] = block + lane;
            pulls->scales[pulls->count] = -power[lane];
            pulls->count += power[lane] > 0;
        }
    }
    for (int lane = 0; lane < LANES; lane++) together += rest[lane];
    REAL kept = exp((nearest - apart) / temperature);
    if (slope) {
        pulls->rows[pulls->count] = own;
        pulls->scales[pulls->count++] = !l2 ? together : apart > 0 ? together / apart : 0;
        OF(pulled)(pulls, anchor, rows, width, 1 / (temperature * (kept + together)), l2, slope);
    }
    /* Where the positive is nearest, kept is 1, and a small rest keeps all its digits. */
    return log1p((kept - 1) + together) + (apart - nearest) / temperature;
}

/* Losses (patches, count) and, unless NULL, their gradients (patches, count, width) by the anchors.
 *
 * anchors and rows (patches, count, width); columns (patches, width, padded), the rows once more, padded to
 * whole steps; reach: powers below e^-reach of the largest are left out.
 */
int OF(contrast)(
    const REAL *anchors, const REAL *rows, const REAL *columns, REAL *losses, REAL *slopes, long patches,
    long count, long padded, long width, long groups, long cross_group, long l2, double temperature,
    double reach)
{
    long fours = (count + 3) / 4;
    int failed = 0;
#pragma omp parallel num_threads(team()) reduction(| : failed)
    {
        /* One place more than rows: the own row comes last, and what is not taken is written all the same. */
        OF(Pulls) pulls = {0, malloc((padded + 1) * sizeof(long)), malloc((padded + 1) * sizeof(REAL))};
        REAL *found = malloc(4 * padded * sizeof *found);
        int ready = found && pulls.rows && pulls.scales;
        if (!ready) failed = NO_MEMORY;
#pragma omp for schedule(static)
        for (long unit = 0; unit < patches * fours; unit++) {
            long first = unit / fours * count + unit % fours * 4, end = (unit / fours + 1) * count;
            const REAL *others = rows + unit / fours * count * width, *four[4];
            for (int a = 0; a < 4; a++) four[a] = anchors + (first + a < end ? first + a : end - 1) * width;
            if (!ready) continue;
            OF(distances)(four, columns + unit / fours * padded * width, padded, width, l2, found);
            for (long a = 0; a < 4 && first + a < end; a++)
                losses[first + a] = OF(of_anchor)(
                    four[a], others, found + a * padded, slopes ? slopes + (first + a) * width : NULL,
                    &pulls, unit % fours * 4 + a, count, padded, width, groups, cross_group, (REAL)temperature,
                    (REAL)reach, l2);
        }
        free(found);
        free(pulls.rows);
        free(pulls.scales);
    }
    return failed;
}
