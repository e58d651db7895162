/* Arguments of softmax.cu, as args.h. */
#ifndef SPECTRA_CUDA_SOFTMAX_ARGS_H
#define SPECTRA_CUDA_SOFTMAX_ARGS_H

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
