/*
 * Tests of what the emulated runtime knows of several devices, of default streams, of memory in a
 * stream's order, and of captures: that what CUDA refuses is refused, and what it lets pass, and is
 * wrong, is found.
 */
#include "tests/cuda/scene.h"

#include <pthread.h>

namespace
{

const unsigned all_orders[] = {EMULATED_LAZY, EMULATED_EAGER, EMULATED_OTHERS, 3, 4, 5, 6, 7, 8};

void must(cudaError_t error)
{
    assert_int_equal(error, cudaSuccess);
}

/* In a child, where a claim of cmocka's would go astray. */
void need(cudaError_t error)
{
    if (error != cudaSuccess)
        _exit(0);
}

cudaError_t add_one_on(cudaStream_t stream, int *numbers)
{
    auto config = config_of(1, 4, stream);

    return cudaLaunchKernelEx(&config, add_one, numbers);
}

int first_of(const int *numbers)
{
    int first = 0;

    must(cudaMemcpy(&first, numbers, sizeof(first), cudaMemcpyDeviceToHost));
    return first;
}

/* ---- Devices ---- */

/* A stream, an event and four zeros on the second of two devices; the first one is chosen. */
struct second_device {
    cudaStream_t stream;
    cudaEvent_t event;
    int *numbers;

    second_device()
    {
        emulated_devices(2);
        must(cudaSetDevice(1));
        must(cudaStreamCreate(&stream));
        must(cudaEventCreate(&event));
        must(cudaMalloc(&numbers, 16));
        must(cudaMemset(numbers, 0, 16));
        must(cudaDeviceSynchronize());
        must(cudaSetDevice(0));
    }
    second_device(const second_device &) = delete;
    ~second_device()
    {
        cudaStreamDestroy(stream);
        cudaEventDestroy(event);
        cudaFree(numbers);
    }
};

void each_device_has_memory_of_its_own(void **)
{
    char *here, *there, *more;
    size_t unused, total;
    cudaPointerAttributes attributes;

    emulated_devices(2);
    emulated_memory_of(1, 1000);
    must(cudaMalloc(&here, 5000));
    must(cudaSetDevice(1));
    assert_int_equal(cudaMalloc(&more, 1001), cudaErrorMemoryAllocation);
    must(cudaMalloc(&there, 600));
    must(cudaMemGetInfo(&unused, &total));
    assert_int_equal(unused, 400);
    assert_int_equal(total, 1000);
    assert_int_equal(emulated_memory_peak(), 600);
    must(cudaSetDevice(0));
    assert_int_equal(emulated_memory_peak(), 5000);
    must(cudaPointerGetAttributes(&attributes, there + 599));
    assert_int_equal(attributes.type, cudaMemoryTypeDevice);
    assert_int_equal(attributes.device, 1);
    must(cudaPointerGetAttributes(&attributes, here));
    assert_int_equal(attributes.device, 0);
    must(cudaPointerGetAttributes(&attributes, &attributes));
    assert_int_equal(attributes.type, cudaMemoryTypeUnregistered);
    must(cudaFree(there));
    must(cudaFree(here));
}

void a_stream_takes_kernels_while_its_device_is_chosen_and_copies_always(void **)
{
    second_device second;
    int *here;

    assert_int_equal(add_one_on(second.stream, second.numbers), cudaErrorInvalidResourceHandle);
    must(cudaMalloc(&here, 16));
    must(cudaMemsetAsync(here, 1, 16, second.stream));
    must(cudaMemcpyAsync(second.numbers, here, 16, cudaMemcpyDeviceToDevice, second.stream));
    must(cudaSetDevice(1));
    must(add_one_on(second.stream, second.numbers));
    must(cudaSetDevice(0));
    must(cudaStreamSynchronize(second.stream));
    assert_int_equal(first_of(second.numbers), 0x01010102);
    must(cudaFree(here));
}

void an_event_is_recorded_on_its_own_device_and_waited_for_on_any(void **)
{
    for (unsigned order : all_orders) {
        second_device second;
        cudaStream_t here;
        cudaEvent_t event;
        float milliseconds;
        int *numbers;

        emulated_order(order);
        must(cudaStreamCreateWithFlags(&here, cudaStreamNonBlocking));
        must(cudaEventCreate(&event));
        must(cudaMalloc(&numbers, 16));
        assert_int_equal(cudaEventRecord(second.event, here), cudaErrorInvalidResourceHandle);
        assert_int_equal(cudaEventRecord(event, second.stream), cudaErrorInvalidResourceHandle);
        must(cudaMemsetAsync(numbers, 1, 16, here));
        must(cudaEventRecord(event, here));
        must(cudaStreamWaitEvent(second.stream, event));
        must(cudaMemcpyAsync(second.numbers, numbers, 16, cudaMemcpyDefault, second.stream));
        must(cudaEventRecord(second.event, second.stream));
        must(cudaEventSynchronize(second.event));
        assert_int_equal(
            cudaEventElapsedTime(&milliseconds, event, second.event), cudaErrorInvalidResourceHandle
        );
        assert_int_equal(first_of(second.numbers), 0x01010101);
        must(cudaFree(numbers));
        must(cudaEventDestroy(event));
        must(cudaStreamDestroy(here));
    }
}

void waiting_for_a_device_leaves_the_others_at_work(void **)
{
    second_device second;

    must(cudaMemsetAsync(second.numbers, 1, 16, second.stream));
    must(cudaDeviceSynchronize());
    assert_int_equal(cudaStreamQuery(second.stream), cudaErrorNotReady);
    must(cudaMemsetAsync(second.numbers, 1, 16, second.stream));
    must(cudaSetDevice(1));
    must(cudaDeviceSynchronize());
    assert_int_equal(cudaStreamQuery(second.stream), cudaSuccess);
    must(cudaSetDevice(0));
}

void a_kernel_that_touches_another_devices_memory_dies(void **)
{
    assert_says(
        last_words([]() {
            second_device second;
            need(add_one_on(nullptr, second.numbers));
            need(cudaDeviceSynchronize());
        }),
        "a kernel touched another device's memory"
    );
    assert_says(
        last_words([]() {
            second_device second;
            auto config = config_of(1, 1);
            need(cudaLaunchKernelEx(
                &config, +[](int *numbers) { emulated_device_check(numbers); }, second.numbers
            ));
            need(cudaDeviceSynchronize());
        }),
        "a kernel touched another device's memory"
    );
}

void *device_of_thread(void *out)
{
    cudaGetDevice(static_cast<int *>(out));
    return nullptr;
}

void each_thread_chooses_its_own_device(void **)
{
    pthread_t thread;
    int there = -1, here = -1;

    emulated_devices(2);
    must(cudaSetDevice(1));
    assert_int_equal(pthread_create(&thread, nullptr, device_of_thread, &there), 0);
    assert_int_equal(pthread_join(thread, nullptr), 0);
    must(cudaGetDevice(&here));
    assert_int_equal(there, 0);
    assert_int_equal(here, 1);
}

/* ---- Default streams ---- */

/* What a stream reads of memory that the default stream sets just before. */
int after_the_default(unsigned flags)
{
    cudaStream_t stream;
    int *numbers, *pinned, read;

    must(cudaStreamCreateWithFlags(&stream, flags));
    must(cudaMalloc(&numbers, 16));
    must(cudaMallocHost(&pinned, 16));
    must(cudaMemset(numbers, 0, 16));
    must(cudaDeviceSynchronize());
    must(cudaMemset(numbers, 1, 16));
    must(cudaMemcpyAsync(pinned, numbers, 16, cudaMemcpyDeviceToHost, stream));
    must(cudaStreamSynchronize(stream));
    read = pinned[0];
    must(cudaFreeHost(pinned));
    must(cudaFree(numbers));
    must(cudaStreamDestroy(stream));
    return read;
}

void the_default_stream_is_awaited_by_those_that_block_alone(void **)
{
    for (unsigned order : all_orders) {
        emulated_order(order);
        assert_int_equal(after_the_default(cudaStreamDefault), 0x01010101);
    }
    emulated_order(EMULATED_LAZY);
    assert_int_equal(after_the_default(cudaStreamNonBlocking), 0);
}

/* What the default stream reads of memory that a stream sets just before. */
int before_the_default(unsigned flags, cudaStream_t default_stream)
{
    cudaStream_t stream;
    int *numbers, *pinned, read;

    must(cudaStreamCreateWithFlags(&stream, flags));
    must(cudaMalloc(&numbers, 16));
    must(cudaMallocHost(&pinned, 16));
    must(cudaMemset(numbers, 0, 16));
    must(cudaDeviceSynchronize());
    must(cudaMemsetAsync(numbers, 1, 16, stream));
    must(cudaMemcpyAsync(pinned, numbers, 16, cudaMemcpyDeviceToHost, default_stream));
    must(cudaStreamSynchronize(default_stream));
    read = pinned[0];
    must(cudaFreeHost(pinned));
    must(cudaFree(numbers));
    must(cudaStreamDestroy(stream));
    return read;
}

void the_default_stream_waits_for_those_that_block_alone(void **)
{
    for (unsigned order : all_orders) {
        emulated_order(order);
        assert_int_equal(before_the_default(cudaStreamDefault, nullptr), 0x01010101);
        assert_int_equal(before_the_default(cudaStreamDefault, cudaStreamLegacy), 0x01010101);
    }
    emulated_order(EMULATED_LAZY);
    assert_int_equal(before_the_default(cudaStreamNonBlocking, nullptr), 0);
    assert_int_equal(before_the_default(cudaStreamDefault, cudaStreamPerThread), 0);
}

/* What a stream that does not block reads of memory that cudaMemcpy() has just filled. */
int after_a_copy(const int *from)
{
    cudaStream_t stream;
    int *numbers, *pinned, read;

    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    must(cudaMalloc(&numbers, 16));
    must(cudaMallocHost(&pinned, 16));
    must(cudaMemset(numbers, 0, 16));
    must(cudaMemcpy(numbers, from, 16, cudaMemcpyHostToDevice));
    must(cudaMemcpyAsync(pinned, numbers, 16, cudaMemcpyDeviceToHost, stream));
    must(cudaStreamSynchronize(stream));
    read = pinned[0];
    must(cudaFreeHost(pinned));
    must(cudaFree(numbers));
    must(cudaStreamDestroy(stream));
    return read;
}

void a_copy_of_memory_that_is_not_pinned_may_be_on_its_way_when_it_returns(void **)
{
    scene scene;
    const int plain[4] = {7, 7, 7, 7};

    scene.set(7);
    assert_int_equal(after_a_copy(scene.host), 7);
    assert_int_equal(after_a_copy(plain), 0);
    emulated_order(EMULATED_EAGER);
    assert_int_equal(after_a_copy(plain), 7);
}

void *set_on_own_stream(void *numbers)
{
    cudaMemsetAsync(numbers, 1, 16, cudaStreamPerThread);
    return nullptr;
}

void each_thread_has_a_stream_of_its_own(void **)
{
    scene scene;
    pthread_t thread;

    scene.set(7);
    scene.up(cudaStreamPerThread);
    must(cudaStreamSynchronize(cudaStreamPerThread));
    assert_int_equal(pthread_create(&thread, nullptr, set_on_own_stream, scene.device), 0);
    assert_int_equal(pthread_join(thread, nullptr), 0);
    scene.down(cudaStreamPerThread);
    must(cudaStreamSynchronize(cudaStreamPerThread));
    assert_int_equal(scene.host[0], 7); /* the other's work has not run */
    must(cudaDeviceSynchronize());
    assert_int_equal(first_of(scene.device), 0x01010101);
    assert_int_equal(cudaStreamDestroy(cudaStreamPerThread), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaStreamDestroy(nullptr), cudaErrorInvalidResourceHandle);
}

void an_event_that_is_destroyed_or_recorded_again_still_orders(void **)
{
    for (unsigned order : all_orders) {
        scene scene;
        cudaEvent_t event;

        emulated_order(order);
        scene.set(5);
        scene.up(scene.first);
        must(add_one_on(scene.first, scene.device));
        must(cudaEventCreate(&event));
        must(cudaEventRecord(event, scene.first));
        must(cudaStreamWaitEvent(scene.second, event));
        must(cudaEventRecord(event, scene.second));
        must(cudaEventDestroy(event));
        scene.down(scene.second);
        must(cudaStreamSynchronize(scene.second));
        assert_int_equal(scene.host[0], 6);
    }
}

/* ---- Memory in a stream's order ---- */

void memory_is_a_streams_from_where_it_is_taken_to_where_it_is_freed(void **)
{
    for (unsigned order : all_orders) {
        scene scene;
        int *numbers;

        emulated_order(order);
        for (int i = 0; i < 5; i++) {
            must(cudaMallocAsync(&numbers, 16, scene.first));
            must(cudaMemsetAsync(numbers, i, 16, scene.first));
            must(add_one_on(scene.first, numbers));
            must(cudaMemcpyAsync(scene.device, numbers, 16, cudaMemcpyDeviceToDevice, scene.first));
            must(cudaFreeAsync(numbers, scene.first));
            scene.down(scene.first);
            must(cudaStreamSynchronize(scene.first));
            assert_int_equal(scene.host[0], i * 0x01010101 + 1);
        }
    }
}

/* Four numbers in memory of `stream`'s order, in a child. */
int *taken(cudaStream_t stream)
{
    int *numbers = nullptr;

    need(cudaMallocAsync(&numbers, 16, stream));
    return numbers;
}

void work_that_touches_freed_memory_dies(void **)
{
    assert_says(
        last_words([]() {
            scene scene;
            int *numbers = taken(scene.first);
            need(cudaMemsetAsync(numbers, 0, 16, scene.first));
            need(cudaFreeAsync(numbers, scene.first));
            need(add_one_on(scene.first, numbers));
            need(cudaStreamSynchronize(scene.first));
        }),
        "a kernel touched what is no device's memory"
    );
    assert_says(
        last_words([]() {
            scene scene;
            int *numbers = taken(scene.first);
            need(cudaFreeAsync(numbers, scene.first));
            need(cudaMemsetAsync(numbers, 0, 16, scene.first));
        }),
        "memory is used after it was freed in its stream"
    );
    assert_says(
        last_words([]() {
            scene scene;
            cudaGraph_t graph;
            cudaGraphExec_t executable;
            need(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
            int *numbers = taken(scene.first);
            need(cudaFreeAsync(numbers, scene.first));
            need(add_one_on(scene.first, numbers));
            need(cudaStreamEndCapture(scene.first, &graph));
            need(cudaGraphInstantiate(&executable, graph));
            need(cudaGraphLaunch(executable, scene.second));
            need(cudaStreamSynchronize(scene.second));
        }),
        "a kernel touched memory that was freed in its stream"
    );
    assert_says(
        last_words([]() {
            scene scene;
            auto config = config_of(1, 5, scene.first);
            int *numbers = taken(scene.first);
            need(cudaLaunchKernelEx(&config, add_one, numbers));
            need(cudaFreeAsync(numbers, scene.first));
            need(cudaStreamSynchronize(scene.first));
        }),
        ""
    );
}

void work_of_another_stream_that_touches_it_dies(void **)
{
    assert_says(
        last_words([]() {
            scene scene;
            need(add_one_on(scene.second, taken(scene.first)));
            need(cudaDeviceSynchronize());
        }),
        "a kernel touched memory that is taken and freed in another stream"
    );
    assert_says(
        last_words([]() {
            scene scene;
            cudaMemsetAsync(taken(scene.first), 0, 16, scene.second);
        }),
        "memory is used in another stream than that which takes and frees it"
    );
    assert_says(
        last_words([]() {
            scene scene;
            cudaFreeAsync(taken(scene.first), scene.second);
        }),
        "memory is freed in another stream than that which took it"
    );
}

void memory_of_an_order_is_counted_limited_and_missed(void **)
{
    scene scene;
    char *first, *second, *plain;

    emulated_memory(1016); /* 16 are the scene's */
    must(cudaMallocAsync(&first, 1000, scene.first));
    assert_int_equal(cudaMallocAsync(&second, 1, scene.first), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&plain, 1), cudaErrorMemoryAllocation);
    assert_int_equal(emulated_leaks(), 6); /* five are the scene's */
    must(cudaFreeAsync(first, scene.first));
    assert_int_equal(cudaFreeAsync(first, scene.first), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(first), cudaErrorInvalidValue);
    assert_int_equal(emulated_leaks(), 5);
    must(cudaMallocAsync(&second, 1000, scene.first)); /* in the first one's place */
    must(cudaFree(second));
    assert_int_equal(cudaFreeAsync(scene.device, scene.first), cudaErrorInvalidValue);
    emulated_fail("cudaMallocAsync", 1, cudaErrorMemoryAllocation);
    assert_int_equal(cudaMallocAsync(&second, 1, scene.first), cudaErrorMemoryAllocation);
    assert_int_equal(emulated_memory_peak(), 1016);
}

void pools_belong_to_a_device_and_are_missed(void **)
{
    second_device second;
    cudaMemPoolProps properties = {};
    cudaMemPool_t pool, of_first;
    uint64_t threshold = UINT64_MAX;
    char *memory;

    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, 2};
    assert_int_equal(cudaMemPoolCreate(&pool, &properties), cudaErrorInvalidValue);
    properties.location.id = 1;
    must(cudaMemPoolCreate(&pool, &properties));
    must(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    assert_int_equal(emulated_leaks(), 4); /* three are the device's */
    must(cudaMallocFromPoolAsync(&memory, 100, pool, second.stream));
    must(cudaMemsetAsync(memory, 0, 100, second.stream));
    must(cudaFreeAsync(memory, second.stream));
    must(cudaDeviceGetDefaultMemPool(&of_first, 0));
    assert_int_equal(
        cudaMallocFromPoolAsync(&memory, 100, of_first, second.stream), cudaErrorInvalidValue
    );
    assert_int_equal(cudaMemPoolDestroy(of_first), cudaErrorInvalidValue);
    must(cudaMemPoolDestroy(pool));
    assert_int_equal(cudaMemPoolDestroy(pool), cudaErrorInvalidValue);
}

/* ---- Captures ---- */

cudaGraphExec_t end_of_capture(cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;

    must(cudaStreamEndCapture(stream, &graph));
    must(cudaGraphInstantiate(&executable, graph));
    must(cudaGraphDestroy(graph));
    return executable;
}

void what_is_captured_runs_with_each_launch_and_no_earlier(void **)
{
    for (unsigned order : all_orders) {
        scene scene;
        cudaStreamCaptureStatus status;

        emulated_order(order);
        scene.set(1);
        scene.up(scene.first);
        must(cudaStreamSynchronize(scene.first));
        must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
        must(cudaStreamIsCapturing(scene.first, &status));
        assert_int_equal(status, cudaStreamCaptureStatusActive);
        must(add_one_on(scene.first, scene.device));
        scene.down(scene.first);
        cudaGraphExec_t executable = end_of_capture(scene.first);
        must(cudaStreamIsCapturing(scene.first, &status));
        assert_int_equal(status, cudaStreamCaptureStatusNone);
        must(cudaStreamSynchronize(scene.first));
        assert_int_equal(scene.host[0], 1);
        for (cudaStream_t stream : {scene.first, scene.second, scene.second})
            must(cudaGraphLaunch(executable, stream)); /* one after the other, on any streams */
        must(cudaGraphExecDestroy(executable));
        must(cudaStreamSynchronize(scene.second));
        assert_int_equal(scene.host[0], 4);
    }
}

void a_launch_sees_what_its_memory_holds_then(void **)
{
    scene scene;

    must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
    scene.up(scene.first);
    must(add_one_on(scene.first, scene.device));
    scene.down(scene.first);
    cudaGraphExec_t executable = end_of_capture(scene.first);
    for (int value : {3, 8}) {
        scene.set(value);
        must(cudaGraphLaunch(executable, scene.second));
        must(cudaStreamSynchronize(scene.second));
        assert_int_equal(scene.host[0], value + 1);
    }
    must(cudaGraphExecDestroy(executable));
}

void a_graph_takes_its_memory_anew_with_each_launch(void **)
{
    scene scene;
    int *numbers;

    must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
    must(cudaMallocAsync(&numbers, 16, scene.first));
    must(cudaMemcpyAsync(numbers, scene.device, 16, cudaMemcpyDeviceToDevice, scene.first));
    must(add_one_on(scene.first, numbers));
    must(cudaMemcpyAsync(scene.device, numbers, 16, cudaMemcpyDeviceToDevice, scene.first));
    must(cudaFreeAsync(numbers, scene.first));
    cudaGraphExec_t executable = end_of_capture(scene.first);
    must(cudaMemset(scene.device, 0, 16));
    for (int i = 0; i < 3; i++)
        must(cudaGraphLaunch(executable, scene.second));
    assert_int_equal(first_of(scene.device), 3);
    must(cudaGraphExecDestroy(executable));
    assert_int_equal(emulated_leaks(), 5); /* the scene's */
    assert_says(
        last_words([]() {
            struct scene other;
            int *kept;
            cudaGraph_t graph;
            need(cudaStreamBeginCapture(other.first, cudaStreamCaptureModeGlobal));
            need(cudaMallocAsync(&kept, 16, other.first));
            cudaStreamEndCapture(other.first, &graph);
        }),
        "memory that a capture takes is not freed in it"
    );
}

void a_graph_that_touches_memory_freed_since_dies(void **)
{
    assert_says(
        last_words([]() {
            scene scene;
            cudaGraph_t graph;
            cudaGraphExec_t executable;
            int *numbers;
            need(cudaMalloc(&numbers, 16));
            need(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
            need(add_one_on(scene.first, numbers));
            need(cudaStreamEndCapture(scene.first, &graph));
            need(cudaGraphInstantiate(&executable, graph));
            need(cudaFree(numbers));
            need(cudaGraphLaunch(executable, scene.first));
            need(cudaStreamSynchronize(scene.first));
        }),
        "a kernel touched what is no device's memory"
    );
}

void a_captured_copy_of_memory_that_is_not_pinned_dies(void **)
{
    assert_says(
        last_words([]() {
            scene scene;
            int plain[4] = {};
            need(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
            cudaMemcpyAsync(scene.device, plain, 16, cudaMemcpyHostToDevice, scene.first);
        }),
        "a captured copy uses host memory that is not pinned"
    );
}

void a_captured_kernel_that_was_not_loaded_dies(void **)
{
    emulated_reset();
    assert_says(
        last_words([]() {
            scene scene;
            need(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
            need(add_one_on(scene.first, scene.device));
        }),
        "a kernel is captured before it was loaded"
    );
}

/* What must not be called while the scene's first stream captures. */
struct forbidden {
    const char *name;
    cudaError_t (*call)(scene *scene);
    cudaError_t error;
};

const forbidden forbiddens[] = {
    {"cudaMalloc",
     [](scene *) {
         char *memory;
         return cudaMalloc(&memory, 1);
     },
     cudaErrorStreamCaptureUnsupported},
    {"cudaFree", [](scene *scene) { return cudaFree(scene->device); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaHostAlloc",
     [](scene *) {
         char *memory;
         return cudaHostAlloc(&memory, 1, cudaHostAllocDefault);
     },
     cudaErrorStreamCaptureUnsupported},
    {"cudaMemcpy",
     [](scene *scene) { return cudaMemcpy(scene->device, scene->host, 16, cudaMemcpyDefault); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaDeviceSynchronize", [](scene *) { return cudaDeviceSynchronize(); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaStreamSynchronize", [](scene *scene) { return cudaStreamSynchronize(scene->first); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaStreamQuery", [](scene *scene) { return cudaStreamQuery(scene->first); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaEventQuery", [](scene *scene) { return cudaEventQuery(scene->event); },
     cudaErrorStreamCaptureUnsupported},
    {"cudaMemset, on the default stream",
     [](scene *scene) { return cudaMemset(scene->device, 0, 16); }, cudaErrorStreamCaptureImplicit},
    {"cudaStreamWaitEvent, for what is not captured",
     [](scene *scene) { return cudaStreamWaitEvent(scene->first, scene->event); },
     cudaErrorStreamCaptureIsolation},
};

void a_call_that_a_capture_forbids_makes_it_void(void **)
{
    for (const forbidden &one : forbiddens) {
        scene scene;
        cudaStreamCaptureStatus status;
        cudaGraph_t graph;

        must(cudaEventRecord(scene.event, scene.second));
        must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
        cudaError_t error = one.call(&scene);
        if (error != one.error)
            fail_msg("%s: %s", one.name, cudaGetErrorName(error));
        must(cudaStreamIsCapturing(scene.first, &status));
        assert_int_equal(status, cudaStreamCaptureStatusInvalidated);
        assert_int_equal(add_one_on(scene.first, scene.device), cudaErrorStreamCaptureInvalidated);
        assert_int_equal(
            cudaStreamEndCapture(scene.first, &graph), cudaErrorStreamCaptureInvalidated
        );
        assert_null(graph);
        must(cudaStreamSynchronize(scene.first));
    }
}

void *take_and_free(void *out)
{
    char *memory = nullptr;
    cudaError_t *error = static_cast<cudaError_t *>(out);

    *error = cudaMalloc(&memory, 1);
    if (*error == cudaSuccess)
        cudaFree(memory);
    return nullptr;
}

/* What a thread is told that takes memory while this one captures in that mode. */
cudaError_t another_thread_takes(cudaStreamCaptureMode mode)
{
    scene scene;
    pthread_t thread;
    cudaError_t error = cudaErrorUnknown;
    cudaGraph_t graph = nullptr;

    must(cudaStreamBeginCapture(scene.first, mode));
    assert_int_equal(pthread_create(&thread, nullptr, take_and_free, &error), 0);
    assert_int_equal(pthread_join(thread, nullptr), 0);
    cudaError_t end = cudaStreamEndCapture(scene.first, &graph);
    assert_int_equal(end, error == cudaSuccess ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
    if (graph)
        must(cudaGraphDestroy(graph));
    return error;
}

void other_threads_may_do_what_the_mode_of_a_capture_lets_them(void **)
{
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    scene scene;
    char *memory;
    cudaGraph_t graph;

    assert_int_equal(
        another_thread_takes(cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported
    );
    must(another_thread_takes(cudaStreamCaptureModeThreadLocal));
    must(another_thread_takes(cudaStreamCaptureModeRelaxed));
    must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
    must(cudaThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, cudaStreamCaptureModeGlobal);
    must(cudaMalloc(&memory, 1));
    must(cudaFree(memory));
    must(cudaThreadExchangeStreamCaptureMode(&mode));
    must(cudaStreamEndCapture(scene.first, &graph));
    must(cudaGraphDestroy(graph));
}

void an_event_of_a_capture_orders_nothing_outside(void **)
{
    scene scene;
    cudaGraph_t graph;

    assert_int_equal(
        cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
        cudaErrorStreamCaptureUnsupported
    );
    assert_int_equal(cudaStreamEndCapture(scene.first, &graph), cudaErrorIllegalState);
    must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeRelaxed));
    assert_int_equal(
        cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeRelaxed), cudaErrorIllegalState
    );
    must(cudaEventRecord(scene.event, scene.first));
    must(cudaStreamWaitEvent(scene.first, scene.event));
    assert_int_equal(cudaEventSynchronize(scene.event), cudaErrorCapturedEvent);
    must(cudaStreamEndCapture(scene.first, &graph));
    assert_int_equal(cudaStreamWaitEvent(scene.second, scene.event), cudaErrorCapturedEvent);
    must(cudaEventRecord(scene.event, scene.second));
    must(cudaEventSynchronize(scene.event));
    must(cudaGraphDestroy(graph));
}

void graphs_that_are_not_destroyed_are_missed(void **)
{
    scene scene;
    cudaGraph_t graph;
    cudaGraphExec_t executable;

    must(cudaStreamBeginCapture(scene.first, cudaStreamCaptureModeGlobal));
    must(cudaStreamEndCapture(scene.first, &graph));
    must(cudaGraphInstantiate(&executable, graph));
    assert_int_equal(emulated_leaks(), 7); /* five are the scene's */
    must(cudaGraphDestroy(graph));
    must(cudaGraphExecDestroy(executable));
    assert_int_equal(cudaGraphDestroy(graph), cudaErrorInvalidValue);
    assert_int_equal(cudaGraphLaunch(executable, scene.first), cudaErrorInvalidValue);
}

int setup(void **)
{
    cudaFuncAttributes unused;

    emulated_reset();
    return cudaFuncGetAttributes(&unused, add_one);
}

int teardown(void **)
{
    return static_cast<int>(emulated_leaks());
}

#define CLAIM(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        CLAIM(each_device_has_memory_of_its_own),
        CLAIM(a_stream_takes_kernels_while_its_device_is_chosen_and_copies_always),
        CLAIM(an_event_is_recorded_on_its_own_device_and_waited_for_on_any),
        CLAIM(waiting_for_a_device_leaves_the_others_at_work),
        CLAIM(a_kernel_that_touches_another_devices_memory_dies),
        CLAIM(each_thread_chooses_its_own_device),
        CLAIM(the_default_stream_is_awaited_by_those_that_block_alone),
        CLAIM(the_default_stream_waits_for_those_that_block_alone),
        CLAIM(a_copy_of_memory_that_is_not_pinned_may_be_on_its_way_when_it_returns),
        CLAIM(each_thread_has_a_stream_of_its_own),
        CLAIM(an_event_that_is_destroyed_or_recorded_again_still_orders),
        CLAIM(memory_is_a_streams_from_where_it_is_taken_to_where_it_is_freed),
        CLAIM(work_that_touches_freed_memory_dies),
        CLAIM(work_of_another_stream_that_touches_it_dies),
        CLAIM(memory_of_an_order_is_counted_limited_and_missed),
        CLAIM(pools_belong_to_a_device_and_are_missed),
        CLAIM(what_is_captured_runs_with_each_launch_and_no_earlier),
        CLAIM(a_launch_sees_what_its_memory_holds_then),
        CLAIM(a_graph_takes_its_memory_anew_with_each_launch),
        CLAIM(a_graph_that_touches_memory_freed_since_dies),
        CLAIM(a_captured_copy_of_memory_that_is_not_pinned_dies),
        CLAIM(a_captured_kernel_that_was_not_loaded_dies),
        CLAIM(a_call_that_a_capture_forbids_makes_it_void),
        CLAIM(other_threads_may_do_what_the_mode_of_a_capture_lets_them),
        CLAIM(an_event_of_a_capture_orders_nothing_outside),
        CLAIM(graphs_that_are_not_destroyed_are_missed),
    };

    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
