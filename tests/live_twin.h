/*
 * Running models on the emulated device for tests of apply/live*.c: each block of a `struct memory`
 * (tests/live.h) has a twin in a device's memory, which is what the model has.
 */
#ifndef TESTS_LIVE_TWIN_H
#define TESTS_LIVE_TWIN_H

#include "tests/emulated_device.h"
#include "tests/live.h"

#define BLOCKS_MAX (TENSORS_MAX * PARTS_MAX)

static inline int twin_load(void **state)
{
    (void)state;
    return emulated_load(CUDA_MODULE);
}

static inline int twin_setup(void **state)
{
    emulated.reset();
    return setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) == 0 ? scratch_make(state) : -1;
}

/* Whatever a test did, the devices' memory is free again. */
static inline int twin_teardown(void **state)
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

static inline void twin_release(struct twin *twin)
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

static inline uint8_t *device_new(size_t bytes)
{
    void *data = NULL;

    assert_int_equal(cuda.new(&data, bytes), 0);
    return data;
}

static inline void gaps_find(struct twin *twin)
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
static inline void twin_send(const struct twin *twin)
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
static inline void twin_make(struct twin *twin, struct memory *memory, int devices)
{
    twin->memory = memory;
    for (size_t i = 0; i < memory->block_count; i++) {
        twin->where[i] = devices == 1 ? 0 : (int)random_below(3) - 1;
        if (twin->where[i] == ON_HOST)
            continue;
        assert_int_equal(cuda.set_device(twin->where[i]), 0);
        twin->device[i] = device_new(memory->block_bytes[i]);
    }
    gaps_find(twin);
    twin_send(twin);
}

/* Into the host's memory. Works on the device that it uses now, so copies come in any order. */
static inline void twin_bring(const struct twin *twin)
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

static inline size_t block_of(const struct memory *memory, const uint8_t *at)
{
    size_t i = 0;

    while (at < memory->blocks[i] || at >= memory->blocks[i] + memory->block_bytes[i])
        i++;
    return i;
}

static inline struct live_place
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

static inline void twin_register(struct live *live, const struct twin *twin)
{
    for (size_t i = 0; i < twin->memory->count; i++) {
        for (size_t k = 0; k < twin->memory->tensors[i].part_count; k++) {
            struct live_place place = twin_place(twin, &twin->memory->tensors[i], k);
            must(live_register(live, &place));
        }
    }
}

static inline struct live *live_of_twin(const struct twin *twin, const struct live_options *options)
{
    struct live *live = NULL;

    must(live_new(&live, options));
    twin_register(live, twin);
    must(live_seal(live));
    return live;
}

static inline void assert_twin(const struct twin *twin, const struct expected *expected)
{
    twin_bring(twin);
    assert_memory(twin->memory, expected);
}

/* Swaps */

static inline void
swap_to(struct choir *choir, const struct twin *twin, struct live *live, size_t number)
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

static inline void
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

#endif
