/*
 * The payload of a version: the frames of its vectors/, and, where they are differences, those of
 * vectors/base, vectors/base/base … up to the whole ones.
 */
#ifndef STORE_PAYLOAD_H
#define STORE_PAYLOAD_H

#include "store/internal.h"

/* A payload, and what the next frame may be a difference from besides. */
struct payload {
    struct buf bytes;
    struct digest digest;
    unsigned *depths; /* of each part's frame */
    struct buf base;  /* what vectors/base holds, in the parts whose depth is above 0 */
    struct digest base_digest;
};

#define AUTO_PAYLOAD(name) __attribute__((cleanup(payload_release))) struct payload name = {0}
void payload_release(struct payload *payload);

/* The payload of a version's vectors/, whose frames hold it in this layout. Frames are read from
   the oldest on, so memory is three payloads and a frame, whatever the depth. E_CORRUPT naming the
   object; E_LIMIT above LIMIT_FRAME_DEPTH; E_UNSUPPORTED for a newer program's frames. */
MUST_CHECK int payload_read(
    struct payload *out,
    struct store *store,
    const git_oid *vectors,
    const struct safetensors *layout
);

/* "frame", "frame.1", ... */
#define FRAME_NAME_SIZE 32
void frame_name(char out[FRAME_NAME_SIZE], size_t part);

#endif
