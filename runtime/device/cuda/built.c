#include "device/cuda/built.h"

#include "base/bytes.h"
#include "device/cuda/nvrtc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How well machine code for `target` suits: 0 not at all, else the more the better. */
static int suits(const char *target, int arch)
{
    char *end = NULL;
    long made = strncmp(target, "sm_", 3) == 0 ? strtol(target + 3, &end, 10) : 0;
    if (made == arch)
        return *end == 'a' ? arch + 2 : arch + 1;
    return end && *end == 0 && made < arch && made / 10 == arch / 10 ? (int)made : 0;
}

bool device_built(const char *text, int arch, byte_buffer *image)
{
    sha256_hex key;
    const built_cubin *best = NULL;
    const char *key_of = ""; /* the architecture of `key`; many in a row are of one */
    for (const built_cubin *c = built_cubins; c->name; c++) {
        if (suits(c->arch, arch) <= (best ? suits(best->arch, arch) : 0))
            continue;
        if (strcmp(c->arch, key_of) != 0 && nvrtc_key(text, c->arch, key) != SPECTRA_OK)
            continue;
        key_of = c->arch;
        if (strcmp(key, c->key) == 0)
            best = c;
    }
    if (!best)
        return false;
    /* only read */
    *image = (byte_buffer){(char *)(uintptr_t)best->data, best->size};
    return true;
}
