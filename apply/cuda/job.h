/* Where the rows of a job lie, and which way they go. */
#ifndef APPLY_CUDA_JOB_H
#define APPLY_CUDA_JOB_H

#include "apply/cuda/module.h"

/* How the rows of a job become what they are to be. */
enum route {
    ROUTE_NONE, /* they are it already */
    ROUTE_COPY, /* a copy from or to the processor's memory, which a copy engine can do */
    ROUTE_TILE, /* the kernel; what is in the processor's memory goes through the tile */
    ROUTE_HERE, /* the kernel, and both sides are in the device's memory */
    ROUTE_OVER, /* a copy to where the device wants them, and the kernel in place */
};

enum route route_of(const struct backend_job *job);

/* E_LIMIT, E_INVALID where a kernel cannot reach a job's elements. */
int jobs_check(const struct backend_job *jobs, size_t count, struct backend_fault *fault);

static inline uint64_t column_count(const struct backend_job *job)
{
    return job->transposed ? job->out : job->in;
}

static inline size_t element_bytes(const struct backend_job *job)
{
    return job->dtype == DTYPE_F32 ? 4 : 2;
}

static inline size_t row_bytes(const struct backend_job *job)
{
    return (size_t)column_count(job) * element_bytes(job);
}

/* Where W comes from. */
static inline const struct backend_place *place_from(const struct backend_job *job)
{
    return job->from.data ? &job->from : &job->to;
}

static inline uint64_t place_step(const struct backend_place *place)
{
    return place->column_stride ? place->column_stride : 1;
}

/* In elements. */
static inline uint64_t
place_stride(const struct backend_job *job, const struct backend_place *place)
{
    return place->row_stride ? place->row_stride : column_count(job) * place_step(place);
}

static inline size_t place_pitch(const struct backend_job *job, const struct backend_place *place)
{
    return (size_t)place_stride(job, place) * element_bytes(job);
}

static inline uint8_t *
place_row(const struct backend_job *job, const struct backend_place *place, uint64_t row)
{
    return place->data + (row - job->row_begin) * place_pitch(job, place);
}

static inline bool has_kernel(enum route route)
{
    return route != ROUTE_NONE && route != ROUTE_COPY;
}

static inline bool has_copy(enum route route)
{
    return route == ROUTE_COPY || route == ROUTE_OVER;
}

#endif
