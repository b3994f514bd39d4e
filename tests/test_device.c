/*
 * Tests of devices (apply/backend.h) that programs have weights on: which one it is, whose memory,
 * what the calling thread uses, and that whatever fails is named and leaves nothing. On the
 * emulated device; see tests/lanes.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lanes.h"

#define TESTS_OWN 1 /* one of the test's own calls of CUDA failed */

/* What a program does from the first call to the last, on the second device. */
static int scene_run(struct scene *scene)
{
    void *stream = NULL;
    int err = scene_open(scene, 1);

    if (err < 0)
        return err;
    scene_begin(scene);
    for (size_t i = 0; i < JOBS_MOST; i++)
        job_add(scene, part_make(), i % 3, i % ARENAS, (i + i / ARENAS) % ARENAS);
    if (scene_put(scene) != 0)
        return TESTS_OWN;
    const struct arena *arena = &scene->arenas[ARENA_DEVICE];
    if ((err = device_memory_check(&scene->device, arena->at, ARENA_BYTES)) < 0 ||
        (err = lane_prepare(&scene->lane, scene->jobs, scene->job_count)) < 0 ||
        (err = lane_follow(&scene->lane, &stream, 1)) < 0 ||
        (err = lane_merge(&scene->lane, scene->jobs, scene->job_count)) < 0)
        return err;
    return device_wait(&scene->device);
}

static void test_whichever_call_fails_it_is_named_and_nothing_is_left(void **state)
{
    static const struct {
        const char *call;
        bool at_the_end; /* also where it is nobody's: when all is closed */
    } calls[] = {
        {"cudaGetDeviceCount", false},
        {"cudaGetDevice", true},
        {"cudaSetDevice", true},
        {"cudaGetDeviceProperties", false},
        {"cudaMalloc", false},
        {"cudaStreamCreateWithFlags", false},
        {"cudaEventCreateWithFlags", false},
        {"cudaHostAlloc", false},
        {"cudaPointerGetAttributes", false},
        {"cudaEventRecord", false},
        {"cudaStreamWaitEvent", false},
        {"cudaMemcpyAsync", false},
        {"cudaMemcpy2DAsync", false},
        {"cudaLaunchKernel", false},
        {"cudaStreamSynchronize", false},
        {"cudaDeviceSynchronize", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        bool reached = true;
        for (unsigned nth = 1; reached; nth++) {
            AUTO_SCENE(scene);
            random_state = 1; /* the same jobs each time */
            emulated.reset();
            emulated.devices(2);
            emulated.fail_call(calls[i].call, nth, CUDA_ERROR_ADDRESS);
            int err = scene_run(scene);
            reached = emulated.calls(calls[i].call) >= nth;
            if (err < 0) {
                assert_int_equal(err, E_DEVICE);
                assert_true(reached);
                assert_message_has(calls[i].call);
                assert_message_has("an illegal memory access was encountered");
            } else if (err == 0) {
                assert_true(!reached || calls[i].at_the_end);
                emulated.fail_call(NULL, 0, 0);
                assert_true(scene_is_right(scene));
            }
            scene_close(scene);
            assert_int_equal(emulated.leaks(), 0);
            assert_true(nth > 1 || reached);
            cuda.set_device(0); /* where it was that call that failed */
        }
    }
}

static void test_a_session_leaves_the_threads_device(void **state)
{
    AUTO_SCENE(scene);
    int device = -1;

    (void)state;
    emulated.devices(3);
    assert_int_equal(cuda.set_device(2), 0);
    assert_int_equal(scene_run(scene), 0);
    assert_true(scene_is_right(scene));
    uint8_t *memory = scene->arenas[ARENA_DEVICE].at;
    assert_int_equal(device_memory_check(&scene->device, memory, 1), 0);
    device_memory_free(&scene->device, memory);
    device_remove_basis(&scene->device, scene->bases.a[0]);
    scene_close(scene);
    assert_int_equal(cuda.get_device(&device), 0);
    assert_int_equal(device, 2);

    AUTO_DEVICE(current);
    assert_int_equal(device_open(&current, DEVICE_CUDA, MATH_EXACT), 0);
    assert_int_equal(device_memory_new(&memory, &current, 1), 0);
    assert_int_equal(cuda.set_device(0), 0);
    assert_int_equal(device_memory_check(&current, memory, 1), 0); /* device 2's */
}

/* As in a thread of the library's own, of a process that works on the second device alone. */
static void test_a_device_that_nobody_uses_gets_no_context(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    emulated.devices(2);
    assert_int_equal(scene_run(scene), 0);
    scene_close(scene);
    emulated.idle(0);
    assert_int_equal(scene_open(scene, 1), 0);
    scene_close(scene);
    assert_true(emulated.is_idle(0));
    assert_int_equal(cuda.set_device(0), 0);
    assert_false(emulated.is_idle(0));
}

static void test_a_device_that_is_not_there_is_named(void **state)
{
    static const int numbers[] = {2, 1000, -2};

    (void)state;
    emulated.devices(2);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        AUTO_DEVICE(device);
        char says[64];
        snprintf(says, sizeof(says), "there is no device %d", numbers[i]);
        assert_int_equal(device_open_number(&device, numbers[i], MATH_EXACT), E_DEVICE);
        assert_message_has(says);
        assert_message_has("there are 2");
        assert_non_null(error_hint_text());
    }
}

static void test_whose_memory_it_is_is_checked(void **state)
{
    static uint8_t host[4096];
    AUTO_DEVICE(device);
    __attribute__((cleanup(lane_release))) struct lane lane = {0};
    uint8_t *pinned;
    void *own, *other;

    (void)state;
    emulated.devices(2);
    assert_int_equal(device_open_number(&device, 1, MATH_EXACT), 0);
    assert_int_equal(lane_open(&lane, &device, 1), 0);
    assert_int_equal(lane_memory(&pinned, &lane, LANE_BLOCK, 4096), 0);
    assert_int_equal(cuda.new(&other, 1000), 0);
    assert_int_equal(cuda.set_device(1), 0);
    assert_int_equal(cuda.new(&own, 1000), 0);
    assert_int_equal(cuda.set_device(0), 0);
    const struct {
        const void *at;
        size_t bytes;
        const char *says; /* NULL: it is right */
    } cases[] = {
        {own, 1000, NULL},
        {(uint8_t *)own + 999, 1, NULL},
        {own, 0, NULL},
        {own, 1001, "not in a GPU's memory"},
        {(uint8_t *)own + 1, 1000, "not in a GPU's memory"},
        {host, 1, "not in a GPU's memory"},
        {pinned, 1, "not in a GPU's memory"},
        {other, 1000, "in the memory of GPU 0, not in that of GPU 1"},
        {own, SIZE_MAX, "beyond all memory"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int err = device_memory_check(&device, cases[i].at, cases[i].bytes);
        assert_int_equal(err, cases[i].says ? E_INVALID : 0);
        if (cases[i].says)
            assert_message_has(cases[i].says);
    }
    assert_int_equal(cuda.free(own), 0);
    assert_int_equal(cuda.free(other), 0);
}

/* Aligned, told what is free where there is too little, and freed by whoever comes last. */
static void test_memory_is_the_sessions(void **state)
{
    AUTO_DEVICE(device);
    uint8_t *memories[4];

    (void)state;
    assert_int_equal(device_open(&device, DEVICE_CUDA, MATH_EXACT), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(device_memory_new(&memories[i], &device, 100 * i), 0);
        assert_int_equal((uintptr_t)memories[i] % BACKEND_ALIGN, 0);
    }
    device_memory_free(&device, memories[1]);
    device_memory_free(&device, NULL);
    assert_int_equal(device_memory_check(&device, memories[3], 300), 0);
    emulated.memory(2000000);
    uint8_t mark, *untouched = &mark;
    assert_int_equal(device_memory_new(&untouched, &device, 3000000), E_DEVICE);
    assert_ptr_equal(untouched, &mark);
    assert_message_has("the device's memory is too small");
    assert_message_has("3.0 MB");
    assert_message_has("are free");
    assert_non_null(error_hint_text());
}

static void test_a_removed_basis_is_gone_and_may_come_again(void **state)
{
    AUTO_SCENE(scene);
    size_t unused, before, total;

    (void)state;
    assert_int_equal(scene_open(scene, DEVICE_CURRENT), 0);
    assert_int_equal(cuda.memory(&before, &total), 0);
    device_remove_basis(&scene->device, scene->bases.a[0]);
    device_remove_basis(&scene->device, scene->bases.a[0] + 1); /* none was added there */
    assert_int_equal(cuda.memory(&unused, &total), 0);
    assert_true(unused > before);
    assert_int_equal(device_add_basis(&scene->device, &scene->bases.added[0]), 0);
    assert_int_equal(cuda.memory(&unused, &total), 0);
    assert_int_equal(unused, before);
    scene_make(scene, JOBS_MOST);
    assert_int_equal(scene_put(scene), 0);
    assert_int_equal(lane_merge(&scene->lane, scene->jobs, scene->job_count), 0);
    assert_true(scene_is_right(scene));
}

int main(void)
{
#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(test_whichever_call_fails_it_is_named_and_nothing_is_left),
        DEVICE_TEST(test_a_session_leaves_the_threads_device),
        DEVICE_TEST(test_a_device_that_nobody_uses_gets_no_context),
        DEVICE_TEST(test_a_device_that_is_not_there_is_named),
        DEVICE_TEST(test_whose_memory_it_is_is_checked),
        DEVICE_TEST(test_memory_is_the_sessions),
        DEVICE_TEST(test_a_removed_basis_is_gone_and_may_come_again),
    };
    return cmocka_run_group_tests(tests, cuda_load, NULL);
}
