/*
 * Write the merged model: a directory like the base's, the targeted tensors rewritten, every other
 * byte the same, whole or not at all (P6, P7). Memory is bounded by A, B and a few blocks of rows,
 * whatever the model's size.
 */
#ifndef APPLY_MATERIALIZE_H
#define APPLY_MATERIALIZE_H

#include "apply/plan.h"

struct apply_input {
    const struct loaded_adapter *adapter;
    float weight; /* 1 but for REV:W */
};

struct apply_options {
    unsigned threads; /* 0: one per core */
    bool force;       /* replace the output */
    struct progress *progress;
};

struct apply_result {
    uint64_t matched, modules; /* added up over the adapters */
    uint64_t tensors_rewritten, tensors_added;
    uint64_t bytes_written, bytes_cloned;
    bool pinned; /* every adapter had a pin, and it matched */
    double seconds;
};

/* Errors: plan_make()'s; E_CONFLICT where a pin does not match, listing the modules (hint);
   E_INVALID: two adapters that bring the same bias or module, a weight other than 1 on one that
   brings any, output inside the base or the base itself; E_EXISTS; E_IO. */
MUST_CHECK int materialize(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options
);

/* Everything but the writing. */
MUST_CHECK int materialize_check(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const struct apply_options *options
);

/* Is `dir` exactly what materialize() would write? *first_difference: NULL where it is, else the
   name of the first tensor (or file) that differs, owned by the caller. Nothing is written, one
   block of rows is in memory. */
MUST_CHECK int materialize_verify(
    char **first_difference,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *dir,
    const struct apply_options *options
);

#endif
