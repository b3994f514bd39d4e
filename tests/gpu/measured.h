/*
 * What a device can do, measured in the same run as what it does: by a copy, by multiply-adds that
 * need no memory, and by copies from and to pinned memory.
 */
#ifndef TESTS_GPU_MEASURED_H
#define TESTS_GPU_MEASURED_H

#include <stdint.h>

#include <algorithm>
#include <vector>

#include "tests/gpu/calls.h"

#define RUNS   11
#define CHAINS 8u

/* Read and write 16 bytes at a time, all threads side by side. */
static __global__ void copy(uint4 *to, const uint4 *from, uint64_t count)
{
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        to[i] = from[i];
}

/* Chains that do not depend on each other, in registers. */
static __global__ void multiply(float *to, uint32_t count, float factor)
{
    float chain[CHAINS], sum = 0;

    for (unsigned i = 0; i < CHAINS; i++)
        chain[i] = (float)(threadIdx.x + i);
    for (uint32_t k = 0; k < count; k++) {
#pragma unroll
        for (unsigned i = 0; i < CHAINS; i++)
            chain[i] = __fmaf_rn(chain[i], factor, factor);
    }
    for (unsigned i = 0; i < CHAINS; i++)
        sum = __fadd_rn(sum, chain[i]);
    to[(uint64_t)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

/* The median of RUNS times, in seconds, of work that is queued on `stream`; one more warms up. */
template <typename Work> double timed(cudaStream_t stream, Work work)
{
    std::vector<double> times;
    cudaEvent_t begin, end;

    MUST(cudaEventCreate(&begin));
    MUST(cudaEventCreate(&end));
    for (int run = 0; run <= RUNS; run++) {
        float milliseconds = 0;
        MUST(cudaEventRecord(begin, stream));
        work();
        MUST(cudaEventRecord(end, stream));
        MUST(cudaEventSynchronize(end));
        MUST(cudaEventElapsedTime(&milliseconds, begin, end));
        if (run > 0)
            times.push_back((double)milliseconds);
    }
    MUST(cudaEventDestroy(begin));
    MUST(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return 1e-3 * times[times.size() / 2];
}

struct limits {
    double memory; /* bytes a second, read and written together */
    double fma;    /* float32 multiply-adds a second */
    double to_device, from_device, both;
};

static inline double limit_memory(cudaStream_t stream, size_t bytes, unsigned blocks)
{
    uint8_t *from, *to;

    MUST(cudaMalloc(&from, bytes));
    MUST(cudaMalloc(&to, bytes));
    MUST(cudaMemset(from, 1, bytes));
    double seconds = timed(stream, [&]() {
        cudaLaunchConfig_t config = shape(blocks * 16, 256, stream);
        MUST(cudaLaunchKernelEx(
            &config, copy, (uint4 *)(void *)to, (const uint4 *)(const void *)from,
            (uint64_t)bytes / 16
        ));
    });
    MUST(cudaFree(from));
    MUST(cudaFree(to));
    return 2 * (double)bytes / seconds;
}

static inline double limit_fma(cudaStream_t stream, uint32_t count, unsigned blocks)
{
    const unsigned grid = blocks * 8, threads = 256;
    float *to;

    MUST(cudaMalloc(&to, sizeof(*to) * grid * threads));
    double seconds = timed(stream, [&]() {
        cudaLaunchConfig_t config = shape(grid, threads, stream);
        MUST(cudaLaunchKernelEx(&config, multiply, to, count, 0.5f));
    });
    MUST(cudaFree(to));
    return (double)grid * threads * CHAINS * count / seconds;
}

/* Blocks of 4 MiB, as vera copies them. */
static inline void limits_bus(struct limits *out, cudaStream_t stream, size_t bytes)
{
    const size_t block = std::min(bytes, (size_t)4 << 20);
    uint8_t *host_in, *host_out, *device_in, *device_out;
    cudaStream_t other;
    cudaEvent_t fork, join;

    MUST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    MUST(cudaEventCreate(&fork));
    MUST(cudaEventCreate(&join));
    MUST(cudaHostAlloc(&host_in, bytes, cudaHostAllocDefault));
    MUST(cudaHostAlloc(&host_out, bytes, cudaHostAllocDefault));
    MUST(cudaMalloc(&device_in, bytes));
    MUST(cudaMalloc(&device_out, bytes));
    memset(host_in, 1, bytes);
    auto in = [&](cudaStream_t on) {
        for (size_t at = 0; at + block <= bytes; at += block)
            MUST(cudaMemcpyAsync(device_in + at, host_in + at, block, cudaMemcpyHostToDevice, on));
    };
    auto back = [&](cudaStream_t on) {
        for (size_t at = 0; at + block <= bytes; at += block)
            MUST(cudaMemcpyAsync(host_out + at, device_out + at, block, cudaMemcpyDeviceToHost, on)
            );
    };
    out->to_device = (double)bytes / timed(stream, [&]() { in(stream); });
    out->from_device = (double)bytes / timed(stream, [&]() { back(stream); });
    out->both = 2 * (double)bytes / timed(stream, [&]() {
                    MUST(cudaEventRecord(fork, stream));
                    MUST(cudaStreamWaitEvent(other, fork));
                    in(stream);
                    back(other);
                    MUST(cudaEventRecord(join, other));
                    MUST(cudaStreamWaitEvent(stream, join));
                });
    MUST(cudaFree(device_in));
    MUST(cudaFree(device_out));
    MUST(cudaFreeHost(host_in));
    MUST(cudaFreeHost(host_out));
    MUST(cudaEventDestroy(fork));
    MUST(cudaEventDestroy(join));
    MUST(cudaStreamDestroy(other));
}

/* Measured with sizes divided by `scale`. */
static inline struct limits
limits_measure(const cudaDeviceProp *properties, cudaStream_t stream, uint64_t scale)
{
    unsigned blocks = (unsigned)properties->multiProcessorCount;
    struct limits limits = {};

    limits.memory = limit_memory(stream, ((size_t)1 << 30) / (scale * scale * scale), blocks);
    limits.fma = limit_fma(stream, (uint32_t)(65536 / (scale * scale)), blocks);
    limits_bus(&limits, stream, ((size_t)256 << 20) / (scale * scale * scale));
    return limits;
}

static inline void limits_print(const cudaDeviceProp *properties, const struct limits *limits)
{
    printf(
        "%s: compute capability %d.%d, %d multiprocessors, %.1f GB\n\nlimits, measured\n"
        "  memory, copied by a kernel         %9.1f GB/s read and written\n"
        "  float32 multiply-adds              %9.2f TFMA/s\n"
        "  pinned memory to the device        %9.1f GB/s\n"
        "  the device to pinned memory        %9.1f GB/s\n"
        "  both at once                       %9.1f GB/s together\n",
        properties->name, properties->major, properties->minor, properties->multiProcessorCount,
        (double)properties->totalGlobalMem * 1e-9, limits->memory * 1e-9, limits->fma * 1e-12,
        limits->to_device * 1e-9, limits->from_device * 1e-9, limits->both * 1e-9
    );
}

#endif
