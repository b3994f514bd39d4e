/* An adapter's vectors as numbers. See effect.h. */
#include "apply/effect.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

static int
vector_widen(double *out, const struct loaded_adapter *loaded, const struct tensor *tensor)
{
    struct bytes bytes = loaded_tensor(loaded, tensor);

    if (!dtype_is_float(tensor->dtype))
        return error_set(
            E_UNSUPPORTED, "tensor %s is %s: only F32, BF16, F16 and F64 can be computed with",
            tensor->name, dtype_name(tensor->dtype)
        );
    dtype_widen_double(out, bytes.data, bytes.len * 8 / dtype_bits(tensor->dtype), tensor->dtype);
    return 0;
}

static int
effects_fill(struct effects *made, const struct loaded_adapter *loaded, const struct basis *basis)
{
    double *next = made->values;
    int err;

    for (size_t i = 0; i < made->count; i++) {
        const struct adapter_module *module = &loaded->adapter.modules[i];
        double *d = next, *b = next + basis->rank;
        if ((err = vector_widen(d, loaded, module->d)) < 0 ||
            (err = vector_widen(b, loaded, module->b)) < 0)
            return err;
        made->modules[i] = (struct effect){basis, d, b};
        next = b + module->out;
    }
    return 0;
}

int effects_init(
    struct effects *out, const struct loaded_adapter *loaded, const struct basis *basis
)
{
    const struct adapter *adapter = &loaded->adapter;
    AUTO_EFFECTS(made);
    uint64_t values = 0;
    int err;

    if (adapter->config.rank != basis->rank)
        return error_set(
            E_INVALID, "the adapter has rank %" PRIu64 ", its basis %" PRIu64, adapter->config.rank,
            basis->rank
        );
    /* They are in memory already, in fewer bytes each: this cannot overflow. */
    for (size_t i = 0; i < adapter->module_count; i++)
        values += basis->rank + adapter->modules[i].out;
    made.count = adapter->module_count;
    if (!(made.modules = array_new(made.count, sizeof(*made.modules))) ||
        !(made.values = array_new((size_t)values, sizeof(*made.values))))
        return error_set(E_NOMEM, "out of memory for the vectors");
    if ((err = effects_fill(&made, loaded, basis)) < 0)
        return err;
    *out = made;
    made = (struct effects){0};
    return 0;
}

void effects_release(struct effects *effects)
{
    free(effects->modules);
    free(effects->values);
    *effects = (struct effects){0};
}

static int check_vector(const double *values, uint64_t count, const char *module, const char *name)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return error_set(
                E_INVALID, "module %s: value %" PRIu64 " of %s is not finite", module, i, name
            );
    }
    return 0;
}

int effect_check_size(const struct basis *basis, const char *name, uint64_t in, uint64_t out)
{
    if (!basis)
        return 0;
    if (in == 0 || out == 0 || basis->rank == 0)
        return error_set(E_INVALID, "module %s: a size is 0", name);
    if (in > basis->in || out > basis->out)
        return error_set(
            E_INVALID,
            "module %s is %" PRIu64 " x %" PRIu64 ", more than the basis has: %" PRIu64
            " x %" PRIu64,
            name, out, in, basis->out, basis->in
        );
    if (basis->in > LIMIT_BASIS_VALUES / basis->rank ||
        basis->out > LIMIT_BASIS_VALUES / basis->rank)
        return error_set(E_LIMIT, "a basis of rank %" PRIu64 " is too large", basis->rank);
    return 0;
}

int effect_check(const struct effect *effect, const char *name, uint64_t in, uint64_t out)
{
    int err = effect_check_size(effect->basis, name, in, out);

    if (err < 0 || !effect->basis)
        return err;
    if ((err = check_vector(effect->d, effect->basis->rank, name, "lambda_d")) < 0)
        return err;
    return check_vector(effect->b, out, name, "lambda_b");
}
