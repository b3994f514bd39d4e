/*
 * Tests of apply/live*.c with weights in a GPU's memory, on the emulated device: swaps over real
 * adapters are, bit for bit, what materialize() writes, in every layout, on one device and spread
 * over two and the host; what the program has queued before a swap comes before it; and where a
 * device fails the weights are as they were, or the state says that they are not, and the next
 * change makes them right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <malloc.h>

#include "tests/emulated_device.h"
#include "tests/live.h"

#define BLOCKS_MAX (TENSORS_MAX * PARTS_MAX)

static int module_load(void **state)
{
    (void)state;
    return emulated_load(CUDA_MODULE);
}

static int setup(void **state)
{
    emulated.reset();
    return setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) == 0 ? scratch_make(state) : -1;
}

/* Whatever a test did, the devices' memory is free again. */
static int teardown(void **state)
{
    int err = scratch_remove(state);

    return err == 0 && emulated.leaks() == 0 ? 0 : -1;
}

/* Where a block of a model's memory is: its device's number, or the host itself. */
#define ON_HOST (-1)

/* Each block of a `struct memory`, in a device's memory: what is compared is brought back into it.
   What lies between the elements is compared, too. */
struct twin {
    struct memory *memory;
    int where[BLOCKS_MAX];
    uint8_t *device[BLOCKS_MAX];
    uint8_t *gaps[BLOCKS_MAX]; /* 1: no element has this byte */
    void *streams[2];          /* tensors use one or the other */
};

static void twin_release(struct twin *twin)
{
    for (size_t i = 0; twin->memory && i < twin->memory->block_count; i++) {
        assert_int_equal(cuda.free(twin->device[i]), 0);
        free(twin->gaps[i]);
    }
    for (size_t i = 0; i < 2; i++) {
        if (twin->streams[i])
            assert_int_equal(cuda.stream_free(twin->streams[i]), 0);
    }
}

#define AUTO_TWIN(name) __attribute__((cleanup(twin_release))) struct twin name = {0}

static void gaps_find(struct twin *twin)
{
    const struct memory *memory = twin->memory;

    for (size_t i = 0; i < memory->block_count; i++) {
        const uint8_t *block = memory->blocks[i];
        twin->gaps[i] = malloc(memory->block_bytes[i]);
        assert_non_null(twin->gaps[i]);
        memset(twin->gaps[i], 1, memory->block_bytes[i]);
        for (size_t t = 0; t < memory->count; t++) {
            const struct memory_tensor *tensor = &memory->tensors[t];
            for (size_t k = 0; k < tensor->part_count; k++) {
                const struct memory_part *part = &tensor->parts[k];
                if (part->data < block || part->data >= block + memory->block_bytes[i])
                    continue;
                EACH_ELEMENT(part, r, c)
                memset(twin->gaps[i] + (element_at(part, r, c) - block), 0, tensor->element);
            }
        }
    }
}

/* All streams see it afterwards. */
static void twin_send(const struct twin *twin)
{
    const struct memory *memory = twin->memory;

    for (size_t i = 0; i < memory->block_count; i++) {
        size_t bytes = memory->block_bytes[i];
        if (!twin->device[i])
            continue;
        assert_int_equal(cuda.set_device(twin->where[i]), 0);
        assert_int_equal(
            cuda.copy(twin->device[i], memory->blocks[i], bytes, CUDA_HOST_TO_DEVICE), 0
        );
        assert_int_equal(cuda.wait(), 0);
    }
    assert_int_equal(cuda.set_device(0), 0);
}

/* `devices`: 1: all on the first one; 2: each block on one of two, or on the host. */
static void twin_make(struct twin *twin, struct memory *memory, int devices)
{
    void *data = NULL;

    twin->memory = memory;
    for (size_t i = 0; i < memory->block_count; i++) {
        twin->where[i] = devices == 1 ? 0 : (int)random_below(3) - 1;
        if (twin->where[i] == ON_HOST)
            continue;
        assert_int_equal(cuda.set_device(twin->where[i]), 0);
        assert_int_equal(cuda.new(&data, memory->block_bytes[i]), 0);
        twin->device[i] = data;
    }
    gaps_find(twin);
    twin_send(twin);
}

/* Into the host's memory. Works on the device that it uses now, so copies come in any order. */
static void twin_bring(const struct twin *twin)
{
    const struct memory *memory = twin->memory;

    for (size_t i = 0; i < memory->block_count; i++) {
        if (!twin->device[i])
            continue;
        assert_int_equal(
            cuda.copy(
                memory->blocks[i], twin->device[i], memory->block_bytes[i], CUDA_DEVICE_TO_HOST
            ),
            0
        );
        for (size_t at = 0; at < memory->block_bytes[i]; at++) {
            if (twin->gaps[i][at] && memory->blocks[i][at] != 0xa5)
                fail_msg("block %zu: byte %zu is no weight's, and was written", i, at);
        }
    }
}

static size_t block_of(const struct memory *memory, const uint8_t *at)
{
    size_t i = 0;

    while (at < memory->blocks[i] || at >= memory->blocks[i] + memory->block_bytes[i])
        i++;
    return i;
}

static struct live_place
twin_place(const struct twin *twin, const struct memory_tensor *tensor, size_t part)
{
    struct live_place place = place_of(tensor, &tensor->parts[part]);
    uint8_t *at = tensor->parts[part].data;
    size_t block = block_of(twin->memory, at);

    if (!twin->device[block])
        return place;
    place.data = twin->device[block] + (at - twin->memory->blocks[block]);
    place.on_device = true;
    place.device = twin->where[block];
    if (place.device == 0)
        place.stream = twin->streams[(size_t)(tensor - twin->memory->tensors) % 2];
    return place;
}

static void twin_register(struct live *live, const struct twin *twin)
{
    for (size_t i = 0; i < twin->memory->count; i++) {
        for (size_t k = 0; k < twin->memory->tensors[i].part_count; k++) {
            struct live_place place = twin_place(twin, &twin->memory->tensors[i], k);
            must(live_register(live, &place));
        }
    }
}

static struct live *live_of_twin(const struct twin *twin, const struct live_options *options)
{
    struct live *live = NULL;

    must(live_new(&live, options));
    twin_register(live, twin);
    must(live_seal(live));
    return live;
}

static void assert_twin(const struct twin *twin, const struct expected *expected)
{
    twin_bring(twin);
    assert_memory(twin->memory, expected);
}

/* Swaps */

static void swap_to(struct choir *choir, const struct twin *twin, struct live *live, size_t number)
{
    const struct snapshot *snapshot = &choir->adapters[number].snapshot;
    struct live_state before, after;

    live_status(&before, live);
    bool same = before.attached && digest_equal(&before.snapshot, &snapshot->id);
    must(live_swap(&after, live, snapshot));
    assert_int_equal(after.epoch, before.epoch + !same);
    assert_true(after.attached && digest_equal(&after.snapshot, &snapshot->id));
    assert_true(same || after.had_previous == before.attached);
    assert_false(after.torn);
    assert_twin(twin, &choir->adapters[number]);
}

static void
swap_at_random(struct choir *choir, const struct twin *twin, struct live *live, size_t swaps)
{
    struct live_state state;

    for (size_t i = 0; i < swaps; i++) {
        swap_to(choir, twin, live, random_below(choir->count));
        if (random_below(10) == 0) {
            must(live_detach(&state, live));
            assert_false(state.attached);
            assert_twin(twin, &choir->base);
        }
    }
    must(live_detach(&state, live));
    assert_twin(twin, &choir->base);
    uint64_t epoch = state.epoch;
    must(live_detach(&state, live));
    assert_int_equal(state.epoch, epoch); /* nothing was done */
}

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
    static const char *const names[] = {"q_proj", "k_proj", "v_proj"};
    const struct live_options options = {.threads = 1};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    uint64_t at = 0, all = 0;

    choir_open(&choir, base, folders, LAYOUT_PLAIN, false);
    struct memory_tensor *parts[3];
    for (size_t i = 0; i < choir.memory.count; i++) {
        for (size_t k = 0; k < 3; k++) {
            if (strstr(choir.memory.tensors[i].name, "layers.1.") &&
                strstr(choir.memory.tensors[i].name, names[k]))
                parts[k] = &choir.memory.tensors[i];
        }
    }
    for (size_t k = 0; k < 3; k++)
        all += parts[k]->rows;
    size_t element = parts[0]->element;
    uint64_t in = parts[0]->columns;
    uint8_t *fused = memory_block(&choir.memory, (size_t)(all * in) * element);
    for (size_t k = 0; k < 3; k++) {
        struct memory_part *part = &parts[k]->parts[0];
        part->row_stride = by_columns ? element : (size_t)in * element;
        part->column_stride = by_columns ? (size_t)all * element : element;
        part->data = fused + (by_columns ? at * element : at * in * element);
        at += parts[k]->rows;
        tensor_fill(parts[k], choir.base.tensors[parts[k] - choir.memory.tensors].data);
    }
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

/* Work that the program has queued on a weight's stream, and that nobody has waited for. */
static void test_a_change_comes_after_what_the_streams_were_given(void **state)
{
    static const unsigned orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 3, 4};

    (void)state;
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        const struct live_options options = {.threads = 1};
        AUTO_CHOIR(choir);
        AUTO_TWIN(twin);
        AUTO_LIVE(live);
        void *given[BLOCKS_MAX], *noise[BLOCKS_MAX];
        choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
        for (size_t k = 0; k < 2; k++)
            assert_int_equal(cuda.stream_new(&twin.streams[k], CUDA_NON_BLOCKING), 0);
        twin_make(&twin, &choir.memory, 1);
        /* The weights themselves are on their way to where they are registered. */
        for (size_t k = 0; k < choir.memory.block_count; k++) {
            size_t bytes = choir.memory.block_bytes[k];
            given[k] = twin.device[k];
            assert_int_equal(cuda.new(&noise[k], bytes), 0);
            assert_int_equal(cuda.new((void **)&twin.device[k], bytes), 0);
        }
        emulated.order(orders[i]);
        for (size_t k = 0; k < choir.memory.block_count; k++)
            assert_int_equal(
                cuda.copy_on(
                    twin.device[k], given[k], choir.memory.block_bytes[k], CUDA_DEVICE_TO_DEVICE,
                    twin.streams[k % 2]
                ),
                0
            );
        live = live_of_twin(&twin, &options);
        for (size_t k = 0; k < choir.memory.block_count; k++)
            assert_int_equal(
                cuda.copy_on(
                    twin.device[k], noise[k], choir.memory.block_bytes[k], CUDA_DEVICE_TO_DEVICE,
                    twin.streams[k % 2]
                ),
                0
            );
        for (size_t k = 0; k < 2; k++) {
            if (k == 0)
                must(live_swap(NULL, live, &choir.adapters[3].snapshot));
            else
                must(live_detach(NULL, live));
            assert_int_equal(cuda.stream_wait(twin.streams[0]), 0);
            assert_int_equal(cuda.stream_wait(twin.streams[1]), 0);
            for (size_t t = 0; t < choir.memory.count; t++) {
                /* The noise stays where the adapter changes nothing. */
                twin_bring(&twin);
                const struct memory_tensor *tensor = &choir.memory.tensors[t];
                const uint8_t *base = choir.base.tensors[t].data;
                const uint8_t *with = choir.adapters[3].tensors[t].data;
                if (memcmp(base, with, choir.base.tensors[t].len) != 0)
                    assert_true(tensor_is(tensor, k == 0 ? with : base));
            }
        }
        for (size_t k = 0; k < choir.memory.block_count; k++) {
            assert_int_equal(cuda.free(given[k]), 0);
            assert_int_equal(cuda.free(noise[k]), 0);
        }
    }
}

/* A graph that a program has captured before a swap reads the weights after it. */
static void test_graphs_stay_good_and_captures_are_left_alone(void **state)
{
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .threads = 1};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    void *stream, *out = NULL, *graph = NULL, *executable = NULL;
    struct live_state before, after;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    assert_int_equal(cuda.stream_new(&twin.streams[0], CUDA_NON_BLOCKING), 0);
    assert_int_equal(cuda.stream_new(&twin.streams[1], CUDA_NON_BLOCKING), 0);
    stream = twin.streams[0];
    twin_make(&twin, &choir.memory, 1);
    size_t block = block_of(&choir.memory, choir.memory.tensors[8].parts[0].data);
    size_t bytes = choir.memory.block_bytes[block];
    assert_int_equal(cuda.new(&out, bytes), 0);
    live = live_of_twin(&twin, &options);
    must(live_swap(&before, live, &choir.adapters[1].snapshot));
    assert_int_equal(cuda.capture_begin(stream, CUDA_CAPTURE_RELAXED), 0);
    assert_int_equal(
        cuda.copy_on(out, twin.device[block], bytes, CUDA_DEVICE_TO_DEVICE, stream), 0
    );
    assert_int_equal(live_swap(NULL, live, &choir.adapters[3].snapshot), E_DEVICE);
    assert_non_null(strstr(error_message(), "captured"));
    live_status(&after, live);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(cuda.capture_end(stream, &graph), 0);
    assert_twin(&twin, &choir.adapters[1]);
    assert_int_equal(cuda.graph_make(&executable, graph, 0), 0);
    for (size_t i = 0; i < choir.count; i++) {
        AUTO_FREE(uint8_t, read);
        swap_to(&choir, &twin, live, i);
        assert_non_null(read = malloc(bytes));
        assert_int_equal(cuda.graph_launch(executable, stream), 0);
        assert_int_equal(cuda.stream_wait(stream), 0);
        assert_int_equal(cuda.copy(read, out, bytes, CUDA_DEVICE_TO_HOST), 0);
        assert_memory_equal(read, choir.memory.blocks[block], bytes);
    }
    assert_int_equal(cuda.executable_free(executable), 0);
    assert_int_equal(cuda.graph_free(graph), 0);
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

/* Failures */

static const char *const calls[] = {
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaMemcpy",
    "cudaMemcpyAsync",
    "cudaMemcpy2DAsync",
    "cudaLaunchKernel",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "cudaEventRecord",
    "cudaSetDevice",
    "cudaGetDevice",
    "cudaFree",
};

struct fault_counts {
    unsigned failed, torn;
};

/* Nothing was written, and nothing is said to be; or the state says that it is a mixture. */
static void assert_failed(
    const struct twin *twin,
    struct live *live,
    const struct live_state *before,
    const struct expected *old,
    struct fault_counts *counts
)
{
    struct live_state after;

    live_status(&after, live);
    counts->failed++;
    if (!after.torn) {
        assert_memory_equal(before, &after, sizeof(after));
        assert_twin(twin, old);
        return;
    }
    counts->torn++;
    assert_int_equal(after.epoch, before->epoch + 1);
    assert_false(after.attached);
    assert_true(after.had_previous && digest_equal(&after.previous, &before->snapshot));
}

/* From adapter 1 to `to`, or to none, where the n-th call of that name fails: false where so many
   are not made. */
static bool fault_case(
    struct choir *choir,
    const struct twin *twin,
    struct live *live,
    const char *call,
    unsigned nth,
    const struct expected *to,
    struct fault_counts *counts
)
{
    struct live_state before, after;
    bool detach = to == &choir->base;

    must(live_swap(&before, live, &choir->adapters[1].snapshot));
    unsigned made = emulated.calls(call);
    emulated.fail_call(call, nth, nth % 2 ? CUDA_ERROR_MEMORY : CUDA_ERROR_ADDRESS);
    int err = detach ? live_detach(&after, live) : live_swap(&after, live, &to->snapshot);
    emulated.fail_call(NULL, 0, 0);
    made = emulated.calls(call) - made;
    if (err < 0) {
        assert_int_equal(err, E_DEVICE);
        assert_failed(twin, live, &before, &choir->adapters[1], counts);
        /* The same change again is not taken for one that is there already. */
        if (detach)
            must(live_detach(&after, live));
        else
            must(live_swap(&after, live, &to->snapshot));
    }
    assert_false(after.torn);
    assert_twin(twin, to);
    return made >= nth;
}

/* With bases that are drawn anew, and copies that are made anew, for each. */
static void faults_of(int devices, bool from_base, uint64_t kept, struct fault_counts *counts)
{
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    const struct live_options options = {
        .base = from_base ? FIXTURES "/base/bert" : NULL, .threads = 1, .kept_max = kept};

    emulated.devices(devices);
    choir_open(&choir, FIXTURES "/base/bert", "bert", LAYOUTS, true);
    twin_make(&twin, &choir.memory, devices);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        for (unsigned nth = 1, more = 1; more; nth++) {
            AUTO_LIVE(live);
            live = live_of_twin(&twin, &options);
            more = fault_case(
                &choir, &twin, live, calls[i], nth,
                nth % 3 ? &choir.adapters[nth % 2 ? 4 : 0] : &choir.base, counts
            );
            must(live_detach(NULL, live));
            assert_twin(&twin, &choir.base);
        }
    }
}

static void test_a_device_that_fails_leaves_every_byte_or_says_so(void **state)
{
    struct fault_counts counts = {0};

    (void)state;
    faults_of(1, true, 20000, &counts);
    faults_of(1, false, 0, &counts);
    faults_of(2, true, 0, &counts);
    assert_true(counts.failed > 40 && counts.torn > 10);
    assert_true(counts.torn < counts.failed);
}

static void test_a_device_that_fails_in_sealing_is_an_error(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    unsigned failed = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    for (size_t i = 0; i < 2 * sizeof(calls) / sizeof(calls[0]); i++) {
        const struct live_options options = {.base = i % 2 ? FIXTURES "/base/gpt2" : NULL};
        for (unsigned nth = 1, more = 1; more; nth += 1 + nth / 4) {
            AUTO_LIVE(live);
            must(live_new(&live, &options));
            twin_register(live, &twin);
            unsigned made = emulated.calls(calls[i / 2]);
            emulated.fail_call(calls[i / 2], nth, CUDA_ERROR_ADDRESS);
            int err = live_seal(live);
            emulated.fail_call(NULL, 0, 0);
            more = emulated.calls(calls[i / 2]) - made >= nth;
            failed += err < 0;
            assert_true(err == 0 || err == E_DEVICE);
            assert_twin(&twin, &choir.base);
        }
    }
    assert_true(failed > 20);
}

/* Memory */

static size_t device_bytes(void)
{
    size_t unused, total;

    assert_int_equal(cuda.memory(&unused, &total), 0);
    return total - unused;
}

/* A and B of one adapter at a time have room: what a device has of the other's must go with them.
   Their memory is taken for the next ones', so that an address does not tell them apart. */
static void test_few_bases_are_kept(void **state)
{
    const struct live_options options = {.threads = 1, .basis_max = 2 * 32 * 176 * 4};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    size_t taken = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/llama", "llama-c llama-vectors-only", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    live = live_of_twin(&twin, &options);
    for (size_t i = 0; i < 30; i++) {
        swap_to(&choir, &twin, live, i % 2 ? choir.count - 1 : random_below(choir.count));
        if (i == 6)
            taken = device_bytes();
        assert_true(i <= 6 || device_bytes() == taken);
    }
    must(live_detach(NULL, live));
    assert_twin(&twin, &choir.base);
}

/* What is kept to make swaps faster makes none fail: it goes where a swap needs its memory. */
static void test_a_device_without_room_for_copies_does_without(void **state)
{
    const struct live_options options = {
        .base = FIXTURES "/base/llama", .threads = 1, .kept_max = UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    size_t least = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/llama", "llama-c llama-vectors-only", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    size_t before = device_bytes();
    for (size_t room = 4096; room < 8u << 20; room += room / 8) {
        AUTO_LIVE(live);
        emulated.memory(before + room);
        live = live_of_twin(&twin, &options);
        int err = live_swap(NULL, live, &choir.adapters[0].snapshot);
        if (err < 0) {
            assert_int_equal(err, E_DEVICE);
            assert_twin(&twin, &choir.base);
            assert_int_equal(least, 0);
            continue;
        }
        least = least ? least : room;
        assert_twin(&twin, &choir.adapters[0]);
        for (size_t i = 0; i < 4; i++)
            swap_to(&choir, &twin, live, i % 2 ? 0 : choir.count - 1);
        must(live_detach(NULL, live));
    }
    assert_true(least > 0);
}

/* A model with one weight here: the others are another process'. */
static void test_no_memory_grows_with_the_swaps(void **state)
{
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .kept_max = 8192};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    size_t host = 0, device = 0;
    unsigned allocations = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
    twin_make(&twin, &choir.memory, 1);
    must(live_new(&live, &options));
    for (size_t i = 0; i < choir.memory.count; i++) {
        struct memory_tensor *tensor = &choir.memory.tensors[i];
        struct live_place place = twin_place(&twin, tensor, 0);
        if (!strstr(tensor->name, "h.1.attn.c_proj.weight")) {
            place.data = NULL;
            place.on_device = false;
            tensor->part_count = 0;
        }
        must(live_register(live, &place));
    }
    must(live_seal(live));
    for (size_t i = 0; i < 10000; i++) {
        must(live_swap(NULL, live, &choir.adapters[1 + i % 3].snapshot));
        if (i == 300) { /* what the emulated device counts is counted by then */
            device = device_bytes();
            allocations = emulated.calls("cudaMalloc");
        } else if (i == 600) {
            host = mallinfo2().uordblks;
        }
    }
    assert_int_equal(mallinfo2().uordblks, host);
    assert_int_equal(device_bytes(), device);
    assert_int_equal(emulated.calls("cudaMalloc"), allocations);
    assert_twin(&twin, &choir.adapters[1 + 9999 % 3]);
    for (size_t i = 0; i < choir.memory.count; i++)
        choir.memory.tensors[i].part_count = 1;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_random_swaps_never_drift),
        TEST(test_fused_weights_hold_several_modules),
        TEST(test_shards_of_a_tensor_lie_on_several_devices),
        TEST(test_a_copy_on_a_device_is_compared_with_the_pin),
        TEST(test_memory_that_is_not_the_devices_is_refused_by_name),
        TEST(test_where_there_is_no_device_it_is_said),
        TEST(test_weights_that_are_not_the_bases_are_refused_by_name),
        TEST(test_a_change_comes_after_what_the_streams_were_given),
        TEST(test_graphs_stay_good_and_captures_are_left_alone),
        TEST(test_the_threads_device_stays_what_it_is),
        TEST(test_a_device_that_fails_leaves_every_byte_or_says_so),
        TEST(test_a_device_that_fails_in_sealing_is_an_error),
        TEST(test_few_bases_are_kept),
        TEST(test_a_device_without_room_for_copies_does_without),
        TEST(test_no_memory_grows_with_the_swaps),
    };

    return cmocka_run_group_tests(tests, module_load, NULL);
}
