/* What the host's side of the CUDA module shares: module.cu opens a device, lane.cu merges on it,
   forward.cu queues batches. */
#ifndef APPLY_CUDA_MODULE_H
#define APPLY_CUDA_MODULE_H

#include <cuda_runtime.h>

#include <stdint.h>

extern "C" {
#include "apply/backend.h"
}

#include "apply/cuda/kernels.h"

/* A and B of one basis, where they are. */
struct resident {
    struct backend_basis host;
    float *a, *b; /* on the device */
};

/* An open device. Lanes only read it. */
struct session {
    enum math_mode math;
    int device;
    char name[256];         /* what the device calls itself */
    struct resident *bases; /* [base_count] */
    size_t base_count;
    uint8_t **memories; /* [memory_count]: what was asked for and not freed */
    size_t memory_count;
    cudaMemPool_t pool; /* of batches' memory; NULL: the device has none */
};

/* From here to the end of the block the calling thread's device is that one. Afterwards it is its
   own again, unless this process has no context on that: to choose it would make one, which takes
   hundreds of MB of its memory. And what is called here (to take memory, say) does not spoil the
   capture of a stream that another part of the program has begun: none of ours is captured. */
struct device_scope {
    int previous;
    bool changed, relaxed;
    cudaStreamCaptureMode mode; /* of the thread before, where it is relaxed now */
    const char *call;           /* the one that failed with `error` */
    cudaError_t error;

    explicit device_scope(int device);
    ~device_scope();
    device_scope(const device_scope &) = delete;
    device_scope &operator=(const device_scope &) = delete;
};

/* Fill in `fault` and return `code`. */
int fault_set(struct backend_fault *fault, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int fault_hint(struct backend_fault *fault, const char *hint);

/* E_DEVICE: "cuda: cudaMalloc: out of memory". `call` is the source text of the call. */
int fault_cuda(struct backend_fault *fault, const char *call, cudaError_t error);

/* E_DEVICE: `what` needs `bytes` of the device's memory, and so much is free. */
int fault_memory(struct backend_fault *fault, const char *what, uint64_t bytes);

/* Return from the function where a call of CUDA's fails. */
#define TRY(fault, call)                                                                           \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess)                                                                 \
            return fault_cuda(fault, #call, error_);                                               \
    } while (0)

inline enum merge_dtype merge_dtype_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? MERGE_F32 : dtype == DTYPE_BF16 ? MERGE_BF16 : MERGE_F16;
}

/* The basis in whose A an address is, or NULL. */
const struct resident *resident_find(const struct session *session, const float *a);

/* Whether `at` is one of the `count` floats from `from` on. */
bool is_within(const float *at, const float *from, uint64_t count);

/* Until the function returns; from it, where that fails. */
#define ON_DEVICE(fault, device)                                                                   \
    struct device_scope scope_(device);                                                            \
    if (scope_.error != cudaSuccess)                                                               \
    return fault_cuda(fault, scope_.call, scope_.error)

/* Made when the device is opened, where that has pools; E_DEVICE. */
int cuda_pool_open(struct session *session, struct backend_fault *fault);
void cuda_pool_close(struct session *session);
int cuda_batch(void *session, const struct backend_batch *batch, struct backend_fault *fault);

int cuda_lane_open(void **out, void *session, unsigned threads, struct backend_fault *fault);
void cuda_lane_close(void *lane);
int cuda_lane_memory(
    uint8_t **out, void *lane, enum lane_slot slot, size_t bytes, struct backend_fault *fault
);
int cuda_lane_merge(
    void *lane, const struct backend_job *jobs, size_t count, struct backend_fault *fault
);
int cuda_lane_prepare(
    void *lane, const struct backend_job *jobs, size_t count, struct backend_fault *fault
);
int cuda_lane_follow(void *lane, void *const *streams, size_t count, struct backend_fault *fault);

#endif
