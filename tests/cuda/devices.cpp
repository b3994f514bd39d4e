/*
 * Devices, and kernels launched on them.
 */
#include "tests/cuda/runtime.h"

#include <stdio.h>

#include <algorithm>

#include "tests/cuda/fiber.h"

using namespace emulator;

cudaError_t emulated_function_attributes(cudaFuncAttributes *attributes, const void *kernel)
{
    ENTER("cudaFuncGetAttributes");
    state.loaded.insert({current_device, kernel});
    *attributes = {1024, 32};
    return cudaSuccess;
}

cudaError_t emulated_launch(
    const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> thread_main
)
{
    ENTER("cudaLaunchKernel");
    dim3 grid = config->gridDim, block = config->blockDim;
    uint64_t threads = uint64_t{block.x} * block.y * block.z;

    if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return answer(cudaErrorInvalidConfiguration);
    cudaStream_t stream = stream_of(config->stream);
    if (!stream || stream->device != current_device)
        return answer(cudaErrorInvalidResourceHandle);
    if (state.loaded.insert({current_device, kernel}).second && stream->capture)
        emulated_die("a kernel is captured before it was loaded");
    auto run = [=]() { fiber_run_grid(grid, block, thread_main); };
    return enqueue(stream, {WORK_KERNEL, run});
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER("cudaDeviceSynchronize");
    for (cudaStream_t stream : state.streams) {
        if (stream->device == current_device && stream->capture)
            return capture_void(stream, cudaErrorStreamCaptureUnsupported);
    }
    drain_device(current_device);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER("cudaGetDeviceCount");
    *count = state.count;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    ENTER("cudaGetDevice");
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    ENTER("cudaSetDevice");
    if (device < 0 || device >= state.count)
        return answer(cudaErrorInvalidDevice);
    current_device = device;
    state.idle.erase(device);
    return cudaSuccess;
}

/* The driver's cuDevicePrimaryCtxGetState(). */
static int primary_state(int device, unsigned *flags, int *is_active)
{
    guard held;

    *flags = 0;
    *is_active = !state.idle.count(device);
    return 0;
}

cudaError_t cudaGetDriverEntryPointByVersion(
    const char *symbol,
    void **function,
    unsigned,
    unsigned long long,
    enum cudaDriverEntryPointQueryResult *found
)
{
    ENTER("cudaGetDriverEntryPointByVersion");
    *function = nullptr;
    *found = cudaDriverEntryPointSymbolNotFound;
    if (strcmp(symbol, "cuDevicePrimaryCtxGetState") == 0) {
        *function = reinterpret_cast<void *>(primary_state);
        *found = cudaDriverEntryPointSuccess;
    }
    return cudaSuccess;
}

void emulated_idle(int device)
{
    guard held;

    state.idle.insert(device);
}

int emulated_is_idle(int device)
{
    guard held;

    return state.idle.count(device) != 0;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    ENTER("cudaGetDeviceProperties");
    if (device < 0 || device >= state.count)
        return answer(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof(properties->name), "emulated on the CPU");
    properties->totalGlobalMem = std::min(state.devices[device].memory, state.memory);
    properties->sharedMemPerBlock = 48 << 10;
    properties->regsPerBlock = 65536;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    properties->asyncEngineCount = 2;
    properties->unifiedAddressing = properties->canMapHostMemory = 1;
    properties->concurrentKernels = 1;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    guard held;

    state.calls["cudaDriverGetVersion"]++;
    *version = state.count < 0 ? 0 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    guard held;

    state.calls["cudaRuntimeGetVersion"]++;
    *version = 13000;
    return cudaSuccess;
}
