/*
 * How many directions a module really uses: the singular values of dW, from two triangles of at
 * most [rank, rank] (docs/math.md), never from a matrix [out, in].
 */
#ifndef APPLY_SPECTRUM_H
#define APPLY_SPECTRUM_H

#include "apply/combination.h"
#include "format/interrupt.h"

struct spectrum {
    double *values; /* [count], largest first: all that can be other than 0 */
    size_t count;   /* min(rank, in, out) */
    double norm;    /* ||dW||, Frobenius: the root of the sum of their squares */
    /* exp of the entropy of values / sum(values): between 1 and count, 0 where dW is 0. (Roy and
       Vetterli, The effective rank, EUSIPCO 2007.) */
    double effective_rank;
};

struct spectra {
    struct spectrum *modules; /* as the input */
    size_t count;
};

#define AUTO_SPECTRA(name) __attribute__((cleanup(spectra_release))) struct spectra name = {0}

/* Of side `a` of each module (`b` is not looked at); one without a basis has no values. `threads`:
   0 for as many as suit; `progress` as compare_effects() has it. Errors: compare_effects()'s;
   E_LIMIT for a rank above LIMIT_DENSE_RANK. */
MUST_CHECK int spectra_make(
    struct spectra *out,
    const struct effect_pair *modules,
    size_t count,
    unsigned threads,
    struct progress *progress
);
void spectra_release(struct spectra *spectra);

/* Of one weighted sum of effects, in the coordinates of its triangle: `values` is owned by `out`.
 */
MUST_CHECK int spectrum_make(
    struct spectrum *out, const struct combination *combination, const struct triangle *triangle
);

/* The share of the energy (the squared norm) that the first `directions` hold: 0 to 1; 1 where the
   norm is 0. */
double spectrum_energy(const struct spectrum *spectrum, size_t directions);

/* The smallest rank that one LoRA for all modules needs to keep that share (0 to 1) of the energy
   of all of them together, each cut to its first singular values. */
size_t spectra_rank(const struct spectra *spectra, double share);

#endif
