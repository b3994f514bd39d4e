/*
 * y += b o (B (d o (A x))) on a device, for rows that use different adapters: two kernels, each a
 * product with the gathered vectors in its last step. The bits are those of apply/batch.h.
 */
#ifndef APPLY_CUDA_BATCH_H
#define APPLY_CUDA_BATCH_H

#include "apply/cuda/kernels.h"

/* One module, and rows of a batch. All pointers are to device memory, aligned to their elements. */
struct batch_job {
    const float *a;         /* A: [rank, a_stride], the first `in` of each row are used */
    const float *b_matrix;  /* B: [>= out, rank] */
    const uint8_t *vectors; /* of slot s from s * vector_stride on: d [rank], then b [out] */
    const int32_t *slots;   /* [rows]; where it is none of the slot_count, the row stays as it is */
    const uint8_t *x;       /* [rows, in] */
    uint8_t *y;             /* [rows, out]; shares no memory with x */
    float *scaled;          /* [scaled_rows, rank]: memory for d o (A x) */
    uint64_t a_stride, vector_stride;
    uint64_t x_stride, y_stride;    /* elements from row to row */
    uint64_t rows, in, out;         /* 0 is fine */
    uint64_t rank;                  /* below 2^31, as `in` is */
    uint64_t slot_count;            /* at most 2^31 */
    uint64_t scaled_rows;           /* so many rows are worked on at a time: 1 or more */
    enum merge_dtype dtype;         /* of x and y */
    enum merge_dtype vectors_dtype; /* of d and b */
};

/* How many rows one launch of each product takes: below 2^31 tiles of 32 rows by 64; 0: none. */
uint64_t batch_launch_rows(const struct batch_job *job);

/* Have all kernels loaded on the current device: a launch may load one only where no stream is
   captured. */
cudaError_t batch_load(void);

/* Queue both products on `stream`, of the current device: in as many launches as it takes. What a
   job points to stays until the work is done. cudaErrorInvalidConfiguration where one launch takes
   no row; else what the launch returns. */
cudaError_t batch_exact_launch(const struct batch_job *job, cudaStream_t stream);

/* Queue that to[i], in device memory, becomes slots[i]. The host's are read before it returns: they
   travel as a kernel's arguments, since of a copy from memory that is not pinned CUDA says neither
   when it reads, nor that it does not wait for the stream. */
cudaError_t
batch_slots_launch(int32_t *to, const int32_t *slots, uint64_t count, cudaStream_t stream);

#endif
