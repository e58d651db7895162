/* Linear attention, forward, keys: blocks (splits of the keys, heads, row blocks * value blocks) of
 * KW warps. A warp owns 16 rows of W: its share of the state stays in registers while the tokens of the
 * split stream by, and features never leave them either, since the accumulator of u = W x is the left
 * operand of S += phi v. The maximum of a feature row grows as larger logs come, and what was summed is
 * rescaled then: exact. */
#include "stub.cuh"

#include "tile.cuh"

enum {
    ROWS = 16 * KW,                                  /* of W, a block */
    ROW_BLOCKS = (M + ROWS - 1) / ROWS,
    LDV = VB + 4,
    NV8 = VB / 8,
    /* shared memory, in floats */
    AT_W = 0,
    AT_W2 = AT_W + ROWS * LDX,
    AT_X = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_X2 = AT_X + PARTS * TB * LDX,
    AT_V = AT_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_TOK = AT_V + PARTS * TB * LDV,
    AT_BIAS = AT_TOK + (TB * NTOK + 3) / 4 * 4,
    AT_VECTORS = AT_BIAS + 2 * TB,
    AT_LINEAR = AT_VECTORS + NV * D8,
    AT_STAGE_K = AT_LINEAR + (LINEAR ? D8 * LDX : 0),
    AT_STAGE_V = AT_STAGE_K + TB * STAGE_ROW(D) / 4,
    AT_END = AT_STAGE_V + TB * STAGE_ROW(DV) / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_keys");

/* What a warp keeps: of rows g and g + 8 of its 16. */
typedef struct key_state {
    float max[LANES][2], z[LANES][2];
    float S[LANES][NV8][4];
} key_state;

/* exp of the logs relative to the raised maxima, times signs, in their place; S and z are rescaled where
 * a maximum grew. */
DEVICE void raise_max(key_state *state, int l, float (*log)[4])
{
    float shift[2], factor[2];
    int grew = 0;
    UNROLL
    for (int row = 0; row < 2; row++) {
        float max = -INFINITY;
        UNROLL
        for (int j = 0; j < NG; j++)
            max = real_max(max, real_max(log[j][2 * row], log[j][2 * row + 1]));
        max = quad_max(max);
        const float old = state->max[l][row];
        grew |= max > old;
        max = real_max(max, old);
        shift[row] = max > -INFINITY ? max : 0;
        factor[row] = exp_falling(old - shift[row]);
        state->max[l][row] = max;
    }
    if (warp_any(grew)) {
        UNROLL
        for (int row = 0; row < 2; row++)
            state->z[l][row] *= factor[row];
        UNROLL
        for (int n = 0; n < NV8; n++)
            for (int i = 0; i < 4; i++)
                state->S[l][n][i] *= factor[i / 2];
    }
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            log[j][i] = exp_falling(log[j][i] - shift[i / 2]);
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_group(key_state *state, const float *memory, const float *bias, int warp_row,
                       float (*row)[NROW], const float *uni, int token)
{
    float u[NP][NG][4], log[LANES][NG][4], sign[SIGNS][NG][4];
    rows_times_tokens(u[0], NG, memory + AT_W, LDX, D8, warp_row, memory + AT_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + AT_W2, LDX, D8, warp_row, memory + AT_X2, token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + 8 * j + 2 * (THREAD % 4) + i % 2;
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + AT_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, row[i / 2], uni, tok, logs, signs);
            const float there = shared_load(bias + at);
            for (int l = 0; l < LANES; l++) {
                log[l][j][i] = there == 0 ? logs[l] : -INFINITY;
                if (SIGNED)
                    sign[l % SIGNS][j][i] = signs[l];
            }
        }
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        raise_max(state, l, log[l]);
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            UNROLL
            for (int i = 0; i < 4; i++) {
                if (SIGNED)
                    log[l][j][i] *= sign[l % SIGNS][j][i];
                state->z[l][i / 2] += log[l][j][i];
            }
            left_accumulator(&a, log[l][j]);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_tile b;
                right_planes(&b, memory + AT_V, TB * LDV, LDV, token + 8 * j, 8 * n);
                multiply(state->S[l][n], &a, &b);
            }
        }
    }
}

/* The warp's share of a head's state. */
DEVICE void store_state(key_state *state, int first, int value, float *to)
{
    const int g = THREAD % 32 / 4;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int row = 0; row < 2; row++) {
            const int r = first + g + 8 * row, f = l * MP + r;
            const float z = quad_sum(state->z[l][row]);
            if (THREAD % 4 == 0 && r < MP && value == 0) {
                global_store(to + f, r < M ? state->max[l][row] : -INFINITY);
                global_store(to + F + f, r < M ? z : 0);
            }
        }
        UNROLL
        for (int n = 0; n < NV8; n++) {
            float four[4];
            exchange_pairs(state->S[l][n], four);
            const int r = first + pair_row(), c = value + 8 * n + pair_column();
            if (r < MP && c < DV8) {
                const float there = r < M ? 1 : 0;
                global_store4(to + 2 * F + (int64_t)(l * MP + r) * DV8 + c,
                              make_float4(there * four[0], there * four[1], there * four[2],
                                          there * four[3]));
            }
        }
    }
}

KERNEL(attn_keys, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stage_k = (byte *)(memory + AT_STAGE_K), *stage_v = (byte *)(memory + AT_STAGE_V);
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H;
    const int first = (int)(BLOCK_Z % ROW_BLOCKS) * ROWS, value = (int)(BLOCK_Z / ROW_BLOCKS) * VB;
    const int warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.k_len ? args.k_len[b] : args.S;
    const byte *mask = args.mask ? args.mask + (args.k_begin ? args.k_begin[b] : b * args.S) : 0;
    const head_rows k = rows_of(&args.k, args.k_begin, b, h), v = rows_of(&args.v, args.k_begin, b, h);
    int64_t from, to;
    split_range(n, args.k_splits, BLOCK, SPLIT, &from, &to);

    float s[S1], uni[NUNI], row[2][NROW];
    load_scalars(params, 1, s, uni);
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 3, memory + AT_LINEAR);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    if (from < to) {
        stage_rows(&k, from, to, D, stage_k);
        stage_rows(&v, from, to, DV, stage_v);
        mark_tokens(from, to, mask, memory + AT_BIAS);
    }
    async_commit();
    block_sync();
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = warp_row + THREAD % 32 / 4 + 8 * i;
        float norms[NW];
        row_norms(&args, head, first + r, norms);
        phi_row(norms, uni, row[i]);
    }
    key_state state;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            state.max[l][i] = -INFINITY;
            state.z[l][i] = 0;
        }
        UNROLL
        for (int j = 0; j < NV8; j++)
            for (int i = 0; i < 4; i++)
                state.S[l][j][i] = 0;
    }
    token_tile tile;
    tile.x = memory + AT_X;
    tile.second = memory + AT_X2;
    tile.tok = memory + AT_TOK;
    tile.t = 0;
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        tile.bias = memory + AT_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage_k, 1, args.scale, memory + AT_VECTORS, memory + AT_LINEAR, uni, &tile);
        plain_tile(stage_v, DV, value, VB, LDV, tile.bias, memory + AT_V);
        block_sync();
        if (from + TB < to) {
            stage_rows(&k, from + TB, to, D, stage_k);
            stage_rows(&v, from + TB, to, DV, stage_v);
            mark_tokens(from + TB, to, mask, memory + AT_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG)
            take_group(&state, memory, tile.bias, warp_row, row, uni, token);
    }
    store_state(&state, first + warp_row, value,
                args.part + (BLOCK * args.B * args.H + head) * STATE);
}
