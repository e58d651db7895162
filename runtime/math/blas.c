#include "math/blas.h"

#include <assert.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/status.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

static struct {
    void *library;
    char config[128];
    char problem[512]; /* why there is no library */
    void (*sgemm)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                  int lda, const float *b, int ldb, float beta, float *c, int ldc);
    void (*dgemm)(int order, int ta, int tb, int m, int n, int k, double alpha, const double *a,
                  int lda, const double *b, int ldb, double beta, double *c, int ldc);
    void (*geqrf)(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
                  const int *lwork, int *info);
    void (*orgqr)(const int *m, const int *n, const int *k, double *a, const int *lda,
                  const double *tau, double *work, const int *lwork, int *info);
    void (*syevd)(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                  double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                  int *info);
    void (*set_num_threads)(int n);
    char *(*get_config)(void);
    char *(*get_corename)(void);
} blas;

static const struct {
    const char *symbol;
    void *slot;
} symbols[] = {
    {"cblas_sgemm", &blas.sgemm},
    {"cblas_dgemm", &blas.dgemm},
    {"dgeqrf_", &blas.geqrf},
    {"dorgqr_", &blas.orgqr},
    {"dsyevd_", &blas.syevd},
    {"openblas_set_num_threads", &blas.set_num_threads},
    {"openblas_get_config", &blas.get_config},
    {"openblas_get_corename", &blas.get_corename},
};

/* 32-bit integers only: the 64-bit builds have other names (libopenblas64.so.0). */
static const char *const library_names[] = {
    "libopenblas.so.0",
    "libopenblas.so",
    "libopenblasp.so.0",
    "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0",
    "/usr/lib/x86_64-linux-gnu/openblas-serial/libopenblas.so.0",
    "/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so.0",
    "/usr/lib/aarch64-linux-gnu/openblas-serial/libopenblas.so.0",
};
enum { LIBRARY_NAMES = sizeof library_names / sizeof *library_names };

/* OpenBLAS's name of this processor's kernels; NULL: let it choose. Versions older than a
 * processor take it for a much older one, so the instruction sets decide, not the model. */
static const char *core_type(void)
{
#if defined(__x86_64__)
    switch (cpu_best()) {
    case CPU_AVX512:
        return cpu_has_bf16() ? "Cooperlake" : "SkylakeX";
    case CPU_AVX2:
        return __builtin_cpu_is("amd") ? "Zen" : "Haswell";
    default: /* limited: the best one without AVX */
        return cpu_machine() == CPU_PORTABLE ? NULL : "Nehalem";
    }
#else
    return NULL;
#endif
}

extern char **environ;

/* Sets a variable for the time of the load; returns a copy of its former value. */
static char *variable_set(const char *name, const char *value)
{
    char *copy = NULL;
    size_t length = strlen(name);
    for (char **entry = environ; entry && *entry && !copy; entry++)
        if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
            copy = strdup(*entry + length + 1);
    setenv(name, value, 1);
    return copy;
}

static void variable_restore(const char *name, char *former)
{
    if (former)
        setenv(name, former, 1);
    else
        unsetenv(name);
    free(former);
}

static void *load_library(void)
{
    for (int i = 0; i < LIBRARY_NAMES; i++) {
        void *library = dlopen(library_names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
        if (library)
            return library;
    }
    /* OpenBLAS has no other way to be told these two before it starts its threads. */
    const char *core = core_type();
    char *former_core = core ? variable_set("OPENBLAS_CORETYPE", core) : NULL;
    char *former_threads = variable_set("OPENBLAS_NUM_THREADS", "1");
    void *library = NULL;
    for (int i = 0; i < LIBRARY_NAMES && !library; i++)
        library = dlopen(library_names[i], RTLD_NOW | RTLD_LOCAL);
    variable_restore("OPENBLAS_NUM_THREADS", former_threads);
    if (core)
        variable_restore("OPENBLAS_CORETYPE", former_core);
    return library;
}

static void list_tried(void)
{
    size_t used =
        (size_t)snprintf(blas.problem, sizeof blas.problem, "OpenBLAS was not found; tried");
    for (int i = 0; i < LIBRARY_NAMES && used < sizeof blas.problem; i++)
        used += (size_t)snprintf(blas.problem + used, sizeof blas.problem - used, "%s %s",
                                 i ? "," : "", library_names[i]);
}

static void open_once(void)
{
    void *library = load_library();
    if (!library) {
        list_tried();
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].symbol);
        if (!address) {
            snprintf(blas.problem, sizeof blas.problem,
                     "the OpenBLAS of this machine has no function %s", symbols[i].symbol);
            dlclose(library);
            return;
        }
        memcpy(symbols[i].slot, &address, sizeof address);
    }
    blas.set_num_threads(1);
    /* "OpenBLAS 0.3.21 NO_LAPACKE ..." */
    const char *config = blas.get_config();
    const char *version = strchr(config, ' ');
    int length = version ? (int)(version + 1 - config + (long)strcspn(version + 1, " ")) : 0;
    snprintf(blas.config, sizeof blas.config, "%.*s %s", length, config, blas.get_corename());
    blas.library = library;
}

spectra_status blas_open(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    return blas.library ? SPECTRA_OK : fail(SPECTRA_EUNSUPPORTED, "%s", blas.problem);
}

const char *blas_config(void)
{
    return blas.config;
}

static int blas_int(int64_t n)
{
    assert(n >= 0 && n <= INT_MAX);
    return (int)n;
}

void blas_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    assert(blas.library);
    blas.sgemm(ROW_MAJOR, ta ? TRANS : NO_TRANS, tb ? TRANS : NO_TRANS, blas_int(m), blas_int(n),
               blas_int(k), alpha, a, blas_int(lda), b, blas_int(ldb), beta, c, blas_int(ldc));
}

void blas_dgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc)
{
    assert(blas.library);
    blas.dgemm(ROW_MAJOR, ta ? TRANS : NO_TRANS, tb ? TRANS : NO_TRANS, blas_int(m), blas_int(n),
               blas_int(k), alpha, a, blas_int(lda), b, blas_int(ldb), beta, c, blas_int(ldc));
}

static void transpose(int64_t n, double *a)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            double t = a[i * n + j];
            a[i * n + j] = a[j * n + i];
            a[j * n + i] = t;
        }
}

spectra_status lapack_qr_square(int64_t n, double *a, double *diag)
{
    TRY(blas_open());
    int size = blas_int(n), info = 0;
    int lwork = blas_int(64 * n + 1); /* LAPACK's block size is at most 64 */
    double *tau = malloc((size_t)(n + lwork) * sizeof *tau);
    if (!tau)
        return fail(SPECTRA_ENOMEM, "no memory for the QR of a %ld x %ld matrix", (long)n, (long)n);
    double *work = tau + n;
    transpose(n, a); /* LAPACK is column-major */
    blas.geqrf(&size, &size, a, &size, tau, work, &lwork, &info);
    for (int64_t i = 0; i < n && !info; i++)
        diag[i] = a[i * n + i];
    if (!info)
        blas.orgqr(&size, &size, &size, a, &size, tau, work, &lwork, &info);
    transpose(n, a);
    free(tau);
    return info ? fail(SPECTRA_EINVAL, "QR: argument %d of LAPACK is invalid", -info) : SPECTRA_OK;
}

spectra_status lapack_eigh(int64_t n, double *a, double *w)
{
    TRY(blas_open());
    int size = blas_int(n), info = 0;
    int lwork = blas_int(1 + 6 * n + 2 * n * n),
        liwork = blas_int(3 + 5 * n); /* dsyevd's minimum */
    double *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork);
    spectra_status status = SPECTRA_OK;
    if (!work || !iwork)
        status = fail(SPECTRA_ENOMEM, "no memory for the eigenvectors of a %ld x %ld matrix",
                      (long)n, (long)n);
    else
        /* Column-major columns of eigenvectors are row-major rows. */
        blas.syevd("V", "U", &size, a, &size, w, work, &lwork, iwork, &liwork, &info);
    if (info)
        status = fail(SPECTRA_EDIVERGED, "the eigenvalues of a %ld x %ld matrix do not converge",
                      (long)n, (long)n);
    free(work);
    free(iwork);
    return status;
}
