/* The linear maps of a head, from the second moments of its tokens, and the parameters made of what is
 * mapped: blocks (heads). As linear_maps of runtime/attention/performer/heads.c, with one-sided Jacobi rotations
 * (Hestenes 1958) in a fixed order instead of LAPACK. Rows of F are rotated until all are orthogonal,
 * rows of G with them:
 *     eigenvectors  F = mean (x + y)(x + y)', G = I: rows of G are the eigenvectors, |F_i| the eigenvalues;
 *     mean          F = L_y' L_x, G = L_y' with M = L L' of both sides: with s = |F_i|
 *                   R_q = s^-1/2 G, R_k = s^-3/2 F L_x', so R_q' R_k = I, R_q M_x R_q' = R_k M_y R_k'.
 * No product of the two sides' moments is formed, so float is enough. The matrices are in shared memory
 * where it has room, else where the result will be. */
#include "stub.cuh"

#include "params.cuh"

#include "adapt.cuh"

enum {
    WARPS = MAP_THREADS / 32,
    TEAM = 8, /* lanes that rotate two rows */
    PLAYERS = CD + CD % 2,
    MOST_SWEEPS = 20,
    /* rows of neighbouring teams lie in different banks */
    LD = IN_SHARED ? (CD + 23) / 32 * 32 + TEAM : CD,
    MATRIX = CD * LD,
    AT_SMALL = IN_SHARED ? (2 + MEAN) * MATRIX : 0,
    AT_END = AT_SMALL + (16 + NV) * CD + 32
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_maps");

/* Numbers of the matrices that are worked on. */
DEVICE float work_load(const float *p)
{
    return IN_SHARED ? shared_load(p) : global_load(p);
}

DEVICE void work_store(float *p, float x)
{
    if (IN_SHARED)
        shared_store(p, x);
    else
        global_store(p, x);
}

/* Where the means of products of a side are: in the place of the first split's sums. */
DEVICE float *products_of(const params_cuda_args *a, int64_t head, int side)
{
    return a->products + (side * a->B * a->H + head) * (CD * CD);
}

/* Both sides' sums of products of all splits, in their order, divided by the number of tokens. */
DEVICE void merge_products(const params_cuda_args *a, int64_t head)
{
    const int64_t heads = a->B * a->H;
    for (int side = 0; side < 2; side++) {
        float *to = products_of(a, head, side), count = 0;
        for (int64_t i = 0; i < a->splits; i++)
            count += global_load(a->part + ((i * 2 + side) * heads + head) * SIDE_FLOATS + SUMS * CD);
        const float inverse = count > 0 ? 1 / count : 0;
        for (int e = THREAD; e < CD * CD; e += THREADS) {
            float sum = global_load(to + e);
            for (int64_t i = 1; i < a->product_splits; i++)
                sum += global_load(to + i * 2 * heads * (CD * CD) + e);
            global_store(to + e, sum * inverse);
        }
    }
}

/* By every warp, the same bits. */
DEVICE float trace_of(const float *products)
{
    float sum = 0;
    for (int i = THREAD % 32; i < CD; i += 32)
        sum += global_load(products + i * CD + i);
    return warp_sum(sum);
}

/* u (upper triangle, zeros below) with u'u = (M + extra I) scale; no pivot is below extra * scale, as M
 * has no negative eigenvalue. */
DEVICE void triangle(const float *products, float extra, float scale, float *u)
{
    for (int e = THREAD; e < CD * CD; e += THREADS) {
        const int i = e / CD, j = e % CD;
        const float x = j < i ? 0 : global_load(products + e) + (i == j ? extra : 0);
        work_store(u + i * LD + j, x * scale);
    }
    block_sync();
    for (int k = 0; k < CD; k++) {
        const float pivot = work_load(u + k * LD + k);
        const float root = sqrtf(pivot < extra * scale ? extra * scale : pivot);
        block_sync();
        for (int j = k + THREAD; j < CD; j += THREADS)
            work_store(u + k * LD + j, j == k ? root : work_load(u + k * LD + j) / root);
        block_sync();
        for (int e = THREAD; e < (CD - 1 - k) * (CD - 1 - k); e += THREADS) {
            const int i = k + 1 + e / (CD - 1 - k), j = k + 1 + e % (CD - 1 - k);
            float *at = u + i * LD + j;
            if (i <= j)
                work_store(at, work_load(at) - work_load(u + k * LD + i) * work_load(u + k * LD + j));
        }
        block_sync();
    }
}

/* ---- rotations ---- */

DEVICE float team_sum(float x)
{
    for (int lanes = TEAM / 2; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

/* p - s q and q + s p, of the same lengths: s and c of an angle, h = s / (1 + c). */
DEVICE void rotate(float *p, float *q, float s, float h)
{
    for (int j = THREAD % TEAM; j < CD; j += TEAM) {
        const float a = work_load(p + j), b = work_load(q + j);
        work_store(p + j, multiply_add(-s, multiply_add(h, a, b), a));
        work_store(q + j, multiply_add(s, multiply_add(-h, b, a), b));
    }
}

/* Makes rows p and q of f orthogonal, by a team; 0 where they are, or where `there` is 0. All lanes of a
 * warp call it together. */
DEVICE int rotate_pair(float *f, float *g, int p, int q, int there)
{
    float aa = 0, bb = 0, ab = 0;
    for (int j = THREAD % TEAM; j < CD && there; j += TEAM) {
        const float a = work_load(f + p * LD + j), b = work_load(f + q * LD + j);
        aa = multiply_add(a, a, aa);
        bb = multiply_add(b, b, bb);
        ab = multiply_add(a, b, ab);
    }
    aa = team_sum(aa);
    bb = team_sum(bb);
    ab = team_sum(ab);
    if (!(fabsf(ab) > 4e-7f * sqrtf(aa) * sqrtf(bb)))
        return 0;
    const float zeta = (bb - aa) / (2 * ab);
    const float t = (zeta < 0 ? -1 : 1) / (fabsf(zeta) + sqrtf(1 + zeta * zeta));
    const float c = 1 / sqrtf(1 + t * t), s = c * t, h = s / (1 + c);
    rotate(f + p * LD, f + q * LD, s, h);
    rotate(g + p * LD, g + q * LD, s, h);
    return 1;
}

/* Sweeps of all pairs, in rounds where no row is in two of them, until one has nothing to do. */
DEVICE void orthogonal_rows(float *f, float *g, float *turned)
{
    const int warp = THREAD / 32, team = THREAD % 32 / TEAM;
    for (int sweep = 0; sweep < MOST_SWEEPS; sweep++) {
        int any = 0;
        for (int round = 0; round < PLAYERS - 1; round++) {
            for (int first = 32 / TEAM * warp; first < PLAYERS / 2; first += 32 / TEAM * WARPS) {
                const int k = first + team;
                const int p = k == 0 ? PLAYERS - 1 : (round + k) % (PLAYERS - 1);
                const int q = (round + PLAYERS - 1 - k) % (PLAYERS - 1);
                any |= rotate_pair(f, g, p, q, k < PLAYERS / 2 && p < CD);
            }
            block_sync();
        }
        any = warp_any(any);
        if (THREAD % 32 == 0)
            shared_store(turned + warp, (float)any);
        block_sync();
        float sum = 0;
        NO_UNROLL /* else whole vectors are read, beyond the last warp */
        for (int i = 0; i < WARPS; i++)
            sum += shared_load(turned + i);
        block_sync();
        if (sum == 0)
            return;
    }
}

/* ---- maps ---- */

/* What decides the sign of an eigenvector is its product with numbers that no pattern cancels. */
DEVICE float lean(int j)
{
    const float x = 0.618034f * (float)j;
    return 0.5f + x - (float)(int)x;
}

/* What a row is multiplied by to be one of R_q and of R_k (q, k), and its place in them: order (D),
 * rows by places, lengths ascending. stretch: of R_q. */
DEVICE void scale_rows(const float *f, const float *g, float stretch, int finite, float *size, float *q,
                       float *k, float *order)
{
    for (int i = THREAD / 32; i < CD; i += WARPS) {
        float ff = 0, gg = 0, side = 0;
        for (int j = THREAD % 32; j < CD; j += 32) {
            const float x = work_load(f + i * LD + j), y = work_load(g + i * LD + j);
            ff = multiply_add(x, x, ff);
            gg = multiply_add(y, y, gg);
            side = multiply_add(y, lean(j), side);
        }
        const float s = sqrtf(warp_sum(ff)), sign = warp_sum(side) < 0 ? -1 : 1;
        const float unit = 1 / sqrtf(MEAN ? s : warp_sum(gg));
        if (THREAD % 32 == 0) {
            const float nan = as_float(0x7fc00000u);
            shared_store(size + i, s < INFINITY ? s : 0);
            shared_store(q + i, finite ? sign * unit * stretch : nan);
            shared_store(k + i, finite ? sign * unit * (MEAN ? 1 / (s * stretch) : 1) : nan);
        }
    }
    block_sync();
    for (int i = THREAD; i < CD; i += THREADS) {
        const float s = shared_load(size + i);
        int place = 0;
        for (int j = 0; j < CD; j++) {
            const float other = shared_load(size + j);
            place += other < s || (other == s && j < i);
        }
        shared_store(order + place, (float)i);
    }
    block_sync();
}

/* R_k (1 + E) in the place of R_k, where E = 1 - R_q' R_k comes from rounding and goes to e: what is left
 * is E^2. */
DEVICE void make_inverse(const float *rq, float *rk, float *e)
{
    enum { PER = (CD + 31) / 32 };
    for (int at = THREAD; at < CD * CD; at += THREADS) {
        const int i = at / CD, j = at % CD;
        float sum = i == j;
        UNROLL_TWICE
        for (int l = 0; l < CD; l++)
            sum = multiply_add(-global_load(rq + l * CD + i), global_load(rk + l * CD + j), sum);
        work_store(e + i * LD + j, sum);
    }
    block_sync();
    for (int i = THREAD / 32; i < CD; i += WARPS) {
        float sum[PER];
        UNROLL
        for (int n = 0; n < PER; n++) {
            const int j = THREAD % 32 + 32 * n;
            sum[n] = j < CD ? global_load(rk + i * CD + j) : 0;
            UNROLL_TWICE
            for (int l = 0; l < CD && j < CD; l++)
                sum[n] = multiply_add(global_load(rk + i * CD + l), work_load(e + l * LD + j), sum[n]);
        }
        warp_sync();
        UNROLL
        for (int n = 0; n < PER; n++)
            if (THREAD % 32 + 32 * n < CD)
                global_store(rk + i * CD + THREAD % 32 + 32 * n, sum[n]);
    }
    block_sync();
}

/* R_q transposed, R_q, and the same of R_k, (4, D, D): F lies in the place of the first, L_x' of the second,
 * G of the third where they are not in shared memory, so what comes first is made last. */
DEVICE void write_maps(const float *f, float *g, const float *u, const float *q, const float *k,
                       const float *order, float *linear)
{
    for (int e = THREAD; e < CD * CD; e += THREADS) {
        const int i = (int)shared_load(order + e / CD), j = e % CD;
        float x = work_load(g + i * LD + j);
        if (MEAN) {
            x = 0;
            UNROLL_TWICE
            for (int l = 0; l <= j; l++)
                x = multiply_add(work_load(f + i * LD + l), work_load(u + l * LD + j), x);
        }
        global_store(linear + 3 * CD * CD + e, x * shared_load(k + i));
    }
    block_sync();
    for (int e = THREAD; e < CD * CD; e += THREADS) {
        const int i = (int)shared_load(order + e / CD), m = (int)shared_load(order + e % CD), j = e / CD;
        global_store(linear + CD * CD + e, work_load(g + i * LD + e % CD) * shared_load(q + i));
        global_store(linear + e, work_load(g + m * LD + j) * shared_load(q + m));
    }
    block_sync();
    if (MEAN)
        make_inverse(linear + CD * CD, linear + 3 * CD * CD, g);
    for (int e = THREAD; e < CD * CD; e += THREADS)
        global_store(linear + 2 * CD * CD + e, global_load(linear + (3 * CD + e % CD) * CD + e / CD));
}

/* Means and mean squares of R x, of both sides, a row of R a warp: means (2, D), squares (2, D). */
DEVICE void map_moments(const params_cuda_args *a, int64_t head, const float *linear, const float *m,
                        float *mapped)
{
    for (int i = THREAD / 32; i < 2 * CD; i += WARPS) {
        const int side = i / CD;
        const float *row = linear + ((2 * side + 1) * CD + i % CD) * CD;
        const float *products = products_of(a, head, side);
        float mean = 0, square = 0;
        for (int j = THREAD % 32; j < CD; j += 32) {
            const float x = global_load(row + j);
            float sum = 0;
            UNROLL_TWICE
            for (int l = 0; l < CD; l++)
                sum = multiply_add(global_load(products + l * CD + j), global_load(row + l), sum);
            mean = multiply_add(x, shared_load(m + side * CD + j), mean);
            square = multiply_add(x, sum, square);
        }
        mean = warp_sum(mean);
        square = warp_sum(square);
        if (THREAD % 32 == 0) {
            shared_store(mapped + i, mean);
            shared_store(mapped + 2 * CD + i, square);
        }
    }
}

/* F, G and, for the mean, u = L_x' with L_x below the diagonal; what R_q is to be stretched by. */
DEVICE float set_up(const params_cuda_args *a, int64_t head, const float *m, float x_trace, float y_trace,
                    float *f, float *g, float *u)
{
    const float *x = products_of(a, head, 0), *y = products_of(a, head, 1);
    if (!MEAN) {
        const float all = x_trace + y_trace, scale = all > 0 ? 1 / all : 0;
        for (int e = THREAD; e < CD * CD; e += THREADS) {
            const int i = e / CD, j = e % CD;
            const float mixed = shared_load(m + i) * shared_load(m + CD + j) +
                                shared_load(m + CD + i) * shared_load(m + j);
            work_store(f + i * LD + j, scale * (global_load(x + e) + global_load(y + e) + mixed));
            work_store(g + i * LD + j, i == j);
        }
        block_sync();
        return 1;
    }
    const float x_extra = real_max(1e-4f * x_trace / CD, 1e-12f);
    const float y_extra = real_max(1e-4f * y_trace / CD, 1e-12f);
    const float x_all = x_trace + CD * x_extra, y_all = y_trace + CD * y_extra;
    triangle(x, x_extra, 1 / x_all, u);
    triangle(y, y_extra, 1 / y_all, g);
    for (int e = THREAD; e < CD * CD; e += THREADS)
        if (e / CD > e % CD)
            work_store(u + e / CD * LD + e % CD, work_load(u + e % CD * LD + e / CD));
    block_sync();
    for (int e = THREAD; e < CD * CD; e += THREADS) {
        const int i = e / CD, j = e % CD;
        float sum = 0;
        UNROLL_TWICE
        for (int l = i < j ? j : i; l < CD; l++)
            sum = multiply_add(work_load(g + i * LD + l), work_load(u + l * LD + j), sum);
        work_store(f + i * LD + j, sum);
    }
    block_sync();
    return sqrtf(sqrtf(y_all / x_all));
}

/* Shared memory: F, G and L_x' of the mean, maybe; then moments (8, D), mapped ones (4, D), what is
 * known of rows (4, D), vectors (NV, D), a number a warp. */
KERNEL(attn_maps, params_cuda_args, MAP_THREADS, 2)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *m = memory + AT_SMALL, *mapped = m + 8 * CD, *rows = m + 12 * CD;
    const int64_t head = BLOCK;
    float *linear = args.params + head * args.params_stride + NS + NV * CD;
    float *f = IN_SHARED ? memory : linear, *u = IN_SHARED ? memory + 2 * MATRIX : linear + CD * CD;
    float *g = IN_SHARED ? memory + MATRIX : linear + 2 * CD * CD;
    float *size = rows, *q = rows + CD, *k = rows + 2 * CD, *order = rows + 3 * CD;
    merge_products(&args, head);
    if (THREAD < 32)
        merge_moments(&args, head, m);
    block_sync();
    const float x_trace = trace_of(products_of(&args, head, 0));
    const float y_trace = trace_of(products_of(&args, head, 1));
    const float stretch = set_up(&args, head, m, x_trace, y_trace, f, g, u);
    orthogonal_rows(f, g, rows + (4 + NV) * CD);
    /* what is no number gets no map, as it has no decomposition */
    scale_rows(f, g, stretch, x_trace + y_trace < INFINITY, size, q, k, order);
    write_maps(f, g, u, q, k, order, linear);
    block_sync();
    map_moments(&args, head, linear, m, mapped);
    block_sync();
    for (int i = THREAD; i < 4 * CD; i += THREADS)
        shared_store(m + i, shared_load(mapped + i));
    block_sync();
    if (THREAD < 32)
        adapt_head(&args, head, m, rows + 4 * CD);
}
