/* What generated kernels and the runtime agree on.
 *
 * A kernel works on one head and a range of its tokens; threads, splits of the
 * sequence, masks' origin and workspace belong to the caller (attention.c).
 * All arrays are `real`: float in the library, double in the verification
 * build (-DREAL=double), which compiles the very same text.
 *
 * Padded sizes: MP, DP, DVP are M, D, DV rounded up to 16, whatever the
 * instruction set, so that a state made by one build can be read by another.
 * Scratch, packed matrices, states and parameter vectors are 64-byte aligned.
 */
#ifndef SPECTRA_KERNEL_KERNEL_H
#define SPECTRA_KERNEL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef REAL
#define REAL float
#endif
typedef REAL real;

enum { PAD = 16, MAX_LANES = 16, MAX_SCALARS = 8, MAX_VECTORS = 4 };

static inline int64_t pad16(int64_t n)
{
    return (n + PAD - 1) / PAD * PAD;
}

/* Instruction sets a kernel is built for; the runtime picks the highest present. */
typedef enum { ISA_PORTABLE, ISA_AVX2, ISA_AVX512, ISA_COUNT } isa;

/* W as a chain of cheap steps by blocks of n rows, n = 2^k >= D a divisor of M: W = scale o (C_1
 * C_2 ... C_steps), the first D columns; a projection applies them from the last to the first. */
enum { CHAIN_STEPS = 8, CHAIN_MAX = 256 };
enum { CHAIN_HADAMARD, CHAIN_DIAGONAL, CHAIN_PERMUTATION };
typedef struct attn_chain {
    int64_t n;
    int steps, kind[CHAIN_STEPS];
    const real *diagonal[CHAIN_STEPS];       /* (M) */
    const int32_t *permutation[CHAIN_STEPS]; /* (M) within the block: y[p[i]] = x[i] */
    const real *scale;                       /* (M) */
} attn_chain;

/* The projection of one layer, packed once per draw; shared by its heads. */
typedef struct attn_plan {
    int64_t D, DV, M;    /* head size <= 256, value size <= 256, rows of W <= 1024 */
    int64_t MP, DP, DVP; /* the same, padded */
    real scale;          /* every element of q and k is multiplied by it on loading: D^-1/4 */
    const real *wt;      /* (D, MP)  W transposed; columns M..MP-1 are 0 */
    const real *w;       /* (MP, DP) W; padding is 0 */
    const real *w2;      /* (MP)     |w_r|^2; padding is 0 */
    /* of features with a second projection (feature_info.projections = 2): its matrix, as wt and w
     */
    const real *wt_second, *w_second;
    const real *count_sums;  /* (2, MP) sums of w_rd and of log w_rd! where W holds counts */
    const attn_chain *chain; /* used instead of wt and w to project; NULL: products */
    bool learn;              /* backward also makes the gradient of W, in dparams */
    /* (MP) of causal kernels, which multiply a query's features by it; NULL: ones. Of the others it
     * is the caller who multiplies the state. */
    const real *row_weight;
} attn_plan;

/* Parameters of a feature for one head. The last scalar is always `gaussian`:
 * 0 for the softmax kernel exp(x.y), 1 for exp(-|x-y|^2/2). */
typedef struct attn_params {
    const real *s; /* (scalars)      in the order of feature_info.scalar_names */
    const real *v; /* (vectors, DP)  in the order of feature_info.vector_names */
    /* (4, DP, DP)  of features with a linear map: R of the queries transposed, R, and the same of
     * the keys; mapped x = R x. Padding is 0. NULL where the feature has none. */
    const real *linear;
} attn_params;

/* State of one head, F = lanes*MP rows, lane-major:
 *     max (F) | z (F) | S (F, DVP)
 * z = sum of sign*exp(log - max) over keys, S the same times v.
 * An empty state is max = -INFINITY, z = S = 0. Gradient of a state: dz (F) | dS (F, DVP). */
static inline int64_t attn_state_reals(const attn_plan *p, int lanes)
{
    return lanes * p->MP * (2 + p->DVP);
}
static inline int64_t attn_dstate_reals(const attn_plan *p, int lanes)
{
    return lanes * p->MP * (1 + p->DVP);
}

/* Forward. n tokens; ld* are strides between tokens in elements (>= row length);
 * rows need no alignment. mask (n) bytes, 0 = skip the key; NULL: all valid. */
typedef struct attn_fwd_ops {
    int64_t (*scratch)(const attn_plan *p); /* reals of scratch any function here needs */
    /* state <- state + keys (running maximum per feature row, exact) */
    void (*keys)(const attn_plan *p, const attn_params *a, int64_t n, const real *k, int64_t ldk,
                 const real *v, int64_t ldv, const uint8_t *mask, real *state, real *scratch);
    /* dst <- dst + src */
    void (*merge)(const attn_plan *p, real *dst, const real *src);
    /* o (n, DV), den (n): the normaliser after subtraction of the query's own maximum.
     * A state without keys gives o = 0 and den = 0. */
    void (*queries)(const attn_plan *p, const attn_params *a, int64_t n, const real *q, int64_t ldq,
                    const real *state, real *o, int64_t ldo, real *den, real *scratch);
    /* log and sign of the features of n tokens as they stand (no maximum subtracted);
     * side 0 = query, 1 = key; out (n, lanes, M) dense. */
    void (*features)(const attn_plan *p, const attn_params *a, int side, int64_t n, const real *x,
                     int64_t ldx, real *log, real *sign, real *scratch);
} attn_fwd_ops;

/* Backward: features are recomputed. Gradients are written (not accumulated), dstate and dparams
 * are accumulated. dparams: (scalars), (vectors, DP) and, if plan.learn, W (MP, DP); NULL when
 * parameters are constants. */
typedef struct attn_bwd_ops {
    int64_t (*scratch)(const attn_plan *p);
    void (*queries)(const attn_plan *p, const attn_params *a, int64_t n, const real *q, int64_t ldq,
                    const real *state, const real *o, int64_t ldo, const real *den, const real *go,
                    int64_t ldgo, real *gq, int64_t ldgq, real *dstate, real *dparams,
                    real *scratch);
    void (*keys)(const attn_plan *p, const attn_params *a, int64_t n, const real *k, int64_t ldk,
                 const real *v, int64_t ldv, const uint8_t *mask, const real *state,
                 const real *dstate, real *gk, int64_t ldgk, real *gv, int64_t ldgv, real *dparams,
                 real *scratch);
} attn_bwd_ops;

/* Causal: query i sees the keys j <= i of the same n tokens and those of the state before them.
 * q, k, v, o, den as above; refs (ceil(n / block), F) and cut (n) are written by forward and read
 * by backward: the references (state.max) at each block's start, and 1 at tokens that raised them.
 */
typedef struct attn_causal_args {
    int64_t n, ldq, ldk, ldv, ldo, ldgo, ldgq, ldgk, ldgv;
    const real *q, *k, *v;
    const uint8_t *mask;
    real *o, *den, *refs;
    uint8_t *cut;
    const real *go; /* from here on of backward only */
    real *gq, *gk, *gv;
} attn_causal_args;

/* A state is as above, but its max may be up to 30 below the true maximum, and it never holds
 * plan.row_weight. dparams as above, with plan.learn followed by the gradient of row_weight (MP).
 * queries_bwd: `state` is that before the tokens; dstate (accumulated; NULL: not wanted) is the
 * gradient of it. keys_bwd: dstate is the gradient, by all later queries, of a state behind the
 * tokens with the maxima `after` (F); NULL: there are none. step: one token, key first. */
typedef struct attn_causal_ops {
    int64_t (*block)(const attn_plan *p); /* tokens */
    int64_t (*scratch)(const attn_plan *p);
    void (*forward)(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                    real *state, real *scratch);
    void (*queries_bwd)(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                        const real *state, real *dstate, real *dparams, real *scratch);
    void (*keys_bwd)(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                     const real *after, const real *dstate, real *dparams, real *scratch);
    int64_t (*step_scratch)(const attn_plan *p);
    void (*step)(const attn_plan *p, const attn_params *a, const real *q, const real *k,
                 const real *v, real *o, real *state, real *scratch);
} attn_causal_ops;

/* The reference system's normalisation (its behaviour "official"): maximum per token on both
 * sides, epsilon after the exponential, scalars that differ from token to token.
 * s (n, scalars) holds the scalars of each token; ds the same shape, accumulated.
 * State: z (F) | S (F, DVP); no maximum. mask is not needed: the caller zeroes rows. */
typedef struct attn_official_ops {
    int64_t (*scratch)(const attn_plan *p);
    void (*keys)(const attn_plan *p, const real *vec, int64_t n, const real *s, const real *k,
                 int64_t ldk, const real *v, int64_t ldv, real eps, real *state, real *scratch);
    void (*queries)(const attn_plan *p, const real *vec, int64_t n, const real *s, const real *q,
                    int64_t ldq, real eps, const real *state, real *o, int64_t ldo, real *den,
                    real *scratch);
    void (*queries_bwd)(const attn_plan *p, const real *vec, int64_t n, const real *s,
                        const real *q, int64_t ldq, real eps, const real *state, const real *o,
                        int64_t ldo, const real *den, const real *go, int64_t ldgo, real *gq,
                        int64_t ldgq, real *dstate, real *ds, real *dvec, real *scratch);
    void (*keys_bwd)(const attn_plan *p, const real *vec, int64_t n, const real *s, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, real eps, const real *dstate,
                     real *gk, int64_t ldgk, real *gv, int64_t ldgv, real *ds, real *dvec,
                     real *scratch);
} attn_official_ops;

/* Moments of one head over unmasked tokens, rows of (MOMENTS, DP) in this order, x = scale*q and
 * y = scale*k: means of x, y, of their squares, of their magnitudes; the smallest and the largest
 * number of both. Derivatives are taken through the first MOMENTS_SMOOTH. */
enum { M1X, M1Y, M2X, M2Y, A1X, A1Y, LOW, HIGH, MOMENTS, MOMENTS_SMOOTH = 4 };

/* A linear map of x and y with R_q' R_k = I, made from their second moments, before anything else:
 * eigen_sum       the eigenvectors of mean (x + y)(x + y)'
 * geometric_mean  R_q M_x R_q' = R_k M_y R_k', diagonal (Likhosherstov et al. 2023)
 * Moments are then those of the mapped x and y. */
typedef enum { LINEAR_NONE, LINEAR_EIGEN_SUM, LINEAR_GEOMETRIC_MEAN } linear_map;

/* W holds independent counts of this law instead of normal numbers, made from uniform ones. */
typedef enum { COUNTS_NONE, COUNTS_POISSON, COUNTS_GEOMETRIC } count_law;

/* A scalar that can be trained, as a function of a free number theta. */
typedef struct learned_scalar {
    int slot;
    real start; /* theta at first */
    real (*value)(real theta);
    real (*derivative)(real theta);
} learned_scalar;

/* A component function. adapt turns moments into parameters: it reads the scalars given, writes
 * scalars and vectors it computes and leaves the others as they are. */
typedef struct feature_info {
    const char *name, *doc, *source;
    int lanes, scalars, vectors;
    int exponentials; /* of a row of W and a token, sines and cosines among them */
    bool is_signed;
    const char *const *scalar_names; /* last one: "gaussian" */
    const char *const *vector_names;
    const real *scalar_default; /* value where nothing is given and adapt does not compute it */
    int projections;            /* 1 or 2 */
    bool second_own;            /* the second has a matrix of its own */
    bool has_official;          /* there are kernels for the reference's behaviour */
    bool is_antithetic, may_antithetic;
    linear_map linear;
    count_law counts;
    int counts_scalar; /* which scalar is the law's parameter */
    unsigned moments;  /* those adapt reads, bit i for the i-th */
    int learned;       /* trainable scalars */
    const learned_scalar *learn;
    void (*adapt)(int64_t d, int64_t dp, const real *m, real *s, real *v); /* NULL: nothing to do */
    /* adds the smooth moments' gradients to dm (MOMENTS_SMOOTH, dp), from ds and dv */
    void (*adapt_grad)(int64_t d, int64_t dp, const real *m, const real *s, const real *ds,
                       const real *dv, real *dm);
    /* A constant of each side's log that cancels in attention, so kernels leave it out; with it the
     * features estimate the kernel itself. NULL: 0. */
    real (*constant)(int64_t d, const real *s);
    const char *hash; /* of the spec's text, 16 hexadecimal digits (FNV-1a) */
} feature_info;

/* A weight matrix: its sampling recipe, primitives of matrix/primitives.h in order of execution. */
typedef struct recipe_op {
    const char *op;
    double arg[2];
} recipe_op;

typedef struct matrix_info {
    const char *name, *doc, *source;
    /* "exact": every row is N(0, I); "weighted": unbiased with row weights; "fixed-norm": rows of
     * one length, biased; "approximate"; "learned" */
    const char *law;
    int ops;
    const recipe_op *recipe;
    const char *hash;    /* of the spec's text */
    const char *learner; /* what makes W of the recipe's sample and of parameters; NULL: nothing */
} matrix_info;

/* Kernels of a row that are there together: fwd and bwd, causal, official, bf16
 * (gen/c_kernels.lua). */
typedef enum attn_group {
    ATTN_ATTENTION = 1,
    ATTN_CAUSAL = 2,
    ATTN_OFFICIAL = 4,
    ATTN_BF16 = 8
} attn_group;

/* A row of the kernel table. What is not there is NULL. D = DV = M = 0: any size. matrix NULL: any
 * matrix. */
typedef struct attn_row {
    const char *feat, *matrix;
    int64_t D, DV, M;
    isa isa;
    const attn_fwd_ops *fwd;
    const attn_bwd_ops *bwd;
    const attn_causal_ops *causal;
    const attn_official_ops *official;
    /* fwd with dot products of bf16, sums of which are float: on CPUs with AVX512_BF16 those of
     * ISA_AVX512; those of ISA_PORTABLE are a slow model of them. */
    const attn_fwd_ops *bf16;
    const char *hash; /* of the generated texts */
} attn_row;

/* Row operators (specs/row): `rows` independent rows of n elements.
 * Inputs and outputs in the order the spec declares them. ld 0 = one row shared by all rows.
 * A "one" is a single number per row (ld 1). Backward gets the forward's inputs, the gradients
 * of its outputs (gout), and writes gradients of inputs (gin; NULL = not wanted). Gradients of
 * shared inputs are accumulated; of the others they are written, or accumulated where bit k of
 * `add` is set. Backward also writes the outputs that are not NULL. An output may be the same array
 * as an input of the same shape. */
enum { ROW_MAX = 8 };
typedef struct row_args {
    int64_t rows, n;
    const real *in[ROW_MAX];
    int64_t ld_in[ROW_MAX];
    real *out[ROW_MAX];
    int64_t ld_out[ROW_MAX];
    const real *gout[ROW_MAX];
    int64_t ld_gout[ROW_MAX];
    real *gin[ROW_MAX];
    int64_t ld_gin[ROW_MAX];
    real c[ROW_MAX]; /* constants of the spec, in its order */
    unsigned add;
} row_args;

typedef struct row_op {
    const char *name;
    isa isa;
    void (*fwd)(const row_args *);
    void (*bwd)(const row_args *); /* NULL: has no backward (adamw) */
} row_op;

/* Products of small matrices, and the loops over scores of exact attention. Columns of B and C, and
 * the rows of a C that is added to, are multiples of PAD; other sizes are any.
 * mul:  y (rows, out) = x (rows, in) B (in, out) + bias (out), which may be NULL; dense
 * rank: C (out, in) += A' B, A (rows, out), B (rows, in); dense
 * tile: C (rows, cols) = A (rows, K) B (K, cols)
 * sum:  C (rows, cols) += A' B, A (n, rows), B (n, cols)
 * Of one query and n keys, behind which x, s and dp have room up to a multiple of PAD:
 * top:  the largest of x (n)
 * exp:  x = exp(x - top), 0 behind them; returns the sum
 * grad: from scores s and gradients dp of the probabilities after dropout (factors keep or NULL): s
 *       = those probabilities, dp = gradients of s, 0 behind both. dot: <o, its gradient>; lse: log
 *       of the sum of exponentials */
typedef struct product_ops {
    void (*mul)(int64_t rows, int64_t in, int64_t out, const real *x, const real *b,
                const real *bias, real *y);
    void (*rank)(int64_t rows, int64_t in, int64_t out, const real *a, const real *b, real *c);
    void (*tile)(int64_t rows, int64_t cols, int64_t K, const real *a, int64_t lda, const real *b,
                 int64_t ldb, real *c, int64_t ldc);
    void (*sum)(int64_t n, int64_t rows, int64_t cols, const real *a, int64_t lda, const real *b,
                int64_t ldb, real *c, int64_t ldc);
    real (*top)(int64_t n, const real *x);
    real (*exp)(int64_t n, real *x, real top);
    void (*grad)(int64_t n, real *s, real *dp, const real *keep, real lse, real dot);
} product_ops;

/* Those of an instruction set. */
typedef struct product_row {
    isa isa;
    const product_ops *ops;
} product_row;

/* Tables written by the generator into build/registry.c; each ends with a zero row. */
extern const feature_info generated_features[];
extern const matrix_info generated_matrices[];
extern const attn_row generated_attn[];
extern const row_op generated_rows[];
extern const product_row generated_products[];

#endif
