/*
 * Integers, and whatever is no float that can be predicted: x - x1 modulo the width, its sign in
 * the lowest bit. A stream for each (group, width) that has values, as in format/frame_planes.h,
 * and in it a plane for each byte.
 */
#ifndef FORMAT_DELTA_INTEGERS_H
#define FORMAT_DELTA_INTEGERS_H

#include "format/delta_vector.h"

/* Append the vectors with TAG_INTEGER. E_NOMEM. */
MUST_CHECK int integers_encode(struct buf *out, struct delta *delta);

/* Read them to where x points, and move `rest` behind them. E_CORRUPT, E_NOMEM. Memory: the
   longest stream. */
MUST_CHECK int integers_decode(struct delta *delta, struct bytes *rest);

#endif
