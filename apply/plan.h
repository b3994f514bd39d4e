/*
 * The plan: which of the base's tensors an adapter changes, and how. Everything is checked here,
 * before a byte is written (P7): names, the prefix, shapes, dtypes, finiteness, the pin.
 *
 * Names: "base_model.model." stripped, ".weight" added; tried as they are, then with the one
 * leading component ("bert.", "model.", "transformer.") added to or removed from all of them that
 * makes all match; never module by module. How this is decided, and how a weight lies, is in
 * apply/match.h; what biases, whole modules and tied embeddings are to the base, in
 * apply/replace.h.
 *
 * Without a pin nothing proves the base, so whatever can be compared is: A, where the adapter
 * brought it, must be exactly as wide as the widest module here, as PEFT demands when it loads.
 * (Two models of one family can have the same names and output sizes, and other inputs.)
 *
 * b, d (here), A and B (materialize) must be finite, since exact mode defines no NaN that comes out
 * of them; biases and whole modules are bytes that are put in place, and may hold anything (masks
 * do).
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
    struct plan_replacement *replacements; /* in byte order of name, no two of one name */
    size_t replacement_count, added_count;
    uint64_t in_max, out_max; /* over the targets */
    enum dtype dtype;         /* of the targets' weights; DTYPE_COUNT where they differ */
    struct pin pin; /* what the version recorded; its digests are compared while streaming */
    bool pinned;
    char *prefix; /* what was added ("bert.") to or removed from the adapter's names; "" */
    bool prefix_added;
};

#define AUTO_PLAN(name) __attribute__((cleanup(plan_release))) struct plan name = {0}

/* Everything that is wrong is listed at once. E_INVALID "matched 63 of 64 modules", listing every
   module that is missing or of another shape, every tensor that has no place, every module with a
   non-finite vector; E_INVALID where A is wider or narrower than the widest module; E_UNSUPPORTED
   for a dtype that exact mode cannot read (float64, quantised), naming it, with a pointer to
   unmerged serving, and for embeddings that are tied; E_CONFLICT where a recorded pin has a module
   in another shape or dtype; E_CORRUPT where the pin is damaged; E_LIMIT. */
MUST_CHECK int
plan_make(struct plan *out, const struct loaded_adapter *adapter, const struct model *model);
void plan_release(struct plan *plan);

/* What commit --base records, and merge and export need. The plan's checks of values and dtypes are
   not made: `adapter` need only match by names and shapes. Hashes every targeted tensor. Errors:
   plan_make()'s of names and shapes, E_IO, E_INTERRUPTED. */
MUST_CHECK int model_describe(
    struct base_facts *out,
    const struct model *model,
    const struct adapter *adapter,
    struct progress *progress
);

#endif
