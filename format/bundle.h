/*
 * A bundle: one snapshot as a stream of bytes that checks itself. What a pipe carries from one
 * repository to another, and what a running model is sent.
 *
 *   OFFSET  SIZE  FIELD
 *        0     4  magic "VBDL"
 *        4     1  version, 1
 *        5     1  form: 0 bare, 1 whole
 *        6     2  zero
 *        8    80  length of each part, ten of 8 bytes, in the order of enum bundle_part
 *       88    32  SHA-256 of the body
 *      120    32  SHA-256 of bytes 0 to 119
 *      152        body: the parts, one behind the other, to the end
 *
 * Lengths are behind a digest of their own, so that whoever reads from a pipe knows them for right,
 * and compares them with what it can take, before it takes memory or waits for the body. Canonical:
 * a snapshot has one bundle in each form. A bare one lacks the other files of the adapter and the
 * base model's config.json, which nobody needs who only applies it.
 */
#ifndef FORMAT_BUNDLE_H
#define FORMAT_BUNDLE_H

#include "format/snapshot.h"

#define BUNDLE_HEADER_BYTES 152

enum bundle_part {
    BUNDLE_MANIFEST,
    BUNDLE_CONFIG,
    BUNDLE_LAYOUT,
    BUNDLE_RECIPE,
    BUNDLE_PIN,          /* empty where no base model was given */
    BUNDLE_MODEL_CONFIG, /* likewise */
    BUNDLE_PAYLOAD,
    BUNDLE_A,     /* empty but where the recipe's state is stored */
    BUNDLE_B,     /* likewise */
    BUNDLE_FILES, /* the other files in the manifest's order, which has their sizes */
    BUNDLE_PARTS
};

struct bundle_header {
    bool whole;
    uint64_t part_bytes[BUNDLE_PARTS];
    uint64_t total_bytes; /* of the bundle, header included */
    struct digest body;
};

/* What a reader can take, in bytes of each part. */
struct bundle_room {
    uint64_t part_bytes[BUNDLE_PARTS];
};

/* As much as format/limits.h allows. */
extern const struct bundle_room bundle_room_any;

/* `snapshot` must be one that snapshot_check() accepts. E_LIMIT, E_NOMEM. */
MUST_CHECK int bundle_encode(struct buf *out, const struct snapshot *snapshot, bool whole);

/* Of a bundle's first BUNDLE_HEADER_BYTES (more is ignored). Takes no memory. E_CORRUPT where it is
   shorter, or none; E_UNSUPPORTED for another version; E_LIMIT, naming the part, where one is
   larger than the limits or than `room` has. */
MUST_CHECK int bundle_header_decode(
    struct bundle_header *out, struct bytes prefix, const struct bundle_room *room
);

/* All of it, checked as snapshot_check() does; a bare one's as snapshot_check_bare(). Every
   truncation, flipped bit or byte too many is E_CORRUPT; else bundle_header_decode()'s. */
MUST_CHECK int
bundle_decode(struct snapshot *out, struct bytes bundle, const struct bundle_room *room);

/* A whole bundle from a pipe, and nothing behind it: its header is looked at before the rest is
   read. `path` words errors. bundle_header_decode()'s errors; E_IO; E_INTERRUPTED. */
MUST_CHECK int
bundle_read(struct buf *out, int fd, const struct bundle_room *room, const char *path);

#endif
