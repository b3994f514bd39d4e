/*
 * What an adapter does to one module, as numbers that can be computed with:
 *
 *   dW = diag(b) . B[:out, :] . diag(d) . A[:, :in]          (VeRA, arXiv 2310.11454, equation 2)
 *
 * Vectors are doubles here, which hold every stored type exactly. dW itself is never built: see
 * docs/math.md for how norms, singular values and merges come from [rank, rank] matrices.
 */
#ifndef APPLY_EFFECT_H
#define APPLY_EFFECT_H

#include "format/snapshot.h"

/* One adapter's dW in one module. All borrowed; basis NULL where it does not adapt the module. */
struct effect {
    const struct basis *basis; /* at least `in` columns and `out` rows */
    const double *d;           /* [basis->rank] */
    const double *b;           /* [out] */
};

/* A module of a model, and what up to two adapters do there. Sizes are the base model's:
   W [out, in] as the layer computes with it, however it is stored. */
struct effect_pair {
    const char *name;
    uint64_t in, out;
    struct effect a, b;
};

/* An adapter's vectors widened, one effect for each of adapter->modules, in that order. */
struct effects {
    struct effect *modules;
    size_t count;
    double *values; /* what the effects point into */
};

#define AUTO_EFFECTS(name) __attribute__((cleanup(effects_release))) struct effects name = {0}

/* `loaded` may be released afterwards, `basis` must outlive the effects. Values that are not finite
   are taken as they are: who computes refuses them. E_UNSUPPORTED, naming the tensor, where a
   vector is not F32, BF16, F16 or F64; E_INVALID where the basis has another rank. */
MUST_CHECK int
effects_init(struct effects *out, const struct loaded_adapter *loaded, const struct basis *basis);
void effects_release(struct effects *effects);

/* E_INVALID, naming the module, where the basis has fewer columns or rows than it; E_LIMIT for a
   basis of more than LIMIT_BASIS_VALUES. No basis is no error. */
MUST_CHECK int
effect_check_size(const struct basis *basis, const char *name, uint64_t in, uint64_t out);

/* The same, and E_INVALID, naming the vector, where a value of it is not finite. */
MUST_CHECK int
effect_check(const struct effect *effect, const char *name, uint64_t in, uint64_t out);

#endif
