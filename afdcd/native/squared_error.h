/* Squared differences of two maps of `count` numbers; afdcd/losses/squared_error.py. */

#define SUMS 4 /* vectors, at once */

/* Sums of squares, one for each `chunk` numbers. */
int OF(squared_error)(const STORED *first, const STORED *second, REAL *sums, long count, long chunk)
{
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long from = 0; from < count; from += chunk) {
        long end = from + chunk < count ? from + chunk : count;
        OF(vec) sum[SUMS] = {{0}};
        for (long i = from; i < end; i += SUMS * LANES)
            for (int k = 0; k < SUMS; k++) {
                long at = i + k * LANES, lanes = OF(lanes)(at, end);
                if (lanes <= 0) break;
                OF(vec) apart = TAKE(first + at, lanes) - TAKE(second + at, lanes);
                sum[k] += apart * apart;
            }
        OF(vec) total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        REAL found = 0;
        for (int lane = 0; lane < LANES; lane++) found += total[lane];
        sums[from / chunk] = found;
    }
    return 0;
}

/* The gradient by `first` of all squares' sum, `factor` times. */
int OF(squared_error_slopes)(const STORED *first, const STORED *second, STORED *slopes, long count, double factor)
{
    OF(vec) twice = OF(all)(2 * factor);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long at = 0; at < count; at += LANES) {
        long lanes = OF(lanes)(at, count);
        PUT(slopes + at, (TAKE(first + at, lanes) - TAKE(second + at, lanes)) * twice, lanes);
    }
    return 0;
}

#undef SUMS
