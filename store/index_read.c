/* Rows of the index made from git. See index_row.h. */
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/index_row.h"

#define D_INITIAL_DEFAULT 0.1 /* PEFT's, where the configuration does not say */

void index_reader_release(struct index_reader *reader)
{
    index_adapter_release(&reader->adapter);
    *reader = (struct index_reader){0};
}

/* What the configuration and the layout say */

/* "d_initial", a number of the configuration's top level. */
static int d_initial_read(double *out, struct bytes config)
{
    AUTO_JSON(json);
    enum json_event event;
    int err;

    *out = D_INITIAL_DEFAULT;
    json_init(&json, config);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        bool is_wanted = json_text_is(&json, "d_initial");
        if ((err = json_next(&event, &json)) < 0)
            return err;
        if (is_wanted && event == JSON_NUMBER) {
            AUTO_FREE(char, digits);
            if (!(digits = bytes_dup(json.text)))
                return error_wrap(E_NOMEM, "d_initial");
            *out = strtod(digits, NULL);
        }
        if ((err = json_skip(&json, event)) < 0)
            return err;
    }
    return err;
}

static int bytes_compare(const void *left, const void *right)
{
    const struct bytes *a = left, *b = right;
    size_t len = a->len < b->len ? a->len : b->len;
    int order = len ? memcmp(a->data, b->data, len) : 0;

    return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* The last parts of the modules' names, sorted, each once. */
static int targets_join(char **out, const struct adapter *adapter)
{
    AUTO_FREE(struct bytes, names);
    AUTO_BUF(text);
    int err = 0;

    if (!(names = array_new(adapter->module_count, sizeof(*names))))
        return error_wrap(E_NOMEM, "targets");
    for (size_t i = 0; i < adapter->module_count; i++) {
        const char *name = adapter->modules[i].name, *dot = strrchr(name, '.');
        names[i] = text_bytes(dot ? dot + 1 : name);
    }
    if (adapter->module_count)
        qsort(names, adapter->module_count, sizeof(*names), bytes_compare);
    for (size_t i = 0; err == 0 && i < adapter->module_count; i++) {
        if (i && bytes_equal(names[i], names[i - 1]))
            continue;
        if ((err = i ? buf_append_byte(&text, ',') : 0) == 0)
            err = buf_append(&text, names[i].data, names[i].len);
    }
    if (err == 0 && !(*out = bytes_dup(buf_bytes(&text))))
        err = error_wrap(E_NOMEM, "targets");
    return err;
}

/* Up to the first part that is a number: "model.layers.11." of "model.layers.11.mlp"; 0 where none
   is. */
static size_t layer_length(const char *name)
{
    for (const char *part = name; *part;) {
        size_t len = strcspn(part, "."), digits = strspn(part, "0123456789");
        if (digits == len && len)
            return (size_t)(part - name) + len + 1;
        part += len + (part[len] ? 1 : 0);
    }
    return 0;
}

/* Names are sorted, so those of one layer stand together. */
static uint64_t layers_count(const struct adapter *adapter)
{
    uint64_t count = 0;
    const char *last = "";
    size_t last_length = 0;

    for (size_t i = 0; i < adapter->module_count; i++) {
        const char *name = adapter->modules[i].name;
        size_t length = layer_length(name);
        if (length && (length != last_length || strncmp(name, last, length) != 0))
            count++;
        last = name;
        last_length = length;
    }
    return count;
}

static uint64_t params_count(const struct adapter *adapter)
{
    uint64_t count = 0;

    for (size_t i = 0; i < adapter->layout.count; i++) {
        const struct tensor *tensor = &adapter->layout.tensors[i];
        if (tensor != adapter->a && tensor != adapter->basis_b)
            count += tensor_values(tensor);
    }
    return count;
}

static int adapter_describe(
    struct index_adapter *out, struct bytes config, struct bytes layout, uint64_t file_bytes
)
{
    AUTO_ADAPTER(adapter);
    int err;

    if ((err = adapter_decode(&adapter, config, layout, file_bytes)) < 0 ||
        (err = d_initial_read(&out->d_initial, config)) < 0 ||
        (err = targets_join(&out->targets, &adapter)) < 0)
        return err;
    if (adapter.config.base_name && !(out->base = bytes_dup(text_bytes(adapter.config.base_name))))
        return error_wrap(E_NOMEM, "base");
    out->rank = adapter.config.rank;
    out->modules = adapter.module_count;
    out->layers = layers_count(&adapter);
    out->params = params_count(&adapter);
    return 0;
}

/* The version */

struct reading {
    struct store *store;
    struct index_reader *reader;
    struct index_row *row;
    git_oid manifest, config, recipe, vectors;
};

static int blob_read(
    struct buf *out, struct reading *reading, const git_oid *id, uint64_t limit, const char *what
)
{
    return object_read(out, reading->store, id, GIT_OBJECT_BLOB, limit, what);
}

static int adapter_read(struct reading *reading, const struct manifest *manifest)
{
    struct index_reader *reader = reading->reader;
    const struct manifest_file *model = manifest_find(manifest, PEFT_MODEL);
    AUTO_BUF(config);
    AUTO_BUF(layout);
    int err;

    if (reader->has_adapter && git_oid_equal(&reader->config, &reading->config) &&
        git_oid_equal(&reader->layout, &reading->row->layout))
        return 0;
    index_reader_release(reader);
    if (!model)
        return error_set(E_CORRUPT, "manifest: no %s", PEFT_MODEL);
    if ((err = blob_read(&config, reading, &reading->config, LIMIT_CONFIG, PEFT_CONFIG)) < 0 ||
        (err = blob_read(
             &layout, reading, &reading->row->layout, 8 + LIMIT_SAFETENSORS_HEADER, "layout"
         )) < 0 ||
        (err = adapter_describe(
             &reader->adapter, buf_bytes(&config), buf_bytes(&layout), model->bytes
         )) < 0)
        return err;
    reader->config = reading->config;
    reader->layout = reading->row->layout;
    reader->has_adapter = true;
    return 0;
}

static int texts_read(struct reading *reading)
{
    struct index_row *row = reading->row;
    struct index_value values[ADAPTER_COLUMNS];
    struct recipe recipe;
    AUTO_MANIFEST(manifest);
    AUTO_BUF(text);
    AUTO_CHECKSUMMER(checksummer);
    char seed[SEED_SIZE];
    int err;

    if ((err = blob_read(&text, reading, &reading->manifest, LIMIT_TEXT, "manifest")) < 0 ||
        (err = digest_of(&row->snapshot, buf_bytes(&text))) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&text))) < 0)
        return err;
    buf_release(&text);
    if ((err = blob_read(&text, reading, &reading->recipe, LIMIT_TEXT, "recipe")) < 0 ||
        (err = recipe_decode(&recipe, buf_bytes(&text))) < 0 ||
        (err = adapter_read(reading, &manifest)) < 0)
        return err;
    row->payload = recipe.payload;
    row->payload_bytes = recipe.payload_bytes;
    reading->reader->adapter.recipe = recipe;
    index_adapter_values(values, &reading->reader->adapter, seed);
    err = index_checksum(&row->adapter, &checksummer, values, ADAPTER_COLUMNS);
    reading->reader->adapter.id = row->adapter;
    return err;
}

static int frame_read(struct reading *reading)
{
    struct index_row *row = reading->row;
    struct frame_summary frame;
    int err = store_frame(&frame, reading->store, &row->commit);

    if (err < 0)
        return err;
    row->depth = frame.depth;
    row->frame_bytes = frame.bytes;
    size_t len = strlen(frame.codec);
    if (len >= sizeof(row->codec))
        return error_set(E_UNSUPPORTED, "frame: codec '%s'", frame.codec);
    memcpy(row->codec, frame.codec, len + 1);
    return 0;
}

static int metric_compare(const void *left, const void *right)
{
    const struct version_metric *const *a = left, *const *b = right;
    int order = strcmp((*a)->name, (*b)->name);

    return order ? order : (*a > *b) - (*a < *b);
}

/* In order of name, each once, with its last value. */
static int metrics_write(char **out, const char *message)
{
    AUTO_VERSION(version);
    AUTO_FREE(const struct version_metric *, sorted);
    struct json_writer writer;
    AUTO_BUF(json);

    int err = message_metrics(&version, message);
    if (err < 0)
        return err;
    if (!(sorted = array_new(version.metric_count, sizeof(*sorted))))
        return error_wrap(E_NOMEM, "metrics");
    for (size_t i = 0; i < version.metric_count; i++)
        sorted[i] = &version.metrics[i];
    if (version.metric_count)
        qsort(sorted, version.metric_count, sizeof(*sorted), metric_compare);
    json_write_init(&writer, &json);
    json_write_object_begin(&writer);
    for (size_t i = 0; i < version.metric_count; i++) {
        if (i + 1 < version.metric_count && strcmp(sorted[i]->name, sorted[i + 1]->name) == 0)
            continue;
        json_write_key(&writer, sorted[i]->name);
        json_write_double(&writer, sorted[i]->value);
    }
    json_write_object_end(&writer);
    if ((err = json_write_end(&writer)) == 0 && !(*out = bytes_dup(buf_bytes(&json))))
        err = error_wrap(E_NOMEM, "metrics");
    return err;
}

static bool entry_take(git_oid *out, const git_tree *tree, const char *name)
{
    const git_tree_entry *entry = git_tree_entry_byname(tree, name);

    if (entry)
        *out = *git_tree_entry_id(entry);
    return entry != NULL;
}

static int version_read(struct reading *reading, const git_commit *commit)
{
    AUTO_GIT(git_tree, tree);
    int err = tree_read(&tree, reading->store, git_commit_tree_id(commit));

    if (err < 0 || !entry_take(&reading->manifest, tree, "manifest"))
        return err;
    if (!entry_take(&reading->config, tree, PEFT_CONFIG) ||
        !entry_take(&reading->recipe, tree, "recipe") ||
        !entry_take(&reading->row->layout, tree, "layout") ||
        !entry_take(&reading->row->vectors, tree, "vectors"))
        return error_set(
            E_CORRUPT, "tree %s: an entry is missing", git_oid_tostr_s(git_commit_tree_id(commit))
        );
    if ((err = texts_read(reading)) < 0 || (err = frame_read(reading)) < 0)
        return err;
    const char *message = git_commit_message(commit);
    err = metrics_write(&reading->row->metrics, message ? message : "");
    reading->row->is_version = err == 0;
    return err;
}

static int commit_take(struct index_row *row, const git_commit *commit)
{
    unsigned count = git_commit_parentcount(commit);

    if (!(row->parents = array_new(count, sizeof(*row->parents))))
        return error_wrap(E_NOMEM, "commit");
    for (unsigned i = 0; i < count; i++)
        row->parents[i] = commit_id_of(git_commit_parent_id(commit, i));
    row->parent_count = count;
    row->time = git_commit_time(commit);
    return 0;
}

int index_row_read(
    struct index_row *out, struct index_reader *reader, struct store *store, const git_oid *commit
)
{
    struct index_row row = {.commit = commit_id_of(commit)};
    struct reading reading = {.store = store, .reader = reader, .row = &row};
    AUTO_GIT(git_commit, read);

    int err = commit_read(&read, store, commit);
    if (err == 0)
        err = commit_take(&row, read);
    if (err == 0) {
        err = version_read(&reading, read);
        row.is_damaged = err < 0;
        if (err < 0 && err != E_NOMEM && err != E_INTERRUPTED)
            err = 0;
    }
    if (err < 0) {
        index_row_release(&row);
        return err;
    }
    *out = row;
    return 0;
}
