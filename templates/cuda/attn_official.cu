/* The reference system's attention, forward and backward, as templates/c/attn_official.c: every token's
 * features are divided by the exponential of its own maximum, on both sides, and an epsilon is added to
 * each. Gradients flow through the maximum to the entry that holds it, and into the token's scalars.
 *
 * Blocks (splits, heads) take the tokens of their split a tile of TB at a time; a warp has one token, or
 * none. The keys make a state a split, the queries backward its gradient likewise, and attn_official_sum adds
 * the splits up in their order: first attn_official_keys, _sum, _queries, then _queries_bwd, _sum, _keys_bwd.
 * Plain products and one layout of shared memory for all of them: this is for comparisons, not for speed.
 */
#include "stub.cuh"

#include "official.cuh"

/* Of a token: |mapped x|^2, |x|^2, the factor of z's gradient, which feature holds the maximum, and the
 * gradients of both squares. */
enum { X2, R2, LAST, TOP, GX2, GR2, NUMBERS };

/* Shared memory, rows of TB tokens. */
enum {
    AT_RAW = 0,                /* (TB, D) scaled rows */
    AT_X = AT_RAW + TB * D,    /* (TB, D) mapped ones */
    AT_GX = AT_X + TB * D,     /* (TB, D) their gradients, without the share of |x|^2 */
    AT_U = AT_GX + TB * D,     /* (TB, M) projections, then their gradients */
    AT_FACTOR = AT_U + TB * M, /* (TB, F) logs, then exp(log - maximum), then gradients of logs */
    AT_PHI = AT_FACTOR + TB * F, /* (TB, F) sign * factor + epsilon; 0 where there is no token */
    AT_DPHI = AT_PHI + TB * F,   /* (TB, F) their gradients, then those of the signs */
    AT_SIGN = AT_DPHI + TB * F,  /* (TB, F) where there are signs */
    AT_V = AT_SIGN + SIGNED * TB * F, /* (TB, DV) values; of queries gradients of the numerators */
    AT_NUMBERS = AT_V + TB * DV,      /* (TB, NUMBERS) */
    AT_END = AT_NUMBERS + TB * NUMBERS
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_official");
static_assert(TB <= WARPS && D <= BLOCK_THREADS, "threads of attn_official");

/* Which head and side a block is for, and which of its tokens the tile holds. */
typedef struct token_tile {
    int64_t head, b, h, from;
    int side, count;
} token_tile;

DEVICE token_tile tile_open(const official_cuda_args *a, int side, int64_t *to)
{
    token_tile x;
    const int64_t each = (a->T + a->splits - 1) / a->splits;
    x.head = BLOCK_Y;
    x.b = BLOCK_Y / a->H;
    x.h = BLOCK_Y % a->H;
    x.side = side;
    x.from = BLOCK * each < a->T ? BLOCK * each : a->T;
    x.count = 0;
    *to = x.from + each < a->T ? x.from + each : a->T;
    return x;
}

DEVICE int tile_count(const token_tile *x, int64_t to)
{
    return to - x->from < TB ? (int)(to - x->from) : TB;
}

/* ---- features ---- */

DEVICE void head_vectors(const official_cuda_args *a, int64_t head, int d, float *v)
{
    UNROLL
    for (int i = 0; i < NV; i++)
        v[i] = global_load(a->vectors + (head * NV + i) * D + d);
}

DEVICE void token_scalars(const official_cuda_args *a, const token_tile *x, int token, float *s)
{
    UNROLL
    for (int i = 0; i < NS; i++)
        s[i] = global_load(a->s + x->h * a->s_stride + (x->from + token) * NS + i);
}

/* Rows of the tile, scaled and mapped; masked keys are rows of zeros. */
DEVICE void load_rows(const official_cuda_args *a, const token_tile *x, float *memory)
{
    const cuda_rows *rows = x->side ? &a->k : &a->q;
    for (int i = THREAD; i < TB * D; i += THREADS) {
        const int token = i / D, d = i % D;
        const int64_t t = x->from + token;
        float raw = 0, v[V1];
        if (token < x->count && token_there(x->side ? a->mask : 0, a->T, x->b, t))
            raw = a->scale * global_load(row_at(rows, x->b, x->h, t, d));
        head_vectors(a, x->head, d, v);
        shared_store(memory + AT_RAW + i, raw);
        shared_store(memory + AT_X + i, x->side ? map_k(raw, v) : map_q(raw, v));
    }
}

/* u = W x of all tokens, a thread a row of W, and the squares of a token, a warp each. */
DEVICE void project(const official_cuda_args *a, float *memory)
{
    const int token = THREAD / 32, lane = THREAD % 32;
    for (int r = THREAD; r < M; r += THREADS) {
        float u[TB];
        UNROLL
        for (int t = 0; t < TB; t++)
            u[t] = 0;
        for (int d = 0; d < D; d++) {
            const float w = global_load(a->wt + d * M + r);
            UNROLL
            for (int t = 0; t < TB; t++)
                u[t] += w * shared_load(memory + AT_X + t * D + d);
        }
        UNROLL
        for (int t = 0; t < TB; t++)
            shared_store(memory + AT_U + t * M + r, u[t]);
    }
    if (token >= TB) /* whole warps */
        return;
    float x2 = 0, r2 = 0;
    for (int d = lane; d < D; d += 32) {
        const float x = shared_load(memory + AT_X + token * D + d),
                    raw = shared_load(memory + AT_RAW + token * D + d);
        x2 += x * x;
        r2 += raw * raw;
    }
    x2 = warp_sum(x2);
    r2 = warp_sum(r2);
    if (lane == 0) {
        shared_store(memory + AT_NUMBERS + token * NUMBERS + X2, x2);
        shared_store(memory + AT_NUMBERS + token * NUMBERS + R2, r2);
    }
}

/* Logs and signs of the warp's token, in lanes' own entries; returns what normalises them. */
DEVICE float token_logs(const official_cuda_args *a, const token_tile *x, int token, float *memory)
{
    float s[S1], most = -INFINITY;
    const float x2 = shared_load(memory + AT_NUMBERS + token * NUMBERS + X2),
                r2 = shared_load(memory + AT_NUMBERS + token * NUMBERS + R2);
    token_scalars(a, x, token, s);
    for (int r = THREAD % 32; r < M; r += 32) {
        float logs[LANES], signs[LANES];
        tphi(shared_load(memory + AT_U + token * M + r), global_load(a->w2 + r), x2, r2, s, logs, signs);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const int at = token * F + l * M + r;
            shared_store(memory + AT_FACTOR + at, logs[l]);
            if (SIGNED)
                shared_store(memory + AT_SIGN + at, signs[l]);
            most = real_max(TOKEN_NORM == 0 ? logs[l] : signs[l], most);
        }
    }
    return warp_max(most);
}

DEVICE float sign_at(const float *memory, int at)
{
    return SIGNED ? shared_load(memory + AT_SIGN + at) : 1;
}

/* Features of the tile, a warp a token, and the first feature that holds the maximum. */
DEVICE void token_features(const official_cuda_args *a, const token_tile *x, float *memory)
{
    const int token = THREAD / 32;
    if (token >= TB)
        return;
    if (token >= x->count) {
        for (int f = THREAD % 32; f < F; f += 32)
            shared_store(memory + AT_PHI + token * F + f, 0);
        return;
    }
    const float most = token_logs(a, x, token, memory);
    float first = F - 1; /* a whole number, exact */
    for (int r = THREAD % 32; r < M; r += 32) {
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const int f = l * M + r, at = token * F + f;
            const float log = shared_load(memory + AT_FACTOR + at), sign = sign_at(memory, at);
            const float factor = expf(log - most);
            first = (TOKEN_NORM == 0 ? log : sign) == most ? -real_max(-first, (float)-f) : first;
            shared_store(memory + AT_FACTOR + at, factor);
            shared_store(memory + AT_PHI + at, sign * factor + a->eps);
        }
    }
    first = -warp_max(-first);
    if (THREAD % 32 == 0)
        shared_store(memory + AT_NUMBERS + token * NUMBERS + TOP, first);
}

/* The tile's rows and features; what lay in the tile is no longer needed. */
DEVICE void load_tile(const official_cuda_args *a, const token_tile *x, float *memory)
{
    block_sync();
    load_rows(a, x, memory);
    block_sync();
    project(a, memory);
    block_sync();
    token_features(a, x, memory);
}

/* Values of keys, zeros where masked. */
DEVICE void load_values(const official_cuda_args *a, const token_tile *x, float *memory)
{
    for (int i = THREAD; i < TB * DV; i += THREADS) {
        const int token = i / DV, c = i % DV;
        const int64_t t = x->from + token;
        float v = 0;
        if (token < x->count && token_there(a->mask, a->T, x->b, t))
            v = global_load(row_at(&a->v, x->b, x->h, t, c));
        shared_store(memory + AT_V + i, v);
        if (c == 0)
            shared_store(memory + AT_NUMBERS + token * NUMBERS + LAST, 1);
    }
}

/* ---- products with a state or its gradient ---- */

/* Every number of a split's state is one thread's from beginning to end. */
DEVICE void clear_state(float *state)
{
    for (int i = THREAD; i < STATE; i += THREADS)
        global_store(state + i, 0);
}

/* state += phi' [LAST | v] of the tile. */
DEVICE void add_state(const float *memory, float *state)
{
    for (int i = THREAD; i < STATE; i += THREADS) {
        const int f = i < F ? i : (i - F) / DV, c = (i - F) % DV;
        float sum = 0;
        UNROLL
        for (int t = 0; t < TB; t++) {
            const float *other = i < F ? memory + AT_NUMBERS + t * NUMBERS + LAST
                                       : memory + AT_V + t * DV + c;
            sum += shared_load(memory + AT_PHI + t * F + f) * shared_load(other);
        }
        global_store(state + i, global_load(state + i) + sum);
    }
}

/* Column c of phi S of a token. */
DEVICE float times_state(const float *memory, const float *state, int token, int c)
{
    float sum = 0;
    for (int f = 0; f < F; f++)
        sum += shared_load(memory + AT_PHI + token * F + f) * global_load(state + F + f * DV + c);
    return sum;
}

/* dphi = v S' + LAST z, a thread a feature of all tokens. */
DEVICE void feature_gradients(float *memory, const float *state)
{
    for (int f = THREAD; f < F; f += THREADS) {
        const float z = global_load(state + f);
        float g[TB];
        UNROLL
        for (int t = 0; t < TB; t++)
            g[t] = z * shared_load(memory + AT_NUMBERS + t * NUMBERS + LAST);
        for (int c = 0; c < DV; c++) {
            const float S = global_load(state + F + f * DV + c);
            UNROLL
            for (int t = 0; t < TB; t++)
                g[t] += S * shared_load(memory + AT_V + t * DV + c);
        }
        UNROLL
        for (int t = 0; t < TB; t++)
            shared_store(memory + AT_DPHI + t * F + f, g[t]);
    }
}

/* ---- gradients of the tile's tokens ---- */

/* Of the warp's token: dphi to the gradients of logs and signs, with what goes through the maximum. */
DEVICE void norm_gradient(int token, float *memory)
{
    const int top = (int)shared_load(memory + AT_NUMBERS + token * NUMBERS + TOP);
    float through = 0;
    for (int r = THREAD % 32; r < M; r += 32) {
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const int at = token * F + l * M + r;
            const float gsign = shared_load(memory + AT_DPHI + at) * shared_load(memory + AT_FACTOR + at);
            const float glog = gsign * sign_at(memory, at);
            shared_store(memory + AT_DPHI + at, gsign);
            shared_store(memory + AT_FACTOR + at, glog);
            through += glog;
        }
    }
    through = warp_sum(through);
    if (top % M % 32 == THREAD % 32) { /* whose entry it is */
        float *at = memory + (TOKEN_NORM == 0 ? AT_FACTOR : AT_DPHI) + token * F + top;
        shared_store(at, shared_load(at) - through);
    }
}

/* dphi of the tile to the gradients of u, of the squares and of the scalars, a warp a token. */
DEVICE void token_gradients(const official_cuda_args *a, const token_tile *x, float *memory)
{
    const int token = THREAD / 32, lane = THREAD % 32;
    if (token >= x->count)
        return;
    float s[S1], sum[S1], gx2 = 0, gr2 = 0;
    float *numbers = memory + AT_NUMBERS + token * NUMBERS;
    const float x2 = shared_load(numbers + X2), r2 = shared_load(numbers + R2);
    token_scalars(a, x, token, s);
    norm_gradient(token, memory);
    UNROLL
    for (int i = 0; i < NS; i++)
        sum[i] = 0;
    for (int r = lane; r < M; r += 32) {
        float glog[LANES], gsign[LANES], gs[S1], gu, more_x2, more_r2;
        float *u = memory + AT_U + token * M + r;
        UNROLL
        for (int l = 0; l < LANES; l++) {
            glog[l] = shared_load(memory + AT_FACTOR + token * F + l * M + r);
            gsign[l] = shared_load(memory + AT_DPHI + token * F + l * M + r);
        }
        tphi_grad(shared_load(u), global_load(a->w2 + r), x2, r2, s, glog, gsign, &gu, &more_x2, &more_r2,
                  gs);
        shared_store(u, gu);
        gx2 += more_x2;
        gr2 += more_r2;
        UNROLL
        for (int i = 0; i < NS; i++)
            sum[i] += gs[i];
    }
    gx2 = warp_sum(gx2);
    gr2 = warp_sum(gr2);
    UNROLL
    for (int i = 0; i < NS; i++)
        sum[i] = warp_sum(sum[i]);
    if (lane == 0) {
        float *ds = a->ds + ((x->side * a->B * a->H + x->head) * a->T + x->from + token) * NS;
        shared_store(numbers + GX2, gx2);
        shared_store(numbers + GR2, gr2);
        UNROLL
        for (int i = 0; i < NS; i++)
            global_store(ds + i, sum[i]);
    }
}

/* gx = W' gu of the tile. */
DEVICE void mapped_gradients(const official_cuda_args *a, const token_tile *x, float *memory)
{
    for (int i = THREAD; i < x->count * D; i += THREADS) {
        const int token = i / D, d = i % D;
        float g = 0;
        for (int r = 0; r < M; r++)
            g += shared_load(memory + AT_U + token * M + r) * global_load(a->w + r * D + d);
        shared_store(memory + AT_GX + i, g);
    }
}

/* Through the maps to the gradients of the rows, a thread a coordinate of all tokens, which adds the
 * vectors' gradients to gv. Masked keys get zeros, the vectors their share all the same. */
DEVICE void row_gradients(const official_cuda_args *a, const token_tile *x, const float *memory, float *gv)
{
    const cuda_rows *rows = x->side ? &a->gk : &a->gq;
    const int d = THREAD;
    if (d >= D)
        return;
    float v[V1];
    head_vectors(a, x->head, d, v);
    for (int token = 0; token < x->count; token++) {
        const float *numbers = memory + AT_NUMBERS + token * NUMBERS;
        const float raw = shared_load(memory + AT_RAW + token * D + d);
        const float g = shared_load(memory + AT_GX + token * D + d) +
                        shared_load(memory + AT_X + token * D + d) * (2 * shared_load(numbers + GX2));
        const int there = token_there(x->side ? a->mask : 0, a->T, x->b, x->from + token);
        float graw, more[V1];
        if (x->side)
            map_k_grad(raw, v, g, &graw, more);
        else
            map_q_grad(raw, v, g, &graw, more);
        UNROLL
        for (int i = 0; i < NV; i++)
            gv[i] += more[i];
        graw = (graw + raw * (2 * shared_load(numbers + GR2))) * a->scale;
        global_store(row_at(rows, x->b, x->h, x->from + token, d), there ? graw : 0);
    }
}

/* From dphi, whoever made which part of it, to all gradients of the tile's rows. */
DEVICE void tile_gradients(const official_cuda_args *a, const token_tile *x, float *memory, float *gv)
{
    block_sync();
    token_gradients(a, x, memory);
    block_sync();
    mapped_gradients(a, x, memory);
    block_sync();
    row_gradients(a, x, memory, gv);
}

DEVICE void store_vectors(const official_cuda_args *a, const token_tile *x, const float *gv)
{
    const int64_t heads = a->B * a->H;
    float *to = a->dvectors + ((x->side * a->splits + BLOCK) * heads + x->head) * NV * D;
    UNROLL
    for (int i = 0; i < NV; i++)
        if (THREAD < D)
            global_store(to + i * D + THREAD, gv[i]);
}

/* ---- kernels ---- */

KERNEL(attn_official_keys, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *part = args.part + (BLOCK * args.B * args.H + BLOCK_Y) * STATE;
    int64_t to;
    token_tile x = tile_open(&args, 1, &to);
    clear_state(part);
    for (; x.from < to; x.from += TB) {
        x.count = tile_count(&x, to);
        load_tile(&args, &x, memory);
        load_values(&args, &x, memory);
        block_sync();
        add_state(memory, part);
    }
}

/* Blocks (any number): the splits' sum. */
KERNEL(attn_official_sum, official_cuda_args, BLOCK_THREADS, 1)
{
    const int64_t n = args.B * args.H * STATE;
    for (int64_t i = BLOCK * THREADS + THREAD; i < n; i += BLOCKS * THREADS) {
        float sum = 0;
        for (int64_t split = 0; split < args.splits; split++)
            sum += global_load(args.part + split * n + i);
        global_store(args.sum + i, sum);
    }
}

/* The normaliser of the warp's token. */
DEVICE void normalisers(const official_cuda_args *a, const token_tile *x, const float *state, float *memory)
{
    const int token = THREAD / 32;
    if (token >= x->count)
        return;
    float den = 0;
    for (int f = THREAD % 32; f < F; f += 32)
        den += shared_load(memory + AT_PHI + token * F + f) * global_load(state + f);
    den = warp_sum(den);
    if (THREAD % 32 == 0) {
        shared_store(memory + AT_NUMBERS + token * NUMBERS + LAST, den);
        global_store(a->den + x->head * a->T + x->from + token, den);
    }
}

KERNEL(attn_official_queries, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const float *state = args.state + BLOCK_Y * STATE;
    int64_t to;
    token_tile x = tile_open(&args, 0, &to);
    for (; x.from < to; x.from += TB) {
        x.count = tile_count(&x, to);
        load_tile(&args, &x, memory);
        block_sync();
        normalisers(&args, &x, state, memory);
        block_sync();
        for (int i = THREAD; i < x.count * DV; i += THREADS) {
            const int token = i / DV, c = i % DV;
            const float den = shared_load(memory + AT_NUMBERS + token * NUMBERS + LAST);
            const float o = times_state(memory, state, token, c) * (den != 0 ? 1 / den : 0);
            global_store(row_at(&args.o, x.b, x.h, x.from + token, c), o);
        }
    }
}

/* Of the warp's query: v = go / den, LAST = -(go . o) / den, the gradient of den. */
DEVICE void output_gradients(const official_cuda_args *a, const token_tile *x, float *memory)
{
    const int token = THREAD / 32, lane = THREAD % 32;
    const int64_t t = x->from + token;
    if (token >= TB)
        return;
    const int there = token < x->count;
    const float den = there ? global_load(a->den + x->head * a->T + t) : 0;
    const float inverse = den != 0 ? 1 / den : 0;
    float dot = 0;
    for (int c = lane; c < DV; c += 32) {
        const float go = there ? global_load(row_at(&a->go, x->b, x->h, t, c)) : 0;
        dot += there ? go * global_load(row_at(&a->o, x->b, x->h, t, c)) : 0;
        shared_store(memory + AT_V + token * DV + c, go * inverse);
    }
    dot = warp_sum(dot);
    if (lane == 0)
        shared_store(memory + AT_NUMBERS + token * NUMBERS + LAST, -dot * inverse);
}

KERNEL(attn_official_queries_bwd, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *part = args.part + (BLOCK * args.B * args.H + BLOCK_Y) * STATE;
    float gv[V1] = {0};
    int64_t to;
    token_tile x = tile_open(&args, 0, &to);
    clear_state(part);
    for (; x.from < to; x.from += TB) {
        x.count = tile_count(&x, to);
        load_tile(&args, &x, memory);
        output_gradients(&args, &x, memory);
        block_sync();
        add_state(memory, part);
        feature_gradients(memory, args.state + BLOCK_Y * STATE);
        tile_gradients(&args, &x, memory, gv);
    }
    store_vectors(&args, &x, gv);
}

KERNEL(attn_official_keys_bwd, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const float *dstate = args.dstate + BLOCK_Y * STATE;
    float gv[V1] = {0};
    int64_t to;
    token_tile x = tile_open(&args, 1, &to);
    for (; x.from < to; x.from += TB) {
        x.count = tile_count(&x, to);
        load_tile(&args, &x, memory);
        load_values(&args, &x, memory);
        block_sync();
        feature_gradients(memory, dstate);
        for (int i = THREAD; i < x.count * DV; i += THREADS) {
            const int token = i / DV, c = i % DV;
            const int64_t t = x.from + token;
            const float g = times_state(memory, dstate, token, c);
            global_store(row_at(&args.gv, x.b, x.h, t, c),
                         token_there(args.mask, args.T, x.b, t) ? g : 0);
        }
        tile_gradients(&args, &x, memory, gv);
    }
    store_vectors(&args, &x, gv);
}
