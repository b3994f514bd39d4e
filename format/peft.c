/*
 * What PEFT writes. See peft.h.
 *
 * The configuration is read twice: first for its peft_type, so that an adapter of another kind is
 * called by its name and not by the first key that VeRA has otherwise. Of the other keys only those
 * are read that vera needs; target_modules is never interpreted, since the tensors say which
 * modules there are. Names come from a file that may be hostile: everything is sorted and merged,
 * nothing is searched one by one.
 */
#include "format/peft.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

#define SUFFIX_B ".vera_lambda_b"
#define SUFFIX_D ".vera_lambda_d"
#define NAME_A   "base_model.vera_A"
#define NAME_B   "base_model.vera_B"

/* The configuration */

static int key_error(const char *key, const char *wanted)
{
    return error_set(E_INVALID, "%s is not %s", key, wanted);
}

static int read_text(char **out, const struct json *json, const char *key)
{
    if (json->text.len && memchr(json->text.data, 0, json->text.len))
        return error_set(E_INVALID, "%s holds a NUL", key);
    char *text = bytes_dup(json->text);
    if (!text)
        return error_set(E_NOMEM, "out of memory for %s", key);
    free(*out);
    *out = text;
    return 0;
}

static int
read_optional_text(char **out, const struct json *json, enum json_event event, const char *key)
{
    if (event == JSON_NULL)
        return 0;
    return event == JSON_STRING ? read_text(out, json, key) : key_error(key, "a text or null");
}

static int read_bool(bool *out, enum json_event event, const char *key)
{
    if (event != JSON_TRUE && event != JSON_FALSE)
        return key_error(key, "true or false");
    *out = event == JSON_TRUE;
    return 0;
}

static int read_rank(struct peft_config *config, const struct json *json, enum json_event event)
{
    uint64_t rank = 0;

    if (event != JSON_NUMBER || json_get_uint64(&rank, json) < 0 || rank == 0)
        return key_error("r", "an integer above 0");
    if (rank > LIMIT_RANK)
        return error_set(
            E_LIMIT, "r is %" PRIu64 ", at most %" PRIu64 " is allowed", rank, LIMIT_RANK
        );
    config->rank = rank;
    return 0;
}

static int read_seed(struct peft_config *config, const struct json *json, enum json_event event)
{
    config->has_seed = event != JSON_NULL;
    if (event == JSON_NULL)
        return 0;
    if (event != JSON_NUMBER || json_get_int(&config->seed, json) < 0)
        return key_error("projection_prng_key", "an integer from -2^63 to 2^64-1, or null");
    return 0;
}

static int
read_modules_to_save(struct peft_config *config, struct json *json, enum json_event event)
{
    static const char key[] = "modules_to_save";
    AUTO_BUF(names);
    int err;

    if (event == JSON_NULL)
        return 0;
    if (event != JSON_ARRAY_BEGIN)
        return key_error(key, "a list of texts or null");
    while ((err = json_next(&event, json)) == 0 && event == JSON_STRING) {
        char *name = NULL;
        if ((err = read_text(&name, json, key)) < 0)
            break;
        if ((err = buf_append(&names, &name, sizeof(name))) < 0) {
            free(name);
            break;
        }
    }
    if (err == 0 && event != JSON_ARRAY_END)
        err = key_error(key, "a list of texts or null");
    /* Whoever fails, the names have an owner: the caller releases the configuration. */
    config->modules_to_save_count = names.len / sizeof(char *);
    config->modules_to_save = (char **)(void *)buf_take(&names).data;
    return err;
}

static int read_key(struct peft_config *config, struct json *json, struct bytes key)
{
    enum json_event event = JSON_NULL;

#define KEY_IS(text) bytes_equal(key, text_bytes(text))
    int err = json_next(&event, json);
    if (err < 0)
        return err;
    if (KEY_IS("r"))
        return read_rank(config, json, event);
    if (KEY_IS("projection_prng_key"))
        return read_seed(config, json, event);
    if (KEY_IS("save_projection"))
        return read_bool(&config->save_projection, event, "save_projection");
    if (KEY_IS("fan_in_fan_out"))
        return read_bool(&config->fan_in_fan_out, event, "fan_in_fan_out");
    if (KEY_IS("bias"))
        return event == JSON_STRING ? read_text(&config->bias, json, "bias")
                                    : key_error("bias", "a text");
    if (KEY_IS("base_model_name_or_path"))
        return read_optional_text(&config->base_name, json, event, "base_model_name_or_path");
    if (KEY_IS("revision"))
        return read_optional_text(&config->base_revision, json, event, "revision");
    if (KEY_IS("task_type"))
        return read_optional_text(&config->task_type, json, event, "task_type");
    if (KEY_IS("modules_to_save"))
        return read_modules_to_save(config, json, event);
#undef KEY_IS
    return json_skip(json, event);
}

/* Longer than any key that is read: a longer one is cut, and still none of them. */
#define KEY_MAX 32

static int read_keys(struct peft_config *config, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    uint8_t key[KEY_MAX];
    int err;

    json_init(&json, text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        size_t len = json.text.len < KEY_MAX ? json.text.len : KEY_MAX;
        if (len)
            memcpy(key, json.text.data, len);
        if ((err = read_key(config, &json, (struct bytes){key, len})) < 0)
            return err;
    }
    return err < 0 ? err : json_expect(&json, JSON_END);
}

/* The name of another method, where it can be printed. */
static bool is_word(struct bytes text)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (!(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') &&
            c != '_')
            return false;
    }
    return text.len > 0 && text.len <= 40;
}

static int type_check(const struct json *json, enum json_event event)
{
    if (event != JSON_STRING)
        return key_error("peft_type", "a text");
    if (json_text_is(json, "VERA"))
        return 0;
    bool named = is_word(json->text);
    int err = error_set(
        E_UNSUPPORTED, "this is %s%.*s adapter; vera stores VeRA adapters",
        !named                                             ? "another kind of"
        : strchr("AEIOUaeiou", json->text.data[0]) != NULL ? "an "
                                                           : "a ",
        named ? (int)json->text.len : 0, (const char *)json->text.data
    );
    return error_hint(err, "an adapter that was trained with peft.VeraConfig can be stored");
}

/* Is it JSON, and of a VeRA adapter? */
static int kind_check(struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    bool typed = false;
    int err, wrong = 0;

    json_init(&json, text);
    if ((err = json_next(&event, &json)) < 0)
        return err;
    if (event != JSON_OBJECT_BEGIN)
        return error_set(E_INVALID, "not a JSON object");
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        bool is_type = json_text_is(&json, "peft_type");
        if ((err = json_next(&event, &json)) < 0)
            return err;
        if (is_type) {
            typed = true;
            if ((wrong = type_check(&json, event)) < 0)
                return wrong;
        }
        if ((err = json_skip(&json, event)) < 0)
            return err;
    }
    if (err < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    return typed ? 0 : error_set(E_INVALID, "no peft_type: not PEFT's configuration");
}

static int config_read(struct peft_config *config, struct bytes json)
{
    int err;

    if (json.len > LIMIT_CONFIG)
        return error_set(
            E_LIMIT, "%zu bytes, at most %" PRIu64 " are allowed", json.len, LIMIT_CONFIG
        );
    *config = (struct peft_config){.has_seed = true, .save_projection = true};
    if ((err = kind_check(json)) < 0 || (err = read_keys(config, json)) < 0)
        return err;
    if (!config->rank)
        return error_set(E_INVALID, "no r, the adapter's rank");
    if (!config->bias && !(config->bias = bytes_dup(text_bytes("none"))))
        return error_set(E_NOMEM, "out of memory for bias");
    return 0;
}

int peft_config_decode(struct peft_config *out, struct bytes json)
{
    struct peft_config config = {0};

    int err = config_read(&config, json);
    if (err < 0) {
        peft_config_release(&config);
        return error_wrap(err, "%s", PEFT_CONFIG);
    }
    *out = config;
    return 0;
}

bool peft_key_is_set(const char *key)
{
    static const char *const sets[] = {
        "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"};

    for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
        if (strcmp(key, sets[i]) == 0)
            return true;
    }
    return false;
}

void peft_config_release(struct peft_config *config)
{
    for (size_t i = 0; i < config->modules_to_save_count; i++)
        free(config->modules_to_save[i]);
    free(config->modules_to_save);
    free(config->bias);
    free(config->base_name);
    free(config->base_revision);
    free(config->task_type);
    *config = (struct peft_config){0};
}

/* The tensors */

/* Begins a list of offences with the first, adds to it with the others. */
#define OFFENCE(err, ...)                                                                          \
    ((err) = error_detail(                                                                         \
         (err) < 0 ? (err) : error_set(E_INVALID, "%s: not a VeRA adapter", PEFT_MODEL),           \
         __VA_ARGS__                                                                               \
     ))

/* One vector of a module: where it is, and its module's name within the tensor's. */
struct vector {
    const struct tensor *tensor;
    const char *name;
    size_t len;
};

struct vectors {
    struct vector *list;
    size_t count;
};

static int vector_compare(const struct vector *a, const struct vector *b)
{
    size_t len = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->name, b->name, len);

    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int vector_compare_void(const void *a, const void *b)
{
    return vector_compare(a, b);
}

static bool ends_with(const char *text, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(text + len - n, suffix, n) == 0;
}

static bool has_control(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((uint8_t)text[i] < 0x20 || text[i] == 0x7f)
            return true;
    }
    return false;
}

/* A tensor that ends like a vector: into its list, or an offence. */
static int vector_add(struct vectors *vectors, const struct tensor *tensor, size_t suffix, int err)
{
    size_t prefix = strlen(PEFT_PREFIX);

    if (has_control(tensor->name, tensor->name_len))
        return OFFENCE(
            err, "the vector at byte %" PRIu64 " has a name with control characters", tensor->begin
        );
    if (tensor->name_len <= prefix + suffix || memcmp(tensor->name, PEFT_PREFIX, prefix) != 0)
        return OFFENCE(err, "%s: not the name of a module below %s", tensor->name, PEFT_PREFIX);
    vectors->list[vectors->count++] = (struct vector
    ){tensor, tensor->name + prefix, tensor->name_len - prefix - suffix};
    return err;
}

/* Every tensor to where it belongs. */
static int tensors_sort_out(struct adapter *adapter, struct vectors *b, struct vectors *d, int err)
{
    for (size_t i = 0; i < adapter->layout.count; i++) {
        const struct tensor *tensor = &adapter->layout.tensors[i];
        struct bytes name = {(const uint8_t *)tensor->name, tensor->name_len};
        if (ends_with(tensor->name, tensor->name_len, SUFFIX_B))
            err = vector_add(b, tensor, strlen(SUFFIX_B), err);
        else if (ends_with(tensor->name, tensor->name_len, SUFFIX_D))
            err = vector_add(d, tensor, strlen(SUFFIX_D), err);
        else if (bytes_equal(name, text_bytes(NAME_A)))
            adapter->a = tensor;
        else if (bytes_equal(name, text_bytes(NAME_B)))
            adapter->basis_b = tensor;
        else
            adapter->others[adapter->other_count++] = tensor;
    }
    qsort(b->list, b->count, sizeof(struct vector), vector_compare_void);
    qsort(d->list, d->count, sizeof(struct vector), vector_compare_void);
    return err;
}

static int
module_add(struct adapter *adapter, const struct vector *b, const struct vector *d, int err)
{
    const struct tensor *tb = b->tensor, *td = d->tensor;
    int len = (int)b->len;

    if (tb->dims != 1 || tb->shape[0] == 0)
        return OFFENCE(err, "%.*s: %s is no vector", len, b->name, &SUFFIX_B[1]);
    if (tb->shape[0] > LIMIT_FEATURES)
        return OFFENCE(err, "%.*s: %" PRIu64 " outputs", len, b->name, tb->shape[0]);
    if (td->dims != 1)
        return OFFENCE(err, "%.*s: %s is no vector", len, b->name, &SUFFIX_D[1]);
    if (td->shape[0] != adapter->config.rank)
        return OFFENCE(
            err, "%.*s: %s has %" PRIu64 " values, r is %" PRIu64, len, b->name, &SUFFIX_D[1],
            td->shape[0], adapter->config.rank
        );
    char *name = bytes_dup((struct bytes){(const uint8_t *)b->name, b->len});
    if (!name)
        return error_set(E_NOMEM, "out of memory for the modules");
    adapter->modules[adapter->module_count++] = (struct adapter_module
    ){.name = name, .b = tb, .d = td, .out = tb->shape[0]};
    if (tb->shape[0] > adapter->out_max)
        adapter->out_max = tb->shape[0];
    return err;
}

/* Merge the two sorted lists: what is in one only lacks its other half. */
static int
modules_make(struct adapter *adapter, const struct vectors *b, const struct vectors *d, int err)
{
    size_t i = 0, k = 0;

    while (err != E_NOMEM && (i < b->count || k < d->count)) {
        int order = i == b->count   ? 1
                    : k == d->count ? -1
                                    : vector_compare(&b->list[i], &d->list[k]);
        if (order == 0) {
            err = module_add(adapter, &b->list[i++], &d->list[k++], err);
            continue;
        }
        const struct vector *alone = order < 0 ? &b->list[i++] : &d->list[k++];
        OFFENCE(
            err, "%.*s: no %s", (int)alone->len, alone->name,
            order < 0 ? &SUFFIX_D[1] : &SUFFIX_B[1]
        );
    }
    if (err == 0 && !adapter->module_count)
        OFFENCE(err, "there is no tensor named %s<module>%s", PEFT_PREFIX, SUFFIX_B);
    return err;
}

static int basis_check(const struct adapter *adapter, int err)
{
    const struct tensor *a = adapter->a, *b = adapter->basis_b;

    if (!a != !b)
        return OFFENCE(err, "there is %s without %s", a ? NAME_A : NAME_B, a ? NAME_B : NAME_A);
    if (!a)
        return err;
    if (a->dims != 2 || a->shape[0] != adapter->config.rank || a->shape[1] == 0)
        OFFENCE(err, "%s: not [r, in], r is %" PRIu64, NAME_A, adapter->config.rank);
    if (b->dims != 2 || b->shape[1] != adapter->config.rank)
        OFFENCE(err, "%s: not [out, r], r is %" PRIu64, NAME_B, adapter->config.rank);
    else if (b->shape[0] < adapter->out_max)
        OFFENCE(
            err, "%s: %" PRIu64 " rows, and a module has %" PRIu64 " outputs", NAME_B, b->shape[0],
            adapter->out_max
        );
    return err;
}

static int adapter_read(struct adapter *adapter, struct bytes header, uint64_t file_bytes)
{
    AUTO_FREE(struct vector, list_b);
    AUTO_FREE(struct vector, list_d);

    int err = safetensors_decode(&adapter->layout, header, file_bytes);
    if (err < 0)
        return error_wrap(err, "%s", PEFT_MODEL);
    size_t count = adapter->layout.count;
    list_b = array_new(count, sizeof(*list_b));
    list_d = array_new(count, sizeof(*list_d));
    adapter->others = array_new(count, sizeof(*adapter->others));
    adapter->modules = array_new(count, sizeof(*adapter->modules));
    if (!list_b || !list_d || !adapter->others || !adapter->modules)
        return error_set(E_NOMEM, "out of memory for %zu tensors", count);
    struct vectors b = {list_b, 0}, d = {list_d, 0};
    err = tensors_sort_out(adapter, &b, &d, 0);
    err = modules_make(adapter, &b, &d, err);
    if (err != E_NOMEM)
        err = basis_check(adapter, err);
    adapter->payload_bytes = adapter->layout.data_bytes;
    if (err == 0 && adapter->a)
        adapter->payload_bytes -= tensor_bytes(adapter->a) + tensor_bytes(adapter->basis_b);
    return err;
}

int adapter_decode(
    struct adapter *out, struct bytes config, struct bytes header, uint64_t file_bytes
)
{
    AUTO_ADAPTER(adapter);
    int err;

    if ((err = peft_config_decode(&adapter.config, config)) < 0 ||
        (err = adapter_read(&adapter, header, file_bytes)) < 0)
        return err;
    *out = adapter;
    adapter = (struct adapter){0};
    return 0;
}

void adapter_release(struct adapter *adapter)
{
    for (size_t i = 0; i < adapter->module_count; i++)
        free(adapter->modules[i].name);
    free(adapter->modules);
    free(adapter->others);
    safetensors_release(&adapter->layout);
    peft_config_release(&adapter->config);
    *adapter = (struct adapter){0};
}

uint64_t adapter_payload_offset(const struct adapter *adapter, const struct tensor *tensor)
{
    const struct tensor *matrices[] = {adapter->a, adapter->basis_b};
    uint64_t offset = tensor->begin;

    for (size_t i = 0; i < 2; i++) {
        if (matrices[i] && matrices[i]->begin < tensor->begin)
            offset -= tensor_bytes(matrices[i]);
    }
    return offset;
}

/* Which files belong to an adapter */

static bool matches_any(const char *name, const char *const *list, bool as_suffix)
{
    for (; *list; list++) {
        if (as_suffix ? ends_with(name, strlen(name), *list) : strcmp(name, *list) == 0)
            return true;
    }
    return false;
}

bool peft_takes_file(const char *path, uint64_t bytes)
{
    static const char *const names[] = {
        "README.md",    "tokenizer.model",     "tokenizer.model.v3",
        "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model",
        "vocab.bpe",    "vocab.model",         NULL};
    static const char *const suffixes[] = {".json", ".txt", ".jinja", ".spm", ".tiktoken", NULL};

    if (strcmp(path, PEFT_CONFIG) == 0 || strcmp(path, PEFT_MODEL) == 0)
        return true;
    if (path[0] == '.' || strstr(path, "/.") || bytes > LIMIT_SMALL_FILE)
        return false;
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    return matches_any(name, names, false) || matches_any(name, suffixes, true);
}
