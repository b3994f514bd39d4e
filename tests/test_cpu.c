/* Tests of format/cpu.c: what VERA_CPU may ask for, and the floating-point state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fenv.h>
#include <string.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "format/cpu.h"

static void test_a_name_lowers_the_level_and_never_raises_it(void **state)
{
    enum cpu_level machine = cpu_level_machine();

    (void)state;
    for (int i = CPU_SCALAR; i <= CPU_AVX512; i++) {
        enum cpu_level level = (enum cpu_level)i;
        enum cpu_level got = cpu_level_wanted(cpu_level_name(level));
        assert_int_equal(got, cpu_level_is_here(level) ? level : machine);
        cpu_level_set(level);
        assert_true(cpu_level_is_here(cpu_level()));
        assert_true(cpu_level() <= level);
    }
    cpu_level_set(machine);
    assert_int_equal(cpu_level(), machine);
    assert_true(cpu_level_is_here(machine));
}

static void test_no_machine_has_the_levels_of_two_kinds(void **state)
{
    (void)state;
    assert_true(cpu_level_is_here(CPU_SCALAR));
    assert_false(cpu_level_is_here(CPU_NEON) && cpu_level_is_here(CPU_AVX2));
}

static void test_an_unknown_name_is_ignored(void **state)
{
    static const char *const names[] = {"", "SCALAR", "avx", "avx5120", "sse2", " avx2"};

    (void)state;
    assert_int_equal(cpu_level_wanted(NULL), cpu_level_machine());
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(cpu_level_wanted(names[i]), cpu_level_machine());
}

/* Which way float32 sums go, as bits: up above 1, away below -1, down below 1. Nearest: none. */
static int rounding_seen(void)
{
    volatile float one = 1, tiny = 0x1p-30f;
    volatile float above = one + tiny, away = -one - tiny, below = one - tiny;

    return (above > 1) | (away < -1) << 1 | (below < 1) << 2;
}

static void test_exact_state_rounds_to_nearest_and_gives_back_the_callers(void **state)
{
    static const struct {
        int mode, seen;
    } cases[] = {{FE_TONEAREST, 0}, {FE_UPWARD, 1}, {FE_DOWNWARD, 6}, {FE_TOWARDZERO, 4}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fesetround(cases[i].mode);
        int before = rounding_seen();
        struct cpu_float saved = cpu_float_exact();
        int inside = rounding_seen();
        cpu_float_restore(saved);
        int after = rounding_seen();
        fesetround(FE_TONEAREST);
        assert_int_equal(before, cases[i].seen);
        assert_int_equal(inside, 0);
        assert_int_equal(after, cases[i].seen);
    }
}

#if defined(__x86_64__)
static void test_exact_state_keeps_subnormals_where_the_caller_flushes_them(void **state)
{
    const unsigned flush = 0x8040; /* FTZ and DAZ */
    unsigned before = _mm_getcsr();
    volatile float tiny = 0x1p-126f, subnormal = 0x1p-127f;

    (void)state;
    _mm_setcsr(before | flush);
    volatile float flushed = tiny * 0.5f;
    struct cpu_float saved = cpu_float_exact();
    volatile float made = tiny * 0.5f, doubled = subnormal * 2;
    cpu_float_restore(saved);
    unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_true(flushed == 0 && made == 0x1p-127f && doubled == 0x1p-126f);
    assert_int_equal(after & flush, flush);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_lowers_the_level_and_never_raises_it),
        cmocka_unit_test(test_no_machine_has_the_levels_of_two_kinds),
        cmocka_unit_test(test_an_unknown_name_is_ignored),
        cmocka_unit_test(test_exact_state_rounds_to_nearest_and_gives_back_the_callers),
#if defined(__x86_64__)
        cmocka_unit_test(test_exact_state_keeps_subnormals_where_the_caller_flushes_them),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
