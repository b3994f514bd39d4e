/* Steps of materialize() that writing in parts takes too. */
#ifndef APPLY_MATERIALIZE_STEPS_H
#define APPLY_MATERIALIZE_STEPS_H

#include "apply/work.h"

double seconds_now(void);

/* E_INVALID where the output would be written into the base, or replace it. */
MUST_CHECK int place_check(const struct model *model, const char *target);

/* The index, and what is taken over from the base: every file but the shards. */
MUST_CHECK int
output_write_others(struct outdir *dir, struct apply_result *result, const struct work *work);

#endif
