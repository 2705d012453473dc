/* Batch normalisation of channels-last maps in training; afdcd/training/batch_norm.py.
 *
 * A map is rows of channels, one row a pixel, of STORED numbers that are widened to REAL. Where channels do
 * not fill vectors, several rows do: all goes by periods, the least number of values that is whole rows and
 * whole blocks, and what a channel needs is written out once for a period. Chunks are whole periods whose
 * sums are added up in order, whichever thread forms them.
 */

#define PAIRS 2 /* of vectors, at once */
#define BLOCK (PAIRS * 2 * LANES)

typedef struct {
    long rows, channels, period, chunk, chunks;
} OF(Shape);

static OF(Shape) OF(shape)(long rows, long channels)
{
    long period = channels;
    while (period % BLOCK) period += channels;
    /* A chunk stays in the nearest cache, unless a period is so long that its sums would cost more. */
    long chunk = period * (8192 / period > 16 ? 8192 / period : 16);
    return (OF(Shape)){rows, channels, period, chunk, (rows * channels + chunk - 1) / chunk};
}

/* How many values chunk `index` holds. */
static inline long OF(held)(const OF(Shape) *shape, long index)
{
    long rest = shape->rows * shape->channels - index * shape->chunk;
    return rest < shape->chunk ? rest : shape->chunk;
}

/* Add up a period's sums (period) by channel. */
static inline void OF(fold)(const OF(Shape) *shape, const REAL *sums, REAL *folded)
{
    memset(folded, 0, shape->channels * sizeof *folded);
    for (long row = 0; row < shape->period; row += shape->channels)
        for (long c = 0; c < shape->channels; c++) folded[c] += sums[row + c];
}

/* Write channels' values (channels) out for a period. */
static inline void OF(unfold)(const OF(Shape) *shape, const REAL *values, REAL *unfolded)
{
    for (long row = 0; row < shape->period; row += shape->channels)
        memcpy(unfolded + row, values, shape->channels * sizeof *values);
}

/* Sums (period) of `count` values. */
static void OF(sums)(const STORED *x, long count, long period, REAL *sums)
{
    long whole = count / period * period;
    for (long at = 0; at < period; at += BLOCK) {
        OF(Pair) sum[PAIRS] = {{{0}, {0}}};
        for (long i = at; i < whole; i += period)
            for (int p = 0; p < PAIRS; p++) {
                OF(Pair) value = OF(take)(x + i + p * 2 * LANES);
                sum[p].a += value.a;
                sum[p].b += value.b;
            }
        for (int p = 0; p < PAIRS; p++) OF(collected)(sums + at + p * 2 * LANES, sum[p]);
    }
    for (long i = whole; i < count; i++) sums[i - whole] += OF(take_one)(x + i);
}

/* Sums (period) of squares about `mean` (period). */
static void OF(squares)(const STORED *x, long count, long period, const REAL *mean, REAL *sums)
{
    long whole = count / period * period;
    for (long at = 0; at < period; at += BLOCK) {
        OF(Pair) sum[PAIRS] = {{{0}, {0}}}, middle[PAIRS];
        for (int p = 0; p < PAIRS; p++) middle[p] = OF(dealt)(mean + at + p * 2 * LANES);
        for (long i = at; i < whole; i += period)
            for (int p = 0; p < PAIRS; p++) {
                OF(Pair) value = OF(take)(x + i + p * 2 * LANES);
                value.a -= middle[p].a;
                value.b -= middle[p].b;
                sum[p].a += value.a * value.a;
                sum[p].b += value.b * value.b;
            }
        for (int p = 0; p < PAIRS; p++) OF(collected)(sums + at + p * 2 * LANES, sum[p]);
    }
    for (long i = whole; i < count; i++) {
        REAL apart = OF(take_one)(x + i) - mean[i - whole];
        sums[i - whole] += apart * apart;
    }
}

/* `value`, or 0 where `sign` is not above it; NaN is let through. */
static inline OF(Pair) OF(gated)(OF(Pair) value, OF(Pair) sign)
{
    value.a = OF(chosen)(sign.a <= 0, OF(all)(0), value.a);
    value.b = OF(chosen)(sign.b <= 0, OF(all)(0), value.b);
    return value;
}

static inline REAL OF(gated_one)(REAL value, REAL sign) { return sign <= 0 ? 0 : value; }

/* Slopes at `i`: of y where it was not rectified and is NULL, else those that its sign lets through. */
ALWAYS OF(Pair) OF(slopes_at)(const STORED *slopes, const STORED *y, long i)
{
    OF(Pair) slope = OF(take)(slopes + i);
    return y ? OF(gated)(slope, OF(take)(y + i)) : slope;
}

ALWAYS REAL OF(slope_at)(const STORED *slopes, const STORED *y, long i)
{
    REAL slope = OF(take_one)(slopes + i);
    return y ? OF(gated_one)(slope, OF(take_one)(y + i)) : slope;
}

/* Sums (period) of slopes, and of their products with x less `mean`. */
ALWAYS void OF(products)(
    const STORED *x, const STORED *y, const STORED *slopes, long count, long period, const REAL *mean,
    REAL *sums, REAL *products)
{
    long whole = count / period * period;
    for (long at = 0; at < period; at += BLOCK) {
        OF(Pair) sum[PAIRS] = {{{0}, {0}}}, product[PAIRS] = {{{0}, {0}}}, middle[PAIRS];
        for (int p = 0; p < PAIRS; p++) middle[p] = OF(dealt)(mean + at + p * 2 * LANES);
        for (long i = at; i < whole; i += period)
            for (int p = 0; p < PAIRS; p++) {
                OF(Pair) slope = OF(slopes_at)(slopes, y, i + p * 2 * LANES);
                OF(Pair) value = OF(take)(x + i + p * 2 * LANES);
                sum[p].a += slope.a;
                sum[p].b += slope.b;
                product[p].a += slope.a * (value.a - middle[p].a);
                product[p].b += slope.b * (value.b - middle[p].b);
            }
        for (int p = 0; p < PAIRS; p++) {
            OF(collected)(sums + at + p * 2 * LANES, sum[p]);
            OF(collected)(products + at + p * 2 * LANES, product[p]);
        }
    }
    for (long i = whole; i < count; i++) {
        REAL slope = OF(slope_at)(slopes, y, i);
        sums[i - whole] += slope;
        products[i - whole] += slope * (OF(take_one)(x + i) - mean[i - whole]);
    }
}

/* (x - mean) * scale + shift (period), and `steep` times the slopes on top unless those are NULL. */
ALWAYS void OF(scaled)(
    const STORED *x, const STORED *y, const STORED *slopes, STORED *to, long count, long period,
    const REAL *mean, const REAL *scale, const REAL *shift, const REAL *steep, int rectified)
{
    long whole = count / period * period;
    for (long at = 0; at < period; at += BLOCK) {
        OF(Pair) middle[PAIRS], factor[PAIRS], offset[PAIRS], slant[PAIRS];
        for (int p = 0; p < PAIRS; p++) {
            long here = at + p * 2 * LANES;
            middle[p] = OF(dealt)(mean + here);
            factor[p] = OF(dealt)(scale + here);
            offset[p] = OF(dealt)(shift + here);
            if (slopes) slant[p] = OF(dealt)(steep + here);
        }
        for (long i = at; i < whole; i += period)
            for (int p = 0; p < PAIRS; p++) {
                OF(Pair) value = OF(take)(x + i + p * 2 * LANES), slope;
                value.a = (value.a - middle[p].a) * factor[p].a + offset[p].a;
                value.b = (value.b - middle[p].b) * factor[p].b + offset[p].b;
                if (slopes) {
                    slope = OF(slopes_at)(slopes, y, i + p * 2 * LANES);
                    value.a += slope.a * slant[p].a;
                    value.b += slope.b * slant[p].b;
                }
                OF(put)(to + i + p * 2 * LANES, rectified ? OF(gated)(value, value) : value);
            }
    }
    for (long i = whole; i < count; i++) {
        long k = i - whole;
        REAL value = (OF(take_one)(x + i) - mean[k]) * scale[k] + shift[k];
        if (slopes) value += OF(slope_at)(slopes, y, i) * steep[k];
        OF(put_one)(to + i, rectified ? OF(gated_one)(value, value) : value);
    }
}

/* Mean and sum of squares about it (channels) of all rows, from those of chunks (chunks, channels). */
static void OF(joined)(
    const OF(Shape) *shape, const REAL *means, const REAL *squares, double *restrict mean,
    double *restrict spread)
{
    long channels = shape->channels;
    for (long c = 0; c < channels; c++) mean[c] = spread[c] = 0;
    for (long k = 0; k < shape->chunks; k++) {
        double share = (double)OF(held)(shape, k) / channels / shape->rows;
        for (long c = 0; c < channels; c++) mean[c] += means[k * channels + c] * share;
    }
    for (long k = 0; k < shape->chunks; k++) {
        double rows = (double)OF(held)(shape, k) / channels;
        for (long c = 0; c < channels; c++) {
            double apart = means[k * channels + c] - mean[c];
            spread[c] += squares[k * channels + c] + apart * apart * rows;
        }
    }
}

/* Sums (channels) of what chunks have (chunks, channels). */
static void OF(added)(const OF(Shape) *shape, const REAL *parts, double *restrict sum)
{
    for (long c = 0; c < shape->channels; c++) sum[c] = 0;
    for (long k = 0; k < shape->chunks; k++)
        for (long c = 0; c < shape->channels; c++) sum[c] += parts[k * shape->channels + c];
}

/* Normalise x (rows, channels) to y, or to its ReLU; mean and 1 / deviation (2, channels) are for the way back.
 * Running statistics move by `momentum`, that of the variance to the unbiased one, and count one batch more.
 */
int OF(batch_norm)(
    const STORED *x, const REAL *weight, const REAL *bias, REAL *running_mean, REAL *running_var,
    int64_t *batches, REAL *mean, STORED *y, long rows, long channels, long rectified, double momentum,
    double eps)
{
    OF(Shape) shape = OF(shape)(rows, channels);
    long period = shape.period, parts = shape.chunks * channels;
    double *centre = malloc(2 * channels * sizeof *centre), *spread = centre + channels;
    REAL *means = malloc((2 * parts + 3 * period + channels) * sizeof *means), *squares = means + parts;
    REAL *inverse = mean + channels, *middle = squares + parts, *factor = middle + period;
    REAL *shift = factor + period, *scale = shift + period;
    int failed = centre && means ? 0 : NO_MEMORY;
    if (failed) goto end;
#pragma omp parallel num_threads(team()) reduction(| : failed) if (shape.chunks > 1)
    {
        REAL *own = malloc(2 * period * sizeof *own);
        if (!own) failed = NO_MEMORY;
#pragma omp for schedule(static)
        for (long k = 0; k < shape.chunks; k++) {
            if (!own) continue;
            long count = OF(held)(&shape, k), held = count / channels;
            REAL *here = means + k * channels;
            OF(sums)(x + k * shape.chunk, count, period, own);
            OF(fold)(&shape, own, here);
            for (long c = 0; c < channels; c++) here[c] /= held;
            OF(unfold)(&shape, here, own + period);
            OF(squares)(x + k * shape.chunk, count, period, own + period, own);
            OF(fold)(&shape, own, squares + k * channels);
        }
        free(own);
#pragma omp single
        {
            OF(joined)(&shape, means, squares, centre, spread);
            for (long c = 0; c < channels; c++) {
                mean[c] = centre[c];
                inverse[c] = 1 / sqrt(spread[c] / rows + eps);
                scale[c] = weight[c] * inverse[c];
                running_mean[c] += momentum * (centre[c] - running_mean[c]);
                running_var[c] += momentum * (spread[c] / (rows - 1) - running_var[c]);
            }
            ++*batches;
            OF(unfold)(&shape, mean, middle);
            OF(unfold)(&shape, scale, factor);
            OF(unfold)(&shape, bias, shift);
        }
#pragma omp for schedule(static)
        for (long k = 0; k < shape.chunks; k++) {
            const STORED *from = x + k * shape.chunk;
            STORED *to = y + k * shape.chunk;
            long count = OF(held)(&shape, k);
            if (rectified) OF(scaled)(from, NULL, NULL, to, count, period, middle, factor, shift, NULL, 1);
            else OF(scaled)(from, NULL, NULL, to, count, period, middle, factor, shift, NULL, 0);
        }
    }
end:
    free(means);
    free(centre);
    return failed;
}

/* Gradients by x (rows, channels), weight and bias (channels), from those by the output; y is NULL, or the
 * output (rows, channels) if that is rectified.
 */
int OF(batch_norm_back)(
    const STORED *x, const STORED *y, const STORED *slopes, const REAL *weight, const REAL *mean, STORED *by_x,
    REAL *by_weight, REAL *by_bias, long rows, long channels)
{
    OF(Shape) shape = OF(shape)(rows, channels);
    long period = shape.period, parts = shape.chunks * channels;
    double *sum = malloc(2 * channels * sizeof *sum), *product = sum + channels;
    REAL *sums = malloc((2 * parts + 4 * period + 3 * channels) * sizeof *sums), *products = sums + parts;
    REAL *middle = products + parts, *factor = middle + period, *shift = factor + period;
    REAL *steep = shift + period, *each = steep + period;
    const REAL *inverse = mean + channels;
    int failed = sum && sums ? 0 : NO_MEMORY;
    if (failed) goto end;
    OF(unfold)(&shape, mean, middle);
#pragma omp parallel num_threads(team()) reduction(| : failed) if (shape.chunks > 1)
    {
        REAL *own = malloc(2 * period * sizeof *own);
        if (!own) failed = NO_MEMORY;
#pragma omp for schedule(static)
        for (long k = 0; k < shape.chunks; k++) {
            long at = k * shape.chunk, count = OF(held)(&shape, k);
            if (!own) continue;
            if (y) OF(products)(x + at, y + at, slopes + at, count, period, middle, own, own + period);
            else OF(products)(x + at, NULL, slopes + at, count, period, middle, own, own + period);
            OF(fold)(&shape, own, sums + k * channels);
            OF(fold)(&shape, own + period, products + k * channels);
        }
        free(own);
#pragma omp single
        {
            OF(added)(&shape, sums, sum);
            OF(added)(&shape, products, product);
            for (long c = 0; c < channels; c++) {
                double scale = (double)weight[c] * inverse[c];
                by_bias[c] = sum[c];
                by_weight[c] = product[c] * inverse[c];
                each[c] = -scale * product[c] * inverse[c] * inverse[c] / rows;
                each[channels + c] = -scale * sum[c] / rows;
                each[2 * channels + c] = scale;
            }
            OF(unfold)(&shape, each, factor);
            OF(unfold)(&shape, each + channels, shift);
            OF(unfold)(&shape, each + 2 * channels, steep);
        }
#pragma omp for schedule(static)
        for (long k = 0; k < shape.chunks; k++) {
            const STORED *from = x + k * shape.chunk, *sloped = slopes + k * shape.chunk;
            const STORED *signs = y ? y + k * shape.chunk : NULL;
            STORED *to = by_x + k * shape.chunk;
            long count = OF(held)(&shape, k);
            if (y) OF(scaled)(from, signs, sloped, to, count, period, middle, factor, shift, steep, 0);
            else OF(scaled)(from, NULL, sloped, to, count, period, middle, factor, shift, steep, 0);
        }
    }
end:
    free(sums);
    free(sum);
    return failed;
}

#undef PAIRS
#undef BLOCK
