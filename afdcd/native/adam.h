/* Adam with decoupled decay over many tensors at once; afdcd/training/optimisation.py. */

#define PORTION 8192 /* numbers that a thread takes at a time */

typedef struct {
    REAL kept, newer, second, newest, root, eps, rate;
} OF(Factors);

static void OF(adam_some)(
    REAL *restrict weights, const REAL *restrict slopes, REAL *restrict means, REAL *restrict squares, long count,
    OF(Factors) by)
{
    for (long i = 0; i < count; i++) {
        REAL slope = slopes[i];
        means[i] += by.newer * (slope - means[i]);
        squares[i] = by.second * squares[i] + by.newest * slope * slope;
        weights[i] = by.kept * weights[i] - by.rate * means[i] / (sqrt(squares[i]) / by.root + by.eps);
    }
}

/* One update by a table (count, 6): the places of weights, slopes, running means of slopes and of their
 * squares, and of the number of updates so far, a float; and how many weights there are.
 */
int OF(adam)(int64_t *table, long count, double rate, double first, double second, double eps, double decay)
{
#pragma omp parallel num_threads(team())
    for (long t = 0; t < count; t++) {
        int64_t *row = table + 6 * t;
        double step = *(float *)row[4] + 1;
        /* Differences in double: 1 - 0.999 keeps three digits in float. */
        OF(Factors) by = {
            1 - rate * decay, 1 - first, second, 1 - second, sqrt(1 - pow(second, step)), eps,
            rate / (1 - pow(first, step)),
        };
#pragma omp for schedule(dynamic) nowait
        for (long at = 0; at < row[5]; at += PORTION)
            OF(adam_some)(
                (REAL *)row[0] + at, (REAL *)row[1] + at, (REAL *)row[2] + at, (REAL *)row[3] + at,
                row[5] - at < PORTION ? row[5] - at : PORTION, by);
    }
    for (long t = 0; t < count; t++) *(float *)table[6 * t + 4] += 1;
    return 0;
}
