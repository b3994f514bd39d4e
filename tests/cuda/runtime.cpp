/*
 * The runtime API of tests/cuda/cuda_runtime.h: its state, what the environment and tests ask for.
 * Every call first asks enter() whether it is to fail.
 */
#include "tests/cuda/runtime.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>

#include "tests/cuda/fiber.h"

void emulated_die(const char *what)
{
    fprintf(stderr, "emulated CUDA: %s\n", what);
    abort();
}

namespace emulator
{

static pthread_mutex_t mutex;
static pthread_once_t mutex_once = PTHREAD_ONCE_INIT;
thread_local cudaError_t last_error;
thread_local int current_device;
runtime state;

static void mutex_make()
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
}

guard::guard()
{
    pthread_once(&mutex_once, mutex_make);
    pthread_mutex_lock(&mutex);
}

guard::~guard()
{
    pthread_mutex_unlock(&mutex);
}

cudaError_t answer(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

unsigned thread_number()
{
    static unsigned count;
    static thread_local unsigned number;

    if (number == 0)
        number = ++count;
    return number;
}

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

static void leak(unsigned *count, const char *what, const void *pointer, size_t bytes)
{
    ++*count;
    fprintf(stderr, "emulated CUDA: %s %p of %zu bytes was not freed\n", what, pointer, bytes);
}

unsigned leaks_print()
{
    unsigned count = 0;

    for (auto &[address, memory] : state.memories) {
        if (!memory.freed)
            leak(&count, "device memory", reinterpret_cast<void *>(address), memory.bytes);
    }
    for (auto &[address, bytes] : state.pinned)
        leak(&count, "pinned memory", reinterpret_cast<void *>(address), bytes);
    for (auto &[address, bytes] : state.registered)
        leak(&count, "registered memory", reinterpret_cast<void *>(address), bytes);
    for (cudaStream_t stream : state.streams) {
        if (stream->made)
            leak(&count, "stream", stream, sizeof(*stream));
    }
    for (auto &[event, kept] : state.events)
        leak(&count, "event", event, sizeof(*event));
    for (cudaMemPool_t pool : state.pools)
        leak(&count, "memory pool", pool, sizeof(*pool));
    for (cudaGraph_t graph : state.graphs)
        leak(&count, "graph", graph, sizeof(*graph));
    for (cudaGraphExec_t executable : state.executables)
        leak(&count, "executable graph", executable, sizeof(*executable));
    return count;
}

/* ---- What the environment asks for ---- */

static unsigned order_named(const std::string &name, const char *const *names, unsigned count)
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

static void word_apply(const std::string &key, const std::string &value)
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

runtime::~runtime()
{
    ending = true;
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

} // namespace emulator

using namespace emulator;

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

void emulated_memory_of(int device, size_t bytes)
{
    guard held;

    state.devices[device].memory = bytes;
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

    return state.devices[current_device].peak;
}

void emulated_reset(void)
{
    guard held;

    emulated_fail(nullptr, 0, 0);
    emulated_order(EMULATED_LAZY);
    emulated_fibers(EMULATED_FORWARD);
    state.idle.clear();
    state.loaded.clear();
    state.calls.clear();
    state.pageable_copies = 0;
    state.memory = size_t{1} << 40;
    state.count = 1;
    current_device = 0;
    for (auto &[number, device] : state.devices) {
        device.peak = device.used;
        device.memory = SIZE_MAX;
    }
}
