/*
 * How the values of two vectors are spread, before and after, over bins that both share. Two
 * passes: first histogram_span() over all values, then histogram_count() over the same.
 */
#ifndef CLI_HISTOGRAM_H
#define CLI_HISTOGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BINS 40

struct histogram {
    bool spanned;
    double low, high; /* finite, low <= high: where the bins begin and end */
    struct histogram_side {
        uint64_t bins[HISTOGRAM_BINS];
        uint64_t values;
    } sides[2];
};

/* The values must be finite. */
void histogram_span(struct histogram *histogram, const double *values, uint64_t count);
void histogram_count(
    struct histogram *histogram, size_t side, const double *values, uint64_t count
);

uint64_t histogram_peak(const struct histogram_side *side);

#endif
