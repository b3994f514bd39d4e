/* Tests of apply/gguf_names.c: every name of every architecture, what is none, what config.json
   says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/gguf_names.h"
#include "tests/fault.h"

#define HEADS "\"num_attention_heads\": 8, \"num_key_value_heads\": 2"

static void model_read(struct gguf_model *out, const char *config)
{
    assert_int_equal(gguf_model_read(out, text_bytes(config)), 0);
}

static const struct {
    const char *type, *module, *name; /* NULL: none */
    uint64_t heads;
} cases[] = {
    {"llama", "model.layers.0.self_attn.q_proj", "blk.0.attn_q.weight", 8},
    {"llama", "model.layers.31.self_attn.k_proj", "blk.31.attn_k.weight", 2},
    {"llama", "model.layers.5.self_attn.v_proj", "blk.5.attn_v.weight", 0},
    {"llama", "model.layers.5.self_attn.o_proj", "blk.5.attn_output.weight", 0},
    {"llama", "model.layers.5.mlp.gate_proj", "blk.5.ffn_gate.weight", 0},
    {"llama", "model.layers.5.mlp.up_proj", "blk.5.ffn_up.weight", 0},
    {"llama", "model.layers.5.mlp.down_proj", "blk.5.ffn_down.weight", 0},
    {"llama", "layers.10.self_attn.q_proj", "blk.10.attn_q.weight", 8},
    {"llama", "lm_head", "output.weight", 0},
    {"mistral", "model.layers.0.self_attn.q_proj", "blk.0.attn_q.weight", 8},
    {"mistral", "model.layers.0.self_attn.k_proj", "blk.0.attn_k.weight", 2},
    {"qwen2", "model.layers.0.self_attn.q_proj", "blk.0.attn_q.weight", 0},
    {"qwen2", "model.layers.0.self_attn.k_proj", "blk.0.attn_k.weight", 0},
    {"qwen3", "model.layers.999999.self_attn.k_proj", "blk.999999.attn_k.weight", 0},
    {"qwen3", "lm_head", "output.weight", 0},
    {"gpt2", "transformer.h.11.attn.c_attn", "blk.11.attn_qkv.weight", 0},
    {"gpt2", "h.11.attn.c_proj", "blk.11.attn_output.weight", 0},
    {"gpt2", "transformer.h.0.mlp.c_fc", "blk.0.ffn_up.weight", 0},
    {"gpt2", "transformer.h.0.mlp.c_proj", "blk.0.ffn_down.weight", 0},
    {"gpt2", "lm_head", NULL, 0},
    {"bert", "bert.encoder.layer.0.attention.self.query", "blk.0.attn_q.weight", 0},
    {"bert", "encoder.layer.0.attention.self.key", "blk.0.attn_k.weight", 0},
    {"bert", "bert.encoder.layer.0.attention.self.value", "blk.0.attn_v.weight", 0},
    {"bert", "bert.encoder.layer.0.attention.output.dense", "blk.0.attn_output.weight", 0},
    {"bert", "bert.encoder.layer.0.intermediate.dense", "blk.0.ffn_up.weight", 0},
    {"bert", "bert.encoder.layer.0.output.dense", "blk.0.ffn_down.weight", 0},
    /* What llama.cpp has no weight for. */
    {"bert", "bert.pooler.dense", NULL, 0},
    {"bert", "classifier", NULL, 0},
    {"llama", "model.layers.0.self_attn.q_proj.x", NULL, 0},
    {"llama", "model.layers.0.self_attn", NULL, 0},
    {"llama", "model.layers.0", NULL, 0},
    {"llama", "model.layers.0.", NULL, 0},
    {"llama", "model.layers.", NULL, 0},
    {"llama", "model.layers..self_attn.q_proj", NULL, 0},
    {"llama", "model.layers.01.self_attn.q_proj", NULL, 0},
    {"llama", "model.layers.1000000.self_attn.q_proj", NULL, 0},
    {"llama", "model.layers.-1.self_attn.q_proj", NULL, 0},
    {"llama", "model.layers.1x.self_attn.q_proj", NULL, 0},
    {"llama", "x.model.layers.0.self_attn.q_proj", NULL, 0},
    {"llama", "model.model.layers.0.self_attn.q_proj", NULL, 0},
    {"llama", "transformer.h.0.attn.c_attn", NULL, 0},
    {"gpt2", "model.layers.0.self_attn.q_proj", NULL, 0},
    {"llama", "", NULL, 0},
    {"llama", "model.", NULL, 0},
};

static void test_every_weight_has_its_name_and_its_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct gguf_model model;
        AUTO_BUF(config);
        AUTO_BUF(name);
        uint64_t heads = 99;
        assert_int_equal(
            buf_printf(&config, "{\"model_type\": \"%s\", " HEADS "}", cases[i].type), 0
        );
        model_read(&model, buf_text(&config));
        assert_int_equal(gguf_weight_name(&name, &heads, &model, cases[i].module), 0);
        assert_string_equal(buf_text(&name), cases[i].name ? cases[i].name : "");
        assert_int_equal(heads, cases[i].heads);
    }
}

static void test_config_tells_architecture_heads_and_output(void **state)
{
    static const struct {
        const char *config, *name;
        uint64_t heads, kv_heads;
        bool has_output;
    } models[] = {
        {"{\"model_type\": \"llama\", " HEADS "}", "llama", 8, 2, true},
        {"{" HEADS ", \"model_type\": \"mistral\"}", "llama", 8, 2, true},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 8}", "llama", 8, 8, true},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 8, \"num_key_value_heads\": null}",
         "llama", 8, 8, true},
        {"{\"model_type\": \"llama\", " HEADS ", \"tie_word_embeddings\": true}", "llama", 8, 2,
         false},
        {"{\"model_type\": \"qwen2\"}", "qwen2", 0, 0, true},
        {"{\"model_type\": \"qwen3\", " HEADS "}", "qwen3", 0, 0, true},
        {"{\"model_type\": \"gpt2\"}", "gpt2", 0, 0, false},
        {"{\"model_type\": \"gpt2\", \"tie_word_embeddings\": false}", "gpt2", 0, 0, true},
        {"{\"model_type\": \"bert\", " HEADS "}", "bert", 0, 0, false},
        /* Only the outermost object speaks of the whole model. */
        {"{\"x\": {\"model_type\": \"bert\", \"num_attention_heads\": 3}, \"model_type\": "
         "\"llama\", "
         "\"num_attention_heads\": 8}",
         "llama", 8, 8, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        struct gguf_model model;
        model_read(&model, models[i].config);
        assert_string_equal(gguf_architecture_name(&model), models[i].name);
        assert_int_equal(model.heads, models[i].heads);
        assert_int_equal(model.kv_heads, models[i].kv_heads);
        assert_int_equal(model.has_output, models[i].has_output);
    }
}

static void test_what_says_too_little_is_refused(void **state)
{
    static const struct {
        const char *config;
        int err;
    } refused[] = {
        {"", E_INVALID},
        {"[]", E_INVALID},
        {"{\"model_type\": \"llama\"", E_INVALID},
        {"{\"model_type\": \"llama\"} x", E_INVALID},
        {"{\"model_type\": \"llama\"}", E_INVALID},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": null}", E_INVALID},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 0}", E_INVALID},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 1.0}", E_INVALID},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": [8]}", E_INVALID},
        {"{\"model_type\": \"llama\", " HEADS ", \"num_key_value_heads\": 1}", E_INVALID},
        {"{}", E_UNSUPPORTED},
        {"{\"model_type\": null}", E_UNSUPPORTED},
        {"{\"model_type\": \"\"}", E_UNSUPPORTED},
        {"{\"model_type\": \"llama4\"}", E_UNSUPPORTED},
        {"{\"model_type\": \"Llama\"}", E_UNSUPPORTED},
        {"{\"model_type\": \"llama\\u0000\"}", E_UNSUPPORTED},
        {"{\"model_type\": {\"model_type\": \"llama\"}}", E_UNSUPPORTED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct gguf_model model = {.heads = 77};
        assert_int_equal(gguf_model_read(&model, text_bytes(refused[i].config)), refused[i].err);
        assert_int_equal(model.heads, 77);
    }
}

static void test_where_memory_runs_out_it_is_said(void **state)
{
    static const char module[] = "model.layers.0.self_attn.q_proj";
    struct gguf_model model;
    int err = E_NOMEM;
    uint64_t heads;

    (void)state;
    model_read(&model, "{\"model_type\": \"llama\", " HEADS "}");
    for (int n = 0; err; n++) {
        AUTO_BUF(name);
        fault_after = n;
        err = gguf_weight_name(&name, &heads, &model, module);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_true(err != 0 || n > 0);
    }
    err = E_NOMEM;
    for (int n = 0; err; n++) {
        fault_after = n;
        err = gguf_model_read(&model, text_bytes("{\"model_type\": \"llama\", " HEADS "}"));
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_true(err != 0 || n > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_weight_has_its_name_and_its_heads),
        cmocka_unit_test(test_config_tells_architecture_heads_and_output),
        cmocka_unit_test(test_what_says_too_little_is_refused),
        cmocka_unit_test(test_where_memory_runs_out_it_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
