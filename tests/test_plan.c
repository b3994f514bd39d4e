/* Tests of apply/plan.c, match.c, replace.c and describe.c: what of a base an adapter changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "apply/plan.h"
#include "format/limits.h"
#include "tests/fault.h"
#include "tests/models.h"

/* An adapter and a model, opened; all of it is released with it. */
struct bench {
    struct adapter_files files;
    struct base_facts facts;
    struct snapshot snapshot;
    struct loaded_adapter loaded;
    struct model model;
    struct plan plan;
};

#define AUTO_BENCH(name) __attribute__((cleanup(bench_release))) struct bench name = {0}

static void bench_release(struct bench *bench)
{
    plan_release(&bench->plan);
    model_release(&bench->model);
    loaded_adapter_release(&bench->loaded);
    snapshot_release(&bench->snapshot);
    base_facts_release(&bench->facts);
    adapter_files_release(&bench->files);
}

/* `pin`: the model that the version was committed with, or NULL. */
static void bench_open(struct bench *bench, const char *adapter, const char *pin, const char *model)
{
    AUTO_MODEL(pinned);
    AUTO_SNAPSHOT(bare);
    AUTO_LOADED_ADAPTER(loaded);

    assert_int_equal(adapter_files_read(&bench->files, adapter, false, NULL), 0);
    if (pin) {
        assert_int_equal(model_open(&pinned, pin), 0);
        assert_int_equal(snapshot_encode(&bare, &bench->files, NULL), 0);
        assert_int_equal(adapter_load(&loaded, &bare), 0);
        assert_int_equal(model_describe(&bench->facts, &pinned, &loaded.adapter, NULL), 0);
    }
    assert_int_equal(
        snapshot_encode(&bench->snapshot, &bench->files, pin ? &bench->facts : NULL), 0
    );
    assert_int_equal(adapter_load(&bench->loaded, &bench->snapshot), 0);
    if (model_open(&bench->model, model) < 0)
        fail_msg("%s", error_message());
}

static void bench_plan(struct bench *bench)
{
    if (plan_make(&bench->plan, &bench->loaded, &bench->model) < 0)
        fail_msg("%s", error_message());
}

#define BASE(name)    FIXTURES "/base/" name
#define ADAPTER(name) FIXTURES "/adapter/" name

static void test_real_adapters_match_their_bases(void **state)
{
    static const struct {
        const char *adapter, *model;
        size_t targets, replacements;
        uint64_t in_max, out_max;
        enum dtype dtype;
    } cases[] = {
        {ADAPTER("llama/step-120"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-vectors-only"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-c/step-040"), BASE("llama"), 14, 0, 176, 176, DTYPE_F32},
        {ADAPTER("llama-half/step-030"), BASE("llama-half"), 14, 0, 176, 176, DTYPE_BF16},
        {ADAPTER("llama-half-vectors"), BASE("llama-half"), 14, 0, 176, 176, DTYPE_BF16},
        {ADAPTER("gpt2/step-040"), BASE("gpt2"), 8, 0, 192, 192, DTYPE_F32},
        {ADAPTER("bert/step-040"), BASE("bert"), 2, 4, 32, 32, DTYPE_F32},
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BENCH(bench);
        bench_open(
            &bench, cases[i / 2].adapter, i % 2 ? cases[i / 2].model : NULL, cases[i / 2].model
        );
        bench_plan(&bench);
        assert_int_equal(bench.plan.target_count, cases[i / 2].targets);
        assert_int_equal(bench.plan.replacement_count, cases[i / 2].replacements);
        assert_int_equal(bench.plan.added_count, 0);
        assert_int_equal(bench.plan.in_max, cases[i / 2].in_max);
        assert_int_equal(bench.plan.out_max, cases[i / 2].out_max);
        assert_int_equal(bench.plan.dtype, cases[i / 2].dtype);
        assert_int_equal(bench.plan.pinned, i % 2);
        assert_string_equal(bench.plan.prefix, "");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_real_adapters_match_their_bases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
