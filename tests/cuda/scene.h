/* What the tests of the emulated device share. */
#ifndef TESTS_CUDA_SCENE_H
#define TESTS_CUDA_SCENE_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include <cuda_runtime.h>

#include <string>

#include "tests/cuda/emulated.h"

/* What a child that runs `function` says on stderr before it dies; it must die. */
inline std::string last_words(void (*function)())
{
    int ends[2], status;
    std::string said;
    char part[512];

    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        function();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; (n = read(ends[0], part, sizeof(part))) > 0;)
        said.append(part, static_cast<size_t>(n));
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return said;
}

inline void assert_says(const std::string &said, const char *text)
{
    if (said.find(text) == std::string::npos)
        fail_msg("\"%s\" lacks \"%s\"", said.c_str(), text);
}

inline cudaLaunchConfig_t
config_of(unsigned blocks, unsigned threads, cudaStream_t stream = nullptr)
{
    cudaLaunchConfig_t config = {};

    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.stream = stream;
    return config;
}

/* Two streams, an event, four numbers on the device and four in pinned memory. */
struct scene {
    cudaStream_t first, second;
    cudaEvent_t event;
    int *device, *host;

    scene()
    {
        assert_int_equal(cudaStreamCreate(&first), cudaSuccess);
        assert_int_equal(cudaStreamCreate(&second), cudaSuccess);
        assert_int_equal(cudaEventCreate(&event), cudaSuccess);
        assert_int_equal(cudaMalloc(&device, 16), cudaSuccess);
        assert_int_equal(cudaMallocHost(&host, 16), cudaSuccess);
    }
    scene(const scene &) = delete;
    ~scene()
    {
        cudaStreamDestroy(first);
        cudaStreamDestroy(second);
        cudaEventDestroy(event);
        cudaFree(device);
        cudaFreeHost(host);
    }
    void up(cudaStream_t stream)
    {
        assert_int_equal(
            cudaMemcpyAsync(device, host, 16, cudaMemcpyHostToDevice, stream), cudaSuccess
        );
    }
    void down(cudaStream_t stream)
    {
        assert_int_equal(
            cudaMemcpyAsync(host, device, 16, cudaMemcpyDeviceToHost, stream), cudaSuccess
        );
    }
    void set(int value)
    {
        for (int i = 0; i < 4; i++)
            host[i] = value;
    }
};

inline void add_one(int *numbers)
{
    numbers[threadIdx.x]++;
}

#endif
