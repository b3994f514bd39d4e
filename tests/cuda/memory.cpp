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

/* What an address is in, between its guard pages or in one of them; null: none. */
static const allocation *memory_around(uintptr_t at)
{
    for (auto &[address, memory] : state.memories) {
        uintptr_t map = reinterpret_cast<uintptr_t>(memory.map);
        if (at >= map && at - map < memory.map_bytes)
            return &memory;
    }
    return nullptr;
}

static const char *refusal(const allocation &memory, const stream_work &work)
{
    if (!memory.owner)
        return memory.device == work.device ? nullptr : "another device's memory";
    if (memory.owner != work.owner)
        return "memory that is taken and freed in another stream";
    return memory.live ? nullptr : "memory that was freed in its stream, or is not taken yet";
}

const char *memory_refusal(const void *pointer, const stream_work &work)
{
    const allocation *memory = memory_around(reinterpret_cast<uintptr_t>(pointer));

    return memory ? refusal(*memory, work) : "what is no device's memory";
}

void work_protect(const stream_work &work, int protection)
{
    if (work.kind == WORK_KERNEL) {
        for (auto &[address, memory] : state.memories) {
            if (!refusal(memory, work))
                memory_protect(memory, protection);
        }
        return;
    }
    for (const void *side : {work.to, work.from}) {
        const allocation *memory = memory_find(side);
        if (memory && memory->live)
            memory_protect(*memory, protection);
    }
}

allocation *memory_find(const void *pointer, size_t bytes)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
    auto next = state.memories.upper_bound(at);

    if (next == state.memories.begin())
        return nullptr;
    auto &[address, memory] = *std::prev(next);
    bool inside = at - address <= memory.bytes && bytes <= memory.bytes - (at - address);
    return inside ? &memory : nullptr;
}

static bool is_device(const void *pointer, size_t bytes = 1)
{
    return memory_find(pointer, bytes) != nullptr;
}

static bool range_in(const std::map<uintptr_t, size_t> &ranges, uintptr_t at, size_t bytes)
{
    auto next = ranges.upper_bound(at);

    if (next == ranges.begin())
        return false;
    auto [first, length] = *std::prev(next);
    return at - first <= length && bytes <= length - (at - first);
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

/* Ordered memory is its stream's from where that takes it to where it frees it. */
static void check_order(const void *pointer, cudaStream_t stream)
{
    const allocation *memory = memory_find(pointer);
    const void *owner = stream;

    if (!memory || !memory->owner)
        return;
    if (stream->capture)
        owner = stream->capture->graph.get();
    if (memory->freed)
        emulated_die("memory is used after it was freed in its stream");
    if (memory->owner != owner)
        emulated_die("memory is used in another stream than that which takes and frees it");
}

/* Rows of bytes to be copied. */
struct rows {
    void *to;
    size_t to_pitch;
    const void *from;
    size_t from_pitch, width, height;

    size_t to_bytes() const
    {
        return to_pitch * (height - 1) + width;
    }
    size_t from_bytes() const
    {
        return from_pitch * (height - 1) + width;
    }
    void copy() const
    {
        for (size_t i = 0; i < height; i++)
            memcpy(
                static_cast<char *>(to) + i * to_pitch,
                static_cast<const char *>(from) + i * from_pitch, width
            );
    }
};

/* Memory of the host's that is not pinned. */
static bool is_pageable(const void *pointer, size_t bytes)
{
    return !is_device(pointer) && !is_pinned(pointer, bytes);
}

/* Host memory that is not pinned has been read when the call returns, and what it held is on its
   way; or it has been written. `waits`: any of the host's. */
static cudaError_t enqueue_copy(cudaStream_t stream, const rows &rows, bool waits)
{
    bool reads = is_pageable(rows.from, rows.from_bytes());
    bool writes = is_pageable(rows.to, rows.to_bytes());
    std::function<void()> run = [rows]() { rows.copy(); };

    check_order(rows.to, stream);
    check_order(rows.from, stream);
    if (stream->capture && (reads || writes))
        emulated_die("a captured copy uses host memory that is not pinned");
    if (reads && is_device(rows.to)) {
        auto staged = std::make_shared<std::vector<char>>(rows.width * rows.height);
        struct rows in = rows, out = rows;
        in.to = staged->data();
        out.from = staged->data();
        in.to_pitch = out.from_pitch = rows.width;
        in.copy();
        run = [out, staged]() { out.copy(); };
        waits = false;
    }
    cudaError_t error = enqueue(stream, {WORK_COPY, run, rows.to, rows.from});
    if (error == cudaSuccess && (waits || writes))
        stream_drain(stream);
    return error;
}

static cudaError_t copy(cudaStream_t handle, const rows &rows, cudaMemcpyKind kind, bool waits)
{
    cudaStream_t stream = stream_of(handle);

    if (rows.width == 0 || rows.height == 0)
        return cudaSuccess;
    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    cudaError_t error = check_copy(rows.to, rows.to_bytes(), rows.from, rows.from_bytes(), kind);
    if (error != cudaSuccess)
        return error;
    state.pageable_copies += !waits && (is_pageable(rows.to, rows.to_bytes()) ||
                                        is_pageable(rows.from, rows.from_bytes()));
    if (waits)
        stream_drain(stream); /* before pageable memory is read */
    waits = waits && (!is_device(rows.to) || !is_device(rows.from));
    return enqueue_copy(stream, rows, waits);
}

static cudaError_t enqueue_set(cudaStream_t handle, void *to, int value, size_t bytes)
{
    cudaStream_t stream = stream_of(handle);

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (!is_device(to, bytes))
        return answer(cudaErrorInvalidValue);
    check_order(to, stream);
    return enqueue(stream, {WORK_COPY, [=]() { memset(to, value, bytes); }, to});
}

static size_t memory_limit(int device)
{
    return std::min(state.devices[device].memory, state.memory);
}

size_t memory_unused(int device)
{
    size_t limit = memory_limit(device);

    return limit - std::min(state.devices[device].used, limit);
}

static char *data_of(const allocation &memory)
{
    return memory.map + sysconf(_SC_PAGESIZE);
}

/* Up to the guard page. */
static size_t data_bytes(const allocation &memory)
{
    return memory.map_bytes - 2 * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void memory_fill(const allocation &memory)
{
    char *data = data_of(memory);
    size_t tail = data_bytes(memory) - memory.bytes;

    memory_protect(memory, PROT_READ | PROT_WRITE);
    ASAN_UNPOISON_MEMORY_REGION(data + memory.bytes, tail);
    memset(data, FILL, memory.bytes);
    memset(data + memory.bytes, TAIL, tail);
    ASAN_POISON_MEMORY_REGION(data + memory.bytes, tail);
    memory_protect(memory, PROT_NONE);
}

void memory_tail_check(const allocation &memory)
{
    const char *data = data_of(memory);

    ASAN_UNPOISON_MEMORY_REGION(data + memory.bytes, data_bytes(memory) - memory.bytes);
    memory_protect(memory, PROT_READ);
    for (size_t at = memory.bytes; at < data_bytes(memory); at++) {
        if (data[at] != TAIL)
            emulated_die("a kernel wrote beyond the end of its memory");
    }
    memory_protect(memory, PROT_NONE);
}

cudaError_t memory_take(uintptr_t *address, int device, size_t bytes)
{
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t inner = (bytes + page - 1) / page * page;

    if (bytes > memory_unused(device))
        return answer(cudaErrorMemoryAllocation);
    void *map = mmap(
        nullptr, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    );
    if (map == MAP_FAILED)
        return answer(cudaErrorMemoryAllocation);
    *address = reinterpret_cast<uintptr_t>(map) + page;
    state.memories[*address] = {bytes, static_cast<char *>(map), inner + 2 * page, device};
    memory_fill(state.memories[*address]);
    auto &owner = state.devices[device];
    owner.used += bytes;
    owner.peak = std::max(owner.peak, owner.used);
    return cudaSuccess;
}

void memory_release(uintptr_t address)
{
    allocation memory = state.memories[address];

    memory_tail_check(memory);
    munmap(memory.map, memory.map_bytes);
    state.memories.erase(address);
}

} // namespace emulator

using namespace emulator;

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    ENTER_UNSAFE("cudaMalloc");
    uintptr_t address = 0;

    if (!pointer)
        return answer(cudaErrorInvalidValue);
    cudaError_t error = bytes ? memory_take(&address, current_device, bytes) : cudaSuccess;
    if (error == cudaSuccess)
        *pointer = reinterpret_cast<void *>(address);
    return error;
}

cudaError_t cudaFree(void *pointer)
{
    ENTER_UNSAFE("cudaFree");
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);

    if (!pointer)
        return cudaSuccess;
    auto found = state.memories.find(address);
    if (found == state.memories.end() || found->second.freed)
        return answer(cudaErrorInvalidValue);
    int device = found->second.device;
    drain_device(device);
    state.devices[device].used -= found->second.bytes;
    memory_release(address);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned)
{
    ENTER_UNSAFE("cudaHostAlloc");
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
    ENTER_UNSAFE("cudaFreeHost");
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
    ENTER_UNSAFE("cudaHostRegister");
    if (!pointer || bytes == 0 || is_pinned(pointer))
        return answer(cudaErrorInvalidValue);
    state.registered[reinterpret_cast<uintptr_t>(pointer)] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    ENTER_UNSAFE("cudaHostUnregister");
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
    const allocation *memory = memory_find(pointer);
    if (memory && !memory->freed)
        *attributes = {cudaMemoryTypeDevice, memory->device, plain, nullptr};
    else if (is_pinned(pointer))
        *attributes = {cudaMemoryTypeHost, current_device, plain, plain};
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    ENTER("cudaMemGetInfo");
    *unused = memory_unused(current_device);
    *total = memory_limit(current_device);
    return cudaSuccess;
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER("cudaMemcpyAsync");
    return copy(stream, {to, bytes, from, bytes, bytes, 1}, kind, false);
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
    return copy(stream, {to, to_pitch, from, from_pitch, width, height}, kind, false);
}

/* As in CUDA, the host does not wait for what comes from memory that is not pinned, once that has
   been read, nor for what stays on the devices. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    ENTER_UNSAFE("cudaMemcpy");
    return copy(nullptr, {to, bytes, from, bytes, bytes, 1}, kind, true);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    ENTER("cudaMemsetAsync");
    return bytes ? enqueue_set(stream, to, value, bytes) : cudaSuccess;
}

/* As in CUDA, the host does not wait for it. */
cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    ENTER("cudaMemset");
    return bytes ? enqueue_set(nullptr, to, value, bytes) : cudaSuccess;
}
