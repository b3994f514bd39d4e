/* Merging of biases and whole modules, element by element. See merge.h. */
#include <math.h>
#include <string.h>

#include "apply/merge.h"

/* x + y, and in *lost what rounding took: together they are the sum exactly (Knuth's TwoSum). */
static double add(double *lost, double x, double y)
{
    double sum = x + y, of_y = sum - x;

    *lost = (x - (sum - of_y)) + (y - of_y);
    return sum;
}

/* ours + theirs - base, as if rounded once, whichever of the first two is which. */
static double add_changes(double base, double ours, double theirs)
{
    double lost_first, lost_second;
    double both = add(&lost_first, ours, theirs);
    double sum = add(&lost_second, both, -base);
    double lost = lost_first + lost_second;

    /* Near the largest double a sum may be none, though the result is one. */
    return isfinite(lost) ? sum + lost : 2 * ((ours / 2 + theirs / 2) - base / 2);
}

static double merge_value(const double values[3], const struct merge_options *options)
{
    double base = values[0], ours = values[1], theirs = values[2], w = options->weight;

    if (options->strategy == MERGE_AVERAGE)
        return (1 - w) * ours + w * theirs;
    return w == 1 ? add_changes(base, ours, theirs) : ours + w * (theirs - base);
}

/* Where no arithmetic is needed: the element whose bits the merge has, else NULL. `base` may be
   NULL. */
static const uint8_t *unchanged(
    const uint8_t *base,
    const uint8_t *ours,
    const uint8_t *theirs,
    size_t size,
    const struct merge_options *options
)
{
    if (options->strategy == MERGE_AVERAGE)
        return memcmp(ours, theirs, size) == 0 ? ours : NULL;
    if (base && memcmp(theirs, base, size) == 0)
        return ours;
    return base && options->weight == 1 && memcmp(ours, base, size) == 0 ? theirs : NULL;
}

static int merge_one(
    uint8_t *out,
    const uint8_t *base,
    const uint8_t *ours,
    const uint8_t *theirs,
    enum dtype dtype,
    const struct merge_options *options
)
{
    size_t size = dtype_bits(dtype) / 8;
    const uint8_t *taken = unchanged(base, ours, theirs, size, options);
    double values[3] = {0};

    if (taken) {
        memmove(out, taken, size); /* a NaN too */
        return 0;
    }
    if (base)
        dtype_widen_double(&values[0], base, 1, dtype);
    dtype_widen_double(&values[1], ours, 1, dtype);
    dtype_widen_double(&values[2], theirs, 1, dtype);
    double merged = merge_value(values, options);
    dtype_narrow_double(out, &merged, 1, dtype);
    dtype_widen_double(&merged, out, 1, dtype);
    bool given = isfinite(values[0]) && isfinite(values[1]) && isfinite(values[2]);
    if (isnan(merged) || (given && !isfinite(merged)))
        return error_set(
            E_INVALID, "the merge of %g and %g over %g is not a number of %s", values[1], values[2],
            values[0], dtype_name(dtype)
        );
    return 0;
}

int merge_elements(
    uint8_t *out,
    struct bytes base,
    struct bytes ours,
    struct bytes theirs,
    enum dtype dtype,
    const struct merge_options *options
)
{
    size_t size = dtype_bits(dtype) / 8;
    int err;

    if (!dtype_is_float(dtype))
        return error_set(
            E_UNSUPPORTED, "%s: only F32, BF16, F16 and F64 can be merged", dtype_name(dtype)
        );
    if (ours.len != theirs.len || (base.data && ours.len != base.len) || ours.len % size != 0)
        return error_set(E_INVALID, "the versions have different sizes");
    for (size_t at = 0; at < ours.len; at += size) {
        err = merge_one(
            out + at, base.data ? base.data + at : NULL, ours.data + at, theirs.data + at, dtype,
            options
        );
        if (err < 0)
            return error_wrap(err, "element %zu", at / size);
    }
    return 0;
}
