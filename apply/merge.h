/*
 * Three-way merge of adapters in dW, module by module (docs/math.md):
 *
 *   changed by one side only          that side's bits
 *   changed by both in the same way   those bits
 *   changed by both                   the (b, d) whose dW is nearest to what is wanted:
 *       task      T = ours + W (theirs - base)     task arithmetic, arXiv 2212.04089
 *       average   T = (1 - W) ours + W theirs
 *
 * dW is linear in the matrix b d^T, so T is a sum of three of rank 1, and in general not one of
 * rank 1: the nearest is found by alternating least squares weighted by the basis. It is scaled so
 * that ||d|| is the mean of ours' and theirs' and <d, d_ours + d_theirs> >= 0. Everything is
 * measured after rounding to the stored type. Where ours, theirs or base is nearer to T than what
 * was fitted, its bits are taken: so the result is never worse than either side. Exchanging ours
 * and theirs gives the same bits (task with W = 1, average with W = 0.5), and so does any number of
 * threads on one machine.
 */
#ifndef APPLY_MERGE_H
#define APPLY_MERGE_H

#include "apply/effect.h"

enum merge_strategy { MERGE_TASK, MERGE_AVERAGE };

#define MERGE_WEIGHT_TASK    1.0 /* the default W */
#define MERGE_WEIGHT_AVERAGE 0.5

enum merge_taken {
    MERGE_BASE,
    MERGE_OURS,
    MERGE_THEIRS,
    MERGE_BOTH, /* ours, which is theirs */
    MERGE_FITTED,
};

/* "base", "ours", "theirs", "both", "fitted". */
const char *merge_taken_name(enum merge_taken taken);

/* The stored vectors of one version in one module; d.data NULL where it does not adapt it. */
struct merge_side {
    struct bytes d, b; /* [rank] and [out] values */
    enum dtype dtype_d, dtype_b;
};

struct merge_module {
    const char *name;
    uint64_t in, out;
    struct merge_side base, ours, theirs;
};

struct merge_options {
    enum merge_strategy strategy;
    double weight;    /* W */
    bool ranks;       /* compute the ranks of LoRA too */
    unsigned threads; /* 0: as many as suit */
};

struct merged_module {
    enum merge_taken taken;
    /* What the merge has there, in ours' types where fitted; both empty where the module is gone.
     */
    struct buf d, b;
    double residual_norm; /* ||M - T||; 0 unless both sides changed it */
    double wanted_norm;   /* ||T - base|| */
    double ours_norm;     /* ||ours - base|| */
    double theirs_norm;
    double residual; /* residual_norm / max(ours_norm, theirs_norm); 0 where residual_norm is */
};

/* Where only one side changed a module, T is that side. */
struct merge {
    struct merged_module *modules; /* as the input */
    size_t count;
    double residual_norm, wanted_norm, ours_norm, theirs_norm; /* of all modules together */
    double residual; /* residual_norm / max(ours_norm, theirs_norm): what --max-residual limits */
    double lost;     /* residual_norm / wanted_norm; 0 where both are */
    /* With options->ranks: of the LoRA that keeps 90, 99 and 99.9% of the energy of T - base. */
    size_t rank_90, rank_99, rank_999;
};

#define AUTO_MERGE(name) __attribute__((cleanup(merge_release))) struct merge name = {0}

/* All three versions stand on `basis`: whether they do is the caller's to know. Errors: E_INVALID
   for values that are not finite, naming the module and the version, for a vector of the wrong size
   and a weight that is not finite; E_CONFLICT, listing the modules, where one side changed a module
   and the other one dropped it, or both changed it and store it in different types; E_UNSUPPORTED
   for types other than F32, BF16, F16 and F64; E_LIMIT for a rank above LIMIT_DENSE_RANK;
   lapack_load()'s; E_NOMEM; E_INTERRUPTED. */
MUST_CHECK int merge_modules(
    struct merge *out,
    const struct basis *basis,
    const struct merge_module *modules,
    size_t count,
    const struct merge_options *options
);
void merge_release(struct merge *merge);

/* Biases and whole modules: T element by element in double, rounded once, to `out` (may be one of
   the three). `base` with data NULL is zero. Elements that one side did not change are the other's
   bits for W = 1. E_INVALID where the three have not the same size or an element would not be
   finite though all three are, or is NaN; E_UNSUPPORTED as above. */
MUST_CHECK int merge_elements(
    uint8_t *out,
    struct bytes base,
    struct bytes ours,
    struct bytes theirs,
    enum dtype dtype,
    const struct merge_options *options
);

#endif
