/*
 * Tests of format/dtype.c. The reference is slow and of another kind: the value of every 16-bit
 * pattern as a double, by the definition of the type, and a search for the nearest of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fenv.h>
#include <math.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "format/dtype.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* A 16-bit float type: its size, its functions, and the values of its patterns. */
struct half {
    enum dtype dtype;
    int mantissa_bits, bias;
    uint16_t infinity, nan;
    uint16_t (*from_float)(float);
    float (*to_float)(uint16_t);
    double values[0x8000]; /* of the patterns 0 .. infinity; infinity as one step above the last */
};

static struct half halves[] = {
    {DTYPE_BF16, 7, 127, 0x7f80, 0x7fc0, bf16_from_float, bf16_to_float, {0}},
    {DTYPE_F16, 10, 15, 0x7c00, 0x7e00, f16_from_float, f16_to_float, {0}},
};

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static int setup(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        struct half *half = &halves[h];
        for (int bits = 0; bits <= half->infinity; bits++) {
            int exponent = bits >> half->mantissa_bits;
            int mantissa = bits & ((1 << half->mantissa_bits) - 1);
            if (exponent)
                mantissa += 1 << half->mantissa_bits;
            else
                exponent = 1;
            half->values[bits] = ldexp(mantissa, exponent - half->bias - half->mantissa_bits);
        }
    }
    return 0;
}

/* The nearest value, of two equally near the one with the even pattern. */
static uint16_t round_slowly(const struct half *half, uint32_t bits)
{
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    double value = fabs((double)float_of(bits));
    int low = 0, high = half->infinity;

    if (isnan(value))
        return half->nan;
    if (value >= half->values[high])
        return sign | half->infinity;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (half->values[middle] <= value)
            low = middle;
        else
            high = middle;
    }
    double below = value - half->values[low], above = half->values[high] - value;
    int nearest = below < above || (below == above && low % 2 == 0) ? low : high;
    return (uint16_t)(sign | nearest);
}

static void check_rounding(const struct half *half, uint32_t bits)
{
    uint16_t expected = round_slowly(half, bits), actual = half->from_float(float_of(bits));
    if (actual != expected)
        fail_msg(
            "%s of 0x%08x is 0x%04x, got 0x%04x", dtype_name(half->dtype), bits, expected, actual
        );
}

static void every_dtype_has_its_name_and_size(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        unsigned bits;
    } cases[] = {
        {"BOOL", DTYPE_BOOL, 8},
        {"F4", DTYPE_F4, 4},
        {"F6_E2M3", DTYPE_F6_E2M3, 6},
        {"F6_E3M2", DTYPE_F6_E3M2, 6},
        {"U8", DTYPE_U8, 8},
        {"I8", DTYPE_I8, 8},
        {"F8_E5M2", DTYPE_F8_E5M2, 8},
        {"F8_E4M3", DTYPE_F8_E4M3, 8},
        {"F8_E8M0", DTYPE_F8_E8M0, 8},
        {"F8_E4M3FNUZ", DTYPE_F8_E4M3FNUZ, 8},
        {"F8_E5M2FNUZ", DTYPE_F8_E5M2FNUZ, 8},
        {"I16", DTYPE_I16, 16},
        {"U16", DTYPE_U16, 16},
        {"F16", DTYPE_F16, 16},
        {"BF16", DTYPE_BF16, 16},
        {"I32", DTYPE_I32, 32},
        {"U32", DTYPE_U32, 32},
        {"F32", DTYPE_F32, 32},
        {"C64", DTYPE_C64, 64},
        {"F64", DTYPE_F64, 64},
        {"I64", DTYPE_I64, 64},
        {"U64", DTYPE_U64, 64},
    };
    assert_int_equal(COUNT_OF(cases), DTYPE_COUNT);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        enum dtype dtype;
        assert_int_equal(dtype_parse(&dtype, text_bytes(cases[i].name)), 0);
        assert_int_equal(dtype, cases[i].dtype);
        assert_string_equal(dtype_name(dtype), cases[i].name);
        assert_int_equal(dtype_bits(dtype), cases[i].bits);
        assert_int_equal(
            dtype_is_applicable(dtype),
            dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16
        );
    }
}

static void other_names_are_invalid(void **state)
{
    (void)state;
    static const char *const names[] = {"", "F3", "F32 ", "f32", "FLOAT", "F320", "BF1", "F8"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        enum dtype dtype = DTYPE_COUNT;
        assert_int_equal(dtype_parse(&dtype, text_bytes(names[i])), E_INVALID);
        assert_int_equal(dtype, DTYPE_COUNT);
    }
    enum dtype dtype = DTYPE_COUNT;
    assert_int_equal(dtype_parse(&dtype, (struct bytes){(const uint8_t *)"F32\0", 4}), E_INVALID);
    assert_int_equal(dtype_parse(&dtype, (struct bytes){NULL, 0}), E_INVALID);
}

static void every_pattern_has_its_value(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (unsigned bits = 0; bits < half->infinity; bits++) {
            assert_true((double)half->to_float((uint16_t)bits) == half->values[bits]);
            assert_true(
                bits_of(half->to_float((uint16_t)(bits | 0x8000))) ==
                (bits_of((float)half->values[bits]) | 0x80000000)
            );
        }
        assert_true(bits_of(half->to_float(half->infinity)) == 0x7f800000);
        assert_true(bits_of(half->to_float(half->infinity | 0x8000)) == 0xff800000);
    }
}

static void every_pattern_round_trips(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (unsigned bits = 0; bits < 0x10000; bits++) {
            uint16_t back = half->from_float(half->to_float((uint16_t)bits));
            assert_int_equal(back, (bits & 0x7fff) > half->infinity ? half->nan : bits);
        }
    }
}

static void a_nan_keeps_its_payload_when_widened(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (unsigned bits = half->infinity + 1u; bits < 0x8000; bits++) {
            uint32_t payload = (bits - half->infinity) << (23 - half->mantissa_bits);
            uint16_t negative = (uint16_t)(bits | 0x8000);
            assert_true(bits_of(half->to_float((uint16_t)bits)) == (0x7f800000 | payload));
            assert_true(bits_of(half->to_float(negative)) == (0xff800000 | payload));
        }
    }
}

/* Around every representable value and every midpoint of two: the ties, and a step to both sides.
 */
static void rounds_to_nearest_even_at_every_tie(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (int i = 0; i < half->infinity; i++) {
            uint32_t at = bits_of((float)half->values[i]);
            uint32_t tie = bits_of((float)((half->values[i] + half->values[i + 1]) / 2));
            for (int step = -2; step <= 2; step++) {
                uint32_t near = at + (uint32_t)step, near_tie = tie + (uint32_t)step;
                check_rounding(half, near & 0x7fffffff);
                check_rounding(half, near | 0x80000000);
                check_rounding(half, near_tie & 0x7fffffff);
                check_rounding(half, near_tie | 0x80000000);
            }
        }
    }
}

/* Stride is a prime: every exponent, subnormals and NaN payloads come by with changing mantissas.
 */
static void rounds_to_nearest_even_over_a_sweep_of_all_floats(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 2039)
            check_rounding(&halves[h], (uint32_t)bits);
        for (uint32_t exponent = 0; exponent < 512; exponent++) {
            static const uint32_t mantissas[] = {0, 1, 0x3fffff, 0x400000, 0x400001, 0x7fffff};
            for (size_t i = 0; i < COUNT_OF(mantissas); i++)
                check_rounding(&halves[h], exponent << 23 | mantissas[i]);
        }
    }
}

enum { SAMPLES = 67 };

static float sample(size_t i)
{
    static const uint32_t odd[] = {
        0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x33000000, 0x33000001, 0x33800000,
        0x387fc000, 0x387fe000, 0x387fffff, 0x38800000, 0x477fefff, 0x477ff000, 0x7f7f8000,
        0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x3f808000, 0x3f818000,
    };
    return float_of(i < COUNT_OF(odd) ? odd[i] : (uint32_t)i * 2654435761u);
}

static void arrays_convert_as_single_values_do(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (size_t count = 0; count <= SAMPLES; count++) {
            float values[SAMPLES + 1], widened[SAMPLES + 1];
            uint8_t data[2 * SAMPLES + 2] = {0}; /* from 1: at an odd address or an even one */
            for (size_t i = 0; i < count; i++)
                values[i] = sample(i);
            data[1 + 2 * count] = 0xa5;
            widened[count] = 42;
            dtype_narrow(data + 1, values, count, half->dtype);
            dtype_widen(widened, data + 1, count, half->dtype);
            for (size_t i = 0; i < count; i++) {
                uint16_t bits = (uint16_t)(data[1 + 2 * i] | data[2 + 2 * i] << 8);
                assert_int_equal(bits, half->from_float(values[i]));
                assert_true(bits_of(widened[i]) == bits_of(half->to_float(bits)));
            }
            assert_int_equal(data[1 + 2 * count], 0xa5);
            assert_true(widened[count] == 42);
        }
    }
}

static void float32_is_copied_bit_for_bit(void **state)
{
    (void)state;
    float values[SAMPLES], back[SAMPLES];
    uint8_t data[1 + sizeof(values)];
    for (size_t i = 0; i < SAMPLES; i++)
        values[i] = sample(i);
    dtype_narrow(data + 1, values, SAMPLES, DTYPE_F32);
    assert_memory_equal(data + 1, values, sizeof(values));
    dtype_widen(back, data + 1, SAMPLES, DTYPE_F32);
    assert_memory_equal(back, values, sizeof(values));
    dtype_narrow(NULL, NULL, 0, DTYPE_F32);
    dtype_widen(NULL, NULL, 0, DTYPE_F32);
}

/* Every 16-bit pattern widened, and a number of floats around each narrowed, as one hash. */
static uint64_t hash_of_conversions(const struct half *half)
{
    uint64_t hash = 0;
    for (unsigned bits = 0; bits < 0x10000; bits++) {
        uint8_t data[2] = {(uint8_t)bits, (uint8_t)(bits >> 8)};
        float value, near[5];
        dtype_widen(&value, data, 1, half->dtype);
        hash = hash * 31 + bits_of(value);
        for (size_t i = 0; i < COUNT_OF(near); i++)
            near[i] = float_of(bits_of(value) + (uint32_t)i * 0x1001u);
        uint8_t narrowed[2 * COUNT_OF(near)];
        dtype_narrow(narrowed, near, COUNT_OF(near), half->dtype);
        for (size_t i = 0; i < sizeof(narrowed); i++)
            hash = hash * 31 + narrowed[i];
    }
    return hash;
}

/* Values from which float32 would be rounded the other way than from the double. */
static void doubles_are_rounded_once(void **state)
{
    static const struct {
        double value;
        uint32_t f32;
        uint16_t bf16, f16;
    } cases[] = {
        {1, 0x3f800000, 0x3f80, 0x3c00},
        {-1.5, 0xbfc00000, 0xbfc0, 0xbe00},
        {0x1.01p0, 0x3f808000, 0x3f80, 0x3c04},            /* a tie of bf16, to even */
        {0x1.0100000000001p0, 0x3f808000, 0x3f81, 0x3c04}, /* above it, and float32 is on it */
        {0x1.00fffffffffffp0, 0x3f808000, 0x3f80, 0x3c04}, /* below it */
        {0x1.002p0, 0x3f801000, 0x3f80, 0x3c00},           /* a tie of fp16 */
        {0x1.0020000000001p0, 0x3f801000, 0x3f80, 0x3c01},
        {-0x1.0020000000001p0, 0xbf801000, 0xbf80, 0xbc01},
        {0x1.0000010000001p0, 0x3f800001, 0x3f80, 0x3c00}, /* above a tie of float32 */
        {1e-320, 0, 0, 0},
        {-1e-320, 0x80000000, 0x8000, 0x8000},
        {0x1.8p-150, 0x00000001, 0, 0},
        {0x1.0000000000001p-25, 0x33000000, 0x3300, 0x0001}, /* above half of fp16's smallest */
        {0x1p-25, 0x33000000, 0x3300, 0},
        {1e39, 0x7f800000, 0x7f80, 0x7c00},
        {-1e300, 0xff800000, 0xff80, 0xfc00},
        {65519.999999999, 0x477ff000, 0x4780, 0x7bff}, /* float32 has 65520, which is infinite */
        {INFINITY, 0x7f800000, 0x7f80, 0x7c00},
        {NAN, 0x7fc00000, 0x7fc0, 0x7e00},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t f32;
        uint16_t bf16, f16;
        double f64;
        dtype_narrow_double((uint8_t *)&f32, &cases[i].value, 1, DTYPE_F32);
        dtype_narrow_double((uint8_t *)&bf16, &cases[i].value, 1, DTYPE_BF16);
        dtype_narrow_double((uint8_t *)&f16, &cases[i].value, 1, DTYPE_F16);
        dtype_narrow_double((uint8_t *)&f64, &cases[i].value, 1, DTYPE_F64);
        if (f32 != cases[i].f32 || bf16 != cases[i].bf16 || f16 != cases[i].f16)
            fail_msg("%a is 0x%08x, 0x%04x, 0x%04x", cases[i].value, f32, bf16, f16);
        assert_memory_equal(&f64, &cases[i].value, sizeof(f64));
    }
}

/* Every double that is a 16-bit value, or just beside the middle of two of them. */
static void doubles_round_to_the_nearest_pattern(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        const struct half *half = &halves[h];
        for (int bits = 0; bits < half->infinity; bits++) {
            double middle = (half->values[bits] + half->values[bits + 1]) / 2;
            const struct {
                double value;
                int pattern;
            } cases[] = {
                {half->values[bits], bits},
                {nextafter(middle, 0), bits},
                {middle, bits % 2 ? bits + 1 : bits},
                {nextafter(middle, INFINITY), bits + 1},
            };
            for (size_t i = 0; i < COUNT_OF(cases); i++) {
                uint16_t found;
                double value = -cases[i].value, back;
                dtype_narrow_double((uint8_t *)&found, &value, 1, half->dtype);
                if (found != (cases[i].pattern | 0x8000))
                    fail_msg("%s of %a is 0x%04x", dtype_name(half->dtype), value, found);
                dtype_widen_double(&back, (uint8_t *)&found, 1, half->dtype);
                assert_true(back == -half->values[cases[i].pattern] || isinf(back));
            }
        }
    }
}

static void rounding_mode_and_flush_switches_change_nothing(void **state)
{
    (void)state;
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (size_t h = 0; h < COUNT_OF(halves); h++) {
        uint64_t expected = hash_of_conversions(&halves[h]);
        for (size_t i = 0; i < COUNT_OF(modes); i++) {
            assert_int_equal(fesetround(modes[i]), 0);
            uint64_t actual = hash_of_conversions(&halves[h]);
            fesetround(FE_TONEAREST);
            assert_true(actual == expected);
        }
#if defined(__SSE__)
        unsigned before = _mm_getcsr();
        _mm_setcsr(before | 0x8040); /* FTZ and DAZ */
        uint64_t flushed = hash_of_conversions(&halves[h]);
        _mm_setcsr(before);
        assert_true(flushed == expected);
#endif
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_has_its_name_and_size),
        cmocka_unit_test(other_names_are_invalid),
        cmocka_unit_test(every_pattern_has_its_value),
        cmocka_unit_test(every_pattern_round_trips),
        cmocka_unit_test(a_nan_keeps_its_payload_when_widened),
        cmocka_unit_test(rounds_to_nearest_even_at_every_tie),
        cmocka_unit_test(rounds_to_nearest_even_over_a_sweep_of_all_floats),
        cmocka_unit_test(arrays_convert_as_single_values_do),
        cmocka_unit_test(float32_is_copied_bit_for_bit),
        cmocka_unit_test(doubles_are_rounded_once),
        cmocka_unit_test(doubles_round_to_the_nearest_pattern),
        cmocka_unit_test(rounding_mode_and_flush_switches_change_nothing),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
