/* Biases and whole modules. See replace.h. */
#include "apply/replace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"

#define PORTION ((size_t)1 << 16) /* values compared at once */

/* What is known of one tensor while the others are not. `raw`: without PEFT's own components and
   not yet as the model names it. */
struct origin {
    char *raw;
    bool wrapped; /* had base_layer */
    bool copied;  /* had modules_to_save */
};

struct finder {
    const struct loaded_adapter *loaded;
    const struct adapter *adapter;
    const struct model *model;
    const struct match *match;
    struct others *others;
    struct origin *origins; /* as others->list, by `index` */
    size_t *order;          /* indices of those that have a name, in byte order of it */
    size_t order_count;
};

/* Names */

/* Cut the component out of the name, where it is there behind another one. */
static bool cut_component(char *name, const char *component)
{
    char *at = strstr(name, component);

    if (!at || at == name)
        return false;
    size_t n = strlen(component) - 1; /* its last dot stays */
    memmove(at, at + n, strlen(at + n) + 1);
    return true;
}

/* The name below PEFT_PREFIX, NULL where there is none that a checkpoint could have. */
static const char *name_below(const struct tensor *tensor)
{
    size_t prefix = strlen(PEFT_PREFIX);
    struct bytes all = {(const uint8_t *)tensor->name, tensor->name_len};
    const char *name = tensor->name + prefix;

    if (tensor->name_len <= prefix || memcmp(tensor->name, PEFT_PREFIX, prefix) != 0 ||
        memchr(tensor->name, 0, tensor->name_len) || !text_is_plain(all))
        return NULL;
    return name;
}

/* Old checkpoints call the parameters of a LayerNorm gamma and beta; Transformers renames them when
   it loads. False where the name is no such parameter's. */
static bool legacy_name(struct buf *name)
{
    static const char *const names[][2] = {
        {"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}};

    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(names[i][0]);
        if (name->len < n || memcmp(name->data + name->len - n, names[i][0], n) != 0)
            continue;
        /* The old name, with its NUL, is no longer than the new one: there is room. */
        memcpy(name->data + name->len - n, names[i][1], strlen(names[i][1]) + 1);
        return true;
    }
    return false;
}

/* Where the model has it: under the name that follows the modules' prefix, else as it is, else
   under the old one. */
static int place_find(struct other *other, const struct finder *finder, const char *raw)
{
    AUTO_BUF(name);

    int err = match_name(&name, finder->match, raw);
    if (err < 0)
        return err;
    const char *mapped = (const char *)name.data;
    bool found = model_find(&other->place, finder->model, mapped);
    bool as_is = !found && model_find(&other->place, finder->model, raw);
    if (!(other->name = bytes_dup(text_bytes(as_is ? raw : mapped))))
        return error_set(E_NOMEM, "out of memory for a tensor's name");
    if (found || as_is || !legacy_name(&name) || !model_find(&other->place, finder->model, mapped))
        return 0;
    free(other->name);
    other->name = bytes_dup(text_bytes(mapped));
    return other->name ? 0 : error_set(E_NOMEM, "out of memory for a tensor's name");
}

static int other_name(struct other *other, struct origin *origin, const struct finder *finder)
{
    const char *name = name_below(other->tensor);

    other->fault = OTHER_PLACELESS;
    if (!name)
        return 0;
    if (!(origin->raw = bytes_dup(text_bytes(name))))
        return error_set(E_NOMEM, "out of memory for a tensor's name");
    if (strstr(name, ".original_module.")) {
        other->fault = OTHER_DROPPED;
        return 0;
    }
    origin->wrapped = cut_component(origin->raw, ".base_layer.");
    origin->copied = cut_component(origin->raw, ".modules_to_save.");
    return place_find(other, finder, origin->raw);
}

/* Does a name of modules_to_save end the path of a module that the tensor belongs to? */
static bool is_saved(const struct peft_config *config, const char *raw)
{
    for (const char *dot = raw; (dot = strchr(dot, '.')); dot++) {
        size_t len = (size_t)(dot - raw);
        for (size_t i = 0; i < config->modules_to_save_count; i++) {
            const char *end = config->modules_to_save[i];
            size_t n = strlen(end);
            if (n && n <= len && memcmp(dot - n, end, n) == 0)
                return true;
        }
    }
    return false;
}

/* Comparing */

static bool shapes_equal(const struct tensor *a, const struct tensor *b)
{
    return a->dims == b->dims &&
           (a->dims == 0 || memcmp(a->shape, b->shape, a->dims * sizeof(*a->shape)) == 0);
}

static bool
is_identical(const struct finder *finder, const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && shapes_equal(a, b) &&
           bytes_equal(loaded_tensor(finder->loaded, a), loaded_tensor(finder->loaded, b));
}

static bool dtypes_fit(enum dtype from, enum dtype to)
{
    return from == to || (dtype_is_applicable(from) && dtype_is_applicable(to));
}

/* Is the adapter's tensor, rounded to the base's dtype, the base's? They have one shape. */
static int is_base_weight(bool *out, const struct finder *finder, const struct other *other)
{
    const struct tensor *base = other->place.tensor;
    struct bytes ours = loaded_tensor(finder->loaded, other->tensor);
    size_t from = dtype_bits(other->tensor->dtype) / 8, to = dtype_bits(base->dtype) / 8;
    AUTO_FREE(float, values);
    AUTO_BUF(theirs);
    AUTO_BUF(rounded);
    int err;

    *out = false;
    if (!dtype_is_applicable(base->dtype))
        return 0;
    if (!(values = array_new(PORTION, sizeof(*values))))
        return error_set(E_NOMEM, "out of memory for a weight");
    if ((err = buf_resize(&theirs, PORTION * to)) < 0 ||
        (err = buf_resize(&rounded, PORTION * to)) < 0)
        return err;
    *out = true;
    for (uint64_t done = 0, count = tensor_values(base); done < count && *out;) {
        size_t n = count - done < PORTION ? (size_t)(count - done) : PORTION;
        err = model_read_at(theirs.data, finder->model, &other->place, done * to, n * to);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
        const uint8_t *mine = ours.data + done * from;
        if (other->tensor->dtype != base->dtype) {
            dtype_widen(values, mine, n, other->tensor->dtype);
            dtype_narrow(rounded.data, values, n, base->dtype);
            mine = rounded.data;
        }
        *out = memcmp(mine, theirs.data, n * to) == 0;
        done += n;
    }
    return 0;
}

/* Faults */

static bool is_module(const struct adapter *adapter, const char *raw, size_t len)
{
    for (size_t low = 0, high = adapter->module_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        const char *module = adapter->modules[middle].name;
        int order = strncmp(raw, module, len);
        if (order == 0 && module[len] == '\0')
            return true;
        if (order <= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

static bool is_target(const struct adapter *adapter, const char *raw)
{
    static const char weight[] = ".weight";
    size_t len = strlen(raw), n = strlen(weight);

    return len > n && strcmp(raw + len - n, weight) == 0 && is_module(adapter, raw, len - n);
}

/* The tensor of that name in the model; NULL. */
static const struct other *other_find(const struct finder *finder, const char *name)
{
    for (size_t low = 0, high = finder->order_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        const struct other *other = &finder->others->list[finder->order[middle]];
        int order = strcmp(name, other->name);
        if (order == 0)
            return other;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* BERT's decoder.bias is the bias beside the decoder, and a checkpoint holds one of the two. */
static int is_tied_bias(bool *out, const struct finder *finder, const struct other *other)
{
    static const char end[] = ".decoder.bias";
    size_t len = strlen(other->name), n = strlen(end);
    AUTO_FREE(char, beside);

    *out = false;
    if (len <= n || strcmp(other->name + len - n, end) != 0)
        return 0;
    if (!(beside = bytes_dup(text_bytes(other->name))))
        return error_set(E_NOMEM, "out of memory for a tensor's name");
    memcpy(beside + len - n, ".bias", sizeof(".bias"));
    const struct other *kept = other_find(finder, beside);
    *out = kept && kept->place.tensor && is_identical(finder, kept->tensor, other->tensor);
    return 0;
}

/* May a file get a tensor of that name? */
static bool is_addable(const struct finder *finder, const struct other *other, const char *raw)
{
    return is_saved(&finder->adapter->config, raw) && other->name[0] &&
           strcmp(other->name, "__metadata__") != 0;
}

static int
other_judge(struct other *other, const struct origin *origin, const struct finder *finder)
{
    const struct tensor *base = other->place.tensor;
    bool same = false;
    int err;

    if (origin->copied)
        return 0;
    if (is_target(finder->adapter, origin->raw) && !origin->wrapped) {
        other->fault = OTHER_TARGETED;
    } else if (!base) {
        bool added = !origin->wrapped && is_addable(finder, other, origin->raw);
        if (!added && (err = is_tied_bias(&same, finder, other)) < 0)
            return err;
        other->fault = added ? OTHER_FITS : same ? OTHER_DROPPED : OTHER_PLACELESS;
    } else if (!shapes_equal(base, other->tensor)) {
        other->fault = OTHER_SHAPE;
    } else if (!dtypes_fit(other->tensor->dtype, base->dtype)) {
        other->fault = OTHER_DTYPE;
    } else if (is_target(finder->adapter, origin->raw)) {
        if ((err = is_base_weight(&same, finder, other)) < 0)
            return err;
        other->fault = same ? OTHER_DROPPED : OTHER_WEIGHT;
    } else {
        other->fault = OTHER_FITS;
    }
    return 0;
}

/* Two tensors with one name: a copy under modules_to_save goes where it is the same. */
static void judge_twice(const struct finder *finder, size_t a, size_t b)
{
    struct other *x = &finder->others->list[a], *y = &finder->others->list[b];

    if (finder->origins[a].copied != finder->origins[b].copied &&
        is_identical(finder, x->tensor, y->tensor)) {
        (finder->origins[a].copied ? x : y)->fault = OTHER_DROPPED;
        return;
    }
    x->fault = y->fault = OTHER_TWICE;
}

/* Tied embeddings */

static bool has_output_layer(const struct peft_config *config)
{
    static const char *const without[] = {
        "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};

    for (size_t i = 0; config->task_type && i < sizeof(without) / sizeof(without[0]); i++) {
        if (strcmp(config->task_type, without[i]) == 0)
            return false;
    }
    return true;
}

/* The embeddings among the tensors: what they have in common. */
struct embeddings {
    const struct tensor *first, *placed; /* of those with a place in the model */
    bool inputs, outputs, identical;
};

static bool is_embedding(const struct other *other)
{
    return other->name && (other->fault == OTHER_FITS || other->fault == OTHER_PLACELESS) &&
           (is_input_embedding(other->name) || is_output_embedding(other->name));
}

static struct embeddings embeddings_find(const struct finder *finder)
{
    struct embeddings all = {.identical = true};

    for (size_t i = 0; i < finder->others->count; i++) {
        const struct other *other = &finder->others->list[i];
        if (!is_embedding(other))
            continue;
        bool output = is_output_embedding(other->name);
        all.outputs = all.outputs || output;
        all.inputs = all.inputs || !output;
        if (!all.first)
            all.first = other->tensor;
        if (!all.placed && other->place.tensor)
            all.placed = other->tensor;
        all.identical = all.identical && is_identical(finder, all.first, other->tensor);
    }
    return all;
}

static void embeddings_judge(const struct finder *finder)
{
    struct embeddings all = embeddings_find(finder);
    bool tied = finder->model->tied_embeddings &&
                (all.outputs || has_output_layer(&finder->adapter->config));
    bool whole = all.inputs && all.outputs && all.identical;

    for (size_t i = 0; i < finder->others->count; i++) {
        struct other *other = &finder->others->list[i];
        if (!is_embedding(other))
            continue;
        bool output = is_output_embedding(other->name);
        if (other->place.tensor)
            other->fault = tied && !whole ? OTHER_TIED : other->fault;
        else if (all.placed && is_identical(finder, all.placed, other->tensor))
            other->fault = OTHER_DROPPED;
        else if (tied || !output)
            other->fault = OTHER_TIED;
    }
}

/* All together */

/* One name and its index in the list, to be sorted. */
struct named {
    const char *name;
    size_t index;
};

static int named_compare(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : (x->index > y->index) - (x->index < y->index);
}

static int others_order(struct finder *finder)
{
    AUTO_FREE(struct named, names);
    size_t count = 0;

    if (!(names = array_new(finder->others->count, sizeof(*names))))
        return error_set(E_NOMEM, "out of memory for the names");
    for (size_t i = 0; i < finder->others->count; i++) {
        if (finder->others->list[i].name)
            names[count++] = (struct named){finder->others->list[i].name, i};
    }
    qsort(names, count, sizeof(*names), named_compare);
    for (size_t i = 0; i < count; i++)
        finder->order[i] = names[i].index;
    finder->order_count = count;
    return 0;
}

static int others_judge(struct finder *finder)
{
    struct others *others = finder->others;
    int err;

    for (size_t i = 0; i < others->count; i++) {
        err = other_name(&others->list[i], &finder->origins[i], finder);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
    }
    if ((err = others_order(finder)) < 0)
        return err;
    for (size_t i = 0; i < finder->order_count; i++) {
        size_t at = finder->order[i];
        if ((err = other_judge(&others->list[at], &finder->origins[at], finder)) < 0 ||
            (err = interrupt_check()) < 0)
            return err;
    }
    for (size_t i = 1; i < finder->order_count; i++) {
        size_t a = finder->order[i - 1], b = finder->order[i];
        if (strcmp(others->list[a].name, others->list[b].name) == 0)
            judge_twice(finder, a, b);
    }
    embeddings_judge(finder);
    for (size_t i = 0; i < others->count; i++)
        others->counts[others->list[i].fault]++;
    return 0;
}

int others_make(
    struct others *out,
    const struct loaded_adapter *loaded,
    const struct model *model,
    const struct match *match
)
{
    const struct adapter *adapter = &loaded->adapter;
    AUTO_OTHERS(others);
    AUTO_FREE(struct origin, origins);
    AUTO_FREE(size_t, order);

    others.list = array_new(adapter->other_count, sizeof(*others.list));
    origins = array_new(adapter->other_count, sizeof(*origins));
    order = array_new(adapter->other_count, sizeof(*order));
    if (adapter->config.modules_to_save_count > LIMIT_SAVED_MODULES)
        return error_set(
            E_LIMIT, "%s: modules_to_save has %zu names, at most %" PRIu64 " are allowed",
            PEFT_CONFIG, adapter->config.modules_to_save_count, LIMIT_SAVED_MODULES
        );
    if (!others.list || !origins || !order)
        return error_set(E_NOMEM, "out of memory for %zu tensors", adapter->other_count);
    others.count = adapter->other_count;
    for (size_t i = 0; i < others.count; i++)
        others.list[i].tensor = adapter->others[i];
    struct finder finder = {loaded, adapter, model, match, &others, origins, order, 0};
    int err = others_judge(&finder);
    for (size_t i = 0; i < others.count; i++)
        free(origins[i].raw);
    if (err < 0)
        return err;
    *out = others;
    others = (struct others){0};
    return 0;
}

void others_release(struct others *others)
{
    for (size_t i = 0; i < others->count; i++)
        free(others->list[i].name);
    free(others->list);
    *others = (struct others){0};
}

/* What does not fit */

int others_error(const struct others *others, const struct model *model)
{
    const size_t *counts = others->counts;
    size_t misfits = counts[OTHER_PLACELESS] + counts[OTHER_TARGETED] + counts[OTHER_TWICE] +
                     counts[OTHER_SHAPE];
    size_t unsupported = counts[OTHER_DTYPE] + counts[OTHER_WEIGHT] + counts[OTHER_TIED];

    if (misfits)
        return error_set(
            E_INVALID, "%s: %zu of the adapter's tensors have no place in this model", model->dir,
            misfits
        );
    if (!unsupported)
        return 0;
    int err = error_set(
        E_UNSUPPORTED, "%s: %zu of the adapter's tensors cannot be put into this model", model->dir,
        unsupported
    );
    if (!counts[OTHER_TIED])
        return err;
    return error_hint(
        err, "save the model with an output layer of its own: lm_head.weight in its file, "
             "\"tie_word_embeddings\": false in its config.json"
    );
}

static int shape_detail(int err, const char *name, const struct other *other)
{
    char ours[SHAPE_TEXT_SIZE], theirs[SHAPE_TEXT_SIZE];

    shape_text(ours, other->tensor);
    shape_text(theirs, other->place.tensor);
    return error_detail(err, "%s: [%s] in the model, [%s] in the adapter", name, theirs, ours);
}

static int other_detail(int err, const struct other *other)
{
    char name[TEXT_QUOTE_SIZE];

    text_quote(name, (struct bytes){(const uint8_t *)other->tensor->name, other->tensor->name_len});
    switch (other->fault) {
    case OTHER_FITS:
    case OTHER_DROPPED:
    case OTHER_FAULTS:
        return err;
    case OTHER_PLACELESS:
        return error_detail(
            err, "%s: the model has no such tensor, and modules_to_save does not name it", name
        );
    case OTHER_TARGETED:
        return error_detail(err, "%s: the weight that the adapter's vectors change", name);
    case OTHER_TWICE:
        return error_detail(err, "%s: another tensor has the same place", name);
    case OTHER_SHAPE:
        return shape_detail(err, name, other);
    case OTHER_DTYPE:
        return error_detail(
            err, "%s: %s in the model, %s in the adapter", name,
            dtype_name(other->place.tensor->dtype), dtype_name(other->tensor->dtype)
        );
    case OTHER_TIED:
        return error_detail(
            err, "%s: output layer and input embedding are one tensor in this model", name
        );
    case OTHER_WEIGHT:
        return error_detail(err, "%s: is not this model's weight", name);
    }
    return err;
}

int others_details(int err, const struct others *others)
{
    for (size_t i = 0; i < others->count; i++)
        err = other_detail(err, &others->list[i]);
    return err;
}
