#include "kernel/programs.h"

#include "base/status.h"
#include "kernel/generate.h"
#include "kernel/jit.h"

spectra_status jit_programs_make(const jit_cuda_request *request, jit_programs *out)
{
    jit_cuda_request r = *request;
    const jit_spec *own = r.feat ? jit_spec_find(r.feat) : NULL;
    if (own)
        r.feat = own->path;
    return generate_programs(&r, own ? own->text : NULL, out);
}
