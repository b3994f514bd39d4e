/* Names and orientation. See match.h. */
#include "apply/match.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"

#define WEIGHT ".weight"

/* Names */

static bool ends_with(const char *name, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(name + len - n, suffix, n) == 0;
}

/* Is the text the whole name, or its last components? */
static bool ends_in(const char *name, size_t len, const char *last)
{
    size_t n = strlen(last);

    return ends_with(name, len, last) && (len == n || name[len - n - 1] == '.');
}

static bool ends_in_any(const char *name, size_t len, const char *const *list)
{
    for (; *list; list++) {
        if (ends_in(name, len, *list))
            return true;
    }
    return false;
}

static bool is_weight_of(const char *tensor, const char *const *modules)
{
    size_t len = strlen(tensor);

    return ends_with(tensor, len, WEIGHT) && ends_in_any(tensor, len - strlen(WEIGHT), modules);
}

static const char *const outputs[] = {
    "lm_head", "lm_head.decoder", "cls.predictions.decoder", "embed_out", NULL};
static const char *const inputs[] = {"embed_tokens", "wte",      "word_embeddings",
                                     "shared",       "embed_in", "tok_embeddings",
                                     "tokens_embed", NULL};

bool is_output_embedding(const char *tensor)
{
    return is_weight_of(tensor, outputs);
}

bool is_input_embedding(const char *tensor)
{
    return is_weight_of(tensor, inputs);
}

static int name_set(struct buf *out, const char *a, const char *b, const char *c)
{
    out->len = 0;
    int err = buf_append_text(out, a);
    if (err < 0 || (err = buf_append_text(out, b)) < 0 || (err = buf_append_text(out, c)) < 0)
        return err;
    return buf_text(out) ? 0 : error_wrap(E_NOMEM, "names");
}

int match_name(struct buf *out, const struct match *match, const char *name)
{
    size_t len = strlen(match->prefix);

    if (match->prefix_added)
        return name_set(out, match->prefix, name, "");
    return name_set(out, strncmp(name, match->prefix, len) == 0 ? name + len : name, "", "");
}

/* Orientation */

enum orientation { LIES_UNKNOWN, LIES_OUT_IN, LIES_IN_OUT };

static enum orientation
class_of(const struct model *model, const char *module, enum model_lies said)
{
    static const char *const conv1d[] = {"c_attn", "c_proj", "c_fc", "q_attn", NULL};

    if (said)
        return said == MODEL_LIES_CONV1D ? LIES_IN_OUT : LIES_OUT_IN;
    if (model->layers == LAYERS_UNKNOWN)
        return LIES_UNKNOWN;
    return model->layers == LAYERS_CONV1D && ends_in_any(module, strlen(module), conv1d)
               ? LIES_IN_OUT
               : LIES_OUT_IN;
}

/* How a module's weight lies; false where it has another shape. A square one that nothing tells
   about is LIES_UNKNOWN. */
static bool shape_fits(
    enum orientation *out,
    const struct model *model,
    const struct adapter_module *module,
    const struct model_tensor *place
)
{
    enum orientation class = class_of(model, module->name, place->lies);
    const struct tensor *weight = place->tensor;

    if (weight->dims != 2 || weight->shape[0] == 0 || weight->shape[1] == 0 ||
        weight->shape[0] > LIMIT_FEATURES || weight->shape[1] > LIMIT_FEATURES)
        return false;
    bool rows = weight->shape[0] == module->out, columns = weight->shape[1] == module->out;
    if ((class == LIES_OUT_IN && !rows) || (class == LIES_IN_OUT && !columns))
        return false;
    *out = class ? class : rows && columns ? LIES_UNKNOWN : rows ? LIES_OUT_IN : LIES_IN_OUT;
    return rows || columns;
}

/* Prefixes */

/* One way to name all modules, and how many the model then has. */
struct candidate {
    const char *prefix;
    size_t prefix_len;
    bool added;
    size_t found, fitting;
};

static void candidate_count(
    struct candidate *candidate,
    const struct model *model,
    const struct adapter_module *module,
    const struct model_tensor *weight
)
{
    enum orientation lies;

    candidate->found++;
    candidate->fitting += shape_fits(&lies, model, module, weight);
}

/* Names without the first `skip` bytes. */
static int candidate_look_up(
    struct candidate *candidate, const struct adapter *adapter, const struct model *model
)
{
    AUTO_BUF(name);

    for (size_t i = 0; i < adapter->module_count; i++) {
        struct model_tensor weight;
        const char *module = adapter->modules[i].name + candidate->prefix_len;
        int err = name_set(&name, module, WEIGHT, "");
        if (err < 0)
            return err;
        if (model_find(&weight, model, (const char *)name.data))
            candidate_count(candidate, model, &adapter->modules[i], &weight);
    }
    return 0;
}

/* The module whose weight this is, but for the first `skip` bytes of the name; NULL. */
static const struct adapter_module *
module_of(const struct adapter *adapter, const struct tensor *tensor, size_t skip)
{
    const char *name = tensor->name + skip;
    size_t len = tensor->name_len - skip;

    if (!ends_with(name, len, WEIGHT) || memchr(name, 0, len))
        return NULL;
    len -= strlen(WEIGHT);
    for (size_t low = 0, high = adapter->module_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        const char *other = adapter->modules[middle].name;
        int order = strncmp(name, other, len);
        if (order == 0 && other[len] != '\0')
            order = -1;
        if (order == 0)
            return &adapter->modules[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* The better of two for the person who reads what is missing, or for use. The one that has been
   there first stays where they are equal. */
static bool candidate_is_better(const struct candidate *a, const struct candidate *b)
{
    return a->found != b->found ? a->found > b->found : a->fitting > b->fitting;
}

struct choice {
    struct candidate best;
    const char *rival; /* the prefix of another candidate that makes all match; NULL */
    size_t rival_len;
    size_t wanted; /* modules */
};

static void choice_offer(struct choice *choice, const struct candidate *candidate)
{
    if (candidate->fitting == choice->wanted && choice->best.fitting == choice->wanted) {
        choice->rival = candidate->prefix;
        choice->rival_len = candidate->prefix_len;
    } else if (candidate_is_better(candidate, &choice->best)) {
        choice->best = *candidate;
    }
}

/* Every first component of the model's names. Those with one component are neighbours, since names
   are sorted. */
static void
offer_added(struct choice *choice, const struct adapter *adapter, const struct model *model)
{
    struct candidate candidate = {.added = true};

    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct tensor *tensor = model->tensors[i].tensor;
        const char *dot = memchr(tensor->name, '.', tensor->name_len);
        if (!dot)
            continue;
        size_t len = (size_t)(dot + 1 - tensor->name);
        if (len != candidate.prefix_len || memcmp(candidate.prefix, tensor->name, len) != 0) {
            choice_offer(choice, &candidate);
            candidate = (struct candidate
            ){.added = true, .prefix = tensor->name, .prefix_len = len};
        }
        const struct adapter_module *module = module_of(adapter, tensor, len);
        if (module)
            candidate_count(&candidate, model, module, &model->tensors[i]);
    }
    choice_offer(choice, &candidate);
}

/* The first component of all modules, with its dot; 0 where they do not share one. */
static size_t shared_prefix(const struct adapter *adapter)
{
    const char *first = adapter->modules[0].name;
    const char *last = adapter->modules[adapter->module_count - 1].name;
    const char *dot = strchr(first, '.');
    size_t len = dot ? (size_t)(dot + 1 - first) : 0;

    return strncmp(first, last, len) == 0 ? len : 0;
}

static int
prefix_choose(struct match *match, const struct adapter *adapter, const struct model *model)
{
    struct choice choice = {.wanted = adapter->module_count, .best = {.prefix = ""}};
    struct candidate removed = {.prefix = adapter->modules[0].name};
    int err;

    if ((err = candidate_look_up(&choice.best, adapter, model)) < 0)
        return err;
    if (choice.best.fitting < choice.wanted) {
        removed.prefix_len = shared_prefix(adapter);
        if (removed.prefix_len) {
            if ((err = candidate_look_up(&removed, adapter, model)) < 0)
                return err;
            choice_offer(&choice, &removed);
        }
        offer_added(&choice, adapter, model);
    }
    if (choice.rival)
        return error_set(
            E_INVALID, "%s: the adapter's modules match with '%.*s' and with '%.*s'", model->dir,
            (int)choice.best.prefix_len, choice.best.prefix, (int)choice.rival_len, choice.rival
        );
    match->prefix_added = choice.best.added;
    match->prefix = bytes_dup((struct bytes
    ){(const uint8_t *)choice.best.prefix, choice.best.prefix_len});
    return match->prefix ? 0 : error_set(E_NOMEM, "out of memory for a prefix");
}

/* Modules */

/* Has the model, instead of X.weight, what a quantised layer is stored as (GPTQ, AWQ, HQQ,
   compressed-tensors)? `name` ends in ".weight", and is changed. */
static int is_packed(bool *out, const struct model *model, struct buf *name)
{
    static const char *const packed[] = {".qweight", ".weight_packed", ".W_q"};
    size_t len = name->len - strlen(WEIGHT);
    struct model_tensor found;

    *out = false;
    for (size_t i = 0; i < sizeof(packed) / sizeof(packed[0]) && !*out; i++) {
        name->len = len;
        int err = buf_append_text(name, packed[i]);
        if (err < 0 || !buf_text(name))
            return error_wrap(E_NOMEM, "names");
        *out = model_find(&found, model, (const char *)name->data);
    }
    return 0;
}

static int module_match(
    struct match_module *out,
    enum orientation *lies,
    const struct match *match,
    const struct model *model,
    const struct adapter_module *module
)
{
    AUTO_BUF(mapped);
    AUTO_BUF(name);
    bool packed = false;
    int err;

    if ((err = match_name(&mapped, match, module->name)) < 0 ||
        (err = name_set(&name, (const char *)mapped.data, WEIGHT, "")) < 0)
        return err;
    bool found = model_find(&out->weight, model, (const char *)name.data);
    bool tied = model->tied_embeddings && is_output_embedding((const char *)name.data);
    if (!found && !tied && (err = is_packed(&packed, model, &name)) < 0)
        return err;
    const struct tensor *weight = out->weight.tensor;
    bool fits = found && shape_fits(lies, model, module, &out->weight);
    bool applies = found && dtype_is_applicable(weight->dtype);
    out->fault = tied       ? MATCH_TIED
                 : packed   ? MATCH_PACKED
                 : !found   ? MATCH_MISSING
                 : !applies ? (fits ? MATCH_DTYPE : MATCH_PACKED)
                 : !fits    ? MATCH_SHAPE
                            : MATCH_FITS;
    return 0;
}

/* The way that all modules lie whose shape tells; LIES_UNKNOWN where they differ or none tells. */
static enum orientation
siblings_lie(const struct match *match, const enum orientation *lies, size_t count)
{
    enum orientation all = LIES_UNKNOWN;

    for (size_t i = 0; i < count; i++) {
        if (match->modules[i].fault != MATCH_FITS || !lies[i])
            continue;
        if (all && lies[i] != all)
            return LIES_UNKNOWN;
        all = lies[i];
    }
    return all;
}

static void
modules_orient(struct match *match, const struct adapter *adapter, const enum orientation *lies)
{
    enum orientation square = siblings_lie(match, lies, adapter->module_count);
    bool first = true;

    if (!square)
        square = adapter->config.fan_in_fan_out ? LIES_IN_OUT : LIES_OUT_IN;
    match->dtype = DTYPE_COUNT;
    for (size_t i = 0; i < adapter->module_count; i++) {
        struct match_module *module = &match->modules[i];
        match->counts[module->fault]++;
        if (module->fault != MATCH_FITS && module->fault != MATCH_DTYPE)
            continue;
        const struct tensor *weight = module->weight.tensor;
        module->transposed = (lies[i] ? lies[i] : square) == LIES_IN_OUT;
        if (weight->dims == 2)
            module->in = weight->shape[module->transposed ? 0 : 1];
        if (module->in > match->in_max)
            match->in_max = module->in;
        match->dtype = first || match->dtype == weight->dtype ? weight->dtype : DTYPE_COUNT;
        first = false;
    }
    match->out_max = adapter->out_max;
}

int match_make(struct match *out, const struct adapter *adapter, const struct model *model)
{
    AUTO_MATCH(match);
    AUTO_FREE(enum orientation, lies);
    int err;

    lies = array_new(adapter->module_count, sizeof(*lies));
    match.modules = array_new(adapter->module_count, sizeof(*match.modules));
    if (!lies || !match.modules)
        return error_set(E_NOMEM, "out of memory for %zu modules", adapter->module_count);
    if ((err = prefix_choose(&match, adapter, model)) < 0)
        return err;
    for (size_t i = 0; i < adapter->module_count; i++) {
        err = module_match(&match.modules[i], &lies[i], &match, model, &adapter->modules[i]);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
    }
    modules_orient(&match, adapter, lies);
    *out = match;
    match = (struct match){0};
    return 0;
}

void match_release(struct match *match)
{
    free(match->prefix);
    free(match->modules);
    *match = (struct match){0};
}

/* What does not match */

static const char *quoted(char out[TEXT_QUOTE_SIZE], const char *text)
{
    text_quote(out, text_bytes(text));
    return out;
}

static bool is_fault(enum match_fault fault, bool any_dtype)
{
    return fault != MATCH_FITS && !(any_dtype && fault == MATCH_DTYPE);
}

static int unsupported_error(const struct match *match, const struct model *model, size_t count)
{
    size_t bad = match->counts[MATCH_PACKED] + match->counts[MATCH_DTYPE];
    int err = error_set(
        E_UNSUPPORTED,
        "%s: %zu of %zu modules have weights of a type that nothing can be added to exactly%s",
        model->dir, bad, count, model->quantised ? ": the model is quantised" : ""
    );

    return error_hint(
        err, "give the model in F32, BF16 or F16; or serve the adapter unmerged, which leaves the "
             "weights as they are"
    );
}

static int tied_error(const struct model *model)
{
    int err = error_set(
        E_UNSUPPORTED,
        "%s: the model's output layer is its input embedding, which the adapter "
        "would change too",
        model->dir
    );

    return error_hint(
        err, "save the model with an output layer of its own: lm_head.weight in its file, "
             "\"tie_word_embeddings\": false in its config.json"
    );
}

int match_error(
    const struct match *match,
    const struct adapter *adapter,
    const struct model *model,
    bool any_dtype
)
{
    char name[TEXT_QUOTE_SIZE];
    size_t wrong = match->counts[MATCH_MISSING] + match->counts[MATCH_SHAPE];

    if (match->counts[MATCH_PACKED] || (!any_dtype && match->counts[MATCH_DTYPE]))
        return unsupported_error(match, model, adapter->module_count);
    if (wrong) {
        size_t tied = match->counts[MATCH_TIED];
        int err = error_set(
            E_INVALID, "%s: matched %zu of %zu modules", model->dir,
            adapter->module_count - wrong - tied, adapter->module_count
        );
        if (!adapter->config.base_name)
            return error_hint(err, "is this the model that the adapter was trained on?");
        return error_hint(
            err, "the adapter was trained on '%s'", quoted(name, adapter->config.base_name)
        );
    }
    return match->counts[MATCH_TIED] ? tied_error(model) : 0;
}

void shape_text(char out[SHAPE_TEXT_SIZE], const struct tensor *tensor)
{
    size_t len = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < tensor->dims && len < SHAPE_TEXT_SIZE; i++)
        len += (size_t
        )snprintf(out + len, SHAPE_TEXT_SIZE - len, "%s%" PRIu64, i ? ", " : "", tensor->shape[i]);
}

int match_details(int err, const struct match *match, const struct adapter *adapter, bool any_dtype)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct match_module *module = &match->modules[i];
        const struct tensor *weight = module->weight.tensor;
        const char *name = adapter->modules[i].name;
        char shape[SHAPE_TEXT_SIZE] = "";
        if (!is_fault(module->fault, any_dtype))
            continue;
        if (weight)
            shape_text(shape, weight);
        if (module->fault == MATCH_TIED)
            err = error_detail(err, "%s: shared with the input embedding", name);
        else if (module->fault == MATCH_PACKED && !weight)
            err = error_detail(err, "%s: quantised", name);
        else if (module->fault == MATCH_PACKED || module->fault == MATCH_DTYPE)
            err = error_detail(err, "%s: %s [%s]", name, dtype_name(weight->dtype), shape);
        else if (module->fault == MATCH_SHAPE)
            err = error_detail(
                err, "%s: [%s] in the model, %" PRIu64 " outputs in the adapter", name, shape,
                adapter->modules[i].out
            );
        else
            err = error_detail(err, "%s: missing", name);
    }
    return err;
}

int match_check_columns(const struct match *match, const struct model *model, uint64_t columns)
{
    if (match->in_max == columns)
        return 0;
    int err = error_set(
        E_INVALID,
        "%s: another base model: A has %" PRIu64 " columns, and the most inputs of a module here "
        "are %" PRIu64,
        model->dir, columns, match->in_max
    );
    return error_hint(
        err, "give the model that the adapter was trained on; PEFT makes A as wide as its widest "
             "module"
    );
}
