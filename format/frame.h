/*
 * A frame holds one payload, compressed. How it does so may be replaced by something better for new
 * commits: a frame is no part of a snapshot's identity. Integers are little-endian.
 *
 *   OFFSET  SIZE  FIELD
 *        0     4  magic "VFRM"
 *        4     1  version, 1
 *        5     1  codec: 0 raw, 1 planes
 *        6     1  depth: 0, a whole frame
 *        7     1  number of bases, 0 to 2: 0 in a whole frame
 *        8     8  payload, bytes
 *       16    32  payload, SHA-256
 *       48  32*n  payload SHA-256 of each base
 *        +        body, by codec; the frame ends with it
 *
 * Codec 0 (raw): the payload. Codec 1 (byte planes): one stream for each (group, width) that has
 * values, group D before the others, widths 1, 2, 4, 8; a stream holds its vectors' values in
 * payload order, as one plane for each byte of a value, the least significant first. A plane has a
 * byte for each value, and is stored in the smallest of three ways:
 *
 *   SIZE  FIELD
 *      1  mode: 0 raw, 1 zstd, 2 constant
 *         raw:      the plane
 *         zstd:     4 bytes, the stored length (less than the plane's), and one zstd frame
 *         constant: the byte that all of the plane's are
 */
#ifndef FORMAT_FRAME_H
#define FORMAT_FRAME_H

#include "format/digest.h"
#include "format/limits.h"
#include "format/safetensors.h"

enum frame_group { FRAME_GROUP_D, FRAME_GROUP_OTHER };

/* How the payload's bytes divide: in payload order, covering it. */
struct frame_vector {
    uint64_t bytes;
    unsigned width; /* bytes of a value: 1, 2, 4, 8; bytes is a multiple of it */
    enum frame_group group;
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

/* Encode, then decode and compare (an encoder that lies never gets to disk). `digest` is the
 * payload's. */
MUST_CHECK int frame_encode(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count
);

/* The header alone. E_CORRUPT; E_UNSUPPORTED for a newer version or codec; E_LIMIT. */
MUST_CHECK int frame_inspect(struct frame_info *out, struct bytes frame);

/* The payload, its digest checked against the header's. `vectors` must be those that it was encoded
   with (they follow from the layout), else E_CORRUPT. Memory: the payload's size, which is checked
   against the vectors' sum before it is taken, and one plane. */
MUST_CHECK int
frame_decode(struct buf *out, struct bytes frame, const struct frame_vector *vectors, size_t count);

/* The vectors of an adapter's payload: every tensor of the table but A and B
   ("base_model.vera_A", "base_model.vera_B"). out is owned by the caller (free). */
MUST_CHECK int
frame_vectors(struct frame_vector **out, size_t *out_count, const struct safetensors *layout);

/*
 * A payload above FRAME_PART_BYTES is several frames, since git hosts refuse large files. A part
 * takes vectors, in order, until the next value would make it too large: so a vector may be cut,
 * between two values, and the parts follow from the layout alone.
 */
#define FRAME_PART_BYTES (64 * MIB)

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

/* frame_encode() of one part of the whole payload. */
MUST_CHECK int
frame_part_encode(struct buf *out, struct bytes payload, const struct frame_part *part);

/* frame_decode() of one part, appended to the payload, which holds the parts before it: E_CORRUPT
   where it does not. Reserve the payload's bytes before the first one. */
MUST_CHECK int
frame_part_decode(struct buf *payload, struct bytes frame, const struct frame_part *part);

#endif
