/*
 * Exact mode (P6): the same bits on every machine. For one adapter s and one element of W:
 *
 *   t_k = d[k] * A[k][j]                        rounded once
 *   acc = fma(B[i][k], t_k, acc), k = 0..rank-1, from +0, float32
 *   y   = fma(w_s * b[i], acc, y)                w_s * b[i] rounded once; y starts as W widened
 *                                               exactly
 *
 * then y is rounded to nearest even to W's dtype. An adapter whose w_s*b[i] is +-0 is left out: y
 * keeps its bits (its sign where it is 0), whatever acc is. Where that holds for all, the row is
 * copied; a NaN result is written as 0x7fc00000 / 0x7fc0 / 0x7e00. Chains of different elements are
 * independent: blocking, vectors and threads do not change a bit. Runs with round-to-nearest, FTZ
 * and DAZ off, whatever the caller has set. VERA_CPU (see format/basis.h) chooses among scalar,
 * AVX2 and AVX-512 code.
 */
#ifndef APPLY_KERNEL_H
#define APPLY_KERNEL_H

#include "format/dtype.h"

/* One adapter's share of one module. All float32. */
struct kernel_term {
    const float *a;        /* A: [rank, a_stride], the first `in` of each row are used */
    const float *b_matrix; /* B: [>= out, rank] */
    const float *d;        /* [rank] */
    const float *b;        /* [out] */
    uint64_t a_stride, rank;
    float weight; /* w_s */
};

/* Rows [row_begin, row_end) of W [out, in], `weights`: their bytes in `dtype` (F32, BF16, F16),
   row_begin first, rewritten in place. `transposed`: W is stored [in, out], and rows are rows as
   stored, so row index is the input's. Threads: 1 or more; the calling thread works too. E_NOMEM;
   E_INTERRUPTED. */
MUST_CHECK int kernel_merge(
    uint8_t *weights,
    enum dtype dtype,
    uint64_t out,
    uint64_t in,
    bool transposed,
    uint64_t row_begin,
    uint64_t row_end,
    const struct kernel_term *terms,
    size_t term_count,
    unsigned threads
);

/* Where rows of W lie: row_begin's first, in bytes from row to row. */
struct kernel_place {
    uint8_t *weights; /* where W' goes */
    size_t stride;
    const uint8_t *source; /* W, which stays as it is */
    size_t source_stride;
};

/* kernel_merge() of one term from one place to another, in this thread, with memory that the caller
   has: it cannot fail, and is not interrupted. At least one row, one input and one output.
   `memory`: kernel_memory() bytes for so many rows and columns as stored, at least. */
void kernel_merge_from(
    const struct kernel_place *place,
    enum dtype dtype,
    uint64_t out,
    uint64_t in,
    bool transposed,
    uint64_t row_begin,
    uint64_t row_end,
    const struct kernel_term *term,
    void *memory
);
size_t kernel_memory(uint64_t rows, uint64_t columns, uint64_t rank);

const char *kernel_name(void);

#endif
