/*
 * The emulated device (tests/cuda/emulated.h) in a test that has loaded its module: what can be
 * asked of it, and the runtime's functions with which a program has memory and streams there.
 */
#ifndef TESTS_EMULATED_DEVICE_H
#define TESTS_EMULATED_DEVICE_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/emulated.h"

#define CUDA_ERROR_MEMORY      2   /* cudaErrorMemoryAllocation */
#define CUDA_ERROR_ADDRESS     700 /* cudaErrorIllegalAddress */
#define CUDA_ERROR_UNSUPPORTED 801 /* cudaErrorNotSupported */
#define CUDA_HOST_TO_DEVICE    1
#define CUDA_DEVICE_TO_HOST    2
#define CUDA_DEVICE_TO_DEVICE  3
#define CUDA_NON_BLOCKING      1u /* cudaStreamNonBlocking */
#define CUDA_CAPTURE_GLOBAL    0  /* cudaStreamCaptureModeGlobal */

static struct {
    void (*fail_call)(const char *call, unsigned nth, int error);
    unsigned (*calls)(const char *call);
    void (*memory)(size_t bytes);
    void (*devices)(int count);
    void (*idle)(int device);
    int (*is_idle)(int device);
    void (*order)(unsigned order);
    unsigned (*leaks)(void);
    unsigned (*pageable_copies)(void);
    size_t (*memory_peak)(void);
    void (*reset)(void);
} emulated;

static struct {
    int (*set_device)(int device);
    int (*get_device)(int *device);
    int (*wait)(void);
    int (*new)(void **out, size_t bytes);
    int (*free)(void *pointer);
    int (*memory)(size_t *unused, size_t *total);
    int (*copy)(void *to, const void *from, size_t bytes, int kind);
    int (*copy_on)(void *to, const void *from, size_t bytes, int kind, void *stream);
    int (*pin)(void *pointer, size_t bytes, unsigned flags);
    int (*unpin)(void *pointer);
    int (*stream_new)(void **out, unsigned flags);
    int (*stream_free)(void *stream);
    int (*stream_wait)(void *stream);
    int (*capture_begin)(void *stream, int mode);
    int (*capture_end)(void *stream, void **graph);
    int (*graph_make)(void **out, void *graph, unsigned long long flags);
    int (*graph_launch)(void *executable, void *stream);
    int (*graph_free)(void *graph);
    int (*executable_free)(void *executable);
} cuda;

static bool emulated_find(void *out, void *module, const char *name)
{
    void *symbol = dlsym(module, name);

    memcpy(out, &symbol, sizeof(symbol));
    return symbol != NULL;
}

/* For a group's setup: 0 where all is there. */
static int emulated_load(const char *path)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    bool found = module && emulated_find(&emulated.fail_call, module, "emulated_fail") &&
                 emulated_find(&emulated.calls, module, "emulated_calls") &&
                 emulated_find(&emulated.memory, module, "emulated_memory") &&
                 emulated_find(&emulated.devices, module, "emulated_devices") &&
                 emulated_find(&emulated.idle, module, "emulated_idle") &&
                 emulated_find(&emulated.is_idle, module, "emulated_is_idle") &&
                 emulated_find(&emulated.order, module, "emulated_order") &&
                 emulated_find(&emulated.leaks, module, "emulated_leaks") &&
                 emulated_find(&emulated.pageable_copies, module, "emulated_pageable_copies") &&
                 emulated_find(&emulated.memory_peak, module, "emulated_memory_peak") &&
                 emulated_find(&emulated.reset, module, "emulated_reset") &&
                 emulated_find(&cuda.set_device, module, "cudaSetDevice") &&
                 emulated_find(&cuda.get_device, module, "cudaGetDevice") &&
                 emulated_find(&cuda.wait, module, "cudaDeviceSynchronize") &&
                 emulated_find(&cuda.new, module, "cudaMalloc") &&
                 emulated_find(&cuda.free, module, "cudaFree") &&
                 emulated_find(&cuda.memory, module, "cudaMemGetInfo") &&
                 emulated_find(&cuda.copy, module, "cudaMemcpy") &&
                 emulated_find(&cuda.copy_on, module, "cudaMemcpyAsync") &&
                 emulated_find(&cuda.pin, module, "cudaHostRegister") &&
                 emulated_find(&cuda.unpin, module, "cudaHostUnregister") &&
                 emulated_find(&cuda.stream_new, module, "cudaStreamCreateWithFlags") &&
                 emulated_find(&cuda.stream_free, module, "cudaStreamDestroy") &&
                 emulated_find(&cuda.stream_wait, module, "cudaStreamSynchronize") &&
                 emulated_find(&cuda.capture_begin, module, "cudaStreamBeginCapture") &&
                 emulated_find(&cuda.capture_end, module, "cudaStreamEndCapture") &&
                 emulated_find(&cuda.graph_make, module, "cudaGraphInstantiate") &&
                 emulated_find(&cuda.graph_launch, module, "cudaGraphLaunch") &&
                 emulated_find(&cuda.graph_free, module, "cudaGraphDestroy") &&
                 emulated_find(&cuda.executable_free, module, "cudaGraphExecDestroy");
    return found ? 0 : -1;
}

#endif
