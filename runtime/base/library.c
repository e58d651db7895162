#define _GNU_SOURCE
#include "base/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* NULL, or the name of a function that is missing. */
static const char *take_symbols(void *handle, const library_symbol *symbols, int count)
{
    for (int i = 0; i < count; i++) {
        void *address = dlsym(handle, symbols[i].name);
        if (!address && !symbols[i].optional)
            return symbols[i].name;
        memcpy(symbols[i].slot, &address, sizeof address);
    }
    return NULL;
}

spectra_status library_open(const char *what, const char *const *names, int count,
                            const library_symbol *symbols, int symbol_count, const char *also,
                            library *out)
{
    char first[400] = "", tried[300] = "";
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        void *handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (handle) {
            const char *missing = take_symbols(handle, symbols, symbol_count);
            if (!missing) {
                *out = (library){handle, names[i]};
                return SPECTRA_OK;
            }
            if (!*first)
                snprintf(first, sizeof first, "%s has no function %s, it is too old", names[i],
                         missing);
            dlclose(handle);
            continue;
        }
        /* what is there but cannot be loaded, or lacks what it needs itself, is worth more words
         * than what is not there: "libx.so: cannot open shared object file: ..." about itself */
        const char *why = dlerror();
        const size_t length = strlen(names[i]);
        if (!*first && why &&
            (strncmp(why, names[i], length) != 0 || !strstr(why, "No such file or directory")))
            snprintf(first, sizeof first, "%s: %s", names[i], why);
        if (used < sizeof tried)
            used += (size_t)snprintf(tried + used, sizeof tried - used, "%s%s", used ? ", " : "",
                                     names[i]);
    }
    if (*first)
        return fail(SPECTRA_EUNSUPPORTED, "%s: %s", what, first);
    return fail(SPECTRA_EUNSUPPORTED, "%s was not found (tried %s)%s%s", what, tried,
                also ? "; " : "", also ? also : "");
}
