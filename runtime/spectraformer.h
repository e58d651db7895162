/* spectraformer: random-feature linear attention, fused.
 *
 * The only installed header. The library never prints, exits, or reads the
 * environment; every function that can fail returns a spectra_status and leaves
 * its results untouched on failure; spectra_message() then tells this thread why.
 */
#ifndef SPECTRAFORMER_H
#define SPECTRAFORMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)

typedef enum spectra_status {
    SPECTRA_OK = 0,
    SPECTRA_EINVAL,  /* an argument or option has no meaning */
    SPECTRA_ESHAPE,  /* array shapes do not fit each other or a limit */
    SPECTRA_EIO,     /* the operating system refused (errno's text is in the message) */
    SPECTRA_EFORMAT, /* a file is truncated or malformed */
    SPECTRA_ENOMEM,
    SPECTRA_ENOTFOUND,    /* unknown name: the message gives the nearest known one */
    SPECTRA_EUNSUPPORTED, /* legal, but not on this machine or in this build */
    SPECTRA_EDIVERGED,    /* NaN or Inf where a number was expected */
    SPECTRA_EINTERRUPTED, /* stopped on request, after a checkpoint */
    SPECTRA_EBUSY         /* done, but measured while others used the machine */
} spectra_status;

/* Detail of the last failure in this thread; "" if there was none. Never NULL. */
const char *spectra_message(void);
/* "SPECTRA_OK", "SPECTRA_EINVAL", ...; "unknown status" for anything else. */
const char *spectra_status_name(spectra_status status);
const char *spectra_version(void);

/* Rows of an array (B, H, T, D), by strides in elements; D is contiguous. A view: owns nothing.
 * Element (b, h, t, i) is data[base(b) + h*stride_h + t*stride_t + i] with
 * base(b) = b*stride_b, or begin[b]*stride_t for packed sequences (spectra_problem). */
typedef struct spectra_rows {
    float *data;
    int64_t stride_b, stride_h, stride_t;
} spectra_rows;

/* A dense (B, H, T, D) array as rows. */
static inline spectra_rows spectra_rows_dense(float *data, int64_t H, int64_t T, int64_t D)
{
    return (spectra_rows){data, H * T * D, T * D, D};
}

/* One batch. Padded: q_begin = q_len = NULL, every sequence has T queries and S keys.
 * Packed: sequence b has q_len[b] queries at rows q_begin[b]..., likewise keys; masks and den are
 * then indexed by the same rows. T and S are the largest lengths. */
typedef struct spectra_problem {
    int64_t B, T, S;
    const int64_t *q_begin, *q_len, *k_begin, *k_len; /* (B) each, or all NULL */
    const uint8_t *q_mask;                            /* (B, T), 1 = token; NULL: all */
    const uint8_t *k_mask;                            /* (B, S), likewise */
    double dropout;                                   /* on attention probabilities (softmax) */
    uint64_t seed, step;                              /* of the dropout's random stream */
} spectra_problem;

typedef enum spectra_target { SPECTRA_SOFTMAX, SPECTRA_GAUSSIAN } spectra_target;

/* Whose numbers weight matrices and initial weights are made of: our streams (Philox4x32-10 by
 * counters), or those of cuRAND's generator for the host (CURAND_RNG_PSEUDO_PHILOX4_32_10). */
typedef enum spectra_rng { SPECTRA_RNG_PHILOX, SPECTRA_RNG_CURAND } spectra_rng;

typedef struct spectra_attention_desc {
    const char *attn;    /* a name that `spectraformer list` shows: "performer", "softmax" */
    const char *feat;    /* performer's component function: "posrf", "saderf" ... */
    const char *kernel;  /* performer's weight matrix: "orf", "qmc" ... */
    int64_t H, D, DV, M; /* M: rows of performer's weight matrix */
    uint64_t seed;       /* of what is drawn */
    int64_t layer;
    spectra_target target; /* performer's: the kernel that is approximated */
    bool official;         /* the reference system's behaviour (of its code, not of its paper) */
    bool through;          /* performer's: differentiate through data-dependent parameters too */
    bool antithetic;       /* performer's: features of w and of -w, from one projection */
    bool causal;           /* query i sees the keys j <= i: as many queries as keys, see below */
    bool learn; /* performer's: train the feature's scalars that can be (gerf's A), one a head */
    /* Performer's forward multiplies numbers of bf16 (8 bits) and adds them up in float; what it
     * reads and writes is float, backward computes in float. For CPUs with AVX512_BF16, else
     * SPECTRA_EUNSUPPORTED; neither causal nor official. */
    bool bf16;
    spectra_rng rng; /* what the matrix is drawn with */
    /* Settings of the attention's own, "name=value,name=value", as `spectraformer list` shows them;
     * those that are not named keep their initial values. SPECTRA_EINVAL names one that the
     * attention lacks or does not allow. Performer's fields above are its settings, too: what is
     * named here takes the place of the field. NULL: none. */
    const char *options;
} spectra_attention_desc;

typedef struct spectra_attention spectra_attention;

/* SPECTRA_ENOTFOUND for unknown names, SPECTRA_ESHAPE unless 1 <= D, DV <= 256, 1 <= M <= 1024. */
spectra_status spectra_attention_new(const spectra_attention_desc *desc, spectra_attention **out);
void spectra_attention_free(spectra_attention *att);

/* Replaces something the attention would draw or compute. Names: "W" (M, D), for Poisson and
 * geometric features the counts; "T" (M, D), the directions of hybrid features; "row_weight" (M); a
 * feature's parameters: scalars as (H) or (B, H), e.g. "A"; vectors as (D), (H, D) or (B, H, D),
 * e.g. "psi"; official: "A_pos" (H, T). The data is copied. SPECTRA_ENOTFOUND, SPECTRA_ESHAPE. */
spectra_status spectra_attention_set(spectra_attention *att, const char *name, const float *data,
                                     int ndim, const int64_t *shape);
/* The current matrix, (M, D); lives as long as the attention, until the next set or redraw. NULL
 * for attentions without one. */
const float *spectra_attention_matrix(const spectra_attention *att);
/* Draws anew for another seed. SPECTRA_EUNSUPPORTED where nothing is drawn. */
spectra_status spectra_attention_redraw(spectra_attention *att, uint64_t seed);

/* Bytes of `saved` (written by forward, read by backward) and of `work` (scratch of either). Both
 * 64-byte aligned, owned by the caller; forward and backward themselves never allocate. */
int64_t spectra_attention_saved_bytes(const spectra_attention *att, const spectra_problem *p);
int64_t spectra_attention_work_bytes(const spectra_attention *att, const spectra_problem *p);

/* o = attention(q, k, v). Queries without any valid key give 0. Rows of padded queries are
 * computed like the others. Bits do not depend on the number of threads.
 * Causal: SPECTRA_ESHAPE unless every sequence has as many queries as keys; SPECTRA_EINVAL where a
 * parameter would be computed from all tokens (oprf's A, saderf's psi ...) and was not set. Later
 * tokens change no bit of earlier outputs. */
spectra_status spectra_attention_forward(const spectra_attention *att, const spectra_problem *p,
                                         spectra_rows q, spectra_rows k, spectra_rows v,
                                         spectra_rows o, void *saved, void *work);
/* Gradients of sum(o * go) with respect to q, k, v; written, not accumulated. */
spectra_status spectra_attention_backward(const spectra_attention *att, const spectra_problem *p,
                                          spectra_rows q, spectra_rows k, spectra_rows v,
                                          spectra_rows o, spectra_rows go, spectra_rows gq,
                                          spectra_rows gk, spectra_rows gv, void *saved,
                                          void *work);

/* Decoding with a causal attention, one token at a time, in constant memory. `state` holds what B
 * sequences have read, each in a B-th of it; `work` is scratch of prefill and step, and depends on
 * the number of threads. Both 64-byte aligned, owned by the caller; nothing here allocates. After a
 * change of matrix or parameters the state has to be cleared. SPECTRA_EUNSUPPORTED for attentions
 * without such a state (softmax), SPECTRA_EINVAL without desc.causal, and where forward refuses a
 * parameter. */
int64_t spectra_attention_state_bytes(const spectra_attention *att, int64_t B);
int64_t spectra_attention_step_bytes(const spectra_attention *att);
/* Forgets everything; active (B) or NULL: only the sequences where it is not 0. */
spectra_status spectra_attention_state_clear(const spectra_attention *att, int64_t B,
                                             const uint8_t *active, void *state);
/* Reads a prompt: p's keys k and values v (B, H, S, D or DV); p->k_mask and packing apply. */
spectra_status spectra_attention_prefill(const spectra_attention *att, const spectra_problem *p,
                                         spectra_rows k, spectra_rows v, void *state, void *work);
/* One new token of each active sequence, row t = 0 of each view: its key and value are read, then
 * o = attention(q). Rows o of other sequences are left as they are. */
spectra_status spectra_attention_step(const spectra_attention *att, int64_t B,
                                      const uint8_t *active, spectra_rows q, spectra_rows k,
                                      spectra_rows v, spectra_rows o, void *state, void *work);

/* Parameters that are trained: those of a learned matrix, and the feature's with desc.learn. They
 * live outside, in one array of `floats` numbers theta; tensors are parts of it. An attention
 * starts with the values that `start` gives. */
typedef struct spectra_trained {
    const char *name;
    int ndim;
    int64_t shape[2], offset;
} spectra_trained;
int64_t spectra_attention_trained_floats(const spectra_attention *att); /* 0: none */
int spectra_attention_trained_count(const spectra_attention *att);
/* Tensor i of them; its name lives as long as the attention. */
spectra_trained spectra_attention_trained(const spectra_attention *att, int i);
void spectra_attention_trained_start(const spectra_attention *att, float *theta);
/* Makes the matrix and the scalars of theta; needed after theta or the draw changed. */
void spectra_attention_trained_set(spectra_attention *att, const float *theta);
/* After backward, with its work and the theta of the last set: gtheta += gradients. */
void spectra_attention_trained_gradient(const spectra_attention *att, const spectra_problem *p,
                                        const void *work, const float *theta, float *gtheta);

/* A data-dependent parameter as forward computed it ("A": (B, H), "psi": (B, H, D)).
 * SPECTRA_ENOTFOUND when the feature has no such parameter. */
spectra_status spectra_attention_parameter(const spectra_attention *att, const spectra_problem *p,
                                           const char *name, const void *saved, float *out);

/* Kernels that were not built ahead are compiled when they are needed once this has allowed it;
 * without a call nothing ever is. Strings are copied. SPECTRA_ENOMEM. */
typedef enum spectra_jit {
    SPECTRA_JIT_NEVER, /* nothing is compiled, nothing comes from the cache */
    SPECTRA_JIT_AUTO,  /* what no kernel was built for, be it one for any size */
    SPECTRA_JIT_ALWAYS /* what no kernel for the exact sizes was built for */
} spectra_jit;
/* compiler: name or path, NULL: cc. cache: folder of compiled kernels, NULL: none. */
spectra_status spectra_jit_allow(spectra_jit policy, const char *compiler, const char *cache);

#pragma GCC visibility pop

#endif
