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

#define SEEDS           200
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

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
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
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
    must(compare_effects(&found, modules, a.effects.count, 2, NULL));
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
        must(compare_effects(&found, &sample.pair, 1, 1, NULL));
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
    for (size_t i = 0; i < COUNT_OF(scales); i++) {
        assert_kind(PLAIN, scales[i][0], scales[i][1]);
        assert_kind(OTHER_BASIS, scales[i][0], scales[i][1]);
    }
}

static void one_unit_in_the_last_place_of_one_d_is_measured(void **state)
{
    AUTO_ACTOR(a);
    AUTO_ACTOR(b);
    AUTO_COMPARISONS(found);
    AUTO_FREE(struct effect_pair, pairs);
    AUTO_FREE(long double, wanted);
    AUTO_FREE(double, change);

    (void)state;
    actor_open(&a, "llama/step-120");
    actor_open(&b, "llama/step-120");
    pairs = pairs_new(&a, &b);
    const struct effect_pair *pair = &pairs[3];
    double *d = b.effects.values + (pair->b.d - b.effects.values);
    d[7] = (double)nextafterf((float)d[7], INFINITY);
    must(compare_effects(&found, pairs, a.effects.count, 2, NULL));

    /* What is left is one direction: the reference needs no difference of large numbers. */
    assert_non_null(change = array_new((size_t)a.basis.rank, sizeof(*change)));
    change[7] = d[7] - pair->a.d[7];
    struct effect left = {&a.basis, change, pair->a.b};
    wanted = effect_build(&left, pair->in, pair->out);
    long double norm = sqrtl(inner(wanted, wanted, pair->in * pair->out));
    assert_true(norm > 0);
    assert_true(is_near(found.modules[3].delta_norm, norm, 1e-12L * norm));
    assert_true(is_near(found.total.delta_norm, norm, 1e-12L * norm));
    for (size_t i = 0; i < found.count; i++)
        assert_true(i == 3 || found.modules[i].delta_norm == 0);
}

static void float64_vectors_keep_their_last_place_too(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        AUTO_SAMPLE(sample);
        AUTO_COMPARISONS(found);
        AUTO_FREE(long double, wanted);
        AUTO_FREE(double, change);
        random_state = seed;
        sample_make(&sample, OPPOSING, 1, 1);
        uint64_t rank = sample.basis[0].rank, at = random_below(rank);
        for (uint64_t k = 0; k < rank; k++)
            sample.d[0][k] = sample.d[1][k] = sample.d[0][k] * 1.1;
        for (uint64_t i = 0; i < sample.out; i++)
            sample.b[0][i] = sample.b[1][i] = sample.b[0][i] * 1.3;
        sample.d[1][at] = nextafter(sample.d[1][at], 2);
        must(compare_effects(&found, &sample.pair, 1, 1, NULL));
        assert_non_null(change = array_new((size_t)rank, sizeof(*change)));
        change[at] = sample.d[1][at] - sample.d[0][at];
        struct effect left = {&sample.basis[0], change, sample.b[0]};
        wanted = effect_build(&left, sample.in, sample.out);
        long double norm = sqrtl(inner(wanted, wanted, sample.in * sample.out));
        if (!is_near(found.total.delta_norm, norm, 1e-6L * norm))
            fail_msg("seed %ju: %g, not %Lg", (uintmax_t)seed, found.total.delta_norm, norm);
    }
}

/* Adapters of every kind, stored in float32 and bfloat16, on weights that lie either way. */
static void adapters_of_every_kind_have_the_norm_of_their_matrices(void **state)
{
    static const char *const names[] = {"llama-half/step-030",     "llama-half-vectors",
                                        "llama-half-vectors-only", "llama-vectors-only",
                                        "gpt2/step-040",           "bert/step-040"};

    (void)state;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        AUTO_ACTOR(actor);
        AUTO_COMPARISONS(found);
        AUTO_FREE(struct effect_pair, pairs);
        actor_open(&actor, names[n]);
        pairs = pairs_new(&actor, &actor);
        must(compare_effects(&found, pairs, actor.effects.count, 2, NULL));
        for (size_t i = 0; i < found.count; i++) {
            AUTO_FREE(long double, w);
            w = effect_build(&pairs[i].a, pairs[i].in, pairs[i].out);
            long double norm = sqrtl(inner(w, w, pairs[i].in * pairs[i].out));
            if (norm == 0 || !is_near(found.modules[i].norm_a, norm, 1e-12L * norm))
                fail_msg("%s, %s: %g", names[n], pairs[i].name, found.modules[i].norm_a);
        }
        assert_true(found.total.delta_norm == 0 && found.total.cosine == 1);
    }
}

static void a_power_of_two_scales_norms_and_nothing_else(void **state)
{
    static const struct {
        int d, b; /* exponents */
    } cases[] = {{900, -880}, {-500, -500}, {-1000, 20}, {500, 500}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        AUTO_SAMPLE(sample);
        AUTO_COMPARISONS(plain);
        AUTO_COMPARISONS(scaled);
        random_state = i;
        sample_make(&sample, i % 2 ? PLAIN : OTHER_BASIS, 1, 1);
        must(compare_effects(&plain, &sample.pair, 1, 1, NULL));
        for (size_t s = 0; s < 2; s++) {
            const struct effect *effect = s ? &sample.pair.b : &sample.pair.a;
            for (uint64_t k = 0; k < effect->basis->rank; k++)
                sample.d[s][k] = ldexp(sample.d[s][k], cases[i].d);
            for (uint64_t k = 0; k < sample.out; k++)
                sample.b[s][k] = ldexp(sample.b[s][k], cases[i].b);
        }
        must(compare_effects(&scaled, &sample.pair, 1, 1, NULL));
        int exponent = cases[i].d + cases[i].b;
        const struct comparison *one = &plain.modules[0], *other = &scaled.modules[0];
        assert_true(other->norm_a == ldexp(one->norm_a, exponent));
        assert_true(other->norm_b == ldexp(one->norm_b, exponent));
        assert_true(
            is_near(other->delta_norm, ldexp(one->delta_norm, exponent), 1e-14L * other->norm_a)
        );
        assert_true(other->cosine == one->cosine);
        assert_true(is_near(other->relative, one->relative, 1e-14L));
    }
}

static void vectors_that_do_not_suit_are_no_effects(void **state)
{
    AUTO_ACTOR(actor);
    AUTO_EFFECTS(effects);
    struct basis other = {.rank = 31};

    (void)state;
    actor_open(&actor, "llama/step-120");
    struct loaded_adapter *loaded = &actor.subject.loaded;
    assert_int_equal(effects_init(&effects, loaded, &other), E_INVALID);
    for (size_t i = 0; i < loaded->adapter.layout.count; i++)
        loaded->adapter.layout.tensors[i].dtype = DTYPE_I32;
    assert_int_equal(effects_init(&effects, loaded, &actor.basis), E_UNSUPPORTED);
    assert_non_null(strstr(error_message(), "is I32: only F32, BF16, F16 and F64"));
    assert_null(effects.modules);
}

static void what_is_zero_has_no_ratio(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_COMPARISONS(found);

    (void)state;
    random_state = 3;
    sample_make(&sample, NO_B, 1, 1);
    must(compare_effects(&found, &sample.pair, 1, 1, NULL));
    assert_true(found.total.has_relative && !found.total.has_cosine);
    assert_true(found.total.relative == 1 && found.total.norm_b == 0);
    comparisons_release(&found);

    sample.pair.b = sample.pair.a;
    sample.pair.a = (struct effect){0};
    must(compare_effects(&found, &sample.pair, 1, 1, NULL));
    assert_true(!found.total.has_relative && !found.total.has_cosine);
    assert_true(found.total.norm_b > 0 && found.total.delta_norm == found.total.norm_b);
    comparisons_release(&found);

    sample.pair.b = (struct effect){0};
    must(compare_effects(&found, &sample.pair, 1, 1, NULL));
    assert_true(found.total.delta_norm == 0 && !found.total.has_relative);
    comparisons_release(&found);
    must(compare_effects(&found, NULL, 0, 0, NULL));
    assert_true(found.total.delta_norm == 0 && !found.total.has_relative);
}

static void the_total_is_that_of_one_matrix_of_all_modules(void **state)
{
    struct sample samples[5] = {0};
    struct effect_pair pairs[5];
    AUTO_COMPARISONS(found);
    long double aa = 0, bb = 0, ab = 0, dd = 0;

    (void)state;
    random_state = 11;
    for (size_t i = 0; i < 5; i++) {
        sample_make(&samples[i], i == 2 ? NO_B : OTHER_BASIS, 1, 1);
        pairs[i] = samples[i].pair;
        uint64_t count = pairs[i].in * pairs[i].out;
        AUTO_FREE(long double, a);
        AUTO_FREE(long double, b);
        a = effect_build(&pairs[i].a, pairs[i].in, pairs[i].out);
        b = effect_build(&pairs[i].b, pairs[i].in, pairs[i].out);
        aa += inner(a, a, count);
        bb += inner(b, b, count);
        ab += inner(a, b, count);
        for (uint64_t k = 0; k < count; k++)
            dd += (a[k] - b[k]) * (a[k] - b[k]);
    }
    must(compare_effects(&found, pairs, 5, 2, NULL));
    assert_true(is_near(found.total.norm_a, sqrtl(aa), 1e-12L * sqrtl(aa)));
    assert_true(is_near(found.total.norm_b, sqrtl(bb), 1e-12L * sqrtl(bb)));
    assert_true(is_near(found.total.delta_norm, sqrtl(dd), 1e-12L * sqrtl(dd)));
    assert_true(is_near(found.total.relative, sqrtl(dd / aa), 1e-12L * sqrtl(dd / aa)));
    assert_true(is_near(found.total.cosine, ab / sqrtl(aa * bb), 1e-12L));
    for (size_t i = 0; i < 5; i++)
        sample_release(&samples[i]);
}

static void threads_change_no_bit(void **state)
{
    AUTO_ACTOR(a);
    AUTO_ACTOR(b);
    AUTO_COMPARISONS(one);
    AUTO_FREE(struct effect_pair, pairs);

    (void)state;
    actor_open(&a, "minilm-tenant-0/step-040");
    actor_open(&b, "minilm-tenant-1/step-040");
    pairs = pairs_new(&a, &b);
    must(compare_effects(&one, pairs, a.effects.count, 1, NULL));
    for (unsigned threads = 2; threads < 5; threads++) {
        AUTO_COMPARISONS(more);
        must(compare_effects(&more, pairs, a.effects.count, threads, NULL));
        assert_memory_equal(one.modules, more.modules, one.count * sizeof(*one.modules));
        assert_memory_equal(&one.total, &more.total, sizeof(one.total));
    }
}

static void what_is_not_finite_is_refused_by_name(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_COMPARISONS(found);
    const struct {
        double bad;
        const char *message;
    } cases[] = {
        {NAN, "module m: value 0 of lambda_d is not finite"},
        {INFINITY, "module m: value 0 of lambda_b is not finite"},
        {-INFINITY, "module m: value 0 of lambda_d is not finite"},
        {NAN, "module m: value 0 of lambda_b is not finite"},
    };

    (void)state;
    random_state = 4;
    sample_make(&sample, OTHER_BASIS, 1, 1);
    for (size_t i = 0; i < 4; i++) {
        double *value = i % 2 ? sample.b[i / 2] : sample.d[i / 2], saved = *value;
        *value = cases[i].bad;
        assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
        assert_string_equal(error_message(), cases[i].message);
        assert_null(found.modules);
        *value = saved;
    }
    for (size_t s = 0; s < 2; s++) {
        float *a = &sample.basis[s].a[0], *b = &sample.basis[s].b[0];
        *a = NAN;
        assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
        assert_non_null(strstr(error_message(), "A holds a value that is not finite"));
        *a = 1;
        *b = INFINITY;
        assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
        assert_non_null(strstr(error_message(), "B holds a value that is not finite"));
        *b = 1;
    }
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_COMPARISONS(found);

    (void)state;
    random_state = 4;
    sample_make(&sample, PLAIN, 1, 1);
    sample.pair.in = sample.basis[0].in + 1;
    assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    sample.pair.in = 0;
    assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    sample.pair.in = 1;
    sample.pair.out = sample.basis[0].out + 1;
    assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    sample.pair.out = 1;
    must(compare_effects(&found, &sample.pair, 1, 1, NULL));
    sample.basis[0].out = LIMIT_BASIS_VALUES / sample.basis[0].rank + 1;
    assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_LIMIT);
    sample.basis[0].out = 1;
}

static void a_norm_beyond_the_doubles_is_no_number(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_COMPARISONS(found);

    (void)state;
    random_state = 4;
    sample_make(&sample, PLAIN, 1e200, 1e200); /* float32: infinite */
    for (uint64_t i = 0; i < sample.out; i++)
        sample.b[0][i] = sample.b[1][i] = 1e200;
    for (uint64_t k = 0; k < sample.basis[0].rank; k++)
        sample.d[0][k] = sample.d[1][k] = 1e200;
    assert_int_equal(compare_effects(&found, &sample.pair, 1, 1, NULL), E_INVALID);
    assert_string_equal(error_message(), "module m: a norm is beyond what a double holds");
}

static void every_allocation_may_fail(void **state)
{
    AUTO_SAMPLE(sample);
    int err = E_NOMEM, n = 0;

    (void)state;
    random_state = 5;
    sample_make(&sample, OTHER_BASIS, 1, 1);
    for (; err < 0; n++) {
        AUTO_COMPARISONS(found);
        fault_after = n;
        err = compare_effects(&found, &sample.pair, 1, 1, NULL);
        fault_after = -1;
        assert_true(err == 0 || (err == E_NOMEM && !found.modules));
    }
    assert_true(n > 8);
}

static void an_interrupt_ends_it(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_COMPARISONS(found);

    (void)state;
    random_state = 5;
    sample_make(&sample, PLAIN, 1, 1);
    interrupt_flag = 1;
    int err = compare_effects(&found, &sample.pair, 1, 1, NULL);
    interrupt_flag = 0;
    assert_int_equal(err, E_INTERRUPTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_the_fixtures_is_as_numpy_found_it),
        cmocka_unit_test(what_is_measured_is_what_the_built_matrices_have),
        cmocka_unit_test(huge_and_subnormal_vectors_are_measured_too),
        cmocka_unit_test(one_unit_in_the_last_place_of_one_d_is_measured),
        cmocka_unit_test(float64_vectors_keep_their_last_place_too),
        cmocka_unit_test(adapters_of_every_kind_have_the_norm_of_their_matrices),
        cmocka_unit_test(a_power_of_two_scales_norms_and_nothing_else),
        cmocka_unit_test(vectors_that_do_not_suit_are_no_effects),
        cmocka_unit_test(what_is_zero_has_no_ratio),
        cmocka_unit_test(the_total_is_that_of_one_matrix_of_all_modules),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(what_is_not_finite_is_refused_by_name),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(a_norm_beyond_the_doubles_is_no_number),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(an_interrupt_ends_it),
    };

    return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
