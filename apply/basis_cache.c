#include "apply/basis_cache.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* All-zero first, so that keys can be compared as bytes. */
static void key_make(struct basis_key *out, const struct plan *plan)
{
    const struct recipe *recipe = &plan->adapter->recipe;
    bool declared = recipe->state == BASIS_DECLARED;

    memset(out, 0, sizeof(*out));
    out->state = recipe->state;
    out->has_seed = recipe->has_seed;
    if (recipe->has_seed) {
        out->seed.negative = recipe->seed.negative;
        out->seed.magnitude = recipe->seed.magnitude;
    }
    out->rank = plan->adapter->adapter.config.rank;
    out->in = declared ? plan->in_max : recipe->in;
    out->out = declared ? plan->out_max : recipe->out;
    out->dtype_a = declared ? plan->dtype : recipe->dtype_a;
    out->dtype_b = declared ? plan->dtype : recipe->dtype_b;
    if (recipe->has_matrices) {
        out->sha256_a = recipe->sha256_a;
        out->sha256_b = recipe->sha256_b;
    }
}

static int check_finite(const float *values, uint64_t rows, uint64_t columns, const char *name)
{
    for (uint64_t i = 0; i < rows * columns; i++) {
        if (!isfinite(values[i]))
            return error_set(
                E_INVALID,
                "the basis: %s holds a value that is not finite (row %" PRIu64 ", column %" PRIu64
                ")",
                name, i / columns, i % columns
            );
    }
    return 0;
}

static void entry_drop(struct basis_cache *cache, size_t i)
{
    if (cache->leaves)
        cache->leaves(cache->context, cache->entries[i].basis.a);
    cache->bytes -= cache->entries[i].bytes;
    basis_release(&cache->entries[i].basis);
    cache->entries[i] = cache->entries[--cache->count];
}

/* Until there is room for one more of so many bytes. */
static void make_room(struct basis_cache *cache, uint64_t bytes)
{
    while (cache->count == BASIS_CACHE_MAX ||
           (cache->count && cache->bytes > cache->bytes_max - bytes)) {
        size_t oldest = 0;
        for (size_t i = 1; i < cache->count; i++) {
            if (cache->entries[i].used < cache->entries[oldest].used)
                oldest = i;
        }
        entry_drop(cache, oldest);
    }
}

static int
entry_load(struct basis_cache *cache, const struct basis_key *key, const struct plan *plan)
{
    struct basis_entry entry = {0};
    uint64_t a = 0, b = 0;
    int err;

    if ((err = basis_values(&a, &b, key->rank, key->in, key->out)) < 0)
        return err;
    entry.bytes = (a + b) * sizeof(float);
    if (entry.bytes > cache->bytes_max)
        return error_set(
            E_LIMIT, "the basis: A and B take %" PRIu64 " bytes, at most %" PRIu64 " are kept",
            entry.bytes, cache->bytes_max
        );
    make_room(cache, entry.bytes);
    err = basis_load(&entry.basis, plan->adapter, plan->in_max, plan->out_max, plan->dtype);
    if (err < 0)
        return err;
    const struct basis *basis = &entry.basis;
    if ((err = check_finite(basis->a, basis->rank, basis->in, "A")) < 0 ||
        (err = check_finite(basis->b, basis->out, basis->rank, "B")) < 0) {
        basis_release(&entry.basis);
        return err;
    }
    struct basis_entry *kept = &cache->entries[cache->count++];
    *kept = entry;
    memcpy(&kept->key, key, sizeof(*key)); /* its padding too */
    cache->bytes += entry.bytes;
    return 0;
}

int basis_cache_get(const struct basis **out, struct basis_cache *cache, const struct plan *plan)
{
    struct basis_key key;
    size_t i = 0;
    int err;

    key_make(&key, plan);
    while (i < cache->count && memcmp(&cache->entries[i].key, &key, sizeof(key)) != 0)
        i++;
    bool known = i < cache->count;
    if (!known && (err = entry_load(cache, &key, plan)) < 0)
        return err;
    if (!known)
        i = cache->count - 1;
    cache->entries[i].used = ++cache->clock;
    const struct basis *basis = &cache->entries[i].basis;
    for (size_t t = 0; t < plan->target_count; t++)
        assert(plan->targets[t].in <= basis->in && plan->targets[t].out <= basis->out);
    *out = basis;
    return 0;
}

void basis_cache_release(struct basis_cache *cache)
{
    while (cache->count)
        entry_drop(cache, 0);
}
