/* Tests of format/peft.c: PEFT's configuration, the tensors of an adapter, which files are its. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/file.h"
#include "format/limits.h"

#define VERA "{\"peft_type\":\"VERA\",\"r\":4"

static const struct {
    const char *json, *says;
    int err;
} refused[] = {
    {"", "adapter_config.json: ", E_INVALID},
    {"[]", "not a JSON object", E_INVALID},
    {"\"VERA\"", "not a JSON object", E_INVALID},
    {"{}", "no peft_type", E_INVALID},
    {VERA, "adapter_config.json: ", E_INVALID},
    {VERA "}x", "adapter_config.json: ", E_INVALID},
    {VERA ",\"r\":4}", "adapter_config.json: ", E_INVALID},
    {VERA ",\"peft_type\":\"VERA\"}", "adapter_config.json: ", E_INVALID},
    {VERA ",\"x\":NaN}", "adapter_config.json: ", E_INVALID},
    {"{\"peft_type\":\"VERA\"}", "no r", E_INVALID},
    {"{\"peft_type\":null,\"r\":4}", "peft_type is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":0}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":-1}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":4.0}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":\"4\"}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":null}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":[4]}", "r is not", E_INVALID},
    {"{\"peft_type\":\"VERA\",\"r\":1048577}", "r is 1048577", E_LIMIT},
    {VERA ",\"projection_prng_key\":18446744073709551616}", "projection_prng_key", E_INVALID},
    {VERA ",\"projection_prng_key\":-9223372036854775809}", "projection_prng_key", E_INVALID},
    {VERA ",\"projection_prng_key\":1.0}", "projection_prng_key", E_INVALID},
    {VERA ",\"projection_prng_key\":true}", "projection_prng_key", E_INVALID},
    {VERA ",\"projection_prng_key\":\"0\"}", "projection_prng_key", E_INVALID},
    {VERA ",\"save_projection\":null}", "save_projection", E_INVALID},
    {VERA ",\"save_projection\":1}", "save_projection", E_INVALID},
    {VERA ",\"fan_in_fan_out\":\"false\"}", "fan_in_fan_out", E_INVALID},
    {VERA ",\"bias\":null}", "bias", E_INVALID},
    {VERA ",\"bias\":\"a\\u0000b\"}", "bias", E_INVALID},
    {VERA ",\"base_model_name_or_path\":{}}", "base_model_name_or_path", E_INVALID},
    {VERA ",\"revision\":0}", "revision", E_INVALID},
    {VERA ",\"task_type\":[]}", "task_type", E_INVALID},
    {VERA ",\"modules_to_save\":\"classifier\"}", "modules_to_save", E_INVALID},
    {VERA ",\"modules_to_save\":[\"a\",null]}", "modules_to_save", E_INVALID},
    {VERA ",\"modules_to_save\":[\"a\",[\"b\"]]}", "modules_to_save", E_INVALID},
    {"{\"peft_type\":\"LORA\",\"r\":8}", "this is a LORA adapter", E_UNSUPPORTED},
    {"{\"peft_type\":\"IA3\"}", "this is an IA3 adapter", E_UNSUPPORTED},
    {"{\"r\":\"x\",\"peft_type\":\"LOHA\"}", "this is a LOHA adapter", E_UNSUPPORTED},
    {"{\"peft_type\":\"VE\\nRA\"}", "another kind of adapter", E_UNSUPPORTED},
    {"{\"peft_type\":\"\"}", "another kind of adapter", E_UNSUPPORTED},
};

static void test_what_is_no_vera_configuration_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct peft_config config = {.rank = 77};
        int err = peft_config_decode(&config, text_bytes(refused[i].json));
        if (err != refused[i].err || !strstr(error_message(), refused[i].says))
            fail_msg("%s: %d, %s", refused[i].json, err, error_message());
        assert_int_equal(config.rank, 77);
        assert_non_null(strstr(error_message(), "adapter_config.json: "));
        assert_int_equal(error_hint_text() != NULL, refused[i].err == E_UNSUPPORTED);
    }
}

static void test_absent_keys_have_pefts_defaults(void **state)
{
    struct peft_config config = {0};

    (void)state;
    assert_int_equal(peft_config_decode(&config, text_bytes(VERA "}")), 0);
    assert_int_equal(config.rank, 4);
    assert_true(config.has_seed && config.save_projection && !config.fan_in_fan_out);
    assert_true(config.seed.magnitude == 0 && !config.seed.negative);
    assert_string_equal(config.bias, "none");
    assert_null(config.base_name);
    assert_null(config.base_revision);
    assert_null(config.task_type);
    assert_int_equal(config.modules_to_save_count, 0);
    peft_config_release(&config);
}

static void test_every_key_is_read(void **state)
{
    static const char text[] =
        "{\"r\":1048576,\"projection_prng_key\":-9223372036854775808,\"bias\":\"all\",\"task_type\""
        ":\"CAUSAL_LM\",\"unknown\":{\"r\":[1,{\"bias\":2}]},\"revision\":\"m\\u00e9\","
        "\"base_model_name_or_path\":\"org/name\",\"save_projection\":false,\"fan_in_fan_out\":true"
        ",\"modules_to_save\":[\"classifier\",\"score\"],\"peft_type\":\"VERA\"}";
    struct peft_config config = {0};

    (void)state;
    assert_int_equal(peft_config_decode(&config, text_bytes(text)), 0);
    assert_int_equal(config.rank, LIMIT_RANK);
    assert_true(config.seed.negative && config.seed.magnitude == UINT64_C(1) << 63);
    assert_false(config.save_projection);
    assert_true(config.fan_in_fan_out);
    assert_string_equal(config.bias, "all");
    assert_string_equal(config.base_name, "org/name");
    assert_string_equal(config.base_revision, "m\xc3\xa9");
    assert_string_equal(config.task_type, "CAUSAL_LM");
    assert_int_equal(config.modules_to_save_count, 2);
    assert_string_equal(config.modules_to_save[1], "score");
    peft_config_release(&config);
    assert_int_equal(
        peft_config_decode(&config, text_bytes(VERA ",\"projection_prng_key\":null}")), 0
    );
    assert_false(config.has_seed);
    peft_config_release(&config);
    assert_int_equal(
        peft_config_decode(
            &config, text_bytes(VERA ",\"projection_prng_key\":18446744073709551615}")
        ),
        0
    );
    assert_true(config.has_seed && config.seed.magnitude == UINT64_MAX && !config.seed.negative);
    peft_config_release(&config);
}

/* A model file of these tensors, each "name dtype shape…", one after the other. */
static void model_make(struct buf *out, uint64_t *bytes, const char *const *tensors, size_t count)
{
    AUTO_BUF(json);
    uint64_t at = 0;

    assert_int_equal(buf_append_text(&json, "{"), 0);
    for (size_t i = 0; i < count; i++) {
        char name[200];
        unsigned long long shape[3] = {1, 1, 1};
        const char *space = strchr(tensors[i], ' ');
        assert_non_null(space);
        snprintf(name, sizeof(name), "%.*s", (int)(space - tensors[i]), tensors[i]);
        AUTO_BUF(dims);
        unsigned n = 0;
        for (const char *p = space; p && *p; p = strchr(p + 1, ' '), n++) {
            shape[n] = strtoull(p + 1, NULL, 10);
            assert_int_equal(buf_printf(&dims, "%s%llu", n ? "," : "", shape[n]), 0);
        }
        uint64_t size = 4 * shape[0] * shape[1] * shape[2];
        assert_int_equal(
            buf_printf(
                &json, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                i ? "," : "", name, buf_text(&dims), (unsigned long long)at,
                (unsigned long long)(at + size)
            ),
            0
        );
        at += size;
    }
    assert_int_equal(buf_append_text(&json, "}"), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(buf_append_byte(out, (uint8_t)((uint64_t)json.len >> (8 * i))), 0);
    assert_int_equal(buf_append(out, json.data, json.len), 0);
    *bytes = out->len + at;
}

#define P "base_model.model."
#define B ".vera_lambda_b"
#define D ".vera_lambda_d"

static const struct {
    const char *tensors[6], *says[4];
} malformed[] = {
    {{P "classifier.weight 2 2"}, {"there is no tensor named"}},
    {{P "q" B " 8"}, {"q: no vera_lambda_d"}},
    {{P "q" D " 4"}, {"q: no vera_lambda_b"}},
    {{P "a" D " 4", P "b" B " 4", P "c" B " 2", P "c" D " 4"},
     {"a: no vera_lambda_b", "b: no vera_lambda_d"}},
    {{P "q" B " 8", P "q" D " 5"}, {"q: vera_lambda_d has 5 values, r is 4"}},
    {{P "q" B " 8 1", P "q" D " 4"}, {"q: vera_lambda_b is no vector"}},
    {{P "q" B " 0", P "q" D " 4"}, {"q: vera_lambda_b is no vector"}},
    {{P "q" B " 8", P "q" D " 2 2"}, {"q: vera_lambda_d is no vector"}},
    {{"q" B " 8", "q" D " 4"}, {"q.vera_lambda_b: not the name", "q.vera_lambda_d: not the name"}},
    {{P B " 8", P D " 4"}, {"not the name of a module"}},
    {{"base_model.model.a\\nb" B " 8", "base_model.model.a\\nb" D " 4"}, {"control characters"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_A 4 8"}, {"there is base_model.vera_A without"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_B 8 4"}, {"there is base_model.vera_B without"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_A 5 8", "base_model.vera_B 8 5"},
     {"vera_A: not [r, in]", "vera_B: not [out, r]"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_A 4 0", "base_model.vera_B 8 4"},
     {"vera_A: not [r, in]"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_A 4 8", "base_model.vera_B 7 4"},
     {"vera_B: 7 rows, and a module has 8 outputs"}},
    {{P "q" B " 8", P "q" D " 4", "base_model.vera_A 32", "base_model.vera_B 32"},
     {"vera_A: not [r, in]", "vera_B: not [out, r]"}},
};

static size_t text_count(const char *const *list, size_t max)
{
    size_t count = 0;

    while (count < max && list[count])
        count++;
    return count;
}

static void test_malformed_adapters_are_refused_with_every_offence(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        AUTO_BUF(header);
        AUTO_ADAPTER(adapter);
        uint64_t bytes;
        model_make(&header, &bytes, malformed[i].tensors, text_count(malformed[i].tensors, 6));
        struct bytes config = text_bytes(VERA "}");
        assert_int_equal(adapter_decode(&adapter, config, buf_bytes(&header), bytes), E_INVALID);
        assert_null(adapter.modules);
        for (size_t k = 0; k < text_count(malformed[i].says, 4); k++) {
            if (!strstr(error_message(), malformed[i].says[k]))
                fail_msg("'%s' is not in: %s", malformed[i].says[k], error_message());
        }
    }
}

static void test_modules_are_in_byte_order_and_others_in_file_order(void **state)
{
    static const char *const tensors[] = {
        P "z.bias 3",
        P "a.b" B " 2",
        "base_model.vera_B 9 4",
        P "a" D " 4",
        P "a-b" B " 9",
        P "a" B " 1",
        "base_model.vera_A 4 5",
        P "a.b" D " 4",
        P "a-b" D " 4",
        P "a.weight 2",
        "odd 1",
    };
    AUTO_BUF(header);
    AUTO_ADAPTER(adapter);
    uint64_t bytes;

    (void)state;
    model_make(&header, &bytes, tensors, 11);
    assert_int_equal(adapter_decode(&adapter, text_bytes(VERA "}"), buf_bytes(&header), bytes), 0);
    assert_int_equal(adapter.module_count, 3);
    assert_string_equal(adapter.modules[0].name, "a");
    assert_string_equal(adapter.modules[1].name, "a-b");
    assert_string_equal(adapter.modules[2].name, "a.b");
    assert_int_equal(adapter.modules[1].out, 9);
    assert_string_equal(adapter.modules[1].d->name, P "a-b" D);
    assert_int_equal(adapter.out_max, 9);
    assert_int_equal(adapter.other_count, 3);
    assert_string_equal(adapter.others[0]->name, P "z.bias");
    assert_string_equal(adapter.others[2]->name, "odd");
    assert_int_equal(adapter.payload_bytes, 4 * (3 + 2 + 4 + 9 + 1 + 4 + 4 + 2 + 1));
    assert_int_equal(adapter_payload_offset(&adapter, adapter.others[0]), 0);
    assert_int_equal(adapter_payload_offset(&adapter, adapter.modules[2].b), 12);
    assert_int_equal(adapter_payload_offset(&adapter, adapter.modules[0].d), 20);
    assert_int_equal(adapter_payload_offset(&adapter, adapter.modules[2].d), 76);
    assert_int_equal(adapter_payload_offset(&adapter, adapter.others[2]), 116);
}

static void test_many_modules_take_no_quadratic_time(void **state)
{
    AUTO_BUF(json);
    AUTO_BUF(header);
    AUTO_ADAPTER(adapter);
    uint64_t at = 0;

    (void)state;
    assert_int_equal(buf_append_text(&json, "{"), 0);
    for (unsigned i = 0; i < 100000; i++) {
        unsigned mixed = i * 2654435761u;
        uint64_t size = i % 2 ? 16 : 4;
        assert_int_equal(
            buf_printf(
                &json,
                "%s\"%s%08x%s\":{\"dtype\":\"F32\",\"shape\":[%u],\"data_offsets\":[%llu,%llu]}",
                i ? "," : "", P, (i % 2 ? mixed - 2654435761u : mixed), i % 2 ? D : B,
                i % 2 ? 4 : 1, (unsigned long long)at, (unsigned long long)(at + size)
            ),
            0
        );
        at += size;
    }
    assert_int_equal(buf_append_text(&json, "}"), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(buf_append_byte(&header, (uint8_t)((uint64_t)json.len >> (8 * i))), 0);
    assert_int_equal(buf_append(&header, json.data, json.len), 0);
    clock_t begun = clock();
    assert_int_equal(
        adapter_decode(&adapter, text_bytes(VERA "}"), buf_bytes(&header), header.len + at), 0
    );
    assert_int_equal(adapter.module_count, 50000);
    assert_true(clock() - begun < 10 * CLOCKS_PER_SEC);
}

static void test_which_files_belong_to_an_adapter(void **state)
{
    static const struct {
        const char *path;
        uint64_t bytes;
        bool taken;
    } cases[] = {
        {"adapter_config.json", 10, true},
        {"adapter_model.safetensors", LIMIT_FILE, true},
        {"sub/adapter_model.safetensors", 10, false},
        {"model.safetensors", 10, false},
        {"README.md", LIMIT_SMALL_FILE, true},
        {"README.md", LIMIT_SMALL_FILE + 1, false},
        {"sub/README.md", 10, true},
        {"readme.md", 10, false},
        {"NOTES.md", 10, false},
        {"a.json", 10, true},
        {"a/b/c.json", 10, true},
        {"merges.txt", 10, true},
        {"chat_template.jinja", 10, true},
        {"tokenizer.model", 10, true},
        {"sub/tokenizer.model", 10, true},
        {"spiece.model", 10, true},
        {"sentencepiece.bpe.model", 10, true},
        {"vocab.bpe", 10, true},
        {"other.model", 10, false},
        {"optimizer.pt", 10, false},
        {"rng_state_0.pth", 10, false},
        {"training_args.bin", 10, false},
        {"vocab.bin", 10, false},
        {"adapter_model.bin", 10, false},
        {".hidden.json", 10, false},
        {".git/a.json", 10, false},
        {"a/.cache/b.json", 10, false},
        {"json", 10, false},
        {"events.out.tfevents", 10, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (peft_takes_file(cases[i].path, cases[i].bytes) != cases[i].taken)
            fail_msg("%s", cases[i].path);
    }
}

static void test_every_truncation_of_a_real_configuration_is_refused(void **state)
{
    AUTO_BUF(text);

    (void)state;
    assert_int_equal(
        file_read(&text, FIXTURES "/adapter/minilm/step-000/adapter_config.json", LIMIT_CONFIG), 0
    );
    for (size_t len = 0; len < text.len; len++) {
        struct peft_config config = {0};
        assert_int_equal(peft_config_decode(&config, (struct bytes){text.data, len}), E_INVALID);
        assert_null(config.bias);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_no_vera_configuration_is_refused_by_name),
        cmocka_unit_test(test_absent_keys_have_pefts_defaults),
        cmocka_unit_test(test_every_key_is_read),
        cmocka_unit_test(test_malformed_adapters_are_refused_with_every_offence),
        cmocka_unit_test(test_modules_are_in_byte_order_and_others_in_file_order),
        cmocka_unit_test(test_many_modules_take_no_quadratic_time),
        cmocka_unit_test(test_which_files_belong_to_an_adapter),
        cmocka_unit_test(test_every_truncation_of_a_real_configuration_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
