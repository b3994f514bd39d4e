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
    sums->lost += (moved - (double)change) * (moved - (double)change);
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

void report_join(struct report_sums *sums, const struct report_sums *more)
{
    sums->count += more->count;
    sums->unchanged += more->unchanged;
    sums->nonfinite += more->nonfinite;
    sums->changed += more->changed;
    sums->wanted += more->wanted;
    sums->lost += more->lost;
    if (more->max_change > sums->max_change)
        sums->max_change = more->max_change;
}

/* ||x|| / ||dW|| of two squares; NaN where dW is 0. */
static double share_of(double square, double wanted)
{
    return wanted > 0 ? sqrt(square / wanted) : (double)NAN;
}

int report_finish(struct apply_report *out, const char *module, const struct report_sums *sums)
{
    char *name = module ? bytes_dup(text_bytes(module)) : NULL;

    if (module && !name)
        return error_wrap(E_NOMEM, "%s", module);
    *out = (struct apply_report){
        .module = name,
        .unchanged = sums->count ? (double)sums->unchanged / (double)sums->count : 1,
        .kept = share_of(sums->changed, sums->wanted),
        .lost = share_of(sums->lost, sums->wanted),
        .max_change = sums->max_change,
        .nonfinite = sums->nonfinite,
    };
    return 0;
}

bool report_is_swallowed(const struct apply_report *report)
{
    return report->lost * report->lost > 0.5; /* false for NaN: nothing to lose */
}

void apply_result_release(struct apply_result *result)
{
    for (size_t i = 0; i < result->report_count; i++)
        free(result->report[i].module);
    free(result->report);
    *result = (struct apply_result){0};
}
