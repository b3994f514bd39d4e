/* The vectors of a difference (format/delta.h), as its parts share them. */
#ifndef FORMAT_DELTA_VECTOR_H
#define FORMAT_DELTA_VECTOR_H

#include "format/frame.h"
#include "format/plane.h"
#include "format/predict.h"

/* What a vector is coded as; from TAG_FITTED on: with i = tag - TAG_FITTED + PREDICT_MIN. */
enum tag { TAG_REFERENCE, TAG_CONSTANT, TAG_INTEGER, TAG_FITTED };
#define TAG_MAX (TAG_FITTED + PREDICT_MAX - PREDICT_MIN)

/* One vector, as both directions see it. */
struct vector {
    uint8_t *x; /* the encoder only reads it */
    const uint8_t *x1, *x0;
    size_t bytes, values;
    unsigned width;
    enum frame_group group;
    enum dtype dtype;
    uint8_t tag, shift;
};

struct delta {
    struct vector *vectors;
    size_t count;
    uint64_t bytes;
    struct plane_coder planes;
};

#endif
