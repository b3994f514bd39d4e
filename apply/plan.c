/*
 * The plan: everything is looked at before anything is refused, so that the person sees all that is
 * wrong at once. Names and orientation are apply/match.c's, biases and whole modules
 * apply/replace.c's.
 */
#include "apply/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/replace.h"
#include "format/text.h"

/* What can be wrong with a module's own vectors. */
enum vector_fault { VECTORS_FIT, VECTORS_DTYPE, VECTORS_NONFINITE };

struct check {
    const struct loaded_adapter *loaded;
    const struct model *model;
    struct match match;
    struct others others;
    enum vector_fault *vectors; /* per module */
    size_t vector_counts[3];
};

#define AUTO_CHECK(name) __attribute__((cleanup(check_release))) struct check name = {0}

static void check_release(struct check *check)
{
    match_release(&check->match);
    others_release(&check->others);
    free(check->vectors);
}

/* Values */

static void
vector_widen(float *out, const struct loaded_adapter *loaded, const struct tensor *tensor)
{
    dtype_widen(
        out, loaded_tensor(loaded, tensor).data, (size_t)tensor_values(tensor), tensor->dtype
    );
}

/* d and b behind each other, in one piece of memory that belongs to d. */
static int target_widen(
    struct plan_target *target,
    const struct loaded_adapter *loaded,
    const struct adapter_module *module
)
{
    uint64_t rank = loaded->adapter.config.rank;

    if (!(target->d = array_new((size_t)(rank + module->out), sizeof(float))))
        return error_set(E_NOMEM, "out of memory for the vectors");
    target->b = target->d + rank;
    vector_widen(target->d, loaded, module->d);
    vector_widen(target->b, loaded, module->b);
    return 0;
}

static bool is_finite(const float *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return false;
    }
    return true;
}

/* The vectors of every module, widened and looked at. */
static int vectors_check(struct plan *plan, struct check *check)
{
    const struct adapter *adapter = &check->loaded->adapter;

    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        struct plan_target *target = &plan->targets[plan->target_count++];
        enum vector_fault fault = VECTORS_FIT;
        int err = interrupt_check();
        if (err < 0)
            return err;
        if (!dtype_is_applicable(module->d->dtype) || !dtype_is_applicable(module->b->dtype))
            fault = VECTORS_DTYPE;
        else if ((err = target_widen(target, check->loaded, module)) < 0)
            return err;
        else if (!is_finite(target->d, adapter->config.rank + module->out))
            fault = VECTORS_NONFINITE;
        check->vectors[i] = fault;
        check->vector_counts[fault]++;
    }
    return 0;
}

static int vectors_error(const struct check *check)
{
    size_t count = check->loaded->adapter.module_count;

    if (check->vector_counts[VECTORS_DTYPE])
        return error_set(
            E_UNSUPPORTED,
            "%zu of %zu modules have vectors of a type that cannot be applied; F32, BF16 and F16 "
            "can",
            check->vector_counts[VECTORS_DTYPE], count
        );
    if (!check->vector_counts[VECTORS_NONFINITE])
        return 0;
    int err = error_set(
        E_INVALID, "%zu of %zu modules have vectors with values that are not finite",
        check->vector_counts[VECTORS_NONFINITE], count
    );
    return error_hint(err, "the training has diverged: apply an earlier version");
}

static int vectors_details(int err, const struct check *check)
{
    for (size_t i = 0; i < check->loaded->adapter.module_count; i++) {
        const struct adapter_module *module = &check->loaded->adapter.modules[i];
        if (check->vectors[i] == VECTORS_NONFINITE)
            err = error_detail(err, "%s: a vector is not finite", module->name);
        else if (check->vectors[i] == VECTORS_DTYPE)
            err = error_detail(
                err, "%s: vera_lambda_d is %s, vera_lambda_b %s", module->name,
                dtype_name(module->d->dtype), dtype_name(module->b->dtype)
            );
    }
    return err;
}

/* The pin */

static bool pin_agrees(const struct pin_module *pinned, const struct tensor *weight)
{
    return pinned->dtype == weight->dtype && weight->dims == 2 &&
           pinned->rows == weight->shape[0] && pinned->columns == weight->shape[1];
}

static int pin_begin(int err, const struct plan *plan)
{
    char name[TEXT_QUOTE_SIZE];

    if (err < 0)
        return err;
    err = error_set(
        E_CONFLICT, "%s: not the base model that this version was committed with", plan->model->dir
    );
    if (!plan->pin.name)
        return err;
    text_quote(name, text_bytes(plan->pin.name));
    return error_hint(err, "give '%s' as it was then", name);
}

/* Has the model every pinned module in its dtype and shape? What is missing altogether is for the
   match to say. */
static int pin_check(const struct plan *plan, const struct check *check)
{
    const struct adapter *adapter = &check->loaded->adapter;
    int err = 0;

    if (!plan->pinned)
        return 0;
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct tensor *weight = check->match.modules[i].weight.tensor;
        const char *name = adapter->modules[i].name;
        const struct pin_module *pinned = pin_find(&plan->pin, name);
        if (!pinned)
            return error_set(E_CORRUPT, "pin: no line for the module '%s'", name);
        if (!weight || pin_agrees(pinned, weight))
            continue;
        char shape[SHAPE_TEXT_SIZE];
        shape_text(shape, weight);
        err = error_detail(
            pin_begin(err, plan), "%s: %s [%s] here, %s [%" PRIu64 ", %" PRIu64 "] recorded", name,
            dtype_name(weight->dtype), shape, dtype_name(pinned->dtype), pinned->rows,
            pinned->columns
        );
    }
    return err;
}

static int pin_read(struct plan *plan)
{
    const struct snapshot *snapshot = plan->adapter->snapshot;

    if (!snapshot->pin.len)
        return 0;
    plan->pinned = true;
    return pin_decode(&plan->pin, buf_bytes(&snapshot->pin));
}

/* All that is wrong, under the gravest head. A pin that does not match says more than the shapes
   do, but a module that is not there has nothing to compare. */
static int check_report(const struct plan *plan, const struct check *check)
{
    const struct match *match = &check->match;
    const struct adapter *adapter = &check->loaded->adapter;
    int err = 0;

    if (!match->counts[MATCH_MISSING] && !match->counts[MATCH_PACKED] &&
        (err = pin_check(plan, check)) < 0)
        return err;
    if ((err = match_error(match, adapter, check->model, false)) == 0 &&
        (err = others_error(&check->others, check->model)) == 0)
        err = vectors_error(check);
    if (err == 0)
        return 0;
    err = match_details(err, match, adapter, false);
    err = others_details(err, &check->others);
    return vectors_details(err, check);
}

/* Making it */

static void targets_set(struct plan *plan, const struct check *check)
{
    for (size_t i = 0; i < plan->target_count; i++) {
        const struct match_module *matched = &check->match.modules[i];
        const struct adapter_module *module = &check->loaded->adapter.modules[i];
        struct plan_target *target = &plan->targets[i];
        target->module = module->name;
        target->weight = matched->weight;
        target->in = matched->in;
        target->out = module->out;
        target->transposed = matched->transposed;
    }
}

static int replacement_compare(const void *a, const void *b)
{
    const struct plan_replacement *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* Takes the names over. */
static int replacements_set(struct plan *plan, struct check *check)
{
    struct others *others = &check->others;

    plan->replacements = array_new(others->counts[OTHER_FITS], sizeof(*plan->replacements));
    if (!plan->replacements)
        return error_set(E_NOMEM, "out of memory for the tensors");
    for (size_t i = 0; i < others->count; i++) {
        struct other *other = &others->list[i];
        if (other->fault != OTHER_FITS)
            continue;
        plan->replacements[plan->replacement_count++] = (struct plan_replacement
        ){other->name, other->place, other->tensor};
        plan->added_count += !other->place.tensor;
        other->name = NULL;
    }
    qsort(
        plan->replacements, plan->replacement_count, sizeof(*plan->replacements),
        replacement_compare
    );
    return 0;
}

static int plan_fill(struct plan *plan, struct check *check)
{
    const struct adapter *adapter = &plan->adapter->adapter;
    const struct recipe *recipe = &plan->adapter->recipe;
    int err;

    plan->targets = array_new(adapter->module_count, sizeof(*plan->targets));
    check->vectors = array_new(adapter->module_count, sizeof(*check->vectors));
    if (!plan->targets || !check->vectors)
        return error_set(E_NOMEM, "out of memory for %zu modules", adapter->module_count);
    if ((err = pin_read(plan)) < 0 || (err = match_make(&check->match, adapter, plan->model)) < 0 ||
        (err = others_make(&check->others, plan->adapter, plan->model, &check->match)) < 0 ||
        (err = vectors_check(plan, check)) < 0 || (err = check_report(plan, check)) < 0)
        return err;
    /* A declared basis is made for this model, and compared with what was recorded. */
    if (recipe->state != BASIS_DECLARED &&
        (err = match_check_columns(&check->match, plan->model, recipe->in)) < 0)
        return err;
    targets_set(plan, check);
    plan->in_max = check->match.in_max;
    plan->out_max = check->match.out_max;
    plan->dtype = check->match.dtype;
    plan->prefix = check->match.prefix;
    plan->prefix_added = check->match.prefix_added;
    check->match.prefix = NULL;
    return replacements_set(plan, check);
}

int plan_make(struct plan *out, const struct loaded_adapter *adapter, const struct model *model)
{
    AUTO_PLAN(plan);
    AUTO_CHECK(check);

    plan.adapter = check.loaded = adapter;
    plan.model = check.model = model;
    int err = plan_fill(&plan, &check);
    if (err < 0)
        return err;
    *out = plan;
    plan = (struct plan){0};
    return 0;
}

void plan_release(struct plan *plan)
{
    for (size_t i = 0; i < plan->target_count; i++)
        free(plan->targets[i].d);
    for (size_t i = 0; i < plan->replacement_count; i++)
        free(plan->replacements[i].name);
    free(plan->targets);
    free(plan->replacements);
    free(plan->prefix);
    pin_release(&plan->pin);
    *plan = (struct plan){0};
}
