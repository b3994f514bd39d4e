/*
 * y += b o (B (d o (A x))) for rows that use different adapters of one basis (Kopiczko et al., ICLR
 * 2024, arXiv 2310.11454, before anything is merged): two products with A and B, which all rows
 * share, and vectors gathered by row.
 *
 * For each row, in float32:
 *
 *   h_k = fma(A[k][j], x_j, h_k)    j = 0..in-1, from +0
 *   t_k = d_k * h_k                 rounded once
 *   z_i = fma(B[i][k], t_k, z_i)    k = 0..rank-1, from +0
 *   y_i = fma(b_i, z_i, y_i)        rounded to nearest even to y's type
 *
 * 16-bit x and y are widened exactly; where b_i is +-0, y_i keeps its bits; a NaN is written as
 * apply/kernel.h does. So a row's bits follow from its own x, y and adapter: the rows beside it,
 * their number, the threads and the machine do not change them. Runs with round-to-nearest, FTZ and
 * DAZ off, whatever the caller has set. How far off it is: docs/math.md, chapter 6.
 */
#ifndef APPLY_BATCH_H
#define APPLY_BATCH_H

#include "format/snapshot.h"

/* A and B, laid out as the products read them: once, for all modules, since a module's share is the
   first `in` columns and the first `out` rows. Read by any number of threads. */
struct batch_basis {
    const struct kernel_level *level;
    const float *a; /* panels of cols rows of A: [rank / cols, in, cols] */
    const float *b; /* panels of cols rows of B: [out / cols, rank, cols] */
    size_t rank, in, out;
    struct buf memory; /* theirs */
};

/* Bytes that batch_basis_pack() takes; E_LIMIT where A or B is too large. */
MUST_CHECK int batch_basis_bytes(uint64_t *out, uint64_t rank, uint64_t in, uint64_t out_features);

/* `basis` is copied. E_LIMIT, E_NOMEM. */
MUST_CHECK int batch_basis_pack(struct batch_basis *out, const struct basis *basis);
void batch_basis_release(struct batch_basis *basis);

/* One row that has an adapter. */
struct batch_row {
    size_t row;             /* of x and y */
    const uint8_t *vectors; /* d [rank], then b [out] */
};

struct batch {
    const struct batch_basis *basis;
    size_t in, out;     /* of the module: at most the basis' */
    enum dtype vectors; /* F32, BF16 or F16 */
    const struct batch_row *rows;
    size_t row_count;
    enum dtype dtype; /* of x and y, likewise */
    const uint8_t *x; /* [., in] */
    size_t x_stride;  /* elements from row to row */
    uint8_t *y;       /* [., out], no two rows the same memory, and none of x's */
    size_t y_stride;
};

/* Rows that are not listed are neither read nor written. Threads: 1 or more; the calling thread
   works too. E_NOMEM, with y untouched. */
MUST_CHECK int batch_run(const struct batch *batch, unsigned threads);

#endif
