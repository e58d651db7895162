/* Inside of spectra_attention: what the kinds of attention share, and the entry points that the
 * command line and the tests use beyond the public API.
 *
 * A kind is a row of functions (attention.c's table). Drivers own threads, splits of the sequence
 * and workspace layout; kernels own the arithmetic.
 */
#ifndef SPECTRA_ATTENTION_ATTENTION_H
#define SPECTRA_ATTENTION_ATTENTION_H

#include "kernel/kernel.h"
#include "spectraformer.h"

/* A parameter given from outside instead of drawn or computed. */
typedef struct attention_input {
    float *data; /* owned; NULL: not given */
    int ndim;
    int64_t shape[4];
} attention_input;

typedef struct attention_kind attention_kind;

struct spectra_attention {
    const attention_kind *kind;
    spectra_attention_desc desc; /* strings point into the generated tables */
    /* performer only */
    const feature_info *feature;
    const matrix_info *matrix;
    const attn_row *kernels;
    const attn_fwd_ops *forward; /* theirs, or of desc.bf16 */
    attn_plan plan;
    float *w;          /* (M, D) as sampled or given */
    float *second;     /* (M, D) matrix of a second projection that has its own, else NULL */
    float *row_weight; /* (M) */
    bool weighted;     /* they are not all 1 */
    double *uniform;   /* (M, D) from which count matrices are made, else NULL */
    bool counts_given; /* W holds the counts themselves */
    float *packed;     /* what the plan points to */
    attn_chain chain;  /* of W, where plan.chain points to it */
    float *chain_memory;
    struct attention_training *training; /* parameters that are trained, NULL: none */
    attention_input scalar[MAX_SCALARS], vector[MAX_VECTORS], a_pos;
};

typedef struct attention_views {
    spectra_rows q, k, v, o, go, gq, gk, gv;
} attention_views;

struct attention_kind {
    const char *name;
    spectra_status (*init)(spectra_attention *att); /* desc is filled in and checked */
    void (*release)(spectra_attention *att);
    spectra_status (*set)(spectra_attention *att, const char *name, const float *data, int ndim,
                          const int64_t *shape);
    int64_t (*saved_bytes)(const spectra_attention *att, const spectra_problem *p);
    int64_t (*work_bytes)(const spectra_attention *att, const spectra_problem *p);
    spectra_status (*forward)(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, void *saved, void *work);
    spectra_status (*backward)(const spectra_attention *att, const spectra_problem *p,
                               const attention_views *x, void *saved, void *work);
};

extern const attention_kind attention_performer;

/* Names of the attentions of this build, NULL-terminated. */
extern const char *const attention_names[];

/* Element offset of row t of (sequence b, head h); number of rows of sequence b. */
static inline int64_t rows_at(const spectra_rows *r, const int64_t *begin, int64_t b, int64_t h)
{
    return (begin ? begin[b] * r->stride_t : b * r->stride_b) + h * r->stride_h;
}
static inline int64_t rows_length(const int64_t *len, int64_t b, int64_t padded)
{
    return len ? len[b] : padded;
}
/* Row number of the first token of sequence b in arrays of one entry a token (masks, den). */
static inline int64_t rows_first(const int64_t *begin, int64_t b, int64_t padded)
{
    return begin ? begin[b] : b * padded;
}
/* Rows such arrays have. */
int64_t rows_total(const int64_t *begin, const int64_t *len, int64_t B, int64_t padded);

/* Parameters of B * H heads for x (B, H, T, D), y (B, H, S, D) taken as they are (no D^-1/4); masks
 * (B, T), (B, S) or NULL. blocks (B, H, performer_block_floats). Performer only (SPECTRA_EINVAL),
 * allocates scratch (SPECTRA_ENOMEM). */
spectra_status attention_adapt(const spectra_attention *att, int64_t B, int64_t H, int64_t T,
                               int64_t S, const float *x, const float *y, const uint8_t *x_mask,
                               const uint8_t *y_mask, float *blocks);
/* Logs and signs of the features of x (B, H, n, D), taken as it is, with the blocks that
 * attention_adapt filled; log, sign (B, H, n, lanes, M). side 0 = query, 1 = key. */
spectra_status attention_features(const spectra_attention *att, int side, int64_t B, int64_t H,
                                  int64_t n, const float *x, const float *blocks, float *log,
                                  float *sign);
/* Whether a feature may go with a matrix; `why` gets the reason where not (may be NULL). */
bool attention_legal(const feature_info *f, const matrix_info *m, const char **why);

/* ---- attention_params.c: pieces of both performer drivers --------------------------------------
 */

enum { PERFORMER_ALIGN = 64 }; /* bytes */

/* n floats rounded up to a whole number of cache lines. */
static inline int64_t performer_align(int64_t n)
{
    int64_t unit = PERFORMER_ALIGN / (int64_t)sizeof(float);
    return (n + unit - 1) / unit * unit;
}

/* Tokens of one side of a head: n rows, ld apart, to be multiplied by scale; mask (n) or NULL. */
typedef struct performer_tokens {
    const float *x;
    int64_t n, ld;
    float scale;
    const uint8_t *mask;
} performer_tokens;

/* Whether W of this size is projected by its chain, where it has one, rather than by products. */
bool performer_chain_wins(int64_t M, int64_t D);
/* att->w into att->packed and the plan. */
void performer_pack(spectra_attention *att);
int64_t performer_packed_floats(const spectra_attention *att);
/* After att->w or att->second were overwritten; counts_given: att->w holds counts. */
void performer_replaced(spectra_attention *att, bool counts_given);
spectra_status performer_set(spectra_attention *att, const char *name, const float *data, int ndim,
                             const int64_t *shape);
/* Means over unmasked rows of scale*x (n, D) and of its square; m1, m2 (D). */
void performer_moments(int64_t n, int64_t D, const float *x, int64_t ld, float scale,
                       const uint8_t *mask, float *m1, float *m2);
/* g += the gradient that d1, d2 (D), gradients of the means above, have with respect to x. */
void performer_moments_grad(int64_t n, int64_t D, const float *x, int64_t ldx, float scale,
                            const uint8_t *mask, const float *d1, const float *d2, float *g,
                            int64_t ldg);
/* Scalars and vectors of one head from defaults and given inputs. */
void performer_given(const spectra_attention *att, int64_t b, int64_t h, float *s, float *v);

/* Parts a sequence of `tokens` is done in so that `heads` of them keep many threads busy; derived
 * from the shape alone, so that results do not depend on the number of threads. */
int64_t performer_split_count(int64_t heads, int64_t tokens);
void performer_split_range(int64_t tokens, int64_t splits, int64_t i, int64_t *from,
                           int64_t *count);
void performer_clear_state(const spectra_attention *att, float *state);

/* ---- attention_heads.c: what a head needs before its kernels ----------------------------------
 */

/* The same, with what adapt computes from the moments m (MOMENTS, DP) where nothing was given. */
void performer_adapt(const spectra_attention *att, int64_t b, int64_t h, const float *m, float *s,
                     float *v);
/* Floats of a head's block: its scalars, vectors, linear maps, count matrix. 64-byte aligned. */
int64_t performer_block_floats(const spectra_attention *att);
/* Floats of scratch that performer_prepare needs. */
int64_t performer_head_scratch(const spectra_attention *att);
/* Fills the block of head (b, h) from its tokens x (queries) and y (keys); m (MOMENTS, DP) gets the
 * moments the parameters were computed from. */
void performer_prepare(const spectra_attention *att, int64_t b, int64_t h,
                       const performer_tokens *x, const performer_tokens *y, float *m, float *block,
                       float *scratch);
/* The same where nothing comes from the tokens: all that would is given (causal_check). */
void performer_prepare_given(const spectra_attention *att, int64_t b, int64_t h, float *block);
/* The plan and the parameters of a prepared head; scalars are at the start of the block. */
void performer_view(const spectra_attention *att, const float *block, attn_plan *plan,
                    attn_params *params);
float *performer_vectors(const spectra_attention *att, float *block);
/* Row r of a matrix to its places: wt (D, MP), w (MP, DP), w2 (MP), sums (2, MP) or NULL. */
void performer_pack_row(int64_t D, int64_t MP, int64_t DP, int64_t r, const float *row, float *wt,
                        float *w, float *w2, float *sums);

/* ---- attention_training.c: parameters that are trained -----------------------------------------
 */

/* Prepares what desc.learn and a learned matrix ask for; att->w and att->row_weight get their first
 * values. SPECTRA_EUNSUPPORTED where the feature has nothing to train. */
spectra_status training_init(spectra_attention *att);
void training_release(spectra_attention *att);
/* Draws the fixed sample for a seed. */
spectra_status training_redraw(spectra_attention *att, uint64_t seed);
/* gtheta += gradients from those of the values last set, summed over the batch: scalars (H, the
 * feature's scalars), W (M, D) summed over heads too, row weights (M) likewise. Of a device's sums.
 */
void training_gradient(const spectra_attention *att, const float *scalars, const float *w,
                       const float *weights, float *gtheta);
/* What together with the trained parameters makes the matrices: to be saved, and restored in place.
 */
typedef struct attention_constant {
    const char *name;
    int ndim;
    int64_t shape[2];
    float *data;
} attention_constant;
enum { ATTENTION_CONSTANTS = 4 };
int attention_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS]);
/* After constants were overwritten. */
void attention_constants_changed(spectra_attention *att);
/* Of the performer's backward: the sums over (batch) of the parameters' gradients of every head,
 * (heads, stride), laid out as attn_bwd_ops writes them, and those of the row weights (heads, M).
 */
void performer_gradients(const spectra_attention *att, const spectra_problem *p, const void *work,
                         const float **params, int64_t *stride, const float **weights);

/* ---- attention_official.c: the reference system's behaviour ------------------------------------
 */

/* Packed sequences, T != S and an A_pos of another length are refused. */
spectra_status official_check(const spectra_attention *att, const spectra_problem *p);
/* Is A of every position made from the batch's moments there? */
bool official_by_position(const spectra_attention *att);
/* Scalars of position t of head h: given, drawn or, by position, made of the moments m (4, DP). */
void official_scalars(const spectra_attention *att, int64_t h, int64_t t, const float *m, float *s);
/* What is added to every feature. */
float official_epsilon(const spectra_attention *att);
int64_t official_saved_bytes(const spectra_attention *att, const spectra_problem *p);
int64_t official_work_bytes(const spectra_attention *att, const spectra_problem *p);
spectra_status official_forward(const spectra_attention *att, const spectra_problem *p,
                                const attention_views *x, void *saved, void *work);
spectra_status official_backward(const spectra_attention *att, const spectra_problem *p,
                                 const attention_views *x, void *saved, void *work);

/* ---- attention_causal.c: every query sees the keys up to its own token -------------------------
 */

/* Refuses parameters that would be computed from all tokens and are not given. */
spectra_status causal_check(const spectra_attention *att);
int64_t causal_saved_bytes(const spectra_attention *att, const spectra_problem *p);
int64_t causal_work_bytes(const spectra_attention *att, const spectra_problem *p);
spectra_status causal_forward(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, void *saved, void *work);
spectra_status causal_backward(const spectra_attention *att, const spectra_problem *p,
                               const attention_views *x, void *saved, void *work);
/* As performer_gradients. */
void causal_gradients(const spectra_attention *att, const spectra_problem *p, const void *work,
                      const float **params, int64_t *stride, const float **weights);

#endif
