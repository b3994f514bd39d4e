/*
 * Memory that is taken and freed in the order of a stream. Where it lies is known at once; work of
 * that stream may touch it from where it was taken to where it was freed. In a capture it is the
 * graph's, and taken anew by each launch.
 *
 * A pool keeps nothing: what is freed is gone, so that later use shows.
 */
#include "tests/cuda/runtime.h"

namespace emulator
{

recording::~recording()
{
    if (state.ending)
        return;
    for (uintptr_t address : memories) {
        state.devices[device].used -= state.memories[address].bytes;
        memory_release(address);
    }
}

static bool pool_is(cudaMemPool_t pool)
{
    for (auto &[number, device] : state.devices) {
        if (device.pool.get() == pool)
            return true;
    }
    return state.pools.count(pool) > 0;
}

static cudaMemPool_t pool_of(int number)
{
    device &device = state.devices[number];

    if (!device.pool)
        device.pool.reset(new CUmemPoolHandle_st{number});
    return device.pool.get();
}

static void memory_begin(uintptr_t address)
{
    allocation &memory = state.memories[address];

    memory_fill(memory);
    memory.live = true;
}

/* A graph's memory stays where it is for the next launch. */
static void memory_end(uintptr_t address, bool of_graph)
{
    allocation &memory = state.memories[address];

    memory.live = false;
    if (of_graph)
        memory_tail_check(memory);
    else
        memory_release(address);
}

static cudaError_t
memory_take_ordered(uintptr_t *address, int device, size_t bytes, cudaStream_t stream)
{
    cudaError_t error = memory_take(address, device, bytes);
    if (error != cudaSuccess)
        return error;
    allocation &memory = state.memories[*address];
    memory.live = false;
    memory.owner = stream;
    if (stream->capture) {
        memory.owner = stream->capture->graph.get();
        stream->capture->graph->memories.insert(*address);
    }
    return enqueue(stream, {WORK_NOTE, [taken = *address]() { memory_begin(taken); }});
}

} // namespace emulator

using namespace emulator;

static cudaError_t malloc_async(
    const char *call, void **pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t handle
)
{
    ENTER(call);
    cudaStream_t stream = stream_of(handle);
    uintptr_t address = 0;

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (!pool)
        pool = pool_of(stream->device);
    if (!pointer || !pool_is(pool) || pool->device != stream->device)
        return answer(cudaErrorInvalidValue);
    cudaError_t error = bytes ? memory_take_ordered(&address, pool->device, bytes, stream)
                              : cudaSuccess;
    if (error == cudaSuccess)
        *pointer = reinterpret_cast<void *>(address);
    return error;
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
    return malloc_async("cudaMallocAsync", pointer, bytes, nullptr, stream);
}

cudaError_t
cudaMallocFromPoolAsync(void **pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream)
{
    return malloc_async("cudaMallocFromPoolAsync", pointer, bytes, pool, stream);
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t handle)
{
    ENTER("cudaFreeAsync");
    cudaStream_t stream = stream_of(handle);
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto found = state.memories.find(address);

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (!pointer)
        return cudaSuccess;
    if (found == state.memories.end() || !found->second.owner || found->second.freed)
        return answer(cudaErrorInvalidValue);
    bool of_graph = stream->capture != nullptr;
    const void *owner = of_graph ? static_cast<const void *>(stream->capture->graph.get()) : stream;
    if (found->second.owner != owner)
        emulated_die("memory is freed in another stream than that which took it");
    found->second.freed = true;
    if (!of_graph)
        state.devices[found->second.device].used -= found->second.bytes;
    return enqueue(stream, {WORK_NOTE, [=]() { memory_end(address, of_graph); }});
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    ENTER("cudaDeviceGetDefaultMemPool");
    if (device < 0 || device >= state.count)
        return answer(cudaErrorInvalidDevice);
    *pool = pool_of(device);
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const cudaMemPoolProps *properties)
{
    ENTER("cudaMemPoolCreate");
    const cudaMemLocation &location = properties->location;

    if (properties->allocType != cudaMemAllocationTypePinned ||
        location.type != cudaMemLocationTypeDevice || location.id < 0 || location.id >= state.count)
        return answer(cudaErrorInvalidValue);
    *pool = new CUmemPoolHandle_st{location.id};
    state.pools.insert(*pool);
    return cudaSuccess;
}

/* What was taken from it stays until it is freed. */
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    ENTER("cudaMemPoolDestroy");
    if (!state.pools.erase(pool))
        return answer(cudaErrorInvalidValue);
    delete pool;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value)
{
    ENTER("cudaMemPoolSetAttribute");
    if (!pool_is(pool) || !value || attribute < cudaMemPoolReuseFollowEventDependencies ||
        attribute > cudaMemPoolAttrReleaseThreshold)
        return answer(cudaErrorInvalidValue);
    return cudaSuccess;
}
