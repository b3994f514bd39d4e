/*
 * How far two adapters are apart in what they do: norms of dW, closed form and in doubles.
 *
 * The difference is taken before any norm: where both stand on one basis, element by element in
 * diag(b) B diag(d), whose products of two float32 values are exact; so a change of one unit in the
 * last place is measured, not lost. Two bases (other seeds, ranks or target sets) are compared in
 * the coordinates of an orthonormal basis of the rows of both. Results depend on nothing but the
 * input: the same bits with any number of threads on one machine. Derivations: docs/math.md.
 */
#ifndef APPLY_COMPARE_H
#define APPLY_COMPARE_H

#include "apply/effect.h"
#include "format/interrupt.h"

struct comparison {
    double norm_a, norm_b; /* ||dWa||, ||dWb||, Frobenius */
    double delta_norm;     /* ||dWa - dWb|| */
    double relative;       /* delta_norm / norm_a */
    double cosine;         /* <dWa, dWb> / (norm_a norm_b) */
    bool has_relative;     /* norm_a is not 0 */
    bool has_cosine;       /* neither is 0 */
};

struct comparisons {
    struct comparison *modules; /* as the input */
    size_t count;
    struct comparison total; /* of all modules together, as if they were one */
};

#define AUTO_COMPARISONS(name)                                                                     \
    __attribute__((cleanup(comparisons_release))) struct comparisons name = {0}

/* A side without a basis is zero there (an adapter that does not target the module; `--zero`).
   Equal bases may be given as one pointer or as two with the same values. `threads`: 0 for as many
   as suit. `progress` (or NULL) is told of the bytes of X (docs/math.md). Errors: effect_check()'s;
   E_INVALID for a basis that is not finite or a norm beyond the doubles; lapack_load()'s; E_NOMEM;
   E_INTERRUPTED. */
MUST_CHECK int compare_effects(
    struct comparisons *out,
    const struct effect_pair *modules,
    size_t count,
    unsigned threads,
    struct progress *progress
);
void comparisons_release(struct comparisons *comparisons);

#endif
