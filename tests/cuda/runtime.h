/*
 * What the files of the emulated runtime share: its state, and what one asks of the other. See
 * emulated.h for what it is.
 */
#ifndef TESTS_CUDA_RUNTIME_PARTS_H
#define TESTS_CUDA_RUNTIME_PARTS_H

#include <cuda_runtime.h>

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "tests/cuda/emulated.h"

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

namespace emulator
{

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

extern device state;
extern thread_local cudaError_t last_error;
extern thread_local int current_device;

/* Threads of the host may call at once. */
struct guard {
    guard();
    ~guard();
};

/* Remember it for cudaGetLastError(). */
cudaError_t answer(cudaError_t error);

/* Count the call; what it is to fail with. */
cudaError_t enter(const char *call);

#define ENTER(call)                                                                                \
    guard held;                                                                                    \
    cudaError_t entered = enter(call);                                                             \
    if (entered != cudaSuccess)                                                                    \
    return entered

/* ---- streams.cpp ---- */

/* The default stream waits for all others, and nothing overtakes it: its work is done at once. */
cudaError_t enqueue(cudaStream_t stream, stream_work work);
void stream_drain(cudaStream_t stream);
void drain_all();

/* ---- memory.cpp ---- */

bool is_device(const void *pointer, size_t bytes = 1);
bool is_pinned(const void *pointer, size_t bytes = 1);

/* The work may touch its memory; or may no more. */
void work_protect(const stream_work &work, int protection);

/* ---- runtime.cpp ---- */

/* Things that were made and not freed, each named on stderr. */
unsigned leaks_print();

} // namespace emulator

#endif
