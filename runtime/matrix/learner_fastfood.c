/* Fastfood with trained diagonals: blocks of n = 2^k >= d rows, S H G P H B / n^1/2 with Hadamard
 * matrices H, a fixed permutation P and diagonals S, G, B, of which the first d columns are taken
 * and, of the last block, random rows. The first values are a draw of fastfood_fixed: G normal, B
 * signs, S chi lengths over |G| (Le, Sarlos & Smola 2013; Yang et al. 2015). */
#include "matrix/learner.h"

#include "matrix/canvas.h"

#include <math.h>
#include <string.h>

static int64_t blocks(const matrix_learner *l)
{
    int64_t n = canvas_order(l->d);
    return (l->m + n - 1) / n;
}

static spectra_status fastfood_layout(matrix_learner *l)
{
    int64_t n = canvas_order(l->d), B = blocks(l);
    learner_add(l, "S", B, n);
    learner_add(l, "G", B, n);
    learner_add(l, "B", B, n);
    l->order_unit = n;
    l->order_count = (B + 1) * n; /* P, block by block, and the order of the last block's rows */
    l->scratch = 2 * B * n * n;   /* P H B and H G P H B of every block */
    return SPECTRA_OK;
}

static void fastfood_start(const matrix_learner *l, const draw_stream *s, double *theta)
{
    int64_t n = canvas_order(l->d), B = blocks(l);
    uint64_t at = (uint64_t)l->order_count;
    for (int64_t b = 0; b < B; b++) {
        double *S = theta + b * n, *G = theta + (B + b) * n, *sign = theta + (2 * B + b) * n;
        double length = 0;
        for (int64_t i = 0; i < n; i++) {
            G[i] = draw_normal(s, at++);
            length += G[i] * G[i];
            sign[i] = draw_below(s, at++, 2) ? 1 : -1;
        }
        for (int64_t i = 0; i < n; i++) {
            double chi = 0;
            for (int64_t j = 0; j < n; j++) {
                double x = draw_normal(s, at++);
                chi += x * x;
            }
            S[i] = sqrt(chi / length);
        }
    }
}

static double hadamard(int64_t i, int64_t j)
{
    return __builtin_parityll((unsigned long long)(i & j)) ? -1 : 1;
}

/* Row of W that row i of the block becomes, -1: none. rows: the block's order of rows. */
static int64_t row_of(const matrix_learner *l, int64_t block, int64_t n, const int64_t *rows,
                      int64_t i)
{
    int64_t left = l->m - block * n;
    if (left >= n)
        return block * n + i;
    for (int64_t r = 0; r < left; r++)
        if (rows[r] == i)
            return block * n + r;
    return -1;
}

static void fastfood_forward(const matrix_learner *l, const double *theta, double *w,
                             double *weight, double *scratch)
{
    int64_t n = canvas_order(l->d), B = blocks(l);
    const int64_t *rows = l->order + B * n;
    for (int64_t r = 0; r < l->m; r++)
        weight[r] = 1;
    for (int64_t b = 0; b < B; b++) {
        const double *S = theta + b * n, *G = theta + (B + b) * n, *sign = theta + (2 * B + b) * n;
        double *phb = scratch + 2 * b * n * n, *mixed = phb + n * n;
        const int64_t *p = l->order + b * n;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                phb[i * n + j] = hadamard(p[i], j) * sign[j];
                mixed[i * n + j] = G[i] * phb[i * n + j];
            }
        for (int64_t j = 0; j < n; j++)
            canvas_hadamard(n, n, mixed + j);
        for (int64_t i = 0; i < n; i++) {
            int64_t r = row_of(l, b, n, rows, i);
            for (int64_t j = 0; j < l->d && r >= 0; j++)
                w[r * l->d + j] = S[i] * mixed[i * n + j] / sqrt((double)n);
        }
    }
}

static void fastfood_backward(const matrix_learner *l, const double *theta, const double *scratch,
                              const double *gw, const double *gweight, double *gtheta)
{
    (void)gweight;
    int64_t n = canvas_order(l->d), B = blocks(l);
    const int64_t *rows = l->order + B * n;
    double column[256];
    int64_t row[256];
    for (int64_t b = 0; b < B; b++) {
        const double *S = theta + b * n, *G = theta + (B + b) * n;
        const double *phb = scratch + 2 * b * n * n, *mixed = phb + n * n;
        double *gS = gtheta + b * n, *gG = gtheta + (B + b) * n, *gsign = gtheta + (2 * B + b) * n;
        const int64_t *p = l->order + b * n;
        for (int64_t i = 0; i < n; i++)
            row[i] = row_of(l, b, n, rows, i);
        for (int64_t j = 0; j < l->d; j++) {
            for (int64_t i = 0; i < n; i++) {
                double g = row[i] >= 0 ? gw[row[i] * l->d + j] / sqrt((double)n) : 0;
                gS[i] += g * mixed[i * n + j];
                column[i] = g * S[i];
            }
            canvas_hadamard(n, 1, column); /* H is its own transpose */
            for (int64_t i = 0; i < n; i++) {
                gG[i] += column[i] * phb[i * n + j];
                gsign[j] += column[i] * G[i] * hadamard(p[i], j);
            }
        }
    }
}

const learner_kind learner_fastfood = {"fastfood", fastfood_layout, fastfood_start,
                                       fastfood_forward, fastfood_backward};
