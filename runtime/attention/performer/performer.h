/* Random-feature attention (Performer): a component function, a weight matrix, and the kernels of
 * the two. What is shared by its passes on the CPU and on devices, and by the reference system's
 * behaviour (official/), which is an attention of its own made of the same parts.
 */
#ifndef SPECTRA_ATTENTION_PERFORMER_PERFORMER_H
#define SPECTRA_ATTENTION_PERFORMER_PERFORMER_H

#include "attention/attention.h"
#include "kernel/kernel.h"

/* A parameter given from outside instead of drawn or computed. */
typedef struct attention_input {
    float *data; /* owned; NULL: not given */
    int ndim;
    int64_t shape[4];
} attention_input;

/* Its settings. The public description has the same as typed fields; what desc.options says of one
 * takes the place of the field. */
typedef struct performer_options {
    char feat[SETTING_TEXT], kernel[SETTING_TEXT];
    int64_t m;
    char target[SETTING_TEXT];
    bool antithetic, grad_through, train_scalars;
} performer_options;
enum { PERFORMER_SETTINGS = 7 };
extern const setting performer_settings[PERFORMER_SETTINGS];

typedef struct performer {
    spectra_attention_desc desc; /* with the settings; texts are those of generated tables */
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
    struct performer_training *training; /* parameters that are trained, NULL: none */
    attention_input scalar[MAX_SCALARS], vector[MAX_VECTORS];
} performer;

/* Of an attention whose kind has ATTENTION_FEATURES. */
static inline performer *performer_of(const spectra_attention *att)
{
    return att->own;
}

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

/* ---- make.c: what both behaviours are made of -------------------------------------------------
 */

void performer_from_desc(const spectra_attention_desc *desc, void *options);
/* A zeroed `pf` becomes att's: settings, feature and matrix are found, and may go together. */
spectra_status performer_choose(spectra_attention *att, performer *pf,
                                const performer_options *options);
/* Then kernels of these groups (ATTN_ATTENTION ...), memory, the first draw. */
spectra_status performer_make(spectra_attention *att, int groups);
void performer_release(spectra_attention *att);
const float *performer_matrix(const spectra_attention *att);
spectra_status performer_redraw(spectra_attention *att, uint64_t seed);
void performer_prefer_groups(const spectra_attention_desc *desc, const performer_options *options,
                             int groups);
spectra_status performer_built_from(const spectra_attention_desc *desc, const void *options,
                                    json_t *build);

/* ---- inputs.c: the packed matrices and what is given ------------------------------------------
 */

/* Whether W of this size is projected by its chain, where it has one, rather than by products. */
bool performer_chain_wins(int64_t M, int64_t D);
/* Row r of a matrix to its places: wt (D, MP), w (MP, DP), w2 (MP), sums (2, MP) or NULL. */
void performer_pack_row(int64_t D, int64_t MP, int64_t DP, int64_t r, const float *row, float *wt,
                        float *w, float *w2, float *sums);
/* pf->w into pf->packed and the plan. */
void performer_pack(performer *pf);
int64_t performer_packed_floats(const performer *pf);
/* After pf->w or pf->second were overwritten; counts_given: pf->w holds counts. */
void performer_replaced(performer *pf, bool counts_given);
spectra_status performer_set(spectra_attention *att, const char *name, const float *data, int ndim,
                             const int64_t *shape);
/* A copy of the data into *in. SPECTRA_ENOMEM. */
spectra_status performer_keep_input(attention_input *in, const char *name, const float *data,
                                    int ndim, const int64_t *shape);
/* Scalars and vectors of one head from defaults and given inputs; v may be NULL. */
void performer_given(const performer *pf, int64_t b, int64_t h, float *s, float *v);

/* ---- state.c ----------------------------------------------------------------------------------
 */

/* Parts a sequence of `tokens` is done in so that `heads` of them keep many threads busy; derived
 * from the shape alone, so that results do not depend on the number of threads. */
int64_t performer_split_count(int64_t heads, int64_t tokens);
void performer_split_range(int64_t tokens, int64_t splits, int64_t i, int64_t *from,
                           int64_t *count);
/* A state that has read nothing. */
void performer_clear_state(const performer *pf, float *state);

/* ---- moments.c: what a head needs before its kernels ------------------------------------------
 */

/* Means over unmasked rows of scale*x (n, D) and of its square; m1, m2 (D). */
void performer_moments(int64_t n, int64_t D, const float *x, int64_t ld, float scale,
                       const uint8_t *mask, float *m1, float *m2);
/* g += the gradient that d1, d2 (D), gradients of the means above, have with respect to x. */
void performer_moments_grad(int64_t n, int64_t D, const float *x, int64_t ldx, float scale,
                            const uint8_t *mask, const float *d1, const float *d2, float *g,
                            int64_t ldg);
/* Scalars and vectors of one head: given, else what adapt computes from the moments m (MOMENTS,
 * DP), else defaults. */
void performer_adapt(const performer *pf, int64_t b, int64_t h, const float *m, float *s, float *v);
/* Floats of a head's block: its scalars, vectors, linear maps, count matrix. 64-byte aligned. */
int64_t performer_block_floats(const performer *pf);
/* Floats of scratch that performer_prepare needs. */
int64_t performer_head_scratch(const performer *pf);
/* Fills the block of head (b, h) from its tokens x (queries) and y (keys); m (MOMENTS, DP) gets the
 * moments the parameters were computed from. */
void performer_prepare(const performer *pf, int64_t b, int64_t h, const performer_tokens *x,
                       const performer_tokens *y, float *m, float *block, float *scratch);
/* The same where nothing comes from the tokens: all that would is given (causal_check). */
void performer_prepare_given(const performer *pf, int64_t b, int64_t h, float *block);
/* The plan and the parameters of a prepared head; scalars are at the start of the block. */
void performer_view(const performer *pf, const float *block, attn_plan *plan, attn_params *params);
float *performer_vectors(const performer *pf, float *block);

/* ---- features.c: the features by themselves ---------------------------------------------------
 */

/* Whether a feature may go with a matrix; `why` gets the reason where not (may be NULL). */
bool performer_legal(const feature_info *f, const matrix_info *m, const char **why);
/* Parameters of B * H heads for x (B, H, T, D), y (B, H, S, D) taken as they are (no D^-1/4); masks
 * (B, T), (B, S) or NULL. blocks (B, H, performer_block_floats). Allocates scratch
 * (SPECTRA_ENOMEM). */
spectra_status performer_prepare_heads(const performer *pf, int64_t B, int64_t H, int64_t T,
                                       int64_t S, const float *x, const float *y,
                                       const uint8_t *x_mask, const uint8_t *y_mask, float *blocks);
/* Logs and signs of the features of x (B, H, n, D), taken as it is, with the blocks that
 * performer_prepare_heads filled; log, sign (B, H, n, lanes, M). side 0 = query, 1 = key. */
spectra_status performer_features(const performer *pf, int side, int64_t B, int64_t H, int64_t n,
                                  const float *x, const float *blocks, float *log, float *sign);

/* ---- host.c, causal.c: the passes -------------------------------------------------------------
 */

/* Of the last backward: the sums over (batch) of the parameters' gradients of every head, (heads,
 * stride), laid out as attn_bwd_ops writes them, and those of the row weights (heads, M). */
void performer_gradients(const performer *pf, const spectra_problem *p, const void *work,
                         const float **params, int64_t *stride, const float **weights);
/* Where the blocks of the heads are in `saved`. */
const float *performer_blocks(const performer *pf, const spectra_problem *p, const void *saved);
int64_t performer_saved_bytes(const spectra_attention *att, const spectra_problem *p);
int64_t performer_work_bytes(const spectra_attention *att, const spectra_problem *p);
spectra_status performer_forward(const spectra_attention *att, const spectra_problem *p,
                                 const attention_views *x, void *saved, void *work);
spectra_status performer_backward(const spectra_attention *att, const spectra_problem *p,
                                  const attention_views *x, void *saved, void *work);

/* Refuses parameters that would be computed from all tokens and are not given. */
spectra_status causal_check(const performer *pf);
int64_t causal_saved_bytes(const performer *pf, const spectra_problem *p);
int64_t causal_work_bytes(const performer *pf, const spectra_problem *p);
spectra_status causal_forward(const performer *pf, const spectra_problem *p,
                              const attention_views *x, void *saved, void *work);
spectra_status causal_backward(const performer *pf, const spectra_problem *p,
                               const attention_views *x, void *saved, void *work);
/* As performer_gradients. */
void causal_gradients(const performer *pf, const spectra_problem *p, const void *work,
                      const float **params, int64_t *stride, const float **weights);

/* ---- decode.c, training.c, device.c: the rest of the kind -------------------------------------
 */

extern const attention_decode_ops performer_decode;
extern const attention_trained_ops performer_trained;
extern const struct attention_device_ops performer_device_ops;

/* Prepares what desc.learn and a learned matrix ask for; pf->w and pf->row_weight get their first
 * values. SPECTRA_EUNSUPPORTED where the feature has nothing to train. */
spectra_status training_init(performer *pf);
void training_release(performer *pf);
/* Draws the fixed sample for a seed. */
spectra_status training_redraw(performer *pf, uint64_t seed);
/* gtheta += gradients from those of the values last set, summed over the batch: scalars (H, the
 * feature's scalars), W (M, D) summed over heads too, row weights (M) likewise. Of a device's sums.
 */
void training_gradient(const performer *pf, const float *scalars, const float *w,
                       const float *weights, float *gtheta);
/* As attention_constants and attention_constants_changed. */
int performer_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS]);
void performer_constants_changed(spectra_attention *att);

#endif
