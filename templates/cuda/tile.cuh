/* What the attention skeletons share: sizes, tiles of tokens in shared memory, products of tensor
 * cores, the feature's hoisted values.
 *
 * A block takes tokens a tile of TB at a time. Their rows come into a stage as they lie in memory
 * (cp.async); from there every coordinate is scaled, mapped and written into planes that tensor cores
 * read: the upper bits of a float rounded to TF32 and, with three products (PARTS = 2), the rest.
 * Rows of planes and of W are 4 * odd floats apart, so that the four rows and eight columns a fragment
 * touches, or rows 2t and 2t + 1, fall on different banks.
 *
 * In a fragment g = lane / 4, t = lane % 4. The accumulator of a product holds columns 2t and 2t + 1;
 * taken as the left operand of the next product its columns are tokens (or features) in the order
 * 0 2 4 6 1 3 5 7: the right operand's rows 2t and 2t + 1 are loaded to match, and nothing moves.
 */
#ifndef TILE_CUH
#define TILE_CUH

/* The kernel of a skeleton whose tiles are chosen; spilled.cuh has another. */
#ifndef TILED_KERNEL
#define TILED_KERNEL KERNEL
#endif

enum {
    D = CD,
    DV = CDV,
    M = CM,
    MP = (M + 15) / 16 * 16,
    D8 = (D + 7) / 8 * 8,
    DV8 = (DV + 7) / 8 * 8,
    F = LANES * MP,
    STATE = F * (2 + DV8), /* floats of a head's state, and of its gradient */
    DSTATE = F * (1 + DV8),
    PARTS = PRODUCTS == 3 ? 2 : 1,
    LDX = D8 + 4,
    TOKEN = 3,
    SPLIT = 64, /* tokens; splits of causal kernels are whole numbers of them */
    ELEMENT = BF16 ? 2 : 4, /* bytes of a number of q, k, v, o and their gradients */
    V1 = NV > 0 ? NV : 1,
    S1 = NS > 0 ? NS : 1,
    SIGNS = SIGNED ? LANES : 1,
    SUMS = (IDENTITY ? 1 : 2) + SUM /* gradients of a token's sums that differ from each other */
};

/* ---- rows of q, k, v ... in global memory ---- */

/* Head (b, h) of an array; the first row's element and the distance of rows. */
typedef struct head_rows {
    byte *data;
    int64_t stride;
} head_rows;

DEVICE head_rows rows_of(const cuda_rows *x, const int64_t *begin, int64_t b, int64_t h)
{
    const int64_t first = (begin ? begin[b] * x->stride_t : b * x->stride_b) + h * x->stride_h;
    head_rows rows;
    rows.data = (byte *)x->data + first * ELEMENT;
    rows.stride = x->stride_t;
    return rows;
}

/* In shared memory while tiles go by, relative to the array, since a lane has no registers to spare for
 * what a tile uses once. */
enum { KEPT_ROWS = 4 }; /* floats */

typedef struct kept_head {
    int64_t offset, stride;
} kept_head;

DEVICE void keep_rows(float *at, const cuda_rows *x, const head_rows *head)
{
    if (THREAD == 0) {
        ((kept_head *)at)->offset = head->data - (byte *)x->data;
        ((kept_head *)at)->stride = head->stride;
    }
}

DEVICE head_rows kept_rows(const float *at, const cuda_rows *x)
{
    head_rows head;
    head.data = (byte *)x->data + ((const kept_head *)at)->offset;
    head.stride = ((const kept_head *)at)->stride;
    return head;
}

DEVICE byte *row_at(const head_rows *x, int64_t t, int i)
{
    return x->data + (t * x->stride + i) * ELEMENT;
}

/* The tokens of a split: i-th of `splits` parts of n, whole tiles of `tile` tokens each. */
DEVICE void split_range(int64_t n, int64_t splits, int64_t i, int tile, int64_t *from, int64_t *to)
{
    const int64_t tiles = (n + tile - 1) / tile, each = (tiles + splits - 1) / splits * tile;
    *from = i * each < n ? i * each : n;
    *to = *from + each < n ? *from + each : n;
}

/* ---- stages: `count` rows of `width` numbers, as they lie in memory, `pad16` bytes of padding ---- */

#define STAGE_ROW(width) (((width) * ELEMENT + 15) / 16 * 16 + 16)

/* Asks for rows from.. up to TB of the rows to `to`; the others are not written. */
DEVICE void stage_rows(const head_rows *x, int64_t from, int64_t to, int width, byte *stage)
{
    const int64_t left = to - from;
    const int rows = left < TB ? (int)left : TB;
    if (width * ELEMENT % 16 == 0) {
        const int each = width * ELEMENT / 16;
        for (int i = THREAD; i < rows * each; i += THREADS)
            async_copy16(stage + i / each * STAGE_ROW(width) + i % each * 16,
                         row_at(x, from + i / each, 0) + i % each * 16);
    } else {
        for (int i = THREAD; i < rows * width; i += THREADS) {
            byte *to_byte = stage + i / width * STAGE_ROW(width) + i % width * ELEMENT;
            const byte *from_byte = row_at(x, from + i / width, i % width);
            if (BF16)
                *(unsigned short *)to_byte = global_load_half(from_byte);
            else
                shared_store((float *)to_byte, global_load((const float *)from_byte));
        }
    }
}

DEVICE float stage_get(const byte *stage, int row, int width, int i)
{
    const byte *at = stage + row * STAGE_ROW(width) + i * ELEMENT;
    if (BF16)
        return from_bf16(*(const unsigned short *)at);
    return shared_load((const float *)at);
}

/* Four numbers at i, a multiple of 4, to row t of x; those beyond `width` are left out. */
DEVICE void store_row4(const head_rows *x, int64_t t, int i, int width, const float *value)
{
    byte *at = row_at(x, t, i);
    if (BF16) {
        for (int k = 0; k < 4 && i + k < width; k++)
            global_store_half(at + 2 * k, (unsigned short)to_bf16(value[k]));
    } else if (width % 4 == 0) {
        global_store4((float *)at, make_float4(value[0], value[1], value[2], value[3]));
    } else {
        for (int k = 0; k < 4 && i + k < width; k++)
            global_store((float *)at + k, value[k]);
    }
}

/* ---- products ---- */

/* A number for a tensor core: the part it takes and, with three products, the rest. */
DEVICE void split(float x, float *high, float *low)
{
    *high = to_tf32(x);
    *low = PARTS > 1 ? to_tf32(x - *high) : 0;
}

/* A number into planes `plane` floats apart. */
DEVICE void store_parts(float *at, int plane, float x)
{
    float high, low;
    split(x, &high, &low);
    shared_store(at, high);
    if (PARTS > 1)
        shared_store(at + plane, low);
}

/* Left operand: 16 rows by 8 columns. */
typedef struct left_tile {
    float high[4], low[4];
} left_tile;

/* Right operand: 8 rows by 8 columns. */
typedef struct right_tile {
    float high[2], low[2];
} right_tile;

DEVICE void multiply(float *c, const left_tile *a, const right_tile *b)
{
    if (PARTS > 1) {
        mma_tf32(c, a->low, b->high);
        mma_tf32(c, a->high, b->low);
    }
    mma_tf32(c, a->high, b->high);
}

/* Rows r.. of a matrix in shared memory, `ld` apart, columns c.. */
DEVICE void left_rows(left_tile *a, const float *matrix, int ld, int r, int c)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = matrix + (r + g) * ld + c + t;
    split(shared_load(at), &a->high[0], &a->low[0]);
    split(shared_load(at + 8 * ld), &a->high[1], &a->low[1]);
    split(shared_load(at + 4), &a->high[2], &a->low[2]);
    split(shared_load(at + 8 * ld + 4), &a->high[3], &a->low[3]);
}

/* The same of planes. */
DEVICE void left_planes(left_tile *a, const float *planes, int plane, int ld, int r, int c)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = planes + (r + g) * ld + c + t;
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        float *to = part == 0 ? a->high : a->low;
        to[0] = shared_load(at + part * plane);
        to[1] = shared_load(at + part * plane + 8 * ld);
        to[2] = shared_load(at + part * plane + 4);
        to[3] = shared_load(at + part * plane + 8 * ld + 4);
    }
}

/* An accumulator as the left operand; columns in the order 0 2 4 6 1 3 5 7. */
DEVICE void left_accumulator(left_tile *a, const float *c)
{
    split(c[0], &a->high[0], &a->low[0]);
    split(c[2], &a->high[1], &a->low[1]);
    split(c[1], &a->high[2], &a->low[2]);
    split(c[3], &a->high[3], &a->low[3]);
}

/* Right operand whose columns are rows n.. of planes, its rows their columns k..: x' of x. */
DEVICE void right_transposed(right_tile *b, const float *planes, int plane, int ld, int n, int k)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = planes + (n + g) * ld + k + t;
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        float *to = part == 0 ? b->high : b->low;
        to[0] = shared_load(at + part * plane);
        to[1] = shared_load(at + part * plane + 4);
    }
}

/* The same of a matrix that is not split yet. */
DEVICE void right_transposed_rows(right_tile *b, const float *matrix, int ld, int n, int k)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = matrix + (n + g) * ld + k + t;
    split(shared_load(at), &b->high[0], &b->low[0]);
    split(shared_load(at + 4), &b->high[1], &b->low[1]);
}

/* Right operand: rows k.. of planes in the order 0 2 4 6 1 3 5 7, columns n... */
DEVICE void right_planes(right_tile *b, const float *planes, int plane, int ld, int k, int n)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = planes + (k + 2 * t) * ld + n + g;
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        float *to = part == 0 ? b->high : b->low;
        to[0] = shared_load(at + part * plane);
        to[1] = shared_load(at + part * plane + ld);
    }
}

/* The same of a matrix that is not split yet. */
DEVICE void right_rows(right_tile *b, const float *matrix, int ld, int k, int n)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float *at = matrix + (k + 2 * t) * ld + n + g;
    split(shared_load(at), &b->high[0], &b->low[0]);
    split(shared_load(at + ld), &b->high[1], &b->low[1]);
}

/* An accumulator's two rows of 8 numbers to rows r + g and r + g + 8 of an array in global memory, as
 * 16 bytes a lane: neighbours exchange halves, so that even lanes have four of the first row and odd
 * ones four of the second. */
DEVICE void exchange_pairs(const float *c, float *four)
{
    const int odd = THREAD % 2;
    const float x = warp_shuffle_xor(odd ? c[0] : c[2], 1), y = warp_shuffle_xor(odd ? c[1] : c[3], 1);
    four[0] = odd ? x : c[0];
    four[1] = odd ? y : c[1];
    four[2] = odd ? c[2] : x;
    four[3] = odd ? c[3] : y;
}

/* Which row and first column of an accumulator that was. */
DEVICE int pair_row(void)
{
    return THREAD % 32 / 4 + (THREAD % 2 ? 8 : 0);
}

DEVICE int pair_column(void)
{
    return THREAD % 4 / 2 * 4;
}

/* An accumulator of 16 rows and 8 columns of a matrix in shared memory, `at` its first row. */
DEVICE void load_accumulator(float *c, const float *at, int ld)
{
    const float *from = at + THREAD % 32 / 4 * ld + 2 * (THREAD % 4);
    const float2 upper = shared_load2(from), lower = shared_load2(from + 8 * ld);
    c[0] = upper.x;
    c[1] = upper.y;
    c[2] = lower.x;
    c[3] = lower.y;
}

DEVICE void store_accumulator(const float *c, float *at, int ld)
{
    float *to = at + THREAD % 32 / 4 * ld + 2 * (THREAD % 4);
    shared_store2(to, make_float2(c[0], c[1]));
    shared_store2(to + 8 * ld, make_float2(c[2], c[3]));
}

/* Over the four lanes of a row of an accumulator. */
DEVICE float quad_max(float x)
{
    x = real_max(x, warp_shuffle_xor(x, 1));
    return real_max(x, warp_shuffle_xor(x, 2));
}

DEVICE float quad_sum(float x)
{
    x += warp_shuffle_xor(x, 1);
    return x + warp_shuffle_xor(x, 2);
}

/* ---- the feature's parameters and hoisted values of a head ---- */

/* In shared memory: vectors (NV, D8), linear maps (D8, LDX) of this side and, backward, its
 * transpose. */
DEVICE void load_scalars(const float *params, int side, float *s, float *uni)
{
    UNROLL
    for (int i = 0; i < NS; i++)
        s[i] = i == SIDE ? (float)(side ? -1 : 1) : global_load(params + i);
    phi_uniform(s, uni);
}

DEVICE void load_vectors(const float *params, float *vectors)
{
    for (int i = THREAD; i < NV * D8; i += THREADS)
        shared_store(vectors + i, i % D8 < D ? global_load(params + NS + i / D8 * D + i % D8) : 1);
}

/* Matrix `which` of the four: R of the queries transposed, R, and the same of the keys. */
DEVICE void load_linear(const float *params, int which, float *linear)
{
    const float *from = params + NS + NV * D + which * D * D;
    for (int i = THREAD; LINEAR && i < D8 * LDX; i += THREADS) {
        const int r = i / LDX, c = i % LDX;
        shared_store(linear + i, r < D && c < D ? global_load(from + r * D + c) : 0);
    }
}

/* Rows first.. of W, `count` of them, into (count, LDX); beyond M and D zeros. */
DEVICE void load_matrix(const float *w, int first, int count, float *to)
{
    if (D % 4 == 0) {
        for (int i = THREAD; i < count * (LDX / 4); i += THREADS) {
            const int r = first + i / (LDX / 4), c = i % (LDX / 4) * 4;
            const float4 x = r < M && c < D ? global_load4(w + (int64_t)r * D + c)
                                            : make_float4(0, 0, 0, 0);
            shared_store4(to + i * 4, x);
        }
    } else {
        for (int i = THREAD; i < count * LDX; i += THREADS) {
            const int r = first + i / LDX, c = i % LDX;
            shared_store(to + i, r < M && c < D ? global_load(w + (int64_t)r * D + c) : 0);
        }
    }
}

/* The matrix of second projections: one of the feature's own, or W, which may be the head's. */
DEVICE const float *second_matrix(const attn_cuda_args *a, int64_t head)
{
    return SECOND_OWN ? a->w_second : a->w + head * a->w_stride;
}

/* Rows first.. of W, `count` of them, and behind them those of the second projections' matrix. */
DEVICE void load_matrices(const attn_cuda_args *a, int64_t head, int first, int count, float *to)
{
    load_matrix(a->w + head * a->w_stride, first, count, to);
    if (NP > 1)
        load_matrix(second_matrix(a, head), first, count, to + count * LDX);
}

/* The norms of row r of W. */
DEVICE void row_norms(const attn_cuda_args *a, int64_t head, int r, float *norms)
{
    const int weights[3] = {-1, NORM1, NORM2};
    const float *w = a->w + head * a->w_stride + (int64_t)r * D;
    UNROLL
    for (int k = 0; k < NW; k++) {
        norms[k] = 0;
        if (r >= M)
            continue;
        if (k == 0) {
            norms[k] = global_load(a->w2 + (a->w_stride ? head * M : 0) + r);
        } else if (COUNTS) {
            norms[k] = global_load(a->counts + head * a->counts_stride + (k - 1) * M + r);
        } else {
            const float *weight = a->params + head * a->params_stride + NS + weights[k] * D;
            for (int i = 0; i < D; i++)
                norms[k] += global_load(w + i) * global_load(w + i) * global_load(weight + i);
        }
    }
}

/* The weight of row r of W. */
DEVICE float weight_of(const attn_cuda_args *a, int r)
{
    return a->row_weight && r < M ? global_load(a->row_weight + r) : 1;
}

/* ---- parts of states ---- */

/* Row f of the first `count` parts: their maximum. */
DEVICE float parts_max(const attn_cuda_args *a, int64_t head, int64_t count, int f)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < count; i++)
        max = real_max(max, global_load(a->part + (i * a->B * a->H + head) * STATE + f));
    return max;
}

/* What a part with this maximum is to be multiplied by. */
DEVICE float part_factor(float max, float merged)
{
    return max > -INFINITY ? exp_falling(max - merged) : 0;
}

DEVICE float4 add_scaled(float4 sum, float factor, float4 x)
{
    return make_float4(sum.x + factor * x.x, sum.y + factor * x.y, sum.z + factor * x.z,
                       sum.w + factor * x.w);
}

/* ---- tiles of tokens ---- */

/* Where a tile of one side lies in shared memory. */
typedef struct token_tile {
    float *x;      /* planes (PARTS, TB, LDX) of the mapped tokens */
    float *second; /* likewise of the second projection's */
    float *tok;    /* (TB, NTOK) */
    float *bias;   /* (TB) 0, or -inf where there is no token */
    float *t;      /* (TB, TOKEN) the sums; NULL: not wanted */
} token_tile;

/* All but the bias, which moves with the tiles. */
DEVICE void place_tile(token_tile *tile, float *x, float *second, float *tok, float *t)
{
    tile->x = x;
    tile->second = second;
    tile->tok = tok;
    tile->t = t;
}

/* Coordinate i of a staged token after the scale and the linear map; *raw2 gets the square of it
 * before the map. */
DEVICE float coordinate(const byte *stage, int token, int i, float scale, const float *linear,
                        float *raw2)
{
    const float raw = scale * stage_get(stage, token, D, i);
    *raw2 = raw * raw;
    if (!LINEAR)
        return raw;
    float y = 0;
    for (int j = 0; j < D; j++)
        y += shared_load(linear + i * LDX + j) * (scale * stage_get(stage, token, D, j));
    return y;
}

DEVICE void coordinate_vectors(const float *vectors, int i, float *v)
{
    UNROLL
    for (int k = 0; k < NV; k++)
        v[k] = shared_load(vectors + k * D8 + i);
}

/* A staged tile into planes; valid: rows that are there. */
DEVICE void map_tile(const byte *stage, int side, float scale, const float *vectors,
                     const float *linear, const float *uni, const token_tile *tile)
{
    const int token = THREAD / TOKEN_THREADS, part = THREAD % TOKEN_THREADS;
    if (token >= TB) /* whole warps */
        return;
    const int there = shared_load(tile->bias + token) == 0;
    float sums[TOKEN] = {0, 0, 0}, tok[NTOK];
    for (int i = part; i < D8; i += TOKEN_THREADS) {
        float x = 0, second = 0;
        if (there && i < D) {
            float v[V1], raw2;
            const float y = coordinate(stage, token, i, scale, linear, &raw2);
            coordinate_vectors(vectors, i, v);
            x = side ? map_k(y, v) : map_q(y, v);
            if (NP > 1)
                second = map2(y, v);
            sums[0] += x * x;
            sums[1] += raw2;
            if (SUM)
                sums[2] += token_sum(y, v);
        }
        store_parts(tile->x + token * LDX + i, TB * LDX, x);
        if (NP > 1)
            store_parts(tile->second + token * LDX + i, TB * LDX, second);
    }
    UNROLL
    for (int lanes = TOKEN_THREADS / 2; lanes > 0; lanes /= 2)
        for (int k = 0; k < (SUM ? 3 : IDENTITY ? 1 : 2); k++)
            sums[k] += warp_shuffle_xor(sums[k], lanes);
    if (IDENTITY)
        sums[1] = sums[0];
    phi_token(sums, uni, tok);
    if (part == 0)
        for (int k = 0; k < NTOK; k++)
            shared_store(tile->tok + token * NTOK + k, tok[k]);
    if (part == 0 && tile->t)
        for (int k = 0; k < TOKEN; k++)
            shared_store(tile->t + token * TOKEN + k, sums[k]);
}

/* bias of the tile from token `from` on: there are tokens up to `to`, and the mask's (NULL: all). */
DEVICE void mark_tokens(int64_t from, int64_t to, const byte *mask, float *bias)
{
    for (int i = THREAD; i < TB; i += THREADS) {
        const int there = from + i < to && (mask == 0 || global_load_byte(mask + from + i) != 0);
        shared_store(bias + i, there ? 0 : -INFINITY);
    }
}

/* A staged tile of `width` numbers from column `first`, `count` of them, into planes (PARTS, TB, ld);
 * zeros where there is no token. */
DEVICE void plain_tile(const byte *stage, int width, int first, int count, int ld, const float *bias,
                       float *planes)
{
    const int token = THREAD / TOKEN_THREADS, part = THREAD % TOKEN_THREADS;
    if (token >= TB)
        return;
    const int there = shared_load(bias + token) == 0;
    for (int i = part; i < count; i += TOKEN_THREADS) {
        const float x = there && first + i < width ? stage_get(stage, token, width, first + i) : 0;
        store_parts(planes + token * ld + i, TB * ld, x);
    }
}

/* Products of 16 rows of a matrix (.., ld), from `row`, with N tokens of 8 from `token`, over `width`
 * columns: accumulators u (N, 4), the matrix's rows down, tokens across. */
DEVICE void rows_times_tokens(float (*u)[4], int n, const float *matrix, int ld, int width, int row,
                              const float *planes, int token)
{
    UNROLL
    for (int j = 0; j < n; j++)
        for (int i = 0; i < 4; i++)
            u[j][i] = 0;
    UNROLL_TWICE
    for (int k = 0; k < width; k += 8) {
        left_tile a;
        left_rows(&a, matrix, ld, row, k);
        UNROLL
        for (int j = 0; j < n; j++) {
            right_tile b;
            right_transposed(&b, planes, TB * ld, ld, token + 8 * j, k);
            multiply(u[j], &a, &b);
        }
    }
}

/* Products of 16 tokens of a tile, from `token`, with n rows of 8 of W (.., LDX), from `row`:
 * accumulators u (n, 4), tokens down, rows of W across. */
DEVICE void tokens_times_rows(float (*u)[4], int n, const float *tokens, const float *w, int token,
                              int row)
{
    UNROLL
    for (int j = 0; j < n; j++)
        for (int i = 0; i < 4; i++)
            u[j][i] = 0;
    UNROLL_TWICE
    for (int k = 0; k < D8; k += 8) {
        left_tile a;
        left_planes(&a, tokens, TB * LDX, LDX, token, k);
        UNROLL
        for (int j = 0; j < n; j++) {
            right_tile b;
            right_transposed_rows(&b, w, LDX, row + 8 * j, k);
            multiply(u[j], &a, &b);
        }
    }
}
#endif
