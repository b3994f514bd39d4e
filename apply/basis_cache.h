/*
 * The random matrices A and B of the adapters that a running model has had, so that they are drawn
 * and checked once and not at every swap. Those that were used longest ago go first.
 */
#ifndef APPLY_BASIS_CACHE_H
#define APPLY_BASIS_CACHE_H

#include "apply/plan.h"

#define BASIS_CACHE_MAX 64 /* matrices of so many recipes at once */

/* What A and B follow from. */
struct basis_key {
    enum basis_state state;
    bool has_seed;
    struct json_int seed;
    uint64_t rank, in, out;
    enum dtype dtype_a, dtype_b; /* as stored; of a declared basis the base's, twice */
    struct digest sha256_a, sha256_b;
};

struct basis_entry {
    struct basis_key key;
    struct basis basis;
    uint64_t bytes, used;
};

struct basis_cache {
    struct basis_entry entries[BASIS_CACHE_MAX];
    size_t count;
    uint64_t bytes, bytes_max;
    uint64_t clock; /* counts uses */
    /* Told of the A of a pair before it is freed, for who has copies elsewhere. May be NULL. */
    void (*leaves)(void *context, const float *a);
    void *context;
};

void basis_cache_release(struct basis_cache *cache);

/* A and B of the plan's adapter; valid until the next call. E_LIMIT where they alone are larger
   than bytes_max; E_INVALID where a value is not finite; basis_load()'s errors. */
MUST_CHECK int
basis_cache_get(const struct basis **out, struct basis_cache *cache, const struct plan *plan);

#endif
