/* Adapters on the model that they are for. See acting.h. */
#include "cli/acting.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/match.h"
#include "format/text.h"

struct loading {
    struct company *company;
    const char *const *texts;
    struct pin pins[ACTING_MAX];
    bool has_pin[ACTING_MAX];
    struct model model;
    bool has_model;
    struct progress *progress;
};

static void loading_release(struct loading *loading)
{
    for (size_t i = 0; i < ACTING_MAX; i++)
        pin_release(&loading->pins[i]);
    model_release(&loading->model);
}

static const struct adapter *adapter_of(const struct acting *acting)
{
    return &acting->source->loaded.adapter;
}

/* Pins */

static int pins_read(struct loading *loading)
{
    int err = 0;

    for (size_t i = 0; !err && i < loading->company->count; i++) {
        const struct source *source = loading->company->members[i].source;
        loading->has_pin[i] = source->snapshot.pin.len > 0;
        if (loading->has_pin[i])
            err = pin_decode(&loading->pins[i], buf_bytes(&source->snapshot.pin));
    }
    return err;
}

/* A weight is stored [out, in], by Conv1D [in, out]: the dimension that is not `out` is `in`. */
static bool pin_inputs(uint64_t *out, const struct pin_module *pinned, uint64_t outputs)
{
    if (pinned->rows != outputs && pinned->columns != outputs)
        return false;
    *out = pinned->rows == outputs ? pinned->columns : pinned->rows;
    return true;
}

static int shape_refuse(const struct pin_module *pinned, const struct adapter_module *module)
{
    char name[TEXT_QUOTE_SIZE];

    text_quote(name, text_bytes(module->name));
    int err = error_set(
        E_INVALID,
        "'%s' has %" PRIu64 " outputs, the recorded weight is [%" PRIu64 ", %" PRIu64
        "]: adapters of different models",
        name, module->out, pinned->rows, pinned->columns
    );
    return error_hint(err, "only what two adapters do to one model can be compared");
}

/* *found is false where the pin has not all of the modules. */
static int sizes_from_pin(bool *found, struct acting *acting, const struct pin *pin)
{
    const struct adapter *adapter = adapter_of(acting);

    *found = false;
    acting->in_max = acting->out_max = 0;
    acting->dtype = DTYPE_COUNT;
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        const struct pin_module *pinned = pin_find(pin, module->name);
        if (!pinned)
            return 0;
        if (!pin_inputs(&acting->in[i], pinned, module->out))
            return shape_refuse(pinned, module);
        if (acting->in[i] > acting->in_max)
            acting->in_max = acting->in[i];
        if (module->out > acting->out_max)
            acting->out_max = module->out;
        if (i == 0)
            acting->dtype = pinned->dtype;
        else if (acting->dtype != pinned->dtype)
            acting->dtype = DTYPE_COUNT;
    }
    *found = true;
    return 0;
}

/* The model at hand */

static bool shapes_equal(const struct pin_module *pinned, const struct tensor *weight)
{
    return pinned->dtype == weight->dtype && weight->dims == 2 &&
           pinned->rows == weight->shape[0] && pinned->columns == weight->shape[1];
}

static bool lines_equal(const struct pin_module *a, const struct pin_module *b)
{
    return a->dtype == b->dtype && a->rows == b->rows && a->columns == b->columns &&
           digest_equal(&a->digest, &b->digest);
}

/* What a member before this one recorded of the module, and was found to be so; NULL. */
static const struct pin_module *
line_proved(const struct loading *loading, size_t number, const char *name)
{
    const struct pin_module *line = NULL;

    for (size_t i = 0; !line && i < number; i++)
        line = loading->has_pin[i] ? pin_find(&loading->pins[i], name) : NULL;
    return line;
}

static int line_check(
    bool *equal,
    const struct loading *loading,
    size_t number,
    const struct pin_module *pinned,
    const struct model_tensor *weight
)
{
    const struct pin_module *proved = line_proved(loading, number, pinned->name);
    struct digest digest;

    *equal = shapes_equal(pinned, weight->tensor);
    if (!*equal)
        return 0;
    if (proved) {
        *equal = lines_equal(proved, pinned);
        return 0;
    }
    int err = model_digest(&digest, &loading->model, weight, NULL);
    *equal = !err && digest_equal(&digest, &pinned->digest);
    return err;
}

static int pin_refuse(
    int err,
    const struct loading *loading,
    const struct pin_module *pinned,
    const struct tensor *weight
)
{
    char shape[SHAPE_TEXT_SIZE];

    if (!err) {
        err = error_set(
            E_CONFLICT, "%s: not the base model that this version was committed with",
            loading->model.dir
        );
        err = error_hint(err, "what was recorded is enough: leave --base out");
    }
    if (shapes_equal(pinned, weight))
        return error_detail(err, "%s: other values", pinned->name);
    shape_text(shape, weight);
    return error_detail(
        err, "%s: %s [%s] here, %s [%" PRIu64 ", %" PRIu64 "] recorded", pinned->name,
        dtype_name(weight->dtype), shape, dtype_name(pinned->dtype), pinned->rows, pinned->columns
    );
}

static uint64_t bytes_pinned(const struct match *match, size_t count)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        const struct tensor *weight = match->modules[i].weight.tensor;
        bytes += weight ? tensor_bytes(weight) : 0;
    }
    return bytes;
}

/* Is the model the one that was recorded? What is missing altogether is for the match to say. */
static int pin_check(const struct loading *loading, size_t number, const struct match *match)
{
    const struct adapter *adapter = adapter_of(&loading->company->members[number]);
    struct progress_sum progress;
    int refused = 0, err = 0;

    if (!loading->has_pin[number])
        return 0;
    progress_sum_init(&progress, loading->progress, bytes_pinned(match, adapter->module_count));
    for (size_t i = 0; !err && i < adapter->module_count; i++) {
        const struct model_tensor *weight = &match->modules[i].weight;
        const struct pin_module *pinned = pin_find(
            &loading->pins[number], adapter->modules[i].name
        );
        bool equal = true;
        if (!pinned || !weight->tensor)
            continue;
        err = line_check(&equal, loading, number, pinned, weight);
        if (!err && !equal)
            refused = pin_refuse(refused, loading, pinned, weight->tensor);
        progress_add(&progress, tensor_bytes(weight->tensor));
    }
    progress_sum_release(&progress);
    return err ? err : refused;
}

static int sizes_from_model(const struct loading *loading, size_t number)
{
    struct acting *acting = &loading->company->members[number];
    const struct loaded_adapter *loaded = &acting->source->loaded;
    const struct model *model = &loading->model;
    const struct adapter *adapter = &loaded->adapter;
    AUTO_MATCH(match);
    int err;

    if ((err = match_make(&match, adapter, model)) || (err = pin_check(loading, number, &match)))
        return err;
    if ((err = match_error(&match, adapter, model, true)))
        return match_details(err, &match, adapter, true);
    if (loaded->recipe.state != BASIS_DECLARED &&
        (err = match_check_columns(&match, model, loaded->recipe.in)))
        return err;
    for (size_t i = 0; i < adapter->module_count; i++)
        acting->in[i] = match.modules[i].in;
    acting->in_max = match.in_max;
    acting->out_max = match.out_max;
    acting->dtype = match.dtype;
    return 0;
}

/* Sizes */

static int sizes_find(struct loading *loading, size_t number)
{
    struct acting *acting = &loading->company->members[number];
    bool found = false;
    int err = 0;

    if (!(acting->in = array_new(adapter_of(acting)->module_count, sizeof(*acting->in))))
        return error_wrap(E_NOMEM, "modules");
    if (loading->has_model)
        return sizes_from_model(loading, number);
    if (loading->has_pin[number])
        err = sizes_from_pin(&found, acting, &loading->pins[number]);
    for (size_t i = 0; !err && !found && i < loading->company->count; i++) {
        if (loading->has_pin[i])
            err = sizes_from_pin(&found, acting, &loading->pins[i]);
    }
    if (err || found)
        return err;
    err = error_set(E_INVALID, "nothing tells how many inputs its modules have");
    return error_hint(
        err, "--base MODEL: the directory of its base model; commit --base records it for good"
    );
}

/* Where two of them have a module, they must mean one weight. */
static int pair_check(const struct acting *a, const struct acting *b)
{
    const struct adapter *left = adapter_of(a), *right = adapter_of(b);

    for (size_t i = 0, k = 0; i < left->module_count && k < right->module_count;) {
        const struct adapter_module *x = &left->modules[i], *y = &right->modules[k];
        int order = strcmp(x->name, y->name);
        if (order == 0 && (x->out != y->out || a->in[i] != b->in[k])) {
            char name[TEXT_QUOTE_SIZE];
            text_quote(name, text_bytes(x->name));
            int err = error_set(
                E_INVALID,
                "adapters of different models: '%s' is [%" PRIu64 ", %" PRIu64 "] in one, [%" PRIu64
                ", %" PRIu64 "] in the other",
                name, x->out, a->in[i], y->out, b->in[k]
            );
            return error_hint(err, "only what adapters do to one model can be compared");
        }
        i += order <= 0;
        k += order >= 0;
    }
    return 0;
}

static bool pins_differ(const struct pin *a, const struct pin *b)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct pin_module *other = pin_find(b, a->modules[i].name);
        if (other && !lines_equal(other, &a->modules[i]))
            return true;
    }
    return false;
}

static int members_check(struct loading *loading)
{
    struct company *company = loading->company;
    int err = 0;

    for (size_t i = 0; i < company->count; i++) {
        for (size_t k = i + 1; !err && k < company->count; k++) {
            err = pair_check(&company->members[i], &company->members[k]);
            if (loading->has_pin[i] && loading->has_pin[k])
                company->weights_differ |= pins_differ(&loading->pins[i], &loading->pins[k]);
        }
    }
    return err;
}

/* Matrices */

/* Will the two bases have the same values, as far as the recipes tell? */
static bool recipes_give_one(const struct recipe *a, const struct recipe *b)
{
    return a->has_matrices && b->has_matrices && a->rank == b->rank && a->in == b->in &&
           a->out == b->out && a->dtype_a == b->dtype_a && a->dtype_b == b->dtype_b &&
           digest_equal(&a->sha256_a, &b->sha256_a) && digest_equal(&a->sha256_b, &b->sha256_b);
}

static int basis_find(struct company *company, size_t number)
{
    struct acting *acting = &company->members[number];
    const struct loaded_adapter *loaded = &acting->source->loaded;

    for (size_t i = 0; i < number; i++) {
        const struct acting *other = &company->members[i];
        if (recipes_give_one(&other->source->loaded.recipe, &loaded->recipe)) {
            acting->basis = other->basis;
            return 0;
        }
    }
    int err = basis_load(&acting->own, loaded, acting->in_max, acting->out_max, acting->dtype);
    if (!err)
        acting->basis = &acting->own;
    return err;
}

static int member_load(struct loading *loading, size_t number)
{
    struct acting *acting = &loading->company->members[number];
    int err;

    if ((err = basis_find(loading->company, number)) == 0)
        err = effects_init(&acting->effects, &acting->source->loaded, acting->basis);
    return err ? error_wrap(err, "%s", loading->texts[number]) : 0;
}

int company_load(
    struct company *out,
    struct source *const *sources,
    const char *const *texts,
    size_t count,
    const char *base,
    struct progress *progress
)
{
    __attribute__((cleanup(loading_release))) struct loading loading = {
        .company = out, .texts = texts, .has_model = base != NULL, .progress = progress};
    int err;

    out->count = count;
    for (size_t i = 0; i < count; i++)
        out->members[i].source = sources[i];
    if ((err = pins_read(&loading)) || (base && (err = model_open(&loading.model, base))))
        return err;
    for (size_t i = 0; i < count; i++) {
        if ((err = sizes_find(&loading, i)))
            return error_wrap(err, "%s", texts[i]);
    }
    if ((err = members_check(&loading)))
        return err;
    for (size_t i = 0; !err && i < count; i++)
        err = member_load(&loading, i);
    return err;
}

void company_release(struct company *company)
{
    for (size_t i = 0; i < company->count; i++) {
        struct acting *acting = &company->members[i];
        effects_release(&acting->effects);
        basis_release(&acting->own);
        free(acting->in);
    }
    *company = (struct company){0};
}
