/* What the two kernels that make data-dependent parameters share. */
#ifndef PARAMS_CUH
#define PARAMS_CUH

/* Sums of one side over the tokens of a split, rows of (SUMS, D), and the tokens' number behind them. */
enum { SUM_1, SUM_2, SUM_ABS, SUM_LOW, SUM_HIGH, SUMS, SIDE_FLOATS = SUMS * CD + 1 };
enum { MOMENT_THREADS = 256 };

DEVICE float add_sum(int k, float a, float b)
{
    if (k == SUM_LOW)
        return a < b ? a : b;
    return k == SUM_HIGH ? real_max(a, b) : a + b;
}
#endif
