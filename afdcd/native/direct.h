/* 3x3 convolutions that keep a map's size, tap by tap; afdcd/training/direct.py.
 *
 * Maps are (batch, height, width, channels), weights (outputs, 3, 3, channels). A tile of some pixels of a line and
 * one or two registers of outputs stays in registers while taps and channels go by; beyond the border a tap reads
 * zeros. A number's sum has one order, however the work is shared out.
 */

#define BROAD (2 * LANES) /* outputs of a tile */
#define FEW 6             /* pixels, or channels, of a tile of two registers each */
#define MANY 8            /* of a tile of one */
#define DENSE 8           /* channels without a branch between */
#define NEAR 128          /* pixels whose numbers stay in the nearest cache */
#define PARTS 8           /* of a batch, at least, whose slopes are added up */

typedef struct {
    long height, width, channels, outputs, step; /* `step` is the dilation */
} OF(Filter);

/* A weight -> panels (outputs in blocks, taps, channels, block); the last block is one register or two, and zero
 * beyond the last output. `back` makes the panels of the transpose from a weight (channels, 3, 3, outputs).
 */
static void OF(panels)(const REAL *weight, REAL *panels, long channels, long outputs, long back)
{
    for (long start = 0; start < outputs; start += BROAD) {
        long broad = outputs - start > LANES ? BROAD : LANES, held = OF(least)(outputs - start, broad);
        REAL *to = panels + start * 9 * channels;
        for (long tap = 0; tap < 9; tap++)
            for (long c = 0; c < channels; c++, to += broad) {
                for (long o = 0; o < held; o++)
                    to[o] = back ? weight[(c * 9 + 8 - tap) * outputs + start + o]
                                 : weight[((start + o) * 9 + tap) * channels + c];
                for (long o = held; o < broad; o++) to[o] = 0;
            }
    }
}

/* Some pixels of line `y`, from `x` on, of a block of `lanes` outputs. */
ALWAYS void OF(pixels)(
    const OF(Filter) *filter, const REAL *image, const REAL *panel, const REAL *zeros, REAL *line, long y, long x,
    long lanes, const int span, const int registers)
{
    OF(vec) sums[MANY][2] = {{{0}}};
    long channels = filter->channels, width = filter->width;
    for (long row = 0; row < 3; row++) {
        long from = y + (row - 1) * filter->step, together = 1;
        if (from < 0 || from >= filter->height) continue;
        for (long column = 0; column < 3; column += together) {
            long first = x + (column - 1) * filter->step, beyond = first + span, count = channels;
            if (beyond <= 0 || first >= width) continue;
            /* Taps that lie side by side are one, where all pixels have them. */
            together = filter->step == 1 && first >= 0 && beyond + 2 - column <= width ? 3 - column : 1;
            count *= together;
            const REAL *cells[MANY], *cell = image + (from * width + first) * channels;
#pragma GCC unroll 8
            for (int i = 0; i < span; i++) cells[i] = cell + i * channels;
            if (first < 0 || beyond > width)
#pragma GCC unroll 8
                for (int i = 0; i < span; i++)
                    if (first + i < 0 || first + i >= width) cells[i] = zeros;
            const REAL *weight = panel + (row * 3 + column) * channels * registers * LANES;
            long c = 0;
            for (; c + DENSE <= count; c += DENSE) OF(give)(sums, cells, weight, c, DENSE, 1, span, registers);
            for (; c < count; c++) OF(give)(sums, cells, weight, c, 1, 1, span, registers);
        }
    }
    long held = OF(least)(span, width - x), rest = lanes - (registers - 1) * LANES;
#pragma GCC unroll 8
    for (int i = 0; i < span; i++) {
        if (i >= held) break;
        REAL *to = line + (x + i) * filter->outputs;
        if (registers == 2) OF(store)(to, sums[i][0]);
        OF(keep)(to + (registers - 1) * LANES, sums[i][registers - 1], rest);
    }
}

/* A line of a block of outputs; the last tile begins early, so that it is whole. */
ALWAYS void OF(line)(
    const OF(Filter) *filter, const REAL *image, const REAL *panel, const REAL *zeros, REAL *line, long y, long lanes,
    const int span, const int registers)
{
    for (long x = 0; x < filter->width; x += span) {
        long early = filter->width - span, at = x > early && early > 0 ? early : x;
        OF(pixels)(filter, image, panel, zeros, line, y, at, lanes, span, registers);
    }
}

/* found (batch, height, width, outputs) = a map convolved; with `back`, slopes of a map of `outputs` channels from
 * those (batch, height, width, channels) of what became of it, by its weight (channels, 3, 3, outputs).
 */
int OF(direct)(
    const REAL *map, const REAL *weight, REAL *found, long batch, long height, long width, long channels, long outputs,
    long step, long back)
{
    OF(Filter) filter = {height, width, channels, outputs, step};
    long inner = 9 * channels, broad = OF(multiple)(outputs, LANES);
    REAL *panels = aligned_alloc(64, OF(multiple)((inner * broad + channels) * sizeof *panels, 64));
    if (!panels) return NO_MEMORY;
    REAL *zeros = panels + inner * broad;
    memset(zeros, 0, channels * sizeof *zeros);
    OF(panels)(weight, panels, channels, outputs, back);
#pragma omp parallel for num_threads(team()) schedule(static)
    for (long part = 0; part < batch * height; part++) {
        const REAL *image = map + part / height * height * width * channels;
        REAL *line = found + part * width * outputs;
        for (long o = 0; o < outputs; o += BROAD) {
            const REAL *panel = panels + o * inner;
            long lanes = OF(least)(outputs - o, BROAD), y = part % height;
            if (lanes > LANES) OF(line)(&filter, image, panel, zeros, line + o, y, lanes, FEW, 2);
            else OF(line)(&filter, image, panel, zeros, line + o, y, lanes, MANY, 1);
        }
    }
    free(panels);
    return 0;
}

/* What `high` lines of `count` pixels give to a tap's slopes: of `deep` channels, `broad` numbers from each other, by
 * one or two registers of outputs.
 */
ALWAYS void OF(tap)(
    const OF(Filter) *filter, const REAL *cells, const REAL *slopes, REAL *to, long high, long count, long broad,
    long lanes, const int deep, const int registers)
{
    OF(vec) sums[MANY][2];
    long channels = filter->channels, outputs = filter->outputs, rest = lanes - (registers - 1) * LANES;
#pragma GCC unroll 8
    for (int c = 0; c < deep; c++)
        for (int r = 0; r < registers; r++) sums[c][r] = OF(load)(to + c * broad + r * LANES);
    for (long line = 0; line < high; line++) {
        const REAL *cell = cells + line * filter->width * channels, *slope = slopes + line * filter->width * outputs;
        for (long i = 0; i < count; i++, cell += channels, slope += outputs) {
            OF(vec) one = registers == 2 ? OF(load)(slope) : OF(some)(slope, rest);
            OF(vec) other = registers == 2 ? OF(some)(slope + LANES, rest) : one;
            HELD(one);
            if (registers == 2) HELD(other);
#pragma GCC unroll 8
            for (int c = 0; c < deep; c++) {
                sums[c][0] += one * cell[c];
                if (registers == 2) sums[c][1] += other * cell[c];
            }
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < deep; c++)
        for (int r = 0; r < registers; r++) OF(store)(to + c * broad + r * LANES, sums[c][r]);
}

/* The same of all channels: by six, eight, four or one. */
static void OF(deep)(
    const OF(Filter) *filter, const REAL *cells, const REAL *slopes, REAL *to, long high, long count, long broad,
    long lanes)
{
#define DEEP(many, registers)                                                                                        \
    {                                                                                                                \
        OF(tap)(filter, cells + c, slopes, to + c * broad, high, count, broad, lanes, many, registers);              \
        c += many;                                                                                                   \
    }
    for (long c = 0, rest; (rest = filter->channels - c) > 0;)
        if (lanes > LANES) {
            if (rest >= FEW && rest != 8) DEEP(FEW, 2)
            else if (rest >= 4) DEEP(4, 2)
            else DEEP(1, 2)
        } else if (rest >= MANY) DEEP(MANY, 1)
        else DEEP(1, 1)
#undef DEEP
}

/* What lines `top` to `bottom` of an image give to the weight's slopes (3, 3, channels, broad). */
static void OF(lines)(
    const OF(Filter) *filter, const REAL *image, const REAL *slopes, REAL *to, long top, long bottom, long broad)
{
    long channels = filter->channels, width = filter->width;
    for (long tap = 0; tap < 9; tap++) {
        long down = (tap / 3 - 1) * filter->step, across = (tap % 3 - 1) * filter->step;
        /* The pixels whose tap is in the map. */
        long start = top + down < 0 ? -down : top, end = OF(least)(bottom, filter->height - down);
        long first = across < 0 ? -across : 0, last = OF(least)(width, width - across);
        if (start >= end || first >= last) continue;
        const REAL *cells = image + ((start + down) * width + first + across) * channels;
        for (long o = 0; o < filter->outputs; o += BROAD)
            OF(deep)(
                filter, cells, slopes + (start * width + first) * filter->outputs + o, to + tap * channels * broad + o,
                end - start, last - first, broad, OF(least)(filter->outputs - o, BROAD));
    }
}

/* The weight's slopes (outputs, 3, 3, channels) from those of what was made (batch, height, width, outputs). */
int OF(direct_to_weight)(
    const REAL *map, const REAL *slopes, REAL *to_weight, long batch, long height, long width, long channels,
    long outputs, long step)
{
    OF(Filter) filter = {height, width, channels, outputs, step};
    long each = OF(least)((PARTS + batch - 1) / batch, height), high = (height + each - 1) / each;
    long near = NEAR / width + 1, broad = OF(multiple)(outputs, LANES), size = 9 * channels * broad;
    REAL *parts = calloc(batch * each * size, sizeof *parts);
    if (!parts) return NO_MEMORY;
#pragma omp parallel num_threads(team())
    {
#pragma omp for schedule(static)
        for (long part = 0; part < batch * each; part++) {
            long image = part / each * height * width, top = part % each * high;
            long bottom = OF(least)(height, top + high);
            for (long y = top; y < bottom; y += near)
                OF(lines)(
                    &filter, map + image * channels, slopes + image * outputs, parts + part * size, y,
                    OF(least)(bottom, y + near), broad);
        }
#pragma omp for schedule(static)
        for (long k = 0; k < 9 * channels; k++)
            for (long o = 0; o < outputs; o++) {
                REAL sum = 0;
                for (long part = 0; part < batch * each; part++) sum += parts[part * size + k * broad + o];
                to_weight[o * 9 * channels + k] = sum;
            }
    }
    free(parts);
    return 0;
}
#undef BROAD
#undef FEW
#undef MANY
#undef DENSE
#undef NEAR
#undef PARTS
