/*
 * Tests of apply/compare.c, with the triangles and combinations under it: what it measures is what
 * dW itself has, built element by element in long double; on the fixtures, what numpy found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/compare.h"
#include "format/interrupt.h"
#include "tests/effects.h"
#include "tests/fault.h"

#define SEEDS 200

/* expected.json's `compare` */

struct expected {
    char name[128];
    double norm_a, norm_b, delta_norm, cosine;
};

static double json_double(struct json *json)
{
    must(json_expect(json, JSON_NUMBER));
    AUTO_FREE(char, text);
    text = bytes_dup(json->text);
    assert_non_null(text);
    return strtod(text, NULL);
}

/* The object of four numbers that comes next. */
static void expected_read(struct expected *out, struct json *json)
{
    enum json_event event = JSON_NULL;
    unsigned found = 0;

    must(json_expect(json, JSON_OBJECT_BEGIN));
    while (json_next(&event, json) == 0 && event == JSON_KEY) {
        double *to = json_text_is(json, "norm_a")       ? &out->norm_a
                     : json_text_is(json, "norm_b")     ? &out->norm_b
                     : json_text_is(json, "delta_norm") ? &out->delta_norm
                                                        : &out->cosine;
        *to = json_double(json);
        found++;
    }
    assert_int_equal(found, 4);
}

static void assert_expected(const struct comparison *found, const struct expected *expected)
{
    const double pairs[][2] = {
        {found->norm_a, expected->norm_a},
        {found->norm_b, expected->norm_b},
        {found->delta_norm, expected->delta_norm},
        {found->cosine, expected->cosine},
        {found->relative, expected->delta_norm / expected->norm_a},
    };

    assert_true(found->has_relative && found->has_cosine);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (!is_near(pairs[i][0], pairs[i][1], 1e-9L * fabsl(pairs[i][1])))
            fail_msg(
                "%s: number %zu is %.17g, not %.17g", expected->name, i, pairs[i][0], pairs[i][1]
            );
    }
}

/* `pair`: "llama/step-060 llama/step-120", whose object comes next. */
static void assert_pair(struct json *json, char *pair)
{
    AUTO_ACTOR(a);
    AUTO_ACTOR(b);
    AUTO_COMPARISONS(found);
    AUTO_FREE(struct effect_pair, modules);
    enum json_event event = JSON_NULL;
    size_t compared = 0;

    char *space = strchr(pair, ' ');
    assert_non_null(space);
    *space = 0;
    actor_open(&a, pair);
    actor_open(&b, space + 1);
    modules = pairs_new(&a, &b);
    must(compare_effects(&found, modules, a.effects.count, 2));
    must(json_expect(json, JSON_OBJECT_BEGIN));
    while (json_next(&event, json) == 0 && event == JSON_KEY) {
        struct expected expected = {.name = "total"};
        if (json_text_is(json, "total")) {
            expected_read(&expected, json);
            assert_expected(&found.total, &expected);
            continue;
        }
        must(json_expect(json, JSON_OBJECT_BEGIN));
        while (json_next(&event, json) == 0 && event == JSON_KEY) {
            snprintf(
                expected.name, sizeof(expected.name), "%.*s", (int)json->text.len,
                (const char *)json->text.data
            );
            expected_read(&expected, json);
            assert_string_equal(modules[compared].name, expected.name);
            assert_expected(&found.modules[compared++], &expected);
        }
    }
    assert_int_equal(compared, a.effects.count);
}

static void every_pair_of_the_fixtures_is_as_numpy_found_it(void **state)
{
    AUTO_BUF(text);
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    unsigned pairs = 0;

    (void)state;
    must(file_read(&text, FIXTURES "/expected/expected.json", GIB));
    json_init(&json, buf_bytes(&text));
    must(json_expect(&json, JSON_OBJECT_BEGIN));
    while (json_next(&event, &json) == 0 && event == JSON_KEY) {
        if (!json_text_is(&json, "compare")) {
            must(json_skip_value(&json));
            continue;
        }
        must(json_expect(&json, JSON_OBJECT_BEGIN));
        while (json_next(&event, &json) == 0 && event == JSON_KEY) {
            AUTO_FREE(char, pair);
            assert_non_null(pair = bytes_dup(json.text));
            assert_pair(&json, pair);
            pairs++;
        }
    }
    assert_int_equal(pairs, 6);
}

/* Random pairs against dW built */

#define KINDS 10
enum kind {
    PLAIN,
    OTHER_BASIS,    /* another rank and other values */
    OTHER_TARGETS,  /* another width of A: so other values */
    COPIED_BASIS,   /* the same values elsewhere, wider */
    NO_B,           /* the other adapter has not the module */
    ZERO,           /* lambda_b is 0, as PEFT begins */
    OPPOSING,       /* dWb = -dWa */
    RESCALED,       /* the same dW from b * 3 and d / 3: all but rounding cancels */
    TINY,           /* one value changed in its last place */
    RANK_DEFICIENT, /* rows of A and columns of B twice, zeros among d */
};

struct sample {
    uint64_t in, out;
    struct basis basis[2];
    double *d[2], *b[2];
    struct effect_pair pair;
};

static void sample_release(struct sample *sample)
{
    for (size_t s = 0; s < 2; s++) {
        basis_release(&sample->basis[s]);
        free(sample->d[s]);
        free(sample->b[s]);
    }
}

#define AUTO_SAMPLE(name) __attribute__((cleanup(sample_release))) struct sample name = {0}

static void copy_basis(struct basis *to, const struct basis *from, uint64_t in, uint64_t out)
{
    random_basis(to, from->rank, in, out);
    memcpy(to->b, from->b, (size_t)(from->rank * from->out) * sizeof(float));
    for (uint64_t k = 0; k < from->rank; k++)
        memcpy(to->a + k * in, from->a + k * from->in, (size_t)from->in * sizeof(float));
}

static void make_deficient(struct basis *basis, double *d)
{
    for (uint64_t k = 1; k < basis->rank; k += 2) {
        memcpy(basis->a + k * basis->in, basis->a, (size_t)basis->in * sizeof(float));
        for (uint64_t i = 0; i < basis->out; i++)
            basis->b[i * basis->rank + k] = basis->b[i * basis->rank];
        d[k] = k % 4 == 1 ? 0 : d[k];
    }
}

static void sample_change(struct sample *sample, enum kind kind)
{
    uint64_t rank = sample->basis[0].rank;

    if (kind == ZERO)
        memset(sample->b[random_below(2)], 0, (size_t)sample->out * sizeof(double));
    if (kind == RANK_DEFICIENT)
        make_deficient(&sample->basis[0], sample->d[0]);
    if (kind != OPPOSING && kind != RESCALED && kind != TINY)
        return;
    double times = kind == RESCALED ? 3 : kind == OPPOSING ? -1 : 1;
    for (uint64_t i = 0; i < sample->out; i++)
        sample->b[1][i] = (double)(float)(sample->b[0][i] * times);
    for (uint64_t k = 0; k < rank; k++)
        sample->d[1][k] = kind == RESCALED ? (double)(float)(sample->d[0][k] / 3) : sample->d[0][k];
    if (kind == TINY) {
        double *value = &sample->d[1][random_below(rank)];
        *value = (double)nextafterf((float)*value, 2);
    }
}

static void sample_make(struct sample *sample, enum kind kind, double scale_b, double scale_d)
{
    uint64_t rank = 1 + random_below(12);
    uint64_t other = kind == OTHER_BASIS ? 1 + random_below(12) : rank;

    sample->in = 1 + random_below(20);
    sample->out = 1 + random_below(20);
    random_basis(
        &sample->basis[0], rank, sample->in + random_below(3), sample->out + random_below(3)
    );
    if (kind == OTHER_BASIS || kind == OTHER_TARGETS)
        random_basis(&sample->basis[1], other, sample->in + 3, sample->out);
    if (kind == COPIED_BASIS)
        copy_basis(
            &sample->basis[1], &sample->basis[0], sample->basis[0].in + 2, sample->basis[0].out
        );
    for (size_t s = 0; s < 2; s++) {
        sample->d[s] = random_vector((size_t)(s ? other : rank), scale_d);
        sample->b[s] = random_vector((size_t)sample->out, scale_b);
    }
    sample_change(sample, kind);
    const struct basis *second = &sample->basis[sample->basis[1].rank ? 1 : 0];
    sample->pair = (struct effect_pair){
        .name = "m",
        .in = sample->in,
        .out = sample->out,
        .a = {&sample->basis[0], sample->d[0], sample->b[0]},
        .b = {second, sample->d[1], sample->b[1]},
    };
    if (kind == NO_B)
        sample->pair.b = (struct effect){0};
}

/* True where every number is dW's. `tolerance`: relative; of delta_norm, relative to itself where
   the two stand on one basis. */
static bool is_right(const struct comparison *found, const struct sample *sample, bool one_basis)
{
    const struct effect_pair *pair = &sample->pair;
    uint64_t count = pair->in * pair->out;
    const long double tolerance = 1e-11L;
    AUTO_FREE(long double, a);
    AUTO_FREE(long double, b);
    AUTO_FREE(long double, delta);

    a = effect_build(&pair->a, pair->in, pair->out);
    b = effect_build(&pair->b, pair->in, pair->out);
    delta = effect_build(&pair->a, pair->in, pair->out);
    for (uint64_t i = 0; i < count; i++)
        delta[i] -= b[i];
    long double norm_a = sqrtl(inner(a, a, count)), norm_b = sqrtl(inner(b, b, count));
    long double norm_delta = sqrtl(inner(delta, delta, count));
    long double close = tolerance * (one_basis ? norm_delta : norm_a + norm_b);

    if (!is_near(found->norm_a, norm_a, tolerance * norm_a) ||
        !is_near(found->norm_b, norm_b, tolerance * norm_b) ||
        !is_near(found->delta_norm, norm_delta, close + 1e-17L * (norm_a + norm_b)) ||
        found->has_relative != (norm_a != 0) || found->has_cosine != (norm_a * norm_b != 0))
        return false;
    if (found->has_relative &&
        !is_near(found->relative, norm_delta / norm_a, (close + 1e-17L * norm_b) / norm_a + 1e-11L))
        return false;
    return !found->has_cosine ||
           is_near(found->cosine, inner(a, b, count) / (norm_a * norm_b), tolerance);
}

static void assert_kind(enum kind kind, double scale_b, double scale_d)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        AUTO_SAMPLE(sample);
        AUTO_COMPARISONS(found);
        random_state = seed;
        sample_make(&sample, kind, scale_b, scale_d);
        must(compare_effects(&found, &sample.pair, 1, 1));
        bool one_basis = kind != OTHER_BASIS && kind != OTHER_TARGETS;
        if (!is_right(&found.modules[0], &sample, one_basis) ||
            !is_right(&found.total, &sample, one_basis))
            fail_msg("kind %d, seed %ju: not what dW has", kind, (uintmax_t)seed);
    }
}

static void what_is_measured_is_what_the_built_matrices_have(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        assert_kind((enum kind)kind, 1, 0.1);
}

static void huge_and_subnormal_vectors_are_measured_too(void **state)
{
    static const double scales[][2] = {
        {1e30, 1e30}, {1e-40, 1e-40}, {3e38, 1e-45}, {1e-45, 3e38}, {3e38, 3e38}};

    (void)state;
    for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
        assert_kind(PLAIN, scales[i][0], scales[i][1]);
        assert_kind(OTHER_BASIS, scales[i][0], scales[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_the_fixtures_is_as_numpy_found_it),
        cmocka_unit_test(what_is_measured_is_what_the_built_matrices_have),
        cmocka_unit_test(huge_and_subnormal_vectors_are_measured_too),
    };

    return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
