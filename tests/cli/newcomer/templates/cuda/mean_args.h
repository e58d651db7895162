/* Arguments of mean.cu, as args.h. */
#ifndef SPECTRA_CUDA_MEAN_ARGS_H
#define SPECTRA_CUDA_MEAN_ARGS_H

typedef struct mean_cuda_args {
    cuda_rows v, o, go, gq, gk, gv;
    const int64_t *q_begin, *q_len, *k_begin, *k_len; /* (B) of packed sequences, else NULL */
    const unsigned char
        *mask; /* (B, S), or a byte a packed row, 0 = skip the key; NULL: all valid */
    int64_t T, S;
    float scale;
} mean_cuda_args;
#endif
