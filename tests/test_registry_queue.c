/*
 * Tests of registries in a GPU's memory (apply/registry_device.c, apply/cuda/forward.cu) on the
 * emulated device, as to when things happen: in every order in which a device may work nothing is
 * overwritten that queued work reads, nobody waits who need not, and nothing is left where a call
 * fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "tests/fault.h"
#include "tests/twins.h"

/* Queue one row of an adapter, and drop it: nothing has run yet. */
static void queue_and_drop(
    const struct twins *twins,
    struct registry *registry,
    size_t adapter,
    const void *x,
    void *y,
    void *stream
)
{
    int32_t slot;
    struct registry_rows rows = {
        .count = 1, .slots = &slot, .dtype = DTYPE_F32, .x = x, .y = y, .stream = stream};

    if (registry_add(&slot, registry, &twins->adapters[adapter].loaded, 0) < 0 ||
        registry_forward(registry, module_find(&twins->list, Q_PROJ), &rows, 1) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(registry_drop(registry, slot), 0);
}

/* One slot, in which one adapter after the other is. */
static void what_is_queued_uses_the_vectors_of_its_adapter(void **state)
{
    float y[ADAPTERS_MAX][VALUES], result[ADAPTERS_MAX][VALUES] = {{0}};
    AUTO_TWINS(twins);
    AUTO_STREAM(first);
    AUTO_STREAM(second);

    (void)state;
    expected_family(&twins, y);
    for (unsigned order = 0; order < 20; order++) {
        emulated.order(order);
        struct registry *registry = small_open(&twins, 1);
        memset(result, 0, sizeof(result));
        AUTO_DEVICE_COPY(x_device, x_row(), sizeof(y[0]));
        AUTO_DEVICE_COPY(y_device, result, sizeof(result));
        for (size_t i = 0; i < twins.count; i++)
            queue_and_drop(
                &twins, registry, i, x_device, (float *)y_device + i * VALUES,
                i % 2 ? first : second
            );
        assert_int_equal(cuda.stream_wait(first), 0);
        assert_int_equal(cuda.stream_wait(second), 0);
        assert_int_equal(cuda.copy(result, y_device, sizeof(result), CUDA_DEVICE_TO_HOST), 0);
        assert_memory_equal(result, y, twins.count * sizeof(y[0]));
        registry_free(registry);
    }
}

static void who_adds_waits_once_for_many_slots(void **state)
{
    float y[ADAPTERS_MAX][VALUES];
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);

    (void)state;
    expected_family(&twins, y);
    AUTO_DEVICE_COPY(x_device, x_row(), sizeof(y[0]));
    AUTO_DEVICE_COPY(y_device, y, sizeof(y));
    struct registry *registry = small_open(&twins, 4);
    unsigned before = emulated.calls("cudaDeviceSynchronize");
    for (size_t i = 0; i < 12; i++) {
        queue_and_drop(&twins, registry, i, x_device, y_device, stream);
        /* The first four slots are new; then one wait is for all four that were used. */
        assert_int_equal(emulated.calls("cudaDeviceSynchronize") - before, i / 4);
    }
    registry_free(registry);
}

/* ---- What fails ---- */

/* The n-th call of that name fails, in each step of a run. */
struct fault {
    const char *call;
    unsigned nth;
    unsigned failures; /* of steps, so far */
};

static void arm(const struct fault *fault)
{
    emulated.fail_call(fault->call, fault->nth, CUDA_ERROR_ADDRESS);
}

/* Did the step fail, as it may? */
static bool failed(struct fault *fault, int err)
{
    emulated.fail_call(NULL, 0, 0);
    if (err == 0)
        return false;
    if (err != E_DEVICE)
        fail_msg("%s %u: %d: %s", fault->call, fault->nth, err, error_message());
    fault->failures++;
    return true;
}

static struct registry *open_with_a_fault(const struct twins *twins, struct fault *fault)
{
    struct registry *registry = NULL;

    arm(fault);
    if (!failed(fault, small_try(&registry, twins, 1)))
        return registry;
    assert_null(registry);
    assert_int_equal(emulated.leaks(), 0);
    return small_open(twins, 1);
}

static int32_t
add_with_a_fault(struct registry *registry, const struct subject *adapter, struct fault *fault)
{
    struct registry_stats stats;
    int32_t slot = 99;

    arm(fault);
    if (failed(fault, registry_add(&slot, registry, &adapter->loaded, 0))) {
        registry_stats(&stats, registry);
        assert_int_equal(stats.adapters + stats.held, 0);
        assert_int_equal(slot, 99);
        assert_int_equal(registry_add(&slot, registry, &adapter->loaded, 0), 0);
    }
    return slot;
}

/* y is what it was, or what it should be. */
static void forward_with_a_fault(
    struct registry *registry, size_t module, int32_t slot, const float *wanted, struct fault *fault
)
{
    float y[VALUES] = {0}, nothing[VALUES] = {0};
    AUTO_STREAM(stream);
    AUTO_DEVICE_COPY(x_device, x_row(), sizeof(y));
    AUTO_DEVICE_COPY(y_device, y, sizeof(y));
    const struct registry_rows rows = {
        .count = 1,
        .slots = &slot,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };

    arm(fault);
    bool left_out = failed(fault, registry_forward(registry, module, &rows, 1));
    assert_int_equal(cuda.stream_wait(stream), 0);
    assert_int_equal(cuda.copy(y, y_device, sizeof(y), CUDA_DEVICE_TO_HOST), 0);
    if (!left_out || memcmp(y, nothing, sizeof(y)) != 0)
        assert_memory_equal(y, wanted, sizeof(y));
}

/* An adapter comes, serves, and makes room for another; each step that fails is done again. */
static void whatever_fails_is_said_and_leaves_nothing(void **state)
{
    static const char *const calls[] = {
        "cudaDeviceSynchronize",
        "cudaEventCreateWithFlags",
        "cudaEventRecord",
        "cudaFreeAsync",
        "cudaFuncGetAttributes",
        "cudaGetDevice",
        "cudaGetDeviceCount",
        "cudaGetDeviceProperties",
        "cudaHostAlloc",
        "cudaLaunchKernel",
        "cudaMalloc",
        "cudaMallocFromPoolAsync",
        "cudaMemPoolCreate",
        "cudaMemPoolSetAttribute",
        "cudaMemcpyAsync",
        "cudaPointerGetAttributes",
        "cudaStreamCreateWithFlags",
        "cudaStreamSynchronize",
    };
    float y[ADAPTERS_MAX][VALUES];
    unsigned failures = 0;
    AUTO_TWINS(twins);

    (void)state;
    expected_family(&twins, y);
    size_t module = module_find(&twins.list, Q_PROJ);
    for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++) {
        struct fault fault = {calls[c], 1, 1};
        for (; fault.failures > 0; fault.nth++) {
            fault.failures = 0;
            struct registry *registry = open_with_a_fault(&twins, &fault);
            for (size_t i = 0; i < 3; i++) {
                int32_t slot = add_with_a_fault(registry, &twins.adapters[i], &fault);
                forward_with_a_fault(registry, module, slot, y[i], &fault);
                assert_int_equal(registry_drop(registry, slot), 0);
            }
            registry_free(registry);
            assert_int_equal(emulated.leaks(), 0);
            failures += fault.failures;
        }
    }
    assert_true(failures > 30);
}

static void a_device_without_memory_pools_is_none_for_batches(void **state)
{
    struct registry *registry = NULL;
    AUTO_TWINS(twins);

    (void)state;
    family_open(&twins, "llama");
    emulated.fail_call("cudaMemPoolCreate", 1, CUDA_ERROR_UNSUPPORTED);
    assert_int_equal(small_try(&registry, &twins, 1), E_DEVICE);
    assert_says("has no memory pools");
    assert_null(registry);
}

static void a_batch_that_finds_no_memory_says_how_much(void **state)
{
    int32_t slot;
    AUTO_TWINS(twins);
    AUTO_DEVICE_COPY(x_device, x_row(), VALUES * sizeof(float));

    (void)state;
    family_open(&twins, "llama");
    struct registry *registry = small_open(&twins, 1);
    assert_int_equal(registry_add(&slot, registry, &twins.adapters[0].loaded, 0), 0);
    struct registry_rows rows = {
        .count = 1, .slots = &slot, .dtype = DTYPE_F32, .x = x_device, .y = x_device};
    emulated.fail_call("cudaMallocFromPoolAsync", 1, CUDA_ERROR_MEMORY);
    assert_int_equal(
        registry_forward(registry, module_find(&twins.list, Q_PROJ), &rows, 1), E_DEVICE
    );
    assert_says("a batch needs");
    registry_free(registry);
}

static void every_allocation_may_fail(void **state)
{
    struct registry *registry = NULL;
    struct registry_stats stats;
    int err = E_NOMEM, n;
    AUTO_TWINS(twins);

    (void)state;
    family_open(&twins, "llama");
    for (n = 0; err < 0; n++) {
        fault_after = n;
        err = small_try(&registry, &twins, 2);
        fault_after = -1;
        assert_true(err == 0 || (err == E_NOMEM && !registry && emulated.leaks() == 0));
    }
    assert_true(n > 20);
    err = E_NOMEM;
    for (n = 0; err < 0; n++) {
        int32_t held = 99;
        fault_after = n;
        err = registry_add(&held, registry, &twins.adapters[0].loaded, 0);
        fault_after = -1;
        registry_stats(&stats, registry);
        assert_int_equal(stats.held, err < 0 ? 0 : 1);
        assert_true(err == 0 || (err == E_NOMEM && held == 99));
    }
    assert_true(n > 2);
    registry_free(registry);
}

/* ---- Many threads ---- */

#define SERVERS 3
#define LOADERS 2
#define ROUNDS  25

struct crowd {
    struct twins twins;
    float expected[ADAPTERS_MAX][VALUES];
    struct registry *registry;
    size_t module;
};

struct person {
    struct crowd *crowd;
    unsigned number;
    unsigned served, wrong;
    pthread_t thread;
};

/* Hold some tenants, queue a batch of them, drop them, and see later what came. */
static void serve_round(struct person *person, unsigned round, void *stream)
{
    struct crowd *crowd = person->crowd;
    float x[4 * VALUES], y[4 * VALUES] = {0};
    unsigned who[4], count = 0;
    int32_t slots[4];

    for (unsigned i = 0; i < 4; i++) {
        who[count] = (round * 7 + i * 5 + person->number) % (unsigned)crowd->twins.count;
        const struct subject *tenant = &crowd->twins.adapters[who[count]];
        int err = registry_hold(&slots[count], crowd->registry, &tenant->snapshot.id);
        if (err == E_NOTFOUND)
            err = registry_add(&slots[count], crowd->registry, &tenant->loaded, 0);
        person->wrong += err < 0 && err != E_LIMIT; /* the others hold all slots */
        count += err == 0;
    }
    for (unsigned i = 0; i < 4; i++)
        memcpy(x + i * VALUES, x_row(), VALUES * sizeof(float));
    AUTO_DEVICE_COPY(x_device, x, sizeof(x));
    AUTO_DEVICE_COPY(y_device, y, sizeof(y));
    const struct registry_rows rows = {
        .count = count,
        .slots = slots,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };
    person->wrong += registry_forward(crowd->registry, crowd->module, &rows, 1) < 0;
    for (unsigned i = 0; i < count; i++)
        person->wrong += registry_drop(crowd->registry, slots[i]) < 0;
    person->wrong += cuda.stream_wait(stream) != 0;
    person->wrong += cuda.copy(y, y_device, sizeof(y), CUDA_DEVICE_TO_HOST) != 0;
    for (unsigned i = 0; i < count; i++, person->served++)
        person->wrong += memcmp(
                             y + i * VALUES, crowd->expected[who[i]], sizeof(crowd->expected[0])
                         ) != 0;
}

static void *serve(void *argument)
{
    AUTO_STREAM(stream);

    for (unsigned round = 0; round < ROUNDS; round++)
        serve_round(argument, round, stream);
    return NULL;
}

/* Add tenants, for which others must go; remove some. */
static void *load(void *argument)
{
    struct person *person = argument;
    struct crowd *crowd = person->crowd;

    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned number = (round * 5 + person->number) % (unsigned)crowd->twins.count;
        struct subject *tenant = &crowd->twins.adapters[number];
        int err = registry_add(NULL, crowd->registry, &tenant->loaded, 0);
        person->wrong += err < 0 && err != E_LIMIT;
        if (round % 7 == 0)
            (void)!registry_remove(crowd->registry, &tenant->snapshot.id);
    }
    return NULL;
}

static void tenants_come_and_go_while_others_are_served(void **state)
{
    static const unsigned orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 7, 8};
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    struct registry_stats stats;
    unsigned served = 0;

    (void)state;
    assert_non_null(crowd);
    expected_family(&crowd->twins, crowd->expected);
    crowd->module = module_find(&crowd->twins.list, Q_PROJ);
    (void)x_row();
    for (size_t o = 0; o < sizeof(orders) / sizeof(orders[0]); o++) {
        struct person people[SERVERS + LOADERS];
        emulated.order(orders[o]);
        crowd->registry = small_open(&crowd->twins, 8);
        for (unsigned i = 0; i < SERVERS + LOADERS; i++) {
            people[i] = (struct person){.crowd = crowd, .number = i};
            assert_int_equal(
                pthread_create(&people[i].thread, NULL, i < SERVERS ? serve : load, &people[i]), 0
            );
        }
        for (unsigned i = 0; i < SERVERS + LOADERS; i++) {
            assert_int_equal(pthread_join(people[i].thread, NULL), 0);
            assert_int_equal(people[i].wrong, 0);
            served += people[i].served;
        }
        registry_stats(&stats, crowd->registry);
        assert_int_equal(stats.held, 0);
        assert_true(stats.evicted > 0);
        registry_free(crowd->registry);
    }
    assert_true(served > 5 * ROUNDS * 4);
    twins_release(&crowd->twins);
    free(crowd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM(what_is_queued_uses_the_vectors_of_its_adapter),
        CLAIM(who_adds_waits_once_for_many_slots),
        CLAIM(whatever_fails_is_said_and_leaves_nothing),
        CLAIM(a_device_without_memory_pools_is_none_for_batches),
        CLAIM(a_batch_that_finds_no_memory_says_how_much),
        CLAIM(every_allocation_may_fail),
        CLAIM(tenants_come_and_go_while_others_are_served),
    };

    return cmocka_run_group_tests(tests, device_load, NULL);
}
