/*
 * The rows of A as a module sees them, in coordinates of their own:
 *
 *   A[:, :in]^T = Q R,  Q^T Q = 1,  so that  ||X A|| = ||X R^T||  for every X [n, rank]
 *
 * R has no more than `rank` rows whatever `in` is, and depends on nothing of a module but `in`, so
 * modules share it. A quotient R costs what the Gram matrix A A^T costs, and keeps all digits where
 * that one keeps half of them. Two bases are stacked, [A1; A2]^T = Q R: then norms, differences and
 * inner products between them are taken in the same coordinates.
 */
#ifndef APPLY_TRIANGLE_H
#define APPLY_TRIANGLE_H

#include "format/snapshot.h"

/* Column by column, as LAPACK has it. */
struct triangle {
    const struct basis *first, *second; /* second: NULL where there is one */
    size_t in;
    size_t out;  /* rows of B that are used: the most that anyone wanted */
    size_t rank; /* columns: of both */
    size_t rows; /* min(in, rank) */
    bool upper;  /* else in <= rank, and R is A^T itself */
    double *r;   /* [rows, rank] */
};

struct triangles {
    struct triangle *list;
    size_t count, room;
};

#define AUTO_TRIANGLES(name) __attribute__((cleanup(triangles_release))) struct triangles name = {0}

/* Ask for one, before triangles_make(), for modules of that size; one that is there already serves
   any `out`. */
MUST_CHECK int triangles_want(
    struct triangles *triangles,
    const struct basis *first,
    const struct basis *second,
    uint64_t in,
    uint64_t out
);

/* Compute all of them. E_INVALID where a value of A or B that is used is not finite; E_NOMEM;
   E_INTERRUPTED. */
MUST_CHECK int triangles_make(struct triangles *triangles, unsigned threads);

/* What was wanted. */
const struct triangle *triangles_find(
    const struct triangles *triangles,
    const struct basis *first,
    const struct basis *second,
    uint64_t in
);
void triangles_release(struct triangles *triangles);

/* y = R x for the columns of the first basis, or of the second: x [rank of that one, count], y
   [rows, count], not the same memory. */
void triangle_apply(
    double *y, const struct triangle *triangle, bool second, const double *x, size_t count
);

/* x = R^T y, for one basis: y [rows, count], x [rank, count], not the same memory. */
void triangle_apply_transposed(
    double *x, const struct triangle *triangle, const double *y, size_t count
);

/* R^T R = A A^T, for one basis: the upper triangle of [rank, rank], added to `gram`. */
void triangle_add_gram(double *gram, const struct triangle *triangle);

#endif
