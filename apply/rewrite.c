/*
 * What the adapters together do to the base's tensors. See rewrite.h; the streaming is in stream.c.
 *
 * The parts of all plans in one list, sorted by where their tensor lies, make one rewrite for each
 * run of equal tensors: that is also where two adapters meet that cannot.
 */
#include "apply/rewrite.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The first offence of a kind begins the error, so that all are listed below it. */
static int conflict_begin(int err, const char *what)
{
    if (err < 0)
        return err;
    err = error_set(E_INVALID, "%s", what);
    return error_hint(
        err, "a bias or a whole module takes the place of the base's and is never weighted or added"
    );
}

#define TOGETHER "the adapters cannot be applied together"
#define WEIGHTED "an adapter with a weight brings what cannot be weighted"

/* Plans and bases */

static int plans_make(struct rewrites *all)
{
    for (size_t i = 0; i < all->input_count; i++) {
        const struct apply_input *input = &all->inputs[i];
        if (!isfinite(input->weight))
            return error_set(E_INVALID, "adapter %zu: its weight is not finite", i + 1);
        int err = plan_make(&all->plans[i], input->adapter, all->model);
        if (err < 0)
            return all->input_count > 1 ? error_wrap(err, "adapter %zu", i + 1) : err;
    }
    return 0;
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

/* Are the two bases one, as far as the recipes tell? Declared ones depend on their plans too. */
static bool bases_equal(const struct recipe *a, const struct recipe *b)
{
    return a->state != BASIS_DECLARED && b->state != BASIS_DECLARED && a->rank == b->rank &&
           a->in == b->in && a->out == b->out && a->dtype_a == b->dtype_a &&
           a->dtype_b == b->dtype_b && digest_equal(&a->sha256_a, &b->sha256_a) &&
           digest_equal(&a->sha256_b, &b->sha256_b);
}

/* plan_make() has compared every module with the basis. */
static void basis_covers(const struct basis *basis, const struct plan *plan)
{
    for (size_t i = 0; i < plan->target_count; i++)
        assert(plan->targets[i].in <= basis->in && plan->targets[i].out <= basis->out);
}

static int basis_find(struct rewrites *all, size_t input)
{
    const struct plan *plan = &all->plans[input];
    const struct loaded_adapter *adapter = all->inputs[input].adapter;
    int err;

    for (size_t i = 0; i < input; i++) {
        if (all->basis[i] && bases_equal(&all->inputs[i].adapter->recipe, &adapter->recipe)) {
            all->basis[input] = all->basis[i];
            basis_covers(all->basis[i], plan);
            return 0;
        }
    }
    struct basis *basis = &all->bases[input];
    if ((err = basis_load(basis, adapter, plan->in_max, plan->out_max, plan->dtype)) < 0 ||
        (err = check_finite(basis->a, basis->rank, basis->in, "A")) < 0 ||
        (err = check_finite(basis->b, basis->out, basis->rank, "B")) < 0)
        return err;
    all->basis[input] = basis;
    basis_covers(basis, plan);
    return 0;
}

static int bases_load(struct rewrites *all)
{
    for (size_t i = 0; i < all->input_count; i++) {
        if (all->plans[i].target_count == 0)
            continue;
        int err = basis_find(all, i);
        if (err < 0)
            return all->input_count > 1 ? error_wrap(err, "adapter %zu", i + 1) : err;
    }
    return 0;
}

/* What each adapter brings */

static int check_weights(const struct rewrites *all)
{
    int err = 0;

    for (size_t i = 0; i < all->input_count; i++) {
        const struct plan *plan = &all->plans[i];
        float weight = all->inputs[i].weight;
        for (size_t r = 0; weight != 1 && r < plan->replacement_count; r++) {
            err = conflict_begin(err, WEIGHTED);
            err = error_detail(
                err, "adapter %zu has the weight %g and brings %s", i + 1, (double)weight,
                plan->replacements[r].name
            );
        }
    }
    return err;
}

/* w*b must be finite as b is. */
static int check_products(const struct rewrites *all)
{
    int err = 0;

    for (size_t i = 0; i < all->input_count; i++) {
        for (size_t t = 0; t < all->plans[i].target_count; t++) {
            const struct plan_target *target = &all->plans[i].targets[t];
            bool finite = true;
            for (uint64_t o = 0; o < target->out && finite; o++)
                finite = isfinite(all->inputs[i].weight * target->b[o]);
            if (finite)
                continue;
            if (err == 0)
                err = error_set(
                    E_INVALID, "adapter %zu: with the weight %g vectors are not finite", i + 1,
                    (double)all->inputs[i].weight
                );
            err = error_detail(err, "%s", target->module);
        }
    }
    return err;
}

static int part_compare(const void *left, const void *right)
{
    const struct rewrite_part *a = left, *b = right;

    if (a->base.shard != b->base.shard)
        return a->base.shard < b->base.shard ? -1 : 1;
    if (a->base.tensor != b->base.tensor)
        return a->base.tensor < b->base.tensor ? -1 : 1;
    if (a->input != b->input)
        return a->input < b->input ? -1 : 1;
    return a->target && b->target ? strcmp(a->target->module, b->target->module) : 0;
}

static int parts_collect(struct rewrites *all)
{
    size_t room = 0, n = 0;

    for (size_t i = 0; i < all->input_count; i++)
        room += all->plans[i].target_count + all->plans[i].replacement_count;
    if (!(all->parts = array_new(room, sizeof(*all->parts))) ||
        !(all->tensors = array_new(room, sizeof(*all->tensors))) ||
        !(all->added = array_new(room, sizeof(*all->added))))
        return error_wrap(E_NOMEM, "apply");
    for (size_t i = 0; i < all->input_count; i++) {
        const struct plan *plan = &all->plans[i];
        for (size_t t = 0; t < plan->target_count; t++)
            all->parts[n++] = (struct rewrite_part
            ){plan->targets[t].weight, i, &plan->targets[t], NULL};
        for (size_t r = 0; r < plan->replacement_count; r++) {
            const struct plan_replacement *replacement = &plan->replacements[r];
            if (replacement->weight.tensor)
                all->parts[n++] = (struct rewrite_part){replacement->weight, i, NULL, replacement};
            else
                all->added[all->added_count++] = (struct addition
                ){replacement->name, replacement->tensor,
                  loaded_tensor(plan->adapter, replacement->tensor)};
        }
    }
    all->part_count = n;
    qsort(all->parts, n, sizeof(*all->parts), part_compare);
    return 0;
}

/* Runs of equal tensors. A replacement stands alone. */
static int parts_group(struct rewrites *all)
{
    struct rewrite *rewrite = NULL;
    int err = 0;

    for (size_t i = 0; i < all->part_count; i++) {
        const struct rewrite_part *part = &all->parts[i];
        if (!rewrite || rewrite->base.tensor != part->base.tensor) {
            rewrite = &all->tensors[all->count++];
            *rewrite = (struct rewrite){part->base, part, 1};
            continue;
        }
        const struct rewrite_part *first = &rewrite->parts[0];
        rewrite->part_count++;
        if (!first->replacement && !part->replacement)
            continue;
        err = conflict_begin(err, TOGETHER);
        err = error_detail(
            err, "adapters %zu and %zu both change %s", first->input + 1, part->input + 1,
            part->base.tensor->name
        );
    }
    return err;
}

static int addition_compare_names(const void *left, const void *right)
{
    const struct addition *a = left, *b = right;

    return strcmp(a->name, b->name);
}

static int addition_compare(const void *left, const void *right)
{
    const struct addition *a = left, *b = right;

    if (a->tensor->dtype != b->tensor->dtype)
        return a->tensor->dtype > b->tensor->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int added_check(struct rewrites *all)
{
    int err = 0;

    qsort(all->added, all->added_count, sizeof(*all->added), addition_compare_names);
    for (size_t i = 1; i < all->added_count; i++) {
        if (strcmp(all->added[i - 1].name, all->added[i].name) != 0)
            continue;
        err = conflict_begin(err, TOGETHER);
        err = error_detail(err, "two adapters bring %s", all->added[i].name);
    }
    qsort(all->added, all->added_count, sizeof(*all->added), addition_compare);
    return err;
}

int rewrites_init(
    struct rewrites *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model
)
{
    AUTO_REWRITES(all);
    int err;

    if (input_count == 0)
        return error_set(E_INVALID, "no adapter to apply");
    all.model = model;
    all.inputs = inputs;
    all.input_count = input_count;
    if (!(all.plans = array_new(input_count, sizeof(*all.plans))) ||
        !(all.bases = array_new(input_count, sizeof(*all.bases))) ||
        !(all.basis = array_new(input_count, sizeof(struct basis *))))
        return error_wrap(E_NOMEM, "apply");
    if ((err = plans_make(&all)) < 0 || (err = check_weights(&all)) < 0 ||
        (err = check_products(&all)) < 0 || (err = parts_collect(&all)) < 0 ||
        (err = parts_group(&all)) < 0 || (err = added_check(&all)) < 0 ||
        (err = bases_load(&all)) < 0)
        return err;
    *out = all;
    all = (struct rewrites){0};
    return 0;
}

void rewrites_release(struct rewrites *all)
{
    for (size_t i = 0; all->plans && i < all->input_count; i++)
        plan_release(&all->plans[i]);
    for (size_t i = 0; all->bases && i < all->input_count; i++)
        basis_release(&all->bases[i]);
    free(all->plans);
    free(all->bases);
    free(all->basis);
    free(all->parts);
    free(all->tensors);
    free(all->added);
    *all = (struct rewrites){0};
}

void rewrites_of_shard(size_t *begin, size_t *end, const struct rewrites *all, size_t shard)
{
    size_t at = 0;

    while (at < all->count && all->tensors[at].base.shard < shard)
        at++;
    *begin = at;
    while (at < all->count && all->tensors[at].base.shard == shard)
        at++;
    *end = at;
}

void rewrites_count(struct apply_result *out, const struct rewrites *all)
{
    out->pinned = true;
    for (size_t i = 0; i < all->input_count; i++) {
        out->matched += all->plans[i].target_count;
        out->modules += all->inputs[i].adapter->adapter.module_count;
        out->pinned = out->pinned && all->plans[i].pinned;
    }
    out->tensors_rewritten = all->count;
    out->tensors_added = all->added_count;
}
