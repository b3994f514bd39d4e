/*
 * Tests of lanes (apply/backend.h) on weights in a GPU's own memory, on the emulated device. See
 * tests/lanes.h. Whole models: tests/test_backend.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lanes.h"

static const unsigned orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 3, 4, 5};

#define ORDERS (sizeof(orders) / sizeof(orders[0]))

static void test_wherever_weights_are_the_bits_are_the_processors(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    for (size_t run = 0; run < 120; run++) {
        emulated.order(orders[run % ORDERS]);
        scene_make(scene, 1 + random_below(JOBS_MOST));
        assert_int_equal(scene_put(scene), 0);
        assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
        assert_true(scene_is_right(scene));
    }
}

static struct part whole_part(void)
{
    return (struct part){DTYPE_F32,           false, SIZE_MOST, SIZE_MOST, .rows = SIZE_MOST,
                         .columns = SIZE_MOST};
}

/* With so little memory rows go through the device in waves. */
static void test_a_small_memory_changes_no_bit(void **state)
{
    AUTO_SCENE(scene);
    unsigned launches = 0;

    (void)state;
    for (size_t run = 0; run < 60; run++) {
        size_t unused, total;
        emulated.reset();
        assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
        assert_int_equal(cuda.memory(&unused, &total), 0);
        emulated.memory(total - unused + 24 * KIB + random_below(16 * KIB));
        scene_make(scene, 1 + random_below(JOBS_MOST / 2));
        job_add(scene, whole_part(), 1, ARENA_DEVICE, ARENA_PLAIN);
        job_add(scene, whole_part(), 2, ARENA_BLOCK, ARENA_BLOCK);
        assert_int_equal(scene_put(scene), 0);
        assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
        launches = emulated.calls("cudaLaunchKernel") > launches
                       ? emulated.calls("cudaLaunchKernel")
                       : launches;
        assert_true(scene_is_right(scene));
        scene_close(scene);
    }
    assert_true(launches > 2);
}

/* Memory that is taken before, and streams that are waited for */

static void test_what_was_prepared_merges_without_taking_memory(void **state)
{
    static const char *const calls[] = {"cudaMalloc", "cudaHostAlloc", "cudaFree", "cudaFreeHost"};

    (void)state;
    for (size_t run = 0; run < 60; run++) {
        AUTO_SCENE(scene);
        unsigned before[4];
        size_t unused, total;
        emulated.reset();
        assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
        if (run % 2) {
            assert_int_equal(cuda.memory(&unused, &total), 0);
            emulated.memory(total - unused + 24 * KIB);
        }
        scene_make(scene, 1 + random_below(JOBS_MOST));
        assert_int_equal(scene_put(scene), 0);
        assert_int_equal(lane_prepare(&scene->lane, scene->jobs, scene->job_count), 0);
        for (size_t i = 0; i < 4; i++)
            before[i] = emulated.calls(calls[i]);
        emulated.fail_call(calls[run / 2 % 2], 1, CUDA_ERROR_MEMORY);
        if (run % 3) {
            assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
        } else {
            for (size_t i = 0; i < scene->job_count; i++)
                assert_int_equal(lane_merge(&scene->lane, &scene->jobs[i], 1), 0);
        }
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(emulated.calls(calls[i]), before[i]);
        emulated.fail_call(NULL, 0, 0);
        assert_true(scene_is_right(scene));
    }
}

/* Preparing merges nothing. */
static void test_what_was_prepared_is_as_it_was(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    scene_make(scene, JOBS_MOST);
    assert_int_equal(scene_put(scene), 0);
    assert_int_equal(lane_prepare(&scene->lane, scene->jobs, scene->job_count), 0);
    for (size_t i = 0; i < ARENAS; i++)
        memcpy(scene->arenas[i].expected, scene->arenas[i].image, ARENA_BYTES);
    assert_true(scene_is_right(scene));
}

/* The caller's streams bring what the jobs read. The device's default stream is one of them. */
static bool merges_after(struct scene *scene, size_t stream_count, bool follow, unsigned order)
{
    struct arena *arena = &scene->arenas[ARENA_DEVICE];
    void *streams[3] = {NULL};

    emulated.order(EMULATED_LAZY);
    scene_begin(scene);
    for (size_t i = 0; i < stream_count; i++)
        job_add(scene, whole_part(), 1, ARENA_DEVICE, ARENA_DEVICE);
    uint8_t *image = arena->image;
    arena->image = arena->expected; /* anything else */
    assert_int_equal(scene_put(scene), 0);
    arena->image = image;
    size_t each = ARENA_BYTES / stream_count;
    assert_int_equal(cuda.pin(image, ARENA_BYTES, 0), 0);
    emulated.order(order);
    for (size_t i = 0; i < stream_count; i++) {
        if (i)
            assert_int_equal(cuda.stream_new(&streams[i], CUDA_NON_BLOCKING), 0);
        assert_int_equal(
            cuda.copy_on(
                arena->at + i * each, image + i * each,
                i + 1 < stream_count ? each : ARENA_BYTES - i * each, CUDA_HOST_TO_DEVICE,
                streams[i]
            ),
            0
        );
    }
    if (follow)
        assert_int_equal(lane_follow(&scene->lane, streams, stream_count), 0);
    assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
    assert_int_equal(cuda.unpin(image), 0);
    for (size_t i = 1; i < stream_count; i++)
        assert_int_equal(cuda.stream_free(streams[i]), 0);
    return scene_is_right(scene);
}

static void test_a_lane_comes_after_the_streams_that_it_follows(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    for (size_t i = 0; i < ORDERS; i++) {
        for (size_t streams = 1; streams <= 3; streams++)
            assert_true(merges_after(scene, streams, true, orders[i]));
    }
    assert_int_equal(lane_follow(&scene->lane, NULL, 0), 0);
    assert_false(merges_after(scene, 3, false, EMULATED_LAZY));
}

/* Launches and copies */

static void test_many_jobs_on_the_device_are_one_launch(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    scene_begin(scene);
    for (size_t i = 0; i < JOBS_MOST; i++)
        job_add(scene, part_make(), i % 3, ARENA_DEVICE, ARENA_DEVICE);
    assert_int_equal(scene_put(scene), 0);
    unsigned launches = emulated.calls("cudaLaunchKernel"),
             copies = emulated.calls("cudaMemcpyAsync");
    assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
    assert_int_equal(emulated.calls("cudaLaunchKernel") - launches, 1);
    assert_int_equal(emulated.calls("cudaMemcpyAsync") - copies, 1); /* vectors */
    assert_true(scene_is_right(scene));
}

/* Also what has a stride: it is one copy of CUDA's own. */
static void test_between_host_and_device_a_copy_needs_no_kernel(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    for (size_t run = 0; run < 24; run++) {
        enum arena_kind host = run % 4 < 2 ? ARENA_BLOCK : ARENA_PLAIN;
        scene_begin(scene);
        struct part part = part_make();
        part.is_dense = true;
        job_add(scene, part, 0, run % 2 ? host : ARENA_DEVICE, run % 2 ? ARENA_DEVICE : host);
        assert_int_equal(scene_put(scene), 0);
        assert_int_equal(lane_merge(&scene->lane, scene->jobs, 1), 0);
        assert_true(scene_is_right(scene));
    }
    assert_int_equal(emulated.calls("cudaLaunchKernel"), 0);
    assert_true(emulated.calls("cudaMemcpy2DAsync") > 0);
    assert_true(emulated.calls("cudaMemcpyAsync") > 0);
}

/* Hundreds of W come in one wave, without a tile, where they are merged. */
static void test_what_comes_from_the_host_is_merged_where_it_goes(void **state)
{
    AUTO_SCENE(scene);
    size_t unused, total;

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    assert_int_equal(cuda.memory(&unused, &total), 0);
    emulated.memory(total - unused + 16 * KIB);
    scene_begin(scene);
    struct part part = whole_part();
    part.is_dense = true;
    for (size_t i = 0; i < 4; i++)
        job_add(scene, part, 2, ARENA_PLAIN, ARENA_DEVICE);
    assert_int_equal(scene_put(scene), 0);
    assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
    assert_int_equal(emulated.calls("cudaLaunchKernel"), 1);
    assert_true(scene_is_right(scene));
}

/* Failures */

/* A lane whose merge has failed can do the next one. */
static void test_a_merge_after_one_that_failed(void **state)
{
    static const char *const calls[] = {
        "cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync", "cudaLaunchKernel"};

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        AUTO_SCENE(scene);
        assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
        scene_make(scene, JOBS_MOST);
        assert_int_equal(scene_put(scene), 0);
        emulated.fail_call(calls[i], 1, CUDA_ERROR_ADDRESS);
        assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), E_DEVICE);
        assert_int_equal(scene_put(scene), 0);
        assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
        assert_true(scene_is_right(scene));
    }
}

static void test_places_that_no_kernel_can_use_are_refused(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    struct backend_job job = {
        .to = {.data = scene->arenas[ARENA_DEVICE].at + 2, .on_device = true},
        .from = {.data = scene->arenas[ARENA_DEVICE].at + 4096, .on_device = true},
        .dtype = DTYPE_F32,
        .out = 1,
        .in = 2,
        .row_end = 1,
    };
    assert_int_equal(lane_prepare(&scene->lane, &job, 1), E_INVALID);
    assert_message_has("not aligned");
    assert_int_equal(lane_merge(&scene->lane, &job, 1), E_INVALID);
    job.to.data += 2;
    assert_int_equal(lane_merge(&scene->lane, &job, 1), 0);
    job.from.column_stride = UINT64_C(1) << 32;
    assert_int_equal(lane_merge(&scene->lane, &job, 1), E_LIMIT);
}

int main(void)
{
#define LANE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        LANE_TEST(test_wherever_weights_are_the_bits_are_the_processors),
        LANE_TEST(test_a_small_memory_changes_no_bit),
        LANE_TEST(test_what_was_prepared_merges_without_taking_memory),
        LANE_TEST(test_what_was_prepared_is_as_it_was),
        LANE_TEST(test_a_lane_comes_after_the_streams_that_it_follows),
        LANE_TEST(test_many_jobs_on_the_device_are_one_launch),
        LANE_TEST(test_between_host_and_device_a_copy_needs_no_kernel),
        LANE_TEST(test_what_comes_from_the_host_is_merged_where_it_goes),
        LANE_TEST(test_a_merge_after_one_that_failed),
        LANE_TEST(test_places_that_no_kernel_can_use_are_refused),
    };
    return cmocka_run_group_tests(tests, cuda_load, NULL);
}
