/* The random bases that the repository's versions stand on. See store.h. */
#include <stdlib.h>
#include <string.h>

#include "store/bases.h"
#include "store/id_set.h"
#include "store/refs.h"

struct bases_walk {
    struct store *store;
    struct store_bases *bases;
    size_t capacity;
    struct id_set recipes; /* that were read */
    size_t *basis_of;      /* of these, the index in bases */
    size_t basis_of_capacity;
};

static void bases_walk_release(struct bases_walk *walk)
{
    id_set_release(&walk->recipes);
    free(walk->basis_of);
}

static int seed_compare(const struct recipe *a, const struct recipe *b)
{
    if (a->has_seed != b->has_seed)
        return a->has_seed ? 1 : -1;
    if (!a->has_seed)
        return 0;
    if (a->seed.negative != b->seed.negative)
        return a->seed.negative ? -1 : 1;
    if (a->seed.magnitude == b->seed.magnitude)
        return 0;
    return (a->seed.magnitude < b->seed.magnitude) != a->seed.negative ? -1 : 1;
}

int recipe_basis_compare(const struct recipe *a, const struct recipe *b)
{
    int order;

    if (a->state != b->state)
        return a->state < b->state ? -1 : 1;
    if (a->has_matrices != b->has_matrices)
        return a->has_matrices ? 1 : -1;
    if (a->has_matrices) {
        if ((order = memcmp(a->sha256_a.bytes, b->sha256_a.bytes, DIGEST_SIZE)) != 0 ||
            (order = memcmp(a->sha256_b.bytes, b->sha256_b.bytes, DIGEST_SIZE)) != 0)
            return order;
        const uint64_t left[] = {a->rank, a->in, a->out, a->dtype_a, a->dtype_b};
        const uint64_t right[] = {b->rank, b->in, b->out, b->dtype_a, b->dtype_b};
        for (size_t i = 0; i < 5; i++) {
            if (left[i] != right[i])
                return left[i] < right[i] ? -1 : 1;
        }
    }
    if ((order = seed_compare(a, b)) != 0)
        return order;
    if (a->has_variant != b->has_variant)
        return a->has_variant ? 1 : -1;
    if (!a->has_variant || (a->variant == b->variant && a->rounding == b->rounding))
        return 0;
    return a->variant * 4 + a->rounding < b->variant * 4 + b->rounding ? -1 : 1;
}

static int basis_compare(const void *a, const void *b)
{
    return recipe_basis_compare(
        &((const struct store_basis *)a)->recipe, &((const struct store_basis *)b)->recipe
    );
}

static int basis_find(size_t *out, struct bases_walk *walk, const struct recipe *recipe)
{
    struct store_bases *bases = walk->bases;

    for (size_t i = 0; i < bases->count; i++) {
        if (recipe_basis_compare(&bases->bases[i].recipe, recipe) == 0) {
            *out = i;
            return 0;
        }
    }
    int err = array_grow(&bases->bases, &walk->capacity, bases->count + 1, sizeof(*bases->bases));
    if (err == 0) {
        *out = bases->count;
        bases->bases[bases->count++].recipe = *recipe;
    }
    return err;
}

static int version_count(struct bases_walk *walk, const struct commit_id *commit)
{
    struct recipe recipe;
    git_oid id;
    size_t index;
    bool found = false, is_new;

    int err = version_entry(&found, &id, walk->store, commit, "recipe");
    if (err < 0 || !found) /* a commit that git made is no version */
        return err;
    if ((err = id_set_add(&index, &is_new, &walk->recipes, &id)) < 0 ||
        (err = array_grow(
             &walk->basis_of, &walk->basis_of_capacity, walk->recipes.count, sizeof(*walk->basis_of)
         )) < 0)
        return err;
    if (is_new && ((err = version_recipe(&recipe, walk->store, commit)) < 0 ||
                   (err = basis_find(&walk->basis_of[index], walk, &recipe)) < 0))
        return err;
    walk->bases->bases[walk->basis_of[index]].versions++;
    return 0;
}

int store_bases(struct store_bases *out, struct store *store)
{
    AUTO_TIPS(tips);
    AUTO_HISTORY(history);
    struct store_bases bases = {0};
    __attribute__((cleanup(bases_walk_release))
    ) struct bases_walk walk = {.store = store, .bases = &bases};

    int err = tips_read(&tips, store, TIPS_ALL);
    if (err == 0 && tips.count)
        err = store_history(&history, store, tips.commits, tips.count, 0);
    for (size_t i = 0; err == 0 && i < history.count; i++) {
        if ((err = interrupt_check()) == 0)
            err = version_count(&walk, &history.commits[i]);
    }
    if (err < 0) {
        store_bases_release(&bases);
        return err;
    }
    if (bases.count)
        qsort(bases.bases, bases.count, sizeof(*bases.bases), basis_compare);
    *out = bases;
    return 0;
}

void store_bases_release(struct store_bases *bases)
{
    free(bases->bases);
    *bases = (struct store_bases){0};
}
