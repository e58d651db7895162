/* The cuBLAS of fake.h. */
#include "fake/fake.h"

#include <stdlib.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum { NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

typedef struct fake_cublas {
    void *stream, *workspace;
} fake_cublas;

FAKE_PUBLIC int cublasCreate_v2(fake_cublas **out)
{
    CHECK(fake_context() == FAKE_OK, NOT_INITIALIZED);
    CHECK(fake_forbidden() == FAKE_OK, EXECUTION_FAILED);
    *out = calloc(1, sizeof **out);
    fake_count("cuBLAS handle", 1);
    return 0;
}

FAKE_PUBLIC int cublasDestroy_v2(fake_cublas *handle)
{
    CHECK(handle, NOT_INITIALIZED);
    free(handle);
    fake_count("cuBLAS handle", -1);
    return 0;
}

FAKE_PUBLIC int cublasGetProperty(int which, int *value)
{
    static const int version[] = {13, 1, 0};
    CHECK(which >= 0 && which < 3, INVALID_VALUE);
    *value = version[which];
    return 0;
}

FAKE_PUBLIC const char *cublasGetStatusString(int code)
{
    return code == NOT_INITIALIZED    ? "the library was not initialized"
           : code == INVALID_VALUE    ? "an unsupported value or parameter was passed"
           : code == EXECUTION_FAILED ? "the function failed to launch on the GPU"
                                      : "the functionality is not supported";
}

/* A new stream takes the workspace back. */
FAKE_PUBLIC int cublasSetStream_v2(fake_cublas *handle, void *stream)
{
    CHECK(handle, NOT_INITIALIZED);
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), INVALID_VALUE);
    handle->stream = stream;
    handle->workspace = NULL;
    return 0;
}

FAKE_PUBLIC int cublasSetWorkspace_v2(fake_cublas *handle, void *memory, size_t bytes)
{
    CHECK(handle, NOT_INITIALIZED);
    CHECK((uintptr_t)memory % 256 == 0 && fake_in_memory(memory, bytes), INVALID_VALUE);
    handle->workspace = memory;
    return 0;
}

static size_t matrix_bytes(int rows, int columns, int ld)
{
    return ((size_t)(columns - 1) * (size_t)ld + (size_t)rows) * sizeof(float);
}

FAKE_PUBLIC int cublasGemmEx(fake_cublas *handle, int ta, int tb, int m, int n, int k,
                             const void *alpha, const void *A, int type_a, int lda, const void *B,
                             int type_b, int ldb, const void *beta, void *C, int type_c, int ldc,
                             int compute, int algorithm)
{
    CHECK(handle && handle->stream && fake_context() == FAKE_OK, NOT_INITIALIZED);
    /* without a workspace of its own it allocates */
    CHECK(handle->workspace || fake_forbidden() == FAKE_OK, EXECUTION_FAILED);
    CHECK(type_a == 0 && type_b == 0 && type_c == 0 && algorithm == -1, NOT_SUPPORTED);
    CHECK(compute == 68 || compute == 77, NOT_SUPPORTED);
    CHECK(ta >= 0 && ta <= 1 && tb >= 0 && tb <= 1 && m > 0 && n > 0 && k > 0, INVALID_VALUE);
    const int rows_a = ta ? k : m, rows_b = tb ? n : k;
    CHECK(lda >= rows_a && ldb >= rows_b && ldc >= m, INVALID_VALUE);
    CHECK(fake_in_memory(A, matrix_bytes(rows_a, ta ? m : k, lda)) &&
              fake_in_memory(B, matrix_bytes(rows_b, tb ? k : n, ldb)) &&
              fake_in_memory(C, matrix_bytes(m, n, ldc)),
          INVALID_VALUE);
    const fake_work w = {.kind = FAKE_PRODUCT,
                         .product = {ta, tb, m, n, k, lda, ldb, ldc, compute == 77,
                                     *(const float *)alpha, *(const float *)beta, A, B, C}};
    return fake_push(handle->stream, &w);
}
