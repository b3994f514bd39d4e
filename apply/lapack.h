/*
 * Dense linear algebra in doubles from the system's OpenBLAS, or whatever else it has as LAPACK,
 * loaded when the first matrix needs it: to load it takes longer than most commands do.
 *
 * Fortran's interface: matrices are column by column, so an array of ours [rows, columns], row by
 * row, is to it the transpose. Integers are 32 bits; every size here is below LIMIT_BASIS_VALUES.
 * OpenBLAS is told to use no threads of its own, since the threads that call it are ours: so its
 * sums have one order, and the same input gives the same bits on one machine.
 */
#ifndef APPLY_LAPACK_H
#define APPLY_LAPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/error.h"

/* Which triangle, side or transpose: as LAPACK's letters. */
enum lapack_part { LAPACK_UPPER = 'U', LAPACK_LOWER = 'L' };
enum lapack_form { LAPACK_PLAIN = 'N', LAPACK_TRANSPOSED = 'T' };

/* E_UNSUPPORTED with a hint where the system has neither; may be called from any thread. */
MUST_CHECK int lapack_load(void);

/* How many threads to work with on so many pieces: `threads`, or for 0 as many as suit; no more
   than OpenBLAS keeps memory for. */
unsigned lapack_crew(size_t pieces, unsigned threads);

/* Zeroed [rows, columns], owned by the caller (free). E_NOMEM. */
MUST_CHECK int doubles_new(double **out, size_t rows, size_t columns);

/* What follows needs lapack_load() to have succeeded. ld: elements from one column to the next. */

/* c = a b, or a^T b: a [rows, inner] (or [inner, rows]), b [inner, columns]. */
void lapack_multiply(
    double *c,
    size_t ld_c,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    const double *b,
    size_t ld_b,
    size_t rows,
    size_t columns,
    size_t inner
);

/* b = a b, or a^T b, in place: a the upper triangle of [rows, rows], b [rows, columns]. */
void lapack_multiply_upper(
    double *b,
    size_t ld_b,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    size_t rows,
    size_t columns
);

/* c += a a^T, or c += a^T a, its upper triangle only: c [size, size], a [size, inner] (or [inner,
   size]). */
void lapack_add_square(
    double *c,
    size_t ld_c,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    size_t size,
    size_t inner
);

/* y = a x, or a^T x: a [rows, columns]. */
void lapack_apply(
    double *y,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    const double *x,
    size_t rows,
    size_t columns
);

/* The triangle R of a = QR, in a's upper triangle; below it is what LAPACK leaves there. */
MUST_CHECK int lapack_triangle(double *a, size_t ld_a, size_t rows, size_t columns);

/* The singular values of a [rows, columns], largest first; a is overwritten, where `vectors` with
   the left singular vectors, else with anything. E_INVALID where they do not converge. */
MUST_CHECK int
lapack_singular(double *values, double *a, size_t ld_a, size_t rows, size_t columns, bool vectors);

/* x such that s x = x as given, least squares where s is singular; s [size, size], symmetric, its
   upper triangle given and not negative, is overwritten. `spare`: size * size values. */
MUST_CHECK int lapack_solve(double *x, double *s, double *spare, size_t size);

#endif
