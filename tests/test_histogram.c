/* Histograms: which bin a value falls into, at the ends of what a double can be, too. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cli/histogram.h"

#define LAST (HISTOGRAM_BINS - 1)

struct bin_case {
    double low, high, value;
    size_t bin;
};

static const struct bin_case bins[] = {
    {0, 40, 0, 0},
    {0, 40, 0.999, 0},
    {0, 40, 1, 1},
    {0, 40, 39, LAST},
    {0, 40, 40, LAST},
    {-20, 20, 0, 20},
    {-1, 1, -1, 0},
    {-1, 1, 1, LAST},
    /* one value only: the middle */
    {0.1, 0.1, 0.1, HISTOGRAM_BINS / 2},
    {0, 0, -0.0, HISTOGRAM_BINS / 2},
    /* a width that is no finite number, and one that is next to nothing */
    {-DBL_MAX, DBL_MAX, -DBL_MAX, 0},
    {-DBL_MAX, DBL_MAX, 0, 20},
    {-DBL_MAX, DBL_MAX, DBL_MAX, LAST},
    {0, 4 * DBL_TRUE_MIN, 4 * DBL_TRUE_MIN, LAST},
    {0, DBL_TRUE_MIN, DBL_TRUE_MIN, HISTOGRAM_BINS / 2},
};

static void every_value_has_its_bin(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bins) / sizeof(bins[0]); i++) {
        struct histogram histogram = {0};
        const double ends[] = {bins[i].high, bins[i].low};
        histogram_span(&histogram, ends, 2);
        assert_true(histogram.low == bins[i].low && histogram.high == bins[i].high);
        histogram_count(&histogram, i % 2, &bins[i].value, 1);
        for (size_t k = 0; k < HISTOGRAM_BINS; k++)
            assert_int_equal(histogram.sides[i % 2].bins[k], k == bins[i].bin);
        assert_int_equal(histogram.sides[i % 2].values, 1);
        assert_int_equal(histogram.sides[1 - i % 2].values, 0);
    }
}

static void both_sides_share_their_bins(void **state)
{
    struct histogram histogram = {0};
    const double before[] = {0, 1, 1}, after[] = {39, 40};

    (void)state;
    histogram_span(&histogram, before, 3);
    histogram_span(&histogram, after, 2);
    histogram_span(&histogram, NULL, 0);
    histogram_count(&histogram, 0, before, 3);
    histogram_count(&histogram, 1, after, 2);
    assert_int_equal(histogram.sides[0].bins[0], 1);
    assert_int_equal(histogram.sides[0].bins[1], 2);
    assert_int_equal(histogram.sides[1].bins[LAST], 2);
    assert_int_equal(histogram_peak(&histogram.sides[0]), 2);
    assert_int_equal(histogram_peak(&histogram.sides[1]), 2);
}

static void nothing_has_no_peak(void **state)
{
    const struct histogram histogram = {0};

    (void)state;
    assert_int_equal(histogram_peak(&histogram.sides[0]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_has_its_bin),
        cmocka_unit_test(both_sides_share_their_bins),
        cmocka_unit_test(nothing_has_no_peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
