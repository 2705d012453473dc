/* What `count` numbers of each line, from `at` on and `pitch` apart, give to its sums, times their registers (count,
 * 1 or 2) of a panel. All sums stay in registers.
 */
ALWAYS void OF(give)(
    OF(vec) (*sums)[2], const REAL *const *lines, const REAL *panel, long at, const int count, const int pitch,
    const int span, const int registers)
{
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        const REAL *from = panel + (at + k) * registers * LANES;
        OF(vec) one = OF(load)(from), other = registers == 2 ? OF(load)(from + LANES) : one;
        HELD(one);
        if (registers == 2) HELD(other);
#pragma GCC unroll 16
        for (int i = 0; i < span; i++) {
            REAL value = lines[i][(at + k) * pitch];
            sums[i][0] += one * value;
            if (registers == 2) sums[i][1] += other * value;
        }
    }
}
