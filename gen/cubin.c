/* cubin OUT.inc "sm_80 sm_90a" FILE.cu ... : compiles every file with NVRTC for every architecture
 * into FILE.sm_80.cubin beside it, and writes OUT.inc, a line a cubin with the key the runtime
 * finds it by, for gen/cubins.lua. Part of `make gen ARCH=...`; one sentence and code 1 where it
 * fails.
 */
#define _GNU_SOURCE
#include "device_nvrtc.h"

#include "outfile.h"
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_LIMIT = 16 << 20 };

static spectra_status write_cubin(const char *path, const jit_bytes *image)
{
    outfile out;
    TRY(outfile_open(path, &out));
    fwrite(image->data, 1, image->size, out.file);
    return outfile_commit(&out);
}

static spectra_status compile(FILE *inc, const char *file, const char *text, const char *target)
{
    char stem[512], path[600];
    jit_hash key;
    jit_bytes image = {.data = NULL};
    size_t length = strlen(file);
    if (length < 4 || length >= sizeof stem || strcmp(file + length - 3, ".cu") != 0)
        return fail(SPECTRA_EINVAL, "%s: not a file NAME.cu", file);
    snprintf(stem, sizeof stem, "%.*s", (int)length - 3, file);
    snprintf(path, sizeof path, "%s.%s.cubin", stem, target);
    TRY(nvrtc_key(text, target, key));
    TRY(nvrtc_compile(file, text, target, &image));
    spectra_status status = write_cubin(path, &image);
    if (status == SPECTRA_OK) {
        fprintf(inc, "CUBIN(%s, %s, %s)\n", path, target, key);
        printf("%s: %zu bytes\n", path, image.size);
    }
    free(image.data);
    return status;
}

/* `targets` is taken apart. */
static spectra_status compile_all(FILE *inc, char *targets, int files, char **file)
{
    const nvrtc_info *nvrtc;
    char *list[NVRTC_ARCHS], *held = NULL;
    int count = 0;
    TRY(nvrtc_open(0, &nvrtc));
    for (char *word = strtok_r(targets, " ,", &held); word; word = strtok_r(NULL, " ,", &held)) {
        TRY(nvrtc_check_target(nvrtc, word));
        if (count == NVRTC_ARCHS)
            return fail(SPECTRA_EINVAL, "more than %d architectures", NVRTC_ARCHS);
        list[count++] = word;
    }
    for (int i = 0; i < files; i++) {
        jit_bytes text = {.data = NULL};
        spectra_status status = jit_read_file(file[i], TEXT_LIMIT, &text);
        for (int k = 0; k < count && status == SPECTRA_OK; k++)
            status = compile(inc, file[i], text.data, list[k]);
        free(text.data);
        TRY(status);
    }
    return SPECTRA_OK;
}

int main(int argc, char **argv)
{
    outfile inc;
    if (argc < 4) {
        fprintf(stderr, "usage: cubin OUT.inc \"sm_80 sm_90a\" FILE.cu ...\n");
        return 2;
    }
    spectra_status status = outfile_open(argv[1], &inc);
    if (status == SPECTRA_OK) {
        status = compile_all(inc.file, argv[2], argc - 3, argv + 3);
        if (status == SPECTRA_OK)
            status = outfile_commit(&inc);
        else
            outfile_abort(&inc);
    }
    if (status != SPECTRA_OK)
        fprintf(stderr, "cubin: %s\n", spectra_message());
    return status != SPECTRA_OK;
}
