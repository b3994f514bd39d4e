/*
 * A frame holds one payload, compressed. How it does so may be replaced by something better for new
 * commits: a frame is no part of a snapshot's identity. Integers are little-endian.
 *
 *   OFFSET  SIZE  FIELD
 *        0     4  magic "VFRM"
 *        4     1  version, 1
 *        5     1  codec: 0 raw, 1 planes, 2 delta
 *        6     1  depth: 0, a whole frame, else its base's and 1
 *        7     1  number of bases, 0 to 2: 0 in a whole frame
 *        8     8  payload, bytes
 *       16    32  payload, SHA-256
 *       48  32*n  payload SHA-256 of each base
 *        +        body, by codec; the frame ends with it
 *
 * Codec 0 (raw): the payload. Codec 1: format/frame_planes.h. Codec 2, a difference from one or two
 * other payloads: format/delta.h.
 */
#ifndef FORMAT_FRAME_H
#define FORMAT_FRAME_H

#include "format/digest.h"
#include "format/limits.h"
#include "format/safetensors.h"

#define FRAME_WIDTH_MAX 8
#define FRAME_DEPTH_MAX 32 /* the writer's; a reader's is LIMIT_FRAME_DEPTH */

enum frame_group { FRAME_GROUP_D, FRAME_GROUP_OTHER };

/* How the payload's bytes divide: in payload order, covering it. */
struct frame_vector {
    uint64_t bytes;
    unsigned width; /* bytes of a value: 1, 2, 4, 8; bytes is a multiple of it */
    enum frame_group group;
    enum dtype dtype; /* of a float, what predictions are rounded to */
};

struct frame_info {
    unsigned codec; /* "raw", "planes": frame_codec_name() */
    unsigned depth;
    unsigned base_count;
    uint64_t payload_bytes;
    struct digest payload;
    struct digest bases[2];
};

const char *frame_codec_name(unsigned codec);

/* What a difference is taken from: one or two payloads that the same vectors divide. */
struct frame_bases {
    struct bytes x1,
        x0; /* the base, and the base's own; x0.data NULL where that is a whole frame */
    struct digest digest1, digest0;
    unsigned depth; /* of x1's frame */
};

/* Encode whole, or, where there are `bases` (else NULL) and it pays, as a difference; then decode
   and compare (an encoder that lies never gets to disk). `digest` is the payload's. The frame's
   depth is at most FRAME_DEPTH_MAX. E_INVALID where vectors and payloads are not of one size;
   E_NOMEM, E_INTERRUPTED. */
MUST_CHECK int frame_encode(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
);

/* The header alone. E_CORRUPT; E_UNSUPPORTED for a newer version or codec; E_LIMIT. */
MUST_CHECK int frame_inspect(struct frame_info *out, struct bytes frame);

/* The payload, its digest checked against the header's. `vectors` must be those that it was encoded
   with (they follow from the layout), and `bases` those that a difference names (NULL will do for a
   whole frame), else E_CORRUPT. Memory: the payload's size, which is checked against the vectors'
   sum before it is taken, and as much again. */
MUST_CHECK int frame_decode(
    struct buf *out,
    struct bytes frame,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
);

/* The vectors' sum in *out_bytes; what they say was read from some file's header. `code` where they
   are no vectors, E_LIMIT above LIMIT_FILE. */
MUST_CHECK int frame_vectors_check(
    uint64_t *out_bytes, const struct frame_vector *vectors, size_t count, int code
);

/* The vectors of an adapter's payload: every tensor of the table but A and B
   ("base_model.vera_A", "base_model.vera_B"). out is owned by the caller (free). */
MUST_CHECK int
frame_vectors(struct frame_vector **out, size_t *out_count, const struct safetensors *layout);

/*
 * A payload above FRAME_PART_BYTES is several frames: they are encoded and decoded at the same
 * time, and none of them is a file that git hosts refuse for its size. A part takes vectors, in
 * order, until the next value would make it too large: so a vector may be cut, between two values,
 * and the parts follow from the layout alone.
 */
#define FRAME_PART_BYTES (8 * MIB)

struct frame_part {
    const struct frame_vector *vectors; /* [count], whole or cut; owned by the parts */
    size_t count;
    uint64_t begin, bytes; /* in the payload */
};

struct frame_parts {
    struct frame_part *parts; /* in payload order, covering it; one, empty, of an empty payload */
    size_t count;
    struct frame_vector *vectors; /* of all parts */
};

#define AUTO_FRAME_PARTS(name)                                                                     \
    __attribute__((cleanup(frame_parts_release))) struct frame_parts name = {0}

/* Cut the vectors into parts of at most `part_bytes`: FRAME_PART_BYTES, or less in a test, 8 at
   least. Errors: E_INVALID, E_LIMIT (a payload above 2 GiB), E_NOMEM. */
MUST_CHECK int frame_parts_cut(
    struct frame_parts *out, const struct frame_vector *vectors, size_t count, uint64_t part_bytes
);
void frame_parts_release(struct frame_parts *parts);

/* frame_encode() of one part of the whole payload; `bases` are whole ones, or NULL. */
MUST_CHECK int frame_part_encode(
    struct buf *out,
    struct bytes payload,
    const struct frame_part *part,
    const struct frame_bases *bases
);

/* frame_decode() of one part, appended to the payload, which holds the parts before it: E_CORRUPT
   where it does not. Reserve the payload's bytes before the first one. */
MUST_CHECK int frame_part_decode(
    struct buf *payload,
    struct bytes frame,
    const struct frame_part *part,
    const struct frame_bases *bases
);

#endif
