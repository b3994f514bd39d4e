/*
 * Residuals through the range coder. A class is found from the highest downwards: at each one, is
 * it this? Below the prediction's own last bit there is nothing but "equal". So all exponents share
 * what is learnt. The class and the two bits below the distance's first are modelled, the rest are
 * raw bits.
 */
#ifndef FORMAT_DELTA_RANGE_H
#define FORMAT_DELTA_RANGE_H

#include "format/bits.h"
#include "format/range_coder.h"
#include "format/residual.h"

#define FAR_CONTEXTS 64

struct range_models {
    struct bit_model far[FAR_CONTEXTS], near[SPAN + 1], top[SPAN + 1][1 << TOP_BITS];
    struct bit_model crosses, exponent[256];
};

/* There is room for 4 bytes of bits for each value. */
struct range_writer {
    unsigned highest;
    struct range_encoder coder;
    struct bit_writer bits;
    struct range_models models;
};

void range_put(
    struct range_writer *writer,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
);

struct range_reader {
    unsigned highest;
    struct range_decoder coder;
    struct bit_reader bits;
    struct range_models models;
};

/* False where there is no such value; x is undefined then. */
MUST_CHECK bool range_get(
    uint32_t *x,
    struct range_reader *reader,
    const struct pattern *pattern,
    const uint32_t *p,
    size_t n
);

#endif
