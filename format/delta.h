/*
 * The difference between a payload and those of its one or two ancestors, on bit patterns: exact
 * whatever the values are (NaNs, signed zeros, subnormals).
 *
 * A vector that equals the ancestor's is a reference, one whose values are all equal a constant;
 * low bits that are zero in the whole vector (float32 that holds bfloat16) are left out. The other
 * float vectors are predicted, x1 or x1 + a (x1 - x0) with a = i/16 fitted to the vector, rounded
 * to the vector's type. Prediction p and value x are mapped to integers in the floats' order; what
 * is coded is their difference: its class, which is the difference's absolute size as a power of
 * two (its bit length plus p's exponent, since a step of training has one size whatever the value
 * it meets), its sign, and its bits below the first. The class and the next two bits are modelled,
 * the rest is noise and stays as it is. docs/format.md has the bytes.
 *
 * Predictions are made in double, one operation after the other, without contraction: the same bits
 * on every machine.
 */
#ifndef FORMAT_DELTA_H
#define FORMAT_DELTA_H

#include "format/frame.h"

/* Payloads of the target's size, divided by the same vectors. */
struct delta_bases {
    const uint8_t *x1; /* the one that the difference is taken from */
    const uint8_t *x0; /* the one before it, or NULL */
};

/* Append the body of a difference frame. E_NOMEM, E_INTERRUPTED. `vectors` cover the payload. */
MUST_CHECK int delta_encode(
    struct buf *out,
    struct bytes payload,
    const struct delta_bases *bases,
    const struct frame_vector *vectors,
    size_t count
);

/* The inverse, to `payload`, which has the vectors' size. E_CORRUPT where the body is not one that
   delta_encode() can have written; a body that it can have written from other bases gives other
   bytes, so the caller compares digests. */
MUST_CHECK int delta_decode(
    uint8_t *payload,
    struct bytes body,
    const struct delta_bases *bases,
    const struct frame_vector *vectors,
    size_t count
);

#endif
