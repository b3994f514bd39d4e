/* What the rounding kept of each module's change. See report.h. */
#include "apply/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 1024 /* elements widened at a time */

static void add_element(struct report_sums *sums, float before, float after, float change)
{
    if (!isfinite(after))
        sums->nonfinite++;
    if (!isfinite(after) || !isfinite(before) || !isfinite(change))
        return;
    double moved = (double)after - (double)before;
    sums->changed += moved * moved;
    sums->wanted += (double)change * (double)change;
    if (fabs(moved) > sums->max_change)
        sums->max_change = fabs(moved);
}

void report_add(
    struct report_sums *sums,
    const uint8_t *before,
    const uint8_t *after,
    const float *change,
    size_t count,
    enum dtype dtype
)
{
    float wide_before[CHUNK], wide_after[CHUNK];
    size_t size = dtype_bits(dtype) / 8;

    for (size_t at = 0; at < count; at += CHUNK) {
        size_t n = count - at < CHUNK ? count - at : CHUNK;
        dtype_widen(wide_before, before + at * size, n, dtype);
        dtype_widen(wide_after, after + at * size, n, dtype);
        for (size_t i = 0; i < n; i++) {
            sums->unchanged += memcmp(before + (at + i) * size, after + (at + i) * size, size) == 0;
            add_element(sums, wide_before[i], wide_after[i], change[at + i]);
        }
    }
    sums->count += count;
}

int report_finish(struct apply_report *out, const char *module, const struct report_sums *sums)
{
    char *name = bytes_dup(text_bytes(module));

    if (!name)
        return error_wrap(E_NOMEM, "%s", module);
    *out = (struct apply_report){
        .module = name,
        .unchanged = sums->count ? (double)sums->unchanged / (double)sums->count : 1,
        .kept = sums->wanted > 0 ? sqrt(sums->changed / sums->wanted) : (double)NAN,
        .max_change = sums->max_change,
        .nonfinite = sums->nonfinite,
    };
    return 0;
}

void apply_result_release(struct apply_result *result)
{
    for (size_t i = 0; i < result->report_count; i++)
        free(result->report[i].module);
    free(result->report);
    *result = (struct apply_result){0};
}
