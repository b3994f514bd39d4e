/*
 * What the scalar, AVX2 and AVX-512 code of exact mode each bring: a tile of `rows` x `cols`
 * chains, and the steps before and after it. The bits are the same in all of them: a chain's order
 * is that of k, and its operations are exact, rounded once each.
 *
 * A panel holds what a tile reads, in the order of k: left[k][rows], right[k][cols]. Lanes beyond
 * the matrix are zero.
 */
#ifndef APPLY_KERNEL_LEVEL_H
#define APPLY_KERNEL_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/dtype.h"

#define KERNEL_TILE_MAX 512 /* rows * cols of the largest tile */

typedef void
kernel_update(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count);

struct kernel_level {
    unsigned rows, cols;
    unsigned rows_few; /* divides rows */

    /* panel[k][n] = d[k] * a[k * stride + n], n < count; count <= width. */
    void (*pack_scaled
    )(float *panel,
      unsigned width,
      const float *a,
      size_t stride,
      const float *d,
      size_t count,
      size_t depth);

    /* panel[k][n] = b[n * stride + k], n < count; count <= width. */
    void (*pack_transposed
    )(float *panel, unsigned width, const float *b, size_t stride, size_t count, size_t depth);

    /* acc[m][n] = fma(left[k][m], right[k][n], acc[m][n]) for k = 0..depth-1; from +0 if `first`.
       acc: [rows, cols], contiguous. */
    void (*tile)(float *acc, const float *left, const float *right, size_t depth, bool first);
    /* The same for tiles of rows_few x cols. */
    void (*tile_few)(float *acc, const float *left, const float *right, size_t depth, bool first);

    /* y[n] = fma(scale[n], acc[n], y[n]), rounded to y's type, a NaN as that type's one pattern;
       where scale[n] is +-0, y[n] keeps its bits. n < count <= cols. y: at any address. `scale`:
       [count], or, if not `per_column`, one number for all. */
    kernel_update *update_f32, *update_bf16, *update_f16;
};

/* The one for this machine, or for VERA_CPU. */
const struct kernel_level *kernel_level_chosen(void);

extern const struct kernel_level kernel_level_scalar;
#if defined(__x86_64__)
extern const struct kernel_level kernel_level_avx2, kernel_level_avx512;
#elif defined(__aarch64__)
extern const struct kernel_level kernel_level_neon;
#endif

#endif
