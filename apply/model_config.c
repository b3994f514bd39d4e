/*
 * What the plan needs of a base model's config.json. See model.h.
 *
 * Multimodal and encoder-decoder models nest the configurations of their parts, so keys count at
 * any depth; tie_word_embeddings of the outermost object goes before those inside. The
 * architectures are those of Transformers whose modules include Conv1D (pytorch_utils.py); all
 * others have nn.Linear only, but a model that brings code of its own (auto_map) may have anything.
 */
#include "apply/model.h"

#include "format/json.h"

enum answer { SAYS_NOTHING, SAYS_NO, SAYS_YES };

struct config {
    unsigned depth; /* of the containers that are open */
    enum answer tied, tied_inside;
    bool typed, conv1d, own_code, quantised;
};

static bool is_conv1d_family(const struct json *json)
{
    static const char *const types[] = {"clvp", "clvp_decoder", "decision_transformer",
                                        "gpt2", "imagegpt",     "openai-gpt"};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (json_text_is(json, types[i]))
            return true;
    }
    return false;
}

enum key { KEY_OTHER, KEY_TIE, KEY_TYPE, KEY_AUTO_MAP, KEY_QUANTISATION };

static enum key key_of(const struct json *json)
{
    if (json_text_is(json, "tie_word_embeddings"))
        return KEY_TIE;
    if (json_text_is(json, "model_type"))
        return KEY_TYPE;
    if (json_text_is(json, "auto_map"))
        return KEY_AUTO_MAP;
    if (json_text_is(json, "quantization_config") || json_text_is(json, "compression_config"))
        return KEY_QUANTISATION;
    return KEY_OTHER;
}

/* One value, or the beginning of one. */
static void
value_read(struct config *config, enum key key, const struct json *json, enum json_event event)
{
    bool outermost = config->depth == 1;

    if (key == KEY_TIE && (event == JSON_TRUE || event == JSON_FALSE))
        *(outermost ? &config->tied : &config->tied_inside) = event == JSON_TRUE ? SAYS_YES
                                                                                 : SAYS_NO;
    if (key == KEY_TYPE && event == JSON_STRING) {
        config->typed = config->typed || outermost;
        config->conv1d = config->conv1d || is_conv1d_family(json);
    }
    if (event == JSON_OBJECT_BEGIN) {
        config->own_code = config->own_code || key == KEY_AUTO_MAP;
        config->quantised = config->quantised || key == KEY_QUANTISATION;
    }
}

static int config_read(struct config *config, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    json_init(&json, text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    config->depth = 1;
    enum key key = KEY_OTHER;
    while ((err = json_next(&event, &json)) == 0 && event != JSON_END) {
        value_read(config, key, &json, event);
        if (event == JSON_OBJECT_BEGIN || event == JSON_ARRAY_BEGIN)
            config->depth++;
        if (event == JSON_OBJECT_END || event == JSON_ARRAY_END)
            config->depth--;
        key = event == JSON_KEY ? key_of(&json) : KEY_OTHER;
    }
    return err;
}

int model_config_read(struct model *model, struct bytes json, bool has_lm_head)
{
    struct config config = {0};

    int err = config_read(&config, json);
    if (err < 0)
        return err;
    enum answer tied = config.tied ? config.tied : config.tied_inside;
    model->tied_embeddings = tied ? tied == SAYS_YES : !has_lm_head;
    model->layers = config.own_code || !config.typed ? LAYERS_UNKNOWN
                    : config.conv1d                  ? LAYERS_CONV1D
                                                     : LAYERS_LINEAR;
    model->quantised = config.quantised;
    return 0;
}
