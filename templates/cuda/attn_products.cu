/* Sums over a head's tokens of products of two coordinates, from which linear maps are made: blocks
 * (splits, heads, sides * TILES) of 256 threads, the sides' tiles one behind the other, queries first. A
 * block has TILE by TILE of the D by D sums, on the diagonal or above it; a thread keeps 4 by 4 of them
 * for every LINES-th token of a stage, adds stage to stage, and the lines are added up in their order. */
#include "stub.cuh"

#include "params.cuh"

enum {
    WIDEST = 64,
    SIDE_TILES = (CD + WIDEST - 1) / WIDEST, /* tiles along a side of the matrix */
    TILES = SIDE_TILES * (SIDE_TILES + 1) / 2,
    TILE = CD < WIDEST ? (CD + 3) / 4 * 4 : WIDEST,
    FOURS = TILE / 4,
    LINES = MOMENT_THREADS / (FOURS * FOURS),
    STAGE = 64, /* tokens */
    STAGES = (SIDE_TILES > 1 ? 2 : 1) * STAGE * TILE,
    ALL_LINES = LINES * TILE * TILE,
    AT_END = STAGES > ALL_LINES ? STAGES : ALL_LINES /* sums of lines where the stages were */
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_products");

/* Coordinates column .. column + TILE - 1 of n tokens from t on; zeros of what is not there. */
DEVICE void load_stage(const params_cuda_args *a, const moment_tokens *tokens, int64_t t, int n, int column,
                       float *stage)
{
    for (int i = THREAD; i < n * (TILE / GROUP); i += THREADS) {
        const int64_t token = t + i / (TILE / GROUP);
        const int j = i % (TILE / GROUP) * GROUP;
        const int there =
            column + j < CD && (!tokens->mask || global_load_byte(tokens->mask + token));
        float value[GROUP];
        UNROLL
        for (int k = 0; k < GROUP; k++)
            value[k] = 0;
        if (there)
            load_group(a, tokens, token, column + j, value);
        UNROLL
        for (int k = 0; k < GROUP; k++)
            shared_store(stage + i * GROUP + k, value[k]);
    }
}

DEVICE void load_four(const float *p, float *x)
{
    const float4 four = shared_load4(p);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
}

/* sums += those of a stage of n tokens. */
DEVICE void add_stage(int n, int line, const float *left, const float *right, float (*sums)[4])
{
    float part[4][4], x[4], y[4];
    UNROLL
    for (int i = 0; i < 16; i++)
        part[i / 4][i % 4] = 0;
    for (int t = line; t < n; t += LINES) {
        load_four(left + t * TILE, x);
        load_four(right + t * TILE, y);
        UNROLL
        for (int i = 0; i < 16; i++)
            part[i / 4][i % 4] = multiply_add(x[i / 4], y[i % 4], part[i / 4][i % 4]);
    }
    UNROLL
    for (int i = 0; i < 16; i++)
        sums[i / 4][i % 4] += part[i / 4][i % 4];
}

KERNEL(attn_products, params_cuda_args, MOMENT_THREADS, 2)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int side = (int)BLOCK_Z / TILES, line = THREAD / (FOURS * FOURS);
    const int i4 = THREAD % FOURS * 4, j4 = THREAD / FOURS % FOURS * 4;
    int row = 0, column = (int)BLOCK_Z % TILES; /* of tiles */
    while (column >= SIDE_TILES - row)
        column -= SIDE_TILES - row++;
    column += row;
    const float *right = row == column ? memory : memory + STAGE * TILE;
    const int64_t head = BLOCK_Y;
    const moment_tokens tokens = split_tokens(&args, side, head, BLOCK, args.product_splits);
    float sums[4][4];
    UNROLL
    for (int i = 0; i < 16; i++)
        sums[i / 4][i % 4] = 0;
    for (int64_t t = tokens.from; t < tokens.to; t += STAGE) {
        const int n = t + STAGE < tokens.to ? STAGE : (int)(tokens.to - t);
        block_sync();
        load_stage(&args, &tokens, t, n, row * TILE, memory);
        if (row != column)
            load_stage(&args, &tokens, t, n, column * TILE, memory + STAGE * TILE);
        block_sync();
        if (line < LINES)
            add_stage(n, line, memory + i4, right + j4, sums);
    }
    block_sync();
    UNROLL
    for (int i = 0; i < 16 && line < LINES; i++)
        shared_store(memory + (line * TILE + i4 + i / 4) * TILE + j4 + i % 4, sums[i / 4][i % 4]);
    block_sync();
    float *to = args.products + ((BLOCK * 2 + side) * args.B * args.H + head) * (CD * CD);
    for (int e = THREAD; e < TILE * TILE; e += THREADS) {
        const int i = row * TILE + e / TILE, j = column * TILE + e % TILE;
        float sum = 0;
        if (i >= CD || j >= CD)
            continue;
        for (int l = 0; l < LINES; l++)
            sum += shared_load(memory + l * TILE * TILE + e);
        global_store(to + i * CD + j, sum);
        if (row != column)
            global_store(to + j * CD + i, sum);
    }
}
