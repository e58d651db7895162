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
    const int across = width / 8;
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
        store_accumulator(sum, to + token * ld + c, ld);
    }
}

/* (TB, LDX) gradients of mapped tokens from those of projections (ROWS, TB) and the rows of W; of second
 * projections likewise, of which each is behind that of the first. */
DEVICE void mapped_gradients(const float *du, const float *w, float *gx)
{
    tokens_from_rows(du, w, ROWS, LDX, D8, gx);
    if (NP > 1)
        tokens_from_rows(du + ROWS * TB, w + ROWS * LDX, ROWS, LDX, D8, gx + PARTS * TB * LDX);
}

/* g of the staged tile: planes of go / den, and -(go.o) / den, which is computed, and kept (keep)
 * for those who (stage_o NULL) read it. */
DEVICE void token_gradients(const attn_cuda_args *a, const byte *stage_go, const byte *stage_o, int keep,
                            int64_t den_row, int64_t from, const float *bias, float *planes,
                            float *gden, float *top)
{
    const int token = THREAD / TOKEN_THREADS, part = THREAD % TOKEN_THREADS;
    if (token >= TB)
        return;
    const int there = shared_load(bias + token) == 0;
    const float den = there ? global_load(a->den + den_row + from + token) : 0;
    const float inverse = den != 0 ? 1 / den : 0;
    float dot = 0;
    for (int i = part; i < DV8; i += TOKEN_THREADS) {
        float g = 0;
        if (there && i < DV) {
            const float go = stage_get(stage_go, token, DV, i);
            if (stage_o)
                dot += go * stage_get(stage_o, token, DV, i);
            g = go * inverse;
        }
        store_parts(planes + token * LDV + i, TB * LDV, g);
    }
    if (stage_o) {
        UNROLL
        for (int lanes = TOKEN_THREADS / 2; lanes > 0; lanes /= 2)
            dot += warp_shuffle_xor(dot, lanes);
        dot *= -inverse;
        if (keep && part == 0 && there && BLOCK_Z == 0)
            global_store(a->gden + den_row + from + token, dot);
    } else if (part == 0 && there) {
        dot = global_load(a->gden + den_row + from + token);
    }
    if (part == 0) {
        shared_store(gden + token, dot);
        shared_store(top + token, there ? global_load(a->top + den_row + from + token) : 0);
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

/* Sums of the gradients of scalars, and of the norms of rows g and g + 8, of a variant (LEARN). */
typedef struct parameter_sums {
    float s[S1], w[2][NW];
} parameter_sums;

DEVICE void clear_parameters(parameter_sums *p)
{
    UNROLL
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < NW; k++)
            p->w[i][k] = 0;
    UNROLL
    for (int k = 0; k < NS; k++)
        p->s[k] = 0;
}

/* Gradients of a tile's tokens, or a group of them, of the warp's rows: of projections, and of the tokens'
 * sums. */
typedef struct tile_gradient {
    float u[NP][NG][4], sums[SUMS][2 * NG];
} tile_gradient;

/* Through the feature of one row and one token, element i of accumulator j: dphi, its gradient, to gu and
 * to the token's sums, and to the parameters' sums. value and sign of each lane; t: the token's sums. */
DEVICE void feature_gradient(const float *u, const float *norms, const float *s, const float *row,
                             const float *uni, const float *tok, const float *t, const float *dphi,
                             const float *value, const float *sign, int j, int i, float *gu,
                             tile_gradient *to, parameter_sums *parameters)
{
    float glog[LANES], gsign[LANES], gt[TOKEN];
    const int column = 2 * j + i % 2;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        gsign[l] = dphi[l] * value[l];
        glog[l] = SIGNED ? gsign[l] * sign[l] : gsign[l];
    }
    phi_grad(u, norms, row, uni, tok, glog, gsign, gu, gt);
    to->sums[0][column] += IDENTITY ? gt[0] + gt[1] : gt[0];
    if (!IDENTITY)
        to->sums[1 % SUMS][column] += gt[1];
    if (SUM)
        to->sums[SUMS - 1][column] += gt[2];
    if (LEARN) {
        float ds[S1], dw[NW], sums[TOKEN];
        UNROLL
        for (int k = 0; k < TOKEN; k++)
            sums[k] = shared_load(t + k);
        phi_pgrad(u, norms, s, row, uni, tok, sums, glog, gsign, ds, dw);
        UNROLL
        for (int k = 0; k < NS; k++)
            parameters->s[k] += ds[k];
        UNROLL
        for (int k = 0; k < NW; k++)
            parameters->w[i / 2][k] += dw[k];
    }
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

/* The warp's rows of one lane, (16, LDV), += features (rows down, tokens across) of n groups of tokens from
 * `token` times rows of planes. */
DEVICE void add_rows(float *rows, float (*feature)[4], int n, const float *planes, int token)
{
    UNROLL
    for (int c = 0; c < DV8; c += 8) {
        float sum[4];
        load_accumulator(sum, rows + c, LDV);
        UNROLL
        for (int j = 0; j < n; j++) {
            left_tile a;
            right_tile b;
            left_accumulator(&a, feature[j]);
            right_planes(&b, planes, TB * LDV, LDV, token + 8 * j, c);
            multiply(sum, &a, &b);
        }
        store_accumulator(sum, rows + c, LDV);
    }
}

/* The same with those rows in registers: a group of tokens after the other, so that the parts of one only are
 * there. */
DEVICE void add_held(float (*rows)[4], float (*feature)[4], int n, const float *planes, int token)
{
    UNROLL
    for (int j = 0; j < n; j++) {
        left_tile a;
        left_accumulator(&a, feature[j]);
        UNROLL
        for (int c = 0; c < NV8; c++) {
            right_tile b;
            right_planes(&b, planes, TB * LDV, LDV, token + 8 * j, 8 * c);
            multiply(rows[c], &a, &b);
        }
    }
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

/* Four numbers from column c of row t, `width` wide, of `to` or, where several blocks share a token, of
 * their own part. */
DEVICE void store_four(const head_rows *to, float *part, int64_t t, int c, int width, const float *four)
{
    if (ROW_BLOCKS > 1)
        for (int k = 0; k < 4 && c + k < width; k++)
            global_store(part + t * width + c + k, four[k]);
    else
        store_row4(to, t, c, width, four);
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
            store_four(to, part, from + token, c, D, out);
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
        if (from + token < end)
            store_four(to, part, from + token, c, D, out);
    }
}

/* Gradients of W, of its rows' norms and of scalars, in a variant of the kernels (LEARN). The first is
 * summed in shared memory (ROWS, LDX), each warp its own rows. */
DEVICE void matrix_gradient(float *dw, int row, float (*gu)[4], const float *planes, int token)
{
    for (int c = 0; c < D8; c += 8) {
        float *at = dw + row * LDX + c, sum[4];
        load_accumulator(sum, at, LDX);
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            right_tile b;
            left_accumulator(&a, gu[j]);
            right_planes(&b, planes, TB * LDX, LDX, token + 8 * j, c);
            multiply(sum, &a, &b);
        }
        store_accumulator(sum, at, LDX);
    }
}

/* Places in shared memory of what store_tile_gradient leaves: (ROWS, TB) each as `turned`, (KW, SUMS,
 * TB), and the sums of W's gradient (ROWS, LDX); and of planes of the mapped tokens. */
typedef struct gradient_places {
    float *du, *du2, *sums, *dw;
    const float *x, *x2;
} gradient_places;

/* The warp's gradients of tokens from `token` on to where a token's are put together. */
DEVICE void store_tile_gradient(tile_gradient *g, const gradient_places *at, int warp_row, int token)
{
    UNROLL
    for (int k = 0; k < SUMS; k++)
        sum_columns(g->sums[k], at->sums + ((THREAD / 32) * SUMS + k) * TB + token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        store_turned(at->du, warp_row, token + 8 * j, g->u[0][j]);
        if (NP > 1)
            store_turned(at->du2, warp_row, token + 8 * j, g->u[NP - 1][j]);
    }
    if (LEARN)
        matrix_gradient(at->dw, warp_row, g->u[0], at->x, token);
    if (LEARN && NP > 1 && !SECOND_OWN)
        matrix_gradient(at->dw, warp_row, g->u[NP - 1], at->x2, token);
}

DEVICE void clear_sums(tile_gradient *g)
{
    UNROLL
    for (int k = 0; k < SUMS; k++)
        for (int j = 0; j < 2 * NG; j++)
            g->sums[k][j] = 0;
}

/* The block's part of both, into `scalars` and `matrices`. scratch (KW * NS). A norm's gradient
 * reaches W through 2 w. */
DEVICE void store_parameters(const attn_cuda_args *a, int64_t head, int first, int warp_row,
                             const float *dw, float *scratch, parameter_sums *sums, float *scalars,
                             float *matrices)
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
            sums->w[i][k] = COUNTS && k > 0 ? 0 : quad_sum(sums->w[i][k]);
        for (int c = t; c < D && r < M; c += 4) {
            float sum = shared_load(dw + row * LDX + c);
            UNROLL
            for (int k = 0; k < NW; k++) {
                const float weight = k == 0 || COUNTS ? 1 : global_load(vectors + weights[k] * D + c);
                sum += 2 * weight * sums->w[i][k] * global_load(w + (int64_t)r * D + c);
            }
            global_store(to + (int64_t)r * D + c, sum);
        }
    }
    UNROLL
    for (int k = 0; k < NS; k++) {
        const float sum = warp_sum(sums->s[k]);
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
