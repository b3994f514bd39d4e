/*
 * Codec 1 of a frame: the whole payload, as one stream for each (group, width) that has values,
 * group D before the others, widths 1, 2, 4, 8; a stream holds its vectors' values in payload
 * order, as one plane (format/plane.h) for each byte of a value, the least significant first.
 */
#ifndef FORMAT_FRAME_PLANES_H
#define FORMAT_FRAME_PLANES_H

#include "format/frame.h"

/* Append the body. E_NOMEM, E_INTERRUPTED. */
MUST_CHECK int frame_planes_encode(
    struct buf *out, struct bytes payload, const struct frame_vector *vectors, size_t count
);

/* Fill the payload, which has the vectors' size. E_CORRUPT, E_NOMEM, E_INTERRUPTED. Memory: the
   longest plane. */
MUST_CHECK int frame_planes_decode(
    struct buf *payload, struct bytes body, const struct frame_vector *vectors, size_t count
);

#endif
