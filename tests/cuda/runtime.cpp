/*
 * The runtime API of tests/cuda/cuda_runtime.h. Every call first asks enter() whether it is to
 * fail. Streams are queues of functions; what the order (emulated.h) lets wait is run by
 * cudaStreamSynchronize() and the like, and before memory is freed, as CUDA does.
 *
 * Device memory is mapped between guard pages and unreadable but while queued work runs. Behind an
 * allocation's last byte, up to its page's end, a pattern is checked when it is freed; with ASan,
 * touching it is an error at once.
 */
#include <cuda_runtime.h>

#include <fenv.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>

#include "tests/cuda/emulated.h"
#include "tests/cuda/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes)
#endif

struct CUevent_st {
    uint64_t recorded, completed; /* how often */
    cudaStream_t stream;          /* of the last record; null: none, or it is done */
    double time;
};

struct stream_work {
    std::function<void()> run; /* empty: wait for the `record`-th record of `awaited` */
    bool kernel;               /* may touch all device memory; else what these are in: */
    const void *to, *from;
    cudaEvent_t awaited;
    uint64_t record;
};

struct CUstream_st {
    std::deque<stream_work> queue;
};

void emulated_die(const char *what)
{
    fprintf(stderr, "emulated CUDA: %s\n", what);
    abort();
}

namespace
{

const int FILL = 0xa5, TAIL = 0x5c;

struct allocation {
    size_t bytes;
    char *map; /* with its guard pages */
    size_t map_bytes;
};

struct device {
    int count = 1;
    size_t memory = size_t{1} << 40, used = 0, peak = 0;
    std::map<uintptr_t, allocation> memories; /* by first byte */
    std::map<uintptr_t, size_t> pinned;       /* what cudaMallocHost() and the like gave */
    std::map<uintptr_t, size_t> registered;
    std::set<cudaStream_t> streams;
    std::set<cudaEvent_t> events;
    std::map<std::string, unsigned> calls;
    unsigned pageable_copies = 0;
    unsigned order = EMULATED_LAZY;
    uint64_t random = 1;
    std::string fail_call;
    unsigned fail_in = 0;
    cudaError_t fail_error = cudaSuccess;
    bool leaks_fatal = false;

    ~device();
};

/* Threads of the host may call at once. */
pthread_mutex_t mutex;
pthread_once_t mutex_once = PTHREAD_ONCE_INIT;
thread_local cudaError_t last_error;
thread_local int current_device;

void mutex_make()
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
}

struct guard {
    guard()
    {
        pthread_once(&mutex_once, mutex_make);
        pthread_mutex_lock(&mutex);
    }
    ~guard()
    {
        pthread_mutex_unlock(&mutex);
    }
};

device state;

cudaError_t answer(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

/* Count the call; what it is to fail with. */
cudaError_t enter(const char *call)
{
    state.calls[call]++;
    if (state.fail_in > 0 && state.fail_call == call && --state.fail_in == 0)
        return answer(state.fail_error);
    if (state.count < 0)
        return answer(cudaErrorInsufficientDriver);
    if (state.count == 0)
        return answer(cudaErrorNoDevice);
    return cudaSuccess;
}

#define ENTER(call)                                                                                \
    guard held;                                                                                    \
    cudaError_t entered = enter(call);                                                             \
    if (entered != cudaSuccess)                                                                    \
    return entered

/* ---- Streams ---- */

void memory_protect(const allocation &memory, int protection)
{
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

    mprotect(memory.map + page, memory.map_bytes - 2 * page, protection);
}

void memory_protect_of(const void *pointer, int protection)
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

/* The host's rounding mode, FTZ and DAZ are not the device's. */
void run_on_device(const stream_work &work)
{
    fenv_t host;

    fegetenv(&host);
    fesetenv(FE_DFL_ENV);
    work_protect(work, PROT_READ | PROT_WRITE);
    work.run();
    work_protect(work, PROT_NONE);
    fesetenv(&host);
}

void stream_step(cudaStream_t stream);

void event_reach(cudaEvent_t event, uint64_t record)
{
    while (event->completed < record)
        stream_step(event->stream);
}

void stream_step(cudaStream_t stream)
{
    if (!state.streams.count(stream) || stream->queue.empty())
        emulated_die("work waits for an event that no stream will record");
    stream_work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (work.run)
        run_on_device(work);
    else
        event_reach(work.awaited, work.record);
}

void stream_drain(cudaStream_t stream)
{
    while (!stream->queue.empty())
        stream_step(stream);
}

void drain_all()
{
    for (cudaStream_t stream : state.streams)
        stream_drain(stream);
}

unsigned random_below(size_t count)
{
    state.random = state.random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return static_cast<unsigned>((state.random >> 33) % count);
}

void progress(cudaStream_t stream)
{
    if (state.order == EMULATED_EAGER)
        stream_drain(stream);
    if (state.order <= EMULATED_OTHERS)
        return;
    for (unsigned steps = random_below(4); steps > 0; steps--) {
        auto chosen = state.streams.begin();
        std::advance(chosen, random_below(state.streams.size()));
        if (!(*chosen)->queue.empty())
            stream_step(*chosen);
    }
}

/* The default stream waits for all others, and nothing overtakes it: its work is done at once. */
cudaError_t enqueue(cudaStream_t stream, stream_work work)
{
    if (!stream) {
        drain_all();
        run_on_device(work);
        return cudaSuccess;
    }
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream->queue.push_back(std::move(work));
    progress(stream);
    return cudaSuccess;
}

/* ---- Memory ---- */

template <typename V>
bool range_in(const std::map<uintptr_t, V> &ranges, uintptr_t at, size_t bytes)
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

bool is_device(const void *pointer, size_t bytes = 1)
{
    return range_in(state.memories, reinterpret_cast<uintptr_t>(pointer), bytes);
}

bool is_pinned(const void *pointer, size_t bytes = 1)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(pointer);

    return range_in(state.pinned, at, bytes) || range_in(state.registered, at, bytes);
}

/* A side of a copy is where the kind says, as a whole. */
bool side_is_right(const void *pointer, size_t bytes, bool device)
{
    return device ? is_device(pointer, bytes) : !is_device(pointer);
}

cudaError_t check_copy(
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
bool is_pageable(const void *to, size_t to_bytes, const void *from, size_t from_bytes)
{
    bool pageable = (!is_device(to) && !is_pinned(to, to_bytes)) ||
                    (!is_device(from) && !is_pinned(from, from_bytes));

    state.pageable_copies += pageable;
    return pageable;
}

cudaError_t enqueue_copy(
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

void tail_check(uintptr_t address, const allocation &memory, size_t page)
{
    const char *end = memory.map + memory.map_bytes - page;

    for (const char *at = reinterpret_cast<char *>(address) + memory.bytes; at < end; at++) {
        if (*at != TAIL)
            emulated_die("a kernel wrote beyond the end of its memory");
    }
}

void leak(unsigned *count, const char *what, const void *pointer, size_t bytes)
{
    ++*count;
    fprintf(stderr, "emulated CUDA: %s %p of %zu bytes was not freed\n", what, pointer, bytes);
}

unsigned leaks_print()
{
    unsigned count = 0;

    for (auto &[address, memory] : state.memories)
        leak(&count, "device memory", reinterpret_cast<void *>(address), memory.bytes);
    for (auto &[address, bytes] : state.pinned)
        leak(&count, "pinned memory", reinterpret_cast<void *>(address), bytes);
    for (auto &[address, bytes] : state.registered)
        leak(&count, "registered memory", reinterpret_cast<void *>(address), bytes);
    for (cudaStream_t stream : state.streams)
        leak(&count, "stream", stream, sizeof(*stream));
    for (cudaEvent_t event : state.events)
        leak(&count, "event", event, sizeof(*event));
    return count;
}

/* ---- What the environment asks for ---- */

unsigned order_named(const std::string &name, const char *const *names, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (name == names[i])
            return i;
    }
    char *end;
    unsigned long seed = strtoul(name.c_str(), &end, 10);
    if (name.empty() || *end || seed < count)
        emulated_die("VERA_EMULATED names an unknown order");
    return static_cast<unsigned>(seed);
}

void word_apply(const std::string &key, const std::string &value)
{
    static const char *const orders[] = {"lazy", "eager", "others"};
    static const char *const fibers[] = {"forward", "reverse"};

    if (key == "fail") {
        size_t first = value.find(':'), second = value.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos)
            emulated_die("VERA_EMULATED: fail=CALL:NTH:ERROR");
        state.fail_call = value.substr(0, first);
        state.fail_in = static_cast<unsigned>(strtoul(value.c_str() + first + 1, nullptr, 10));
        state.fail_error = static_cast<cudaError_t>(strtol(value.c_str() + second + 1, nullptr, 10)
        );
    } else if (key == "memory") {
        state.memory = strtoull(value.c_str(), nullptr, 10);
    } else if (key == "devices") {
        state.count = static_cast<int>(strtol(value.c_str(), nullptr, 10));
    } else if (key == "driver" && value == "none") {
        state.count = -1;
    } else if (key == "order") {
        state.order = order_named(value, orders, 3);
        state.random = state.order;
    } else if (key == "fibers") {
        fiber_order(order_named(value, fibers, 2));
    } else if (key == "leaks" && value == "fatal") {
        state.leaks_fatal = true;
    } else {
        emulated_die("VERA_EMULATED holds an unknown word");
    }
}

} // namespace

device::~device()
{
    if (leaks_fatal && leaks_print() > 0)
        abort();
}

static bool environment_read()
{
    const char *text = getenv("VERA_EMULATED");
    std::string words = text ? text : "";

    while (!words.empty()) {
        size_t end = std::min(words.find(','), words.size());
        std::string word = words.substr(0, end);
        size_t equals = std::min(word.find('='), word.size());
        words.erase(0, end + 1);
        word_apply(word.substr(0, equals), word.substr(std::min(equals + 1, word.size())));
    }
    return true;
}

/* Made after `state`, which comes before it in this file. */
[[maybe_unused]] static const bool environment_was_read = environment_read();

/* ---- Launches ---- */

cudaError_t emulated_launch(const cudaLaunchConfig_t *config, std::function<void()> thread_main)
{
    ENTER("cudaLaunchKernel");
    dim3 grid = config->gridDim, block = config->blockDim;
    uint64_t threads = uint64_t{block.x} * block.y * block.z;

    if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return answer(cudaErrorInvalidConfiguration);
    auto run = [=]() { fiber_run_grid(grid, block, thread_main); };
    return enqueue(config->stream, {run, true, nullptr, nullptr, nullptr, 0});
}

void emulated_device_check(const void *pointer)
{
    guard held;

    if (!is_device(pointer) && !is_pinned(pointer))
        emulated_die("a kernel was given a pointer that is not the device's");
}

/* ---- The API ---- */

cudaError_t emulated_malloc(void **pointer, size_t bytes)
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

static cudaError_t stream_new(const char *call, cudaStream_t *stream)
{
    ENTER(call);
    *stream = new CUstream_st;
    state.streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return stream_new("cudaStreamCreate", stream);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    return stream_new("cudaStreamCreateWithFlags", stream);
}

/* CUDA lets the work end; so does this. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER("cudaStreamDestroy");
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream_drain(stream);
    for (cudaEvent_t event : state.events) {
        if (event->stream == stream)
            event->stream = nullptr;
    }
    state.streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER("cudaStreamSynchronize");
    if (!stream || state.order == EMULATED_OTHERS) {
        for (cudaStream_t other : state.streams) {
            if (other != stream)
                stream_drain(other);
        }
    }
    if (!stream)
        return cudaSuccess;
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream_drain(stream);
    return cudaSuccess;
}

/* One step for every question, so that asking in a loop ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER("cudaStreamQuery");
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->queue.empty())
        return cudaSuccess;
    stream_step(stream);
    return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ENTER("cudaStreamWaitEvent");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->completed == event->recorded)
        return cudaSuccess;
    if (!stream) {
        event_reach(event, event->recorded);
        return cudaSuccess;
    }
    return enqueue(stream, {nullptr, false, nullptr, nullptr, event, event->recorded});
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER("cudaDeviceSynchronize");
    drain_all();
    return cudaSuccess;
}

static cudaError_t event_new(const char *call, cudaEvent_t *event)
{
    ENTER(call);
    *event = new CUevent_st{0, 0, nullptr, 0};
    state.events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return event_new("cudaEventCreate", event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return event_new("cudaEventCreateWithFlags", event);
}

/* Those who wait for it wait no longer than CUDA would let them: its work is done first. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER("cudaEventDestroy");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    drain_all();
    state.events.erase(event);
    delete event;
    return cudaSuccess;
}

static double now()
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER("cudaEventRecord");
    if (!state.events.count(event) || (stream && !state.streams.count(stream)))
        return answer(cudaErrorInvalidResourceHandle);
    /* A record replaces the one before, which may be in another stream. */
    event_reach(event, event->recorded);
    uint64_t record = ++event->recorded;
    event->stream = stream;
    auto run = [=]() {
        event->completed = record;
        event->time = now();
    };
    return enqueue(stream, {run, false, nullptr, nullptr, nullptr, 0});
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER("cudaEventSynchronize");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (state.order == EMULATED_OTHERS) {
        for (cudaStream_t stream : state.streams) {
            if (stream != event->stream)
                stream_drain(stream);
        }
    }
    event_reach(event, event->recorded);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER("cudaEventQuery");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->completed == event->recorded)
        return cudaSuccess;
    stream_step(event->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    ENTER("cudaEventElapsedTime");
    if (!state.events.count(begin) || !state.events.count(end) || !begin->recorded ||
        !end->recorded)
        return answer(cudaErrorInvalidResourceHandle);
    if (begin->completed < begin->recorded || end->completed < end->recorded)
        return cudaErrorNotReady;
    *milliseconds = static_cast<float>((end->time - begin->time) * 1e3);
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
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    ENTER("cudaGetDeviceProperties");
    if (device < 0 || device >= state.count)
        return answer(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof(properties->name), "emulated on the CPU");
    properties->totalGlobalMem = state.memory;
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

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;

    last_error = cudaSuccess;
    return error;
}

/* ---- What tests ask for ---- */

void emulated_fail(const char *call, unsigned nth, int error)
{
    guard held;

    state.fail_call = call ? call : "";
    state.fail_in = call ? nth : 0;
    state.fail_error = static_cast<cudaError_t>(error);
}

unsigned emulated_calls(const char *call)
{
    guard held;
    auto found = state.calls.find(call);

    return found == state.calls.end() ? 0 : found->second;
}

void emulated_memory(size_t bytes)
{
    guard held;

    state.memory = bytes;
}

void emulated_devices(int count)
{
    guard held;

    state.count = count;
}

void emulated_order(unsigned order)
{
    guard held;

    state.order = order;
    state.random = order;
}

void emulated_fibers(unsigned order)
{
    guard held;

    fiber_order(order);
}

unsigned emulated_leaks(void)
{
    guard held;

    return leaks_print();
}

unsigned emulated_pageable_copies(void)
{
    guard held;

    return state.pageable_copies;
}

size_t emulated_memory_peak(void)
{
    guard held;

    return state.peak;
}

void emulated_reset(void)
{
    guard held;

    emulated_fail(nullptr, 0, 0);
    emulated_order(EMULATED_LAZY);
    emulated_fibers(EMULATED_FORWARD);
    state.calls.clear();
    state.pageable_copies = 0;
    state.peak = state.used;
    state.memory = size_t{1} << 40;
    state.count = 1;
}
