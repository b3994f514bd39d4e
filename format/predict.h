/*
 * Where a float is expected from its two ancestors: p = x1 + (i/16) (x1 - x0), in double, rounded
 * to float32 and then to the type at hand; x1 where that is not finite. Each operation is rounded
 * once and none is contracted, so every machine predicts the same bits (tests/test_delta.c holds
 * them to a table).
 */
#ifndef FORMAT_PREDICT_H
#define FORMAT_PREDICT_H

#include "format/dtype.h"

#define PREDICT_MIN (-16) /* of i */
#define PREDICT_MAX 24

/* The i that fits best (least squares) for `count` values of an applicable dtype; 0 where none
   does. Only the encoder asks, so it need not be the same everywhere. */
int predict_fit(
    const uint8_t *x, const uint8_t *x1, const uint8_t *x0, size_t count, enum dtype dtype
);

/* out[n]: the pattern of the n-th prediction, for float32 without its lowest `shift` bits (rounded
   half up in magnitude). x0 is not read where i is 0. Runs with the floating-point state of
   cpu_float_exact(). */
void predict(
    uint32_t *out,
    const uint8_t *x1,
    const uint8_t *x0,
    int i,
    size_t count,
    enum dtype dtype,
    unsigned shift
);

#endif
