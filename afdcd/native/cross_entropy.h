/* Cross-entropy of logits that are upsampled bilinearly to their labels; afdcd/losses/cross_entropy.py.
 *
 * An upsampled logit lives in registers and the cache only. Cells are spread across a line's pixels once for
 * each line of cells, and mixed down for each line of pixels. Gradients go the same way back.
 */

/* A line of cells spread across the pixels (classes, padded), and the gradient that comes back to it. */
typedef struct {
    long line;
    REAL *spread, *slope;
} OF(Line);

typedef struct {
    const REAL *logits, *weights, *down, *across;
    const int64_t *labels, *lines, *cells;
    REAL *losses, *masses, *slopes;
    long batch, classes, cell_lines, cell_count, pixel_lines, pixels, padded;
    int64_t ignored;
} OF(Work);

/* Give a line's gradient back to its cells. */
static void OF(settle)(const OF(Work) *work, long image, OF(Line) *held)
{
    if (!work->slopes || held->line < 0) return;
    for (long k = 0; k < work->classes; k++) {
        REAL *slope = held->slope + k * work->padded;
        REAL *cells = work->slopes + ((image * work->classes + k) * work->cell_lines + held->line) * work->cell_count;
        for (long x = 0; x < work->pixels; x++) {
            long cell = work->cells[x], next = cell + 1 < work->cell_count ? cell + 1 : cell;
            cells[cell] += slope[x] - work->across[x] * slope[x];
            cells[next] += work->across[x] * slope[x];
            slope[x] = 0;
        }
    }
}

/* Hold another line of cells. */
static void OF(hold)(const OF(Work) *work, long image, OF(Line) *held, long line)
{
    if (held->line == line) return;
    OF(settle)(work, image, held);
    held->line = line;
    for (long k = 0; k < work->classes; k++) {
        const REAL *cells =
            work->logits + ((image * work->classes + k) * work->cell_lines + line) * work->cell_count;
        for (long x = 0; x < work->pixels; x++) {
            long cell = work->cells[x], next = cell + 1 < work->cell_count ? cell + 1 : cell;
            held->spread[k * work->padded + x] =
                cells[cell] * (1 - work->across[x]) + cells[next] * work->across[x];
        }
    }
}

/* One line of pixels. */
static int OF(line_of_pixels)(const OF(Work) *work, long image, long line, OF(Line) *up, OF(Line) *low, REAL *mixed)
{
    const int64_t *labels = work->labels + (image * work->pixel_lines + line) * work->pixels;
    REAL far = work->down[line], near = 1 - far, loss = 0, mass = 0;
    for (long x = 0; x < work->pixels; x += LANES) {
        long lanes = work->pixels - x < LANES ? work->pixels - x : LANES;
        OF(vec) weight = {0}, own = {0}, top = OF(all)(-INFINITY), sum = {0};
        for (long k = 0; k < work->classes; k++) {
            OF(vec) value = OF(load)(up->spread + k * work->padded + x) * near
                + OF(load)(low->spread + k * work->padded + x) * far;
            OF(store)(mixed + k * LANES, value);
            top = OF(chosen)(value < top, top, value);
        }
        for (long lane = 0; lane < lanes; lane++) {
            int64_t label = labels[x + lane];
            if (label == work->ignored) continue;
            if (label < 0 || label >= work->classes) return NO_CLASS;
            weight[lane] = work->weights ? work->weights[label] : 1;
            own[lane] = mixed[label * LANES + lane];
        }
        for (long k = 0; k < work->classes; k++) {
            OF(vec) power = OF(exponential)(OF(load)(mixed + k * LANES) - top);
            OF(store)(mixed + k * LANES, power);
            sum += power;
        }
        OF(vec) cost = weight * (OF(logarithm)(sum) + (top - own));
        for (long lane = 0; lane < lanes; lane++)
            if (labels[x + lane] != work->ignored) {
                loss += cost[lane];
                mass += weight[lane];
            }
        if (!work->slopes) continue;
        for (long lane = 0; lane < lanes; lane++)
            if (labels[x + lane] != work->ignored) mixed[labels[x + lane] * LANES + lane] -= sum[lane];
        OF(vec) scale = weight / sum;
        for (long k = 0; k < work->classes; k++) {
            OF(vec) slope = OF(load)(mixed + k * LANES) * scale;
            REAL *above = up->slope + k * work->padded + x, *below = low->slope + k * work->padded + x;
            OF(store)(above, OF(load)(above) + slope * near);
            OF(store)(below, OF(load)(below) + slope * far);
        }
    }
    work->losses[image * work->pixel_lines + line] = loss;
    work->masses[image * work->pixel_lines + line] = mass;
    return 0;
}

/* The lines of pixels of one band of an image. */
static int OF(band)(const OF(Work) *work, long image, long first, long end, REAL *space)
{
    long size = work->classes * work->padded;
    OF(Line) held[2] = {{-1, space, space + size}, {-1, space + 2 * size, space + 3 * size}};
    int failed = 0;
    memset(space, 0, 4 * size * sizeof *space);
    for (long line = first; line < end && !failed; line++) {
        long up = work->lines[line], low = up + 1 < work->cell_lines ? up + 1 : up;
        /* What is held already stays: the lower line becomes the upper one. */
        if (held[1].line == up) {
            OF(Line) other = held[0];
            held[0] = held[1];
            held[1] = other;
        }
        OF(hold)(work, image, &held[0], up);
        if (low != up) OF(hold)(work, image, &held[1], low);
        failed = OF(line_of_pixels)(work, image, line, &held[0], &held[low != up], space + 4 * size);
    }
    OF(settle)(work, image, &held[0]);
    OF(settle)(work, image, &held[1]);
    return failed;
}

/* Sums of weighted losses and of weights, a line of pixels each (batch, pixel_lines); and, unless NULL, the
 * gradient of their sum, added to slopes (batch, classes, cell_lines, cell_count).
 *
 * logits as slopes; labels (batch, pixel_lines, pixels); weights (classes) or NULL; for each line and column
 * of pixels the cell before it and how far it lies on the way to the next one.
 */
int OF(cross_entropy)(
    const REAL *logits, const int64_t *labels, const REAL *weights, const int64_t *lines, const REAL *down,
    const int64_t *cells, const REAL *across, REAL *losses, REAL *masses, REAL *slopes, long batch,
    long classes, long cell_lines, long cell_count, long pixel_lines, long pixels, int64_t ignored)
{
    long padded = (pixels + LANES - 1) / LANES * LANES;
    OF(Work) work = {
        logits, weights, down, across, labels, lines, cells, losses, masses, slopes, batch, classes, cell_lines,
        cell_count, pixel_lines, pixels, padded, ignored,
    };
    /* Bands that touch share a line of cells at most: every other one can run at the same time. */
    long bands = cell_lines / 4 > 1 ? cell_lines / 4 : 1;
    if (bands > pixel_lines) bands = pixel_lines;
    int failed = 0;
#pragma omp parallel num_threads(team()) reduction(| : failed)
    {
        REAL *space = malloc((4 * padded + LANES) * classes * sizeof *space);
        if (!space) failed = NO_MEMORY;
        for (int odd = 0; odd < 2; odd++) {
#pragma omp for schedule(static)
            for (long unit = 0; unit < batch * bands; unit++) {
                long image = unit / bands, band = unit % bands;
                if (!space || band % 2 != odd) continue;
                long first = band * pixel_lines / bands, end = (band + 1) * pixel_lines / bands;
                failed |= OF(band)(&work, image, first, end, space);
            }
        }
        free(space);
    }
    return failed;
}
