/* Names of weights in llama.cpp. See gguf_names.h. */
#include "apply/gguf_names.h"

#include <string.h>

#include "format/json.h"
#include "format/text.h"

#define BLOCK_DIGITS_MAX 6 /* no model has a million layers */

/* Whose heads a weight's rows belong to. */
enum rows { ROWS_PLAIN, ROWS_QUERY, ROWS_KEY };

struct weight {
    const char *module; /* below the layer; NULL ends a list */
    const char *name;
    enum rows rows;
};

static const struct weight llama_weights[] = {
    {"self_attn.q_proj", "attn_q", ROWS_QUERY}, {"self_attn.k_proj", "attn_k", ROWS_KEY},
    {"self_attn.v_proj", "attn_v", ROWS_PLAIN}, {"self_attn.o_proj", "attn_output", ROWS_PLAIN},
    {"mlp.gate_proj", "ffn_gate", ROWS_PLAIN},  {"mlp.up_proj", "ffn_up", ROWS_PLAIN},
    {"mlp.down_proj", "ffn_down", ROWS_PLAIN},  {NULL, NULL, ROWS_PLAIN},
};

static const struct weight gpt2_weights[] = {
    {"attn.c_attn", "attn_qkv", ROWS_PLAIN},
    {"attn.c_proj", "attn_output", ROWS_PLAIN},
    {"mlp.c_fc", "ffn_up", ROWS_PLAIN},
    {"mlp.c_proj", "ffn_down", ROWS_PLAIN},
    {NULL, NULL, ROWS_PLAIN},
};

static const struct weight bert_weights[] = {
    {"attention.self.query", "attn_q", ROWS_PLAIN},
    {"attention.self.key", "attn_k", ROWS_PLAIN},
    {"attention.self.value", "attn_v", ROWS_PLAIN},
    {"attention.output.dense", "attn_output", ROWS_PLAIN},
    {"intermediate.dense", "ffn_up", ROWS_PLAIN},
    {"output.dense", "ffn_down", ROWS_PLAIN},
    {NULL, NULL, ROWS_PLAIN},
};

struct gguf_architecture {
    const char *model_type;    /* config.json's */
    const char *name;          /* llama.cpp's */
    const char *head, *layers; /* "model." may be missing, "layers." not */
    const struct weight *weights;
    bool reorders; /* rows of queries and keys */
    bool ties;     /* lm_head to the embedding, where config.json says nothing */
};

static const struct gguf_architecture architectures[] = {
    {"llama", "llama", "model.", "layers.", llama_weights, true, false},
    {"mistral", "llama", "model.", "layers.", llama_weights, true, false},
    {"qwen2", "qwen2", "model.", "layers.", llama_weights, false, false},
    {"qwen3", "qwen3", "model.", "layers.", llama_weights, false, false},
    {"gpt2", "gpt2", "transformer.", "h.", gpt2_weights, false, true},
    {"bert", "bert", "bert.", "encoder.layer.", bert_weights, false, true},
};

#define ARCHITECTURES (sizeof(architectures) / sizeof(architectures[0]))
#define SUPPORTED     "llama, mistral, qwen2, qwen3, gpt2 and bert"

/* config.json */

struct config {
    char type[64];            /* model_type, cut; "" where there is none */
    bool type_is_plain;       /* and whole */
    uint64_t heads, kv_heads; /* 0: not there */
    bool says_tied, tied;
};

static void type_read(struct config *config, const struct json *json)
{
    size_t n = json->text.len < sizeof(config->type) ? json->text.len : sizeof(config->type) - 1;

    if (n)
        memcpy(config->type, json->text.data, n);
    config->type[n] = '\0';
    config->type_is_plain = n == json->text.len && text_is_plain(json->text);
}

static int heads_read(uint64_t *out, const struct json *json, enum json_event event)
{
    if (event == JSON_NULL)
        return 0;
    if (event != JSON_NUMBER || json_get_uint64(out, json) < 0 || *out == 0)
        return error_set(E_INVALID, "a number of heads is no integer above 0");
    return 0;
}

enum key { KEY_OTHER, KEY_TYPE, KEY_HEADS, KEY_KV_HEADS, KEY_TIED };

static enum key key_of(const struct json *json)
{
    return json_text_is(json, "model_type")            ? KEY_TYPE
           : json_text_is(json, "num_attention_heads") ? KEY_HEADS
           : json_text_is(json, "num_key_value_heads") ? KEY_KV_HEADS
           : json_text_is(json, "tie_word_embeddings") ? KEY_TIED
                                                       : KEY_OTHER;
}

static int value_read(struct config *config, struct json *json, enum key key)
{
    enum json_event event = JSON_NULL;
    int err = json_next(&event, json);

    if (err < 0)
        return err;
    if (key == KEY_TYPE && event == JSON_STRING)
        type_read(config, json);
    if (key == KEY_TIED && (event == JSON_TRUE || event == JSON_FALSE)) {
        config->says_tied = true;
        config->tied = event == JSON_TRUE;
    }
    if (key == KEY_HEADS && (err = heads_read(&config->heads, json, event)) < 0)
        return err;
    if (key == KEY_KV_HEADS && (err = heads_read(&config->kv_heads, json, event)) < 0)
        return err;
    return json_skip(json, event);
}

static int config_read(struct config *config, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    json_init(&json, text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if ((err = value_read(config, &json, key_of(&json))) < 0)
            return err;
    }
    return err < 0 ? err : json_expect(&json, JSON_END);
}

static const struct gguf_architecture *architecture_find(const struct config *config)
{
    for (size_t i = 0; config->type_is_plain && i < ARCHITECTURES; i++) {
        if (strcmp(architectures[i].model_type, config->type) == 0)
            return &architectures[i];
    }
    return NULL;
}

static int architecture_refuse(const struct config *config)
{
    int err = config->type[0] && config->type_is_plain
                  ? error_set(
                        E_UNSUPPORTED, "a model of type '%s' cannot be written as GGUF",
                        config->type
                    )
                  : error_set(
                        E_UNSUPPORTED,
                        "config.json names no type of model that can be written as GGUF"
                    );
    return error_hint(err, "known are " SUPPORTED);
}

int gguf_model_read(struct gguf_model *out, struct bytes text)
{
    struct config config = {0};

    int err = config_read(&config, text);
    if (err < 0)
        return error_wrap(err, "config.json");
    const struct gguf_architecture *architecture = architecture_find(&config);
    if (!architecture)
        return architecture_refuse(&config);
    struct gguf_model model = {
        .architecture = architecture,
        .has_output = !(config.says_tied ? config.tied : architecture->ties),
    };
    if (architecture->reorders) {
        if (!config.heads)
            return error_set(E_INVALID, "config.json: no num_attention_heads");
        model.heads = config.heads;
        model.kv_heads = config.kv_heads ? config.kv_heads : config.heads;
    }
    *out = model;
    return 0;
}

const char *gguf_architecture_name(const struct gguf_model *model)
{
    return model->architecture->name;
}

/* Names */

/* What follows `start`; NULL where the text does not begin with it. */
static const char *behind(const char *text, const char *start)
{
    size_t n = strlen(start);

    return strncmp(text, start, n) == 0 ? text + n : NULL;
}

/* "12.": *digits of them, and what follows; NULL where that is no layer's number. */
static const char *layer_read(size_t *digits, const char *text)
{
    size_t n = strspn(text, "0123456789");

    if (n == 0 || n > BLOCK_DIGITS_MAX || (n > 1 && text[0] == '0') || text[n] != '.')
        return NULL;
    *digits = n;
    return text + n + 1;
}

int gguf_weight_name(
    struct buf *out, uint64_t *heads, const struct gguf_model *model, const char *module
)
{
    const struct gguf_architecture *architecture = model->architecture;
    const char *bare = behind(module, architecture->head), *number, *below;
    size_t digits = 0;

    *heads = 0;
    if (strcmp(module, "lm_head") == 0)
        return model->has_output ? buf_append_text(out, "output.weight") : 0;
    number = behind(bare ? bare : module, architecture->layers);
    if (!number || !(below = layer_read(&digits, number)))
        return 0;
    for (const struct weight *weight = architecture->weights; weight->module; weight++) {
        if (strcmp(weight->module, below) != 0)
            continue;
        if (architecture->reorders && weight->rows != ROWS_PLAIN)
            *heads = weight->rows == ROWS_QUERY ? model->heads : model->kv_heads;
        return buf_printf(out, "blk.%.*s.%s.weight", (int)digits, number, weight->name);
    }
    return 0;
}
