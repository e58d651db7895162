/* Attention on a device, of any kind, against the CPU: what a row of the table of cases says
 * (attention_cases.c), and the one runner of all rows. Every call of the library's device side that
 * these tests make is in attention_case.c.
 */
#ifndef TESTS_ATTENTION_CASE_H
#define TESTS_ATTENTION_CASE_H

#include "device/device_case.h"

#include "attention/device.h"

/* What is special about a row. case_name writes the names of attention_case.c's table. */
enum {
    MASKED = 1 << 0,   /* a fifth of the keys is masked; with several sequences all of the last */
    LATE = 1 << 1,     /* the first 19 keys of every sequence are masked */
    PACKED = 1 << 2,   /* sequences of different lengths behind each other, the last is empty */
    STRIDED = 1 << 3,  /* arrays (B, T, H, D) instead of (B, H, T, D) */
    GROWING = 1 << 4,  /* queries and keys grow ninefold along the sequence */
    GAUSSIAN = 1 << 5, /* target */
    CAUSAL_MASK = 1 << 6, /* S is T */
    LEARN = 1 << 7,       /* scalars are trained; learned matrices always are */
    GIVEN = 1 << 8,       /* parameters are given instead of computed from the tokens */
    TF32 = 1 << 9,        /* one product of TF32 instead of three */
    BF16 = 1 << 10,       /* type of q, k, v, o and their gradients */
    EXACT = 1 << 11,      /* against the mathematics in double instead of the CPU's kernels */
    DECODING = 1 << 12,   /* also a prompt, then token by token: what the whole pass gave */
    ORDERS = 1 << 13,     /* emulator: also three orders of threads, the same bits */
    SHIFTED = 1 << 14,    /* softmax: also arrays that are not 16-byte aligned, the same bits */
    BOUNDS = 1 << 15,     /* also bounds of lengths, the rest read on the device, the same bits */
    CLUSTERS = 1 << 16,   /* emulator: one launch a direction of a GPU with clusters, then two */
    DROPOUT = 1 << 17,    /* of a tenth of the probabilities, softmax */
    FULL = 1 << 18,       /* only where all rows are asked for */
};

/* How much may be different: attention_case.c's table. */
typedef enum tolerance {
    USUAL,
    CLOSE,      /* positive features, no sums over row blocks of several kernels */
    CANCELLING, /* signed features or numbers of very different size, causal */
    WIDE_MAPS,  /* neighbouring eigenvectors of many are less well determined */
    PROBABILITY,
    REFERENCE, /* the reference's behaviour */
    ONE_KEY,   /* where T is 1: gradients of q and k are 0 but for rounding */
    ROUGH,     /* of TF32 */
    ROUGHEST   /* of bf16 */
} tolerance;

typedef struct attention_case {
    /* "performer", "softmax", or "official": performer with the reference's behaviour */
    const char *attn, *feat, *matrix; /* "posrf+": antithetic */
    int64_t B, H, T, S, D, DV, M;
    unsigned flags;
    tolerance within;
    /* 0: the device's own. Of the GPU that the emulator is to be. */
    int arch, multiprocessors;
    unsigned spilled; /* 1 << KEYS ...: those whose blocks have no room in shared memory there */
    int clusters[2];  /* blocks a cluster of forward and backward, of CLUSTERS */
} attention_case;

extern const attention_case attention_cases[];
extern const int attention_case_count;

void case_name(const attention_case *c, char *name, size_t size);
/* All that the row says. */
void case_run(const attention_case *c);

/* The pieces of case_run, for tests that do something else with them. */

/* The device is what the row says, and every launch of the emulator is checked for races and
 * addresses. */
void case_device(const attention_case *c);

typedef struct subject {
    const attention_case *c;
    spectra_attention *att;
    attention_device *ad;
} subject;

void subject_open(subject *s, const attention_case *c);
/* Another matrix. */
void subject_redraw(subject *s, uint64_t seed);
void subject_close(subject *s);

enum { Q, K, V, GO, O, GQ, GK, GV, ARRAYS };

/* A batch with the shape of `c`, here and on the device. */
typedef struct batch {
    const subject *s;
    attention_case c;
    attention_device_problem problem;
    int64_t width[ARRAYS], count[ARRAYS];
    float *host[ARRAYS]; /* inputs, as the device has them; what results should be */
    spectra_rows rows[ARRAYS];
    void *memory[ARRAYS], *index[6]; /* the device's, as saved and work */
    int64_t begin[2][8], len[2][8];  /* of queries and keys, PACKED */
    uint8_t *mask;
    void *saved, *work, *host_work;
} batch;

/* variation: 0, SHIFTED or BOUNDS. */
void batch_open(batch *x, const subject *s, const attention_case *c, unsigned variation);
void batch_close(batch *x);
void batch_forward(const batch *x);
void batch_backward(const batch *x);
/* Both, then o and the gradients behind each other, to be freed: of same_in_any_order. */
float *batch_results(void *of, int64_t *count);
/* What the CPU computes, then forward and backward of the device against it. */
void batch_check(batch *x);
/* The device refuses forward of this batch with these changes. */
void batch_refused(const batch *x, int64_t T, int64_t S, bool packed, spectra_status status,
                   const char *part);

#endif
