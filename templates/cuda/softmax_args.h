/* Arguments of softmax.cu, as args.h; its tiles and shared memory for head size D and value size DV,
 * which the kernels and who launches them both take from here. */
#ifndef SPECTRA_CUDA_SOFTMAX_ARGS_H
#define SPECTRA_CUDA_SOFTMAX_ARGS_H

/* Floats from row to row of a tile: rows are 16-byte aligned, 8 of them lie in different banks. */
#define SOFTMAX_LD(D) (((D) + 3) / 4 * 4 + 4)
/* Rows of a tile: queries in forward, keys in forward, both in backward. */
#define SOFTMAX_QUERIES 64
#define SOFTMAX_KEYS(D, DV) ((D) <= 64 && (DV) <= 64 ? 64 : (D) <= 128 && (DV) <= 128 ? 32 : 16)
#define SOFTMAX_BACKWARD 32
/* Floats of shared memory: a tile of queries, one of keys and values, one of probabilities; in
 * backward two tiles of each. */
#define SOFTMAX_FORWARD_FLOATS(D, DV)                                                              \
    (SOFTMAX_QUERIES * SOFTMAX_LD(D) + SOFTMAX_KEYS(D, DV) * (SOFTMAX_LD(D) + SOFTMAX_LD(DV)) +    \
     SOFTMAX_QUERIES * (SOFTMAX_KEYS(D, DV) + 4))
#define SOFTMAX_BACKWARD_FLOATS(D, DV)                                                             \
    (2 * SOFTMAX_BACKWARD * (SOFTMAX_LD(D) + SOFTMAX_LD(DV) + SOFTMAX_BACKWARD + 4))

typedef struct softmax_cuda_args {
    cuda_rows q, k, v, o, go, gq, gk, gv;
    const int64_t *q_begin, *q_len, *k_begin, *k_len; /* (B) of packed sequences, else NULL */
    const unsigned char *mask; /* (B, S), or a byte a packed row, 0 = skip the key */
    int *key, *keys; /* with a mask: numbers of the valid keys of each sequence, as mask; how many */
    float *lse;      /* (queries, H): log of the sum of exponentials */
    float *dot;      /* (queries, H): <go, o> */
    const cuda_batch *batch; /* longest, step, part of the dropout; NULL: T, S and the words below */
    int64_t B, H, T, S;
    unsigned seed[2], word2, word3, threshold; /* threshold 0: no dropout */
    float scale, factor;                       /* 1/sqrt(D); of kept probabilities */
    int vector; /* all rows are 16-byte aligned */
} softmax_cuda_args;
#endif
