/* The matrix of counts of a head: blocks (rows of W / threads, heads), a thread a row. Counts are
 * quantiles of the law with the head's parameter, from uniform numbers that are the same for all heads;
 * in double, as on the CPU. Also |w_r|^2, the sum of the row and of the logs of its factorials. */
#include "stub.cuh"

#include "params.cuh"

enum { MOST_COUNTS = 1 << 14 };

/* Smallest z with P(normal <= z) >= u, by bisection. */
DEVICE double normal_quantile(double u)
{
    double low = -40, high = 40;
    for (int i = 0; i < 64; i++) {
        const double z = (low + high) / 2;
        if (0.5 * erfc(-z * 0.70710678118654752) < u)
            low = z;
        else
            high = z;
    }
    return high;
}

DEVICE double poisson_quantile(double u, double lambda)
{
    if (lambda > 200) { /* Cornish-Fisher; the distribution is normal to three digits there */
        const double z = normal_quantile(u), k = rint(lambda + sqrt(lambda) * z + (z * z - 1) / 6);
        return k > 0 ? k : 0;
    }
    double mass = exp(-lambda), total = mass;
    int k = 0;
    while (u > total && k < MOST_COUNTS && mass > 0) {
        mass *= lambda / ++k;
        total += mass;
    }
    return k;
}

DEVICE double geometric_quantile(double u, double p)
{
    const double k = floor(log(u) / log1p(-p));
    return k < MOST_COUNTS ? k : MOST_COUNTS;
}

KERNEL(attn_counts, params_cuda_args, 128, 1)
{
    const int64_t r = BLOCK * THREADS + THREAD, head = BLOCK_Y;
    if (r >= CM)
        return;
    const double parameter = global_load(args.params + head * args.params_stride + args.counts_slot);
    float *w = args.w + head * args.w_stride + r * CD;
    double square = 0, total = 0, factorials = 0;
    for (int j = 0; j < CD; j++) {
        const double u = args.uniform[r * CD + j];
        const double k = args.counts_law == 1 ? poisson_quantile(u, parameter)
                                              : geometric_quantile(u, parameter);
        global_store(w + j, (float)k);
        square += k * k;
        total += k;
        for (int i = 2; i <= (int)k; i++)
            factorials += log((double)i);
    }
    float *sums = args.counts + head * 2 * CM;
    global_store(args.w2 + head * CM + r, (float)square);
    global_store(sums + r, (float)total);
    global_store(sums + CM + r, (float)factorials);
}
