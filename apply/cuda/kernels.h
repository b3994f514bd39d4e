/*
 * What the CUDA kernels of exact and fast mode work on, and how they are launched. C++17, for the
 * .cu files of this folder and their tests only; nvcc compiles them for devices, a C++ compiler
 * with the headers of tests/cuda for the CPU.
 *
 * One launch takes any number of tensors (or of ranges of their rows): the grid is a row of tiles,
 * and a block finds its tensor by a binary search over tile_begin. So hundreds of small modules
 * cost one launch, and a large one keeps all processors busy alone.
 *
 * Exact mode gives the bits of apply/kernel.h. Fast mode multiplies on tensor cores, in any order;
 * what that costs stands in merge_fast.cu.
 */
#ifndef APPLY_CUDA_KERNELS_H
#define APPLY_CUDA_KERNELS_H

#include <cuda_runtime.h>

#include <stdint.h>

enum merge_dtype : uint32_t {
    MERGE_F32,
    MERGE_BF16,
    MERGE_F16,
};

/* One adapter's share of one tensor. All pointers are to device memory, aligned to 4 bytes. */
struct merge_term {
    const float *a;          /* A: [rank, a_stride], the first `in` of each row are used */
    const float *b_matrix;   /* B: [>= out, rank] */
    const float *d;          /* [rank] */
    const float *factor;     /* w*b, rounded once: of the range's rows (so factor[0] belongs to
                                first_row); all of them, [out], if transposed */
    uint64_t a_stride, rank; /* rank: below 2^31 */
};

/* Rows [first_row, first_row + rows) of W [out, in], or of W [in, out] if `transposed`: y from
   `from` and the terms to `to`. Without terms `to` becomes `from`, bit for bit. */
struct merge_tensor {
    const uint8_t *from;             /* device; first_row's first element, aligned to an element */
    uint8_t *to;                     /* the same as `from`, or memory that does not overlap it */
    uint64_t rows, cols;             /* of the range, as stored; 0 is fine */
    uint64_t from_stride, to_stride; /* in elements, from one row to the next, */
    uint32_t from_step, to_step;     /* and from one column to the next; 1: side by side */
    uint64_t first_row;              /* of the whole matrix */
    enum merge_dtype dtype;
    uint32_t transposed;             /* 0 or 1 */
    uint32_t term_begin, term_count; /* of the launch's terms, in the order in which they add */
    uint32_t tile_begin;             /* merge_grid_make() sets it */
};

/* How a launch cuts its tensors. */
struct merge_grid {
    uint32_t tiles; /* blocks; 0 where there is nothing to do */
    uint32_t edge;  /* rows and columns of a tile: 128, or 64 where that many would leave a large
                       device idle */
};

/* Cut `tensors`, which are in host memory and are to be copied to the device after that: sets each
   one's tile_begin, and `out`. False, with `out` untouched, where they have more tiles than one
   launch can take (2^31 - 1): launch fewer at a time. */
bool merge_grid_make(struct merge_grid *out, struct merge_tensor *tensors, uint32_t count);

/* Queue the work of a grid on `stream`, of the current device. `tensors` [count] and `terms` are in
   device memory and stay until the work is done. Returns what the launch returns; nothing is
   launched for 0 tiles. */
cudaError_t merge_exact_launch(
    const struct merge_grid *grid,
    const struct merge_tensor *tensors,
    uint32_t count,
    const struct merge_term *terms,
    cudaStream_t stream
);
cudaError_t merge_fast_launch(
    const struct merge_grid *grid,
    const struct merge_tensor *tensors,
    uint32_t count,
    const struct merge_term *terms,
    cudaStream_t stream
);

#endif
