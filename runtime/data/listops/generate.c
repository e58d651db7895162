#define _GNU_SOURCE
#include "data/listops/listops.h"

#include "base/outfile.h"
#include "base/status.h"
#include "math/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    GENERATOR_DEPTH = 10, /* at this depth only digits */
    GENERATOR_ARGUMENTS = 10,
    STREAM_LISTOPS = 1, /* rng_open's layer */
    WORDS = 64
};

/* One attempt: its own random stream, numbered by the attempt. */
typedef struct attempt {
    rng_stream random;
    uint64_t used; /* words */
    uint32_t word[WORDS];
    uint8_t codes[LISTOPS_LONGEST];
    int64_t n;
} attempt;

static uint32_t next_word(attempt *a)
{
    if (a->used % WORDS == 0)
        rng_words(&a->random, a->used, WORDS, a->word);
    return a->word[a->used++ % WORDS];
}

static int below(attempt *a, int n)
{
    return (int)((uint64_t)next_word(a) * (uint64_t)n >> 32);
}

/* Value of the node drawn, or -1 as soon as it is clear that the expression gets too long. */
static int draw_node(attempt *a, int depth)
{
    if (a->n == LISTOPS_LONGEST)
        return -1;
    bool is_list = depth < GENERATOR_DEPTH && next_word(a) < UINT32_C(1) << 30; /* 1/4 */
    if (!is_list) {
        int digit = below(a, 10);
        a->codes[a->n++] = (uint8_t)digit;
        return digit;
    }
    int arguments = 2 + below(a, GENERATOR_ARGUMENTS - 1);
    int64_t operator_at = a->n++;
    int64_t count[10] = {0};
    for (int i = 0; i < arguments; i++) {
        int value = draw_node(a, depth + 1);
        if (value < 0)
            return -1;
        count[value]++;
    }
    if (a->n == LISTOPS_LONGEST)
        return -1;
    int op = LISTOPS_MAX + below(a, 4);
    a->codes[operator_at] = (uint8_t)op;
    a->codes[a->n++] = LISTOPS_END;
    return listops_apply(op, count);
}

/* Hashes seen: open addressing, 0 = free. Two expressions of one 64-bit hash count as duplicates.
 */
typedef struct hash_set {
    uint64_t *slot;
    uint64_t mask;
} hash_set;

static uint64_t hash_codes(const uint8_t *codes, int64_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (int64_t i = 0; i < n; i++)
        h = (h ^ codes[i]) * UINT64_C(0x100000001b3);
    return h ? h : 1;
}

static bool hash_insert(hash_set *set, uint64_t hash)
{
    for (uint64_t i = hash & set->mask;; i = (i + 1) & set->mask) {
        if (set->slot[i] == hash)
            return false;
        if (!set->slot[i]) {
            set->slot[i] = hash;
            return true;
        }
    }
}

typedef struct generator {
    const listops_options *options;
    hash_set seen;
    split_writer split[3];
    outfile tsv[3]; /* open when they are wanted */
} generator;

static spectra_status generate_splits(generator *g)
{
    const listops_options *o = g->options;
    int64_t total = o->rows[0] + o->rows[1] + o->rows[2];
    uint64_t slots = 1024;
    while (slots < 2 * (uint64_t)total)
        slots *= 2;
    g->seen = (hash_set){calloc(slots, sizeof *g->seen.slot), slots - 1};
    if (!g->seen.slot)
        return fail(SPECTRA_ENOMEM, "listops: out of memory for %lld rows", (long long)total);
    int s = 0;
    for (uint32_t number = 0; s < 3; number++) {
        attempt a = {.random = rng_open(o->seed, RNG_DATA, STREAM_LISTOPS, number)};
        int value = draw_node(&a, 1);
        if (value < 0 || a.n < LISTOPS_SHORTEST || !hash_insert(&g->seen, hash_codes(a.codes, a.n)))
            continue;
        TRY(listops_add(&g->split[s], o->tokens, a.codes, a.n, value));
        if (g->tsv[s].file) {
            listops_print(g->tsv[s].file, a.codes);
            fprintf(g->tsv[s].file, "\t%d\r\n", value);
            if (ferror(g->tsv[s].file))
                return fail(SPECTRA_EIO, "%s: cannot write: %s", g->tsv[s].path, strerror(errno));
        }
        while (s < 3 && g->split[s].rows == o->rows[s])
            s++;
    }
    return SPECTRA_OK;
}

static spectra_status open_tsv(generator *g, const char *out_dir)
{
    for (int i = 0; i < 3; i++) {
        char *path = outfile_join(out_dir, listops_tsv_names[i]);
        if (!path)
            return fail(SPECTRA_ENOMEM, "listops: out of memory");
        spectra_status status = SPECTRA_OK;
        if (!g->options->overwrite && access(path, F_OK) == 0)
            status = fail(SPECTRA_EINVAL, "%s exists already; --overwrite replaces it", path);
        if (status == SPECTRA_OK)
            status = outfile_open(path, &g->tsv[i]);
        free(path);
        TRY(status);
        fputs("Source\tTarget\r\n", g->tsv[i].file);
    }
    return SPECTRA_OK;
}

static spectra_status generate(generator *g, const char *out_dir)
{
    const listops_options *o = g->options;
    for (int i = 0; i < 3; i++)
        if (o->rows[i] < 1 || o->rows[i] > LISTOPS_ROWS)
            return fail(SPECTRA_EINVAL, "listops: %lld rows of %s, allowed are 1 to %d",
                        (long long)o->rows[i], dataset_splits[i], LISTOPS_ROWS);
    TRY(split_folder(out_dir, o->overwrite));
    if (o->keep_tsv)
        TRY(open_tsv(g, out_dir));
    TRY(generate_splits(g));
    for (int i = 0; i < 3 && o->keep_tsv; i++)
        TRY(outfile_commit(&g->tsv[i]));
    char origin[96];
    snprintf(origin, sizeof origin, "generated by LRA's rules, seed %llu, rows %lld,%lld,%lld",
             (unsigned long long)o->seed, (long long)o->rows[0], (long long)o->rows[1],
             (long long)o->rows[2]);
    for (int i = 0; i < 3; i++)
        TRY(listops_write(&g->split[i], out_dir, i, o->tokens, origin));
    return SPECTRA_OK;
}

spectra_status listops_generate(const char *out_dir, const listops_options *options)
{
    generator g = {.options = options};
    spectra_status status = generate(&g, out_dir);
    for (int i = 0; i < 3; i++) {
        outfile_abort(&g.tsv[i]);
        split_writer_free(&g.split[i]);
    }
    free(g.seen.slot);
    return status;
}
