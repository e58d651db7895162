/* A program that uses the installed library as others do: its header, and nothing from inside.
 * Prints the output of one attention, whose kernels are compiled where an argument names a
 * compiler. */
#include <spectraformer.h>

#include <stdio.h>
#include <stdlib.h>

enum { H = 2, T = 17, D = 20, M = 48, NUMBERS = H * T * D };

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, spectra_message());
    return 1;
}

static int run(const spectra_attention *att)
{
    const spectra_problem p = {.B = 1, .T = T, .S = T};
    static float x[4][NUMBERS];
    for (int i = 0; i < 3 * NUMBERS; i++)
        x[i / NUMBERS][i % NUMBERS] = (float)(i * 37 % 101) / 50.0F - 1.0F;
    void *saved = aligned_alloc(64, (size_t)spectra_attention_saved_bytes(att, &p) / 64 * 64 + 64);
    void *work = aligned_alloc(64, (size_t)spectra_attention_work_bytes(att, &p) / 64 * 64 + 64);
    const spectra_status status =
        saved && work ? spectra_attention_forward(att, &p, spectra_rows_dense(x[0], H, T, D),
                                                  spectra_rows_dense(x[1], H, T, D),
                                                  spectra_rows_dense(x[2], H, T, D),
                                                  spectra_rows_dense(x[3], H, T, D), saved, work)
                      : SPECTRA_ENOMEM;
    free(saved);
    free(work);
    if (status != SPECTRA_OK)
        return failed("forward");
    for (int i = 0; i < NUMBERS; i++)
        printf("%a\n", (double)x[3][i]);
    return 0;
}

int main(int argc, char **argv)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = "saderf",
                                         .kernel = "gmm",
                                         .H = H,
                                         .D = D,
                                         .DV = D,
                                         .M = M,
                                         .seed = 3};
    spectra_attention *att = NULL;
    if (argc > 1 && spectra_jit_allow(SPECTRA_JIT_ALWAYS, argv[1], NULL) != SPECTRA_OK)
        return failed("spectra_jit_allow");
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        return failed("spectra_attention_new");
    const int code = run(att);
    spectra_attention_free(att);
    return code;
}
