/* What the two backward skeletons share. A warp owns 16 rows of W, as in attn_keys: features, their
 * gradients and those of the projections come out rows down, tokens across. What is needed per token
 * goes through shared memory once, (rows, TB) with the tokens of a row turned by 8 * f(row), which
 * keeps both the writing of pairs and the reading of columns free of bank conflicts. */
#ifndef BACKWARD_CUH
#define BACKWARD_CUH

enum {
    ROWS = 16 * KW, /* of W, a block */
    ROW_BLOCKS = (M + ROWS - 1) / ROWS,
    LDV = DV8 + 4,
    NV8 = DV8 / 8
};

/* Where a number of (row, token) is. */
DEVICE int turned(int row, int token)
{
    return row * TB + (token ^ (8 * ((row ^ row >> 2) & 3) & (TB - 1)));
}

/* Accumulator j of a warp's 16 rows from `row` to such an array. */
DEVICE void store_turned(float *to, int row, int token, const float *c)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    shared_store2(to + turned(row + g, token + 2 * t), make_float2(c[0], c[1]));
    shared_store2(to + turned(row + g + 8, token + 2 * t), make_float2(c[2], c[3]));
}

/* Left operand: tokens down, rows k.. across in the order 0 2 4 6 1 3 5 7. */
DEVICE void left_turned(left_tile *a, const float *from, int token, int k)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const int r = k + 2 * t;
    split(shared_load(from + turned(r, token + g)), &a->high[0], &a->low[0]);
    split(shared_load(from + turned(r, token + g + 8)), &a->high[1], &a->low[1]);
    split(shared_load(from + turned(r + 1, token + g)), &a->high[2], &a->low[2]);
    split(shared_load(from + turned(r + 1, token + g + 8)), &a->high[3], &a->low[3]);
}

/* (TB, ld) = (rows, TB)' (rows, ld), `rows` a multiple of 8: warps share the 16 x 8 pieces. */
DEVICE void tokens_from_rows(const float *turned_rows, const float *matrix, int rows, int ld, int width,
                             float *to)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4, across = width / 8;
    for (int piece = THREAD / 32; piece < TB / 16 * across; piece += KW) {
        const int token = piece / across * 16, c = piece % across * 8;
        float sum[4] = {0, 0, 0, 0};
        for (int k = 0; k < rows; k += 8) {
            left_tile a;
            right_tile b;
            left_turned(&a, turned_rows, token, k);
            right_rows(&b, matrix, ld, k, c);
            multiply(sum, &a, &b);
        }
        shared_store2(to + (token + g) * ld + c + 2 * t, make_float2(sum[0], sum[1]));
        shared_store2(to + (token + g + 8) * ld + c + 2 * t, make_float2(sum[2], sum[3]));
    }
}

/* Sums over the 16 rows of a warp of 2 NG columns: value 2j + c is of token 8j + 2t + c. Each lane
 * ends with its own tokens, in halving exchanges; to (TB). */
DEVICE void sum_columns(float *value, float *to)
{
    const int lane = THREAD % 32, t = lane % 4;
    int n = 2 * NG, base = 0, idle = 0;
    UNROLL
    for (int bit = 16; bit >= 4; bit /= 2) {
        const int upper = lane & bit;
        if (n > 1) {
            n /= 2;
            UNROLL
            for (int i = 0; i < n; i++) {
                const float send = upper ? value[i] : value[i + n];
                const float keep = upper ? value[i + n] : value[i];
                value[i] = keep + warp_shuffle_xor(send, bit);
            }
            base += upper ? n : 0;
        } else {
            value[0] += warp_shuffle_xor(value[0], bit);
            idle |= upper;
        }
    }
    UNROLL
    for (int i = 0; i < n; i++)
        if (!idle)
            shared_store(to + 8 * ((base + i) / 2) + 2 * t + (base + i) % 2, value[i]);
}

/* The feature of one row and one token, and its gradient.
 * dphi: of the features; in: value and sign of each lane; out: gu, sums' gradients added to sums. */
DEVICE void feature_gradient(const float *u, const float *norms, const float *row, const float *uni,
                             const float *tok, const float *dphi, const float *value, const float *sign,
                             float *gu, float *sums)
{
    float glog[LANES], gsign[LANES], gt[TOKEN];
    UNROLL
    for (int l = 0; l < LANES; l++) {
        gsign[l] = dphi[l] * value[l];
        glog[l] = SIGNED ? gsign[l] * sign[l] : gsign[l];
    }
    phi_grad(u, norms, row, uni, tok, glog, gsign, gu, gt);
    sums[0] += IDENTITY ? gt[0] + gt[1] : gt[0];
    if (!IDENTITY)
        sums[1] += gt[1];
    if (SUM)
        sums[SUMS - 1] += gt[2];
}

/* A token's sum k, of the warps in their order; from (KW, SUMS, TB). */
DEVICE float token_gradient(const float *from, int k, int token)
{
    float sum = 0;
    UNROLL
    for (int w = 0; w < KW; w++)
        sum += shared_load(from + (w * SUMS + k) * TB + token);
    return sum;
}

/* Four numbers at once: neighbouring lanes have neighbouring fours, one row after the other. */
DEVICE void shared_four(const float *at, float *out)
{
    const float4 x = shared_load4(at);
    out[0] = x.x;
    out[1] = x.y;
    out[2] = x.z;
    out[3] = x.w;
}

/* Four coordinates from i of a staged token as they lie there; those beyond D are not read. */
DEVICE void load_four(float *out, const byte *stage, int token, int i)
{
    if (!BF16 && D % 4 == 0) {
        shared_four((const float *)(stage + token * STAGE_ROW(D)) + i, out);
    } else {
        UNROLL
        for (int k = 0; k < 4; k++)
            out[k] = i + k < D ? stage_get(stage, token, D, i + k) : 0;
    }
}

/* Four coordinates from i of a token: gradients gx, gsecond of the mapped ones and the sums' to the
 * gradient of the row as it lies in memory or, with a linear map, of what it gives (and *gr2). */
DEVICE void map_gradient(int side, const byte *stage, int token, int i, float scale,
                         const float *vectors, const float *linear, const float *gx,
                         const float *gsecond, const float *sums, float *out)
{
    const float gx2 = token_gradient(sums, 0, token);
    const float gr2 = IDENTITY ? 0 : token_gradient(sums, 1 % SUMS, token);
    const float gown = SUM ? token_gradient(sums, SUMS - 1, token) : 0;
    float raw[4], mapped[4], second[4];
    if (!LINEAR) { /* which has no registers to spare */
        load_four(raw, stage, token, i);
        shared_four(gx + token * LDX + i, mapped);
    }
    if (NP > 1)
        shared_four(gsecond + token * LDX + i, second);
    UNROLL
    for (int k = 0; k < 4; k++) {
        out[k] = 0;
        if (i + k >= D)
            continue;
        float v[V1], gv[V1], raw2, g, more;
        const float y = LINEAR ? coordinate(stage, token, i + k, scale, linear, &raw2) : scale * raw[k];
        coordinate_vectors(vectors, i + k, v);
        const float x = side ? map_k(y, v) : map_q(y, v);
        const float at = (LINEAR ? shared_load(gx + token * LDX + i + k) : mapped[k]) + 2 * x * gx2;
        if (side)
            map_k_grad(y, v, at, &g, gv);
        else
            map_q_grad(y, v, at, &g, gv);
        if (NP > 1) {
            map2_grad(y, v, second[k], &more, gv);
            g += more;
        }
        if (SUM) {
            token_sum_grad(y, v, gown, &more, gv);
            g += more;
        }
        out[k] = LINEAR ? g : (g + 2 * y * gr2) * scale;
    }
}

/* Gradients of the tile's tokens from (TB, LDX) ones of the mapped tokens, to rows from.. of `to` or,
 * where several blocks share a token, to their own part (rows, D). transposed: the linear map's. */
DEVICE void store_gradients(int side, const byte *stage, float scale, const float *vectors,
                            const float *linear, const float *transposed, float *gx,
                            const float *gsecond, const float *sums, const float *bias,
                            const head_rows *to, float *part, int64_t from, int64_t end)
{
    const int each = (D + 3) / 4;
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int token = i / each, c = i % each * 4;
        float out[4] = {0, 0, 0, 0};
        if (shared_load(bias + token) == 0)
            map_gradient(side, stage, token, c, scale, vectors, linear, gx, gsecond, sums, out);
        if (LINEAR) { /* the coordinate's own place: no other thread reads it */
            for (int k = 0; k < 4; k++)
                shared_store(gx + token * LDX + c + k, out[k]);
        } else if (from + token < end) {
            if (ROW_BLOCKS > 1)
                for (int k = 0; k < 4 && c + k < D; k++)
                    global_store(part + (from + token) * D + c + k, out[k]);
            else
                store_row4(to, from + token, c, D, out);
        }
    }
    if (!LINEAR)
        return;
    block_sync();
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int token = i / each, c = i % each * 4;
        const int there = shared_load(bias + token) == 0;
        float out[4];
        for (int k = 0; k < 4; k++) {
            float g = 0;
            for (int j = 0; j < D; j++)
                g += shared_load(transposed + (c + k) * LDX + j) * shared_load(gx + token * LDX + j);
            out[k] = there && c + k < D
                         ? scale * (g + 2 * scale * stage_get(stage, token, D, c + k) *
                                            token_gradient(sums, 1 % SUMS, token))
                         : 0;
        }
        if (from + token < end) {
            if (ROW_BLOCKS > 1)
                for (int k = 0; k < 4 && c + k < D; k++)
                    global_store(part + (from + token) * D + c + k, out[k]);
            else
                store_row4(to, from + token, c, D, out);
        }
    }
}

/* Gradients of W, of its rows' norms and of scalars, in a variant of the kernels (LEARN). The first is
 * summed in shared memory (ROWS, LDX), each warp its own rows. */
DEVICE void matrix_gradient(float *dw, int row, float (*gu)[4], const float *planes, int token)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    for (int c = 0; c < D8; c += 8) {
        float *at = dw + (row + g) * LDX + c + 2 * t, sum[4];
        const float2 upper = shared_load2(at), lower = shared_load2(at + 8 * LDX);
        sum[0] = upper.x, sum[1] = upper.y, sum[2] = lower.x, sum[3] = lower.y;
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            right_tile b;
            left_accumulator(&a, gu[j]);
            right_planes(&b, planes, TB * LDX, LDX, token + 8 * j, c);
            multiply(sum, &a, &b);
        }
        shared_store2(at, make_float2(sum[0], sum[1]));
        shared_store2(at + 8 * LDX, make_float2(sum[2], sum[3]));
    }
}

/* Adds one feature's share of the gradients of the scalars and of its row's norms. t: the token's sums;
 * the rest as in feature_gradient. */
DEVICE void parameter_gradient(const float *u, const float *norms, const float *s, const float *row,
                               const float *uni, const float *tok, const float *t, const float *dphi,
                               const float *value, const float *sign, float *gs, float *gw)
{
    float glog[LANES], gsign[LANES], ds[S1], dw[NW], sums[TOKEN];
    UNROLL
    for (int i = 0; i < TOKEN; i++)
        sums[i] = shared_load(t + i);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        gsign[l] = dphi[l] * value[l];
        glog[l] = SIGNED ? gsign[l] * sign[l] : gsign[l];
    }
    phi_pgrad(u, norms, s, row, uni, tok, sums, glog, gsign, ds, dw);
    UNROLL
    for (int i = 0; i < NS; i++)
        gs[i] += ds[i];
    UNROLL
    for (int i = 0; i < NW; i++)
        gw[i] += dw[i];
}

/* The block's part of both, into `scalars` and `matrices`. scratch (KW * NS). A norm's gradient
 * reaches W through 2 w. */
DEVICE void store_parameters(const attn_cuda_args *a, int64_t head, int first, int warp_row,
                             const float *dw, float *scratch, float *gs, float (*gw)[NW],
                             float *scalars, float *matrices)
{
    const int weights[3] = {-1, NORM1, NORM2}, g = THREAD % 32 / 4, t = THREAD % 4;
    const int64_t heads = a->B * a->H;
    const float *w = a->w + head * a->w_stride, *vectors = a->params + head * a->params_stride + NS;
    float *to = matrices + (BLOCK * heads + head) * M * D;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int row = warp_row + g + 8 * i, r = first + row;
        UNROLL
        for (int k = 0; k < NW; k++)
            gw[i][k] = COUNTS && k > 0 ? 0 : quad_sum(gw[i][k]);
        for (int c = t; c < D && r < M; c += 4) {
            float sum = shared_load(dw + row * LDX + c);
            UNROLL
            for (int k = 0; k < NW; k++) {
                const float weight = k == 0 || COUNTS ? 1 : global_load(vectors + weights[k] * D + c);
                sum += 2 * weight * gw[i][k] * global_load(w + (int64_t)r * D + c);
            }
            global_store(to + (int64_t)r * D + c, sum);
        }
    }
    UNROLL
    for (int k = 0; k < NS; k++) {
        const float sum = warp_sum(gs[k]);
        if (THREAD % 32 == 0)
            shared_store(scratch + THREAD / 32 * NS + k, sum);
    }
    block_sync();
    for (int k = THREAD; k < NS; k += THREADS) {
        float sum = 0;
        for (int i = 0; i < KW; i++)
            sum += shared_load(scratch + i * NS + k);
        global_store(scalars + ((BLOCK * ROW_BLOCKS + BLOCK_Z) * heads + head) * NS + k,
                     k == SIDE ? 0 : sum);
    }
}
#endif
