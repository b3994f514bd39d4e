/*
 * Tests of apply/merge.c and rank_one.c. What a merge says it lost is computed again from dW, built
 * element by element in long double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/lapack.h"
#include "apply/merge.h"
#include "apply/spectrum.h"
#include "format/interrupt.h"
#include "tests/effects.h"
#include "tests/fault.h"

#define SEEDS 200

static const struct merge_options task = {MERGE_TASK, 1, false, 2};
static const struct merge_options average = {MERGE_AVERAGE, 0.5, false, 2};

/* Three versions of the fixtures */

static struct merge_side side_of(const struct actor *actor, size_t module)
{
    const struct adapter_module *found = &actor->subject.loaded.adapter.modules[module];

    return (struct merge_side){
        .d = loaded_tensor(&actor->subject.loaded, found->d),
        .b = loaded_tensor(&actor->subject.loaded, found->b),
        .dtype_d = found->d->dtype,
        .dtype_b = found->b->dtype,
    };
}

static struct merge_module *
modules_new(const struct actor *base, const struct actor *ours, const struct actor *theirs)
{
    const struct adapter *adapter = &base->subject.loaded.adapter;
    struct merge_module *modules = array_new(adapter->module_count, sizeof(*modules));

    assert_non_null(modules);
    for (size_t i = 0; i < adapter->module_count; i++)
        modules[i] = (struct merge_module){
            .name = adapter->modules[i].name,
            .in = base->in[i],
            .out = adapter->modules[i].out,
            .base = side_of(base, i),
            .ours = side_of(ours, i),
            .theirs = side_of(theirs, i),
        };
    return modules;
}

static void real_merges_lose_no_more_than_they_must(void **state)
{
    const struct {
        const char *base, *ours, *theirs;
        const struct merge_options *options;
        double most;
    } cases[] = {
        {"llama/step-060", "llama-c/step-040", "llama-perl/step-040", &task, 0.0655},
        {"llama/step-060", "llama-c/step-040", "llama-perl/step-040", &average, 0.0338},
        {"minilm/step-160", "minilm-tenant-0/step-040", "minilm-tenant-1/step-040", &task, 0.0332},
        {"minilm/step-160", "minilm-tenant-0/step-040", "minilm-tenant-1/step-040", &average,
         0.0332},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ACTOR(base);
        AUTO_ACTOR(ours);
        AUTO_ACTOR(theirs);
        AUTO_MERGE(merge);
        AUTO_FREE(struct merge_module, modules);
        actor_open(&base, cases[i].base);
        actor_open(&ours, cases[i].ours);
        actor_open(&theirs, cases[i].theirs);
        modules = modules_new(&base, &ours, &theirs);
        must(merge_modules(&merge, &base.basis, modules, base.effects.count, cases[i].options));
        assert_true(merge.lost > 0 && merge.lost <= cases[i].most);
    }
}

/* Three versions that a seed makes up */

enum kind {
    PLAIN,
    SMALL,       /* changes of a thousandth */
    TINY,        /* changes of a few units in the last place */
    FROM_ZERO,   /* b of base is 0, as PEFT begins */
    NO_BASE,     /* base does not adapt the module */
    OPPOSING,    /* theirs takes back what ours adds: T is base */
    NEGATIVE,    /* theirs is -ours */
    DEFICIENT,   /* equal rows of A, equal columns of B, zeros */
    HUGE_VALUES, /* 1e30 */
    SUBNORMAL,   /* 1e-40 */
    SAME_B,      /* only d differs: T is of rank 1 */
    KINDS
};

struct sample {
    struct basis basis;
    enum dtype dtype;
    double *d[3], *b[3]; /* of base, ours, theirs: what is stored */
    struct buf bytes_d[3], bytes_b[3];
    struct merge_module module;
};

static void sample_release(struct sample *sample)
{
    basis_release(&sample->basis);
    for (size_t v = 0; v < 3; v++) {
        free(sample->d[v]);
        free(sample->b[v]);
        buf_release(&sample->bytes_d[v]);
        buf_release(&sample->bytes_b[v]);
    }
}

#define AUTO_SAMPLE(name) __attribute__((cleanup(sample_release))) struct sample name = {0}

/* Store `values` and take for them what is stored. */
static void store_values(struct buf *bytes, double *values, size_t count, enum dtype dtype)
{
    must(buf_resize(bytes, count * dtype_bits(dtype) / 8));
    dtype_narrow_double(bytes->data, values, count, dtype);
    dtype_widen_double(values, bytes->data, count, dtype);
}

static void sides_store(struct sample *sample)
{
    struct merge_side *sides[] = {
        &sample->module.base, &sample->module.ours, &sample->module.theirs};

    for (size_t v = 0; v < 3; v++) {
        store_values(&sample->bytes_d[v], sample->d[v], (size_t)sample->basis.rank, sample->dtype);
        store_values(&sample->bytes_b[v], sample->b[v], (size_t)sample->module.out, sample->dtype);
        *sides[v] = (struct merge_side
        ){buf_bytes(&sample->bytes_d[v]), buf_bytes(&sample->bytes_b[v]), sample->dtype,
          sample->dtype};
    }
}

/* value + a random change */
static void change(double *to, const double *from, size_t count, double scale)
{
    for (size_t i = 0; i < count; i++)
        to[i] = from[i] + scale * (double)random_float();
}

static void make_deficient(struct sample *sample)
{
    struct basis *basis = &sample->basis;

    for (uint64_t k = 1; k < basis->rank; k += 2) {
        memcpy(basis->a + k * basis->in, basis->a, (size_t)basis->in * sizeof(float));
        for (uint64_t i = 0; i < basis->out; i++)
            basis->b[i * basis->rank + k] = basis->b[i * basis->rank];
    }
    for (uint64_t k = 0; k < basis->rank; k++)
        basis->b[k] = 0;
    for (size_t v = 0; v < 3; v++)
        sample->d[v][0] = 0;
}

static void versions_make(struct sample *sample, enum kind kind)
{
    size_t rank = (size_t)sample->basis.rank, out = (size_t)sample->module.out;
    double scale = kind == HUGE_VALUES ? 1e30 : kind == SUBNORMAL ? 1e-40 : 1;
    double moves = kind == SMALL ? 1e-3 : kind == TINY ? 3e-7 : 0.7;

    for (size_t v = 0; v < 3; v++) {
        sample->d[v] = random_vector(rank, scale);
        sample->b[v] = random_vector(out, scale);
    }
    for (size_t v = 1; v < 3; v++) {
        change(sample->d[v], sample->d[0], rank, moves * scale);
        change(sample->b[v], sample->b[0], out, kind == SAME_B ? 0 : moves * scale);
    }
    if (kind == OPPOSING || kind == NEGATIVE) {
        for (size_t k = 0; k < rank; k++)
            sample->d[1][k] = sample->d[2][k] = sample->d[0][k];
        for (size_t i = 0; i < out; i++)
            sample->b[2][i] = (kind == OPPOSING ? 2 * sample->b[0][i] : 0) - sample->b[1][i];
    }
    if (kind == FROM_ZERO)
        memset(sample->b[0], 0, out * sizeof(double));
    if (kind == DEFICIENT)
        make_deficient(sample);
}

static void sample_make(struct sample *sample, uint64_t seed, enum kind kind, enum dtype dtype)
{
    random_state = seed * 64 + (uint64_t)kind;
    uint64_t rank = 1 + random_below(12), in = 1 + random_below(20), out = 1 + random_below(20);

    random_basis(&sample->basis, rank, in + random_below(3), out + random_below(3));
    sample->dtype = dtype;
    sample->module = (struct merge_module){.name = "m", .in = in, .out = out};
    versions_make(sample, kind);
    sides_store(sample);
    if (kind == NO_BASE)
        sample->module.base = (struct merge_side){0};
}

/* dW of a version, or of what a merge gave, weighted, added to w. */
static void side_add(
    long double *w, const struct sample *sample, const struct merge_side *side, long double weight
)
{
    AUTO_FREE(double, values);
    size_t rank = (size_t)sample->basis.rank, out = (size_t)sample->module.out;

    if (!side->d.data)
        return;
    assert_non_null(values = array_new(rank + out, sizeof(*values)));
    dtype_widen_double(values, side->d.data, rank, side->dtype_d);
    dtype_widen_double(values + rank, side->b.data, out, side->dtype_b);
    struct effect effect = {&sample->basis, values, values + rank};
    effect_add(w, &effect, sample->module.in, sample->module.out, weight);
}

/* || weights . (base, ours, theirs) + weight * merged || */
static long double built_norm(
    const struct sample *sample,
    const long double weights[3],
    const struct merge_side *merged,
    long double weight
)
{
    const struct merge_module *module = &sample->module;
    AUTO_FREE(long double, w);

    assert_non_null(w = array_new((size_t)(module->in * module->out), sizeof(*w)));
    side_add(w, sample, &module->base, weights[0]);
    side_add(w, sample, &module->ours, weights[1]);
    side_add(w, sample, &module->theirs, weights[2]);
    if (merged)
        side_add(w, sample, merged, weight);
    return sqrtl(inner(w, w, module->in * module->out));
}

static void wanted_weights(long double weights[3], const struct merge_options *options)
{
    bool is_task = options->strategy == MERGE_TASK;

    weights[0] = is_task ? -options->weight : 0;
    weights[1] = is_task ? 1 : 1 - (long double)options->weight;
    weights[2] = options->weight;
}

static struct merge_side merged_side(const struct sample *sample, const struct merge *merge)
{
    return (struct merge_side
    ){buf_bytes(&merge->modules[0].d), buf_bytes(&merge->modules[0].b), sample->dtype,
      sample->dtype};
}

/* Everything that is said about a module that both sides changed is true, and no version given is
   nearer to T. */
static void assert_true_to(
    const struct sample *sample,
    const struct merge *merge,
    const struct merge_options *options,
    const char *what
)
{
    const struct merged_module *found = &merge->modules[0];
    struct merge_side merged = merged_side(sample, merge);
    long double wanted[3];

    wanted_weights(wanted, options);
    const long double minus[3] = {-wanted[0], -wanted[1], -wanted[2]};
    const long double change_wanted[3] = {wanted[0] - 1, wanted[1], wanted[2]};
    long double size = built_norm(sample, (const long double[3]){1, 0, 0}, NULL, 0) +
                       built_norm(sample, (const long double[3]){0, 1, 0}, NULL, 0) +
                       built_norm(sample, (const long double[3]){0, 0, 1}, NULL, 0);
    long double left = built_norm(sample, minus, &merged, 1);
    const long double numbers[][2] = {
        {found->residual_norm, left},
        {found->wanted_norm, built_norm(sample, change_wanted, NULL, 0)},
        {found->ours_norm, built_norm(sample, (const long double[3]){-1, 1, 0}, NULL, 0)},
        {found->theirs_norm, built_norm(sample, (const long double[3]){-1, 0, 1}, NULL, 0)},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (fabsl(numbers[i][0] - numbers[i][1]) > 1e-9L * numbers[i][1] + 1e-14L * size)
            fail_msg(
                "%s: number %zu is %Lg, not %Lg (of %Lg)", what, i, numbers[i][0], numbers[i][1],
                size
            );
    }
    for (size_t v = 0; v < 3; v++) {
        long double version[3] = {minus[0], minus[1], minus[2]};
        version[v] += 1;
        if (left > built_norm(sample, version, NULL, 0) * (1 + 1e-9L) + 1e-14L * size)
            fail_msg("%s: version %zu is nearer", what, v);
    }
    double larger = fmax(found->ours_norm, found->theirs_norm);
    assert_true(merge->residual_norm == found->residual_norm || found->residual_norm > 0);
    assert_true(is_near(
        found->residual, found->residual_norm == 0 ? 0 : found->residual_norm / larger, 1e-15L
    ));
}

/* ||d|| is the mean of the sides', and d looks where they do. */
static void assert_scaled(const struct sample *sample, const struct merge *merge, const char *what)
{
    size_t rank = (size_t)sample->basis.rank;
    AUTO_FREE(double, d);
    long double norms[3] = {0}, along = 0;

    if (merge->modules[0].taken != MERGE_FITTED)
        return;
    assert_non_null(d = array_new(rank, sizeof(*d)));
    dtype_widen_double(d, merge->modules[0].d.data, rank, sample->dtype);
    for (size_t k = 0; k < rank; k++) {
        long double ours = sample->d[1][k], theirs = sample->d[2][k];
        norms[0] += (long double)d[k] * (long double)d[k];
        norms[1] += ours * ours;
        norms[2] += theirs * theirs;
        along += (long double)d[k] * (ours + theirs);
    }
    long double mean = (sqrtl(norms[1]) + sqrtl(norms[2])) / 2;
    long double rounding = sample->dtype == DTYPE_F32    ? 0x1p-23L
                           : sample->dtype == DTYPE_BF16 ? 0x1p-7L
                                                         : 0x1p-10L;
    if (fabsl(sqrtl(norms[0]) - mean) > rounding * mean + 0x1p-140L ||
        along < -rounding * mean * mean)
        fail_msg("%s: ||d|| is %Lg, not %Lg; along %Lg", what, sqrtl(norms[0]), mean, along);
}

static void assert_kind(enum kind kind, enum dtype dtype, const struct merge_options *options)
{
    unsigned fitted = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        AUTO_SAMPLE(sample);
        AUTO_MERGE(merge);
        char what[96];
        snprintf(
            what, sizeof(what), "kind %d, %s, %s, seed %ju", (int)kind, dtype_name(dtype),
            options->strategy == MERGE_TASK ? "task" : "average", (uintmax_t)seed
        );
        sample_make(&sample, seed, kind, dtype);
        if (bytes_equal(sample.module.ours.d, sample.module.base.d) ||
            bytes_equal(sample.module.ours.b, sample.module.theirs.b))
            continue; /* too few digits to be different in */
        must(merge_modules(&merge, &sample.basis, &sample.module, 1, options));
        assert_true_to(&sample, &merge, options, what);
        assert_scaled(&sample, &merge, what);
        fitted += merge.modules[0].taken == MERGE_FITTED;
    }
    if ((kind == PLAIN || kind == FROM_ZERO || kind == NO_BASE) && fitted < SEEDS / 2)
        fail_msg("kind %d: only %u fitted", kind, fitted);
}

static void what_a_merge_says_of_itself_is_true(void **state)
{
    static const struct merge_options others[] = {
        {MERGE_TASK, 0.3, false, 1}, {MERGE_TASK, -1, false, 1}, {MERGE_AVERAGE, 0.9, false, 1}};

    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        assert_kind((enum kind)kind, DTYPE_F32, &task);
        assert_kind((enum kind)kind, DTYPE_F32, &average);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_kind(PLAIN, DTYPE_F32, &others[i]);
}

static void sixteen_bits_are_measured_after_rounding(void **state)
{
    (void)state;
    assert_kind(PLAIN, DTYPE_BF16, &task);
    assert_kind(PLAIN, DTYPE_F16, &average);
    assert_kind(OPPOSING, DTYPE_BF16, &task);
    assert_kind(SMALL, DTYPE_BF16, &task);
    assert_kind(PLAIN, DTYPE_F64, &task);
}

static void assert_same_bits(const struct merge *a, const struct merge *b, const char *what)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        if (!bytes_equal(buf_bytes(&a->modules[i].d), buf_bytes(&b->modules[i].d)) ||
            !bytes_equal(buf_bytes(&a->modules[i].b), buf_bytes(&b->modules[i].b)))
            fail_msg("%s: module %zu has other bits", what, i);
    }
    assert_true(a->residual_norm == b->residual_norm);
    assert_true(a->wanted_norm == b->wanted_norm);
    assert_true(a->residual == b->residual);
}

static void exchange(struct merge_module *module)
{
    struct merge_side ours = module->ours;

    module->ours = module->theirs;
    module->theirs = ours;
}

static void exchanging_the_sides_gives_the_same_bits(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

    (void)state;
    for (uint64_t seed = 0; seed < (uint64_t)SEEDS * KINDS; seed++) {
        const struct merge_options *options = seed % 2 ? &task : &average;
        AUTO_SAMPLE(sample);
        AUTO_MERGE(one);
        AUTO_MERGE(other);
        char what[32];
        snprintf(what, sizeof(what), "seed %ju", (uintmax_t)seed);
        enum kind kind = (enum kind)(seed % KINDS);
        sample_make(&sample, seed, kind, kind == HUGE_VALUES ? DTYPE_F32 : dtypes[seed % 3]);
        must(merge_modules(&one, &sample.basis, &sample.module, 1, options));
        exchange(&sample.module);
        must(merge_modules(&other, &sample.basis, &sample.module, 1, options));
        assert_same_bits(&one, &other, what);
    }
}

static void the_real_ones_too_with_any_number_of_threads(void **state)
{
    AUTO_ACTOR(base);
    AUTO_ACTOR(ours);
    AUTO_ACTOR(theirs);
    AUTO_MERGE(one);
    AUTO_FREE(struct merge_module, modules);
    struct merge_options options = {MERGE_TASK, 1, true, 1};

    (void)state;
    actor_open(&base, "llama/step-060");
    actor_open(&ours, "llama-c/step-040");
    actor_open(&theirs, "llama-perl/step-040");
    modules = modules_new(&base, &ours, &theirs);
    must(merge_modules(&one, &base.basis, modules, base.effects.count, &options));
    for (options.threads = 1; options.threads < 5; options.threads++) {
        AUTO_MERGE(other);
        for (size_t i = 0; i < base.effects.count; i++)
            exchange(&modules[i]);
        must(merge_modules(&other, &base.basis, modules, base.effects.count, &options));
        assert_same_bits(&one, &other, "llama");
        assert_int_equal(one.rank_99, other.rank_99);
    }
    for (size_t i = 0; i < one.count; i++)
        assert_int_equal(one.modules[i].taken, MERGE_FITTED);
    assert_true(0 < one.rank_90 && one.rank_90 < one.rank_99 && one.rank_99 < one.rank_999);
    assert_true(one.rank_999 <= 32);
}

/* Which of base, ours, theirs stands where. */
static void who_changed_alone_is_taken_bit_for_bit(void **state)
{
    static const struct {
        size_t base, ours, theirs;
        enum merge_taken taken;
    } cases[] = {
        {0, 0, 0, MERGE_BASE}, {0, 1, 0, MERGE_OURS},   {0, 0, 1, MERGE_THEIRS},
        {0, 1, 1, MERGE_BOTH}, {3, 3, 3, MERGE_BASE}, /* 3: not there */
        {3, 1, 3, MERGE_OURS}, {3, 3, 1, MERGE_THEIRS}, {3, 1, 1, MERGE_BOTH},
        {0, 3, 0, MERGE_OURS}, {0, 0, 3, MERGE_THEIRS}, {0, 3, 3, MERGE_BOTH},
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = i / 2;
        AUTO_SAMPLE(sample);
        AUTO_MERGE(merge);
        sample_make(&sample, n, PLAIN, DTYPE_BF16);
        const struct merge_side versions[] = {
            sample.module.base, sample.module.ours, sample.module.theirs, {.dtype_d = DTYPE_F32}};
        sample.module.base = versions[cases[n].base];
        sample.module.ours = versions[cases[n].ours];
        sample.module.theirs = versions[cases[n].theirs];
        must(merge_modules(&merge, &sample.basis, &sample.module, 1, i % 2 ? &task : &average));

        const struct merged_module *found = &merge.modules[0];
        const struct merge_side *taken = cases[n].taken == MERGE_BASE     ? &sample.module.base
                                         : cases[n].taken == MERGE_THEIRS ? &sample.module.theirs
                                                                          : &sample.module.ours;
        assert_int_equal(found->taken, cases[n].taken);
        assert_true(bytes_equal(buf_bytes(&found->d), taken->d));
        assert_true(bytes_equal(buf_bytes(&found->b), taken->b));
        assert_true(found->residual == 0 && found->residual_norm == 0 && merge.lost == 0);
        assert_true((found->ours_norm > 0) == (cases[n].ours != cases[n].base));
        assert_true((found->theirs_norm > 0) == (cases[n].theirs != cases[n].base));
        double larger = fmax(found->ours_norm, found->theirs_norm);
        assert_true(is_near(found->wanted_norm, larger, 1e-12L * larger));
    }
}

static void totals_are_those_of_one_matrix_of_all_modules(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_MERGE(merge);

    (void)state;
    sample_make(&sample, 1, PLAIN, DTYPE_F32);
    struct merge_module modules[] = {sample.module, sample.module};
    exchange(&modules[1]);
    modules[1].theirs = modules[1].base;
    must(merge_modules(&merge, &sample.basis, modules, 2, &task));
    const struct merged_module *one = &merge.modules[0], *two = &merge.modules[1];
    double ours = hypot(one->ours_norm, two->ours_norm);
    double wanted = hypot(one->wanted_norm, two->wanted_norm);
    assert_int_equal(two->taken, MERGE_OURS);
    assert_true(is_near(merge.ours_norm, ours, 1e-14L * ours));
    assert_true(is_near(merge.theirs_norm, one->theirs_norm, 1e-14L * ours));
    assert_true(is_near(merge.wanted_norm, wanted, 1e-14L * wanted));
    assert_true(is_near(merge.residual_norm, one->residual_norm, 1e-14L * ours));
    assert_true(is_near(
        merge.residual, one->residual_norm / fmax(merge.ours_norm, merge.theirs_norm), 1e-14L
    ));
    assert_true(is_near(merge.lost, one->residual_norm / wanted, 1e-14L));
}

/* T - base is ours alone: its ranks are those of ours' spectrum. */
static void ranks_are_those_of_the_wanted_change(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_MERGE(merge);
    AUTO_SPECTRA(spectra);
    const struct merge_options options = {MERGE_TASK, 1, true, 1};

    (void)state;
    sample_make(&sample, 9, NO_BASE, DTYPE_F32);
    sample.module.theirs = sample.module.base;
    struct effect_pair pair = {
        .name = "m",
        .in = sample.module.in,
        .out = sample.module.out,
        .a = {&sample.basis, sample.d[1], sample.b[1]},
    };
    must(merge_modules(&merge, &sample.basis, &sample.module, 1, &options));
    must(spectra_make(&spectra, &pair, 1, 1, NULL));
    assert_true(merge.rank_90 > 0);
    assert_int_equal(merge.rank_90, spectra_rank(&spectra, 0.9));
    assert_int_equal(merge.rank_99, spectra_rank(&spectra, 0.99));
    assert_int_equal(merge.rank_999, spectra_rank(&spectra, 0.999));
}

static void what_cannot_be_merged_is_listed(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_MERGE(merge);

    (void)state;
    sample_make(&sample, 1, PLAIN, DTYPE_F32);
    struct merge_module modules[] = {sample.module, sample.module, sample.module};
    modules[0].name = "dropped";
    modules[0].theirs = (struct merge_side){0};
    modules[1].name = "other.type";
    modules[1].ours.dtype_d = DTYPE_F64;
    modules[1].ours.d.data = modules[1].ours.b.data;
    AUTO_BUF(wide);
    must(buf_resize(&wide, (size_t)sample.basis.rank * 8));
    modules[1].ours.d = buf_bytes(&wide);
    assert_int_equal(merge_modules(&merge, &sample.basis, modules, 3, &task), E_CONFLICT);
    assert_string_equal(
        error_message(), "2 of 3 modules cannot be merged\n"
                         "  dropped: changed by ours, dropped by theirs\n"
                         "  other.type: d, b are F64, F32 in ours and F32, F32 in theirs"
    );
    assert_null(merge.modules);
}

static void what_is_not_acceptable_is_refused_by_name(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_MERGE(merge);
    struct merge_options options = task;
    const float bad = NAN, infinite = -INFINITY;

    (void)state;
    sample_make(&sample, 1, PLAIN, DTYPE_F32);
    const struct basis *basis = &sample.basis;
    struct merge_module module = sample.module;
    memcpy(sample.bytes_d[2].data, &bad, sizeof(bad));
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_INVALID);
    assert_string_equal(error_message(), "theirs: module m: value 0 of lambda_d is not finite");
    module.theirs = module.ours;
    memcpy(sample.bytes_b[0].data, &infinite, sizeof(infinite));
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_INVALID);
    assert_string_equal(error_message(), "base: module m: value 0 of lambda_b is not finite");
    module.base = module.ours;
    must(merge_modules(&merge, basis, &module, 1, &task));
    merge_release(&merge);

    module.ours.d.len--;
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_INVALID);
    module.ours.d.len++;
    module.ours.dtype_b = DTYPE_I32;
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_UNSUPPORTED);
    module.ours.dtype_b = DTYPE_F32;
    module.in = basis->in + 1;
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_INVALID);
    module.in = 1;
    options.weight = NAN;
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &options), E_INVALID);
    sample.basis.b[0] = INFINITY;
    assert_int_equal(merge_modules(&merge, basis, &module, 1, &task), E_INVALID);
    assert_null(merge.modules);
}

static void the_rank_has_a_limit(void **state)
{
    const uint64_t rank = LIMIT_DENSE_RANK + 1;
    AUTO_FREE(float, values);
    AUTO_MERGE(merge);

    (void)state;
    assert_non_null(values = array_new((size_t)rank, 4 * sizeof(*values)));
    for (size_t i = 0; i < 4 * rank; i++)
        values[i] = 1 + (float)i;
    const struct basis basis = {.a = values, .b = values, .rank = rank, .in = 1, .out = 1};
    struct merge_module module = {.name = "m", .in = 1, .out = 1};
    struct merge_side *sides[] = {&module.base, &module.ours, &module.theirs};
    for (size_t v = 0; v < 3; v++) {
        const uint8_t *at = (const uint8_t *)(values + v * rank);
        *sides[v] = (struct merge_side){{at, (size_t)rank * 4}, {at, 4}, DTYPE_F32, DTYPE_F32};
    }
    assert_int_equal(merge_modules(&merge, &basis, &module, 1, &task), E_LIMIT);
    assert_null(merge.modules);
}

static void every_allocation_may_fail(void **state)
{
    AUTO_SAMPLE(sample);
    const struct merge_options options = {MERGE_TASK, 1, true, 1};
    int err = E_NOMEM, n = 0;

    (void)state;
    sample_make(&sample, 5, DEFICIENT, DTYPE_F32);
    must(lapack_load());
    for (; err < 0; n++) {
        AUTO_MERGE(merge);
        fault_after = n;
        err = merge_modules(&merge, &sample.basis, &sample.module, 1, &options);
        fault_after = -1;
        assert_true(err == 0 || (err == E_NOMEM && !merge.modules));
    }
    assert_true(n > 20);
}

static void an_interrupt_ends_it(void **state)
{
    AUTO_SAMPLE(sample);
    AUTO_MERGE(merge);

    (void)state;
    sample_make(&sample, 5, PLAIN, DTYPE_F32);
    interrupt_flag = 1;
    int err = merge_modules(&merge, &sample.basis, &sample.module, 1, &task);
    interrupt_flag = 0;
    assert_int_equal(err, E_INTERRUPTED);
}

/* merge_elements() */

static void elements_are_merged_in_double_and_rounded_once(void **state)
{
    static const struct {
        float base, ours, theirs, task, average;
    } cases[] = {
        {1, 2, 4, 5, 3},
        {1, 2, 1, 2, 1.5f},
        {1, 1, 4, 4, 2.5f},
        {0x1p100f, 0x1p100f, 3, 3, 0x1p99f},
        {0x1p100f, 3, 0x1p100f, 3, 0x1p99f},
        {0x1p100f, 5, 0x1.000002p100f, 0x1p77f, 0x1.000002p99f},
        {-0.0f, 0.0f, -0.0f, 0.0f, 0.0f},
        {-0.0f, -0.0f, 0.0f, 0.0f, 0.0f},
        {0, -INFINITY, 0, -INFINITY, -INFINITY},
        {-INFINITY, -INFINITY, 5, 5, -INFINITY},
        {0x1p-149f, 0x1p-148f, 0x1p-149f, 0x1p-148f, 0x1p-148f},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bytes base = {(const uint8_t *)&cases[i].base, 4};
        struct bytes ours = {(const uint8_t *)&cases[i].ours, 4};
        struct bytes theirs = {(const uint8_t *)&cases[i].theirs, 4};
        float found[4];
        must(merge_elements((uint8_t *)&found[0], base, ours, theirs, DTYPE_F32, &task));
        must(merge_elements((uint8_t *)&found[1], base, theirs, ours, DTYPE_F32, &task));
        must(merge_elements((uint8_t *)&found[2], base, ours, theirs, DTYPE_F32, &average));
        must(merge_elements((uint8_t *)&found[3], base, theirs, ours, DTYPE_F32, &average));
        const float wanted[] = {cases[i].task, cases[i].task, cases[i].average, cases[i].average};
        for (size_t k = 0; k < 4; k++) {
            if (memcmp(&found[k], &wanted[k], 4) != 0)
                fail_msg("case %zu, %zu: %a, not %a", i, k, (double)found[k], (double)wanted[k]);
        }
    }
}

static void elements_that_are_no_numbers_are_refused(void **state)
{
    const float large = 0x1.fffffep127f, minus = -0x1.fffffep127f, infinite = INFINITY, nan = NAN;
    struct bytes l = {(const uint8_t *)&large, 4}, m = {(const uint8_t *)&minus, 4};
    struct bytes i = {(const uint8_t *)&infinite, 4}, n = {(const uint8_t *)&nan, 4}, none = {0};
    uint8_t out[4];

    (void)state;
    assert_int_equal(merge_elements(out, m, l, l, DTYPE_F32, &task), E_INVALID);
    assert_int_equal(merge_elements(out, i, l, m, DTYPE_F32, &task), 0);
    assert_int_equal(merge_elements(out, i, i, i, DTYPE_F32, &task), 0);
    assert_int_equal(merge_elements(out, l, n, m, DTYPE_F32, &task), E_INVALID);
    assert_int_equal(merge_elements(out, n, n, n, DTYPE_F32, &task), 0);
    assert_memory_equal(out, &nan, 4);
    assert_int_equal(merge_elements(out, none, l, m, DTYPE_F32, &task), 0);
    assert_int_equal(merge_elements(out, l, l, l, DTYPE_I32, &task), E_UNSUPPORTED);
    l.len = 2;
    assert_int_equal(merge_elements(out, m, l, m, DTYPE_F32, &task), E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_merge_says_of_itself_is_true),
        cmocka_unit_test(sixteen_bits_are_measured_after_rounding),
        cmocka_unit_test(exchanging_the_sides_gives_the_same_bits),
        cmocka_unit_test(the_real_ones_too_with_any_number_of_threads),
        cmocka_unit_test(who_changed_alone_is_taken_bit_for_bit),
        cmocka_unit_test(totals_are_those_of_one_matrix_of_all_modules),
        cmocka_unit_test(ranks_are_those_of_the_wanted_change),
        cmocka_unit_test(what_cannot_be_merged_is_listed),
        cmocka_unit_test(what_is_not_acceptable_is_refused_by_name),
        cmocka_unit_test(the_rank_has_a_limit),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(an_interrupt_ends_it),
        cmocka_unit_test(elements_are_merged_in_double_and_rounded_once),
        cmocka_unit_test(elements_that_are_no_numbers_are_refused),
        cmocka_unit_test(real_merges_lose_no_more_than_they_must),
    };

    return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
