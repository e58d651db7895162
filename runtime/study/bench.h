/* Measures how long the library's computations take, one case at a time, and estimates how long
 * this machine would need at least. Inputs are random numbers. Results are not checked; that they
 * are right is shown by the tests. */
#ifndef SPECTRA_STUDY_BENCH_H
#define SPECTRA_STUDY_BENCH_H

#include "study/bench_machine.h"

#include <jansson.h>

/* A case; D and DV are of a head. task: of the kind "training", which has H, T, D and DV of it. */
typedef struct bench_case {
    const char *kind, *feat, *kernel, *task;
    int64_t B, H, T, D, DV, M;
    int threads;
} bench_case;

typedef struct bench_options {
    int64_t repeat;     /* times, at least */
    double seconds;     /* a case takes, at least */
    double memory_rate; /* bytes a second of the case's threads, for the floor; 0: unknown */
} bench_options;

/* What must be done at least, by bench_count: products and sums as operations (a multiply-add is
 * two), exponentials (sines, cosines), bytes between memory and processor. */
typedef struct bench_count {
    double flops, exponentials, bytes;
} bench_count;
/* Multiply-adds that an exponential takes of the units' time: range reduction and polynomial. */
enum { BENCH_EXP_SLOTS = 7 };

enum { BENCH_REPEATS = 1000 };

/* Numbers are of one token of one head, or what `unit` names. */
typedef struct bench_result {
    const char *unit;
    int64_t repeats, inner;     /* calls timed together, so that the clock is fine enough */
    double units;               /* of a call */
    double ns, ns_low, ns_high; /* median, 10 % and 90 % quantiles */
    bench_count count;
    double fma_rate;   /* operations a second, median of bursts between the repetitions */
    double floor_ns;   /* 0: there is none */
    bool memory_bound; /* it is the memory's */
    machine_load load; /* by others meanwhile */
    isa isa;           /* of the kernel */
    bool exact;        /* made for these sizes */
    bool chain;        /* W's chain instead of products */
    json_t *more;      /* kind's own numbers, an object, or NULL; owned */
} bench_result;

typedef spectra_status (*bench_call)(void *context);

/* Runs `call` over and over; fills everything but count and what comes from it, exact, chain. */
spectra_status bench_time(const bench_case *c, const bench_options *o, bench_call call,
                          void *context, double units, bench_result *out);
/* count is set: the floor from it. */
void bench_floor(const bench_options *o, bench_result *r);

/* Numbers of a case; a size is 1 << its place in B, H, T, D, DV, M. */
enum {
    COUNTS_B = 1,
    COUNTS_H = 2,
    COUNTS_T = 4,
    COUNTS_D = 8,
    COUNTS_DV = 16,
    COUNTS_M = 32,
    COUNTS_SIZES = 63,
    COUNTS_THREADS = 64
};

typedef struct bench_kind {
    const char *name, *group; /* --kinds may name a group */
    const char *doc;
    int pairs;       /* depends on: 0 no component function, 1 on that, 2 on the matrix too */
    unsigned counts; /* and on these; the others are neither repeated nor shown */
    spectra_status (*measure)(const struct bench_kind *kind, const bench_case *c,
                              const bench_options *o, bench_result *out);
    int part; /* which of several that `measure` does */
} bench_kind;

/* Ends with a name of NULL. */
extern const bench_kind bench_kinds[];
/* SPECTRA_ENOTFOUND, naming the nearest kind. */
spectra_status bench_unknown(const char *name);
/* Whether the kind can be measured with that pair; `why` gets the reason where not. */
bool bench_applies(const bench_kind *kind, const feature_info *f, const matrix_info *m,
                   const char **why);

/* Zeroed memory, 64-byte aligned, to be freed; its pages are there. SPECTRA_ENOMEM. */
spectra_status bench_memory(int64_t bytes, void **out);
/* Numbers of mean 0 and deviation 0.6. */
void bench_fill(float *x, int64_t n, uint32_t seed);

/* ---- bench_attention.c ---- */
enum {
    BENCH_FORWARD,
    BENCH_BACKWARD,
    BENCH_CAUSAL,
    BENCH_CAUSAL_BACKWARD,
    BENCH_STEP,
    BENCH_BF16,
    BENCH_SOFTMAX,
    BENCH_SOFTMAX_BACKWARD
};
spectra_status bench_attention(const bench_kind *kind, const bench_case *c, const bench_options *o,
                               bench_result *out);

struct spectra_attention;
/* A causal attention needs given what another would compute from the data: it gets what `from`
 * computed in forward, whose `saved` this is. */
spectra_status bench_give(struct spectra_attention *att, const struct spectra_attention *from,
                          const spectra_problem *p, const void *saved);
/* Of one side (a query or a key): its projections, transposed ones too. */
double bench_projection_flops(const struct spectra_attention *att);
/* Of a token of a head: two sides of projections, the state made and used, normalisers, a function
 * a feature and side. Backward makes projections and features again; causal kinds are counted
 * alike, though what a token sees of its own block is more. Linear maps and moments are not
 * counted. */
bench_count bench_performer_count(const struct spectra_attention *att, bool backward);

/* ---- bench_train.c ---- */
/* A training step of c->task's model with sequences of full length; `more` has the time outside
 * attention and the memory by buffer. */
spectra_status bench_training(const bench_kind *kind, const bench_case *c, const bench_options *o,
                              bench_result *out);
/* Generation and compilation of a feature's kernels for exact sizes, once. SPECTRA_EINVAL if they
 * were in the cache. */
spectra_status bench_compile(const bench_kind *kind, const bench_case *c, const bench_options *o,
                             bench_result *out);

/* ---- bench_kernel.c ---- */
enum {
    BENCH_KEYS,
    BENCH_MERGE,
    BENCH_QUERIES,
    BENCH_FEATURES,
    BENCH_QUERIES_BWD,
    BENCH_KEYS_BWD,
    BENCH_CAUSAL_FORWARD,
    BENCH_CAUSAL_QUERIES_BWD,
    BENCH_CAUSAL_KEYS_BWD,
    BENCH_CAUSAL_STEP,
    BENCH_OFFICIAL_KEYS,
    BENCH_OFFICIAL_QUERIES,
    BENCH_OFFICIAL_QUERIES_BWD,
    BENCH_OFFICIAL_KEYS_BWD
};
/* One function of kernel.h's tables, a head a thread, on data that stays in cache. */
spectra_status bench_kernel(const bench_kind *kind, const bench_case *c, const bench_options *o,
                            bench_result *out);

/* ---- bench_row.c ---- */
/* Part 2 * i (+ 1: backward) is operator i of its table. */
spectra_status bench_row(const bench_kind *kind, const bench_case *c, const bench_options *o,
                         bench_result *out);

#endif
