/* Tests of format/predict.c: predictions bit by bit, and what is fitted. That they are the same
   bits on every machine is tests/test_same_bits.py's to show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "format/predict.h"

static const struct {
    enum dtype dtype;
    unsigned shift;
    int i;
    uint32_t x1, x0, p;
} cases[] = {
    /* x1 alone, whatever it is */
    {DTYPE_F32, 0, 0, 0x3f800000, 0, 0x3f800000},
    {DTYPE_F32, 0, 0, 0x7f812345, 0, 0x7f812345},
    {DTYPE_F32, 0, 0, 0x80000000, 0, 0x80000000},
    {DTYPE_F32, 0, 0, 0x00000001, 0, 0x00000001},
    /* the next step of a line, its last one, parts of it */
    {DTYPE_F32, 0, 16, 0x40000000, 0x3f800000, 0x40400000},
    {DTYPE_F32, 0, -16, 0x40000000, 0x3f800000, 0x3f800000},
    {DTYPE_F32, 0, 24, 0x40000000, 0x3f800000, 0x40600000},
    {DTYPE_F32, 0, 8, 0x3f800000, 0xbf800000, 0x40000000},
    {DTYPE_F32, 0, 1, 0x3f800000, 0x3f7fffff, 0x3f800000},  /* a sixteenth of half a bit */
    {DTYPE_F32, 0, 24, 0x3f800001, 0x3f800000, 0x3f800002}, /* a tie, to the even one */
    {DTYPE_F32, 0, 24, 0x3f800002, 0x3f800001, 0x3f800004},
    {DTYPE_F32, 0, 16, 0x4b800000, 0x3f800000, 0x4c000000}, /* 2^25 - 1: 25 bits */
    {DTYPE_F32, 0, 16, 0x00000003, 0x00000001, 0x00000005}, /* subnormals stay */
    {DTYPE_F32, 0, 8, 0x00000001, 0x80000001, 0x00000002},
    {DTYPE_F32, 0, 16, 0x80000000, 0x80000000, 0x00000000},
    /* not finite: x1 */
    {DTYPE_F32, 0, 16, 0x7f7fffff, 0, 0x7f7fffff},
    {DTYPE_F32, 0, 16, 0xff7fffff, 0x7f7fffff, 0xff7fffff},
    {DTYPE_F32, 0, 16, 0x7f800000, 0x3f800000, 0x7f800000},
    {DTYPE_F32, 0, 16, 0x3f800000, 0xff800000, 0x3f800000},
    {DTYPE_F32, 0, 16, 0x7fa12345, 0x3f800000, 0x7fa12345},
    {DTYPE_F32, 0, 16, 0x3f800000, 0x7fa12345, 0x3f800000},
    {DTYPE_F32, 0, -16, 0x7f7fffff, 0x7f7fffff, 0x7f7fffff},
    /* without the lowest bits: half up, and not beyond what there is */
    {DTYPE_F32, 16, 0, 0x3f807fff, 0, 0x3f80},
    {DTYPE_F32, 16, 0, 0x3f808000, 0, 0x3f81},
    {DTYPE_F32, 16, 0, 0xbf808000, 0, 0xbf81},
    {DTYPE_F32, 16, 0, 0x7fffffff, 0, 0x7fff},
    {DTYPE_F32, 16, 0, 0xffffffff, 0, 0xffff},
    {DTYPE_F32, 8, 0, 0x3f80007f, 0, 0x3f8000},
    {DTYPE_F32, 8, 0, 0x3f800080, 0, 0x3f8001},
    {DTYPE_F32, 13, 16, 0x3f802000, 0x3f800000, 0x3f804000 >> 13},
    {DTYPE_BF16, 0, 0, 0x7f81, 0, 0x7f81},
    {DTYPE_BF16, 0, 8, 0x3f81, 0x3f80, 0x3f82},
    {DTYPE_BF16, 0, 16, 0x3f82, 0x3f80, 0x3f84},
    {DTYPE_BF16, 0, 16, 0x7f7f, 0x0000, 0x7f7f},
    {DTYPE_F16, 0, 0, 0x3c00, 0, 0x3c00},
    {DTYPE_F16, 0, 0, 0x0001, 0, 0x0001},
    {DTYPE_F16, 0, 0, 0x7d55, 0, 0x7e00}, /* any of the not-a-numbers */
    {DTYPE_F16, 0, 8, 0x3c01, 0x3c00, 0x3c02},
    {DTYPE_F16, 0, 8, 0x3c02, 0x3c01, 0x3c02},
    {DTYPE_F16, 0, 16, 0x7bff, 0x0000, 0x7c00}, /* finite in float32, too large here */
};

static void each_prediction_has_its_bits_F12(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        uint8_t x1[4], x0[4];
        uint32_t p = 0;
        memcpy(x1, &cases[k].x1, sizeof(x1));
        memcpy(x0, &cases[k].x0, sizeof(x0));
        predict(&p, x1, cases[k].i ? x0 : NULL, cases[k].i, 1, cases[k].dtype, cases[k].shift);
        if (p != cases[k].p)
            fail_msg("case %zu: 0x%08x, not 0x%08x", k, p, cases[k].p);
    }
}

#define LONGEST 2000
static float line[3][LONGEST]; /* x1, x0, x */

static void each_value_is_predicted_on_its_own(void **state)
{
    static const size_t counts[] = {0, 1, 3, 4, 511, 512, 513, 1024, LONGEST};
    static uint32_t p[LONGEST + 1];

    (void)state;
    for (size_t k = 0; k < LONGEST; k++) {
        line[0][k] = (float)k + 0.5F;
        line[1][k] = 0.25F * (float)(k % 7);
    }
    line[0][100] = line[1][600] = 1.0F / 0.0F;
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        p[counts[c]] = 0xabcdef01;
        predict(p, (const uint8_t *)line[0], (const uint8_t *)line[1], 9, counts[c], DTYPE_F32, 0);
        assert_int_equal(p[counts[c]], 0xabcdef01);
        for (size_t k = 0; k < counts[c]; k++) {
            uint32_t alone;
            predict(
                &alone, (const uint8_t *)&line[0][k], (const uint8_t *)&line[1][k], 9, 1, DTYPE_F32,
                0
            );
            assert_int_equal(p[k], alone);
        }
    }
}

static int fit(size_t count)
{
    return predict_fit(
        (const uint8_t *)line[2], (const uint8_t *)line[0], (const uint8_t *)line[1], count,
        DTYPE_F32
    );
}

/* x = x1 + a (x1 - x0) */
static void line_make(double a)
{
    for (size_t k = 0; k < LONGEST; k++) {
        double x0 = 0.1 + 0.001 * (double)(k * 7919 % 1000),
               x1 = x0 + 0.0001 * ((double)(k % 21) - 10);
        line[1][k] = (float)x0;
        line[0][k] = (float)x1;
        line[2][k] = (float)(x1 + a * (x1 - x0));
    }
}

static void the_step_that_was_made_is_found(void **state)
{
    static const size_t counts[] = {2, 3, 100, 513, LONGEST};

    (void)state;
    for (int i = PREDICT_MIN - 8; i <= PREDICT_MAX + 8; i++) {
        line_make(i / 16.0);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            int wanted = i < PREDICT_MIN ? PREDICT_MIN : i > PREDICT_MAX ? PREDICT_MAX : i;
            assert_int_equal(fit(counts[c]), wanted);
        }
    }
}

static void odd_values_spoil_no_fit(void **state)
{
    const float odd[] = {1.0F / 0.0F, -1.0F / 0.0F, 0.0F / 0.0F};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        line_make(0.75);
        for (size_t k = 0; k < 9; k++)
            line[k % 3][k * 37] = odd[i];
        assert_int_equal(fit(LONGEST), 12);
    }
    /* Nothing moved before, or nothing is a number: no fit. */
    line_make(0.5);
    memcpy(line[1], line[0], sizeof(line[0]));
    assert_int_equal(fit(LONGEST), 0);
    for (size_t k = 0; k < LONGEST; k++)
        line[0][k] = odd[2];
    assert_int_equal(fit(LONGEST), 0);
    assert_int_equal(fit(0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_prediction_has_its_bits_F12),
        cmocka_unit_test(each_value_is_predicted_on_its_own),
        cmocka_unit_test(the_step_that_was_made_is_found),
        cmocka_unit_test(odd_values_spoil_no_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
