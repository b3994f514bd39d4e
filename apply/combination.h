/*
 * A weighted sum of effects on one basis, in one module:
 *
 *   sum_s w_s dW_s = X A,  X = B o C,  C = sum_s w_s b_s d_s^T     (o: element by element)
 *
 * X is made in blocks of rows, and never rounded more than once for each term: the product of two
 * float32 values is exact in double, so where two effects nearly cancel, what is left of them is
 * right to the last digits. (Doubles that are no float32 values have the error of their product
 * added back.) Exponents are taken out first, so no square is lost or overflows: the sum is
 * 2^exponent times what the blocks hold.
 */
#ifndef APPLY_COMBINATION_H
#define APPLY_COMBINATION_H

#include "apply/effect.h"
#include "apply/triangle.h"

#define COMBINATION_TERMS 4

struct combination_term {
    const double *d, *b;
    double weight;
};

struct combination {
    const struct basis *basis;
    size_t rank, out, count;
    struct combination_term terms[COMBINATION_TERMS]; /* scaled */
    int exponent;
    bool wide;      /* a value is no float32 value */
    double *values; /* [count, rank + out] */
    double *lost;   /* [rank]: of one row */
};

#define AUTO_COMBINATION(name)                                                                     \
    __attribute__((cleanup(combination_release))) struct combination name = {0}

/* For one thread at a time. Copies the vectors, which must be finite as the weights must be. Terms
   of weight 0 are left out. E_NOMEM. */
MUST_CHECK int combination_init(
    struct combination *out,
    const struct basis *basis,
    uint64_t out_rows,
    const struct combination_term *terms,
    size_t count
);
void combination_release(struct combination *combination);

/* Rows [begin, begin + rows) of X, row by row: x [rows, rank]. False where they are all zero. */
bool combination_block(double *x, const struct combination *combination, size_t begin, size_t rows);

/* As many of `rows` rows as a block of that many columns should have. */
size_t block_rows(size_t rows, size_t columns);

/* Scratch of one thread, grown as needed: X and R X of a block. */
struct block_scratch {
    double *x, *y;
    size_t x_room, y_room;
};

MUST_CHECK int block_scratch_fit(struct block_scratch *scratch, size_t x_count, size_t y_count);
void block_scratch_release(struct block_scratch *scratch);

/* ||sum||, Frobenius. E_INVALID where it is beyond the doubles; E_NOMEM; E_INTERRUPTED. */
MUST_CHECK int combination_norm(
    double *out,
    const struct combination *combination,
    const struct triangle *triangle,
    struct block_scratch *scratch
);

/* <x, y> with several sums at once, always in the same order. */
double dot(const double *x, const double *y, size_t count);

/* Root of the sum of squares, where the squares may be beyond the doubles. */
double norm_of(const double *values, size_t count);

/* 2^exponent * value as a norm; E_INVALID where that is beyond the doubles. */
MUST_CHECK int norm_scaled(double *out, double value, int exponent);

#endif
