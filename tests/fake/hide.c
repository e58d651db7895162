/* For LD_PRELOAD: libraries whose names hold the text of HIDE are not there for dlopen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) void *dlopen(const char *name, int flags)
{
    static void *(*next)(const char *name, int flags);
    const char *hidden = getenv("HIDE");
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "dlopen");
    return name && hidden && strstr(name, hidden) ? NULL : next(name, flags);
}
