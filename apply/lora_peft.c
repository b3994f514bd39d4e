/* The LoRA directory of an adapter. See lora_peft.h. */
#include "apply/lora_peft.h"

#include <stdlib.h>
#include <string.h>

#include "apply/merge_layout.h"
#include "format/json_meaning.h"

/* One tensor of the file: a factor, or one that the adapter has besides its vectors. */
struct entry {
    struct tensor tensor; /* shape points to `shape` or into the adapter */
    uint64_t shape[2];
    char *name;                 /* owned; NULL for `other` */
    const struct tensor *other; /* NULL for a factor */
    size_t module;
    enum lora_factor factor;
};

struct entries {
    struct entry *list; /* does not grow: entries point into themselves */
    size_t count;
};

static void entries_release(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        free(entries->list[i].name);
    free(entries->list);
}

static int
factor_add(struct entries *entries, const struct lora *lora, size_t module, enum lora_factor factor)
{
    struct entry *entry = &entries->list[entries->count];
    AUTO_BUF(name);

    int err = buf_printf(
        &name, PEFT_PREFIX "%s.lora_%c.weight", lora->loaded->adapter.modules[module].name,
        factor == LORA_A ? 'A' : 'B'
    );
    if (err < 0)
        return err;
    if (!(entry->name = bytes_dup(buf_bytes(&name))))
        return error_wrap(E_NOMEM, "names");
    entries->count++;
    entry->module = module;
    entry->factor = factor;
    entry->tensor = (struct tensor
    ){.name = entry->name, .name_len = name.len, .dtype = lora->dtype, .dims = 2};
    entry->shape[0] = lora_rows(lora, module, factor);
    entry->shape[1] = lora_columns(lora, module, factor);
    return 0;
}

/* PEFT would take it for a part of LoRA that this adapter does not have. */
static int other_check(const struct tensor *tensor)
{
    static const char mark[] = ".lora_";
    size_t n = strlen(mark);

    for (size_t i = 0; i + n <= tensor->name_len; i++) {
        if (memcmp(tensor->name + i, mark, n) == 0)
            return error_set(
                E_INVALID, "tensor %s: in a VeRA adapter, and named as a part of LoRA", tensor->name
            );
    }
    return 0;
}

static int other_add(struct entries *entries, const struct tensor *tensor)
{
    int err = other_check(tensor);

    if (err < 0)
        return err;
    struct entry *entry = &entries->list[entries->count++];
    entry->other = tensor;
    entry->tensor = *tensor;
    return 0;
}

/* As safetensors' own writer orders a file: by type, high to low, then by name. */
static int entry_order(const void *a, const void *b)
{
    const struct tensor *x = &((const struct entry *)a)->tensor;
    const struct tensor *y = &((const struct entry *)b)->tensor;

    return x->dtype != y->dtype ? (x->dtype < y->dtype) - (x->dtype > y->dtype)
                                : tensor_order(x, y);
}

static int entries_fill(struct entries *entries, const struct lora *lora, bool bare)
{
    const struct adapter *adapter = &lora->loaded->adapter;
    size_t others = bare ? 0 : adapter->other_count;
    int err = 0;

    if (!(entries->list = array_new(2 * adapter->module_count + others, sizeof(struct entry))))
        return error_wrap(E_NOMEM, "tensors");
    for (size_t i = 0; err == 0 && i < adapter->module_count; i++) {
        if ((err = factor_add(entries, lora, i, LORA_A)) == 0)
            err = factor_add(entries, lora, i, LORA_B);
    }
    for (size_t i = 0; err == 0 && i < others; i++)
        err = other_add(entries, adapter->others[i]);
    if (err == 0)
        qsort(entries->list, entries->count, sizeof(*entries->list), entry_order);
    return err;
}

static uint64_t entry_bytes(const struct entry *entry, const struct lora *lora)
{
    return entry->other ? tensor_bytes(entry->other)
                        : lora_bytes(lora, entry->module, entry->factor);
}

/* Where each tensor lies, and the header that says so. */
static int header_make(struct buf *out, struct entries *entries, const struct lora *lora)
{
    AUTO_FREE(struct tensor, tensors);
    uint64_t at = 0;

    if (!(tensors = array_new(entries->count, sizeof(*tensors))))
        return error_wrap(E_NOMEM, "tensors");
    for (size_t i = 0; i < entries->count; i++) {
        struct entry *entry = &entries->list[i];
        if (!entry->other)
            entry->tensor.shape = entry->shape;
        entry->tensor.begin = at;
        entry->tensor.end = at += entry_bytes(entry, lora);
        tensors[i] = entry->tensor;
    }
    return safetensors_encode(out, tensors, entries->count);
}

static int entry_write(struct sink *sink, const struct entry *entry, const struct lora *lora)
{
    if (!entry->other)
        return lora_write(sink, lora, entry->module, entry->factor, 0);
    struct bytes bytes = loaded_tensor(lora->loaded, entry->other);
    return sink_write(sink, bytes.data, bytes.len);
}

static int model_write(
    struct manifest *files,
    struct outdir *dir,
    const struct lora *lora,
    bool bare,
    struct progress *progress
)
{
    __attribute__((cleanup(entries_release))) struct entries entries = {0};
    struct progress_sum sum;
    AUTO_SINK(sink);
    AUTO_BUF(header);
    int err;

    if ((err = entries_fill(&entries, lora, bare)) < 0 ||
        (err = header_make(&header, &entries, lora)) < 0)
        return err;
    uint64_t end = entries.count ? entries.list[entries.count - 1].tensor.end : 0;
    progress_sum_init(&sum, progress, header.len + end);
    if ((err = sink_open(&sink, dir, PEFT_MODEL, &sum)) == 0)
        err = sink_write(&sink, header.data, header.len);
    for (size_t i = 0; err == 0 && i < entries.count; i++)
        err = entry_write(&sink, &entries.list[i], lora);
    if (err == 0)
        err = sink_close(files, &sink);
    progress_sum_release(&sum);
    return err;
}

/* adapter_config.json */

enum key_source {
    KEY_FIXED,   /* `value` */
    KEY_CARRIED, /* as the adapter has it; `value` where it has it not, NULL: then left out */
    KEY_RANK,
    KEY_BASE,
    KEY_BIAS,
    KEY_TARGETS,
    KEY_LAYERS,
    KEY_MODULES,
    KEY_TASK,
};

/* In byte order, as PEFT sorts them: what LoraConfig has had since its beginnings, and what vLLM
   looks at (docs/format.md). */
static const struct key {
    const char *name;
    enum key_source source;
    const char *value;
} keys[] = {
    {"auto_mapping", KEY_CARRIED, "null"},
    {"base_model_name_or_path", KEY_BASE, "null"},
    {"bias", KEY_BIAS, NULL},
    {"exclude_modules", KEY_CARRIED, NULL},
    {"fan_in_fan_out", KEY_CARRIED, "false"},
    {"inference_mode", KEY_FIXED, "true"},
    {"init_lora_weights", KEY_FIXED, "true"},
    {"layers_pattern", KEY_LAYERS, "null"},
    {"layers_to_transform", KEY_LAYERS, "null"},
    {"lora_alpha", KEY_RANK, NULL},
    {"lora_dropout", KEY_FIXED, "0.0"},
    {"modules_to_save", KEY_MODULES, "null"},
    {"peft_type", KEY_FIXED, "\"LORA\""},
    {"r", KEY_RANK, NULL},
    {"revision", KEY_CARRIED, "null"},
    {"target_modules", KEY_TARGETS, "null"},
    {"task_type", KEY_TASK, "null"},
    {"use_dora", KEY_FIXED, "false"},
    {"use_rslora", KEY_FIXED, "false"},
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

/* PEFT names the biases of adapted layers by the method. */
static const char *bias_name(const struct adapter *adapter, bool bare)
{
    if (bare)
        return "none";
    return strcmp(adapter->config.bias, "vera_only") == 0 ? "lora_only" : adapter->config.bias;
}

/* Does PEFT look for whole modules in an adapter for this task, whatever modules_to_save says?
   (peft/peft_model.py: classifier and score, qa_outputs) */
static bool task_has_modules(const char *task)
{
    static const char *const tasks[] = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"};

    for (size_t i = 0; task && i < sizeof(tasks) / sizeof(tasks[0]); i++) {
        if (strcmp(task, tasks[i]) == 0)
            return true;
    }
    return false;
}

/* What the configuration is made of. */
struct writing {
    const struct adapter *adapter;
    const char *base_name;       /* instead of the adapter's; NULL */
    bool bare, dropped;          /* there are no biases and whole modules; there were some */
    bool by_name;                /* target_modules is no list: each module is named instead */
    struct bytes own[KEY_COUNT]; /* the adapter's values, as they stand in its file */
};

/* Is the adapter's own value to be forgotten? */
static bool is_forgotten(const struct writing *writing, enum key_source key)
{
    return key == KEY_FIXED || (key == KEY_MODULES && writing->bare) ||
           (key == KEY_LAYERS && writing->by_name) ||
           (key == KEY_TASK && writing->dropped &&
            task_has_modules(writing->adapter->config.task_type));
}

/* A list can be taken over. A regular expression means the same to PEFT, but SGLang takes it for a
   list of letters, and PEFT's LoRA refuses it beside layers_to_transform, which VeRA ignores then.
 */
static bool is_list(struct bytes value)
{
    return value.len > 0 && value.data[0] == '[';
}

/* The values that the adapter's own file has, as they stand there; empty where it has none. */
static int source_read(struct writing *writing, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    writing->by_name = true;
    json_init(&json, text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        size_t key = 0;
        while (key < KEY_COUNT && !json_text_is(&json, keys[key].name))
            key++;
        if ((err = json_next(&event, &json)) < 0)
            return err;
        size_t begin = json.token;
        if ((err = json_skip(&json, event)) < 0)
            return err;
        if (key < KEY_COUNT)
            writing->own[key] = (struct bytes){text.data + begin, json.at - begin};
        if (key < KEY_COUNT && keys[key].source == KEY_TARGETS)
            writing->by_name = !is_list(writing->own[key]);
    }
    return err;
}

static void targets_write(struct json_writer *writer, const struct adapter *adapter)
{
    json_write_array_begin(writer);
    for (size_t i = 0; i < adapter->module_count; i++)
        json_write_text(writer, adapter->modules[i].name);
    json_write_array_end(writer);
}

/* Append one value to `text`, not yet indented; nothing where the key is left out. */
static int value_make(struct buf *text, const struct writing *writing, size_t number)
{
    const struct key *key = &keys[number];
    struct bytes own = writing->own[number];
    struct json_writer writer;

    json_write_init(&writer, text);
    if (key->source == KEY_RANK)
        json_write_uint(&writer, writing->adapter->config.rank);
    else if (key->source == KEY_BIAS)
        json_write_text(&writer, bias_name(writing->adapter, writing->bare));
    else if (key->source == KEY_BASE && writing->base_name)
        json_write_text(&writer, writing->base_name);
    else if (key->source == KEY_TARGETS && writing->by_name)
        targets_write(&writer, writing->adapter);
    else if (own.len && !is_forgotten(writing, key->source))
        json_write_raw(&writer, own);
    else if (key->value)
        json_write_raw(&writer, text_bytes(key->value));
    else
        return 0;
    return json_write_end(&writer);
}

static int member_write(struct buf *out, const struct key *key, struct bytes value, bool is_first)
{
    int err = is_first ? 0 : buf_append_byte(out, ',');

    if (err < 0 || (err = json_indent_line(out, 1)) < 0 ||
        (err = buf_printf(out, "\"%s\": ", key->name)) < 0)
        return err;
    return json_indent(out, value, 1);
}

int lora_peft_config(
    struct buf *out, const struct loaded_adapter *loaded, const struct lora_peft_options *options
)
{
    struct writing writing = {.adapter = &loaded->adapter, .base_name = options->base_name};
    bool is_first = true;
    int err;

    if ((err = source_read(&writing, buf_bytes(&loaded->snapshot->config))) < 0)
        return error_wrap(err, "%s", PEFT_CONFIG);
    writing.dropped = options->bare && loaded->adapter.other_count > 0;
    writing.bare = options->bare || loaded->adapter.other_count == 0;
    err = buf_append_byte(out, '{');
    for (size_t i = 0; err == 0 && i < KEY_COUNT; i++) {
        AUTO_BUF(value);
        err = value_make(&value, &writing, i);
        if (err < 0 || value.len == 0)
            continue;
        err = member_write(out, &keys[i], buf_bytes(&value), is_first);
        is_first = false;
    }
    if (err < 0 || (err = json_indent_line(out, 0)) < 0)
        return err;
    return buf_append_byte(out, '}');
}

static int config_write(struct manifest *files, struct outdir *dir, struct bytes text)
{
    struct progress_sum sum;
    AUTO_SINK(sink);

    progress_sum_init(&sum, NULL, text.len);
    int err = sink_open(&sink, dir, PEFT_CONFIG, &sum);
    if (err == 0 && (err = sink_write(&sink, text.data, text.len)) == 0)
        err = sink_close(files, &sink);
    progress_sum_release(&sum);
    return err;
}

int lora_peft_write(
    struct manifest *files,
    struct outdir *dir,
    const struct lora *lora,
    const struct lora_peft_options *options,
    struct progress *progress
)
{
    AUTO_BUF(config);
    int err;

    if ((err = lora_check(lora)) < 0 ||
        (err = lora_peft_config(&config, lora->loaded, options)) < 0 ||
        (err = config_write(files, dir, buf_bytes(&config))) < 0)
        return err;
    return model_write(files, dir, lora, options->bare, progress);
}
