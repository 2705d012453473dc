/* The contrast of anchors with the rows of their patch; afdcd/losses/contrast/forms.py says what it is.
 *
 * Distances are formed four anchors and a few vectors of rows at a time, in registers. All but a few of an
 * anchor's rows are so far away that their powers are below rounding: only the near ones are gone through one
 * by one, for the sum and for the gradient.
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

/* Add `scale` times the derivative of the distance of two rows, which is 0 where it has none. */
static inline void OF(pull)(
    REAL *slope, const REAL *anchor, const REAL *other, long width, REAL scale, REAL distance, int l2)
{
    if (l2) {
        if (distance == 0) return;
        scale /= distance;
        for (long k = 0; k < width; k++) slope[k] += scale * (anchor[k] - other[k]);
    } else
        for (long k = 0; k < width; k++)
            slope[k] += scale * (REAL)((anchor[k] > other[k]) - (anchor[k] < other[k]));
}

/* The loss of one anchor; its distances (padded), which are used up; its gradient (width) unless NULL. */
static REAL OF(of_anchor)(
    const REAL *anchor, const REAL *rows, REAL *distances, REAL *slope, long own, long count, long padded,
    long width, long groups, int cross_group, REAL temperature, REAL reach, int l2)
{
    REAL all = 0, nearest, apart;
    if (l2)
        for (long row = 0; row < padded; row++) distances[row] = sqrt(distances[row]);
    for (long row = 0; row < count; row++) all += distances[row];
    if (all != all) {
        for (long k = 0; slope && k < width; k++) slope[k] = all;
        return all;
    }
    nearest = apart = distances[own];
    if (cross_group)
        for (long row = own % groups; row < count; row += groups) distances[row] = INFINITY;
    distances[own] = INFINITY;
    for (long row = count; row < padded; row++) distances[row] = INFINITY;
    OF(vec) least = OF(all)(nearest);
    for (long row = 0; row < padded; row += LANES) {
        OF(vec) some = OF(load)(distances + row);
        least = OF(chosen)(some < least, some, least);
    }
    for (int lane = 0; lane < LANES; lane++) nearest = least[lane] < nearest ? least[lane] : nearest;

    REAL rest = 0, far = nearest + reach * temperature;
    if (slope) memset(slope, 0, width * sizeof *slope);
    for (long block = 0; block < padded; block += LANES) {
        if (!OF(any)(OF(load)(distances + block) <= far)) continue;
        for (long row = block; row < block + LANES; row++) {
            if (!(distances[row] <= far) || distances[row] == INFINITY) continue;
            REAL power = exp((nearest - distances[row]) / temperature);
            rest += power;
            if (slope) OF(pull)(slope, anchor, rows + row * width, width, -power, distances[row], l2);
        }
    }
    REAL kept = exp((nearest - apart) / temperature);
    if (slope) {
        REAL share = 1 / (temperature * (kept + rest));
        OF(pull)(slope, anchor, rows + own * width, width, rest, apart, l2);
        for (long k = 0; k < width; k++) slope[k] *= share;
    }
    /* Where the positive is nearest, kept is 1, and a small rest keeps all its digits. */
    return log1p((kept - 1) + rest) + (apart - nearest) / temperature;
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
#pragma omp parallel reduction(| : failed)
    {
        REAL *found = malloc(4 * padded * sizeof *found);
        if (!found) failed = NO_MEMORY;
#pragma omp for schedule(static)
        for (long unit = 0; unit < patches * fours; unit++) {
            long first = unit / fours * count + unit % fours * 4, end = (unit / fours + 1) * count;
            const REAL *others = rows + unit / fours * count * width, *four[4];
            for (int a = 0; a < 4; a++) four[a] = anchors + (first + a < end ? first + a : end - 1) * width;
            if (!found) continue;
            OF(distances)(four, columns + unit / fours * padded * width, padded, width, l2, found);
            for (long a = 0; a < 4 && first + a < end; a++)
                losses[first + a] = OF(of_anchor)(
                    four[a], others, found + a * padded, slopes ? slopes + (first + a) * width : NULL,
                    unit % fours * 4 + a, count, padded, width, groups, cross_group, (REAL)temperature,
                    (REAL)reach, l2);
        }
        free(found);
    }
    return failed;
}
