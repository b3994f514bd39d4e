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
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/cuda/emulated.h"

namespace emulator
{
struct recording;

enum work_kind {
    WORK_NOTE,   /* touches nothing of the device's memory */
    WORK_COPY,   /* what `to` and `from` are in */
    WORK_KERNEL, /* everything that its stream may touch */
    WORK_GRAPH,  /* runs work, each with its own memory */
};

struct stream_work {
    work_kind kind;
    std::function<void()> run;
    const void *to = nullptr, *from = nullptr;
    /* Set where it is queued: the stream, or the graph, whose ordered memory it may touch. */
    int device = 0;
    const void *owner = nullptr;
    std::vector<std::pair<cudaStream_t, uint64_t>> after = {}; /* so much is done of these */
};

/* What a graph runs, in the order in which it was captured. */
struct recording {
    int device;
    bool open = true; /* still captured */
    std::vector<stream_work> nodes = {};
    std::set<uintptr_t> memories = {};                     /* taken in it, and given back */
    std::pair<cudaStream_t, uint64_t> last = {nullptr, 0}; /* launch: two never run at once */

    ~recording();
};

struct capture {
    std::shared_ptr<recording> graph;
    cudaStreamCaptureMode mode;
    unsigned thread;
    bool invalid = false;
};

struct allocation {
    size_t bytes;
    char *map; /* with its guard pages */
    size_t map_bytes;
    int device;
    /* Of memory that is taken and freed in a stream's order, or in a graph's. */
    const void *owner = nullptr; /* null: of plain memory */
    bool live = true;            /* taken, and not freed, by work that has run */
    bool freed = false;          /* by work that is queued */
};

struct device {
    size_t memory = SIZE_MAX; /* its own limit; SIZE_MAX: that of all */
    size_t used = 0, peak = 0;
    std::unique_ptr<CUstream_st> legacy = nullptr; /* the default stream */
    std::unique_ptr<CUmemPoolHandle_st> pool = nullptr;
};

struct runtime {
    int count = 1;
    size_t memory = size_t{1} << 40;
    std::map<uintptr_t, allocation> memories; /* by first byte */
    std::map<uintptr_t, size_t> pinned;       /* what cudaMallocHost() and the like gave */
    std::map<uintptr_t, size_t> registered;
    std::map<int, device> devices;
    std::map<std::pair<unsigned, int>, std::unique_ptr<CUstream_st>> thread_streams;
    std::set<cudaStream_t> streams; /* all of them */
    std::map<cudaEvent_t, std::shared_ptr<CUevent_st>> events;
    std::set<cudaMemPool_t> pools;                 /* that a caller made */
    std::set<std::pair<int, const void *>> loaded; /* kernels, by device */
    std::set<cudaGraph_t> graphs;
    std::set<cudaGraphExec_t> executables;
    std::set<int> idle; /* devices on which the process has no context */
    std::map<std::string, unsigned> calls;
    unsigned pageable_copies = 0;
    unsigned order = EMULATED_LAZY;
    uint64_t random = 1;
    std::string fail_call;
    unsigned fail_in = 0;
    cudaError_t fail_error = cudaSuccess;
    bool leaks_fatal = false;
    bool ending = false; /* the process */

    ~runtime();
};

extern runtime state;
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

/* The same of calls that must not be made while somebody captures. */
#define ENTER_UNSAFE(call)                                                                         \
    ENTER(call);                                                                                   \
    entered = capture_forbids();                                                                   \
    if (entered != cudaSuccess)                                                                    \
    return entered

/* The calling thread's number. */
unsigned thread_number();

/* ---- streams.cpp ---- */

/* What a handle means to the calling thread: the default stream's, too; null: nothing. */
cudaStream_t stream_of(cudaStream_t handle);

/* Queue it, or record it where the stream captures. */
cudaError_t enqueue(cudaStream_t stream, stream_work work);
void run_on_device(const stream_work &work);
void stream_drain(cudaStream_t stream);
void drain_device(int device);
void drain_all();

/* ---- memory.cpp ---- */

/* What a pointer is in; null: no device's memory. */
allocation *memory_find(const void *pointer, size_t bytes = 1);
bool is_pinned(const void *pointer, size_t bytes = 1);

/* Memory of that device, unreadable; cudaErrorMemoryAllocation. */
cudaError_t memory_take(uintptr_t *address, int device, size_t bytes);
void memory_release(uintptr_t address);
void memory_fill(const allocation &memory);
void memory_tail_check(const allocation &memory);
size_t memory_unused(int device);

/* The work may touch its memory; or may no more. */
void work_protect(const stream_work &work, int protection);

/* Why the work may not touch what the pointer is in; null: it may. */
const char *memory_refusal(const void *pointer, const stream_work &work);

/* ---- capture.cpp ---- */

/* Whether the calling thread must not make a call of which nobody knows what it does to a capture:
   cudaErrorStreamCaptureUnsupported, and the captures are void. */
cudaError_t capture_forbids();

/* Add it to what the stream captures. */
cudaError_t capture_record(cudaStream_t stream, stream_work work);

/* What is asked of a stream that captures fails with that, and so will its capture. */
cudaError_t capture_void(cudaStream_t stream, cudaError_t error);

/* ---- runtime.cpp ---- */

/* Things that were made and not freed, each named on stderr. */
unsigned leaks_print();

} // namespace emulator

struct CUevent_st {
    int device;
    bool recorded = false;
    cudaStream_t stream = nullptr; /* of the last record, that is done when so much there is; */
    uint64_t done = 0;             /* null: it is */
    double time = 0;
    std::shared_ptr<emulator::recording> captured = nullptr; /* the last record was there */
};

struct CUstream_st {
    int device;
    bool blocking; /* it waits for the default stream, and that for it */
    bool made;     /* by a caller, who destroys it */
    std::deque<emulator::stream_work> queue = {};
    uint64_t queued = 0, done = 0; /* ever */
    std::unique_ptr<emulator::capture> capture = nullptr;
};

struct CUmemPoolHandle_st {
    int device;
};

struct CUgraph_st {
    std::shared_ptr<emulator::recording> graph;
};

struct CUgraphExec_st {
    std::shared_ptr<emulator::recording> graph;
};

#endif
