/*
 * Batches of rows that use different adapters, queued on the caller's stream: the host's side of
 * batch.cu. Nothing here waits for the device, or for another thread.
 *
 * What both products share, d o (A x), is in memory that belongs to the stream: taken and given
 * back in its order, from a pool of the session's own, which keeps what it has once been given. So
 * any number of threads and streams work at once, and a stream that is captured gets a graph that
 * takes and gives back memory of its own.
 */
#include "apply/cuda/module.h"

#include <assert.h>

#include "apply/cuda/batch.h"
#include "format/limits.h"

/* Of d o (A x): 16384 rows at rank 256, which keep every device busy. More go one part after the
   other. */
#define SCALED_BYTES (16 * MIB)

/* A device need not have pools; then batches have no place there, everything else has. */
int cuda_pool_open(struct session *session, struct backend_fault *fault)
{
    cudaMemPoolProps properties = {};
    uint64_t kept = UINT64_MAX;

    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = session->device;
    cudaError_t error = cudaMemPoolCreate(&session->pool, &properties);
    if (error == cudaErrorNotSupported) {
        (void)cudaGetLastError();
        session->pool = nullptr;
        return 0;
    }
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMemPoolCreate", error);
    error = cudaMemPoolSetAttribute(session->pool, cudaMemPoolAttrReleaseThreshold, &kept);
    if (error == cudaSuccess)
        return 0;
    cuda_pool_close(session);
    return fault_cuda(fault, "cudaMemPoolSetAttribute", error);
}

void cuda_pool_close(struct session *session)
{
    if (session->pool)
        (void)cudaMemPoolDestroy(session->pool);
    session->pool = nullptr;
}

/* How many rows are worked on at a time: as many as the memory holds, in whole tiles. */
static uint64_t scaled_rows(uint64_t rows, uint64_t rank)
{
    uint64_t most = SCALED_BYTES / (rank * sizeof(float)) / 32 * 32;

    if (most == 0)
        most = 32;
    return rows < most ? rows : most;
}

static struct batch_job
job_of(const struct backend_batch *batch, const struct resident *basis, float *scaled)
{
    struct batch_job job = {};

    job.a = basis->a;
    job.b_matrix = basis->b;
    job.vectors = batch->vectors;
    job.slots = batch->slots;
    job.x = (const uint8_t *)batch->x;
    job.y = (uint8_t *)batch->y;
    job.scaled = scaled;
    job.a_stride = basis->host.in;
    job.vector_stride = batch->vector_stride;
    job.x_stride = batch->x_stride;
    job.y_stride = batch->y_stride;
    job.rows = batch->rows;
    job.in = batch->in;
    job.out = batch->out;
    job.rank = basis->host.rank;
    job.slot_count = batch->slot_count;
    job.scaled_rows = scaled_rows(job.rows, job.rank);
    job.dtype = merge_dtype_of(batch->dtype);
    job.vectors_dtype = merge_dtype_of(batch->vector_dtype);
    return job;
}

/* `memory`: for job->scaled and, behind it, slots that the host has. */
static cudaError_t
queue(const struct backend_batch *batch, const struct resident *basis, void *memory)
{
    cudaStream_t stream = (cudaStream_t)batch->stream;
    struct batch_job job = job_of(batch, basis, (float *)memory);
    cudaError_t error = cudaSuccess;

    if (!batch->slots_on_device) {
        int32_t *slots = (int32_t *)(job.scaled + job.scaled_rows * job.rank);
        error = batch_slots_launch(slots, batch->slots, job.rows, stream);
        job.slots = slots;
    }
    return error == cudaSuccess ? batch_exact_launch(&job, stream) : error;
}

/* What is not given back in the stream's order is given back after it. */
static cudaError_t memory_give_back(void *memory, cudaStream_t stream)
{
    cudaError_t error = cudaFreeAsync(memory, stream);

    if (error != cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess)
        (void)cudaFree(memory);
    return error;
}

int cuda_batch(void *state, const struct backend_batch *batch, struct backend_fault *fault)
{
    const struct session *session = (const struct session *)state;
    const struct resident *basis = resident_find(session, batch->a);
    cudaStream_t stream = (cudaStream_t)batch->stream;
    void *memory = nullptr;

    assert(basis && batch->in <= basis->host.in && batch->out <= basis->host.out);
    if (!session->pool)
        return fault_set(
            fault, E_DEVICE, "cuda: %s has no memory pools, which batches need", session->name
        );
    ON_DEVICE(fault, session->device);
    if (batch->rows == 0 || batch->out == 0) {
        cudaError_t loaded = batch_load();
        return loaded == cudaSuccess ? 0 : fault_cuda(fault, "cudaFuncGetAttributes", loaded);
    }
    uint64_t rank = basis->host.rank;
    uint64_t bytes = scaled_rows(batch->rows, rank) * rank * sizeof(float);
    if (!batch->slots_on_device)
        bytes += batch->rows * sizeof(int32_t);
    cudaError_t error = cudaMallocFromPoolAsync(&memory, bytes, session->pool, stream);
    if (error == cudaErrorMemoryAllocation)
        return fault_memory(fault, "a batch needs", bytes);
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMallocFromPoolAsync", error);
    error = queue(batch, basis, memory);
    cudaError_t given_back = memory_give_back(memory, stream);
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaLaunchKernel", error);
    return given_back == cudaSuccess ? 0 : fault_cuda(fault, "cudaFreeAsync", given_back);
}
