/*
 * For tests in C of what uses the emulated device through the CUDA module: what they ask of it, and
 * of the runtime that a program with weights on a GPU would call itself. CUDA_MODULE is its file.
 */
#ifndef TESTS_CUDA_LOADED_H
#define TESTS_CUDA_LOADED_H

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/emulated.h"

#define TO_DEVICE   1 /* cudaMemcpyHostToDevice */
#define FROM_DEVICE 2 /* cudaMemcpyDeviceToHost */

#define CUDA_ERROR_MEMORY      2   /* cudaErrorMemoryAllocation */
#define CUDA_ERROR_ADDRESS     700 /* cudaErrorIllegalAddress */
#define CUDA_ERROR_UNSUPPORTED 801 /* cudaErrorNotSupported */

/* Found in the loaded module. */
static struct {
    void (*fail_call)(const char *call, unsigned nth, int error);
    unsigned (*calls)(const char *call);
    void (*memory)(size_t bytes);
    void (*devices)(int count);
    void (*order)(unsigned order);
    unsigned (*leaks)(void);
    unsigned (*pageable_copies)(void);
    size_t (*memory_peak)(void);
    void (*reset)(void);
} emulated;

static struct {
    int (*malloc)(void **out, size_t bytes);
    int (*free)(void *memory);
    int (*malloc_host)(void **out, size_t bytes, unsigned flags);
    int (*free_host)(void *memory);
    int (*copy)(void *to, const void *from, size_t bytes, int kind);
    int (*copy_async)(void *to, const void *from, size_t bytes, int kind, void *stream);
    int (*stream_new)(void **out);
    int (*stream_free)(void *stream);
    int (*stream_wait)(void *stream);
    int (*get_device)(int *out);
    int (*set_device)(int device);
    int (*capture_begin)(void *stream, int mode);
    int (*capture_end)(void *stream, void **graph);
    int (*graph_make)(void **out, void *graph, unsigned long long flags);
    int (*graph_launch)(void *executable, void *stream);
    int (*graph_free)(void *graph);
    int (*graph_exec_free)(void *executable);
} cuda;

static inline int emulated_load(void **state)
{
    static const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"emulated_fail", &emulated.fail_call},
        {"emulated_calls", &emulated.calls},
        {"emulated_memory", &emulated.memory},
        {"emulated_devices", &emulated.devices},
        {"emulated_order", &emulated.order},
        {"emulated_leaks", &emulated.leaks},
        {"emulated_pageable_copies", &emulated.pageable_copies},
        {"emulated_memory_peak", &emulated.memory_peak},
        {"emulated_reset", &emulated.reset},
        {"cudaMalloc", &cuda.malloc},
        {"cudaHostAlloc", &cuda.malloc_host},
        {"cudaFree", &cuda.free},
        {"cudaFreeHost", &cuda.free_host},
        {"cudaMemcpy", &cuda.copy},
        {"cudaMemcpyAsync", &cuda.copy_async},
        {"cudaStreamCreate", &cuda.stream_new},
        {"cudaStreamDestroy", &cuda.stream_free},
        {"cudaStreamSynchronize", &cuda.stream_wait},
        {"cudaGetDevice", &cuda.get_device},
        {"cudaSetDevice", &cuda.set_device},
        {"cudaStreamBeginCapture", &cuda.capture_begin},
        {"cudaStreamEndCapture", &cuda.capture_end},
        {"cudaGraphInstantiate", &cuda.graph_make},
        {"cudaGraphLaunch", &cuda.graph_launch},
        {"cudaGraphDestroy", &cuda.graph_free},
        {"cudaGraphExecDestroy", &cuda.graph_exec_free},
    };
    void *module = dlopen(CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);

    (void)state;
    if (!module || setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *symbol = dlsym(module, wanted[i].name);
        if (!symbol)
            return -1;
        memcpy(wanted[i].to, &symbol, sizeof(symbol));
    }
    return 0;
}

static inline int emulated_setup(void **state)
{
    (void)state;
    emulated.reset();
    return 0;
}

/* All is freed again. */
static inline int emulated_teardown(void **state)
{
    (void)state;
    return emulated.leaks() == 0 ? 0 : -1;
}

#define CLAIM(test) cmocka_unit_test_setup_teardown(test, emulated_setup, emulated_teardown)

/* ---- Memory of the device ---- */

static inline void device_memory_release(void **memory)
{
    assert_int_equal(cuda.free(*memory), 0);
}

/* On the device, with a copy of so many bytes in it. */
#define AUTO_DEVICE_COPY(name, from, bytes)                                                        \
    __attribute__((cleanup(device_memory_release))) void *name = device_copy(from, bytes)

static inline void *device_copy(const void *from, size_t bytes)
{
    void *memory = NULL;

    assert_int_equal(cuda.malloc(&memory, bytes), 0);
    assert_int_equal(cuda.copy(memory, from, bytes, TO_DEVICE), 0);
    return memory;
}

static inline void stream_release(void **stream)
{
    assert_int_equal(cuda.stream_free(*stream), 0);
}

#define AUTO_STREAM(name) __attribute__((cleanup(stream_release))) void *name = stream_new()

static inline void *stream_new(void)
{
    void *stream = NULL;

    assert_int_equal(cuda.stream_new(&stream), 0);
    return stream;
}

#endif
