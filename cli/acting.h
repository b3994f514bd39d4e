/*
 * Adapters on the model that they are for, as apply/'s algebra takes them: how many inputs each
 * module has, the matrices, the vectors as doubles.
 *
 * A module's outputs are known from b; its inputs are the base model's: from the pin that was
 * recorded at commit, from the pin of another of these adapters (they are compared as adapters of
 * one model), or from a model directory at hand, which must then agree with the pins.
 */
#ifndef CLI_ACTING_H
#define CLI_ACTING_H

#include "apply/effect.h"
#include "cli/cli.h"

struct acting {
    const struct source *source;
    uint64_t *in; /* by source->loaded.adapter.modules */
    uint64_t in_max, out_max;
    enum dtype dtype; /* of the modules' weights; DTYPE_COUNT where they differ */
    struct basis own;
    const struct basis *basis; /* its own, or that of one before it whose values are the same */
    struct effects effects;    /* as source->loaded.adapter.modules */
};

#define ACTING_MAX 3 /* base, ours, theirs */

struct company {
    struct acting members[ACTING_MAX];
    size_t count;
    bool weights_differ; /* pins say: models of the same shapes, with other weights or dtypes */
};

#define AUTO_COMPANY(name) __attribute__((cleanup(company_release))) struct company name = {0}

/* `texts`: how each source was named, for errors. `base`: a model's directory, or NULL. The sources
   must outlive the company, which stays where it is. E_INVALID with a hint where nothing tells the
   inputs, where modules do not match (as apply's errors), and where two of them disagree about a
   module's shape; E_CONFLICT where `base` is not what a pin recorded, which its bytes tell; and
   basis_load()'s. */
MUST_CHECK int company_load(
    struct company *out,
    struct source *const *sources,
    const char *const *texts,
    size_t count,
    const char *base,
    struct progress *progress
);
void company_release(struct company *company);

#endif
