/* An operation of the plan with its arrays filled in, ready to be computed. The host makes such
 * calls for a chunk of rows, a device for the whole batch; both call the generated row operators
 * (specs/row) with the arguments made here. A new row operator is a spec, a kind in plan.h and a
 * row of the table in call.c.
 */
#ifndef SPECTRA_MODEL_CALL_H
#define SPECTRA_MODEL_CALL_H

#include "model/internal.h"

/* Where the arrays are, and which of their rows are meant. */
typedef struct call_site {
    const model *m;
    const values *v;
    const pass_shape *shape;
    float *params, *grads;   /* flat; grads may begin */
    int64_t grads_first;     /* at this offset, and be NULL */
    int64_t first, rows;     /* a chunk of the tokens; rows 0: everything */
    float *(*scratch)[DIMS]; /* of a chunk: cheap values and cheap gradients by their width */
} call_site;

typedef struct plan_call {
    const call_site *site;
    const plan_op *op;
    int64_t number, layer, rows;              /* number: in the plan */
    int64_t n, beside_n, out_n;               /* columns of in, beside, out */
    float *in, *beside, *out, *weight, *bias; /* NULL: the operation has none */
    float *g_in, *g_out, *g_weight, *g_bias;  /* their gradients */
    bool add;          /* g_in is the residual stream's: added to, not written */
    const float *mask; /* rows of dropout's factors, mask_ld apart; devices have bits instead */
    int64_t mask_ld;
} plan_call;

/* Operation i of the plan, without dropout's factors. */
plan_call call_at(const call_site *s, int64_t i);

/* Where a row operator's input comes from. */
typedef enum row_source {
    FROM_NOTHING,
    FROM_IN,
    FROM_BESIDE,
    FROM_SCALE, /* a norm's weight, and the shift behind it */
    FROM_SHIFT,
    FROM_BIAS,
    FROM_MASK
} row_source;

enum { ROW_SOURCES = 4 };
typedef struct row_operator {
    const char *name;              /* of its spec */
    row_source input[ROW_SOURCES]; /* in the spec's order; the one output is the operation's */
    bool shared;                   /* has parameters: inputs that all rows share */
    bool linear;                   /* backward does not read in and beside */
    float constant;                /* the spec's only one, if it has any */
} row_operator;
extern const row_operator row_operators[ROW_OPERATORS];

/* Arguments of the operator, which need not be c->op's; backward writes `out` once more unless it
 * is NULL, adds to g_weight and g_bias, and leaves the gradient of beside, which is g_out, alone.
 */
row_args row_forward_args(const plan_call *c, plan_kind kind);
row_args row_backward_args(const plan_call *c, plan_kind kind);

#endif
