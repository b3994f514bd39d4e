/*
 * Tests of the emulated device itself: that it finds the faults for whose sake it is there. Each of
 * them would pass unseen on a device that does everything at once.
 */
#include "tests/cuda/scene.h"

#include <fenv.h>
#include <string.h>

#include "apply/cuda/tensor_core.h"

namespace
{

const unsigned all_orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 3, 4, 5, 6, 7, 8};

/* ---- Streams ---- */

void a_buffer_that_is_used_again_too_early_shows(void **)
{
    scene scene;

    scene.set(1);
    scene.up(scene.first);
    scene.set(2); /* the copy has not run */
    scene.down(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_equal(scene.host[0], 2);
}

void a_result_that_nobody_waits_for_is_not_there(void **)
{
    scene scene;

    scene.set(1);
    scene.up(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    auto config = config_of(1, 4, scene.first);
    assert_int_equal(cudaLaunchKernelEx(&config, add_one, scene.device), cudaSuccess);
    scene.down(scene.first);
    assert_int_equal(scene.host[0], 1);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_equal(scene.host[0], 2);
}

/* The second stream reads what the first one wrote; `wait`: after an event. */
int across_streams(unsigned order, bool wait)
{
    scene scene;

    emulated_order(order);
    scene.set(5);
    scene.up(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    auto config = config_of(1, 4, scene.first);
    assert_int_equal(cudaLaunchKernelEx(&config, add_one, scene.device), cudaSuccess);
    assert_int_equal(cudaEventRecord(scene.event, scene.first), cudaSuccess);
    if (wait)
        assert_int_equal(cudaStreamWaitEvent(scene.second, scene.event), cudaSuccess);
    scene.down(scene.second);
    assert_int_equal(cudaStreamSynchronize(scene.second), cudaSuccess);
    return scene.host[0];
}

void an_event_orders_streams_and_its_absence_shows(void **)
{
    for (unsigned order : all_orders)
        assert_int_equal(across_streams(order, true), 6);
    assert_int_equal(across_streams(EMULATED_LAZY, false), 5);
}

void a_stream_that_is_asked_in_a_loop_ends(void **)
{
    scene scene;
    unsigned questions = 0;

    scene.set(1);
    scene.up(scene.first);
    scene.down(scene.first);
    while (cudaStreamQuery(scene.first) == cudaErrorNotReady)
        questions++;
    assert_int_equal(questions, 2);
}

void copies_of_pageable_memory_are_counted(void **)
{
    scene scene;
    int plain[4] = {7, 7, 7, 7};

    assert_int_equal(
        cudaMemcpyAsync(scene.device, plain, 16, cudaMemcpyHostToDevice, scene.first), cudaSuccess
    );
    plain[0] = 8; /* it is read already, as on a device */
    scene.down(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_equal(scene.host[0], 7);
    assert_int_equal(emulated_pageable_copies(), 1);
}

void copies_outside_their_memory_are_refused(void **)
{
    scene scene;

    assert_int_equal(
        cudaMemcpyAsync(scene.device + 1, scene.host, 16, cudaMemcpyHostToDevice, scene.first),
        cudaErrorInvalidValue
    );
    assert_int_equal(
        cudaMemcpyAsync(scene.host, scene.device, 16, cudaMemcpyHostToDevice, scene.first),
        cudaErrorInvalidValue
    );
    assert_int_equal(
        cudaMemcpy2DAsync(
            scene.device, 8, scene.host, 8, 4, 3, cudaMemcpyHostToDevice, scene.first
        ),
        cudaErrorInvalidValue
    );
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}

void rows_are_copied_at_their_pitches(void **)
{
    scene scene;

    for (int i = 0; i < 4; i++)
        scene.host[i] = i;
    assert_int_equal(cudaMemset(scene.device, 0, 16), cudaSuccess);
    assert_int_equal(
        cudaMemcpy2DAsync(
            scene.device, 8, scene.host, 4, 4, 2, cudaMemcpyHostToDevice, scene.first
        ),
        cudaSuccess
    );
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    scene.down(scene.second);
    assert_int_equal(cudaStreamSynchronize(scene.second), cudaSuccess);
    assert_int_equal(scene.host[0], 0);
    assert_int_equal(scene.host[1], 0);
    assert_int_equal(scene.host[2], 1);
}

/* ---- Memory and faults ---- */

void a_host_that_follows_a_device_pointer_dies(void **)
{
    last_words([]() {
        int *device;
        if (cudaMalloc(&device, 4096) == cudaSuccess)
            device[0] = 1;
    });
}

void a_write_beyond_an_allocation_is_found(void **)
{
    last_words([]() {
        int *device;
        auto config = config_of(1, 5);
        if (cudaMalloc(&device, 16) == cudaSuccess &&
            cudaLaunchKernelEx(&config, add_one, device) == cudaSuccess)
            cudaFree(device);
    });
}

void a_kernel_is_not_given_the_hosts_memory(void **)
{
    assert_says(
        last_words([]() {
            int plain = 0;
            emulated_device_check(&plain);
        }),
        "not the device's"
    );
}

void new_memory_holds_no_zeros(void **)
{
    scene scene;

    scene.down(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_not_equal(scene.host[0], 0);
}

void memory_ends_where_it_is_told_to(void **)
{
    size_t unused, total;
    char *first, *second = nullptr;

    emulated_memory(1000);
    assert_int_equal(cudaMalloc(&first, 600), cudaSuccess);
    assert_int_equal(cudaMalloc(&second, 401), cudaErrorMemoryAllocation);
    assert_null(second);
    assert_int_equal(cudaMemGetInfo(&unused, &total), cudaSuccess);
    assert_int_equal(unused, 400);
    assert_int_equal(total, 1000);
    assert_int_equal(cudaMalloc(&second, 400), cudaSuccess);
    assert_int_equal(emulated_memory_peak(), 1000);
    assert_int_equal(cudaFree(first), cudaSuccess);
    assert_int_equal(cudaFree(first), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(second), cudaSuccess);
}

void the_nth_call_fails_once(void **)
{
    char *memory[3];

    emulated_fail("cudaMalloc", 2, cudaErrorECCUncorrectable);
    assert_int_equal(cudaMalloc(&memory[0], 1), cudaSuccess);
    assert_int_equal(cudaMalloc(&memory[1], 1), cudaErrorECCUncorrectable);
    assert_int_equal(cudaMalloc(&memory[2], 1), cudaSuccess);
    assert_string_equal(cudaGetErrorName(cudaGetLastError()), "cudaErrorECCUncorrectable");
    assert_int_equal(emulated_calls("cudaMalloc"), 3);
    assert_int_equal(emulated_leaks(), 2);
    cudaFree(memory[0]);
    cudaFree(memory[2]);
}

void without_a_device_every_call_says_so(void **)
{
    int count = 0;

    emulated_devices(0);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    emulated_devices(-1);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    assert_int_equal(count, 0);
    emulated_devices(2);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
}

void the_hosts_rounding_is_not_the_devices(void **)
{
    scene scene;
    float *sum = reinterpret_cast<float *>(scene.device), result;
    auto config = config_of(1, 1);
    int rounding = fegetround();

    fesetround(FE_UPWARD);
    assert_int_equal(
        cudaLaunchKernelEx(
            &config, +[](float *out, float a, float b) { *out = a + b; }, sum, 1.0f, 0x1p-30f
        ),
        cudaSuccess
    );
    assert_int_equal(fegetround(), FE_UPWARD);
    fesetround(rounding);
    assert_int_equal(cudaMemcpy(&result, sum, 4, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_true(result == 1.0f);
}

/* ---- Threads of a block ---- */

/* Each thread takes its right neighbour's number, with or without the barriers that this needs. */
template <bool BARRIERS> void rotate(int *numbers)
{
    __shared__ int shared[64];

    shared[threadIdx.x] = numbers[threadIdx.x];
    if (BARRIERS)
        __syncthreads();
    numbers[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
    if (BARRIERS)
        __syncthreads();
}

/* How many of 64 numbers are where they should be. */
unsigned rotated(void (*kernel)(int *), unsigned order)
{
    int *device, numbers[64];
    auto config = config_of(1, 64);
    unsigned right = 0;
    static int first; /* shared memory keeps what the last launch left there */

    first += 64;
    emulated_fibers(order);
    for (int i = 0; i < 64; i++)
        numbers[i] = first + i;
    assert_int_equal(cudaMalloc(&device, sizeof(numbers)), cudaSuccess);
    cudaMemcpy(device, numbers, sizeof(numbers), cudaMemcpyHostToDevice);
    assert_int_equal(cudaLaunchKernelEx(&config, kernel, device), cudaSuccess);
    cudaMemcpy(numbers, device, sizeof(numbers), cudaMemcpyDeviceToHost);
    cudaFree(device);
    for (int i = 0; i < 64; i++)
        right += numbers[i] == first + (i + 1) % 64;
    return right;
}

void a_missing_barrier_shows_in_some_order(void **)
{
    for (unsigned order : {0u, 1u, 9u}) {
        assert_int_equal(rotated(rotate<true>, order), 64);
        assert_true(rotated(rotate<false>, order) < 64);
    }
}

void a_barrier_that_not_all_reach_ends_the_process(void **)
{
    assert_says(
        last_words([]() {
            auto config = config_of(1, 64);
            cudaLaunchKernelEx(
                &config,
                +[]() {
                    if (threadIdx.x != 40)
                        __syncthreads();
                }
            );
            cudaDeviceSynchronize();
        }),
        "divergent barrier in block 0: of 64 threads 63 wait for their block"
    );
    assert_says(
        last_words([]() {
            auto config = config_of(1, 64);
            cudaLaunchKernelEx(
                &config,
                +[]() {
                    if (threadIdx.x % 32 == 3)
                        __syncthreads();
                    else
                        __syncwarp();
                }
            );
            cudaDeviceSynchronize();
        }),
        "divergent barrier"
    );
}

void warps_pass_their_barriers_alone(void **)
{
    scene scene;
    auto config = config_of(1, 64);

    for (unsigned order : {0u, 1u, 9u}) {
        emulated_fibers(order);
        assert_int_equal(cudaMemset(scene.device, 0, 16), cudaSuccess);
        assert_int_equal(
            cudaLaunchKernelEx(
                &config,
                +[](int *out) {
                    int *memory = static_cast<int *>(emulated_warp_memory(32 * sizeof(int)));
                    int turns = threadIdx.x < 32 ? 3 : 1, sum = 0;
                    for (int turn = 0; turn < turns; turn++) {
                        memory[threadIdx.x % 32] = 1;
                        __syncwarp();
                        for (int i = 0; i < 32; i++)
                            sum += memory[i];
                        __syncwarp();
                    }
                    __syncthreads();
                    if (threadIdx.x % 32 == 7)
                        out[threadIdx.x / 32] = sum;
                },
                scene.device
            ),
            cudaSuccess
        );
        scene.down(scene.first);
        assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
        assert_int_equal(scene.host[0], 96);
        assert_int_equal(scene.host[1], 32);
    }
}

/* An asynchronous copy happens when it is waited for: the last group may still be on its way. */
void asynchronous_copies_come_when_they_are_waited_for(void **)
{
    scene scene;
    auto config = config_of(1, 1);

    scene.set(1);
    scene.up(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_equal(
        cudaLaunchKernelEx(
            &config,
            +[](float *numbers) {
                __shared__ __align__(16) float shared[4];
                float seen[3];
                memset(shared, 0, sizeof(shared));
                copy_async_one(&shared[0], numbers, true);
                copy_async_group();
                copy_async_one(&shared[1], numbers, true);
                copy_async_group();
                seen[0] = shared[0];
                copy_async_wait<1>();
                seen[1] = shared[0];
                seen[2] = shared[1];
                copy_async_wait<0>();
                numbers[3] = shared[1];
                memcpy(numbers, seen, sizeof(seen));
            },
            reinterpret_cast<float *>(scene.device)
        ),
        cudaSuccess
    );
    scene.down(scene.first);
    assert_int_equal(cudaStreamSynchronize(scene.first), cudaSuccess);
    assert_int_equal(scene.host[0], 0);
    assert_int_equal(scene.host[1], 1);
    assert_int_equal(scene.host[2], 0);
    assert_int_equal(scene.host[3], 1);
}

void launches_that_no_device_takes_are_refused(void **)
{
    auto none = config_of(0, 32), many = config_of(1, 1025);

    assert_int_equal(
        cudaLaunchKernelEx(
            &none, +[]() {}
        ),
        cudaErrorInvalidConfiguration
    );
    assert_int_equal(
        cudaLaunchKernelEx(
            &many, +[]() {}
        ),
        cudaErrorInvalidConfiguration
    );
}

int setup(void **)
{
    emulated_reset();
    return 0;
}

int teardown(void **)
{
    return static_cast<int>(emulated_leaks());
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_buffer_that_is_used_again_too_early_shows, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(
            a_result_that_nobody_waits_for_is_not_there, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(
            an_event_orders_streams_and_its_absence_shows, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(a_stream_that_is_asked_in_a_loop_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_of_pageable_memory_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_outside_their_memory_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_are_copied_at_their_pitches, setup, teardown),
        cmocka_unit_test_setup_teardown(a_host_that_follows_a_device_pointer_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(a_write_beyond_an_allocation_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(a_kernel_is_not_given_the_hosts_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(new_memory_holds_no_zeros, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_ends_where_it_is_told_to, setup, teardown),
        cmocka_unit_test_setup_teardown(the_nth_call_fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_device_every_call_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(the_hosts_rounding_is_not_the_devices, setup, teardown),
        cmocka_unit_test_setup_teardown(a_missing_barrier_shows_in_some_order, setup, teardown),
        cmocka_unit_test_setup_teardown(
            a_barrier_that_not_all_reach_ends_the_process, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(warps_pass_their_barriers_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(
            asynchronous_copies_come_when_they_are_waited_for, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(launches_that_no_device_takes_are_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
