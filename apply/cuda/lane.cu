/*
 * One thread's share of the device: a stream, pinned memory for its blocks, and a tile on the
 * device. What lies in the device's memory is read and written there; what lies in the processor's
 * is copied into the tile, or out of it. One grid goes over all of them, and a merge waits for it.
 *
 * It waits because its thread has nothing else to do with the block, and reading, hashing and
 * writing take many times as long as both copies and the kernel: those of one lane overlap with
 * everything of the others.
 *
 * Where the device's memory cannot hold a whole merge its rows go through a smaller tile, wave by
 * wave; the bits are the same. All memory is taken before the first wave, so that one that begins
 * does not end for lack of it.
 */
#include "apply/cuda/lane.h"

#include <stdlib.h>

#include "apply/cuda/parameters.h"
#include "apply/cuda/wave.h"
#include "format/limits.h"

/* Of blocks on the device at a time, and the least that is tried: it holds a row at any rate. */
#define TILE_BYTES     (32 * MIB)
#define TILE_BYTES_MIN (16 * KIB)

/* Pinning memory is slow: all blocks but those of very wide rows fit the first piece. */
#define SLOT_STEP (4 * MIB)

static int lane_begin(struct lane_state *lane, struct backend_fault *fault)
{
    ON_DEVICE(fault, lane->session->device);
    TRY(fault, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking));
    cudaError_t error = cudaEventCreateWithFlags(&lane->followed, cudaEventDisableTiming);
    if (error == cudaSuccess)
        return 0;
    (void)cudaStreamDestroy(lane->stream);
    return fault_cuda(fault, "cudaEventCreateWithFlags", error);
}

int cuda_lane_open(void **out, void *session, unsigned threads, struct backend_fault *fault)
{
    struct lane_state *lane = (struct lane_state *)calloc(1, sizeof(*lane));

    (void)threads;
    if (!lane)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->session = (const struct session *)session;
    lane->tile_most = TILE_BYTES;
    int err = lane_begin(lane, fault);
    if (err < 0)
        free(lane);
    else
        *out = lane;
    return err;
}

/* Nothing is on its way: every merge waits for its end, however it ends. What is freed is no longer
   needed, so that an error there is nobody's. */
void cuda_lane_close(void *state)
{
    struct lane_state *lane = (struct lane_state *)state;

    {
        struct device_scope scope(lane->session->device);
        for (size_t i = 0; i < LANE_SLOTS; i++)
            (void)cudaFreeHost(lane->slots[i]);
        (void)cudaFree(lane->tile);
        (void)cudaFree(lane->parameters.device);
        (void)cudaFreeHost(lane->parameters.host);
        (void)cudaEventDestroy(lane->followed);
        (void)cudaStreamDestroy(lane->stream);
    }
    free(lane->slices);
    free(lane->spans);
    free(lane);
}

int cuda_lane_memory(
    uint8_t **out, void *state, enum lane_slot slot, size_t bytes, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;

    ON_DEVICE(fault, lane->session->device);
    if (bytes > lane->slot_bytes[slot] || !lane->slots[slot]) {
        uint8_t *old = lane->slots[slot];
        lane->slots[slot] = nullptr;
        lane->slot_bytes[slot] = 0;
        TRY(fault, cudaFreeHost(old));
        size_t wanted = round_up(bytes ? bytes : 1, SLOT_STEP);
        TRY(fault, cudaHostAlloc(&lane->slots[slot], wanted, cudaHostAllocDefault));
        lane->slot_bytes[slot] = wanted;
    }
    *out = lane->slots[slot];
    return 0;
}

/* To wait for a stream that is captured would make the lane's work part of the graph. */
static int captures_check(void *const *streams, size_t count, struct backend_fault *fault)
{
    for (size_t i = 0; i < count; i++) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        TRY(fault, cudaStreamIsCapturing((cudaStream_t)streams[i], &status));
        if (status == cudaStreamCaptureStatusNone)
            continue;
        fault_set(fault, E_DEVICE, "cuda: a stream in which weights are used is being captured");
        return fault_hint(fault, "end the capture first, then swap");
    }
    return 0;
}

/* One event does for all: a stream that waits for it waits for what it recorded by then. */
int cuda_lane_follow(void *state, void *const *streams, size_t count, struct backend_fault *fault)
{
    struct lane_state *lane = (struct lane_state *)state;
    int err;

    ON_DEVICE(fault, lane->session->device);
    if ((err = captures_check(streams, count, fault)) < 0)
        return err;
    for (size_t i = 0; i < count; i++) {
        TRY(fault, cudaEventRecord(lane->followed, (cudaStream_t)streams[i]));
        TRY(fault, cudaStreamWaitEvent(lane->stream, lane->followed, 0));
    }
    return 0;
}

/* ---- Memory of a merge ---- */

/* Half of it, and half of that, until it can be had or holds no row. */
static int
tile_take(struct lane_state *lane, size_t wanted, size_t least, struct backend_fault *fault)
{
    uint8_t *old = lane->tile;

    lane->tile = nullptr;
    lane->tile_bytes = 0;
    TRY(fault, cudaFree(old));
    for (size_t bytes = wanted;; bytes = bytes / 2 > least ? bytes / 2 : least) {
        cudaError_t error = cudaMalloc(&lane->tile, bytes);
        if (error == cudaSuccess) {
            lane->tile_bytes = bytes;
            return 0;
        }
        lane->tile = nullptr;
        if (error != cudaErrorMemoryAllocation)
            return fault_cuda(fault, "cudaMalloc", error);
        if (bytes == least)
            return fault_memory(fault, "rows need at least", bytes);
        (void)cudaGetLastError();
        lane->tile_most = bytes / 2 > least ? bytes / 2 : least;
    }
}

/* Room for all jobs that need it, or for as much of them as can be had. */
static int tile_reserve(
    struct lane_state *lane,
    const struct backend_job *jobs,
    size_t count,
    struct backend_fault *fault
)
{
    size_t least = 0, all = 0;

    for (size_t i = 0; i < count; i++) {
        if (route_of(&jobs[i]) != ROUTE_TILE)
            continue;
        size_t row = row_bytes(&jobs[i]);
        uint64_t bytes = (jobs[i].row_end - jobs[i].row_begin) * row;
        all += round_up(min_size(bytes, TILE_BYTES), BACKEND_ALIGN);
        all = min_size(all, TILE_BYTES);
        least = row > least ? row : least;
    }
    size_t wanted = min_size(all, lane->tile_most);
    if (wanted < least)
        wanted = least;
    if (wanted <= lane->tile_bytes)
        return 0;
    if (least < min_size(wanted, TILE_BYTES_MIN))
        least = min_size(wanted, TILE_BYTES_MIN);
    return tile_take(lane, wanted, least, fault);
}

static int parameters_reserve(struct lane_state *lane, size_t bytes, struct backend_fault *fault)
{
    struct mirror *parameters = &lane->parameters;
    struct mirror old = *parameters;

    if (bytes <= old.bytes)
        return 0;
    *parameters = mirror{};
    cudaError_t error = cudaFree(old.device);
    TRY(fault, cudaFreeHost(old.host));
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaFree", error);
    size_t wanted = round_up(bytes, 4 * KIB);
    error = cudaMalloc(&parameters->device, wanted);
    if (error == cudaErrorMemoryAllocation)
        return fault_memory(fault, "vectors need", wanted);
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMalloc", error);
    TRY(fault, cudaHostAlloc(&parameters->host, wanted, cudaHostAllocDefault));
    parameters->bytes = wanted;
    return 0;
}

static int slices_reserve(struct lane_state *lane, size_t count, struct backend_fault *fault)
{
    if (count <= lane->room)
        return 0;
    free(lane->slices);
    free(lane->spans);
    lane->room = 0;
    lane->slices = (struct slice *)calloc(count, sizeof(*lane->slices));
    lane->spans = (struct span *)calloc(count, 2 * sizeof(*lane->spans));
    if (!lane->slices || !lane->spans)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->room = count;
    return 0;
}

/* Everything that merging these jobs, all or some of them, takes. The tile comes last: it can be
   smaller. */
static int memory_reserve(
    struct lane_state *lane,
    const struct backend_job *jobs,
    size_t count,
    struct backend_fault *fault
)
{
    int err;

    if ((err = slices_reserve(lane, count, fault)) < 0 ||
        (err = parameters_reserve(lane, parameters_most(jobs, count), fault)) < 0)
        return err;
    return tile_reserve(lane, jobs, count, fault);
}

int cuda_lane_prepare(
    void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;
    int err = jobs_check(jobs, count, fault);

    if (err < 0)
        return err;
    ON_DEVICE(fault, lane->session->device);
    if ((err = memory_reserve(lane, jobs, count, fault)) < 0)
        return err;
    return kernels_load(lane, fault);
}

int cuda_lane_merge(
    void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;
    struct wave wave = {};
    int err = jobs_check(jobs, count, fault);

    if (err < 0 || count == 0)
        return err;
    ON_DEVICE(fault, lane->session->device);
    if ((err = memory_reserve(lane, jobs, count, fault)) < 0)
        return err;
    wave.jobs = jobs;
    wave.job_count = count;
    wave.row = jobs[0].row_begin;
    while (wave.job < count) {
        wave_fill(lane, &wave);
        if (wave.slice_count && (err = wave_run(lane, &wave, fault)) < 0)
            return err;
    }
    return 0;
}
