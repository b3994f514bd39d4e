/*
 * The plan: which of the base's tensors an adapter changes, and how. Everything is checked here,
 * before a byte is written (P7): names, the prefix, shapes, dtypes, finiteness, the pin.
 *
 * Names: "base_model.model." stripped, ".weight" added; tried as they are, then with the one
 * leading component ("bert.", "model.", "transformer.") added to or removed from all of them that
 * makes all match; never module by module.
 */
#ifndef APPLY_PLAN_H
#define APPLY_PLAN_H

#include "apply/model.h"

/* W' of one targeted weight; values of d, b widened to float32, owned. */
struct plan_target {
    const char *module; /* the adapter's name of it */
    struct model_tensor weight;
    uint64_t in, out;
    bool transposed; /* Conv1D: stored [in, out] */
    float *d;        /* [rank] */
    float *b;        /* [out] */
};

/* A tensor of the adapter that takes the place of the base's (values rounded to the base's dtype),
   or is added (weight.tensor NULL; the adapter's dtype). */
struct plan_replacement {
    char *name; /* in the base, or as added */
    struct model_tensor weight;
    const struct tensor *tensor; /* the adapter's */
};

struct plan {
    const struct loaded_adapter *adapter;
    const struct model *model;
    struct plan_target *targets; /* in byte order of module */
    size_t target_count;
    struct plan_replacement *replacements;
    size_t replacement_count, added_count;
    uint64_t in_max, out_max; /* over the targets */
    enum dtype dtype;         /* of the targets' weights; DTYPE_COUNT where they differ */
    struct pin pin; /* what the version recorded; its digests are compared while streaming */
    bool pinned;
    char *prefix; /* what was added ("bert.") to or removed from the adapter's names; "" */
    bool prefix_added;
};

#define AUTO_PLAN(name) __attribute__((cleanup(plan_release))) struct plan name = {0}

/* E_INVALID "matched 63 of 64 modules", listing every module that is missing or of another shape,
   every tensor that has no place, every module with a non-finite vector; E_UNSUPPORTED for a dtype
   that exact mode cannot read (float64, quantised), naming it, with a pointer to unmerged serving;
   E_CONFLICT where a recorded pin has a module in another shape or dtype. */
MUST_CHECK int
plan_make(struct plan *out, const struct loaded_adapter *adapter, const struct model *model);
void plan_release(struct plan *plan);

/* What commit --base records, and merge and export need. The plan's checks of values are not made:
   `adapter` need only match by names and shapes. Hashes every targeted tensor. */
MUST_CHECK int model_describe(
    struct base_facts *out,
    const struct model *model,
    const struct adapter *adapter,
    struct progress *progress
);

#endif
