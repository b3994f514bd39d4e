/* Does an adapter fit a registry? See registry_model.h. */
#include "apply/registry_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

/* ---- The model ---- */

static int name_compare(const void *a, const void *b)
{
    const struct registry_layer *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static int
add_layer(struct registry_model *model, size_t number, const struct registry_module *module)
{
    struct registry_layer *layer = &model->layers[number];

    if (!module->name || !*module->name)
        return error_set(E_INVALID, "registry: module %zu has no name", number);
    if (module->in == 0 || module->out == 0 || module->in > model->basis_in ||
        module->out > model->basis_out)
        return error_set(
            E_INVALID,
            "registry: module '%s' is [%" PRIu64 ", %" PRIu64 "], the basis is for [%" PRIu64
            ", %" PRIu64 "] at most",
            module->name, module->out, module->in, model->basis_out, model->basis_in
        );
    if (!(layer->name = bytes_dup(text_bytes(module->name))))
        return error_wrap(E_NOMEM, "registry");
    layer->in = (size_t)module->in;
    layer->out = (size_t)module->out;
    layer->values = model->rank + layer->out;
    layer->values_begin = model->values;
    model->values += layer->values;
    if (model->in_max < layer->in)
        model->in_max = layer->in;
    if (model->out_max < layer->out)
        model->out_max = layer->out;
    return 0;
}

static int add_layers(struct registry_model *model, const struct registry_options *options)
{
    int err;

    if (options->module_count == 0)
        return error_set(E_INVALID, "registry: no modules");
    if (options->module_count > LIMIT_TENSORS)
        return error_set(E_LIMIT, "registry: %zu modules", options->module_count);
    model->count = options->module_count;
    if (!(model->layers = array_new(model->count, sizeof(*model->layers))) ||
        !(model->order = array_new(model->count, sizeof(*model->order))))
        return error_wrap(E_NOMEM, "registry");
    for (size_t i = 0; i < model->count; i++) {
        model->order[i] = &model->layers[i];
        if ((err = add_layer(model, i, &options->modules[i])) < 0)
            return err;
    }
    qsort(model->order, model->count, sizeof(*model->order), name_compare);
    model->vector_max = model->rank > model->out_max ? model->rank : model->out_max;
    for (size_t i = 1; i < model->count; i++) {
        const char *name = model->order[i]->name;
        if (strcmp(name, model->order[i - 1]->name) == 0)
            return error_set(E_INVALID, "registry: two modules '%s'", name);
    }
    return 0;
}

static int check_matrix(const float *values, uint64_t count, const char *name)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return error_set(E_INVALID, "registry: a value of %s is not finite", name);
    }
    return 0;
}

static int model_make(struct registry_model *model, const struct registry_options *options)
{
    const struct basis *basis = options->basis;
    uint64_t a_values, b_values;
    int err;

    if (!dtype_is_applicable(options->vectors) || !dtype_is_applicable(options->base_dtype))
        return error_set(
            E_INVALID, "registry: vectors in %s for weights in %s: only F32, BF16 and F16",
            dtype_name(options->vectors), dtype_name(options->base_dtype)
        );
    err = basis_values(&a_values, &b_values, basis->rank, basis->in, basis->out);
    if (err < 0 || (err = check_matrix(basis->a, a_values, "A")) < 0 ||
        (err = check_matrix(basis->b, b_values, "B")) < 0)
        return err;
    model->rank = (size_t)basis->rank;
    model->basis_in = basis->in;
    model->basis_out = basis->out;
    model->sha256_a = basis->sha256_a;
    model->sha256_b = basis->sha256_b;
    model->base_dtype = options->base_dtype;
    model->vectors = options->vectors;
    return add_layers(model, options);
}

int registry_model_init(struct registry_model *out, const struct registry_options *options)
{
    *out = (struct registry_model){0};
    int err = model_make(out, options);
    if (err < 0)
        registry_model_release(out);
    return err;
}

void registry_model_release(struct registry_model *model)
{
    for (size_t i = 0; i < model->count && model->layers; i++)
        free(model->layers[i].name);
    free(model->layers);
    free(model->order);
    *model = (struct registry_model){0};
}

/* ---- Modules ---- */

/* What is wrong, one line each. */
struct complaints {
    int err;
};

static void complain(struct complaints *all, const char *name, const char *what)
{
    if (all->err == 0)
        all->err = error_set(E_INVALID, "registry: the adapter is not one for this model");
    all->err = error_detail(all->err, "%s: %s", name, what);
}

/* Both lists are in byte order of name. */
static void match_modules(
    struct complaints *all, const struct registry_model *model, const struct adapter *adapter
)
{
    size_t theirs = 0;

    for (size_t i = 0; i < model->count; i++) {
        const struct registry_layer *layer = model->order[i];
        int order = 1;
        for (; theirs < adapter->module_count; theirs++) {
            order = strcmp(adapter->modules[theirs].name, layer->name);
            if (order >= 0)
                break;
            complain(all, adapter->modules[theirs].name, "the model has no such module");
        }
        if (theirs == adapter->module_count || order > 0)
            complain(all, layer->name, "the adapter has no vectors for it");
        else if (adapter->modules[theirs++].out != layer->out)
            complain(all, layer->name, "it has another number of outputs in the model");
    }
    for (; theirs < adapter->module_count; theirs++)
        complain(all, adapter->modules[theirs].name, "the model has no such module");
}

/* ---- Values ---- */

/* Its values as they will be kept, as floats. */
static void vector_keep(
    float *values,
    uint8_t *narrow,
    const struct registry_model *model,
    const struct loaded_adapter *adapter,
    const struct tensor *tensor
)
{
    size_t count = (size_t)tensor->shape[0];

    dtype_widen(values, loaded_tensor(adapter, tensor).data, count, tensor->dtype);
    if (model->vectors != DTYPE_F32) {
        dtype_narrow(narrow, values, count, model->vectors);
        dtype_widen(values, narrow, count, model->vectors);
    }
}

static bool is_finite(const float *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return false;
    }
    return true;
}

/* Also of 16-bit vectors, where a number may be too large for them. */
static int check_values(
    struct complaints *all, const struct registry_model *model, const struct loaded_adapter *adapter
)
{
    AUTO_FREE(float, values);
    AUTO_FREE(uint8_t, narrow);

    if (!(values = array_new(model->vector_max, sizeof(*values))) ||
        !(narrow = array_new(model->vector_max, 2)))
        return error_wrap(E_NOMEM, "registry");
    for (size_t i = 0; i < model->count; i++) {
        const struct adapter_module *module = &adapter->adapter.modules[i];
        const struct tensor *vectors[] = {module->d, module->b};
        for (size_t v = 0; v < 2; v++) {
            vector_keep(values, narrow, model, adapter, vectors[v]);
            if (!is_finite(values, vectors[v]->shape[0]))
                complain(all, vectors[v]->name, "a value is not finite");
        }
    }
    return all->err;
}

static int check_dtypes(const struct adapter *adapter)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        const struct tensor *wrong = !dtype_is_applicable(module->b->dtype)   ? module->b
                                     : !dtype_is_applicable(module->d->dtype) ? module->d
                                                                              : NULL;
        if (wrong)
            return error_set(
                E_UNSUPPORTED, "registry: '%s' is %s: only F32, BF16 and F16", wrong->name,
                dtype_name(wrong->dtype)
            );
    }
    return 0;
}

/* ---- The basis ---- */

static bool is_basis(
    const struct registry_model *model, const struct digest *sha256_a, const struct digest *sha256_b
)
{
    return digest_equal(sha256_a, &model->sha256_a) && digest_equal(sha256_b, &model->sha256_b);
}

static int basis_error(void)
{
    int err = error_set(E_CONFLICT, "registry: the adapter has another basis");

    return error_hint(err, "adapters of one basis share a registry; open one for each");
}

/* Draw it, once for each seed: every further adapter of the seed has the same. */
static int check_drawn(struct registry_model *model, const struct loaded_adapter *adapter)
{
    const struct json_int *seed = &adapter->recipe.seed;
    uint64_t bits = seed->negative ? 0 - seed->magnitude : seed->magnitude;
    uint64_t known = (bits & UINT32_MAX) | UINT64_C(1) << 32;
    AUTO_BASIS(basis);

    if (adapter->recipe.has_seed && atomic_load(&model->seed) == known)
        return 0;
    int err = basis_load(&basis, adapter, model->in_max, model->out_max, model->base_dtype);
    if (err < 0)
        return err;
    if (!is_basis(model, &basis.sha256_a, &basis.sha256_b))
        return basis_error();
    atomic_store(&model->seed, known);
    return 0;
}

static int check_basis(struct registry_model *model, const struct loaded_adapter *adapter)
{
    const struct recipe *recipe = &adapter->recipe;

    if (!recipe->has_matrices)
        return check_drawn(model, adapter);
    return is_basis(model, &recipe->sha256_a, &recipe->sha256_b) ? 0 : basis_error();
}

/* ---- An adapter ---- */

int registry_model_check(
    struct registry_model *model, const struct loaded_adapter *adapter, bool vectors_only
)
{
    const struct adapter *names = &adapter->adapter;
    struct complaints all = {0};
    int err;

    if (names->config.rank != model->rank)
        return error_set(
            E_INVALID, "registry: the adapter's rank is %" PRIu64 ", the registry's %zu",
            names->config.rank, model->rank
        );
    match_modules(&all, model, names);
    for (size_t i = 0; i < names->other_count && !vectors_only; i++)
        complain(&all, names->others[i]->name, "no vector, and a registry holds nothing else");
    if (all.err < 0)
        return all.err;
    if ((err = check_dtypes(names)) < 0 || (err = check_values(&all, model, adapter)) < 0)
        return err;
    return check_basis(model, adapter);
}

static uint8_t *put_vector(
    uint8_t *out,
    float *scratch,
    const struct registry_model *model,
    const struct loaded_adapter *adapter,
    const struct tensor *tensor
)
{
    size_t count = (size_t)tensor->shape[0];

    dtype_widen(scratch, loaded_tensor(adapter, tensor).data, count, tensor->dtype);
    dtype_narrow(out, scratch, count, model->vectors);
    return out + count * (dtype_bits(model->vectors) / 8);
}

void registry_model_write(
    uint8_t *out,
    float *scratch,
    const struct registry_model *model,
    size_t place,
    const struct loaded_adapter *adapter
)
{
    const struct adapter_module *module = &adapter->adapter.modules[place];

    out = put_vector(out, scratch, model, adapter, module->d);
    put_vector(out, scratch, model, adapter, module->b);
}
