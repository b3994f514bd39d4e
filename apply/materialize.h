/*
 * Write the merged model: a directory like the base's, the targeted tensors rewritten, every other
 * byte the same, whole or not at all (P6, P7). Memory is bounded by A, B and for each thread a few
 * blocks of rows, whatever the model's size.
 *
 * Replaced tensors are rounded to the base's dtype, added ones keep the adapter's. Where tensors
 * are added the shards get new names and an index (apply/output.h). Other files of the base that a
 * model directory needs come along (apply/model_files.h).
 */
#ifndef APPLY_MATERIALIZE_H
#define APPLY_MATERIALIZE_H

#include "apply/backend.h"
#include "apply/plan.h"

struct apply_input {
    const struct loaded_adapter *adapter;
    float weight; /* 1 but for REV:W */
};

struct apply_options {
    unsigned threads; /* 0: one per core */
    bool force;       /* replace the output */
    bool report;      /* fill apply_result.report: twice the arithmetic */
    enum device_kind device;
    enum math_mode math;
    struct progress *progress;
};

/* What the rounding to W's dtype kept of one module's change. Sums are in doubles. */
struct apply_report {
    char *module;       /* the (first) adapter's name of it; NULL for all of them together */
    double unchanged;   /* share of weights whose bits are the base's, 0..1 */
    double kept;        /* ||W'-W|| / ||dW||, Frobenius; NaN where dW is 0 */
    double lost;        /* ||(W'-W)-dW|| / ||dW||; likewise */
    double max_change;  /* largest |W'-W| */
    uint64_t nonfinite; /* weights of W' that are infinite or NaN; they are in no sum */
};

/* Did the rounding swallow most of the change? Where more than half of ||dW||^2 did not arrive.
   Where nothing is written `lost` is 1, where dW arrives to the last digit 0. `kept` cannot tell:
   where steps of W's dtype are about as large as dW, weights that move do so by too much, and it
   stays near 1 while little of what was learned arrives; nor can `unchanged`, since a change may
   lie in a few weights. */
bool report_is_swallowed(const struct apply_report *report);

struct apply_result {
    uint64_t matched, modules; /* added up over the adapters */
    uint64_t tensors_rewritten, tensors_added;
    uint64_t bytes_written, bytes_cloned; /* of all files; cloned: blocks shared with the base's */
    bool pinned;                          /* every adapter had a pin, and it matched */
    double seconds;
    const char *device;          /* "cpu", "cuda" */
    char device_name[128];       /* what the person knows it by, or "" */
    enum math_mode math;         /* as it was computed */
    const char *fast_bound;      /* where this device's was fast: how far it is off, one line */
    struct apply_report *report; /* in byte order of module; NULL where none was asked for */
    size_t report_count;
    struct apply_report report_total; /* of all modules */
    uint64_t parts, parts_there;      /* 0 where it is not written in parts */
    bool was_done; /* this part was written before, or all of it is finished already */
};

#define AUTO_APPLY_RESULT(name)                                                                    \
    __attribute__((cleanup(apply_result_release))) struct apply_result name = {0}
void apply_result_release(struct apply_result *result);

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

/* One part of `parts` (1 or more, PARTS_MAX at most, format/partdir.h) of the same: processes on
   any machines that share the file systems of base and target write a part each, in any order and
   at any time; the last one puts `target` in its place. result: what this part did (report,
   counts), and pinned and modules of the whole; where parts_there == parts the target is there, and
   it is the sum of all. A part that is there already is not written again, and one that broke off
   is begun anew. E_CONFLICT where the parts that are there are of other adapters, weights, another
   base, mode, report or number of parts, naming all that differs (hint). An error leaves what other
   parts have written. */
MUST_CHECK int materialize_part(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options,
    uint64_t part,
    uint64_t parts
);

/* Put the target in its place where the last part could not. The report is the parts', if they have
   one. E_NOTFOUND where parts are missing, naming them. */
MUST_CHECK int materialize_finish(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options
);

/* Everything but the writing: plan, conflicts, basis, pins, and the report where it is asked for.
 */
MUST_CHECK int materialize_check(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const struct apply_options *options
);

/* Is `dir` exactly what materialize() would write? *first_difference: NULL where it is, else the
   name of the first tensor that differs, is missing or is one too many, in byte order of name; else
   the first file: a shard's name or header, the index, one that is taken over from the base. Owned
   by the caller. Further files in `dir` are no difference, but for adapter_config.json, which
   Transformers would load onto the weights. Nothing is written. E_CONFLICT for a pin that does not
   match, whatever else differs; model_open()'s errors for `dir`. */
MUST_CHECK int materialize_verify(
    char **first_difference,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *dir,
    const struct apply_options *options
);

#endif
