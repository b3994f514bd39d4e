/*
 * Memory of the device, pinned memory, and copies.
 *
 * Device memory is mapped between guard pages and unreadable but while queued work runs. Behind an
 * allocation's last byte, up to its page's end, a pattern is checked when it is freed; with ASan,
 * touching it is an error at once.
 */
#include "tests/cuda/runtime.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes)
#endif

namespace emulator
{

static const int FILL = 0xa5, TAIL = 0x5c;

static void memory_protect(const allocation &memory, int protection)
{
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

    mprotect(memory.map + page, memory.map_bytes - 2 * page, protection);
}

static void memory_protect_of(const void *pointer, int protection)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
    auto next = state.memories.upper_bound(at);

    if (next == state.memories.begin())
        return;
    const auto &[address, memory] = *std::prev(next);
    if (at - address < memory.bytes)
        memory_protect(memory, protection);
}

void work_protect(const stream_work &work, int protection)
{
    if (work.kernel) {
        for (auto &[address, memory] : state.memories)
            memory_protect(memory, protection);
        return;
    }
    memory_protect_of(work.to, protection);
    memory_protect_of(work.from, protection);
}

template <typename V>
static bool range_in(const std::map<uintptr_t, V> &ranges, uintptr_t at, size_t bytes)
{
    auto next = ranges.upper_bound(at);

    if (next == ranges.begin())
        return false;
    auto range = std::prev(next);
    size_t length;
    if constexpr (std::is_same_v<V, allocation>)
        length = range->second.bytes;
    else
        length = range->second;
    return at - range->first <= length && bytes <= length - (at - range->first);
}

bool is_device(const void *pointer, size_t bytes)
{
    return range_in(state.memories, reinterpret_cast<uintptr_t>(pointer), bytes);
}

bool is_pinned(const void *pointer, size_t bytes)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(pointer);

    return range_in(state.pinned, at, bytes) || range_in(state.registered, at, bytes);
}

/* A side of a copy is where the kind says, as a whole. */
static bool side_is_right(const void *pointer, size_t bytes, bool device)
{
    return device ? is_device(pointer, bytes) : !is_device(pointer);
}

static cudaError_t check_copy(
    const void *to, size_t to_bytes, const void *from, size_t from_bytes, cudaMemcpyKind kind
)
{
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;

    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return answer(cudaErrorInvalidMemcpyDirection);
    if (kind == cudaMemcpyDefault) {
        to_device = is_device(to);
        from_device = is_device(from);
    }
    if (!side_is_right(to, to_bytes, to_device) || !side_is_right(from, from_bytes, from_device))
        return answer(cudaErrorInvalidValue);
    return cudaSuccess;
}

/* Of a copy that is queued: host memory that is not pinned is read, or written, before the call
   returns. */
static bool is_pageable(const void *to, size_t to_bytes, const void *from, size_t from_bytes)
{
    bool pageable = (!is_device(to) && !is_pinned(to, to_bytes)) ||
                    (!is_device(from) && !is_pinned(from, from_bytes));

    state.pageable_copies += pageable;
    return pageable;
}

static cudaError_t enqueue_copy(
    cudaStream_t stream,
    std::function<void()> copy,
    const void *to,
    size_t to_bytes,
    const void *from,
    size_t from_bytes
)
{
    bool pageable = stream && is_pageable(to, to_bytes, from, from_bytes);
    cudaError_t error = enqueue(stream, {std::move(copy), false, to, from, nullptr, 0});

    if (error == cudaSuccess && pageable)
        stream_drain(stream);
    return error;
}

static void tail_check(uintptr_t address, const allocation &memory, size_t page)
{
    const char *end = memory.map + memory.map_bytes - page;

    for (const char *at = reinterpret_cast<char *>(address) + memory.bytes; at < end; at++) {
        if (*at != TAIL)
            emulated_die("a kernel wrote beyond the end of its memory");
    }
}

} // namespace emulator

using namespace emulator;

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    ENTER("cudaMalloc");
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

    if (!pointer)
        return answer(cudaErrorInvalidValue);
    if (bytes == 0) {
        *pointer = nullptr;
        return cudaSuccess;
    }
    if (bytes > state.memory - std::min(state.used, state.memory))
        return answer(cudaErrorMemoryAllocation);
    size_t inner = (bytes + page - 1) / page * page;
    void *map = mmap(
        nullptr, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    );
    if (map == MAP_FAILED)
        return answer(cudaErrorMemoryAllocation);
    char *data = static_cast<char *>(map) + page;
    mprotect(data, inner, PROT_READ | PROT_WRITE);
    memset(data, FILL, bytes);
    memset(data + bytes, TAIL, inner - bytes);
    ASAN_POISON_MEMORY_REGION(data + bytes, inner - bytes);
    mprotect(data, inner, PROT_NONE);
    state.memories[reinterpret_cast<uintptr_t>(data)] = {
        bytes, static_cast<char *>(map), inner + 2 * page};
    state.used += bytes;
    state.peak = std::max(state.peak, state.used);
    *pointer = data;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    ENTER("cudaFree");
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

    if (!pointer)
        return cudaSuccess;
    auto found = state.memories.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == state.memories.end())
        return answer(cudaErrorInvalidValue);
    drain_all();
    allocation memory = found->second;
    size_t inner = memory.map_bytes - 2 * page;
    ASAN_UNPOISON_MEMORY_REGION(static_cast<char *>(pointer) + memory.bytes, inner - memory.bytes);
    mprotect(memory.map + page, inner, PROT_READ);
    tail_check(found->first, memory, page);
    munmap(memory.map, memory.map_bytes);
    state.used -= memory.bytes;
    state.memories.erase(found);
    return cudaSuccess;
}

cudaError_t emulated_malloc_host(const char *call, void **pointer, size_t bytes)
{
    ENTER(call);
    if (!pointer)
        return answer(cudaErrorInvalidValue);
    void *memory = nullptr;
    if (bytes > 0 && posix_memalign(&memory, 4096, bytes) != 0)
        return answer(cudaErrorMemoryAllocation);
    if (memory) {
        memset(memory, FILL, bytes);
        state.pinned[reinterpret_cast<uintptr_t>(memory)] = bytes;
    }
    *pointer = memory;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer)
{
    ENTER("cudaFreeHost");
    if (!pointer)
        return cudaSuccess;
    if (state.pinned.find(reinterpret_cast<uintptr_t>(pointer)) == state.pinned.end())
        return answer(cudaErrorInvalidValue);
    drain_all();
    state.pinned.erase(reinterpret_cast<uintptr_t>(pointer));
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned)
{
    ENTER("cudaHostRegister");
    if (!pointer || bytes == 0 || is_pinned(pointer))
        return answer(cudaErrorInvalidValue);
    state.registered[reinterpret_cast<uintptr_t>(pointer)] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    ENTER("cudaHostUnregister");
    drain_all();
    return state.registered.erase(reinterpret_cast<uintptr_t>(pointer))
               ? cudaSuccess
               : answer(cudaErrorInvalidValue);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer)
{
    ENTER("cudaPointerGetAttributes");
    void *plain = const_cast<void *>(pointer);

    *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, nullptr};
    if (is_device(pointer))
        *attributes = {cudaMemoryTypeDevice, 0, plain, nullptr};
    else if (is_pinned(pointer))
        *attributes = {cudaMemoryTypeHost, 0, plain, plain};
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    ENTER("cudaMemGetInfo");
    *unused = state.memory - std::min(state.used, state.memory);
    *total = state.memory;
    return cudaSuccess;
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER("cudaMemcpyAsync");
    if (bytes == 0)
        return cudaSuccess;
    cudaError_t error = check_copy(to, bytes, from, bytes, kind);
    if (error != cudaSuccess)
        return error;
    auto copy = [=]() { memcpy(to, from, bytes); };
    return enqueue_copy(stream, copy, to, bytes, from, bytes);
}

cudaError_t cudaMemcpy2DAsync(
    void *to,
    size_t to_pitch,
    const void *from,
    size_t from_pitch,
    size_t width,
    size_t height,
    cudaMemcpyKind kind,
    cudaStream_t stream
)
{
    ENTER("cudaMemcpy2DAsync");
    if (width > to_pitch || width > from_pitch)
        return answer(cudaErrorInvalidValue);
    if (width == 0 || height == 0)
        return cudaSuccess;
    size_t to_bytes = to_pitch * (height - 1) + width;
    size_t from_bytes = from_pitch * (height - 1) + width;
    cudaError_t error = check_copy(to, to_bytes, from, from_bytes, kind);
    if (error != cudaSuccess)
        return error;
    auto copy = [=]() {
        for (size_t i = 0; i < height; i++)
            memcpy(
                static_cast<char *>(to) + i * to_pitch,
                static_cast<const char *>(from) + i * from_pitch, width
            );
    };
    return enqueue_copy(stream, copy, to, to_bytes, from, from_bytes);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    ENTER("cudaMemcpy");
    if (bytes == 0)
        return cudaSuccess;
    cudaError_t error = check_copy(to, bytes, from, bytes, kind);
    if (error != cudaSuccess)
        return error;
    auto copy = [=]() { memcpy(to, from, bytes); };
    return enqueue_copy(nullptr, copy, to, bytes, from, bytes);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    ENTER("cudaMemsetAsync");
    if (bytes == 0)
        return cudaSuccess;
    if (!is_device(to, bytes))
        return answer(cudaErrorInvalidValue);
    auto set = [=]() { memset(to, value, bytes); };
    return enqueue(stream, {set, false, to, nullptr, nullptr, 0});
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    ENTER("cudaMemset");
    if (bytes > 0 && !is_device(to, bytes))
        return answer(cudaErrorInvalidValue);
    auto set = [=]() { memset(to, value, bytes); };
    return enqueue(nullptr, {set, false, to, nullptr, nullptr, 0});
}
