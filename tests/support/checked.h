/* Launches of templates/cuda/model.cu on the emulator in three orders of threads, which must give
 * the same bits, with a check of races and of every address.
 */
#ifndef TESTS_CHECKED_H
#define TESTS_CHECKED_H

#include "device/emulated.h"

#include "device/args.h"
#include "kernel/programs.h"
#include "support/program.h"

enum { CHECKED_THREADS = 256, CHECKED_MOST = 8 };

/* Memory a kernel may touch; what it writes is compared between orders. */
typedef struct memory {
    void *start[CHECKED_MOST];
    int64_t bytes[CHECKED_MOST];
    void *first[CHECKED_MOST], *result[CHECKED_MOST]; /* before the launch, after the first order */
    int count;
} memory;

/* What model.cu is asked for with. */
extern const jit_cuda_request checked_model;

/* A piece of its own; contents NULL: NaN. */
void *checked_place(memory *m, int64_t bytes, const void *contents);
float *checked_floats(memory *m, int64_t n, const float *contents);
void checked_release(memory *m);
void checked_launch(memory *m, const char *kernel, const int64_t blocks[3], int64_t shared,
                    const void *args, int64_t size);
/* Blocks in a line, no shared memory. */
void checked_line(memory *m, const char *kernel, int64_t blocks, const void *args, int64_t size);

/* As the library shares rows out. */
cuda_share checked_share(int64_t rows, int64_t n);
/* n random numbers, others each time; to be freed. */
float *checked_normals(int64_t n);
/* Within 2e-6 of scale + |want|. */
void checked_near(double got, double want, double scale);

#endif
