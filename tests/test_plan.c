/* Tests of apply/plan.c, match.c and describe.c: which weights of a base an adapter changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/plans.h"

static void test_real_adapters_match_their_bases(void **state)
{
    static const struct {
        const char *adapter, *model;
        size_t targets, replacements;
        uint64_t in_max, out_max;
        enum dtype dtype;
    } cases[] = {
        {ADAPTER("llama/step-120"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-vectors-only"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-c/step-040"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-half/step-030"), BASE("llama-half"), 14, 0, 176, 176, DTYPE_BF16},
        {ADAPTER("llama-half-vectors"), BASE("llama-half"), 14, 0, 176, 176, DTYPE_BF16},
        {ADAPTER("gpt2/step-040"), BASE("gpt2"), 8, 0, 192, 192, DTYPE_F32},
        {ADAPTER("bert/step-040"), BASE("bert"), 2, 4, 32, 32, DTYPE_F32},
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BENCH(bench);
        bench_open(
            &bench, cases[i / 2].adapter, i % 2 ? cases[i / 2].model : NULL, cases[i / 2].model
        );
        bench_plan(&bench);
        assert_int_equal(bench.plan.target_count, cases[i / 2].targets);
        assert_int_equal(bench.plan.replacement_count, cases[i / 2].replacements);
        assert_int_equal(bench.plan.added_count, 0);
        assert_int_equal(bench.plan.in_max, cases[i / 2].in_max);
        assert_int_equal(bench.plan.out_max, cases[i / 2].out_max);
        assert_int_equal(bench.plan.dtype, cases[i / 2].dtype);
        assert_int_equal(bench.plan.pinned, i % 2);
        assert_string_equal(bench.plan.prefix, "");
    }
}

/* Names and prefixes */

#define BERT_VALUE "encoder.layer.1.attention.self.value"

static void test_a_bare_model_lacks_the_head_models_prefix(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    derive(BASE("bert"), "m", MODEL_FILE, "\"bert.", "\"", true);
    bench_open(&bench, ADAPTER("bert/step-040"), NULL, "m");
    bench_plan(&bench);
    assert_string_equal(bench.plan.prefix, "bert.");
    assert_false(bench.plan.prefix_added);
    assert_string_equal(bench.plan.targets[1].module, "bert." BERT_VALUE);
    assert_string_equal(bench.plan.targets[1].weight.tensor->name, BERT_VALUE ".weight");
    assert_replacements(
        &bench.plan, "classifier.bias classifier.weight encoder.layer.1.attention.self.query.bias "
                     "encoder.layer.1.attention.self.value.bias"
    );
}

static void test_a_head_model_has_a_prefix_more_than_a_bare_ones_adapter(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    derive(BASE("bert"), "m", MODEL_FILE, "\"bert.", "\"tower.bert.", true);
    bench_open(&bench, ADAPTER("bert/step-040"), NULL, "m");
    bench_plan(&bench);
    assert_string_equal(bench.plan.prefix, "tower.");
    assert_true(bench.plan.prefix_added);
    assert_string_equal(
        bench.plan.targets[0].weight.tensor->name,
        "tower.bert.encoder.layer.1.attention.self.query.weight"
    );
    assert_replacements(
        &bench.plan, "classifier.bias classifier.weight "
                     "tower.bert.encoder.layer.1.attention.self.query.bias "
                     "tower.bert.encoder.layer.1.attention.self.value.bias"
    );
}

static void test_the_adapters_own_names_are_kept_by_the_pin(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    derive(BASE("bert"), "m", MODEL_FILE, "\"bert.", "\"", true);
    bench_open(&bench, ADAPTER("bert/step-040"), BASE("bert"), "m");
    bench_plan(&bench);
    assert_true(bench.plan.pinned);
    assert_string_equal(bench.plan.pin.modules[1].name, "bert." BERT_VALUE);
}

static void test_a_prefix_is_for_all_modules_or_none(void **state)
{
    (void)state;
    derive(BASE("bert"), "m", MODEL_FILE, "\"bert." BERT_VALUE, "\"" BERT_VALUE, true);
    assert_plan_refused(
        ADAPTER("bert/step-040"), "m", E_INVALID,
        "m: matched 1 of 2 modules\n  bert." BERT_VALUE ": missing",
        "the adapter was trained on 'tiny/bert'"
    );
}

static void test_a_missing_module_is_named(void **state)
{
    (void)state;
    copy(BASE("llama"), "m", "model-00001-of-00003.safetensors");
    copy(BASE("llama"), "m", "model-00003-of-00003.safetensors");
    derive(
        BASE("llama"), "m", "model-00002-of-00003.safetensors", "layers.1.mlp.up_proj",
        "layers.7.mlp.up_proj", true
    );
    derive_text(BASE("llama"), "m", MODEL_INDEX, "layers.1.mlp.up_proj", "layers.7.mlp.up_proj");
    assert_plan_refused(
        ADAPTER("llama/step-120"), "m", E_INVALID,
        "matched 13 of 14 modules\n  model.layers.1.mlp.up_proj: missing", "'tiny/llama'"
    );
}

static void test_another_model_is_refused_with_all_that_is_missing(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    assert_plan_refused(
        ADAPTER("llama/step-120"), BASE("bert"), E_INVALID,
        "matched 0 of 14 modules\n  model.layers.0.mlp.down_proj: missing\n", NULL
    );
    assert_non_null(strstr(error_message(), "\n  model.layers.1.self_attn.v_proj: missing"));
    bench_open(&bench, ADAPTER("llama/step-120"), NULL, BASE("gpt2"));
    assert_int_equal(
        model_describe(&bench.facts, &bench.model, &bench.loaded.adapter, NULL), E_INVALID
    );
    assert_non_null(strstr(error_message(), "matched 0 of 14 modules\n  model.layers.0"));
    assert_null(bench.facts.pin.modules);
}

static void test_the_better_prefix_words_the_message(void **state)
{
    (void)state;
    adapter("", Q ", .k.vera_lambda_b F32 4, .k.vera_lambda_d F32 2");
    weights(MODEL, "x.q.weight F32 4x3, y.q.weight F32 4x3, y.k.weight F32 5x3, k.weight I32 3");
    assert_plan_refused(
        "a", "m", E_INVALID,
        "matched 1 of 2 modules\n  k: [5, 3] in the model, 4 outputs in the adapter",
        "is this the model"
    );
}

static void test_two_prefixes_that_fit_are_ambiguous(void **state)
{
    (void)state;
    adapter("", Q);
    weights(MODEL, "vision.q.weight F32 4x3, text.q.weight F32 4x3");
    assert_plan_refused("a", "m", E_INVALID, "match with 'text.' and with 'vision.'", NULL);
    weights(MODEL, "vision.q.weight F32 4x3, text.q.weight F32 5x3");
    AUTO_BENCH(bench);
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_string_equal(bench.plan.prefix, "vision.");
}

static void test_a_name_with_a_nul_is_another_name(void **state)
{
    static const char *const names[] = {
        "q\\u0000.weight", "x.q\\u0000.weight", "x.q\\u0000abc.weight"};

    (void)state;
    adapter("", Q);
    for (size_t i = 0; i < 3; i++) {
        char tensors[64];
        snprintf(tensors, sizeof(tensors), "%s F32 4x3", names[i]);
        weights(MODEL, tensors);
        assert_plan_refused("a", "m", E_INVALID, "matched 0 of 1 modules", NULL);
    }
}

#define VECTORS(module) "." module ".vera_lambda_b F32 4, ." module ".vera_lambda_d F32 2"

static void test_only_a_component_that_all_modules_share_is_removed(void **state)
{
    (void)state;
    adapter("", VECTORS("a.q") ", " VECTORS("b.q"));
    weights(MODEL, "q.weight F32 4x3");
    assert_plan_refused("a", "m", E_INVALID, "matched 0 of 2 modules", NULL);
    adapter("", VECTORS("a.q") ", " VECTORS("ab.k"));
    weights(MODEL, "q.weight F32 4x3, b.k.weight F32 4x3");
    assert_plan_refused("a", "m", E_INVALID, "matched 0 of 2 modules", NULL);
}

static void test_modules_that_begin_alike_are_told_apart(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    adapter("", Q ", " VECTORS("qa") ", " VECTORS("q.b") ", " VECTORS("qb"));
    weights(
        MODEL, "a.qa.weight F32 4x3, a.q.b.weight F32 4x3, a.qb.weight F32 4x3, "
               "x.q.weight F32 4x3, x.qa.weight F32 4x3, x.q.b.weight F32 4x3, x.qb.weight F32 4x3"
    );
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_string_equal(bench.plan.prefix, "x.");
    for (size_t i = 0; i < 4; i++)
        assert_memory_equal(
            bench.plan.targets[i].weight.tensor->name + 2, bench.plan.targets[i].module,
            strlen(bench.plan.targets[i].module)
        );
}

static void test_names_as_they_are_go_before_a_prefix(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    adapter("", Q);
    weights(MODEL, "a.q.weight F32 4x3, q.weight F32 4x7");
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_string_equal(bench.plan.prefix, "");
    assert_int_equal(bench.plan.in_max, 7);
}

static void test_thousands_of_missing_modules_make_one_message_of_bounded_length(void **state)
{
    AUTO_BUF(tensors);

    (void)state;
    for (int i = 0; i < 3000; i++)
        assert_int_equal(
            buf_printf(
                &tensors, "%s.layers.%d.q.vera_lambda_b F32 1, .layers.%d.q.vera_lambda_d F32 2",
                i ? ", " : "", i, i
            ),
            0
        );
    adapter("", buf_text(&tensors));
    weights(MODEL, "layers.5.q.weight F32 1x3");
    assert_plan_refused(
        "a", "m", E_INVALID, "matched 1 of 3000 modules\n  layers.0.q: missing", NULL
    );
    assert_non_null(strstr(error_message(), " more"));
    assert_true(strlen(error_message()) < 70000);
}

/* Orientation */

static void assert_orientation(bool transposed, uint64_t in)
{
    AUTO_BENCH(bench);

    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_int_equal(bench.plan.targets[0].transposed, transposed);
    assert_int_equal(bench.plan.targets[0].in, in);
}

static void test_conv1d_weights_lie_the_other_way_round(void **state)
{
    static const struct {
        const char *module;
        uint64_t in, out;
    } expected[] = {
        {"attn.c_attn", 48, 144},
        {"attn.c_proj", 48, 48},
        {"mlp.c_fc", 48, 192},
        {"mlp.c_proj", 192, 48}};

    (void)state;
    /* With fan_in_fan_out as PEFT saved it, wrong, and without a config.json in the base. */
    copy(ADAPTER("gpt2/step-040"), "wrong", PEFT_MODEL);
    derive_text(
        ADAPTER("gpt2/step-040"), "wrong", PEFT_CONFIG, "\"fan_in_fan_out\": true",
        "\"fan_in_fan_out\": false"
    );
    copy(BASE("gpt2"), "bare", MODEL_FILE);
    for (int i = 0; i < 4; i++) {
        AUTO_BENCH(bench);
        bench_open(
            &bench, i % 2 ? "wrong" : ADAPTER("gpt2/step-040"), NULL, i / 2 ? "bare" : BASE("gpt2")
        );
        bench_plan(&bench);
        for (size_t k = 0; k < 8; k++) {
            const struct plan_target *target = &bench.plan.targets[k];
            assert_true(target->transposed);
            assert_non_null(strstr(target->module, expected[k % 4].module));
            assert_int_equal(target->in, expected[k % 4].in);
            assert_int_equal(target->out, expected[k % 4].out);
        }
    }
}

static void test_a_linear_layer_is_one_whatever_fan_in_fan_out_says(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    copy(ADAPTER("llama/step-120"), "wrong", PEFT_MODEL);
    derive_text(
        ADAPTER("llama/step-120"), "wrong", PEFT_CONFIG, "\"fan_in_fan_out\": false",
        "\"fan_in_fan_out\": true"
    );
    bench_open(&bench, "wrong", NULL, BASE("llama"));
    bench_plan(&bench);
    for (size_t i = 0; i < bench.plan.target_count; i++)
        assert_false(bench.plan.targets[i].transposed);
}

static void test_a_square_weight_lies_as_its_class_its_siblings_or_the_adapter_say(void **state)
{
    static const char LLAMA[] = "{\"model_type\":\"llama\"}", GPT2[] = "{\"model_type\":\"gpt2\"}";
    static const char OWN[] = "{\"model_type\":\"llama\",\"auto_map\":{}}";
    static const struct {
        const char *config, *name, *sibling; /* sibling of 6 outputs */
        bool fan_in_fan_out, transposed;
    } cases[] = {
        {LLAMA, "c_attn", "4x6", true, false},  {GPT2, "c_attn", NULL, false, true},
        {GPT2, "lm_x", NULL, true, false},      {GPT2, "c_attn_x", NULL, true, false},
        {GPT2, "my_c_attn", NULL, true, false}, {OWN, "c_attn", "6x4", true, false},
        {OWN, "c_attn", "4x6", false, true},    {OWN, "c_attn", "6x6", true, true},
        {OWN, "c_attn", "6x6", false, false},   {"{}", "c_attn", "6x4", true, false},
        {"{}", "c_attn", "4x6", false, true},   {"{}", "c_attn", NULL, false, false},
        {"{}", "c_attn", NULL, true, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char tensors[256], config[64], model[128];
        const char *name = cases[i].name, *sibling = cases[i].sibling;
        if (cases[i].config == LLAMA && sibling)
            sibling = "6x4"; /* 4x6 would not fit this class */
        snprintf(
            tensors, sizeof(tensors), ".%s.vera_lambda_b F32 4, .%s.vera_lambda_d F32 2%s", name,
            name, sibling ? ", .z.vera_lambda_b F32 6, .z.vera_lambda_d F32 2" : ""
        );
        snprintf(
            config, sizeof(config), ",\"fan_in_fan_out\":%s",
            cases[i].fan_in_fan_out ? "true" : "false"
        );
        snprintf(
            model, sizeof(model), "%s.weight F32 4x4%s%s", name, sibling ? ", z.weight F32 " : "",
            sibling ? sibling : ""
        );
        adapter(config, tensors);
        weights(MODEL, model);
        put("m/config.json", cases[i].config);
        assert_orientation(cases[i].transposed, 4);
    }
}

static void test_siblings_that_lie_both_ways_tell_nothing(void **state)
{
    (void)state;
    adapter(
        ",\"fan_in_fan_out\":true",
        Q ", .x.vera_lambda_b F32 6, .x.vera_lambda_d F32 2, .y.vera_lambda_b F32 6, "
          ".y.vera_lambda_d F32 2"
    );
    weights(MODEL, "q.weight F32 4x4, x.weight F32 4x6, y.weight F32 6x4");
    assert_orientation(true, 4);
}

static void test_a_shape_that_its_class_cannot_have_is_refused(void **state)
{
    (void)state;
    adapter("", Q);
    weights(MODEL, "q.weight F32 3x4");
    assert_orientation(true, 3);
    put("m/config.json", "{\"model_type\":\"llama\"}");
    assert_plan_refused(
        "a", "m", E_INVALID,
        "matched 0 of 1 modules\n  q: [3, 4] in the model, 4 outputs in the adapter", NULL
    );
    adapter("", ".c_fc.vera_lambda_b F32 4, .c_fc.vera_lambda_d F32 2");
    weights(MODEL, "c_fc.weight F32 4x3");
    put("m/config.json", "{\"model_type\":\"gpt2\"}");
    assert_plan_refused("a", "m", E_INVALID, "c_fc: [4, 3] in the model", NULL);
}

static void test_a_weight_that_is_no_matrix_is_refused(void **state)
{
    static const char *const shapes[] = {"4", "4x3x1", "4x0", "5x5"};

    (void)state;
    adapter("", Q);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        char tensors[64];
        snprintf(tensors, sizeof(tensors), "q.weight F32 %s", shapes[i]);
        weights(MODEL, tensors);
        assert_plan_refused("a", "m", E_INVALID, "matched 0 of 1 modules\n  q: [", NULL);
    }
}

static void test_an_adapted_output_layer_that_is_tied_is_refused(void **state)
{
    static const char *const models[] = {
        "q.weight F32 4x3, model.embed_tokens.weight F32 5x3",
        "q.weight F32 4x3, model.embed_tokens.weight F32 5x3, lm_head.weight F32 5x3"};

    (void)state;
    adapter("", Q ", .lm_head.vera_lambda_b F32 5, .lm_head.vera_lambda_d F32 2");
    put("m/config.json", TIED);
    for (size_t i = 0; i < 2; i++) {
        weights(MODEL, models[i]);
        assert_plan_refused(
            "a", "m", E_UNSUPPORTED,
            "m: the model's output layer is its input embedding, which the adapter would "
            "change too\n  lm_head: shared with the input embedding",
            "\"tie_word_embeddings\": false"
        );
    }
    put("m/config.json", LOOSE);
    assert_orientation(false, 3);
}

/* Types */

static void test_a_type_that_nothing_can_be_added_to_is_unsupported(void **state)
{
    static const struct {
        const char *model, *config, *says;
    } cases[] = {
        {"q.weight F64 4x3", "{}", "to exactly\n  q: F64 [4, 3]"},
        {"q.weight I8 4x3", "{}", "\n  q: I8 [4, 3]"},
        {"q.weight F8_E4M3 4x3", "{\"quantization_config\":{}}",
         "to exactly: the model is quantised\n  q: F8_E4M3 [4, 3]"},
        {"q.weight U8 6x1, q.weight.quant_map F32 16", "{}", "\n  q: U8 [6, 1]"},
        {"q.qweight I32 4x3, q.scales F16 3", "{}", "\n  q: quantised"},
        {"q.weight_packed I32 4x3", "{}", "\n  q: quantised"},
        {"q.W_q I32 4x3", "{}", "\n  q: quantised"},
    };

    (void)state;
    adapter("", Q);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        weights(MODEL, cases[i].model);
        put("m/config.json", cases[i].config);
        assert_plan_refused("a", "m", E_UNSUPPORTED, cases[i].says, "unmerged");
        assert_non_null(strstr(error_message(), "m: 1 of 1 modules have weights of a type"));
    }
}

static void test_types_may_differ_and_are_then_no_one_type(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    adapter("", Q ", .k.vera_lambda_b F16 4, .k.vera_lambda_d BF16 2");
    weights(MODEL, "q.weight F16 4x3, k.weight BF16 4x3");
    bench_open(&bench, "a", NULL, "m");
    bench_plan(&bench);
    assert_int_equal(bench.plan.dtype, DTYPE_COUNT);
    /* 0x3c3c as bf16, and as fp16 */
    assert_true(bench.plan.targets[0].d[1] == bf16_to_float(0x3c3c));
    assert_true(bench.plan.targets[0].b[3] == f16_to_float(0x3c3c));
    assert_memory_equal(&bench.plan.targets[1].b[3], "\x3c\x3c\x3c\x3c", 4); /* float32 */
}

static void test_vectors_of_another_type_are_unsupported(void **state)
{
    (void)state;
    adapter("", Q ", .k.vera_lambda_b F64 4, .k.vera_lambda_d F32 2");
    weights(MODEL, "q.weight F32 4x3, k.weight F32 4x3");
    assert_plan_refused(
        "a", "m", E_UNSUPPORTED,
        "1 of 2 modules have vectors of a type that cannot be applied; F32, BF16 and "
        "F16 can\n  k: vera_lambda_d is F32, vera_lambda_b F64",
        NULL
    );
}

static void test_vectors_that_are_not_finite_are_refused_by_module(void **state)
{
    static const char *const values[] = {
        "\0\0\x80\x7f", "\0\0\x80\xff", "\1\0\x80\x7f", "\0\0\xc0\xff"};

    (void)state;
    weights(MODEL, "q.weight F32 4x3, k.weight F32 4x3");
    for (int i = 0; i < 8; i++) {
        adapter("", Q ", .k.vera_lambda_b F32 4, .k.vera_lambda_d F32 2");
        const char *tensor = i % 2 ? PEFT_PREFIX "k.vera_lambda_b" : PEFT_PREFIX "k.vera_lambda_d";
        poke("a/" PEFT_MODEL, tensor, 4, values[i / 2], 4);
        assert_plan_refused(
            "a", "m", E_INVALID,
            "1 of 2 modules have vectors with values that are not finite\n  k: a "
            "vector is not finite",
            "an earlier version"
        );
        assert_null(strstr(error_message(), "q: "));
    }
}

static void test_everything_that_is_wrong_is_listed_at_once(void **state)
{
    (void)state;
    adapter(
        "", Q ", .k.vera_lambda_b F32 4, .k.vera_lambda_d F32 2, .v.vera_lambda_b F32 4, "
              ".v.vera_lambda_d F32 2, .x.weight F32 1"
    );
    poke("a/" PEFT_MODEL, PEFT_PREFIX "v.vera_lambda_b", 0, "\0\0\x80\x7f", 4);
    weights(MODEL, "k.weight F32 5x5, v.weight F32 4x3");
    assert_plan_refused(
        "a", "m", E_INVALID,
        "m: matched 1 of 3 modules\n  k: [5, 5] in the model, 4 outputs in the adapter\n  q: "
        "missing\n"
        "  base_model.model.x.weight: the model has no such tensor, and modules_to_save does not "
        "name "
        "it\n  v: a vector is not finite",
        NULL
    );
}

/* The basis */

static void test_a_must_be_as_wide_as_the_widest_module(void **state)
{
    (void)state;
    adapter("", Q ", base_model.vera_A F32 2x3, base_model.vera_B F32 4x2");
    weights(MODEL, "q.weight F32 4x3");
    assert_orientation(false, 3);
    for (int in = 2; in <= 5; in++) {
        char tensors[64];
        AUTO_BENCH(bench);
        if (in == 3)
            continue;
        snprintf(tensors, sizeof(tensors), "q.weight F32 4x%d", in);
        weights(MODEL, tensors);
        if (in == 4)
            put("m/config.json", "{\"model_type\":\"llama\"}");
        assert_plan_refused(
            "a", "m", E_INVALID, "another base model: A has 3 columns", "trained on"
        );
        bench_open(&bench, "a", NULL, "m");
        assert_int_equal(
            model_describe(&bench.facts, &bench.model, &bench.loaded.adapter, NULL), E_INVALID
        );
    }
}

/* The pin */

static void test_a_pin_of_another_shape_or_type_is_a_conflict_that_names_the_modules(void **state)
{
    static const struct {
        const char *model, *says;
    } cases[] = {
        {"q.weight BF16 4x3, k.weight F32 4x3", "\n  q: BF16 [4, 3] here, F32 [4, 3] recorded"},
        {"q.weight F32 4x2, k.weight F32 4x3", "\n  q: F32 [4, 2] here, F32 [4, 3] recorded"},
        {"q.weight F32 3x4, k.weight F32 4x3", "\n  q: F32 [3, 4] here, F32 [4, 3] recorded"},
        {"q.weight F64 4x3, k.weight F32 4x3", "\n  q: F64 [4, 3] here, F32 [4, 3] recorded"},
        {"q.weight F32 4, k.weight F32 4x3", "\n  q: F32 [4] here, F32 [4, 3] recorded"},
    };

    (void)state;
    adapter(
        ",\"base_model_name_or_path\":\"org/name\"",
        Q ", .k.vera_lambda_b F32 4, .k.vera_lambda_d F32 2"
    );
    weights("pinned/" MODEL_FILE, "q.weight F32 4x3, k.weight F32 4x3");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BENCH(bench);
        weights(MODEL, cases[i].model);
        bench_open(&bench, "a", "pinned", "m");
        assert_int_equal(plan_make(&bench.plan, &bench.loaded, &bench.model), E_CONFLICT);
        if (!strstr(error_message(), cases[i].says))
            fail_msg("%s", error_message());
        assert_non_null(strstr(error_message(), "m: not the base model that this version"));
        assert_non_null(strstr(error_hint_text(), "org/name"));
        assert_null(strstr(error_message(), "k: "));
    }
}

static void test_a_pin_does_not_hide_what_is_missing(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    adapter("", Q ", .k.vera_lambda_b F32 4, .k.vera_lambda_d F32 2");
    weights("pinned/" MODEL_FILE, "q.weight F32 4x3, k.weight F32 4x3");
    weights(MODEL, "q.weight F32 4x2");
    bench_open(&bench, "a", "pinned", "m");
    assert_int_equal(plan_make(&bench.plan, &bench.loaded, &bench.model), E_INVALID);
    assert_non_null(strstr(error_message(), "matched 1 of 2 modules\n  k: missing"));
}

static void test_a_pin_without_a_modules_line_is_corrupt(void **state)
{
    static const char pin[] = "verastore pin 1\n";
    AUTO_BENCH(bench);

    (void)state;
    adapter("", Q);
    weights(MODEL, "q.weight F32 4x3");
    bench_open(&bench, "a", "m", "m");
    bench.snapshot.pin.len = 0;
    assert_int_equal(buf_append_text(&bench.snapshot.pin, pin), 0);
    assert_int_equal(plan_make(&bench.plan, &bench.loaded, &bench.model), E_CORRUPT);
    assert_non_null(strstr(error_message(), "pin: no line for the module 'q'"));
    bench.snapshot.pin.data[0] = 'V';
    assert_int_equal(plan_make(&bench.plan, &bench.loaded, &bench.model), E_CORRUPT);
}

/* A real checkpoint of a bare model, as far as names and shapes go: no data. */
static void minilm(const struct adapter *adapter)
{
    AUTO_BUF(header);
    uint64_t at = 0;

    assert_int_equal(buf_append_byte(&header, '{'), 0);
    for (size_t i = 0; i < adapter->module_count; i++) {
        const char *name = adapter->modules[i].name + strlen("bert.");
        uint64_t out = adapter->modules[i].out;
        uint64_t in = strstr(name, ".output.dense") && !strstr(name, "attention") ? 1536 : 384;
        assert_int_equal(
            buf_printf(
                &header,
                "\"%s.weight\":{\"dtype\":\"F32\",\"shape\":[%ju,%ju],\"data_offsets\":[%ju,%ju]},",
                name, (uintmax_t)out, (uintmax_t)in, (uintmax_t)at, (uintmax_t)(at + 4 * in * out)
            ),
            0
        );
        at += 4 * in * out;
    }
    header.data[header.len - 1] = '}';
    put_weights(MODEL, buf_text(&header), 0);
    assert_int_equal(truncate(MODEL, (off_t)(8 + header.len + at)), 0);
}

static void test_a_bare_checkpoint_takes_the_head_models_adapter_and_its_classifier(void **state)
{
    AUTO_BENCH(bench);
    AUTO_ADAPTER(adapter);
    AUTO_BUF(config);
    AUTO_BUF(file);

    (void)state;
    assert_int_equal(file_read(&config, ADAPTER("minilm/step-320/") PEFT_CONFIG, MIB), 0);
    assert_int_equal(file_read(&file, ADAPTER("minilm/step-320/") PEFT_MODEL, MIB), 0);
    assert_int_equal(adapter_decode(&adapter, buf_bytes(&config), buf_bytes(&file), file.len), 0);
    minilm(&adapter);
    bench_open(&bench, ADAPTER("minilm/step-320"), NULL, "m");
    bench_plan(&bench);
    assert_int_equal(bench.plan.target_count, 36);
    assert_string_equal(bench.plan.prefix, "bert.");
    assert_int_equal(bench.plan.in_max, 1536);
    assert_int_equal(bench.plan.out_max, 1536);
    assert_int_equal(bench.plan.added_count, 2);
    assert_replacements(&bench.plan, "+classifier.bias +classifier.weight");
}

/* What is recorded of a model */

struct watch {
    struct progress progress;
    uint64_t done, total, calls;
};

static void watch_update(struct progress *progress, uint64_t done, uint64_t total)
{
    struct watch *watch = (struct watch *)(void *)progress;

    assert_true(done > watch->done && done <= total);
    assert_true(watch->total == 0 || watch->total == total);
    watch->done = done;
    watch->total = total;
    watch->calls++;
}

static void test_a_description_has_digests_shapes_and_configuration(void **state)
{
    AUTO_BENCH(bench);
    AUTO_BASE_FACTS(facts);
    struct watch watch = {.progress = {watch_update}};
    char hex[DIGEST_HEX_SIZE];

    (void)state;
    bench_open(&bench, ADAPTER("llama/step-000"), NULL, BASE("llama"));
    assert_int_equal(
        model_describe(&facts, &bench.model, &bench.loaded.adapter, &watch.progress), 0
    );
    assert_int_equal(facts.pin.count, 14);
    assert_string_equal(facts.pin.name, "tiny/llama");
    assert_null(facts.pin.revision);
    assert_string_equal(facts.pin.modules[0].name, "model.layers.0.mlp.down_proj");
    assert_int_equal(facts.pin.modules[0].rows, 64);
    assert_int_equal(facts.pin.modules[0].columns, 176);
    assert_int_equal(facts.pin.modules[0].dtype, DTYPE_F32);
    digest_hex(hex, &facts.pin.modules[0].digest); /* sha256sum of the file's range */
    assert_string_equal(hex, "40db2de04a67987f707caec8aff393fe2426af21f9d10252d85fb5361ff80d2f");
    assert_int_equal(facts.in_max, 176);
    assert_int_equal(facts.out_max, 176);
    assert_int_equal(facts.dtype, DTYPE_F32);
    assert_true(bytes_equal(buf_bytes(&facts.config), buf_bytes(&bench.model.config)));
    assert_int_equal(watch.done, watch.total);
    assert_int_equal(watch.total, 2 * 4 * (3 * 64 * 176 + 2 * 64 * 64 + 2 * 32 * 64));
    assert_true(watch.calls >= 14);
}

static void test_a_description_says_what_a_conv1d_stores(void **state)
{
    AUTO_BENCH(bench);
    AUTO_BASE_FACTS(facts);

    (void)state;
    bench_open(&bench, ADAPTER("gpt2/step-000"), NULL, BASE("gpt2"));
    assert_int_equal(model_describe(&facts, &bench.model, &bench.loaded.adapter, NULL), 0);
    assert_int_equal(facts.pin.modules[0].rows, 48);
    assert_int_equal(facts.pin.modules[0].columns, 144);
    assert_int_equal(facts.in_max, 192);
    assert_int_equal(facts.out_max, 192);
}

static void test_a_description_looks_at_no_values_and_takes_any_type(void **state)
{
    AUTO_BENCH(bench);
    AUTO_BASE_FACTS(facts);

    (void)state;
    adapter(",\"revision\":\"main\"", Q ", .x.weight F32 1");
    poke("a/" PEFT_MODEL, PEFT_PREFIX "q.vera_lambda_b", 0, "\0\0\x80\x7f", 4);
    weights(MODEL, "q.weight F64 4x3");
    bench_open(&bench, "a", NULL, "m");
    assert_int_equal(model_describe(&facts, &bench.model, &bench.loaded.adapter, NULL), 0);
    assert_int_equal(facts.dtype, DTYPE_F64);
    assert_int_equal(facts.in_max, 3);
    assert_string_equal(facts.pin.revision, "main");
    assert_null(facts.pin.name);
    assert_int_equal(facts.config.len, 0);
    weights(MODEL, "q.weight U8 6x1");
    model_release(&bench.model);
    assert_int_equal(model_open(&bench.model, "m"), 0);
    assert_int_equal(
        model_describe(&bench.facts, &bench.model, &bench.loaded.adapter, NULL), E_UNSUPPORTED
    );
}

static void test_an_interrupt_ends_the_work(void **state)
{
    AUTO_BENCH(bench);

    (void)state;
    bench_open(&bench, ADAPTER("llama/step-000"), NULL, BASE("llama"));
    interrupt_flag = 1;
    assert_int_equal(
        model_describe(&bench.facts, &bench.model, &bench.loaded.adapter, NULL), E_INTERRUPTED
    );
    assert_int_equal(plan_make(&bench.plan, &bench.loaded, &bench.model), E_INTERRUPTED);
}

static void test_every_failed_allocation_is_nomem_and_leaves_nothing(void **state)
{
    (void)state;
    for (int describe = 0; describe < 2; describe++) {
        assert_every_failed_allocation_is_nomem(ADAPTER("llama/step-120"), BASE("llama"), describe);
        assert_every_failed_allocation_is_nomem(ADAPTER("bert/step-040"), BASE("bert"), describe);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_real_adapters_match_their_bases),
        TEST(test_a_bare_model_lacks_the_head_models_prefix),
        TEST(test_a_head_model_has_a_prefix_more_than_a_bare_ones_adapter),
        TEST(test_the_adapters_own_names_are_kept_by_the_pin),
        TEST(test_a_prefix_is_for_all_modules_or_none),
        TEST(test_a_missing_module_is_named),
        TEST(test_another_model_is_refused_with_all_that_is_missing),
        TEST(test_the_better_prefix_words_the_message),
        TEST(test_two_prefixes_that_fit_are_ambiguous),
        TEST(test_a_name_with_a_nul_is_another_name),
        TEST(test_only_a_component_that_all_modules_share_is_removed),
        TEST(test_modules_that_begin_alike_are_told_apart),
        TEST(test_names_as_they_are_go_before_a_prefix),
        TEST(test_thousands_of_missing_modules_make_one_message_of_bounded_length),
        TEST(test_conv1d_weights_lie_the_other_way_round),
        TEST(test_a_linear_layer_is_one_whatever_fan_in_fan_out_says),
        TEST(test_a_square_weight_lies_as_its_class_its_siblings_or_the_adapter_say),
        TEST(test_siblings_that_lie_both_ways_tell_nothing),
        TEST(test_a_shape_that_its_class_cannot_have_is_refused),
        TEST(test_a_weight_that_is_no_matrix_is_refused),
        TEST(test_an_adapted_output_layer_that_is_tied_is_refused),
        TEST(test_a_type_that_nothing_can_be_added_to_is_unsupported),
        TEST(test_types_may_differ_and_are_then_no_one_type),
        TEST(test_vectors_of_another_type_are_unsupported),
        TEST(test_vectors_that_are_not_finite_are_refused_by_module),
        TEST(test_everything_that_is_wrong_is_listed_at_once),
        TEST(test_a_must_be_as_wide_as_the_widest_module),
        TEST(test_a_pin_of_another_shape_or_type_is_a_conflict_that_names_the_modules),
        TEST(test_a_pin_does_not_hide_what_is_missing),
        TEST(test_a_pin_without_a_modules_line_is_corrupt),
        TEST(test_a_bare_checkpoint_takes_the_head_models_adapter_and_its_classifier),
        TEST(test_a_description_has_digests_shapes_and_configuration),
        TEST(test_a_description_says_what_a_conv1d_stores),
        TEST(test_a_description_looks_at_no_values_and_takes_any_type),
        TEST(test_an_interrupt_ends_the_work),
        TEST(test_every_failed_allocation_is_nomem_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
