/* Histograms. See histogram.h. */
#include "cli/histogram.h"

void histogram_span(struct histogram *histogram, const double *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!histogram->spanned || values[i] < histogram->low)
            histogram->low = values[i];
        if (!histogram->spanned || values[i] > histogram->high)
            histogram->high = values[i];
        histogram->spanned = true;
    }
}

/* Halves, since the difference of two finite values may be none. */
static size_t bin_of(const struct histogram *histogram, double value)
{
    double width = histogram->high / 2 - histogram->low / 2;
    double share = width > 0 ? (value / 2 - histogram->low / 2) / width : 0.5;

    if (share >= 1)
        return HISTOGRAM_BINS - 1;
    return share > 0 ? (size_t)(share * HISTOGRAM_BINS) : 0;
}

void histogram_count(struct histogram *histogram, size_t side, const double *values, uint64_t count)
{
    struct histogram_side *out = &histogram->sides[side];

    out->values += count;
    for (uint64_t i = 0; i < count; i++)
        out->bins[bin_of(histogram, values[i])]++;
}

uint64_t histogram_peak(const struct histogram_side *side)
{
    uint64_t peak = 0;

    for (size_t i = 0; i < HISTOGRAM_BINS; i++)
        peak = side->bins[i] > peak ? side->bins[i] : peak;
    return peak;
}
