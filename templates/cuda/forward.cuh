/* What the passes over keys and over queries share, forward. Each has its own places in shared memory,
 * since one may come after the other in a block. */
#ifndef FORWARD_CUH
#define FORWARD_CUH

enum {
    LDV = VB + 4, /* distance of rows of v and of S */
    NV8 = VB / 8
};
#endif
