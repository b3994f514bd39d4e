/* What the rounding to W's dtype kept of each module's change: sums over blocks of a weight. */
#ifndef APPLY_REPORT_H
#define APPLY_REPORT_H

#include "apply/materialize.h"
#include "format/dtype.h"

/* One module's sums so far. */
struct report_sums {
    uint64_t count, unchanged, nonfinite;
    double changed; /* ||W'-W||^2 */
    double wanted;  /* ||dW||^2 */
    double lost;    /* ||(W'-W) - dW||^2 */
    double max_change;
};

/* `count` elements: W and W' in `dtype`, dW as float32. Weights that are not finite before or after
   are in no sum. */
void report_add(
    struct report_sums *sums,
    const uint8_t *before,
    const uint8_t *after,
    const float *change,
    size_t count,
    enum dtype dtype
);

/* One more module's. */
void report_join(struct report_sums *sums, const struct report_sums *more);

/* module is copied; NULL for the sum of all. */
MUST_CHECK int
report_finish(struct apply_report *out, const char *module, const struct report_sums *sums);

#endif
