/* Decoding: one token of each head, key first: blocks (1, heads). The state is read and written once and
 * that is all the time it takes, so products are plain ones: four threads a row of W, then a thread four
 * columns of every GROUPS-th row of the state. args.state is not multiplied by the rows' weights. */
#include "stub.cuh"

#include "tile.cuh"

enum {
    COLUMNS = DV8 / 4,
    GROUPS = BLOCK_THREADS / COLUMNS,
    AT_X = 0,              /* (2, D8) mapped query and key, */
    AT_X2 = AT_X + 2 * D8, /* likewise of the second projection, */
    AT_RAW = AT_X2 + (NP > 1 ? 2 * D8 : 0), /* scaled only */
    AT_V = AT_RAW + (LINEAR ? 2 * D8 : 0),
    AT_TOK = AT_V + DV8,                    /* (2, NTOK) */
    AT_FACTOR = AT_TOK + (2 * NTOK + 3) / 4 * 4,
    AT_PHIK = AT_FACTOR + F,
    AT_PHIQ = AT_PHIK + F,
    AT_SIGN = AT_PHIQ + F,
    AT_WARP = AT_SIGN + (SIGNED ? F : 0), /* (2, KW) */
    AT_OUT = AT_WARP + 2 * KW,            /* (GROUPS, DV8) */
    AT_END = AT_OUT + GROUPS * DV8
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_step");

DEVICE float row_get(const head_rows *x, int i)
{
    const byte *at = row_at(x, 0, i);
    return BF16 ? from_bf16(global_load_half(at)) : global_load((const float *)at);
}

/* A side's token into shared memory, by one warp. */
DEVICE void map_token(const attn_cuda_args *a, const head_rows *x, int side, const float *params,
                      const float *uni, float *memory)
{
    const float *linear = params + NS + NV * D + (side ? 3 : 1) * D * D;
    float *raw_row = memory + AT_RAW + side * D8, sums[TOKEN] = {0, 0, 0}, tok[NTOK];
    for (int i = THREAD % 32; LINEAR && i < D; i += 32)
        shared_store(raw_row + i, a->scale * row_get(x, i));
    warp_sync();
    for (int i = THREAD % 32; i < D8; i += 32) {
        float mapped = 0, second = 0;
        if (i < D) {
            const float raw = a->scale * row_get(x, i);
            float v[V1], y = raw;
            if (LINEAR) {
                y = 0;
                for (int j = 0; j < D; j++)
                    y += global_load(linear + i * D + j) * shared_load(raw_row + j);
            }
            UNROLL
            for (int k = 0; k < NV; k++)
                v[k] = global_load(params + NS + k * D + i);
            mapped = side ? map_k(y, v) : map_q(y, v);
            if (NP > 1)
                second = map2(y, v);
            sums[0] += mapped * mapped;
            sums[1] += raw * raw;
            if (SUM)
                sums[2] += token_sum(y, v);
        }
        shared_store(memory + AT_X + side * D8 + i, mapped);
        if (NP > 1)
            shared_store(memory + AT_X2 + side * D8 + i, second);
    }
    UNROLL
    for (int k = 0; k < TOKEN; k++)
        sums[k] = warp_sum(sums[k]);
    if (IDENTITY)
        sums[1] = sums[0];
    phi_token(sums, uni, tok);
    if (THREAD % 32 == 0) {
        UNROLL
        for (int k = 0; k < NTOK; k++)
            shared_store(memory + AT_TOK + side * NTOK + k, tok[k]);
    }
}

/* Products of row r of a matrix with the query and the key, the same in the four threads of the row. */
DEVICE void project_row(const float *w, int r, const float *x, float *u_q, float *u_k)
{
    float q = 0, k = 0;
    if (D % 4 == 0) {
        for (int c = THREAD % 4 * 4; c < D && r < M; c += 16) {
            const float4 y = global_load4(w + (int64_t)r * D + c);
            const float4 a = shared_load4(x + c), b = shared_load4(x + D8 + c);
            q += y.x * a.x + y.y * a.y + y.z * a.z + y.w * a.w;
            k += y.x * b.x + y.y * b.y + y.z * b.z + y.w * b.w;
        }
    } else {
        for (int c = THREAD % 4; c < D && r < M; c += 4) {
            const float y = global_load(w + (int64_t)r * D + c);
            q += y * shared_load(x + c);
            k += y * shared_load(x + D8 + c);
        }
    }
    *u_q = quad_sum(q);
    *u_k = quad_sum(k);
}

/* Number first + THREAD % 4 of x (LANES), without an address that is computed; x[first] beyond the end. */
DEVICE float own_lane(const float *x, int first)
{
    float own = x[first];
    UNROLL
    for (int j = 1; j < 4 && first + j < LANES; j++)
        own = THREAD % 4 == j ? x[first + j] : own;
    return own;
}

/* Row r of W: the key's features, the state's maxima and z; logs of the query by the new maxima. */
DEVICE void take_row(const attn_cuda_args *a, int64_t head, int r, float (*uni)[NUNI], float *memory,
                     float *state)
{
    float u[2][NP], norms[NW], row[NROW], tok[NTOK], logs[2][LANES], signs[2][LANES];
    project_row(a->w + head * a->w_stride, r, memory + AT_X, &u[0][0], &u[1][0]);
    if (NP > 1)
        project_row(second_matrix(a, head), r, memory + AT_X2, &u[0][NP - 1], &u[1][NP - 1]);
    row_norms(a, head, r, norms);
    UNROLL
    for (int side = 0; side < 2; side++) {
        UNROLL
        for (int k = 0; k < NTOK; k++)
            tok[k] = shared_load(memory + AT_TOK + side * NTOK + k);
        phi_row(norms, uni[side], row);
        phi(u[side], row, uni[side], tok, logs[side], signs[side]);
    }
    UNROLL
    for (int first = 0; first < LANES; first += 4) {
        const int l = first + THREAD % 4, f = l * MP + r;
        const float log_q = own_lane(logs[0], first), log_k = own_lane(logs[1], first);
        if (l >= LANES)
            continue;
        const float old = global_load(state + f), max = r < M ? real_max(old, log_k) : -INFINITY;
        const float factor = max == old ? 1 : exp_falling(old - max);
        float value = max > -INFINITY ? exp_falling(log_k - max) : 0;
        if (SIGNED)
            value *= own_lane(signs[1], first);
        global_store(state + f, max);
        global_store(state + F + f, factor * global_load(state + F + f) + value);
        shared_store(memory + AT_FACTOR + f, factor);
        shared_store(memory + AT_PHIK + f, value);
        shared_store(memory + AT_PHIQ + f, log_q + max);
        if (SIGNED)
            shared_store(memory + AT_SIGN + f, own_lane(signs[0], first));
    }
}

/* Query's features by the largest log, in their place; returns the denominator. */
DEVICE float query_features(const attn_cuda_args *a, float *memory, const float *state)
{
    float top = -3.4028234e38f, den = 0;
    for (int f = THREAD; f < F; f += THREADS)
        top = real_max(top, shared_load(memory + AT_PHIQ + f));
    top = warp_max(top);
    if (THREAD % 32 == 0)
        shared_store(memory + AT_WARP + THREAD / 32, top);
    block_sync();
    for (int w = 0; w < KW; w++)
        top = real_max(top, shared_load(memory + AT_WARP + w));
    for (int f = THREAD; f < F; f += THREADS) {
        const int r = f % MP;
        float value = exp_falling(shared_load(memory + AT_PHIQ + f) - top);
        if (SIGNED)
            value *= shared_load(memory + AT_SIGN + f);
        if (a->row_weight && r < M)
            value *= global_load(a->row_weight + r);
        value = r < M ? value : 0;
        shared_store(memory + AT_PHIQ + f, value);
        den += value * global_load(state + F + f);
    }
    den = warp_sum(den);
    if (THREAD % 32 == 0)
        shared_store(memory + AT_WARP + KW + THREAD / 32, den);
    block_sync();
    den = 0;
    for (int w = 0; w < KW; w++)
        den += shared_load(memory + AT_WARP + KW + w);
    return den;
}

TILED_KERNEL(attn_step, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H;
    const float *params = args.params + head * args.params_stride;
    float *state = args.state + head * STATE, *S = state + 2 * F;
    const head_rows q = rows_of(&args.q, 0, b, h), k = rows_of(&args.k, 0, b, h),
                    v = rows_of(&args.v, 0, b, h), o = rows_of(&args.o, 0, b, h);
    float s[S1], uni[2][NUNI];
    if (args.active && !global_load_byte(args.active + b))
        return;
    load_scalars(params, 0, s, uni[0]);
    load_scalars(params, 1, s, uni[1]);
    if (THREAD / 32 == 0)
        map_token(&args, &q, 0, params, uni[0], memory);
    else if (THREAD / 32 == 1)
        map_token(&args, &k, 1, params, uni[1], memory);
    else
        for (int i = THREAD - 64; i < DV8; i += THREADS - 64)
            shared_store(memory + AT_V + i, i < DV ? row_get(&v, i) : 0);
    block_sync();
    for (int r = THREAD / 4; r < MP; r += THREADS / 4) /* whole warps */
        take_row(&args, head, r, uni, memory, state);
    block_sync();
    const float den = query_features(&args, memory, state);
    const int group = THREAD / COLUMNS, column = THREAD % COLUMNS * 4;
    if (group < GROUPS) {
        const float4 value = shared_load4(memory + AT_V + column);
        float4 sum = make_float4(0, 0, 0, 0);
        for (int f = group; f < F; f += GROUPS) {
            const float factor = shared_load(memory + AT_FACTOR + f);
            const float phi_k = shared_load(memory + AT_PHIK + f);
            const float phi_q = shared_load(memory + AT_PHIQ + f);
            float4 x = global_load4(S + (int64_t)f * DV8 + column);
            x = make_float4(factor * x.x + phi_k * value.x, factor * x.y + phi_k * value.y,
                            factor * x.z + phi_k * value.z, factor * x.w + phi_k * value.w);
            global_store4(S + (int64_t)f * DV8 + column, x);
            sum = add_scaled(sum, phi_q, x);
        }
        shared_store4(memory + AT_OUT + group * DV8 + column, sum);
    }
    block_sync();
    for (int c = THREAD * 4; c < DV; c += THREADS * 4) {
        const float inverse = den != 0 ? 1 / den : 0;
        float four[4] = {0, 0, 0, 0};
        for (int i = 0; i < GROUPS; i++) {
            const float4 x = shared_load4(memory + AT_OUT + i * DV8 + c);
            four[0] += x.x;
            four[1] += x.y;
            four[2] += x.z;
            four[3] += x.w;
        }
        UNROLL
        for (int i = 0; i < 4; i++)
            four[i] *= inverse;
        store_row4(&o, 0, c, DV, four);
    }
}
