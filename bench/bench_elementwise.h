/* Element-wise passes of the unfused attention, one table an instruction set. Widths are multiples
 * of 16. */
#ifndef SPECTRA_BENCH_ELEMENTWISE_H
#define SPECTRA_BENCH_ELEMENTWISE_H

#include <stdint.h>

typedef struct bench_elementwise {
    void (*exp_rows)(int64_t n, int64_t m, float *x, const float *row_term, float shift, float *z);
    float (*max_rows)(int64_t n, int64_t m, const float *x, const float *row_term);
    void (*half_norms)(int64_t n, int64_t d, const float *x, float *out);
    void (*normalise)(int64_t n, int64_t m, int64_t d, const float *phi, const float *z, float *o,
                      float *den);
    void (*output_grad)(int64_t n, int64_t d, const float *o, const float *den, const float *go,
                        float *g, float *last);
    void (*feature_grad)(int64_t n, int64_t m, float *dphi, const float *last, const float *z,
                         const float *phi, float *dz, float *sums);
    void (*input_grad)(int64_t n, int64_t d, float scale, const float *sums, const float *x,
                       float *gx);
    void (*scale_into)(int64_t n, float scale, const float *x, float *y);
} bench_elementwise;

extern const bench_elementwise bench_elementwise_bench_portable, bench_elementwise_bench_avx2,
    bench_elementwise_bench_avx512;

#endif
