/*
 * The residuals of one group of float vectors: format/delta.h says what they are, docs/format.md
 * how they are stored. Two methods, the same classes: tokens through zstd decode fast, a range
 * coder with models of its own makes small payloads smaller.
 *
 *   SIZE  FIELD
 *      1  method: 0 tokens, 1 range coder
 *      2  highest class that is coded as such
 *      4  length of the raw bits
 *      n  raw bits of all values
 *      +  method 0: two planes (format/plane.h), one token for each value and one exponent for each
 *         far value; method 1: 4 bytes, a length, and the range coder's output
 */
#ifndef FORMAT_DELTA_STREAM_H
#define FORMAT_DELTA_STREAM_H

#include "format/dtype.h"
#include "format/plane.h"

/* A float vector and what it is predicted from. */
struct segment {
    uint8_t *x; /* the encoder only reads it */
    const uint8_t *x1, *x0;
    size_t values;
    enum dtype dtype; /* F32, BF16 or F16 */
    unsigned shift;   /* lowest bits that are zero throughout; F32 only */
    int i;            /* predict()'s */
};

enum stream_method { STREAM_TOKENS, STREAM_RANGE, STREAM_METHODS };

/* Append the values of all segments, `values` of them and at least one. E_NOMEM, E_INTERRUPTED. */
MUST_CHECK int stream_encode(
    struct buf *out,
    enum stream_method method,
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes
);

/* Read them back to where x points, and move `rest` behind them. E_CORRUPT, E_NOMEM,
   E_INTERRUPTED. Memory: two bytes a value at most. */
MUST_CHECK int stream_decode(
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes,
    struct bytes *rest
);

#endif
