/*
 * Tests of registries in a GPU's memory (apply/registry_device.c, apply/cuda/forward.cu) on the
 * emulated device: the bits of a registry in host memory whatever the batch, what is taken, what is
 * refused. In which order things happen: tests/test_registry_queue.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "apply/backend.h"
#include "apply/batch.h"
#include "apply/vera_apply.h"
#include "format/bundle.h"
#include "tests/twins.h"

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % n;
}

static void random_elements(struct buf *out, size_t count, enum dtype dtype)
{
    float *values = calloc(count + 1, sizeof(*values));

    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_below(1u << 24) * 0x1p-23f - 1;
    assert_int_equal(buf_resize(out, count * dtype_bits(dtype) / 8), 0);
    dtype_narrow(out->data, values, count, dtype);
    free(values);
}

/* One batch in both: x and y of random values and strides, rows of random adapters or none. */
static void compare_batch(
    const struct twins *twins, void *stream, size_t count, enum dtype dtype, bool slots_on_device
)
{
    size_t module = random_below((uint32_t)twins->list.count);
    size_t in = (size_t)twins->list.modules[module].in,
           out = (size_t)twins->list.modules[module].out;
    size_t x_stride = random_below(2) ? in + random_below(4) : 0;
    size_t y_stride = random_below(2) ? out + random_below(4) : 0;
    int32_t *host_slots = calloc(count + 1, 4), *gpu_slots = calloc(count + 1, 4);
    AUTO_BUF(x);
    AUTO_BUF(y);
    AUTO_BUF(result);

    random_elements(&x, count * (x_stride ? x_stride : in), dtype);
    random_elements(&y, count * (y_stride ? y_stride : out), dtype);
    for (size_t i = 0; i < count; i++) {
        uint32_t adapter = random_below((uint32_t)twins->count + 1);
        host_slots[i] = adapter == twins->count ? -1 : twins->host_slots[adapter];
        gpu_slots[i] = adapter == twins->count ? -1 : twins->gpu_slots[adapter];
    }
    assert_int_equal(buf_resize(&result, y.len), 0);
    AUTO_DEVICE_COPY(x_device, x.data, x.len);
    AUTO_DEVICE_COPY(y_device, y.data, y.len);
    AUTO_DEVICE_COPY(slots_device, gpu_slots, count * sizeof(*gpu_slots));
    struct registry_rows rows = {
        .count = count,
        .slots = host_slots,
        .dtype = dtype,
        .x = x.data,
        .y = y.data,
        .x_stride = x_stride,
        .y_stride = y_stride,
    };
    assert_int_equal(registry_forward(twins->host, module, &rows, 1), 0);
    rows.slots = slots_on_device ? slots_device : gpu_slots;
    rows.slots_on_device = slots_on_device;
    rows.x = x_device;
    rows.y = y_device;
    rows.stream = stream;
    if (registry_forward(twins->gpu, module, &rows, 1) < 0)
        fail_msg("%s", error_message());
    memset(gpu_slots, 0x55, count * sizeof(*gpu_slots)); /* they were read */
    assert_int_equal(cuda.stream_wait(stream), 0);
    assert_int_equal(cuda.copy(result.data, y_device, y.len, CUDA_DEVICE_TO_HOST), 0);
    assert_true(bytes_equal(buf_bytes(&result), buf_bytes(&y)));
    free(host_slots);
    free(gpu_slots);
}

/* ---- The same bits ---- */

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

static void every_adapter_has_the_bits_of_host_memory(void **state)
{
    static const char *const families[] = {"bert",           "gpt2",
                                           "llama",          "llama-c",
                                           "llama-half",     "llama-half-vectors",
                                           "llama-perl",     "llama-half-vectors-only",
                                           "minilm",         "llama-vectors-only",
                                           "minilm-tenant-0"};

    (void)state;
    for (size_t f = 0; f < sizeof(families) / sizeof(families[0]); f++) {
        AUTO_TWINS(twins);
        AUTO_STREAM(stream);
        family_open(&twins, families[f]);
        for (size_t v = 0; v < 3; v++) {
            twins_open(&twins, dtypes[v]);
            for (size_t n = 0; n < 6; n++)
                compare_batch(&twins, stream, 1 + random_below(30), dtypes[n % 3], n % 2);
            twins_close(&twins);
        }
    }
    /* A and B, for each registry; no vectors. */
    assert_int_equal(emulated.pageable_copies(), 2 * 3 * sizeof(families) / sizeof(families[0]));
}

static void every_number_of_rows_has_the_bits_of_host_memory(void **state)
{
    static const size_t counts[] = {1, 2, 31, 32, 33, 63, 64, 65, 100, 257, 600};
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);

    (void)state;
    /* Two that every program has: that of all threads, and the calling one's. */
    void *streams[] = {stream, NULL, (void *)1, (void *)2};
    family_open(&twins, "llama");
    twins_open(&twins, DTYPE_F32);
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        for (size_t n = 0; n < 4; n++)
            compare_batch(&twins, streams[n], counts[c], dtypes[n % 3], n % 2);
    }
}

/* Rows of a module whose rank is large, for two adapters in turn. */
#define BIG_RANK 16384
#define BIG_IN   2
#define BIG_OUT  3
#define BIG_ROWS 300

struct big {
    struct buf a, b, vectors, x, y;
    struct basis basis; /* those */
    int32_t slots[BIG_ROWS];
};

static void big_make(struct big *out)
{
    random_elements(&out->a, BIG_RANK * BIG_IN, DTYPE_F32);
    random_elements(&out->b, BIG_RANK * BIG_OUT, DTYPE_F32);
    random_elements(&out->vectors, 2 * (BIG_RANK + BIG_OUT), DTYPE_F32);
    random_elements(&out->x, BIG_ROWS * BIG_IN, DTYPE_F32);
    random_elements(&out->y, BIG_ROWS * BIG_OUT, DTYPE_F32);
    out->basis = (struct basis
    ){.a = (float *)(void *)out->a.data,
      .b = (float *)(void *)out->b.data,
      .rank = BIG_RANK,
      .in = BIG_IN,
      .out = BIG_OUT};
    for (size_t i = 0; i < BIG_ROWS; i++)
        out->slots[i] = (int32_t)(i % 2);
}

static void big_release(struct big *big)
{
    buf_release(&big->a);
    buf_release(&big->b);
    buf_release(&big->vectors);
    buf_release(&big->x);
    buf_release(&big->y);
}

/* big->y becomes the result. */
static void big_on_host(struct big *big)
{
    struct batch_row rows[BIG_ROWS];
    struct batch_basis packed;

    for (size_t i = 0; i < BIG_ROWS; i++)
        rows[i] = (struct batch_row){i, big->vectors.data + i % 2 * big->vectors.len / 2};
    const struct batch batch = {
        .basis = &packed,
        .in = BIG_IN,
        .out = BIG_OUT,
        .vectors = DTYPE_F32,
        .rows = rows,
        .row_count = BIG_ROWS,
        .dtype = DTYPE_F32,
        .x = big->x.data,
        .x_stride = BIG_IN,
        .y = big->y.data,
        .y_stride = BIG_OUT,
    };
    assert_int_equal(batch_basis_pack(&packed, &big->basis), 0);
    assert_int_equal(batch_run(&batch, 1), 0);
    batch_basis_release(&packed);
}

static void big_on_device(struct buf *y, const struct big *big)
{
    const struct backend_basis added = {big->basis.a, big->basis.b, BIG_RANK, BIG_IN, BIG_OUT};
    AUTO_DEVICE(device);

    assert_int_equal(device_open_number(&device, DEVICE_CURRENT, MATH_EXACT), 0);
    assert_int_equal(device_add_basis(&device, &added), 0);
    AUTO_DEVICE_COPY(vectors_device, big->vectors.data, big->vectors.len);
    AUTO_DEVICE_COPY(x_device, big->x.data, big->x.len);
    AUTO_DEVICE_COPY(y_device, big->y.data, big->y.len);
    const struct backend_batch batch = {
        .a = added.a,
        .b_matrix = added.b,
        .in = BIG_IN,
        .out = BIG_OUT,
        .vectors = vectors_device,
        .vector_dtype = DTYPE_F32,
        .vector_stride = BIG_RANK + BIG_OUT,
        .slot_count = 2,
        .slots = big->slots,
        .x = x_device,
        .y = y_device,
        .dtype = DTYPE_F32,
        .rows = BIG_ROWS,
        .x_stride = BIG_IN,
        .y_stride = BIG_OUT,
    };
    assert_int_equal(device_batch(&device, &batch), 0);
    assert_int_equal(device_wait(&device), 0);
    assert_int_equal(buf_resize(y, big->y.len), 0);
    assert_int_equal(cuda.copy(y->data, y_device, y->len, CUDA_DEVICE_TO_HOST), 0);
}

/* The memory that is taken for d o (A x) holds 256 of the rows. */
static void a_batch_of_any_size_has_the_bits_of_host_memory(void **state)
{
    __attribute__((cleanup(big_release))) struct big big = {0};
    AUTO_BUF(y);

    (void)state;
    big_make(&big);
    big_on_device(&y, &big);
    assert_int_equal(emulated.calls("cudaLaunchKernel"), 1 + 2 * 2);
    big_on_host(&big);
    assert_true(bytes_equal(buf_bytes(&y), buf_bytes(&big.y)));
}

static void a_mixed_batch_is_what_peft_gives(void **state)
{
    static const char *const names[] = {EXPECTED_ADAPTERS};
    float y[64 * 64], nothing[64 * 64] = {0};
    int32_t slots[64];
    AUTO_TWINS(twins);
    AUTO_EXPECTED(expected);
    AUTO_STREAM(stream);

    (void)state;
    for (size_t i = 0; i < 4; i++)
        fixture_open(&twins.adapters[twins.count++], names[i], NULL);
    assert_int_equal(model_open(&twins.base, FIXTURES "/base/llama"), 0);
    base_modules(&twins.list, &twins.adapters[0].loaded.adapter, &twins.base);
    twins_open(&twins, DTYPE_F32);
    expected_open(&expected);
    size_t count = expected.rows * expected.out;
    assert_true(count <= 64 * 64 && expected.rows <= 64);
    base_forward(y, &expected, &twins.base);
    for (size_t i = 0; i < expected.rows; i++)
        slots[i] = twins.gpu_slots[expected.adapter[i]];
    AUTO_DEVICE_COPY(x_device, expected.x, expected.rows * expected.in * sizeof(float));
    AUTO_DEVICE_COPY(y_device, y, count * sizeof(float));
    const struct registry_rows rows = {
        .count = expected.rows,
        .slots = slots,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };
    size_t module = module_find(&twins.list, DOWN);
    assert_int_equal(registry_forward(twins.gpu, module, &rows, 1), 0);
    assert_int_equal(cuda.stream_wait(stream), 0);
    assert_int_equal(cuda.copy(y, y_device, count * sizeof(float), CUDA_DEVICE_TO_HOST), 0);
    double magnitude = largest_difference(expected.y, nothing, count);
    assert_true(largest_difference(y, expected.y, count) <= 1e-6 * magnitude);
}

static void a_budget_is_all_of_the_devices_memory_that_is_taken(void **state)
{
    struct registry *registry = NULL;
    struct registry_stats stats;
    AUTO_TWINS(twins);

    (void)state;
    family_open(&twins, "llama");
    registry = small_open(&twins, 1000);
    registry_stats(&stats, registry);
    assert_int_equal(stats.capacity, 1000);
    assert_int_equal(stats.budget_bytes, basis_bytes(&twins) + 1000 * adapter_bytes(&twins));
    assert_int_equal(stats.bytes, stats.budget_bytes);
    /* Beside it a lane has memory for copies. */
    assert_in_range(emulated.memory_peak(), stats.bytes, stats.bytes + MIB);
    registry_free(registry);
    registry = NULL;
    assert_int_equal(
        registry_try(
            &registry, &twins.adapters[0].loaded, &twins.list, DTYPE_F32,
            basis_bytes(&twins) + adapter_bytes(&twins) - 1, true, DEVICE_CURRENT
        ),
        E_LIMIT
    );
    assert_says("does not hold one adapter");
    emulated.memory(basis_bytes(&twins) + 1000 * adapter_bytes(&twins) - 1);
    assert_int_equal(small_try(&registry, &twins, 1000), E_DEVICE);
    assert_says("the device's memory is too small");
    emulated.devices(0);
    assert_int_equal(small_try(&registry, &twins, 1), E_DEVICE);
    assert_says("no device");
    assert_null(registry);
}

/* The host chooses which adapter when the graph is launched, not when it is made. */
static void a_captured_batch_reads_its_slots_when_it_runs(void **state)
{
    float y[ADAPTERS_MAX][VALUES], result[VALUES] = {0};
    int32_t slots[ADAPTERS_MAX];
    void *graph = NULL, *executable = NULL;
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);

    (void)state;
    expected_family(&twins, y);
    struct registry *registry = small_open(&twins, (uint32_t)twins.count);
    for (size_t i = 0; i < twins.count; i++)
        assert_int_equal(registry_add(&slots[i], registry, &twins.adapters[i].loaded, 0), 0);
    assert_int_equal(cuda.pin(slots, sizeof(slots), 0), 0);
    AUTO_DEVICE_COPY(x_device, x_row(), sizeof(y[0]));
    AUTO_DEVICE_COPY(y_device, result, sizeof(result));
    AUTO_DEVICE_COPY(slots_device, &(int32_t){-1}, sizeof(int32_t));
    const struct registry_rows rows = {
        .count = 1,
        .slots = slots_device,
        .slots_on_device = true,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };
    assert_int_equal(cuda.capture_begin(stream, CUDA_CAPTURE_GLOBAL), 0);
    if (registry_forward(registry, module_find(&twins.list, Q_PROJ), &rows, 1) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(cuda.capture_end(stream, &graph), 0);
    assert_int_equal(cuda.graph_make(&executable, graph, 0), 0);
    for (size_t i = 0; i < twins.count; i++) {
        memset(result, 0, sizeof(result));
        assert_int_equal(cuda.copy(y_device, result, sizeof(result), CUDA_HOST_TO_DEVICE), 0);
        assert_int_equal(
            cuda.copy_on(slots_device, &slots[i], sizeof(slots[i]), CUDA_HOST_TO_DEVICE, stream), 0
        );
        assert_int_equal(cuda.graph_launch(executable, stream), 0);
        assert_int_equal(cuda.stream_wait(stream), 0);
        assert_int_equal(cuda.copy(result, y_device, sizeof(result), CUDA_DEVICE_TO_HOST), 0);
        assert_memory_equal(result, y[i], sizeof(y[i]));
    }
    assert_int_equal(cuda.executable_free(executable), 0);
    assert_int_equal(cuda.graph_free(graph), 0);
    assert_int_equal(cuda.unpin(slots), 0);
    registry_free(registry);
}

/* ---- What is refused ---- */

/* Whatever a graph's slots are, nothing else is touched. */
static void rows_of_no_slot_keep_their_bits(void **state)
{
    const int32_t slots[] = {-1, INT32_MAX, INT32_MIN, 2, 1};
    float y[5][VALUES], result[5][VALUES];
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);

    (void)state;
    family_open(&twins, "llama");
    struct registry *registry = small_open(&twins, 2);
    for (size_t i = 0; i < 5 * VALUES; i++)
        y[i / VALUES][i % VALUES] = i % 2 ? NAN : -0.0f;
    AUTO_DEVICE_COPY(x_device, y, sizeof(y));
    AUTO_DEVICE_COPY(y_device, y, sizeof(y));
    AUTO_DEVICE_COPY(slots_device, slots, sizeof(slots));
    const struct registry_rows rows = {
        .count = 4,
        .slots = slots_device,
        .slots_on_device = true,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };
    size_t module = module_find(&twins.list, Q_PROJ);
    assert_int_equal(registry_forward(registry, module, &rows, 1), 0);
    assert_int_equal(cuda.stream_wait(stream), 0);
    assert_int_equal(cuda.copy(result, y_device, sizeof(result), CUDA_DEVICE_TO_HOST), 0);
    assert_memory_equal(result, y, sizeof(y));
    registry_free(registry);
}

static void rows_that_cannot_be_are_refused_and_nothing_is_queued(void **state)
{
    float y[ADAPTERS_MAX][VALUES];
    int32_t slots[3] = {-1, -1, 0};
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);

    (void)state;
    expected_family(&twins, y);
    struct registry *registry = small_open(&twins, 2);
    AUTO_DEVICE_COPY(x_device, y, 3 * sizeof(y[0]));
    AUTO_DEVICE_COPY(y_device, y, 3 * sizeof(y[0]));
    AUTO_DEVICE_COPY(slots_device, slots, sizeof(slots));
    assert_int_equal(registry_add(&slots[2], registry, &twins.adapters[0].loaded, 0), 0);
    const struct registry_rows good = {
        .count = 3,
        .slots = slots,
        .dtype = DTYPE_F32,
        .x = x_device,
        .y = y_device,
        .stream = stream,
    };
    struct registry_rows bad[12];
    for (size_t i = 0; i < 12; i++)
        bad[i] = good;
    bad[0].x = y;
    bad[1].y = y;
    bad[2].x = (const uint8_t *)x_device + 1;
    bad[3].y = (uint8_t *)y_device + 2;
    bad[4].count = 4; /* one row more than y has; not held */
    bad[5].x_stride = VALUES + 1;
    bad[6].y_stride = SIZE_MAX / 8;
    bad[7].x_stride = VALUES - 1;
    bad[8].slots_on_device = true; /* they are the host's */
    bad[9].slots = (const int32_t *)(const void *)((const uint8_t *)slots_device + 2);
    bad[9].slots_on_device = true;
    bad[10].slots = (const int32_t[]){-1, 1, -1};
    bad[11].x = NULL;
    bad[4].slots = slots_device;
    bad[4].slots_on_device = true;
    size_t module = module_find(&twins.list, Q_PROJ);
    unsigned launches = emulated.calls("cudaLaunchKernel");
    unsigned taken = emulated.calls("cudaMallocFromPoolAsync");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (registry_forward(registry, module, &bad[i], 1) != E_INVALID)
            fail_msg("case %zu is not refused", i);
    }
    struct registry_rows rows = good;
    assert_int_equal(registry_forward(registry, twins.list.count, &rows, 1), E_INVALID);
    rows.dtype = DTYPE_F64;
    assert_int_equal(registry_forward(registry, module, &rows, 1), E_UNSUPPORTED);
    rows = (struct registry_rows){.dtype = DTYPE_F32}; /* no row: nothing at all */
    assert_int_equal(registry_forward(registry, module, &rows, 1), 0);
    assert_int_equal(emulated.calls("cudaLaunchKernel"), launches);
    assert_int_equal(emulated.calls("cudaMallocFromPoolAsync"), taken);
    assert_int_equal(registry_forward(registry, module, &good, 1), 0);
    assert_int_equal(registry_drop(registry, slots[2]), 0);
    assert_int_equal(registry_forward(registry, module, &good, 1), E_INVALID);
    assert_says("row 2: slot 0 is not held");
    /* And what is a GPU's is nothing for host memory. */
    rows = good;
    rows.slots = &twins.host_slots[0];
    rows.count = 1;
    assert_int_equal(registry_forward(twins.host, module, &rows, 1), E_INVALID);
    rows.stream = NULL;
    rows.slots_on_device = true;
    assert_int_equal(registry_forward(twins.host, module, &rows, 1), E_INVALID);
    registry_free(registry);
}

/* ---- Devices ---- */

static void a_registry_is_on_the_device_of_its_number(void **state)
{
    float y[ADAPTERS_MAX][VALUES], result[VALUES] = {0};
    struct registry *registry = NULL;
    struct registry_stats stats;
    int32_t slot;
    int current;
    AUTO_TWINS(twins);

    (void)state;
    emulated.devices(2);
    expected_family(&twins, y);
    assert_int_equal(
        registry_try(&registry, &twins.adapters[0].loaded, &twins.list, DTYPE_F32, MIB, true, 2),
        E_DEVICE
    );
    assert_int_equal(
        registry_try(&registry, &twins.adapters[0].loaded, &twins.list, DTYPE_F32, MIB, true, 1), 0
    );
    AUTO_DEVICE_COPY(elsewhere, x_row(), sizeof(result));
    assert_int_equal(cuda.set_device(1), 0);
    AUTO_STREAM(stream);
    AUTO_DEVICE_COPY(x_device, x_row(), sizeof(result));
    AUTO_DEVICE_COPY(y_device, result, sizeof(result));
    assert_int_equal(cuda.set_device(0), 0);
    assert_int_equal(registry_add(&slot, registry, &twins.adapters[3].loaded, 0), 0);
    struct registry_rows rows = {
        .count = 1,
        .slots = &slot,
        .dtype = DTYPE_F32,
        .x = elsewhere,
        .y = y_device,
        .stream = stream,
    };
    size_t module = module_find(&twins.list, Q_PROJ);
    assert_int_equal(registry_forward(registry, module, &rows, 1), E_INVALID);
    rows.x = x_device;
    assert_int_equal(registry_forward(registry, module, &rows, 1), 0);
    assert_int_equal(cuda.stream_wait(stream), 0);
    assert_int_equal(cuda.copy(result, y_device, sizeof(result), CUDA_DEVICE_TO_HOST), 0);
    assert_memory_equal(result, y[3], sizeof(result));
    registry_stats(&stats, registry);
    assert_int_equal(stats.held, 1);
    registry_free(registry);
    assert_int_equal(cuda.get_device(&current), 0);
    assert_int_equal(current, 0);
}

/* ---- The library's functions ---- */

static void vera_options(struct vera_registry_options *out, const struct twins *twins)
{
    static const char *names[MODULES_MAX];
    static uint64_t in[MODULES_MAX], outputs[MODULES_MAX];

    for (size_t i = 0; i < twins->list.count; i++) {
        names[i] = twins->list.modules[i].name;
        in[i] = twins->list.modules[i].in;
        outputs[i] = twins->list.modules[i].out;
    }
    *out = (struct vera_registry_options){
        .size = sizeof(*out),
        .names = names,
        .in = in,
        .out = outputs,
        .modules = twins->list.count,
        .directory = FIXTURES "/adapter/" FAMILY,
        .budget_bytes = MIB,
        .memory = VERA_CUDA,
    };
}

static void the_library_has_registries_on_a_gpu(void **state)
{
    float y[ADAPTERS_MAX][VALUES], result[VALUES] = {0};
    struct vera_registry_options options;
    struct vera_registry_state now = {.size = sizeof(now)};
    struct vera_registry *registry = NULL;
    int32_t slot;
    AUTO_TWINS(twins);
    AUTO_STREAM(stream);
    AUTO_DEVICE_COPY(x_device, x_row(), sizeof(result));
    AUTO_DEVICE_COPY(y_device, result, sizeof(result));

    (void)state;
    expected_family(&twins, y);
    vera_options(&options, &twins);
    options.device = -1;
    assert_int_equal(vera_registry_new(&registry, &options), VERA_INVALID);
    options.device = 1;
    assert_int_equal(vera_registry_new(&registry, &options), VERA_DEVICE);
    options.memory = VERA_HOST;
    assert_int_equal(vera_registry_new(&registry, &options), VERA_INVALID);
    options.device = 0;
    options.memory = 3;
    assert_int_equal(vera_registry_new(&registry, &options), VERA_UNSUPPORTED);
    options.memory = VERA_CUDA;
    assert_int_equal(vera_registry_new(&registry, &options), 0);
    for (size_t i = 0; i < twins.count; i++) {
        const uint8_t *id = twins.adapters[i].snapshot.id.bytes;
        AUTO_BUF(bundle);
        assert_int_equal(bundle_encode(&bundle, &twins.adapters[i].snapshot, false), 0);
        assert_int_equal(
            vera_registry_add_bundle(registry, bundle.data, bundle.len, 0, NULL, NULL), 0
        );
        assert_int_equal(vera_registry_hold(registry, id, &slot), 0);
        AUTO_DEVICE_COPY(slots_device, &slot, sizeof(slot));
        struct vera_batch batch = {
            .size = sizeof(batch),
            .slots = i % 2 ? slots_device : &slot,
            .x = x_device,
            .y = y_device,
            .rows = 1,
            .dtype = VERA_F32,
            .stream = stream,
            .slots_memory = i % 2   ? VERA_CUDA
                            : i % 4 ? VERA_HOST
                                    : 0,
        };
        memset(result, 0, sizeof(result));
        assert_int_equal(cuda.copy(y_device, result, sizeof(result), CUDA_HOST_TO_DEVICE), 0);
        assert_int_equal(
            vera_registry_forward(registry, module_find(&twins.list, Q_PROJ), &batch), 0
        );
        assert_int_equal(cuda.stream_wait(stream), 0);
        assert_int_equal(cuda.copy(result, y_device, sizeof(result), CUDA_DEVICE_TO_HOST), 0);
        assert_memory_equal(result, y[i], sizeof(result));
        batch.reserved = 1;
        assert_int_equal(vera_registry_forward(registry, 0, &batch), VERA_INVALID);
        batch.reserved = 0;
        batch.slots_memory = 3;
        assert_int_equal(vera_registry_forward(registry, 0, &batch), VERA_UNSUPPORTED);
        assert_int_equal(vera_registry_drop(registry, slot), 0);
    }
    assert_int_equal(vera_registry_status(registry, &now), 0);
    assert_int_equal(now.adapters, twins.count);
    assert_true(now.bytes <= now.budget_bytes && now.budget_bytes == MIB);
    vera_registry_free(registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM(every_adapter_has_the_bits_of_host_memory),
        CLAIM(every_number_of_rows_has_the_bits_of_host_memory),
        CLAIM(a_batch_of_any_size_has_the_bits_of_host_memory),
        CLAIM(a_mixed_batch_is_what_peft_gives),
        CLAIM(a_budget_is_all_of_the_devices_memory_that_is_taken),
        CLAIM(a_captured_batch_reads_its_slots_when_it_runs),
        CLAIM(rows_of_no_slot_keep_their_bits),
        CLAIM(rows_that_cannot_be_are_refused_and_nothing_is_queued),
        CLAIM(a_registry_is_on_the_device_of_its_number),
        CLAIM(the_library_has_registries_on_a_gpu),
    };

    return cmocka_run_group_tests(tests, device_load, NULL);
}
