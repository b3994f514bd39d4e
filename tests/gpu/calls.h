/* What the programs that need a GPU share: a call that fails ends them. */
#ifndef TESTS_GPU_CALLS_H
#define TESTS_GPU_CALLS_H

#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void must(cudaError_t error, const char *call)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "gpu: %.*s: %s\n", (int)strcspn(call, "("), call, cudaGetErrorString(error));
    exit(1);
}

#define MUST(call) must(call, #call)

static inline cudaLaunchConfig_t shape(unsigned blocks, unsigned threads, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};

    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.stream = stream;
    return config;
}

/* With a message where there is none. */
static inline cudaDeviceProp device_first(void)
{
    cudaDeviceProp properties;
    int count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        fprintf(stderr, "gpu: no NVIDIA GPU: CUDA finds none\n");
        exit(1);
    }
    MUST(cudaGetDeviceProperties(&properties, 0));
    return properties;
}

#endif
