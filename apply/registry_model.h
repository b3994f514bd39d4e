/*
 * What the adapters of a registry have in common: modules, rank, basis. Whether an adapter fits is
 * decided here, before any memory of the registry is touched; then its vectors are laid down.
 */
#ifndef APPLY_REGISTRY_MODEL_H
#define APPLY_REGISTRY_MODEL_H

#include <stdatomic.h>

#include "apply/registry.h"

struct registry_layer {
    char *name;
    size_t in, out;
    size_t values;       /* of its vectors: rank + out */
    size_t values_begin; /* of one adapter's, where they begin */
};

struct registry_model {
    struct registry_layer *layers; /* as numbered by the caller */
    struct registry_layer **order; /* in byte order of name, as an adapter has its modules */
    size_t count;
    size_t values; /* of one adapter */
    size_t rank, in_max, out_max;
    size_t vector_max; /* values of the longest vector */
    uint64_t basis_in, basis_out;
    struct digest sha256_a, sha256_b;
    enum dtype base_dtype, vectors;
    atomic_uint_least64_t seed; /* whose drawn basis was compared: its low 32 bits + 2^32, or 0 */
};

/* registry_new()'s errors of modules, dtypes and basis. */
MUST_CHECK int
registry_model_init(struct registry_model *out, const struct registry_options *options);
void registry_model_release(struct registry_model *model);

/* registry_add()'s errors of the adapter. */
MUST_CHECK int registry_model_check(
    struct registry_model *model, const struct loaded_adapter *adapter, bool vectors_only
);

/* d and b of module number `place` of an adapter that was checked, in model->vectors, to `out`:
   where layer order[place] has them. `scratch`: [rank, or out if that is more]. */
void registry_model_write(
    uint8_t *out,
    float *scratch,
    const struct registry_model *model,
    size_t place,
    const struct loaded_adapter *adapter
);

#endif
