/* What both executors take for granted of the list of operations: that it can be walked in order
 * and in reverse, and where a cheap value may stand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/call.h"

enum { LAYERS = 3 };

static const model_config single = {.vocab = 11,
                                    .length = 9,
                                    .classes = 3,
                                    .embed = 6,
                                    .hidden = 10,
                                    .heads = 2,
                                    .head_dim = 4,
                                    .layers = LAYERS};

/* Every input was written by an operation before it, of the same layer but for the stream. */
static void values_are_there_when_they_are_read(void **state)
{
    (void)state;
    int64_t written[NEXT_X + 1];
    for (value_id id = VALUE_NONE; id <= NEXT_X; id++)
        written[id] = -1;
    written[LABEL] = LAYERS;
    for (int64_t i = 0; i < plan_count(&single); i++) {
        const plan_step s = plan_at(&single, i);
        const value_id read[] = {s.op->in, s.op->beside};
        for (int k = 0; k < 2; k++)
            if (read[k] && written[read[k]] != s.layer)
                fail_msg("operation %lld of layer %lld reads '%s' too early", (long long)i,
                         (long long)s.layer, value_about(read[k])->name);
        if (s.op->out == NEXT_X)
            written[X] = s.layer + 1;
        else
            written[s.op->out] = s.layer;
    }
    assert_int_equal(written[LOSS], LAYERS);
}

/* Host backward makes a cheap value again when it comes to the operation before its reader. */
static void cheap_values_are_read_by_the_next_operation(void **state)
{
    (void)state;
    int found = 0;
    for (int64_t i = 1; i < plan_count(&single); i++) {
        const plan_op *op = plan_at(&single, i).op, *before = plan_at(&single, i - 1).op;
        if (op->kind == OP_LINEAR && value_is_cheap(op->in)) {
            assert_int_equal(before->out, op->in);
            assert_true(before->kind < ROW_OPERATORS);
            found++;
        }
    }
    assert_int_equal(found, 3 * LAYERS); /* both norms and GELU */
}

/* Every value that depends on parameters has a gradient of its own shape. */
static void gradients_have_the_shape_of_their_values(void **state)
{
    (void)state;
    for (int dual = 0; dual < 2; dual++) {
        model_config c = single;
        c.dual = dual;
        for (int64_t i = 0; i < plan_count(&c); i++) {
            const value_row *row = value_about(plan_at(&c, i).op->out);
            const value_row *gradient = value_about(row->gradient);
            assert_true(row->gradient != VALUE_NONE && gradient->live & TRAINING);
            assert_int_equal(gradient->rows, row->rows);
            assert_int_equal(plan_dim(&c, gradient->columns), plan_dim(&c, row->columns));
        }
    }
}

/* A layer's tensors are used once in each layer, the head's once. */
static void parameters_are_used_once(void **state)
{
    (void)state;
    int used[PARAMS] = {0};
    for (int64_t i = 0; i < plan_count(&single); i++) {
        const plan_op *op = plan_at(&single, i).op;
        used[op->weight]++;
        used[op->bias]++;
    }
    for (param_id id = PARAM_NORM1; id < PARAMS; id++)
        assert_int_equal(used[id], id < PARAM_NORM ? LAYERS : 1);
}

static void attentions_are_found(void **state)
{
    (void)state;
    for (int64_t l = 0; l < LAYERS; l++) {
        const plan_step s = plan_at(&single, plan_attention(&single, l));
        assert_int_equal(s.op->kind, OP_ATTENTION);
        assert_int_equal(s.layer, l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_there_when_they_are_read),
        cmocka_unit_test(cheap_values_are_read_by_the_next_operation),
        cmocka_unit_test(gradients_have_the_shape_of_their_values),
        cmocka_unit_test(parameters_are_used_once),
        cmocka_unit_test(attentions_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
