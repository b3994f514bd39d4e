/*
 * Under which names a base model has the modules of an adapter, and how their weights lie there.
 *
 * Names: tried as they are, then with the one leading component removed that all of them share, or
 * one added, whichever makes all of them match; never module by module.
 *
 * Orientation: PEFT goes by the class of the layer, nn.Linear [out, in] or Conv1D [in, out], and
 * corrects fan_in_fan_out by it (peft/tuners/vera/model.py, _create_new_module), so that key alone
 * proves nothing. Here: where config.json names one of Transformers' own architectures, that tells
 * the class, and the shape must agree. Otherwise the shape tells, since `out` is known; for a
 * square weight the adapter's other modules tell, where all that are not square lie one way; and
 * only then fan_in_fan_out, which PEFT saves as it corrected it.
 */
#ifndef APPLY_MATCH_H
#define APPLY_MATCH_H

#include "apply/model.h"

enum match_fault {
    MATCH_FITS,
    MATCH_MISSING,
    MATCH_SHAPE,
    MATCH_TIED,   /* the output layer of a model that shares it with its input embedding */
    MATCH_PACKED, /* quantised: no X.weight but a packed one, or one of another shape and type */
    MATCH_DTYPE,  /* of the right shape, and not F32, BF16 or F16 */
    MATCH_FAULTS
};

struct match_module {
    enum match_fault fault;
    struct model_tensor weight; /* none where it is missing */
    uint64_t in;                /* where it fits */
    bool transposed;
};

struct match {
    char *prefix; /* "bert."; "" where the names are the same */
    bool prefix_added;
    struct match_module *modules; /* as adapter->modules */
    size_t counts[MATCH_FAULTS];
    uint64_t in_max, out_max; /* over those that have the right shape */
    enum dtype dtype;         /* of those; DTYPE_COUNT where they differ or there are none */
};

#define AUTO_MATCH(name) __attribute__((cleanup(match_release))) struct match name = {0}

/* Faults are no error here. E_INVALID where two prefixes make all modules match; E_NOMEM. */
MUST_CHECK int
match_make(struct match *out, const struct adapter *adapter, const struct model *model);
void match_release(struct match *match);

/* `name` as the model has it, in `out`: with the prefix added, or removed where it has it. */
MUST_CHECK int match_name(struct buf *out, const struct match *match, const char *name);

/* The error of what does not match, without its list, which match_details() adds, a line for each
   module; 0 where there is none. E_UNSUPPORTED (dtype, quantised, tied), E_INVALID "matched 63 of
   64 modules". With `any_dtype` a dtype that cannot be applied is no fault. */
MUST_CHECK int match_error(
    const struct match *match,
    const struct adapter *adapter,
    const struct model *model,
    bool any_dtype
);
MUST_CHECK int
match_details(int err, const struct match *match, const struct adapter *adapter, bool any_dtype);

/* E_INVALID where A has not as many columns as the widest module inputs: another base model. PEFT
   refuses such an adapter too (size mismatch for base_model.vera_A). */
MUST_CHECK int
match_check_columns(const struct match *match, const struct model *model, uint64_t columns);

/* Is this the tensor of an output layer, or of an input embedding? Where these two are tied, a
   checkpoint holds one of them. */
bool is_output_embedding(const char *tensor);
bool is_input_embedding(const char *tensor);

/* "64, 176", cut where there are very many dimensions. */
#define SHAPE_TEXT_SIZE 96
void shape_text(char out[SHAPE_TEXT_SIZE], const struct tensor *tensor);

#endif
