/*
 * The one adapter that is nearest to a weighted sum of several, in dW:
 *
 *   minimise || diag(b) B diag(d) A - T ||,   T = (B o C) A,  C = sum_s w_s b_s d_s^T
 *
 * by alternating least squares. For a given d every b_i has a closed form, since rows of dW do not
 * meet; for a given b, d solves one [rank, rank] system (docs/math.md). Each step cannot make it
 * worse. The start is the best b d^T for C itself, whatever the basis: the first singular vectors
 * of C, which come from matrices of as many columns as C has terms.
 */
#ifndef APPLY_RANK_ONE_H
#define APPLY_RANK_ONE_H

#include "apply/combination.h"

struct rank_one {
    const struct combination *wanted;
    const struct triangle *triangle;
    double *pull;         /* [out, rank]: B o ((B o C) G), what both steps project on */
    double *gram;         /* G = A A^T, upper triangle of [rank, rank] */
    double *system;       /* [rank, rank] */
    double *spare;        /* [rank, rank] */
    double *weights;      /* [out]: ||B_i o d . A||^2 */
    double wanted_square; /* ||T||^2, scaled as `wanted` is */
    double left_square;   /* ||dW - T||^2, likewise, of what rank_one_rows() set */
    struct block_scratch scratch;
};

#define AUTO_RANK_ONE(name) __attribute__((cleanup(rank_one_release))) struct rank_one name = {0}

/* `wanted` and `triangle` must outlive it. E_LIMIT for a rank above LIMIT_DENSE_RANK; E_NOMEM;
   E_INTERRUPTED. */
MUST_CHECK int rank_one_init(
    struct rank_one *out, const struct combination *wanted, const struct triangle *triangle
);
void rank_one_release(struct rank_one *fit);

/* The best b [out] for d [rank]: dW is 2^wanted->exponent times diag(b) B diag(d) A. */
MUST_CHECK int rank_one_rows(double *b, struct rank_one *fit, const double *d);

/* The best d, ||d|| = 1, and its b. All zero where T is. */
MUST_CHECK int rank_one_fit(double *b, double *d, struct rank_one *fit);

#endif
