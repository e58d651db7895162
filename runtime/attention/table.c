/* The attentions of this build: the only place outside their folders that names them. */
#include "attention/attention.h"

extern const attention_kind attention_performer, attention_official, attention_softmax;

/* Softmax is computed as the reference does either way. */
const attention_row attention_table[] = {
    {&attention_performer, &attention_official},
    {&attention_softmax, &attention_softmax},
    {NULL, NULL},
};
