/*
 * Tests of apply/registry.c: what PEFT gives for a batch of four adapters, what is refused and by
 * which name, who goes when the budget is used up, and many threads at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>

#include "format/bundle.h"
#include "tests/fault.h"
#include "tests/registries.h"

#define FAMILY "llama/step-120"

/* The llama base's modules, and a registry on the basis of FAMILY. */
struct house {
    struct subject like;
    struct model base;
    struct module_list list;
    struct registry *registry;
};

static void house_release(struct house *house)
{
    registry_free(house->registry);
    model_release(&house->base);
    subject_release(&house->like);
}

#define AUTO_HOUSE(name) __attribute__((cleanup(house_release))) struct house name = {0}

static void house_open(struct house *house, enum dtype vectors, uint64_t budget)
{
    fixture_open(&house->like, FAMILY, NULL);
    assert_int_equal(model_open(&house->base, FIXTURES "/base/llama"), 0);
    base_modules(&house->list, &house->like.loaded.adapter, &house->base);
    house->registry = registry_like(&house->like.loaded, &house->list, vectors, budget);
}

/* How many adapters a registry of that budget holds. */
static uint64_t capacity_of(struct registry_options *options, uint64_t budget)
{
    struct registry *registry = NULL;
    struct registry_stats stats;

    options->budget_bytes = budget;
    int err = registry_new(&registry, options);
    if (err == E_LIMIT)
        return 0;
    assert_int_equal(err, 0);
    registry_stats(&stats, registry);
    registry_free(registry);
    return stats.capacity;
}

/* The least budget for so many adapters. */
static uint64_t budget_for(const struct house *house, uint32_t adapters)
{
    AUTO_BASIS(basis);
    uint64_t low = 0;

    assert_int_equal(basis_load(&basis, &house->like.loaded, 176, 176, DTYPE_F32), 0);
    struct registry_options options = {
        .modules = house->list.modules,
        .module_count = house->list.count,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
    };
    for (uint64_t bytes = MIB; bytes > 0; bytes /= 2) {
        if (capacity_of(&options, low + bytes) < adapters)
            low += bytes;
    }
    assert_int_equal(capacity_of(&options, low), adapters - 1);
    return low + 1;
}

/* The registry again, for so many adapters. */
static void house_resize(struct house *house, uint32_t adapters)
{
    uint64_t budget = budget_for(house, adapters);

    registry_free(house->registry);
    house->registry = registry_like(&house->like.loaded, &house->list, DTYPE_F32, budget);
}

/* ---- What comes out ---- */

static void a_mixed_batch_is_what_peft_gives(void **state)
{
    static const char *const names[] = {EXPECTED_ADAPTERS};
    static const struct {
        enum dtype vectors;
        double bound; /* of the largest magnitude */
    } cases[] = {{DTYPE_F32, 1e-6}, {DTYPE_BF16, 1e-2}, {DTYPE_F16, 1e-3}};

    (void)state;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        AUTO_EXPECTED(expected);
        AUTO_HOUSE(house);
        float y[64 * 64], *nothing = calloc(64 * 64, sizeof(float));
        int32_t held[4], slots[64];
        house_open(&house, cases[c].vectors, 16 * MIB);
        expected_open(&expected);
        for (size_t i = 0; i < 4; i++) {
            AUTO_SUBJECT(subject);
            fixture_open(&subject, names[i], NULL);
            assert_int_equal(registry_add(&held[i], house.registry, &subject.loaded, 0), 0);
        }
        assert_true(expected.rows * expected.out <= 64 * 64 && expected.rows <= 64);
        for (size_t n = 0; n < expected.rows; n++)
            slots[n] = held[expected.adapter[n]];
        base_forward(y, &expected, &house.base);
        double base_off = largest_difference(y, expected.y, expected.rows * expected.out);
        struct registry_rows rows = {
            .count = expected.rows,
            .slots = slots,
            .dtype = DTYPE_F32,
            .x = expected.x,
            .y = y,
        };
        size_t module = module_find(&house.list, DOWN);
        assert_int_equal(registry_forward(house.registry, module, &rows, 2), 0);
        double off = largest_difference(y, expected.y, expected.rows * expected.out);
        double magnitude = largest_difference(expected.y, nothing, expected.rows * expected.out);
        assert_true(off <= cases[c].bound * magnitude);
        assert_true(base_off > 0.05 * magnitude); /* the adapters do something */
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(registry_drop(house.registry, held[i]), 0);
        free(nothing);
    }
}

static void rows_without_an_adapter_keep_their_bits(void **state)
{
    AUTO_HOUSE(house);
    float x[5 * 64], y[5 * 64], before[5 * 64];
    int32_t slots[5] = {-1, 0, -1, 0, -1};

    (void)state;
    house_open(&house, DTYPE_F32, 16 * MIB);
    assert_int_equal(registry_add(&slots[1], house.registry, &house.like.loaded, 0), 0);
    slots[3] = slots[1];
    for (size_t i = 0; i < 5 * 64; i++) {
        x[i] = (float)i;
        y[i] = i % 2 ? NAN : -0.0f;
    }
    memcpy(before, y, sizeof(y));
    size_t module = module_find(&house.list, "model.layers.0.self_attn.q_proj");
    struct registry_rows rows = {.count = 5, .slots = slots, .dtype = DTYPE_F32, .x = x, .y = y};
    assert_int_equal(registry_forward(house.registry, module, &rows, 1), 0);
    for (size_t n = 0; n < 5; n += 2)
        assert_memory_equal(y + 64 * n, before + 64 * n, 64 * sizeof(float));
    assert_memory_not_equal(y + 64, before + 64, 64 * sizeof(float));
    assert_int_equal(registry_drop(house.registry, slots[1]), 0);
}

static void directory_bundle_and_snapshot_are_one_adapter(void **state)
{
    AUTO_HOUSE(house);
    AUTO_BUF(bundle);
    struct registry_stats stats;
    struct digest id;
    int32_t held;

    (void)state;
    house_open(&house, DTYPE_F32, 16 * MIB);
    assert_int_equal(registry_add(NULL, house.registry, &house.like.loaded, 0), 0);
    for (int whole = 0; whole < 2; whole++) {
        AUTO_BUF(data);
        assert_int_equal(bundle_encode(&data, &house.like.snapshot, whole), 0);
        memset(&id, 0, sizeof(id));
        assert_int_equal(registry_add_bundle(NULL, &id, house.registry, buf_bytes(&data), 0), 0);
        assert_true(digest_equal(&id, &house.like.snapshot.id));
        data.data[data.len / 2] ^= 1;
        assert_int_equal(
            registry_add_bundle(NULL, NULL, house.registry, buf_bytes(&data), 0), E_CORRUPT
        );
    }
    memset(&id, 0, sizeof(id));
    assert_int_equal(
        registry_add_dir(&held, &id, house.registry, FIXTURES "/adapter/" FAMILY, REGISTRY_PIN), 0
    );
    assert_true(digest_equal(&id, &house.like.snapshot.id));
    assert_int_equal(registry_drop(house.registry, held), 0);
    registry_stats(&stats, house.registry);
    assert_int_equal(stats.adapters, 1);
    assert_int_equal(stats.pinned, 1);
    assert_int_equal(stats.held, 0);
    assert_int_equal(registry_add_dir(NULL, NULL, house.registry, "nowhere", 0), E_NOTFOUND);
}

/* ---- What is refused ---- */

static void assert_says(const char *text)
{
    if (!strstr(error_message(), text))
        fail_msg("'%s' does not say '%s'", error_message(), text);
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    static const struct {
        const char *name, *file, *from, *to;
        uint32_t number;
        int code;
        const char *says;
    } cases[] = {
        {"gpt2/step-040", PEFT_CONFIG, "\"VERA\"", "\"VERA\"", 0, E_INVALID, "rank is 20"},
        {"llama-half/step-030", PEFT_CONFIG, "\"VERA\"", "\"VERA\"", 0, E_CONFLICT,
         "another basis"},
        {"llama-vectors-only", PEFT_CONFIG, "_prng_key\": 0", "_prng_key\": 1", 0, E_CONFLICT,
         "another basis"},
        {"llama-vectors-only", PEFT_MODEL, "layers.1.mlp.up", "layers.1.mlp.xp", 0, E_INVALID,
         "model.layers.1.mlp.up_proj: the adapter has no vectors for it"},
        {"llama-vectors-only", PEFT_MODEL, "layers.1.mlp.up", "layers.1.mlp.xp", 0, E_INVALID,
         "model.layers.1.mlp.xp_proj: the model has no such module"},
        {"llama-vectors-only", PEFT_MODEL, "layers.1.self_attn.v", "layers.2.self_attn.v", 0,
         E_INVALID, "model.layers.2.self_attn.v_proj: the model has no such module"},
        {"llama-vectors-only", PEFT_MODEL, NULL, NULL, 0x7fc00000, E_INVALID,
         "model.layers.0.mlp.down_proj.vera_lambda_b: a value is not finite"},
        {"llama-vectors-only", PEFT_MODEL, NULL, NULL, 0xff800000, E_INVALID, "not finite"},
        {"llama-vectors-only", PEFT_MODEL, "\"F32\"", "\"I32\"", 0, E_UNSUPPORTED, "is I32"},
    };
    AUTO_HOUSE(house);
    struct registry_stats stats;

    (void)state;
    house_open(&house, DTYPE_F32, 16 * MIB);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_SUBJECT(subject);
        int32_t held = 99;
        changed_open(
            &subject, cases[i].name, cases[i].file, cases[i].from, cases[i].to, cases[i].number
        );
        assert_int_equal(registry_add(&held, house.registry, &subject.loaded, 0), cases[i].code);
        assert_says(cases[i].says);
        assert_int_equal(held, 99);
    }
    registry_stats(&stats, house.registry);
    assert_int_equal(stats.adapters, 0);
    /* And the seed that fits does, drawn once and then known. */
    for (uint32_t n = 0; n < 2; n++) {
        AUTO_SUBJECT(subject);
        changed_open(&subject, "llama-vectors-only", PEFT_MODEL, NULL, NULL, n);
        assert_int_equal(registry_add(NULL, house.registry, &subject.loaded, 0), 0);
    }
}

static void a_number_too_large_for_16_bits_is_refused(void **state)
{
    AUTO_HOUSE(house);
    AUTO_SUBJECT(subject);

    (void)state;
    house_open(&house, DTYPE_F16, 16 * MIB);
    changed_open(&subject, "llama-vectors-only", PEFT_MODEL, NULL, NULL, 0x477ff000); /* 65520 */
    assert_int_equal(registry_add(NULL, house.registry, &subject.loaded, 0), E_INVALID);
    assert_says("not finite");
}

static void biases_and_whole_modules_are_left_out_only_where_that_is_said(void **state)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    struct module_list list;

    (void)state;
    fixture_open(&subject, "bert/step-040", NULL);
    assert_int_equal(model_open(&base, FIXTURES "/base/bert"), 0);
    base_modules(&list, &subject.loaded.adapter, &base);
    struct registry *registry = registry_like(&subject.loaded, &list, DTYPE_F32, MIB);
    assert_int_equal(registry_add(NULL, registry, &subject.loaded, 0), E_INVALID);
    assert_says("classifier.weight: no vector");
    assert_says("query.base_layer.bias: no vector");
    assert_int_equal(registry_add(NULL, registry, &subject.loaded, REGISTRY_VECTORS_ONLY), 0);
    registry_free(registry);
}

static void options_that_make_no_registry_are_refused(void **state)
{
    AUTO_HOUSE(house);
    AUTO_BASIS(basis);
    struct registry *registry = NULL;

    (void)state;
    house_open(&house, DTYPE_F32, 16 * MIB);
    assert_int_equal(basis_load(&basis, &house.like.loaded, 176, 176, DTYPE_F32), 0);
    struct registry_module modules[] = {{"a", 64, 64}, {"b", 176, 176}, {"a", 64, 32}};
    const struct registry_options good = {
        .modules = modules,
        .module_count = 2,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
        .budget_bytes = MIB,
    };
    struct registry_options options = good;
    assert_int_equal(registry_new(&registry, &options), 0);
    registry_free(registry);
    registry = NULL;
    options.module_count = 0;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    options.module_count = 3;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    assert_says("two modules 'a'");
    options = good;
    modules[1].in = 177;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    assert_says("'b' is [176, 177], the basis is for [176, 176]");
    modules[1].in = 0;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    modules[1] = (struct registry_module){"", 1, 1};
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    modules[1].name = "b";
    options.vectors = DTYPE_F64;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    options = good;
    options.budget_bytes = 4 * 32 * (176 + 176); /* the basis alone */
    assert_int_equal(registry_new(&registry, &options), E_LIMIT);
    assert_non_null(strstr(error_hint_text(), "for each adapter"));
    options = good;
    basis.b[77] = INFINITY;
    assert_int_equal(registry_new(&registry, &options), E_INVALID);
    assert_says("of B is not finite");
    assert_null(registry);
}

static void rows_that_cannot_be_are_refused_and_nothing_is_written(void **state)
{
    AUTO_HOUSE(house);
    float x[3 * 64] = {0}, y[3 * 64], before[3 * 64];
    int32_t slots[3] = {-1, -1, 0};
    struct digest nobody = {{1}};

    (void)state;
    house_open(&house, DTYPE_F32, 16 * MIB);
    assert_int_equal(registry_add(&slots[2], house.registry, &house.like.loaded, 0), 0);
    int32_t slot = slots[2];
    memset(y, 0x55, sizeof(y));
    memcpy(before, y, sizeof(y));
    size_t module = module_find(&house.list, "model.layers.0.self_attn.q_proj");
    struct registry_rows rows = {.count = 3, .slots = slots, .dtype = DTYPE_F32, .x = x, .y = y};
    static const int32_t bad[] = {1, -2, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        slots[1] = bad[i];
        assert_int_equal(registry_forward(house.registry, module, &rows, 1), E_INVALID);
        assert_says("row 1: slot ");
    }
    slots[1] = -1;
    assert_int_equal(registry_forward(house.registry, 14, &rows, 1), E_INVALID);
    assert_int_equal(registry_forward(house.registry, SIZE_MAX, &rows, 1), E_INVALID);
    rows.x_stride = 63;
    assert_int_equal(registry_forward(house.registry, module, &rows, 1), E_INVALID);
    rows.x_stride = 64;
    rows.y_stride = 1;
    assert_int_equal(registry_forward(house.registry, module, &rows, 1), E_INVALID);
    rows.y_stride = 0;
    rows.dtype = DTYPE_F64;
    assert_int_equal(registry_forward(house.registry, module, &rows, 1), E_UNSUPPORTED);
    rows.dtype = DTYPE_F32;
    assert_int_equal(registry_drop(house.registry, slot), 0);
    assert_int_equal(registry_forward(house.registry, module, &rows, 1), E_INVALID);
    assert_says("row 2: slot 0 is not held");
    assert_int_equal(registry_drop(house.registry, slot), E_INVALID);
    assert_int_equal(registry_drop(house.registry, -1), E_INVALID);
    assert_int_equal(registry_drop(house.registry, INT32_MAX), E_INVALID);
    assert_memory_equal(y, before, sizeof(y));
    assert_int_equal(registry_hold(&slot, house.registry, &nobody), E_NOTFOUND);
    assert_int_equal(registry_pin(house.registry, &nobody, true), E_NOTFOUND);
    assert_int_equal(registry_remove(house.registry, &nobody), E_NOTFOUND);
}

/* ---- Who goes ---- */

static bool is_there(struct registry *registry, const struct digest *id)
{
    int32_t slot;

    if (registry_hold(&slot, registry, id) < 0)
        return false;
    assert_int_equal(registry_drop(registry, slot), 0);
    return true;
}

static void the_least_recently_used_goes_and_what_is_pinned_or_held_stays(void **state)
{
    AUTO_HOUSE(house);
    struct digest ids[140];
    struct registry_stats stats;
    int32_t held;

    (void)state;
    house_open(&house, DTYPE_F32, MIB);
    house_resize(&house, 100);
    struct registry *registry = house.registry;
    registry_stats(&stats, registry);
    assert_int_equal(stats.capacity, 100);
    for (uint32_t n = 0; n < 100; n++)
        numbered_add(&ids[n], registry, n, n == 1 ? REGISTRY_PIN : 0, 0);
    assert_int_equal(registry_hold(&held, registry, &ids[2]), 0);
    assert_true(is_there(registry, &ids[0])); /* and used again by this */
    for (uint32_t n = 100; n < 110; n++)
        numbered_add(&ids[n], registry, n, 0, 0);
    for (uint32_t n = 0; n < 110; n++)
        assert_int_equal(is_there(registry, &ids[n]), n < 3 || n > 12);
    registry_stats(&stats, registry);
    assert_int_equal(stats.adapters, 100);
    assert_int_equal(stats.evicted, 10);
    assert_int_equal(stats.pinned, 1);
    assert_int_equal(stats.held, 1);
    assert_true(stats.bytes <= stats.budget_bytes);
    /* All pinned: there is no place, and nobody is harmed. */
    for (uint32_t n = 0; n < 110; n++)
        assert_int_equal(registry_pin(registry, &ids[n], true), n < 3 || n > 12 ? 0 : E_NOTFOUND);
    numbered_add(&ids[110], registry, 110, 0, E_LIMIT);
    assert_says("100 adapters are all pinned or in use");
    numbered_add(&ids[2], registry, 2, 0, 0); /* it is there */
    assert_int_equal(registry_pin(registry, &ids[50], false), 0);
    numbered_add(&ids[110], registry, 110, 0, 0);
    assert_false(is_there(registry, &ids[50]));
    assert_int_equal(registry_drop(registry, held), 0);
}

static void a_removed_adapter_serves_those_who_hold_it(void **state)
{
    AUTO_HOUSE(house);
    float x[64], y[2][64];
    int32_t slot;
    struct digest ids[2];
    struct registry_stats stats;

    (void)state;
    house_open(&house, DTYPE_F32, MIB);
    house_resize(&house, 1);
    struct registry *registry = house.registry;
    for (size_t i = 0; i < 64; i++)
        x[i] = (float)i;
    memset(y, 0, sizeof(y));
    numbered_add(&ids[0], registry, 7, REGISTRY_PIN, 0);
    assert_int_equal(registry_hold(&slot, registry, &ids[0]), 0);
    size_t module = module_find(&house.list, "model.layers.0.self_attn.q_proj");
    struct registry_rows rows = {.count = 1, .slots = &slot, .x = x, .dtype = DTYPE_F32};
    for (int removed = 0; removed < 2; removed++) {
        rows.y = y[removed];
        assert_int_equal(registry_forward(registry, module, &rows, 1), 0);
        if (!removed)
            assert_int_equal(registry_remove(registry, &ids[0]), 0);
        assert_false(is_there(registry, &ids[0]));
        numbered_add(&ids[1], registry, 8, 0, E_LIMIT);
    }
    assert_memory_equal(y[0], y[1], sizeof(y[0]));
    assert_int_equal(registry_drop(registry, slot), 0);
    registry_stats(&stats, registry);
    assert_int_equal(stats.adapters + stats.pinned + stats.held + stats.evicted, 0);
    numbered_add(&ids[1], registry, 8, 0, 0);
}

static void a_budget_is_never_passed_and_little_of_it_is_lost(void **state)
{
    AUTO_SUBJECT(subject);
    struct module_list list;
    struct registry_stats stats;

    (void)state;
    fixture_open(&subject, "minilm/step-320", NULL);
    minilm_modules(&list, &subject.loaded.adapter);
    uint64_t vectors = 0;
    for (size_t i = 0; i < list.count; i++)
        vectors += 4 * (256 + list.modules[i].out);
    assert_int_equal(vectors, 4 * 29952);
    struct registry *registry = registry_like(
        &subject.loaded, &list, DTYPE_F32, 20000 * vectors * 105 / 100
    );
    registry_stats(&stats, registry);
    assert_true(stats.capacity >= 20000);
    /* But for the basis, which does not grow with them, an adapter costs half a percent more. */
    assert_true(stats.capacity * vectors * 1005 / 1000 + 8 * MIB >= stats.budget_bytes);
    assert_int_equal(registry_add(NULL, registry, &subject.loaded, REGISTRY_VECTORS_ONLY), 0);
    registry_stats(&stats, registry);
    assert_true(stats.bytes < 16 * MIB); /* taken as it is needed */
    registry_free(registry);
}

/* ---- Without memory ---- */

static void every_allocation_may_fail(void **state)
{
    AUTO_HOUSE(house);
    AUTO_BASIS(basis);
    struct registry *registry = NULL;
    struct registry_stats stats;
    int err = E_NOMEM, n;

    (void)state;
    house_open(&house, DTYPE_F32, MIB);
    assert_int_equal(basis_load(&basis, &house.like.loaded, 176, 176, DTYPE_F32), 0);
    const struct registry_options options = {
        .modules = house.list.modules,
        .module_count = house.list.count,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
        .budget_bytes = MIB,
    };
    for (n = 0; err < 0; n++) {
        fault_after = n;
        err = registry_new(&registry, &options);
        fault_after = -1;
        if (err < 0) {
            assert_int_equal(err, E_NOMEM);
            assert_null(registry);
        }
    }
    assert_true(n > 20);
    err = E_NOMEM;
    for (n = 0; err < 0; n++) {
        int32_t held = 99;
        fault_after = n;
        err = registry_add(&held, registry, &house.like.loaded, 0);
        fault_after = -1;
        registry_stats(&stats, registry);
        assert_int_equal(stats.adapters, err < 0 ? 0 : 1);
        assert_int_equal(stats.held, err < 0 ? 0 : 1);
        if (err < 0) {
            assert_int_equal(err, E_NOMEM);
            assert_int_equal(held, 99);
        }
    }
    assert_true(n > 3);
    registry_free(registry);
}

/* ---- Many threads ---- */

#define SERVERS 3
#define LOADERS 2
#define TENANTS 12u
#define ROUNDS  150

struct crowd {
    struct registry *registry;
    struct subject tenants[TENANTS];
    float expected[TENANTS][64]; /* of row x */
    float x[64];
    size_t module;
};

struct person {
    struct crowd *crowd;
    unsigned number;
    unsigned served, missing, wrong;
    pthread_t thread;
};

/* Hold some tenants, serve a batch of them twice, drop them. */
static void *serve(void *argument)
{
    struct person *person = argument;
    struct crowd *crowd = person->crowd;

    for (unsigned round = 0; round < ROUNDS; round++) {
        int32_t slots[4];
        unsigned who[4], count = 0;
        float x[4 * 64], y[4 * 64];
        for (unsigned i = 0; i < 4; i++) {
            who[count] = (round * 7 + i * 5 + person->number) % TENANTS;
            const struct digest *id = &crowd->tenants[who[count]].snapshot.id;
            if (registry_hold(&slots[count], crowd->registry, id) == 0)
                count++;
            else
                person->missing++;
        }
        for (unsigned i = 0; i < 2 * count; i++)
            memcpy(x + 64 * (i % count), crowd->x, sizeof(crowd->x));
        for (unsigned again = 0; again < 2; again++) {
            memset(y, 0, sizeof(y));
            struct registry_rows rows = {
                .count = count,
                .slots = slots,
                .dtype = DTYPE_F32,
                .x = x,
                .y = y,
            };
            person->wrong += registry_forward(crowd->registry, crowd->module, &rows, 1) < 0;
            for (unsigned i = 0; i < count; i++, person->served++)
                person->wrong += memcmp(y + 64 * i, crowd->expected[who[i]], sizeof(crowd->x)) != 0;
        }
        for (unsigned i = 0; i < count; i++)
            person->wrong += registry_drop(crowd->registry, slots[i]) < 0;
    }
    return NULL;
}

/* Add tenants, for which others must go; pin and remove some. */
static void *load(void *argument)
{
    struct person *person = argument;
    struct crowd *crowd = person->crowd;

    for (unsigned round = 0; round < ROUNDS; round++) {
        struct subject *tenant = &crowd->tenants[(round * 5 + person->number) % TENANTS];
        const struct digest *id = &tenant->snapshot.id;
        struct registry_stats stats;
        int err = registry_add(NULL, crowd->registry, &tenant->loaded, 0);
        person->wrong += err < 0 && err != E_LIMIT;
        if (round % 5 == 0 && registry_pin(crowd->registry, id, true) == 0)
            (void)!registry_pin(crowd->registry, id, false);
        if (round % 7 == 0)
            (void)!registry_remove(crowd->registry, id);
        registry_stats(&stats, crowd->registry);
        person->wrong += stats.adapters > stats.capacity;
        person->served++;
    }
    return NULL;
}

static void crowd_expect(struct crowd *crowd)
{
    for (size_t i = 0; i < 64; i++)
        crowd->x[i] = (float)i - 30.5f;
    for (uint32_t n = 0; n < TENANTS; n++) {
        int32_t slot;
        assert_int_equal(registry_add(&slot, crowd->registry, &crowd->tenants[n].loaded, 0), 0);
        struct registry_rows rows = {
            .count = 1,
            .slots = &slot,
            .dtype = DTYPE_F32,
            .x = crowd->x,
            .y = crowd->expected[n],
        };
        assert_int_equal(registry_forward(crowd->registry, crowd->module, &rows, 1), 0);
        assert_int_equal(registry_drop(crowd->registry, slot), 0);
    }
}

static void tenants_come_and_go_while_others_are_served(void **state)
{
    static const char *const names[] = {
        "llama/step-010",   "llama/step-020",   "llama/step-030",      "llama/step-040",
        "llama/step-050",   "llama/step-060",   "llama/step-070",      "llama/step-080",
        "llama-c/step-010", "llama-c/step-020", "llama-perl/step-010", "llama-perl/step-020",
    };
    struct person people[SERVERS + LOADERS];
    struct crowd crowd = {0};
    AUTO_HOUSE(house);
    unsigned served = 0, missing = 0;

    (void)state;
    house_open(&house, DTYPE_F32, MIB);
    house_resize(&house, 8);
    crowd.registry = house.registry;
    crowd.module = module_find(&house.list, "model.layers.0.self_attn.q_proj");
    for (size_t n = 0; n < TENANTS; n++)
        fixture_open(&crowd.tenants[n], names[n], NULL);
    crowd_expect(&crowd);
    for (unsigned i = 0; i < SERVERS + LOADERS; i++) {
        people[i] = (struct person){.crowd = &crowd, .number = i};
        assert_int_equal(
            pthread_create(&people[i].thread, NULL, i < SERVERS ? serve : load, &people[i]), 0
        );
    }
    for (unsigned i = 0; i < SERVERS + LOADERS; i++) {
        assert_int_equal(pthread_join(people[i].thread, NULL), 0);
        assert_int_equal(people[i].wrong, 0);
        served += people[i].served;
        missing += people[i].missing;
    }
    assert_true(served > LOADERS * ROUNDS && missing < SERVERS * ROUNDS * 4);
    for (size_t n = 0; n < TENANTS; n++)
        subject_release(&crowd.tenants[n]);
}

/* Two who add one adapter at the same moment. */
struct pair {
    struct registry *registry;
    const struct loaded_adapter *adapter;
    pthread_barrier_t barrier;
    unsigned wrong;
};

#define MOMENTS 2000

static void *add_at_once(void *argument)
{
    struct pair *pair = argument;

    for (unsigned n = 0; n < MOMENTS; n++) {
        int32_t held = -1;
        pthread_barrier_wait(&pair->barrier);
        int err = registry_add(&held, pair->registry, pair->adapter, 0);
        bool last = pthread_barrier_wait(&pair->barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
        struct registry_stats stats;
        registry_stats(&stats, pair->registry);
        bool wrong = err < 0 || stats.adapters != 1 || stats.held != 1;
        pthread_barrier_wait(&pair->barrier);
        wrong |= registry_drop(pair->registry, held) < 0;
        wrong |= last && registry_remove(pair->registry, &pair->adapter->snapshot->id) < 0;
        if (wrong)
            __atomic_fetch_add(&pair->wrong, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void one_adapter_added_by_two_at_once_is_one(void **state)
{
    AUTO_HOUSE(house);
    struct pair pair = {0};
    pthread_t other;

    (void)state;
    house_open(&house, DTYPE_F32, MIB);
    house_resize(&house, 2);
    pair.registry = house.registry;
    pair.adapter = &house.like.loaded;
    assert_int_equal(pthread_barrier_init(&pair.barrier, NULL, 2), 0);
    assert_int_equal(pthread_create(&other, NULL, add_at_once, &pair), 0);
    add_at_once(&pair);
    assert_int_equal(pthread_join(other, NULL), 0);
    assert_int_equal(pair.wrong, 0);
    pthread_barrier_destroy(&pair.barrier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixed_batch_is_what_peft_gives),
        cmocka_unit_test(rows_without_an_adapter_keep_their_bits),
        cmocka_unit_test(directory_bundle_and_snapshot_are_one_adapter),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(a_number_too_large_for_16_bits_is_refused),
        cmocka_unit_test(biases_and_whole_modules_are_left_out_only_where_that_is_said),
        cmocka_unit_test(options_that_make_no_registry_are_refused),
        cmocka_unit_test(rows_that_cannot_be_are_refused_and_nothing_is_written),
        cmocka_unit_test(the_least_recently_used_goes_and_what_is_pinned_or_held_stays),
        cmocka_unit_test(a_removed_adapter_serves_those_who_hold_it),
        cmocka_unit_test(a_budget_is_never_passed_and_little_of_it_is_lost),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(tenants_come_and_go_while_others_are_served),
        cmocka_unit_test(one_adapter_added_by_two_at_once_is_one),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
