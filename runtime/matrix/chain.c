/* A sampled matrix as the chain of steps it was made by, where all of them are cheap to apply. The
 * steps are found by running each primitive of the recipe on a matrix that shows what it does; the
 * chain is used only if it gives back the matrix itself. */
#include "matrix/chain.h"

#include "base/status.h"
#include "matrix/primitives.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Primitives that change columns, by blocks, or lengths of rows; any other ends the attempt. */
static const struct {
    const char *name;
    int kind; /* -1: rows only */
} known[] = {
    {"hadamard", CHAIN_HADAMARD},
    {"signs", CHAIN_DIAGONAL},
    {"cosines", CHAIN_DIAGONAL},
    {"normal_columns", CHAIN_DIAGONAL},
    {"chi_rows", -1},
    {"fixed_rows", -1},
    {"unit_rows", -1},
    {"cut", -1},
    {"permute_columns", CHAIN_PERMUTATION},
};
enum { KNOWN = sizeof known / sizeof known[0] };

int64_t sample_chain_floats(int64_t m)
{
    return (2 * CHAIN_STEPS + 1) * m;
}

/* What step does to the columns of each block: the diagonal, or the number of the column that went
 * to each place. */
static spectra_status probe(const matrix_info *info, int op, int kind, int64_t m, int64_t n,
                            matrix_draw draw, double *out)
{
    canvas c = {.name = info->name, .m = m, .d = n};
    memcpy(c.arg, info->recipe[op].arg, sizeof c.arg);
    c.stream = draw_open(draw.rng, draw.seed, RNG_MATRIX, (uint32_t)draw.layer, (uint32_t)op);
    TRY(canvas_shape(&c, m, n, n));
    for (int64_t i = 0; i < m * n; i++)
        c.w[i] = kind == CHAIN_PERMUTATION ? (double)(i % n) : 1;
    spectra_status status = sample_run_primitive(info->recipe[op].op, &c);
    for (int64_t b = 0; b < m / n && status == SPECTRA_OK; b++)
        memcpy(out + b * n, c.w + b * n * n, (size_t)n * sizeof *out);
    free(c.w);
    return status;
}

/* Row r of the chain without its scale, by applying it from the left to a unit row. */
static void chain_row(const attn_chain *c, int64_t r, double *row)
{
    int64_t n = c->n, at = r / n * n;
    double copy[CHAIN_MAX];
    for (int64_t j = 0; j < n; j++)
        row[j] = j == r % n;
    for (int i = 0; i < c->steps; i++) {
        memcpy(copy, row, (size_t)n * sizeof *copy);
        for (int64_t j = 0; j < n; j++)
            if (c->kind[i] == CHAIN_DIAGONAL)
                row[j] *= (double)c->diagonal[i][at + j];
            else if (c->kind[i] == CHAIN_PERMUTATION)
                row[j] = copy[c->permutation[i][at + j]];
        if (c->kind[i] == CHAIN_HADAMARD)
            canvas_hadamard(n, 1, row);
    }
}

/* The lengths that make the chain's rows those of w. */
static void fit_scale(attn_chain *c, int64_t m, int64_t d, const float *w, float *scale)
{
    double row[CHAIN_MAX];
    for (int64_t r = 0; r < m; r++) {
        double along = 0, square = 0;
        chain_row(c, r, row);
        for (int64_t j = 0; j < d; j++) {
            along += row[j] * (double)w[r * d + j];
            square += row[j] * row[j];
        }
        scale[r] = square > 0 ? (float)(along / square) : 0;
    }
    c->scale = scale;
}

bool sample_chain_is(const attn_chain *c, int64_t m, int64_t d, const float *w)
{
    double row[CHAIN_MAX];
    for (int64_t r = 0; r < m; r++) {
        double largest = 0;
        chain_row(c, r, row);
        for (int64_t j = 0; j < d; j++)
            largest = fmax(largest, fabs((double)w[r * d + j]));
        for (int64_t j = 0; j < d; j++)
            if (!(fabs((double)c->scale[r] * row[j] - (double)w[r * d + j]) <= 1e-5 * largest))
                return false;
    }
    return true;
}

spectra_status sample_chain(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                            const float *w, float *memory, attn_chain *out, bool *found)
{
    attn_chain c = {.n = canvas_order(d > PAD ? d : PAD)};
    *found = false;
    if (info->ops < 1 || strcmp(info->recipe[0].op, "basis") != 0 || m % c.n != 0 ||
        c.n > CHAIN_MAX)
        return SPECTRA_OK;
    double *shown = canvas_scratch(m);
    if (!shown)
        return SPECTRA_ENOMEM;
    spectra_status status = SPECTRA_OK;
    bool all = true;
    for (int op = 1; op < info->ops && all && status == SPECTRA_OK; op++) {
        int k = 0;
        while (k < KNOWN && strcmp(known[k].name, info->recipe[op].op) != 0)
            k++;
        all = k < KNOWN && (known[k].kind < 0 || c.steps < CHAIN_STEPS);
        if (!all || known[k].kind < 0)
            continue;
        c.kind[c.steps] = known[k].kind;
        if (known[k].kind != CHAIN_HADAMARD)
            status = probe(info, op, known[k].kind, m, c.n, draw, shown);
        float *diagonal = memory + m * (1 + c.steps);
        int32_t *permutation = (int32_t *)(void *)(memory + m * (1 + CHAIN_STEPS + c.steps));
        for (int64_t i = 0; i < m; i++) {
            diagonal[i] = (float)shown[i];
            permutation[i] = known[k].kind == CHAIN_PERMUTATION ? (int32_t)shown[i] : 0;
        }
        c.diagonal[c.steps] = diagonal;
        c.permutation[c.steps++] = permutation;
    }
    free(shown);
    if (status != SPECTRA_OK || !all)
        return status;
    fit_scale(&c, m, d, w, memory);
    *out = c;
    *found = sample_chain_is(&c, m, d, w);
    return SPECTRA_OK;
}
