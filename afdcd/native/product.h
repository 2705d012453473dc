/* Matrix products: found (batch, rows, columns) = left (batch, rows, inner) times right (batch, columns, inner).
 *
 * A tile of TALL rows and two registers of columns stays in registers while `inner` goes by; what it reads lies
 * packed in the caches (Goto and van de Geijn, ACM TOMS 34(3), 2008). A number's sum has one order, however the
 * work is shared out: one after the other within DEEP of `inner`, then these one by one.
 */

#define BROAD (2 * LANES) /* columns of a tile */
#define DEEP 256L
#define LOW (16L * TALL) /* rows that are packed at once, for the second cache */
#define FAR 512L         /* columns that are packed at once, for the third */
#define STEPS 4          /* of `inner` without a branch between */

typedef struct {
    const REAL *from;
    long apart, row, inner; /* strides: of a product, of a row (or column), and along the sum */
} OF(Operand);

/* Lines of an operand -> panels (panel, inner, broad); nobody keeps what becomes of those beyond the last. */
ALWAYS void OF(packed)(
    const OF(Operand) *operand, long one, long line, long at, REAL *to, long lines, long inner, const long broad)
{
    const REAL *from = operand->from + one * operand->apart + line * operand->row + at * operand->inner;
    long whole = lines / broad, rest = lines % broad;
    if (operand->row == 1) {
        for (long i = 0; i < inner; i++, from += operand->inner) {
            for (long panel = 0; panel < whole; panel++)
                memcpy(to + (panel * inner + i) * broad, from + panel * broad, broad * sizeof *to);
            memcpy(to + (whole * inner + i) * broad, from + whole * broad, rest * sizeof *to);
        }
        return;
    }
    for (long panel = 0; panel < whole; panel++, from += broad * operand->row)
        for (long i = 0; i < inner; i++)
            for (long k = 0; k < broad; k++)
                to[(panel * inner + i) * broad + k] = from[k * operand->row + i * operand->inner];
    for (long k = 0; k < rest; k++)
        for (long i = 0; i < inner; i++)
            to[(whole * inner + i) * broad + k] = from[k * operand->row + i * operand->inner];
}

/* A tile on top of what is found already where there is `more`; `left` is a panel, or lines `gap` numbers apart. */
ALWAYS void OF(tile)(
    const REAL *left, const REAL *right, REAL *found, long inner, long rows, long columns, long apart, int more,
    long gap, const int panel)
{
    OF(vec) sums[TALL][2] = {{{0}}};
    const REAL *lines[TALL];
#pragma GCC unroll 16
    for (int row = 0; row < TALL; row++)
        lines[row] = panel ? left + row : left + (row < rows ? row : rows - 1) * gap;
    long k = 0;
    for (; k + STEPS <= inner; k += STEPS) OF(give)(sums, lines, right, k, STEPS, panel ? TALL : 1, TALL, 2);
    for (; k < inner; k++) OF(give)(sums, lines, right, k, 1, panel ? TALL : 1, TALL, 2);
    if (rows == TALL && columns == BROAD) {
#pragma GCC unroll 16
        for (int row = 0; row < TALL; row++) {
            OF(vec) *to = (OF(vec) *)(found + row * apart);
            for (int half = 0; half < 2; half++) {
                if (more) sums[row][half] += to[half];
                to[half] = sums[row][half];
            }
        }
        return;
    }
    REAL whole[TALL][BROAD];
    memcpy(whole, sums, sizeof whole);
    for (long row = 0; row < rows; row++)
        for (long column = 0; column < columns; column++) {
            REAL *to = found + row * apart + column;
            *to = more ? *to + whole[row][column] : whole[row][column];
        }
}

/* One thread's share: rows and columns from a place on, of one product. */
static void OF(share)(
    const OF(Operand) *left, const OF(Operand) *right, REAL *found, REAL *packed, long one, long top, long rows,
    long start, long columns, long inner, long apart)
{
    REAL *low = packed, *far = packed + LOW * DEEP;
    for (long k = 0; k < inner; k += DEEP) {
        long here = OF(least)(inner - k, DEEP);
        const REAL *panels = far;
        if (right->row) OF(packed)(right, one, start, k, far, columns, here, BROAD);
        else panels = right->from + one * right->apart + k * OF(multiple)(apart, BROAD) + start * here;
        for (long row = 0; row < rows; row += LOW) {
            long high = OF(least)(rows - row, LOW);
            const REAL *from = left->from + one * left->apart + (top + row) * left->row + k;
            if (left->inner != 1) OF(packed)(left, one, top + row, k, low, high, here, TALL);
            for (long j = 0; j < columns; j += BROAD)
                for (long i = 0; i < high; i += TALL) {
                    REAL *to = found + (top + row + i) * apart + start + j;
                    long tall = OF(least)(high - i, TALL), broad = OF(least)(columns - j, BROAD);
                    const REAL *beside = panels + j * here;
                    if (left->inner == 1)
                        OF(tile)(from + i * left->row, beside, to, here, tall, broad, apart, k > 0, left->row, 0);
                    else OF(tile)(low + i * here, beside, to, here, tall, broad, apart, k > 0, 0, 1);
                }
        }
    }
}

/* Columns (batch, columns, inner) -> panels (batch, parts of `inner`, panels, part, BROAD) for `product`, those of a
 * product `apart` numbers from the last one's.
 */
int OF(product_panels)(
    const REAL *right, REAL *panels, long batch, long columns, long inner, long right_apart, long right_row,
    long right_inner, long apart)
{
    OF(Operand) operand = {right, right_apart, right_row, right_inner};
    long broad = OF(multiple)(columns, BROAD);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long one = 0; one < batch; one++)
        for (long k = 0; k < inner; k += DEEP)
            OF(packed)(
                &operand, one, 0, k, panels + one * apart + k * broad, columns, OF(least)(inner - k, DEEP), BROAD);
    return 0;
}

/* Strides in numbers; those of `found` have no gaps. Where `right_row` is zero, `right` lies in panels. */
int OF(product)(
    const REAL *left, const REAL *right, REAL *found, long batch, long rows, long columns, long inner,
    long left_apart, long left_row, long left_inner, long right_apart, long right_row, long right_inner)
{
    OF(Operand) a = {left, left_apart, left_row, left_inner}, b = {right, right_apart, right_row, right_inner};
    if (!inner) memset(found, 0, batch * rows * columns * sizeof *found);
    /* Some four shares a thread, of rows that need not be packed once more. */
    long across = (columns + FAR - 1) / FAR, wanted = 4 * team();
    long high = OF(multiple)(rows * batch * across / wanted + 1, LOW), down = (rows + high - 1) / high;
    int failed = 0;
#pragma omp parallel num_threads(team()) reduction(| : failed)
    {
        REAL *packed = aligned_alloc(64, (LOW + FAR) * DEEP * sizeof *packed);
        failed = !packed;
#pragma omp for schedule(dynamic)
        for (long part = 0; part < batch * down * across; part++) {
            long one = part / across / down, top = part / across % down * high, start = part % across * FAR;
            if (packed)
                OF(share)(
                    &a, &b, found + one * rows * columns, packed, one, top, OF(least)(rows - top, high), start,
                    OF(least)(columns - start, FAR), inner, columns);
        }
        free(packed);
    }
    return failed ? NO_MEMORY : 0;
}
#undef BROAD
#undef DEEP
#undef LOW
#undef FAR
#undef STEPS
