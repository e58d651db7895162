/* cubin OUT.inc LIST : compiles every file of LIST (of `gen/main.lua --ahead`, lines "FILE.cu
 * sm_80") with NVRTC into FILE.sm_80.cubin beside it, and writes OUT.inc, a line a cubin with the
 * key the runtime finds it by, for gen/cubins.lua. cubin "sm_80 sm_90a" : says whether NVRTC
 * compiles for these. Part of `make gen ARCH=...`; one sentence and code 1 where it fails.
 */
#define _GNU_SOURCE
#include "device/cuda/nvrtc.h"

#include "base/bytes.h"
#include "base/outfile.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_LIMIT = 16 << 20 };

static spectra_status write_cubin(const char *path, const byte_buffer *image)
{
    outfile out;
    TRY(outfile_open(path, &out));
    fwrite(image->data, 1, image->size, out.file);
    return outfile_commit(&out);
}

static spectra_status compile(FILE *inc, const char *file, const char *text, const char *target)
{
    char stem[512], path[600];
    sha256_hex key;
    byte_buffer image = {.data = NULL};
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

static spectra_status check(char *targets)
{
    const nvrtc_info *nvrtc;
    TRY(nvrtc_open(0, &nvrtc));
    return nvrtc_check_targets(nvrtc, targets);
}

/* `list` is taken apart. */
static spectra_status compile_all(FILE *inc, char *list)
{
    char *held = NULL;
    for (char *file = strtok_r(list, " \n", &held); file; file = strtok_r(NULL, " \n", &held)) {
        const char *target = strtok_r(NULL, " \n", &held);
        byte_buffer text = {.data = NULL};
        if (!target)
            return fail(SPECTRA_EFORMAT, "%s has no architecture behind it", file);
        TRY(read_whole_file(file, TEXT_LIMIT, &text));
        spectra_status status = compile(inc, file, text.data, target);
        free(text.data);
        TRY(status);
    }
    return SPECTRA_OK;
}

static spectra_status run(const char *out, const char *list)
{
    outfile inc;
    byte_buffer lines = {.data = NULL};
    TRY(read_whole_file(list, TEXT_LIMIT, &lines));
    spectra_status status = outfile_open(out, &inc);
    if (status == SPECTRA_OK) {
        status = compile_all(inc.file, lines.data);
        if (status == SPECTRA_OK)
            status = outfile_commit(&inc);
        else
            outfile_abort(&inc);
    }
    free(lines.data);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: cubin OUT.inc LIST, cubin \"sm_80 sm_90a\"\n");
        return 2;
    }
    spectra_status status = argc == 2 ? check(argv[1]) : run(argv[1], argv[2]);
    if (status != SPECTRA_OK)
        fprintf(stderr, "cubin: %s\n", spectra_message());
    return status != SPECTRA_OK;
}
