/* What the causal skeletons share. Query i sees the keys j <= i of the same tokens. A block takes tiles of
 * TB tokens, queries and keys of both, and has the state S, z of the keys before; with
 * A = phi_q' phi_k where j <= i, and g, gden as in attn_queries_bwd, P = g v' + gden 1' where j <= i,
 *     out = phi_q' S + A v,     den = phi_q' z + A 1,             then S += phi_k v, z += phi_k 1
 *     dphi_q = S g' + z gden + phi_k P'
 *     dphi_k = dS v' + dz + phi_q P,   dv = phi_k' dS + A' g,     then dS += phi_q g, dz += phi_q gden
 * the last line from the last tile to the first. A warp owns 16 rows of W and their state: only what a
 * token needs of all rows goes through shared memory.
 *
 * The log of a row of a key is reduced by the row's reference, that of a query raised by it. References
 * are logs of keys that came before, and no key is above its reference by more than GROWTH, so that
 * nothing overflows or vanishes that a query sees, and nothing that comes out depends on what comes later.
 * A tile is cut into segments to keep it so: a segment raises the references to the logs of its first
 * token, and ends before the first key that is too far above. Most tiles are one segment.
 */
#ifndef CAUSAL_CUH
#define CAUSAL_CUH

#include "backward.cuh"

enum {
    GROWTH = 30,
    FB = LANES * ROWS, /* rows of state of a block */
    GROUPS = TB / 8,
    /* Features of NG groups of 8 tokens are evaluated side by side: all of a tile's, whose projections are then
     * kept, or as many as there are registers for. */
    MANY = NG < GROUPS,
    LDP = TB + (KEYS_PASS ? 4 : 8) /* of P, free of bank conflicts as it is read */
};
static_assert(GROUPS % NG == 0, "tiles of a causal kernel are whole numbers of groups");

/* One side of a tile, and hoisted values of it for rows g and g + 8 of the warp's. */
typedef struct causal_side {
    token_tile tile;
    float uni[NUNI], row[2][NROW];
} causal_side;

DEVICE void start_side(causal_side *side, int which, const float *params, float (*norms)[NW], float *s)
{
    load_scalars(params, which, s, side->uni);
    UNROLL
    for (int i = 0; i < 2; i++)
        phi_row(norms[i], side->uni, side->row[i]);
}

/* Projections of NG groups of tokens from `token` by the warp's rows, rows down. */
DEVICE void project(float (*u)[NG][4], const causal_side *side, const float *w, const float *w_second,
                    int warp_row, int token)
{
    rows_times_tokens(u[0], NG, w, LDX, D8, warp_row, side->tile.x, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, w_second, LDX, D8, warp_row, side->tile.second, token);
}

/* Column of element i of accumulator j: a token, from the first on. */
DEVICE int column_of(int j, int i)
{
    return 8 * j + 2 * (THREAD % 4) + i % 2;
}

/* Of the column's token, `at`. */
DEVICE void feature_at(const causal_side *side, float (*u)[NG][4], int j, int i, int at, float *projections,
                       float *tok, float *logs, float *signs)
{
    const float *from = side->tile.tok + at * NTOK;
    UNROLL
    for (int k = 0; k < NTOK; k++)
        tok[k] = shared_load(from + k);
    UNROLL
    for (int k = 0; k < NP; k++)
        projections[k] = u[k][j][i];
    phi(projections, side->row[i / 2], side->uni, tok, logs, signs);
}

/* The token that the groups of token `at` begin with. */
DEVICE int groups_from(int at)
{
    return MANY ? at / (8 * NG) * (8 * NG) : 0;
}

/* Segments add to the gradients of the projections. */
DEVICE void clear_gradient(tile_gradient *g)
{
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < NP; k++)
                g->u[k][j][i] = 0;
    clear_sums(g);
}

/* Where what is kept of a row of the state lies: row g + 8i of the warp's, of lane l. */
DEVICE int kept_row(int l, int warp_row, int i)
{
    return l * ROWS + warp_row + THREAD % 32 / 4 + 8 * i;
}

/* Logs of token `at` of the groups u is of, by rows g and g + 8, in all four lanes of a row; -inf where there
 * is none, or no row. */
DEVICE void token_logs(const causal_side *side, float (*u)[NG][4], const int *rows_there, int at,
                       float (*log)[2])
{
    const int there = shared_load(side->tile.bias + at) == 0;
    float tok[NTOK];
    UNROLL
    for (int k = 0; k < NTOK; k++)
        tok[k] = shared_load(side->tile.tok + at * NTOK + k);
    UNROLL
    for (int row = 0; row < 2; row++) {
        float projections[NP], logs[LANES], signs[LANES];
        UNROLL
        for (int k = 0; k < NP; k++) {
            float x = 0;
            UNROLL
            for (int j = 0; j < NG; j++)
                for (int c = 0; c < 2; c++)
                    x = groups_from(at) + column_of(j, c) == at ? u[k][j][2 * row + c] : x;
            projections[k] = quad_sum(x);
        }
        phi(projections, side->row[row], side->uni, tok, logs, signs);
        UNROLL
        for (int l = 0; l < LANES; l++)
            log[l][row] = there && rows_there[row] ? logs[l] : -INFINITY;
    }
}

/* Features of the keys lo to hi - 1 of group j from `token`, by references ref (FB); those too far above one
 * are 0. Returns `end` or the first of these, which has to begin a segment, as far as this thread sees. */
DEVICE int key_features(const causal_side *side, float (*u)[NG][4], const int *rows_there, int warp_row,
                        const float *ref, int token, int j, int lo, int hi, int end, float (*value)[4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int at = token + column_of(j, i);
        const int there = at >= lo && at < hi && rows_there[i / 2] && shared_load(side->tile.bias + at) == 0;
        float projections[NP], tok[NTOK], logs[LANES], signs[LANES];
        feature_at(side, u, j, i, at, projections, tok, logs, signs);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const float max = shared_load(ref + kept_row(l, warp_row, i / 2));
            const float log = there ? logs[l] : -INFINITY, shift = max > -INFINITY ? max : INFINITY;
            const float x = exp_falling(log - shift);
            const int far = log > max + GROWTH;
            value[l][i] = far ? 0 : SIGNED ? x * signs[l] : x;
            end = far && at < end ? at : end;
        }
        if (MANY)
            warp_sync();
    }
    return end;
}

DEVICE int warp_min(int x)
{
    return -(int)warp_max(-(float)x);
}

/* Multiplies the warp's rows of one lane, (16, LDV) in shared memory, by factor (2). */
DEVICE void scale_rows(float *rows, const float *factor)
{
    if (!warp_any(factor[0] != 1 || factor[1] != 1))
        return;
    UNROLL
    for (int n = 0; n < NV8; n++) {
        float c[4];
        load_accumulator(c, rows + 8 * n, LDV);
        UNROLL
        for (int i = 0; i < 4; i++)
            c[i] *= factor[i / 2];
        store_accumulator(c, rows + 8 * n, LDV);
    }
}

/* Raises the references ref (FB) of the warp's rows to the logs of a token, and brings to them what was summed:
 * S (FB, LDV), z (FB), `more` (FB; NULL: nothing). */
DEVICE void raise_references(float (*log)[2], int warp_row, float *ref, float *S, float *z, float *more)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        float max[2], factor[2];
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float old = shared_load(ref + kept_row(l, warp_row, i));
            max[i] = real_max(log[l][i], old);
            factor[i] = old == max[i] ? 1 : exp_falling(old - max[i]);
        }
        warp_sync(); /* the old ones were read by all */
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int at = kept_row(l, warp_row, i);
            if (THREAD % 4 != 0)
                continue;
            shared_store(ref + at, max[i]);
            shared_store(z + at, factor[i] * shared_load(z + at));
            if (more)
                shared_store(more + at, factor[i] * shared_load(more + at));
        }
        scale_rows(S + (l * ROWS + warp_row) * LDV, factor);
    }
    warp_sync();
}

/* Adds the sums of features (rows down, tokens across) over n groups of tokens, times factor (of the first
 * token on) if there is one, to those of the warp's rows. */
DEVICE void add_sums(float *sums, int l, int warp_row, float (*feature)[4], int n, const float *factor)
{
    float sum[2] = {0, 0};
    UNROLL
    for (int j = 0; j < n; j++)
        for (int i = 0; i < 4; i++)
            sum[i / 2] += factor ? feature[j][i] * shared_load(factor + column_of(j, i)) : feature[j][i];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int at = kept_row(l, warp_row, i);
        sum[i] = quad_sum(sum[i]);
        if (THREAD % 4 == 0)
            shared_store(sums + at, shared_load(sums + at) + sum[i]);
    }
}

/* Features of lane l of the warp's rows, (16, TB), in an array (FB, TB) as store_turned writes it. How far the
 * tokens of a row are turned is seen from its place among the 16, so one lane's addresses are all lanes'. */
DEVICE float *features_of(const float *features, int l, int warp_row)
{
    return (float *)features + (l * ROWS + warp_row) * TB;
}

/* What store_turned wrote to rows 0... */
DEVICE void load_turned(float *c, const float *from, int token)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float2 upper = shared_load2(from + turned(g, token + 2 * t));
    const float2 lower = shared_load2(from + turned(g + 8, token + 2 * t));
    c[0] = upper.x;
    c[1] = upper.y;
    c[2] = lower.x;
    c[3] = lower.y;
}

/* Where the passes that read keys first have W, references and what is summed by them (raise_references),
 * and features of keys (FB, TB). */
typedef struct key_places {
    const float *w, *w_second;
    float *ref, *S, *z, *more, *features;
} key_places;

/* Features of the segment's keys, those from token lo on, to shared memory, the state to the raised references.
 * Returns the first token that has to begin a segment, as far as the warp sees. */
DEVICE int read_keys(const causal_side *k, const key_places *at, const int *rows_there, int warp_row, int lo)
{
    float u[NP][NG][4], log[LANES][2], value[LANES][4];
    int end = TB;
    project(u, k, at->w, at->w_second, warp_row, groups_from(lo));
    token_logs(k, u, rows_there, lo, log);
    raise_references(log, warp_row, at->ref, at->S, at->z, at->more);
    NO_UNROLL
    for (int token = 0; token < TB; token += 8 * NG) {
        if (MANY)
            project(u, k, at->w, at->w_second, warp_row, token);
        UNROLL
        for (int j = 0; j < NG; j++) {
            end = key_features(k, u, rows_there, warp_row, at->ref, token, j, lo, TB, end, value);
            UNROLL
            for (int l = 0; l < LANES; l++)
                store_turned(features_of(at->features, l, warp_row), 0, token + 8 * j, value[l]);
        }
    }
    return warp_min(end);
}

/* Features of one lane of keys before token hi, which this thread has stored; 0 for others. */
DEVICE void load_keys(const float *features, int l, int warp_row, int hi, float (*to)[4])
{
    UNROLL
    for (int j = 0; j < GROUPS; j++) {
        load_turned(to[j], features_of(features, l, warp_row), 8 * j);
        for (int i = 0; i < 4; i++)
            to[j][i] = column_of(j, i) < hi ? to[j][i] : 0;
    }
}

/* Right operand: rows `row`.. in the order 0 2 4 6 1 3 5 7 of an array as store_turned writes it, its
 * tokens n.. across. */
DEVICE void right_turned(right_tile *b, const float *from, int row, int n)
{
    const int g = THREAD % 32 / 4, r = row + 2 * (THREAD % 4);
    split(shared_load(from + turned(r, n + g)), &b->high[0], &b->low[0]);
    split(shared_load(from + turned(r + 1, n + g)), &b->high[1], &b->low[1]);
}

/* Right operand: columns k.. of a matrix down, in that order, its rows n.. across. */
DEVICE void right_pairs(right_tile *b, const float *matrix, int ld, int n, int k)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float2 x = shared_load2(matrix + (n + g) * ld + k + 2 * t);
    split(x.x, &b->high[0], &b->low[0]);
    split(x.y, &b->high[1], &b->low[1]);
}

/* P (TB, LDP), queries down, from planes of g and v: warps share the pieces. */
DEVICE void gradient_pairs(const float *g_planes, const float *v_planes, const float *gden, float *to)
{
    const int g = THREAD % 32 / 4;
    for (int piece = THREAD / 32; piece < TB / 16 * GROUPS; piece += KW) {
        const int query = piece / GROUPS * 16, key = piece % GROUPS * 8;
        float sum[4] = {0, 0, 0, 0};
        UNROLL
        for (int k = 0; k < DV8; k += 8) {
            left_tile a;
            right_tile b;
            if (key >= query + 16)
                break;
            left_planes(&a, g_planes, TB * LDV, LDV, query, k);
            right_transposed(&b, v_planes, TB * LDV, LDV, key, k);
            multiply(sum, &a, &b);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = query + g + 8 * (i / 2);
            sum[i] = key + column_of(0, i) <= at ? sum[i] + shared_load(gden + at) : 0;
        }
        store_accumulator(sum, to + query * LDP + key, LDP);
    }
}

/* Where MANY, the gradients of NG groups from `token` are added to those of the tile as store_tile_gradient
 * leaves them, which begin as zeros. */
DEVICE void clear_tile(const gradient_places *at, int warp_row)
{
    const int warp = THREAD / 32, lane = THREAD % 32;
    for (int i = lane; MANY && i < 16 * TB; i += 32) {
        shared_store(at->du + warp_row * TB + i, 0);
        if (NP > 1)
            shared_store(at->du2 + warp_row * TB + i, 0);
    }
    for (int i = lane; MANY && i < SUMS * TB; i += 32)
        shared_store(at->sums + warp * SUMS * TB + i, 0);
    warp_sync();
}

DEVICE void add_tile_gradient(tile_gradient *g, const gradient_places *at, int warp_row, int token)
{
    float *sums = at->sums + THREAD / 32 * SUMS * TB + token;
    UNROLL
    for (int k = 0; k < SUMS; k++)
        for (int j = 0; j < 2 * NG; j++)
            g->sums[k][j] += THREAD % 32 < 4 ? shared_load(sums + k * TB + column_of(j / 2, j % 2)) : 0;
    warp_sync(); /* others write what was read */
    UNROLL
    for (int k = 0; k < SUMS; k++)
        sum_columns(g->sums[k], sums + k * TB);
    if (LEARN)
        matrix_gradient(at->dw, warp_row, g->u[0], at->x, token);
    if (LEARN && NP > 1 && !SECOND_OWN)
        matrix_gradient(at->dw, warp_row, g->u[NP - 1], at->x2, token);
    UNROLL
    for (int k = 0; k < NP; k++) {
        float *du = (k ? at->du2 : at->du) + warp_row * TB;
        UNROLL
        for (int j = 0; j < NG; j++) {
            float before[4];
            load_turned(before, du, token + 8 * j);
            for (int i = 0; i < 4; i++)
                before[i] += g->u[k][j][i];
            store_turned(du, 0, token + 8 * j, before);
        }
    }
}

/* ---- the state before a split ---- */

/* State of the keys of the first `count` splits, of the block's rows: references (FB), z (FB), S. */
DEVICE void load_prefix(const attn_cuda_args *a, int64_t head, int64_t count, int first, float *ref,
                        float *zsum, float *to)
{
    for (int i = THREAD; i < FB * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const int f = row / ROWS * MP + r;
        const float max = r < M ? parts_max(a, head, count, f) : -INFINITY;
        float4 sum = make_float4(0, 0, 0, 0);
        float z = 0;
        for (int64_t k = 0; k < count && max > -INFINITY; k++) {
            const float *part = a->part + (k * a->B * a->H + head) * STATE;
            const float factor = part_factor(global_load(part + f), max);
            const float4 x = global_load4(part + 2 * F + (int64_t)f * DV8 + c);
            sum = add_scaled(sum, factor, x);
            if (c == 0)
                z += factor * global_load(part + F + f);
        }
        shared_store4(to + row * LDV + c, sum);
        if (c == 0) {
            shared_store(ref + row, max);
            shared_store(zsum + row, z);
        }
    }
}

#endif
