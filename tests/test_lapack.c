/*
 * Tests of apply/lapack.c: which library is taken, what is said where there is none, and the two
 * routines that decide something of their own. Each loads anew, so each has a process of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apply/lapack.h"

static const char *hidden[2]; /* libraries that this system has not */
static char asked[128];       /* for which ones, in order */

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);

void *__wrap_dlopen(const char *name, int flags)
{
    size_t len = strlen(asked);

    snprintf(asked + len, sizeof(asked) - len, "%s ", name);
    for (size_t i = 0; i < 2; i++) {
        if (hidden[i] && strcmp(hidden[i], name) == 0)
            return NULL;
    }
    return __real_dlopen(name, flags);
}

/* In a child: its exit status, 0 where all is well. */
static void in_a_process(bool (*check)(void))
{
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(check() ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* [1 2; 0 3] . [5; 7] */
static bool multiplies(void)
{
    const double a[] = {1, 0, 2, 3};
    double x[] = {5, 7};

    lapack_multiply_upper(x, 2, LAPACK_PLAIN, a, 2, 2, 1);
    return x[0] == 19 && x[1] == 21;
}

static bool takes_openblas(void)
{
    return lapack_load() == 0 && lapack_load() == 0 && multiplies() &&
           strcmp(asked, "libopenblas.so.0 ") == 0;
}

static bool takes_lapack(void)
{
    hidden[0] = "libopenblas.so.0";
    return lapack_load() == 0 && multiplies() &&
           strcmp(asked, "libopenblas.so.0 liblapack.so.3 ") == 0;
}

static bool refuses(void)
{
    hidden[0] = "libopenblas.so.0";
    hidden[1] = "liblapack.so.3";
    return lapack_load() == E_UNSUPPORTED && lapack_load() == E_UNSUPPORTED &&
           strstr(error_message(), "libopenblas.so.0") && strstr(error_hint_text(), "libopenblas0");
}

static void openblas_is_taken_before_another_lapack(void **state)
{
    (void)state;
    in_a_process(takes_openblas);
}

static void another_lapack_does_where_openblas_is_missing(void **state)
{
    (void)state;
    in_a_process(takes_lapack);
}

static void without_any_the_error_names_the_package(void **state)
{
    (void)state;
    in_a_process(refuses);
}

static bool near(double value, double wanted)
{
    return fabs(value - wanted) <= 1e-12;
}

static void a_regular_system_has_its_solution(void **state)
{
    double s[] = {4, 0, 2, 3}, spare[4], x[] = {8, 7}; /* [4 2; 2 3] x = [8; 7] */

    (void)state;
    assert_int_equal(lapack_load(), 0);
    assert_int_equal(lapack_solve(x, s, spare, 2), 0);
    assert_true(near(x[0], 1.25) && near(x[1], 1.5));
}

static void a_singular_system_has_the_shortest_solution(void **state)
{
    const double zero[] = {0, 0, 0, 0};
    double s[] = {1, 0, 1, 1}, spare[4], x[] = {2, 2}; /* [1 1; 1 1] x = [2; 2] */

    (void)state;
    assert_int_equal(lapack_load(), 0);
    assert_int_equal(lapack_solve(x, s, spare, 2), 0);
    assert_true(near(x[0], 1) && near(x[1], 1));
    memcpy(s, zero, sizeof(s));
    assert_int_equal(lapack_solve(x, s, spare, 2), 0);
    assert_true(x[0] == 0 && x[1] == 0);
}

static void singular_values_come_largest_first(void **state)
{
    double a[] = {0, 3, 0, 4, 0, 0}, values[2]; /* [0 4; 3 0; 0 0] */

    (void)state;
    assert_int_equal(lapack_load(), 0);
    assert_int_equal(lapack_singular(values, a, 3, 3, 2, true), 0);
    assert_true(near(values[0], 4) && near(values[1], 3));
    assert_true(near(fabs(a[0]), 1) && near(a[1], 0) && near(a[2], 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(openblas_is_taken_before_another_lapack),
        cmocka_unit_test(another_lapack_does_where_openblas_is_missing),
        cmocka_unit_test(without_any_the_error_names_the_package),
        cmocka_unit_test(a_regular_system_has_its_solution),
        cmocka_unit_test(a_singular_system_has_the_shortest_solution),
        cmocka_unit_test(singular_values_come_largest_first),
    };

    return cmocka_run_group_tests_name("lapack", tests, NULL, NULL);
}
