#include "base/outfile.h"
#include "base/status.h"
#include "cli/cli.h"
#include "kernel/generate.h"
#include "kernel/jit.h"
#include "kernel/registry.h"

#include <stdio.h>

static spectra_status write_text(const generated_file *f)
{
    outfile out;
    TRY(outfile_open(f->path, &out));
    if (fwrite(f->text, 1, f->size, out.file) != f->size) {
        outfile_abort(&out);
        return fail(SPECTRA_EIO, "%s: cannot write", f->path);
    }
    return outfile_commit(&out);
}

static spectra_status write_all(const char *folder, const generated_files *files)
{
    TRY(outfile_folder(folder));
    for (int i = 0; i < files->count; i++)
        TRY(write_text(&files->file[i]));
    for (int i = 0; i < files->count; i++)
        puts(files->file[i].path);
    return SPECTRA_OK;
}

spectra_status cli_gen(const cli_args *a)
{
    const char *folder = NULL, *feat = NULL, *kernel = NULL;
    char name[SETTING_TEXT + 1];
    const cli_value *v = a->value;
    const int64_t d = v[OPT_D].integer;
    const int64_t sizes[] = {d, v[OPT_VALUE_SIZE].given ? v[OPT_VALUE_SIZE].integer : d,
                             v[OPT_M].integer};
    TRY(cli_need(a, OPT_OUT, &folder));
    TRY(cli_pair(a, &feat, &kernel));
    if (jit_spec_find(feat))
        return fail(SPECTRA_EINVAL,
                    "gen writes built-in pairs; %s compiles by itself in attend, features, train",
                    v[OPT_FEAT].text);
    generated_files files = {0};
    registry_form(feat, v[OPT_ANTITHETIC].given, name, sizeof name);
    TRY(generate_pair(folder, name, kernel, sizes, v[OPT_DTYPE].text, &files));
    spectra_status status = write_all(folder, &files);
    generated_files_free(&files);
    return status;
}
