/* Tests of apply/replace.c: biases, whole modules, and embeddings that are tied. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/plans.h"

#define BASE_Q "q.weight F32 4x3, "

static void
assert_others(const char *config, const char *tensors, const char *model, const char *names)
{
    AUTO_BENCH(bench);

    adapter(config, tensors);
    filled(MODEL, model);
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_replacements(&bench.plan, names);
}

#define SAVE ",\"modules_to_save\":"

static void test_biases_and_modules_find_their_places(void **state)
{
    static const struct {
        const char *config, *tensors, *model, *names;
    } cases[] = {
        {"", Q ", .q.base_layer.bias F32 4", BASE_Q "q.bias F32 4", "q.bias"},
        {",\"bias\":\"all\"", Q ", .q.base_layer.bias F32 4, .norm.bias F32 7",
         BASE_Q "q.bias BF16 4, norm.bias F32 7, norm.weight F32 7", "norm.bias q.bias"},
        {",\"bias\":\"all\"", Q ", .LayerNorm.bias F32 4, .x.LayerNorm.weight F32 4",
         BASE_Q "LayerNorm.beta F32 4, x.LayerNorm.gamma F32 4",
         "LayerNorm.beta x.LayerNorm.gamma"},
        {SAVE "[\"LayerNorm\"]", Q ", .LayerNorm.bias F32 4", BASE_Q "x F32 1", "+LayerNorm.bias"},
        {SAVE "[\"classifier\",\"score\"]", Q, BASE_Q "x F32 1", ""},
        {SAVE "[\"classifier\",\"score\"]",
         Q ", .classifier.weight F32 3x4, .classifier.bias F32 3",
         BASE_Q "classifier.weight F16 3x4", "+classifier.bias classifier.weight"},
        {SAVE "[\"classifier\"]", Q ", .classifier.dense.weight F32 3x4", BASE_Q "x F32 1",
         "+classifier.dense.weight"},
        {SAVE "[\"classifier\"]", Q ", .h.my_classifier.weight I64 3", BASE_Q "x F32 1",
         "+h.my_classifier.weight"},
        {SAVE "[\"norm\"]", Q ", .norm.num_batches_tracked I64 1",
         BASE_Q "norm.num_batches_tracked "
                "I64 1",
         "norm.num_batches_tracked"},
        {SAVE "[\"p\"]", Q ", .p.weight F32 3", "t.q.weight F32 4x3", "+t.p.weight"},
        {SAVE "[\"p\"]", Q ", .p.weight F32 3", "t.q.weight F32 4x3, p.weight F32 3", "p.weight"},
        {SAVE "[\"p\"]", Q ", .p.weight F32 3",
         "t.q.weight F32 4x3, p.weight F32 3, t.p.weight F32 3", "t.p.weight"},
        {SAVE "[\"c\"]",
         Q ", .c.weight F32 3, .c.original_module.weight F32 9, "
           ".c.modules_to_save.weight F32 3",
         BASE_Q "x F32 1", "+c.weight"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_others(cases[i].config, cases[i].tensors, cases[i].model, cases[i].names);
}

static void test_a_tensor_without_a_place_is_refused_by_name(void **state)
{
    static const struct {
        const char *config, *tensors, *model;
        int err;
        const char *says;
    } cases[] = {
        {"", ", .q.base_layer.bias F32 4", "x F32 1", E_INVALID,
         "1 of the adapter's tensors have no place in this model\n  "
         "base_model.model.q.base_layer.bias"
         ": the model has no such tensor"},
        {"", ", .classifier.weight F32 4", "x F32 1", E_INVALID,
         "and modules_to_save does not name it"},
        {SAVE "[\"\",\"sifier\\u00e9\"]", ", .classifier.weight F32 4", "x F32 1", E_INVALID,
         "classifier.weight: the model has no such"},
        {SAVE "[\"weight\"]", ", .classifier.weight F32 4", "x F32 1", E_INVALID, "no such tensor"},
        {SAVE "[\"x\"]", ", base_model.x.weight F32 4", "x.weight F32 4", E_INVALID,
         "base_model.x.weight"},
        {SAVE "[\"q\"]", ", .q.base_layer.bias F32 4", "x F32 1", E_INVALID,
         "q.base_layer.bias: the model has no such"},
        {SAVE "[\"__metadata__\"]", ", .__metadata__ F32 4", "x F32 1", E_INVALID,
         "__metadata__: the"},
        {SAVE "[\"x\"]", ", .x.a\\u001b[2J F32 4", "x F32 1", E_INVALID, "x.a\\x1b[2J: the model"},
        {SAVE "[\"x\"]", ", .x.a\\u0000b F32 4", "x F32 1", E_INVALID, "x.a\\x00b: the model"},
        {"", ", .q.weight F32 4x3", "x F32 1", E_INVALID,
         "q.weight: the weight that the adapter's"},
        {SAVE "[\"q\"]", ", .q.weight F32 4x3", "x F32 1", E_INVALID,
         "the weight that the adapter's"},
        {"", ", .q.base_layer.bias F32 4, .q.bias F32 4", "q.bias F32 4", E_INVALID,
         "2 of the adapter's tensors have no place in this model\n  "
         "base_model.model.q.base_layer.bias: "
         "another tensor has the same place\n  base_model.model.q.bias: another"},
        {SAVE "[\"c\"]", ", .c.modules_to_save.weight F32 4", "c.weight F32 4", E_INVALID,
         "c.modules_to_save.weight: the model has no such"},
        {"", ", .q.base_layer.bias F32 4", "q.bias F32 5", E_INVALID,
         "q.base_layer.bias: [5] in the model, [4] in the adapter"},
        {"", ", .x.bias F32 4", "x.bias F32 4x1", E_INVALID, "x.bias: [4, 1] in the model, [4]"},
        {"", ", .x.bias F32 4", "x.bias I32 4", E_UNSUPPORTED,
         "1 of the adapter's tensors cannot be put into this model\n  base_model.model.x.bias: I32 "
         "in "
         "the model, F32 in the adapter"},
        {"", ", .x.bias F64 4", "x.bias F32 4", E_UNSUPPORTED,
         "F32 in the model, F64 in the adapter"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char tensors[256], model[128];
        snprintf(tensors, sizeof(tensors), Q "%s", cases[i].tensors);
        snprintf(model, sizeof(model), BASE_Q "%s", cases[i].model);
        adapter(cases[i].config, tensors);
        filled(MODEL, model);
        assert_plan_refused("a", "m", cases[i].err, cases[i].says, NULL);
    }
}

static void test_no_prefix_makes_a_name_that_a_file_cannot_have(void **state)
{
    static const char *const names[] = {".t.__metadata__", ".t."};

    (void)state;
    weights(MODEL, "q.weight F32 4x3");
    for (size_t i = 0; i < 2; i++) {
        char tensors[128];
        snprintf(
            tensors, sizeof(tensors),
            ".t.q.vera_lambda_b F32 4, .t.q.vera_lambda_d F32 2, %s F32 1", names[i]
        );
        adapter(SAVE "[\"t\"]", tensors);
        assert_plan_refused("a", "m", E_INVALID, "the model has no such tensor", NULL);
    }
}

static void test_a_copy_under_modules_to_save_must_be_one(void **state)
{
    (void)state;
    adapter(SAVE "[\"c\"]", Q ", .c.weight F32 4, .c.modules_to_save.weight F32 4");
    poke("a/" PEFT_MODEL, PEFT_PREFIX "c.modules_to_save.weight", 0, "x", 1);
    filled(MODEL, BASE_Q "c.weight F32 4");
    assert_plan_refused("a", "m", E_INVALID, "c.weight: another tensor has the same place", NULL);
}

static void test_whole_modules_need_not_be_finite(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    adapter(SAVE "[\"mask\"]", Q ", .mask.bias F32 4");
    poke("a/" PEFT_MODEL, PEFT_PREFIX "mask.bias", 0, "\0\0\x80\xff", 4);
    filled(MODEL, BASE_Q "mask.bias F32 4");
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_int_equal(bench.plan.replacement_count, 1);
}

static void test_too_many_modules_to_save_are_refused(void **state)
{
    AUTO_BUF(config);

    (void)state;
    assert_int_equal(buf_append_text(&config, SAVE "[\"x\""), 0);
    for (uint64_t i = 1; i < LIMIT_SAVED_MODULES; i++)
        assert_int_equal(buf_append_text(&config, ",\"x\""), 0);
    assert_int_equal(buf_append_text(&config, "]"), 0);
    assert_others(buf_text(&config), Q, BASE_Q "x F32 1", "");
    config.len--;
    assert_int_equal(buf_append_text(&config, ",\"x\"]"), 0);
    adapter(buf_text(&config), Q);
    assert_plan_refused("a", "m", E_LIMIT, "modules_to_save has 1025 names", NULL);
}

static void test_the_weight_that_peft_saves_along_must_be_the_models(void **state)
{
    static const char *const types[] = {"F32", "BF16", "F16"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char model[128];
        AUTO_BENCH(bench);
        snprintf(
            model, sizeof(model), "lm_head.weight %s 4x3, model.embed_tokens.weight F32 4x3",
            types[i]
        );
        adapter(
            "", ".lm_head.vera_lambda_b F32 4, .lm_head.vera_lambda_d F32 2, "
                ".lm_head.base_layer.weight F32 4x3"
        );
        filled(MODEL, model);
        /* 0x3c3c3c3c is 0x3c3c as bf16, and 0x21e2 as fp16, both rounded. */
        for (uint64_t k = 0; k < 12 && i == 2; k++)
            poke(MODEL, "lm_head.weight", 2 * k, "\xe2\x21", 2);
        bench_open(&bench, "a", NULL, "m");
        bench_plan(&bench);
        assert_int_equal(bench.plan.replacement_count, 0);
        poke(MODEL, "lm_head.weight", 5, "\x77", 1);
        assert_plan_refused(
            "a", "m", E_UNSUPPORTED, "lm_head.base_layer.weight: is not this model's", NULL
        );
    }
}

/* Tied embeddings */

#define EMBED ".model.embed_tokens.weight F32 5x3"
#define HEAD  ".lm_head.weight F32 5x3"
#define BOTH  SAVE "[\"embed_tokens\",\"lm_head\"]"

static void test_tied_embeddings_are_replaced_whole_or_not_at_all(void **state)
{
    static const struct {
        const char *config, *tensors, *model, *model_config, *names; /* NULL: unsupported */
    } cases[] = {
        /* Both of one content: the one that the model has. */
        {BOTH, EMBED ", " HEAD, "model.embed_tokens.weight F32 5x3", TIED,
         "model.embed_tokens.weight"},
        {"", EMBED ", " HEAD, "model.embed_tokens.weight F32 5x3", "{}",
         "model.embed_tokens.weight"},
        {BOTH, EMBED ", " HEAD, "lm_head.weight F32 5x3", TIED, "lm_head.weight"},
        {BOTH, EMBED ", " HEAD, "lm_head.weight F32 5x3, model.embed_tokens.weight F32 5x3", TIED,
         "lm_head.weight model.embed_tokens.weight"},
        /* One of the two would be lost, or change the other. */
        {BOTH, HEAD, "model.embed_tokens.weight F32 5x3", TIED, NULL},
        {BOTH, HEAD, "model.embed_tokens.weight F32 5x3", "{}", NULL},
        {BOTH, HEAD, "lm_head.weight F32 5x3, model.embed_tokens.weight F32 5x3", TIED, NULL},
        {BOTH, EMBED, "model.embed_tokens.weight F32 5x3", TIED, NULL},
        {BOTH ",\"task_type\":\"CAUSAL_LM\"", EMBED, "model.embed_tokens.weight F32 5x3", TIED,
         NULL},
        {BOTH, EMBED ", .lm_head.weight F32 5x2", "model.embed_tokens.weight F32 5x3", TIED, NULL},
        {BOTH, EMBED ", .lm_head.weight BF16 5x3", "model.embed_tokens.weight F32 5x3", TIED, NULL},
        /* No output layer that could be tied. */
        {BOTH ",\"task_type\":\"SEQ_CLS\"", EMBED, "model.embed_tokens.weight F32 5x3", TIED,
         "model.embed_tokens.weight"},
        {BOTH ",\"task_type\":\"SEQ_CLS\"", EMBED, "x F32 1", TIED, NULL},
        {BOTH ",\"task_type\":\"SEQ_CLS\"", EMBED ", " HEAD, "model.embed_tokens.weight F32 5x3",
         TIED, "model.embed_tokens.weight"},
        /* Not tied. */
        {BOTH, HEAD, "lm_head.weight F32 5x3, model.embed_tokens.weight F32 5x3", LOOSE,
         "lm_head.weight"},
        {BOTH, EMBED, "lm_head.weight F32 5x3, model.embed_tokens.weight F32 5x3", "{}",
         "model.embed_tokens.weight"},
        {BOTH, HEAD, "model.embed_tokens.weight F32 5x3", LOOSE, "+lm_head.weight"},
        {BOTH, EMBED, "lm_head.weight F32 5x3, shared.weight F32 5x3", LOOSE, NULL},
        {BOTH, EMBED ", .shared.weight F32 5x3", "lm_head.weight F32 5x3, shared.weight F32 5x3",
         LOOSE, "shared.weight"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char tensors[256], model[128];
        snprintf(tensors, sizeof(tensors), Q ", %s", cases[i].tensors);
        snprintf(model, sizeof(model), BASE_Q "%s", cases[i].model);
        put("m/config.json", cases[i].model_config);
        if (cases[i].names) {
            assert_others(cases[i].config, tensors, model, cases[i].names);
            continue;
        }
        adapter(cases[i].config, tensors);
        filled(MODEL, model);
        assert_plan_refused(
            "a", "m", E_UNSUPPORTED,
            "output layer and input embedding are one tensor in this model",
            "\"tie_word_embeddings\": false"
        );
    }
}

static void test_tied_embeddings_of_two_contents_are_refused(void **state)
{
    (void)state;
    put("m/config.json", TIED);
    adapter(BOTH, Q ", " EMBED ", " HEAD);
    poke("a/" PEFT_MODEL, PEFT_PREFIX "lm_head.weight", 59, "x", 1);
    filled(MODEL, BASE_Q "model.embed_tokens.weight F32 5x3");
    assert_plan_refused("a", "m", E_UNSUPPORTED, "2 of the adapter's tensors cannot be put", NULL);
}

static void test_the_bias_of_a_tied_decoder_stands_for_both_names(void **state)
{
    (void)state;
    assert_others(
        "", Q ", .cls.bias F32 5, .cls.decoder.bias F32 5", BASE_Q "cls.bias F32 5", "cls.bias"
    );
    poke("a/" PEFT_MODEL, PEFT_PREFIX "cls.bias", 0, "x", 1);
    assert_plan_refused(
        "a", "m", E_INVALID, "cls.decoder.bias: the model has no such tensor", NULL
    );
}

static void test_every_failed_allocation_is_nomem_and_leaves_nothing(void **state)
{
    (void)state;
    assert_every_failed_allocation_is_nomem(ADAPTER("bert/step-040"), BASE("bert"), false);
    adapter(
        BOTH, ".lm_head.vera_lambda_b F32 4, .lm_head.vera_lambda_d F32 2, .c.decoder.bias F32 1, "
              ".lm_head.base_layer.weight F32 4x3, .embed_tokens.weight F32 4x3, .c.bias F32 1"
    );
    filled(MODEL, "lm_head.weight F32 4x3, embed_tokens.weight F32 4x3, c.bias F32 1");
    assert_every_failed_allocation_is_nomem("a", "m", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_biases_and_modules_find_their_places),
        TEST(test_a_tensor_without_a_place_is_refused_by_name),
        TEST(test_no_prefix_makes_a_name_that_a_file_cannot_have),
        TEST(test_a_copy_under_modules_to_save_must_be_one),
        TEST(test_whole_modules_need_not_be_finite),
        TEST(test_too_many_modules_to_save_are_refused),
        TEST(test_the_weight_that_peft_saves_along_must_be_the_models),
        TEST(test_tied_embeddings_are_replaced_whole_or_not_at_all),
        TEST(test_tied_embeddings_of_two_contents_are_refused),
        TEST(test_the_bias_of_a_tied_decoder_stands_for_both_names),
        TEST(test_every_failed_allocation_is_nomem_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
