/*
 * Tests of apply/spectrum.c. The reference: dW built element by element, its singular values by
 * one-sided Jacobi rotations in long double (Hestenes 1958).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/compare.h"
#include "apply/lapack.h"
#include "apply/spectrum.h"
#include "format/limits.h"
#include "tests/effects.h"
#include "tests/fault.h"

#define SEEDS 200

static int by_size(const void *a, const void *b)
{
    long double x = *(const long double *)a, y = *(const long double *)b;

    return (x < y) - (x > y);
}

/* Make columns p and q of w [rows, columns] orthogonal. */
static bool rotate(long double *w, uint64_t rows, uint64_t columns, uint64_t p, uint64_t q)
{
    long double pp = 0, qq = 0, pq = 0;

    for (uint64_t i = 0; i < rows; i++) {
        const long double *row = w + i * columns;
        pp += row[p] * row[p];
        qq += row[q] * row[q];
        pq += row[p] * row[q];
    }
    if (fabsl(pq) <= 1e-18L * sqrtl(pp * qq))
        return false;
    long double zeta = (qq - pp) / (2 * pq);
    long double t = (zeta < 0 ? -1 : 1) / (fabsl(zeta) + sqrtl(1 + zeta * zeta));
    long double c = 1 / sqrtl(1 + t * t), s = c * t;
    for (uint64_t i = 0; i < rows; i++) {
        long double *row = w + i * columns, x = row[p], y = row[q];
        row[p] = c * x - s * y;
        row[q] = s * x + c * y;
    }
    return true;
}

/* All `columns` singular values of w, which is overwritten; largest first, owned by the caller. */
static long double *singular_values(long double *w, uint64_t rows, uint64_t columns)
{
    long double *values = array_new((size_t)columns, sizeof(*values));
    bool turned = true;

    assert_non_null(values);
    for (int sweep = 0; turned && sweep < 60; sweep++) {
        turned = false;
        for (uint64_t p = 0; p + 1 < columns; p++) {
            for (uint64_t q = p + 1; q < columns; q++)
                turned |= rotate(w, rows, columns, p, q);
        }
    }
    for (uint64_t k = 0; k < columns; k++) {
        for (uint64_t i = 0; i < rows; i++)
            values[k] += w[i * columns + k] * w[i * columns + k];
        values[k] = sqrtl(values[k]);
    }
    qsort(values, (size_t)columns, sizeof(*values), by_size);
    return values;
}

static void
assert_values(const struct spectrum *found, const struct effect_pair *pair, uint64_t seed)
{
    AUTO_FREE(long double, w);
    AUTO_FREE(long double, wanted);
    long double sum = 0, entropy = 0;
    uint64_t least = pair->in < pair->out ? pair->in : pair->out;

    least = pair->a.basis->rank < least ? pair->a.basis->rank : least;
    assert_int_equal(found->count, least);
    w = effect_build(&pair->a, pair->in, pair->out);
    wanted = singular_values(w, pair->out, pair->in);
    for (uint64_t k = 0; k < pair->in; k++) {
        double value = k < found->count ? found->values[k] : 0;
        if (!is_near(value, wanted[k], 1e-13L * wanted[0]))
            fail_msg(
                "seed %ju: value %ju is %g, not %Lg", (uintmax_t)seed, (uintmax_t)k, value,
                wanted[k]
            );
        sum += wanted[k];
    }
    for (uint64_t k = 0; k < pair->in && sum > 0; k++)
        entropy -= wanted[k] > 0 ? wanted[k] / sum * logl(wanted[k] / sum) : 0;
    assert_true(is_near(found->effective_rank, sum > 0 ? expl(entropy) : 0, 1e-9L));
}

/* A module that a seed makes up, and what it points into. */
struct sample {
    struct basis basis;
    double *d, *b;
    struct effect_pair pair;
};

static void sample_release(struct sample *sample)
{
    basis_release(&sample->basis);
    free(sample->d);
    free(sample->b);
}

#define AUTO_SAMPLE(name) __attribute__((cleanup(sample_release))) struct sample name = {0}

static void sample_make(struct sample *sample, uint64_t seed, double scale)
{
    uint64_t rank, in, out;

    random_state = seed;
    rank = 1 + random_below(10);
    in = 1 + random_below(16);
    /* Now and then more rows than one block has. */
    out = random_below(20) ? 1 + random_below(16) : 60 + random_below(200);
    random_basis(&sample->basis, rank, in + random_below(2), out);
    sample->d = random_vector((size_t)rank, scale);
    sample->b = random_vector((size_t)out, scale);
    for (uint64_t k = 0; k < rank; k++)
        sample->d[k] = random_below(4) ? sample->d[k] : 0;
    if (seed % 16 == 0)
        memset(sample->b, 0, (size_t)out * sizeof(double));
    sample->pair = (struct effect_pair
    ){.name = "m", .in = in, .out = out, .a = {&sample->basis, sample->d, sample->b}};
}

static void the_values_are_those_of_the_built_matrix(void **state)
{
    static const double scales[] = {1, 1e30, 1e-40};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        AUTO_SAMPLE(sample);
        AUTO_SPECTRA(found);
        sample_make(&sample, seed, scales[seed % 3]);
        must(spectra_make(&found, &sample.pair, 1, 1, NULL));
        assert_values(&found.modules[0], &sample.pair, seed);
    }
}

static void a_real_module_has_the_values_of_its_matrix(void **state)
{
    AUTO_ACTOR(actor);
    AUTO_SPECTRA(found);
    AUTO_FREE(struct effect_pair, pairs);

    (void)state;
    actor_open(&actor, "llama/step-120");
    pairs = pairs_new(&actor, &actor);
    must(spectra_make(&found, pairs, actor.effects.count, 2, NULL));
    assert_values(&found.modules[0], &pairs[0], 0);
    assert_values(&found.modules[3], &pairs[3], 3);
}

static void the_squares_add_up_to_the_norm(void **state)
{
    AUTO_ACTOR(actor);
    AUTO_SPECTRA(found);
    AUTO_COMPARISONS(norms);
    AUTO_FREE(struct effect_pair, pairs);

    (void)state;
    actor_open(&actor, "minilm/step-320");
    pairs = pairs_new(&actor, &actor);
    must(spectra_make(&found, pairs, actor.effects.count, 2, NULL));
    must(compare_effects(&norms, pairs, actor.effects.count, 2, NULL));
    for (size_t i = 0; i < found.count; i++) {
        const struct spectrum *spectrum = &found.modules[i];
        long double norm = (long double)norms.modules[i].norm_a;
        assert_int_equal(spectrum->count, 256);
        assert_true(is_near(spectrum->norm, norm, 1e-12L * norm));
        assert_true(spectrum->effective_rank > 1 && spectrum->effective_rank < 256);
        assert_true(is_near(spectrum_energy(spectrum, 256), 1, 1e-12L));
        assert_true(spectrum_energy(spectrum, 10) < spectrum_energy(spectrum, 11));
    }
}

static void threads_change_no_bit(void **state)
{
    AUTO_ACTOR(actor);
    AUTO_SPECTRA(one);
    AUTO_FREE(struct effect_pair, pairs);

    (void)state;
    actor_open(&actor, "llama/step-120");
    pairs = pairs_new(&actor, &actor);
    must(spectra_make(&one, pairs, actor.effects.count, 1, NULL));
    for (unsigned threads = 2; threads < 5; threads++) {
        AUTO_SPECTRA(more);
        must(spectra_make(&more, pairs, actor.effects.count, threads, NULL));
        for (size_t i = 0; i < one.count; i++)
            assert_memory_equal(
                one.modules[i].values, more.modules[i].values, one.modules[i].count * sizeof(double)
            );
    }
}

static void ranks_keep_the_share_that_is_asked_for(void **state)
{
    double first[] = {3, 1, 0}, second[] = {2, 2};
    struct spectrum list[] = {
        {first, 3, 0, 0},
        {second, 2, 0, 0},
    };
    const struct {
        double share;
        size_t rank;
    } cases[] = {{0, 0}, {0.5, 1}, {13.0 / 18, 1}, {0.73, 2}, {0.999, 2}, {1, 2}};
    struct spectra spectra = {list, 2}, none = {NULL, 0};

    (void)state;
    list[0].norm = sqrt(10);
    list[1].norm = sqrt(8);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(spectra_rank(&spectra, cases[i].share), cases[i].rank);
    assert_int_equal(spectra_rank(&none, 0.9), 0);
    assert_true(is_near(spectrum_energy(&list[0], 1), 0.9L, 1e-15L));
    assert_true(is_near(spectrum_energy(&(struct spectrum){0}, 1), 1, 0));
}

static void what_cannot_be_computed_is_refused_by_name(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_SPECTRA(found);

    (void)state;
    sample_make(&sample, 1, 1);
    sample.d[0] = INFINITY;
    assert_int_equal(spectra_make(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    assert_string_equal(error_message(), "module m: value 0 of lambda_d is not finite");
    sample.d[0] = 1;
    sample.basis.b[0] = NAN;
    assert_int_equal(spectra_make(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    sample.basis.b[0] = 1;
    sample.pair.a.basis = NULL;
    must(spectra_make(&found, &sample.pair, 1, 1, NULL));
    assert_int_equal(found.modules[0].count, 0);
}

static void the_rank_has_a_limit(void **state)
{
    AUTO_FREE(float, a);
    AUTO_FREE(float, b);
    AUTO_FREE(double, vectors);
    const uint64_t rank = LIMIT_DENSE_RANK + 1;

    (void)state;
    a = array_new((size_t)rank, sizeof(*a));
    b = array_new((size_t)rank, sizeof(*b));
    vectors = array_new((size_t)rank, sizeof(*vectors));
    assert_true(a && b && vectors);
    const struct basis basis = {.a = a, .b = b, .rank = rank, .in = 1, .out = 1};
    struct effect_pair pair = {.name = "m", .in = 1, .out = 1, .a = {&basis, vectors, vectors}};
    AUTO_SPECTRA(spectra);
    AUTO_COMPARISONS(norms);
    assert_int_equal(spectra_make(&spectra, &pair, 1, 1, NULL), E_LIMIT);
    must(compare_effects(&norms, &pair, 1, 1, NULL));
}

static void every_allocation_may_fail(void **state)
{
    AUTO_SAMPLE(sample);
    int err = E_NOMEM, n = 0;

    (void)state;
    sample_make(&sample, 5, 1);
    must(lapack_load());
    for (; err < 0; n++) {
        AUTO_SPECTRA(found);
        fault_after = n;
        err = spectra_make(&found, &sample.pair, 1, 1, NULL);
        fault_after = -1;
        assert_true(err == 0 || (err == E_NOMEM && !found.modules));
    }
    assert_true(n > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_values_are_those_of_the_built_matrix),
        cmocka_unit_test(a_real_module_has_the_values_of_its_matrix),
        cmocka_unit_test(the_squares_add_up_to_the_norm),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(ranks_keep_the_share_that_is_asked_for),
        cmocka_unit_test(what_cannot_be_computed_is_refused_by_name),
        cmocka_unit_test(the_rank_has_a_limit),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests_name("spectrum", tests, NULL, NULL);
}
