/*
 * Tests of apply/live*.c with weights in a GPU's memory, on the emulated device: swaps over real
 * adapters are, bit for bit, what materialize() writes, in every layout, on one device and spread
 * over two and the host; and what the program has queued before a swap comes before it. What fails,
 * and memory: tests/test_live_device_faults.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/live_twin.h"

#define LLAMAS "llama-c llama-vectors-only llama-perl"

static const struct {
    const char *base, *folders;
    bool from_base, pinned;
    enum layout layout;
    int devices;
    uint64_t kept;
    unsigned order;
    size_t swaps;
} cases[] = {
    {FIXTURES "/base/llama", LLAMAS, true, true, LAYOUT_PLAIN, 1, 0, EMULATED_LAZY, 40},
    {FIXTURES "/base/llama", LLAMAS, true, true, LAYOUTS, 2, 40000, 77, 40},
    {FIXTURES "/base/llama", LLAMAS, false, true, LAYOUTS, 1, 0, EMULATED_OTHERS, 40},
    {FIXTURES "/base/llama-half", "llama-half llama-half-vectors-only", true, false, LAYOUT_PLAIN,
     1, UINT64_MAX, EMULATED_EAGER, 30},
    {FIXTURES "/base/llama-half", "llama-half llama-half-vectors", false, true, LAYOUTS, 2, 1, 5,
     30},
    {"f16", "llama-half llama-vectors-only", true, false, LAYOUTS, 1, 100000, EMULATED_OTHERS, 30},
    {FIXTURES "/base/gpt2", "gpt2", true, true, LAYOUTS, 2, UINT64_MAX, EMULATED_LAZY, 30},
    {FIXTURES "/base/gpt2", "gpt2", false, true, LAYOUT_PLAIN, 1, UINT64_MAX, 9, 30},
    {FIXTURES "/base/bert", "bert", false, true, LAYOUTS, 2, 0, EMULATED_OTHERS, 20},
    {FIXTURES "/base/bert", "bert", true, true, LAYOUT_PLAIN, 1, 50000, EMULATED_LAZY, 20},
};

static void test_random_swaps_never_drift(void **state)
{
    (void)state;
    write_f16("f16");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct live_options options = {
            .base = cases[i].from_base ? cases[i].base : NULL,
            .threads = 2,
            .kept_max = cases[i].kept,
        };
        AUTO_CHOIR(choir);
        AUTO_TWIN(twin);
        AUTO_LIVE(live);
        emulated.devices(cases[i].devices);
        choir_open(&choir, cases[i].base, cases[i].folders, cases[i].layout, cases[i].pinned);
        twin_make(&twin, &choir.memory, cases[i].devices);
        emulated.order(cases[i].order);
        live = live_of_twin(&twin, &options);
        swap_at_random(&choir, &twin, live, cases[i].swaps);
    }
}

/* A fused matrix' rows (qkv as vLLM has it), or columns (as [in, out]), are one block. */
static void fused_case(const char *base, const char *folders, bool by_columns)
{
    const struct live_options options = {.threads = 1};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);

    choir_open(&choir, base, folders, LAYOUT_PLAIN, false);
    choir_fuse(&choir, by_columns);
    for (size_t i = 0; i + 1 < choir.memory.block_count; i++)
        memset(choir.memory.blocks[i], 0xa5, choir.memory.block_bytes[i]); /* of no more use */
    for (size_t i = 0; i < choir.memory.count; i++)
        tensor_fill(&choir.memory.tensors[i], choir.base.tensors[i].data);
    twin_make(&twin, &choir.memory, 1);
    live = live_of_twin(&twin, &options);
    swap_at_random(&choir, &twin, live, 10);
}

static void test_fused_weights_hold_several_modules(void **state)
{
    (void)state;
    fused_case(FIXTURES "/base/llama", "llama-c", false);
    fused_case(FIXTURES "/base/llama", "llama-c", true);
    fused_case(FIXTURES "/base/llama-half", "llama-half", true);
}

/* Two devices of one process that share each weight, rows or columns of it. */
static void test_shards_of_a_tensor_lie_on_several_devices(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .threads = 1};
    struct live_state now;

    (void)state;
    emulated.devices(2);
    emulated.order(31);
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    for (size_t i = 0; i < choir.memory.count; i++) {
        struct memory_tensor *tensor = &choir.memory.tensors[i];
        bool rows = i / 2 % 2 || tensor->columns < 2;
        uint64_t size = rows ? tensor->rows : tensor->columns, half = size / 3 + 1;
        uint8_t *old = tensor->parts[0].data;
        memset(old, 0xa5, tensor->rows * tensor->columns * tensor->element);
        tensor->parts[1] = tensor->parts[0];
        tensor->part_count = 2;
        for (unsigned k = 0; k < 2; k++) {
            struct memory_part *part = &tensor->parts[k];
            *(rows ? &part->row : &part->column) = k ? half : 0;
            *(rows ? &part->rows : &part->columns) = k ? size - half : half;
            part->row_stride = (size_t)part->columns * tensor->element;
            part->data = memory_block(&choir.memory, (size_t)part->rows * part->row_stride);
        }
        tensor_fill(tensor, choir.base.tensors[i].data);
    }
    twin_make(&twin, &choir.memory, 2);
    live = live_of_twin(&twin, &options);
    swap_at_random(&choir, &twin, live, 20);
    must(live_swap(&now, live, &choir.adapters[2].snapshot));
    assert_true(now.pinned);
}

/* A copy on the device is hashed here: the pin tells other weights of the same shapes. */
static void test_a_copy_on_a_device_is_compared_with_the_pin(void **state)
{
    const struct live_options options = {.threads = 1};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    AUTO_SUBJECT(subject);
    AUTO_MODEL(other);
    struct live_state now;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    live = live_of_twin(&twin, &options);
    must(live_swap(&now, live, &choir.adapters[1].snapshot));
    assert_true(now.pinned);
    copy_dir(FIXTURES "/base/gpt2", "other");
    flip_bit(
        "other/" MODEL_FILE, tensor_offset(&choir.memory.model, "transformer.h.1.mlp.c_fc.weight")
    );
    must(model_open(&other, "other"));
    subject_open(&subject, choir.dirs[3], &other);
    assert_int_equal(live_swap(&now, live, &subject.snapshot), E_CONFLICT);
    assert_non_null(strstr(error_message(), "\n  transformer.h.1.mlp.c_fc"));
    assert_twin(&twin, &choir.adapters[1]);
}

/* A weight of several blocks of the way back, and a part of it between two of them. */
static void test_what_is_kept_on_a_device_can_be_read_and_hashed(void **state)
{
    const uint64_t rows = 2500, columns = 1111;
    const size_t bytes = (size_t)(rows * columns) * sizeof(float), at = 4u << 20, len = 5u << 20;
    struct live_place place = {
        .name = "w", .dtype = DTYPE_F32, .dims = 2, .shape = {rows, columns}, .on_device = true};
    AUTO_LIVE_WEIGHTS(weights);
    AUTO_FREE(uint8_t, data);
    AUTO_FREE(uint8_t, read);
    struct digest wanted, digest;
    bool has = false;

    (void)state;
    assert_non_null(data = malloc(bytes));
    assert_non_null(read = malloc(bytes));
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)random_below(256);
    place.data = device_new(bytes);
    assert_int_equal(cuda.copy(place.data, data, bytes, CUDA_HOST_TO_DEVICE), 0);
    must(live_weights_add(&weights, &place));
    must(live_weights_seal(&weights, NULL));
    assert_int_equal(cuda.free(place.data), 0);
    struct live_tensor *tensor = live_tensor_of(&weights, &weights.table.tensors[0]);
    must(digest_of(&wanted, (struct bytes){data, bytes}));
    must(live_tensor_digest(&digest, &has, tensor));
    assert_true(has && digest_equal(&wanted, &digest));
    must(model_read_at(read, &weights.table, &weights.table.tensors[0], at + 4, len));
    assert_memory_equal(read, data + at + 4, len);
    must(model_read_at(read, &weights.table, &weights.table.tensors[0], 0, bytes));
    assert_memory_equal(read, data, bytes);
}

/* Registering and sealing */

static void test_memory_that_is_not_the_devices_is_refused_by_name(void **state)
{
    static float host[24];
    const struct live_options options = {0};
    struct live_place place = {
        .name = "w", .dtype = DTYPE_F32, .dims = 2, .shape = {4, 6}, .on_device = true};
    AUTO_LIVE(live);
    void *data = NULL;

    (void)state;
    emulated.devices(2);
    must(live_new(&live, &options));
    place.data = host;
    assert_int_equal(live_register(live, &place), E_INVALID);
    assert_non_null(strstr(error_message(), "'w': "));
    assert_int_equal(cuda.new(&data, 24 * sizeof(float)), 0);
    place.data = (float *)data + 1; /* ends behind it */
    assert_int_equal(live_register(live, &place), E_INVALID);
    place.data = data;
    place.device = 1;
    assert_int_equal(live_register(live, &place), E_INVALID);
    place.device = 2;
    assert_int_equal(live_register(live, &place), E_DEVICE);
    assert_non_null(strstr(error_message(), "'w' lies in a GPU's memory: "));
    place.device = 0;
    must(live_register(live, &place));
    place.name = "x";
    must(live_register(live, &place));
    assert_int_equal(live_seal(live), E_INVALID); /* they lie on each other */
    assert_non_null(strstr(error_message(), "\n  w and x"));
    assert_int_equal(cuda.free(data), 0);
}

static void test_where_there_is_no_device_it_is_said(void **state)
{
    static const struct {
        int devices;
        const char *module, *says;
    } none[] = {
        {0, CUDA_MODULE, "there is a driver, and no device"},
        {-1, CUDA_MODULE, "no driver"},
        {1, "no/such.so", "is not there"},
    };
    struct live_place place = {
        .name = "w",
        .dtype = DTYPE_F32,
        .dims = 1,
        .shape = {4},
        .data = &place,
        .on_device = true,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        const struct live_options options = {0};
        AUTO_LIVE(live);
        must(live_new(&live, &options));
        emulated.devices(none[i].devices);
        assert_int_equal(setenv("VERA_CUDA_MODULE", none[i].module, 1), 0);
        assert_int_equal(live_register(live, &place), E_DEVICE);
        assert_non_null(strstr(error_message(), none[i].says));
        assert_non_null(error_hint_text());
    }
}

static void test_weights_that_are_not_the_bases_are_refused_by_name(void **state)
{
    static const char *const base = FIXTURES "/base/llama";
    const struct live_options options = {.base = base};
    AUTO_MEMORY(memory);

    (void)state;
    memory_open(&memory, base, LAYOUTS, "");
    for (size_t i = 0; i < memory.count; i += 3) {
        AUTO_TWIN(twin);
        AUTO_LIVE(live);
        struct memory_part *part = &memory.tensors[i].parts[0];
        uint8_t *last = element_at(part, part->rows - 1, part->columns - 1);
        *last ^= 1;
        twin_make(&twin, &memory, 1);
        must(live_new(&live, &options));
        twin_register(live, &twin);
        assert_int_equal(live_seal(live), E_CONFLICT);
        assert_non_null(strstr(error_message(), memory.tensors[i].name));
        *last ^= 1;
    }
}

/* Order */

/* Copies of every block that the program queues on the streams of the tensors there, and that
   nobody waits for. */
static void queue_copies(const struct twin *twin, uint8_t *const *from)
{
    for (size_t i = 0; i < twin->memory->block_count; i++)
        assert_int_equal(
            cuda.copy_on(
                twin->device[i], from[i], twin->memory->block_bytes[i], CUDA_DEVICE_TO_DEVICE,
                twin->streams[i % 2]
            ),
            0
        );
}

/* As queue_copies() left them, where neither the change nor the one before it has an adapter. */
static void assert_changed(const struct twin *twin, const struct choir *choir, size_t number)
{
    assert_int_equal(cuda.stream_wait(twin->streams[0]), 0);
    assert_int_equal(cuda.stream_wait(twin->streams[1]), 0);
    twin_bring(twin);
    for (size_t i = 0; i < choir->memory.count; i++) {
        const uint8_t *base = choir->base.tensors[i].data;
        const uint8_t *with = choir->adapters[3].tensors[i].data;
        if (memcmp(base, with, choir->base.tensors[i].len) == 0)
            continue;
        if (!tensor_is(
                &choir->memory.tensors[i],
                number < choir->count ? choir->adapters[number].tensors[i].data : base
            ))
            fail_msg("%s differs", choir->memory.tensors[i].name);
    }
}

static void queue_case(unsigned order)
{
    const struct live_options options = {.threads = 1};
    uint8_t *given[BLOCKS_MAX], *noise[BLOCKS_MAX];
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);

    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
    for (size_t k = 0; k < 2; k++)
        assert_int_equal(cuda.stream_new(&twin.streams[k], CUDA_NON_BLOCKING), 0);
    twin_make(&twin, &choir.memory, 1);
    for (size_t i = 0; i < choir.memory.block_count; i++) {
        given[i] = twin.device[i];
        twin.device[i] = device_new(choir.memory.block_bytes[i]);
        noise[i] = device_new(choir.memory.block_bytes[i]);
    }
    emulated.order(order);
    queue_copies(&twin, given); /* the weights are on their way to where they are registered */
    live = live_of_twin(&twin, &options);
    for (size_t i = 0; i < 6; i++) {
        queue_copies(&twin, noise);
        if (i % 3 < 2)
            must(live_swap(NULL, live, &choir.adapters[2 + i % 3].snapshot));
        else
            must(live_detach(NULL, live));
        assert_changed(&twin, &choir, i % 3 < 2 ? 2 + i % 3 : choir.count);
    }
    for (size_t i = 0; i < choir.memory.block_count; i++) {
        assert_int_equal(cuda.free(given[i]), 0);
        assert_int_equal(cuda.free(noise[i]), 0);
    }
}

static void test_a_change_comes_after_what_the_streams_were_given(void **state)
{
    static const unsigned orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 3, 4};

    (void)state;
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
        queue_case(orders[i]);
}

/* A capture of a copy of a block, during which a swap is tried. */
static void *graph_of_copy(
    const struct twin *twin,
    struct live *live,
    const struct snapshot *snapshot,
    void *stream,
    uint8_t *out,
    size_t block,
    int wanted
)
{
    size_t bytes = twin->memory->block_bytes[block];
    void *graph = NULL, *executable = NULL;

    assert_int_equal(cuda.capture_begin(stream, CUDA_CAPTURE_GLOBAL), 0);
    assert_int_equal(
        cuda.copy_on(out, twin->device[block], bytes, CUDA_DEVICE_TO_DEVICE, stream), 0
    );
    assert_int_equal(live_swap(NULL, live, snapshot), wanted);
    assert_int_equal(cuda.capture_end(stream, &graph), 0);
    assert_int_equal(cuda.graph_make(&executable, graph, 0), 0);
    assert_int_equal(cuda.graph_free(graph), 0);
    return executable;
}

/* A graph that a program has captured before a swap reads the weights after it. To capture a stream
   and to swap go on beside each other, unless it is one in which the weights are used. */
static void test_graphs_stay_good_and_captures_are_left_alone(void **state)
{
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .threads = 1};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    AUTO_FREE(uint8_t, read);
    void *side = NULL, *graphs[2];
    struct live_state now;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    assert_int_equal(cuda.stream_new(&twin.streams[0], CUDA_NON_BLOCKING), 0);
    assert_int_equal(cuda.stream_new(&twin.streams[1], CUDA_NON_BLOCKING), 0);
    assert_int_equal(cuda.stream_new(&side, CUDA_NON_BLOCKING), 0);
    twin_make(&twin, &choir.memory, 1);
    size_t block = block_of(&choir.memory, choir.memory.tensors[8].parts[0].data);
    size_t bytes = choir.memory.block_bytes[block];
    uint8_t *out = device_new(bytes);
    assert_non_null(read = malloc(bytes));
    live = live_of_twin(&twin, &options);
    graphs[0] = graph_of_copy(&twin, live, &choir.adapters[1].snapshot, side, out, block, 0);
    assert_twin(&twin, &choir.adapters[1]);
    graphs[1] = graph_of_copy(
        &twin, live, &choir.adapters[3].snapshot, twin.streams[0], out, block, E_DEVICE
    );
    assert_non_null(strstr(error_message(), "captured"));
    live_status(&now, live);
    assert_true(now.epoch == 1 && now.attached && !now.torn);
    assert_twin(&twin, &choir.adapters[1]);
    for (size_t i = 0; i < choir.count; i++) {
        swap_to(&choir, &twin, live, i);
        assert_int_equal(cuda.graph_launch(graphs[i % 2], side), 0);
        assert_int_equal(cuda.stream_wait(side), 0);
        assert_int_equal(cuda.copy(read, out, bytes, CUDA_DEVICE_TO_HOST), 0);
        assert_memory_equal(read, choir.memory.blocks[block], bytes);
    }
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(cuda.executable_free(graphs[i]), 0);
    assert_int_equal(cuda.stream_free(side), 0);
    assert_int_equal(cuda.free(out), 0);
}

/* The program's thread works with the device that it has chosen. */
static void test_the_threads_device_stays_what_it_is(void **state)
{
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .kept_max = UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    int device = -1;

    (void)state;
    emulated.devices(2);
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    assert_int_equal(cuda.set_device(1), 0);
    live = live_of_twin(&twin, &options);
    must(live_swap(NULL, live, &choir.adapters[1].snapshot));
    must(live_detach(NULL, live));
    assert_int_equal(cuda.get_device(&device), 0);
    assert_int_equal(device, 1);
    assert_int_equal(cuda.set_device(0), 0);
    assert_twin(&twin, &choir.base);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, twin_setup, twin_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_random_swaps_never_drift),
        TEST(test_fused_weights_hold_several_modules),
        TEST(test_shards_of_a_tensor_lie_on_several_devices),
        TEST(test_a_copy_on_a_device_is_compared_with_the_pin),
        TEST(test_what_is_kept_on_a_device_can_be_read_and_hashed),
        TEST(test_memory_that_is_not_the_devices_is_refused_by_name),
        TEST(test_where_there_is_no_device_it_is_said),
        TEST(test_weights_that_are_not_the_bases_are_refused_by_name),
        TEST(test_a_change_comes_after_what_the_streams_were_given),
        TEST(test_graphs_stay_good_and_captures_are_left_alone),
        TEST(test_the_threads_device_stays_what_it_is),
    };

    return cmocka_run_group_tests(tests, twin_load, NULL);
}
