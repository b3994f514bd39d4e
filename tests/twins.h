/* Registries in host memory and on the emulated device, of the same adapters of the fixtures. */
#ifndef TESTS_TWINS_H
#define TESTS_TWINS_H

#include "tests/emulated_device.h"
#include "tests/registries.h"

#define FAMILY "llama/step-120"
#define Q_PROJ "model.layers.0.self_attn.q_proj"

static inline int device_load(void **state)
{
    (void)state;
    return setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) == 0 ? emulated_load(CUDA_MODULE) : -1;
}

static inline int device_setup(void **state)
{
    (void)state;
    emulated.reset();
    return 0;
}

/* All is freed again. */
static inline int device_teardown(void **state)
{
    (void)state;
    return emulated.leaks() == 0 ? 0 : -1;
}

#define CLAIM(test) cmocka_unit_test_setup_teardown(test, device_setup, device_teardown)

/* ---- Memory of the device ---- */

static inline void device_memory_release(void **memory)
{
    assert_int_equal(cuda.free(*memory), 0);
}

/* On the device, with a copy of so many bytes in it. */
#define AUTO_DEVICE_COPY(name, from, bytes)                                                        \
    __attribute__((cleanup(device_memory_release))) void *name = device_copy(from, bytes)

static inline void *device_copy(const void *from, size_t bytes)
{
    void *memory = NULL;

    assert_int_equal(cuda.new(&memory, bytes), 0);
    assert_int_equal(cuda.copy(memory, from, bytes, CUDA_HOST_TO_DEVICE), 0);
    return memory;
}

static inline void stream_release(void **stream)
{
    assert_int_equal(cuda.stream_free(*stream), 0);
}

#define AUTO_STREAM(name) __attribute__((cleanup(stream_release))) void *name = stream_new()

static inline void *stream_new(void)
{
    void *stream = NULL;

    assert_int_equal(cuda.stream_new(&stream, 0), 0);
    return stream;
}

/* ---- Two registries that hold the same ---- */

#define ADAPTERS_MAX 40

struct twins {
    struct subject adapters[ADAPTERS_MAX];
    size_t count;
    struct model base;
    struct module_list list;
    struct registry *host, *gpu;
    int32_t host_slots[ADAPTERS_MAX], gpu_slots[ADAPTERS_MAX]; /* held */
};

static inline void twins_close(struct twins *twins)
{
    registry_free(twins->host);
    registry_free(twins->gpu);
    twins->host = twins->gpu = NULL;
}

static inline void twins_release(struct twins *twins)
{
    twins_close(twins);
    for (size_t i = 0; i < twins->count; i++)
        subject_release(&twins->adapters[i]);
    model_release(&twins->base);
}

#define AUTO_TWINS(name) __attribute__((cleanup(twins_release))) struct twins name = {0}

/* All adapters of a folder of the fixtures: its own, or its steps. */
static inline void family_open(struct twins *twins, const char *family)
{
    AUTO_BUF(names);
    char dir[256];

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", family);
    assert_int_equal(dir_names(&names, dir), 0);
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *step = (const char *)names.data + at;
        assert_true(twins->count < ADAPTERS_MAX);
        if (strncmp(step, "step-", 5) == 0)
            snprintf(dir, sizeof(dir), "%s/%s", family, step);
        else if (strcmp(step, PEFT_CONFIG) == 0)
            snprintf(dir, sizeof(dir), "%s", family);
        else
            continue;
        fixture_open(&twins->adapters[twins->count++], dir, NULL);
    }
    assert_true(twins->count > 0);
    const struct adapter *adapter = &twins->adapters[0].loaded.adapter;
    if (!fixture_base(family)) {
        minilm_modules(&twins->list, adapter);
        return;
    }
    assert_int_equal(model_open(&twins->base, fixture_base(family)), 0);
    base_modules(&twins->list, adapter, &twins->base);
}

/* Of float32 vectors. */
static inline uint64_t adapter_bytes(const struct twins *twins)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < twins->list.count; i++)
        bytes += 4 * (twins->adapters[0].loaded.adapter.config.rank + twins->list.modules[i].out);
    return bytes;
}

static inline uint64_t basis_bytes(const struct twins *twins)
{
    uint64_t in = 0, out = 0;

    for (size_t i = 0; i < twins->list.count; i++) {
        in = twins->list.modules[i].in > in ? twins->list.modules[i].in : in;
        out = twins->list.modules[i].out > out ? twins->list.modules[i].out : out;
    }
    return 4 * twins->adapters[0].loaded.adapter.config.rank * (in + out);
}

/* Both registries, and all adapters held in both. */
static inline void twins_open(struct twins *twins, enum dtype vectors)
{
    const struct loaded_adapter *like = &twins->adapters[0].loaded;

    uint64_t budget = basis_bytes(twins) + twins->count * adapter_bytes(twins);

    twins->host = registry_like(like, &twins->list, vectors, 32 * MIB);
    if (registry_try(&twins->gpu, like, &twins->list, vectors, budget, true, DEVICE_CURRENT) < 0)
        fail_msg("%s", error_message());
    for (size_t i = 0; i < twins->count; i++) {
        const struct loaded_adapter *adapter = &twins->adapters[i].loaded;
        assert_int_equal(
            registry_add(&twins->host_slots[i], twins->host, adapter, REGISTRY_VECTORS_ONLY), 0
        );
        if (registry_add(&twins->gpu_slots[i], twins->gpu, adapter, REGISTRY_VECTORS_ONLY) < 0)
            fail_msg("%s", error_message());
    }
}

/* ---- Registries on the device of few slots ---- */

static inline int small_try(struct registry **out, const struct twins *twins, uint32_t adapters)
{
    return registry_try(
        out, &twins->adapters[0].loaded, &twins->list, DTYPE_F32,
        basis_bytes(twins) + adapters * adapter_bytes(twins), true, DEVICE_CURRENT
    );
}

static inline struct registry *small_open(const struct twins *twins, uint32_t adapters)
{
    struct registry *registry = NULL;

    if (small_try(&registry, twins, adapters) < 0)
        fail_msg("%s", error_message());
    return registry;
}

#define VALUES 64 /* of a row of x and of y of Q_PROJ */

/* Made at the first call. */
static inline const float *x_row(void)
{
    static float x[VALUES];

    for (size_t i = 0; i < VALUES && x[VALUES - 1] == 0; i++)
        x[i] = (float)i - 30.5f;
    return x;
}

/* What each of the adapters makes of x_row() and zeros. */
static inline void expect(float (*y)[VALUES], struct twins *twins)
{
    size_t module = module_find(&twins->list, Q_PROJ);

    assert_int_equal(twins->list.modules[module].in, VALUES);
    assert_int_equal(twins->list.modules[module].out, VALUES);
    for (size_t i = 0; i < twins->count; i++) {
        struct registry_rows rows = {
            .count = 1,
            .slots = &twins->host_slots[i],
            .dtype = DTYPE_F32,
            .x = x_row(),
            .y = memset(y[i], 0, sizeof(y[i])),
        };
        assert_int_equal(registry_forward(twins->host, module, &rows, 1), 0);
    }
    for (size_t i = 1; i < twins->count; i++)
        assert_memory_not_equal(y[i], y[i - 1], sizeof(y[i]));
}

/* A family in host memory, and what comes of it. */
static inline void expected_family(struct twins *twins, float (*y)[VALUES])
{
    family_open(twins, "llama");
    twins->host = registry_like(&twins->adapters[0].loaded, &twins->list, DTYPE_F32, 32 * MIB);
    for (size_t i = 0; i < twins->count; i++) {
        const struct loaded_adapter *adapter = &twins->adapters[i].loaded;
        assert_int_equal(registry_add(&twins->host_slots[i], twins->host, adapter, 0), 0);
    }
    expect(y, twins);
}

static inline void assert_says(const char *text)
{
    if (!strstr(error_message(), text))
        fail_msg("'%s' does not say '%s'", error_message(), text);
}

#endif
