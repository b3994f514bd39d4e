/*
 * y += b o (B (d o (A x))) on a device, for rows that use different adapters: two kernels, each a
 * product with the gathered vectors in its last step. The bits are those of apply/batch.h.
 */
#ifndef APPLY_CUDA_BATCH_H
#define APPLY_CUDA_BATCH_H

#include "apply/cuda/kernels.h"

/* One module, and rows of a batch. All pointers are to device memory, aligned to their elements. */
struct batch_job {
    const float *a;        /* A: [rank, a_stride], the first `in` of each row are used */
    const float *b_matrix; /* B: [>= out, rank] */
    const float *vectors;  /* of slot s from s * vector_stride on: d [rank], then b [out] */
    const int32_t *slots;  /* [rows]; -1: the row has no adapter, and its y stays as it is */
    const uint8_t *x;      /* [rows, in] */
    uint8_t *y;            /* [rows, out]; shares no memory with x */
    float *scaled;         /* [rows, rank]: memory for d o (A x) */
    uint64_t a_stride, vector_stride;
    uint64_t x_stride, y_stride; /* elements from row to row */
    uint64_t rows, in, out;      /* 0 is fine */
    uint64_t rank;               /* below 2^31, as `in` is */
    enum merge_dtype dtype;      /* of x and y */
};

/* Queue both kernels on `stream`, of the current device. What a job points to stays until the work
   is done. cudaErrorInvalidConfiguration where a product has 2^31 tiles (of 32 rows by 64) or more;
   else what the launch returns. */
cudaError_t batch_exact_launch(const struct batch_job *job, cudaStream_t stream);

#endif
