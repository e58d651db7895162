/* The three products every attention kernel is made of, on one tile of tokens,
 * in registers:
 *
 *   tile_project  u[t][m]  = sum_k x[t][k] w[k][m]      handed to an epilogue
 * vector by vector tile_outer    s[f][d] += sum_t a[t][f] v[t][d] tile_combine
 * o[t][d] += sum_f a[t][f] s[f][d]
 *
 * Widths are multiples of PAD; token counts of tile_project and tile_combine
 * are multiples of TILE_STEP (the caller repeats its last token). Register
 * tiles are constants of the instruction set: 32 registers of 64 bytes with
 * AVX-512, 16 elsewhere.
 */
#ifndef SPECTRA_TILE_BLOCK_H
#define SPECTRA_TILE_BLOCK_H

#include "vec.h"

enum {
  TILE = 48, /* most tokens in a tile */
  TILE_STEP = 12,
  PROJECT_T = 6, /* tokens and vectors of tile_project's register tile */
  PROJECT_V = VEC_BYTES == 64 ? 4 : 2,
  OUTER_F = VEC_BYTES == 64 ? 8 : 4, /* features and vectors of tile_outer's */
  COMBINE_T = VEC_BYTES == 64 ? 12 : 6,
  WIDE_V = 2
};

/* What becomes of u: epilogue(context, token, first column, value). */
typedef void tile_epilogue(void *context, int64_t t, int64_t m, vec u);

#define TILE_UNROLL _Pragma("GCC unroll 16")

VEC_FN void tile_project_block(int nt, int nv, int64_t K, const real *x,
                               int64_t ldx, const real *w, int64_t ldw,
                               int64_t t0, int64_t m0, tile_epilogue *epilogue,
                               void *context) {
  vec acc[PROJECT_T][PROJECT_V];
  TILE_UNROLL for (int t = 0; t < nt; t++) {
    TILE_UNROLL for (int i = 0; i < nv; i++) acc[t][i] = (vec){0};
  }
  for (int64_t k = 0; k < K; k++) {
    vec wk[PROJECT_V];
    TILE_UNROLL for (int i = 0; i < nv; i++) wk[i] =
        vload(w + k * ldw + m0 + i * VL);
    TILE_UNROLL for (int t = 0; t < nt; t++) {
      vec xt = vset(x[(t0 + t) * ldx + k]);
      TILE_UNROLL for (int i = 0; i < nv; i++) acc[t][i] += xt * wk[i];
    }
  }
  TILE_UNROLL for (int t = 0; t < nt; t++) {
    TILE_UNROLL for (int i = 0; i < nv; i++)
        epilogue(context, t0 + t, m0 + i * VL, acc[t][i]);
  }
}

VEC_FN void tile_project(int64_t n, int64_t K, int64_t width, const real *x,
                         int64_t ldx, const real *w, int64_t ldw,
                         tile_epilogue *epilogue, void *context) {
  int64_t m = 0;
  for (; m + PROJECT_V * VL <= width; m += PROJECT_V * VL)
    for (int64_t t = 0; t < n; t += PROJECT_T)
      tile_project_block(PROJECT_T, PROJECT_V, K, x, ldx, w, ldw, t, m,
                         epilogue, context);
  for (; m < width; m += VL)
    for (int64_t t = 0; t < n; t += PROJECT_T)
      tile_project_block(PROJECT_T, 1, K, x, ldx, w, ldw, t, m, epilogue,
                         context);
}

VEC_FN void tile_outer_block(int nv, int64_t n, const real *a, int64_t lda,
                             const real *v, int64_t ldv, real *s, int64_t lds) {
  vec acc[OUTER_F][WIDE_V];
  TILE_UNROLL for (int f = 0; f < OUTER_F; f++) {
    TILE_UNROLL for (int i = 0; i < nv; i++) acc[f][i] =
        vload(s + f * lds + i * VL);
  }
  for (int64_t t = 0; t < n; t++) {
    vec vt[WIDE_V];
    TILE_UNROLL for (int i = 0; i < nv; i++) vt[i] =
        vload(v + t * ldv + i * VL);
    TILE_UNROLL for (int f = 0; f < OUTER_F; f++) {
      vec af = vset(a[t * lda + f]);
      TILE_UNROLL for (int i = 0; i < nv; i++) acc[f][i] += af * vt[i];
    }
  }
  TILE_UNROLL for (int f = 0; f < OUTER_F; f++) {
    TILE_UNROLL for (int i = 0; i < nv; i++)
        vstore(s + f * lds + i * VL, acc[f][i]);
  }
}

VEC_FN void tile_outer(int64_t n, int64_t features, int64_t width,
                       const real *a, int64_t lda, const real *v, int64_t ldv,
                       real *s, int64_t lds) {
  for (int64_t f = 0; f < features; f += OUTER_F) {
    int64_t d = 0;
    for (; d + WIDE_V * VL <= width; d += WIDE_V * VL)
      tile_outer_block(WIDE_V, n, a + f, lda, v + d, ldv, s + f * lds + d, lds);
    for (; d < width; d += VL)
      tile_outer_block(1, n, a + f, lda, v + d, ldv, s + f * lds + d, lds);
  }
}

VEC_FN void tile_combine_block(int nv, int64_t features, const real *a,
                               int64_t lda, const real *s, int64_t lds, real *o,
                               int64_t ldo) {
  vec acc[COMBINE_T][WIDE_V];
  TILE_UNROLL for (int t = 0; t < COMBINE_T; t++) {
    TILE_UNROLL for (int i = 0; i < nv; i++) acc[t][i] =
        vload(o + t * ldo + i * VL);
  }
  for (int64_t f = 0; f < features; f++) {
    vec sf[WIDE_V];
    TILE_UNROLL for (int i = 0; i < nv; i++) sf[i] =
        vload(s + f * lds + i * VL);
    TILE_UNROLL for (int t = 0; t < COMBINE_T; t++) {
      vec at = vset(a[t * lda + f]);
      TILE_UNROLL for (int i = 0; i < nv; i++) acc[t][i] += at * sf[i];
    }
  }
  TILE_UNROLL for (int t = 0; t < COMBINE_T; t++) {
    TILE_UNROLL for (int i = 0; i < nv; i++)
        vstore(o + t * ldo + i * VL, acc[t][i]);
  }
}

VEC_FN void tile_combine(int64_t n, int64_t features, int64_t width,
                         const real *a, int64_t lda, const real *s, int64_t lds,
                         real *o, int64_t ldo) {
  for (int64_t t = 0; t < n; t += COMBINE_T) {
    int64_t d = 0;
    for (; d + WIDE_V * VL <= width; d += WIDE_V * VL)
      tile_combine_block(WIDE_V, features, a + t * lda, lda, s + d, lds,
                         o + t * ldo + d, ldo);
    for (; d < width; d += VL)
      tile_combine_block(1, features, a + t * lda, lda, s + d, lds,
                         o + t * ldo + d, ldo);
  }
}

#endif
