#include "device/cuda/cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct cublas_handle cublas_handle;

enum {
    OP_NONE = 0,
    OP_TRANSPOSE = 1,
    REAL_32 = 0,
    COMPUTE_32 = 68,
    COMPUTE_TF32 = 77,
    ALGORITHM_DEFAULT = -1
};

/* Results are 0 or a code that status_text explains. */
static struct {
    int (*create)(cublas_handle **handle);
    int (*destroy)(cublas_handle *handle);
    int (*property)(int which, int *value); /* 0 major, 1 minor, 2 patch */
    const char *(*status_text)(int code);   /* from CUDA 11.4 on */
    int (*set_stream)(cublas_handle *handle, cuda_stream *stream);
    int (*set_workspace)(cublas_handle *handle, void *memory, size_t bytes);
    int (*gemm)(cublas_handle *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                const void *A, int type_a, int lda, const void *B, int type_b, int ldb,
                const void *beta, void *C, int type_c, int ldc, int compute, int algorithm);
} cublas;

static const library_symbol symbols[] = {
    {"cublasCreate_v2", &cublas.create, false},
    {"cublasDestroy_v2", &cublas.destroy, false},
    {"cublasGetProperty", &cublas.property, false},
    {"cublasGetStatusString", &cublas.status_text, false},
    {"cublasSetStream_v2", &cublas.set_stream, false},
    {"cublasSetWorkspace_v2", &cublas.set_workspace, false},
    {"cublasGemmEx", &cublas.gemm, false},
};

static const char *const names[] = {
    "libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13",
    "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.12",
    "libcublas.so.11", "/usr/local/cuda/lib64/libcublas.so.11",
};

/* What cuBLAS takes for itself on GPUs of compute capability 9.0; less elsewhere. */
enum { WORKSPACE = 32 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static library found;

static spectra_status check(int code, const char *what)
{
    return code == 0 ? SPECTRA_OK
                     : fail(SPECTRA_EUNSUPPORTED, "%s: cuBLAS: %s", what, cublas.status_text(code));
}

static spectra_status open_library(void)
{
    pthread_mutex_lock(&lock);
    spectra_status status = found.handle
                                ? SPECTRA_OK
                                : library_open("cuBLAS", names, sizeof names / sizeof names[0],
                                               symbols, sizeof symbols / sizeof symbols[0],
                                               "it is part of the CUDA toolkit", &found);
    pthread_mutex_unlock(&lock);
    return status;
}

spectra_status cublas_open(char *text, size_t size)
{
    int version[3] = {0};
    TRY(open_library());
    for (int i = 0; i < 3; i++)
        TRY(check(cublas.property(i, &version[i]), "asking for the version"));
    snprintf(text, size, "cuBLAS %d.%d.%d", version[0], version[1], version[2]);
    return SPECTRA_OK;
}

spectra_status cublas_prepare(device *dev)
{
    cuda_state *s = dev->state;
    if (s->blas)
        return SPECTRA_OK;
    TRY(open_library());
    cublas_handle *handle = NULL;
    cuda_pointer memory = 0;
    TRY(check(cublas.create(&handle), "starting cuBLAS"));
    s->blas = handle;
    /* in this order: a new stream takes the workspace back. Without one of its own cuBLAS allocates
     * while it records. */
    spectra_status status = check(cublas.set_stream(handle, s->stream), "giving cuBLAS a stream");
    if (status == SPECTRA_OK)
        status = cuda_check(cuda.alloc(&memory, WORKSPACE), "the workspace of cuBLAS");
    if (status == SPECTRA_OK) {
        s->blas_memory = (void *)(uintptr_t)memory;
        status = check(cublas.set_workspace(handle, s->blas_memory, WORKSPACE),
                       "giving cuBLAS a workspace");
    }
    if (status != SPECTRA_OK)
        cublas_close(dev);
    return status;
}

/* Row-major C = op(A) op(B) is column-major C' = op(B)' op(A)'. */
spectra_status cublas_product(device *dev, const device_product *p)
{
    cuda_state *s = dev->state;
    if (dev->recording && !s->blas)
        return open_library() == SPECTRA_OK
                   ? fail(SPECTRA_EUNSUPPORTED, "cuBLAS could not be started for this recording")
                   : SPECTRA_EUNSUPPORTED;
    TRY(cublas_prepare(dev));
    return check(cublas.gemm(s->blas, p->transpose_b ? OP_TRANSPOSE : OP_NONE,
                             p->transpose_a ? OP_TRANSPOSE : OP_NONE, (int)p->n, (int)p->m,
                             (int)p->k, &p->alpha, p->B, REAL_32, (int)p->ldb, p->A, REAL_32,
                             (int)p->lda, &p->beta, p->C, REAL_32, (int)p->ldc,
                             p->tf32 ? COMPUTE_TF32 : COMPUTE_32, ALGORITHM_DEFAULT),
                 "a matrix product");
}

void cublas_close(device *dev)
{
    cuda_state *s = dev->state;
    if (s->blas)
        (void)cublas.destroy(s->blas);
    if (s->blas_memory)
        (void)cuda.release((cuda_pointer)(uintptr_t)s->blas_memory);
    s->blas = s->blas_memory = NULL;
}
