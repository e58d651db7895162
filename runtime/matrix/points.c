/* Primitives that place points well: Sobol sequences, lattices and designs on the sphere, nodes of
 * quadrature rules. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "math/blas.h"
#include "math/normal.h"
#include "math/sobol.h"
#include "matrix/primitives.h"
#include "matrix/recipe.h"

static const double two_pi = 6.28318530717958647693;

/* ---- the unit cube ----------------------------------------------------------------------------
 */

enum { OWEN_LEVELS = 16 };

/* Nested uniform scrambling (Owen 1995): every bit is flipped or not by a random bit that depends
 * on the dimension and on all bits above it. Nodes of that binary tree are numbered as in a heap
 * and have a random word each. Of the words of level OWEN_LEVELS all lower bits are taken: points
 * of a Sobol sequence with m <= 2^OWEN_LEVELS do not share them. */
static uint32_t owen_scramble(const draw_stream *s, int64_t dimension, uint32_t x)
{
    uint32_t flips = 0;
    for (int level = 0; level <= OWEN_LEVELS; level++) {
        uint64_t node = ((uint64_t)1 << 32 | x) >> (32 - level);
        uint32_t word = draw_word(s, 4 * ((uint64_t)dimension << (OWEN_LEVELS + 1) | node));
        flips |= level < OWEN_LEVELS ? (word & 1) << (31 - level) : word >> OWEN_LEVELS;
    }
    return x ^ flips;
}

/* w = the first m points of a scrambled Sobol sequence in d dimensions, inside (0, 1). */
spectra_status primitive_sobol_owen(canvas *c)
{
    if (c->d > SOBOL_DIMENSIONS)
        return fail(SPECTRA_ESHAPE, "matrix %s has Sobol sequences up to d = %d, got d = %ld",
                    c->name, SOBOL_DIMENSIONS, (long)c->d);
    if (c->m > 1 << OWEN_LEVELS)
        return fail(SPECTRA_ESHAPE, "matrix %s has Sobol sequences up to m = %d, got m = %ld",
                    c->name, 1 << OWEN_LEVELS, (long)c->m);
    TRY(canvas_shape(c, c->m, c->d, c->m));
    for (int64_t j = 0; j < c->d; j++) {
        uint32_t v[SOBOL_BITS], x = 0;
        sobol_direction(j, v);
        for (int64_t i = 0; i < c->m; i++) {
            c->w[i * c->d + j] = ((double)owen_scramble(&c->stream, j, x) + 0.5) * 0x1p-32;
            x ^= v[__builtin_ctzll((unsigned long long)i + 1)];
        }
    }
    return SPECTRA_OK;
}

spectra_status primitive_normal_icdf(canvas *c)
{
    for (int64_t i = 0; i < c->rows * c->columns; i++)
        c->w[i] = normal_quantile(c->w[i]);
    return SPECTRA_OK;
}

/* ---- the sphere -------------------------------------------------------------------------------
 */

static bool is_prime(int64_t n)
{
    for (int64_t i = 2; i * i <= n; i++)
        if (n % i == 0)
            return false;
    return n > 1;
}

/* m of the 2N unit vectors in an even number n of dimensions that are columns of
 * h^(-1/2) [Re F, -Im F; Im F, Re F], h = n/2: F is h random rows, none of them the first, of the
 * Fourier matrix of a prime order N (Lyu 2017). */
spectra_status primitive_fourier_sphere(canvas *c)
{
    int64_t h = (c->d + 1) / 2, n = 2 * h, N = n + 1 > (c->m + 1) / 2 ? n + 1 : (c->m + 1) / 2;
    while (!is_prime(N))
        N++;
    TRY(canvas_shape(c, c->m, n, c->m));
    int64_t *frequency = malloc((size_t)(3 * N) * sizeof *frequency);
    if (!frequency)
        return fail(SPECTRA_ENOMEM, "no memory for a lattice of %ld points", (long)N);
    int64_t *point = frequency + N;
    draw_permutation(&c->stream, 0, N - 1, frequency);
    draw_permutation(&c->stream, (uint64_t)N, 2 * N, point);
    double scale = 1 / sqrt((double)h);
    for (int64_t r = 0; r < c->m; r++)
        for (int64_t k = 0; k < h; k++) {
            int64_t step = (frequency[k] + 1) * (point[r] % N) % N;
            double angle = two_pi * (double)step / (double)N;
            bool second = point[r] >= N;
            c->w[r * n + k] = scale * (second ? -sin(angle) : cos(angle));
            c->w[r * n + h + k] = scale * (second ? cos(angle) : sin(angle));
        }
    free(frequency);
    return SPECTRA_OK;
}

/* Blocks of 2(d+1) rows +-v Q: v runs over the vertices of a simplex of d + 1 unit vectors in d
 * dimensions, Q is orthogonal, uniformly distributed. */
spectra_status primitive_antipodal_simplex(canvas *c)
{
    int64_t d = c->d, block = 2 * (d + 1);
    TRY(canvas_shape(c, c->m, d, block));
    double *q = canvas_scratch(d * d + 2 * d + 1);
    if (!q)
        return SPECTRA_ENOMEM;
    double *vertex = q + d * d, *r = vertex + d + 1;
    spectra_status status = SPECTRA_OK;
    for (int64_t i = 0; i < c->m && status == SPECTRA_OK; i++) {
        double *row = c->w + i * d, sign = i % 2 ? -1 : 1;
        if (i % block == 0)
            status = canvas_haar(c, (uint64_t)(i / block * d * d), d, q, r);
        canvas_simplex_vertex(d + 1, i % block / 2, vertex);
        for (int64_t k = 0; k < d; k++)
            for (int64_t j = 0; j < d; j++)
                row[j] += sign * vertex[k] * q[k * d + j];
    }
    free(q);
    return status;
}

/* ---- quadrature -------------------------------------------------------------------------------
 */

/* Rows of unit length, two and two antipodal, become those of the stochastic spherical-radial rule
 * (Munkhoeva et al. 2018): each pair gets a radius rho ~ chi_(d+2) of its own and weight d/rho^2,
 * which undoes the two dimensions too many. The last row becomes 0 and takes what the mean of the
 * others' weights lacks to 1, which may be negative and is 0 on average; the others are m - 1 of m
 * rows, hence the factor. Below d = 3, d/rho^2 has no variance. */
spectra_status primitive_spherical_radial(canvas *c)
{
    int64_t m = c->rows, d = c->columns;
    if (m < 2 || d < 3)
        return fail(SPECTRA_ESHAPE, "matrix %s needs m >= 2 and d >= 3, got m = %ld, d = %ld",
                    c->name, (long)m, (long)d);
    double mean = 0;
    for (int64_t r = 0; r < m - 1; r++) {
        double rho2 = canvas_chi2(c, (uint64_t)(r / 2 * (d + 2)), d + 2);
        double weight = (double)d / rho2;
        for (int64_t j = 0; j < d; j++)
            c->w[r * d + j] *= sqrt(rho2);
        c->weight[r] = weight * (double)m / (double)(m - 1);
        mean += weight / (double)(m - 1);
    }
    memset(c->w + (m - 1) * d, 0, (size_t)d * sizeof *c->w);
    c->weight[m - 1] = (double)m * (1 - mean);
    return SPECTRA_OK;
}

enum { MAX_NODES = 64 };

/* Nodes and weights of the Gauss-Hermite rule for N(0, 1): eigenvalues of the symmetric tridiagonal
 * matrix of the orthogonal polynomials' recurrence, first components of its eigenvectors squared
 * (Golub & Welsch 1969). */
static spectra_status hermite_rule(int64_t n, double *node, double *weight)
{
    double jacobi[MAX_NODES * MAX_NODES] = {0};
    for (int64_t k = 1; k < n; k++)
        jacobi[k * n + k - 1] = jacobi[(k - 1) * n + k] = sqrt((double)k);
    TRY(lapack_eigh(n, jacobi, node));
    for (int64_t k = 0; k < n; k++)
        weight[k] = jacobi[k * n] * jacobi[k * n];
    for (int64_t k = 0; k < (n + 1) / 2; k++) { /* symmetric to the last bit */
        int64_t other = n - 1 - k;
        node[other] = (node[other] - node[k]) / 2;
        node[k] = -node[other];
        weight[k] = weight[other] = (weight[k] + weight[other]) / 2;
    }
    return SPECTRA_OK;
}

/* Every number is one of the nodes, drawn with the weights as probabilities (Dao et al. 2017). */
spectra_status primitive_gauss_hermite(canvas *c)
{
    double node[MAX_NODES], weight[MAX_NODES];
    if (!(c->arg[0] >= 1 && c->arg[0] <= MAX_NODES) || c->arg[0] != floor(c->arg[0]))
        return fail(SPECTRA_EINVAL, "matrix %s: 'gauss_hermite' takes 1 to %d nodes, got %g",
                    c->name, MAX_NODES, c->arg[0]);
    int64_t nodes = (int64_t)c->arg[0];
    TRY(hermite_rule(nodes, node, weight));
    TRY(canvas_shape(c, c->m, c->d, c->m));
    for (int64_t i = 0; i < c->m * c->d; i++) {
        double u = ((double)draw_below(&c->stream, (uint64_t)i, (uint64_t)1 << 53) + 0.5) * 0x1p-53;
        int64_t k = 0;
        while (k < nodes - 1 && u > weight[k])
            u -= weight[k++];
        c->w[i] = node[k];
    }
    return SPECTRA_OK;
}
