/* The reference system's random-feature attention, as its code computes it: padded keys count in
 * the normaliser, the maximum is taken per token, an epsilon follows the exponential, A differs
 * from position to position (from statistics over the batch, or drawn and never trained), and
 * gradients flow through A, psi and the maxima. For comparison with its published numbers only.
 *
 * Which A: a feature whose adapt computes scalars only (oprf) gets it per position from the batch's
 * moments; any other feature with an A (gerf, saderf) a uniform draw from +-0.124999, unless given
 * as "A_pos". Vectors (psi) come from adapt per (batch, head), over all positions.
 */
#ifndef SPECTRA_ATTENTION_OFFICIAL_OFFICIAL_H
#define SPECTRA_ATTENTION_OFFICIAL_OFFICIAL_H

#include "attention/performer/performer.h"

typedef struct official {
    performer performer; /* first: an official's pointer is a performer's too */
    attention_input a_pos;
} official;

static inline official *official_of(const spectra_attention *att)
{
    return att->own;
}

/* T != S and an A_pos of another length are refused. */
spectra_status official_check(const official *of, const spectra_problem *p);
/* Is A of every position made from the batch's moments? */
bool official_by_position(const performer *pf);
/* Scalars of position t of head h: given, drawn or, by position, made of the moments m (4, DP). */
void official_scalars(const official *of, int64_t h, int64_t t, const float *m, float *s);
/* What is added to every feature. */
float official_epsilon(const performer *pf);

extern const struct attention_device_ops official_device_ops;

#endif
